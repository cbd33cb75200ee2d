"""The parser of HTTP requests: heads and chunked bodies."""

from collections.abc import Callable, Iterator
from typing import Any

from sockjs_tornado.exceptions import BadRequest
from sockjs_tornado.wire import http_parser
from sockjs_tornado.wire.chunked import ChunkedDecoder

from ..other_parsers import h11_chunks, h11_head, our_head, tornado_chunks, tornado_head

#: Maximum sizes of a head and numbers of fields, selected by the bits of an input's first byte.
SIZES, COUNTS = (100, 300, 4096, 65536), (1, 5, 100, 200)
#: Maximum number of parts of an input that are parsed by themselves.
MAX_CUTS = 50
NAMES = ("Host", "host", "COOKIE", "Connection", "content-length", "x", "")
ATTRIBUTES = (
    *("method", "target", "is_http11", "size", "count", "content_length", "is_chunked", "has_body", "keep_alive"),
    *("expects_continue", "has_upgrade"),
)


class Target:
    """``parse_head`` and ``ChunkedDecoder``, with any requests; the first byte selects the limits, the second the size
    of the pieces.

    - A head is parsed alike in C and in Python, and however it is cut. Only BadRequest is raised, with one of its
      statuses, and what is found first in a part of the data is not changed by more data.
    - A head that is accepted means the same to h11 and to Tornado: method, target, fields and length of the body.
    - A head is within the limits, ends with an empty line, and contains nothing but its fields.
    - A chunked body is decoded alike however it is cut. One that is accepted means the same to h11 and to Tornado.
    - ``format_response`` with the fields of the head returns the same in C and in Python.
    """

    def __call__(self, data: bytes) -> None:
        """Parse all requests of a stream."""
        if len(data) < 2:
            return
        limits = SIZES[data[0] & 3], COUNTS[data[0] >> 2 & 3]
        step = data[1] or 1
        position = 2
        while position < len(data):
            head = check_head(data, position, step, limits)
            if head is None:
                break
            position += head.size
            if head.is_chunked:
                rest = check_chunks(data[position:], step)
                if rest is None:
                    break
                position = len(data) - len(rest)
            else:
                position += head.content_length


def ends(start: int, stop: int, step: int) -> Iterator[int]:
    """Yield the ends of the parts that are parsed."""
    step = max(step, (stop - start) // MAX_CUTS)
    yield from range(start, stop, step or 1)
    yield stop


def result_of(parse: Callable[..., Any], *arguments: Any) -> Any:
    """Return a head, or what a BadRequest says, in a form that can be compared."""
    try:
        head = parse(*arguments)
    except BadRequest as error:
        assert error.status in (400, 414, 431, 501, 505)
        return error.status, error.reason, error.limit
    if head is None:
        return None
    values = [(head.header(name), head.header_lines(name)) for name in NAMES]
    return [getattr(head, name) for name in ATTRIBUTES], head.fields(), values


def check_head(data: bytes, start: int, step: int, limits: tuple[int, int]) -> Any:
    """Parse a head in all ways; return it, or None if it is incomplete or refused."""
    found = None
    for end in ends(start, len(data), step):
        arguments = (data, start, end, *limits)
        result = result_of(http_parser.parse_head, *arguments)
        assert result == result_of(http_parser._parse_head_python, *arguments), "C makes a difference"
        assert found is None or result == found, "more data make a difference"
        found = result
    if not found or isinstance(found[0], int):
        return None
    head: Any = http_parser.parse_head(data, start, len(data), *limits)
    text = data[start : start + head.size]
    assert len(text) == head.size <= limits[0]
    assert text.endswith(b"\r\n\r\n")
    assert head.count == len(head.fields()) <= limits[1]
    assert text.removeprefix(b"\r\n").count(b"\r\n") == text.removeprefix(b"\r\n").count(b"\n") == head.count + 2
    assert our_head(head) == tornado_head(text) == h11_head(text), "other parsers disagree"
    check_response(head.fields(), text)
    return head


def check_response(fields: list[tuple[str, str]], body: bytes) -> None:
    """Build a response in both ways."""
    response = http_parser.format_response("HTTP/1.1 200 OK\r\n", fields, body)
    assert response == http_parser._format_response_python("HTTP/1.1 200 OK\r\n", fields, body)
    assert response.endswith(b"\r\n\r\n" + body)


def decode(pieces: Iterator[bytes]) -> tuple[bytes, bytes] | None:
    """Return a body and the data behind it, or None if it is incomplete."""
    decoder = ChunkedDecoder()
    body = b""
    for piece in pieces:
        body += decoder.feed(piece)
        assert len(decoder._line) < 20
        if decoder.finished:
            assert decoder.size == len(body)
            return body, decoder.unread + b"".join(pieces)
    return None


def check_chunks(data: bytes, step: int) -> bytes | None:
    """Decode a chunked body in all ways; return the data behind it, or None if it is incomplete or refused."""
    results: list[tuple[bytes, bytes] | str | None] = []
    for size in (len(data) or 1, step, 1):
        try:
            results.append(decode(data[start : start + size] for start in range(0, len(data), size)))
        except BadRequest as error:
            results.append(error.reason)
    assert results[0] == results[1] == results[2], "pieces make a difference"
    result = results[0]
    if not isinstance(result, tuple):
        return None
    assert result == tornado_chunks(data) == h11_chunks(data), "other parsers disagree"
    return result[1]
