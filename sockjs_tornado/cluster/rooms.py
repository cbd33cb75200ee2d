"""The rooms of a node: those of all its routers, of which the other nodes hear."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

from ..session.rooms import Rooms
from .bus import Bus
from .presence import Presence

if TYPE_CHECKING:
    from ..session.session import Session

__all__ = ["SharedRooms"]


class Joining:
    """What :meth:`SharedRooms.join` returns."""

    __slots__ = ("_steps",)

    def __init__(self, *steps: "asyncio.Future[Any] | None") -> None:
        self._steps = steps

    def __await__(self) -> Generator[Any, None, None]:
        for step in self._steps:
            if step is not None:
                # Others wait for it, too: who is cancelled does not cancel it.
                yield from asyncio.shield(step).__await__()


class SharedRooms(Rooms):
    """Rooms of which the bus and the presence are told.

    Args:
        check: Raises RuntimeError where nobody may join.
    """

    __slots__ = ("_bus", "_check", "_presence_of_all", "_told")

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check
        self._told: asyncio.Future[Any] | None = None

    def connect(self, bus: Bus, presence: Presence) -> None:
        """Take those who are told."""
        self._bus = bus
        self._presence_of_all = presence

    def join(self, session: "Session", room: str, presence: Any = None) -> Awaitable[None]:
        """Put a session into a room, as :meth:`Rooms.join`.

        Raises:
            RuntimeError: The cluster was not started, or is closed.
        """
        self._check()
        self._told = None
        super().join(session, room, presence)
        return Joining(self._bus.confirmed(room), self._told)

    def opened(self, room: str) -> None:
        """Subscribe."""
        self._bus.subscribe(room)

    def emptied(self, room: str) -> None:
        """Unsubscribe."""
        self._bus.unsubscribe(room)

    def appeared(self, room: str, label: str, text: str) -> None:
        """Tell the others."""
        self._told = self._presence_of_all.appeared(room, label, text)

    def vanished(self, room: str, label: str) -> None:
        """Tell the others."""
        self._presence_of_all.vanished(room, label)
