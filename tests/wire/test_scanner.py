"""The scanner for a client's close frame: on every split, of any bytes, by itself and behind a parser."""

import pytest
from client import BINARY, CLOSE, PING, PONG, TEXT, frame
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import least_memory, traced_memory

from sockjs_tornado.exceptions import WebSocketError
from sockjs_tornado.wire.deflate import Parameters, RawInflater
from sockjs_tornado.wire.frames import Close
from sockjs_tornado.wire.scanner import CloseFrameScanner
from sockjs_tornado.wire.websocket import FrameParser

from .client import NO_LIMIT, split
from .streams import EDGES, cuts, legal_streams, wild_frames
from .test_websocket import BROKEN_RULES, written

#: The most that a header needs before the length is known.
LONGEST_HEADER = 2 + 8


def close_end(stream: bytes, left: int = 0) -> int | None:
    """Return where the first close frame of a stream ends, None if it does not, by a slow reading of section 5.2.

    Args:
        stream: Frames that may break all other rules.
        left: Bytes before the first one.
    """
    rest = stream[left:]
    while len(rest) >= 2:
        opcode, has_mask, size = rest[0] % 16, rest[1] >= 128, rest[1] % 128
        octets = {126: 2, 127: 8}.get(size, 0)
        head = 2 + octets + 4 * has_mask
        if octets:
            size = int.from_bytes(rest[2 : 2 + octets], "big")
        if len(rest) < head + size:
            return None
        rest = rest[head + size :]
        if opcode == CLOSE:
            return len(stream) - len(rest)
    return None


def assert_found(stream: bytes, pieces: list[bytes], left: int = 0) -> None:
    """See that a scanner finds just what is there, once it has come, and keeps no more than most of a header."""
    end = close_end(stream, left)
    scanner = CloseFrameScanner(left)
    seen = 0
    for piece in pieces:
        seen += len(piece)
        assert scanner.feed(piece) is scanner.found is (end is not None and seen >= end)
        assert len(scanner._header) < LONGEST_HEADER
        assert not scanner.at_boundary


#: What a client may have under way when the server closes, and what it must not send at all.
SKIPPED = [
    *(
        frame(opcode, b"\x88\x80" * 30, mask=mask)
        for opcode in range(16)
        if opcode != CLOSE
        for mask in (None, bytes(4))
    ),
    *(frame(BINARY, b"x" * size) for size in EDGES[:-3]),
    *(frame(TEXT, b"\xff", fin=False, reserved=reserved) for reserved in range(8)),
    *(frame(PING, b"a", length=written(1, octets)) for octets in (2, 8)),
]
CLOSES = [
    frame(CLOSE),
    frame(CLOSE, b"\x03\xe8"),
    frame(CLOSE, b"\x03", mask=None),
    frame(CLOSE, b"\x00\x00\xff", fin=False, reserved=7),
    frame(CLOSE, b"\x03\xe8".ljust(126)),
    frame(CLOSE, b"\x03\xe8", length=written(2, 8)),
]


@pytest.mark.parametrize("close", CLOSES, ids=repr)
def test_the_close_frame_is_found_on_every_split(close: bytes) -> None:
    stream = b"".join(SKIPPED) + close + frame(TEXT, b"more")
    assert close_end(stream) == len(stream) - len(frame(TEXT, b"more"))
    for cut in range(len(stream)):
        assert_found(stream, [stream[:cut], stream[cut:]])
    for size in (1, 2, 3, 7, 14):
        assert_found(stream, [stream[start : start + size] for start in range(0, len(stream), size)])


def test_no_close_frame_is_found_if_there_is_none() -> None:
    stream = b"".join(SKIPPED)
    assert close_end(stream) is None
    for cut in range(len(stream)):
        assert_found(stream, [stream[:cut], stream[cut:]])
    # A length that no frame can have is one that never ends.
    scanner = CloseFrameScanner()
    scanner.feed(frame(TEXT, length=written((1 << 64) - 1, 8)))
    for _ in range(100):
        assert not scanner.feed(frame(CLOSE) * 1000)


