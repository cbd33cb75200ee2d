"""The server's process, and its ``/state``."""

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

#: Seconds for the server to start, to respond and to stop.
TIMEOUT = 60
TESTS = Path(__file__).resolve().parent.parent

State = dict[str, Any]


def closed_as_slow(state: State, transport: str) -> bool:
    """Return whether the server has closed a client of a transport as too slow."""
    return any(reason.startswith(f"{transport} 3008 ") for reason in state["reasons"])


def program(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this package."""
    return [sys.executable, "-W", "default", "-m", f"soak.{module}", *arguments]


def environment() -> dict[str, str]:
    """Return an environment in which this package can be imported."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))}


async def kill_and_wait(process: asyncio.subprocess.Process, number: int) -> None:
    """Send a signal to a process, and wait until it has exited."""
    # Not with the methods of Process, which may read its exit status before the event loop does.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
    await process.wait()


class Server:
    """A running server; use :meth:`start`."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors
        self.port = 0

    @classmethod
    async def start(cls, kind: str, *addresses: str) -> "Server":
        """Start one of the HTTP servers, and wait until it listens."""
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        process = await asyncio.create_subprocess_exec(
            *program("server", kind, *addresses),
            env=environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            process_group=0,
        )
        server = cls(process, errors)
        assert process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            line = await process.stdout.readline()
        if not line.strip():
            raise RuntimeError(f"the server did not start: {await server.stop()}")
        server.port = int(line)
        return server

    async def state(self, *, collect: bool = False) -> State:
        """Request the state on a new connection."""
        client = await connect(self.port)
        try:
            response = await client.ask("GET", f"/state{'?collect=1' if collect else ''}", "Connection: close")
            assert response.status == 200, response
            state: State = json.loads(response.body)
            # Wait until the server has closed the connection.
            assert await client.rest() == b""
            return state
        finally:
            await close([client])

    async def until(
        self, condition: Callable[[State], Any], seconds: float = TIMEOUT, *, collect: bool = False
    ) -> State:
        """Wait until the state fulfils a condition, for so many seconds at most; return the last state."""
        end = asyncio.get_running_loop().time() + seconds
        while True:
            state = await self.state(collect=collect)
            if condition(state) or asyncio.get_running_loop().time() >= end:
                return state
            await asyncio.sleep(0.25)

    async def stop(self) -> tuple[int, str]:
        """Stop the server; return its exit status and its output on standard error."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await kill_and_wait(self._process, signal.SIGTERM)
        except TimeoutError:
            await kill_and_wait(self._process, signal.SIGKILL)
        with self._errors as errors:
            errors.seek(0)
            return self._process.returncode or 0, errors.read().decode(errors="replace")
