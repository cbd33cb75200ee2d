"""RFC 6455 frames without I/O: an incremental parser for what a client sends, a builder for what a server sends.

The parser is fed bytes as they come and answers with what they complete::

    parser = FrameParser(max_size=1_000_000)
    for event in parser.feed(data):
        ...  # str | bytes | Ping | Pong | Close | WebSocketError

Text arrives as ``str``, binary as ``bytes``. A violation is the last event of its feed, a :class:`WebSocketError` with
the close code to fail the connection with; what came before it is not lost. After a violation or a close frame the
parser ignores everything; :meth:`FrameParser.scanner` returns the reader that waits for the peer's close frame then.
"""

import codecs
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from ..exceptions import WebSocketError
from ..protocol import is_close_code
from .scanner import CloseFrameScanner

__all__ = [
    "Close",
    "Event",
    "FrameParser",
    "Inflater",
    "Ping",
    "Pong",
    "apply_mask",
    "binary_frame",
    "build_frame",
    "close_frame",
    "ping_frame",
    "pong_frame",
    "text_frame",
    "to_utf8",
]

# Opcodes: RFC 6455, section 11.8.
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

FIN = 0x80
RSV1 = 0x40
MASK = 0x80

PROTOCOL_ERROR, INVALID_DATA, TOO_BIG, TRY_AGAIN_LATER = 1002, 1007, 1009, 1013
NO_STATUS = 1005

#: Bytes of payload below which a frame counts in :attr:`FrameParser.small_frames`. Browsers split what is longer.
SMALL_FRAME: Final = 1024


class Ping(NamedTuple):
    """A ping (RFC 6455, section 5.5.2); the answer is a pong with the same payload."""

    payload: bytes


class Pong(NamedTuple):
    """A pong, asked for or not (RFC 6455, section 5.5.3)."""

    payload: bytes


class Close(NamedTuple):
    """The peer's close frame; ``code`` is 1005 where the frame had none (RFC 6455, section 7.1.5)."""

    code: int
    reason: str


class Share(Protocol):
    """What one connection takes of a budget that all connections have together."""

    def fits(self, size: int) -> bool:
        """Return whether it may become ``size`` bytes in all."""

    def resize(self, size: int) -> None:
        """Count ``size`` bytes in all."""


Event = str | bytes | Ping | Pong | Close | WebSocketError


class Inflater(Protocol):
    """What undoes permessage-deflate for one connection (RFC 7692)."""

    def inflate(self, data: bytes, *, final: bool, limit: int) -> bytes:
        """Decompress the next part of a message; raise WebSocketError on bad data or beyond ``limit`` bytes."""


def _apply_mask_python(mask: bytes, data: bytes) -> bytes:
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


# Tornado's wheels carry this function in C; where it was installed without, integers do the work in bulk.
try:
    from tornado.speedups import websocket_mask as _apply_mask_c
except ImportError:  # pragma: no cover - depends on how Tornado was built
    apply_mask: Callable[[bytes, bytes], bytes] = _apply_mask_python
else:
    apply_mask = _apply_mask_c


def _read_text_frames_python(data: bytes, position: int, max_size: int, events: list[Any]) -> int:
    """Append the text of each whole frame from ``position`` on to ``events`` and return where it ends.

    Stops at the first frame that is not text, final, masked, whole, short and of at most ``max_size`` bytes.

    Raises:
        UnicodeDecodeError: The text is not UTF-8.
    """
    end = len(data)
    below = MASK | min(126, max_size + 1)
    while end - position >= 6:
        second = data[position + 1]
        stop = position + second - (MASK - 6)
        if data[position] != FIN | TEXT or not MASK <= second < below or stop > end:
            break
        events.append(apply_mask(data[position + 2 : position + 6], data[position + 6 : stop]).decode())
        position = stop
    return position


try:
    from .._speedups import read_text_frames
except ImportError:  # where it was not built
    read_text_frames = _read_text_frames_python


