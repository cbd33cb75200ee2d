"""The frame parser with permessage-deflate, and the fast path that reads ordinary messages."""

from collections.abc import Iterable
from typing import Any

from sockjs_tornado.exceptions import WebSocketError
from sockjs_tornado.transports.websocket_receiver import read_messages
from sockjs_tornado.wire import websocket
from sockjs_tornado.wire.deflate import Parameters, RawInflater
from sockjs_tornado.wire.frames import (
    BINARY,
    CLOSE,
    NO_STATUS,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    Close,
    Ping,
    Pong,
    build_frame,
    close_frame,
    text_frame,
)
from sockjs_tornado.wire.payloads import decode_websocket_payload
from sockjs_tornado.wire.scanner import CloseFrameScanner
from sockjs_tornado.wire.websocket import Event, FrameParser

from ..reference import close_end, events_of
from ..target import replaced

#: Maximum message sizes, selected by the last two bits of an input's first byte.
SIZES = (5, 125, 1000, 1 << 20)
#: Bits of the first byte: compression, and context takeover.
COMPRESSED, TAKEOVER = 4, 8
#: Maximum size of the parser's buffer: a header and a control frame's payload.
MAX_BUFFER = 14 + 125
MASK = b"\x01\x02\x03\x04"
#: A complete frame that an earlier read has left behind the data in the buffer.
STALE = b'\x81\x85\0\0\0\0["x"]'

PYTHON = {
    "read_text_frames": websocket._read_text_frames_python,
    "apply_mask": websocket._apply_mask_python,
}


class Target:
    """``FrameParser.feed``, with any bytes; the first byte selects the options, the second the size of the chunks.

    - It returns events and never raises. A violation (1002, 1007 or 1009) or a close frame is the last event; data
    after
      it is ignored.
    - Without compression, the events are those of the reference implementation of RFC 6455.
    - The events are the same in one chunk, in chunks of any size, and byte by byte, in C and in Python. Exception: if a
      compressed message has two faults, one of them being too long, either may be found first.
    - No message is longer than the limit, and at most a header or a control frame is buffered.
    - Each event can be encoded again as a client's frame, which gives the same event, and as the server's frame.

    ``read_messages`` and ``CloseFrameScanner`` get the same data: see :func:`check_messages` and :func:`check_scanner`.
    """

    def __call__(self, data: bytes) -> None:
        """Parse a stream in all ways."""
        if len(data) < 2:
            return
        options, step, stream = data[0], data[1] or 1, data[2:]
        events = check_events(options, [stream])
        expected = comparable(events, options)
        if not options & COMPRESSED:
            codes = [event.code if isinstance(event, WebSocketError) else (type(event), event) for event in events]
            assert codes == events_of(stream, SIZES[options & 3])
        cut = [stream[start : start + step] for start in range(0, len(stream), step)]
        single = [stream[start : start + 1] for start in range(len(stream))]
        assert comparable(check_events(options, cut), options) == expected, "chunks make a difference"
        with replaced(websocket, **PYTHON):
            assert comparable(check_events(options, [stream])) == comparable(events), "C makes a difference"
            assert comparable(check_events(options, single), options) == expected, "single bytes make a difference"
        for event in events:
            check_event(event, SIZES[options & 3])
        check_messages(stream, SIZES[options & 3])
        for pieces in ([stream], cut, single):
            check_scanner(options, pieces)


def parser_of(options: int) -> FrameParser:
    """Return a new parser."""
    inflater = None
    if options & COMPRESSED:
        takeover = bool(options & TAKEOVER)
        inflater = RawInflater(Parameters(not takeover, not takeover, None, None))
    return FrameParser(SIZES[options & 3], inflater)


def feed(parser: FrameParser, piece: bytes) -> list[Event]:
    """Return the events of a chunk, which is fed in parts if much of it is compressed."""
    events = parser.feed(piece)
    while parser.unparsed:
        assert parser.at_boundary
        piece = piece[-parser.unparsed :]
        events += parser.feed(piece)
    return events


def check_events(options: int, pieces: Iterable[bytes]) -> list[Event]:
    """Return the events of all chunks, after checking the order of the events."""
    parser = parser_of(options)
    events: list[Event] = []
    for piece in pieces:
        events += feed(parser, piece)
        assert len(parser._buffer) < MAX_BUFFER
    assert not any(isinstance(event, Close | WebSocketError) for event in events[:-1])
    if events and isinstance(events[-1], Close | WebSocketError):
        assert parser.feed(b"\x81\x80\0\0\0\0") == []
    return events


