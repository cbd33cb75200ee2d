"""Requests for a closed session, on the HTTP transports."""

import asyncio
import math
import time
from typing import Any

import pytest
from application import Echo, Journal, Noted, Serve, open_session
from client import (
    POLLING,
    RECEIVING,
    STREAMING,
    Client,
    Connect,
    Join,
    StreamingPeer,
    asking,
    first_frame,
    sending,
    unframe,
    within,
)

from sockjs_tornado import SockJSRouter
from sockjs_tornado.session.ended import ENDED_TIME


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_request_right_behind_the_end_gets_the_frame_of_the_application(
    serve: Serve, connect: Connect, join: Join, transport: str
) -> None:
    _, _, server, peer, connection = await open_session(serve, join, transport)
    if transport in POLLING:
        await peer.listen()
    new = await connect(server)
    await new.ask("GET", "/echo")
    # The new request is there before the end of the old one has left the server.
    new.write(asking(transport, peer.base))
    connection.close(3333, 'because "so"')
    assert await first_frame(new, transport) == 'c[3333,"because \\"so\\""]'
    assert await peer.frame() == 'c[3333,"because \\"so\\""]'
    assert connection.closes == [(3333, 'because "so"')]


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_closed_session_keeps_answering_with_its_close_frame(serve: Serve, join: Join, transport: str) -> None:
    _, _, server, peer, connection = await open_session(serve, join, transport)
    connection.close()
    for name in (transport, *RECEIVING, *RECEIVING):
        again = join(server, name, session=peer.session)
        assert await again.frame() == 'c[3000,"Go away!"]'
        if name in STREAMING:
            assert isinstance(again, StreamingPeer)
            assert again.client is not None
            await again.client.end_of_stream()


def time_out(router: SockJSRouter) -> None:
    """Let the time of all sessions run out."""
    for session in router.container:
        session.check(math.inf)
    assert len(router.container) == 0


async def only_frame(client: Client, transport: str, session: str, *fields: str) -> str:
    """Ask for a frame, and return that of an answer that has no more than one."""
    client.write(asking(transport, f"/echo/000/{session}", *fields))
    response = await client.response()
    assert response.status == 200
    body = response.body
    match transport:
        case "xhr_streaming":
            assert body.startswith(b"h" * 2048 + b"\n")
            body = body[2049:]
        case "eventsource":
            assert body.startswith(b"\r\n")
            body = body[2:]
        case "htmlfile":
            page, _, body = body.partition(b"\r\n\r\n")
            assert len(page) > 1024
    return unframe(transport, body)


def long_after(router: SockJSRouter) -> None:
    """Let so much time pass that nobody remembers the sessions that have ended."""
    router.container._ended._now = lambda: time.monotonic() + ENDED_TIME


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_closed_session_answers_for_a_minute(
    serve: Serve, connect: Connect, join: Join, transport: str
) -> None:
    router, journal, server, peer, connection = await open_session(serve, join, "xhr", disconnect_delay=600)
    connection.close(3001, "done")
    time_out(router)
    for _ in range(2):
        assert await only_frame(await connect(server), transport, peer.session) == 'c[3001,"done"]'
    assert len(router.container) == 0
    long_after(router)
    assert await join(server, transport, session=peer.session).frame() == "o"
    assert await journal.connection() is not connection
    assert connection.closes == [(3001, "done")]


@pytest.mark.parametrize("transport", RECEIVING)
async def test_an_interrupted_session_answers_for_a_minute(
    serve: Serve, connect: Connect, join: Join, transport: str
) -> None:
    router, _, server, peer, connection = await open_session(serve, join, "xhr_streaming", disconnect_delay=600)
    peer.vanish()
    assert await connection.closed() == (1002, "Connection interrupted")
    time_out(router)
    assert await only_frame(await connect(server), transport, peer.session) == 'c[1002,"Connection interrupted"]'
    assert len(router.container) == 0


async def test_a_post_to_an_ended_session_is_rejected(serve: Serve, connect: Connect, join: Join) -> None:
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": 600})
    server = await serve(router)
    peer = join(server, "xhr")
    assert await peer.frame() == "o"
    time_out(router)
    client = await connect(server)
    for kind in ("xhr", "jsonp"):
        client.write(sending(kind, peer.base, '["x"]'))
        assert (await client.response()).status == 404
    assert len(router.container) == 0


