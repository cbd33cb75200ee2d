"""One HTTP/1.1 connection of the native server: the bytes of requests in, the bytes of responses out."""

import asyncio
import contextlib
import contextvars
import errno
import logging
import socket
from collections.abc import Callable
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Protocol

from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.iostream import IOStream

from ..http.base_exchange import MAX_FIELDS
from ..transports.endpoint import Endpoint
from ..wire.connection import CLOSE_TIMEOUT, MAX_PIPELINED, Connection
from ..wire.http_parser import BadRequest, RequestHead, parse_head
from ..wire.responses import response_head
from ..wire.sockets import peer_disconnected, set_user_timeout
from ..wire.tornado_internals import set_start_time
from .body import BodyReader
from .delegate import DelegatedRequest
from .exchange import NativeExchange
from .proxies import RequestContext, client_of
from .repeated import RepeatedRequest, repeated_request
from .streams import ConnectionStream, DetachedStream
from .unsent import Unsent

try:
    from .._speedups import HTTPConnectionCore
except ImportError:  # the C module was not built

    class HTTPConnectionCore:  # type: ignore[no-redef]
        """Fields and methods of the hot path, as the C module implements them."""

        __slots__ = ("_buffer", "_data", "_repeated", "_request", "_writable_socket", "bucket", "due")

        _buffer: bytearray
        _process_data: Callable[[int], None]

        def get_buffer(self, sizehint: int, /) -> bytearray:
            """Return the buffer for the next read, which all connections share."""
            return self._buffer

        def buffer_updated(self, nbytes: int, /) -> None:
            """Process data from the client."""
            self._process_data(nbytes)


if TYPE_CHECKING:
    from .http_server import HTTPServer

__all__ = ["HTTPConnection"]

logger = logging.getLogger(__name__)

#: Seconds from the first byte of a request to the end of its head.
HEAD_TIMEOUT: Final = 10.0

#: Requests of one connection that are served before the event loop runs other callbacks.
_BATCH_SIZE: Final = 32

#: Number of requests with the same target that C does not serve, because of their heads or bodies, before the head is
#: learned again.
_LEARN_INTERVAL: Final = 64

#: Unsent bytes from which on no further requests are served. It is the high-water mark of asyncio's transports.
_MAX_UNSENT: Final = 64 * 1024

#: Bytes that the client must read within a time limit to get more time.
_MIN_DRAIN_BYTES: Final = 16 * 1024

#: Seconds between two checks whether the client has disconnected, while its further requests are not read.
DISCONNECT_INTERVAL: Final = 1.0

#: Iterations of the event loop until a handler of Tornado has run; it takes one for the body, and one for the handler.
HANDLER_TURNS: Final = 3


class Request(Protocol):
    """The request whose body is read, or whose response is pending."""

    def data_received(self, data: bytes) -> bytes:
        """Process the next bytes of the body; return those that belong to the next request."""

    def on_disconnect(self) -> None:
        """Called when the client has disconnected."""


class _DiscardedInput:
    """In place of a request: the connection closes, and further input is discarded."""

    def data_received(self, data: bytes) -> bytes:
        return b""

    def on_disconnect(self) -> None:
        pass


_DISCARD = _DiscardedInput()


