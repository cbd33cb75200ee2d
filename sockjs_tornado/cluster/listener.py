"""The private listener of a node: serves the requests that other nodes relay for sessions of this node."""

import contextlib
import errno
import ipaddress
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler

from ..exceptions import ClusterError, ConfigurationError
from ..http.handlers import SockJSHandler, header_value
from ..serving import HTTP_LIMITS, http_server
from ..transports.endpoint import Endpoint, SessionEndpoint
from .signing import RELAY_HEADER, Rejected, RelayedClient, Signer

__all__ = ["BACKLOG", "RPC_PATH", "Listener", "open_sockets", "split_address"]

#: The path of remote calls, followed by the function's name.
RPC_PATH: Final = "/-/call/"

#: The listener's backlog: connections that wait while its process is stopped or busy.
BACKLOG: Final = 4096

# Errors of bind() for an address of another host, or of an address family that this host does not support.
_NOT_LOCAL_ERRNOS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

# A relayed request has the client's header fields and the signature.
_MAX_HEADER_SIZE: Final = 4 * HTTP_LIMITS["max_header_size"]


def split_address(name: str, value: str) -> tuple[str, int]:
    """Return the host and port of ``http://host:port`` or ``host:port``.

    Args:
        name: The name of the argument, for error messages.
        value: The address.

    Raises:
        ConfigurationError: The address is not valid.
    """
    expected = f"{name}: got {value!r}, expected a host and a port, such as http://10.0.0.5:9001"
    if not isinstance(value, str):
        raise ConfigurationError(expected)
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(expected) from None
    if parts.scheme != "http" or not host or not port or parts.path not in ("", "/"):
        raise ConfigurationError(expected)
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(expected)
    return host, port


def is_private(ip: str) -> bool:
    """Return whether an address cannot be reached from the internet."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    return not address.is_global and not address.is_unspecified


class Listener:
    """An HTTP server for requests of other nodes.

    Args:
        node: This node's id.
        signer: Verifies signatures.
        stats: Counts rejected requests by reason.

    Attributes:
        rpcs: The functions that other nodes may call, by name.
    """

    def __init__(self, node: str, signer: Signer, stats: Counter[str]) -> None:
        self.node = node
        self._signer = signer
        self._stats = stats
        self.rpcs: dict[str, Callable[[bytes], bytes]] = {}
        specs = [URLSpec(f"{RPC_PATH}([a-z]+)", _RPCHandler, {"listener": self})]
        # The node that received the client's request writes the access log.
        self._application = Application(specs, log_function=_log_nothing)
        self._server = contextlib.AsyncExitStack()

    def add(self, endpoints: Iterable[tuple[str, Endpoint]]) -> None:
        """Serve a router's endpoints, given with the regular expressions of their paths."""
        specs = [
            URLSpec(path, RelayedHandler, {"endpoint": endpoint, "listener": self})
            for path, endpoint in endpoints
            if isinstance(endpoint, SessionEndpoint)
        ]
        self._application.add_handlers(".*", specs)

    async def start(self, sockets: Sequence[socket.socket], max_body_size: int) -> None:
        """Start serving. The listener closes the sockets when it is closed."""
        # No network timeout here: the routers set it for the streams of their clients.
        server = http_server(
            self._application,
            sockets,
            network_timeout=0,
            # Remote calls may be larger than messages of clients.
            max_body_size=max(max_body_size, HTTP_LIMITS["max_body_size"]),
            max_header_size=_MAX_HEADER_SIZE,
        )
        await self._server.enter_async_context(server)

    async def close(self) -> None:
        """Stop serving."""
        await self._server.aclose()

    def verify(self, request: Any) -> RelayedClient:
        """Return the client of a relayed request.

        Raises:
            Rejected: The request must not be processed.
        """
        try:
            value = header_value(request.headers, RELAY_HEADER)
            return self._signer.verify(value, request.method, request.uri, request.body)
        except Rejected as rejected:
            self._stats[f"relay_{rejected.reason}"] += 1
            raise


def open_sockets(host: str, port: int, allow_public: bool) -> list[socket.socket]:
    """Return listening sockets for a host and port.

    Args:
        host: The host name or IP address.
        port: The port.
        allow_public: Whether the address may be reachable from the internet.

    Raises:
        ClusterError: Another socket listens on the address.
        ConfigurationError: The address is public, or is not an address of this host.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigurationError(f"listen: cannot resolve {host} ({error})") from None
    addresses = {address: family for family, _, _, _, address in found}
    public = [ip for address in addresses if not is_private(ip := str(address[0]))]
    if public and not allow_public:
        raise ConfigurationError(
            f"listen: {public[0]} is a public address, but only other nodes should reach the listener; use a private "
            "address, or set allow_public_listener=True"
        )
    with contextlib.ExitStack() as opened:
        sockets = []
        for address, family in addresses.items():
            try:
                sock = socket.create_server(address, family=family, backlog=BACKLOG)
            except OSError as error:
                if error.errno not in _NOT_LOCAL_ERRNOS:
                    why = f"{os.strerror(error.errno or 0)}; every node needs its own address"
                    raise ClusterError(f"cannot listen on {host}:{port} for other nodes: {why}") from None
            else:
                sockets.append(opened.enter_context(sock))
        if not sockets:
            raise ConfigurationError(f"listen: {host} is not an address of this host")
        opened.pop_all()
    return sockets


def _log_nothing(handler: RequestHandler) -> None:
    """Do not write an access log."""


class RelayedHandler(SockJSHandler):
    """Handles a relayed request as if the client had sent it to this node."""

    relayed = True

    def initialize(self, endpoint: Endpoint, listener: Listener) -> None:  # type: ignore[override]
        """Verify the signature, and take the client's address from it."""
        request = self.request
        self._rejected = ""
        try:
            client = listener.verify(request)
        except Rejected as rejected:
            self._rejected = rejected.reason
        else:
            self._port = client.port
            request.remote_ip = client.ip
            request.protocol = "https" if client.secure else "http"
        super().initialize(endpoint)

    @property
    def remote_port(self) -> int:
        """The client's port."""
        return self._port

    def _serve(self, session_id: str = "") -> Awaitable[None] | None:
        if self._rejected:
            self.respond(421 if self._rejected == "misdirected" else 403, [(RELAY_HEADER, self._rejected)])
            return None
        return super()._serve(session_id)

    head = get = post = delete = patch = put = options = _serve


class _RPCHandler(RequestHandler):
    """Calls a function of :attr:`Listener.rpcs` for another node."""

    def initialize(self, listener: Listener) -> None:
        self._listener = listener

    def prepare(self) -> None:
        try:
            self._listener.verify(self.request)
        except Rejected as rejected:
            self.set_status(403)
            self.set_header(RELAY_HEADER, rejected.reason)
            self.finish()

    def post(self, name: str) -> None:
        function = self._listener.rpcs.get(name)
        if function is None:
            self.set_status(404)
        else:
            self.set_header(RELAY_HEADER, self._listener.node)
            self.finish(function(self.request.body))
