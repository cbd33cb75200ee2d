"""Slow clients and applications, and pings, on both websocket transports."""

import asyncio
import logging
from typing import Any

import pytest
from application import Busy, Echo, Journal, Serve, congest
from client import PING, PONG, TEXT, TIMEOUT, Connect, frame, settle, within

from sockjs_tornado import ConnectionClosed, SockJSRouter

from .targets import BOTH, RAW, SOCKJS, opened, text

# Waiting for the client.


@BOTH
async def test_an_awaited_send_waits_for_a_client_that_does_not_read(
    serve: Serve, connect: Connect, target: str
) -> None:
    journal = Journal()
    websocket = await opened(await connect(await serve(SockJSRouter(journal, "/echo"))), target)
    connection = await journal.connection()
    sent = await congest(connection)
    waiting = asyncio.ensure_future(connection.send("the last one"))
    size = 0
    while size < sent * 100_000:
        size += (await websocket.text()).count("x")
    assert "the last one" in await websocket.text()
    await within(waiting)


@BOTH
async def test_an_awaited_send_ends_with_the_client(serve: Serve, connect: Connect, target: str) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await opened(client, target)
    connection = await journal.connection()
    await congest(connection)
    waiting = [asyncio.ensure_future(connection.send("x")) for _ in range(3)]
    await client.leave()
    for send in waiting:
        with pytest.raises(ConnectionClosed) as caught:
            await within(send)
        assert caught.value.code == 1006
    assert await connection.closed() == (1006, "Connection lost")


@BOTH
async def test_a_client_with_a_long_backlog_is_closed(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    caplog.set_level(logging.INFO, "sockjs_tornado.session")
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, target)
    connection = await journal.connection()
    sent = await congest(connection)
    while not connection.is_closed:
        connection.send("y" * 100_000)
    assert await connection.closed() == (3008, "Slow consumer")
    expected = "with code 3008: it has exceeded max_queue_bytes (1048576) or max_queue_messages (10000)"
    assert f"Closing a connection of Noted, from 127.0.0.1, {expected}" in caplog.text
    size = 0
    while size < sent * 100_000:
        size += (await websocket.text()).count("x")
    # What had piled up is lost.
    if target != RAW:
        assert await websocket.text() == 'c[3008,"Slow consumer"]'
    assert await websocket.closed() == ((3008, "Slow consumer") if target == RAW else (1000, ""))


# An application that does not keep up.


@BOTH
async def test_a_client_is_not_read_while_the_application_does_not_keep_up(
    serve: Serve, connect: Connect, target: str
) -> None:
    journal = Journal(Busy)
    server = await serve(SockJSRouter(journal, "/echo"))
    client = await connect(server)
    websocket = await opened(client, target)
    connection: Any = await journal.connection()
    messages = [str(number) + "x" * 50_000 for number in range(400)]
    for message in messages:
        websocket.write(text(message, target))
    transport = connection.session._receiver.transport
    assert await connection.message() == messages[0]
    async with asyncio.timeout(TIMEOUT):
        while transport.is_reading():
            await settle(connect, server)
    # Much is still with the client, whose own buffers are full.
    assert client.writer.transport.get_write_buffer_size() > 0
    connection.may_go_on.set()
    for message in messages[1:]:
        assert await connection.message() == message
    websocket.write(text("the end", target))
    assert await connection.message() == "the end"


@BOTH
async def test_a_client_that_is_not_read_does_not_time_out(serve: Serve, connect: Connect, target: str) -> None:
    journal = Journal(Busy)
    server = await serve(SockJSRouter(journal, "/echo", {"websocket_ping_interval": 1000}))
    websocket = await opened(await connect(server), target)
    connection: Any = await journal.connection()
    for _ in range(2):
        websocket.write(text("x" * 100_000, target))
    assert await connection.message() == "x" * 100_000
    receiver = connection.session._receiver
    async with asyncio.timeout(TIMEOUT):
        while receiver.transport.is_reading():
            await settle(connect, server)
    for _ in range(3):
        receiver.check(receiver.due)
        assert (await websocket.frame()).opcode == PING
    assert connection.closes == []
    connection.may_go_on.set()
    assert await connection.message() == "x" * 100_000


# Liveness.


@BOTH
@pytest.mark.parametrize("patience", [0, 0.02], ids=["interval", "shorter"])
async def test_a_client_that_does_not_respond_to_pings_is_dropped(
    serve: Serve, connect: Connect, target: str, patience: float
) -> None:
    settings = {"websocket_ping_interval": 0.05, "websocket_ping_timeout": patience}
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", settings)))
    websocket = await opened(client, target)
    assert await websocket.frame() == (PING, b"", True, 0)
    assert await client.rest() == b""
    assert await (await journal.connection()).closed() == (1006, "Ping timeout")


@BOTH
@pytest.mark.parametrize("patience", [0, 500], ids=["interval", "shorter"])
@pytest.mark.parametrize(
    "answers",
    [[frame(PONG)] * 3, [frame(PING)] * 3, [bytes([byte]) for byte in frame(PONG)[:3]]],
    ids=["pongs", "pings", "bytes"],
)
async def test_a_client_that_answers_pings_with_anything_lives(
    serve: Serve, connect: Connect, target: str, patience: float, answers: list[bytes]
) -> None:
    journal = Journal()
    settings = {"websocket_ping_interval": 1000, "websocket_ping_timeout": patience}
    server = await serve(SockJSRouter(journal, "/echo", settings))
    websocket = await opened(await connect(server), target)
    connection = await journal.connection()
    receiver: Any = connection.session._receiver
    for answer in answers:
        # The test is the clock.
        receiver.check(receiver.due)
        while (await websocket.frame()).opcode != PING:
            pass
        websocket.write(answer)
        await settle(connect, server)
        if patience:
            receiver.check(receiver.due)
    receiver.check(receiver.due)
    while (await websocket.frame()).opcode != PING:
        pass
    assert connection.closes == []
    receiver.check(receiver.due)
    assert connection.closes == [(1006, "Ping timeout")]


async def test_a_client_is_not_late_while_the_loop_was_blocked(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"websocket_ping_interval": 1000})
    websocket = await opened(await connect(await serve(router)), SOCKJS)
    connection = await journal.connection()
    receiver: Any = connection.session._receiver
    receiver.check(receiver.due)
    while (await websocket.frame()).opcode != PING:
        pass
    with monkeypatch.context() as patched:
        patched.setattr(router.container, "postpone", lambda owner, now: True)
        receiver.check(receiver.due)
        assert connection.closes == []
    receiver.check(receiver.due)
    assert connection.closes == [(1006, "Ping timeout")]


@BOTH
async def test_there_are_no_pings_by_default(serve: Serve, connect: Connect, target: str) -> None:
    router = SockJSRouter(Echo, "/echo", {"heartbeat_delay": 0.02})
    client = await connect(await serve(router))
    websocket = await opened(client, target)
    if target != RAW:
        assert [await websocket.text() for _ in range(3)] == ["h"] * 3
    else:
        # Nor heartbeats on a raw websocket: those of another session tell the time.
        other = await opened(await connect(await serve(SockJSRouter(Echo, "/echo", {"heartbeat_delay": 0.02}))), SOCKJS)
        assert [await other.text() for _ in range(3)] == ["h"] * 3
        websocket.write(frame(TEXT, "first"))
        assert await websocket.text() == "first"