class FrameParser:
    """Incremental parser of client frames (RFC 6455, section 5).

    Args:
        max_size: Bytes that one message may have, decompressed; a longer one is a violation with code 1009.
        inflater: Decompressor when permessage-deflate was negotiated; without one, RSV1 is a violation.
        share: Counts the bytes of a message that is not complete. One that may not grow is a violation with code 1013.

    Attributes:
        at_boundary: Whether the next byte begins a message, so that somebody else may take it.
        small_frames: Frames of less than 1 KiB so far, without a close frame: each costs time, even if it is empty.
    """

    __slots__ = (
        "_buffer",
        "_collected",
        "_compressed",
        "_decoder",
        "_fin",
        "_inflater",
        "_left",
        "_mask",
        "_max_size",
        "_message",
        "_scanner",
        "_share",
        "_size",
        "at_boundary",
        "small_frames",
    )

    def __init__(self, max_size: int, inflater: Inflater | None = None, share: Share | None = None) -> None:
        self._max_size = max_size
        self._inflater = inflater
        self._share = share
        self._buffer = b""
        # Reads on after a violation or a close frame; this parser is dead then.
        self._scanner: CloseFrameScanner | None = None
        # The frame whose payload is being read: what is left of it, and the mask rotated to the next byte.
        self._left = 0
        self._mask = b""
        self._fin = True
        # The message being put together: its opcode, or CONTINUATION while there is none.
        self._message = CONTINUATION
        self._compressed = False
        self._size = 0
        self._collected: bytearray | None = None
        self._decoder: codecs.IncrementalDecoder | None = None
        self.at_boundary = True
        self.small_frames = 0

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes from the peer and return the events they complete, in order."""
        events: list[Event] = []
        if self._scanner is not None:
            return events
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        left = self._left
        self.at_boundary = False
        position = 0
        end = len(data)
        try:
            if self._left:
                position = self._read_payload(data, 0, end, events)
            while end - position >= 2:
                if not self._message:
                    # Nearly every frame of nearly every application.
                    before = len(events)
                    position = read_text_frames(data, position, self._max_size, events)
                    self.small_frames += len(events) - before
                    if end - position < 2:
                        break
                advanced = self._read_frame(data, position, end, events)
                if advanced == position:
                    break
                position = advanced
                if events and type(events[-1]) is Close:
                    self._stop(left, data)
                    return events
        except UnicodeDecodeError:
            events.append(WebSocketError(INVALID_DATA, "invalid UTF-8"))
            self._stop(left, data)
        except WebSocketError as error:
            events.append(error)
            self._stop(left, data)
        else:
            # No more than a header or a control frame, so that gluing it to the next bytes is cheap.
            self._buffer = data[position:end]
            self.at_boundary = position == end and not self._message
        return events

    @property
    def is_within_message(self) -> bool:
        """Whether some bytes of a message have come, but not the last."""
        return self._scanner is None and self._message != CONTINUATION

    @property
    def payload_left(self) -> int:
        """Bytes of the current frame's payload that are still to come."""
        return self._left

    def scanner(self) -> CloseFrameScanner:
        """Return a reader for what comes from now on, of which nothing but the peer's close frame matters.

        After a violation it has begun with the offending frame. The parser itself ignores everything from now on.
        """
        if self._scanner is None:
            self._stop(self._left, self._buffer)
        assert self._scanner is not None
        return self._scanner

    def _stop(self, left: int, data: bytes) -> None:
        """Leave the rest to a scanner, which gets the bytes of this feed again: they hold no other close frame.

        Args:
            left: Bytes of ``data`` before its first frame boundary; more than all if a frame's payload goes on.
            data: The bytes since then. Where exactly a violation was found need not be known.
        """
        self._scanner = CloseFrameScanner(left)
        self._scanner.feed(data)
        self.at_boundary = False
        self._buffer = b""
        self._inflater = self._collected = self._decoder = None
        if self._share is not None:
            self._share.resize(0)

    def _read_frame(self, data: bytes, position: int, end: int, events: list[Event]) -> int:
        """Read one frame's header and what is there of its payload; return where the next read starts.

        Returns ``position`` itself where the bytes do not suffice for a header (or a whole control frame).
        """
        first = data[position]
        second = data[position + 1]
        opcode = first & 0x0F
        fin = bool(first & FIN)
        length = second & 0x7F
        start = position + 6
        if not second & MASK:
            raise WebSocketError(PROTOCOL_ERROR, "unmasked frame")
        if opcode >= CLOSE:
            self._check_control(first, opcode, length)
        else:
            self._check_data(first, opcode)
            if length == 126:
                start = position + 8
            elif length == 127:
                start = position + 14
        if start > end:
            return position
        if length >= 126:
            length = self._extended_length(length, data[position + 2 : start - 4])
        mask = data[start - 4 : start]
        if opcode >= CLOSE and start + length > end:
            return position
        if length < SMALL_FRAME and opcode != CLOSE:
            self.small_frames += 1
        if opcode >= CLOSE:
            stop = start + length
            self._control(opcode, apply_mask(mask, data[start:stop]), events)
            return stop
        if opcode != CONTINUATION:
            self._message = opcode
            self._compressed = bool(first & RSV1)
        # A compressed message is measured as it is inflated.
        if not self._compressed and self._size + length > self._max_size:
            raise WebSocketError(TOO_BIG, "message too big")
        self._fin = fin
        self._left = length
        self._mask = mask
        return self._read_payload(data, start, end, events)

    def _check_control(self, first: int, opcode: int, length: int) -> None:
        # RFC 6455, sections 5.2 and 5.5.
        if opcode > PONG:
            raise WebSocketError(PROTOCOL_ERROR, "unknown opcode")
        if first & 0x70:
            raise WebSocketError(PROTOCOL_ERROR, "reserved bits set")
        if not first & FIN:
            raise WebSocketError(PROTOCOL_ERROR, "fragmented control frame")
        if length > 125:
            raise WebSocketError(PROTOCOL_ERROR, "control frame too long")

    def _check_data(self, first: int, opcode: int) -> None:
        if opcode > BINARY:
            raise WebSocketError(PROTOCOL_ERROR, "unknown opcode")
        # RFC 7692, section 6.1: RSV1 belongs to the first frame of a message alone.
        allowed = RSV1 if self._inflater is not None and opcode != CONTINUATION else 0
        if first & 0x70 & ~allowed:
            raise WebSocketError(PROTOCOL_ERROR, "reserved bits set")
        if (opcode == CONTINUATION) != (self._message != CONTINUATION):
            raise WebSocketError(PROTOCOL_ERROR, "wrong fragmentation")

    def _extended_length(self, marker: int, encoded: bytes) -> int:
        # RFC 6455, section 5.2: the minimal number of bytes, and the most significant bit 0.
        length = int.from_bytes(encoded, "big")
        if length < 126 or (marker == 127 and length < 1 << 16) or length >> 63:
            raise WebSocketError(PROTOCOL_ERROR, "wrong length encoding")
        return length

    def _control(self, opcode: int, payload: bytes, events: list[Event]) -> None:
        if opcode == PING:
            events.append(Ping(payload))
        elif opcode == PONG:
            events.append(Pong(payload))
        else:
            events.append(_parse_close(payload))

    def _read_payload(self, data: bytes, start: int, end: int, events: list[Event]) -> int:
        """Take what is there of the current frame's payload; complete the message where it ends."""
        stop = min(start + self._left, end)
        chunk = apply_mask(self._mask, data[start:stop])
        self._left -= stop - start
        frame_done = not self._left
        if not frame_done:
            shift = (stop - start) % 4
            self._mask = self._mask[shift:] + self._mask[:shift]
        final = frame_done and self._fin
        if self._compressed:
            assert self._inflater is not None
            chunk = self._inflater.inflate(chunk, final=final, limit=self._max_size - self._size)
        self._size += len(chunk)
        if final and self._collected is None:
            # The whole message in one piece.
            events.append(chunk.decode() if self._message == TEXT else chunk)
            self._message = CONTINUATION
            self._size = 0
        else:
            self._collect(chunk, final, events)
        return stop

    def _collect(self, chunk: bytes, final: bool, events: list[Event]) -> None:
        # Into one growing buffer: a list, and StringIO too, would hold an object for each fragment, however small.
        if self._collected is None:
            self._collected = bytearray()
            self._decoder = codecs.getincrementaldecoder("utf-8")() if self._message == TEXT else None
        if self._decoder is not None:
            # Bad UTF-8 is found at once and not a megabyte later.
            self._decoder.decode(chunk)
        self._collected += chunk
        share = self._share
        if share is not None:
            held = 0 if final else len(self._collected)
            if not share.fits(held):
                raise WebSocketError(TRY_AGAIN_LATER, "too many unfinished messages")
            share.resize(held)
        if final:
            events.append(bytes(self._collected) if self._decoder is None else self._collected.decode())
            self._message = CONTINUATION
            self._size = 0
            self._collected = self._decoder = None


