"""The rooms of a node on Redis: changes of this node's members are sent to the other nodes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .base import CheckedRooms, WaitForAll
from .bus import Bus
from .presence import Presence

if TYPE_CHECKING:
    from ..session.session import Session

__all__ = ["SharedRooms"]


class SharedRooms(CheckedRooms):
    """Rooms whose subscriptions and presence are kept in Redis.

    Args:
        check: Raises RuntimeError if the cluster cannot be used.
    """

    __slots__ = ("_bus", "_cluster_presence", "_presence_written")

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__(check)
        # Set by presence_set() while join() runs: the future of the presence that was written to Redis.
        self._presence_written: asyncio.Future[Any] | None = None

    def bind(self, bus: Bus, presence: Presence) -> None:
        """Set the bus and the presence of this node."""
        self._bus = bus
        self._cluster_presence = presence

    def join(self, session: "Session", room: str, presence: Any = None) -> Awaitable[None]:
        """Add a session to a room; see :meth:`CheckedRooms.join`.

        Returns:
            An awaitable that completes when Redis has confirmed the subscription and the presence.
        """
        self._presence_written = None
        super().join(session, room, presence)
        pending = (self._bus.confirmation(room), self._presence_written)
        return WaitForAll(*(future for future in pending if future is not None))

    def room_created(self, room: str) -> None:
        """Subscribe to the room."""
        self._bus.subscribe(room)

    def room_deleted(self, room: str) -> None:
        """Unsubscribe from the room."""
        self._bus.unsubscribe(room)

    def presence_set(self, room: str, label: str, text: str) -> None:
        """Write the member's presence to Redis."""
        self._presence_written = self._cluster_presence.add(room, label, text)

    def presence_removed(self, room: str, label: str) -> None:
        """Remove the member's presence from Redis."""
        self._cluster_presence.remove(room, label)
