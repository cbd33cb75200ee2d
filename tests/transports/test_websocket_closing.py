"""How both websocket transports end: close frames, lost clients, deadlines."""

import asyncio
import json
import logging
import socket
import zlib
from typing import Any

import pytest
from application import Busy, Echo, Journal, Noted, Serve
from client import CLOSE, PING, TEXT, TIMEOUT, Connect, WebSocket, closing, frame, settle, within

from sockjs_tornado import SockJSRouter

from .targets import BOTH, RAW, SOCKJS, messages_of, open_websocket, opened, text


@pytest.mark.parametrize(
    ("code", "reason"), [(3000, "Go away!"), (1000, ""), (4999, 'ä"\u2028'), (1011, "x" * 200)], ids=str
)
async def test_the_server_closes_with_both_close_frames_and_then_the_socket(
    serve: Serve, connect: Connect, code: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client's close frame ends it, not the deadline.
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    _, _, websocket, connection = await open_websocket(serve, connect, SOCKJS)
    connection.close(code, reason)
    connection.close(4000, "twice")
    connection.send("too late")
    close_frame = await websocket.text()
    assert close_frame[0] == "c"
    assert json.loads(close_frame[1:]) == [code, reason]
    assert await websocket.closed() == (1000, "")
    assert connection.closes == [(code, reason)]


@pytest.mark.parametrize(
    ("code", "reason", "heard"),
    [
        (3000, "Go away!", "Go away!"),
        (1000, "", ""),
        (4999, "ä\u2028", "ä\u2028"),
        (1011, "x" * 200, "x" * 123),
        (3000, "x" * 122 + "ä", "x" * 122),
        (3000, "\ud800", "\ufffd"),
    ],
)
async def test_a_raw_websocket_is_closed_with_the_code_and_reason_themselves(
    serve: Serve, connect: Connect, code: int, reason: str, heard: str
) -> None:
    _, _, websocket, connection = await open_websocket(serve, connect, RAW)
    connection.close(code, reason)
    assert await websocket.closed() == (code, heard)
    assert connection.closes == [(code, reason)]


@BOTH
async def test_a_raw_or_framed_connection_goes_away_by_default(serve: Serve, connect: Connect, target: str) -> None:
    _, _, websocket, connection = await open_websocket(serve, connect, target)
    connection.close()
    if target != RAW:
        assert await websocket.text() == 'c[3000,"Go away!"]'
    assert await websocket.closed() == ((3000, "Go away!") if target == RAW else (1000, ""))


@BOTH
@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (closing(1000), 1000, ""),
        (closing(1001, "leaving"), 1001, "leaving"),
        (closing(3000, "ä" * 61 + "x"), 3000, "ä" * 61 + "x"),
        (closing(4999, "bye"), 4999, "bye"),
        (frame(CLOSE), 1005, ""),
    ],
    ids=["1000", "1001", "3000", "4999", "none"],
)
async def test_the_application_gets_the_code_and_reason_of_the_client(
    serve: Serve, connect: Connect, target: str, data: bytes, code: int, reason: str
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    websocket = await opened(await connect(await serve(router)), target)
    websocket.write(text("last words", target) + data + text("never", target))
    # The answer repeats the code.
    assert await websocket.closed(answer=False) == (0 if code == 1005 else code, "")
    connection = await journal.connection()
    assert await connection.closed() == (code, reason)
    assert await connection.message() == "last words"
    assert connection._messages.empty()
    assert len(router.container) == 0


@BOTH
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_client_that_disconnects_without_a_close_frame_is_noticed(
    serve: Serve, connect: Connect, target: str, reset: bool
) -> None:
    router, client, _, connection = await open_websocket(serve, connect, target)
    if reset:
        client.reset()
    await client.leave()
    assert await connection.closed() == (1006, "Connection lost")
    assert len(router.container) == 0


@BOTH
async def test_a_client_that_ends_its_side_ends_the_connection(serve: Serve, connect: Connect, target: str) -> None:
    _, client, _, connection = await open_websocket(serve, connect, target)
    client.writer.write_eof()
    assert await client.rest() == b""
    assert await connection.closed() == (1006, "Connection lost")


@BOTH
async def test_a_client_that_is_still_sending_receives_the_close(serve: Serve, connect: Connect, target: str) -> None:
    class Closing(Noted):
        def on_message(self, message: str) -> None:
            self.close(3001, "enough")

    journal = Journal(Closing)
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, target)
    websocket.write(text("x" * 1000, target) * 1000)
    if target != RAW:
        assert await websocket.text() == 'c[3001,"enough"]'
    websocket.write(text("x" * 1000, target) * 1000)
    assert await websocket.closed() == ((3001, "enough") if target == RAW else (1000, ""))
    assert await (await journal.connection()).closed() == (3001, "enough")


