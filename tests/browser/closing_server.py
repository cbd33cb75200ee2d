"""The server whose websockets close while their clients are sending, for one reason each; on TCP and with TLS."""

import argparse
import asyncio
import signal
import socket
import ssl
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler, StaticFileHandler

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.wire import connection

PAGES = Path(__file__).resolve().parent / "pages"

#: Messages of a client before something happens. The page sends as many, and more without a pause.
MANY = 20


class Counting(SockJSConnection):
    """Does something when the client has sent many messages; it is in the middle of sending more then."""

    received = 0

    def on_message(self, message: str) -> None:
        self.received += 1
        if self.received == MANY:
            self.on_many()

    def on_many(self) -> None:
        """Do nothing."""


class Closing(Counting):
    """Closes."""

    def on_many(self) -> None:
        self.close(4001, "Enough")


class Flooding(Counting):
    """Sends more than may wait for a client."""

    def on_many(self) -> None:
        while not self.is_closed:
            self.send("x" * 10_000)


class Waiting(Counting):
    """Waits until the server is drained."""

    ready: asyncio.Semaphore

    def on_many(self) -> None:
        self.ready.release()


class Drain(RequestHandler):
    """Drains a router once so many of its clients have sent many messages."""

    def initialize(self, router: SockJSRouter) -> None:
        self.router = router

    async def get(self) -> None:
        for _ in range(int(self.get_query_argument("clients"))):
            await Waiting.ready.acquire()
        await self.router.drain(0)
        self.finish("drained")


async def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("certificate", help="with its key")
    options = parser.parse_args()

    # What ends a connection is the client's close frame, however busy the machine is.
    connection.CLOSE_TIMEOUT = 1000.0
    Waiting.ready = asyncio.Semaphore(0)
    draining = SockJSRouter(Waiting, "/sockjs/1012", warn_without_xheaders=False)
    # Behind proxies, but without xheaders.
    silent = {"warn_without_xheaders": False}
    routers = [
        # What HAProxy asks whether the server is there.
        SockJSRouter(Counting, "/sockjs/echo", silent),
        SockJSRouter(Closing, "/sockjs/4001", silent),
        SockJSRouter(Flooding, "/sockjs/3008", silent | {"max_queue_bytes": 50_000}),
        SockJSRouter(Counting, "/sockjs/3013", silent | {"max_inbound_rate": (1, MANY)}),
        SockJSRouter(Counting, "/sockjs/1009", silent | {"max_message_size": 2000}),
        draining,
    ]
    specs = [
        *(url for router in routers for url in router.urls),
        URLSpec(r"/drain", Drain, {"router": draining}),
        URLSpec(r"/pages/(.*)", StaticFileHandler, {"path": str(PAGES)}),
    ]
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(options.certificate)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    application = Application(specs, log_function=lambda handler: None)
    servers = [HTTPServer(application), HTTPServer(application, ssl_options=tls)]
    ports = []
    for server in servers:
        sockets = bind_sockets(0, "127.0.0.1")
        # Connections inherit it, and a client is a slow one before it has megabytes.
        sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        server.add_sockets(sockets)
        ports.append(sockets[0].getsockname()[1])
    print("Listening on", *(f"http://127.0.0.1:{port}" for port in ports), flush=True)

    await stop.wait()
    await asyncio.gather(*(router.close() for router in routers))
    for server in servers:
        server.stop()
        await server.close_all_connections()


if __name__ == "__main__":
    asyncio.run(main())
