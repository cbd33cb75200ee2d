"""websocket, and the raw websocket for clients that are no browsers: no framing, no open frame, no heartbeat."""

import contextlib
import logging
from collections.abc import Awaitable, Sequence
from math import inf
from typing import Any, ClassVar, Final

from ..exceptions import HandshakeError, PayloadError, RequestTooLargeError, WebSocketError
from ..protocol import CloseCode, Framing, Message, Outgoing, PreparedMessage, messages_frame
from ..protocol import close_frame as sockjs_close_frame
from ..session.kept import check_uri
from ..session.limits import BudgetShare
from ..session.session import Session
from ..wire.connection import Connection
from ..wire.deflate import Deflater, Parameters, RawInflater, negotiate
from ..wire.handshake import accept_handshake, offered_subprotocols
from ..wire.pacing import PIECE_SIZE, PacedConnection
from ..wire.payloads import decode_websocket_payload
from ..wire.scanner import CloseFrameScanner
from ..wire.sockets import bytes_acked, bytes_unacked
from ..wire.stream import response_head
from ..wire.websocket import (
    TEXT,
    TRY_AGAIN_LATER,
    Close,
    Event,
    FrameParser,
    Ping,
    Pong,
    binary_frame,
    build_frame,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
    to_utf8,
)
from .endpoint import PLAIN_TEXT, Endpoint
from .exchange import Exchange, Headers, Router
from .message_deadline import MessageDeadline

try:
    from .._speedups import read_messages, write_messages
except ImportError:  # where it was not built

    def read_messages(memory: bytearray, size: int, max_size: int, messages: list[Any], /) -> int:
        """Append what ordinary frames carry to ``messages``, and return where another one begins."""
        return 0

    def write_messages(messages: object, /) -> bytes | None:
        """Return the websocket frame with the SockJS frame of ``messages``, or None to have it made in two steps."""
        return None


__all__ = ["RawWebSocket", "WebSocket"]

logger = logging.getLogger(__name__)

#: Bytes in the write buffer above which pings are not answered: a client that reads nothing gets nothing.
PONG_LIMIT: Final = 64 * 1024


#: Bytes before a ping that a slow line may need some time for.
BACKLOG_BYTES: Final = 16 * 1024


