"""Requests that repeat the head of the one before them on their connection, which C serves.

A client sends the same head for each of its polls and, apart from the length, for each of its messages. Everything that
follows from the head was decided for the first of these requests: its endpoint, the origin policy, the client's
address, the header fields of the response. C only compares the heads, and checks what may change between requests.
"""

import re
import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from ..protocol import HEARTBEAT, Outgoing, PreparedMessage, close_frame, messages_frame
from ..session.requester import check_post, check_receiver
from ..session.session import Session
from ..session.states import RouterState, SessionState
from ..transports.endpoint import session_origin
from ..transports.http_transports import xhr_framing
from ..transports.receiving import ReceivingEndpoint
from ..transports.sending import SendingEndpoint
from ..wire.http_parser import RequestHead, format_response, parse_head
from ..wire.responses import shared_head
from .exchange import MIN_TRACKED, NativeExchange
from .unsent import Unsent

try:
    from .._speedups import ROUTER_DRAINING, RepeatedRequestCore
except ImportError:  # the C module was not built, and all requests are served in Python
    ROUTER_DRAINING = 1
    RepeatedRequestCore = object  # type: ignore[assignment, misc]
    HAS_C = False
else:
    HAS_C = True

if TYPE_CHECKING:
    from .connection import HTTPConnection

#: Maximum size of a head that is kept in order to recognize it.
MAX_HEAD: Final = 2048

_LENGTH: Final = re.compile(rb"\r\nContent-Length:[ \t]*+([0-9]{1,9})[ \t]*+\r\n", re.IGNORECASE)

if ROUTER_DRAINING != RouterState.DRAINING:
    raise ImportError("sockjs_tornado._speedups was built from other sources: build it again")


class RepeatedRequest(RepeatedRequestCore):
    """A request that is served in C, again and again: a POST of messages, or a poll.

    It is the connection's request while it is served. A poll that waits is also its session's receiver.

    Attributes:
        connection: The connection.
        head: The head of the request, as sent.
        session: The session of the waiting poll; None if no poll waits.
        session_id: The session id in the path.
        endpoint: The endpoint of the path.
        uri: The path and query.
    """

    __slots__ = ("endpoint", "uri")

    binary = False
    #: After the first write the receiver is detached, so it never has unsent bytes.
    unsent = 0

    endpoint: Any
    uri: str

    # The request, for the connection.

    def data_received(self, data: bytes) -> bytes:
        """Return all data, which belongs to the next request."""
        return data

    def on_disconnect(self) -> None:
        """Called when the client has disconnected."""
        session = self.take_session()
        if session is not None:
            session._receiver_lost(self)

    # Called by C.

    def handle_error(self, error: BaseException) -> None:
        """Respond with an error, because serving the request has raised an exception."""
        if not isinstance(error, Exception):
            raise error
        # The messages of a poll are lost.
        self.on_disconnect()
        if self.connection is not None and self.connection._request is self:
            self._exchange().fail(error)

    def _finish_post(self, session: Session) -> None:
        """Respond to a POST whose messages were delivered, now or when the application has processed them."""
        exchange = self._exchange()
        try:
            self.endpoint.finish(exchange, session)
        except Exception as error:
            exchange.fail(error)

    def _send_rest(self, rest: bytes, session: Session | None) -> None:
        """Send the part of a response that the socket has not accepted."""
        connection = self.connection
        if not connection.write(rest) and session is not None and (unsent := connection.unsent) > MIN_TRACKED:
            session._track_unsent_response(Unsent(connection, unsent))

    def _exchange(self) -> NativeExchange:
        """Return the request as one that is served in Python."""
        connection = self.connection
        size = len(self.head)
        head = parse_head(self.head, 0, size, size + 1, MAX_HEAD)
        assert head is not None
        exchange = NativeExchange(connection, head, self.uri, self.endpoint, self.session_id, b"")
        connection._request = exchange
        return exchange

    # The receiver of a poll, for its session.

    def _send_messages(self, messages: Sequence[Outgoing]) -> None:
        self.send_frame(messages_frame(messages))  # type: ignore[arg-type]

    def send_prepared(self, message: PreparedMessage) -> None:
        """Respond with a message of a broadcast."""
        self.send_frame(message.frame)

    def send_frame(self, frame: str) -> None:
        """Respond with a frame."""
        session = self.take_session()
        if session is not None:
            # Detach first: respond() runs the application's access log, which may call send().
            session._detach(self)
            body = xhr_framing(frame)
            session._stats.bytes_sent += len(body)
            exchange = self._exchange()
            exchange.respond(200, self.endpoint.response_headers(exchange), body)
            if exchange.pending is not None:
                session._track_unsent_response(exchange.pending)

    def close(self, code: int, reason: str) -> None:
        """Respond with the close frame."""
        self.send_frame(close_frame(code, reason))

    def is_disconnected(self) -> bool:
        """Return whether the client has disconnected, even if the event loop has not reported it yet."""
        return self.connection is None or self.connection.is_disconnected()

    def abort(self) -> None:
        """Close the connection of a client that has disconnected."""
        self.take_session()
        if self.connection is not None:
            self.connection.abort()

    def pause_reading(self) -> None:
        """Do nothing: clients send on other requests."""

    resume_reading = pause_reading

    def recycle(self) -> None:
        """Respond with a heartbeat, after which the client polls again."""
        self.send_frame(HEARTBEAT)


