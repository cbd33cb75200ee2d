"""Guarantees of the threat model that no other file tests."""

import pytest
from application import NATIVE, Journal, Serve
from client import Connect

from sockjs_tornado import SockJSRouter

HEAD = b"POST /echo/000/abc/xhr_send HTTP/1.1\r\nHost: localhost\r\n"
BODY = b'["x"]'
HIDDEN = b'POST /echo/000/abc/xhr_send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n["hidden"]'

AMBIGUOUS = {
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two codings": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "another coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a sign": HEAD + b"Content-Length: +5\r\n\r\n" + BODY,
    "an underscore": HEAD + b"Content-Length: 0_5\r\n\r\n" + BODY,
    "hexadecimal": HEAD + b"Content-Length: 0x5\r\n\r\n" + BODY,
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY,
    "a list of lengths": HEAD + b"Content-Length: 5, 6\r\n\r\n" + BODY,
    "a chunk's size with a sign": HEAD + b"Transfer-Encoding: chunked\r\n\r\n+5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk's size with a prefix": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a zero byte": HEAD + b"X: a\0b\r\nContent-Length: 5\r\n\r\n" + BODY,
}


@pytest.mark.parametrize("what", AMBIGUOUS)
async def test_no_request_hides_in_another(serve: Serve, connect: Connect, what: str) -> None:
    """What is ambiguous is answered once, and its connection is not read any further (RFC 9112, section 11.2)."""
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"disconnect_delay": 60}))
    assert (await (await connect(server)).ask("POST", "/echo/000/abc/xhr", body=b"")).body == b"o\n"
    connection = await journal.connection()
    client = await connect(server)
    client.write(AMBIGUOUS[what] + HIDDEN)
    response = await client.response()
    assert response.status == (501 if NATIVE and what.endswith(("codings", "coding")) else 400)
    assert await client.rest() == b""
    # What is heard first is what comes after it all.
    await (await connect(server)).ask("POST", "/echo/000/abc/xhr_send", body=b'["after"]')
    assert await connection.message() == "after"