@pytest.mark.parametrize("transport", RECEIVING)
async def test_another_address_does_not_learn_how_a_session_ended(
    serve: Serve, connect: Connect, transport: str
) -> None:
    router = SockJSRouter(Journal(), "/echo", {"disconnect_delay": 600})
    server = await serve(router)
    owner, thief = await connect(server), await connect(server, source="127.0.0.2")
    ours = "Origin: https://a.example"
    owner.write(asking("xhr", "/echo/000/abc", ours))
    assert await first_frame(owner, "xhr") == "o"
    time_out(router)
    assert await only_frame(thief, transport, "abc", ours) == 'c[1008,"Session was opened from another address"]'
    theirs = "Origin: https://b.example"
    assert await only_frame(owner, transport, "abc", theirs) == 'c[1008,"Session was opened from another origin"]'
    assert await only_frame(owner, transport, "abc", ours) == 'c[1006,"Session timed out"]'
    assert router.stats.rejected == {"verify_ip": 1, "session_origin": 1}


async def test_websockets_may_have_the_id_of_an_ended_session(serve: Serve, join: Join) -> None:
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": 600})
    server = await serve(router)
    peer = join(server, "xhr")
    assert await peer.frame() == "o"
    time_out(router)
    for _ in range(2):
        websocket = join(server, "websocket", session=peer.session)
        assert await websocket.frame() == "o"
        websocket.vanish()


async def test_the_application_may_make_a_session_with_the_id_of_an_ended_one(serve: Serve, join: Join) -> None:
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": 600})
    server = await serve(router)
    peer = join(server, "xhr")
    assert await peer.frame() == "o"
    time_out(router)
    router.create_session(peer.session)
    assert await peer.frame() == "o"
    await peer.send("x")
    assert await peer.frame() == 'a["x"]'


async def test_a_session_that_was_never_opened_may_be_opened_later(serve: Serve, join: Join) -> None:
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": 600})
    server = await serve(router)
    router.create_session("abc")
    time_out(router)
    assert await join(server, "xhr", session="abc").frame() == "o"


async def test_a_late_poll_gets_the_close_frame_while_the_router_closes(serve: Serve, join: Join) -> None:
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": 60})
    server = await serve(router)
    peer, other = join(server, "xhr"), join(server, "xhr")
    for each in (peer, other):
        assert await each.frame() == "o"
    closing = asyncio.ensure_future(router.drain(0))
    for _ in range(3):
        # The answer may have been lost on its way.
        assert await peer.frame() == 'c[1012,"Service restart"]'
    assert await other.frame() == 'c[1012,"Service restart"]'
    await within(closing)
    client: Any = await peer.listen()
    assert (await client.response()).status == 503


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_session_without_a_receiver_times_out(
    serve: Serve, connect: Connect, join: Join, transport: str
) -> None:
    router, journal, server, peer, connection = await open_session(
        serve, join, transport, disconnect_delay=0.1, response_limit=1
    )
    assert await connection.closed() == (1006, "Session timed out")
    assert len(router.container) == 0
    # A late poll must not open a session whose first message is the middle of a conversation.
    assert await only_frame(await connect(server), transport, peer.session) == 'c[1006,"Session timed out"]'
    assert len(router.container) == 0
    long_after(router)
    assert await join(server, transport, session=peer.session).frame() == "o"
    assert await journal.connection() is not connection
    assert connection.closes == [(1006, "Session timed out")]


@pytest.mark.parametrize("transport", RECEIVING)
async def test_messages_sent_before_the_close_arrive_before_it(serve: Serve, join: Join, transport: str) -> None:
    class Brief(Echo):
        def on_message(self, message: Any) -> None:
            self.send("last")
            self.send("words")
            self.close(3005, "bye")
            self.send("never")

    server = await serve(SockJSRouter(Brief, "/echo"))
    peer = join(server, transport)
    assert await peer.frame() == "o"
    await peer.send("x")
    assert await peer.frame() == 'a["last","words"]'
    assert await peer.frame() == 'c[3005,"bye"]'


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_session_closed_as_it_opens_opens_first(serve: Serve, join: Join, transport: str) -> None:
    class Closing(Noted):
        def on_open(self, info: object) -> None:
            self._opened.put_nowait(self)
            self.send("hello")
            self.close()

    journal = Journal(Closing)
    server = await serve(SockJSRouter(journal, "/echo"))
    peer = join(server, transport)
    frames = [await peer.frame() for _ in range(4)]
    assert frames == ["o", 'a["hello"]', 'c[3000,"Go away!"]', 'c[3000,"Go away!"]']
    assert await (await journal.connection()).closed() == (3000, "Go away!")
