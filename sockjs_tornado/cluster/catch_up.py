"""Messages that a node has missed while it was not connected to Redis: it reads them from the histories, once a room.

The node remembers the position of the last message that it has delivered in each room. When the connection is lost,
these rooms are *held*: what arrives in them after the reconnect waits. When all rooms are subscribed to again, the node
reads what was published after the position, delivers it in order, and then what waits.

Redis may have been restarted. The stream is then complete if it still has the last message that the node has
delivered, and if all later ones were published since the restart: the node was connected until the end, and no message
that Redis has forgotten was published in between, as far as anyone can know. In all other cases messages may be lost,
which is reported.
"""

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

from ..exceptions import ClusterUnavailable
from ..session.ports import Position
from .base import MAX_TURN, cancel
from .commands import Commands
from .envelope import Channel, Envelope, RedisKeys
from .history import RUN
from .message_decoder import MessageDecoder

#: The number of rooms that are read at the same time. Each result may be a whole history.
_BATCH_SIZE: Final = 20

#: The limit in bytes of the messages that wait, in all rooms, and what each counts in addition to its size.
MAX_HELD_BYTES: Final = 16 * 1024 * 1024
_OVERHEAD: Final = 400

#: Attempts to read a history while Redis is available.
_ATTEMPTS: Final = 3

# From the position on if the stream has its message, or had it in the current run; otherwise everything.
_MISSED: Final = f"""{RUN}
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not newest then
    return {{}}
end
local offset, id = tonumber(string.match(newest[1], '^%d+')), ARGV[1] .. '-0'
local last = redis.call('XRANGE', KEYS[1], id, id)[1]
local from, known = '-', 0
if last then
    known = last[2][2] == ARGV[2] and 1 or 0
elseif newest[2][2] == ARGV[2] and string.sub(ARGV[2], 1, 8) == run and tonumber(ARGV[1]) < offset then
    known = 1
end
if known == 1 then
    from = '(' .. id
end
return {{run, offset, newest[2][2], redis.call('XRANGE', KEYS[1], from, '+'), known}}
"""


@dataclasses.dataclass(eq=False, slots=True)
class _Missed:
    """The messages after a position, in order, whether they are all, and the position of the last one."""

    messages: list[Envelope]
    complete: bool
    position: Position | None


@dataclasses.dataclass(eq=False, slots=True)
class _Held:
    """The messages of a held room that have arrived since the reconnect, each with its size, and the sum of the sizes.

    ``is_releasing`` is True while the messages are delivered, so that the history is not read any more.
    """

    messages: deque[tuple[Envelope, int]] = dataclasses.field(default_factory=deque)
    size: int = 0
    attempts: int = 0
    is_releasing: bool = False


