"""Parsing of HTTP/1.1 request heads and building of responses (RFC 9112), without I/O.

The parser accepts what clients and proxies send, and nothing that another parser could understand differently: a proxy
in front of the server must find the same end of each request, otherwise a client can smuggle a request past it (RFC
9112, section 11.2). So there is no tolerance for line folding, bare line feeds, blanks around names, or contradicting
lengths. The exceptions, each as in Tornado:

- One empty line before the request line is ignored (section 2.2).
- Identical values of Content-Length count as one, in a list or in several lines (RFC 9110, section 8.6).
- The request target may contain bytes above 127, which some clients do not encode. No framing depends on them.

The functions in C do the same as those here, which are used without the C module and for every request that is refused.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..exceptions import BadRequest, HandshakeError
from .fields import TOKEN, has_token
from .handshake import accept_handshake

# For type checkers: they are the names of the C module, if there is one.
__all__ = ["RequestHead", "format_response", "parse_head"]

_TOKEN = TOKEN.pattern.encode().removesuffix(b"+")
_VALUE = rb"[\t\x20-\x7e\x80-\xff]"
_TARGET = rb"[\x21-\x7e\x80-\xff]"

# Quantifiers are possessive, so that no input makes the search backtrack.
_REQUEST_LINE = re.compile(rb"(?:\r\n)?+(%b++) (%b++) HTTP/([0-9]\.[0-9])\r\n" % (_TOKEN, _TARGET))
_FIELD_LINES = re.compile(rb"(?:%b++:%b*+\r\n)*+" % (_TOKEN, _VALUE))
_FIELD = re.compile(r"([^:]++):([^\r]*+)\r\n")

# The beginnings of a request line and of a field line.
_REQUEST_LINE_START = rb""
for _next in (rb"\r", rb"[0-9]", rb"\.", rb"[0-9]", rb"/", rb"P", rb"T", rb"T", rb"H", b" ", _TARGET + b"++", b" "):
    _REQUEST_LINE_START = rb"(?:%b%b)?+" % (_next, _REQUEST_LINE_START)
_INCOMPLETE_REQUEST_LINE = re.compile(rb"\r|(?:\r\n)?+(?:%b++%b)?+" % (_TOKEN, _REQUEST_LINE_START))
_INCOMPLETE_FIELD_LINE = re.compile(rb"\r|(?:%b++(?::%b*+\r?+)?+)?+" % (_TOKEN, _VALUE))

# As in Tornado: the characters of RFC 3986, section 3.2, without the comma, and colons and brackets anywhere.
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+;=:\[\]-]|%[0-9A-Fa-f]{2})*+")
#: A length has at most 18 digits, so that it fits into 64 bits.
_LENGTH = re.compile(r"([0-9]{1,18})(?:,[ \t]*+\1)*+")

_EVALUATED = frozenset(["connection", "content-length", "expect", "host", "transfer-encoding", "upgrade"])
_UNSAFE = re.compile(r"[\r\n\0]")


class _Evaluation(NamedTuple):
    """What the fields say about the body and the connection."""

    content_length: int
    is_chunked: bool
    keep_alive: bool
    expects_continue: bool
    has_upgrade: bool
    has_host: bool


class _RequestHeadPython:
    """The head of a request. It is immutable and has its own copy of the header fields.

    Attributes:
        method: The method, as sent.
        target: The request target, as sent (decoded as Latin-1): a path and query, an absolute URL (RFC 9112, section
            3.2.2), or any other text without blanks and control characters.
        is_http11: Whether the version is HTTP/1.1; otherwise it is HTTP/1.0.
        size: Size in bytes, including the empty line, and an empty line before the request line.
        count: Number of field lines.
        content_length: The Content-Length, or 0 if there is none.
        is_chunked: Whether the body is chunked.
        has_body: Whether the head is followed by a chunked body, or by one of at least one byte.
        keep_alive: Whether the client allows further requests on the connection (RFC 9112, section 9.3).
        expects_continue: Whether the client waits for the response 100 Continue (RFC 9110, section 10.1.1).
        has_upgrade: Whether there is an Upgrade field.
    """

    __slots__ = (
        "_pairs",
        "_values",
        "content_length",
        "count",
        "expects_continue",
        "has_body",
        "has_upgrade",
        "is_chunked",
        "is_http11",
        "keep_alive",
        "method",
        "size",
        "target",
    )

    def __init__(
        self, line: re.Match[bytes], is_http11: bool, size: int, pairs: list[tuple[str, str]], found: _Evaluation
    ) -> None:
        self.method = line[1].decode()
        self.target = line[2].decode("latin-1")
        self.is_http11 = is_http11
        self.size = size
        self.count = len(pairs)
        self.content_length, self.is_chunked, self.keep_alive, self.expects_continue, self.has_upgrade, _ = found
        self.has_body = self.is_chunked or self.content_length > 0
        self._pairs = pairs
        # Values by lower-case name.
        self._values: dict[str, list[str]] | None = None

    def header(self, name: str, /) -> str:
        """Return a header field, or ``""`` if it is missing.

        Several lines are joined with a comma (RFC 9110, section 5.3), those of Cookie with a semicolon and a space (RFC
        9113, section 8.2.3).

        Args:
            name: The field's name, in any case.
        """
        values = self.header_lines(name)
        if len(values) == 1:
            return values[0]
        return ("; " if name.lower() == "cookie" else ",").join(values)

    def header_lines(self, name: str, /) -> list[str]:
        """Return the values of all lines of a header field, in order.

        Args:
            name: The field's name, in any case.
        """
        if self._values is None:
            self._values = {}
            for sent, value in self._pairs:
                self._values.setdefault(sent.lower(), []).append(value.strip(" \t"))
        # The lower case of some other characters is ASCII.
        return list(self._values.get(name.lower(), ())) if name.isascii() else []

    def accept_handshake(self, /) -> str | None:
        """Return the value of Sec-WebSocket-Accept for a websocket's handshake of the usual form, else None.

        It has one line of each field, the version is 13, and no subprotocols are offered.
        """
        names = ("Upgrade", "Connection", "Sec-WebSocket-Version", "Sec-WebSocket-Key")
        lines = [self.header_lines(name) for name in names]
        if [len(values) for values in lines] != [1, 1, 1, 1] or self.header_lines("Sec-WebSocket-Protocol"):
            return None
        upgrade, connection, version, key = (values[0] for values in lines)
        if connection.lower() not in ("upgrade", "keep-alive, upgrade") or version != "13":
            return None
        try:
            return accept_handshake(upgrade, connection, version, key)[2][1]
        except HandshakeError:
            return None

    def fields(self) -> list[tuple[str, str]]:
        """Return names and values of all field lines, as sent, decoded as Latin-1, without blanks around values."""
        return [(name, value.strip(" \t")) for name, value in self._pairs]


def _evaluate(pairs: Iterable[tuple[str, str]], is_http11: bool) -> _Evaluation:
    """Check the fields that determine the end of the request.

    Raises:
        BadRequest: A field is invalid, or contradicts another one.
    """
    length = connection = expect = ""
    has_host = is_chunked = has_upgrade = False
    for name, value in pairs:
        lower = name.lower()
        if lower not in _EVALUATED:
            continue
        value = value.strip(" \t")
        if lower == "host":
            if has_host or not _HOST.fullmatch(value):
                raise BadRequest(400, "Several or invalid Host fields.")
            has_host = True
        elif lower == "content-length":
            found = _LENGTH.fullmatch(value)
            if found is None or (length and length != found[1]):
                raise BadRequest(400, "Invalid or contradictory Content-Length.")
            length = found[1]
        elif lower == "transfer-encoding":
            if not is_http11:
                # RFC 9112, section 6.1: the framing is faulty, even if there is a Content-Length.
                raise BadRequest(400, "Transfer-Encoding in HTTP/1.0.")
            if is_chunked or value.lower() != "chunked":
                raise BadRequest(501, "Transfer-Encoding must be chunked.")
            is_chunked = True
        elif lower == "connection":
            connection = f"{connection},{value}" if connection else value
        elif lower == "expect":
            expect = f"{expect},{value}" if expect else value
        else:
            has_upgrade = True
        if length and is_chunked:
            raise BadRequest(400, "Both Content-Length and Transfer-Encoding.")
    keep_alive = not has_token(connection, "close") and (is_http11 or has_token(connection, "keep-alive"))
    # RFC 9110, section 10.1.1: an HTTP/1.0 client cannot expect it.
    expects_continue = is_http11 and has_token(expect, "100-continue")
    return _Evaluation(int(length or 0), is_chunked, keep_alive, expects_continue, has_upgrade, has_host)


def _parse_head_python(
    data: bytes | bytearray | memoryview, start: int, end: int, max_size: int, max_fields: int, /
) -> _RequestHeadPython | None:
    """Parse the request head at ``data[start:end]`` (RFC 9112, sections 2, 3, 5 and 6).

    The result is the same however the head is cut into reads: the first fault counts, and it is found as soon as the
    byte is there, or the line for contents of lines. Each call parses from ``start`` on. No head ends without a line
    feed, so a caller that calls again only after one has arrived, or ``max_size``, calls at most ``max_fields`` times.

    Args:
        data: The buffer, which is not kept.
        start: Position of the first byte of the request.
        end: End of the received data.
        max_size: Maximum size of a head in bytes.
        max_fields: Maximum number of field lines.

    Returns:
        The head, or None if it is incomplete, but valid up to ``end``.

    Raises:
        BadRequest: The head is invalid (400), the request line (414) or the head (431) is too long, there are too many
            fields (431), or the transfer coding (501) or the version (505) is not supported.
        ValueError: ``start`` or ``end`` is not a position in ``data``.
    """
    if not 0 <= start <= end <= len(data):
        raise ValueError("start and end must be positions in data")
    limit = min(end, start + max(max_size, 0))
    is_too_long = end - start >= max_size
    line = _REQUEST_LINE.match(data, start, limit)
    if line is None:
        if not _INCOMPLETE_REQUEST_LINE.fullmatch(data, start, limit):
            reason = "Invalid request line."
            # The beginning of a TLS handshake.
            if data[start : start + 2] == b"\x16\x03":
                reason = "TLS on a port without TLS."
            # No method of HTTP. Its line is invalid at the second address, where HTTP has its version.
            elif data[start : start + 6] == b"PROXY ":
                reason = "The PROXY protocol is not supported (send-proxy of HAProxy)."
            raise BadRequest(400, reason)
        if is_too_long:
            raise BadRequest(414, "Request line too long.", "request_uri")
        return None
    version = line[3]
    if version not in (b"1.0", b"1.1"):
        raise BadRequest(505, "The version must be HTTP/1.0 or HTTP/1.1.")
    is_http11 = version == b"1.1"
    lines = _FIELD_LINES.match(data, line.end(), limit)
    assert lines is not None
    block = lines[0]
    has_too_many = block.count(b"\n") > max_fields
    if has_too_many:
        # A fault in the first ones counts, but there may be thousands of others.
        block = b"".join(line + b"\r\n" for line in block.split(b"\r\n", max_fields)[:max_fields])
    pairs: list[tuple[str, str]] = _FIELD.findall(block.decode("latin-1"))
    found = _evaluate(pairs, is_http11)
    if has_too_many:
        raise BadRequest(431, "Too many header fields.", "request_fields")
    stop = lines.end()
    if data[stop : min(stop + 2, limit)] == b"\r\n":
        if is_http11 and not found.has_host:
            raise BadRequest(400, "Missing Host field.")
        return _RequestHeadPython(line, is_http11, stop + 2 - start, pairs, found)
    if not _INCOMPLETE_FIELD_LINE.fullmatch(data, stop, limit):
        raise BadRequest(400, "Invalid header field.")
    if is_too_long:
        raise BadRequest(431, "Header fields too long.", "request_fields")
    return None


def _format_response_python(
    status_and_common: str, fields: Iterable[tuple[str, str]], body: bytes | bytearray | memoryview, /
) -> bytes:
    """Build a response (RFC 9112, section 4).

    Args:
        status_and_common: The status line and the fields that many responses share, each line with its end.
        fields: Names and values of further fields.
        body: The body. A length must be among the fields.

    Raises:
        ValueError: A name or value contains CR, LF or NUL, which could start another field or response, or a character
            that is not in Latin-1.
    """
    lines = []
    for name, value in fields:
        if _UNSAFE.search(name) or _UNSAFE.search(value):
            raise ValueError(f"CR, LF or NUL in the header field {name!r}: {value!r}")
        lines.append(f"{name}: {value}\r\n")
    return b"".join((f"{status_and_common}{''.join(lines)}\r\n".encode("latin-1"), body))


try:
    from .._speedups import RequestHead, format_response, parse_head
except ImportError:  # the C module was not built
    RequestHead = _RequestHeadPython  # type: ignore[assignment, misc]
    parse_head = _parse_head_python  # type: ignore[assignment]
    format_response = _format_response_python