class WebSocketReceiver(PacedConnection):
    """A websocket that speaks SockJS: from the parser to the session, and back.

    Args:
        server: The router.
        headers: Header fields of the 101 answer.
        parameters: What was agreed on permessage-deflate, None for nothing.
        framing: How text is written.
        session: The session to attach to.
    """

    __slots__ = (
        "_acked_at_ping",
        "_deadline",
        "_is_compressed",
        "_is_framing_shared",
        "_ping_sent",
        "_pong_pending",
    )

    binary: ClassVar[bool] = False

    def __init__(
        self,
        server: Router,
        headers: Headers,
        parameters: Parameters | None,
        framing: Framing,
        session: Session,
    ) -> None:
        super().__init__(server.container, response_head(101, headers))
        self._settings = server.settings
        self._session = session
        self._is_compressed = parameters is not None
        # Made when something comes that is out of the ordinary. A scanner from the server's own close frame on.
        self._parser: FrameParser | CloseFrameScanner | None = None
        if parameters is not None:
            self._parser = self._make_parser(RawInflater(parameters))
        self._framing = framing
        self._is_plain = framing is text_frame
        # One function for all receivers, or one with the context of this receiver alone?
        self._is_framing_shared = parameters is None or parameters.server_no_context_takeover
        self._received_since_ping = True
        self._ping_sent = False
        # Whether the last ping has had no pong yet.
        self._pong_pending = False
        # Bytes that the peer had taken at the last ping, where many stood before that.
        self._acked_at_ping: int | None = None
        # The deadline of a message that is not complete.
        self._deadline: MessageDeadline | None = None

    def _make_parser(self, inflater: RawInflater | None = None) -> FrameParser:
        share = BudgetShare(self._session.server.body_budget)
        return FrameParser(self._settings.max_message_size, inflater, share)

    # From the network.

    def on_connect(self) -> None:
        """Listen."""
        if self._settings.websocket_ping_interval:
            self.wake_after(self._settings.websocket_ping_interval)
        self._session._attach(self, self._session.conn_info.ip)

    buffer_updated = Connection.process_read  # type: ignore[assignment]

    def _process_read(self, nbytes: int) -> None:
        self._decode_read(nbytes)
        if nbytes == len(self._buffer):
            self._end_turn()

    def _decode_read(self, nbytes: int) -> None:
        """Take what was read into the buffer."""
        messages: list[Message] = []
        start = 0
        parser = self._parser
        settings = self._settings
        if (parser is None or parser.at_boundary) and not self._unread:
            # Nearly every message of nearly every application.
            start = read_messages(self._buffer, nbytes, settings.max_message_size, messages)
            if len(messages) > settings.max_messages_per_request:
                start = 0
                messages = []
            elif start == nbytes:
                if not self._is_compressed:
                    # Until something out of the ordinary comes again.
                    self._parser = None
                self._stats.bytes_received += nbytes
                self._received_since_ping = True
                # There is a message in each of these frames.
                if self._consume_rate(len(messages)):
                    self._session._receive(messages)
                return
        self._stats.bytes_received += start
        rest = bytes(memoryview(self._buffer)[start:nbytes])
        if messages and len(rest) <= PIECE_SIZE:
            self._process(rest, messages)
        else:
            if messages:
                self._deliver(messages, (), len(messages))
            self.on_data(rest)

    @property
    def piece_size(self) -> int:
        """As much as the frame still has, if it is a large one: it is decoded in one step, unless it is compressed."""
        parser = self._parser
        return (
            max(PIECE_SIZE, parser.payload_left)
            if isinstance(parser, FrameParser) and not self._is_compressed
            else PIECE_SIZE
        )

    def decode(self, data: bytes) -> None:
        """Decode bytes; the messages in them reach the session together."""
        self._process(data, [])

    def _process(self, data: bytes, messages: list[Message]) -> None:
        """Decode bytes, and take the messages that came before them."""
        parser = self._parser
        self._stats.bytes_received += len(data)
        if isinstance(parser, CloseFrameScanner):
            if parser.feed(data):
                self.close_transport()
            return
        self._received_since_ping = True
        if parser is None:
            parser = self._parser = self._make_parser()
        pongs: list[bytes] = []
        # Each of the messages that came before stands for a frame at least.
        frames = len(messages) - parser.small_frames
        try:
            events = parser.feed(data)
            frames += parser.small_frames
            for event in events:
                if isinstance(event, str):
                    messages += self._decode_payload(event, self._settings.max_messages_per_request)
                elif isinstance(event, bytes):
                    messages.append(self._accept_binary(event))
                elif isinstance(event, Ping):
                    # Answered together, so that many pings are not as many writes.
                    pongs.append(pong_frame(event.payload))
                elif isinstance(event, Pong):
                    # The answer to a ping of the server's is not the client's to pay for.
                    frames -= self._pong_pending
                    self._pong_pending = False
                else:
                    if messages:
                        self._deliver(messages, events, frames)
                        messages = []
                    self._end_connection(event)
        except PayloadError as error:
            if messages:
                self._deliver(messages, events, frames)
            # If a callback has closed the session just now, the client is owed a closing handshake.
            if not self._closing:
                # The protocol wants no goodbye here.
                self._session._receiver_lost(self, CloseCode.INVALID_DATA, str(error))
                self.close_transport()
            return
        if messages:
            self._deliver(messages, events, frames)
        elif frames and not self._closing:
            self._consume_rate(frames)
        self._update_deadline(parser, len(data), events)
        if pongs and not self._closing and self.transport.get_write_buffer_size() < PONG_LIMIT:
            self.write(b"".join(pongs))

    def _update_deadline(self, parser: FrameParser, size: int, events: Sequence[Event]) -> None:
        if self._deadline is not None and any(isinstance(event, str | bytes) for event in events):
            self._clear_deadline()
        if parser.is_within_message and not self._closing:
            if self._deadline is None:
                self._deadline = MessageDeadline(self._manager, self.accepts_input, self._on_message_late)
            # No more than a message may have: pings between fragments, say, do not earn it time without end.
            self._deadline.size = min(self._deadline.size + size, self._settings.max_message_size)

    def _on_message_late(self) -> None:
        self._deadline = None
        self._end_connection(WebSocketError(CloseCode.POLICY_VIOLATION, "message not finished in time"))

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.end()
            self._deadline = None

    def _deliver(self, messages: list[Message], events: Sequence[Event], frames: int) -> None:
        most = self._settings.max_messages_per_request
        # Those of one read may come in many websocket messages.
        if len(messages) > most and self._exceeds_message_limit(most, events):
            self._session.server.stats.rejected["max_messages_per_request"] += 1
            self._end_connection(WebSocketError(CloseCode.TOO_BIG, "too many messages"))
        elif self._consume_rate(max(len(messages), frames)):
            self._session._receive(messages)

    def _consume_rate(self, count: int) -> bool:
        """Charge the client for so many messages or small frames; if it sends too fast, close the session."""
        if self._settings.max_inbound_rate is None or self._session._consume_rate_limit(count):
            return True
        # What came before is still heard.
        self._session.close(CloseCode.TOO_FAST, "Too many messages", discard=False)
        return False

    def _exceeds_message_limit(self, most: int, events: Sequence[Event]) -> bool:
        with contextlib.suppress(PayloadError):
            return any(isinstance(event, str) and len(self._decode_payload(event, most)) > most for event in events)
        return False

    _decode_payload = staticmethod(decode_websocket_payload)

    def _accept_binary(self, message: bytes) -> bytes:
        raise PayloadError("Binary message.")

    def _end_connection(self, event: Close | WebSocketError) -> None:
        if self._closing:
            # A callback has closed the session just now; the scanner has the answer, if this is one.
            return
        if isinstance(event, Close):
            # RFC 6455, section 5.5.1: the answer carries the code that came.
            self.write(close_frame(event.code))
            self._session._receiver_lost(self, event.code, event.reason)
            self.close_transport()
        else:
            if event.code == TRY_AGAIN_LATER:
                self._log_budget_exceeded()
            self._session._receiver_lost(self, event.code, event.reason)
            self._close_websocket(event.code, event.reason)

    def _log_budget_exceeded(self) -> None:
        limit = "max_buffered_body_bytes"
        server = self._session.server
        server.stats.rejected[limit] += 1
        message = "%s is reached: unfinished websocket messages get close code %d"
        server.container.log.write(logger, logging.WARNING, "unfinished", message, limit, TRY_AGAIN_LATER)

    def on_disconnect(self) -> None:
        """Hear that the client has left."""
        self._clear_deadline()
        if isinstance(self._parser, FrameParser):
            # The message that it was sending is for nobody.
            self._parser.scanner()
        self._session._receiver_lost(self, CloseCode.ABNORMAL, "Connection lost")

    def pause_writing(self) -> None:
        """Hear that the client does not keep up."""
        self._session._pause_sending(self)

    def resume_writing(self) -> None:
        """Hear that the client keeps up again."""
        self._session._resume_sending(self)

    # From the session.

    def send_frame(self, frame: str) -> None:
        """Write a frame."""
        self.write(self._framing(frame))

    send_messages = Connection.write_messages

    def _write_messages(self, messages: Sequence[Outgoing]) -> None:
        data = write_messages(messages) if self._is_plain else None
        self.write(data or self._framing(messages_frame(messages)))  # type: ignore[arg-type]

    send_prepared = Connection.write_prepared

    def _write_prepared(self, message: PreparedMessage) -> None:
        framing = self._framing
        if self._is_framing_shared:
            self.write(message.rendered.get(framing) or message.framed(framing))
        else:
            self.write(framing(message.frame))

    def close(self, code: int, reason: str) -> None:
        """Write the close frame of SockJS, then that of the websocket."""
        self.write(self._framing(sockjs_close_frame(code, reason)))
        self._close_websocket(CloseCode.NORMAL, "")

    def recycle(self) -> None:
        """Do nothing: the connection is all there is."""

    # Deadlines: pings, and the end.

    def check(self, now: float) -> None:
        """Ping, or give up on a client that no longer answers."""
        interval = self._settings.websocket_ping_interval
        timeout = self._settings.websocket_ping_timeout or interval
        if self._closing:
            super().check(now)
        elif (
            self._ping_sent
            and not self._received_since_ping
            and self.transport.is_reading()
            and not self._is_making_progress()
        ):
            if not self._manager.postpone(self, now):
                self.due = inf
                self._session._receiver_lost(self, CloseCode.ABNORMAL, "Ping timeout")
                self.abort()
        elif self._ping_sent and timeout < interval:
            self._ping_sent = False
            self.due = now + interval - timeout
        else:
            self._received_since_ping = False
            self._ping_sent = True
            self.due = now + timeout
            sock = self.transport.get_extra_info("socket")
            is_backlogged = self.unsent + bytes_unacked(sock) > BACKLOG_BYTES
            self._acked_at_ping = bytes_acked(sock) if is_backlogged else None
            self.write(ping_frame())
            self._pong_pending = True

    def _is_making_progress(self) -> bool:
        """Tell whether the peer takes what stood before the ping: a slow line takes its time."""
        before = self._acked_at_ping
        return before is not None and bytes_acked(self.transport.get_extra_info("socket")) > before

    def _close_websocket(self, code: int, reason: str) -> None:
        """Send the close frame, then discard what comes before the client's (RFC 6455, section 7.1.1)."""
        self.write(close_frame(code, reason))
        self._clear_deadline()
        parser = self._parser
        # `_parser` is no scanner yet: the session says goodbye once.
        scanner = parser.scanner() if isinstance(parser, FrameParser) else CloseFrameScanner()
        self._parser = scanner
        if scanner.found:
            self.close_transport()
        else:
            self.expect_close()


