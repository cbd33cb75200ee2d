"""Grouping of IP addresses that belong to one client."""

import functools
import ipaddress

__all__ = ["network_of"]


@functools.lru_cache(maxsize=1024)
def network_of(ip: str) -> str:
    """Return the network of a client's address, the same for all addresses that one client may use.

    An IPv6 host usually has a whole /64 network and changes its address within it for privacy (RFC 8981). An
    IPv4-mapped IPv6 address (``::ffff:192.0.2.1``) becomes the IPv4 address. Other strings, such as the path of a Unix
    socket, are returned unchanged.
    """
    if ":" not in ip:
        return ip
    try:
        address = ipaddress.IPv6Address(ip.partition("%")[0])
    except ValueError:
        return ip
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))
