"""What an application subclasses and sees::

    class Echo(SockJSConnection):
        async def on_message(self, message):
            await self.send(message)

Nothing here may be used from another thread than the event loop's own; ``loop.call_soon_threadsafe(connection.send,
message)`` is the way in from outside.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from .exceptions import ConnectionClosed
from .protocol import Outgoing, encode_message
from .session.request_limits import INFORMATIONAL, KEPT

if TYPE_CHECKING:
    from .session.session import Session

__all__ = ["ConnectionInfo", "Headers", "SockJSConnection", "drained"]

logger = logging.getLogger(__name__)


# One text for the names in all sessions.
_LOWER: Final = {name: name for name in KEPT | INFORMATIONAL}


class Headers(Mapping[str, str]):
    """Header fields, found by their name in any case.

    Args:
        fields: The fields.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = {_LOWER.get(name) or name.lower(): value for name, value in fields.items()}

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._fields!r})"


class ConnectionInfo:
    """The request that opened a session, as far as an application may safely know it.

    Attributes:
        ip: Address of the client (of the last proxy, unless the HTTP server was made with ``xheaders=True``).
        port: Its port; 0 where there is none to tell, as on a Unix socket.
        path: Path of the request as it was sent.
        uri: Path and query.
        prefix: The part of the path that the router's prefix matched.
        transport: Name of the transport that opened the session, such as ``"websocket"``.
        headers: Selected header fields, found by their name in any case: origin, referer, user-agent, accept-language,
            host, via, x-real-ip, x-client-ip, x-cluster-client-ip and ``x-forwarded-*``; authorization as well where an
            origin list is configured.
        subprotocol: What ``select_subprotocol`` returned for a websocket; None if no subprotocol is used.
        cookies: Cookies of the request; empty unless an origin list is configured, because without one any site's
            page may open a session with the visitor's cookies. Both are left out if the request's origin is ``null``,
            which any site can bring about.

    User-agent, referer, accept-language and via are cut after 512 characters, and nothing else: a request whose URI has
    more than 8192 characters is answered with 414; with 431, one whose other fields and cookies have more than 16384
    together, or that has more than 32 fields ``x-forwarded-*``.
    """

    __slots__ = ("_cookies", "headers", "ip", "port", "prefix", "subprotocol", "transport", "uri")

    #: Header fields that are passed on, beside those starting with ``x-forwarded-``.
    SAFE_HEADERS = KEPT | INFORMATIONAL

    def __init__(
        self,
        *,
        ip: str,
        uri: str,
        prefix: str,
        transport: str,
        headers: Mapping[str, str],
        cookies: Mapping[str, str] | Callable[[], Mapping[str, str]] | None,
        port: int = 0,
    ) -> None:
        self.ip = ip
        self.port = port
        self.uri = uri
        self.prefix = prefix
        self.transport = transport
        self.subprotocol: str | None = None
        self.headers = Headers(headers)
        self._cookies = cookies

    @property
    def path(self) -> str:
        """Path of the request as it was sent."""
        return self.uri.partition("?")[0]

    @property
    def cookies(self) -> Mapping[str, str]:
        """The request's cookies, by name."""
        if callable(self._cookies):
            return self._cookies()
        if self._cookies is None:
            logger.debug(
                "no cookies without allowed_origins, or for the origin null: any site's page may open a session"
            )
            self._cookies = {}
        return self._cookies

    @property
    def arguments(self) -> dict[str, list[str]]:
        """The query's arguments, each name with its values in order."""
        return parse_qs(self.uri.partition("?")[2], keep_blank_values=True)

    def get_argument(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of a query argument, or ``default``."""
        values = self.arguments.get(name)
        return values[0] if values else default

    def get_header(self, name: str, default: str | None = None) -> str | None:
        """Return a header field by its name in any case, or ``default``."""
        return self.headers.get(name, default)

    def get_cookie(self, name: str, default: str | None = None) -> str | None:
        """Return a cookie's value, or ``default``."""
        return self.cookies.get(name, default)


async def drained(session: "Session") -> None:
    """Wait until the client keeps up with what is sent to it.

    Raises:
        ConnectionClosed: The session is closed, or closes meanwhile.
    """
    while session._outbox_above_high_water:
        waiting = asyncio.Event()
        session._add_outbox_waiter(waiting.set)
        try:
            await waiting.wait()
        finally:
            session._remove_outbox_waiter(waiting.set)
    if session.is_closed:
        raise ConnectionClosed(session.close_code or 0, session.close_reason or "")


class _RoomNames:
    """What ``connection.rooms`` is, unless an application has an attribute of its own of that name."""

    def __get__(self, connection: "SockJSConnection | None", owner: type | None = None) -> frozenset[str]:
        return connection.session._rooms if connection is not None else frozenset()


class SockJSConnection:
    """One client's connection: subclass it and override the callbacks.

    Each callback may be plain or ``async def``; a connection's callbacks run in order, one at a time. One that raises
    is logged and closes this connection with code 1011.

    Args:
        session: The session that carries the connection.

    Attributes:
        session: The same. ``session.server`` is the router.
    """

    session: "Session"

    def __init__(self, session: "Session") -> None:
        self.session = session

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """Return the subprotocol to use of those that a websocket client offers, or None, the default, for none.

        Called before ``on_open``, for a websocket or raw websocket whose client offers some (RFC 6455, section 1.9);
        sockjs-client never does. ``self.session.conn_info`` describes the request, and the result is in
        ``info.subprotocol``. If a browser offers some and gets none, it ends the connection. This is no ``async def``.

        Args:
            subprotocols: What the client offers, the one it likes best first.

        Returns:
            One of them, or None. Anything else, or an exception, is logged, and the client gets status 500;
            ``tornado.web.HTTPError`` refuses it with another status and without an entry in the log.
        """
        return None

    def on_open(self, info: ConnectionInfo) -> Awaitable[bool | None] | bool | None:
        """Hear of a new client, before its first message.

        Args:
            info: The request that opened the session.

        Returns:
            False to reject the client; the connection is closed before any message. So it is where an exception is
            raised; ``tornado.web.HTTPError`` does it without an entry in the log.
        """
        return None

    def on_message(self, message: Any) -> Awaitable[object] | object:
        """Take a client's message: ``str``, or ``bytes`` for a binary message on a raw websocket."""

    def on_dropped(self, count: int) -> Awaitable[object] | object:
        """Hear that ``count`` messages to this client were dropped, because it does not keep up.

        It happens where ``slow_consumer`` says ``"drop_oldest"``. Messages that are dropped while this runs are told
        of with the next loss.
        """

    def on_close(self) -> Awaitable[object] | object:
        """Hear, exactly once for every ``on_open``, that the connection is over.

        ``close_code`` and ``close_reason`` tell why: what :meth:`close` was given, what a websocket client said, or
        1002 (connection interrupted) and 1006 (timed out, or the network was lost).
        """

    def send(
        self, message: str | bytes | bytearray | dict[str, Any] | list[Any], binary: bool = False
    ) -> Awaitable[None]:
        """Send a message.

        It leaves when the event loop comes round, together with all else that is sent to this client until then; a
        callback that blocks the loop holds it back.

        Args:
            message: ``str``; a dict or list of JSON's types, which reaches the page as a value (``event.data`` is an
                object or array there, as with sockjs-tornado 1.0) and a raw websocket as JSON text; ``bytes`` on a raw
                websocket.
            binary: Send text as its UTF-8 bytes; for raw websockets.

        Returns:
            An awaitable that need not be awaited. Awaited, it waits while more than 64 Ki characters are queued for
            the client or its socket is full, and raises ConnectionClosed where the connection is closed.

        Raises:
            TypeError: The message is of another type, or bytes on a transport that carries text alone.
            ValueError: JSON has no form for a number in it: not a number, or infinite.
            RuntimeError: In another thread than the event loop's;
                ``loop.call_soon_threadsafe(connection.send, message)`` is the way from there.
        """
        session = self.session
        if type(message) is not str or binary:
            session.send(_encode(message, binary, session._accepts_bytes))
        else:
            session.send(message)
        return session

    def broadcast(self, clients: "Iterable[SockJSConnection]", message: str | dict[str, Any] | list[Any]) -> None:
        """Send one message to many connections; it is encoded once. Closed ones are passed over.

        Args:
            clients: Connections, in any iterable; it may change meanwhile.
            message: ``str``, or a dict or list, as :meth:`send` takes them.
        """
        self.session.server.broadcast(clients, message)

    def join(self, room: str, presence: Any = None) -> Awaitable[None]:
        """Enter a room: from now on, what is published there reaches this client. To enter twice does nothing.

        A connection leaves its rooms when it closes; one that is closed enters none.

        Args:
            room: Its name, any text.
            presence: What ``router.presence`` tells others of this client while it is in the room, any JSON value:
                another one takes its place. None, the default, does not show the client, or changes nothing.

        Returns:
            An awaitable that need not be awaited. Awaited, with a cluster, it waits until what is published in other
            processes, and what is published with a history, reaches this one. It raises ClusterUnavailable where Redis
            is away; the connection is in the room all the same, and hears the others when Redis is back.

        Raises:
            TypeError: The name is no ``str``, or JSON has no form for the presence.
            ValueError: JSON has no form for the presence.
            RuntimeError: In another thread than the event loop's, or on a cluster that was not started.
        """
        return self.session._join(room, presence)

    def leave(self, room: str) -> None:
        """Leave a room; where the connection is not in it, that does nothing.

        Args:
            room: Its name.

        Raises:
            RuntimeError: In another thread than the event loop's.
        """
        self.session._leave(room)

    #: Names of the rooms that the connection is in; in ``on_close``, of those that it was in.
    rooms = _RoomNames()

    def close(self, code: int = 3000, reason: str = "Go away!") -> None:
        """Close the connection; what was sent before still goes out first. Closing twice does nothing.

        Args:
            code: Close code that the client sees: 1000-1003, 1007-1014 (RFC 6455, section 7.4) or, for applications,
                3000-4999.
            reason: The same in words, at most 123 bytes of UTF-8 where a raw websocket shall see it whole.

        Raises:
            TypeError: The reason is no ``str``.
            ValueError: The code is another one.
        """
        self.session.close(code, reason)

    @property
    def is_closed(self) -> bool:
        """Whether the connection is over."""
        return self.session.is_closed

    @property
    def id(self) -> str:
        """A name for logs, unique among the router's connections. It is not the session id, which is a secret."""
        return self.session.label

    @property
    def close_code(self) -> int | None:
        """Why the connection closed; None while it is open."""
        return self.session.close_code

    @property
    def close_reason(self) -> str | None:
        """The same in words."""
        return self.session.close_reason


def _encode(message: object, binary: bool, takes_bytes: bool) -> Outgoing:
    if isinstance(message, bytes | bytearray | memoryview):
        if not takes_bytes:
            raise TypeError("only a raw websocket carries bytes; encode them as text, in base64 for example")
        return bytes(message)
    encoded = encode_message(message)
    return str(encoded).encode() if binary and takes_bytes else encoded
