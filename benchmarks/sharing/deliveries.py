"""Measurement of the cost of delivering a message to all members of a room."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Sequence

from load.usage import read_usage

from .nodes import HOST, TIMEOUT, WELCOME, Node

MESSAGE = "x" * 64

#: Number of concurrent connection attempts.
_CONCURRENT_CONNECTS = 200


class Member(asyncio.Protocol):
    """A websocket that counts received messages."""

    def __init__(self, members: "Members") -> None:
        self._members = members
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
        path = f"/everybody/000/{os.urandom(8).hex()}/websocket"
        head = f"GET {path} HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n\r\n"
        transport.write(head.encode())

    def data_received(self, data: bytes) -> None:
        self._members.add(data.count(MESSAGE.encode()), data.count(WELCOME.encode()))

    def send(self, text: str) -> None:
        """Send a message."""
        payload = json.dumps([text]).encode()
        assert self.transport is not None
        assert len(payload) < 126
        # With a mask of zeros, the payload is sent unchanged.
        self.transport.write(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)


class Members:
    """All members, and the number of messages that they have received."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._delivered = self._opened = 0
        self._expected: tuple[int, int] = (0, 0)
        self._reached = asyncio.Event()

    def add(self, delivered: int, opened: int) -> None:
        """Count received messages."""
        self._delivered += delivered
        self._opened += opened
        if self._delivered >= self._expected[0] and self._opened >= self._expected[1]:
            self._reached.set()

    async def wait_for(self, delivered: int, opened: int) -> None:
        """Wait for a number of further messages."""
        self._expected = (self._delivered + delivered, self._opened + opened)
        self._reached.clear()
        async with asyncio.timeout(TIMEOUT):
            await self._reached.wait()

    async def connect(self, servers: Sequence[Node], number: int) -> None:
        """Connect a number of members, to each node in turn."""
        loop = asyncio.get_running_loop()
        for start in range(0, number, _CONCURRENT_CONNECTS):
            size = min(_CONCURRENT_CONNECTS, number - start)
            opening = asyncio.ensure_future(self.wait_for(0, size))
            await asyncio.sleep(0)
            made = [
                loop.create_connection(lambda: Member(self), HOST, servers[index % len(servers)].port)
                for index in range(start, start + size)
            ]
            self.members += [member for _, member in await asyncio.gather(*made)]
            await opening


@contextlib.asynccontextmanager
async def connected_members(servers: Sequence[Node], number: int) -> AsyncIterator[Members]:
    """Connect members to nodes, and disconnect them at the end."""
    members = Members()
    try:
        await members.connect(servers, number)
        yield members
    finally:
        for member in members.members:
            assert member.transport is not None
            member.transport.abort()
        await asyncio.sleep(0.5)


async def measure_deliveries(
    servers: Sequence[Node], redis: Sequence[int], kind: str, members: int, messages: int
) -> tuple[float, float]:
    """Return the CPU time per delivery of the nodes and of Redis, in microseconds."""
    async with connected_members(servers, members) as crowd:

        async def send(times: int) -> None:
            for number in range(times):
                reached = asyncio.ensure_future(crowd.wait_for(members, 0))
                await asyncio.sleep(0)
                # Send from the members of each node in turn.
                crowd.members[number % len(servers)].send(f"{kind} {MESSAGE}")
                await reached

        # Warm-up.
        await send(5)
        pids = [node.pid for node in servers]
        groups = (pids, redis)
        before = [read_usage(group).cpu_s for group in groups]
        await send(messages)
        own, of_redis = (
            (read_usage(group).cpu_s - start) * 1e6 / (members * messages)
            for group, start in zip(groups, before, strict=True)
        )
        return own, of_redis
