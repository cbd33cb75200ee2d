"""Heads of the answers that nodes give each other: no more of HTTP than that (RFC 9112). Pure."""

import re
from typing import NamedTuple

from ..wire.fields import has_token

__all__ = ["Head", "read_head"]

# No 1xx: nobody asks for one.
_STATUS_LINE = re.compile(r"HTTP/1\.1 ([2-5][0-9]{2}) [^\r\n]*")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)")
_LENGTH = re.compile(r"[0-9]{1,18}")


class Head(NamedTuple):
    """The head of an answer, as far as it matters.

    Attributes:
        status: Its status.
        fields: The header fields that do not concern the connection.
        length: Of the body, None where that ends with the connection.
        keep: Whether the connection may be used again.
    """

    status: int
    fields: list[tuple[str, str]]
    length: int | None
    keep: bool


def read_head(head: str) -> Head:
    """Return what the head of an answer says, without its empty line.

    Raises:
        ValueError: It is none.
    """
    first, *lines = head.split("\r\n")
    start = _STATUS_LINE.fullmatch(first)
    if start is None:
        raise ValueError(first)
    status = int(start[1])
    fields: list[tuple[str, str]] = []
    length: int | None = None
    keep = True
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
            keep = keep and not has_token(value, "close")
        else:
            fields.append((name, value))
    return Head(status, fields, 0 if status in (204, 304) else length, keep)