def _raw_text_frame(text: str) -> bytes:
    return build_frame(TEXT, to_utf8(text))


def _undecoded(payload: Any, limit: int) -> list[str]:
    return [payload]


class RawWebSocketReceiver(WebSocketReceiver):
    """A websocket without SockJS: each message is one of the websocket's own, text or binary."""

    __slots__ = ()

    binary: ClassVar[bool] = True

    buffer_updated = Connection.buffer_updated

    _decode_payload = staticmethod(_undecoded)

    def _accept_binary(self, message: bytes) -> bytes:
        return message

    def send_frame(self, frame: str) -> None:
        """Write nothing: there is neither an open frame nor a heartbeat."""

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        """Write each message, all in one write."""
        framing = self._framing
        self.write(
            b"".join([binary_frame(item) if isinstance(item, bytes) else framing(str(item)) for item in messages])
        )

    def send_prepared(self, message: PreparedMessage) -> None:
        """Write a message on its way to many."""
        framing = self._framing
        self.write(message.plain(framing) if self._is_framing_shared else framing(str(message.text)))

    def close(self, code: int, reason: str) -> None:
        """Close the websocket with the application's own code and reason."""
        self._close_websocket(code, reason)


def _select_subprotocol(session: Session, offered: list[str]) -> str | None:
    """Return what the application's connection selects of the subprotocols that the client offers.

    Raises:
        ValueError: The client did not offer it (RFC 6455, section 4.2.2, step 5): it would end the connection.
    """
    # The connection may be any object that the application makes.
    select = getattr(session.conn, "select_subprotocol", None)
    selected = select(offered[:]) if select is not None else None
    if selected is None:
        return None
    if isinstance(selected, str) and selected in offered:
        # The text that was offered: an equal value may be the member of an enumeration, which is written differently.
        return offered[offered.index(selected)]
    # The offer is not logged: some clients put a token there.
    raise ValueError(f"select_subprotocol returned {selected!r:.100}, expected one that the client offered, or None")


