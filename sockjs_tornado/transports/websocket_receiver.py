"""The receiver of a websocket: from the frame parser to the session, and from the session to frames."""

import contextlib
import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from ..exceptions import PayloadError, WebSocketError
from ..protocol import CloseCode, Framing, Message, Outgoing, PreparedMessage, messages_frame
from ..protocol import close_frame as sockjs_close_frame
from ..session.limit_log import log_exceeded_limit
from ..session.session import Session
from ..wire.connection import Connection
from ..wire.deflate import Parameters, RawInflater
from ..wire.frames import PONG, Close, Ping, Pong, build_frame, close_frame, read_close_frame, text_frame
from ..wire.keepalive import KeepaliveConnection, MessageDeadline
from ..wire.pacing import PIECE_SIZE, SMALL_PIECE
from ..wire.payloads import decode_websocket_payload
from ..wire.responses import response_head
from ..wire.scanner import CloseFrameScanner
from ..wire.websocket import Event, FrameParser
from .exchange import Headers, Router

try:
    from .._speedups import read_messages, write_messages
except ImportError:  # the C module was not built

    def read_messages(memory: bytearray, size: int, max_size: int, messages: list[Any], /) -> int:
        """Append the messages of ordinary frames to ``messages`` and return where the first other frame starts."""
        return 0

    def write_messages(messages: object, /) -> bytes | None:
        """Return a websocket frame that contains the SockJS frame of ``messages``, or None if Python must build it."""
        return None


logger = logging.getLogger(__name__)

# A constant, because before Python 3.12 the member's name is looked up by methods of the enumeration.
_ABNORMAL: Final = CloseCode.ABNORMAL

#: Close reason if a websocket message contains too many messages. With the same code, all others are too long.
_TOO_MANY: Final = "too many messages"

#: Bytes in the write buffer above which pings get no pong, because the client does not read.
PONG_LIMIT: Final = 64 * 1024


