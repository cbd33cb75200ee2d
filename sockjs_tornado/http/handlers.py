"""Tornado's side of the exchange port: one ``RequestHandler`` that offers a request to an endpoint."""

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Awaitable, Iterator
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import parse_qs

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, parse_cookie
from tornado.iostream import IOStream
from tornado.util import ObjectDict
from tornado.web import HTTPError, RequestHandler

from ..connection import ConnectionInfo
from ..exceptions import RequestTooLargeError
from ..session.kept import select_fields
from ..transports.endpoint import Endpoint, request_origin
from ..transports.exchange import DisconnectListener, Headers
from ..wire.connection import Connection
from ..wire.fields import has_token
from ..wire.pending import PendingWrite, write_rest
from ..wire.sockets import peer_gone, peer_reset
from ..wire.stream import response_head, take_over, write_and_close, write_now

__all__ = ["SockJSHandler", "header_value", "remove_header"]

logger = logging.getLogger(__name__)

#: Header fields of a request. Each takes some hundred bytes, for as long as the request is held.
_MAX_FIELDS: Final = 100

#: Lines of header fields, and characters of a URI, of which a held request keeps what Tornado has made of them: a list
#: of the lines, and four copies of the query.
_MAX_HELD_LINES: Final = 100
_MAX_HELD_URI: Final = 1024


def header_value(headers: HTTPHeaders, name: str) -> str:
    """Return the value of a header field, ``""`` if it is missing; several lines are joined (RFC 9110, section 5.3)."""
    # `name in headers` is case-sensitive in Tornado 6.5.3, and get() costs an exception for a missing field, as most of
    # those that are asked for are. get_list() is the same in all releases.
    values = headers.get_list(name)
    return values[0] if len(values) == 1 else ",".join(values)


def remove_header(headers: HTTPHeaders, name: str) -> None:
    """Remove a header field, if it is there."""
    if headers.get_list(name):
        # In Tornado 6.5.3 to 6.5.10, `del` alone raises KeyError if the field has several lines.
        headers[name] = ""
        del headers[name]


def parse_cookies(text: str) -> dict[str, str]:
    """Return the cookies of a Cookie field, as Tornado's ``request.cookies`` has them."""
    jar = SimpleCookie()
    for name, value in parse_cookie(text).items():
        with contextlib.suppress(CookieError):
            jar[name] = value
    return {name: morsel.value for name, morsel in jar.items()}


