"""One HTTP/1.1 connection of the native server: the bytes of requests in, the bytes of responses out."""

import asyncio
import contextvars
import logging
import re
from math import inf
from types import SimpleNamespace
from typing import Any, Final

from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from ..exceptions import BadRequest
from ..http.base_exchange import MAX_FIELDS
from ..transports.endpoint import Endpoint
from ..wire.http_parser import RequestHead, parse_head
from ..wire.responses import response_head
from ..wire.tornado_internals import set_start_time
from .body import BodyReader
from .delegate import DelegatedRequest
from .exchange import NativeExchange
from .handover import MovableConnection
from .proxies import RequestContext, client_of
from .repeated import repeated_request
from .request import DISCARD, Request
from .streams import ConnectionStream

logger = logging.getLogger(__name__)

#: Seconds from the first byte of a request to the end of its head.
HEAD_TIMEOUT: Final = 10.0

#: Requests of one connection that are served before the event loop runs other callbacks.
_BATCH_SIZE: Final = 32

#: Number of requests with the same target that C does not serve, because of their heads or bodies, before the head is
#: learned again.
_LEARN_INTERVAL: Final = 64

#: Iterations of the event loop until a handler of Tornado has run; it takes one for the body, and one for the handler.
HANDLER_TURNS: Final = 3

#: The beginning of a target in absolute form (RFC 3986, section 3.1).
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class HTTPConnection(MovableConnection):
    """A connection that serves one request after the other.

    States, by ``_request``:

    - None: the head of the next request is expected; ``_data`` is its beginning. If reading is paused, ``_data`` may be
      further requests, which are served when the client has read responses, or other clients were served.
    - A request: its body is read, or its response is pending. ``_data`` is what was read beyond its body.
    - ``DISCARD``: the connection closes.
    """

    __slots__ = ()

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
                # Not in both, as in _serve().
                self._data = b""
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

    # Requests.

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
                    self._limit_time(server.head_timeout)
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
                found = self._find_endpoint(head, target)
                if found is None:
                    self._serve_other(head, data, end)
                elif stop <= end and not head.is_chunked and not (start < stop and server.may_decompress(head)):
                    self._data = bytes(memoryview(data)[stop:end]) if stop < end else b""
                    body = bytes(memoryview(data)[start:stop]) if start < stop else b""
                    exchange = server.exchange_type(self, head, target, found[0], found[1], body)
                    if body and len(body) > exchange.endpoint.body_limit(head.method)[0]:
                        # Rejects it, in the same way as a body that has not arrived yet.
                        BodyReader(self, exchange, head).start(len(body))
                    else:
                        self.handle(exchange)
                    if target != self._target:
                        self._target, self._until_learned = target, 1
                    else:
                        self._until_learned -= 1
                        if not self._until_learned:
                            self._learn(exchange, head, bytes(memoryview(data)[:start]))
                else:
                    exchange = server.exchange_type(self, head, target, found[0], found[1], b"")
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
                # Not in both: whatever happens to the connection next gets the rest of the input once.
                data, self._data = self._data, b""
                end = len(data)
        except BadRequest as error:
            self._refuse_head(error, data, end)
        finally:
            self._is_serving = False
        if self._request is None:
            self._wait_for_request()
            if self._is_congested:
                self.pause_reading()
        elif self._data:
            self.limit_pipeline()

    def _find_endpoint(self, head: RequestHead, target: str) -> tuple[Endpoint, str] | None:
        """Return the endpoint that serves a request and the session id in its path, or None for another request."""
        return self.server.routes.find(target.partition("?")[0])

    def _serve_other(self, head: RequestHead, data: bytes | bytearray, end: int) -> None:
        """Pass the request at the start of ``data[:end]``, which is not of a router, to the application."""
        delegated = DelegatedRequest(self, head)
        self._request = delegated
        # Before the application may detach the connection.
        self._data = bytes(memoryview(data)[head.size : end])
        delegated.start()
        self._pass_body()

    def _refuse_head(self, error: BadRequest, data: bytes | bytearray, end: int) -> None:
        """Respond to ``data[:end]``, which does not start with a request."""
        self.refuse(error)

    def _pass_body(self) -> None:
        """Pass the data that was read after a head to its request."""
        if self._data and self._request is not None:
            data, self._data = self._data, b""
            self._data = self._request.data_received(data)

    def _learn(self, exchange: NativeExchange, head: RequestHead, data: bytes) -> None:
        """Let C serve further requests with this head."""
        self._until_learned = _LEARN_INTERVAL
        if self.owns_transport and self._request is not DISCARD:
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
            The rest of ``unread``, for the next request.
        """
        self.body_read()
        # Before the endpoint hands the connection over, with this data.
        self._data = unread
        self.handle(exchange)
        return self._data

    def serve_endpoint(self, head: RequestHead, endpoint: Endpoint, session_id: str) -> None:
        """Pass a request, of whose body nothing was read, to an endpoint that the application has found for it."""
        exchange = self.server.exchange_type(self, head, _origin_form(head.target), endpoint, session_id, b"")
        if head.has_body:
            self._request = reader = BodyReader(self, exchange, head)
            reader.start(head.content_length)
        else:
            self.handle(exchange)

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
        if self._request is DISCARD:
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

    # For the requests.

    @property
    def application_socket(self) -> Any:
        """The socket for applications."""
        return self.socket

    def context_for(self, head: RequestHead) -> RequestContext:
        """Return the context of a request for Tornado's ``HTTPServerRequest``."""
        server = self.server
        ip, protocol = client_of(head, self) if server.xheaders else (self.remote_ip, server.request_protocol)
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
        # Request handlers set one.
        holder.set_close_callback = lambda callback: None
        request = HTTPServerRequest(connection=holder, start_line=start_line, headers=headers)
        set_start_time(request, self.server.now() - started)
        return request


def _origin_form(target: str) -> str:
    """Return the path and query of a target in absolute form (RFC 9112, section 3.2.2)."""
    scheme = _SCHEME.match(target)
    if scheme is None:
        return target
    rest = target[scheme.end() :]
    start = min((rest.find(c) for c in "/?" if c in rest), default=len(rest))
    return rest[start:] if rest[start : start + 1] == "/" else f"/{rest[start:]}"