class WebSocketReceiver(KeepaliveConnection):
    """A websocket with SockJS framing: a :class:`~sockjs_tornado.session.ports.Receiver`.

    ``parameters`` are those of the negotiated compression, None without compression.
    """

    __slots__ = ("_deadline", "_is_compressed", "_is_framing_shared")

    binary: ClassVar[bool] = False

    def __init__(self, headers: Headers, parameters: Parameters | None, framing: Framing, session: Session) -> None:
        server: Router = session.server
        # Each super() would take 0.3 % of the time to open and close a websocket.
        KeepaliveConnection.__init__(self, server.container, response_head(101, headers), server.settings)
        self._session = session
        self._is_compressed = parameters is not None
        # None while only ordinary frames arrive, which read_messages() parses. Without compression, a parser is created
        # for other data and removed after it. A CloseFrameScanner replaces it when the server sends its close frame.
        self._parser: FrameParser | CloseFrameScanner | None = None
        if parameters is not None:
            self._parser = self._make_parser(RawInflater(parameters))
        self._framing = framing
        self._is_plain = framing is text_frame
        # Whether the frames of `framing` may be sent to other clients too: it has no compression context.
        self._is_framing_shared = parameters is None or parameters.server_no_context_takeover
        # The deadline of an incomplete message, if there is one.
        self._deadline: MessageDeadline | None = None

    def _make_parser(self, inflater: RawInflater | None = None) -> FrameParser:
        return FrameParser(self._settings.max_message_size, inflater, self._session.server.body_budget)

    # Called by the transport, with data from the network.

    def on_connect(self) -> None:
        if self._settings.websocket_ping_interval:
            # Of the first ping.
            self.wake_after(self._settings.websocket_ping_interval)
        self._session._attach(self, self._session.conn_info.ip)

    buffer_updated = Connection.process_read  # type: ignore[assignment]

    def _process_read(self, nbytes: int) -> None:
        if nbytes <= 8 and self._parser is None and not self._unread:
            code = read_close_frame(self._buffer, nbytes)
            if code:
                self._process_close(nbytes, code)
                return
        self._decode_read(nbytes)
        if nbytes == len(self._buffer):
            self._end_turn()

    def _process_close(self, nbytes: int, code: int) -> None:
        """Process a read that consists of a close frame without a reason; C calls it if the code is 1000."""
        self._stats.bytes_received += nbytes
        if not self._closing:
            self._client_closed(code, "")

    def _decode_read(self, nbytes: int) -> None:
        messages: list[Message] = []
        start = 0
        parser = self._parser
        settings = self._settings
        if (parser is None or parser.at_boundary) and not self._unread:
            # Fast path: most reads contain only short, uncompressed text frames.
            start = read_messages(self._buffer, nbytes, settings.max_message_size, messages)
            if len(messages) > settings.max_messages_per_request:
                start = 0
                messages = []
            elif start == nbytes:
                if not self._is_compressed:
                    # The parser is at a message boundary, so it has no state to keep.
                    self._parser = None
                self._stats.bytes_received += nbytes
                self._received_since_ping = True
                # Each of these frames contains at least one message, so there is no need to count the frames.
                if self._consume_rate(len(messages)):
                    self._session._receive(messages)
                return
        self._stats.bytes_received += start
        rest = bytes(memoryview(self._buffer)[start:nbytes])
        if messages and len(rest) <= SMALL_PIECE:
            position = self._process(rest, messages)
            if position < len(rest):
                self._decode_pieces(rest, position)
        else:
            if messages:
                self._deliver(messages, (), len(messages))
            self.on_data(rest)

    @property
    def piece_size(self) -> int:
        """Maximum size of the next piece. The rest of an uncompressed frame is one piece, since it decodes quickly."""
        parser = self._parser
        if isinstance(parser, FrameParser) and not self._is_compressed:
            return max(PIECE_SIZE, parser.payload_left)
        return PIECE_SIZE

    @property
    def inbox_overflows(self) -> bool:
        """Whether ``max_queue_bytes`` is exceeded, and the client's data may decompress to a thousand times as much."""
        return self._is_compressed and self._session._inbox_full

    def decode(self, data: bytes) -> int:
        return self._process(data, [])

    def _process(self, data: bytes, messages: list[Message]) -> int:
        """Decode ``data`` and deliver its messages together with ``messages``, which precede them.

        Returns:
            The number of bytes decoded, which is less than that of ``data`` only if they contain much compressed data.
        """
        parser = self._parser
        size = len(data)
        self._stats.bytes_received += size
        if isinstance(parser, CloseFrameScanner):
            if parser.feed(data):
                self.close_transport()
            return size
        self._received_since_ping = True
        if parser is None:
            parser = self._parser = self._make_parser()
        pongs: list[bytes] = []
        # Number of small frames, for the rate limit. Each message of `messages` counts as one.
        frames = len(messages) - parser.small_frames
        try:
            events = parser.feed(data)
            size -= parser.unparsed
            self._stats.bytes_received -= parser.unparsed
            frames += parser.small_frames
            for event in events:
                if isinstance(event, str):
                    messages += self._decode_payload(event, self._settings.max_messages_per_request)
                elif isinstance(event, bytes):
                    messages.append(self._accept_binary(event))
                elif isinstance(event, Ping):
                    # All pongs are sent in one write.
                    pongs.append(build_frame(PONG, event.payload))
                elif isinstance(event, Pong):
                    # A pong that the server has requested does not count for the rate limit.
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
            # If a callback has just closed the session, the closing handshake is under way.
            if not self._closing:
                # The SockJS protocol requires closing without a close frame here.
                self._session._receiver_lost(self, CloseCode.INVALID_DATA, str(error))
                self.close_transport()
            return size
        if messages:
            self._deliver(messages, events, frames)
        elif frames and not self._closing:
            self._consume_rate(frames)
        self._update_deadline(parser, size, events)
        if pongs and not self._closing and self.transport.get_write_buffer_size() < PONG_LIMIT:
            self.write(b"".join(pongs))
        return size

    def _update_deadline(self, parser: FrameParser, size: int, events: Sequence[Event]) -> None:
        if self._deadline is not None and any(isinstance(event, str | bytes) for event in events):
            self._clear_deadline()
        if parser.is_within_message and not self._closing:
            if self._deadline is None:
                self._deadline = MessageDeadline(self._container, self.accepts_input, self._on_message_late)
            # Limited to the maximum size of a message, so that pings between fragments do not extend it forever.
            self._deadline.size = min(self._deadline.size + size, self._settings.max_message_size)

    def _on_message_late(self) -> None:
        self._deadline = None
        self._end_connection(WebSocketError(CloseCode.POLICY_VIOLATION, "message not finished in time"))

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.end()
            self._deadline = None

    def _deliver(self, messages: list[Message], events: Sequence[Event], frames: int) -> None:
        limit = self._settings.max_messages_per_request
        # The limit is per websocket message, and a read may contain several of them.
        if len(messages) > limit and self._exceeds_message_limit(limit, events):
            self._session.server.stats.rejected["max_messages_per_request"] += 1
            self._end_connection(WebSocketError(CloseCode.TOO_BIG, _TOO_MANY))
        elif self._consume_rate(max(len(messages), frames)):
            self._session._receive(messages)

    def _consume_rate(self, count: int) -> bool:
        """Charge ``count`` messages or small frames to the rate limit. If it is exceeded, close the session."""
        if self._settings.max_inbound_rate is None or self._session._consume_rate_limit(count):
            return True
        if not self._session.is_closed:
            log_exceeded_limit(self._session, CloseCode.TOO_FAST, "max_inbound_rate")
        # Messages that were received before are still delivered.
        self._session.close(CloseCode.TOO_FAST, "Too many messages", discard=False)
        return False

    def _exceeds_message_limit(self, limit: int, events: Sequence[Event]) -> bool:
        with contextlib.suppress(PayloadError):
            return any(isinstance(event, str) and len(self._decode_payload(event, limit)) > limit for event in events)
        return False

    _decode_payload = staticmethod(decode_websocket_payload)

    def _accept_binary(self, message: bytes) -> bytes:
        raise PayloadError("Binary message.")

    def _end_connection(self, event: Close | WebSocketError) -> None:
        if self._closing:
            # A callback has just closed the session. If the event is a close frame, the scanner has found it, too.
            return
        if isinstance(event, Close):
            self._client_closed(event.code, event.reason)
        else:
            if event.code == CloseCode.TRY_AGAIN_LATER:
                limit, server = "max_buffered_body_bytes", self._session.server
                server.stats.rejected[limit] += 1
                message = "%s is reached: closing websockets with incomplete messages (close code %d)"
                server.container.log.write(logger, logging.WARNING, "unfinished", message, limit, event.code)
            elif event.code == CloseCode.TOO_BIG:
                limit = "max_messages_per_request" if event.reason == _TOO_MANY else "max_message_size"
                log_exceeded_limit(self._session, event.code, limit)
            self._session._receiver_lost(self, event.code, event.reason)
            self._close_websocket(event.code, event.reason)

    def _client_closed(self, code: int, reason: str) -> None:
        self._session._receiver_lost(self, code, reason)
        # RFC 6455, section 5.5.1: echo the status code.
        self.close_transport(close_frame(code))

    def on_disconnect(self) -> None:
        if self._deadline is not None:
            self._clear_deadline()
        if isinstance(self._parser, FrameParser):
            # Release the memory of an incomplete message.
            self._parser.scanner()
        self._session._receiver_lost(self, _ABNORMAL, "Connection lost")

    def pause_writing(self) -> None:
        self._session._pause_sending(self)

    def resume_writing(self) -> None:
        self._session._resume_sending(self)

    # Called by the session.

    def send_frame(self, frame: str) -> None:
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
        self.write(self._framing(sockjs_close_frame(code, reason)))
        self._close_websocket(CloseCode.NORMAL, "")

    def recycle(self) -> None:
        """Do nothing: a websocket session has only this connection."""

    # Closing.

    def on_ping_timeout(self) -> None:
        self._session._receiver_lost(self, CloseCode.ABNORMAL, "Ping timeout")
        self.abort()

    def _close_websocket(self, code: int, reason: str) -> None:
        """Send a close frame, then discard all data before the client's close frame (RFC 6455, section 7.1.1)."""
        self.write(close_frame(code, reason))
        self._clear_deadline()
        parser = self._parser
        # `_parser` cannot be a scanner yet, because the session closes its receiver only once.
        scanner = parser.scanner() if isinstance(parser, FrameParser) else CloseFrameScanner()
        self._parser = scanner
        if scanner.found:
            self.close_transport()
        else:
            self.expect_close()
