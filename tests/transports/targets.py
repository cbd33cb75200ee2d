"""The two websocket transports: their URLs, how to open one, and how to read its messages."""

import json
from typing import Any

import pytest
from application import Journal, Noted, Serve
from client import TEXT, Client, Connect, WebSocket, frame

from sockjs_tornado import SockJSRouter

SOCKJS = "/echo/000/abc/websocket"
RAW = "/echo/websocket"
BOTH = pytest.mark.parametrize("target", [SOCKJS, RAW], ids=["sockjs", "raw"])


async def opened(client: Client, target: str, *fields: str) -> WebSocket:
    """Open a websocket, and read its open frame if it has one."""
    websocket = await WebSocket.open(client, target, *fields)
    if target != RAW:
        assert await websocket.text() == "o"
    return websocket


async def open_websocket(
    serve: Serve, connect: Connect, target: str, **settings: Any
) -> tuple[SockJSRouter, Client, WebSocket, Noted]:
    """Serve a router with these settings, and open a websocket to it."""
    journal = Journal()
    router = SockJSRouter(journal, "/echo", settings)
    client = await connect(await serve(router))
    websocket = await opened(client, target)
    return router, client, websocket, await journal.connection()


def text(message: str, target: str) -> bytes:
    """Return the frame that carries a message to the server."""
    return frame(TEXT, message if target == RAW else json.dumps(message))


def feed(connection: Noted, *frames: bytes) -> None:
    """Pass frames to the receiver of a connection, as one read."""
    receiver: Any = connection.session._receiver
    data = b"".join(frames)
    memory = receiver.get_buffer(-1)
    memory[: len(data)] = data
    # What was read before is still behind it.
    memory[len(data) : len(data) + 11] = frame(TEXT, '["stale"]')
    receiver.buffer_updated(len(data))


def messages_of(connection: Noted) -> list[Any]:
    """Return the messages that the application has received since the previous call."""
    messages = []
    while not connection._messages.empty():
        messages.append(connection._messages.get_nowait())
    return messages
