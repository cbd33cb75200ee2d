"""The HTTP server."""

import asyncio
import functools
import logging
import socket
import ssl
import time
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping
from math import inf
from typing import Any, Final

from tornado.httputil import HTTPConnection as TornadoConnection
from tornado.httputil import HTTPMessageDelegate, HTTPServerConnectionDelegate
from tornado.netutil import ssl_options_to_context
from tornado.web import Application

from ..exceptions import ConfigurationError
from ..observe.logs import ThrottledLog
from ..session.deadlines import Deadlines
from ..validation import is_size, is_zero_or_more, safe_repr
from ..wire.http_parser import RequestHead
from ..wire.sockets import set_keepalive
from ..wire.tornado_internals import AcceptingServer
from .access_log import AccessLogEntry, logs_success
from .connection import HEAD_TIMEOUT, HTTPConnection
from .connection_io import ConnectionIO
from .exchange import NativeExchange
from .function_delegate import FunctionDelegate
from .listening import Listener
from .routes import Routes
from .secure_connection import SecureConnection

logger = logging.getLogger(__name__)

#: Defaults in seconds: how long a connection may be idle between requests, and how long a body may take.
IDLE_TIMEOUT: Final = 75.0
BODY_TIMEOUT: Final = 60.0

#: As in Tornado: the default of ``max_buffer_size``, and so of ``max_body_size``.
_MAX_BODY_SIZE: Final = 100 * 1024 * 1024

#: Bytes of the read buffer that all connections share.
READ_SIZE: Final = 64 * 1024


#: The options with numbers, of which 0 and None stand for the default, and those that are on or off.
_SECONDS_OPTIONS: Final = ("idle_connection_timeout", "body_timeout")
_SIZE_OPTIONS: Final = ("chunk_size", "max_header_size")
#: Sizes may be a float, such as 10e6, where they are only compared.
_LIMIT_OPTIONS: Final = ("max_body_size", "max_buffer_size")
_FLAG_OPTIONS: Final = ("no_keep_alive", "xheaders", "decompress_request")


