"""Check that a request for a session comes from the client that opened it, by its address and origin.

Over HTTP, a session's id is all that a client needs to use it. With these checks, a leaked id cannot be used from
another address or page.
"""

from typing import Final

from .addresses import network_of

__all__ = ["REJECTIONS", "check_requester"]

#: Close reasons for rejected clients, by the name under which the rejection is counted.
REJECTIONS: Final = {
    "verify_ip": "Session was opened from another address",
    "session_origin": "Session was opened from another origin",
}


def check_requester(
    known_ip: str, known_origin: int | None, ip: str, origin: str | None, *, verify_ip: bool
) -> str | None:
    """Return the name of the check that rejects a request for a session, or None if the request is allowed.

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
