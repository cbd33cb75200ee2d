"""Which addresses are one client's."""

import functools
import ipaddress

__all__ = ["network_of"]


@functools.lru_cache(maxsize=1024)
def network_of(ip: str) -> str:
    """Return what a client's address counts as: one text for all the addresses that the client may have.

    An IPv6 host has all of a /64, and changes its address within it for privacy (RFC 8981). An IPv4 address within an
    IPv6 one (``::ffff:192.0.2.1``) is the IPv4 address. Anything that is no address, such as that of a Unix socket, is
    returned as it is.
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
