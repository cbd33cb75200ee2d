"""ws4py, the websocket client of the protocol's own test suite.

It reads in one thread while another one may still be working off what came with the handshake. If it sees the end of
TCP before it has worked off the close frame, it reports 1006.
"""

import asyncio
import queue
from typing import Any

import pytest
from application import Serve
from client import TIMEOUT
from ws4py.client.threadedclient import WebSocketClient
from ws4py.messaging import Message

from sockjs_tornado import SockJSConnection, SockJSRouter


class Closing(SockJSConnection):
    """Closes when it opens, or when it is told to."""

    def on_open(self, info: Any) -> None:
        if info.path.startswith("/on_open"):
            self.close(4001, "Enough")

    def on_message(self, message: str) -> None:
        self.close(4001, "Enough")


class Client(WebSocketClient):  # type: ignore[misc]
    """Notes what it hears."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.ends: queue.SimpleQueue[tuple[int, bytes | str]] = queue.SimpleQueue()

    def received_message(self, message: Message) -> None:
        self.messages.put(str(message))

    def closed(self, code: int, reason: bytes | str | None = None) -> None:
        self.ends.put((code, reason or b""))


def talk(url: str, *messages: str) -> tuple[list[str], tuple[int, bytes | str]]:
    """Send messages to a server and return what is heard of it, up to the end."""
    client = Client(url)
    client.connect()
    for message in messages:
        client.send(message)
    end = client.ends.get(timeout=TIMEOUT)
    client.run_forever()
    return [client.messages.get() for _ in range(client.messages.qsize())], end


@pytest.fixture
async def base(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a server that waits for the client's close frame as long as it takes."""
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    server = await serve(
        SockJSRouter(Closing, "/on_open"), SockJSRouter(Closing, "/on_message", {"max_message_size": 1000})
    )
    return f"ws://127.0.0.1:{server.port}"


async def test_a_close_that_comes_with_the_handshake_has_its_code(base: str) -> None:
    # With the end of TCP right behind the close frame, a third of them failed.
    for _ in range(40):
        assert await asyncio.to_thread(talk, f"{base}/on_open/websocket") == ([], (4001, b"Enough"))


async def test_a_raw_websocket_that_is_closed_has_its_code(base: str) -> None:
    for _ in range(10):
        assert await asyncio.to_thread(talk, f"{base}/on_message/websocket", "x") == ([], (4001, b"Enough"))


async def test_a_session_that_is_closed_has_its_close_frame(base: str) -> None:
    for number in range(10):
        heard = await asyncio.to_thread(talk, f"{base}/on_message/000/{number}/websocket", '"x"')
        assert heard == (["o", 'c[4001,"Enough"]'], (1000, b""))


async def test_a_violation_has_its_code(base: str) -> None:
    for number in range(10):
        heard = await asyncio.to_thread(talk, f"{base}/on_message/000/{number}/websocket", "x" * 1001)
        assert heard == (["o"], (1009, b"message too big"))
