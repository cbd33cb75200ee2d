"""An echo server at `/echo` with a fault at the tenth message."""

import argparse
import asyncio
import os
import signal
import time
from collections.abc import Callable

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from sockjs_tornado import SockJSConnection, SockJSRouter

#: Number of the message with the fault.
FAULTY_MESSAGE = 10
#: Duration of a stall in seconds.
STALL = 0.5


class Echo(SockJSConnection):
    """Echoes messages."""

    seen = 0
    fault: Callable[["Echo", str], None]
    kept: str | None = None

    def on_message(self, message: str) -> None:
        Echo.seen += 1
        if Echo.seen == FAULTY_MESSAGE:
            self.fault(message)
            return
        self.send(message)
        if self.kept is not None:
            self.send(self.kept)
            self.kept = None

    def lose(self, message: str) -> None:
        pass

    def reorder(self, message: str) -> None:
        self.kept = message

    def duplicate(self, message: str) -> None:
        self.send(message)
        self.send(message)

    def corrupt(self, message: str) -> None:
        self.send(message[:-1] + "?")

    def misnumber(self, message: str) -> None:
        self.send(("B" if message[0] == "A" else "A") + message[1:])

    def close_it(self, message: str) -> None:
        self.close(4000, "Enough")

    def stall(self, message: str) -> None:
        time.sleep(STALL)
        self.send(message)


FAULTS = {
    "loses": Echo.lose,
    "reorders": Echo.reorder,
    "duplicates": Echo.duplicate,
    "corrupts": Echo.corrupt,
    "misnumbers": Echo.misnumber,
    "closes": Echo.close_it,
    "stalls": Echo.stall,
}


async def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fault", choices=list(FAULTS))
    Echo.fault = FAULTS[parser.parse_args().fault]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = HTTPServer(Application(SockJSRouter(Echo, "/echo").urls, log_function=lambda handler: None))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    print(f"pid {os.getpid()} port {sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
