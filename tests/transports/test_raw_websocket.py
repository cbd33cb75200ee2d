"""The raw websocket: messages as they are, text and bytes."""

from typing import Any

import pytest
from application import Echo, Journal, Serve
from client import BINARY, FRAMED, TEXT, Connect, Join, WebSocket, frame

from sockjs_tornado import SockJSRouter

from .targets import RAW


@pytest.mark.parametrize(
    ("opcode", "payload", "message"),
    [
        (TEXT, "plain", "plain"),
        (TEXT, "", ""),
        (TEXT, '["x"]', '["x"]'),
        (TEXT, "ä€😀\u2028\x00", "ä€😀\u2028\x00"),
        (BINARY, bytes(range(256)), bytes(range(256))),
        (BINARY, b"", b""),
        (BINARY, b"x" * 70_000, b"x" * 70_000),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_text_and_binary_messages_pass_through(
    serve: Serve, connect: Connect, opcode: int, payload: str | bytes, message: str | bytes
) -> None:
    heard = []

    class Listening(Echo):
        def on_message(self, message: str | bytes) -> None:
            heard.append(message)
            super().on_message(message)

    websocket = await WebSocket.open(await connect(await serve(SockJSRouter(Listening, "/echo"))), RAW)
    websocket.write(frame(opcode, payload))
    raw = payload.encode() if isinstance(payload, str) else payload
    assert await websocket.frame() == (opcode, raw, True, 0)
    assert heard == [message]


async def test_a_raw_websocket_sends_each_message_as_what_it_is(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    websocket = await WebSocket.open(await connect(await serve(SockJSRouter(journal, "/echo"))), RAW)
    connection: Any = await journal.connection()
    connection.send("text")
    connection.send(b"bytes")
    connection.send(bytearray(b"more"))
    connection.send(memoryview(b"yet more"))
    connection.send("as binary ä", binary=True)
    connection.send({"a": [1]})
    connection.send("lone \udead and pair \ud83d\ude00")
    assert [await websocket.frame() for _ in range(7)] == [
        (TEXT, b"text", True, 0),
        (BINARY, b"bytes", True, 0),
        (BINARY, b"more", True, 0),
        (BINARY, b"yet more", True, 0),
        (BINARY, "as binary ä".encode(), True, 0),
        (TEXT, b'{"a":[1]}', True, 0),
        (TEXT, "lone \ufffd and pair 😀".encode(), True, 0),
    ]


async def test_the_answers_of_a_raw_websocket_keep_their_order(serve: Serve, connect: Connect) -> None:
    websocket = await WebSocket.open(await connect(await serve(SockJSRouter(Echo, "/echo"))), RAW)
    websocket.write(frame(TEXT, "a") + frame(BINARY, b"b") + frame(TEXT, "c"))
    assert [await websocket.frame() for _ in range(3)] == [
        (TEXT, b"a", True, 0),
        (BINARY, b"b", True, 0),
        (TEXT, b"c", True, 0),
    ]


@pytest.mark.parametrize("transport", FRAMED)
async def test_bytes_are_a_type_error_on_transports_that_carry_text(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo")), transport)
    assert await peer.frame() == "o"
    connection: Any = await journal.connection()
    for message in (b"x", bytearray(b"x"), memoryview(b"x"), None, 1, object()):
        with pytest.raises(TypeError):
            connection.send(message)
    connection.send("text, though it was to be ä binary one", binary=True)
    assert await peer.frame() == 'a["text, though it was to be ä binary one"]'


async def test_the_application_knows_the_raw_websocket(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    await WebSocket.open(await connect(await serve(SockJSRouter(journal, "/echo"))), f"{RAW}?room=1")
    connection = await journal.connection()
    assert connection.info.transport == "rawwebsocket"
    assert connection.info.prefix == "/echo"
    assert connection.info.get_argument("room") == "1"