@settings(deadline=None, max_examples=50)
@given(
    stream=st.lists(st.one_of(wild_frames(), st.binary(max_size=40)), max_size=6).map(b"".join),
    left=st.integers(0, 60),
    places=cuts,
)
def test_of_any_bytes_a_scanner_finds_what_is_there_and_keeps_no_more_than_a_header(
    stream: bytes, left: int, places: list[int]
) -> None:
    assert_found(stream, split(stream, places), left)
    assert_found(stream[:300], [stream[i : i + 1] for i in range(len(stream[:300]))], left)


def scanned(parser: FrameParser, pieces: list[bytes]) -> bool:
    """Give pieces to a parser, and to its scanner once the parser is through; tell whether a close frame was found."""
    pieces = list(pieces)
    while pieces:
        if any(isinstance(event, WebSocketError | Close) for event in parser.feed(pieces.pop(0))):
            break
    scanner = parser.scanner()
    for piece in pieces:
        scanner.feed(piece)
    assert parser.scanner() is scanner
    assert parser.feed(frame(TEXT, b"more")) == []
    assert len(scanner._header) < LONGEST_HEADER
    return scanner.found


@pytest.mark.parametrize("streams", BROKEN_RULES.values(), ids=BROKEN_RULES)
def test_after_a_violation_the_close_frame_is_found_on_every_split(streams: list[bytes]) -> None:
    legal = frame(TEXT, b"legal")
    for broken in streams:
        stream = legal + broken + legal + frame(CLOSE, b"\x03\xea")
        expected = close_end(stream) is not None
        cuts_of_it = {*range(min(len(stream), 200)), *range(max(len(stream) - 60, 0), len(stream))}
        for cut in cuts_of_it:
            assert scanned(FrameParser(NO_LIMIT), [stream[:cut], stream[cut:]]) is expected
        assert scanned(FrameParser(NO_LIMIT), [stream[:-1]]) is (close_end(stream[:-1]) is not None)


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"x" * 100], ids=repr)
@pytest.mark.parametrize("fin", [True, False], ids=["whole", "fragment"])
def test_after_bad_contents_the_close_frame_is_found_on_every_split(bad: bytes, fin: bool) -> None:
    # Its payload is what a close frame looks like.
    message = frame(TEXT, bad + frame(CLOSE) * 8, fin=fin, mask=bytes(4))
    stream = frame(TEXT, b"legal") + message + frame(PING) + frame(CLOSE)
    for cut in range(len(stream)):
        for pieces in ([stream[:cut], stream[cut:]], [stream[:9], *(stream[i : i + 1] for i in range(9, len(stream)))]):
            assert scanned(FrameParser(80), pieces)
        assert scanned(FrameParser(80), [stream[:cut]]) is (cut == len(stream))


def test_after_bad_compression_the_close_frame_is_found() -> None:
    bad = frame(TEXT, b"\xff" * 100, reserved=4, mask=bytes(4))
    stream = bad + bad + frame(CLOSE)
    for cut in range(len(stream)):
        assert scanned(
            FrameParser(NO_LIMIT, RawInflater(Parameters(True, True, None, None))), [stream[:cut], stream[cut:]]
        )


@settings(deadline=None, max_examples=50)
@given(stream=legal_streams(), cut=st.integers(0, 400), places=cuts)
def test_a_scanner_continues_at_the_position_of_its_parser(stream: bytes, cut: int, places: list[int]) -> None:
    """As when the server closes in the middle of anything."""
    parser = FrameParser(NO_LIMIT)
    parser.feed(stream[:cut])
    scanner = parser.scanner()
    assert not parser.at_boundary
    for piece in split(stream[cut:] + frame(PONG) + frame(CLOSE), places):
        scanner.feed(piece)
    assert scanner.found


def test_a_scanner_keeps_nothing_of_what_it_skips() -> None:
    payload = b"x" * (1 << 20)
    stream = memoryview(frame(BINARY, payload) + frame(CLOSE))

    def peak() -> int:
        scanner = CloseFrameScanner()
        with traced_memory() as traced:
            for start in range(0, len(stream), 1000):
                scanner.feed(bytes(stream[start : start + 1000]))
            most = traced()[1]
        assert scanner.found
        return most

    assert least_memory(peak, 8000) < 8000
