"""Check that a request for a session comes from the client that opened it, by its address and origin.

Over HTTP, a session's id is all that a client needs to use it. With these checks, a leaked id cannot be used from
another address or page.
"""

import functools
import ipaddress
from typing import TYPE_CHECKING, Final

from .states import CONNECTING

if TYPE_CHECKING:
    from .session import Session

#: Close reasons for rejected clients, by the name under which the rejection is counted.
REJECTIONS: Final = {
    "verify_ip": "Session was opened from another address",
    "session_origin": "Session was opened from another origin",
}


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


def check_requester(
    known_ip: str, known_origin: int | None, ip: str, origin: str | None, *, verify_ip: bool
) -> str | None:
    """Return the name of the check that rejects a request for a session, or None if the request is allowed.

    All receiving requests of a client have the same origin: if the first one had none, the others have none.

    Args:
        known_ip: The address that opened the session; ``""`` if it is not opened yet.
        known_origin: Hash of the opening request's origin, of ``""`` if it had none. None if the session is not opened
            yet.
        ip: Address of the request.
        origin: Origin of the request, ``""`` for none. None for a POST without an origin: a page of another origin
            never sends one, because browsers add the header to every cross-origin POST (Fetch standard,
            "Origin header").
        verify_ip: Whether to check the address.
    """
    if verify_ip and known_ip and ip != known_ip and network_of(ip) != network_of(known_ip):
        return "verify_ip"
    if known_origin is not None and origin is not None and hash(origin) != known_origin:
        return "session_origin"
    return None


def check_receiver(session: "Session", ip: str, origin: str | None) -> str | None:
    """Return the name of the check that rejects a receiving request for a session, or None if it is allowed."""
    known_ip, known_origin = session.conn_info.ip, session._origin_hash
    if known_origin is None and known_ip == ip:
        # It opens the session.
        return None
    return check_requester(known_ip, known_origin, ip, origin, verify_ip=session._settings.verify_ip)


def check_post(session: "Session", ip: str, origin: str | None) -> str | None:
    """Return the name of the check that rejects messages of a client for an open session, or None if they are allowed.

    A script tag or an iframe opens a session without an Origin header, but browsers send it with every POST. So the
    first POST with an origin fixes the session's. If a session was opened by a POST without an origin, it was not
    opened by a page, and no page may send to it.
    """
    check = check_receiver(session, ip, origin)
    if check == "session_origin" and not session._origin_hash:
        if session._post_origin_hash is None:
            session._post_origin_hash = hash(origin)
        if hash(origin) == session._post_origin_hash:
            check = None
    return check


def authorize_post(session: "Session", ip: str, origin: str | None = None) -> bool:
    """Return whether a client may post messages to a session; count it if it may not."""
    if session.state is CONNECTING:
        return False
    check = check_post(session, ip, origin)
    if check is not None:
        session._stats.rejected[check] += 1
    return check is None
