"""Clients that do not read, or do not poll, on the HTTP transports."""

import asyncio
import contextlib
import json
import socket
from typing import Any

import pytest
from application import NATIVE, Journal, Opened, Serve, congest, open_session
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
    settle,
    unframe,
    within,
)

from sockjs_tornado import ConnectionClosed, SockJSRouter

# Waiting for the client.


@pytest.mark.parametrize("transport", STREAMING)
async def test_an_awaited_send_waits_for_a_stream_that_is_not_read(serve: Serve, join: Join, transport: str) -> None:
    _, _, _, peer, connection = await open_session(serve, join, transport, response_limit=1 << 30)
    sent = await congest(connection)
    waiting = asyncio.ensure_future(connection.send("the last one"))
    for _ in range(sent):
        assert await peer.message() == "x" * 100_000
    assert await peer.message() == "the last one"
    await within(waiting)


@pytest.mark.parametrize("transport", STREAMING)
async def test_an_awaited_send_ends_with_a_stream_that_is_not_read(serve: Serve, join: Join, transport: str) -> None:
    _, _, _, peer, connection = await open_session(serve, join, transport, response_limit=1 << 30)
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
    _, _, server, peer, connection = await open_session(serve, join, transport)
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
    connection = (await open_session(serve, join, transport, disconnect_delay=0.1)).connection
    with pytest.raises(ConnectionClosed) as caught:
        await within(connection.send("x" * 65_537))
    assert caught.value.code == 1006
    assert await connection.closed() == (1006, "Session timed out")


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_client_with_a_long_backlog_is_closed(serve: Serve, join: Join, transport: str) -> None:
    _, _, _, peer, connection = await open_session(serve, join, transport, max_queue_bytes=1000, response_limit=1)
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
    for module in ("wire.connection", "server.connection_io"):
        monkeypatch.setattr(f"sockjs_tornado.{module}.CLOSE_TIMEOUT", 1000)
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
        # On the native server, the connection has returned to it.
        owner = receiver.transport.get_protocol() if NATIVE else receiver
        owner.check(owner.due)
        steps += 1
    while not data.endswith(b"\r\n0\r\n\r\n"):
        data += await within(client.reader.read(100_000))
    await client.after_stream()
    assert steps > 3
    assert data.count(b"x") >= size


@pytest.mark.parametrize("transport", STREAMING)
async def test_a_stream_that_is_not_read_does_not_outlive_its_session(
    serve: Serve, join: Join, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 0.05)
    router, _, server, peer, connection = await open_session(serve, join, transport, response_limit=1 << 30)
    assert isinstance(peer, StreamingPeer)
    assert peer.client is not None
    await congest(connection)
    if NATIVE:
        # The connection returns to the server, with its limit.
        monkeypatch.setattr(server.http, "idle_timeout", 0.05)
    connection.close()
    # It waits for all connections.
    await within(router.close())
    assert connection.closes == [(3000, "Go away!")]
    assert await peer.client.rest()
    assert peer.client.reader.at_eof()


# Responses that nobody reads.


#: A message of which the kernel keeps no more than a part for a client that does not read.
FLOOD = 16 * 1024 * 1024


def stop_reading(client: Any) -> None:
    """Have a client take no more than its buffers hold."""
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    client.pause_reading()


@pytest.mark.parametrize("transport", RECEIVING)
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_client_that_reads_no_response_gets_no_second_one(
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
    unsent_response = connection.session._unsent_response
    assert unsent_response is not None
    assert unsent_response.unsent > 1_000_000
    assert not connection.is_closed
    second = await connect(server)
    second.write(asking(transport, "/echo/000/abc"))
    assert await first_frame(second, transport) == 'c[1002,"Connection interrupted"]'
    assert connection.closes == [(1002, "Connection interrupted")]
    # The rest of the first response is gone.
    first.resume_reading()
    with contextlib.suppress(ConnectionError):
        assert len(await first.rest()) < FLOOD


async def flood(serve: Serve, connect: Connect, join: Join, transport: str, **settings: Any) -> tuple[Opened, Client]:
    """Send a message that fills the buffers to a client that polls, but does not read; return its connection, too."""
    opened = await open_session(serve, join, transport, **settings)
    client: Any = await opened.peer.listen()
    stop_reading(client)
    await settle(connect, opened.server)
    opened.connection.send("x" * FLOOD)
    return opened, client


@pytest.mark.parametrize("transport", POLLING)
async def test_an_unread_response_counts_against_the_session_s_limits(
    serve: Serve, connect: Connect, join: Join, transport: str
) -> None:
    opened, client = await flood(serve, connect, join, transport, max_queue_bytes=1_000_000)
    connection = opened.connection
    assert not connection.is_closed
    connection.send("one more")
    assert await connection.closed() == (3008, "Slow consumer")
    client.resume_reading()
    with contextlib.suppress(ConnectionError):
        assert len(await client.rest()) < FLOOD
    again = join(opened.server, transport, session=opened.peer.session)
    assert await again.frame() == 'c[3008,"Slow consumer"]'


@pytest.mark.parametrize("transport", POLLING)
async def test_an_unread_response_is_aborted_with_its_session(
    serve: Serve, connect: Connect, join: Join, transport: str
) -> None:
    opened, client = await flood(serve, connect, join, transport, disconnect_delay=60)
    router, _, server, _, connection = opened
    session: Any = connection.session
    # The test is the clock. What the kernel's buffers still take comes first.
    while session._unsent_response.unsent < session._unsent_response_size:
        session.check(session.due)
        await settle(connect, server)
    session.check(session.due)
    assert await connection.closed() == (1006, "Session timed out")
    assert len(router.container) == 0
    client.resume_reading()
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
