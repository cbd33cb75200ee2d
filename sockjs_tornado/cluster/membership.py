"""The membership of a node in a cluster on Redis: its listener, its advertised address and its claims."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
from collections import Counter
from typing import Final
from urllib.parse import urlsplit

from ..exceptions import ClusterError, ClusterUnavailable, ConfigurationError
from ..observe.logs import ThrottledLog
from .base import cancel, repeat
from .claim_format import ADDRESS, NODE
from .claims import CLAIM_TIME, REPLACE, Claims
from .commands import Commands
from .envelope import RedisKeys
from .node import BACKLOG, Node
from .node_tls import FileName, load_node_tls
from .ownership import Owner
from .secret import SecretOption, check_secret

logger = logging.getLogger(__name__)

#: Seconds between two refreshes of the keys that expire after :data:`~sockjs_tornado.cluster.claims.CLAIM_TIME`.
REFRESH_INTERVAL: Final = CLAIM_TIME / 3

#: Seconds between two attempts to register an address that is still registered by another node.
_RETRY_INTERVAL: Final = 0.5

# Errors of bind() for an address of another host, or of an address family that this host does not support.
_NOT_LOCAL_ERRNOS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def split_address(name: str, value: str) -> tuple[str, int]:
    """Return the host and port of an argument, a URL or ``host:port``, or raise ConfigurationError."""
    expected = f"{name}: got {value!r}, expected a host and a port, such as http://10.0.0.5:9001"
    if not isinstance(value, str):
        raise ConfigurationError(expected)
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port
        # A name with an empty or long label cannot be resolved.
        (host or "").encode("idna")
    except ValueError:
        raise ConfigurationError(expected) from None
    is_plain = parts.username is None and parts.path in ("", "/") and not parts.query and not parts.fragment
    if parts.scheme not in ("http", "https") or not host or not port or not is_plain:
        raise ConfigurationError(expected)
    return host, port


def is_private(ip: str) -> bool:
    """Return whether an address cannot be reached from the internet."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    return not address.is_global and not address.is_unspecified


def _is_unspecified(host: str) -> bool:
    """Return whether a host is an address that stands for all interfaces, in any notation."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return False


def open_sockets(host: str, port: int, allow_public: bool, name: str = "listen") -> list[socket.socket]:
    """Return listening sockets for a host and port. ``name`` is what an error begins with.

    Raises:
        ClusterError: Another socket listens on the address.
        ConfigurationError: The address is public, or is not an address of this host.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigurationError(f"{name}: cannot resolve {host} ({error})") from None
    addresses = {address: family for family, _, _, _, address in found}
    public = [ip for address in addresses if not is_private(ip := str(address[0]))]
    if public and not allow_public:
        raise ConfigurationError(
            f"{name}: {public[0]} is a public address, but only other nodes should reach the listener; use a private "
            "address, or RedisCluster(allow_public_listener=True)"
        )
    with contextlib.ExitStack() as opened:
        sockets = []
        for address, family in addresses.items():
            try:
                sock = socket.create_server(address, family=family, backlog=BACKLOG)
            except OSError as error:
                if error.errno not in _NOT_LOCAL_ERRNOS:
                    why = f"{os.strerror(error.errno or 0)}; every node needs its own address, and not that for clients"
                    raise ClusterError(f"cannot listen on {host}:{port} for other nodes: {why}") from None
            else:
                sockets.append(opened.enter_context(sock))
        if not sockets:
            raise ConfigurationError(
                f"{name}: {host} is not an address of this host; RedisCluster(listen=...) must be one"
            )
        opened.pop_all()
    return sockets