class CatchUp:
    """Reads and delivers what the members of rooms have missed.

    A room passes through these states: *unknown*, until a message with history was delivered, or its history was read
    for a member; *known*, if it is in ``positions``; *held*, if it is in both ``positions`` and ``held``, from the loss
    of the connection until its history was read after the reconnect.

    Args:
        deliver: Called with a room and a message that was missed or held.
        on_lost: Called with rooms in which messages may be lost, after the others were delivered; and after each
            outage, perhaps without any room.
        on_end: Called with a room when it is not held any more.

    Attributes:
        positions: The position of the last delivered message, by room.
        held: The held rooms. The values do not matter: to copy ``positions`` takes 1 ms for 100,000 rooms, and to
            create an object for each room would take much longer.
        disconnects: The number of disconnects. A history that was read before the last one may lack messages.
    """

    def __init__(
        self,
        commands: Commands,
        keys: RedisKeys,
        decoder: MessageDecoder,
        deliver: Callable[[str, Envelope], object],
        on_lost: Callable[[Mapping[str, object]], object],
        on_end: Callable[[str], object],
    ) -> None:
        self._commands = commands
        self._keys = keys
        self._decoder = decoder
        self._deliver = deliver
        self._on_lost = on_lost
        self._on_end = on_end
        self.positions: dict[str, Position] = {}
        self.held: dict[str, object] = {}
        # What has arrived in held rooms, and objects for those whose histories are being read.
        self._arrived: dict[str, _Held] = {}
        self._held_bytes = 0
        # The rooms whose histories are to be read, unless they are not held any more.
        self._unread: deque[str] = deque()
        self.disconnects = 0
        # The positions of unknown rooms whose histories were read for members: since the last PING was sent, and
        # before. The messages up to there may still be on their way, until the reply to a later PING has arrived.
        self._recovered: dict[str, Position] = {}
        self._arriving: dict[str, Position] = {}
        # The number of PINGs without a reply.
        self._pings = 0
        self._task: asyncio.Task[None] | None = None
        # The tasks that report rooms after an outage, or release one because too much was held.
        self._others: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop reading."""
        task, self._task = self._task, None
        for each in (task, *self._others):
            await cancel(each)

    def disconnected(self) -> None:
        """Called when all subscriptions have ended: hold the rooms until they are read."""
        self.disconnects += 1
        self._unread.clear()
        self._recovered.clear()
        self._arriving.clear()
        self._pings = 0
        for held in self._arrived.values():
            # Those with history will be read again.
            held.messages = deque(item for item in held.messages if item[0].position is None)
            self._resize(held, sum(size for _, size in held.messages) - held.size)
        self.held = {**self.positions, **self.held}

    def unsubscribed(self, room: str) -> None:
        """Called when the last member has left a room."""
        self.positions.pop(room, None)
        self._recovered.pop(room, None)
        self._arriving.pop(room, None)
        self._end(room)

    def subscribed(self, names: Iterable[str | Channel]) -> None:
        """Called when all rooms are subscribed to again, with their names, which must not change any more."""
        self._start(self._report_unheld(names, self.held.copy()))
        self._unread = deque(self.held)
        # With eager tasks, the task may already be done when create_task() returns.
        if self._unread and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._read_all())

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    def recovered(self, room: str, position: Position) -> None:
        """Called after the history of a room was read for a member, while the room was subscribed to.

        The position is that of the last message. Later ones are received by the subscription.
        """
        if position.offset and room not in self.positions:
            self._recovered[room] = position

    def ping_sent(self) -> None:
        """Called before a PING is sent on the connection for subscriptions."""
        if not self._pings:
            self._arriving, self._recovered = self._recovered, {}
        self._pings += 1

    def pong_received(self) -> None:
        """Called with the reply to a PING: all messages that were published before the PING have arrived."""
        self._pings = max(0, self._pings - 1)
        for room, position in self._arriving.items():
            self.positions.setdefault(room, position)
        self._arriving.clear()

    def is_delivered(self, room: str, position: Position | None) -> bool:
        """Return whether the message at a position was delivered before, for example as read from the history.

        The subscription and the read have different connections, so the message may arrive after the read.
        """
        last = self.positions.get(room)
        return (
            last is not None
            and position is not None
            and position.epoch == last.epoch
            and position.offset <= last.offset
        )

    def hold(self, room: str, message: Envelope, size: int) -> None:
        """Keep a message that has arrived in a held room. If too much is held, the room is released as incomplete."""
        held = self._create_held(room)
        held.messages.append((message, size + _OVERHEAD))
        self._resize(held, size + _OVERHEAD)
        if self._held_bytes > MAX_HELD_BYTES and not held.is_releasing:
            self._start_releasing(held)
            self._start(self._release_incomplete(room, held))

    def _start_releasing(self, held: _Held) -> None:
        """Count the memory of a room no longer: that is soon free, so no other room has to be released for it."""
        if not held.is_releasing:
            held.is_releasing = True
            self._held_bytes -= held.size

    def _resize(self, held: _Held, difference: int) -> None:
        held.size += difference
        if not held.is_releasing:
            self._held_bytes += difference

    def _create_held(self, room: str) -> _Held:
        """Return what is held of a held room."""
        held = self._arrived.get(room)
        if held is None:
            held = self._arrived[room] = _Held()
        return held

    def _end(self, room: str) -> None:
        """Hold a room no longer, if it is held."""
        if room in self.held:
            del self.held[room]
            held = self._arrived.pop(room, None)
            if held is not None and not held.is_releasing:
                self._held_bytes -= held.size
            self._on_end(room)

    async def _release_incomplete(self, room: str, held: _Held) -> None:
        await self._release(room, held)
        self._on_lost({room: None})

    async def _release(self, room: str, held: _Held) -> None:
        """Deliver what waits, apart from what was read from the history, and hold the room no longer.

        After another disconnect, the room remains held if its history can be read from its position.
        """
        self._start_releasing(held)
        disconnects = self.disconnects
        turn = MAX_TURN
        until = time.monotonic() + turn
        remaining = len(held.messages)
        # The room may be left meanwhile.
        while held.messages and self._arrived.get(room) is held:
            message, size = held.messages.popleft()
            self._resize(held, -size)
            if not self.is_delivered(room, message.position):
                self._deliver(room, message)
            remaining -= 1
            if not remaining:
                # Next is what has arrived meanwhile. Turns become longer, so that this ends even if more arrives.
                turn *= 2
                remaining = len(held.messages)
            if time.monotonic() > until:
                await asyncio.sleep(0)
                if self.disconnects != disconnects and room in self.positions:
                    held.is_releasing = False
                    self._held_bytes += held.size
                    return
                until = time.monotonic() + turn
        # Those that were excluded from a message are looked up while it is delivered, so the room ends afterwards.
        if self._arrived.get(room) is held:
            self._end(room)

    def _is_read(self, room: str, held: _Held) -> bool:
        """Return whether a room is still held, and its history is needed: it may have been left or released."""
        return self._arrived.get(room) is held and not held.is_releasing

    async def _read_all(self) -> None:
        """Read the histories of all rooms, and deliver what was missed."""
        while self._unread:
            await self._commands.wait_available()
            disconnects = self.disconnects
            batch: list[tuple[str, _Held]] = []
            while self._unread and len(batch) < _BATCH_SIZE:
                room = self._unread.popleft()
                if room in self.held:
                    batch.append((room, self._create_held(room)))
            reads = [self._read(room, self.positions[room]) for room, _ in batch]
            lost: dict[str, object] = {}
            for (room, held), missed in zip(batch, await asyncio.gather(*reads), strict=True):
                if not self._is_read(room, held):
                    continue
                if missed is None:
                    held.attempts += self._commands.available
                    if held.attempts < _ATTEMPTS:
                        if self.disconnects == disconnects:
                            self._unread.append(room)
                        continue
                    missed = _Missed([], False, None)
                await self._deliver_missed(room, held, missed)
                if self._is_read(room, held):
                    if not missed.complete:
                        lost[room] = None
                    # After another disconnect, it is read again from its position, if it still has one.
                    if self.disconnects == disconnects or room not in self.positions:
                        await self._release(room, held)
            if lost:
                self._on_lost(lost)

    async def _report_unheld(self, names: Iterable[str | Channel], held: dict[str, object]) -> None:
        """Report the rooms whose missed messages cannot be read."""
        lost: dict[str, object] = {}
        until = time.monotonic() + MAX_TURN
        for name in names:
            if name not in held and isinstance(name, str):
                lost[name] = None
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + MAX_TURN
        self._on_lost(lost)

    async def _deliver_missed(self, room: str, held: _Held, missed: _Missed) -> None:
        until = time.monotonic() + MAX_TURN
        for message in missed.messages:
            if not self._is_read(room, held):
                return
            last = self.positions.get(room)
            if not missed.complete and last and message.position and last.epoch != message.position.epoch:
                # This message does not continue the last one: there may have been others.
                del self.positions[room]
            self._deliver(room, message)
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + MAX_TURN
        if not missed.complete and self._is_read(room, held):
            # What follows is relative to this position, whether messages before it are lost or not.
            if missed.position is None:
                self.positions.pop(room, None)
            else:
                self.positions[room] = missed.position

    async def _read(self, room: str, last: Position) -> _Missed | None:
        """Return the messages after a position, or None if Redis did not reply."""
        try:
            reply: Any = await self._commands.call(
                "EVAL", _MISSED, 1, self._keys.history(room), last.offset, last.epoch
            )
        except ClusterUnavailable:
            return None
        if not reply:
            # It has expired, or Redis has lost it.
            return _Missed([], False, None)
        run, offset, epoch, entries, known = reply
        # Of another history, only what was published since the start of Redis is certainly newer.
        new = [entry for entry in entries if entry[1][1].startswith(run)]
        messages = await self._decoder.decode_history(room, entries if known else new, lambda envelope: envelope)
        complete = bool(known) and len(new) == len(entries) and len(messages) == offset - last.offset
        return _Missed(messages, complete, Position(offset, epoch.decode(errors="replace")))
