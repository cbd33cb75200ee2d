"""xhr_send and jsonp_send: valid and invalid requests."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from application import Busy, Echo, Journal, Serve
from client import Connect, request, settle
from doubles import FakeContainer, make_session

from sockjs_tornado import SockJSRouter
from sockjs_tornado.transports.sending import _DelayedPostResponse


@pytest.mark.parametrize("name", ["xhr_send", "jsonp_send"])
@pytest.mark.parametrize("body", [None, b"", b"[", b'["x"]'])
async def test_a_post_to_an_unknown_session_is_rejected(
    serve: Serve, connect: Connect, name: str, body: bytes | None
) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    response = await client.ask("POST", f"/echo/000/nobody/{name}", body=body)
    assert (response.status, response.reason) == (404, "Not Found")
    assert response.body == b""
    assert "Content-Type" not in response
    assert len(router.container) == 0


@pytest.mark.parametrize("name", ["xhr_send", "jsonp_send"])
async def test_a_closed_session_takes_messages_and_forgets_them(serve: Serve, connect: Connect, name: str) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    connection = await journal.connection()
    connection.close(3001, "done")
    # Anything but success would make the client close before it has heard why.
    assert (await client.ask("POST", f"/echo/000/abc/{name}", body=b'["x"]')).status in (200, 204)
    assert (await client.ask("POST", f"/echo/000/abc/{name}", body=b"[")).status == 500
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b'c[3001,"done"]\n'
    assert connection._messages.empty()
    # After disconnect_delay, only its close frame is kept.
    session = connection.session
    session.check(session.due)
    assert (await client.ask("POST", f"/echo/000/abc/{name}", body=b'["x"]')).status == 404
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b'c[3001,"done"]\n'


@pytest.mark.parametrize("name", ["xhr_send", "jsonp_send"])
async def test_a_post_before_the_session_is_open_is_rejected(serve: Serve, connect: Connect, name: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"verify_ip": False})
    client = await connect(await serve(router))
    router.create_session("abc")
    assert (await client.ask("POST", f"/echo/000/abc/{name}", body=b'["early"]')).status == 404
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b"o\n"
    assert (await client.ask("POST", f"/echo/000/abc/{name}", body=b'["x"]')).status in (200, 204)
    assert await (await journal.connection()).message() == "x"


@pytest.mark.parametrize("name", ["xhr_send", "jsonp_send"])
async def test_an_application_that_does_not_keep_up_is_not_sent_more(serve: Serve, connect: Connect, name: str) -> None:
    journal = Journal(Busy)
    server = await serve(SockJSRouter(journal, "/echo", {"max_queue_bytes": 1000}))
    client = await connect(server)
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    connection: Any = await journal.connection()
    body = json.dumps(["x" * 400]).encode()
    # One that is being worked on, and one that waits, are no pile.
    for _ in range(2):
        assert (await client.ask("POST", f"/echo/000/abc/{name}", body=body)).status in (200, 204)
    # The answer to the next two waits.
    waiting = [await connect(server) for _ in range(2)]
    for late in waiting:
        late.write(request("POST", f"/echo/000/abc/{name}", body=body))
        await settle(connect, server)
        assert not late.reader._buffer  # type: ignore[attr-defined]
    response = await client.ask("POST", f"/echo/000/abc/{name}", body=body)
    assert response.status == 429
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert response.text == "Too many messages are waiting."
    connection.may_go_on.set()
    for late in waiting:
        assert (await late.response()).status in (200, 204)
    for _ in range(4):
        assert await connection.message() == "x" * 400
    assert connection._messages.empty()
    # The session lives on.
    assert (await client.ask("POST", f"/echo/000/abc/{name}", body=b'["y"]')).status in (200, 204)
    assert await connection.message() == "y"


@pytest.mark.parametrize("name", ["xhr_send", "jsonp_send"])
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (None, b"Payload expected."),
        (b"", b"Payload expected."),
        (b" \r\n\t", b"Payload expected."),
        (b"[", b"Broken JSON encoding."),
        (b'["x', b"Broken JSON encoding."),
        (b'["x"', b"Broken JSON encoding."),
        (b'["x"],', b"Broken JSON encoding."),
        (b'["x"]["y"]', b"Broken JSON encoding."),
        (b'"x"', b"Broken JSON encoding."),
        (b"x", b"Broken JSON encoding."),
        (b"{}", b"Broken JSON encoding."),
        (b'{"x": "y"}', b"Broken JSON encoding."),
        (b"null", b"Broken JSON encoding."),
        (b"[1]", b"Broken JSON encoding."),
        (b'["x", null]', b"Broken JSON encoding."),
        (b'[["x"]]', b"Broken JSON encoding."),
        (b"['x']", b"Broken JSON encoding."),
        (b'["\n"]', b"Broken JSON encoding."),
        (b'["\xff"]', b"Broken JSON encoding."),
        (b'["\xed\xa0\x80"]', b"Broken JSON encoding."),
        (b"\xff\xfe", b"Broken JSON encoding."),
        (b"[" * 100_000, b"Broken JSON encoding."),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_a_payload_that_is_no_array_of_strings_is_rejected_and_the_session_stays_open(
    serve: Serve, connect: Connect, name: str, body: bytes | None, text: bytes
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    response = await client.ask("POST", f"/echo/000/abc/{name}", body=body)
    assert (response.status, response.reason) == (500, "Internal Server Error")
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert response["Content-Length"] == str(len(text))
    assert response.body == text
    await client.ask("POST", f"/echo/000/abc/{name}", body=b'["alive"]')
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b'a["alive"]\n'


@pytest.mark.parametrize("name", ["xhr_send", "jsonp_send"])
async def test_too_long_a_payload_is_rejected_and_the_session_stays_open(
    serve: Serve, connect: Connect, name: str
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"max_message_size": 100}))
    client = await connect(server)
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    just_fits = b'["' + b"x" * 96 + b'"]'
    response = await (await connect(server)).ask("POST", f"/echo/000/abc/{name}", body=just_fits + b" ")
    assert (response.status, response.text) == (413, "Payload too large.")
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert (await client.ask("POST", f"/echo/000/abc/{name}", body=just_fits)).status in (200, 204)
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b"a" + just_fits + b"\n"


@pytest.mark.parametrize("name", ["xhr_send", "jsonp_send"])
@pytest.mark.parametrize("payload", [b"[]", b" [ ] "])
async def test_no_messages_are_accepted(serve: Serve, connect: Connect, name: str, payload: bytes) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    assert (await client.ask("POST", f"/echo/000/abc/{name}", body=payload)).status in (200, 204)
    await client.ask("POST", f"/echo/000/abc/{name}", body=b'["x"]')
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b'a["x"]\n'


@pytest.mark.parametrize("name", ["xhr_send", "jsonp_send"])
async def test_any_json_escape_is_understood(serve: Serve, connect: Connect, name: str) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    connection = await journal.connection()
    body = rb'[ "\u0041\u00e4\uD83D\uDE00\uDEAD\/\b\f\n\r\t\"\\", "\u2028' + "ä€😀\x7f".encode() + b'" ]\r\n'
    assert (await client.ask("POST", f"/echo/000/abc/{name}", body=body)).status in (200, 204)
    assert await connection.message() == 'Aä😀\udead/\b\f\n\r\t"\\'
    assert await connection.message() == "\u2028ä€😀\x7f"


async def test_a_post_without_a_length_has_an_empty_body(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    client.write(request("POST", "/echo/000/abc/xhr") + request("POST", "/echo/000/abc/xhr_send"))
    assert (await client.response()).body == b"o\n"
    response = await client.response()
    assert (response.status, response.body) == (500, b"Payload expected.")
    client.write(request("POST", "/echo/000/abc/xhr_streaming"))
    assert (await client.head()).status == 200


@pytest.mark.parametrize("responded", [False, True])
def test_a_delayed_response_is_sent_unless_there_was_another_one(responded: bool) -> None:
    """Such as one that the server's end has sent."""
    sent: list[Any] = []
    session = make_session(container := FakeContainer())
    endpoint: Any = SimpleNamespace(server=session.server, respond_accepted=sent.append)
    exchange: Any = SimpleNamespace(responded=False)
    response = _DelayedPostResponse(endpoint, exchange, session)
    assert response.wait()
    exchange.responded = responded
    container.advance(session.server.settings.heartbeat_delay + 1)
    assert sent == ([] if responded else [exchange])
    assert session._inbox_waiters == ()