def _is_limit(value: Any) -> bool:
    """Return whether a value is a number, 0 or more; infinity is no limit."""
    return is_zero_or_more(value) or value == inf


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for a value that Tornado would accept, and that has another meaning than it seems."""
    for names, is_valid, expected in (
        (_SECONDS_OPTIONS, _is_limit, "a number of seconds, 0 or more"),
        (_SIZE_OPTIONS, is_size, "a number of bytes"),
        (_LIMIT_OPTIONS, _is_limit, "a number of bytes"),
    ):
        for name in names:
            value = options.get(name)
            if value is not None and not is_valid(value):
                raise ConfigurationError(f"{name}: expected {expected}, got {safe_repr(value)}")
    for name in _FLAG_OPTIONS:
        # "false" would be true.
        if options.get(name, False) not in (True, False, None):
            raise ConfigurationError(f"{name}: expected True or False, got {safe_repr(options[name])}")
    if options.get("protocol") not in (None, "http", "https"):
        raise ConfigurationError(f'protocol: expected "http" or "https", got {safe_repr(options["protocol"])}')
    if isinstance(options.get("trusted_downstream"), str):
        # Its characters would be the addresses.
        raise ConfigurationError(f"trusted_downstream: expected a list, got {safe_repr(options['trusted_downstream'])}")


class HTTPServer(AcceptingServer):
    """An HTTP/1.1 server for Tornado applications that serves SockJS requests without Tornado's request handlers::

        HTTPServer(application).listen(8080)

    It takes the arguments of ``tornado.httpserver.HTTPServer``, has its methods, and behaves the same, except:

    - Requests that two parsers may understand differently are refused (RFC 9112), and so are requests with more than
      100 header fields.
    - ``idle_connection_timeout`` is 75 seconds by default, and ``body_timeout`` 60. The head of a request may take 10
      seconds.
    - After :meth:`stop`, each connection closes after its current response.
    - TCP keepalive is enabled on the listening sockets, if the routers have the same ``network_timeout``, so that it
      need not be enabled for each connection.

    Like Tornado's server, it must be used from the thread of its event loop.
    """

    # With Tornado's, there would be more than the 29 attributes that Python stores without a dict, which are faster.
    __slots__ = (
        "_all_closed",
        "_deadlines",
        "_listeners",
        "_tasks",
        "application",
        "body_timeout",
        "cancel",
        "chunk_size",
        "connections",
        "decompress_request",
        "idle_timeout",
        "inherited_keepalive",
        "inherited_timeout",
        "is_closed",
        "is_logging",
        "is_stopped",
        "max_body_size",
        "max_header_size",
        "no_keep_alive",
        "postpone",
        "read_buffer",
        "request_protocol",
        "routes",
        "schedule",
        "tls",
        "trusted_peers",
        "trusted_proxies",
    )

    #: Seconds from the first byte of a request to the end of its head.
    head_timeout: float = HEAD_TIMEOUT

    #: Makes the exchange of each SockJS request; the private listener of a cluster's node has its own.
    exchange_type: Callable[..., NativeExchange] = NativeExchange

    #: Whether invalid options raise; those of Tornado's server may have any value that it accepts.
    checks_options = True

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Set the options; see ``tornado.httpserver.HTTPServer``."""
        if self.checks_options:
            _check_options(kwargs)
        super().initialize(*args, **kwargs)
        callback: Any = self.request_callback
        # A router is callable, but only for an error.
        is_router = hasattr(callback, "urls") and hasattr(callback, "endpoints")
        if not isinstance(callback, HTTPServerConnectionDelegate) and (is_router or not callable(callback)):
            hint = "; pass Application(router.urls)" if hasattr(callback, "urls") else ""
            if isinstance(callback, list | tuple):
                # Their text is that of all URL specs.
                hint = "; pass Application(router.urls)"
                callback = type(callback).__name__
            else:
                callback = repr(callback)
            raise TypeError(f"HTTPServer: expected an Application, got {callback}{hint}")
        params = self.conn_params
        self.idle_timeout: float = kwargs.get("idle_connection_timeout") or IDLE_TIMEOUT
        self.body_timeout: float = params.body_timeout or BODY_TIMEOUT
        #: Whether each connection is closed after one request.
        self.no_keep_alive: bool = params.no_keep_alive
        #: The timeout of ``set_user_timeout`` that connections inherit from all listening sockets; 0 for none, None if
        #: their creator has not decided it.
        self.inherited_timeout: float | None = None
        #: The timeout of ``set_keepalive`` that they inherit.
        self.inherited_keepalive = 0.0
        self.max_header_size: int = params.max_header_size
        self.max_body_size: int = params.max_body_size or self.max_buffer_size or _MAX_BODY_SIZE
        self.decompress_request: bool = params.decompress
        self.chunk_size: int = params.chunk_size
        #: The addresses in X-Forwarded-For that are not clients.
        self.trusted_proxies: Container[str] = frozenset(self.trusted_downstream or ())
        #: With ``xheaders``, the addresses that header fields are accepted from; None for any, as in Tornado.
        self.trusted_peers: Container[str] | None = None
        self.application = self.request_callback if isinstance(self.request_callback, Application) else None
        # Without a function in Python, since C calls it for each response.
        self.is_logging = functools.partial(logs_success, self.application)
        self.routes = Routes(self.request_callback)
        self.read_buffer = bytearray(READ_SIZE)
        options: Any = self.ssl_options
        if not isinstance(options, ssl.SSLContext | dict | None):
            got = type(options).__name__
            raise TypeError(f"ssl_options: expected an SSLContext or a dict with certfile and keyfile, got {got}")
        if isinstance(options, ssl.SSLContext) and options.protocol is ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError(
                "ssl_options: expected a context for servers, such as ssl.create_default_context("
                "ssl.Purpose.CLIENT_AUTH) with load_cert_chain(), got one for clients"
            )
        #: The TLS context, or None.
        self.tls = None if options is None else ssl_options_to_context(options, server_side=True)
        #: The protocol of requests, unless a proxy reports another one.
        self.request_protocol: str = self.protocol or ("http" if self.tls is None else "https")
        self._listeners: list[Listener] = []
        self.connections: set[ConnectionIO] = set()
        self.is_closed = self.is_stopped = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._all_closed: asyncio.Future[None] | None = None
        interval = min(1.0, self.idle_timeout / 10)
        self._deadlines = Deadlines(interval / 2, interval, self.now, ThrottledLog(self.now))
        self.schedule = self._deadlines.schedule
        self.cancel = self._deadlines.cancel
        self.postpone = self._deadlines.postpone

    now = staticmethod(time.monotonic)

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on listening sockets, such as those of ``tornado.netutil.bind_sockets``."""
        on_accept = self.serve_stream if self.uses_streams else self.handle_socket
        if not self._listeners and self.inherited_timeout is None:
            self.inherited_keepalive = self.routes.network_timeout()
        for sock in sockets:
            if self.inherited_keepalive:
                set_keepalive(sock, self.inherited_keepalive)
            self._listeners.append(Listener(sock, on_accept))

    def handle_socket(self, sock: socket.socket, address: Any, release_slot: Callable[[], None] | None = None) -> None:
        """Serve a new connection.

        Args:
            sock: The accepted socket.
            address: The client's address.
            release_slot: Called when the connection is closed.
        """
        connection: HTTPConnection
        protocol: asyncio.BufferedProtocol
        if self.tls is None:
            connection = protocol = HTTPConnection(self, sock, address, release_slot)
        else:
            connection = SecureConnection(self, sock, address, release_slot)
            try:
                protocol = connection.new_transport(self.tls)
            except BaseException:
                # Without a transport, nothing else closes it.
                sock.close()
                connection.connection_lost(None)
                raise
        self._connect(protocol, connection, sock)

    def _connect(self, protocol: asyncio.BufferedProtocol, connection: ConnectionIO, sock: socket.socket) -> None:
        """Create the transport of a connection.

        The coroutine is not run as a task, which would take 4 % of the time to open and close a websocket, and another
        iteration of the event loop.
        """
        connecting = asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, sock).__await__()
        try:
            connected = next(connecting, None)
        except OSError:
            # The client has reset the connection.
            sock.close()
            connection.connection_lost(None)
        else:
            if connected is not None:
                # Called with the future, which is also what next() returns when the coroutine has ended.
                connected.add_done_callback(functools.partial(next, connecting))

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine, which handles its own errors, in a task."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def connection_ended(self, connection: ConnectionIO) -> None:
        """Called when a connection is closed or has a new owner."""
        self.connections.discard(connection)
        if self._all_closed is not None and not self.connections and not self._all_closed.done():
            self._all_closed.set_result(None)

    def start_request(self, server_conn: object, request_conn: TornadoConnection) -> HTTPMessageDelegate:
        """Return the delegate for a request that is not of a router."""
        if self.uses_streams:
            return super().start_request(server_conn, request_conn)
        callback = self.request_callback
        if isinstance(callback, HTTPServerConnectionDelegate):
            return callback.start_request(server_conn, request_conn)
        return FunctionDelegate(callback, request_conn)

    def log_request(self, application: Application, exchange: NativeExchange, status: int) -> None:
        """Write the access log of the application."""
        exchange.log_request(application, AccessLogEntry(application, exchange, status))

    def may_decompress(self, head: RequestHead) -> bool:
        """Return whether the body is compressed, and the server decompresses bodies."""
        return self.decompress_request and head.header("Content-Encoding").lower() == "gzip"

    def stop(self) -> None:
        """Stop accepting connections. Those that are open close after their current response."""
        self.is_stopped = True
        super().stop()
        for listener in self._listeners:
            listener.close()

    async def close_all_connections(self) -> None:
        """Close all connections that serve HTTP, and wait until they are closed. Those of sessions stay open."""
        self.is_closed = True
        await super().close_all_connections()
        if self.connections:
            if self._all_closed is None or self._all_closed.done():
                self._all_closed = asyncio.get_running_loop().create_future()
            for connection in list(self.connections):
                connection.abort_after_write()
            # Unlike await, this does not cancel the future, for which others may wait.
            await asyncio.wait([self._all_closed])
