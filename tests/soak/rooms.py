"""Well-behaved clients: the members of rooms check that no message is lost, duplicated or reordered."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Coroutine
from typing import Any

from client import POLLING, TRANSPORTS, WEBSOCKETS

from .load import Load
from .visitor import Closed, Visitor

#: Timeout for the arrival of a message on a busy machine, in seconds.
ARRIVAL_TIMEOUT = 45
#: Parts of messages: plain, escaped, beyond ASCII and the BMP, and the end of a script.
LETTERS = ["abc", "0 1", '"\\', "\n\t\x00", "ä☃", "\u200d\u2028\uffff", "🙂", "</script>", "%2B%", "[]"]

_numbers = itertools.count(1)


def text(rng: random.Random, longest: int = 8000) -> str:
    """Return random text, sometimes a long one."""
    size = rng.choice([3, 10, 10, 30, 100, longest])
    return "".join(rng.choices(LETTERS, k=rng.randint(0, size // 3)))


class Member:
    """A member of a room.

    Attributes:
        sent: Messages sent to the other members.
        received: Number of messages received from each other member.
    """

    def __init__(self, room: "Room", transport: str) -> None:
        self.room = room
        self.visitor = Visitor(room.load.server.port, transport)
        self.name = f"{transport}{next(_numbers)}"
        self.sent: list[str] = []
        self.received: dict[str, int] = {}
        self.joined = asyncio.Event()
        self.settled = asyncio.Event()
        self.listening: asyncio.Task[tuple[int, str]] | None = None

    async def enter(self) -> None:
        """Open a session and join the room."""
        self.received = {name: len(other.sent) for name, other in self.room.members.items() if name != self.name}
        await self.visitor.open()
        self.listening = asyncio.create_task(self._listen())
        await self.visitor.send(f"join {self.room.name} {self.name}")
        await self.wait_for(self.joined)

    async def _listen(self) -> tuple[int, str]:
        while True:
            try:
                messages = await self.visitor.receive()
            except Closed as closed:
                return closed.code, closed.reason
            for message in messages:
                self._process(message)

    def _process(self, message: str) -> None:
        sender, _, rest = message.partition(" ")
        if sender == "*":
            if rest == f"joined {self.name}":
                self.joined.set()
            return
        others = self.room.members
        assert sender in self.received, f"{self.name} receives from an unknown member: {message[:100]!r}"
        number = self.received[sender]
        sent = others[sender].sent
        expected = sent[number] if number < len(sent) else None
        if rest != expected:
            place = sent.index(rest) if rest in sent else None
            raise AssertionError(
                f"{self.name} received {rest[:60]!r} of {sender} (number {place} of {len(sent)}), "
                f"expected number {number}: {expected and expected[:60]!r}"
            )
        self.received[sender] += 1
        self.room.load.checked += 1
        self.update()

    def update(self) -> None:
        """Check whether all messages of the others have arrived."""
        if all(self.received.get(name) == goal for name, goal in self.room.goals.items() if name != self.name):
            self.settled.set()

    async def talk(self, rng: random.Random, count: int) -> None:
        """Send numbered messages, one by one or in batches."""
        sent = 0
        while sent < count:
            batch = []
            for _ in range(min(rng.choice([1, 1, 1, 2, 5]), count - sent)):
                rest = f"{len(self.sent)} {text(rng)}"
                self.sent.append(rest)
                batch.append(f"{rng.choice(['say', 'say', 'tell', 'hand'])} {rest}")
            sent += len(batch)
            await self.visitor.send(*batch)
            await asyncio.sleep(rng.uniform(0.02, 0.3))

    async def wait_for(self, event: asyncio.Event) -> None:
        """Wait for an event of this member; fail if receiving fails, or if the session ends."""
        assert self.listening is not None
        waiting = asyncio.ensure_future(event.wait())
        await asyncio.wait([waiting, self.listening], timeout=ARRIVAL_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self.listening.done():
            raise AssertionError(f"{self.name} was closed: {self.listening.result()}")
        if not event.is_set():
            goals = {name: goal for name, goal in self.room.goals.items() if name != self.name}
            raise AssertionError(f"{self.name} timed out: received {self.received}, expected {goals}")

    async def leave(self, rng: random.Random) -> None:
        """Close the session, and check that nothing follows the close frame."""
        assert self.listening is not None
        if rng.random() < 0.5:
            await self.visitor.send("bye")
            expected = (4000, "Bye")
        elif self.visitor.transport in WEBSOCKETS:
            self.visitor.send_close()
            expected = (1000, "")
        else:
            await self.disconnect()
            return
        async with asyncio.timeout(ARRIVAL_TIMEOUT):
            closed = await self.listening
        assert closed == expected, f"{self.name} was closed: {closed}"
        await self.disconnect()

    async def disconnect(self, *, reset: bool = False) -> None:
        """Close or reset all connections."""
        if self.listening is not None:
            self.listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self.listening
        await self.visitor.leave(reset=reset)


class Room:
    """Clients that exchange messages, some of which change between rounds."""

    def __init__(self, load: Load, name: str) -> None:
        self.load = load
        self.name = name
        self.members: dict[str, Member] = {}
        self.goals: dict[str, int] = {}

    async def enter(self, transports: list[str]) -> None:
        """Add members."""
        arriving = [Member(self, transport) for transport in transports]
        for member in arriving:
            self.members[member.name] = member
        for member in self.members.values():
            member.received.update({other.name: 0 for other in arriving if other is not member})
        await _all(*(member.enter() for member in arriving))

    async def converse(self, rng: random.Random) -> None:
        """Let all members send, and wait until each has received all messages."""
        counts = {name: rng.randint(10, 40) for name in self.members}
        self.goals = {name: len(member.sent) + counts[name] for name, member in self.members.items()}
        for member in self.members.values():
            member.settled.clear()
            member.update()
        await _all(*(member.talk(rng, counts[name]) for name, member in self.members.items()))
        await _all(*(member.wait_for(member.settled) for member in self.members.values()))

    async def leave(self, rng: random.Random, members: list[Member]) -> None:
        """Remove members."""
        await _all(*(member.leave(rng) for member in members))
        for member in members:
            del self.members[member.name]
            self.load.counts["member", member.visitor.transport] += 1
        for member in self.members.values():
            for other in members:
                member.received.pop(other.name, None)


async def _all(*jobs: Coroutine[Any, Any, None]) -> None:
    """Run coroutines concurrently; if one fails, cancel the others."""
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(job)


async def visit_room(load: Load, transport: str, rng: random.Random) -> str:
    """Fill a room, run some rounds with changing members, and empty it."""
    room = Room(load, f"room{next(_numbers)}")
    try:
        await room.enter([transport, *rng.choices(TRANSPORTS, k=rng.choice([1, 1, 2, 3]))])
        for _ in range(rng.randint(1, 4)):
            await room.converse(rng)
            if load.stop.is_set():
                break
            going = [member for member in room.members.values() if rng.random() < 0.3]
            await room.leave(rng, going)
            await room.enter([member.visitor.transport for member in going])
        await room.leave(rng, list(room.members.values()))
    finally:
        for member in room.members.values():
            await member.disconnect(reset=True)
    return transport


async def drop_in(load: Load, transport: str, rng: random.Random) -> str:
    """Open a session, receive a few echoes, and close it in one of the regular ways."""
    visitor = Visitor(load.server.port, transport)
    try:
        if rng.random() < 0.3:
            client = await visitor.connect()
            for page in rng.sample(["/soak/info", "/soak", "/soak/iframe.html"], 2):
                assert (await client.ask("GET", page)).status == 200
        await visitor.open()
        for _ in range(rng.randint(0, 6)):
            messages: list[str | bytes] = [f"echo {text(rng)}" for _ in range(rng.randint(1, 3))]
            if transport == "rawwebsocket" and rng.random() < 0.3:
                messages.append(rng.randbytes(rng.randint(0, 5000)))
            await visitor.send(*messages)
            received: list[str | bytes] = []
            while len(received) < len(messages):
                received += await visitor.receive()
            assert received == messages, (received, messages)
            load.checked += len(received)
            # Short enough that no ping and no poll is missed.
            await load.pause(rng.choice([0, 0.1, 0.5, 1]))
        way = rng.choice(["bye", "goodbye", "close"])
        if way == "bye":
            await visitor.send("bye")
        elif way == "goodbye" and transport in WEBSOCKETS:
            visitor.send_close()
        elif rng.random() < 0.5 and transport in POLLING:
            await visitor.peer.listen()
        if way == "bye" or (way == "goodbye" and transport in WEBSOCKETS):
            await visitor.receive_close(*((4000, "Bye") if way == "bye" else (1000, "")))
    finally:
        await visitor.leave()
    return transport
