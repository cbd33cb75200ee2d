"""An incremental parser for the frames of websocket clients (RFC 6455), without I/O.

Feed the parser with received data; it returns the events that the data completes::

    parser = FrameParser(max_size=1_000_000)
    for event in parser.feed(data):
        ...  # str | bytes | Ping | Pong | Close | WebSocketError

A text message is a ``str``, a binary message is ``bytes``. A protocol violation is a :class:`WebSocketError` with the
close code for the connection; it is the last event of the list, after the events that precede the violation. After a
violation or a close frame, the parser ignores all further data. :meth:`FrameParser.scanner` then returns a reader that
looks for the peer's close frame.
"""

import codecs
from collections.abc import Callable
from typing import Any, Final

from ..exceptions import WebSocketError
from .budget import BudgetShare, ByteBudget
from .deflate import RawInflater
from .frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    INVALID_DATA,
    MASK,
    PONG,
    PROTOCOL_ERROR,
    RSV1,
    TEXT,
    TOO_BIG,
    TRY_AGAIN_LATER,
    Close,
    Ping,
    Pong,
    parse_control,
)
from .scanner import CloseFrameScanner

#: Bytes that a feed may decompress before it leaves the following frames to the next one.
MAX_INFLATED: Final = 64 * 1024

#: Frames with a smaller payload count in :attr:`FrameParser.small_frames`. Browsers fragment only longer messages.
SMALL_FRAME: Final = 1024


Event = str | bytes | Ping | Pong | Close | WebSocketError


def _apply_mask_python(mask: bytes, data: bytes) -> bytes:
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


# Tornado's wheels contain this function in C. Without it, mask with big integers, which is faster than a loop.
try:
    from tornado.speedups import websocket_mask as _apply_mask_c
except ImportError:  # pragma: no cover - depends on how Tornado was built
    apply_mask: Callable[[bytes, bytes], bytes] = _apply_mask_python
else:
    apply_mask = _apply_mask_c