class SockJSHandler(RequestHandler):
    """Offers a request to an endpoint as an :class:`~sockjs_tornado.transports.exchange.Exchange`.

    Tornado does what is HTTP: it reads the request, routes it, and writes whole responses. Streams and websockets leave
    it with their first byte.
    """

    relayed = False

    def initialize(self, endpoint: Endpoint) -> None:
        """Take what the URL spec holds for every request."""
        self._endpoint = endpoint
        if not self.relayed:
            endpoint.server.application = self.application
        self.session_id = ""
        self.responded = False
        self.pending: PendingWrite | None = None
        self._response_future: asyncio.Future[None] | None = None
        self._disconnect_listener: DisconnectListener | None = None
        # Whether the connection ends with the answer, whatever the request says.
        self._close_after_response = False
        request = self.request
        self.remote_ip = request.remote_ip or ""
        self.secure = request.protocol == "https"
        self.is_http11 = request.version == "HTTP/1.1"
        # What the content type says of a body is not true (JSON is posted as text/plain, say); Tornado would answer 400
        # to a body that it does not find to be what it is called.
        self._content_type = self.header("Content-Type")
        # Tornado's compression does not know "no-transform", and would write the head of its stream into a 204.
        for name in ("Content-Type", "Accept-Encoding"):
            remove_header(request.headers, name)
        cookies = request.headers.get_list("Cookie")
        if len(cookies) > 1:
            # Tornado would join the lines with a comma, which separates no cookies (RFC 9113, section 8.2.3).
            request.headers["Cookie"] = "; ".join(cookies)

    @property
    def method(self) -> str:
        """The request's method."""
        return self.request.method or ""

    def clear(self) -> None:
        """Begin an answer. An endpoint chooses all its header fields: Tornado's own would be made for nothing."""
        self._headers = HTTPHeaders()
        self._write_buffer: list[bytes] = []
        self.set_status(200)

    def check_xsrf_cookie(self) -> None:
        """Let every POST pass: clients send no such cookie, and the router's origin policy decides."""

    def check_trusted_origin(self, origin: str) -> bool:
        """Let every POST pass: the router's origin policy decides."""
        return True

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Decode a part of the path; a session id may be any bytes."""
        return value.decode("utf-8", "surrogateescape")

    def compute_etag(self) -> str | None:
        """Leave ETags to the endpoint."""
        return None

    def _execute(self, transforms: Any, *args: bytes, **kwargs: bytes) -> "asyncio.Future[None]":  # type: ignore[override]
        """Serve the request at once, where Tornado makes a task of each for the loop's next turn."""
        self._transforms = transforms
        self.path_args = []
        loop = asyncio.get_running_loop()
        waiting: Awaitable[None] | None = None
        try:
            self.path_kwargs = {name: self.decode_argument(value) for name, value in kwargs.items()}
            # What callbacks of the application set there must not reach the connection's next request.
            waiting = contextvars.copy_context().run(self._serve, **self.path_kwargs)
        except Exception as error:
            self._handle_request_exception(error)
        if isinstance(waiting, asyncio.Future):
            return waiting
        if waiting is not None:
            return loop.create_task(self._wait(waiting))
        done = loop.create_future()
        done.set_result(None)
        return done

    async def _wait(self, waiting: Awaitable[None]) -> None:
        try:
            await waiting
        except Exception as error:
            self._handle_request_exception(error)

    def _serve(self, session_id: str = "") -> Awaitable[None] | None:
        self.session_id = session_id
        count = len(self.request.headers)
        if count > _MAX_FIELDS:
            why = f"There are {count} header fields, and there may be {_MAX_FIELDS}."
            self._endpoint.respond_too_large(self, RequestTooLargeError(431, "request_fields", why))
            return None
        return self._endpoint.handle(self)

    head = get = post = delete = patch = put = options = _serve

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer without a body: what a client makes of an error is the status."""
        self.respond(status_code, [])

    def _request_summary(self) -> str:
        """Return what the access log says of the request: not the id of a session, which is its client's secret."""
        path, separator, query = self.uri.partition("?")
        if self._endpoint.suffix == 3:
            # SERVER/SESSION/TRANSPORT, and maybe a slash.
            segments = path.split("/")
            segments[-3 if path.endswith("/") else -2] = "***"
            path = "/".join(segments)
        return f"{self.method} {path}{separator}{query} ({self.remote_ip})"

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Log what is the server's fault alone; Tornado's log would have the request's URI, with the session id."""
        if value is not None and not isinstance(value, HTTPError):
            log = self._endpoint.server.container.log
            summary = self._request_summary()
            log.write(logger, logging.ERROR, "request", "Uncaught exception in %s", summary, error=value)

    # The exchange.

    @property
    def uri(self) -> str:
        """The request's path and query."""
        return self.request.uri or ""

    @property
    def remote_port(self) -> int:
        """The client's port, 0 where there is none to tell."""
        address = getattr(getattr(self.request.connection, "context", None), "address", None)
        return address[1] if isinstance(address, tuple) and len(address) > 1 else 0

    def fields(self) -> Iterator[tuple[str, str]]:
        """Return the request's header fields."""
        yield from self.request.headers.get_all()
        if self._content_type:
            yield "Content-Type", self._content_type

    def header(self, name: str) -> str:
        """Return a request header."""
        # As header_value does it, without the call: most requests have ten fields looked up.
        values = self.request.headers.get_list(name)
        return values[0] if len(values) == 1 else ",".join(values)

    def cookie(self, name: str) -> str | None:
        """Return a cookie of the request."""
        cookies = self.header("Cookie")
        return parse_cookies(cookies).get(name) if name in cookies else None

    def argument(self, name: str) -> str | None:
        """Return the first value of a query argument."""
        values = parse_qs(self.request.query).get(name)
        return values[0] if values else None

    def content_type(self) -> str:
        """Return the request's media type."""
        return self._content_type.partition(";")[0].strip().lower()

    def body(self) -> bytes | bytearray:
        """Return the request's body."""
        return self.request.body

    def release_body(self) -> None:
        """Keep the body no longer."""
        self.request.body = b""

    def jsessionid_setting(self) -> str | bool:
        """Ask the ``jsessionid`` setting."""
        setting = self._endpoint.server.settings.jsessionid
        wanted = setting(self.request) if callable(setting) else setting
        return wanted if isinstance(wanted, str) else bool(wanted)

    def info(self, transport: str, suffix: int) -> ConnectionInfo:
        """Describe the request for the application."""
        trusted = self._endpoint.server.origins.allows_credentials(request_origin(self))
        cookies = self.header("Cookie") if trusted else None
        headers = select_fields(self.request.headers.get_all(), cookies=cookies)
        return ConnectionInfo(
            ip=self.remote_ip,
            port=self.remote_port,
            uri=self.uri,
            prefix=self.request.path.removesuffix("/").rsplit("/", suffix)[0],
            transport=transport,
            headers=headers,
            # As text they take as much memory as they have characters, however many they are.
            cookies=None if cookies is None else partial(parse_cookies, cookies),
        )

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Answer with a whole response."""
        self.responded = True
        self.set_status(status)
        headers = list(headers)
        if status not in (204, 304):
            headers.append(("Content-Length", str(len(body))))
        # Tornado would keep the connection of an old client that asks for it, which reads to the end. It also keeps a
        # connection if the request's Connection field has more than "close".
        ends = self._close_after_response or not self.is_http11 or has_token(self.header("Connection"), "close")
        if ends or self._connection.no_keep_alive:
            headers.append(("Connection", "close"))
        response = response_head(status, headers) + (b"" if self.method == "HEAD" else body)
        if ends:
            self.pending = write_and_close(self._detach_stream(), response)
        else:
            self._write(response)

    def _write(self, response: bytes) -> None:
        """Write a whole response and let the connection go on, as ``finish`` does it.

        That one would look at each header field five times, strip a 204 of its content type, and write it in two parts.
        """
        connection = self._connection
        connection.set_close_callback(None)
        unsent = write_now(connection.stream, response)
        if unsent:
            self.pending = write_rest(connection.stream, unsent)
            # Tornado goes on when this is written, and so what stands before it.
            connection.write(b"" if self.pending else unsent)
        connection.finish()
        self._finished = True
        self._finish_request()
        self.on_finish()

    def notify_on_disconnect(self, listener: DisconnectListener) -> None:
        """Have somebody told where the client leaves before the answer."""
        self._disconnect_listener = listener

    def wait_for_response(self, listener: DisconnectListener) -> Awaitable[None]:
        """Keep the request open until it is answered, or until the client has left."""
        self.release_body()
        self._release_parsed_fields()
        self.notify_on_disconnect(listener)
        self._response_future = asyncio.get_running_loop().create_future()
        return self._response_future

    def _release_parsed_fields(self) -> None:
        """Release what an unusual client has Tornado keep beside the request as it came.

        Nothing needs it any more but the access log, which may miss header fields of such a request.
        """
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
        """Hear from Tornado that the client has left."""
        # It ends the waiting for a body that comes in chunks.
        super().on_connection_close()
        if not self.responded:
            self.responded = True
            if self._disconnect_listener is not None:
                self._disconnect_listener.on_disconnect()
            self._release()

    def _detach_stream(self) -> IOStream:
        """Take the connection away from Tornado, which logs the request as answered."""
        self.responded = True
        stream = self.detach()
        self._finish_request()
        return stream

    def _finish_request(self) -> None:
        """Do what Tornado does when it has finished a request."""
        self._release()
        try:
            self.application.log_request(self)
        except Exception as error:
            # The application's own: it must not take a session or its caller with it.
            log = self._endpoint.server.container.log
            log.write(logger, logging.ERROR, "access log", "the access log failed", error=error)

    def _release(self) -> None:
        # The templates' namespace refers to the handler: without the cycle, the request and all that it holds are freed
        # as soon as they are over, not when the garbage collector runs.
        self.ui = ObjectDict()
        self._disconnect_listener = None
        if self._response_future is not None and not self._response_future.done():
            self._response_future.set_result(None)

    def abort(self) -> None:
        """Let go of the request without an answer."""
        self.responded = True
        self._connection.stream.close()
        self._release()

    def take_over(self, status: int, protocol: Connection) -> Awaitable[None]:
        """Give the connection to ``protocol``."""
        self.set_status(status)
        stream = self._detach_stream()
        settings = self._endpoint.server.settings
        return take_over(stream, protocol, nodelay=settings.disable_nagle, user_timeout=settings.network_timeout)

    def is_disconnected(self) -> bool:
        """Tell whether the client has already left."""
        stream = self._connection.stream
        return stream.closed() or peer_gone(stream.socket)

    def is_half_closed(self) -> bool:
        """Return whether a client that seems to have left has only ended its own direction of the connection."""
        stream = self._connection.stream
        # A node that ends its direction has left. HTTP/1.0 knows no interim response.
        if stream.closed() or self.relayed or not self.is_http11:
            return False
        # Before anything is taken from a session (RFC 9110, section 15.2). If the client has closed the connection for
        # both directions, its system answers with a reset; if it is on this host, as most proxies are, at once.
        stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._close_after_response = True
        return not stream.closed() and not peer_reset(stream.socket)

    @property
    def _connection(self) -> HTTP1Connection:
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        return connection
