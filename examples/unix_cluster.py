"""Four processes on one host that serve each other's sessions without Redis, with the echo page.

Run `python examples/unix_cluster.py` and open the URL that it prints.

All processes listen on one port, and the kernel distributes the connections (SO_REUSEPORT), so the requests of a
session arrive at different processes. Each session belongs to one process, chosen by its id. The other processes relay
its requests there over Unix sockets, in a directory that only this user can access. Rooms span all processes.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common import address, arguments
from echo import server as echo
from tornado.web import Application, RedirectHandler, URLSpec

from sockjs_tornado import SockJSRouter
from sockjs_tornado.cluster import UnixCluster
from sockjs_tornado.serving import bind_sockets, serve


class Echo(echo.Echo):
    """Echoes messages, but responds to `where?` with the id of the process that owns the session."""

    async def on_message(self, message: str) -> None:
        await super().on_message(f"process {os.getpid()}" if message == "where?" else message)


async def run_worker(options: argparse.Namespace) -> None:
    """Run one of the processes until SIGTERM."""
    cluster = UnixCluster(options.directory, workers=options.workers, worker=options.worker)
    router = SockJSRouter(Echo, "/echo/sockjs", cluster=cluster)
    sockets = bind_sockets(options.port, options.host, reuse_port=True)
    home = URLSpec("/", RedirectHandler, {"url": "/echo/", "permanent": False})
    application = Application([*router.urls, home, *echo.url_specs()])
    await serve(application, [router], sockets, drain_time=0, code=1001, reason="The server is going away")


async def run_supervisor(options: argparse.Namespace) -> int:
    """Start the processes; stop all of them on SIGINT or SIGTERM, or when one of them exits."""
    with reserve(options.host, options.port) as port, tempfile.TemporaryDirectory() as directory:
        more = ["--host", options.host, "--port", str(port), "--workers", str(options.workers)]
        workers = [
            # In process groups of their own, so that only the parent process receives Ctrl-C; it sends SIGTERM.
            await asyncio.create_subprocess_exec(
                *(sys.executable, __file__, *more, "--directory", f"{directory}/run", "--worker", str(worker)),
                process_group=0,
            )
            for worker in range(options.workers)
        ]
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        exits = [asyncio.ensure_future(worker.wait()) for worker in workers]
        stopping = asyncio.ensure_future(stop.wait())
        while not any(exited.done() for exited in exits):
            if count_listening(f"{directory}/run") == options.workers:
                print(f"Listening on {address(options.host, port)}", flush=True)
                break
            await asyncio.sleep(0.02)
        await asyncio.wait([stopping, *exits], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                worker.terminate()
        return max(map(abs, await asyncio.gather(*exits)))


def count_listening(directory: str) -> int:
    """Return the number of processes that listen, by their sockets in a directory."""
    return len(list(Path(directory).glob("*.sock")))


@contextlib.contextmanager
def reserve(host: str, port: int) -> Iterator[int]:
    """Reserve a port, on which other sockets of this user may listen, and return it."""
    family, _, _, _, socket_address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family) as sock:
        # Connections of an earlier server on the port may still be in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(socket_address)
        # It does not listen, so it gets no connections.
        yield sock.getsockname()[1]


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = arguments("Echo on several processes, over SockJS.")
    parser.add_argument("--workers", type=int, default=4, help="number of processes (default: %(default)s)")
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        sys.exit(asyncio.run(run_supervisor(options) if options.worker is None else run_worker(options)))
    except OSError as error:
        sys.exit(f"Cannot listen on {options.host}, port {options.port}: {error.strerror}")


if __name__ == "__main__":
    main()
