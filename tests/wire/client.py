"""Streams of websocket frames, and how wsproto parses them."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from wsproto.extensions import Extension
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from sockjs_tornado.exceptions import WebSocketError
from sockjs_tornado.wire.frames import Close, Ping, Pong
from sockjs_tornado.wire.websocket import Event, FrameParser

#: More than any message of these tests has.
NO_LIMIT = (1 << 63) - 2

#: Enough bytes to complete any header, with one of the payload.
PADDING = b"\xff" * 14


def masked(mask: bytes, payload: bytes) -> bytes:
    """Return octet i XOR octet i modulo 4 of the mask (section 5.3)."""
    return bytes(octet ^ mask[i % 4] for i, octet in enumerate(payload))


def split(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut a stream at the positions, which may be in any order, beyond the end, or twice the same."""
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[start:stop] for start, stop in pairwise(places)]


def feed(parser: FrameParser, pieces: Iterable[bytes]) -> list[Event]:
    """Return all events of all pieces."""
    events = []
    for piece in pieces:
        events += parser.feed(piece)
        while parser.unparsed:
            piece = piece[-parser.unparsed :]
            events += parser.feed(piece)
    return events


def plain(events: Iterable[Event]) -> list[tuple[object, ...]]:
    """Return events such that what is equal is the same: a ping is no pong, and of a violation the code counts."""
    return [_plain(event) for event in events]


def _plain(event: Event) -> tuple[object, ...]:
    if isinstance(event, WebSocketError):
        return ("violation", event.code)
    if isinstance(event, tuple):
        return (type(event).__name__, *event)
    return (type(event).__name__, event)


def is_over(events: Sequence[Event]) -> bool:
    """Tell whether nothing may come after these events."""
    return bool(events) and isinstance(events[-1], WebSocketError | Close)


class Reference:
    """wsproto as a server, in the words of ``FrameParser``: its partial messages are joined."""

    def __init__(self, extensions: Sequence[Extension] = ()) -> None:
        self._protocol = FrameProtocol(client=False, extensions=list(extensions))
        self._text: list[str] = []
        self._binary: list[bytes] = []

    def feed(self, data: bytes) -> list[Event]:
        """Return the events of the next bytes."""
        events: list[Event] = []
        self._protocol.receive_bytes(data)
        try:
            for received in self._protocol.received_frames():
                payload: Any = received.payload
                if received.opcode is Opcode.PING:
                    events.append(Ping(bytes(payload)))
                elif received.opcode is Opcode.PONG:
                    events.append(Pong(bytes(payload)))
                elif received.opcode is Opcode.CLOSE:
                    events.append(Close(int(payload[0]), payload[1]))
                elif received.opcode is Opcode.TEXT:
                    self._text.append(payload)
                    if received.message_finished:
                        events.append("".join(self._text))
                        self._text = []
                else:
                    self._binary.append(bytes(payload))
                    if received.message_finished:
                        events.append(b"".join(self._binary))
                        self._binary = []
        except ParseFailed as failure:
            events.append(WebSocketError(int(failure.code), str(failure)))
        return events


def assert_like_reference(stream: bytes, parser: FrameParser, extensions: Sequence[Extension] = ()) -> list[Event]:
    """Compare the parser with wsproto on a stream and return the events.

    The two judge a header at different bytes of it: this parser refuses what its first two bytes show, and a wrong
    length when the header is complete, wsproto the other way round. Where a stream ends in between, the one that has
    not judged yet is given some more bytes.
    """
    reference = Reference(extensions)
    events, expected = parser.feed(stream), reference.feed(stream)
    if is_over(expected) and not is_over(events):
        events += parser.feed(PADDING)
    elif is_over(events) and not is_over(expected):
        expected += reference.feed(PADDING)
    assert plain(events) == plain(expected), stream.hex(" ")
    return events
