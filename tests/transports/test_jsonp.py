"""jsonp and jsonp_send, byte by byte, and the callback names that htmlfile accepts, too."""

from urllib.parse import quote

import pytest
from application import Echo, Journal, Serve
from client import FORM, Connect, asking

from sockjs_tornado import SockJSRouter


async def test_each_poll_is_a_call_of_the_callback(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.ask("GET", "/echo/000/abc/jsonp?c=%63allback")
    assert (response.status, response.reason) == (200, "OK")
    assert response["Content-Type"] == "application/javascript; charset=UTF-8"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Content-Length"] == str(len(response.body))
    assert response.body == b'/**/callback("o");\r\n'
    await client.ask("POST", "/echo/000/abc/jsonp_send", body=b'["x", "\\u2028\\"<\xe2\x82\xac"]')
    response = await client.ask("GET", "/echo/000/abc/jsonp?c=other.name-1_")
    assert response.body == b'/**/other.name-1_("a[\\"x\\",\\"\\\\u2028\\\\\\"<\xe2\x82\xac\\"]");\r\n'


async def test_polls_get_heartbeats_and_the_end(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", {"heartbeat_delay": 0.02})))
    bodies = [(await client.ask("GET", "/echo/000/abc/jsonp?c=cb")).body for _ in range(2)]
    assert bodies == [b'/**/cb("o");\r\n', b'/**/cb("h");\r\n']
    (await journal.connection()).close(3001, '"quoted"\u2029')
    for _ in range(2):
        response = await client.ask("GET", "/echo/000/abc/jsonp?c=cb")
        assert response.body == b'/**/cb("c[3001,\\"\\\\\\"quoted\\\\\\"\\\\u2029\\"]");\r\n'


# The callback.


@pytest.mark.parametrize("transport", ["jsonp", "htmlfile"])
@pytest.mark.parametrize("query", ["", "?", "?c", "?c=", "?x=1", "?C=cb"])
async def test_a_callback_is_required(serve: Serve, connect: Connect, transport: str, query: str) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    response = await client.ask("GET", f"/echo/000/abc/{transport}{query}")
    assert (response.status, response.reason) == (500, "Internal Server Error")
    assert response.body == b'"callback" parameter required'
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert len(router.container) == 0


@pytest.mark.parametrize("transport", ["jsonp", "htmlfile"])
@pytest.mark.parametrize(
    "callback",
    [
        "x" * 33,
        "x" * 10_000,
        "call back",
        "a+b",
        "a(b",
        "a%28",
        "%20",
        "%00",
        "%0a",
        "cb%0A",
        "cb%0D%0A",
        "%C3%A4",
        "%ff",
        "\xe4",
        "a;b",
        "a/b",
        "a$b",
        "a[0]",
        "a'b",
        '"',
        "%3Cscript%3E",
        "%EF%BC%A1",
        "%u0041",
    ],
)
async def test_a_callback_is_a_short_name_and_nothing_else(
    serve: Serve, connect: Connect, transport: str, callback: str
) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    response = await client.ask("GET", f"/echo/000/abc/{transport}?c={callback.replace(' ', '%20')}")
    assert (response.status, response.reason) == (500, "Internal Server Error")
    assert response.body == b'invalid "callback" parameter'
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert len(router.container) == 0


@pytest.mark.parametrize(
    ("query", "callback"),
    [
        ("c=" + "x" * 32, "x" * 32),
        ("c=a", "a"),
        ("c=AZaz09-_.", "AZaz09-_."),
        ("c=%61%62", "ab"),
        ("c=first&c=second", "first"),
        ("x=%ff&c=cb&", "cb"),
        ("t=123&c=cb", "cb"),
    ],
)
async def test_a_name_of_up_to_32_is_a_callback(serve: Serve, connect: Connect, query: str, callback: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.ask("GET", f"/echo/000/abc/jsonp?{query}")
    assert response.body == f'/**/{callback}("o");\r\n'.encode()
    client.write(asking("htmlfile", "/echo/000/xyz").replace(b"c=cb", query.encode()))
    assert (await client.head()).status == 200
    assert f"var c = parent.{callback};\n".encode() in await client.chunk()


# Sending.


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (FORM, b"d=" + quote('["x +%"]').encode()),
        (FORM, b"d=%5B%22x+%2B%25%22%5D"),
        (f"{FORM}; charset=UTF-8", b"d=%5B%22x+%2B%25%22%5D"),
        ("Content-Type: APPLICATION/X-WWW-Form-URLEncoded ;x=y", b"d=%5B%22x+%2B%25%22%5D"),
        (FORM, b"other=1&d=%5B%22x+%2B%25%22%5D&d=ignored"),
        (FORM, b'd=["x+%2B%25"]'),
        ("Content-Type: text/plain", b'["x +%"]'),
        ("Content-Type: application/json; charset=utf-8", b'["x +%"]'),
        ("Content-Type:", b'["x +%"]'),
        ("X-No: content type", b'["x +%"]'),
    ],
)
async def test_a_form_or_json_is_sent(serve: Serve, connect: Connect, content_type: str, body: bytes) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await client.ask("GET", "/echo/000/abc/jsonp?c=cb")
    response = await client.ask("POST", "/echo/000/abc/jsonp_send", content_type, body=body)
    assert (response.status, response.reason) == (200, "OK")
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert response["Content-Length"] == "2"
    assert response.body == b"ok"
    connection = await journal.connection()
    assert await connection.message() == "x +%"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (None, b"Payload expected."),
        (b"", b"Payload expected."),
        (b"d=", b"Payload expected."),
        (b"d", b"Payload expected."),
        (b"d=%20", b"Payload expected."),
        (b"x=1", b"Payload expected."),
        (b'["x"]', b"Payload expected."),
        (b"d=[", b"Broken JSON encoding."),
        (b"d=x", b"Broken JSON encoding."),
        (b"d=%22x%22", b"Broken JSON encoding."),
        (b"d=%ff", b"Broken JSON encoding."),
        (b"d=[%22%ff%22]", b"Broken JSON encoding."),
        (b"d=\xff", b"Broken JSON encoding."),
        (b"d=[1]", b"Broken JSON encoding."),
        (b"x=1&" * 20 + b'd=["x"]', b"Broken JSON encoding."),
    ],
)
async def test_a_form_without_messages_is_rejected_and_the_session_stays_open(
    serve: Serve, connect: Connect, body: bytes | None, text: bytes
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    await client.ask("GET", "/echo/000/abc/jsonp?c=cb")
    response = await client.ask("POST", "/echo/000/abc/jsonp_send", FORM, body=body)
    assert (response.status, response.reason) == (500, "Internal Server Error")
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert response.body == text
    await client.ask("POST", "/echo/000/abc/jsonp_send", FORM, body=b"d=%5B%22alive%22%5D")
    response = await client.ask("GET", "/echo/000/abc/jsonp?c=cb")
    assert response.body == b'/**/cb("a[\\"alive\\"]");\r\n'
