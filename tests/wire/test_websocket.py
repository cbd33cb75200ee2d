"""The frame parser and the frame builders (RFC 6455), against the standard and against wsproto."""

import itertools
import zlib
from collections.abc import Callable

import pytest
from client import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory import least_memory, traced_memory
from wsproto.frame_protocol import FrameProtocol, Opcode

from sockjs_tornado.exceptions import WebSocketError
from sockjs_tornado.wire import websocket
from sockjs_tornado.wire.deflate import Parameters, RawInflater
from sockjs_tornado.wire.frames import Close, Ping, Pong
from sockjs_tornado.wire.websocket import Event, FrameParser, apply_mask

from .client import NO_LIMIT, assert_like_reference, feed, masked, plain, split
from .streams import (
    EDGES,
    REGISTERED_CODES,
    cuts,
    legal_streams,
    masks,
    mutated_streams,
    payloads,
    wild_frames,
)

PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009


def violation(code: int) -> tuple[object, ...]:
    """Return what ``plain`` makes of a violation."""
    return ("violation", code)


def is_1014(event: object) -> bool:
    return isinstance(event, Close) and event.code == 1014


# --- against wsproto --------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(stream=legal_streams(), places=cuts)
def test_legal_streams_give_what_wsproto_makes_of_them(stream: bytes, places: list[int]) -> None:
    events = assert_like_reference(stream, FrameParser(NO_LIMIT))
    assert not any(isinstance(event, WebSocketError) for event in events)
    assert plain(feed(FrameParser(NO_LIMIT), split(stream, places))) == plain(events)


@settings(deadline=None, max_examples=50)
@given(stream=mutated_streams(), places=cuts)
def test_streams_with_one_mutation_get_the_verdict_of_wsproto(stream: bytes, places: list[int]) -> None:
    assert_like_unless_1014(stream, places)


@settings(deadline=None, max_examples=50)
@given(stream=st.lists(wild_frames(), min_size=1, max_size=5).map(b"".join), places=cuts)
def test_wild_frames_get_the_verdict_of_wsproto(stream: bytes, places: list[int]) -> None:
    assert_like_unless_1014(stream, places)


@settings(deadline=None, max_examples=60)
@given(stream=st.binary(max_size=300), places=cuts)
@example(stream=b"\x88\x82\0\0\0\0\x03\xf6", places=[])
def test_garbage_gets_the_verdict_of_wsproto(stream: bytes, places: list[int]) -> None:
    assert_like_unless_1014(stream, places)


def assert_like_unless_1014(stream: bytes, places: list[int]) -> None:
    """Compare with wsproto, and the stream in pieces with the stream in one; at most one violation, at the end."""
    whole = FrameParser(NO_LIMIT).feed(stream)
    pieces = feed(FrameParser(NO_LIMIT), split(stream, places))
    assert [*map(repr, pieces)] == [*map(repr, whole)]
    assert not any(isinstance(event, WebSocketError | Close) for event in whole[:-1])
    # The known exception: 1014 (bad gateway) is registered with IANA, and wsproto does not know it.
    if not any(map(is_1014, whole)):
        assert_like_reference(stream, FrameParser(NO_LIMIT))


@settings(deadline=None, max_examples=50)
@given(
    stream=st.one_of(legal_streams(), st.lists(wild_frames(), max_size=3).map(b"".join)).filter(lambda s: len(s) < 3000)
)
def test_one_byte_at_a_time_gives_the_same_events(stream: bytes) -> None:
    whole = FrameParser(NO_LIMIT).feed(stream)
    singly = feed(FrameParser(NO_LIMIT), (stream[i : i + 1] for i in range(len(stream))))
    assert [*map(repr, singly)] == [*map(repr, whole)]


