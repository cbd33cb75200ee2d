"""Control of sessions from anywhere: close them, add them to rooms, or send to them, by room, tag or id.

A tag is a name that the application gives to a session, such as ``user:42``. Clients can neither see nor set tags. A
:class:`Command` says what is done with the sessions of a :class:`Target`; a cluster sends it to all processes.
"""

import asyncio
import functools
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, NoReturn, TypeVar, cast

from ..protocol import CloseCode, JSONValue, PreparedMessage, check_session_close, encode_message
from ..validation import safe_repr
from .deadlines import BATCH_SIZE
from .rooms import Rooms, check_room

if TYPE_CHECKING:
    from .session import Session

logger = logging.getLogger(__name__)

#: The limits of tags: the number of one connection, and the length of each in characters.
MAX_TAGS: Final = 100
MAX_TAG_LENGTH: Final = 1000

_R = TypeVar("_R")
_F = TypeVar("_F", bound=Callable[..., Any])


class Target(NamedTuple):
    """The sessions that a command is for.

    Attributes:
        kind: ``"room"``, ``"tag"`` or ``"id"``.
        name: The name of the room, the tag, or the id of one connection.
    """

    kind: str
    name: str


class Command(NamedTuple):
    """What is done with the sessions of a target.

    Attributes:
        action: ``"disconnect"``, ``"join"``, ``"leave"`` or ``"send"``.
        target: The sessions.
        arguments: Close code and reason; the name of the room; or the type of the message (``"t"`` for text, ``"j"``
            for JSON) and its text.
    """

    action: str
    target: Target
    arguments: tuple[Any, ...]


def keywords_only(select: _F) -> _F:
    """Decorate a method ``select``, so that a positional argument raises a TypeError that names the keywords."""

    @functools.wraps(select)
    def wrapper(self: Any, *positional: object, **keywords: Any) -> Any:
        if positional:
            raise TypeError(
                "select: expected a keyword: select(room=...), select(tag=...) or select(id=...), got "
                f"{safe_repr(positional[0])} without one"
            )
        return select(self, **keywords)

    return cast("_F", wrapper)


def check_target(room: object = None, tag: object = None, id: object = None) -> Target:
    """Return the target that is given.

    Raises:
        TypeError: Unless exactly one argument is given, as a ``str``.
        ValueError: No connection can have this tag or id.
    """
    given = [(kind, name) for kind, name in (("room", room), ("tag", tag), ("id", id)) if name is not None]
    if len(given) != 1:
        names = " and ".join(f"{kind}={name!r}" for kind, name in given) or "none"
        raise TypeError(f'select: expected one of room=, tag= and id=, such as tag="user:42", got {names}')
    ((kind, name),) = given
    if not isinstance(name, str):
        hint = "; for this connection, use connection.global_id" if kind == "id" else ""
        raise TypeError(f"select: {kind} must be str, not {type(name).__name__}{hint}")
    if kind == "tag":
        check_tag(name)
    elif kind == "id" and ":" not in name:
        raise ValueError(
            f"select: id: expected the global_id of a connection, got {name!r}; its id is unique in one process only"
        )
    return Target(kind, name)


def encode_command(command: Command) -> str:
    """Return a command as JSON, for other processes."""
    return json.dumps([command.action, *command.target, *command.arguments])


def decode_command(text: str) -> Command:
    """Return a command of another process, or raise ValueError if it is malformed."""
    try:
        fields = json.loads(text)
    except RecursionError:
        raise ValueError("the command is nested too deeply") from None
    match fields:
        case [str(action), ("room" | "tag" | "id") as kind, str(name), *arguments]:
            match action, arguments:
                case "disconnect", [int(code), str()] if type(code) is int and 0 <= code <= 65535:
                    pass
                case (("join" | "leave"), [str()]):
                    pass
                case "send", ["t" | "j", str()]:
                    pass
                case _:
                    raise ValueError(f"the command {action[:20]!r} is unknown, or its arguments are invalid")
            return Command(action, Target(kind, name), tuple(arguments))
    raise ValueError("not a command")


