"""Rooms: named groups of sessions. A message that is published in a room is sent to all its members."""

import heapq
import json
import secrets
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

from ..observe import trace
from ..protocol import PreparedMessage
from ..validation import safe_repr

if TYPE_CHECKING:
    from .session import Session


#: What has changed the presence of a member: it has joined, joined again, or left.
PresenceEvent = Literal["join", "update", "leave"]


class _Completed:
    """An awaitable that is complete."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


COMPLETED: Final = _Completed()


def check_room(room: object) -> None:
    """Raise TypeError if the name of a room is not a ``str``."""
    if not isinstance(room, str):
        hint = "; call it for each room" if isinstance(room, list | tuple | set | frozenset) else ""
        raise TypeError(f"the name of a room must be str, not {type(room).__name__}{hint}")


def check_rooms(rooms: object) -> list[str]:
    """Return the names of rooms, or raise TypeError if they are not several ``str``."""
    if isinstance(rooms, str) or not isinstance(rooms, Iterable):
        raise TypeError(f"rooms must be an iterable of names, not {type(rooms).__name__}")
    names = list(rooms)
    for room in names:
        check_room(room)
    return names


def excluded_sessions(exclude: Any) -> "list[Session]":
    """Return the sessions of a connection or of several, or raise TypeError if they are something else."""
    if exclude == ():
        return []
    wrong = exclude
    if hasattr(exclude, "session"):
        return [exclude.session]
    # A router has __iter__, only for an error about another mistake.
    if isinstance(exclude, Iterable) and not isinstance(exclude, str) and not hasattr(exclude, "endpoints"):
        connections = list(exclude)
        others = [connection for connection in connections if not hasattr(connection, "session")]
        if not others:
            return [connection.session for connection in connections]
        wrong = others[0]
    raise TypeError(
        f"exclude: expected a connection or an iterable of connections, got {safe_repr(wrong)} "
        f"({type(wrong).__name__}); pass the connection itself, such as exclude=self, not its id"
    )


def _encode_presence(presence: Any) -> str:
    """Return a presence as JSON.

    Raises:
        TypeError: It, or a part of it, cannot be encoded.
        ValueError: It contains NaN, an infinity or itself.
    """
    try:
        return json.dumps(presence, allow_nan=False)
    except TypeError as error:
        raise TypeError(f"presence: {error}") from None
    except ValueError as error:
        raise ValueError(f"presence: {error}") from None


class Rooms:
    """The rooms of one router, or of all routers of one cluster. A room exists while it has members.

    A cluster overrides :meth:`room_created`, :meth:`room_deleted`, :meth:`presence_set` and :meth:`presence_removed`.

    Attributes:
        tags: The tags and ids of the sessions, as rooms that only ``session.control`` uses; None before the first one.
        process_id: A random id, different after each start of a process; ``""`` before the first tag.
        on_presence_change: Called with the event, the room, and the label and presence (as JSON) of the member, after
            each change of a presence; None if nobody needs the events.
    """

    __slots__ = ("_members", "_names", "_presence", "on_presence_change", "process_id", "tags")

    def __init__(self) -> None:
        # Dicts, because they keep the order in which sessions have joined.
        self._members: dict[str, dict[Session, None]] = {}
        self._names: dict[Session, set[str]] = {}
        # The presence of members as JSON.
        self._presence: dict[str, dict[Session, str]] = {}
        self.tags: Rooms | None = None
        self.process_id = ""
        self.on_presence_change: Callable[[PresenceEvent, str, str, str], None] | None = None

    def create_tags(self) -> "Rooms":
        """Return :attr:`tags`, which are created if there are none yet: not before a process may have been forked."""
        if self.tags is None:
            self.tags = Rooms()
            self.process_id = secrets.token_hex(8)
        return self.tags

    def __len__(self) -> int:
        return len(self._members)

    @property
    def memberships(self) -> int:
        """The number of members of all rooms; a session counts once for each of its rooms."""
        return sum(map(len, self._members.values()))

    def room_created(self, room: str) -> None:
        """Called when the first session has joined a room."""

    def room_deleted(self, room: str) -> None:
        """Called when the last session has left a room."""

    def presence_set(self, room: str, label: str, text: str) -> None:
        """Called when a member has set its presence to the JSON ``text``."""

    def presence_removed(self, room: str, label: str) -> None:
        """Called when a member with a presence has left a room."""

    def join(self, session: "Session", room: str, presence: Any = None) -> Awaitable[None]:
        """Add a session to a room; :meth:`SockJSConnection.join` has the details.

        Returns:
            An awaitable that completes once the session receives everything that is published in the room.
        """
        text = None if presence is None else _encode_presence(presence)
        self._names.setdefault(session, set()).add(room)
        members = self._members.get(room)
        if members is None:
            self._members[room] = {session: None}
            self.room_created(room)
        else:
            members[session] = None
        if text is not None:
            present = self._presence.setdefault(room, {})
            notify = self.on_presence_change
            is_update = notify is not None and session in present
            present[session] = text
            self.presence_set(room, session.label, text)
            if notify is not None:
                notify("update" if is_update else "join", room, session.label, text)
        return COMPLETED

    def leave(self, session: "Session", room: str) -> None:
        """Remove a session from a room. Does nothing if it is not a member."""
        names = self._names.get(session)
        if names is not None and room in names:
            names.discard(room)
            if not names:
                del self._names[session]
            self._remove_member(session, room)

    def leave_all(self, session: "Session") -> None:
        """Remove a closed session from all rooms; :meth:`rooms_of` returns their names until :meth:`forget`."""
        for room in self._names.get(session, ()):
            self._remove_member(session, room)
        if self.tags is not None:
            self.tags.leave_all(session)

    def forget(self, session: "Session") -> None:
        """Forget the rooms of a session that has ended."""
        self._names.pop(session, None)
        if self.tags is not None:
            self.tags.forget(session)

    def _remove_member(self, session: "Session", room: str) -> None:
        members = self._members.get(room)
        if members is None:
            return
        members.pop(session, None)
        present = self._presence.get(room)
        if present is not None and (text := present.pop(session, None)) is not None:
            if not present:
                del self._presence[room]
            self.presence_removed(room, session.label)
            if self.on_presence_change is not None:
                self.on_presence_change("leave", room, session.label, text)
        if not members:
            del self._members[room]
            self.room_deleted(room)

    def largest(self, count: int) -> list[tuple[str, int]]:
        """Return the rooms with the most members, at most ``count``, each with its number of members."""
        sizes = ((room, len(members)) for room, members in self._members.items())
        return heapq.nlargest(count, sizes, key=lambda size: size[1])

    def rooms_of(self, session: "Session") -> frozenset[str]:
        """Return the rooms that a session is in, or was in when it closed."""
        return frozenset(self._names.get(session, ()))

    def members(self, room: str) -> "tuple[Session, ...]":
        """Return the members of a room, in the order in which they have joined."""
        return tuple(self._members.get(room, ()))

    def presence(self, room: str) -> dict[str, Any]:
        """Return the presence of the members of a room, by label."""
        check_room(room)
        return {session.label: json.loads(text) for session, text in self._presence.get(room, {}).items()}

    def presence_count(self, room: str) -> int:
        """Return the number of members of a room that have a presence."""
        check_room(room)
        return len(self._presence.get(room, ()))

    def rooms_with_presence(self) -> list[str]:
        """Return the rooms in which a member has a presence."""
        return list(self._presence)

    def presence_entries(self, rooms: Iterable[str]) -> Iterator[tuple[str, str, str]]:
        """Iterate over the members of rooms that have a presence: room, label and the presence as JSON.

        Members may join and leave meanwhile. A member is skipped if it has left before it is reached.
        """
        for room in rooms:
            present = self._presence.get(room, {})
            for session in tuple(present):
                text = present.get(session)
                if text is not None:
                    yield room, session.label, text

    def publish(self, room: str, message: PreparedMessage, exclude: "Iterable[Any]" = ()) -> None:
        """Send a message to the members of a room, except those in ``exclude``."""
        members = self.members(room)
        # A room without members does not hide the mistake.
        for session in members or self._names:
            session._check_thread("router.io_loop.add_callback(router.publish, room, message)")
            break
        if members:
            excluded = set(exclude)
            if excluded:
                members = tuple(session for session in members if session not in excluded)
            for session in members:
                session._send_prepared(message)
        elif trace.is_enabled():
            trace.write_unheard(room)
