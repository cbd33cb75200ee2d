"""The raw websocket: the application's messages without SockJS framing, open frames or heartbeats."""

from collections.abc import Sequence
from typing import Any, ClassVar

from ..protocol import Framing, Outgoing, PreparedMessage
from ..wire.connection import Connection
from ..wire.frames import TEXT, binary_frame, build_frame, to_utf8
from .websocket import WebSocket
from .websocket_receiver import WebSocketReceiver

__all__ = ["RawWebSocket", "RawWebSocketReceiver"]


def _raw_text_frame(text: str) -> bytes:
    return build_frame(TEXT, to_utf8(text))


def _undecoded(payload: Any, limit: int) -> list[str]:
    return [payload]


class RawWebSocketReceiver(WebSocketReceiver):
    """A websocket without SockJS framing: each message is one text or binary message."""

    __slots__ = ()

    binary: ClassVar[bool] = True

    buffer_updated = Connection.buffer_updated

    _decode_payload = staticmethod(_undecoded)

    def _accept_binary(self, message: bytes) -> bytes:
        return message

    def send_frame(self, frame: str) -> None:
        """Do nothing: a raw websocket has neither open frames nor heartbeats."""

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        """Send each message as a frame of its own, all in one write."""
        framing = self._framing
        self.write(
            b"".join([binary_frame(item) if isinstance(item, bytes) else framing(str(item)) for item in messages])
        )

    def send_prepared(self, message: PreparedMessage) -> None:
        """Send a broadcast message."""
        framing = self._framing
        self.write(message.plain(framing) if self._is_framing_shared else framing(str(message.text)))

    def close(self, code: int, reason: str) -> None:
        """Close the websocket with the application's close code and reason."""
        self._close_websocket(code, reason)


class RawWebSocket(WebSocket):
    """``GET BASE/websocket``, for clients other than browsers."""

    name = "rawwebsocket"
    suffix = 1
    has_cookie = False
    receiver = RawWebSocketReceiver

    def plain_framing(self) -> Framing:
        """Return the framing without compression. Text may contain lone surrogates here."""
        return _raw_text_frame
