"""A server for benchmarks: one process with two services, `/echo` and `/broadcast`, and no logging.

`/echo` sends every message back to who sent it, `/broadcast` to everybody who is connected to it. Settings are the
defaults. It listens on 127.0.0.1, says `pid N port P` when it does, and ends on SIGTERM or SIGINT.
"""

import argparse
import asyncio
import contextlib
import gc
import importlib.util
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter

HOST = "127.0.0.1"
#: Seconds in which clients may say goodbye.
PATIENCE = 0.25

#: The room of :class:`Broadcast`.
EVERYONE = "everyone"

#: Takes the listening sockets, and serves while its context is open.
Front = Callable[[list[socket.socket]], AbstractAsyncContextManager[None]]


class Echo(SockJSConnection):
    """Sends every message back."""

    def on_message(self, message: str) -> None:
        self.send(message)


class Broadcast(SockJSConnection):
    """Sends every message to all who are connected, the sender included."""

    def on_open(self, info: ConnectionInfo) -> None:
        self.join(EVERYONE)

    def on_message(self, message: str) -> None:
        self.session.server.publish(EVERYONE, message)


def make_routers() -> list[SockJSRouter]:
    """Make both services; those of two calls share nothing."""
    return [SockJSRouter(Echo, "/echo"), SockJSRouter(Broadcast, "/broadcast")]


@contextlib.asynccontextmanager
async def tornado_front(sockets: list[socket.socket]) -> AsyncIterator[None]:
    """Serve with Tornado's HTTP server."""
    routers = make_routers()
    urls = [url for router in routers for url in router.urls]
    server = HTTPServer(Application(urls, log_function=lambda handler: None))
    server.add_sockets(sockets)
    yield
    # Clients that do not come for their goodbye would keep a router waiting until their sessions are over.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(router.close() for router in routers))
    server.stop()
    await server.close_all_connections()


#: What `--server` may name.
FRONTS: dict[str, Front] = {"tornado": tornado_front}


async def serve(front: Front, sockets: list[socket.socket]) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # As docs/performance.md advises: full collections look at every object of every session.
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    async with front(sockets):
        print(f"pid {os.getpid()} port {sockets[0].getsockname()[1]}", flush=True)
        await stop.wait()


def main() -> None:
    """Run the program."""
    has_uvloop = importlib.util.find_spec("uvloop") is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--server", choices=list(FRONTS), default="tornado", help="HTTP server (default: %(default)s)")
    parser.add_argument(
        "--loop",
        choices=["asyncio", "uvloop"],
        default="uvloop" if has_uvloop else "asyncio",
        help="event loop (default: uvloop where it is installed)",
    )
    options = parser.parse_args()
    if options.loop == "uvloop" and not has_uvloop:
        parser.error('uvloop is not installed: pip install "sockjs-tornado[bench]"')
    if not 0 <= options.port <= 65535:
        parser.error(f"--port: {options.port} is no port number")

    logging.disable()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    try:
        sockets = bind_sockets(options.port, HOST)
    except OSError as error:
        parser.exit(1, f"Cannot listen on {HOST}, port {options.port}: {error.strerror}\n")
    factory = None
    if options.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(FRONTS[options.server], sockets))


if __name__ == "__main__":
    main()
