"""Polls and streams: second requests, interruptions, half-closed clients, messages, and connections."""

import asyncio
import json
import socket
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from application import NATIVE, Echo, Journal, Serve, congest, open_session
from client import (
    POLLING,
    RECEIVING,
    STREAMING,
    TIMEOUT,
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
    until,
)
from doubles import FakeContainer, make_session

from sockjs_tornado import SockJSRouter
from sockjs_tornado.transports.http_transports import xhr_framing
from sockjs_tornado.transports.receiving import PollReceiver

INTERRUPTED = 'c[1002,"Connection interrupted"]'
STILL_OPEN = 'c[2010,"Another connection still open"]'


# Two at once.


@pytest.mark.parametrize("second", RECEIVING)
@pytest.mark.parametrize("first", RECEIVING)
async def test_the_second_of_two_receivers_is_rejected_and_the_first_is_untouched(
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
            await intruder.end_of_stream()
    connection.send("for the first")
    assert await listener.frame() == 'a["for the first"]'
    assert not connection.is_closed
    assert connection.closes == []


# Interruptions.


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("leaves_first", [True, False], ids=["then", "while"])
@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_request_right_after_an_aborted_one_gets_the_interruption(
    serve: Serve, connect: Connect, transport: str, leaves_first: bool, reset: bool
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    new = await connect(server)
    # A race, which is run 300 times in all cases.
    for _ in range(15):
        base = f"/echo/000/{new_session()}"
        old = await connect(server, plain=True)
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
async def test_an_aborted_request_is_noticed_before_the_event_loop_reports_it(
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
    for _ in range(20):
        old, new = await connect(server, plain=True), await connect(server)
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
    opening, leaving, staying = [await connect(server, plain=True) for _ in range(3)]
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
    _, _, server, peer, connection = await open_session(serve, join, transport)
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
    client.write_last(with_a_body(transport, base))
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
async def test_a_half_closed_client_gets_the_queued_messages(serve: Serve, connect: Connect, transport: str) -> None:
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
async def test_a_half_closed_client_is_not_kept_waiting(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    assert await answer_to_the_last(await connect(server), transport, "/echo/000/abc") == "o"
    connection = await journal.connection()
    # There is nothing to say, and while it waited its end could not be seen.
    assert await answer_to_the_last(await connect(server), transport, "/echo/000/abc") == INTERRUPTED
    assert await connection.closed() == (1002, "Connection interrupted")
    assert await answer_to_the_last(await connect(server), transport, "/echo/000/abc") == INTERRUPTED


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_half_closed_client_does_not_replace_another(
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
async def test_a_half_closed_client_reads_a_long_response_to_its_end(
    serve: Serve, connect: Connect, transport: str
) -> None:
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
async def test_a_client_that_reads_no_more_takes_nothing_from_the_session(
    serve: Serve, connect: Connect, transport: str, reset: bool
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    client = await connect(server)

    async def leave() -> None:
        leaving = await connect(server, plain=True)
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
async def test_a_half_closed_http_1_0_client_has_left(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    client = await connect(server)
    client.write_last(with_a_body(transport, "/echo/000/abc", version="HTTP/1.0"))
    # Without an interim response nobody can know.
    assert (await client.response()).status == 204
    assert await client.rest() == b""
    assert journal.opened.empty()


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
        await client.end_of_stream()
        client = await peer.listen()
        assert unframe(transport, await client.chunk()) == 'a["between"]'
    assert connection.closes == []


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_recycled_client_misses_no_message(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo")), transport)
    assert isinstance(peer, PollingPeer | StreamingPeer)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    for number in range(3):
        client = peer.client if isinstance(peer, StreamingPeer) and peer.client else await peer.listen()
        async with asyncio.timeout(TIMEOUT):
            while not connection.session.is_attached:  # noqa: ASYNC110 - of what a client asks there is no event
                await asyncio.sleep(0.001)
        connection.session._recycle()
        assert not connection.session.is_attached
        connection.send(f"between {number}")
        if transport in POLLING:
            assert await peer.frame() == "h"
        else:
            await client.end_of_stream()
            await peer.listen()
        assert await peer.frame() == f'a["between {number}"]'
    assert connection.closes == []


@pytest.mark.parametrize("transport", STREAMING)
async def test_a_stream_that_is_not_read_is_not_ended_for_another(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    peer: Any = join(await serve(SockJSRouter(journal, "/echo", {"response_limit": 1 << 30})), transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    peer.client.pause_reading()
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
async def test_requests_behind_a_held_poll_are_lost_if_the_client_leaves(
    serve: Serve, connect: Connect, transport: str
) -> None:
    """A client cannot know whether the server has read them, as it had no response."""
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    client = await connect(server)
    client.write(asking(transport, "/echo/000/abc"))
    assert await first_frame(client, transport) == "o"
    connection = await journal.connection()
    client.write(asking(transport, "/echo/000/abc") + sending(transport, "/echo/000/abc", '["lost"]'))
    await until(lambda: connection.session.is_attached)
    client.writer.close()
    assert await connection.closed() == (1002, "Connection interrupted")
    await settle(connect, server)
    # on_close is the last callback.
    assert connection._messages.empty()


@pytest.mark.parametrize("transport", POLLING)
async def test_a_poll_closes_its_connection_if_asked_to(serve: Serve, connect: Connect, transport: str) -> None:
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
    assert NATIVE or response["Connection"] == "close"
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


def test_a_poll_is_answered_once() -> None:
    sent: list[Any] = []

    def respond(*response: Any) -> None:
        exchange.responded = True
        sent.append(response)

    exchange: Any = SimpleNamespace(responded=False, pending=None, respond=respond)
    poll = PollReceiver(exchange, [], xhr_framing, make_session(FakeContainer()))
    for _ in range(2):
        poll.recycle()
    assert sent == [(200, [], b"h\n")]
