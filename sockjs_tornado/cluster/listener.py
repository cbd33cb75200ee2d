"""The private listener of a node: answers what other nodes pass on, for the sessions that this node holds."""

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
from .signing import FIELD, Caller, Rejected, Signer

__all__ = ["BACKLOG", "CALLS", "WHOIS", "Listener", "open_sockets", "split_address"]

#: Where a node says its id.
WHOIS: Final = "/-/node"

#: Where nodes have one another do something, before its name.
CALLS: Final = "/-/call/"

#: Connections that may wait for the listener while its process is stopped or busy.
BACKLOG: Final = 4096

# What is said of an address of another host, or of a kind of addresses that this one does without.
_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

# A request that is passed on is longer by its signature than a client's.
_HEADER_SIZE: Final = 4 * HTTP_LIMITS["max_header_size"]


def split_address(name: str, value: str) -> tuple[str, int]:
    """Return host and port of ``http://host:port`` or ``host:port``.

    Raises:
        ConfigurationError: It is another text; ``name`` says whose.
    """
    takes = f"{name}: got {value!r}, takes a host and a port, such as http://10.0.0.5:9001"
    if not isinstance(value, str):
        raise ConfigurationError(takes)
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(takes) from None
    if parts.scheme != "http" or not host or not port or parts.path not in ("", "/"):
        raise ConfigurationError(takes)
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(takes)
    return host, port


def is_private(ip: str) -> bool:
    """Tell whether an address is one that the internet does not reach."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    return not address.is_global and not address.is_unspecified


class Listener:
    """Takes requests of other nodes.

    Args:
        node: Id of this node.
        signer: Looks at what others have signed.
        stats: Counts what is refused.

    Attributes:
        calls: What other nodes may have this one do, by name: takes and returns bytes.
    """

    def __init__(self, node: str, signer: Signer, stats: Counter[str]) -> None:
        self.node = node
        self._signer = signer
        self._stats = stats
        # The node that has taken the request from its client has that one's line in the access log.
        self.calls: dict[str, Callable[[bytes], bytes]] = {}
        specs = [
            URLSpec(WHOIS, _WhoisHandler, {"listener": self}),
            URLSpec(f"{CALLS}([a-z]+)", _CallHandler, {"listener": self}),
        ]
        self._application = Application(specs, log_function=_log_nothing)
        self._server = contextlib.AsyncExitStack()

    def add(self, endpoints: Iterable[tuple[str, Endpoint]]) -> None:
        """Answer for the sessions of a router's endpoints, each with the regular expression of its path."""
        specs = [
            URLSpec(path, RelayedHandler, {"endpoint": endpoint, "listener": self})
            for path, endpoint in endpoints
            if isinstance(endpoint, SessionEndpoint)
        ]
        self._application.add_handlers(".*", specs)

    async def start(self, sockets: Sequence[socket.socket], max_body_size: int) -> None:
        """Listen on sockets, which are closed with the listener."""
        # How long a client may take nothing is the routers' business, who set it for its streams.
        server = http_server(
            self._application,
            sockets,
            network_timeout=0,
            # What nodes ask of each other may be longer than what clients send.
            max_body_size=max(max_body_size, HTTP_LIMITS["max_body_size"]),
            max_header_size=_HEADER_SIZE,
        )
        await self._server.enter_async_context(server)

    async def close(self) -> None:
        """Listen no more."""
        await self._server.aclose()

    def verify(self, request: Any) -> Caller:
        """Return for whom another node asks.

        Raises:
            Rejected: It is not to be answered.
        """
        try:
            value = header_value(request.headers, FIELD)
            return self._signer.verify(value, request.method, request.uri, request.body)
        except Rejected as rejected:
            self._stats[f"relay_{rejected.reason}"] += 1
            raise


def open_sockets(host: str, port: int, allow_public: bool) -> list[socket.socket]:
    """Return listening sockets.

    Raises:
        ClusterError: Somebody else listens there.
        ConfigurationError: The internet may reach the address, or there is no such address here.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigurationError(f"listen: there is no such address: {host} ({error})") from None
    addresses = {address: family for family, _, _, _, address in found}
    public = [ip for address in addresses if not is_private(ip := str(address[0]))]
    if public and not allow_public:
        raise ConfigurationError(
            f"listen: {public[0]} may be reached from outside, where other nodes alone should ask; choose a private "
            "address, or say allow_public_listener=True"
        )
    with contextlib.ExitStack() as opened:
        sockets = []
        for address, family in addresses.items():
            try:
                sock = socket.create_server(address, family=family, backlog=BACKLOG)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    why = f"{os.strerror(error.errno or 0)}; each node has an address of its own"
                    raise ClusterError(f"cannot listen on {host}:{port} for other nodes: {why}") from None
            else:
                sockets.append(opened.enter_context(sock))
        if not sockets:
            raise ConfigurationError(f"listen: {host} is no address of this host")
        opened.pop_all()
    return sockets


def _log_nothing(handler: RequestHandler) -> None:
    """Write no access log."""


class RelayedHandler(SockJSHandler):
    """Offers another node's request to an endpoint, as the request of the client that it speaks for."""

    relayed = True

    def initialize(self, endpoint: Endpoint, listener: Listener) -> None:  # type: ignore[override]
        """Take what the URL spec holds for every request, and see whether another node asks."""
        request = self.request
        self._rejected = ""
        try:
            caller = listener.verify(request)
        except Rejected as rejected:
            self._rejected = rejected.reason
        else:
            self._port = caller.port
            request.remote_ip = caller.ip
            request.protocol = "https" if caller.secure else "http"
        super().initialize(endpoint)

    @property
    def remote_port(self) -> int:
        """The client's port."""
        return self._port

    def _serve(self, session_id: str = "") -> Awaitable[None] | None:
        if self._rejected:
            self.respond(421 if self._rejected == "misdirected" else 403, [(FIELD, self._rejected)])
            return None
        return super()._serve(session_id)

    head = get = post = delete = patch = put = options = _serve


class _NodeHandler(RequestHandler):
    """Answers other nodes alone."""

    def initialize(self, listener: Listener) -> None:
        self._listener = listener

    def prepare(self) -> None:
        try:
            self._listener.verify(self.request)
        except Rejected as rejected:
            self.set_status(403)
            self.set_header(FIELD, rejected.reason)
            self.finish()


class _WhoisHandler(_NodeHandler):
    """Tells other nodes which one this is."""

    def get(self) -> None:
        self.set_status(204)
        self.set_header(FIELD, self._listener.node)


class _CallHandler(_NodeHandler):
    """Does what other nodes ask for."""

    def post(self, name: str) -> None:
        call = self._listener.calls.get(name)
        if call is None:
            self.set_status(404)
        else:
            self.finish(call(self.request.body))
