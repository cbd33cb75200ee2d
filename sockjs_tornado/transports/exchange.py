"""The port between a transport and one HTTP request: Tornado's handlers offer it, another front can."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from ..connection import ConnectionInfo
from ..observe.stats import Stats
from ..session.ended import Ended
from ..session.limits import ByteBudget
from ..session.ports import SessionManager, UnsentResponse
from ..session.session import Session
from ..settings import Settings
from ..wire.connection import Connection, ConnectionManager
from .origins import OriginPolicy

if TYPE_CHECKING:
    from .endpoint import SessionEndpoint

__all__ = ["Container", "DisconnectListener", "Exchange", "Headers", "PendingResponse", "Relay", "Router"]

#: Header fields of a response, in order.
Headers = list[tuple[str, str]]


class DisconnectListener(Protocol):
    """Who waits to answer a request that is kept open."""

    def on_disconnect(self) -> None:
        """Hear that the client has left before the answer."""


class PendingResponse(UnsentResponse, Protocol):
    """A response that is written, while the operating system has not taken all of it."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback`` when nothing is on its way any more."""


class Container(SessionManager, ConnectionManager, Protocol):
    """What keeps both sessions and connections."""

    #: Whether the router is emptied: no client may open a session.
    draining: bool

    def ended(self, session_id: str) -> Ended | None:
        """Return how a session ended that a client calls ``session_id``, None if that is long ago or unknown."""

    def limit_reached(self, ip: str) -> str | None:
        """Return the name of the limit that keeps a new session from ``ip`` out, None where there is room for it."""


class Relay(Protocol):
    """What knows who holds a session that is not here, where a router is one of many."""

    def owns(self, session_id: str) -> bool:
        """Tell whether the session is this process's to open."""

    def serve(self, endpoint: "SessionEndpoint", exchange: "Exchange") -> Awaitable[None] | None:
        """See that a request for such a session gets answered; what is returned has to be awaited."""

    async def handoff_clients(self) -> None:
        """Have the clients of sessions elsewhere ask anew, elsewhere."""


class Router(Protocol):
    """What a transport sees of its router.

    Attributes:
        settings: The settings.
        origins: The origin policy.
        closed: Whether the router has ended.
        websockets_enabled: Whether the websocket transport is offered.
        application: The application that serves it, once it has served a request.
        stats: Its counters.
        body_budget: What request bodies and unfinished websocket messages may take together.
        cookie_needed: Whether session URLs set the JSESSIONID cookie.
        relay: Where to ask for sessions that are not here; None where all sessions are.
    """

    settings: Settings
    origins: OriginPolicy
    closed: bool
    websockets_enabled: bool
    cookie_needed: bool
    application: Any
    stats: Stats
    body_budget: ByteBudget
    relay: Relay | None

    @property
    def container(self) -> Container:
        """The sessions, and the connections that were taken over for them."""

    def create_session(self, session_id: str | None, register: bool, info: ConnectionInfo) -> Session:
        """Make a session and keep it."""


class Exchange(Protocol):
    """One request and the answer to it.

    It is answered exactly once: by :meth:`respond`, now or later, or by :meth:`take_over`.

    Attributes:
        session_id: What the path named, ``""`` where it names none.
        remote_ip: The client's address.
        relayed: Whether another process has passed the request on.
        secure: Whether the client's request came over TLS, as far as is known behind a proxy.
        is_http11: Whether the client speaks HTTP/1.1: the connection may be kept, and bodies may come in chunks.
        responded: Whether the answer was given.
    """

    session_id: str
    remote_ip: str
    relayed: bool
    secure: bool
    is_http11: bool
    responded: bool

    @property
    def method(self) -> str:
        """The request's method."""

    @property
    def remote_port(self) -> int:
        """The client's port, 0 where there is none to tell."""

    @property
    def uri(self) -> str:
        """The request's path and query, as they were sent."""

    def fields(self) -> Iterable[tuple[str, str]]:
        """Return the request's header fields as they were sent, but for Accept-Encoding."""

    def header(self, name: str) -> str:
        """Return a request header, ``""`` where there is none."""

    def cookie(self, name: str) -> str | None:
        """Return a cookie of the request."""

    def argument(self, name: str) -> str | None:
        """Return the first value of a query argument."""

    def content_type(self) -> str:
        """Return the request's media type in lower case, without parameters."""

    def body(self) -> bytes | bytearray:
        """Return the request's body."""

    def release_body(self) -> None:
        """Keep the body no longer: what it says is known. A request that is held does so by itself."""

    def jsessionid_setting(self) -> str | bool:
        """Return what the ``jsessionid`` setting wants: a Set-Cookie value, True for the usual one, False for none."""

    def info(self, transport: str, suffix: int) -> ConnectionInfo:
        """Describe the request for the application.

        Args:
            transport: Name of the transport.
            suffix: How many segments of the path follow the router's prefix.

        Raises:
            RequestTooLargeError: The request names more than a session keeps.
        """

    @property
    def pending(self) -> PendingResponse | None:
        """What the operating system had not taken at once of a response by :meth:`respond`, if that was much."""

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Answer with a whole response."""

    def notify_on_disconnect(self, listener: DisconnectListener) -> None:
        """Have somebody told where the client leaves before the answer."""

    def wait_for_response(self, listener: DisconnectListener) -> Awaitable[None]:
        """Keep the request open until it is answered, or until the client has left."""

    def take_over(self, status: int, protocol: Connection) -> Awaitable[None]:
        """Give the connection to ``protocol``, which writes the response, its head included.

        Args:
            status: The response's status, for the access log.
            protocol: The new owner of the connection.

        Returns:
            What has to be awaited.
        """

    def abort(self) -> None:
        """Let go of the request without an answer: its client has left."""

    def is_disconnected(self) -> bool:
        """Tell whether the client has already left, even if the event loop has not said so yet."""

    def is_half_closed(self) -> bool:
        """Return whether a client that seems to have left has only ended its own direction of the connection.

        It is asked before the answer, which has to be given at once then, and ends the connection.
        """
