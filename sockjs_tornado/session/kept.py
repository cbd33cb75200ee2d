"""What a session keeps of the requests that its client receives on, and how much of it.

A client names as much as it likes: its URI, its user agent, header fields that a proxy might have added. What informs
is cut. What an application decides by is never cut: a request that has more of it than is kept is refused.
"""

from collections.abc import Iterable
from typing import Final

from ..exceptions import RequestTooLargeError

__all__ = [
    "CREDENTIAL",
    "INFORMATIONAL",
    "KEPT",
    "MAX_FIELDS_SIZE",
    "MAX_FORWARDED_FIELDS",
    "MAX_ID",
    "MAX_INFORMATIONAL",
    "MAX_URI",
    "check_uri",
    "select_fields",
]

#: Characters of a session id, and of the part of the path before it, as they stand in the URL.
MAX_ID: Final = 256

#: Characters of a URI: path and query, which may hold a token.
MAX_URI: Final = 8192

#: Characters of names and values of all fields that are kept whole, and of the cookies.
MAX_FIELDS_SIZE: Final = 16384

#: Fields that begin with ``x-forwarded-``.
MAX_FORWARDED_FIELDS: Final = 32

#: Characters of a field that informs; the rest is cut.
MAX_INFORMATIONAL: Final = 512

#: Fields that inform, in lower case as the others here.
INFORMATIONAL: Final = frozenset({"user-agent", "referer", "accept-language", "via"})

#: Fields that an application may decide by, beside those beginning with :data:`_FORWARDED`.
KEPT: Final = frozenset({"origin", "host", "x-real-ip", "x-client-ip", "x-cluster-client-ip"})

#: The field that is kept only if the page is trusted with credentials.
CREDENTIAL: Final = "authorization"

_FORWARDED: Final = "x-forwarded-"

#: A connection may keep one of the subprotocols that are offered there.
_SUBPROTOCOLS: Final = "sec-websocket-protocol"

_SELECTED: Final = INFORMATIONAL | KEPT | {CREDENTIAL, _SUBPROTOCOLS}


def check_uri(uri: str) -> None:
    """Raise RequestTooLargeError if a URI is longer than may be kept."""
    if len(uri) > MAX_URI:
        raise RequestTooLargeError(414, "request_uri", f"The URI has {len(uri)} characters, and may have {MAX_URI}.")


def select_fields(fields: Iterable[tuple[str, str]], *, cookies: str | None) -> dict[str, str]:
    """Return the header fields that are kept, by their names in lower case.

    Args:
        fields: Name and value of each line of the request's fields.
        cookies: The Cookie field if the page is trusted with credentials, else None.

    Raises:
        RequestTooLargeError: There are too many, or they are too long.
    """
    kept: dict[str, str] = {}
    for name, value in fields:
        lower = name.lower()
        if lower in _SELECTED or lower.startswith(_FORWARDED):
            kept[lower] = f"{kept[lower]},{value}" if lower in kept else value
    if cookies is None:
        kept.pop(CREDENTIAL, None)
    size = len(cookies or "") + len(kept.pop(_SUBPROTOCOLS, ""))
    forwarded = 0
    for name, value in kept.items():
        if name in INFORMATIONAL:
            kept[name] = value[:MAX_INFORMATIONAL]
        else:
            size += len(name) + len(value)
            forwarded += name.startswith(_FORWARDED)
    if forwarded > MAX_FORWARDED_FIELDS:
        why = f"There are {forwarded} X-Forwarded- fields, and there may be {MAX_FORWARDED_FIELDS}."
        raise RequestTooLargeError(431, "request_fields", why)
    if size > MAX_FIELDS_SIZE:
        why = f"The cookies and header fields that a session keeps have {size} characters, and may have "
        raise RequestTooLargeError(431, "request_fields", f"{why}{MAX_FIELDS_SIZE}.")
    return kept
