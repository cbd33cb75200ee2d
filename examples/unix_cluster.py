"""Four processes on one host that answer for each other's sessions, without Redis; and the echo page to try them with.

Run `python examples/unix_cluster.py` and open the address it prints.

All of them listen on one port, and the kernel spreads the connections among them (SO_REUSEPORT): the requests of one
session come now to this process, now to that one. Each session belongs to one of them by its name, and the others pass
on what is for it, by Unix sockets in a directory that is this user's alone. Rooms are the same in all of them.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from common import SOCKJS_URL, address, arguments, sockjs_specs
from echo import server as echo
from tornado.web import Application

from sockjs_tornado import SockJSRouter
from sockjs_tornado.cluster.unix import UnixCluster
from sockjs_tornado.serving import bind_sockets, serve


class Echo(echo.Echo):
    """Says on request which process has the session."""

    async def on_message(self, message: str) -> None:
        await super().on_message(f"process {os.getpid()}" if message == "where?" else message)


async def work(options: argparse.Namespace) -> None:
    """Be one of the processes, until SIGTERM."""
    # A Ctrl-C in the terminal is the parent's to hear, which sends SIGTERM.
    cluster = UnixCluster(options.directory, workers=options.workers, worker=options.worker)
    router = SockJSRouter(Echo, "/echo/sockjs", {"sockjs_url": SOCKJS_URL}, cluster=cluster)
    sockets = bind_sockets(options.port, options.host, reuse_port=True)
    application = Application([*router.urls, *echo.url_specs(), *sockjs_specs()])
    await serve(application, [router], sockets, drain_time=0, code=1001, reason="The server is going away")


async def watch(options: argparse.Namespace) -> int:
    """Start the processes, and end them all at SIGINT or SIGTERM, or when one of them has ended."""
    # It holds the port, and takes no connections: it does not listen.
    with reserve(options.host, options.port) as held, tempfile.TemporaryDirectory() as directory:
        port = held.getsockname()[1]
        more = ["--host", options.host, "--port", str(port), "--workers", str(options.workers)]
        workers = [
            # In groups of their own, so that a Ctrl-C in the terminal comes here alone.
            await asyncio.create_subprocess_exec(
                *(sys.executable, __file__, *more, "--directory", f"{directory}/run", "--worker", str(worker)),
                process_group=0,
            )
            for worker in range(options.workers)
        ]
        told = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, told.set)
        endings = [asyncio.ensure_future(worker.wait()) for worker in workers]
        telling = asyncio.ensure_future(told.wait())
        while not any(ending.done() for ending in endings):
            if count(f"{directory}/run") == options.workers:
                print(f"Listening on {address(options.host, port)}", flush=True)
                break
            await asyncio.sleep(0.02)
        await asyncio.wait([telling, *endings], return_when=asyncio.FIRST_COMPLETED)
        telling.cancel()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                worker.terminate()
        return max(map(abs, await asyncio.gather(*endings)))


def count(directory: str) -> int:
    """Return how many processes listen in a directory."""
    return len(list(Path(directory).glob("*.sock")))


def reserve(host: str, port: int) -> socket.socket:
    """Return a socket that holds a port; other sockets of this user may listen there."""
    family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(where)
    return sock


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = arguments("Echo on several processes, over SockJS.")
    parser.add_argument("--workers", type=int, default=4, help="processes (default: %(default)s)")
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        sys.exit(asyncio.run(watch(options) if options.worker is None else work(options)))
    except OSError as error:
        sys.exit(f"Cannot listen on {options.host}, port {options.port}: {error.strerror}")


if __name__ == "__main__":
    main()
