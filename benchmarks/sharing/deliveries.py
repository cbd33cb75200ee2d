"""What it costs to bring a message to all members of a room."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Sequence

from .nodes import HOST, PATIENCE, WELCOME, Node, cpu

MESSAGE = "x" * 64

#: Connections that are made at once.
_OPENING = 200


class Member(asyncio.Protocol):
    """A websocket that counts what comes."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
        path = f"/everybody/000/{os.urandom(8).hex()}/websocket"
        head = f"GET {path} HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n\r\n"
        transport.write(head.encode())

    def data_received(self, data: bytes) -> None:
        self._crowd.count(data.count(MESSAGE.encode()), data.count(WELCOME.encode()))

    def say(self, text: str) -> None:
        """Send a message."""
        payload = json.dumps([text]).encode()
        assert self.transport is not None
        assert len(payload) < 126
        # A mask of zeros leaves it as it is.
        self.transport.write(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)


class Crowd:
    """All members, and how many messages have reached them."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._delivered = self._opened = 0
        self._wanted: tuple[int, int] = (0, 0)
        self._reached = asyncio.Event()

    def count(self, delivered: int, opened: int) -> None:
        """Hear what has come."""
        self._delivered += delivered
        self._opened += opened
        if self._delivered >= self._wanted[0] and self._opened >= self._wanted[1]:
            self._reached.set()

    async def until(self, delivered: int, opened: int) -> None:
        """Wait until so much more has come."""
        self._wanted = (self._delivered + delivered, self._opened + opened)
        self._reached.clear()
        async with asyncio.timeout(PATIENCE):
            await self._reached.wait()

    async def connect(self, servers: Sequence[Node], number: int) -> None:
        """Have so many members come, to each node in turn."""
        loop = asyncio.get_running_loop()
        for start in range(0, number, _OPENING):
            size = min(_OPENING, number - start)
            opening = asyncio.ensure_future(self.until(0, size))
            await asyncio.sleep(0)
            made = [
                loop.create_connection(lambda: Member(self), HOST, servers[index % len(servers)].port)
                for index in range(start, start + size)
            ]
            self.members += [member for _, member in await asyncio.gather(*made)]
            await opening

    async def leave(self) -> None:
        """Have all members go."""
        for member in self.members:
            assert member.transport is not None
            member.transport.abort()
        await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def crowd_at(servers: Sequence[Node], number: int) -> AsyncIterator[Crowd]:
    """Have members come to nodes, and go again."""
    crowd = Crowd()
    try:
        await crowd.connect(servers, number)
        yield crowd
    finally:
        await crowd.leave()


async def measure_deliveries(
    servers: Sequence[Node], redis: Sequence[int], kind: str, members: int, messages: int
) -> tuple[float, float]:
    """Return the microseconds of CPU time of the nodes, and of Redis, for each delivery."""
    async with crowd_at(servers, members) as crowd:

        async def speak(times: int) -> None:
            for number in range(times):
                reached = asyncio.ensure_future(crowd.until(members, 0))
                await asyncio.sleep(0)
                # Another node's turn each time.
                crowd.members[number % len(servers)].say(f"{kind} {MESSAGE}")
                await reached

        # Until code is warm.
        await speak(5)
        pids = [node.pid for node in servers]
        before, redis_before = cpu(pids), cpu(redis) if redis else 0.0
        await speak(messages)
        deliveries = members * messages
        own = (cpu(pids) - before) * 1e6 / deliveries
        return own, (cpu(redis) - redis_before) * 1e6 / deliveries if redis else 0.0