@settings(deadline=None, max_examples=50)
@given(stream=legal_streams(), places=cuts, limit=st.integers(0, 300))
def test_a_limit_judges_the_same_however_the_stream_is_split(stream: bytes, places: list[int], limit: int) -> None:
    whole = FrameParser(limit).feed(stream)
    assert [*map(repr, feed(FrameParser(limit), split(stream, places)))] == [*map(repr, whole)]
    # What comes before a message that is too big is the same as without the limit.
    unlimited = plain(FrameParser(NO_LIMIT).feed(stream))
    judged = plain(whole)
    if judged != unlimited:
        assert judged[-1] == violation(TOO_BIG)
        assert judged[:-1] == unlimited[: len(judged) - 1]
    sizes = [
        len(event.encode() if isinstance(event, str) else event) for event in whole if isinstance(event, str | bytes)
    ]
    assert max(sizes, default=0) <= limit


# --- legal frames -----------------------------------------------------------


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_any_size_arrives_whole(opcode: int) -> None:
    for size in EDGES:
        payload = bytes(ord("a") + i % 26 for i in range(size))
        (message,) = FrameParser(size).feed(frame(opcode, payload))
        assert message == (payload.decode() if opcode == TEXT else payload)


def test_a_message_is_not_held_back_for_the_one_after_it() -> None:
    for size in EDGES:
        one, other = frame(BINARY, b"x" * size), frame(TEXT, b"next")
        parser = FrameParser(NO_LIMIT)
        assert parser.feed(one + other[:3]) == [b"x" * size]
        assert parser.feed(other[3:]) == ["next"]


def test_control_frames_between_fragments_come_out_at_their_place() -> None:
    """Section 5.4: control frames may be injected in the middle of a fragmented message."""
    stream = [
        frame(TEXT, b"Hel", fin=False),
        frame(PING, b"are you there?"),
        frame(CONTINUATION, b"l", fin=False),
        frame(PONG, b"yes"),
        frame(CONTINUATION, b"o"),
    ]
    expected: list[Event] = [Ping(b"are you there?"), Pong(b"yes"), "Hello"]
    assert plain(FrameParser(NO_LIMIT).feed(b"".join(stream))) == plain(expected)


def test_a_close_between_fragments_ends_the_stream_without_the_message() -> None:
    stream = frame(TEXT, b"Hel", fin=False) + frame(CLOSE, b"\x03\xe8") + frame(CONTINUATION, b"lo")
    assert FrameParser(NO_LIMIT).feed(stream) == [Close(1000, "")]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_empty_fragments_are_part_of_a_message(opcode: int) -> None:
    stream = [frame(opcode, fin=False), frame(CONTINUATION, fin=False), frame(CONTINUATION, b"x"), frame(opcode)]
    expected = ["x", ""] if opcode == TEXT else [b"x", b""]
    assert FrameParser(NO_LIMIT).feed(b"".join(stream)) == expected


def test_a_character_may_be_cut_through_by_a_fragment() -> None:
    for cut in range(1, 4):
        parts = split("\U0001f600".encode(), [cut])
        stream = frame(TEXT, parts[0], fin=False) + frame(PING) + frame(CONTINUATION, parts[1])
        assert plain(FrameParser(NO_LIMIT).feed(stream)) == plain([Ping(b""), "\U0001f600"])


