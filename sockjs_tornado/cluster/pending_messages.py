"""The messages and commands of this node that wait until they are received back from Redis."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ..protocol import JSONValue
from ..session.control import Command
from .base import MAX_TURN
from .envelope import Channel

if TYPE_CHECKING:
    from ..session.session import Session


class PendingMessage(NamedTuple):
    """A message of this node that is delivered to its own members when it is received back from Redis.

    If it will not be received back, ``message`` is delivered instead. For a message with history or an idempotency key,
    ``message`` is None: it is delivered only when it is received back. A command waits as a message without history
    does.
    """

    message: str | JSONValue | Command | None
    exclude: "Sequence[Session]"


# One object for all messages that Redis delivers to all members: many may wait, and the garbage collector visits each.
_FOR_ALL: Final = PendingMessage(None, ())


class PendingMessages:
    """The messages that wait, by room and tag; the commands have the channel CONTROL.

    A message is *released* if it will not be received back. Released messages are delivered in order, for
    :data:`MAX_TURN` seconds in each turn of the event loop. Until then they are still pending, so that later ones of
    the room wait as well. The turn becomes twice as long when a message is reached that was published after the turn's
    length was last changed. So all are delivered, even if more is published in each turn.

    Args:
        deliver: Called with the room, the tag and each message that was released. It must not raise.
    """

    def __init__(self, deliver: Callable[[str | Channel, int, PendingMessage], object]) -> None:
        self._deliver = deliver
        self._rooms: dict[str | Channel, dict[int, PendingMessage]] = {}
        # The room of each tag, in the order of the calls.
        self._order: dict[int, str | Channel] = {}
        # The tags of messages that only Redis delivers are even, those of others are odd: these are delivered here if
        # they are not received back in time, and must not be delivered again if they are received later.
        self._tags = itertools.count(2, 2)
        self._newest = 0
        # The tags that were released. A message that was received back meanwhile is skipped.
        self._released: deque[int] = deque()
        self._is_scheduled = False
        # The length of a turn, and the newest tag when it was last changed.
        self._turn = MAX_TURN
        self._turn_tag = 0
        # While release_all() runs, the future that it awaits.
        self._all_delivered: asyncio.Future[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._rooms)

    def __contains__(self, room: str | Channel) -> bool:
        return room in self._rooms

    @property
    def releases_all(self) -> bool:
        """Whether :meth:`release_all` is running: what is added now is released, too."""
        return self._all_delivered is not None

    def create_tag(self, *, through_redis: bool) -> int:
        """Return the tag of a new message, larger than all others; ``through_redis`` if only Redis delivers it."""
        self._newest = next(self._tags) + (not through_redis)
        return self._newest

    def add(
        self, room: str | Channel, tag: int, message: str | JSONValue | Command | None, exclude: "Sequence[Session]"
    ) -> None:
        """Let a message wait; see :class:`PendingMessage`."""
        pending = PendingMessage(message, exclude or ()) if message is not None or exclude else _FOR_ALL
        self._rooms.setdefault(room, {})[tag] = pending
        self._order[tag] = room
        if self.releases_all:
            self.release(tag)

    def pop(self, room: str | Channel, tag: int) -> PendingMessage | None:
        """Remove a message, and return it, or None if it does not wait."""
        tags = self._rooms.get(room, {})
        pending = tags.pop(tag, None)
        if pending is not None:
            del self._order[tag]
            if not tags:
                del self._rooms[room]
        return pending

    def forget_room(self, room: str | Channel) -> None:
        """Remove the messages of a room that has no members."""
        for tag in self._rooms.pop(room, ()):
            del self._order[tag]

    def release(self, tag: int) -> PendingMessage | None:
        """Deliver a message in one of the next turns of the event loop.

        If only Redis delivers it, it is removed and returned.
        """
        if not tag % 2 and not self.releases_all:
            return self.pop(self._order.get(tag, ""), tag)
        self._released.append(tag)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._turn, self._turn_tag = MAX_TURN, self._newest
            asyncio.get_running_loop().call_soon(self._deliver_released)
        return None

    def _deliver_released(self) -> None:
        until = time.monotonic() + self._turn
        while self._released:
            tag = self._released.popleft()
            if tag > self._turn_tag:
                self._turn *= 2
                self._turn_tag = self._newest
            self._deliver_tag(tag)
            if time.monotonic() > until and self._released:
                asyncio.get_running_loop().call_soon(self._deliver_released)
                return
        self._is_scheduled = False
        delivered, self._all_delivered = self._all_delivered, None
        # If release_all() was cancelled in this turn, it has not continued yet.
        if delivered is not None and not delivered.done():
            delivered.set_result(None)

    def _deliver_tag(self, tag: int) -> None:
        room = self._order.get(tag)
        pending = None if room is None else self.pop(room, tag)
        if room is not None and pending is not None:
            self._deliver(room, tag, pending)

    async def release_all(self) -> None:
        """Deliver all messages that wait, also those that are added meanwhile.

        If it is cancelled, it delivers all at once.
        """
        if not self._order:
            return
        self._all_delivered = delivered = asyncio.get_running_loop().create_future()
        self._released.clear()
        for tag in self._order:
            self.release(tag)
        try:
            await delivered
        except asyncio.CancelledError:
            self._all_delivered = None
            while self._order:
                for tag in tuple(self._order):
                    self._deliver_tag(tag)
            raise
