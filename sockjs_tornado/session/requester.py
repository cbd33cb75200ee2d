"""Who may use a session: the client that opened it, known by its address and by the origin of its page.

Over HTTP, whoever knows the id of a session could be its client. With these checks an id that leaks is worth nothing
elsewhere.
"""

from typing import Final

from .addresses import network_of

__all__ = ["REJECTIONS", "check_requester"]

#: What a client is told that may not use a session, by what counts the rejection.
REJECTIONS: Final = {
    "verify_ip": "Session was opened from another address",
    "session_origin": "Session was opened from another origin",
}


def check_requester(
    known_ip: str, known_origin: int | None, ip: str, origin: str | None, *, verify_ip: bool
) -> str | None:
    """Return the check that rejects a request for a session, None if the request may be its client's.

    Args:
        known_ip: The address that opened the session, ``""`` if it is nobody's yet.
        known_origin: Hash of the origin that the opening request named, that of ``""`` if it named none. None if the
            session is nobody's yet.
        ip: Where the request comes from.
        origin: The origin that it names, ``""`` for none. None for a POST without an origin: no page of another origin
            sends one, since browsers name the origin of every POST across origins (Fetch standard, "Origin header").
        verify_ip: Whether the address counts.
    """
    if verify_ip and known_ip and ip != known_ip and network_of(ip) != network_of(known_ip):
        return "verify_ip"
    if known_origin is not None and origin is not None and hash(origin) != known_origin:
        return "session_origin"
    return None
