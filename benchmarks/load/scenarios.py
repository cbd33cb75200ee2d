"""The scenarios: when sessions send messages, and which messages are recorded."""

import asyncio
import functools
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator

from .messages import MessageCodec
from .plan import OPENING, Plan
from .recorder import Recorder
from .schedule import Schedule
from .session import Session, SessionError, Transport
from .tracker import Tracker

_SECOND = 1_000_000_000
#: Default number of messages per second of a chat.
_CHAT_RATE = 10.0


class Member:
    """A session of a scenario, and its :class:`Listener`.

    Attributes:
        number: Number of the session within the run.
        tracker: Tracks the received messages.
        session: None until it is opened; it may have been closed since.
    """

    def __init__(self, number: int, scenario: "Scenario") -> None:
        self.number = number
        self.tracker = Tracker()
        self.session: Session | None = None
        self._scenario = scenario

    def messages_received(self, messages: list[bytes]) -> None:
        """Called with messages that arrived in one frame."""
        self._scenario.messages_received(self, messages)

    def session_closed(self, reason: str) -> None:
        """Called when the session was closed by the server."""
        self._scenario.errors[reason] += 1


class Scenario:
    """The sessions of a load process. Subclasses send messages.

    Args:
        plan: Options of the run.
        index: Index of the load process.
        transport: Opens the sessions.
        finished: Called with the sequence number when all sessions of this process have received a message (broadcast).

    Attributes:
        members: The sessions.
        recorder: Records received messages.
        errors: Number of sessions that failed, by reason.
        sent: Number of sent messages by session.
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
        self._codec = MessageCodec(plan.run, plan.size)
        self._running = False
        self._schedule: Schedule | None = None

    @property
    def open_members(self) -> list[Member]:
        """The open sessions."""
        return [member for member in self.members if member.session is not None and member.session.is_open]

    async def open(self) -> None:
        """Open all sessions with bounded concurrency, and count failures."""
        # A few tasks open one session after another: thousands of tasks would not be faster.
        members = iter(self.members)

        async def open_members() -> None:
            for member in members:
                await self._open(member, member.number)

        await asyncio.gather(*(open_members() for _ in range(max(1, OPENING // self.plan.processes))))

    async def _open(self, member: Member, number: int) -> None:
        try:
            member.session = await self._transport.open(number, member)
        except SessionError as error:
            self.errors[str(error)] += 1

    def start(self, start: int, end: int) -> None:
        """Start the scenario. All processes have opened their sessions.

        Args:
            start: Start as a time of `time.monotonic_ns`, possibly slightly in the future.
            end: End of the measured interval; no message is due after that.
        """
        self._running = True

    def stop(self) -> None:
        """Stop sending."""
        self._running = False
        if self._schedule is not None:
            self._schedule.finish()

    async def close(self) -> None:
        """Close all sessions."""
        await asyncio.gather(*(member.session.close() for member in self.members if member.session is not None))

    def messages_received(self, member: Member, messages: list[bytes]) -> None:
        """Process messages that a session received in one frame."""
        now = time.monotonic_ns()
        tracker = member.tracker
        new: list[int] = []
        corrupt = 0
        for message in messages:
            content = self._codec.decode(message)
            if content is None:
                corrupt += 1
            elif not self._is_expected(member, content.sender):
                # Do not count it in `corrupt`, which would trigger another message: with broadcasts, this would not
                # end.
                tracker.corrupt += 1
            elif tracker.add(content.sender, content.sequence):
                self.recorder.add(now, content.due)
                new.append(content.sequence)
        tracker.corrupt += corrupt
        self._arrived(member, new, corrupt)

    def _is_expected(self, member: Member, sender: int) -> bool:
        """Return whether a session may receive messages of a sender."""
        return True

    def _arrived(self, member: Member, new: list[int], corrupt: int) -> None:
        """Called with the sequence numbers of new messages of a session, and the number of corrupt ones."""

    def _send(self, member: Member, due: int, number: int = 1) -> None:
        """Send messages that are due at the same time, if the session is open."""
        if member.session is None or not member.session.is_open:
            return
        first = self.sent.get(member.number, 0)
        self.sent[member.number] = first + number
        member.session.send([self._codec.encode(member.number, first + i, due) for i in range(number)])

    def _run_schedule(self, start: int, end: int, intervals: Iterator[float], fire: Callable[[int], None]) -> None:
        """Call `fire` after each of the intervals, given in nanoseconds, until the end."""
        times = (start + int(time) for time in itertools.accumulate(intervals))
        self._schedule = Schedule(itertools.takewhile(end.__gt__, times), fire)

    def count_missing(self, sent: dict[int, int]) -> int:
        """Return the number of messages that open sessions of this process have not received, of those sent by all."""
        total = sum(sent.values())
        return sum(member.tracker.lost(total) for member in self.open_members)


class Idle(Scenario):
    """Idle sessions."""


class Echo(Scenario):
    """Each session receives its own messages."""

    def start(self, start: int, end: int) -> None:
        super().start(start, end)
        rate = self.plan.rate
        if rate is None:
            for member in self.members:
                self._send(member, time.monotonic_ns(), self.plan.in_flight)
        else:
            # Processes send in turn, and so do the sessions of a process.
            turn = itertools.cycle(self.members)
            first = _SECOND * self.index / rate
            intervals = itertools.chain([first], itertools.repeat(_SECOND * self.plan.processes / rate))
            self._run_schedule(start, end, intervals, lambda due: self._send(next(turn), due))

    def _is_expected(self, member: Member, sender: int) -> bool:
        return sender == member.number

    def count_missing(self, sent: dict[int, int]) -> int:
        return sum(member.tracker.lost(sent.get(member.number, 0)) for member in self.open_members)

    def _arrived(self, member: Member, new: list[int], corrupt: int) -> None:
        number = len(new) + corrupt
        if number and self._running and self.plan.rate is None:
            self._send(member, time.monotonic_ns(), number)


class Broadcast(Scenario):
    """Messages of one session of the first process are received by all sessions."""

    def __init__(self, plan: Plan, index: int, transport: Transport, finished: Callable[[int], None]) -> None:
        super().__init__(plan, index, transport, finished)
        self._waiting: dict[int, int] = {}
        self._finished_by: Counter[int] = Counter()

    @functools.cached_property
    def _audience(self) -> int:
        # Calculated when the first message arrives, which may be before start().
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

    def _arrived(self, member: Member, new: list[int], corrupt: int) -> None:
        if self.plan.rate is not None:
            return
        for sequence in new:
            waiting = self._waiting.get(sequence, self._audience) - 1
            if waiting:
                self._waiting[sequence] = waiting
            else:
                self._waiting.pop(sequence, None)
                self._finished(sequence)

    def process_finished(self, sequence: int) -> None:
        """Called in the first process when all sessions of one process have received a message."""
        self._finished_by[sequence] += 1
        if self._finished_by[sequence] == self.plan.processes:
            del self._finished_by[sequence]
            if self._running:
                self._send(self._sender, time.monotonic_ns())


class Chat(Scenario):
    """Sessions send messages at random times, and all sessions receive them."""

    def start(self, start: int, end: int) -> None:
        super().start(start, end)
        rng = random.Random(self.plan.run + self.index)
        rate = (self.plan.rate or _CHAT_RATE) / self.plan.processes
        # A Poisson process.
        intervals = iter(lambda: _SECOND * rng.expovariate(rate), None)
        self._run_schedule(start, end, intervals, lambda due: self._send(rng.choice(self.members), due))


class Connect(Scenario):
    """Sessions are opened and closed again, with a fixed concurrency; the time to open a session is recorded."""

    async def open(self) -> None:
        """Do nothing: sessions are opened after the start."""

    def start(self, start: int, end: int) -> None:
        super().start(start, end)
        # Each session has a new number, and thereby the next source address.
        self._numbers = itertools.count(self.index, self.plan.processes)
        self._tasks = [asyncio.create_task(self._open_and_close(member)) for member in self.members]

    async def _open_and_close(self, member: Member) -> None:
        while self._running:
            begin = time.monotonic_ns()
            await self._open(member, next(self._numbers))
            if member.session is None or not member.session.is_open:
                return
            opened = time.monotonic_ns()
            await member.session.close()
            self.recorder.add(opened, begin)

    async def close(self) -> None:
        """Wait for the last sessions."""
        await asyncio.gather(*self._tasks)


SCENARIOS: dict[str, type[Scenario]] = {
    "echo": Echo,
    "broadcast": Broadcast,
    "idle": Idle,
    "connect": Connect,
    "chat": Chat,
}
