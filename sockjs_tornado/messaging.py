"""Messages and commands for the connections of a router: a list of them, those in rooms, and those with tags."""

from collections.abc import Awaitable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from .connection import SockJSConnection
from .exceptions import ConfigurationError
from .protocol import PreparedMessage, encode_message
from .session.control import Command, Selection, check_target, execute, keywords_only
from .session.ports import Cluster, Position, PublishOptions
from .session.rooms import COMPLETED, check_room, check_rooms, excluded_sessions
from .session.session import Session
from .settings import Settings
from .validation import safe_repr

if TYPE_CHECKING:
    from .session.container import SessionContainer


class Messaging:
    """The base class of :class:`~sockjs_tornado.router.SockJSRouter`, which documents the attributes."""

    settings: Settings
    container: "SessionContainer"
    cluster: Cluster | None

    def broadcast(self, clients: Iterable[SockJSConnection], message: Any) -> None:
        """Send one message to many connections. It is encoded once for each transport.

        Args:
            clients: An iterable of connections; it may be modified while the message is sent. Closed connections are
                skipped.
            message: A message for :meth:`SockJSConnection.send`, except ``bytes``.

        Raises:
            TypeError: If the message is of another type, or is given in place of the clients.
            ValueError: If it contains a number that JSON does not support.
            RuntimeError: If called from a thread other than the event loop's.
        """
        given: Any = clients
        receivers: tuple[SockJSConnection, ...] = tuple(given) if isinstance(given, Iterable) else (given,)
        if not isinstance(given, Iterable) or (receivers and not hasattr(receivers[0], "session")):
            wrong: object = receivers[0]
            raise TypeError(
                "broadcast(clients, message): clients must be an iterable of connections, such as "
                f"router.connections, got {safe_repr(wrong)} ({type(wrong).__name__})"
            )
        prepared = PreparedMessage(encode_message(message, self.settings.json_encode))
        if receivers:
            receivers[0].session._check_thread("router.io_loop.add_callback(router.broadcast, clients, message)")
        for client in receivers:
            client.session._send_prepared(prepared)

    def publish(
        self,
        room: str,
        message: Any,
        exclude: SockJSConnection | Iterable[SockJSConnection] = (),
        *,
        history: int = 0,
        ttl: float | None = None,
        idempotency_key: str | None = None,
    ) -> Awaitable[Position | None]:
        """Send one message to all connections in a room. It is encoded once for each transport.

        With a cluster, it is sent to the members in all processes. The members in this process receive it at once,
        unless it is published with a history, or an earlier message with a history is still pending for the room.

        Args:
            room: Name of the room. If it has no members, the message is discarded.
            message: A message for :meth:`SockJSConnection.send`, except ``bytes``.
            exclude: A connection, or several, to which the message is not sent; usually its author.
            history: Number of messages that the cluster keeps for this room, including this one. If it is above 0, all
                members, including those in this process, receive the message through Redis, in the order of the
                history. Default 0: the message is not kept.
            ttl: Seconds for which the history is kept after this message. None means a day.
            idempotency_key: A text of 1 to 200 characters that identifies the message, for a retry after
                ClusterUnavailable. For 10 minutes, the room receives one message with this key: publishing another one
                sends nothing, and returns the position of the first. All members receive such a message through Redis.

        Returns:
            An awaitable, which need not be awaited. With a cluster, it waits until Redis has received the message, and
            returns the message's position in the history, or None without a history. It raises ClusterUnavailable if
            Redis is unavailable or did not execute the command; if it is not awaited, that is counted and logged.

        Raises:
            TypeError: If the message is of another type, the name of the room is not a ``str``, or ``exclude`` is
                something else, such as an id.
            ValueError: If the message contains a number that JSON does not support, or ``history``, ``ttl`` or
                ``idempotency_key`` is invalid.
            ConfigurationError: If one of these is given without a cluster on Redis.
            RuntimeError: If called from a thread other than the event loop's, or if the cluster was not started.
        """
        check_room(room)
        encoded = encode_message(message, self.settings.json_encode)
        sessions = excluded_sessions(exclude)
        options = PublishOptions(history, ttl, idempotency_key)
        if self.cluster is not None:
            return self.cluster.publish(room, encoded, sessions, options)
        if options != PublishOptions():
            raise ConfigurationError(
                "history, ttl and idempotency_key require a RedisCluster: create the router with "
                "SockJSRouter(cluster=RedisCluster(url))"
            )
        self.container.rooms.publish(room, PreparedMessage(encoded), sessions)
        return COMPLETED

    def publish_many(
        self, rooms: Iterable[str], message: Any, exclude: SockJSConnection | Iterable[SockJSConnection] = ()
    ) -> Awaitable[None]:
        """Send one message to all connections in some rooms: ``publish`` for each, but faster. It is encoded once.

        Args:
            rooms: Names of the rooms. A connection that is in several of them receives the message several times.
            message: As for :meth:`publish`.
            exclude: As for :meth:`publish`.

        Returns:
            As for :meth:`publish`. If it raises ClusterUnavailable, the message may have reached some of the rooms.

        Raises:
            TypeError: If the message is of another type, ``rooms`` is not an iterable of ``str``, or ``exclude`` is
                something else than connections.
            ValueError: If the message contains a number that JSON does not support.
            RuntimeError: If called from a thread other than the event loop's, or if the cluster was not started.
        """
        names = check_rooms(rooms)
        encoded = encode_message(message, self.settings.json_encode)
        sessions = excluded_sessions(exclude)
        if self.cluster is not None:
            return self.cluster.publish_many(names, encoded, sessions)
        prepared = PreparedMessage(encoded)
        for room in names:
            self.container.rooms.publish(room, prepared, sessions)
        return COMPLETED

    @keywords_only
    def select(
        self,
        *,
        room: str | None = None,
        tag: str | None = None,
        id: str | None = None,
        exclude: SockJSConnection | Iterable[SockJSConnection] = (),
    ) -> Selection[Awaitable[None]]:
        """Select connections, in all processes of a cluster, to close them, to add them to a room, or to send to them::

            router.select(tag="user:42").disconnect(4001, "Logged out")

        Args:
            room: Select the members of this room.
            tag: Select the connections with this tag; see :meth:`SockJSConnection.tag`.
            id: Select the connection with this :attr:`~SockJSConnection.global_id`.
            exclude: A connection, or several, that are not selected; usually ``self``.

        Returns:
            A :class:`~sockjs_tornado.session.control.Selection`. Its methods apply to the connections in this process
            at once, or after messages with a history that are still pending. Like ``publish``, they reach other
            processes at most once.

        Raises:
            TypeError: Unless one of ``room``, ``tag`` and ``id`` is given by keyword, as a ``str``, or if ``exclude``
                is something else than connections.
            ValueError: If no connection can have this tag or id, such as the ``id`` of a connection, which is not
                unique.
        """
        target = check_target(room, tag, id)
        return Selection(target, partial(self._execute, excluded_sessions(exclude)), self.settings.json_encode)

    def _execute(self, exclude: list[Session], command: Command) -> Awaitable[None]:
        if self.cluster is not None:
            return self.cluster.execute(command, exclude)
        execute(self.container.rooms, command, exclude)
        return COMPLETED

    async def presence(self, room: str) -> dict[str, Any]:
        """Return the presence of the members of a room, in all processes of a cluster.

        Args:
            room: Name of the room.

        Returns:
            The presence that each member has passed to ``join``, by ``"node:connection id"``. Without a cluster, the
            node is ``local``.

        Raises:
            TypeError: If the name of the room is not a ``str``.
            ClusterUnavailable: If Redis is unavailable.
            RuntimeError: If the cluster was not started.
        """
        if self.cluster is not None:
            return await self.cluster.presence(room)
        return {f"local:{label}": value for label, value in self.container.rooms.presence(room).items()}

    async def presence_count(self, room: str) -> int:
        """Return the number of members of a room that have a presence, in all processes of a cluster.

        It is the length of what :meth:`presence` returns, but the members themselves are not sent to this process.

        Args:
            room: Name of the room.

        Raises:
            TypeError: If the name of the room is not a ``str``.
            ClusterUnavailable: If Redis is unavailable.
            RuntimeError: If the cluster was not started.
        """
        if self.cluster is not None:
            return await self.cluster.presence_count(room)
        return self.container.rooms.presence_count(room)
