"""Rooms: named groups of sessions. What is published in a room reaches all that are in it."""

import json
from collections.abc import Awaitable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ..protocol import PreparedMessage

if TYPE_CHECKING:
    from .session import Session

__all__ = ["COMPLETED", "Rooms", "check_room"]


class _Completed:
    """What need not be waited for."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


COMPLETED: Final = _Completed()


def check_room(room: object) -> None:
    """Raise TypeError where a room's name is no text."""
    if not isinstance(room, str):
        raise TypeError(f"a room's name is str, not {type(room).__name__}")


class Rooms:
    """The rooms of one router, or of all routers of one cluster. A room is there while somebody is in it.

    Who shares rooms with other processes overrides :meth:`room_created` and the three that follow.
    """

    __slots__ = ("_members", "_names", "_presence")

    def __init__(self) -> None:
        # Dicts, since they keep the order in which sessions came.
        self._members: dict[str, dict[Session, None]] = {}
        self._names: dict[Session, set[str]] = {}
        # JSON of those who want to be seen.
        self._presence: dict[str, dict[Session, str]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._members))

    def room_created(self, room: str) -> None:
        """Hear that somebody is in a room that was empty."""

    def room_deleted(self, room: str) -> None:
        """Hear that nobody is in a room any more."""

    def presence_set(self, room: str, label: str, text: str) -> None:
        """Hear that somebody wants to be seen in a room."""

    def presence_removed(self, room: str, label: str) -> None:
        """Hear that somebody who was seen there has left it."""

    def join(self, session: "Session", room: str, presence: Any = None) -> Awaitable[None]:
        """Put a session into a room.

        Args:
            session: Who.
            room: Where.
            presence: What others shall see, a JSON value; None where it is not to be seen, or what they see remains.

        Returns:
            What is over once everything that is published there from then on reaches the session.

        Raises:
            TypeError: JSON has no form for the presence.
            ValueError: The same.
        """
        text = None if presence is None else json.dumps(presence, allow_nan=False)
        self._names.setdefault(session, set()).add(room)
        members = self._members.get(room)
        if members is None:
            self._members[room] = {session: None}
            self.room_created(room)
        else:
            members[session] = None
        if text is not None:
            self._presence.setdefault(room, {})[session] = text
            self.presence_set(room, session.label, text)
        return COMPLETED

    def leave(self, session: "Session", room: str) -> None:
        """Take a session out of a room."""
        names = self._names.get(session)
        if names is not None and room in names:
            names.discard(room)
            if not names:
                del self._names[session]
            self._remove_member(session, room)

    def leave_all(self, session: "Session") -> None:
        """Take a session that is closed out of all rooms; it is told their names until :meth:`forget`."""
        for room in self._names.get(session, ()):
            self._remove_member(session, room)

    def forget(self, session: "Session") -> None:
        """Let go of a session that is over."""
        self._names.pop(session, None)

    def _remove_member(self, session: "Session", room: str) -> None:
        members = self._members.get(room)
        if members is None:
            return
        members.pop(session, None)
        present = self._presence.get(room)
        if present is not None and present.pop(session, None) is not None:
            if not present:
                del self._presence[room]
            self.presence_removed(room, session.label)
        if not members:
            del self._members[room]
            self.room_deleted(room)

    def rooms_of(self, session: "Session") -> frozenset[str]:
        """Return the rooms that a session is in, or was in when it closed."""
        return frozenset(self._names.get(session, ()))

    def members(self, room: str) -> "tuple[Session, ...]":
        """Return the sessions in a room, in the order in which they came."""
        return tuple(self._members.get(room, ()))

    def presence(self, room: str) -> dict[str, Any]:
        """Return what those in a room who want to be seen have given to :meth:`join`, by their labels."""
        return {session.label: json.loads(text) for session, text in self._presence.get(room, {}).items()}

    def rooms_with_presence(self) -> Iterator[str]:
        """Return the rooms in which somebody wants to be seen."""
        return iter(list(self._presence))

    def publish(self, room: str, message: PreparedMessage, exclude: "Iterable[Any]" = ()) -> None:
        """Send a message to all sessions in a room but those excluded."""
        members = self.members(room)
        if members:
            members[0]._check_thread()
            excluded = set(exclude)
            if excluded:
                members = tuple(session for session in members if session not in excluded)
            for session in members:
                session._send_prepared(message)
