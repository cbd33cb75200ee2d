"""Connections of Tornado's HTTP server that are taken over with a request of a session.

Clients of a session send many requests over one connection. So the first of them moves the connection from Tornado's
stream to an :class:`AdoptedConnection`, which serves the requests of all routers of the application, as on the native
server. When another request arrives, the connection returns to Tornado's server with all data that was not used.
Therefore Tornado serves everything else, with its own parser.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from math import inf
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

from tornado.httpserver import HTTPServer as TornadoServer
from tornado.httputil import HTTPServerRequest
from tornado.iostream import IOStream
from tornado.web import Application

from ..exceptions import BadRequest
from ..http.base_exchange import MAX_FIELDS
from ..http.handlers import SockJSHandler
from ..transports.endpoint import Endpoint, SessionEndpoint
from ..transports.receiving import ReceivingEndpoint
from ..wire.connection import Connection
from ..wire.fields import has_token
from ..wire.http_parser import RequestHead, parse_head
from ..wire.responses import claim_slot
from ..wire.stream import duplicate, read_unread
from ..wire.tornado_internals import LoggedHandler, accepting_server, decompresses_body, open_connections
from .access_log import AccessLogEntry
from .connection import HTTPConnection
from .connection_limits import LimitedServer
from .exchange import NativeExchange
from .http_server import HTTPServer
from .streams import DetachedStream


class Adopter(HTTPServer):
    """The native server of the connections that were adopted from one of Tornado's servers. It accepts none itself.

    Args:
        server: The server that accepts the connections, whose options also apply to the adopted ones.
    """

    checks_options = False

    def initialize(self, server: TornadoServer) -> None:  # type: ignore[override]
        """Set the options."""
        params = server.conn_params
        super().initialize(
            server.request_callback,
            xheaders=server.xheaders,
            protocol=server.protocol,
            decompress_request=params.decompress,
            chunk_size=params.chunk_size,
            max_header_size=params.max_header_size,
            idle_connection_timeout=params.header_timeout,
            body_timeout=params.body_timeout,
            max_body_size=params.max_body_size,
            max_buffer_size=server.max_buffer_size,
            trusted_downstream=server.trusted_downstream,
        )
        # Tornado limits the time from one request to the end of the next head, and by default not that of a body.
        self.head_timeout = self.idle_timeout
        self.body_timeout = params.body_timeout or inf

    def adopt(self, server: TornadoServer, request: HTTPServerRequest, data: bytes) -> bool:
        """Take the connection of a request over and serve the request; return whether that was possible.

        Args:
            server: The server that has accepted the connection.
            request: The request.
            data: The same, as far as it was read.
        """
        tornado_connection: Any = request.connection
        sock = duplicate(tornado_connection.stream.socket)
        if sock is None:
            return False
        address = tornado_connection.context.address
        stream = tornado_connection.detach()
        connection = AdoptedConnection(self, sock, address, server, claim_slot(stream))
        connection.first_data = data + read_unread(stream)
        stream.close()
        self._connect(connection, connection, sock)
        return True

    def log_request(self, application: Application, exchange: NativeExchange, status: int) -> None:
        """Write the access log of the application, which knows requests as handlers of Tornado."""
        if not _has_own_log(application):
            exchange.log_request(application, AccessLogEntry(application, exchange, status))
            return
        handler = _ServedHandler(application, exchange.tornado_request(), summary=exchange.summary(), status=status)
        exchange.log_request(application, handler)
        handler.break_cycle()


class _ServedHandler(LoggedHandler):
    """A request that an adopted connection has served, for a log function."""

    def initialize(self, summary: str, status: int) -> None:
        self._summary = summary
        self.set_status(status)

    def summary(self) -> str:
        return self._summary


def _has_own_log(application: Application) -> bool:
    return "log_function" in application.settings or type(application).log_request is not Application.log_request


class AdoptedConnection(HTTPConnection):
    """A connection of Tornado's server that serves requests of sessions.

    Args:
        adopter: The native server.
        sock: A duplicate of the connection's socket.
        address: The client's address.
        tornado_server: The server that has accepted the connection.
        release_slot: Called when the connection is closed.

    Attributes:
        first_data: The request that is served when the transport exists, as far as it was read, and what follows it.
    """

    __slots__ = ("_is_closed_by_server", "_registration", "first_data")

    #: As on Tornado's server: a response is the same whether its connection was adopted or not.
    continues_after_streams = False

    first_data: bytes

    def __init__(
        self,
        adopter: Adopter,
        sock: socket.socket,
        address: Any,
        tornado_server: TornadoServer,
        release_slot: Callable[[], None] | None,
    ) -> None:
        self._registration = _Registration(tornado_server, self, release_slot)
        super().__init__(adopter, sock, address, self._registration.release)
        # As in Tornado, for Unix sockets.
        self.remote_ip = self.remote_ip or "0.0.0.0"  # noqa: S104 - no address to bind to
        self._is_closed_by_server = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the first request."""
        self.transport = transport  # type: ignore[assignment]
        self.server.connections.add(self)
        sock = self.socket
        # The event loop sets it only if the listening socket was created with the number of the protocol.
        if sock.proto != socket.IPPROTO_TCP and sock.family != getattr(socket, "AF_UNIX", None):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = self.first_data
        del self.first_data
        if self._is_closed_by_server:
            self.transport.abort()
        else:
            self._serve(data, len(data))

    def close_by_server(self) -> None:
        """Close the connection, because its server closes all connections."""
        self._is_closed_by_server = True
        if hasattr(self, "transport"):
            self.abort_after_write()

    def hand_over(self, protocol: Connection, *, nodelay: bool, user_timeout: float) -> None:
        """Make ``protocol`` the owner of the connection, which the server does not know any more."""
        self._registration.leave()
        super().hand_over(protocol, nodelay=nodelay, user_timeout=user_timeout)

    def _find_endpoint(self, head: RequestHead, target: str) -> tuple[Endpoint, str] | None:
        return super()._find_endpoint(head, target) if _is_served(head, self.server) else None

    def _serve_other(self, head: RequestHead, data: bytes | bytearray, end: int) -> None:
        self._give_back(bytes(memoryview(data)[:end]))

    def _refuse_head(self, error: BadRequest, data: bytes | bytearray, end: int) -> None:
        self._give_back(bytes(memoryview(data)[:end]))

    def _give_back(self, unread: bytes) -> None:
        """Return the connection to Tornado's server, which serves the requests in ``unread``."""
        # The server counts the stream again.
        release_slot, self._release_slot = self._release_slot, None
        try:
            stream = self.detach(unread)
        except OSError:
            # No file descriptor is free.
            self._release_slot = release_slot
            self.abort()
            return
        self._registration.release()
        self._registration.server.handle_stream(stream, self.address)


