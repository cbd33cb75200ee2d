"""Sessions over a websocket, with Tornado's client."""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence

from tornado.httpclient import HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream, StreamClosedError
from tornado.queues import QueueEmpty
from tornado.websocket import WebSocketClientConnection, WebSocketError, websocket_connect

from ..grace import MAX_GRACE
from ..protocol import CloseCode, is_close_code, messages_frame
from .options import Options
from .session import ClientSession, OpenFailed

__all__ = ["WebSocketSession"]


def _stream_of(socket: WebSocketClientConnection) -> IOStream:
    assert socket.protocol is not None  # until it is closed
    assert socket.protocol.stream is not None
    return socket.protocol.stream


def _drop(socket: WebSocketClientConnection, stream: IOStream) -> None:
    """End a connection at once, and let Tornado's reading task notice."""
    stream.close()
    socket.close()
    # The task may be waiting until a message is taken.
    with contextlib.suppress(QueueEmpty):
        while True:
            socket.read_queue.get_nowait()


def _drop_late(connecting: "asyncio.Future[WebSocketClientConnection]") -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        socket = connecting.result()
        _drop(socket, _stream_of(socket))


class WebSocketSession(ClientSession):
    """A session over a websocket.

    Args:
        url: The websocket's address, with ``http:`` or ``https:``.
        fields: Header fields of the request.
        tls: For ``https:``.
        options: The client's options.
    """

    def __init__(
        self, url: str, fields: Sequence[tuple[str, str]], tls: ssl.SSLContext | None, options: Options
    ) -> None:
        super().__init__("websocket")
        self._url = f"ws{url.removeprefix('http')}"
        self._fields = fields
        self._tls = tls
        self._limit = options.max_message_size
        self._socket: WebSocketClientConnection | None = None
        self._stream: IOStream | None = None
        self._reader: asyncio.Task[None] | None = None
        self._reading = asyncio.Event()
        self._reading.set()

    async def open(self, seconds: float) -> None:
        """Connect, and wait for the open frame."""
        headers = HTTPHeaders()
        for name, value in self._fields:
            headers.add(name, value)
        # The timeouts are for what is left of an attempt that was given up, which nothing public can end. Before that
        # they must not strike, even if the caller grants a grace period.
        longest = seconds + MAX_GRACE
        request = HTTPRequest(
            self._url, headers=headers, connect_timeout=longest, request_timeout=longest, ssl_options=self._tls
        )
        connecting = asyncio.ensure_future(websocket_connect(request, max_message_size=self._limit))
        try:
            await asyncio.wait((connecting,))
        except asyncio.CancelledError:
            connecting.add_done_callback(_drop_late)
            raise
        # Not only Tornado's own errors: it asserts what it expects of an answer.
        error = connecting.exception()
        if error is not None:
            raise OpenFailed(str(error) or type(error).__name__) from error
        self._socket = connecting.result()
        self._stream = _stream_of(self._socket)
        # For Node.js, sockjs sends a ping in place of a heartbeat frame.
        self._socket.on_ping = self._pinged  # type: ignore[method-assign]
        self._reader = asyncio.create_task(self._read(self._socket))
        await self._opened

    async def send(self, messages: Sequence[str]) -> None:
        """Write messages, in one array, and wait until the socket has taken them."""
        if self.over is not None or self._socket is None:
            return
        try:
            await self._socket.write_message(messages_frame(messages)[1:])
        except (WebSocketError, StreamClosedError):
            # The reading task knows better why; it reads what the server said before.
            await self._wait_reader()

    def pause(self) -> None:
        super().pause()
        self._reading.clear()

    def resume(self) -> None:
        super().resume()
        self._reading.set()

    async def close(self, code: int, reason: str, seconds: float) -> None:
        """Say goodbye, and wait for the server's goodbye."""
        self._listener = None
        if self.over is not None:
            code, reason = CloseCode.NORMAL, ""  # what the server said need not fit into a close frame
        self._finish(code, reason)
        if self._socket is not None and self._reader is not None and not self._reader.done():
            self._reading.set()
            self._socket.close(code, reason)
            await asyncio.wait((self._reader,), timeout=seconds)
        self._release()

    def _release(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        if self._socket is not None and self._stream is not None:
            _drop(self._socket, self._stream)
            self._socket = None

    def _pinged(self, data: bytes) -> None:
        self._heard()

    async def _wait_reader(self) -> None:
        if self._reader is not None:
            self._reading.set()
            await asyncio.wait((self._reader,))

    async def _read(self, socket: WebSocketClientConnection) -> None:
        # After the session's end, too, until the server has ended the connection.
        while True:
            message = await socket.read_message()
            if message is None:
                break
            if self.over is not None:
                continue
            self._heard()
            if isinstance(message, str):
                self._frame(message)
            else:
                self._finish(CloseCode.ABNORMAL, "the server sent a binary message")
            await self._reading.wait()
        code, reason = socket.close_code, socket.close_reason
        if code is not None and is_close_code(code):
            self._finish(code, reason or "")
        else:
            self._finish(CloseCode.ABNORMAL, "the connection was lost")
