"""The rooms of a node whose cluster is on Redis."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .base import CheckedRooms, WaitForAll
from .bus import Bus
from .presence import Presence

if TYPE_CHECKING:
    from ..session.session import Session


class SharedRooms(CheckedRooms):
    """The rooms of a node: their subscriptions and their members' presence are kept in Redis.

    Attributes:
        bus: The subscriptions.
        shared_presence: The presence of members in Redis.
    """

    __slots__ = ("_presence_written", "bus", "shared_presence")

    # Of a node, which is created after its rooms, and again in each process that is forked.
    bus: Bus
    shared_presence: Presence

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__(check)
        # Set by presence_set() while join() runs: the future of the presence that was written to Redis.
        self._presence_written: asyncio.Future[Any] | None = None

    def join(self, session: "Session", room: str, presence: Any = None) -> Awaitable[None]:
        """Add a session to a room; the awaitable completes when Redis has confirmed subscription and presence."""
        self._presence_written = None
        super().join(session, room, presence)
        pending = (self.bus.confirmation(room), self._presence_written)
        return WaitForAll(*(future for future in pending if future is not None))

    def room_created(self, room: str) -> None:
        self.bus.subscribe(room)

    def room_deleted(self, room: str) -> None:
        self.bus.unsubscribe(room)

    def presence_set(self, room: str, label: str, text: str) -> None:
        self._presence_written = self.shared_presence.add(room, label, text)

    def presence_removed(self, room: str, label: str) -> None:
        self.shared_presence.remove(room, label)