def repeated_request(
    connection: "HTTPConnection", exchange: NativeExchange, head: RequestHead, data: bytes
) -> RepeatedRequest | None:
    """Return an object that serves the requests that will repeat a head, or None if Python must serve them.

    Args:
        connection: The connection.
        exchange: The request that was just served.
        head: Its head.
        data: The same, as sent.
    """
    endpoint = exchange.endpoint
    if (
        not HAS_C
        # Each relayed request has a signature of its own.
        or exchange.relayed
        or not _is_served(endpoint)
        or exchange.method != "POST"
        or not exchange.keep_alive
        or len(data) > MAX_HEAD
        or head.is_chunked
        or head.has_upgrade
        or head.expects_continue
        or head.header("Content-Encoding")
    ):
        return None
    router = endpoint.server
    settings = router.settings
    container = router.container
    session = container.get(exchange.session_id)
    is_poll = isinstance(endpoint, ReceivingEndpoint)
    lengths = _LENGTH.findall(data)
    if (
        session is None
        or session.state is not SessionState.OPEN
        or settings.max_inbound_rate is not None
        # It may decide otherwise for each request.
        or callable(settings.jsessionid)
        or not endpoint.is_origin_allowed(exchange)
        or len(head.header_lines("Content-Length")) != len(lengths)
        or len(lengths) > 1
    ):
        return None
    ip, origin = exchange.remote_ip, session_origin(exchange)
    check = check_receiver if is_poll else check_post
    if check(session, ip, origin) is not None:
        return None
    found = _LENGTH.search(data)
    start, end = found.span(1) if found is not None else (len(data), len(data))
    response = _template(200 if is_poll else 204, tuple(endpoint.response_headers(exchange)))
    request = RepeatedRequest(
        connection=connection,
        server=connection.server,
        container=container,
        sessions=container.by_id,
        session_id=exchange.session_id,
        known=weakref.ref(session),
        stats=router.stats,
        head=data,
        length_at=start,
        length_size=end - start,
        response=response,
        date_at=response.index(b"\r\nDate: ") + 8,
        is_poll=is_poll,
        max_size=min(settings.max_message_size, connection.server.max_body_size),
        max_messages=settings.max_messages_per_request,
        heartbeat_delay=settings.heartbeat_delay,
        disconnect_delay=settings.disconnect_delay,
        idle_timeout=connection.server.idle_timeout,
        resolution=container.resolution,
    )
    request.endpoint = endpoint
    request.uri = exchange.uri
    return request


def _is_served(endpoint: object) -> TypeGuard[SendingEndpoint | ReceivingEndpoint]:
    """Return whether C serves an endpoint: ``xhr`` or ``xhr_send``."""
    if isinstance(endpoint, SendingEndpoint):
        return not endpoint.is_form
    return isinstance(endpoint, ReceivingEndpoint) and endpoint.transport.name == "xhr"


# Connections share their heads, which differ in the origin.
@lru_cache(maxsize=64)
def _template(status: int, fields: tuple[tuple[str, str], ...]) -> bytes:
    """Return the head of a response; C replaces its date, and completes that of a poll with the length."""
    head = format_response(shared_head(status), list(fields), b"")
    return head if status == 204 else head.removesuffix(b"\r\n")