def test_the_examples_of_the_standard_are_understood() -> None:
    """Section 5.7."""
    parser = FrameParser(NO_LIMIT)
    assert parser.feed(bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58")) == ["Hello"]
    assert plain(parser.feed(bytes.fromhex("8a 85 37 fa 21 3d 7f 9f 4d 51 58"))) == plain([Pong(b"Hello")])


# --- illegal frames ---------------------------------------------------------


OPENED = frame(TEXT, b"begun", fin=False)


def before(opcode: int) -> bytes:
    """Return what makes a frame of the opcode legal."""
    return OPENED if opcode == CONTINUATION else b""


def written(size: int, octets: int) -> bytes:
    """Return a length in so many bytes behind the first."""
    return bytes([126 if octets == 2 else 127]) + size.to_bytes(octets, "big")


DATA, CONTROL = (TEXT, BINARY), (CLOSE, PING, PONG)

#: Each rule of sections 5.1, 5.2, 5.4 and 5.5, broken in every way.
BROKEN_RULES = {
    "a client masks": [before(opcode) + frame(opcode, mask=None) for opcode in Opcode],
    "reserved bits are 0": [
        before(opcode) + frame(opcode, reserved=reserved) for opcode in Opcode for reserved in range(1, 8)
    ],
    "other opcodes are reserved": [frame(opcode) for opcode in range(16) if opcode not in list(Opcode)],
    "other opcodes are reserved between fragments": [
        OPENED + frame(opcode) for opcode in range(16) if opcode not in list(Opcode)
    ],
    "control frames are not fragmented": [frame(opcode, fin=False) for opcode in CONTROL],
    "control frames have 125 bytes": [
        frame(opcode, b"\x03\xe8".ljust(size, b"a")) for opcode in CONTROL for size in (126, 127, 1 << 16)
    ],
    "control frames have short lengths": [
        frame(opcode, b"a", length=written(1, octets)) for opcode in CONTROL for octets in (2, 8)
    ],
    "a length up to 125 has one byte": [
        frame(opcode, b"a" * size, length=written(size, octets))
        for opcode in DATA
        for size in (0, 1, 125)
        for octets in (2, 8)
    ],
    "a length up to 65535 has two bytes more": [
        frame(opcode, b"a" * size, length=written(size, 8)) for opcode in DATA for size in (126, (1 << 16) - 1)
    ],
    "the first bit of a long length is 0": [
        frame(opcode, b"a", length=written(size, 8)) for opcode in DATA for size in (1 << 63, (1 << 64) - 1)
    ],
    "a message ends before the next begins": [
        OPENED + frame(opcode, b"new", fin=fin) for opcode in DATA for fin in (True, False)
    ],
    "a continuation continues something": [
        earlier + frame(CONTINUATION, b"stray", fin=fin)
        for earlier in (b"", frame(BINARY, b"whole"), frame(PING), OPENED + frame(CONTINUATION))
        for fin in (True, False)
    ],
}


@pytest.mark.parametrize("streams", BROKEN_RULES.values(), ids=BROKEN_RULES)
def test_a_broken_rule_is_a_protocol_error(streams: list[bytes]) -> None:
    legal = frame(TEXT, b"legal")
    for broken in streams:
        stream = legal + broken + legal
        events = assert_like_reference(stream, FrameParser(NO_LIMIT))
        assert events[0] == "legal"
        assert plain(events)[-1] == violation(PROTOCOL_ERROR)
        assert "legal" not in events[1:]
        singly = feed(FrameParser(NO_LIMIT), (stream[i : i + 1] for i in range(len(stream))))
        assert plain(singly) == plain(events)


def test_two_bytes_are_enough_to_refuse_an_unmasked_frame() -> None:
    """Section 5.1: a server closes the connection upon a frame that is not masked."""
    for first, second in itertools.product(range(256), range(128)):
        assert plain(FrameParser(NO_LIMIT).feed(bytes([first, second]))) == [violation(PROTOCOL_ERROR)]


BAD_UTF8 = {
    "continuation byte alone": b"\x80",
    "two-byte sequence cut": b"\xc3",
    "three-byte sequence cut after one": b"\xe2",
    "three-byte sequence cut after two": b"\xe2\x82",
    "four-byte sequence cut after one": b"\xf0",
    "four-byte sequence cut after two": b"\xf0\x9f",
    "four-byte sequence cut after three": b"\xf0\x9f\x98",
    "overlong NUL": b"\xc0\x80",
    "overlong two bytes": b"\xc1\xbf",
    "overlong three bytes": b"\xe0\x9f\xbf",
    "overlong four bytes": b"\xf0\x8f\xbf\xbf",
    "lowest surrogate": b"\xed\xa0\x80",
    "highest surrogate": b"\xed\xbf\xbf",
    "surrogate pair": b"\xed\xa0\xbd\xed\xb8\x80",
    "first above U+10FFFF": b"\xf4\x90\x80\x80",
    "far above U+10FFFF": b"\xf7\xbf\xbf\xbf",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "six bytes": b"\xfc\x84\x80\x80\x80\x80",
    "FE": b"\xfe",
    "FF": b"\xff",
}


@pytest.mark.parametrize("bad", BAD_UTF8.values(), ids=BAD_UTF8)
def test_bad_utf8_is_invalid_data_wherever_it_stands(bad: bytes) -> None:
    """Section 8.1: in a text message, in one frame or in fragments, arriving at once or in pieces."""
    for start in ("", "a", "\u20ac", "a" * 130):
        for end in ("", "a", "\u20ac", "a" * 130):
            assert_invalid(start.encode(), bad, end.encode())
    assert_invalid("\U0001f600".encode() * (1 << 14), bad, b"")


def assert_invalid(start: bytes, bad: bytes, end: bytes) -> None:
    payload = start + bad + end
    legal = frame(TEXT, b"legal")
    middle = len(start) + len(bad) // 2
    whole = frame(TEXT, payload)
    fragments = [frame(TEXT, payload[:middle], fin=False), frame(PING), frame(CONTINUATION, payload[middle:])]
    expected = [("str", "legal"), violation(INVALID_DATA)]
    for pieces in ([whole], split(whole, [7, len(whole) - 3]), split(whole, [len(whole) - len(payload) + middle])):
        assert plain(feed(FrameParser(NO_LIMIT), [legal, *pieces, legal])) == expected
    fragmented = plain(feed(FrameParser(NO_LIMIT), [legal, *fragments, legal]))
    assert [event for event in fragmented if event[0] != "Ping"] == expected
    assert_like_reference(legal + whole, FrameParser(NO_LIMIT))
    assert_like_reference(legal + b"".join(fragments), FrameParser(NO_LIMIT))


def test_bad_utf8_is_found_before_the_message_has_ended() -> None:
    for bad in (b"\xff", b"\xed\xa0\x80", b"\xf4\x90", b"\xe0\x80", b"\xc3("):
        begun = frame(TEXT, bad + b"a" * 1000, fin=False)[:-1000]
        assert plain(FrameParser(NO_LIMIT).feed(begun)) == [violation(INVALID_DATA)]


def test_binary_messages_may_be_any_bytes() -> None:
    stream = frame(BINARY, bytes(range(256)))
    assert FrameParser(NO_LIMIT).feed(stream) == [bytes(range(256))]


def test_after_a_violation_nothing_is_delivered() -> None:
    parser = FrameParser(NO_LIMIT)
    assert plain(parser.feed(frame(TEXT, mask=None))) == [violation(PROTOCOL_ERROR)]
    assert parser.feed(frame(TEXT, b"more") + frame(3)) == []
    assert parser.feed(b"") == []


def test_after_a_close_frame_nothing_is_delivered() -> None:
    """Section 5.5.1: a close frame is the last of a client."""
    parser = FrameParser(NO_LIMIT)
    assert parser.feed(frame(CLOSE) + frame(TEXT, b"more")) == [Close(1005, "")]
    assert parser.feed(frame(TEXT, b"more") + frame(3)) == []


def test_a_violation_says_why() -> None:
    (error,) = FrameParser(NO_LIMIT).feed(frame(PING, fin=False))
    assert isinstance(error, WebSocketError)
    assert error.reason
    assert str(error) == error.reason
    # It must fit into a close frame.
    assert len(error.reason.encode()) <= 123


# --- close frames -----------------------------------------------------------


def test_close_codes_are_judged_by_section_7_4() -> None:
    reason = "\u20ac".encode()
    allowed = REGISTERED_CODES | set(range(3000, 5000))
    accepted = set()
    # Above the allowed ones only some, but of each thousand.
    for code in [*range(5001), *range(5001, 1 << 16, 61), (1 << 16) - 1]:
        (event,) = FrameParser(NO_LIMIT).feed(frame(CLOSE, code.to_bytes(2, "big") + reason))
        if isinstance(event, Close):
            assert event == Close(code, reason.decode())
            accepted.add(code)
        else:
            assert plain([event]) == [violation(PROTOCOL_ERROR)]
    assert accepted == allowed


def test_close_codes_are_those_of_wsproto_but_for_1014() -> None:
    for code in sorted({*range(5001), 1 << 15, (1 << 16) - 1} - {1014}):
        assert_like_reference(frame(CLOSE, code.to_bytes(2, "big")), FrameParser(NO_LIMIT))


def test_a_close_without_a_code_is_1005() -> None:
    """Section 7.1.5."""
    assert FrameParser(NO_LIMIT).feed(frame(CLOSE)) == [Close(1005, "")]


def test_a_close_with_half_a_code_is_a_protocol_error() -> None:
    """Section 5.5.1: if there is a body, its first two bytes are the code."""
    for octet in range(256):
        events = assert_like_reference(frame(CLOSE, bytes([octet])), FrameParser(NO_LIMIT))
        assert plain(events) == [violation(PROTOCOL_ERROR)]


def test_a_close_reason_of_bad_utf8_is_invalid_data() -> None:
    for bad in BAD_UTF8.values():
        for start in ("", "reason ", "\u20ac" * 30):
            stream = frame(CLOSE, b"\x03\xe8" + start.encode() + bad)
            events = assert_like_reference(stream, FrameParser(NO_LIMIT))
            assert plain(events) == [violation(INVALID_DATA)]


def test_a_close_reason_may_fill_the_frame() -> None:
    reason = "\u20ac" * (123 // 3)
    stream = frame(CLOSE, (4321).to_bytes(2, "big") + reason.encode())
    assert FrameParser(0).feed(stream) == [Close(4321, reason)]


# --- too big ----------------------------------------------------------------

LIMITS = [0, 1, 2, 124, 125, 126, 127, 200, (1 << 16) - 1, 1 << 16]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_may_have_just_the_limit(opcode: int) -> None:
    for limit in LIMITS:
        payload = b"a" * limit
        message = payload.decode() if opcode == TEXT else payload
        parts = split(payload, [limit // 3, limit // 2])
        fragments = [frame(opcode, parts[0], fin=False), frame(CONTINUATION, parts[1], fin=False)]
        stream = b"".join([frame(opcode, payload), *fragments, frame(CONTINUATION, parts[2])])
        parser = FrameParser(limit)
        # The size is counted anew for each message.
        assert parser.feed(stream) == [message, message]
        assert feed(parser, split(stream, [3, 5, 100])) == [message, message]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_one_byte_more_is_too_big_by_the_header_alone(opcode: int) -> None:
    for limit in LIMITS:
        whole = frame(opcode, b"a" * (limit + 1))
        for stream in (whole, whole[: -(limit + 1)]):
            assert plain(FrameParser(limit).feed(frame(PING) + stream)) == [("Ping", b""), violation(TOO_BIG)]


def test_the_longest_length_there_is_does_not_reserve_memory() -> None:
    header = frame(BINARY, length=bytes([127]) + ((1 << 63) - 1).to_bytes(8, "big"))
    assert plain(FrameParser(1 << 20).feed(header)) == [violation(TOO_BIG)]

    def peak() -> int:
        parser = FrameParser(NO_LIMIT * 2)
        with traced_memory() as traced:
            assert parser.feed(header) == []
            return traced()[1]

    assert least_memory(peak, 10_000) < 10_000


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_one_byte_more_is_too_big_by_the_sum_of_the_fragments(opcode: int) -> None:
    for limit in LIMITS:
        parser = FrameParser(limit)
        assert parser.feed(frame(opcode, b"a" * limit, fin=False)) == []
        assert parser.feed(frame(CONTINUATION, fin=False)) == []
        header = frame(CONTINUATION, b"a")[:-1]
        assert plain(parser.feed(header)) == [violation(TOO_BIG)]


def test_control_frames_do_not_count_as_part_of_a_message() -> None:
    parser = FrameParser(3)
    stream = [frame(TEXT, b"ab", fin=False), frame(PING, b"x" * 125), frame(CONTINUATION, b"c")]
    assert plain(feed(parser, stream)) == plain([Ping(b"x" * 125), "abc"])


@pytest.mark.parametrize("pieces", [1, 10], ids=["at once", "in pieces"])
def test_a_decompressed_message_beyond_the_limit_is_too_big(pieces: int) -> None:
    limit = 1000
    for size, expected in ((limit, [("str", "a" * limit)]), (limit + 1, [violation(TOO_BIG)])):
        compressor = zlib.compressobj(wbits=-15)
        payload = (compressor.compress(b"a" * size) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        stream = frame(TEXT, payload, reserved=4)
        inflater = RawInflater(Parameters(False, False, None, None))
        places = [len(stream) * i // pieces for i in range(1, pieces)]
        assert plain(feed(FrameParser(limit, inflater), split(stream, places))) == expected


# --- cost -------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_long_message_is_worked_through_once(opcode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 MB in reads of 64 KiB: every byte is unmasked once, and next to nothing is kept to be read again."""
    size, read = 10_000_000, 1 << 16
    payload = b"0123456789" * (size // 10)
    stream = bytes(FrameProtocol(client=True, extensions=[]).send_data(payload.decode() if opcode == TEXT else payload))
    handled: list[int] = []

    def counting(mask: bytes, data: bytes) -> bytes:
        handled.append(len(data))
        return apply_mask(mask, data)

    monkeypatch.setattr(websocket, "apply_mask", counting)
    parser = FrameParser(size)
    events = []
    longest_kept = 0
    for start in range(0, len(stream), read):
        events += parser.feed(stream[start : start + read])
        longest_kept = max(longest_kept, len(parser._buffer))
    assert events == [payload.decode() if opcode == TEXT else payload]
    assert sum(handled) == size
    assert len(handled) == -(-len(stream) // read)
    assert longest_kept == 0


def test_no_more_is_kept_than_a_header_and_a_control_frame() -> None:
    stream = frame(BINARY, b"x" * 70_000, fin=False) + frame(PING, b"y" * 125) + frame(CONTINUATION, b"z" * 300)
    parser = FrameParser(NO_LIMIT)
    kept = []
    for i in range(len(stream)):
        parser.feed(stream[i : i + 1])
        kept.append(len(parser._buffer))
    assert max(kept) < len(frame(PING, b"y" * 125))


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_fragments_that_hold_nothing_take_no_memory(opcode: int) -> None:
    """Their number has no limit: what they add to a message must be nothing at all."""
    parser = FrameParser(10)
    parser.feed(frame(opcode, b"a", fin=False))
    empty = frame(CONTINUATION, fin=False) * 100
    parser.feed(empty)

    def more() -> int:
        with traced_memory() as traced:
            for _ in range(100):
                parser.feed(empty)
            return traced()[0]

    assert least_memory(more, 2_000) < 2_000
    assert parser.feed(frame(CONTINUATION, b"b")) == ["ab" if opcode == TEXT else b"ab"]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_small_fragments_take_little_more_memory_than_what_they_hold(opcode: int) -> None:
    number = 10_000
    size = number * len("\u20ac".encode())
    many = frame(CONTINUATION, "\u20ac".encode(), fin=False) * 100
    message = "\u20ac" * number

    def kept() -> int:
        parser = FrameParser(size)
        parser.feed(frame(opcode, fin=False))
        with traced_memory() as traced:
            for _ in range(number // 100):
                parser.feed(many)
            found = traced()[0]
        assert parser.feed(frame(CONTINUATION)) == [message if opcode == TEXT else message.encode()]
        return found

    # Text may be kept with four bytes a character, and buffers grow in steps.
    assert least_memory(kept, 4 * size) < 4 * size


# --- masks ------------------------------------------------------------------


@pytest.mark.parametrize("function", [apply_mask, websocket._apply_mask_python], ids=["chosen", "python"])
@settings(deadline=None, max_examples=50)
@given(mask=masks, data=payloads())
def test_masking_is_as_section_5_3_says(function: Callable[[bytes, bytes], bytes], mask: bytes, data: bytes) -> None:
    assert function(mask, data) == masked(mask, data)
    assert function(mask, function(mask, data)) == data
