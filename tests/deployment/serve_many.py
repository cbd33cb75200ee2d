"""A process with two event loops in two threads.

The main thread's loop serves two applications, each on a port of its own. The first of them has several routers, one of
which has an empty prefix. The other thread's loop serves a third application.
"""

import argparse
import asyncio
import threading
from functools import partial

from services import announce, make_application, make_router, run, shut_down, told_to_stop
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from sockjs_tornado import SockJSRouter


def listen(*routers: SockJSRouter) -> tuple[HTTPServer, int]:
    """Serve routers on a free port."""
    server = HTTPServer(make_application(*routers))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    return server, sockets[0].getsockname()[1]


class Other(threading.Thread):
    """The other thread, with an event loop of its own."""

    def __init__(self, loop: str) -> None:
        super().__init__(name="other", daemon=True)
        self.kind = loop
        self.listens = threading.Event()

    def run(self) -> None:
        run(self.serve, self.kind)

    async def serve(self) -> None:
        """Serve until told to stop."""
        self.loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        router = make_router("/a/b/c", "other thread")
        server, self.port = listen(router)
        self.listens.set()
        await self.stop.wait()
        await shut_down([server], [router])

    def end(self) -> None:
        """Have it stop, and wait for that."""
        self.loop.call_soon_threadsafe(self.stop.set)
        self.join()


async def serve(other: Other) -> None:
    """Serve until SIGTERM."""
    first = [make_router("/a/b/c", "first"), make_router("/chat", "chat"), make_router("", "root")]
    second = make_router("/a/b/c", "second")
    one, one_port = listen(*first)
    two, two_port = listen(second)
    announce(one_port, two_port, other.port)
    await told_to_stop()
    await shut_down([one, two], [*first, second])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", default="asyncio", choices=["asyncio", "uvloop"])
    options = parser.parse_args()
    thread = Other(options.loop)
    thread.start()
    thread.listens.wait()
    run(partial(serve, thread), options.loop)
    thread.end()
