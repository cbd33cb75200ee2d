"""What the peers written in Python share: the port they are given, the line they print, and their end."""

import argparse
import asyncio
import os
import signal

HOST = "127.0.0.1"

#: Connections that may wait to be accepted: as many for every peer, so that none of them drops what another takes.
BACKLOG = 4096


def chosen_port() -> int:
    """Return the port of the command line, 0 for a free one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    port: int = parser.parse_args().port
    return port


async def run_until_terminated(port: int) -> None:
    """Say that the server listens on ``port``, and wait for SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print(f"pid {os.getpid()} port {port}", flush=True)
    await ended.wait()
