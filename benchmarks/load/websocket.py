"""Sessions over websockets, with or without SockJS framing."""

import asyncio
import secrets
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import picows

from .plan import Plan
from .session import CLOSE_TIMEOUT, OPEN_TIMEOUT, Listener, Session, SessionError

_TEXT = picows.WSMsgType.TEXT
_BINARY = picows.WSMsgType.BINARY
_CONTINUATION = picows.WSMsgType.CONTINUATION
_CLOSE = picows.WSMsgType.CLOSE


class WebSocketTransport:
    """Opens websockets.

    Args:
        plan: Options of the run; the transport is `websocket` or `rawwebsocket`.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._raw = plan.transport == "rawwebsocket"
        self._waiting: list[tuple[WebSocketSession, list[bytes]]] = []
        self._ssl_context = plan.create_ssl_context()
        self._url = urlsplit(plan.url)._replace(scheme="wss" if plan.url.startswith("https:") else "ws").geturl()

    async def open(self, number: int, listener: Listener) -> Session:
        """Open the session with a number, or raise SessionError."""
        session = WebSocketSession(listener, self._send_soon, raw=self._raw)
        path = "/websocket" if self._raw else f"/{number % 1000:03}/{secrets.token_hex(8)}/websocket"
        source = self._plan.source(number)
        try:
            await picows.ws_connect(
                lambda: session,
                self._url + path,
                ssl_context=self._ssl_context,
                extra_headers=self._plan.fields,
                websocket_handshake_timeout=OPEN_TIMEOUT,
                # A small initial buffer, since there are thousands of sockets.
                read_buffer_init_size=4096,
                local_addr=None if source is None else (source, 0),
            )
        except (OSError, TimeoutError, picows.WSError) as error:
            session.discard()
            raise SessionError(f"cannot connect: {str(error) or type(error).__name__}") from error
        await session.wait_open()
        return session

    def _send_soon(self, session: "WebSocketSession", messages: list[bytes]) -> None:
        """Write the messages after all available data has been read.

        If each message were written immediately, a server that is faster than the load would sleep and wake up for each
        message, and this overhead would be measured.
        """
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send_all)
        self._waiting.append((session, messages))

    def _send_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for session, messages in waiting:
            session.write(messages)


class WebSocketSession(Session, picows.WSListener):
    """A session over a websocket.

    Args:
        listener: Receives the events of the session.
        send_soon: Schedules messages for writing.
        raw: Whether messages are sent without SockJS framing.
    """

    def __init__(
        self, listener: Listener, send_soon: Callable[["WebSocketSession", list[bytes]], None], *, raw: bool
    ) -> None:
        super().__init__(listener)
        self._send_soon = send_soon
        self._raw = raw
        self._transport: picows.WSTransport | None = None
        self._parts: list[bytes] = []
        self._disconnected = asyncio.get_running_loop().create_future()

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._transport = transport
        if self._raw:
            self._opened.set_result(None)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        kind = frame.msg_type
        if kind is _TEXT and frame.fin:
            payload = frame.get_payload_as_bytes()
        elif kind in (_TEXT, _BINARY, _CONTINUATION):
            self._parts.append(frame.get_payload_as_bytes())
            if not frame.fin:
                return
            payload = b"".join(self._parts)
            self._parts.clear()
        else:
            if kind is _CLOSE:
                self._fail(f"closed by the server: {frame.get_close_code()} {frame.get_close_reason() or ''}".rstrip())
                transport.disconnect()
            return
        if self._raw:
            self._deliver([payload])
        else:
            self._handle_frame(payload)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        if not self._disconnected.done():
            self._disconnected.set_result(None)
        self._fail("the server closed the connection")

    def send(self, messages: list[bytes]) -> None:
        """Send messages in order."""
        self._send_soon(self, messages)

    def write(self, messages: list[bytes]) -> None:
        """Write each message as a frame, all of them in one packet, like a browser."""
        if not self.is_open:
            return
        transport = self._transport
        assert transport is not None
        sock = transport.underlying_transport.get_extra_info("socket") if len(messages) > 1 else None
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        for message in messages:
            transport.send(_TEXT, message if self._raw else b'["%b"]' % message)
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    def discard(self) -> None:
        """Discard a session that could not be opened."""
        self._closed = True
        self._opened.cancel()

    async def close(self) -> None:
        """Send a close frame and wait for the disconnect. The listener is not called any more."""
        self._closed = True
        if self._transport is None or self._disconnected.done():
            return
        self._transport.send_close(picows.WSCloseCode.OK)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._disconnected
        except TimeoutError:
            self._transport.disconnect(graceful=False)