class _Registration:
    """An adopted connection among those that Tornado's server closes.

    Args:
        server: The server.
        connection: The connection.
        release_slot: Called when the connection is closed.
    """

    def __init__(
        self, server: TornadoServer, connection: AdoptedConnection, release_slot: Callable[[], None] | None
    ) -> None:
        self.server = server
        self._connection: AdoptedConnection | None = connection
        self._release_slot = release_slot
        self._left: asyncio.Future[None] | None = None
        open_connections(server).add(self)

    async def close(self) -> None:
        """Close the connection, and wait until it is closed; called by Tornado."""
        if self._connection is not None:
            if self._left is None:
                self._left = asyncio.get_running_loop().create_future()
            self._connection.close_by_server()
            # Unlike await, this does not cancel the future, for which others may wait.
            await asyncio.wait([self._left])

    def leave(self) -> None:
        """Called when the connection is closed, or does not serve HTTP any more."""
        self._connection = None
        open_connections(self.server).discard(self)
        if self._left is not None and not self._left.done():
            self._left.set_result(None)

    def release(self) -> None:
        """Called when the connection is closed, by whichever object owns it."""
        self.leave()
        if self._release_slot is not None:
            self._release_slot()


class Adopters:
    """Adopts connections with the requests for one router."""

    def __init__(self) -> None:
        self._adopters: WeakKeyDictionary[TornadoServer, Adopter] = WeakKeyDictionary()

    def adopt(self, handler: SockJSHandler) -> bool:
        """Take the connection of a request over and serve the request, if everything else stays the same by that.

        Args:
            handler: The request. Tornado is calling its handler now, and has read all of its body or nothing.

        Returns:
            Whether the request is served.
        """
        request = handler.request
        stream: Any = getattr(request.connection, "stream", None)
        if not _is_repeated(handler.endpoint) or not _is_ordinary(request) or not _is_movable(stream):
            return False
        server = accepting_server()
        if not _is_standard(server, handler.application):
            return False
        adopter = self._adopters.get(server)
        if adopter is None:
            adopter = self._adopters[server] = Adopter(server)
        head = _head_of(handler, adopter)
        if head is None:
            return False
        if adopter.routes.find(request.path) != (handler.endpoint, handler.session_id):
            return False
        return adopter.adopt(server, request, head + request.body)


def _is_repeated(endpoint: Endpoint) -> bool:
    """Return whether clients send many requests to an endpoint, over connections that stay open."""
    if not isinstance(endpoint, SessionEndpoint):
        return False
    return not (isinstance(endpoint, ReceivingEndpoint) and endpoint.transport.streaming)


def _is_ordinary(request: HTTPServerRequest) -> bool:
    """Return whether the connection stays open after the response, and the request's fields are those of the client."""
    connection: Any = request.connection
    headers = request.headers
    return (
        request.version == "HTTP/1.1"
        and not getattr(connection, "no_keep_alive", True)
        and not has_token(",".join(headers.get_list("Connection")), "close")
        and not headers.get_list("Upgrade")
        and not decompresses_body(request)
    )


def _is_movable(stream: Any) -> bool:
    """Return whether a connection can leave its stream: without TLS, and without data that was not sent."""
    return (
        (type(stream) is IOStream or (type(stream) is DetachedStream and stream.drop_transport()))
        and not stream.closed()
        and not stream.writing()
        and stream.max_write_buffer_size is None
    )


def _is_standard(server: Any, application: Application) -> TypeGuard[TornadoServer]:
    """Return whether the server passes all requests to the application, and does nothing of its own with them."""
    if type(server) is not TornadoServer and not (type(server) is LimitedServer and server.uses_streams):
        return False
    return server.request_callback is application


def _is_served(head: RequestHead, server: HTTPServer) -> bool:
    """Return whether an adopted connection serves a request of a session, instead of Tornado's server."""
    return head.content_length <= server.max_body_size and head.is_http11 and head.target[0] == "/"


def _head_of(handler: SockJSHandler, adopter: Adopter) -> bytes | None:
    """Return the head of a request, or None if an adopted connection would give the request back to Tornado.

    Then Tornado would call the handler again, which would adopt the connection again, and so on.
    """
    request = handler.request
    lines = [f"{request.method} {request.uri} HTTP/1.1\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in handler.fields()]
    lines.append("\r\n")
    data = "".join(lines).encode("latin-1")
    with contextlib.suppress(BadRequest):
        head = parse_head(data, 0, len(data), adopter.max_header_size, MAX_FIELDS)
        if head is not None and _is_served(head, adopter):
            return data
    return None
