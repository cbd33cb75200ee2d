"""Requests that the application serves through Tornado's interface for HTTP servers."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tornado.httputil import HTTPConnection as TornadoConnection
from tornado.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError

from ..exceptions import BadRequest
from ..transports.endpoint import Endpoint
from ..wire.chunked import ChunkedDecoder
from ..wire.http_parser import RequestHead
from ..wire.tornado_internals import gunzip_delegate
from .streams import ConnectionStream

if TYPE_CHECKING:
    from .connection import HTTPConnection

logger = logging.getLogger(__name__)

#: Bytes of a body that wait for the application before reading pauses.
_HIGH_WATER: Final = 64 * 1024


class DelegatedRequest(TornadoConnection):
    """One request, and the connection that writes its response, as Tornado's applications know it.

    Args:
        connection: The connection.
        head: The head of the request.

    Attributes:
        is_read: Whether the whole body was read.
    """

    def __init__(self, connection: "HTTPConnection", head: RequestHead) -> None:
        server = connection.server
        # None when the response is complete, or the client has disconnected.
        self._native: HTTPConnection | None = connection
        # None after detach().
        self._connection: HTTPConnection | None = connection
        self._head = head
        self.context = connection.context_for(head)
        self.params = server.conn_params
        self.no_keep_alive = server.no_keep_alive
        self._max_body_size = server.max_body_size
        self._body_timeout = server.body_timeout
        self._keep_alive = head.keep_alive and not server.no_keep_alive
        self._delegate: HTTPMessageDelegate | None = None
        self._on_close: Callable[[], None] | None = None
        self._left = head.content_length
        self._decoder = ChunkedDecoder() if head.is_chunked else None
        # Decoded data that was not passed on yet.
        self._body = bytearray()
        self.is_read = not head.has_body
        self._is_passed_on = False
        self._more: asyncio.Future[None] | None = None
        self._is_responding = False
        self._is_chunked = False
        self._is_finished = False
        self._content_left: int | None = None
        self._is_upgraded = False

    # Called by the connection.

    def start(self) -> None:
        """Pass the head to the application; without a body, also the end of the request."""
        connection = self._native
        assert connection is not None
        server = connection.server
        head = self._head
        delegate = server.start_request(connection, self)
        if server.decompress_request:
            delegate = gunzip_delegate(delegate, server.chunk_size, self._max_body_size)
        self._delegate = delegate
        start_line = RequestStartLine(head.method, head.target, "HTTP/1.1" if head.is_http11 else "HTTP/1.0")
        headers = HTTPHeaders()
        for name, value in head.fields():
            headers.add(name, value)
        try:
            waiting = delegate.headers_received(start_line, headers)
            if self._native is None:
                return
            if waiting is None and self.is_read:
                self._finish_delegate()
                return
        except Exception as error:
            self._failed(error)
            return
        server.create_task(self._run(waiting))

    def _finish_delegate(self) -> None:
        if self._native is not None and not self._is_finished:
            delegate, self._delegate = self._delegate, None
            assert delegate is not None
            delegate.finish()

    def _failed(self, error: BaseException) -> None:
        connection = self._native
        delegate, self._delegate = self._delegate, None
        if isinstance(error, HTTPInputError | BadRequest):
            if connection is not None and not self._is_responding:
                status = error.status if isinstance(error, BadRequest) else 400
                connection.refuse(BadRequest(status, str(error)))
            else:
                logger.info("Malformed HTTP message from %s: %s", self.context, error)
        elif not isinstance(error, StreamClosedError):
            logger.error("Uncaught exception", exc_info=error)
        if delegate is not None:
            delegate.on_connection_close()
        if connection is not None:
            self._detach()
            connection.close_gracefully()

    async def _run(self, waiting: Any) -> None:
        """Pass the body to the application, as fast as it processes it."""
        try:
            if waiting is not None:
                await waiting
            connection = self._native
            if connection is None or self._delegate is None:
                return
            if self._head.has_body:
                if self._head.content_length > self._max_body_size:
                    raise BadRequest(413, f"Content-Length too long: max_body_size is {self._max_body_size}")
                if not self.is_read:
                    if self._head.expects_continue and not self._is_responding and not self._body:
                        connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    connection.limit_body_time(self._body_timeout)
                await self._pass_body()
            if self._native is not None:
                connection.body_read()
                self._finish_delegate()
        except Exception as error:
            self._failed(error)

    async def _pass_body(self) -> None:
        while self._native is not None and not self._is_finished:
            # The application may have changed the limit.
            if self._decoder is not None and self._decoder.size > self._max_body_size:
                raise BadRequest(413, f"Body too long: max_body_size is {self._max_body_size}")
            if self._body:
                piece = bytes(self._body[: self.params.chunk_size])
                del self._body[: len(piece)]
                assert self._delegate is not None
                waiting = self._delegate.data_received(piece)
                if waiting is not None:
                    await waiting
                if len(self._body) < _HIGH_WATER and self._native is not None:
                    self._native.resume_reading()
            elif self.is_read:
                return
            else:
                self._more = asyncio.get_running_loop().create_future()
                await self._more
                self._more = None

    def data_received(self, data: bytes) -> bytes:
        """Process the next bytes of the body; return those that belong to the next request."""
        if self.is_read:
            return data
        if self._decoder is None:
            rest = data[self._left :]
            self._body += data[: self._left]
            self._left -= len(data) - len(rest)
            self.is_read = not self._left
        else:
            try:
                self._body += self._decoder.feed(data)
            except BadRequest as error:
                self._failed(error)
                return b""
            self.is_read, rest = self._decoder.finished, self._decoder.unread
        if self._more is not None and not self._more.done():
            self._more.set_result(None)
        if len(self._body) > _HIGH_WATER and self._native is not None:
            self._native.pause_reading()
        return bytes(rest)

    def on_disconnect(self) -> None:
        """Called when the client has disconnected."""
        delegate, self._delegate = self._delegate, None
        on_close, self._on_close = self._on_close, None
        self._detach()
        # As in Tornado, only one of them is called: the delegate while the body is read.
        if delegate is not None:
            delegate.on_connection_close()
        elif on_close is not None:
            on_close()

    def _detach(self) -> None:
        self._native = None
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    # Tornado's interface.

    @property
    def stream(self) -> ConnectionStream | None:
        """The connection, with some methods of Tornado's streams; None after :meth:`detach`."""
        return None if self._connection is None else ConnectionStream(self._connection)

    def serve_endpoint(self, endpoint: Endpoint, session_id: str) -> None:
        """Serve this request from an endpoint that the application has found for it, before the body was read.

        Args:
            endpoint: The endpoint.
            session_id: The session id in the path, or ``""``.
        """
        connection = self._native
        self._is_passed_on = True
        if connection is not None:
            self._delegate = self._on_close = None
            self._detach()
            connection.serve_endpoint(self._head, endpoint, session_id)

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` if the client disconnects before the response is complete."""
        self._on_close = callback

    def set_body_timeout(self, timeout: float) -> None:
        """Set the maximum time in seconds for reading the body of this request."""
        self._body_timeout = timeout

    def set_max_body_size(self, max_body_size: int) -> None:
        """Set the maximum size in bytes of the body of this request."""
        self._max_body_size = max_body_size

    def write_headers(
        self, start_line: Any, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> "asyncio.Future[None]":
        """Send the head of the response, and the start of its body."""
        assert isinstance(start_line, ResponseStartLine)
        head = self._head
        status = start_line.code
        has_length = bool(headers.get_list("Content-Length"))
        no_content = status in (204, 304) or 100 <= status < 200
        self._is_chunked = head.is_http11 and head.method != "HEAD" and not no_content and not has_length
        if not self.is_read or not (head.is_http11 or has_length or head.method in ("HEAD", "GET")):
            self._keep_alive = False
        self._is_upgraded = status == 101
        closes = not self._keep_alive or (self._native is not None and self._native.server.is_stopped)
        # Say only what differs from the version's default.
        if not self._is_upgraded and closes == head.is_http11:
            headers["Connection"] = "close" if closes else "Keep-Alive"
        if self._is_chunked:
            headers["Transfer-Encoding"] = "chunked"
        if head.method == "HEAD" or status == 304:
            self._content_left = 0
        elif has_length:
            length = headers["Content-Length"]
            if not (length.isascii() and length.isdigit()):
                raise ValueError(f"Content-Length must be a number: {length!r}")
            self._content_left = int(length)
        elif not head.is_http11 and not no_content:
            # The end of the connection is the end of the body.
            self._keep_alive = False
        lines = [f"HTTP/1.1 {status} {start_line.reason}"]
        lines += [f"{name}: {value}" for name, value in headers.get_all()]
        for line in lines:
            if "\r" in line or "\n" in line:
                raise ValueError(f"Illegal characters (CR or LF) in header: {line!r}")
        self._is_responding = True
        data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        return self._write(data + self._format(chunk) if chunk else data)

    def write(self, chunk: bytes) -> "asyncio.Future[None]":
        """Send a piece of the body."""
        return self._write(self._format(chunk))

    def _format(self, chunk: bytes) -> bytes:
        if self._content_left is not None:
            self._content_left -= len(chunk)
            if self._content_left < 0:
                self.close()
                raise HTTPOutputError("Tried to write more data than Content-Length")
        if self._is_chunked and chunk:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk)
        return bytes(chunk)

    def _write(self, data: bytes) -> "asyncio.Future[None]":
        connection = self._native
        if connection is None or connection.transport.is_closing():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.set_exception(StreamClosedError())
            future.exception()
            return future
        connection.write(data)
        return connection.drained()

    def finish(self) -> None:
        """Complete the response."""
        connection = self._native
        if self._content_left and connection is not None:
            self.close()
            raise HTTPOutputError(f"Tried to write {self._content_left} bytes less than Content-Length")
        self._is_finished = True
        # After an upgrade, the application calls detach().
        if connection is None or self._is_upgraded:
            return
        if self._is_chunked:
            connection.write(b"0\r\n\r\n")
        self._on_close = None
        keep_alive = self._keep_alive and self.is_read
        self._detach()
        if keep_alive or self.is_read:
            connection.body_read()
            connection.response_finished(keep_alive)
        else:
            connection.close_gracefully()

    def close(self) -> None:
        """Close the connection."""
        connection = self._native
        if connection is not None:
            self._on_close = None
            self._detach()
            connection.abort_after_write()

    def detach(self) -> IOStream | None:
        """Return a stream for the connection, and stop to process HTTP; None after :meth:`serve_endpoint`."""
        if self._is_passed_on:
            return None
        connection = self._native
        assert connection is not None
        self._delegate = None
        self._on_close = self._connection = None
        self._detach()
        return connection.detach(bytes(self._body))