def check_scanner(options: int, pieces: list[bytes]) -> None:
    """Check ``CloseFrameScanner``, alone and after a parser that has found a violation.

    It finds the first close frame as soon as it is complete, and buffers less than a header.
    """
    stream = b"".join(pieces)
    end = close_end(stream)
    scanner = CloseFrameScanner()
    seen = 0
    for piece in pieces:
        seen += len(piece)
        assert scanner.feed(piece) is (end is not None and seen >= end)
        assert len(scanner._header) < 10
    parser = parser_of(options)
    for number, piece in enumerate(pieces):
        if any(isinstance(event, Close | WebSocketError) for event in feed(parser, piece)):
            behind = parser.scanner()
            for more in pieces[number + 1 :]:
                behind.feed(more)
            assert behind.found is scanner.found
            assert len(behind._header) < 10
            break


def comparable(events: Iterable[Event], options: int = 0) -> list[Any]:
    """Return events in a form that can be compared."""
    return [
        (type(event), event)
        if not isinstance(event, WebSocketError)
        else "fault"
        if options & COMPRESSED and event.code != PROTOCOL_ERROR
        else (event.code, event.reason)
        for event in events
    ]


def check_messages(stream: bytes, limit: int) -> int:
    """Check ``read_messages`` and return the position at which it stops.

    - It returns the messages of all frames before that position, which is between two messages.
    - It returns nothing of the frame at which it stops, and stops there again if it is called again.
    - It ignores data after the given length, and does not modify the buffer.
    """
    memory = bytearray(stream + STALE)
    messages: list[Any] = []
    end = read_messages(memory, len(stream), limit, messages)
    assert memory == stream + STALE
    parser = FrameParser(limit)
    texts = parser.feed(stream[:end])
    assert parser.at_boundary
    assert all(type(text) is str for text in texts)
    assert messages == [message for text in texts for message in decode_websocket_payload(str(text), 1 << 20)]
    assert all(type(message) is str for message in messages)
    rest = bytearray(stream[end:])
    assert read_messages(rest, len(rest), limit, messages) == 0, "it continues where it stopped before"
    assert len(messages) >= len(texts)
    return end


def check_event(event: Event, limit: int) -> None:
    """Check that an event is valid, and encode it again."""
    if isinstance(event, WebSocketError):
        assert event.code in (1002, 1007, 1009)
        # Code and reason must fit into a close frame.
        assert read_frame(close_frame(event.code, event.reason))[0] == CLOSE
        return
    opcode, payload, frame = encode_event(event)
    assert len(payload) <= (limit if opcode in (TEXT, BINARY) else 125)
    assert comparable(FrameParser(limit).feed(client_frame(opcode, payload))) == comparable([event])
    assert read_frame(frame) == (opcode, payload)


def encode_event(event: Event) -> tuple[int, bytes, bytes]:
    """Return opcode and payload of an event, and the server's frame for it."""
    if isinstance(event, str):
        return TEXT, event.encode(), text_frame(event)
    if isinstance(event, bytes):
        return BINARY, event, build_frame(BINARY, event)
    if isinstance(event, Ping):
        return PING, event.payload, build_frame(PING, event.payload)
    if isinstance(event, Pong):
        return PONG, event.payload, build_frame(PONG, event.payload)
    assert isinstance(event, Close)
    payload = b"" if event.code == NO_STATUS else event.code.to_bytes(2, "big") + event.reason.encode()
    return CLOSE, payload, close_frame(event.code, event.reason)


def client_frame(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    key = (MASK * (size // 4 + 1))[:size]
    return head + MASK + (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def read_frame(data: bytes) -> tuple[int, bytes]:
    """Parse a server's frame, which must be final, unmasked, complete, and of minimal length."""
    first, size, rest = data[0], data[1], data[2:]
    assert first & 0xF0 == 0x80
    if size == 126:
        size, rest = int.from_bytes(rest[:2], "big"), rest[2:]
        assert size > 125
    elif size == 127:
        size, rest = int.from_bytes(rest[:8], "big"), rest[8:]
        assert size >= 1 << 16
    assert len(rest) == size
    return first & 15, rest