class HTTPConnection(HTTPConnectionCore, asyncio.BufferedProtocol):
    """A connection that serves one request after the other.

    States, by ``_request``:

    - None: the head of the next request is expected; ``_data`` is its beginning. If reading is paused, ``_data`` may be
      further requests, which are served when the client has read responses, or other clients were served.
    - A request: its body is read, or its response is pending. ``_data`` is what was read beyond its body.
    - ``_DISCARD``: the connection closes.

    Args:
        server: The server.
        sock: The connection's socket.
        address: The client's address.
        release_slot: Called when the connection is closed.

    Attributes:
        transport: The asyncio transport.
        server: The server.
        socket: The connection's socket.
        address: The client's address.
        remote_ip: The client's IP address, or ``""`` for a Unix socket.
        was_flushed: Whether the connection was closed after the operating system had accepted everything.
        due: Time of the next call of :meth:`check`.
        bucket: Used by the server to find the deadline.
    """

    __slots__ = (
        "_body_due",
        "_is_congested",
        "_is_cut",
        "_is_paused",
        "_is_serving",
        "_release_slot",
        "_target",
        "_unsent",
        "_until_learned",
        "_write_waiters",
        "address",
        "remote_ip",
        "server",
        "socket",
        "transport",
        "was_flushed",
    )

    transport: asyncio.Transport
    due: float

    def __init__(
        self, server: "HTTPServer", sock: socket.socket, address: Any, release_slot: Callable[[], None] | None
    ) -> None:
        self.server = server
        self.address = address
        self.remote_ip = address[0] if isinstance(address, tuple) and address else ""
        self.due = inf
        self.bucket: int | None = None
        self.socket: socket.socket = sock
        self._buffer = server.read_buffer
        self._release_slot = release_slot
        self._request: Request | None = None
        self._data = b""
        # The target of the last request, and the number of requests with this target until its head is learned.
        self._target = ""
        self._until_learned = 1
        # Serves the requests whose heads are the same.
        self._repeated: RepeatedRequest | None = None
        # The socket, as long as the transport has nothing to write, so that C may write to it.
        self._writable_socket: socket.socket | None = sock
        # Whether the loop in _serve() runs, which continues when a response is complete.
        self._is_serving = False
        self._is_paused = False
        # Whether unsent data was discarded.
        self._is_cut = self.was_flushed = False
        # End of the time for the current body.
        self._body_due = inf
        # Whether the write buffer was above its high-water mark, and is not below its low-water mark yet.
        self._is_congested = False
        # Futures that wait until the client has read enough.
        self._write_waiters: list[asyncio.Future[None]] = []
        # Unsent bytes at the last check of the deadline.
        self._unsent = 0

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the first request."""
        self.transport = transport  # type: ignore[assignment]
        self.server.connections.add(self)
        if self.server.is_closed:
            self.transport.abort()
            return
        self._wait_for_request()

    def _process_data(self, nbytes: int) -> None:
        if nbytes == len(self._buffer):
            self._end_turn()
        if self._request is None and not self._data:
            self._serve(self._buffer, nbytes)
        else:
            self._append(bytes(memoryview(self._buffer)[:nbytes]))

    def _append(self, data: bytes) -> None:
        request = self._request
        if request is None:
            is_line_complete = b"\n" in data
            data = self._data + data
            if is_line_complete or len(data) >= self.server.max_header_size:
                self._serve(data, len(data))
            else:
                self._data = data
        elif not self._data:
            self._data = request.data_received(data)
            if self._data:
                self._input_left()
        else:
            self._data += data
            self._input_left()

    def _input_left(self) -> None:
        """Called if there is input after the current request."""
        if self._request is None:
            self._continue()
        else:
            self.limit_pipeline()

    def limit_pipeline(self) -> None:
        """Stop to read if there are many further requests."""
        if self._request is not None and len(self._data) > MAX_PIPELINED:
            self.pause_reading()
            self._limit_time(DISCONNECT_INTERVAL)

    def eof_received(self) -> bool:
        """Called when the client closed its side; return whether the connection stays open for now."""
        request = self._request
        if isinstance(request, DelegatedRequest) and request.is_read:
            self._end_input(request)
            return True
        self._disconnected()
        self._begin_closing()
        return False

    def _end_input(self, request: Request | None, turns: int = HANDLER_TURNS) -> None:
        """Close the connection, unless the application, which may just have got the request, responds at once."""
        if self._request is not request:
            # The client has sent several requests.
            request, turns = self._request, HANDLER_TURNS
        if turns and (isinstance(request, DelegatedRequest) or (request is None and self._data)):
            asyncio.get_running_loop().call_soon(self._end_input, request, turns - 1)
        else:
            self._disconnected()
            self._begin_closing()
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection is closed."""
        self.was_flushed = exc is None and not self._is_cut
        self._leave()
        if self._release_slot is not None:
            self._release_slot()
        self._disconnected()
        self._forget_head()
        self._wake_writers()

    def _leave(self) -> None:
        self.server.cancel(self)
        self.server.connection_ended(self)

    def _disconnected(self) -> None:
        request, self._request = self._request, _DISCARD
        self._data = b""
        if request is not None:
            request.on_disconnect()

    def pause_writing(self) -> None:
        """Called when the write buffer is above its high-water mark."""
        self._is_congested = True
        if self._request is not None:
            # An application may wait until the client has read enough.
            self._unsent = self.unsent
            self._limit_time(self.server.idle_timeout)

    def resume_writing(self) -> None:
        """Called when the write buffer has drained."""
        self._is_congested = False
        self._wake_writers()
        if self._request is None and not self._is_serving:
            self._continue()

    def _wake_writers(self) -> None:
        waiters, self._write_waiters = self._write_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _end_turn(self) -> None:
        # Otherwise, uvloop reads a socket up to 32 times per iteration, as long as each read fills the buffer.
        if not self._is_paused and not self.transport.is_closing():
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        if not self._is_paused and self.owns_transport:
            self.transport.resume_reading()

    @property
    def owns_transport(self) -> bool:
        """Whether the connection was not handed over."""
        return not self.transport.is_closing() and self.transport.get_protocol() is self

    def pause_reading(self) -> None:
        """Stop reading; a disconnect is not noticed until :meth:`resume_reading`."""
        if not self._is_paused:
            self._is_paused = True
            if not self.transport.is_closing():
                self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Continue to read."""
        if self._is_paused:
            self._is_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # Requests.

    def _wait_for_request(self) -> None:
        self.due = self.server.now() + self.server.idle_timeout
        if self.bucket is None:
            self.server.schedule(self)

    def _serve(self, data: bytes | bytearray, end: int) -> None:
        """Serve the requests in ``data[:end]``, until the response of one is pending or the rest is incomplete."""
        server = self.server
        left = _BATCH_SIZE
        self._is_serving = True
        try:
            while True:
                head = parse_head(data, 0, end, server.max_header_size, MAX_FIELDS)
                if head is None:
                    self._data = bytes(memoryview(data)[:end])
                    if end:
                        self._limit_time(HEAD_TIMEOUT)
                    if self._is_congested:
                        self.pause_reading()
                    return
                # While a request is served, its own deadlines count.
                self.due = inf
                start = head.size
                stop = start + head.content_length
                target = head.target
                if target[0] != "/":
                    target = _origin_form(target)
                found = server.routes.find(target.partition("?")[0])
                if found is None:
                    delegated = DelegatedRequest(self, head)
                    self._request = delegated
                    # Before the application may detach the connection.
                    self._data = bytes(memoryview(data)[start:end])
                    delegated.start()
                    self._pass_body()
                elif stop <= end and not head.is_chunked and not (start < stop and server.may_decompress(head)):
                    self._data = bytes(memoryview(data)[stop:end]) if stop < end else b""
                    body = bytes(memoryview(data)[start:stop]) if start < stop else b""
                    exchange = NativeExchange(self, head, target, found[0], found[1], body)
                    self._handle(exchange, head, body)
                    if target != self._target:
                        self._target, self._until_learned = target, 1
                    else:
                        self._until_learned -= 1
                        if not self._until_learned:
                            self._learn(exchange, head, bytes(memoryview(data)[:start]))
                else:
                    exchange = NativeExchange(self, head, target, found[0], found[1], b"")
                    reader = BodyReader(self, exchange, head)
                    self._request = reader
                    self._data = bytes(memoryview(data)[start:end])
                    reader.start(head.content_length)
                    self._pass_body()
                if self._request is not None or not self._data or self._is_congested:
                    break
                left -= 1
                if not left:
                    self.pause_reading()
                    asyncio.get_running_loop().call_soon(self._continue)
                    break
                data = self._data
                end = len(data)
        except BadRequest as error:
            self.refuse(error)
        finally:
            self._is_serving = False
        if self._request is None:
            self._wait_for_request()
            if self._is_congested:
                self.pause_reading()
        else:
            self.limit_pipeline()

    def _pass_body(self) -> None:
        """Pass what was read after a head to its request."""
        if self._data and self._request is not None:
            data, self._data = self._data, b""
            self._data = self._request.data_received(data)

    def _handle(self, exchange: NativeExchange, head: RequestHead, body: bytes) -> None:
        if body and len(body) > exchange.endpoint.body_limit(head.method)[0]:
            # Rejects it, in the same way as a body that has not arrived yet.
            BodyReader(self, exchange, head).start(len(body))
        else:
            self.handle(exchange)

    def _forget_head(self) -> None:
        """Free what refers to the connection."""
        repeated, self._repeated = self._repeated, None
        if repeated is not None:
            repeated.release()

    def _learn(self, exchange: NativeExchange, head: RequestHead, data: bytes) -> None:
        """Let C serve further requests with this head."""
        self._until_learned = _LEARN_INTERVAL
        if self.owns_transport and self._request is not _DISCARD:
            self._repeated = repeated_request(self, exchange, head, data)

    def handle(self, exchange: NativeExchange) -> None:
        """Pass a request whose body was read to its endpoint."""
        self._request = exchange
        # Context variables that callbacks set must not leak into the next request of the connection.
        contextvars.copy_context().run(exchange.serve)

    def body_finished(self, exchange: NativeExchange, unread: bytes) -> bytes:
        """Pass a request whose body was read in pieces to its endpoint.

        Args:
            exchange: The request.
            unread: The data after the body.

        Returns:
            What is left of ``unread`` for the next request.
        """
        self.body_read()
        # Before the endpoint hands the connection over, with this data.
        self._data = unread
        self.handle(exchange)
        return self._data

    def serve_endpoint(self, head: RequestHead, endpoint: Endpoint, session_id: str, body: bytes) -> None:
        """Pass a request to an endpoint that the application has found for it."""
        exchange = NativeExchange(self, head, _origin_form(head.target), endpoint, session_id, body)
        self._handle(exchange, head, body)

    def read_body(self, head: RequestHead, endpoint: Endpoint, session_id: str) -> None:
        """Read the body of a request, none of which was read, for an endpoint that the application has found for it."""
        exchange = NativeExchange(self, head, _origin_form(head.target), endpoint, session_id, b"")
        self._request = reader = BodyReader(self, exchange, head)
        reader.start(head.content_length)

    def limit_body_time(self, seconds: float | None = None) -> None:
        """Limit the time for the rest of a body, by default to the server's limit."""
        if seconds is None:
            seconds = self.server.body_timeout
        self._body_due = self.server.now() + seconds
        self._limit_time(seconds)

    def body_read(self) -> None:
        """Called when a body was read: its time limit ends."""
        self._body_due = inf
        if not self._is_congested:
            self.due = inf

    def _limit_time(self, seconds: float) -> None:
        due = self.server.now() + seconds
        if due < self.due:
            self.due = due
            self.server.schedule(self)

    def refuse(self, error: BadRequest) -> None:
        """Respond to a request whose end is unknown, and close the connection (RFC 9112, section 2.2)."""
        logger.info("Malformed HTTP message from %s: %s", self.remote_ip or "a Unix socket", error.reason)
        body = f"{error.reason}\n".encode()
        fields = [
            ("Content-Type", "text/plain; charset=UTF-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        self.write(response_head(error.status, fields) + body)
        self.close_gracefully()

    def response_finished(self, keep_alive: bool) -> None:
        """Called when the response to the current request is complete.

        Args:
            keep_alive: Whether the connection serves further requests. If not, it is closed.
        """
        if self._request is _DISCARD:
            return
        self._request = None
        if not keep_alive or self.server.is_stopped:
            self.close_gracefully() if self._data else self._close()
        elif self._is_serving:
            pass
        elif self._data:
            # Not now: the session that responds may be in the middle of a state change.
            self.pause_reading()
            asyncio.get_running_loop().call_soon(self._continue)
        else:
            self._continue()

    def _continue(self) -> None:
        """Serve the next request if there is one, unless the client has not read enough of the responses."""
        if self._request is not None:
            return
        self._wait_for_request()
        if self._is_congested:
            self.pause_reading()
            return
        self.resume_reading()
        if self._data:
            data, self._data = self._data, b""
            self._serve(data, len(data))

    # Writing.

    def write(self, data: bytes) -> bool:
        """Send data, directly to the socket if nothing is buffered.

        Returns:
            Whether the operating system has accepted all data.
        """
        transport = self.transport
        if transport.is_closing():
            return True
        if not transport.get_write_buffer_size():
            # If the send fails, the transport meets and reports the same error when it writes the rest.
            with contextlib.suppress(OSError):
                sent = self.socket.send(data)
                if sent == len(data):
                    self._writable_socket = self.socket
                    return True
                data = data[sent:]
        self._writable_socket = None
        transport.write(data)
        self._congest(transport.get_write_buffer_size())
        return False

    def _congest(self, unsent: int) -> None:
        # The transport has reported this to the owner before this one, if there was one.
        if unsent > _MAX_UNSENT:
            self._is_congested = True

    @property
    def unsent(self) -> int:
        """Bytes written that the operating system has not accepted yet."""
        return self.transport.get_write_buffer_size()

    def is_disconnected(self) -> bool:
        """Return whether the client has disconnected, even if the event loop has not reported it yet."""
        return self.transport.is_closing() or peer_disconnected(self.socket)

    def drained(self) -> "asyncio.Future[None]":
        """Return a future that is done when the client has read enough for further data."""
        future = asyncio.get_running_loop().create_future()
        if self._is_congested and not self.transport.is_closing():
            self._write_waiters.append(future)
        else:
            future.set_result(None)
        return future

    # Closing.

    def _close(self) -> None:
        self._request = _DISCARD
        self._begin_closing()
        self.transport.close()

    def close_gracefully(self) -> None:
        """Close the connection, whose client may still be sending, so that it can read the response.

        Closing a socket with unread data would reset the connection (RFC 9112, section 9.6).
        """
        self._request = _DISCARD
        self._data = b""
        if self.transport.is_closing():
            return
        self._begin_closing()
        self.resume_reading()
        # If the client has reset the connection, connection_lost() follows.
        with contextlib.suppress(OSError):
            self.transport.write_eof()

    def _begin_closing(self) -> None:
        self._unsent = self.unsent
        self.due = inf
        self._limit_time(CLOSE_TIMEOUT)

    def abort_after_write(self) -> None:
        """Close the connection after the data that was written is sent."""
        self._disconnected()
        self._close()

    def abort(self) -> None:
        """Close the connection immediately and discard unsent data."""
        self._request = _DISCARD
        self.cut()

    def cut(self) -> None:
        """Close the connection's transport immediately and discard unsent data."""
        self._is_cut = True
        self.transport.abort()

    def check(self, now: float) -> None:
        """Close the connection if its client is late."""
        if self._request is _DISCARD:
            if self._is_reading_responses():
                self.due = now + CLOSE_TIMEOUT
            elif not self.server.postpone(self, now):
                self.cut()
        elif now >= self._body_due:
            if not self.server.postpone(self, now):
                logger.info("Timeout reading body from %s", self.remote_ip or "a Unix socket")
                self._time_out()
        elif self._request is not None and not self._is_congested:
            self.due = self._body_due
            if self._is_paused and len(self._data) > MAX_PIPELINED:
                # The event loop reports a disconnect only while it reads.
                if not peer_disconnected(self.socket):
                    self.due = min(now + DISCONNECT_INTERVAL, self.due)
                elif not self.eof_received():
                    self.transport.close()
        elif self._is_reading_responses():
            self.due = min(now + self.server.idle_timeout, self._body_due)
        elif not self.server.postpone(self, now):
            self._time_out()

    def _is_reading_responses(self) -> bool:
        """Return whether the client has read enough of the unsent data since the last check."""
        unsent, before = self.unsent, self._unsent
        self._unsent = unsent
        # If there is more than before, the client has read what was there before.
        return bool(unsent) and (unsent > before or before - unsent >= min(_MIN_DRAIN_BYTES, before))

    def _time_out(self) -> None:
        self._disconnected()
        self.cut() if self.unsent else self.transport.close()

    # What the requests know of the connection.

    @property
    def protocol(self) -> str:
        """The protocol of requests, unless a proxy reports another one."""
        return self.server.protocol or "http"

    @property
    def application_socket(self) -> Any:
        """The socket for applications."""
        return self.socket

    def context_for(self, head: RequestHead) -> RequestContext:
        """Return the context of a request for Tornado's ``HTTPServerRequest``."""
        ip, protocol = client_of(head, self) if self.server.xheaders else (self.remote_ip, self.protocol)
        return RequestContext(self.address, self.socket.family, ip, protocol)

    def tornado_request(self, head: RequestHead, uri: str, started: float) -> HTTPServerRequest:
        """Return a request as Tornado's handlers know it, without its body."""
        headers = HTTPHeaders()
        for name, value in head.fields():
            headers.add(name, value)
        if headers.get_list("Cookie"):
            # Several lines are joined in another way than those of other fields.
            headers["Cookie"] = head.header("Cookie")
        start_line = RequestStartLine(head.method, uri, "HTTP/1.1" if head.is_http11 else "HTTP/1.0")
        # Tornado reads only the context of the connection, and a client's certificate of its stream.
        holder: Any = SimpleNamespace(context=self.context_for(head), stream=ConnectionStream(self))
        request = HTTPServerRequest(connection=holder, start_line=start_line, headers=headers)
        set_start_time(request, self.server.now() - started)
        return request

    # Handing the connection over.

    def detach(self, unread: bytes) -> IOStream:
        """Return a stream for the connection, which ends here.

        Args:
            unread: What the current request had got of its body and not passed on.
        """
        unread += self._data
        self._data = b""
        self._request = _DISCARD
        self._leave()
        self._forget_head()
        self.pause_reading()
        return self._detached(unread)

    def _detached(self, unread: bytes) -> IOStream:
        release_slot, self._release_slot = self._release_slot, None
        size = self.server.max_buffer_size
        return DetachedStream(self.socket.dup(), self.transport, unread, release_slot, size)

    def hand_over(self, protocol: Connection, *, nodelay: bool, user_timeout: float) -> None:
        """Make ``protocol`` the owner of the connection; it writes the response to the current request."""
        release_slot, self._release_slot = self._release_slot, None
        protocol.takeover_started(release_slot)
        unread, self._data = self._data, b""
        self._request = _DISCARD
        self._leave()
        self._forget_head()
        transport = self.transport
        if transport.is_closing():
            protocol.takeover_failed()
            return
        sock = self.socket
        try:
            if user_timeout:
                set_user_timeout(sock, user_timeout)
            if not nodelay:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                protocol.takeover_failed()
                transport.abort()
                return
        self._pass_socket(protocol, unread)
        transport.set_protocol(protocol)
        self._is_paused = False
        if not transport.is_reading():
            transport.resume_reading()
        protocol.connection_made(transport)

    def _pass_socket(self, protocol: Connection, unread: bytes) -> None:
        protocol.adopt_socket(self.socket, unread)

    def take_back(self, data: bytes, release_slot: Callable[[], None] | None) -> Unsent | None:
        """Continue with the next request, after the other owner has written a complete response.

        Args:
            data: What was read in the meantime.
            release_slot: Called when the connection is closed.

        Returns:
            The unsent rest of that response, if there is one.
        """
        self._release_slot = release_slot
        # Until the next write, the other owner's data may be unsent.
        self._writable_socket = None
        self.transport.set_protocol(self)
        self.server.connections.add(self)
        self._data = data
        self._request = None
        # The other owner has paused reading if it has read many requests.
        if not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()
        if self.server.is_stopped:
            self._close()
        else:
            self._wait_for_request()
            if data:
                # Not now: the session may be in the middle of a state change.
                asyncio.get_running_loop().call_soon(self._continue)
        unsent = self.unsent
        return Unsent(self, unsent) if unsent else None


def _origin_form(target: str) -> str:
    """Return the path and query of a target in absolute form (RFC 9112, section 3.2.2)."""
    _, separator, rest = target.partition("://")
    if not separator or target[0] == "/":
        return target
    start = min((rest.find(c) for c in "/?" if c in rest), default=len(rest))
    return rest[start:] if rest[start : start + 1] == "/" else f"/{rest[start:]}"
