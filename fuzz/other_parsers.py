"""How h11 and Tornado parse requests, for comparison.

This package is stricter than both. So whatever it accepts, they must accept with the same result; otherwise a client
could smuggle a request past one of them. :func:`h11_head` names the two exceptions.
"""

import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

import h11
from h11._connection import _body_framing
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPInputError, HTTPMessageDelegate, HTTPServerRequest, parse_request_start_line
from tornado.iostream import StreamClosedError

from sockjs_tornado.wire.http_parser import RequestHead

__all__ = ["Parsed", "h11_chunks", "h11_head", "our_head", "tornado_chunks", "tornado_head"]

_NO_ASCII = re.compile(rb"[\x80-\xff]")


class Parsed(NamedTuple):
    """A request head.

    Attributes:
        fields: Lower-case names and values, by name, without those of the body.
        length: The length of the body, or None if it is chunked.
    """

    method: str
    target: str
    version: str
    fields: list[tuple[str, str]]
    length: int | None


def _by_name(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    lower = ((name.lower(), value) for name, value in fields)
    rest = [field for field in lower if field[0] not in ("content-length", "transfer-encoding")]
    return sorted(rest, key=lambda field: field[0])


def our_head(head: RequestHead) -> Parsed:
    """Return a head of this package in the form that is compared."""
    version = "HTTP/1.1" if head.is_http11 else "HTTP/1.0"
    length = None if head.is_chunked else head.content_length
    return Parsed(head.method, head.target, version, _by_name(head.fields()), length)


def h11_head(data: bytes) -> Parsed | None:
    """Parse a head with h11; return None if it is refused.

    Unlike this package and Tornado, h11 does not ignore an empty line before the request line (RFC 9112, section 2.2),
    and refuses bytes above 127 in the target, which some clients do not encode. Both are hidden from it.
    """
    data = data.removeprefix(b"\r\n")
    line = data.partition(b"\r\n")[0]
    _, target, _ = line.split(b" ")
    hidden = _NO_ASCII.sub(b"x", target)
    data = data.replace(target, hidden, 1) if hidden != target else data
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    try:
        request = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    assert isinstance(request, h11.Request), request
    kind, arguments = _body_framing(request.method, request)
    fields = _by_name((name.decode(), value.decode("latin-1")) for name, value in request.headers)
    version = f"HTTP/{request.http_version.decode()}"
    length = None if kind == "chunked" else int(*arguments)
    assert request.target == hidden
    return Parsed(request.method.decode(), target.decode("latin-1"), version, fields, length)


def h11_chunks(data: bytes) -> tuple[bytes, bytes] | None:
    """Decode a chunked body with h11, and return the data and the rest; None if it is refused or incomplete."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    body = b""
    try:
        connection.next_event()
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return None
            assert isinstance(event, h11.Data)
            body += event.data
    except h11.RemoteProtocolError:
        return None
    return body, connection.trailing_data[0]


class _TornadoHead(HTTP1Connection):
    """A connection of Tornado without a stream, which does not read the body."""

    def __init__(self) -> None:
        self._max_body_size = 10**18
        self.is_client = False

    def _read_fixed_body(self, content_length: int, delegate: Any) -> Any:
        return content_length

    def _read_chunked_body(self, delegate: Any) -> Any:
        return "chunked"


def tornado_head(data: bytes) -> Parsed | None:
    """Parse a head with Tornado; return None if it is refused."""
    connection: Any = _TornadoHead()
    try:
        line, headers = connection._parse_headers(data)
        start_line = parse_request_start_line(line)
        fields = _by_name(headers.get_all())
        length = connection._read_body(0, headers, None)
        HTTPServerRequest(start_line=start_line, headers=headers, connection=SimpleNamespace(context=None))  # type: ignore[arg-type]
    except HTTPInputError:
        return None
    return Parsed(*start_line, fields, None if length == "chunked" else length or 0)


class _Bytes:
    """A stream that contains some bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def _take(self, size: int) -> bytes:
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    async def read_until(self, delimiter: bytes, max_bytes: int) -> bytes:
        end = self.data[:max_bytes].find(delimiter)
        if end < 0:
            raise StreamClosedError
        return self._take(end + len(delimiter))

    async def read_bytes(self, size: int, partial: bool = False) -> bytes:
        if len(self.data) < (1 if partial else size):
            raise StreamClosedError
        return self._take(size)


class _TornadoChunks(HTTP1Connection):
    """A connection of Tornado that reads a chunked body from bytes."""

    def __init__(self, data: bytes) -> None:
        self.stream: Any = _Bytes(data)
        self.params: Any = SimpleNamespace(chunk_size=65536)
        self._max_body_size = 1 << 70
        self._write_finished = self.is_client = False


class _Body(HTTPMessageDelegate):
    def __init__(self) -> None:
        self.data = b""

    def data_received(self, chunk: bytes) -> None:
        self.data += chunk


def tornado_chunks(data: bytes) -> tuple[bytes, bytes] | None:
    """Decode a chunked body with Tornado, and return the data and the rest; None if it is refused or incomplete."""
    connection, body = _TornadoChunks(data), _Body()
    reading = connection._read_chunked_body(body)
    try:
        # It yields only to other callbacks of the event loop.
        while True:
            reading.send(None)
    except StopIteration:
        return body.data, connection.stream.data
    except (HTTPInputError, StreamClosedError):
        return None
