"""The server's process, and what its ``/state`` says."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from .visitor import close, connect

TESTS = Path(__file__).resolve().parent.parent
#: Seconds in which a process starts or ends, and in which the server lets go of what has left.
PATIENCE = 60

State = dict[str, Any]


def program(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this package."""
    return [sys.executable, "-W", "default", "-m", f"soak.{module}", *arguments]


def environment() -> dict[str, str]:
    """Return the environment in which a module of this package is found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))}


async def signalled(process: asyncio.subprocess.Process, number: int) -> None:
    """Send a signal to a process that ends by it, and wait until it has ended."""
    # Not by the process' own methods: they may take its status before the event loop has.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
    await process.wait()


class Server:
    """A running server; :meth:`start` makes one."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors
        self.port = 0

    @classmethod
    async def start(cls, *addresses: str) -> "Server":
        """Start it, and wait until it listens."""
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the server
        process = await asyncio.create_subprocess_exec(
            *program("server", *addresses),
            env=environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            process_group=0,
        )
        server = cls(process, errors)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await process.stdout.readline()
        if not line.strip():
            raise RuntimeError(f"the server did not start: {await server.stop()}")
        server.port = int(line)
        return server

    async def state(self, *, collect: bool = False) -> State:
        """Ask what it holds, on a connection that is made for that alone."""
        client = await connect(self.port)
        try:
            response = await client.ask("GET", f"/state{'?collect=1' if collect else ''}", "Connection: close")
            assert response.status == 200, response
            state: State = json.loads(response.body)
            # Its own connection is over once the server has closed it.
            assert await client.rest() == b""
            return state
        finally:
            await close([client])

    async def until(
        self, wanted: Callable[[State], Any], patience: float = PATIENCE, *, collect: bool = False
    ) -> State:
        """Wait until its state is as wanted, or there is no more patience; return the last one."""
        end = asyncio.get_running_loop().time() + patience
        while True:
            state = await self.state(collect=collect)
            if wanted(state) or asyncio.get_running_loop().time() >= end:
                return state
            await asyncio.sleep(0.25)

    async def stop(self) -> tuple[int, str]:
        """End it; return its status and what it said on standard error."""
        try:
            async with asyncio.timeout(PATIENCE):
                await signalled(self._process, signal.SIGTERM)
        except TimeoutError:
            await signalled(self._process, signal.SIGKILL)
        with self._errors as errors:
            errors.seek(0)
            return self._process.returncode or 0, errors.read().decode(errors="replace")
