"""Requests that are refused. Which ones, and why, is tested in tests/wire/test_http_parser.py; here, what follows."""

import pytest
from client import request
from tornado.web import RequestHandler

from .conftest import KINDS, NATIVE, Listen

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"

#: Requests to which every server responds with 400, and closes.
REFUSED = {
    "no version": b"GET /\r\nHost: a\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: a\r\n\r\n",
    "two blanks": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a blank in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method that is no token": b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/3.0": b"GET / HTTP/33\r\nHost: a\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a host with a slash": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a blank before the colon": HEAD + b"Content-Length : 5\r\n\r\nhello",
    "a name with a blank": HEAD + b"X Y: 1\r\n\r\n",
    "no name": HEAD + b": 1\r\n\r\n",
    "no colon": HEAD + b"X\r\n\r\n",
    "NUL in a value": HEAD + b"X: a\0b\r\n\r\n",
    "a length with a sign": HEAD + b"Content-Length: +5\r\n\r\nhello",
    "a negative length": HEAD + b"Content-Length: -5\r\n\r\nhello",
    "a length in hex": HEAD + b"Content-Length: 0x5\r\n\r\nhello",
    "an underscore in a length": HEAD + b"Content-Length: 1_0\r\n\r\nhello",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a list of lengths": HEAD + b"Content-Length: 5, 6\r\n\r\nhello",
    "a length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
}

#: What Tornado accepts, or responds to with 400 or without a response, and the status that the package sends.
REFUSED_BY_NATIVE = {
    "bare line feeds": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "a folded line": (HEAD + b"X: a\r\n b\r\n\r\n", 400),
    "another coding": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "chunked, twice": (HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 501),
    "chunks in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a long target": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "a long field": (HEAD + b"X: " + b"a" * 100_000 + b"\r\n\r\n", 431),
    "a TLS client": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
}


class Counting(RequestHandler):
    """Counts the requests."""

    count: int

    def get(self) -> None:
        type(self).count += 1
        self.write("hello")

    post = get


def counting() -> type[Counting]:
    """Return a class that counts for itself."""
    return type("Counting", (Counting,), {"count": 0})


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
async def test_a_bad_request_ends_the_connection(listen: Listen, data: bytes) -> None:
    handler = counting()
    client = await (await listen({"/.*": handler})).connect()
    # A valid request before it is served, one after it is not.
    client.write(request("GET", "/") + data + request("GET", "/"))
    assert (await client.response()).text == "hello"
    assert (await client.response()).status == 400
    assert await client.rest() == b""
    assert handler.count == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bad_request_is_refused_on_every_kind_of_socket(listen: Listen, kind: str) -> None:
    handler = counting()
    site = await listen({"/.*": handler}, kind)
    client = await site.connect()
    client.write(REFUSED["no host"])
    assert (await client.response()).status == 400
    assert await client.rest() == b""
    assert (await (await site.connect()).ask("GET", "/")).text == "hello"


@NATIVE
@pytest.mark.parametrize(("data", "status"), REFUSED_BY_NATIVE.values(), ids=REFUSED_BY_NATIVE)
async def test_what_else_is_refused(listen: Listen, data: bytes, status: int) -> None:
    handler = counting()
    client = await (await listen({"/.*": handler})).connect()
    client.write(request("GET", "/") + data)
    assert (await client.response()).text == "hello"
    response = await client.response()
    assert (response.status, response["Connection"]) == (status, "close")
    assert await client.rest() == b""
    assert handler.count == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nX: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
async def test_unusual_requests_are_served(listen: Listen, data: bytes) -> None:
    client = await (await listen({".*": counting()})).connect()
    client.write(data * 2)
    for _ in range(2):
        response = await client.response()
        assert (response.status, response.text) == (200, "hello")
