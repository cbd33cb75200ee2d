"""Opening a session in memory: a request without a socket, which the real endpoints serve."""

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import getLogger
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import urlencode

from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.netutil import is_valid_ip
from tornado.web import HTTPError

from ..connection import SockJSConnection
from ..connector import Connector
from ..exceptions import ConnectionRejected
from ..http.base_exchange import BaseExchange
from ..router import SockJSRouter
from ..session.session import Session
from ..transports.endpoint import Endpoint
from ..transports.exchange import Headers
from ..transports.websocket import RawWebSocket, WebSocket
from ..validation import check_seconds, named_arguments
from ..wire.handshake import offered_subprotocols
from .client import MemoryClient
from .receiver import MemoryReceiver, RawMemoryReceiver
from .watch import RouterWatch


class _MemoryWebSocket(WebSocket):
    receiver: ClassVar[Any] = MemoryReceiver


class _RawMemoryWebSocket(RawWebSocket):
    receiver: ClassVar[Any] = RawMemoryReceiver


_ENDPOINTS: dict[str, tuple[type[Endpoint], str]] = {
    "websocket": (_MemoryWebSocket, "/000/{}/websocket"),
    "rawwebsocket": (_RawMemoryWebSocket, "/websocket"),
}


class MemoryExchange(BaseExchange):
    """A request for a websocket: an :class:`~sockjs_tornado.transports.exchange.Exchange`.

    Attributes:
        receiver: The receiver that has taken the connection over.
        rejection: The response otherwise: status and body.
    """

    logger = getLogger(__name__)
    method = "GET"
    remote_port = 0
    secure = False
    is_http11 = True
    pending = take_back = None

    def __init__(self, endpoint: Endpoint, uri: str, session_id: str, ip: str, fields: HTTPHeaders) -> None:
        self.endpoint = endpoint
        self.uri = uri
        self.session_id = session_id
        self.remote_ip = ip
        self._fields = fields
        self.responded = False
        self.receiver: MemoryReceiver | None = None
        self.rejection = (500, "")

    def tornado_request(self) -> HTTPServerRequest:
        """Return the request as Tornado's handlers know it."""
        context = SimpleNamespace(remote_ip=self.remote_ip, protocol="http")
        return HTTPServerRequest(
            start_line=RequestStartLine(self.method, self.uri, "HTTP/1.1"),
            headers=self._fields,
            connection=SimpleNamespace(context=context),  # type: ignore[arg-type]
        )

    def fields(self) -> Iterable[tuple[str, str]]:
        return self._fields.get_all()

    def header(self, name: str) -> str:
        return self._fields.get(name, "")

    def handshake(self) -> tuple[Headers, list[str]]:
        return [], offered_subprotocols(self.header("Sec-WebSocket-Protocol"))

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        self.responded = True
        self.rejection = status, body.decode()

    def take_over(self, status: int, protocol: Any) -> None:
        self.responded = True
        self.receiver = protocol