class WebSocket(Endpoint):
    """``GET …/websocket``: any number of sessions under one session id, each ending with its connection."""

    name = "websocket"
    suffix = 3
    receiver: ClassVar[type[WebSocketReceiver]] = WebSocketReceiver

    def __init__(self, server: Router) -> None:
        super().__init__(server)
        # Without a context, compression is the same for all clients with the same window, whatever else they agreed on.
        self._framings: dict[int, Framing] = {}

    def serve(self, exchange: Exchange) -> Awaitable[None] | None:
        """Do the handshake and let the websocket have the connection."""
        try:
            if not exchange.is_http11:
                raise HandshakeError(400, "A websocket needs HTTP/1.1.")
            fields = accept_handshake(
                exchange.header("Upgrade"),
                exchange.header("Connection"),
                exchange.header("Sec-WebSocket-Version"),
                exchange.header("Sec-WebSocket-Key"),
            )
            offered = offered_subprotocols(exchange.header("Sec-WebSocket-Protocol"))
        except HandshakeError as error:
            exchange.respond(error.status, [PLAIN_TEXT, *error.headers], f"{error.reason}\n".encode())
            return None
        if self.reject_if_full(exchange):
            return None
        try:
            check_uri(exchange.uri)
            info = exchange.info(self.name, self.suffix)
        except RequestTooLargeError as error:
            self.respond_too_large(exchange, error)
            return None
        compression = self.server.settings.compression
        parameters = None
        if compression is not None:
            offers = exchange.header("Sec-WebSocket-Extensions")
            parameters = negotiate(offers, context_takeover=compression.context_takeover)
            if parameters is not None:
                fields.append(("Sec-WebSocket-Extensions", parameters.response))
        headers = self.headers(exchange, *fields)
        session = self.server.create_session(None, False, info)
        if offered:
            try:
                subprotocol = _select_subprotocol(session, offered)
            except BaseException:
                # Before on_open, so that there is no on_close either.
                session.close()
                raise
            if subprotocol is not None:
                session.conn_info.subprotocol = subprotocol
                headers.append(("Sec-WebSocket-Protocol", subprotocol))
        receiver = self.receiver(self.server, headers, parameters, self._framing(parameters), session)
        return exchange.take_over(101, receiver)

    def plain_framing(self) -> Framing:
        """Return how text is written without compression."""
        return text_frame

    def _framing(self, parameters: Parameters | None) -> Framing:
        if parameters is None:
            return self.plain_framing()
        if not parameters.server_no_context_takeover:
            return self._compressing(parameters)
        framing = self._framings.get(parameters.server_window)
        if framing is None:
            framing = self._framings[parameters.server_window] = self._compressing(parameters)
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
