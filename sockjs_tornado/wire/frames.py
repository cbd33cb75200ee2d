"""Websocket frames (RFC 6455): their constants, the contents of control frames, and the frames that a server sends."""

from typing import NamedTuple

from ..exceptions import WebSocketError
from ..protocol import is_close_code

# Opcodes: RFC 6455, section 11.8.
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

FIN = 0x80
RSV1 = 0x40
MASK = 0x80

# Close codes: RFC 6455, section 7.4.1, and the registry of IANA. NO_STATUS stands for a close frame without a code.
NORMAL, PROTOCOL_ERROR, INVALID_DATA, TOO_BIG, TRY_AGAIN_LATER = 1000, 1002, 1007, 1009, 1013
NO_STATUS = 1005


class Ping(NamedTuple):
    """A ping (RFC 6455, section 5.5.2). The response is a pong with the same payload."""

    payload: bytes


class Pong(NamedTuple):
    """A pong, solicited or not (RFC 6455, section 5.5.3)."""

    payload: bytes


class Close(NamedTuple):
    """The peer's close frame. If the frame has no code, ``code`` is 1005 (RFC 6455, section 7.1.5)."""

    code: int
    reason: str


def parse_control(opcode: int, payload: bytes) -> Ping | Pong | Close:
    """Return the contents of a control frame.

    Raises:
        UnicodeDecodeError: The reason of a close frame is not UTF-8.
        WebSocketError: The code of a close frame is invalid (1002).
    """
    if opcode == PING:
        return Ping(payload)
    if opcode == PONG:
        return Pong(payload)
    if not payload:
        return Close(NO_STATUS, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not is_close_code(code):
        raise WebSocketError(PROTOCOL_ERROR, "invalid close frame")
    return Close(code, payload[2:].decode())


#: How close frames of clients begin that have a code without a reason, or neither.
_CLOSE_WITH_CODE = bytes((FIN | CLOSE, MASK | 2))
_CLOSE_WITHOUT_CODE = bytes((FIN | CLOSE, MASK))


def read_close_frame(data: bytes | bytearray, size: int) -> int:
    """Return the code of a client's close frame without a reason, or 0 if ``data[:size]`` is anything else.

    Such a frame usually arrives alone, and then needs no parser.
    """
    if size == 8 and data.startswith(_CLOSE_WITH_CODE):
        code = (data[6] ^ data[2]) << 8 | data[7] ^ data[3]
        return code if code == NORMAL or is_close_code(code) else 0
    return NO_STATUS if size == 6 and data.startswith(_CLOSE_WITHOUT_CODE) else 0


def build_frame(opcode: int, payload: bytes, *, compressed: bool = False) -> bytes:
    """Return one final, unmasked frame (RFC 6455, section 5.2)."""
    first = FIN | opcode | (RSV1 if compressed else 0)
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


_SHORT_TEXT = [bytes((FIN | TEXT, size)) for size in range(126)]


def text_frame(text: str) -> bytes:
    """Return a text frame. ``text`` must not contain lone surrogates."""
    payload = text.encode()
    size = len(payload)
    return _SHORT_TEXT[size] + payload if size < 126 else build_frame(TEXT, payload)


def to_utf8(text: str) -> bytes:
    """Encode any ``str``. A lone surrogate becomes U+FFFD, as in a browser's ``WebSocket.send``."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


_NORMAL_CLOSE = bytes((FIN | CLOSE, 2)) + NORMAL.to_bytes(2, "big")


def close_frame(code: int = NO_STATUS, reason: str = "") -> bytes:
    """Return a close frame. With code 1005 it has no code; the reason is truncated to 123 bytes of UTF-8."""
    if code == NO_STATUS:
        return build_frame(CLOSE, b"")
    if not reason:
        if code == NORMAL:
            return _NORMAL_CLOSE
        return bytes((FIN | CLOSE, 2)) + code.to_bytes(2, "big")
    text = to_utf8(reason)[:123].decode("utf-8", "ignore")
    return build_frame(CLOSE, code.to_bytes(2, "big") + text.encode())
