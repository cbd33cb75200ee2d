"""Rooms: named groups of sessions. What is published in a room reaches all that are in it."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .protocol import PreparedMessage

if TYPE_CHECKING:
    from .session import Session

__all__ = ["Rooms", "check_room"]


def check_room(room: object) -> None:
    """Raise TypeError where a room's name is no text."""
    if not isinstance(room, str):
        raise TypeError(f"a room's name is str, not {type(room).__name__}")


class Rooms:
    """The rooms of one router. A room is there while somebody is in it."""

    __slots__ = ("_members", "_names")

    def __init__(self) -> None:
        # Dicts, since they keep the order in which sessions came.
        self._members: dict[str, dict[Session, None]] = {}
        self._names: dict[Session, set[str]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._members))

    def join(self, session: "Session", room: str) -> bool:
        """Put a session into a room; return whether it is the first one there."""
        self._names.setdefault(session, set()).add(room)
        members = self._members.get(room)
        if members is None:
            self._members[room] = {session: None}
            return True
        members[session] = None
        return False

    def leave(self, session: "Session", room: str) -> bool:
        """Take a session out of a room; return whether the room is gone with it."""
        names = self._names.get(session)
        if names is None or room not in names:
            return False
        names.discard(room)
        if not names:
            del self._names[session]
        return self._take_out(session, room)

    def close(self, session: "Session") -> list[str]:
        """Take a session that is closed out of all rooms; it is told their names until :meth:`forget`.

        Returns:
            The rooms that are gone with it.
        """
        names = self._names.get(session)
        return [room for room in names if self._take_out(session, room)] if names else []

    def forget(self, session: "Session") -> None:
        """Let go of a session that is over."""
        self._names.pop(session, None)

    def _take_out(self, session: "Session", room: str) -> bool:
        members = self._members.get(room, {})
        members.pop(session, None)
        if members:
            return False
        return self._members.pop(room, None) is not None

    def of(self, session: "Session") -> frozenset[str]:
        """Return the rooms that a session is in, or was in when it closed."""
        return frozenset(self._names.get(session, ()))

    def members(self, room: str) -> "tuple[Session, ...]":
        """Return the sessions in a room, in the order in which they came."""
        return tuple(self._members.get(room, ()))

    def publish(self, room: str, message: PreparedMessage, exclude: "Iterable[Any]" = ()) -> None:
        """Send a message to all sessions in a room but those excluded."""
        members = self.members(room)
        if members:
            members[0].check_thread()
            excluded = set(exclude)
            for session in members:
                if session not in excluded:
                    session.send_prepared(message)
