"""The receivers of clients in memory, in place of those of websockets."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from ..protocol import (
    CloseCode,
    Message,
    Outgoing,
    PreparedMessage,
    close_frame,
    decode_frame,
    messages_frame,
    nearest_close_code,
)
from ..session.limit_log import log_exceeded_limit
from ..session.session import Session
from ..wire.frames import close_frame as websocket_close_frame

#: Bytes that the client has not read from which on, and down to which, the session keeps messages back: those of
#: asyncio's transports.
HIGH_WATER: Final = 64 * 1024
LOW_WATER: Final = HIGH_WATER // 4


class MemoryReceiver:
    """A websocket without a socket: a :class:`~sockjs_tornado.session.ports.Receiver`.

    What the test has not read yet is in the write buffer.

    Attributes:
        session: Its session.
        unsent: Size of the messages that the test has not read, in bytes.
        messages: These messages, as a page would receive them.
        close_status: Close code and reason, after either side has closed the connection.
        is_reading: Whether the session accepts messages.
        on_change: Called after each change.
    """

    binary: ClassVar[bool] = False

    def __init__(self, headers: object, parameters: object, framing: object, session: Session) -> None:
        self.session = session
        self.unsent = 0
        self.messages: deque[Any] = deque()
        self.close_status: tuple[int, str] | None = None
        self.is_reading = True
        self.on_change: Callable[[], None] = lambda: None
        # The size of each unread frame, with the number of its messages that are unread.
        self._frames: deque[list[int]] = deque()
        self._is_full = False
        self._is_attached = False
        self._loop = asyncio.get_running_loop()

    # Called by the client.

    def on_connect(self) -> None:
        """Open the session."""
        self._is_attached = True
        self.session._attach(self, self.session.conn_info.ip)

    def receive(self, message: Message) -> None:
        """Deliver a message of the client, as far as the limits allow it."""
        session = self.session
        settings = session.server.settings
        size = self._size(message)
        session._stats.bytes_received += size
        if size > settings.max_message_size:
            log_exceeded_limit(session, CloseCode.TOO_BIG, "max_message_size")
            self.disconnect(CloseCode.TOO_BIG, "message too big")
        elif settings.max_inbound_rate is not None and not session._consume_rate_limit(1):
            log_exceeded_limit(session, CloseCode.TOO_FAST, "max_inbound_rate")
            session.close(CloseCode.TOO_FAST, "Too many messages", discard=False)
        else:
            session._receive([message])

    def disconnect(self, code: int, reason: str) -> None:
        """End the session, because its client has closed the connection or lost it."""
        self._set_closed(code, reason)
        self._is_attached = False
        self.session._receiver_lost(self, code, reason)

    def read(self) -> Any:
        """Remove and return the first message."""
        message = self.messages.popleft()
        frame = self._frames[0]
        if frame[0]:
            # A client reads a frame as a whole.
            self.unsent -= frame[0]
            frame[0] = 0
        frame[1] -= 1
        if not frame[1]:
            self._frames.popleft()
        if self._is_full and self.unsent <= LOW_WATER:
            self._is_full = False
            self.session._resume_sending(self)
        return message

    # Called by the session.

    def send_frame(self, frame: str) -> None:
        """Do nothing: pages do not see open frames and heartbeats."""

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        # Only raw websockets send bytes.
        self._write_frame(messages_frame(messages))  # type: ignore[arg-type]

    def send_prepared(self, message: PreparedMessage) -> None:
        self._write_frame(message.frame)

    def close(self, code: int, reason: str) -> None:
        frame = decode_frame(close_frame(code, reason))
        self._close(frame.code, frame.reason)

    def is_disconnected(self) -> bool:
        return not self._is_attached

    def abort(self) -> None:
        self._is_attached = False

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True
        self.on_change()

    def recycle(self) -> None:
        """Do nothing: a websocket session has only this connection."""

    # Internal.

    def _size(self, message: Message) -> int:
        return len(json.dumps([message], ensure_ascii=False).encode("utf-8", "surrogatepass"))

    def _write_frame(self, frame: str) -> None:
        self._write(decode_frame(frame).messages, len(frame.encode()))

    def _write(self, messages: Sequence[Any], size: int) -> None:
        self.messages.extend(messages)
        self._frames.append([size, len(messages)])
        self.unsent += size
        self.session._stats.bytes_sent += size
        if self.unsent > HIGH_WATER:
            self._is_full = True
            self.session._pause_sending(self)
        self.on_change()

    def _close(self, code: int, reason: str) -> None:
        self._set_closed(code, reason)
        # Not at once: the client's close frame arrives later.
        self._loop.call_soon(self.disconnect, code, reason)

    def _set_closed(self, code: int, reason: str) -> None:
        if self.close_status is None:
            self.close_status = code, reason
        self.on_change()


class RawMemoryReceiver(MemoryReceiver):
    """A raw websocket without a socket: each message is text or bytes."""

    binary: ClassVar[bool] = True

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        """Write each message as a frame of its own."""
        for message in messages:
            self._write_message(message)

    def send_prepared(self, message: PreparedMessage) -> None:
        self._write_message(message.text)

    def close(self, code: int, reason: str) -> None:
        code = nearest_close_code(code)
        # Its payload is the code, in two bytes, and the reason, of which it contains the start.
        payload = websocket_close_frame(code, reason)[2:]
        self._close(code, payload[2:].decode())

    def _size(self, message: Message) -> int:
        return len(message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass"))

    def _write_message(self, message: Outgoing) -> None:
        received = message if isinstance(message, bytes) else str(message)
        self._write([received], self._size(received))
