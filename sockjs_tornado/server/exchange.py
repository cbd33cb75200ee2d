"""The exchange port for the native server."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tornado.httputil import HTTPServerRequest

from ..http.base_exchange import BaseExchange
from ..session.connection_info import MAX_FORWARDED_FIELDS, select_fields
from ..transports.endpoint import Endpoint
from ..transports.exchange import Headers
from ..wire.budget import BudgetShare
from ..wire.connection import Connection
from ..wire.handshake import handshake_fields
from ..wire.http_parser import RequestHead, format_response
from ..wire.responses import shared_head
from ..wire.sockets import peer_reset
from .proxies import client_of
from .unsent import Unsent

if TYPE_CHECKING:
    from .connection import HTTPConnection

#: Unsent bytes from which on a response is tracked.
MIN_TRACKED: Final = 16 * 1024

#: Maximum size of a head that a session keeps, instead of what it selects of it.
MAX_DEFERRED: Final = 1024

_CLOSE = ("Connection", "close")


def _select_fields(head: RequestHead, cookies: str | None, trusted: Sequence[str]) -> Mapping[str, str]:
    return select_fields(head.fields(), cookies=cookies, trusted=trusted)


class NativeExchange(BaseExchange):
    """A request of a native connection, as an :class:`~sockjs_tornado.transports.exchange.Exchange`.

    Args:
        connection: The connection.
        head: The head of the request.
        uri: The path and query.
        endpoint: The endpoint that serves the request.
        session_id: The session id in the path, or ``""``.
        body: The request body.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_future",
        "_head",
        "_on_disconnect",
        "_share",
        "_started",
        "endpoint",
        "is_http11",
        "keep_alive",
        "method",
        "pending",
        "remote_ip",
        "responded",
        "secure",
        "session_id",
        "uri",
    )

    logger = logging.getLogger(__name__)

    def __init__(
        self,
        connection: "HTTPConnection",
        head: RequestHead,
        uri: str,
        endpoint: Endpoint,
        session_id: str,
        body: bytes | bytearray,
    ) -> None:
        server = connection.server
        self._connection = connection
        self._head = head
        self.endpoint = endpoint
        self.session_id = session_id
        self.uri = uri
        self.method = head.method
        self.is_http11 = head.is_http11
        # As Tornado's adapter, close the connections of HTTP/1.0 clients: some ask for keep-alive, but read to the end.
        self.keep_alive = head.keep_alive and head.is_http11 and not server.no_keep_alive
        self._body: bytes | bytearray = body
        self._share: BudgetShare | None = None
        self._on_disconnect: Callable[[], None] | None = None
        self._future: asyncio.Future[None] | None = None
        self._started = time.monotonic()
        self.responded = False
        self.pending: Unsent | None = None
        if server.xheaders:
            self.remote_ip, protocol = client_of(head, connection)
            self.secure = protocol == "https"
        else:
            self.remote_ip = connection.remote_ip
            self.secure = server.request_protocol == "https"

    # Called by the connection.

    def data_received(self, data: bytes) -> bytes:
        """Return all data, which belongs to the next request."""
        return data

    def on_disconnect(self) -> None:
        """Called when the client has disconnected."""
        if not self.responded:
            self.responded = True
            if self._on_disconnect is not None:
                self._on_disconnect()
            self._release()

    def serve(self) -> None:
        """Pass the request to its endpoint."""
        application = self._connection.server.application
        if self.endpoint.server._application is not application:
            self.endpoint.server._set_application(application)
        self._pass_to_endpoint()

    def _pass_to_endpoint(self) -> None:
        try:
            waiting = self.endpoint.handle(self)
        except Exception as error:
            self.fail(error)
            return
        # The exchange itself stands for a wait for its response.
        if waiting is not None and waiting is not self:
            self._connection.server.create_task(self._wait(waiting))

    async def _wait(self, waiting: Awaitable[None]) -> None:
        try:
            await waiting
        except Exception as error:
            self.fail(error)

    def set_body(self, body: bytearray, share: BudgetShare) -> None:
        """Set a body that was read after the head, and its share in the memory budget."""
        self._body = body
        self._share = share

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for 100 Continue before it sends the body."""
        return self._head.expects_continue

    def reject(self, status: int, headers: Headers, body: bytes) -> None:
        """Respond to a request whose body was not used, and close the connection."""
        self.keep_alive = False
        self._send(status, headers, body)
        self._connection.close_gracefully()

    # The exchange port.

    @property
    def remote_port(self) -> int:
        """The client's port, or 0 if it is unknown."""
        address = self._connection.address
        return address[1] if isinstance(address, tuple) and len(address) > 1 else 0

    def fields(self) -> list[tuple[str, str]]:
        """Return the request's header fields."""
        return self._head.fields()

    def header(self, name: str) -> str:
        """Return a request header, or ``""`` if it is missing."""
        return self._head.header(name)

    def handshake(self) -> tuple[Headers, list[str]]:
        """Check the opening handshake of a websocket; return the response's fields and the offered subprotocols."""
        accept = self._head.accept_handshake()
        return super().handshake() if accept is None else (handshake_fields(accept), [])

    def selected_fields(self, cookies: str | None) -> Mapping[str, str] | Callable[[], Mapping[str, str]]:
        """Return the header fields that a session keeps, or if all fields are as short as that, select them later."""
        head = self._head
        if head.size <= MAX_DEFERRED and head.count <= MAX_FORWARDED_FIELDS:
            return partial(_select_fields, head, cookies, self.endpoint.server.settings.trusted_headers)
        return super().selected_fields(cookies)

    def ignores_proxies(self) -> str:
        """Return which option makes the HTTP server ignore the header fields of proxies, as a reason."""
        server, ip = self._connection.server, self._connection.remote_ip
        if not server.xheaders:
            return "xheaders"
        is_trusted = not ip or server.trusted_peers is None or ip in server.trusted_peers
        return "" if is_trusted else "trusted_proxies"

    def is_from_trusted_proxy(self) -> bool:
        """Return whether the address of the connection is one of ``trusted_proxies``."""
        return self._connection.server.trusted_peers is not None and not self.ignores_proxies()

    def content_type(self) -> str:
        """Return the media type of the body in lower case."""
        return self._head.header("Content-Type").partition(";")[0].strip().lower()

    def body(self) -> bytes | bytearray:
        """Return the request body."""
        return self._body

    def release_body(self) -> None:
        """Free the memory of the body."""
        self._body = b""
        if self._share is not None:
            self._share.resize(0)

    def tornado_request(self) -> HTTPServerRequest:
        """Return the request as Tornado's handlers know it, without its body."""
        return self._connection.tornado_request(self._head, self.uri, self._started)

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Send a complete response."""
        self._send(status, headers, body)
        self._connection.response_finished(self.keep_alive)

    def _send(self, status: int, headers: Headers, body: bytes) -> None:
        connection = self._connection
        if status not in (204, 304):
            headers = [*headers, ("Content-Length", str(len(body)))]
        if not self.keep_alive or connection.server.is_stopped:
            headers = [*headers, _CLOSE]
        response = format_response(shared_head(status), headers, b"" if self.method == "HEAD" else body)
        self.responded = True
        if not connection.write(response) and (unsent := connection.unsent) > MIN_TRACKED:
            self.pending = Unsent(connection, unsent)
        self._release()
        self._log(status)

    def notify_on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` if the client disconnects before the response."""
        self._on_disconnect = callback

    def wait_until_responded(self) -> Awaitable[None]:
        """Wait until the response is sent or the client disconnects."""
        return self

    def wait_for_response(self, on_disconnect: Callable[[], None]) -> Awaitable[None]:
        """Free the memory of the body. Wait until the response is sent or the client disconnects."""
        self.release_body()
        self._on_disconnect = on_disconnect
        return self

    def __await__(self) -> Generator[Any, None, None]:
        if not self.responded:
            self._future = asyncio.get_running_loop().create_future()
            yield from self._future.__await__()

    def _release(self) -> None:
        self._on_disconnect = None
        self._body = b""
        if self._share is not None:
            self._share.resize(0)
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def _log(self, status: int) -> None:
        server = self._connection.server
        application = server.application
        if application is not None and (status >= 400 or server.is_logging()):
            server.log_request(application, self, status)

    def take_over(self, status: int, protocol: Connection) -> Awaitable[None] | None:
        """Hand the connection over to ``protocol``."""
        self.responded = True
        settings = self.endpoint.server.settings
        self._release()
        self._log(status)
        self._connection.hand_over(protocol, nodelay=settings.disable_nagle, user_timeout=settings.network_timeout)
        return None

    @property
    def take_back(self) -> Callable[[bytes, Callable[[], None] | None], Unsent | None] | None:
        """Continues with the next request of the connection."""
        connection = self._connection
        return connection.take_back if self.keep_alive and connection.continues_after_streams else None

    def abort(self) -> None:
        """Close the connection without a response."""
        self.responded = True
        self._connection.abort()
        self._release()

    def is_disconnected(self) -> bool:
        """Return whether the client has disconnected, even if the event loop has not reported it yet."""
        return self._connection.is_disconnected()

    def probe_half_closed(self) -> bool:
        """Send 100 Continue to find out whether a client has closed only its own side of the connection."""
        transport = self._connection.transport
        if transport.is_closing() or not self.is_http11:
            return False
        self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.keep_alive = False
        return not transport.is_closing() and not peer_reset(self._connection.socket)
