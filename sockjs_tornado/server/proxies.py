"""The client's address and protocol, as proxies report them (``xheaders``)."""

import functools
import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tornado.netutil import is_valid_ip

from ..wire.http_parser import RequestHead

if TYPE_CHECKING:
    from .connection import HTTPConnection

# Tornado asks the system's resolver, which takes microseconds.
_is_valid_ip = functools.lru_cache(maxsize=1024)(is_valid_ip)


def client_of(head: RequestHead, connection: "HTTPConnection") -> tuple[str, str]:
    """Return the client's IP address and protocol, as Tornado's ``HTTPServer`` does with ``xheaders``.

    The last address in X-Forwarded-For that is not a trusted proxy counts; X-Real-Ip takes precedence. X-Scheme takes
    precedence over X-Forwarded-Proto. If the server has ``trusted_peers``, the fields of other peers are ignored.
    """
    server = connection.server
    ip = candidate = connection.remote_ip
    # The peer of a Unix socket has no address.
    if ip and server.trusted_peers is not None and ip not in server.trusted_peers:
        return ip, server.request_protocol
    for candidate in reversed(head.header("X-Forwarded-For").split(",")):
        candidate = candidate.strip()
        if candidate not in server.trusted_proxies:
            break
    candidate = head.header("X-Real-Ip") or candidate
    if candidate and _is_valid_ip(candidate):
        ip = candidate
    protocols = head.header("X-Scheme") or head.header("X-Forwarded-Proto")
    protocol = protocols.rpartition(",")[2].strip()
    return ip, protocol if protocol in ("http", "https") else server.request_protocol


class TrustedProxies:
    """The IP addresses of proxies.

    Args:
        networks: Addresses and networks, such as ``"127.0.0.1"`` and ``"10.0.0.0/8"``.

    Raises:
        ValueError: One of them is not valid.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        if isinstance(networks, str):
            raise ValueError(f"trusted_proxies: expected a list of addresses and networks, got {networks!r}")
        try:
            self._networks = [ipaddress.ip_network(network) for network in networks]
        except ValueError as error:
            raise ValueError(f"trusted_proxies: {error}") from None
        self._contains = functools.lru_cache(maxsize=1024)(self._find)

    def __contains__(self, ip: object) -> bool:
        return self._contains(str(ip))

    def _find(self, ip: str) -> bool:
        try:
            address = ipaddress.ip_address(ip.partition("%")[0])
        except ValueError:
            # It is from a header field.
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)


class RequestContext:
    """The attributes of a connection that Tornado's ``HTTPServerRequest`` reads.

    Attributes:
        address: The client's address.
        address_family: The family of the address.
        remote_ip: The client's IP address; with ``xheaders``, as a proxy reports it.
        protocol: ``"http"`` or ``"https"``; with ``xheaders``, as a proxy reports it.
    """

    def __init__(self, address: Any, family: int, remote_ip: str, protocol: str) -> None:
        self.address = address
        self.address_family = family
        # As in Tornado, for Unix sockets.
        self.remote_ip = remote_ip or "0.0.0.0"  # noqa: S104 - no address to bind to
        self.protocol = protocol

    def __str__(self) -> str:
        return self.remote_ip
