"""Shared parts of the peers in Python: command line, startup message and shutdown."""

import argparse
import asyncio
import os
import signal
import ssl

HOST = "127.0.0.1"

#: Backlog of the listening socket, the same for all peers.
BACKLOG = 4096


def parse_port() -> int:
    """Parse the command line and return the port, 0 for a free one."""
    return parse()[0]


def parse() -> tuple[int, ssl.SSLContext | None]:
    """Parse the command line and return the port, and the SSL context, if there is a file with certificate and key."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls")
    options = parser.parse_args()
    if options.tls is None:
        return options.port, None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.tls)
    return options.port, context


async def run_until_terminated(port: int) -> None:
    """Print process id and port, and wait for SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"pid {os.getpid()} port {port}", flush=True)
    await stop.wait()
