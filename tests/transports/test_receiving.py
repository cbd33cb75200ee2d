"""What the HTTP transports share: polls and streams, their ends and interruptions, and what is posted."""

import asyncio
import contextlib
import json
import math
import socket
import struct
import time
from typing import Any

import pytest
from application import Echo, Journal, Noted, Serve, congest
from client import (
    POLLING,
    RECEIVING,
    STREAMING,
    WAIT,
    Client,
    Connect,
    Join,
    PollingPeer,
    StreamingPeer,
    asking,
    first_frame,
    new_session,
    request,
    sending,
    settle,
    unframe,
    within,
)

from sockjs_tornado import ConnectionClosed, SockJSRouter
from sockjs_tornado.session.ended import ENDED_TIME

INTERRUPTED = 'c[1002,"Connection interrupted"]'
STILL_OPEN = 'c[2010,"Another connection still open"]'


# Two at once.


@pytest.mark.parametrize("second", RECEIVING)
@pytest.mark.parametrize("first", RECEIVING)
async def test_the_second_of_two_receivers_is_sent_away_and_the_first_is_untouched(
    serve: Serve, connect: Connect, join: Join, first: str, second: str
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    listener = join(server, first, session="abc")
    assert await listener.frame() == "o"
    connection = await journal.connection()
    if first in POLLING:
        await listener.listen()
        await settle(connect, server)
    for _ in range(2):
        intruder = await connect(server)
        intruder.write(asking(second, listener.base))
        assert await first_frame(intruder, second) == STILL_OPEN
        if second in STREAMING:
            assert await intruder.rest() == b"0\r\n\r\n"
    connection.send("for the first")
    assert await listener.frame() == 'a["for the first"]'
    assert not connection.is_closed
    assert connection.closes == []


# Interruptions.


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("leaves_first", [True, False], ids=["then", "while"])
@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_request_right_behind_an_aborted_one_hears_of_the_interruption(
    serve: Serve, connect: Connect, transport: str, leaves_first: bool, reset: bool
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    new = await connect(server)
    # A race, which is run 300 times in all cases.
    for _ in range(15):
        base = f"/echo/000/{new_session()}"
        old = await connect(server)
        old.write(asking(transport, base))
        assert await first_frame(old, transport) == "o"
        connection = await journal.connection()
        if transport in POLLING:
            old.write(asking(transport, base))
        # The server knows the new connection, and that the old one listens.
        if transport in STREAMING:
            new = await connect(server)
        await new.ask("GET", "/echo")
        if reset:
            old.reset()
        if leaves_first:
            await old.leave()
            new.write(asking(transport, base))
        else:
            new.write(asking(transport, base))
            await old.leave()
        assert await first_frame(new, transport) == INTERRUPTED
        assert await connection.closed() == (1002, "Connection interrupted")


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("second", RECEIVING)
@pytest.mark.parametrize("first", RECEIVING)
async def test_an_aborted_request_is_noticed_before_the_event_loop_tells_of_it(
    serve: Serve, connect: Connect, first: str, second: str, reset: bool
) -> None:
    leaving: list[socket.socket] = []

    def jsessionid(request: object) -> bool:
        # Called in the middle of serving a request: the event loop can know nothing yet.
        while leaving:
            leaving.pop().close()
        return False

    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"jsessionid": jsessionid}))
    client = await connect(server)
    for _ in range(2):
        base = f"/echo/000/{new_session()}"
        client.write(asking("xhr", base))
        assert await first_frame(client, "xhr") == "o"
        connection = await journal.connection()
        old = socket.create_connection(("127.0.0.1", server.port))
        if reset:
            old.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        old.sendall(asking(first, base))
        await settle(connect, server)
        await settle(connect, server)
        leaving.append(old)
        new = await connect(server)
        new.write(asking(second, base))
        assert await first_frame(new, second) == INTERRUPTED
        assert await connection.closed() == (1002, "Connection interrupted")


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_request_that_was_aborted_before_it_was_served_leaves_no_trace(
    serve: Serve, connect: Connect, transport: str
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    for _ in range(50):
        old, new = await connect(server), await connect(server)
        for client in (old, new):
            await client.ask("GET", "/echo")
        base = f"/echo/000/{new_session()}"
        old.write(asking(transport, base))
        await old.leave()
        new.write(asking(transport, base))
        assert await first_frame(new, transport) == "o"
        assert (await journal.connection()).closes == []


@pytest.mark.parametrize("transport", RECEIVING)
async def test_messages_are_not_given_to_a_client_that_has_left(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    opening, leaving, staying = [await connect(server) for _ in range(3)]
    opening.write(asking("xhr", "/echo/000/abc"))
    assert await first_frame(opening, "xhr") == "o"
    (await journal.connection()).send("kept")
    for client in (leaving, staying):
        await client.ask("GET", "/echo")
    leaving.write(asking(transport, "/echo/000/abc"))
    await leaving.leave()
    staying.write(asking(transport, "/echo/000/abc"))
    assert await first_frame(staying, transport) == 'a["kept"]'


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_client_that_leaves_while_it_listens_ends_the_session(
    serve: Serve, connect: Connect, join: Join, transport: str
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    peer = join(server, transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    if transport in POLLING:
        await peer.listen()
        await settle(connect, server)
    peer.vanish()
    assert await connection.closed() == (1002, "Connection interrupted")
    assert connection.is_closed
    for _ in range(2):
        again = join(server, transport, session=peer.session)
        assert await again.frame() == INTERRUPTED


# Clients that send no more, and still read.

PRELUDE_ENDS = {"xhr_streaming": b"h\n", "eventsource": b"\r\n", "htmlfile": b"\r\n\r\n"}


def with_a_body(transport: str, base: str, *fields: str, version: str = "HTTP/1.1") -> bytes:
    """Return the bytes of a receiving request with a body.

    Tornado takes a body that is there with the head in one go, and does not look for the end of the connection between.
    """
    method = "POST" if transport.startswith("xhr") else "GET"
    return request(method, f"{base}/{transport}?c=cb", *fields, body=b"[]", version=version)


async def answer_to_the_last(client: Client, transport: str, base: str) -> str:
    """Ask for a frame, end the own direction of the connection at once, and return the frame."""
    client.write(with_a_body(transport, base))
    client.writer.write_eof()
    interim = await client.head()
    assert (interim.status, interim.reason, interim.fields) == (100, "Continue", [])
    response = await client.response()
    assert (response.status, response["Connection"]) == (200, "close")
    assert await client.rest() == b""
    body = response.body
    if transport in STREAMING:
        _, end, body = body.partition(PRELUDE_ENDS[transport])
        assert end
    return unframe(transport, body)


@pytest.mark.parametrize("transport", RECEIVING)
async def test_who_sends_no_more_is_given_what_there_is(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    sender = await connect(server)

    async def ask() -> str:
        return await answer_to_the_last(await connect(server), transport, "/echo/000/abc")

    assert await ask() == "o"
    connection = await journal.connection()
    for number in range(3):
        connection.send(f"{number}")
        connection.send("more")
        assert await ask() == f'a["{number}","more"]'
        sender.write(sending("xhr", "/echo/000/abc", f'["{number}"]'))
        assert (await sender.response()).status == 204
        assert await connection.message() == f"{number}"
    assert not connection.is_closed
    connection.send("last")
    connection.close(3001, "enough")
    assert [await ask() for _ in range(3)] == ['a["last"]', 'c[3001,"enough"]', 'c[3001,"enough"]']


@pytest.mark.parametrize("transport", RECEIVING)
async def test_who_sends_no_more_is_not_kept_waiting(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    assert await answer_to_the_last(await connect(server), transport, "/echo/000/abc") == "o"
    connection = await journal.connection()
    # There is nothing to say, and while it waited its end could not be seen.
    assert await answer_to_the_last(await connect(server), transport, "/echo/000/abc") == INTERRUPTED
    assert await connection.closed() == (1002, "Connection interrupted")
    assert await answer_to_the_last(await connect(server), transport, "/echo/000/abc") == INTERRUPTED


@pytest.mark.parametrize("transport", RECEIVING)
async def test_who_sends_no_more_does_not_take_the_place_of_another(
    serve: Serve, connect: Connect, join: Join, transport: str
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    listener = join(server, "xhr_streaming")
    assert await listener.frame() == "o"
    connection = await journal.connection()
    assert await answer_to_the_last(await connect(server), transport, listener.base) == STILL_OPEN
    connection.send("for the first")
    assert await listener.frame() == 'a["for the first"]'


@pytest.mark.parametrize("transport", RECEIVING)
async def test_who_sends_no_more_reads_a_big_answer_to_its_end(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"max_queue_bytes": 1 << 30}))
    assert await answer_to_the_last(await connect(server), transport, "/echo/000/abc") == "o"
    connection = await journal.connection()
    text = "".join(map(str, range(2_000_000)))
    connection.send(text)
    assert await answer_to_the_last(await connect(server), transport, "/echo/000/abc") == f'a["{text}"]'
    assert not connection.is_closed


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("transport", RECEIVING)
async def test_who_reads_no_more_takes_nothing_from_the_session(
    serve: Serve, connect: Connect, transport: str, reset: bool
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    client = await connect(server)

    async def leave() -> None:
        leaving = await connect(server)
        await leaving.ask("GET", "/echo")
        if reset:
            leaving.reset()
        leaving.write(with_a_body(transport, "/echo/000/abc"))
        await leaving.leave()
        await settle(connect, server)

    await leave()
    assert journal.opened.empty()
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b"o\n"
    connection = await journal.connection()
    connection.send("kept")
    await leave()
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b'a["kept"]\n'
    assert not connection.is_closed
    await leave()
    assert await connection.closed() == (1002, "Connection interrupted")


@pytest.mark.parametrize("transport", RECEIVING)
async def test_an_old_client_that_sends_no_more_has_left(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    client = await connect(server)
    client.write(with_a_body(transport, "/echo/000/abc", version="HTTP/1.0"))
    client.writer.write_eof()
    # Without an interim response nobody can know.
    assert (await client.response()).status == 204
    assert await client.rest() == b""
    assert journal.opened.empty()


# The end of a session.


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_request_right_behind_the_end_gets_the_frame_of_the_application(
    serve: Serve, connect: Connect, join: Join, transport: str
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    peer = join(server, transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
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
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    peer = join(server, transport)
    assert await peer.frame() == "o"
    (await journal.connection()).close()
    for name in (transport, *RECEIVING, *RECEIVING):
        again = join(server, name, session=peer.session)
        assert await again.frame() == 'c[3000,"Go away!"]'
        if name in STREAMING:
            assert isinstance(again, StreamingPeer)
            assert again.client is not None
            assert await again.client.rest() == b"0\r\n\r\n"


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
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"disconnect_delay": 600})
    server = await serve(router)
    peer = join(server, "xhr")
    assert await peer.frame() == "o"
    connection = await journal.connection()
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
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"disconnect_delay": 600})
    server = await serve(router)
    peer = join(server, "xhr_streaming")
    assert await peer.frame() == "o"
    peer.vanish()
    assert await (await journal.connection()).closed() == (1002, "Connection interrupted")
    time_out(router)
    assert await only_frame(await connect(server), transport, peer.session) == INTERRUPTED
    assert len(router.container) == 0


async def test_what_is_sent_to_an_ended_session_is_refused(serve: Serve, connect: Connect, join: Join) -> None:
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
async def test_a_stranger_does_not_learn_how_a_session_ended(serve: Serve, connect: Connect, transport: str) -> None:
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


async def test_a_late_poll_is_told_of_the_end_while_the_router_closes(serve: Serve, join: Join) -> None:
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
    client = await peer.listen()
    assert (await client.response()).status == 503


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_session_that_nobody_listens_to_is_over(
    serve: Serve, connect: Connect, join: Join, transport: str
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"disconnect_delay": 0.1, "response_limit": 1})
    server = await serve(router)
    peer = join(server, transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
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
async def test_what_was_sent_before_the_end_arrives_before_it(serve: Serve, join: Join, transport: str) -> None:
    class Brief(Echo):
        def on_message(self, message: str) -> None:
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


# Messages.


@pytest.mark.parametrize("transport", RECEIVING)
async def test_messages_that_queued_up_go_out_together(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"response_limit": 1}))
    peer = join(server, transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    for number in range(5):
        connection.send(f"message {number}")
    connection.send({"key": ["ä", None]})
    assert await peer.frame() == 'a["message 0","message 1","message 2","message 3","message 4",{"key":["ä",null]}]'
    connection.send("x")
    assert await peer.frame() == 'a["x"]'


@pytest.mark.parametrize("transport", RECEIVING)
async def test_answers_to_messages_that_came_together_go_out_together(serve: Serve, join: Join, transport: str) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    peer = join(server, transport)
    assert await peer.frame() == "o"
    await peer.send("a", "", "c")
    assert await peer.frame() == 'a["a","","c"]'


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_big_message_arrives(serve: Serve, join: Join, transport: str) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"disconnect_delay": 60}))
    peer = join(server, transport)
    assert await peer.frame() == "o"
    message = "ä\u2028%</script>" * 80_000
    await peer.send(message)
    assert await peer.message() == message


@pytest.mark.parametrize("transport", STREAMING)
async def test_a_stream_ends_with_the_frame_that_reaches_the_limit(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"response_limit": 1000}))
    peer = join(server, transport)
    assert isinstance(peer, StreamingPeer)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    for _ in range(3):
        connection.send("y" * 2000)
        connection.send("between")
        client = peer.client or await peer.listen()
        assert unframe(transport, await client.chunk()) == f'a["{"y" * 2000}"]'
        assert await client.rest() == b"0\r\n\r\n"
        client = await peer.listen()
        assert unframe(transport, await client.chunk()) == 'a["between"]'
    assert connection.closes == []


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_client_that_is_to_ask_anew_misses_nothing(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo")), transport)
    assert isinstance(peer, PollingPeer | StreamingPeer)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    for number in range(3):
        client = peer.client if isinstance(peer, StreamingPeer) and peer.client else await peer.listen()
        async with asyncio.timeout(WAIT):
            while not connection.session.is_attached:  # noqa: ASYNC110 - of what a client asks there is no event
                await asyncio.sleep(0.001)
        connection.session._recycle()
        assert not connection.session.is_attached
        connection.send(f"between {number}")
        if transport in POLLING:
            assert await peer.frame() == "h"
        else:
            assert await client.rest() == b"0\r\n\r\n"
            await peer.listen()
        assert await peer.frame() == f'a["between {number}"]'
    assert connection.closes == []


@pytest.mark.parametrize("transport", STREAMING)
async def test_a_stream_that_is_not_read_is_not_ended_for_another(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    peer: Any = join(await serve(SockJSRouter(journal, "/echo", {"response_limit": 1 << 30})), transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    peer.client.writer.transport.pause_reading()
    await congest(connection)
    connection.session._recycle()
    assert connection.session.is_attached


# Connections: HTTP/1.1.


@pytest.mark.parametrize("transport", POLLING)
async def test_polls_and_sends_may_be_pipelined(serve: Serve, connect: Connect, transport: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    poll = asking(transport, "/echo/000/abc")
    sends = [sending(transport, "/echo/000/abc", json.dumps([str(number)])) for number in range(20)]
    client.write(poll + b"".join(send + poll for send in sends))
    assert await first_frame(client, transport) == "o"
    for number in range(20):
        assert (await client.response()).status == (200 if transport == "jsonp" else 204)
        assert await first_frame(client, transport) == f'a["{number}"]'
    client.write(request("GET", "/echo", "Connection: close"))
    response = await client.response()
    assert response["Connection"] == "close"
    assert await client.rest() == b""


@pytest.mark.parametrize("transport", POLLING)
async def test_a_poll_ends_its_connection_where_it_is_asked_to(serve: Serve, connect: Connect, transport: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    client.write(asking(transport, "/echo/000/abc", "Connection: close"))
    response = await client.response()
    assert response["Connection"] == "close"
    assert unframe(transport, response.body) == "o"
    assert await client.rest() == b""


@pytest.mark.parametrize("transport", STREAMING)
async def test_nothing_is_served_behind_a_stream(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    client = await connect(await serve(router))
    client.write(asking(transport, "/echo/000/abc") + asking("xhr", "/echo/000/xyz") * 3)
    response = await client.head()
    assert response["Connection"] == "close"
    await client.chunk()
    assert unframe(transport, await client.chunk()) == "o"
    client.write(b"more\r\n\r\n" * 3 + asking("xhr", "/echo/000/xyz"))
    connection = await journal.connection()
    connection.send("x")
    assert unframe(transport, await client.chunk()) == 'a["x"]'
    assert router.container.get("xyz") is None
    connection.close()
    assert len(await client.chunks()) == 1


@pytest.mark.parametrize("transport", STREAMING)
async def test_a_stream_may_follow_other_requests_on_its_connection(
    serve: Serve, connect: Connect, transport: str
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    client.write(request("GET", "/echo") + asking("xhr", "/echo/000/abc") + asking(transport, "/echo/000/xyz"))
    assert (await client.response()).text == "Welcome to SockJS!\n"
    assert await first_frame(client, "xhr") == "o"
    assert await first_frame(client, transport) == "o"


# Connections: HTTP/1.0.


@pytest.mark.parametrize("fields", [(), ("Connection: keep-alive",), ("Connection: Keep-Alive",)], ids=len)
@pytest.mark.parametrize("transport", RECEIVING)
async def test_an_old_client_reads_to_the_end_of_the_connection(
    serve: Serve, connect: Connect, transport: str, fields: tuple[str, ...]
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"response_limit": 4096}))
    client = await connect(server)
    client.write(asking(transport, "/echo/000/abc", *fields, version="HTTP/1.0"))
    response = await client.head()
    assert response.status == 200
    assert "Transfer-Encoding" not in response
    assert response["Connection"] == "close"
    connection = await journal.connection()
    if transport in POLLING:
        assert unframe(transport, await client.rest()) == "o"
        connection.send("x")
        client = await connect(server)
        client.write(asking(transport, "/echo/000/abc", *fields, version="HTTP/1.0"))
        await client.head()
        assert unframe(transport, await client.rest()) == 'a["x"]'
    else:
        connection.send("x" * 4096)
        body = await client.rest()
        # Prelude and frames as they are: the same that comes in chunks.
        new = await connect(server)
        new.write(asking(transport, "/echo/000/xyz"))
        await new.head()
        start = await new.chunk() + await new.chunk()
        assert body.startswith(start)
        assert unframe(transport, body.removeprefix(start)) == f'a["{"x" * 4096}"]'
    assert connection.closes == []


@pytest.mark.parametrize("transport", POLLING)
async def test_a_held_poll_of_an_old_client_is_answered_too(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    for expected in ("o", 'a["x"]', 'c[3000,"Go away!"]'):
        client = await connect(server)
        client.write(asking(transport, "/echo/000/abc", "Connection: keep-alive", version="HTTP/1.0"))
        await settle(connect, server)
        if expected == "o":
            connection = await journal.connection()
        elif expected == 'a["x"]':
            connection.send("x")
        else:
            connection.close()
        await client.head()
        assert unframe(transport, await client.rest()) == expected


@pytest.mark.parametrize("transport", RECEIVING)
async def test_an_old_client_that_leaves_ends_the_session(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    client = await connect(server)
    client.write(asking("xhr", "/echo/000/abc"))
    assert await first_frame(client, "xhr") == "o"
    client.write(asking(transport, "/echo/000/abc", version="HTTP/1.0"))
    await settle(connect, server)
    await client.leave()
    assert await (await journal.connection()).closed() == (1002, "Connection interrupted")


# Waiting for the client.


@pytest.mark.parametrize("transport", STREAMING)
async def test_an_awaited_send_waits_for_a_stream_that_is_not_read(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"response_limit": 1 << 30}))
    peer = join(server, transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    sent = await congest(connection)
    waiting = asyncio.ensure_future(connection.send("the last one"))
    for _ in range(sent):
        assert await peer.message() == "x" * 100_000
    assert await peer.message() == "the last one"
    await within(waiting)


@pytest.mark.parametrize("transport", STREAMING)
async def test_an_awaited_send_ends_with_a_stream_that_is_not_read(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"response_limit": 1 << 30}))
    peer = join(server, transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    await congest(connection)
    waiting = [asyncio.ensure_future(connection.send("x")) for _ in range(3)]
    peer.vanish()
    for send in waiting:
        with pytest.raises(ConnectionClosed) as caught:
            await within(send)
        assert (caught.value.code, caught.value.reason) == (1002, "Connection interrupted")
    assert await connection.closed() == (1002, "Connection interrupted")


@pytest.mark.parametrize("transport", POLLING)
async def test_an_awaited_send_waits_for_the_next_poll(
    serve: Serve, connect: Connect, join: Join, transport: str
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    peer = join(server, transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    await within(connection.send("x" * 65_536))
    waiting = asyncio.ensure_future(connection.send("y"))
    await settle(connect, server)
    assert not waiting.done()
    assert await peer.frame() == f'a["{"x" * 65_536}","y"]'
    await within(waiting)


@pytest.mark.parametrize("transport", POLLING)
async def test_an_awaited_send_ends_with_a_client_that_does_not_come_back(
    serve: Serve, join: Join, transport: str
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"disconnect_delay": 0.1}))
    assert await join(server, transport).frame() == "o"
    connection = await journal.connection()
    with pytest.raises(ConnectionClosed) as caught:
        await within(connection.send("x" * 65_537))
    assert caught.value.code == 1006
    assert await connection.closed() == (1006, "Session timed out")


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_client_that_lets_messages_pile_up_is_closed(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"max_queue_bytes": 1000, "response_limit": 1}))
    peer = join(server, transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    for _ in range(10):
        connection.send("x" * 100)
    assert await peer.frame() == "a" + json.dumps(["x" * 100] * 10, separators=(",", ":"))
    # One message may be as big as it likes.
    connection.send("y" * 1001)
    assert await peer.frame() == f'a["{"y" * 1001}"]'
    for _ in range(11):
        connection.send("z" * 100)
    assert connection.is_closed
    assert await peer.frame() == 'c[3008,"Slow consumer"]'
    assert connection.closes == [(3008, "Slow consumer")]


@pytest.mark.parametrize("transport", STREAMING)
async def test_a_stream_that_is_read_slowly_arrives_whole(
    serve: Serve, join: Join, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test is the clock.
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal()
    peer: Any = join(await serve(SockJSRouter(journal, "/echo", {"response_limit": 100})), transport)
    assert await peer.frame() == "o"
    client = peer.client
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    connection = await journal.connection()
    receiver: Any = connection.session._receiver
    size = 20_000_000
    connection.send("x" * size)
    data = bytearray()
    steps = 0
    while unsent := receiver.transport.get_write_buffer_size():
        while receiver.transport.get_write_buffer_size() > max(unsent - 1_000_000, 0):
            data += await client.exactly(100_000)
        receiver.check(receiver.due)
        steps += 1
    data += await client.rest()
    assert steps > 3
    assert data.count(b"x") >= size


@pytest.mark.parametrize("transport", STREAMING)
async def test_a_stream_that_is_not_read_does_not_outlive_its_session(
    serve: Serve, join: Join, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 0.05)
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"response_limit": 1 << 30})
    peer: Any = join(await serve(router), transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    await congest(connection)
    connection.close()
    # It waits for all connections.
    await within(router.close())
    assert connection.closes == [(3000, "Go away!")]
    assert await peer.client.rest()
    assert peer.client.reader.at_eof()


# Sending.


@pytest.mark.parametrize("name", ["xhr_send", "jsonp_send"])
@pytest.mark.parametrize("body", [None, b"", b"[", b'["x"]'])
async def test_nobody_is_sent_to_in_an_unknown_session(
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


@pytest.mark.parametrize("name", ["xhr_send", "jsonp_send"])
async def test_nobody_sends_before_the_session_is_open(serve: Serve, connect: Connect, name: str) -> None:
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
    class Busy(Noted):
        may_go_on: asyncio.Event

        async def on_message(self, message: str) -> None:
            super().on_message(message)
            await self.may_go_on.wait()

    Busy.may_go_on = asyncio.Event()
    journal = Journal(Busy)
    server = await serve(SockJSRouter(journal, "/echo", {"max_queue_bytes": 1000}))
    client = await connect(server)
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    connection = await journal.connection()
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
    Busy.may_go_on.set()
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
async def test_what_is_no_array_of_strings_is_refused_and_the_session_lives_on(
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
async def test_too_much_at_once_is_refused_and_the_session_lives_on(serve: Serve, connect: Connect, name: str) -> None:
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


# verify_ip.


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


async def test_polls_of_one_client_share_their_connection(serve: Serve, join: Join) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    peer = join(server, "xhr")
    assert isinstance(peer, PollingPeer)
    assert await peer.frame() == "o"
    client = peer.client
    for number in range(10):
        await peer.send(str(number))
        assert await peer.frame() == f'a["{number}"]'
    assert peer.client is client


async def test_a_poll_aborted_before_it_is_served_ends_its_session(serve: Serve, connect: Connect) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    client = await connect(server)
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b"o\n"
    # In one turn of the event loop that serves it: the request has come, and its client has left.
    aborted = socket.create_connection(("127.0.0.1", server.port))
    aborted.sendall(b"POST /echo/000/abc/xhr HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    aborted.close()
    await settle(connect, server)
    answer = await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    assert answer.body == b'c[1002,"Connection interrupted"]\n'


# Responses that nobody reads.

#: A message of which the kernel keeps no more than a part for a client that does not read.
FLOOD = 16 * 1024 * 1024


def stop_reading(client: Any) -> None:
    """Have a client take no more than its buffers hold."""
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    client.writer.transport.pause_reading()


@pytest.mark.parametrize("transport", RECEIVING)
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_who_reads_no_response_gets_no_second_one(
    serve: Serve, connect: Connect, transport: str, version: str
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"response_limit": 5000}))
    first = await connect(server)
    first.write(asking(transport, "/echo/000/abc", version=version))
    connection = await journal.connection()
    if transport in POLLING:
        await first.response()
        first = await connect(server)
        first.write(asking(transport, "/echo/000/abc", version=version))
    stop_reading(first)
    await settle(connect, server)
    connection.send("x" * FLOOD)
    assert connection.session._unsent_response.unsent > 1_000_000
    assert not connection.is_closed
    second = await connect(server)
    second.write(asking(transport, "/echo/000/abc"))
    assert await first_frame(second, transport) == 'c[1002,"Connection interrupted"]'
    assert connection.closes == [(1002, "Connection interrupted")]
    # The rest of the first response is gone.
    first.writer.transport.resume_reading()
    with contextlib.suppress(ConnectionError):
        assert len(await first.rest()) < FLOOD


@pytest.mark.parametrize("transport", POLLING)
async def test_what_nobody_reads_counts_in_the_session_s_bound(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"max_queue_bytes": 1_000_000}))
    client = await connect(server)
    client.write(asking(transport, "/echo/000/abc"))
    await client.response()
    connection = await journal.connection()
    client.write(asking(transport, "/echo/000/abc"))
    stop_reading(client)
    await settle(connect, server)
    connection.send("x" * FLOOD)
    assert not connection.is_closed
    connection.send("one more")
    assert await connection.closed() == (3008, "Slow consumer")
    client.writer.transport.resume_reading()
    with contextlib.suppress(ConnectionError):
        assert len(await client.rest()) < FLOOD
    client = await connect(server)
    client.write(asking(transport, "/echo/000/abc"))
    assert await first_frame(client, transport) == 'c[3008,"Slow consumer"]'


@pytest.mark.parametrize("transport", POLLING)
async def test_what_nobody_reads_is_gone_with_its_session(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"disconnect_delay": 60})
    server = await serve(router)
    client = await connect(server)
    client.write(asking(transport, "/echo/000/abc"))
    await client.response()
    connection = await journal.connection()
    client.write(asking(transport, "/echo/000/abc"))
    stop_reading(client)
    await settle(connect, server)
    connection.send("x" * FLOOD)
    session = connection.session
    # The test is the clock. What the kernel's buffers still take comes first.
    while session._unsent_response.unsent < session._unsent_response_size:
        session.check(session.due)
        await settle(connect, server)
    session.check(session.due)
    assert await connection.closed() == (1006, "Session timed out")
    assert len(router.container) == 0
    client.writer.transport.resume_reading()
    with contextlib.suppress(ConnectionError):
        assert len(await client.rest()) < FLOOD


@pytest.mark.parametrize("transport", POLLING)
async def test_a_response_that_is_read_slowly_arrives_whole(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"disconnect_delay": 60}))
    client = await connect(server)
    client.write(asking(transport, "/echo/000/abc"))
    await client.response()
    connection = await journal.connection()
    client.write(asking(transport, "/echo/000/abc"))
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    await settle(connect, server)
    connection.send("x" * FLOOD)
    session = connection.session
    size = int((await client.head())["Content-Length"])
    data = bytearray()
    steps = 0
    while (unfinished := session._unsent_response) is not None:
        before = unfinished.unsent
        while unfinished.unsent and unfinished.unsent > before - 1_000_000:
            data += await client.exactly(100_000)
        # Its time is up again and again.
        session.check(session.due)
        steps += 1
    data += await client.exactly(size - len(data))
    assert steps > 3
    assert not connection.is_closed
    connection.send("behind it")
    client.write(asking(transport, "/echo/000/abc"))
    assert unframe(transport, (await client.response()).body) == 'a["behind it"]'
    assert not client.reader.at_eof()


async def test_an_answer_that_the_kernel_takes_is_not_watched(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    for text in ("", "x", "x" * 10_000):
        client.write(asking("xhr", "/echo/000/abc"))
        if not text:
            await client.response()
            connection = await journal.connection()
            continue
        connection.send(text)
        assert connection.session._unsent_response is None
        assert (await client.response()).body == f'a["{text}"]\n'.encode()
