"""Clients that vanish without a FIN: in a process that is stopped, or behind a link that goes down.

As a program, ``python -m soak.vanishing HOST PORT TRANSPORT:COMMAND:SOURCE...`` is that process.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys

from client import POLLING

from .load import Load
from .state import PATIENCE, environment, program, signalled
from .visitor import TRANSPORTS, WEBSOCKETS, Closed, Visitor

#: Where those come from that the server finds while they are stopped, and those that it cannot find before they end:
#: their systems go on acknowledging the few bytes that it sends.
FOUND, UNFOUND = "127.0.0.2", "127.0.0.3"
#: Seconds in which it finds the others: by a ping, by a poll that does not come, by a full buffer, or by the network's
#: silence.
FINDING = 30


async def _stay(visitor: Visitor) -> None:
    """Read; whatever comes is none of this process's concern."""
    with contextlib.suppress(Closed, OSError, EOFError, AssertionError, TimeoutError):
        while True:
            await visitor.hear()


async def hold(host: str, port: int, orders: list[str]) -> None:
    """Open sessions, say so, and stay."""
    visits = []
    for order in orders:
        transport, command, source = order.split(":")
        visitor = Visitor(port, transport, source, host)
        await visitor.open()
        visits.append((visitor, command))
    # None later: they last for a while only.
    for visitor, command in visits:
        await visitor.send(command)
    staying = [asyncio.create_task(_stay(visitor)) for visitor, _ in visits]
    print("ready", flush=True)
    await asyncio.wait([*staying, asyncio.ensure_future(asyncio.Event().wait())])


def _orders(chance: random.Random, found: str, unfound: str) -> list[str]:
    """Return who shall come, what each asks for, and from where."""
    orders = []
    for transport in TRANSPORTS:
        if transport in WEBSOCKETS or transport in POLLING:
            orders += [f"{transport}:{chance.choice(['echo', 'pour', 'flood'])}:{found}"]
            orders += [f"{transport}:echo:{found}"]
        else:
            orders += [f"{transport}:flood:{found}", f"{transport}:echo:{unfound}"]
    return orders


async def _start(host: str, port: int, orders: list[str], *prefix: str) -> asyncio.subprocess.Process:
    # In a group of its own, the system ends it when whoever has stopped it is gone.
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *program("vanishing", host, str(port), *orders),
        env=environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        process_group=0,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            line = await process.stdout.readline()
        assert line == b"ready\n", line
    except BaseException:
        await _kill(process)
        raise
    return process


async def _kill(process: asyncio.subprocess.Process) -> None:
    await signalled(process, signal.SIGKILL)


async def vanish(load: Load, name: str, chance: random.Random) -> str:
    """Stop a process with sessions on all transports; the server finds them, idle streams after its end."""
    orders = _orders(chance, FOUND, UNFOUND)
    process = await _start("127.0.0.1", load.server.port, orders)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        state = await load.server.until(lambda state: FOUND not in state["open"], FINDING)
        assert FOUND not in state["open"], f"still open, though stopped: {state['open'][FOUND]}"
    finally:
        await _kill(process)
    state = await load.server.until(lambda state: UNFOUND not in state["open"], FINDING)
    assert UNFOUND not in state["open"], f"still open, though killed: {state['open'][UNFOUND]}"
    for order in orders:
        load.counts["stopped", order.partition(":")[0]] += 1
    return name


class Network:
    """A network namespace with one link to it; :meth:`up` makes one where that is possible.

    Attributes:
        host: The address of this end of the link.
        guest: That of the other end.
    """

    def __init__(self) -> None:
        # Addresses for documentation (RFC 5737): nobody has them, but for another run beside this one.
        subnet = os.getpid() % 64 * 4
        self.host = f"203.0.113.{subnet + 1}"
        self.guest = f"203.0.113.{subnet + 2}"
        self.name = f"soak{os.getpid()}"
        self.link = f"soak{os.getpid() % 10**8}h"

    @classmethod
    async def up(cls) -> "Network | None":
        """Make it, or return None where it takes other rights or tools."""
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
        """Let the guest's end of the link go ``up`` or ``down``."""
        assert await _ip(f"-n {self.name} link set guest {state}") == 0

    async def down(self) -> None:
        """Remove it."""
        await _ip(f"netns delete {self.name}")
        await _ip(f"link delete {self.link}")

    async def vanish(self, load: Load, name: str, chance: random.Random) -> str:
        """Take the link from a process that has sessions on all transports; the server finds them."""
        orders = _orders(chance, self.guest, self.guest)
        process = await _start(self.host, load.server.port, orders, "ip", "netns", "exec", self.name)
        try:
            await self.switch("down")
            state = await load.server.until(lambda state: self.guest not in state["open"], FINDING)
            assert self.guest not in state["open"], f"still open, though cut off: {state['open'][self.guest]}"
        finally:
            await _kill(process)
            await self.switch("up")
        for order in orders:
            load.counts["cut off", order.partition(":")[0]] += 1
        return name


async def _ip(arguments: str) -> int:
    process = await asyncio.create_subprocess_exec(
        "ip", *arguments.split(), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
