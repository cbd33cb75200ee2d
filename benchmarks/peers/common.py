"""Shared parts of the peers in Python: command line, startup message and shutdown."""

import argparse
import asyncio
import os
import signal

HOST = "127.0.0.1"

#: Backlog of the listening socket, the same for all peers.
BACKLOG = 4096


def parse_port() -> int:
    """Parse the command line and return the port, 0 for a free one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    port: int = parser.parse_args().port
    return port


async def run_until_terminated(port: int) -> None:
    """Print process id and port, and wait for SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"pid {os.getpid()} port {port}", flush=True)
    await stop.wait()
