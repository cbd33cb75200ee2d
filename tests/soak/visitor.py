"""A client on any transport, including raw websockets, that keeps track of its connections."""

import asyncio
import contextlib
import json
import os
import socket
from typing import Any

from client import (
    BINARY,
    CLOSE,
    PING,
    POLLING,
    PONG,
    TEXT,
    Client,
    Peer,
    RawPeer,
    WebSocketPeer,
    closing,
    frame,
    new_session,
    peer,
    within,
)

PREFIX = "/soak"


class Closed(Exception):
    """The session was closed by the server, or the server confirmed the client's close."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class RespondingPeer(WebSocketPeer):
    """A websocket client that responds to pings and close frames."""

    leaving = False

    async def frame(self) -> Any:
        websocket = self.websocket or await self.listen()
        while True:
            got = await websocket.frame()
            assert (got.fin, got.rsv) == (True, 0), got
            if got.opcode == PING:
                # No frame may follow a close frame.
                if not self.leaving:
                    websocket.write(frame(PONG, got.payload))
            elif got.opcode == CLOSE:
                code, reason = int.from_bytes(got.payload[:2], "big"), got.payload[2:].decode()
                if not self.leaving:
                    websocket.write(closing(code))
                assert await websocket.client.rest() == b""
                raise Closed(code, reason)
            else:
                assert got.opcode == TEXT or self.transport == "rawwebsocket", got
                return got.payload if got.opcode == BINARY else got.payload.decode()


class RespondingRawPeer(RespondingPeer, RawPeer):
    """The same, of the raw websocket."""


class Visitor:
    """A client.

    Args:
        port: Port of the server.
        transport: Name of the transport.
        source: Source address.
        host: Address of the server.
        session: Session id; a new one by default.
    """

    def __init__(
        self, port: int, transport: str, source: str = "127.0.0.1", host: str = "127.0.0.1", session: str = ""
    ) -> None:
        self.port, self.transport, self.source, self.host = port, transport, source, host
        self._clients: list[Client] = []
        self.peer: Peer
        if transport == "websocket":
            self.peer = RespondingPeer(transport, self.connect, PREFIX)
        elif transport == "rawwebsocket":
            self.peer = RespondingRawPeer(transport, self.connect, PREFIX)
        else:
            # The process id makes the session id unique over processes.
            session = session or f"{new_session()}of{os.getpid()}"
            self.peer = peer(transport, self.connect, prefix=PREFIX, session=session)

    async def connect(self) -> Client:
        """Open another connection, and close those that the server has closed."""
        for client in self._clients:
            if client.reader.at_eof():
                client.writer.close()
        self._clients = [client for client in self._clients if not client.writer.is_closing()]
        client = await connect(self.port, self.source, self.host)
        self._clients.append(client)
        return client

    async def open(self) -> None:
        """Open the session."""
        if isinstance(self.peer, RawPeer):
            await self.peer.listen()
        else:
            first = await self.peer.frame()
            assert first == "o", first

    async def receive(self) -> list[Any]:
        """Return the next messages, or raise Closed."""
        while True:
            text = await self.peer.frame()
            if isinstance(self.peer, RawPeer):
                return [text]
            if text[0] == "a":
                messages: list[Any] = json.loads(text[1:])
                assert messages, text
                return messages
            if text[0] == "c":
                await self._end()
                raise Closed(*json.loads(text[1:]))
            assert text == "h", text

    async def _end(self) -> None:
        """Check that only the end of the transport follows the SockJS close frame."""
        if isinstance(self.peer, RespondingPeer):
            with contextlib.suppress(Closed):
                raise AssertionError(f"after the close frame: {await self.peer.frame()}")
        elif self.transport not in POLLING:
            client: Client = self.peer.client  # type: ignore[attr-defined]
            await client.end_of_stream()

    async def send(self, *messages: Any) -> None:
        """Send messages."""
        await self.peer.send(*messages)

    def send_close(self) -> None:
        """Start the closing handshake of a websocket."""
        assert isinstance(self.peer, RespondingPeer)
        assert self.peer.websocket is not None
        self.peer.leaving = True
        self.peer.websocket.write(closing(1000, "Done"))

    async def receive_close(self, code: int, reason: str) -> None:
        """Check that the next event is the end of the session."""
        try:
            messages = await self.receive()
        except Closed as closed:
            if (closed.code, closed.reason) != (code, reason):
                raise
        else:
            raise AssertionError(f"expected the end of the session, got {messages}")

    async def leave(self, *, reset: bool = False) -> None:
        """Close all connections, or reset them."""
        clients, self._clients = self._clients, []
        await close(clients, reset=reset)


async def connect(
    port: int, source: str = "127.0.0.1", host: str = "127.0.0.1", receive_buffer: int | None = None
) -> Client:
    """Open a connection, optionally with a small receive buffer."""
    sock = socket.socket()
    try:
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.bind((source, 0))
        await within(asyncio.get_running_loop().sock_connect(sock, (host, port)))
        return Client(*await asyncio.open_connection(sock=sock))
    except BaseException:
        sock.close()
        raise


async def close(clients: list[Client], *, reset: bool = False) -> None:
    """Close connections, or reset them."""
    for client in clients:
        if client.writer.transport.get_extra_info("socket").fileno() < 0:
            continue
        if reset:
            with contextlib.suppress(OSError):
                client.reset()
            client.writer.transport.abort()
        else:
            client.writer.close()
    # After this, only transports with unsent data have not closed their sockets.
    await asyncio.sleep(0)
    for client in clients:
        client.writer.transport.abort()