class connect(Connector[MemoryClient]):  # noqa: N801 - used like a function
    """Connect a client in memory: ``async with connect(Echo) as client``, or ``client = await connect(Echo)``.

    The client is accepted or rejected by the same code as a websocket: the origin policy, the limits on sessions,
    ``select_subprotocol`` and ``on_open``, which has ended when the client is returned. If ``on_open`` rejects the
    client, the client is returned, too, closed. The context manager closes the connection, and waits until
    ``on_close`` has ended.

    Args:
        target: The connection class, or any callable that returns a connection for a session; or the router, for
            settings, and for several clients that meet in it.
        transport: ``"websocket"``, on which messages are text and JSON, or ``"rawwebsocket"``, on which they are text
            and bytes.
        path: The path of the service, which the router's prefix matches. Default: the prefix itself.
        arguments: Arguments of the query, for ``info.arguments``.
        headers: Header fields of the request, as a mapping or as pairs. As from a real client, ``info.headers`` has
            some of them only.
        cookies: Cookies of the request. The application sees them if ``allowed_origins`` is set.
        ip: Address of the client.
        subprotocols: The subprotocols that the client offers.
        timeout: Seconds after which each wait of this client fails.
        wait_for_open: Whether to wait until ``on_open`` has ended. False if it runs as long as the connection is open.
        raise_exceptions: Whether exceptions in callbacks of the connection, and in the tasks that these create, are
            raised in the test. If False, they are logged, and those of callbacks close the connection with code 1011,
            as in production.

    Raises:
        ConnectionRejected: The client got an HTTP error instead of a session (by ``await`` or ``async with``).
        TypeError: An argument is of another type.
        ValueError: An argument is unknown or not valid.
    """

    _client_class = MemoryClient
    _call = "connect(...)"
    _synchronous = "connect_sync in a plain test method"

    @named_arguments
    def __init__(
        self,
        target: Callable[[Session], SockJSConnection] | SockJSRouter,
        *,
        transport: str = "websocket",
        path: str | None = None,
        arguments: Mapping[str, str | Sequence[str]] | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        cookies: Mapping[str, str] | None = None,
        ip: str = "127.0.0.1",
        subprotocols: Sequence[str] = (),
        timeout: float = 5,
        wait_for_open: bool = True,
        raise_exceptions: bool = True,
    ) -> None:
        if isinstance(target, str):
            raise TypeError(
                f"target: expected a connection class or a SockJSRouter, got {target!r}; use sockjs_tornado.client for "
                "a URL"
            )
        if transport not in _ENDPOINTS:
            raise ValueError(f"transport: expected {' or '.join(map(repr, _ENDPOINTS))}, got {transport!r}")
        check_seconds("timeout", timeout)
        given: tuple[tuple[str, Any], ...] = (("path", path or ""), ("ip", ip))
        for name, value in given:
            if not isinstance(value, str):
                raise TypeError(f"{name}: expected a str, got {value!r} ({type(value).__name__})")
        if not is_valid_ip(ip):
            raise ValueError(f"ip: expected an IP address such as '192.0.2.7', got {ip!r}")
        self._is_own = not isinstance(target, SockJSRouter)
        # The settings of a router of its own are the defaults.
        self._router = target if isinstance(target, SockJSRouter) else SockJSRouter(target, "/sockjs")
        self._path = self._router.prefix if path is None else path
        if not re.fullmatch(self._router.prefix, self._path):
            hint = "; the transport adds what follows it" if re.match(self._router.prefix, self._path) else ""
            if "?" in self._path:
                hint = "; pass the query as arguments={'token': 'abc'}, for example"
            raise ValueError(
                f"path: expected one that the prefix {self._router.prefix!r} matches, and no more, got "
                f"{self._path!r}{hint}"
            )
        for name, value, wanted, example in (
            ("arguments", arguments, Mapping, {"token": "abc"}),
            ("headers", headers, Iterable, {"Origin": "https://example.com"}),
            ("cookies", cookies, Mapping, {"user": "42"}),
            ("subprotocols", subprotocols, Iterable, ["v12.stomp"]),
        ):
            if value is not None and (isinstance(value, str) or not isinstance(value, wanted)):
                raise TypeError(f"{name}: expected {example!r}, for example, got {value!r} ({type(value).__name__})")
        self._transport = transport
        self._query = f"?{urlencode(arguments, doseq=True)}" if arguments else ""
        self._fields = HTTPHeaders({"Host": "localhost"})
        for pair in headers.items() if isinstance(headers, Mapping) else headers:
            match pair:
                case str(name), str(value):
                    pass
                case _:
                    raise TypeError(f"headers: expected pairs of a name and a value of type str, got {pair!r}")
            if name.lower() == "host":
                del self._fields["Host"]
            self._fields.add(name, value)
        if cookies:
            self._fields.add("Cookie", "; ".join(f"{name}={value}" for name, value in cookies.items()))
        if subprotocols:
            self._fields.add("Sec-WebSocket-Protocol", ", ".join(subprotocols))
        self._ip = ip
        self._timeout = timeout
        self._wait_for_open = wait_for_open
        self._raise_exceptions = raise_exceptions
        self._warns = True

    async def _connect(self) -> MemoryClient:
        router = self._router
        watch = RouterWatch.of(router)
        try:
            receiver = self._open()
        except BaseException:
            watch.release(router)
            raise
        if not self._raise_exceptions:
            watch.silence(receiver.session.label)
        client = MemoryClient(router, receiver, watch, self._timeout, is_own=self._is_own)
        try:
            with watch.calling(receiver.session.label):
                receiver.on_connect()
            if self._wait_for_open:
                await client.wait_open()
        except BaseException as error:
            await client.leave(error)
            raise
        return client

    def _open(self) -> MemoryReceiver:
        if self._router.closed:
            raise ConnectionRejected(404, "the router was closed")
        if not self._router.settings.is_enabled(self._transport):
            raise ConnectionRejected(404, f"the settings disable the transport {self._transport}")
        kind, suffix = _ENDPOINTS[self._transport]
        session_id = secrets.token_urlsafe(8) if "{}" in suffix else ""
        uri = self._path + suffix.format(session_id) + self._query
        # The other methods of an exchange are for requests with a body, or a delayed response.
        exchange = MemoryExchange(  # type: ignore[abstract]
            kind(self._router), uri, session_id, self._ip, self._fields
        )
        try:
            exchange.endpoint.handle(exchange)
        except HTTPError as error:
            # Of select_subprotocol, which chooses the status.
            raise ConnectionRejected(error.status_code, error.reason or "") from error
        if exchange.receiver is None:
            raise ConnectionRejected(*exchange.rejection)
        return exchange.receiver

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            await self._client.close()
        else:
            await self._client.leave(error)
