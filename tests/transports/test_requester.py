"""Requests of other addresses and origins for a session, on the HTTP transports."""

import pytest
from application import Echo, Journal, Serve
from client import RECEIVING, Connect, asking, first_frame, new_session, sending

from sockjs_tornado import SockJSRouter


@pytest.mark.parametrize("transport", RECEIVING)
async def test_another_address_cannot_use_the_session(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    owner, thief = await connect(server), await connect(server, source="127.0.0.2")
    owner.write(asking("xhr", "/echo/000/abc"))
    assert await first_frame(owner, "xhr") == "o"
    connection = await journal.connection()
    assert connection.info.ip == "127.0.0.1"
    connection.send("for the owner")
    thief.write(sending("xhr", "/echo/000/abc", '["x"]'))
    assert (await thief.response()).status == 404
    thief.write(asking(transport, "/echo/000/abc"))
    assert await first_frame(thief, transport) == 'c[1008,"Session was opened from another address"]'
    owner.write(asking("xhr", "/echo/000/abc"))
    assert await first_frame(owner, "xhr") == 'a["for the owner"]'


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("2001:db8::1", "2001:DB8:0:0:0:0:0:1"),
        ("2001:db8::1", "2001:db8::a:b:c:d"),
    ],
)
@pytest.mark.parametrize("transport", RECEIVING)
async def test_an_address_may_be_written_in_several_ways(
    serve: Serve, connect: Connect, transport: str, ours: str, theirs: str
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"), xheaders=True)
    for known, other in ((ours, theirs), (theirs, ours)):
        client, stranger = await connect(server), await connect(server)
        base = f"/echo/000/{new_session()}"
        client.write(asking("xhr", base, f"X-Real-IP: {known}"))
        assert await first_frame(client, "xhr") == "o"
        client.write(sending("xhr", base, '["x"]', f"X-Real-IP: {other}"))
        assert (await client.response()).status == 204
        stranger.write(asking("xhr", base, "X-Real-IP: 2001:db8:0:1::1"))
        assert await first_frame(stranger, "xhr") == 'c[1008,"Session was opened from another address"]'
        client.write(asking(transport, base, f"X-Real-IP: {other}"))
        assert await first_frame(client, transport) == 'a["x"]'


@pytest.mark.parametrize("fields", [("Origin: https://b.example",), ("Origin: null",), ("Sec-Fetch-Site: cross-site",)])
@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_page_of_another_origin_cannot_use_the_session(
    serve: Serve, connect: Connect, transport: str, fields: tuple[str, ...]
) -> None:
    """It has learned of the id; with any setting, and even if something on the way removes the origin of a POST."""
    router = SockJSRouter(Echo, "/echo", {"verify_ip": False, "disconnect_delay": 60})
    server = await serve(router)
    ours = "Origin: https://a.example"
    owner, thief = await connect(server), await connect(server)
    owner.write(asking("xhr", "/echo/000/abc", ours))
    assert await first_frame(owner, "xhr") == "o"
    thief.write(sending("xhr", "/echo/000/abc", '["from the thief"]', *fields))
    assert (await thief.response()).status == 404
    owner.write(sending("xhr", "/echo/000/abc", '["x"]', ours))
    assert (await owner.response()).status == 204
    thief.write(asking(transport, "/echo/000/abc", *fields))
    assert await first_frame(thief, transport) == 'c[1008,"Session was opened from another origin"]'
    owner.write(asking("xhr", "/echo/000/abc", ours))
    assert await first_frame(owner, "xhr") == 'a["x"]'
    assert router.stats.rejected == {"session_origin": 2}


@pytest.mark.parametrize("transport", ["jsonp", "eventsource", "htmlfile"])
async def test_a_script_of_any_page_cannot_use_the_session(serve: Serve, connect: Connect, transport: str) -> None:
    """Browsers name no origin with the GETs of script elements and frames."""
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": 60})
    client = await connect(await serve(router))
    client.write(asking("xhr", "/echo/000/abc", "Origin: https://a.example"))
    assert await first_frame(client, "xhr") == "o"
    client.write(asking(transport, "/echo/000/abc"))
    assert await first_frame(client, transport) == 'c[1008,"Session was opened from another origin"]'
    assert router.stats.rejected == {"session_origin": 1}


@pytest.mark.parametrize("fields", [(), ("Sec-Fetch-Site: same-origin",), ("Sec-Fetch-Site: none",)])
@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming"])
async def test_a_post_without_an_origin_is_no_foreign_page_s(
    serve: Serve, connect: Connect, transport: str, fields: tuple[str, ...]
) -> None:
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": 60})
    client = await connect(await serve(router))
    client.write(asking("xhr", "/echo/000/abc", "Origin: https://a.example"))
    assert await first_frame(client, "xhr") == "o"
    for kind in ("xhr", "jsonp"):
        client.write(sending(kind, "/echo/000/abc", '["x"]', *fields))
        assert (await client.response()).status in (200, 204)
    client.write(asking(transport, "/echo/000/abc", *fields))
    assert await first_frame(client, transport) == 'a["x","x"]'
    assert not router.stats.rejected


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming"])
async def test_a_session_that_a_post_without_an_origin_opened_is_no_page_s(
    serve: Serve, connect: Connect, transport: str
) -> None:
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": 60})
    client = await connect(await serve(router))
    client.write(asking("xhr", "/echo/000/abc"))
    assert await first_frame(client, "xhr") == "o"
    page = "Origin: https://b.example"
    client.write(sending("xhr", "/echo/000/abc", '["from the page"]', page))
    assert (await client.response()).status == 404
    client.write(asking(transport, "/echo/000/abc", page))
    assert await first_frame(client, transport) == 'c[1008,"Session was opened from another origin"]'


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_session_may_be_for_all_addresses(serve: Serve, connect: Connect, transport: str) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"verify_ip": False}))
    home, away = await connect(server), await connect(server, source="127.0.0.2")
    home.write(asking("xhr", "/echo/000/abc"))
    assert await first_frame(home, "xhr") == "o"
    away.write(sending("xhr", "/echo/000/abc", '["x"]'))
    assert (await away.response()).status == 204
    away.write(asking(transport, "/echo/000/abc"))
    assert await first_frame(away, transport) == 'a["x"]'
