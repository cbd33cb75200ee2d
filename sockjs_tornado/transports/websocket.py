"""websocket, and the raw websocket for clients that are no browsers: no framing, no open frame, no heartbeat."""

import contextlib
from collections.abc import Awaitable, Sequence
from math import inf
from typing import ClassVar, Final

from ..exceptions import HandshakeError, PayloadError, WebSocketError
from ..protocol import CloseCode, Framing, Message, PreparedMessage, decode_websocket_payload, messages_frame
from ..protocol import close_frame as sockjs_close_frame
from ..session import Session
from ..wire.deflate import Deflater, Parameters, RawInflater, negotiate
from ..wire.handshake import accept_handshake
from ..wire.stream import Connection, response_head
from ..wire.websocket import (
    TEXT,
    Close,
    Event,
    FrameParser,
    Ping,
    binary_frame,
    build_frame,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
    to_utf8,
)
from .endpoint import PLAIN_TEXT, Endpoint
from .exchange import Exchange, Headers, Service

__all__ = ["RawWebSocket", "WebSocket"]

#: Seconds that a client has to answer the server's close frame.
CLOSE_TIMEOUT: Final = 2.0

#: Bytes in the write buffer above which pings are not answered: a client that reads nothing gets nothing.
PONG_LIMIT: Final = 64 * 1024


class WebSocketReceiver(Connection):
    """A websocket that speaks SockJS: from the parser to the session, and back.

    Args:
        server: The router.
        headers: Header fields of the 101 answer.
        parameters: What was agreed on permessage-deflate, None for nothing.
        framing: How text is written.
        session: The session to attach to.
    """

    __slots__ = (
        "_closing",
        "_framing",
        "_heard",
        "_parser",
        "_pinging",
        "_server",
        "_session",
        "_shared",
        "bucket",
        "due",
    )

    binary: ClassVar[bool] = False

    def __init__(
        self,
        server: Service,
        headers: Headers,
        parameters: Parameters | None,
        framing: Framing,
        session: Session,
    ) -> None:
        super().__init__(server.read_buffer, response_head(101, headers))
        self._parser = FrameParser(server.settings.max_message_size, RawInflater(parameters) if parameters else None)
        self._framing = framing
        # One function for all receivers, or one with the context of this receiver alone?
        self._shared = parameters is None or parameters.server_no_context_takeover
        self._server = server
        self._session = session
        self._closing = False
        self._heard = True
        self._pinging = False
        self.bucket: int | None = None
        self.due = 0.0

    # From the network.

    def opened(self) -> None:
        """Listen."""
        interval = self._server.settings.websocket_ping_interval
        if interval:
            self._wake_after(interval)
        self._session.attach(self, self._session.conn_info.ip)

    def received(self, data: bytes) -> None:
        """Take bytes; the messages in them reach the session together."""
        self._heard = True
        messages: list[Message] = []
        try:
            for event in self._parser.feed(data):
                if isinstance(event, str | bytes):
                    messages.extend(self._decode(event))
                else:
                    if messages:
                        self._session.receive(messages)
                        messages = []
                    self._control(event)
        except PayloadError as error:
            if messages:
                self._session.receive(messages)
            # The protocol wants no goodbye here.
            self._end(CloseCode.INVALID_DATA, str(error))
            self.transport.close()
            return
        if messages:
            self._session.receive(messages)

    def _decode(self, message: Message) -> Sequence[Message]:
        if isinstance(message, bytes):
            raise PayloadError("Binary message.")
        return decode_websocket_payload(message)

    def _control(self, event: Event) -> None:
        if isinstance(event, Ping):
            if not self._closing and self.transport.get_write_buffer_size() < PONG_LIMIT:
                self.transport.write(pong_frame(event.payload))
        elif isinstance(event, Close):
            if not self._closing:
                # RFC 6455, section 5.5.1: the answer carries the code that came.
                self.transport.write(close_frame(event.code))
                self._end(event.code, event.reason)
            self.transport.close()
        elif isinstance(event, WebSocketError):
            if self._closing:
                self.transport.close()
            else:
                self._say_goodbye(event.code, event.reason)
                self._end(event.code, event.reason)

    def eof_received(self) -> None:
        """Hear that the client has left; returning nothing closes the connection."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the connection is over."""
        self._server.container.cancel(self)
        self._end(CloseCode.ABNORMAL, "Connection lost")

    def pause_writing(self) -> None:
        """Hear that the client does not keep up."""
        self._session.pause(self)

    def resume_writing(self) -> None:
        """Hear that the client keeps up again."""
        self._session.resume(self)

    # From the session.

    def send_frame(self, frame: str) -> None:
        """Write a frame."""
        self.transport.write(self._framing(frame))

    def send_messages(self, messages: Sequence[Message]) -> None:
        """Write messages in one frame."""
        self.transport.write(self._framing(messages_frame(messages)))  # type: ignore[arg-type]

    def send_prepared(self, message: PreparedMessage) -> None:
        """Write a message on its way to many."""
        framing = self._framing
        self.transport.write(message.framed(framing) if self._shared else framing(message.frame))

    def close(self, code: int, reason: str) -> None:
        """Write the close frame of SockJS, then that of the websocket."""
        self.transport.write(self._framing(sockjs_close_frame(code, reason)))
        self._say_goodbye(CloseCode.NORMAL, "")

    # Deadlines: pings, and the answer to a close frame.

    def check(self, now: float) -> None:
        """Ping, or give up on a client that no longer answers."""
        settings = self._server.settings
        timeout = settings.websocket_ping_timeout or settings.websocket_ping_interval
        if self._closing or (self._pinging and not self._heard):
            self._end(CloseCode.ABNORMAL, "Ping timeout")
            self.due = inf
            self.transport.abort()
        elif self._pinging and timeout < settings.websocket_ping_interval:
            self._pinging = False
            self.due = now + settings.websocket_ping_interval - timeout
        else:
            self._heard = False
            self._pinging = True
            self.due = now + timeout
            self.transport.write(ping_frame())

    def _wake_after(self, delay: float) -> None:
        container = self._server.container
        self.due = container.now() + delay
        container.schedule(self)

    def _say_goodbye(self, code: int, reason: str) -> None:
        """Begin the closing handshake (RFC 6455, section 7.1.1)."""
        self._closing = True
        self.transport.write(close_frame(code, reason))
        # Only our side is shut: to close with unread bytes in the socket would reset the connection, and the client
        # might lose what it has not read yet.
        if self.transport.can_write_eof():
            # A client that has reset the connection since the last write: its end is about to be heard of.
            with contextlib.suppress(OSError):
                self.transport.write_eof()
        self._wake_after(CLOSE_TIMEOUT)

    def _end(self, code: int, reason: str) -> None:
        self._closing = True
        self._session.lose(self, code, reason)


