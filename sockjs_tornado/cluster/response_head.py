"""The head of a response of another node: the subset of RFC 9112 that nodes send each other."""

import functools
import re
from typing import Final, NamedTuple

from ..exceptions import ClusterError
from ..wire.fields import TOKEN, has_token
from .signing import RELAY_HEADER

#: The largest size of a head in bytes.
MAX_HEAD_SIZE: Final = 64 * 1024

# No 1xx: no request has "Expect: 100-continue".
_STATUS_LINE: Final = re.compile(r"HTTP/1\.1 ([2-5][0-9]{2}) [^\r\n]*")
_FIELD: Final = re.compile(rf"({TOKEN.pattern}):([^\r\n\0]*)")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")

# Those that `response_head` sets (`_common_fields`). If they are the first ones, in this order, a node has sent the
# response: other programs, such as those with Django, send the same ones among others.
_COMMON_FIELDS: Final = ("date", "x-content-type-options", "referrer-policy")


class NotANode(ClusterError):
    """The response is not one that a node sends: another program, or a proxy, answers at the node's address."""

    def __init__(self, address: str) -> None:
        super().__init__(f"the response of {address} is not one of a node")


class ResponseHead(NamedTuple):
    """The head of a response.

    Attributes:
        status: The status code.
        fields: The header fields in their order, without those of the connection and of the body's length, and those
            that all responses have.
        length: The length of the body, or None if it ends with the connection.
        keep_alive: Whether the connection can be used for another request.
    """

    status: int
    fields: tuple[tuple[str, str], ...]
    length: int | None
    keep_alive: bool


# Cached because many responses of a node within a second have the same head.
@functools.lru_cache(maxsize=32)
def parse_response_head(head: bytes) -> ResponseHead:
    """Parse a head without its empty line; raise ValueError if it is not one that a node sends."""
    first, *lines = head.decode("latin-1").split("\r\n")
    start = _STATUS_LINE.fullmatch(first)
    if start is None:
        raise ValueError(first)
    status = int(start[1])
    fields: list[tuple[str, str]] = []
    length: int | None = None
    keep_alive = True
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise ValueError(line)
        name, value = field[1], field[2].strip(" \t")
        lower = name.lower()
        if lower == "content-length":
            if length is not None or not _LENGTH.fullmatch(value):
                raise ValueError(line)
            length = int(value)
        elif lower == "connection":
            keep_alive = keep_alive and not has_token(value, "close")
        elif lower not in _COMMON_FIELDS:
            fields.append((name, value))
    # The results of calls have other fields, and the header field of the relay.
    first_names = tuple(line.partition(":")[0].lower() for line in lines[: len(_COMMON_FIELDS)])
    if first_names != _COMMON_FIELDS and RELAY_HEADER not in dict(fields):
        raise ValueError(head)
    return ResponseHead(status, tuple(fields), 0 if status in (204, 304) else length, keep_alive)
