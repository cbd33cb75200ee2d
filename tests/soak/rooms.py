"""Clients that behave: rooms whose members see that nothing is lost, doubled or out of order."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Coroutine
from typing import Any

from client import POLLING

from .load import Load
from .visitor import TRANSPORTS, WEBSOCKETS, Closed, Visitor

#: Seconds in which a message arrives, however busy the machine is.
ARRIVAL = 45
#: What messages are made of: plain, escaped, beyond ASCII and beyond the first plane, and what ends scripts.
LETTERS = ["abc", "0 1", '"\\', "\n\t\x00", "ä☃", "\u200d\u2028\uffff", "🙂", "</script>", "%2B%", "[]"]

_numbers = itertools.count(1)


def text(chance: random.Random, longest: int = 8000) -> str:
    """Return some text, now and then a long one."""
    size = chance.choice([3, 10, 10, 30, 100, longest])
    return "".join(chance.choices(LETTERS, k=chance.randint(0, size // 3)))


class Member:
    """Somebody in a room.

    Attributes:
        sent: What it has sent to the others.
        heard: How many messages it has heard of each of the others.
    """

    def __init__(self, room: "Room", transport: str) -> None:
        self.room = room
        self.visitor = Visitor(room.load.server.port, transport)
        self.name = f"{transport}{next(_numbers)}"
        self.sent: list[str] = []
        self.heard: dict[str, int] = {}
        self.joined = asyncio.Event()
        self.settled = asyncio.Event()
        self.listening: asyncio.Task[tuple[int, str]] | None = None

    async def enter(self) -> None:
        """Open a session and join the room."""
        self.heard = {name: len(other.sent) for name, other in self.room.members.items() if name != self.name}
        await self.visitor.open()
        self.listening = asyncio.create_task(self._listen())
        await self.visitor.send(f"join {self.room.name} {self.name}")
        await self.wait_for(self.joined)

    async def _listen(self) -> tuple[int, str]:
        while True:
            try:
                messages = await self.visitor.hear()
            except Closed as closed:
                return closed.code, closed.reason
            for message in messages:
                self._take(message)

    def _take(self, message: str) -> None:
        sender, _, rest = message.partition(" ")
        if sender == "*":
            if rest == f"joined {self.name}":
                self.joined.set()
            return
        others = self.room.members
        assert sender in self.heard, f"{self.name} hears a stranger: {message[:100]!r}"
        number = self.heard[sender]
        sent = others[sender].sent
        expected = sent[number] if number < len(sent) else None
        if rest != expected:
            place = sent.index(rest) if rest in sent else None
            raise AssertionError(
                f"{self.name} hears of {sender} {rest[:60]!r} (number {place} of {len(sent)}) where number {number} "
                f"was to come: {expected and expected[:60]!r}"
            )
        self.heard[sender] += 1
        self.room.load.checked += 1
        self.look()

    def look(self) -> None:
        """See whether all has arrived that the others have to say."""
        if all(self.heard.get(name) == goal for name, goal in self.room.goals.items() if name != self.name):
            self.settled.set()

    async def talk(self, chance: random.Random, count: int) -> None:
        """Send numbered messages, one by one or some at once."""
        sent = 0
        while sent < count:
            batch = []
            for _ in range(min(chance.choice([1, 1, 1, 2, 5]), count - sent)):
                rest = f"{len(self.sent)} {text(chance)}"
                self.sent.append(rest)
                batch.append(f"{chance.choice(['say', 'say', 'tell', 'hand'])} {rest}")
            sent += len(batch)
            await self.visitor.send(*batch)
            await asyncio.sleep(chance.uniform(0.02, 0.3))

    async def wait_for(self, event: asyncio.Event) -> None:
        """Wait for an event of this member; fail at once where listening fails, or the session ends."""
        assert self.listening is not None
        waiting = asyncio.ensure_future(event.wait())
        await asyncio.wait([waiting, self.listening], timeout=ARRIVAL, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self.listening.done():
            raise AssertionError(f"{self.name} was closed: {self.listening.result()}")
        if not event.is_set():
            goals = {name: goal for name, goal in self.room.goals.items() if name != self.name}
            raise AssertionError(f"{self.name} waits in vain: has heard {self.heard} of {goals}")

    async def leave(self, chance: random.Random) -> None:
        """Say goodbye, and see that it is the last word."""
        assert self.listening is not None
        if chance.random() < 0.5:
            await self.visitor.send("bye")
            # A raw websocket has the code itself.
            expected = (4000, "Bye")
        elif self.visitor.transport in WEBSOCKETS:
            self.visitor.say_goodbye()
            expected = (1000, "")
        else:
            await self.away()
            return
        async with asyncio.timeout(ARRIVAL):
            closed = await self.listening
        assert closed == expected, f"{self.name} was closed: {closed}"
        await self.away()

    async def away(self, *, reset: bool = False) -> None:
        """Be gone."""
        if self.listening is not None:
            self.listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self.listening
        await self.visitor.leave(reset=reset)


class Room:
    """Some clients that talk with each other, and come and go between two rounds."""

    def __init__(self, load: Load, name: str) -> None:
        self.load = load
        self.name = name
        self.members: dict[str, Member] = {}
        self.goals: dict[str, int] = {}

    async def enter(self, transports: list[str]) -> None:
        """Let members come in."""
        arriving = [Member(self, transport) for transport in transports]
        for member in arriving:
            self.members[member.name] = member
        for member in self.members.values():
            member.heard.update({other.name: 0 for other in arriving if other is not member})
        await _all(*(member.enter() for member in arriving))

    async def converse(self, chance: random.Random) -> None:
        """Let all talk, and wait until each has heard all the others."""
        counts = {name: chance.randint(10, 40) for name in self.members}
        self.goals = {name: len(member.sent) + counts[name] for name, member in self.members.items()}
        for member in self.members.values():
            member.settled.clear()
            member.look()
        await _all(*(member.talk(chance, counts[name]) for name, member in self.members.items()))
        await _all(*(member.wait_for(member.settled) for member in self.members.values()))

    async def leave(self, chance: random.Random, members: list[Member]) -> None:
        """Let members go, and the others forget them."""
        await _all(*(member.leave(chance) for member in members))
        for member in members:
            del self.members[member.name]
            self.load.counts["member", member.visitor.transport] += 1
        for member in self.members.values():
            for other in members:
                member.heard.pop(other.name, None)


async def _all(*jobs: Coroutine[Any, Any, None]) -> None:
    """Do several things at once; where one fails the others end, too."""
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(job)


async def visit_room(load: Load, transport: str, chance: random.Random) -> str:
    """Fill a room, let it talk for some rounds while members change, and empty it."""
    room = Room(load, f"room{next(_numbers)}")
    try:
        await room.enter([transport, *chance.choices(TRANSPORTS, k=chance.choice([1, 1, 2, 3]))])
        for _ in range(chance.randint(1, 4)):
            await room.converse(chance)
            if load.stop.is_set():
                break
            going = [member for member in room.members.values() if chance.random() < 0.3]
            await room.leave(chance, going)
            await room.enter([member.visitor.transport for member in going])
        await room.leave(chance, list(room.members.values()))
    finally:
        for member in room.members.values():
            await member.away(reset=True)
    return transport


async def drop_in(load: Load, transport: str, chance: random.Random) -> str:
    """Open, have a few messages sent back, and leave in one of the polite ways."""
    visitor = Visitor(load.server.port, transport)
    try:
        if chance.random() < 0.3:
            client = await visitor.connect()
            for page in chance.sample(["/soak/info", "/soak", "/soak/iframe.html"], 2):
                assert (await client.ask("GET", page)).status == 200
        await visitor.open()
        for _ in range(chance.randint(0, 6)):
            messages: list[str | bytes] = [f"echo {text(chance)}" for _ in range(chance.randint(1, 3))]
            if transport == "rawwebsocket" and chance.random() < 0.3:
                messages.append(chance.randbytes(chance.randint(0, 5000)))
            await visitor.send(*messages)
            heard: list[str | bytes] = []
            while len(heard) < len(messages):
                heard += await visitor.hear()
            assert heard == messages, (heard, messages)
            load.checked += len(heard)
            # Not so long that a ping would be missed, or a poll.
            await load.pause(chance.choice([0, 0.1, 0.5, 1]))
        way = chance.choice(["bye", "goodbye", "close"])
        if way == "bye":
            await visitor.send("bye")
        elif way == "goodbye" and transport in WEBSOCKETS:
            visitor.say_goodbye()
        elif chance.random() < 0.5 and transport in POLLING:
            await visitor.peer.listen()  # type: ignore[attr-defined]
        if way == "bye" or (way == "goodbye" and transport in WEBSOCKETS):
            await visitor.hear_goodbye(*((4000, "Bye") if way == "bye" else (1000, "")))
    finally:
        await visitor.leave()
    return transport