class Membership:
    """A node's membership in a cluster. The keyword arguments are those of ``RedisCluster``.

    Raises:
        ConfigurationError: An address or the secret is not valid.

    Attributes:
        address: The URL at which other nodes reach this one.
    """

    def __init__(
        self,
        commands: Commands,
        keys: RedisKeys,
        node_id: str,
        stats: Counter[str],
        *,
        advertise: str,
        secret: SecretOption | None,
        listen: str | None,
        allow_public_listener: bool,
        on_redis_down: str,
        tls_certificate: FileName | None = None,
        tls_key: FileName | None = None,
        tls_ca: FileName | None = None,
        log: ThrottledLog | None = None,
    ) -> None:
        host, port = split_address("advertise", advertise)
        if _is_unspecified(host):
            raise ConfigurationError(
                f"advertise: got {advertise!r}, to which other nodes cannot connect; advertise the address at "
                "which they reach this node, and give RedisCluster(listen=...) for this one"
            )
        self._listen = split_address("listen", listen) if listen is not None else (host, port)
        self._listen_name = "listen" if listen is not None else "advertise"
        self._allow_public = allow_public_listener
        self._commands = commands
        self._id = node_id
        is_https = advertise.startswith("https://")
        tls = load_node_tls(is_https=is_https, certificate=tls_certificate, key=tls_key, ca=tls_ca)
        scheme = "https" if is_https else "http"
        self.address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        self._key, self._any_key = keys.address(self.address), keys.address("")
        if not ADDRESS.fullmatch(self.address):
            raise ConfigurationError(f"advertise: got {advertise!r}, expected ASCII characters; encode it with IDNA")
        owner = Owner(node_id, self.address)
        secrets = check_secret(secret)
        self._claims = Claims(commands, keys, owner, stats, secrets, log)
        self.node = Node(owner, secrets, self._claims, stats, on_redis_down == "local", tls)
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Start the listener, register the address, and start refreshing the claims. After an error, call close()."""
        host, port = self._listen
        await self.node.start(open_sockets(host, port, self._allow_public, self._listen_name))
        await self._register_address(await self.node.identify_self())
        self._wake.set()
        self._task = asyncio.create_task(repeat(self._refresh, REFRESH_INTERVAL, self._wake))

    async def _register_address(self, found: str | None) -> None:
        """Register the address; ``found`` is the id of the node that answers at it, or None if none does."""
        if found not in (None, self._id):
            raise ClusterError(f"Another node already advertises {self.address}; every node needs its own address.")
        if found is None:
            logger.warning(
                "Cannot connect to this node's own advertise address %s; other nodes may not be able to reach it "
                "either.",
                self.address,
            )
        # If this node answers at the address, a previous node there is gone, and its registration is overwritten.
        # Otherwise wait until the registration of a node that may have died has expired.
        condition = () if found else ("NX",)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLAIM_TIME + 1
        while True:
            try:
                registered = await self._commands.call(
                    "SET", self._key, self._id, *condition, "GET", "PX", CLAIM_TIME * 1000
                )
            except ClusterUnavailable as error:
                self._registration_rejected(error, is_reachable=found is not None)
                return
            if found or registered is None:
                return
            if loop.time() > deadline:
                raise ClusterError(f"Another node ({_node_id(registered)}) already advertises {self.address}.")
            await asyncio.sleep(_RETRY_INTERVAL)

    def _registration_rejected(self, error: ClusterUnavailable, *, is_reachable: bool) -> None:
        """Log that Redis accepts no address, as while its memory is full; raise if another node may have the address.

        If this node answers at the address, no other node does. It then starts without a registration, which
        :meth:`_refresh` repeats.
        """
        # If Redis has rejected the command, the connection is still open.
        if not self._commands.available:
            raise error
        if not is_reachable:
            raise ClusterError(
                f"Cannot register the advertise address {self.address}: make Redis accept writes, or make the address "
                f"reachable from this node ({error})"
            ) from None
        message = "Started without registering %s, which is tried again every %d seconds: %s"
        logger.warning(message, self.address, REFRESH_INTERVAL, error)

    @property
    def claim_count(self) -> int:
        """The number of sessions that this node owns."""
        return len(self._claims)

    def refresh(self) -> None:
        """Refresh all keys now, after a reconnect to Redis."""
        self._wake.set()

    async def _refresh(self) -> None:
        # First what Redis accepts even while its memory is full, which it reports as an error of SET.
        await self._claims.refresh()
        before = await self._commands.get_and_expire(self._key, CLAIM_TIME * 1000)
        if before != self._id.encode():
            before = await self._commands.call("SET", self._key, self._id, "GET", "PX", CLAIM_TIME * 1000)
        if before not in (None, self._id.encode()):
            message = "Another node (%s) also advertises %s. Give every node its own address."
            logger.error(message, _node_id(before), self.address)
        # For nodes without an address, which usually lack it by mistake.
        if await self._commands.get_and_expire(self._any_key, CLAIM_TIME * 1000) is None:
            await self._commands.call("SET", self._any_key, 1, "PX", CLAIM_TIME * 1000)

    async def close(self) -> None:
        """Release all claims and the address, and close the listener."""
        if self._task is not None:
            await cancel(self._task)
            await self._claims.release_all()
            self._commands.submit("EVAL", REPLACE, 1, self._key, self._id, b"", 0)
        await self.node.close()


def _node_id(value: bytes) -> str:
    """Return the id of a node as it stands in Redis, or another word if no node can have written it."""
    text = value.decode("latin-1")
    return text if NODE.fullmatch(text) else "unknown"