class Selection(Generic[_R]):
    """Connections in all processes: those in a room, those with a tag, or the one with an id.

    ``router.select``, ``Publisher.select`` and ``AsyncPublisher.select`` return it. It holds no connections: each
    method applies to those that match when it arrives in their process.

    Each method returns what ``publish`` of the same object returns: a router's an awaitable, which need not be awaited,
    and which raises ClusterUnavailable if Redis or another process did not accept the command. Nothing reports how many
    connections matched.

    A selection of which no method was called causes a RuntimeWarning when it is deleted.
    """

    __slots__ = ("_execute", "_is_used", "_json_encode", "_target")

    def __init__(
        self,
        target: Target,
        execute: Callable[[Command], _R],
        json_encode: Callable[[Any], str | bytes] | None = None,
    ) -> None:
        self._target = target
        self._execute = execute
        self._json_encode = json_encode
        self._is_used = False

    def __del__(self) -> None:
        if not self._is_used:
            warnings.warn(
                f"{self!r} does nothing by itself: call its disconnect, join, leave or send",
                RuntimeWarning,
                stacklevel=2,
            )

    if not TYPE_CHECKING:

        def __bool__(self) -> NoReturn:
            self._is_used = True
            raise TypeError(
                f"{self!r} is neither true nor false, since it holds no connections: to find out who is connected, use "
                "a room with a presence, and presence_count(room)"
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._target.kind}={self._target.name!r}>"

    def _run(self, action: str, *arguments: Any) -> _R:
        return self._execute(Command(action, self._target, arguments))

    def disconnect(self, code: int = CloseCode.GO_AWAY, reason: str = "Go away!") -> _R:
        """Close the connections. Messages that were sent before are delivered first.

        It is :meth:`~sockjs_tornado.SockJSConnection.close` of each connection.

        Args:
            code: Close code for the clients, 0-65535; use 4000-4999 for a meaning of your own. Default 3000.
            reason: Close reason for the clients.

        Raises:
            TypeError: If the code is not an ``int`` or the reason is not a ``str``.
            ValueError: If the code is not within 0-65535.
        """
        self._is_used = True
        check_session_close(code, reason)
        return self._run("disconnect", int(code), reason)

    def join(self, room: str) -> _R:
        """Add the connections to a room.

        Args:
            room: Name of the room.

        Raises:
            TypeError: If the name of the room is not a ``str``.
        """
        self._is_used = True
        check_room(room)
        return self._run("join", room)

    def leave(self, room: str) -> _R:
        """Remove the connections from a room.

        Args:
            room: Name of the room.

        Raises:
            TypeError: If the name of the room is not a ``str``.
        """
        self._is_used = True
        check_room(room)
        return self._run("leave", room)

    def send(self, message: Any) -> _R:
        """Send a message to the connections. It is encoded once for each transport.

        Every process receives it. If users often receive messages of their own, let each join a room of their own, and
        publish there: only the processes with members receive those.

        Args:
            message: A message for ``publish``.

        Raises:
            TypeError: If the message is of another type.
            ValueError: If it contains a number that JSON does not support.
        """
        self._is_used = True
        encoded = encode_message(message, self._json_encode)
        return self._run("send", "j" if isinstance(encoded, JSONValue) else "t", str(encoded))


# A tag is a room among the rooms `tags`, with the kind of its target before its name.


def check_tag(tag: object) -> None:
    """Raise TypeError or ValueError if no session can have a tag."""
    if not isinstance(tag, str):
        raise TypeError(f"a tag must be str, not {type(tag).__name__}")
    if not tag:
        raise ValueError("a tag must not be empty")
    if len(tag) > MAX_TAG_LENGTH:
        raise ValueError(f"a tag must have at most {MAX_TAG_LENGTH} characters, got {len(tag)}")


def add_tag(rooms: Rooms, session: "Session", tag: str) -> None:
    """Tag a session; see :meth:`SockJSConnection.tag`."""
    check_tag(tag)
    tags = tags_of(rooms, session)
    if len(tags) >= MAX_TAGS and tag not in tags:
        raise ValueError(f"a connection can have at most {MAX_TAGS} tags; untag() those that it no longer needs")
    rooms.create_tags().join(session, f"tag:{tag}")


def remove_tag(rooms: Rooms, session: "Session", tag: str) -> None:
    """Remove a tag of a session. Does nothing if it has none of this name."""
    check_tag(tag)
    if rooms.tags is not None:
        rooms.tags.leave(session, f"tag:{tag}")


def tags_of(rooms: Rooms, session: "Session") -> frozenset[str]:
    """Return the tags of a session, or those that it had when it closed."""
    if rooms.tags is None:
        return frozenset()
    names = rooms.tags.rooms_of(session)
    return frozenset(name.removeprefix("tag:") for name in names if name.startswith("tag:"))


def global_id(rooms: Rooms, session: "Session") -> str:
    """Return the id of a session that no session of another process has, and by which :func:`execute` finds it."""
    tags = rooms.create_tags()
    found = f"{rooms.process_id}:{session.label}"
    if not session.is_closed:
        tags.join(session, f"id:{found}")
    return found


def find(rooms: Rooms, target: Target) -> "tuple[Session, ...]":
    """Return the sessions of a target in this process."""
    if target.kind == "room":
        return rooms.members(target.name)
    return () if rooms.tags is None else rooms.tags.members(":".join(target))


def execute(rooms: Rooms, command: Command, exclude: "Iterable[Session]" = ()) -> None:
    """Execute a command for the sessions of its target in this process, except those in ``exclude``.

    The first ones are closed at once. If there are many, the others follow in the next iterations of the event loop.

    Raises:
        RuntimeError: If called from a thread other than the event loop's.
    """
    excluded = set(exclude)
    sessions = [session for session in find(rooms, command.target) if session not in excluded]
    for session in sessions:
        session._check_thread(f"router.io_loop.add_callback(router.select(...).{command.action}, ...)")
        break
    match command.action:
        case "disconnect":
            code, reason = command.arguments
            _close(sessions[:BATCH_SIZE], code, reason)
            if len(sessions) > BATCH_SIZE:
                session = sessions[0]
                session._container.spawn(_close_later(sessions[BATCH_SIZE:], code, reason))
        case "send":
            kind, text = command.arguments
            prepared = PreparedMessage(JSONValue(text) if kind == "j" else text)
            for session in sessions:
                session._send_prepared(prepared)
        case _:
            (room,) = command.arguments
            change = rooms.join if command.action == "join" else rooms.leave
            for session in sessions:
                change(session, room)


def _close(sessions: "Sequence[Session]", code: int, reason: str) -> None:
    for session in sessions:
        try:
            session.close(code, reason)
        except Exception as error:
            # A session class of the application may override close(). The other sessions must be closed all the same.
            message = "Failed to close a session that was selected by router.select"
            session._container.log.write(logger, logging.ERROR, "disconnect", message, error=error)


async def _close_later(sessions: "Sequence[Session]", code: int, reason: str) -> None:
    for start in range(0, len(sessions), BATCH_SIZE):
        await asyncio.sleep(0)
        _close(sessions[start : start + BATCH_SIZE], code, reason)
