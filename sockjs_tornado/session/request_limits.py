"""Limits for the request data that a session keeps.

A client controls the size of its URI and header fields, so a session keeps only some of them. Informational fields are
truncated. Fields on which an application may base decisions are never truncated; if they are too large, the request is
rejected.
"""

from collections.abc import Iterable
from typing import Final

from ..exceptions import RequestTooLargeError

__all__ = [
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

#: Maximum length of the server id and of the session id in the URL.
MAX_ID: Final = 256

#: Maximum length of a URI, including the query, which may contain a token.
MAX_URI: Final = 8192

#: Maximum total length of the names and values of all fields that are not truncated, including cookies.
MAX_FIELDS_SIZE: Final = 16384

#: Maximum number of fields whose names start with ``x-forwarded-``.
MAX_FORWARDED_FIELDS: Final = 32

#: Length to which an informational field is truncated.
MAX_INFORMATIONAL: Final = 512

#: Names of informational fields, in lower case.
INFORMATIONAL: Final = frozenset({"user-agent", "referer", "accept-language", "via"})

#: Names of fields that are kept whole, besides those that start with ``x-forwarded-``.
KEPT: Final = frozenset({"origin", "host", "x-real-ip", "x-client-ip", "x-cluster-client-ip"})

# The field that is kept only if the origin is trusted with credentials.
_CREDENTIAL: Final = "authorization"

_FORWARDED: Final = "x-forwarded-"

#: This field counts for the total length, because a connection keeps the selected subprotocol.
_SUBPROTOCOLS: Final = "sec-websocket-protocol"

_SELECTED: Final = INFORMATIONAL | KEPT | {_CREDENTIAL, _SUBPROTOCOLS}


def check_uri(uri: str) -> None:
    """Raise RequestTooLargeError if a URI is too long."""
    if len(uri) > MAX_URI:
        raise RequestTooLargeError(414, "request_uri", f"The URI has {len(uri)} characters; the maximum is {MAX_URI}.")


def select_fields(fields: Iterable[tuple[str, str]], *, cookies: str | None) -> dict[str, str]:
    """Return the header fields that a session keeps, by their names in lower case.

    Args:
        fields: Names and values of the request's header lines.
        cookies: The Cookie field if the origin is trusted with credentials, else None.

    Raises:
        RequestTooLargeError: There are too many fields, or they are too long.
    """
    kept: dict[str, str] = {}
    for name, value in fields:
        lower = name.lower()
        if lower in _SELECTED or lower.startswith(_FORWARDED):
            kept[lower] = f"{kept[lower]},{value}" if lower in kept else value
    if cookies is None:
        kept.pop(_CREDENTIAL, None)
    size = len(cookies or "") + len(kept.pop(_SUBPROTOCOLS, ""))
    forwarded = 0
    for name, value in kept.items():
        if name in INFORMATIONAL:
            kept[name] = value[:MAX_INFORMATIONAL]
        else:
            size += len(name) + len(value)
            forwarded += name.startswith(_FORWARDED)
    if forwarded > MAX_FORWARDED_FIELDS:
        error = f"The request has {forwarded} X-Forwarded- fields; the maximum is {MAX_FORWARDED_FIELDS}."
        raise RequestTooLargeError(431, "request_fields", error)
    if size > MAX_FIELDS_SIZE:
        error = f"The cookies and header fields have {size} characters; the maximum is {MAX_FIELDS_SIZE}."
        raise RequestTooLargeError(431, "request_fields", error)
    return kept
