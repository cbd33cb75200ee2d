"""Clients that disappear without a FIN: in a stopped process, or behind a network link that goes down.

Run as ``python -m soak.vanishing HOST PORT TRANSPORT:COMMAND:SOURCE...``, this is the process of the clients.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys

from client import POLLING, TRANSPORTS, WEBSOCKETS

from .load import Load
from .state import TIMEOUT, environment, kill_and_wait, program
from .visitor import Closed, Visitor

#: Source addresses of clients that the server detects while they are stopped, and of those that it cannot detect before
#: they exit: their kernel still acknowledges the few bytes that the server sends.
DETECTED, UNDETECTED = "127.0.0.2", "127.0.0.3"
#: Timeout for the detection by a ping, a missing poll, a full buffer, or the network timeout, in seconds.
DETECTION_TIMEOUT = 30


async def _read_all(visitor: Visitor) -> None:
    """Read and ignore messages."""
    with contextlib.suppress(Closed, OSError, EOFError, AssertionError, TimeoutError):
        while True:
            await visitor.receive()


async def hold(host: str, port: int, specs: list[str]) -> None:
    """Open sessions, print `ready`, and keep them open."""
    visits = []
    staying = []
    for spec in specs:
        transport, command, source = spec.split(":")
        visitor = Visitor(port, transport, source, host)
        await visitor.open()
        visits.append((visitor, command))
        # However long the others take to open, no session times out without a poll.
        staying.append(asyncio.create_task(_read_all(visitor)))
    # Send all commands together: floods are limited in time.
    for visitor, command in visits:
        await visitor.send(command)
    print("ready", flush=True)
    await asyncio.wait([*staying, asyncio.ensure_future(asyncio.Event().wait())])


def _specs(rng: random.Random, detected: str, undetected: str) -> list[str]:
    """Return transport, command and source address of the clients."""
    specs = []
    for transport in TRANSPORTS:
        if transport in WEBSOCKETS or transport in POLLING:
            specs += [f"{transport}:{rng.choice(['echo', 'pour', 'flood'])}:{detected}"]
            specs += [f"{transport}:echo:{detected}"]
        else:
            specs += [f"{transport}:flood:{detected}", f"{transport}:echo:{undetected}"]
    return specs


async def _start(host: str, port: int, specs: list[str], *prefix: str) -> asyncio.subprocess.Process:
    # In a process group of its own: the kernel kills stopped processes of an orphaned group.
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *program("vanishing", host, str(port), *specs),
        env=environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        process_group=0,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT):
            line = await process.stdout.readline()
        assert line == b"ready\n", line
    except BaseException:
        await _kill(process)
        raise
    return process


async def _kill(process: asyncio.subprocess.Process) -> None:
    await kill_and_wait(process, signal.SIGKILL)


async def vanish(load: Load, name: str, rng: random.Random) -> str:
    """Stop a process with sessions on all transports; the server must detect them, idle streams after its exit."""
    specs = _specs(rng, DETECTED, UNDETECTED)
    process = await _start("127.0.0.1", load.server.port, specs)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        state = await load.server.until(lambda state: DETECTED not in state["open"], DETECTION_TIMEOUT)
        assert DETECTED not in state["open"], f"still open after SIGSTOP: {state['open'][DETECTED]}"
    finally:
        await _kill(process)
    state = await load.server.until(lambda state: UNDETECTED not in state["open"], DETECTION_TIMEOUT)
    assert UNDETECTED not in state["open"], f"still open after SIGKILL: {state['open'][UNDETECTED]}"
    for spec in specs:
        load.counts["stopped", spec.partition(":")[0]] += 1
    return name


class Network:
    """A network namespace with a link; use :meth:`up`.

    Attributes:
        host: Address of this end of the link.
        guest: Address of the other end.
    """

    def __init__(self) -> None:
        # Addresses for documentation (RFC 5737) are unused, except by concurrent runs.
        subnet = os.getpid() % 64 * 4
        self.host = f"203.0.113.{subnet + 1}"
        self.guest = f"203.0.113.{subnet + 2}"
        self.name = f"soak{os.getpid()}"
        self.link = f"soak{os.getpid() % 10**8}h"

    @classmethod
    async def up(cls) -> "Network | None":
        """Create a namespace, or return None without the required permissions or tools."""
        network = cls()
        if os.geteuid() or shutil.which("ip") is None:
            return None
        commands = [
            f"netns add {network.name}",
            f"link add {network.link} type veth peer name guest netns {network.name}",
            f"address add {network.host}/30 dev {network.link}",
            f"link set {network.link} up",
            f"-n {network.name} address add {network.guest}/30 dev guest",
            f"-n {network.name} link set guest up",
        ]
        for command in commands:
            if await _ip(command):
                await network.down()
                return None
        return network

    async def switch(self, state: str) -> None:
        """Set the guest's end of the link ``up`` or ``down``."""
        assert await _ip(f"-n {self.name} link set guest {state}") == 0

    async def down(self) -> None:
        """Remove the namespace."""
        await _ip(f"netns delete {self.name}")
        await _ip(f"link delete {self.link}")

    async def vanish(self, load: Load, name: str, rng: random.Random) -> str:
        """Cut the link of a process with sessions on all transports; the server must detect them."""
        specs = _specs(rng, self.guest, self.guest)
        process = await _start(self.host, load.server.port, specs, "ip", "netns", "exec", self.name)
        try:
            await self.switch("down")
            state = await load.server.until(lambda state: self.guest not in state["open"], DETECTION_TIMEOUT)
            assert self.guest not in state["open"], f"still open after the link went down: {state['open'][self.guest]}"
        finally:
            await _kill(process)
            await self.switch("up")
        for spec in specs:
            load.counts["cut off", spec.partition(":")[0]] += 1
        return name


async def _ip(arguments: str) -> int:
    process = await asyncio.create_subprocess_exec(
        "ip", *arguments.split(), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
