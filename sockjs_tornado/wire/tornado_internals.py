"""The parts of Tornado's classes that are not documented, each with a test in ``tests/wire/test_tornado_internals.py``.

No other module uses such a name, except that ``wire/websocket.py`` uses ``tornado.speedups`` if it exists.
"""

import inspect
import socket
import sys
import time
from types import FrameType
from typing import Any

from tornado.concurrent import Future
from tornado.http1connection import HTTP1ServerConnection, _GzipMessageDelegate
from tornado.httpclient import HTTPRequest, _RequestProxy
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream
from tornado.routing import Rule
from tornado.tcpclient import TCPClient
from tornado.util import ObjectDict
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketClientConnection, WebSocketError, WebSocketProtocol


class LoggedHandler(RequestHandler):
    """A request handler that says how the access log describes its request."""

    def _request_summary(self) -> str:
        # Tornado's would contain the session id, and a log function may call Tornado's.
        return self.summary()

    def summary(self) -> str:
        """Return the request line for the access log."""
        raise NotImplementedError

    def break_cycle(self) -> None:
        """Break the reference cycle through the template namespace, so that the garbage collector is not needed."""
        self.ui = ObjectDict()


class UnloggedHandler(RequestHandler):
    """A request handler whose expected responses are not in the access log: those below 400, and 503."""

    def _log(self) -> None:
        if self.get_status() >= 400 and self.get_status() != 503:
            super()._log()


class AcceptingServer(HTTPServer):
    """An HTTP server that gets the accepted sockets, instead of streams.

    Attributes:
        uses_streams: Whether :meth:`serve_stream` serves them all the same. Must be set before sockets are added.
    """

    uses_streams = False

    def serve_stream(self, sock: socket.socket, address: Any) -> None:
        """Serve a new connection as Tornado's server does: with :meth:`handle_stream`."""
        self._handle_connection(sock, address)

    def handle_socket(self, sock: socket.socket, address: Any) -> None:
        """Serve a new connection."""
        raise NotImplementedError


def gunzip_delegate(delegate: HTTPMessageDelegate, chunk_size: int, max_body_size: int) -> HTTPMessageDelegate:
    """Return a delegate that decompresses the body before it passes it to ``delegate``."""
    if "max_body_size" in inspect.signature(_GzipMessageDelegate).parameters:
        return _GzipMessageDelegate(delegate, chunk_size, max_body_size)
    # Tornado 6.5.
    return _GzipMessageDelegate(delegate, chunk_size)  # type: ignore[call-arg] # pragma: no cover


def top_rules(application: Application) -> list[Rule]:
    """Return the URL rules of an application, the outermost ones."""
    return application.default_router.rules


def set_start_time(request: HTTPServerRequest, seconds: float) -> None:
    """Set the time since which ``request.request_time()`` counts, to ``seconds`` ago."""
    request._start_time = time.time() - seconds


def parse_body(request: HTTPServerRequest) -> None:
    """Parse the arguments in the body, as Tornado does for servers that get a function."""
    request._parse_body()


def is_last_request(request: HTTPServerRequest) -> bool:
    """Return whether Tornado closes the connection after the request, whatever the client asks for."""
    connection: Any = request.connection
    return bool(connection.no_keep_alive)


def body_timeout(request: HTTPServerRequest) -> float | None:
    """Return the seconds that a body may take, or None if there is no limit."""
    connection: Any = request.connection
    timeout: float | None = connection.params.body_timeout
    return timeout


def client_port(request: HTTPServerRequest) -> int:
    """Return the port of the connection's other end, or 0 if it has none, as over a Unix socket."""
    address = getattr(getattr(request.connection, "context", None), "address", None)
    return address[1] if isinstance(address, tuple) and len(address) > 1 else 0


def decompresses_body(request: HTTPServerRequest) -> bool:
    """Return whether the body is compressed and the server decompresses bodies (``decompress_request``)."""
    # In this case, Tornado has renamed the Content-Encoding header. A client can send the new name, too, so the
    # header alone proves nothing.
    params = getattr(request.connection, "params", None)
    return bool(getattr(params, "decompress", False) and request.headers.get_list("X-Consumed-Content-Encoding"))


def connection_stream(server_conn: Any) -> IOStream:
    """Return the stream of the connection that ``HTTPServer.on_close`` is called with."""
    stream: IOStream = server_conn.stream
    return stream


def is_buffer_empty(stream: IOStream) -> bool:
    """Return whether a stream has read nothing that was not consumed."""
    # A read_bytes() call on an empty buffer would read from the socket and leave the stream waiting for more.
    return getattr(stream, "_read_buffer_size", None) == 0


_REQUEST_LOOP = HTTP1ServerConnection._server_request_loop.__code__


def accepting_server() -> Any:
    """Return the server that has accepted the connection of the current request, or None if it is unknown.

    This must be called while Tornado calls the handler, not in a task of the handler's own.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not _REQUEST_LOOP:
        frame = frame.f_back
    if frame is None:
        return None
    variables = frame.f_locals
    server = variables.get("delegate")
    if type(variables) is dict:
        # Before Python 3.13, it is a copy that lives as long as the frame. It must not keep the request.
        variables.clear()
    return server


class WebSocketClient(WebSocketClientConnection):
    """A websocket that :func:`open_websocket` returns.

    Attributes:
        has_exceeded_limit: Whether Tornado has closed it because a message exceeds ``max_message_size``.
    """

    has_exceeded_limit = False

    def __init__(self, tcp_client: TCPClient, request: Any, max_message_size: int) -> None:
        self._given_client = tcp_client
        super().__init__(request, max_message_size=max_message_size)

    @property
    def tcp_client(self) -> TCPClient:
        """The given TCPClient, instead of the one that the base class creates."""
        return self._given_client

    @tcp_client.setter
    def tcp_client(self, client: TCPClient) -> None:
        if client is not self._given_client:
            client.close()

    def get_websocket_protocol(self) -> WebSocketProtocol:
        protocol = super().get_websocket_protocol()
        close = protocol.close

        def close_and_note(code: int | None = None, reason: str | None = None) -> None:
            self.has_exceeded_limit |= code == 1009
            close(code, reason)

        protocol.close = close_and_note  # type: ignore[method-assign]
        return protocol

    async def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        if isinstance(start_line, ResponseStartLine) and start_line.code == 101:
            try:
                self.get_websocket_protocol()._process_server_headers(self.key, headers)
            except (AssertionError, KeyError, ValueError):
                # Tornado would log an error with a traceback, and close the connection without a reason.
                if not self.connect_future.done():
                    self.connect_future.set_exception(WebSocketError("the response to the handshake is not valid"))
                self.stream.close()
                return
        await super().headers_received(start_line, headers)


def open_websocket(tcp_client: TCPClient, request: HTTPRequest, max_message_size: int) -> "Future[WebSocketClient]":
    """Do the same as Tornado's ``websocket_connect``, over a connection that a TCPClient opens."""
    request.headers = HTTPHeaders(request.headers)
    with_defaults = _RequestProxy(request, HTTPRequest._DEFAULTS)
    return WebSocketClient(tcp_client, with_defaults, max_message_size).connect_future  # type: ignore[return-value]


def open_connections(server: HTTPServer) -> set[Any]:
    """Return the connections that ``server.close_all_connections()`` closes, by awaiting their ``close()``."""
    return server._connections
