"""An echo server with a service for each fault, such as `/loses`. The fault is at the tenth message of a session."""

import asyncio
import os
import signal
import time
from functools import partial
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from sockjs_tornado import SockJSConnection, SockJSRouter

#: Number of the message with the fault.
FAULTY_MESSAGE = 10
#: Seconds for which a stall blocks the event loop.
STALL = 0.5


class Echo(SockJSConnection):
    """Echoes messages, apart from the one that it passes to the method ``fault``."""

    def __init__(self, session: Any, fault: str) -> None:
        super().__init__(session)
        self.fault = getattr(self, fault)
        self.seen = 0
        self.kept: str | None = None

    def on_message(self, message: str) -> None:
        self.seen += 1
        if self.seen == FAULTY_MESSAGE:
            self.fault(message)
            return
        self.send(message)
        if self.kept is not None:
            self.send(self.kept)
            self.kept = None

    def loses(self, message: str) -> None:
        pass

    def reorders(self, message: str) -> None:
        self.kept = message

    def duplicates(self, message: str) -> None:
        self.send(message)
        self.send(message)

    def corrupts(self, message: str) -> None:
        self.send(message[:-1] + "?")

    def misnumbers(self, message: str) -> None:
        self.send(("B" if message[0] == "A" else "A") + message[1:])

    def closes(self, message: str) -> None:
        self.close(4000, "Enough")

    def stalls(self, message: str) -> None:
        time.sleep(STALL)  # the fault: the event loop is blocked
        self.send(message)


FAULTS = ("loses", "reorders", "duplicates", "corrupts", "misnumbers", "closes", "stalls")


async def main() -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    routers = [SockJSRouter(partial(Echo, fault=fault), f"/{fault}") for fault in FAULTS]
    urls = [url for router in routers for url in router.urls]
    server = HTTPServer(Application(urls, log_function=lambda handler: None))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    print(f"pid {os.getpid()} port {sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
