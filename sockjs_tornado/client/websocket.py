"""Sessions over a websocket, using Tornado's websocket client."""

import asyncio
import contextlib
import functools
import itertools
import time
from collections.abc import Sequence
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httpclient import HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream, StreamClosedError
from tornado.queues import QueueEmpty
from tornado.tcpclient import TCPClient
from tornado.websocket import WebSocketError

from ..exceptions import ConnectionClosed
from ..protocol import CloseCode, is_close_code, messages_frame
from ..session.grace import MAX_GRACE
from ..wire.tornado_internals import WebSocketClient, open_websocket
from .curl import CurlFactory
from .service_url import ServiceURL
from .session import ClientSession, OpenFailed, frame_too_long
from .tunnel import TunnelClient


def _get_stream(socket: WebSocketClient) -> IOStream:
    # Both are set until the connection is closed.
    assert socket.protocol is not None
    assert socket.protocol.stream is not None
    return socket.protocol.stream


def _abort(socket: WebSocketClient, stream: IOStream) -> None:
    """Close a connection immediately."""
    stream.close()
    socket.close()
    # Tornado's reading task may be blocked on a full queue; it ends only if there is space.
    with contextlib.suppress(QueueEmpty):
        while True:
            socket.read_queue.get_nowait()


def _abort_when_connected(connecting: asyncio.Future[WebSocketClient]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        _abort(connecting.result(), _get_stream(connecting.result()))


async def connect_websocket(factory: CurlFactory, service: ServiceURL, path: str, seconds: float) -> WebSocketClient:
    """Open the websocket of a session, with the options of a factory. The caller cancels this after ``seconds``."""
    options = factory.options
    headers = HTTPHeaders()
    for name, value in factory.headers(service):
        headers.add(name, value)
    connections: list[HTTP1Connection] = []

    # Tornado calls this with a method of the connection when it has sent the header fields.
    def send_no_body(write: Any) -> asyncio.Future[None]:
        connections.append(write.__self__)
        sent = asyncio.get_running_loop().create_future()
        sent.set_result(None)
        return sent

    # Tornado's own timeouts must not expire earlier than the caller's, which may include a grace period.
    request = HTTPRequest(
        f"ws{service.at(f'{path}/websocket').removeprefix('http')}",
        headers=headers,
        connect_timeout=seconds + MAX_GRACE,
        request_timeout=seconds + MAX_GRACE,
        ssl_options=options.create_ssl_context() if service.origin[0] == "https" else None,
        body_producer=send_no_body,
        allow_nonstandard_methods=True,  # otherwise a GET request may not have a body_producer
    )
    proxy = options.find_proxy(service)
    tunnel = None if proxy is None else TunnelClient(proxy)
    connecting = open_websocket(tunnel or TCPClient(), request, options.max_message_size)
    try:
        await asyncio.wait((connecting,))
    except asyncio.CancelledError:
        connecting.add_done_callback(_abort_when_connected)
        # Before the request has been sent, an attempt without a proxy cannot be cancelled: Tornado's timeouts end it.
        if tunnel is not None:
            tunnel.abort()
        for connection in connections:
            connection.close()
        raise
    return connecting.result()


class WebSocketSession(ClientSession):
    """A session over a websocket, with a path below the URL of a service."""

    def __init__(self, transport: str, factory: CurlFactory, service: ServiceURL, path: str) -> None:
        super().__init__(transport, factory.options)
        self._connect = functools.partial(connect_websocket, factory, service, path)
        self._socket: WebSocketClient | None = None
        self._stream: IOStream | None = None
        self._reader: asyncio.Task[None] | None = None
        self._not_paused = asyncio.Event()
        self._not_paused.set()
        #: The pings that wait for a pong. The result is the time at which it arrived, or 0 if the session has closed.
        self._pings: dict[bytes, asyncio.Future[float]] = {}
        self._ping_numbers = itertools.count()
        self._limit = factory.options.max_message_size

    async def open(self, seconds: float) -> None:
        try:
            self._socket = await self._connect(seconds)
        except Exception as error:  # of TLS, of the host name, of Tornado and others
            raise OpenFailed(str(error) or type(error).__name__) from error
        self._stream = _get_stream(self._socket)
        # sockjs-node sends pings instead of heartbeat frames.
        self._socket.on_ping = self._record_activity  # type: ignore[method-assign]
        self._socket.on_pong = self._pong_received  # type: ignore[method-assign]
        self._reader = asyncio.create_task(self._read(self._socket))
        await self._opened

    async def send(self, messages: Sequence[str]) -> None:
        assert self._socket is not None
        assert self._reader is not None
        try:
            await self._socket.write_message(messages_frame(messages)[1:])
        except (WebSocketError, StreamClosedError):
            # The reading task finds out the reason, after it has read the data that arrived before.
            self._not_paused.set()
            await asyncio.wait((self._reader,))

    async def ping(self) -> float:
        assert self._socket is not None
        assert self._reader is not None
        payload = b"%d" % next(self._ping_numbers)
        pong = self._pings[payload] = self._loop.create_future()
        started = time.perf_counter()
        try:
            self._socket.ping(payload)
            arrived: float = await pong
        except (WebSocketError, StreamClosedError):
            # As in send().
            self._not_paused.set()
            await asyncio.wait((self._reader,))
        else:
            if arrived:
                return arrived - started
        finally:
            del self._pings[payload]
        assert self.close_status is not None
        raise ConnectionClosed(*self.close_status)

    def pause(self) -> None:
        super().pause()
        self._not_paused.clear()

    def resume(self) -> None:
        super().resume()
        self._not_paused.set()

    async def close(self, code: int, reason: str, seconds: float) -> None:
        """Send a close frame and wait for the server's."""
        self._detach()
        if self.close_status is not None:
            code, reason = CloseCode.NORMAL, ""  # the server's reason may be too long for a close frame
        self._set_closed(code, reason)
        if self._socket is not None and self._reader is not None and not self._reader.done():
            self._not_paused.set()
            self._socket.close(code, reason)
            await asyncio.wait((self._reader,), timeout=seconds)
        self._close_connections()

    def _close_connections(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        if self._socket is not None and self._stream is not None:
            _abort(self._socket, self._stream)
            self._socket = None

    def _set_closed(self, code: int, reason: str) -> None:
        super()._set_closed(code, reason)
        for pong in self._pings.values():
            if not pong.done():
                pong.set_result(0)

    def _record_activity(self, data: object) -> None:
        self._last_activity = self._loop.time()

    def _pong_received(self, data: bytes) -> None:
        self._record_activity(data)
        pong = self._pings.get(data)
        if pong is not None and not pong.done():
            pong.set_result(time.perf_counter())

    async def _read(self, socket: WebSocketClient) -> None:
        # Keep reading after the session has closed, until the server closes the connection.
        while (message := await socket.read_message()) is not None:
            if self.close_status is not None:
                continue
            self._record_activity(message)
            if isinstance(message, str):
                self._handle_frame(message)
            else:
                self._set_closed(CloseCode.ABNORMAL, "the server sent a binary message")
            await self._not_paused.wait()
        code, reason = socket.close_code, socket.close_reason
        if code is not None and is_close_code(code):
            self._set_closed(code, reason or "")
        elif socket.has_exceeded_limit:
            self._set_closed(CloseCode.TOO_BIG, frame_too_long(self._limit))
        else:
            self._set_closed(CloseCode.ABNORMAL, "the connection was lost")
