// The peer `sockjs-go` v3: /echo and /broadcast.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/igm/sockjs-go/v3/sockjs"
)

func echo(session sockjs.Session) {
	for {
		message, err := session.Recv()
		if err != nil || session.Send(message) != nil {
			return
		}
	}
}

var (
	mutex   sync.RWMutex
	clients = map[sockjs.Session]bool{}
)

func broadcast(session sockjs.Session) {
	mutex.Lock()
	clients[session] = true
	mutex.Unlock()
	defer func() {
		mutex.Lock()
		delete(clients, session)
		mutex.Unlock()
	}()
	for {
		message, err := session.Recv()
		if err != nil {
			return
		}
		mutex.RLock()
		for other := range clients {
			other.Send(message)
		}
		mutex.RUnlock()
	}
}

func main() {
	port := flag.Int("port", 0, "port, 0 for a free one")
	tls := flag.String("tls", "", "file with certificate and key, to serve over TLS")
	flag.Parse()
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/echo/", sockjs.NewHandler("/echo", sockjs.DefaultOptions, echo))
	http.Handle("/broadcast/", sockjs.NewHandler("/broadcast", sockjs.DefaultOptions, broadcast))
	fmt.Printf("pid %d port %d\n", os.Getpid(), listener.Addr().(*net.TCPAddr).Port)
	if *tls != "" {
		log.Fatal(http.ServeTLS(listener, nil, *tls, *tls))
	}
	log.Fatal(http.Serve(listener, nil))
}
