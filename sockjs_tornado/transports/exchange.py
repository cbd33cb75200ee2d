"""The port between a transport and one HTTP request. Tornado's request handler implements it; other servers can."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ..observe.stats import Stats
from ..session.connection_info import ConnectionInfo
from ..session.ports import UnsentResponse
from ..session.session import Session
from ..settings import Settings
from ..wire.budget import ByteBudget
from ..wire.connection import Connection
from .origins import OriginPolicy

if TYPE_CHECKING:
    from ..session.container import SessionContainer
    from .endpoint import SessionEndpoint

#: Header fields of a response, in order.
Headers = list[tuple[str, str]]


class Relay(Protocol):
    """Forwards requests to the nodes of a cluster that own the sessions."""

    def owns(self, session_id: str) -> bool:
        """Return whether this process owns the session, or may open it."""

    def serve(self, endpoint: "SessionEndpoint", exchange: "Exchange") -> Awaitable[None] | None:
        """Forward a request to the owner of its session. If an awaitable is returned, the caller must await it."""

    async def handoff_clients(self) -> None:
        """Make the clients of sessions on other nodes reconnect through another node."""


class Adopters(Protocol):
    """Take connections over from Tornado's server, for all their further requests."""

    def adopt(self, handler: Any) -> bool:
        """Take the connection of a request over and serve the request; return False if nothing was done."""


class Router(Protocol):
    """The router, as a transport sees it.

    Attributes:
        websockets_enabled: Whether the websocket transport is enabled.
        prefix: The prefix of its URLs.
        _application: The Tornado application that has served the last request.
        _adopters: Takes connections over from Tornado's server; None if the setting ``adopt_connections`` is False.
        body_budget: The memory budget of all request bodies and incomplete websocket messages.
        cookie_needed: Whether session URLs set the JSESSIONID cookie.
        relay: Forwards requests for the sessions of other nodes; None without a cluster.
    """

    prefix: str
    settings: Settings
    origins: OriginPolicy
    websockets_enabled: bool
    cookie_needed: bool
    _application: Any
    _adopters: Adopters | None
    stats: Stats
    body_budget: ByteBudget
    relay: Relay | None

    @property
    def container(self) -> "SessionContainer":
        """The router's sessions and connections."""

    def create_session(self, session_id: str | None, register: bool, info: ConnectionInfo) -> Session:
        """Create a session and register it with the container."""

    def _set_application(self, application: Any) -> None:
        """Called when a request is served by another application than the last one."""

    def _measure_lag(self) -> None:
        """Called when an HTTP server serves the router."""

    def withhold_cookies(self) -> Mapping[str, str]:
        """Called when an application asks for cookies that it may not see."""


class PendingResponse(UnsentResponse, Protocol):
    """The unsent rest of a response."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback`` after the last byte was sent."""


class Exchange(Protocol):
    """One request and its response.

    A transport responds exactly once: with :meth:`respond`, now or later, or with :meth:`take_over`.

    Attributes:
        method: The request method.
        uri: The request's path and query, as the client sent them.
        session_id: The session id in the path, or ``""`` if there is none.
        remote_ip: The client's address.
        relayed: Whether another node forwarded the request.
        secure: Whether the client uses HTTPS, as far as a proxy reports it.
        is_http11: Whether the client uses HTTP/1.1, so that keep-alive and chunked responses are possible.
        responded: Whether the response was sent, or will not be needed because the client disconnected.
    """

    method: str
    uri: str
    session_id: str
    remote_ip: str
    relayed: bool
    secure: bool
    is_http11: bool
    responded: bool

    @property
    def remote_port(self) -> int:
        """The client's port, or 0 if it is unknown."""

    def fields(self) -> Iterable[tuple[str, str]]:
        """Return the request's header fields as the client sent them."""

    def header(self, name: str) -> str:
        """Return a request header, or ``""`` if it is missing."""

    def handshake(self) -> tuple[Headers, list[str]]:
        """Check the opening handshake of a websocket; return the fields of the response and the offered subprotocols.

        Raises:
            HandshakeError: It is invalid.
        """

    def cookie(self, name: str) -> str | None:
        """Return the value of a cookie, or None if it is missing."""

    def argument(self, name: str) -> str | None:
        """Return the first value of a query argument, or None if it is missing."""

    def ignored_proxy_fields(self) -> tuple[str, list[str]]:
        """Return why header fields in which a proxy reports the client may not have its address, and their names.

        The reason is ``"xheaders"`` or ``"trusted_proxies"``, the option without which they are ignored; ``"invalid"``
        if the field is not an address; ``"missing"`` if a trusted proxy sends none; ``"contradictory"`` if it has
        perhaps not overwritten that of the client; or empty if nothing is wrong. Fields that are ignored count only if
        the connection is from the same computer or a private network, as those of proxies are: other clients may send
        any field themselves.
        """

    def content_type(self) -> str:
        """Return the media type of the body in lower case, without parameters."""

    def body(self) -> bytes | bytearray:
        """Return the request body."""

    def release_body(self) -> None:
        """Free the memory of the body. :meth:`wait_for_response` does so, too."""

    def jsessionid_setting(self) -> str | bool:
        """Evaluate the ``jsessionid`` setting: a Set-Cookie value, True for the default cookie, or False for none."""

    def info(self, transport: str, suffix: int) -> ConnectionInfo:
        """Return the description of the request for the application.

        ``suffix`` is the number of path segments after the router's prefix.

        Raises:
            RequestTooLargeError: The header fields are larger than a session may keep.
        """

    @property
    def pending(self) -> "PendingResponse | None":
        """The unsent rest of a response by :meth:`respond`, if it is long enough to be tracked."""

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Send a complete response."""

    def notify_on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` if the client disconnects before the response."""

    def wait_until_responded(self) -> Awaitable[None]:
        """Return an awaitable that waits until the response is sent, or the client disconnects."""

    def wait_for_response(self, on_disconnect: Callable[[], None]) -> Awaitable[None]:
        """Free the memory of the request. Wait until the response is sent, or ``on_disconnect`` was called."""

    def take_over(self, status: int, protocol: Connection) -> Awaitable[None] | None:
        """Hand the connection over to ``protocol``, which writes the whole response including its head.

        ``status`` is for the access log. The caller must await what is returned, unless it is None.
        """

    @property
    def take_back(self) -> "Callable[[bytes, Callable[[], None] | None], PendingResponse | None] | None":
        """Called by a protocol that took the connection over, after it has written a complete response.

        The arguments are what the protocol has read in the meantime, and what :meth:`Connection.release_transport`
        returned. It returns the unsent rest of the response, if there is one. It is None if the connection must be
        closed after the response.
        """

    def fail(self, error: Exception) -> None:
        """Respond to a request whose endpoint has raised an exception."""

    def abort(self) -> None:
        """Close the connection without a response, because the client has disconnected."""

    def is_disconnected(self) -> bool:
        """Return whether the client has disconnected, even if the event loop has not reported it yet."""

    def probe_half_closed(self) -> bool:
        """Return whether a client that seems to have disconnected may still read, by sending it 100 Continue.

        If so, the response must be sent immediately, and closes the connection.
        """