@BOTH
@pytest.mark.parametrize(
    "answer",
    [
        closing(1000),
        closing(1000) + frame(PING),
        frame(3) + closing(1000),
        frame(TEXT, "{") + closing(1000),
        frame(TEXT, "x" * 2000) + closing(1000),
        frame(CLOSE, mask=None),
    ],
    ids=["close", "close and more", "violation", "no JSON", "too much", "wrong"],
)
async def test_the_session_is_forgotten_once_the_client_has_answered_the_close_frame(
    serve: Serve, connect: Connect, target: str, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    router, client, websocket, connection = await open_websocket(serve, connect, target, max_message_size=1000)
    connection.close()
    # A ping is no answer, nor is it answered.
    websocket.write(frame(PING) + text("x", target) + answer)
    assert (await client.rest()).count(b"\x8a") == 0
    assert connection._messages.empty()
    async with asyncio.timeout(TIMEOUT):
        await router.close()
    assert len(router.container) == 0
    assert connection.closes == [(3000, "Go away!")]


@BOTH
async def test_no_side_is_closed_before_the_client_has_answered(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that sees one side closed resets the other, under a client that is sending."""
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    client = await connect(server)
    websocket = await opened(client, target)
    connection = await journal.connection()
    connection.close()
    if target != RAW:
        assert await websocket.text() == 'c[3000,"Go away!"]'
    assert (await websocket.frame()).opcode == CLOSE
    received = router.stats.messages_received
    stream = text("x" * 1000, target) * 200
    for start in range(0, len(stream), 9999):
        websocket.write(stream[start : start + 9999])
        await settle(connect, server)
        assert not client.reader.at_eof()
    assert (messages_of(connection), router.stats.messages_received) == ([], received)
    websocket.write(closing(1000))
    assert await client.rest() == b""


@BOTH
async def test_a_client_that_was_not_read_is_read_to_its_close_frame(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal(Busy)
    server = await serve(SockJSRouter(journal, "/echo"))
    client = await connect(server)
    websocket = await opened(client, target)
    connection: Any = await journal.connection()
    websocket.write(text("x" * 50_000, target) * 400)
    transport = connection.session._receiver.transport
    async with asyncio.timeout(TIMEOUT):
        while transport.is_reading():
            await settle(connect, server)
    assert client.writer.transport.get_write_buffer_size() > 0
    connection.close()
    if target != RAW:
        assert await websocket.text() == 'c[3000,"Go away!"]'
    assert await websocket.closed() == ((3000, "Go away!") if target == RAW else (1000, ""))
    connection.may_go_on.set()
    assert await connection.closed() == (3000, "Go away!")
    assert messages_of(connection) == ["x" * 50_000]


@BOTH
async def test_data_after_the_close_frame_is_neither_inflated_nor_decoded(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise AssertionError("for nobody")

    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"websocket_compression": True}))
    client = await connect(server)
    websocket = await opened(client, target, "Sec-WebSocket-Extensions: permessage-deflate")
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(b'"' + b"x" * 100_000 + b'"') + packer.flush(zlib.Z_SYNC_FLUSH)
    message = frame(TEXT, packed[:-4], reserved=4)
    # The server closes within the message.
    websocket.write(message + message[:20])
    connection = await journal.connection()
    assert await connection.message() == ("x" * 100_000 if target != RAW else '"' + "x" * 100_000 + '"')
    await settle(connect, server)
    receiver: Any = connection.session._receiver
    monkeypatch.setattr(type(receiver), "_decode_payload", fail)
    monkeypatch.setattr("sockjs_tornado.wire.deflate.RawInflater.inflate", fail)
    connection.close()
    websocket.write(message[20:] + message * 100 + frame(PING) + text("plain", target))
    websocket.write(closing(1000))
    data = await client.rest()
    # A pong would come behind the close frame.
    assert data.endswith(b"\x88\x0a\x0b\xb8Go away!" if target == RAW else b"\x88\x02\x03\xe8")
    assert messages_of(connection) == []


@BOTH
async def test_the_rest_of_a_message_that_is_too_big_is_skipped(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sockjs_tornado.session")
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    server = await serve(SockJSRouter(Echo, "/echo", {"max_message_size": 1000}))
    client = await connect(server)
    websocket = await opened(client, target)
    # Its payload looks like close frames as it is sent.
    too_big = frame(TEXT, closing(1009) * 1000, mask=bytes(4))
    websocket.write(too_big[:500])
    assert (await websocket.frame()).payload == (1009).to_bytes(2, "big") + b"message too big"
    assert "of Echo, from 127.0.0.1, with code 1009: it has exceeded max_message_size (1000)" in caplog.text
    for start in range(500, len(too_big), 1500):
        websocket.write(too_big[start : start + 1500])
        await settle(connect, server)
        assert not client.reader.at_eof()
    websocket.write(closing(1009))
    assert await client.rest() == b""


@BOTH
@pytest.mark.parametrize("behind", [frame(TEXT, "{"), frame(3), frame(CLOSE, "x"), closing(1001)], ids=repr)
async def test_a_callback_may_close_before_the_rest_of_a_read(
    serve: Serve, connect: Connect, target: str, behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closing(Noted):
        def on_message(self, message: str) -> None:
            self.close(3001, "enough")

    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal(Closing)
    websocket = await opened(await connect(await serve(SockJSRouter(journal, "/echo"))), target)
    websocket.write(text("x", target) + behind)
    if target != RAW:
        assert await websocket.text() == 'c[3001,"enough"]'
    expected = (3001, "enough") if target == RAW else (1000, "")
    # A close frame that came with the message is the answer, since no other one can follow it.
    assert await websocket.closed(answer=behind[0] & 15 != CLOSE) == expected
    assert await (await journal.connection()).closed() == (3001, "enough")


@BOTH
async def test_a_client_may_close_the_socket_in_place_of_an_answer(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    router, client, _, connection = await open_websocket(serve, connect, target)
    connection.close()
    closing_all = asyncio.ensure_future(router.close())
    await asyncio.sleep(0)
    client.writer.write_eof()
    await client.rest()
    await within(closing_all)


@BOTH
async def test_a_client_that_does_not_answer_the_close_frame_is_dropped(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 0.05)
    router, client, _, connection = await open_websocket(serve, connect, target)
    connection.close()
    async with asyncio.timeout(TIMEOUT):
        await router.close()
    assert connection.closes == [(3000, "Go away!")]
    await client.rest()


@BOTH
async def test_a_client_that_reads_slowly_gets_all_that_was_sent_before_the_end(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test is the clock.
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    _, client, _, connection = await open_websocket(serve, connect, target)
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    receiver: Any = connection.session._receiver
    connection.send("x" * 20_000_000)
    connection.close()
    data = bytearray()
    while unsent := receiver.transport.get_write_buffer_size():
        assert not receiver.transport.is_closing()
        while receiver.transport.get_write_buffer_size() > max(unsent - 3_000_000, 0):
            data += await client.exactly(100_000)
        receiver.check(receiver.due)
    # It has all, and has not answered the close frame yet: the last chance to do so.
    assert not receiver.transport.is_closing()
    receiver.check(receiver.due)
    assert receiver.transport.is_closing()
    data += await client.rest()
    assert data.count(b"x") == 20_000_000


@BOTH
async def test_a_client_may_be_rejected(serve: Serve, connect: Connect, target: str) -> None:
    class Rejecting(Noted):
        def on_open(self, info: object) -> Any:
            super().on_open(info)  # type: ignore[arg-type]
            return False

    journal = Journal(Rejecting)
    websocket = await WebSocket.open(await connect(await serve(SockJSRouter(journal, "/echo"))), target)
    if target != RAW:
        assert [await websocket.text(), await websocket.text()] == ["o", 'c[3000,"Go away!"]']
    assert await websocket.closed() == ((3000, "Go away!") if target == RAW else (1000, ""))
    assert await (await journal.connection()).closed() == (3000, "Go away!")
