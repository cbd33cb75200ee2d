"""Clients that reset their connection at the worst moment."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from client import HANDSHAKE, TEXT, frame, request, within

from sockjs_tornado import SockJSConnection, SockJSRouter


class Closing(SockJSConnection):
    """Closes at the first message."""

    ended: "asyncio.Future[tuple[int | None, str | None]]"

    def on_message(self, message: str) -> None:
        self.close(4001, "Enough")

    def on_close(self) -> None:
        self.ended.set_result((self.close_code, self.close_reason))


async def test_a_reset_right_behind_the_close_frame_is_the_clients_own_affair(
    serve: Callable[..., Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    Closing.ended = loop.create_future()
    server = await serve(SockJSRouter(Closing, "/echo"))
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        def reset_first(transport: asyncio.Transport) -> bool:
            sock.close()
            return False

        await within(loop.sock_connect(sock, ("127.0.0.1", server.port)))
        await within(loop.sock_sendall(sock, request("GET", "/echo/000/reset/websocket", *HANDSHAKE)))
        received = b""
        while not received.endswith(b"o"):
            received += await within(loop.sock_recv(sock, 1 << 16))
        # What the server asks before it reads on.
        monkeypatch.setattr("asyncio.selector_events._SelectorSocketTransport.is_reading", reset_first)
        await within(loop.sock_sendall(sock, frame(TEXT, '"now"')))
        assert await within(Closing.ended) == (4001, "Enough")