def _parse_close(payload: bytes) -> Close:
    if not payload:
        return Close(NO_STATUS, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not is_close_code(code):
        raise WebSocketError(PROTOCOL_ERROR, "invalid close frame")
    return Close(code, payload[2:].decode())


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
    """Return a text frame; ``text`` has no lone surrogates."""
    payload = text.encode()
    size = len(payload)
    return _SHORT_TEXT[size] + payload if size < 126 else build_frame(TEXT, payload)


def to_utf8(text: str) -> bytes:
    """Encode any ``str``: a lone surrogate becomes U+FFFD, as a browser's own ``WebSocket.send`` does it."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def binary_frame(payload: bytes) -> bytes:
    """Return a binary frame."""
    return build_frame(BINARY, payload)


def ping_frame(payload: bytes = b"") -> bytes:
    """Return a ping; at most 125 bytes of payload."""
    return build_frame(PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """Return the answer to a ping."""
    return build_frame(PONG, payload)


def close_frame(code: int = NO_STATUS, reason: str = "") -> bytes:
    """Return a close frame; 1005 gives one without a code, and the reason is cut to the 123 bytes that fit."""
    if code == NO_STATUS:
        return build_frame(CLOSE, b"")
    text = to_utf8(reason)[:123].decode("utf-8", "ignore")
    return build_frame(CLOSE, code.to_bytes(2, "big") + text.encode())
