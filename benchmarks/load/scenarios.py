"""What sessions do: when they send, and what is counted when something comes."""

import asyncio
import functools
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator

from .messages import Mint
from .plan import OPENING, Plan
from .recorder import Recorder
from .schedule import Schedule
from .session import Session, SessionError, Transport
from .tracker import Tracker

_SECOND = 1_000_000_000
#: Messages per second of a chat where nothing is said.
_CHAT_RATE = 10.0


class Member:
    """One session of a scenario, and whose :class:`Listener` that is.

    Attributes:
        number: Which of the run's sessions it is.
        tracker: What it received.
        session: None until it is open; it may have ended since.
    """

    def __init__(self, number: int, scenario: "Scenario") -> None:
        self.number = number
        self.tracker = Tracker()
        self.session: Session | None = None
        self._scenario = scenario

    def received(self, messages: list[bytes]) -> None:
        """Take messages that came together."""
        self._scenario.received(self, messages)

    def broken(self, reason: str) -> None:
        """Take notice that the session ended by itself."""
        self._scenario.errors[reason] += 1


class Scenario:
    """The sessions of one load process, which do nothing until a subclass makes them.

    Args:
        plan: What is to be done.
        index: Which of the load processes this is.
        transport: How sessions connect.
        finished: Is told the sequence number of a message that all sessions of this process have (broadcast).

    Attributes:
        members: The sessions.
        recorder: What arrived.
        errors: Why sessions did not open or broke, and how many for each reason.
        sent: How many messages each of the sessions has sent.
    """

    def __init__(self, plan: Plan, index: int, transport: Transport, finished: Callable[[int], None]) -> None:
        self.plan = plan
        self.index = index
        self.members = [Member(number, self) for number in plan.share(index)]
        self.recorder = Recorder()
        self.errors: Counter[str] = Counter()
        self.sent: dict[int, int] = {}
        self._transport = transport
        self._finished = finished
        self._mint = Mint(plan.run, plan.size)
        self._running = False
        self._schedule: Schedule | None = None

    @property
    def open_members(self) -> list[Member]:
        """The sessions that are open."""
        return [member for member in self.members if member.session is not None and member.session.is_open]

    async def open(self) -> None:
        """Open all sessions, a bounded number of them at once; note those that do not open."""
        # Each taker opens one after the other: thousands of tasks would not make it faster.
        members = iter(self.members)

        async def take() -> None:
            for member in members:
                await self._open(member, member.number)

        await asyncio.gather(*(take() for _ in range(max(1, OPENING // self.plan.processes))))

    async def _open(self, member: Member, number: int) -> None:
        try:
            member.session = await self._transport.open(number, member)
        except SessionError as error:
            self.errors[str(error)] += 1

    def start(self, start: int, end: int) -> None:
        """Begin. Every process has opened its sessions by now.

        Args:
            start: When, in time of `time.monotonic_ns`; it may be a moment ahead.
            end: When the measured interval ends: nothing is due after that.
        """
        self._running = True

    def stop(self) -> None:
        """Send no more."""
        self._running = False
        if self._schedule is not None:
            self._schedule.finish()

    async def close(self) -> None:
        """End all sessions."""
        await asyncio.gather(*(member.session.close() for member in self.members if member.session is not None))

    def received(self, member: Member, messages: list[bytes]) -> None:
        """Take messages that came to a session together."""
        now = time.monotonic_ns()
        tracker = member.tracker
        fresh: list[int] = []
        corrupt = 0
        for message in messages:
            read = self._mint.read(message)
            if read is None:
                corrupt += 1
            elif not self._is_for(member, read.sender):
                # Nobody waits for it: sending anew for each that came would never end where all hear all.
                tracker.corrupt += 1
            elif tracker.note(read.sender, read.sequence):
                self.recorder.add(now, read.due)
                fresh.append(read.sequence)
        tracker.corrupt += corrupt
        self._arrived(member, fresh, corrupt)

    def _is_for(self, member: Member, sender: int) -> bool:
        """Tell whether a message of that sender may come to a session."""
        return True

    def _arrived(self, member: Member, fresh: list[int], corrupt: int) -> None:
        """Hear of messages that came to a session: the sequence numbers of new ones, and how many cannot be read."""

    def _send(self, member: Member, due: int, number: int = 1) -> None:
        """Send messages that were due at the same time; none where the session has ended, or never opened."""
        if member.session is None or not member.session.is_open:
            return
        first = self.sent.get(member.number, 0)
        self.sent[member.number] = first + number
        member.session.send([self._mint.make(member.number, first + i, due) for i in range(number)])

    def _run_schedule(self, start: int, end: int, intervals: Iterator[float], fire: Callable[[int], None]) -> None:
        """Call `fire` after each of the intervals, given in nanoseconds, until the end."""
        times = (start + int(time) for time in itertools.accumulate(intervals))
        self._schedule = Schedule(itertools.takewhile(end.__gt__, times), fire)

    def to_come(self, sent: dict[int, int]) -> int:
        """Return how many messages have still to come to this process's open sessions, given what all have sent."""
        total = sum(sent.values())
        return sum(member.tracker.lost(total) for member in self.open_members)


class Idle(Scenario):
    """Sessions that are open, and nothing else."""


class Echo(Scenario):
    """Each session gets back what it sends."""

    def start(self, start: int, end: int) -> None:
        super().start(start, end)
        rate = self.plan.rate
        if rate is None:
            for member in self.members:
                self._send(member, time.monotonic_ns(), self.plan.in_flight)
        else:
            # The processes take turns, and so do a process's sessions.
            turn = itertools.cycle(self.members)
            first = _SECOND * self.index / rate
            intervals = itertools.chain([first], itertools.repeat(_SECOND * self.plan.processes / rate))
            self._run_schedule(start, end, intervals, lambda due: self._send(next(turn), due))

    def _is_for(self, member: Member, sender: int) -> bool:
        return sender == member.number

    def to_come(self, sent: dict[int, int]) -> int:
        return sum(member.tracker.lost(sent.get(member.number, 0)) for member in self.open_members)

    def _arrived(self, member: Member, fresh: list[int], corrupt: int) -> None:
        number = len(fresh) + corrupt
        if number and self._running and self.plan.rate is None:
            self._send(member, time.monotonic_ns(), number)


class Broadcast(Scenario):
    """What one session of the first process sends comes to all; it is done when all have it."""

    def __init__(self, plan: Plan, index: int, transport: Transport, finished: Callable[[int], None]) -> None:
        super().__init__(plan, index, transport, finished)
        self._waiting: dict[int, int] = {}
        self._finished_by: Counter[int] = Counter()

    @functools.cached_property
    def _audience(self) -> int:
        # Asked when the first message comes, which may be before this process has been started.
        return len(self.open_members)

    def start(self, start: int, end: int) -> None:
        super().start(start, end)
        if self.index == 0:
            rate = self.plan.rate
            self._sender = next(iter(self.open_members), self.members[0])
            if rate is None:
                self._send(self._sender, time.monotonic_ns(), self.plan.in_flight)
            else:
                intervals = itertools.chain([0.0], itertools.repeat(_SECOND / rate))
                self._run_schedule(start, end, intervals, lambda due: self._send(self._sender, due))

    def _arrived(self, member: Member, fresh: list[int], corrupt: int) -> None:
        if self.plan.rate is not None:
            return
        for sequence in fresh:
            waiting = self._waiting.get(sequence, self._audience) - 1
            if waiting:
                self._waiting[sequence] = waiting
            else:
                self._waiting.pop(sequence, None)
                self._finished(sequence)

    def finished_by_one(self, sequence: int) -> None:
        """Hear, in the first process, that one of the processes has a message in all of its sessions."""
        self._finished_by[sequence] += 1
        if self._finished_by[sequence] == self.plan.processes:
            del self._finished_by[sequence]
            if self._running:
                self._send(self._sender, time.monotonic_ns())


class Chat(Scenario):
    """Everybody in one room: each speaks now and then, and what it says comes to all."""

    def start(self, start: int, end: int) -> None:
        super().start(start, end)
        chance = random.Random(self.plan.run + self.index)
        rate = (self.plan.rate or _CHAT_RATE) / self.plan.processes
        # Intervals of people who know nothing of each other.
        intervals = iter(lambda: _SECOND * chance.expovariate(rate), None)
        self._run_schedule(start, end, intervals, lambda due: self._send(chance.choice(self.members), due))


class Connect(Scenario):
    """Sessions are opened and closed, one after the other in each place; what is recorded is how long opening takes."""

    async def open(self) -> None:
        """Open nothing yet."""

    def start(self, start: int, end: int) -> None:
        super().start(start, end)
        # Each session has a number of its own, and with it the next of the addresses to connect from.
        self._numbers = itertools.count(self.index, self.plan.processes)
        self._tasks = [asyncio.create_task(self._come_and_go(member)) for member in self.members]

    async def _come_and_go(self, member: Member) -> None:
        while self._running:
            begin = time.monotonic_ns()
            await self._open(member, next(self._numbers))
            if member.session is None or not member.session.is_open:
                return
            opened = time.monotonic_ns()
            await member.session.close()
            self.recorder.add(opened, begin)

    async def close(self) -> None:
        """Wait for the last ones."""
        await asyncio.gather(*self._tasks)


SCENARIOS: dict[str, type[Scenario]] = {
    "echo": Echo,
    "broadcast": Broadcast,
    "idle": Idle,
    "connect": Connect,
    "chat": Chat,
}
