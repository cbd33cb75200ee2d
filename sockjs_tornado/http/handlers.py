"""The exchange port for Tornado: a ``RequestHandler`` that passes requests to an endpoint."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final
from urllib.parse import unquote

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.iostream import IOStream
from tornado.web import HTTPError

from ..exceptions import RequestTooLargeError
from ..transports.endpoint import Endpoint
from ..transports.exchange import Headers
from ..wire.connection import Connection
from ..wire.fields import has_token
from ..wire.responses import PendingWrite, response_head, write_and_close, write_tracked
from ..wire.sockets import peer_disconnected, peer_reset
from ..wire.stream import take_over
from ..wire.tornado_internals import LoggedHandler, accepting_server, client_port, is_last_request
from .base_exchange import MAX_FIELDS, BaseExchange

#: Above these sizes, a waiting request frees what Tornado parsed: a list of the header lines, and four copies of the
#: query.
_MAX_HELD_LINES: Final = 100
_MAX_HELD_URI: Final = 1024


def header_value(headers: HTTPHeaders, name: str) -> str:
    """Return a header field, with several lines joined (RFC 9110, section 5.3), or ``""`` if it is missing."""
    # `name in headers` is case-sensitive in Tornado 6.5.3, and get() raises and catches an exception for a missing
    # field, which is the usual case. get_list() behaves the same in all releases.
    return ",".join(headers.get_list(name))


def remove_header(headers: HTTPHeaders, name: str) -> None:
    """Remove a header field, if it exists."""
    if headers.get_list(name):
        # In Tornado 6.5.3 to 6.5.10, a `del` of a field with several lines raises KeyError.
        headers[name] = ""
        del headers[name]


def session_id_of(path: str) -> str:
    """Return the session id in the path of a session, which may consist of any bytes."""
    session_id = path.removesuffix("/").rsplit("/", 2)[1]
    return unquote(session_id, errors="surrogateescape") if "%" in session_id else session_id


class SockJSHandler(BaseExchange, LoggedHandler):
    """Passes a request to ``endpoint``, as an :class:`~sockjs_tornado.transports.exchange.Exchange`.

    Tornado reads and routes the request, and keeps the connection alive after a complete response. The connections of
    streams and websockets are taken over from Tornado before the first byte of the response.

    The request is served in :meth:`initialize`, which Tornado calls as soon as it has read the request. It calls
    :meth:`prepare` and the method for the request method in a task, one iteration of the event loop later. By then, it
    has closed the connection of a client that has closed its sending direction.
    """

    logger = logging.getLogger(__name__)

    #: Tornado reads no further requests from a connection that was taken over.
    take_back = None

    def initialize(self, endpoint: Endpoint) -> None:
        """Serve the request."""
        self._connection: HTTP1Connection = self.request.connection  # type: ignore[assignment]
        # Here, because Tornado's connection has no stream any more once it is detached.
        self._stream: Any = self._connection.stream
        self.endpoint = endpoint
        if endpoint.server._application is not self.application:
            endpoint.server._set_application(self.application)
        self.session_id = session_id_of(self.request.path) if endpoint.suffix == 3 else ""
        self.responded = False
        self.pending: PendingWrite | None = None
        self._response_future: asyncio.Future[None] | None = None
        self._on_disconnect: Callable[[], None] | None = None
        # Whether to close the connection after the response, regardless of the request's Connection header.
        self._close_after_response = False
        request = self.request
        self.method = request.method or ""
        self.uri = request.uri or ""
        self.remote_ip = request.remote_ip or ""
        self.secure = request.protocol == "https"
        self.is_http11 = request.version == "HTTP/1.1"
        # Hide the content type from Tornado, which would parse the body and respond with 400 if it does not match.
        # Clients send wrong content types: for example, they post JSON as text/plain.
        self._content_type = self.header("Content-Type")
        if self._content_type:
            remove_header(request.headers, "Content-Type")
        cookies = request.headers.get_list("Cookie")
        if len(cookies) > 1:
            # Tornado would join the lines with a comma, but cookies are separated by "; " (RFC 9113, section 8.2.3).
            request.headers["Cookie"] = "; ".join(cookies)
        # What prepare() waits for.
        self._waiting: Awaitable[None] | None = None
        self._start()

    def check_xsrf_cookie(self) -> None:
        """Accept every POST: SockJS clients send no XSRF cookie; the router checks the origin instead."""

    def check_trusted_origin(self, origin: str) -> bool:
        """Accept every POST: the router checks the origin."""
        return True

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Decode a part of the path. A session id may consist of any bytes."""
        return value.decode("utf-8", "surrogateescape")

    def _start(self) -> None:
        """Serve the request, which Tornado has read completely."""
        if not self._pass_on(SockJSHandler):
            # Context variables that callbacks set must not leak into the next request of the connection.
            self._waiting = contextvars.copy_context().run(self._serve)

    def prepare(self) -> Awaitable[None] | None:
        """Return what the request waits for, as a stream for its takeover."""
        waiting, self._waiting = self._waiting, None
        return waiting

    def _ignore(self, *args: str, **kwargs: str) -> None:
        """Do nothing: the request was served."""

    head = get = post = delete = patch = put = options = _ignore

    def finish(self, chunk: Any = None) -> "asyncio.Future[None]":
        """Do nothing: called by Tornado after the request was served."""
        finished = asyncio.get_running_loop().create_future()
        finished.set_result(None)
        return finished

    def _serve(self) -> Awaitable[None] | None:
        count = len(self.request.headers)
        if count > MAX_FIELDS:
            error = f"The request has {count} header fields; the maximum is {MAX_FIELDS}."
            self.endpoint.respond_too_large(self, RequestTooLargeError(431, error, "request_fields"))
            return None
        try:
            return self.endpoint.handle(self)
        except Exception as error:
            self.fail(error)
            return None

    def _pass_on(self, kind: type) -> bool:
        """Let the native server serve the request, if that is possible; return whether it does.

        This must be called in :meth:`initialize`, when Tornado has read all of the body or nothing.

        Args:
            kind: The class of the handler. A class of the application that derives from it may override anything.
        """
        endpoint = self.endpoint
        if hasattr(self._connection, "serve_endpoint"):
            # It is a request of the native server, whose routes did not find the endpoint, for example because it
            # depends on the host.
            self._connection.serve_endpoint(endpoint, self.session_id)
        else:
            adopters = endpoint.server._adopters
            if adopters is None or type(self) is not kind or not adopters.adopt(self):
                return False
        # Tornado must not wait for the body.
        self.detach()
        self.responded = True
        self._release()
        return True

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Respond to a request that has raised an exception, without a body: clients only use the status."""
        if not self.responded:
            self.respond(status_code, [])

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Log errors of the server, but not client errors."""
        if value is not None and not isinstance(value, HTTPError):
            self.log_error(value)

    # The exchange port.

    @property
    def remote_port(self) -> int:
        return client_port(self.request)

    def tornado_request(self) -> HTTPServerRequest:
        return self.request

    def fields(self) -> Iterator[tuple[str, str]]:
        yield from self.request.headers.get_all()
        if self._content_type:
            yield "Content-Type", self._content_type

    def header(self, name: str) -> str:
        # As header_value(), without the call, because most requests look up ten fields.
        return ",".join(self.request.headers.get_list(name))

    def ignores_proxies(self) -> str:
        # None for a handler of the application's own that serves the request in a task.
        return "" if getattr(accepting_server(), "xheaders", True) else "xheaders"

    def content_type(self) -> str:
        return self._content_type.partition(";")[0].strip().lower()

    def body(self) -> bytes | bytearray:
        return self.request.body

    def release_body(self) -> None:
        self.request.body = b""

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        self.responded = True
        self.set_status(status)
        headers = list(headers)
        if status not in (204, 304):
            headers.append(("Content-Length", str(len(body))))
        # Do not leave this to Tornado, which keeps too many connections open: those of HTTP/1.0 clients that ask for
        # keep-alive but read to the end of the connection, and those with more than "close" in the Connection header.
        connection = self.header("Connection")
        close = self._close_after_response or not self.is_http11 or bool(connection and has_token(connection, "close"))
        if close or is_last_request(self.request):
            headers.append(("Connection", "close"))
        response = response_head(status, headers, b"" if self.method == "HEAD" else body)
        if close:
            self.pending = write_and_close(self._detach_stream(), response)
        else:
            self._connection.set_close_callback(None)
            self.pending = write_tracked(self._stream, response)
            # finish() waits for this write, and so for the pending data before it.
            self._connection.write(b"" if self.pending else response)
            self._connection.finish()
            self._finish_request()

    def notify_on_disconnect(self, callback: Callable[[], None]) -> None:
        self._on_disconnect = callback

    def wait_until_responded(self) -> Awaitable[None]:
        self._response_future = asyncio.get_running_loop().create_future()
        return self._response_future

    def wait_for_response(self, on_disconnect: Callable[[], None]) -> Awaitable[None]:
        self.release_body()
        self._release_parsed_fields()
        self._on_disconnect = on_disconnect
        return self.wait_until_responded()

    def _release_parsed_fields(self) -> None:
        """Free what Tornado parsed of an unusually large request. Only the access log could still use it."""
        request = self.request
        headers = request.headers
        if len(list(headers.get_all())) > _MAX_HELD_LINES:
            for name in list(headers):
                if name not in ("Connection", "Host", "User-Agent", "Referer"):
                    remove_header(headers, name)
        if len(self.uri) > _MAX_HELD_URI:
            request.query = ""
            request.arguments = request.query_arguments = {}

    def on_connection_close(self) -> None:
        """Called by Tornado when the client has disconnected."""
        # This cancels the wait for the rest of a body.
        super().on_connection_close()
        if not self.responded:
            self.responded = True
            if self._on_disconnect is not None:
                self._on_disconnect()
            self._release()

    def _detach_stream(self) -> IOStream:
        """Detach the connection from Tornado and log the request as finished."""
        self.responded = True
        stream = self.detach()
        self._finish_request()
        return stream

    def _finish_request(self) -> None:
        """Log the request and free its memory, as Tornado does after a request."""
        self._release()
        self.log_request(self.application, self)

    def _release(self) -> None:
        self.break_cycle()
        self._on_disconnect = None
        if self._response_future is not None and not self._response_future.done():
            self._response_future.set_result(None)

    def abort(self) -> None:
        self.responded = True
        self._stream.close()
        self._release()

    def take_over(self, status: int, protocol: Connection) -> Awaitable[None]:
        self.set_status(status)
        stream = self._detach_stream()
        settings = self.endpoint.server.settings
        return take_over(stream, protocol, nodelay=settings.disable_nagle, user_timeout=settings.network_timeout)

    def is_disconnected(self) -> bool:
        stream = self._stream
        return stream.closed() or peer_disconnected(stream.socket)

    def probe_half_closed(self) -> bool:
        stream = self._stream
        # HTTP/1.0 has no interim responses.
        if stream.closed() or not self.is_http11:
            return False
        # Probe with an interim response (RFC 9110, section 15.2) before messages are taken from a session. If the
        # client has closed both directions, its system responds with a reset; on the same host, as with most proxies,
        # this happens immediately.
        stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._close_after_response = True
        return not stream.closed() and not peer_reset(stream.socket)