def _raw_text_frame(text: str) -> bytes:
    return build_frame(TEXT, to_utf8(text))


class RawWebSocketReceiver(WebSocketReceiver):
    """A websocket without SockJS: each message is one of the websocket's own, text or binary."""

    __slots__ = ()

    binary: ClassVar[bool] = True

    def _decode(self, message: Message) -> Sequence[Message]:
        return (message,)

    def send_frame(self, frame: str) -> None:
        """Write nothing: there is neither an open frame nor a heartbeat."""

    def send_messages(self, messages: Sequence[Message]) -> None:
        """Write each message, all in one write."""
        framing = self._framing
        self.transport.write(
            b"".join([binary_frame(item) if isinstance(item, bytes) else framing(item) for item in messages])
        )

    def send_prepared(self, message: PreparedMessage) -> None:
        """Write a message on its way to many."""
        framing = self._framing
        self.transport.write(message.plain(framing) if self._shared else framing(message.text))

    def close(self, code: int, reason: str) -> None:
        """Close the websocket with the application's own code and reason."""
        self._say_goodbye(code, reason)


class WebSocket(Endpoint):
    """``GET …/websocket``: any number of sessions under one session id, each ending with its connection."""

    name = "websocket"
    #: Segments of the path behind the prefix.
    suffix = 3
    receiver: ClassVar[type[WebSocketReceiver]] = WebSocketReceiver

    def __init__(self, server: Service) -> None:
        super().__init__(server)
        # Compression without a context is the same for all clients that agreed on the same.
        self._framings: dict[Parameters, Framing] = {}

    def serves_while_closing(self, exchange: Exchange) -> bool:
        """Each is a session of its own."""
        return False

    def serve(self, exchange: Exchange) -> Awaitable[None] | None:
        """Do the handshake and let the websocket have the connection."""
        try:
            if not exchange.persistent:
                raise HandshakeError(400, "A websocket needs HTTP/1.1.")
            fields = accept_handshake(
                exchange.header("Upgrade"),
                exchange.header("Connection"),
                exchange.header("Sec-WebSocket-Version"),
                exchange.header("Sec-WebSocket-Key"),
            )
        except HandshakeError as error:
            exchange.respond(error.status, [PLAIN_TEXT, *error.headers], f"{error.reason}\n".encode())
            return None
        compression = self.server.settings.compression
        parameters = None
        if compression is not None:
            offers = exchange.header("Sec-WebSocket-Extensions")
            parameters = negotiate(offers, context_takeover=compression.context_takeover)
            if parameters is not None:
                fields.append(("Sec-WebSocket-Extensions", parameters.response))
        session = self.server.open_session(None, exchange.info(self.name, self.suffix))
        headers = self.headers(exchange, *fields)
        receiver = self.receiver(self.server, headers, parameters, self._framing(parameters), session)
        return exchange.take_over(101, receiver)

    def plain_framing(self) -> Framing:
        """Return how text is written without compression."""
        return text_frame

    def _framing(self, parameters: Parameters | None) -> Framing:
        if parameters is None:
            return self.plain_framing()
        framing = self._framings.get(parameters)
        if framing is None:
            framing = self._compressing(parameters)
            if parameters.server_no_context_takeover:
                self._framings[parameters] = framing
        return framing

    def _compressing(self, parameters: Parameters) -> Framing:
        compression = self.server.settings.compression
        assert compression is not None
        deflater = Deflater(parameters, compression.level)
        threshold = compression.threshold

        def framing(text: str) -> bytes:
            payload = to_utf8(text)
            if len(payload) < threshold:
                return build_frame(TEXT, payload)
            return build_frame(TEXT, deflater.deflate(payload), compressed=True)

        return framing


class RawWebSocket(WebSocket):
    """``GET BASE/websocket``, for clients that are no browsers."""

    name = "rawwebsocket"
    suffix = 1
    has_cookie = False
    receiver = RawWebSocketReceiver

    def plain_framing(self) -> Framing:
        """Any text is possible here, lone surrogates included."""
        return _raw_text_frame
