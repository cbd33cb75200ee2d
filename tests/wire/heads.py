"""Heads of HTTP requests that hypothesis makes, and how the parsers in C and in Python are compared."""

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st

from sockjs_tornado.exceptions import BadRequest


class Refusal(NamedTuple):
    """What a BadRequest says."""

    status: int
    reason: str
    limit: str


#: An implementation of the parser.
Parse = Callable[..., Any]

ATTRIBUTES = (
    *("method", "target", "is_http11", "size", "count", "content_length", "is_chunked", "has_body", "keep_alive"),
    *("expects_continue", "has_upgrade"),
)

#: Lines of fields: those that determine the end of the request and the fate of the connection, and others.
FIELDS = [
    *(b"Host: a\r\n", b"host:\r\n", b"Host: [::1]:80\r\n", b"Host: %41\r\n", b"Content-Length: 5\r\n"),
    *(b"Content-Length:5,5\r\n", b"content-length: 6\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Transfer-Encoding: Chunked \r\n", b"transfer-encoding: gzip\r\n", b"Connection: close\r\n"),
    *(b"Connection: Keep-Alive, x\r\n", b"Upgrade: websocket\r\n", b"Expect: 100-Continue\r\n", b"Cookie: a=b\r\n"),
    *(b"X: \t y\x80 \t\r\n", b"x:\r\n"),
]
TARGETS = [b"/", b"/x?y=%20\xff"]
VERSIONS = [b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"]
PIECES = [
    *(*TARGETS, *VERSIONS, *FIELDS, b"GET ", b" ", b" HTTP/2.0\r\n", b"\r\n", b"\r", b"\n", b"\t", b":", b"a"),
    *(b"\0", b"\x7f", b"\xff", b",", b"5"),
]


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Heads, of which many have a fault, and some several."""
    start = draw(st.sampled_from([b"", b"", b"\r\n"])) + draw(st.sampled_from([b"GET ", b"POST ", b"x "]))
    line = start + draw(st.sampled_from(TARGETS)) + draw(st.sampled_from(VERSIONS))
    fields = draw(st.lists(st.sampled_from(FIELDS), max_size=6))
    if draw(st.booleans()):
        fields.insert(0, FIELDS[0])
    data = bytearray(line + b"".join(fields) + b"\r\n")
    for position in draw(st.lists(st.integers(0, len(data) - 1), max_size=2)):
        replacement = draw(st.binary(min_size=1, max_size=1) | st.sampled_from([b"", *PIECES]))
        data[position : position + 1] = replacement
    return bytes(data)


any_heads = heads() | st.lists(st.sampled_from(PIECES)).map(b"".join)


def parse_result(parse: Parse, *arguments: Any) -> Any:
    """Return all that is to be known of a result, or of an error."""
    try:
        head = parse(*arguments)
    except BadRequest as error:
        return Refusal(error.status, error.reason, error.limit)
    if head is None:
        return None
    names = [
        "",
        "host",
        "HOST",
        "Cookie",
        "x",
        "content-length",
        "Content-Length",
        "connection",
        "\u212aookie",
        "\ud800",
    ]
    values = [(head.header(name), head.header_lines(name)) for name in names]
    return [getattr(head, name) for name in ATTRIBUTES], head.fields(), values
