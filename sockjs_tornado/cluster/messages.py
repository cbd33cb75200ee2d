"""Messages between the rooms of a node and those of all others."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..observe.logs import ThrottledLog
from ..protocol import JSONValue, PreparedMessage, encode_message
from ..session.ports import Position
from ..session.rooms import Rooms
from .commands import Commands
from .envelope import Names, decode, echo_of, encode, value_of
from .history import position_of, publish_command
from .stats import ClusterStats

if TYPE_CHECKING:
    from ..session.session import Session

__all__ = ["Messages", "TransformMessage"]

logger = logging.getLogger(__name__)

#: Given room, message and position, returns what members get in place of the message.
TransformMessage = Callable[[str, Any, Position], str | dict[str, Any] | list[Any]]


class _UnderWay(NamedTuple):
    """A message that members on this node get when it comes back from Redis.

    Attributes:
        message: What they get where it does not come; None for one with history, which is not theirs then.
        exclude: Who does not get it.
    """

    message: str | JSONValue | None
    exclude: "Sequence[Session]"


class _Sent:
    """A message on its way to Redis: what ``publish`` returns.

    Args:
        reply: That of Redis.
        failed: Called where it did not take the message.
        unheard: Called where it did not, and nobody has waited to hear so.
    """

    __slots__ = ("_awaited", "_failed", "_reply", "_unheard")

    def __init__(
        self, reply: "asyncio.Future[Any]", failed: Callable[[], None], unheard: Callable[[BaseException], None]
    ) -> None:
        self._reply = reply
        self._failed = failed
        self._unheard = unheard
        self._awaited = False
        reply.add_done_callback(self._done)

    def __await__(self) -> Generator[Any, None, Position | None]:
        self._awaited = True
        # Who waits no more does not take the message back.
        return position_of((yield from asyncio.shield(self._reply).__await__()))

    def _done(self, reply: "asyncio.Future[Any]") -> None:
        if reply.exception() is not None:
            self._failed()

    def __del__(self) -> None:
        # As asyncio does it: nobody can wait for it any more.
        if not self._awaited and self._reply.done() and (error := self._reply.exception()) is not None:
            self._unheard(error)


class Messages:
    """Takes what is published on this node, and on others.

    Args:
        node: The node's id.
        names: What things are called.
        rooms: The node's members.
        commands: Where Redis is told.
        stats: Counters.
        log: Hears of what is lost, or makes no sense.
        transform_message: Makes what members get of a message with history.
    """

    def __init__(
        self,
        node: str,
        names: Names,
        rooms: Rooms,
        commands: Commands,
        stats: ClusterStats,
        log: ThrottledLog,
        transform_message: TransformMessage | None,
    ) -> None:
        self._node = node
        self._names = names
        self._rooms = rooms
        self._commands = commands
        self._stats = stats
        self._log = log
        self._transform_message = transform_message
        self._echo = echo_of(node)
        self._tags = itertools.count(1)
        # What is still to come back from Redis, by room and tag.
        self._under_way: dict[str, dict[int, _UnderWay]] = {}

    def publish(
        self,
        room: str,
        message: str | JSONValue,
        exclude: "Sequence[Session]",
        history: int,
        ttl: float | None,
        subscribed: "asyncio.Future[None] | None",
    ) -> _Sent:
        """Send a message to all in a room; see ``router.publish``.

        Args:
            room: Where.
            message: What.
            exclude: Who on this node does not get it.
            history: How many messages the room's history shall hold.
            ttl: Seconds that it is kept.
            subscribed: Done once this node hears what is published in the room; None where nobody here is in it.
        """
        # Behind one with history, one without takes the same way, so that they arrive in their order.
        tag = next(self._tags) if history or room in self._under_way else 0
        command = publish_command(self._names, room, encode(self._node, tag, message), history, ttl)
        self._stats.published += 1
        if not tag:
            self._rooms.publish(room, PreparedMessage(message), exclude)
            return _Sent(self._commands.submit(*command), self._count_loss, self._tell_loss)
        # Members that have come just now hear it, too.
        reply = self._commands.submit(*command, after=subscribed)
        # Where the room is not subscribed to, nothing comes back.
        if subscribed is not None and not (subscribed.done() and subscribed.exception()):
            self._under_way.setdefault(room, {})[tag] = _UnderWay(None if history else message, exclude)
            reply.add_done_callback(lambda reply: self._give_up(room, tag) if reply.exception() else None)
        return _Sent(reply, self._count_loss, self._tell_loss)

    def _count_loss(self) -> None:
        self._stats.publish_failures += 1

    def _tell_loss(self, error: BaseException) -> None:
        self._log.write(logger, logging.WARNING, "lost message", "a message did not reach other nodes: %s", error)

    def _take(self, room: str, tag: int) -> _UnderWay | None:
        tags = self._under_way.get(room, {})
        taken = tags.pop(tag, None)
        if not tags:
            self._under_way.pop(room, None)
        return taken

    def _give_up(self, room: str, tag: int) -> None:
        """Expect a message back no more."""
        taken = self._take(room, tag)
        if taken is not None and taken.message is not None:
            # As it is without Redis: members on one node hear each other.
            self._rooms.publish(room, PreparedMessage(taken.message), taken.exclude)

    def forget(self, *rooms: str) -> None:
        """Expect nothing back any more in rooms, or in any, because they are not subscribed to."""
        for room in rooms or tuple(self._under_way):
            for tag in tuple(self._under_way.get(room, ())):
                self._give_up(room, tag)

    def deliver(self, room: str, data: bytes) -> None:
        """Take what was published in a room, and came by Redis."""
        if data.startswith(self._echo):
            return
        self._stats.received += 1
        try:
            node, tag, message, position = decode(data)
        except ValueError as error:
            self._stats.skipped += 1
            self._log.write(logger, logging.WARNING, "envelope", "skipped what some program has published: %s", error)
            return
        excluded: Sequence[Session] = ()
        try:
            if node == self._node:
                taken = self._take(room, tag)
                if taken is not None:
                    excluded = taken.exclude
                elif position is None:
                    # It was given up, and members have it.
                    return
            if position is not None and self._transform_message is not None:
                message = encode_message(self._transform_message(room, value_of(message), position))
            self._rooms.publish(room, PreparedMessage(message), excluded)
        except Exception as error:
            # It is the application's; what comes next must not suffer.
            self._log.write(logger, logging.ERROR, "deliver", "a message was not delivered", error=error)
