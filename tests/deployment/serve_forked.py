"""A server that is made, router and all, before it forks into two processes."""

import argparse
import asyncio
import os
import signal
import warnings
from functools import partial

from services import announce, make_application, make_router, run, shut_down
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.process import fork_processes

from sockjs_tornado import SockJSRouter


async def parent_has_gone(pipe: int) -> None:
    """Wait for the end of the process that holds the other end of a pipe."""
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe, gone.set)
    await gone.wait()
    asyncio.get_running_loop().remove_reader(pipe)


def serve_by_start(server: HTTPServer, router: SockJSRouter, port: int, end: int, held: int) -> None:
    """Fork and serve as `HTTPServer.start` does it."""
    # It makes the event loop in a way that Python 3.12 and 3.13 warn of.
    warnings.filterwarnings("ignore", "There is no current event loop", DeprecationWarning)
    server.bind(port, "127.0.0.1")
    announce(port)
    server.start(2)
    os.close(held)
    loop = IOLoop.current()
    loop.run_sync(partial(parent_has_gone, end))
    loop.run_sync(partial(shut_down, [server], [router]))
    loop.close()


def serve_by_fork(server: HTTPServer, router: SockJSRouter, port: int, end: int, held: int, loop: str) -> None:
    """Fork, then serve on an event loop of one's own."""
    sockets = bind_sockets(port, "127.0.0.1")
    announce(port)
    fork_processes(2)
    os.close(held)

    async def serve() -> None:
        server.add_sockets(sockets)
        await parent_has_gone(end)
        await shut_down([server], [router])

    run(serve, loop)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("how", choices=["start", "fork_processes"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--loop", default="asyncio", choices=["asyncio", "uvloop"])
    options = parser.parse_args()

    router = make_router("/sockjs/echo")
    server = HTTPServer(make_application(router))
    # The parent, which only waits for its children, ends with SIGTERM; the children end when the pipe does.
    end, held = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if options.how == "start":
        serve_by_start(server, router, options.port, end, held)
    else:
        serve_by_fork(server, router, options.port, end, held, options.loop)


if __name__ == "__main__":
    main()