def _read_text_frames_python(data: bytes, position: int, max_size: int, events: list[Any]) -> int:
    """Append the text of each ordinary frame from ``position`` on to ``events`` and return where the last one ends.

    A frame is ordinary if it is a complete, final, masked text frame with less than 126 and at most ``max_size`` bytes.
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
except ImportError:  # the C module was not built
    read_text_frames = _read_text_frames_python


class FrameParser:
    """Incremental parser of client frames (RFC 6455, section 5).

    Args:
        max_size: Maximum size of a message in bytes, after decompression. A longer message is a violation (1009).
        inflater: The decompressor if permessage-deflate was negotiated. Without one, RSV1 is a violation.
        budget: Counts the bytes of incomplete messages. If it has no room for more, that is a violation (1013).

    Attributes:
        at_boundary: Whether the next byte starts a new message, so that another parser may process it.
        payload_left: Missing bytes of the current frame's payload.
        small_frames: Number of frames with less than 1 KiB, except close frames. Even an empty frame costs time.
        unparsed: Number of bytes at the end of the last feed's data that must be fed again. It is 0, unless the bytes
            before have decompressed to at least 64 KiB, because a few bytes may become a thousand times as many.
    """

    __slots__ = (
        "_budget",
        "_buffer",
        "_collected",
        "_compressed",
        "_decoder",
        "_fin",
        "_inflated",
        "_inflater",
        "_mask",
        "_max_size",
        "_message",
        "_scanner",
        "_share",
        "_size",
        "at_boundary",
        "payload_left",
        "small_frames",
        "unparsed",
    )

    def __init__(self, max_size: int, inflater: RawInflater | None = None, budget: ByteBudget | None = None) -> None:
        self._max_size = max_size
        self._inflater = inflater
        self._budget = budget
        # Created for the first message that does not arrive in one piece.
        self._share: BudgetShare | None = None
        self._buffer = b""
        # Created after a violation or a close frame. If it is set, the parser ignores all data.
        self._scanner: CloseFrameScanner | None = None
        # The current frame: the missing bytes of its payload, and its mask, rotated to the next byte.
        self.payload_left = 0
        self._mask = b""
        self._fin = True
        # The current message: its opcode, or CONTINUATION if there is no incomplete message.
        self._message = CONTINUATION
        self._compressed = False
        self._size = 0
        self._collected: bytearray | None = None
        self._decoder: codecs.IncrementalDecoder | None = None
        self.at_boundary = True
        self.small_frames = 0
        self.unparsed = 0
        # Number of bytes that the current feed has decompressed.
        self._inflated = 0

    def feed(self, data: bytes) -> list[Event]:
        """Parse the next bytes from the peer and return the events that they complete, in order."""
        events: list[Event] = []
        self.unparsed = self._inflated = 0
        if self._scanner is not None:
            return events
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        left = self.payload_left
        self.at_boundary = False
        position = 0
        end = len(data)
        try:
            if self.payload_left:
                position = self._read_payload(data, 0, end, events)
            while end - position >= 2:
                if not self._message:
                    # Fast path: most frames are short text frames.
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
                if self._inflated >= MAX_INFLATED:
                    self.unparsed = end - position
                    end = position
        except UnicodeDecodeError:
            events.append(WebSocketError(INVALID_DATA, "invalid UTF-8"))
            self._stop(left, data)
        except WebSocketError as error:
            events.append(error)
            self._stop(left, data)
        else:
            # At most a header or a control frame, so that it is cheap to join it with the next data.
            self._buffer = data[position:end]
            self.at_boundary = position == end and not self._message
        return events

    @property
    def is_within_message(self) -> bool:
        """Whether a message is incomplete."""
        return self._scanner is None and self._message != CONTINUATION

    def scanner(self) -> CloseFrameScanner:
        """Return a reader that skips all further data up to the peer's close frame.

        After a violation, the reader starts with the invalid frame. The parser ignores all further data.
        """
        if self._scanner is None:
            self._stop(self.payload_left, self._buffer)
        assert self._scanner is not None
        return self._scanner

    def _stop(self, left: int, data: bytes) -> None:
        """Stop parsing and pass the data of this feed, which contains no earlier close frame, to a scanner.

        ``left`` is the position of the first frame boundary in ``data``, possibly beyond its end.
        """
        self._scanner = CloseFrameScanner(left)
        self._scanner.feed(data)
        self.at_boundary = False
        self._buffer = b""
        self._inflater = self._collected = self._decoder = None
        if self._share is not None:
            self._share.resize(0)

    def _read_frame(self, data: bytes, position: int, end: int, events: list[Event]) -> int:
        """Read a frame's header and the available part of its payload. Return the end of what was read.

        Return ``position`` itself if the header, or a control frame, is incomplete.
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
            events.append(parse_control(opcode, apply_mask(mask, data[start:stop])))
            return stop
        if opcode != CONTINUATION:
            self._message = opcode
            self._compressed = bool(first & RSV1)
        # The size of a compressed message is checked during decompression.
        if not self._compressed and self._size + length > self._max_size:
            raise WebSocketError(TOO_BIG, "message too big")
        self._fin = fin
        self.payload_left = length
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
        # RFC 7692, section 6.1: RSV1 is allowed only in the first frame of a message.
        allowed = RSV1 if self._inflater is not None and opcode != CONTINUATION else 0
        if first & 0x70 & ~allowed:
            raise WebSocketError(PROTOCOL_ERROR, "reserved bits set")
        if (opcode == CONTINUATION) != (self._message != CONTINUATION):
            raise WebSocketError(PROTOCOL_ERROR, "wrong fragmentation")

    def _extended_length(self, marker: int, encoded: bytes) -> int:
        # RFC 6455, section 5.2: the encoding must be minimal, and the most significant bit must be 0.
        length = int.from_bytes(encoded, "big")
        if length < 126 or (marker == 127 and length < 1 << 16) or length >> 63:
            raise WebSocketError(PROTOCOL_ERROR, "wrong length encoding")
        return length

    def _read_payload(self, data: bytes, start: int, end: int, events: list[Event]) -> int:
        """Read the available part of the current frame's payload, and complete the message if this is its end."""
        stop = min(start + self.payload_left, end)
        chunk = apply_mask(self._mask, data[start:stop])
        self.payload_left -= stop - start
        frame_done = not self.payload_left
        if not frame_done:
            shift = (stop - start) % 4
            self._mask = self._mask[shift:] + self._mask[:shift]
        final = frame_done and self._fin
        if self._compressed:
            assert self._inflater is not None
            chunk = self._inflater.inflate(chunk, final=final, limit=self._max_size - self._size)
            self._inflated += len(chunk)
        self._size += len(chunk)
        if final and self._collected is None:
            # The message consists of one piece.
            events.append(chunk.decode() if self._message == TEXT else chunk)
            self._message = CONTINUATION
            self._size = 0
        else:
            self._collect(chunk, final, events)
        return stop

    def _collect(self, chunk: bytes, final: bool, events: list[Event]) -> None:
        # Use one growing buffer. A list or a StringIO would need an object per fragment, however small.
        if self._collected is None:
            self._collected = bytearray()
            self._decoder = codecs.getincrementaldecoder("utf-8")() if self._message == TEXT else None
        if self._decoder is not None:
            # Reject invalid UTF-8 immediately, not at the end of the message.
            self._decoder.decode(chunk)
        self._collected += chunk
        if self._budget is not None:
            if self._share is None:
                self._share = BudgetShare(self._budget)
            size = 0 if final else len(self._collected)
            if not self._share.fits(size):
                raise WebSocketError(TRY_AGAIN_LATER, "too many unfinished messages")
            self._share.resize(size)
        if final:
            events.append(bytes(self._collected) if self._decoder is None else self._collected.decode())
            self._message = CONTINUATION
            self._size = 0
            self._collected = self._decoder = None
