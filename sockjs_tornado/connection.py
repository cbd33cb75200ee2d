"""The classes that an application subclasses and uses::

    class Echo(SockJSConnection):
        async def on_message(self, message):
            await self.send(message)

Connections must be used from the event loop's thread, apart from :meth:`SockJSConnection.send_threadsafe`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Generator, Iterable
from typing import TYPE_CHECKING, Any

from .exceptions import ConnectionClosed
from .function_checks import UnusedMethods
from .observe import trace
from .overridable import overridable, overridable_with_warning
from .protocol import encode_outgoing
from .session import control
from .session.connection_info import ConnectionInfo
from .session.outbox import TRACED
from .session.rooms import COMPLETED, check_room

if TYPE_CHECKING:
    from .session.ports import Position
    from .session.session import Session


logger = logging.getLogger(__name__)


class SendResult:
    """The awaitable that :meth:`SockJSConnection.send` returns; it may be awaited any number of times.

    A session keeps one until it has ended, so that sending allocates nothing.
    """

    __slots__ = ("_session",)

    def __init__(self, session: "Session") -> None:
        self._session = session

    def __await__(self) -> Generator[Any, Any, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        """Wait until the outbox is below its high-water mark; raise ConnectionClosed if the session is closed."""
        session = self._session
        while session._outbox_above_high_water:
            drained = asyncio.Event()
            session._add_outbox_waiter(drained.set)
            try:
                await drained.wait()
            finally:
                session._remove_outbox_waiter(drained.set)
        if session.is_closed:
            raise ConnectionClosed(session.close_code or 0, session.close_reason or "")


class SockJSConnection:
    """One client's connection. Subclass it and override the callbacks.

    Each callback may be a plain function or ``async def``. The callbacks of a connection run in order, one at a time.
    If a callback raises, the error is logged and the connection is closed with code 1011; if ``on_open`` raises
    ``tornado.web.HTTPError``, with code 3000 and without a log entry.

    Args:
        session: The session of the connection.

    Attributes:
        session: The session of the connection.
    """

    session: "Session"

    def __init__(self, session: "Session") -> None:
        if type(session).__module__ == "tornado.httputil":
            # A request: Tornado calls what is neither a handler nor a router.
            raise TypeError(
                f"{type(self).__name__} is not a request handler: create SockJSRouter({type(self).__name__}, "
                '"/prefix"), and pass its URLs, Application(router.urls)'
            )
        self.session = session

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """Select a websocket subprotocol. The default selects none.

        Called before ``on_open`` if a websocket or raw websocket client offers subprotocols (RFC 6455, section 1.9);
        sockjs-client never does. ``self.session.conn_info`` is the request. The result is available as
        ``info.subprotocol``. If a browser offers subprotocols and none is selected, it closes the connection. It must
        not be ``async def``.

        Args:
            subprotocols: The subprotocols that the client offers, in order of preference.

        Returns:
            One of them, or None. If it returns anything else or raises, the error is logged and the client gets status
            500. Raise ``tornado.web.HTTPError`` to reject the client with another status, without a log entry.
        """
        return None

    def on_open(self, info: ConnectionInfo) -> Awaitable[bool | None] | bool | None:
        """Called when a client has opened the connection, before its first message.

        Args:
            info: The request that opened the session.

        Returns:
            False to reject the client, which closes the connection before any message is delivered. An exception
            rejects it, too; ``tornado.web.HTTPError`` does so without a log entry.
        """
        return None

    def on_message(self, message: Any) -> Awaitable[object] | object:
        """Called for each message: a ``str``, or ``bytes`` for a binary message on a raw websocket.

        If it is not overridden, the first message causes a warning.
        """
        kind = type(self)
        if kind.on_message is SockJSConnection.on_message:
            self.session._container.log.write_once(
                logger,
                logging.WARNING,
                ("unhandled", kind),
                "a client has sent a message, but %s has no on_message: messages are discarded. Define on_message, "
                "even if it does nothing%s",
                kind.__name__,
                UnusedMethods(kind, SockJSConnection),
            )
        return None

    def on_dropped(self, count: int) -> Awaitable[object] | object:
        """Called when ``count`` messages were dropped because the client does not read fast enough.

        Only if ``slow_consumer`` is, or returns, ``"drop_oldest"``. Messages that are dropped while this callback runs
        are reported by its next call.
        """

    def on_close(self) -> Awaitable[object] | object:
        """Called exactly once for every ``on_open``, when the connection is closed.

        ``close_code`` and ``close_reason`` are the arguments of :meth:`close`, those of the websocket client's close
        frame, or those of the server (:class:`CloseCode`), such as 1002 (connection interrupted) and 1006 (timeout, or
        network failure).
        """

    def send(self, message: Any, binary: bool = False) -> Awaitable[None]:
        """Send a message.

        It is written in the next iteration of the event loop, together with all other messages to this client. If a
        callback blocks the event loop, nothing is written until it returns.

        Args:
            message: A ``str``; a dict, list or tuple, which is encoded as JSON; a
                :class:`~sockjs_tornado.JSONValue`, which is JSON already; ``bytes`` on a raw websocket; or what the
                setting ``json_encode`` can encode. A page receives JSON as a value (``event.data`` is an object or
                array, as with sockjs-tornado 1.0), a raw websocket as text.
            binary: Send text as a binary message; for raw websockets.

        Returns:
            An awaitable, which need not be awaited. If it is awaited, it waits while more than 64 Ki characters are
            queued for the client or its socket's write buffer is full. It raises ConnectionClosed if the connection is
            closed.

        Raises:
            TypeError: If the message is of another type, or ``bytes`` on a transport for text.
            ValueError: If it contains a number that JSON does not support (NaN or an infinity).
            RuntimeError: If called from a thread other than the event loop's. From there, call
                :meth:`send_threadsafe`.
        """
        session = self.session
        if session.is_closed:
            # Not to a method that a session class overrides, which would have no connection any more.
            session._send_message_fallback(message, binary=binary)
        elif binary:
            if isinstance(binary, str | bytes | dict | list | tuple):
                raise TypeError(f"send() takes one message; binary must be True or False, not {type(binary).__name__}")
            session.send_message(message, binary=True)
        else:
            session.send_message(message)
        try:
            result = session._send_result
        except AttributeError:
            # Tests of applications for sockjs-tornado 1.0 have sessions with `is_closed` and `send_message` only.
            return SendResult(session)
        if result is None:
            result = SendResult(session)
            # Once conn is set to None, keeping the result would create a cycle.
            if session.conn is not None:
                session._send_result = result
        return result

    def send_threadsafe(self, message: Any, binary: bool = False) -> None:
        """Send a message from any thread.

        It is encoded in the calling thread: errors are raised there, and later changes to the message have no effect.
        The event loop sends it in its next iteration, after the messages of earlier calls, or discards it if the
        connection is closed by then. It calls neither :meth:`send` nor ``session.send_message``, if these are
        overridden.

        Args:
            message: A message for :meth:`send`.
            binary: Send text as a binary message; for raw websockets.

        Raises:
            TypeError: If the message is of another type, or ``bytes`` on a transport for text.
            ValueError: If it contains a number that JSON does not support (NaN or an infinity).
        """
        session = self.session
        json_encode = session._settings.json_encode
        encoded = encode_outgoing(message, json_encode, binary=binary, accepts_bytes=session._accepts_bytes)
        if not session.is_closed:
            # RuntimeError if the event loop is closed, which ends all connections.
            with contextlib.suppress(RuntimeError):
                session.server._loop.loop.call_soon_threadsafe(session.send, encoded)

    def broadcast(self, clients: "Iterable[SockJSConnection]", message: Any) -> None:
        """Send one message to many connections. It is encoded once. Closed connections are skipped.

        Args:
            clients: An iterable of connections; it may be modified while the message is sent.
            message: A message for :meth:`send`, except ``bytes``.
        """
        self.session.broadcast(clients, message)

    def join(self, room: str, *, presence: Any = None) -> Awaitable[None]:
        """Join a room. From then on, the client receives all messages that are published in it.

        Joining a room again does nothing, except that it may set the presence. A connection leaves its rooms when it is
        closed, and a closed connection joins none.

        Args:
            room: Name of the room, any text.
            presence: The client's presence in the room, which ``router.presence`` returns: any JSON value. It replaces
                the previous one. None, the default, leaves the presence unchanged, or unset; members without a
                presence are not in ``router.presence`` and ``router.presence_count``.

        Returns:
            An awaitable, which need not be awaited. With a cluster, it waits until messages that other processes
            publish, and messages with a history, are received. It raises ClusterUnavailable if Redis is unavailable;
            then the connection is in the room, and receives these messages when Redis is available again.

        Raises:
            TypeError: If the name is not a ``str``, or the presence cannot be encoded as JSON.
            ValueError: If the presence cannot be encoded as JSON.
            RuntimeError: If called from a thread other than the event loop's, or if the cluster was not started.
        """
        session = self.session
        session._check_thread()
        check_room(room)
        if session.is_closed:
            return COMPLETED
        if session._blocked & TRACED:
            session._trace(f"joins the room {trace.message(room)}")
        return session._container.rooms.join(session, room, presence)

    def leave(self, room: str) -> None:
        """Leave a room. Does nothing if the connection is not in it.

        Args:
            room: Name of the room.

        Raises:
            TypeError: If the name is not a ``str``.
            RuntimeError: If called from a thread other than the event loop's.
        """
        session = self.session
        session._check_thread()
        check_room(room)
        if session._blocked & TRACED:
            session._trace(f"leaves the room {trace.message(room)}")
        session._container.rooms.leave(session, room)

    def publish(
        self,
        room: str,
        message: Any,
        exclude: "SockJSConnection | Iterable[SockJSConnection]" = (),
        *,
        history: int = 0,
        ttl: float | None = None,
        idempotency_key: str | None = None,
    ) -> "Awaitable[Position | None]":
        """Send one message to all connections in a room: :meth:`SockJSRouter.publish` of the connection's router.

        The connection need not be in the room, and may be closed.

        Args:
            room: Name of the room.
            message: A message for :meth:`send`, except ``bytes``.
            exclude: A connection, or several, to which the message is not sent; ``exclude=self`` for all others.
            history: Number of messages that the cluster keeps for this room.
            ttl: Seconds for which the history is kept after this message.
            idempotency_key: Identifies the message for a retry.

        Returns:
            An awaitable, which need not be awaited.
        """
        # Not self.router, which may be the application's own attribute.
        published: Awaitable[Position | None] = self.session.server.publish(
            room, message, exclude, history=history, ttl=ttl, idempotency_key=idempotency_key
        )
        return published

    def tag(self, name: str) -> None:
        """Give the connection a tag, such as ``"user:42"``, by which ``router.select`` finds it in every process.

        Clients can neither see nor set tags. A connection loses its tags when it is closed, and a closed connection
        gets none. Tag a connection before you check whether its user may connect: then a ``disconnect`` that happens
        in between is not missed.

        Args:
            name: The tag, of 1 to 1,000 characters. A connection can have 100 tags.

        Raises:
            TypeError: If the tag is not a ``str``.
            ValueError: If it is empty or too long, or if the connection has too many.
            RuntimeError: If called from a thread other than the event loop's.
        """
        session = self.session
        session._check_thread()
        if not session.is_closed:
            control.add_tag(session._container.rooms, session, name)

    def untag(self, name: str) -> None:
        """Remove a tag. Does nothing if the connection does not have it.

        Args:
            name: The tag.

        Raises:
            TypeError: If the tag is not a ``str``.
            ValueError: If no connection can have it.
            RuntimeError: If called from a thread other than the event loop's.
        """
        self.session._check_thread()
        control.remove_tag(self.session._container.rooms, self.session, name)

    @overridable_with_warning("sets no tag: call tag(name)")
    def tags(self) -> frozenset[str]:
        """The tags of the connection; in ``on_close``, those that it had."""
        return control.tags_of(self.session._container.rooms, self.session)

    @overridable
    def global_id(self) -> str:
        """An id for ``router.select(id=...)`` in every process. No other connection has it, also after a restart.

        It is not the session id, which is a secret, nor the key of the connection in ``router.presence``.
        """
        return control.global_id(self.session._container.rooms, self.session)

    @overridable
    def router(self) -> Any:
        """The router, a :class:`~sockjs_tornado.SockJSRouter`; ``session.server`` is the same."""
        return self.session.server

    @overridable_with_warning("joins no room: call join(room)")
    def rooms(self) -> frozenset[str]:
        """Names of the rooms that the connection is in; in ``on_close``, of the rooms that it was in."""
        return self.session._container.rooms.rooms_of(self.session)

    def close(self, code: int = 3000, reason: str = "Go away!") -> None:
        """Close the connection. Messages that were sent before are delivered first.

        Messages of the client that wait for a callback are discarded. If the client disconnects, or ``router.close`` or
        ``router.drain`` closes the session, they are still delivered, unless this method is called afterwards. It does
        nothing else if the connection is already closed.

        Args:
            code: Close code for the client, 0-65535. Use 3000-4999, or 1000-1003 or 1007-1014 for their meaning in
                RFC 6455, section 7.4. A raw websocket receives the nearest of these instead of any other code.
            reason: Close reason. A raw websocket receives at most 123 bytes of UTF-8.

        Raises:
            TypeError: If the code is not an ``int`` or the reason is not a ``str``.
            ValueError: If the code is not within 0-65535. If this or TypeError is raised, the connection was closed
                with code 1011.
            RuntimeError: If called from a thread other than the event loop's.
        """
        self.session.close(code, reason)

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed."""
        return self.session.is_closed

    @overridable
    def id(self) -> str:
        """A name for logs, unique among the router's connections. Not the session id, which is a secret."""
        return self.session.label

    @overridable
    def close_code(self) -> int | None:
        """The close code; None while the connection is open."""
        return self.session.close_code

    @overridable
    def close_reason(self) -> str | None:
        """The close reason; None while the connection is open."""
        return self.session.close_reason
