"""The server's websocket frames (RFC 6455), and the constants of all frames."""

__all__ = ["binary_frame", "build_frame", "close_frame", "ping_frame", "pong_frame", "text_frame", "to_utf8"]

# Opcodes: RFC 6455, section 11.8.
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

FIN = 0x80
RSV1 = 0x40
MASK = 0x80

#: The close code of a close frame without a code (RFC 6455, section 7.1.5).
NO_STATUS = 1005


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


def binary_frame(payload: bytes) -> bytes:
    """Return a binary frame."""
    return build_frame(BINARY, payload)


def ping_frame(payload: bytes = b"") -> bytes:
    """Return a ping. ``payload`` may have up to 125 bytes."""
    return build_frame(PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """Return a pong, the response to a ping."""
    return build_frame(PONG, payload)


def close_frame(code: int = NO_STATUS, reason: str = "") -> bytes:
    """Return a close frame. With code 1005 it has no code; the reason is truncated to 123 bytes of UTF-8."""
    if code == NO_STATUS:
        return build_frame(CLOSE, b"")
    text = to_utf8(reason)[:123].decode("utf-8", "ignore")
    return build_frame(CLOSE, code.to_bytes(2, "big") + text.encode())
