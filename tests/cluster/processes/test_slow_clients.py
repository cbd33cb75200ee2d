"""A client of another node than its session's owner that does not read."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from client import Client, asking, until
from deployment.conftest import Visit, leave

from .clients import Guest, attached, guest
from .nodes import Circle, NodeProcess, nodes

#: Messages of 100,000 bytes: much more than the sockets' buffers on the way hold.
MANY = 1000

#: Bytes by which a node that passes them on may grow.
LITTLE = 32_000_000


def memory(node: NodeProcess) -> int:
    """Return the memory of a node in bytes."""
    for line in Path(f"/proc/{node.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("a process without memory")


@pytest.fixture
async def two(circle: Circle) -> AsyncIterator[list[NodeProcess]]:
    """Return two nodes whose streams have no limit."""
    endless = Circle(circle.redis, circle.secret, "--response-limit", "1000000000")
    async with nodes(endless, 2) as servers:
        yield servers


async def stream(client: Guest, owner: NodeProcess) -> Client:
    """Open a stream through the other node without reading it."""
    connection = await client.relayed.connect()
    connection.pause_reading()
    connection.write(asking(client.relayed.transport, client.relayed.base))
    await attached(owner, client.session)
    return connection


async def stands_still(node: NodeProcess) -> int:
    """Wait until a node's flood makes no progress, and return the number of messages that it has sent."""
    before = -1

    async def is_still() -> bool:
        nonlocal before
        last, before = before, int((await node.report())["flooded"])
        return before == last > 0

    await until(is_still, interval=0.5)
    return before


async def test_a_slow_client_slows_an_owner_that_awaits_and_is_closed_by_one_that_does_not(
    two: list[NodeProcess], visit: Visit
) -> None:
    owner, other = two
    before = memory(other)
    patient, hasty = [await guest(visit, transport, owner, other) for transport in ("xhr_streaming", "eventsource")]
    connections = [await stream(client, owner) for client in (patient, hasty)]
    try:
        await patient.relayed.send(f"flood patiently {MANY}")
        assert await stands_still(owner) < MANY / 2
        assert memory(other) - before < LITTLE
        # The client now reads, and receives everything.
        connections[0].resume_reading()
        assert (await connections[0].head()).status == 200
        received = 0
        while received < MANY * 100_000:
            received += (await connections[0].chunk()).count(b"x")
        assert received == MANY * 100_000
        await hasty.relayed.send(f"flood {MANY}")
        ended = await owner.ended(hasty.session)
        assert (ended["code"], ended["reason"]) == (3008, "Slow consumer")
        assert (await owner.report())["flooded"] < MANY * 1.5
        assert memory(other) - before < LITTLE
    finally:
        await leave(connections)
