"""permessage-deflate (RFC 7692): negotiation and both directions, against zlib, wsproto and websockets."""

import itertools
import sys
import zlib
from collections.abc import Iterable
from contextlib import nullcontext

import pytest
from client import BINARY, CONTINUATION, PING, TEXT, frame
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import least_memory, traced_memory
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.frames import Opcode as WebSocketsOpcode
from websockets.headers import build_extension, parse_extension
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, Opcode

from sockjs_tornado.exceptions import WebSocketError
from sockjs_tornado.wire.deflate import Deflater, Parameters, RawInflater, negotiate
from sockjs_tornado.wire.frames import CLOSE, Ping, build_frame
from sockjs_tornado.wire.websocket import MAX_INFLATED, Event, FrameParser

from .client import NO_LIMIT, Reference, feed, is_over, plain, split

RSV1 = 4
TAIL = b"\x00\x00\xff\xff"

TAKEOVER = Parameters(False, False, None, None)
NO_TAKEOVER = Parameters(True, True, None, None)

PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = ("violation", 1002), ("violation", 1007), ("violation", 1009)

windows = st.one_of(st.none(), st.integers(9, 15))
all_parameters = st.builds(Parameters, st.booleans(), st.booleans(), windows, windows)
cuts = st.lists(st.integers(0, 400), max_size=6)

#: Messages that have something to compress, within themselves and from one to the next.
words = st.sampled_from(["", "a", "lorem ipsum ", "dolor ", "\u20ac", "\U0001f600", "x" * 300])
texts = st.lists(words, max_size=30).map("".join)


def parser(parameters: Parameters = TAKEOVER, limit: int = NO_LIMIT) -> FrameParser:
    return FrameParser(limit, RawInflater(parameters))


def deflated(data: bytes, wbits: int = -15, level: int = -1) -> bytes:
    """Return a message's payload as section 7.2.1 makes it, without a context."""
    compressor = zlib.compressobj(level, wbits=wbits)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def fragments(opcode: int, payload: bytes, places: Iterable[int], between: bytes = b"") -> bytes:
    """Return a compressed message in fragments: RSV1 is on the first alone (section 6.1)."""
    parts = split(payload, places)
    last = len(parts) - 1
    return between.join(
        frame(CONTINUATION if i else opcode, part, fin=i == last, reserved=0 if i else RSV1)
        for i, part in enumerate(parts)
    )


def client_extension(parameters: Parameters) -> PerMessageDeflate:
    """Return wsproto's client with what was agreed."""
    extension = PerMessageDeflate()
    extension.finalize(parameters.response)
    return extension


def server_extension(parameters: Parameters) -> PerMessageDeflate:
    """Return wsproto's server with what was agreed."""
    extension = PerMessageDeflate()
    assert extension.accept(parameters.response) is not None
    return extension


# --- negotiation ------------------------------------------------------------


@pytest.mark.parametrize("context_takeover", [True, False])
def test_offers_and_their_answers(context_takeover: bool) -> None:
    """Section 7.1. What is no acceptable offer is declined by silence."""
    kept = "" if context_takeover else "; server_no_context_takeover; client_no_context_takeover"
    server = "; server_no_context_takeover" + ("" if context_takeover else "; client_no_context_takeover")
    client = ("" if context_takeover else "; server_no_context_takeover") + "; client_no_context_takeover"
    both = "; server_no_context_takeover; client_no_context_takeover"
    answers = {
        "permessage-deflate": kept,
        "PerMessage-Deflate": kept,
        "  permessage-deflate  ": kept,
        "permessage-deflate; server_no_context_takeover": server,
        "permessage-deflate; client_no_context_takeover": client,
        "permessage-deflate; client_no_context_takeover; server_no_context_takeover": both,
        "permessage-deflate;server_no_context_takeover ;\tclient_no_context_takeover": both,
        # Section 7.1.2.1: a limit is accepted by confirming it, or a smaller one.
        "permessage-deflate; server_max_window_bits=15": f"{kept}; server_max_window_bits=15",
        "permessage-deflate; server_max_window_bits=10": (
            f"{kept}; server_max_window_bits={10 if context_takeover else 9}"
        ),
        "permessage-deflate; server_max_window_bits=9": f"{kept}; server_max_window_bits=9",
        'permessage-deflate; server_max_window_bits="12"': (
            f"{kept}; server_max_window_bits={12 if context_takeover else 9}"
        ),
        "permessage-deflate; server_max_window_bits=14; server_no_context_takeover": (
            f"{server}; server_max_window_bits=9"
        ),
        # Section 7.1.2.2: without a value it only says that the client understands it.
        "permessage-deflate; client_max_window_bits": kept,
        "permessage-deflate; client_max_window_bits=15": f"{kept}; client_max_window_bits=15",
        "permessage-deflate; client_max_window_bits=9": f"{kept}; client_max_window_bits=9",
        "permessage-deflate; client_max_window_bits=8": f"{kept}; client_max_window_bits=8",
        'permessage-deflate; client_max_window_bits="11"': f"{kept}; client_max_window_bits=11",
        "permessage-deflate; server_max_window_bits=9; client_max_window_bits=14": (
            f"{kept}; server_max_window_bits=9; client_max_window_bits=14"
        ),
        # The first acceptable one is taken, whatever stands beside it (section 5).
        "x-other; answer=42, permessage-deflate": kept,
        "permessage-deflate; server_max_window_bits=8, permessage-deflate": kept,
        "permessage-deflate; unknown, permessage-deflate; server_max_window_bits=10, permessage-deflate": (
            f"{kept}; server_max_window_bits={10 if context_takeover else 9}"
        ),
        "permessage-deflate; client_max_window_bits=10, permessage-deflate": f"{kept}; client_max_window_bits=10",
        ", ,permessage-deflate,": kept,
    }
    for offer, answer in answers.items():
        agreed = negotiate(offer, context_takeover=context_takeover)
        assert agreed is not None, offer
        assert agreed.response == f"permessage-deflate{answer}", offer


@pytest.mark.parametrize("context_takeover", [True, False])
def test_offers_that_are_declined(context_takeover: bool) -> None:
    """Section 7.1: unknown parameters, doubled ones, and values that are missing, not wanted or impossible."""
    declined = [
        "",
        ",",
        ";",
        "=",
        "x-webkit-deflate-frame",
        "deflate",
        "permessage-deflate-2",
        "permessage_deflate",
        "permessage-bzip2; client_max_window_bits",
        "permessage-deflate; unknown",
        "permessage-deflate;",
        "permessage-deflate; ; client_max_window_bits",
        "permessage-deflate; =",
        "permessage-deflate; =10",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
        "permessage-deflate; server_max_window_bits",
        # zlib cannot compress with a window so small.
        "permessage-deflate; server_max_window_bits=8",
    ]
    for name in ("server_no_context_takeover", "client_no_context_takeover"):
        declined += [f"permessage-deflate; {name}={value}" for value in ("", "1", "true", "0", '""')]
    for name in ("server_max_window_bits", "client_max_window_bits"):
        values = (
            "",
            "7",
            "16",
            "0",
            "-9",
            "+9",
            "09",
            " 1 0",
            "1e1",
            "10.0",
            "ten",
            "\u0661\u0660",
            '""',
            '"',
            '"10',
            "'10'",
        )
        declined += [f"permessage-deflate; {name}={value}" for value in values]
    for offer in declined:
        assert negotiate(offer, context_takeover=context_takeover) is None, offer


@settings(deadline=None, max_examples=80)
@given(
    header=st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from([*[";", ",", "=", '"', "8", "9", "15", "permessage-deflate", "x"], *Parameters._fields]),
            max_size=12,
        ).map("".join),
    ),
    context_takeover=st.booleans(),
)
def test_rubbish_never_raises_and_what_is_agreed_can_be_done(header: str, context_takeover: bool) -> None:
    agreed = negotiate(header, context_takeover=context_takeover)
    if agreed is not None:
        assert header.isascii()
        assert context_takeover or (agreed.server_no_context_takeover and agreed.client_no_context_takeover)
        assert RawInflater(agreed).inflate(Deflater(agreed, 1).deflate(b"data"), final=True, limit=4) == b"data"


def test_every_offer_of_websockets_is_agreed_on_and_messages_cross_both_ways() -> None:
    """The answer is one that another implementation accepts, and means the same by."""
    message = b"".join(i.to_bytes(2, "big") for i in range(1000)) * 2
    for server_no, client_no, server_bits, client_bits, takeover in itertools.product(
        (False, True), (False, True), (None, 9, 12, 15), (None, True, 9, 12, 15), (True, False)
    ):
        factory = ClientPerMessageDeflateFactory(server_no, client_no, server_bits, client_bits)
        offer = build_extension([(factory.name, list(factory.get_request_params()))])
        agreed = negotiate(offer, context_takeover=takeover)
        assert agreed is not None, offer
        ((name, response),) = parse_extension(agreed.response)
        assert name == factory.name
        client = factory.process_response_params(response, [])
        inflater, deflater = RawInflater(agreed), Deflater(agreed, 6)
        for _ in range(2):
            sent = client.encode(Frame(WebSocketsOpcode.BINARY, message))
            assert inflater.inflate(bytes(sent.data), final=True, limit=len(message)) == message
            answer = Frame(WebSocketsOpcode.BINARY, deflater.deflate(message), rsv1=True)
            assert bytes(client.decode(answer).data) == message


# --- what a client sends ----------------------------------------------------


@pytest.mark.parametrize(
    ("payloads", "messages"),
    [
        pytest.param(["f2 48 cd c9 c9 07 00"], ["Hello"], id="7.2.3.1 one block"),
        pytest.param(["f2 48 cd c9 c9 07 00", "f2 00 11 00 00"], ["Hello"] * 2, id="7.2.3.2 the window is shared"),
        pytest.param(["00 05 00 fa ff 48 65 6c 6c 6f 00"], ["Hello"], id="7.2.3.3 a block without compression"),
        pytest.param(["f3 48 cd c9 c9 07 00 00"] * 2, ["Hello"] * 2, id="7.2.3.4 a block with BFINAL"),
        pytest.param(["f2 48 05 00 00 00 ff ff ca c9 c9 07 00"], ["Hello"], id="7.2.3.5 two blocks"),
        pytest.param(["00"], [""], id="7.2.3.6 an empty message"),
    ],
)
def test_the_examples_of_the_standard_are_understood(payloads: list[str], messages: list[str]) -> None:
    data = [bytes.fromhex(payload) for payload in payloads]
    assert feed(parser(), [frame(TEXT, one, reserved=RSV1) for one in data]) == messages
    for places in ([1], [3], [2, 5], range(20)):
        assert feed(parser(), [fragments(TEXT, one, places, frame(PING)) for one in data])[-1] == messages[-1]
        stream = b"".join(frame(TEXT, one, reserved=RSV1) for one in data)
        assert feed(parser(), split(stream, places)) == messages


@settings(deadline=None, max_examples=50)
@given(
    parameters=all_parameters,
    level=st.integers(0, 9),
    strategy=st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED]),
    messages=st.lists(st.tuples(texts, st.sampled_from([TEXT, BINARY]), st.booleans(), cuts), max_size=4),
    places=cuts,
)
def test_messages_compressed_by_zlib_arrive_unchanged(
    parameters: Parameters,
    level: int,
    strategy: int,
    messages: list[tuple[str, Opcode, bool, list[int]]],
    places: list[int],
) -> None:
    """Compressed or not, in any fragments, with pings between them, and in any pieces."""
    compressor = None
    stream = b""
    expected: list[Event] = []
    for text, opcode, compressed, parts in messages:
        payload = text.encode()
        if compressed:
            if compressor is None or parameters.client_no_context_takeover:
                window = -(parameters.client_max_window_bits or 15)
                compressor = zlib.compressobj(level, zlib.DEFLATED, window, strategy=strategy)
            half = len(payload) // 2
            data = compressor.compress(payload[:half]) + compressor.flush(zlib.Z_FULL_FLUSH)
            data += compressor.compress(payload[half:]) + compressor.flush(zlib.Z_SYNC_FLUSH)
            stream += fragments(opcode, data.removesuffix(TAIL), parts, frame(PING, b"between"))
            expected += [Ping(b"between")] * len(parts)
        else:
            stream += frame(opcode, payload)
        expected.append(text if opcode == TEXT else payload)
    assert plain(parser(parameters).feed(stream)) == plain(expected)
    assert plain(feed(parser(parameters), split(stream, places))) == plain(expected)


@settings(deadline=None, max_examples=50)
@given(parameters=all_parameters, messages=st.lists(st.tuples(texts, cuts), max_size=4), places=cuts)
def test_messages_of_wsproto_arrive_unchanged(
    parameters: Parameters, messages: list[tuple[str, list[int]]], places: list[int]
) -> None:
    client = FrameProtocol(client=True, extensions=[client_extension(parameters)])
    stream = b""
    for text, parts in messages:
        *first, last = [part.decode(errors="surrogateescape") for part in split(text.encode(), parts)]
        for part in first:
            stream += client.send_data(part.encode(errors="surrogateescape"), fin=False) + client.ping(b"between")
        stream += client.send_data(last.encode(errors="surrogateescape"))
    expected: list[Event] = []
    for text, parts in messages:
        expected += [*[Ping(b"between")] * len(parts), text.encode()]
    assert plain(feed(parser(parameters), split(stream, places))) == plain(expected)


#: Payloads of compressed messages that need no context: some good, one of bad UTF-8, one that is no deflate stream.
PAYLOADS = [b"\0", deflated(b"Hello"), deflated(b"\xff"), deflated("\u20ac".encode() * 99), b"\x07"]


@settings(deadline=None, max_examples=80)
@given(
    frames=st.lists(
        st.builds(
            frame,
            st.sampled_from([CONTINUATION, TEXT, TEXT, BINARY, 3]),
            st.one_of(st.sampled_from(PAYLOADS), st.just(b"plain")),
            fin=st.booleans(),
            reserved=st.sampled_from([0, 0, RSV1, RSV1, 2, 6]),
        ),
        min_size=1,
        max_size=5,
    ),
    places=cuts,
)
def test_compressed_frames_get_the_verdict_of_wsproto(frames: list[bytes], places: list[int]) -> None:
    """Known exceptions, where wsproto is not the measure.

    - Of two things wrong with one frame, wsproto sees bad compression first, this parser the wrong opcode.
    - A control frame between compressed fragments makes wsproto take the rest for uncompressed: there are none here.
    - A block with BFINAL leaves wsproto deaf: there is none here.
    """
    stream = b"".join(frames)
    events = parser(NO_TAKEOVER).feed(stream)
    pieces = feed(parser(NO_TAKEOVER), split(stream, places))
    assert plain(pieces) == plain(events)
    reference = Reference([server_extension(NO_TAKEOVER)])
    expected = reference.feed(stream)
    assert is_over(events) == is_over(expected)
    assert plain(events[:-1]) == plain(expected[:-1])
    if plain(events[-1:]) != plain(expected[-1:]):
        assert plain(events[-1:]) == [PROTOCOL_ERROR]
        assert plain(expected[-1:]) == [INVALID_DATA]
        # It is the first thing wrong: without the last frame nothing was.
        assert not is_over(parser(NO_TAKEOVER).feed(b"".join(frames[: frames_of(frames) - 1])))


def frames_of(frames: list[bytes]) -> int:
    """Return how many of the frames it takes to be over."""
    heard = parser(NO_TAKEOVER)
    return next(i for i, one in enumerate(frames, 1) if is_over(heard.feed(one)))


def test_without_an_agreement_a_compressed_frame_is_a_protocol_error() -> None:
    assert plain(FrameParser(NO_LIMIT).feed(frame(TEXT, deflated(b"Hello"), reserved=RSV1))) == [PROTOCOL_ERROR]


def test_with_an_agreement_a_message_may_be_uncompressed() -> None:
    """Section 6: the RSV1 bit of each message says what it is."""
    stream = frame(TEXT, b"plain") + frame(TEXT, deflated(b"compressed"), reserved=RSV1) + frame(TEXT, b"plain")
    assert parser().feed(stream) == ["plain", "compressed", "plain"]


def test_the_reserved_bit_belongs_to_the_first_frame_of_a_message_alone() -> None:
    """Section 6.1, and section 5.1: control frames are not compressed."""
    data = deflated(b"Hello")
    begun = frame(TEXT, data[:3], fin=False, reserved=RSV1)
    for wrong in (
        begun + frame(CONTINUATION, data[3:], reserved=RSV1),
        frame(TEXT, b"Hel", fin=False) + frame(CONTINUATION, b"lo", reserved=RSV1),
        begun + frame(PING, reserved=RSV1),
        frame(PING, reserved=RSV1),
        frame(TEXT, data, reserved=RSV1 | 2),
        frame(TEXT, data, reserved=RSV1 | 1),
        frame(TEXT, data, reserved=2),
    ):
        assert plain(parser().feed(wrong)) == [PROTOCOL_ERROR]


@pytest.mark.parametrize("client_no_takeover", [True, False])
def test_the_context_lives_as_long_as_was_agreed(client_no_takeover: bool) -> None:
    """Section 7.1.1.2; the second payload of section 7.2.3.2 repeats what the first one said."""
    stream = [frame(TEXT, bytes.fromhex(payload), reserved=RSV1) for payload in ("f248cdc9c90700", "f200110000")]
    events = plain(feed(parser(Parameters(False, client_no_takeover, None, None)), stream))
    assert events == [("str", "Hello"), INVALID_DATA if client_no_takeover else ("str", "Hello")]


def test_a_window_larger_than_agreed_is_invalid_data() -> None:
    """Section 7.1.2.2."""
    said = bytes(range(256))
    compressor = zlib.compressobj(wbits=-15)
    stream = b""
    for message in (said, bytes(2000), said):
        payload = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
        stream += frame(BINARY, payload.removesuffix(TAIL), reserved=RSV1)
    assert parser(Parameters(False, False, None, None)).feed(stream) == [said, bytes(2000), said]
    assert parser(Parameters(False, False, None, 12)).feed(stream) == [said, bytes(2000), said]
    assert plain(parser(Parameters(False, False, None, 9)).feed(stream))[2:] == [INVALID_DATA]


def test_a_window_of_eight_bits_is_read_with_what_zlib_has() -> None:
    data = bytes(range(200)) * 3
    stream = frame(BINARY, deflated(data, -9), reserved=RSV1)
    assert parser(Parameters(False, False, None, 8)).feed(stream) == [data]


@settings(deadline=None, max_examples=50)
@given(text=texts, places=cuts, place=st.integers(0, 60), bit=st.integers(0, 7), parts=cuts)
def test_damaged_data_is_what_zlib_makes_of_it(
    text: str, places: list[int], place: int, bit: int, parts: list[int]
) -> None:
    data = bytearray(deflated(text.encode()))
    data[place % len(data)] ^= 1 << bit
    expected: list[tuple[object, ...]]
    decompressor = zlib.decompressobj(wbits=-15)
    try:
        expected = [("bytes", decompressor.decompress(bytes(data) + TAIL))]
    except zlib.error:
        expected = [INVALID_DATA]
    else:
        # The stream may have been ended within the data.
        if decompressor.eof and decompressor.unused_data not in (
            b"",
            TAIL[-3:],
            TAIL[-2:],
            TAIL[-1:],
            TAIL,
            b"\0" + TAIL,
        ):
            expected = [INVALID_DATA]
    stream = fragments(BINARY, bytes(data), parts)
    assert plain(parser().feed(stream)) == expected
    assert plain(feed(parser(), split(stream, places))) == expected


@pytest.mark.parametrize("parts", [[], [8], [9], [8, 9, 10]], ids=str)
def test_nothing_but_the_end_of_the_message_follows_a_last_block(parts: list[int]) -> None:
    """A block with BFINAL (section 7.2.3.4) ends the stream: what came after it would be lost, so it is refused."""
    ended = bytes.fromhex("f3 48 cd c9 c9 07 00")
    for rest in (b"", b"\0"):
        assert parser().feed(fragments(TEXT, ended + rest, parts)) == ["Hello"]
    for rest in (deflated(b"more"), ended, b"\0\0", TAIL, b"\1"):
        assert plain(parser().feed(fragments(TEXT, ended + rest, parts))) == [INVALID_DATA]
        assert plain(feed(parser(), [fragments(TEXT, ended + rest, parts)[:-1]])) in ([], [INVALID_DATA])


def test_data_after_a_last_block_takes_no_memory() -> None:
    """zlib keeps it: a message of many fragments would grow without ever having a size."""
    rest = frame(CONTINUATION, bytes(10_000), fin=False)

    def peak() -> int:
        heard = parser(limit=1000)
        heard.feed(frame(TEXT, bytes.fromhex("f3 48 cd c9 c9 07 00"), fin=False, reserved=RSV1))
        with traced_memory() as traced:
            events = feed(heard, [rest] * 100)
            most = traced()[1]
        assert plain(events) == [INVALID_DATA]
        return most

    assert least_memory(peak, 10 * len(rest)) < 10 * len(rest)


# --- limits -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["one frame", "fragments", "pieces"])
def test_a_bomb_is_put_out_before_it_fills_the_memory(kind: str) -> None:
    limit = 100_000
    payload = deflated(bytes(1000 * limit))
    if kind == "fragments":
        stream = fragments(TEXT, payload, range(0, len(payload), 1000))
    else:
        stream = frame(BINARY, payload, reserved=RSV1)
    step = 1000 if kind == "pieces" else len(stream)

    def peak() -> int:
        heard = parser(limit=limit)
        with traced_memory() as traced:
            events = feed(heard, (stream[i : i + step] for i in range(0, len(stream), step)))
            most = traced()[1]
        assert plain(events) == [TOO_BIG]
        return most

    # What there is: the compressed bytes, unmasked and in zlib's hands, and what came out of them.
    enough = 4 * len(stream) + 4 * limit
    assert least_memory(peak, enough) < enough


@pytest.mark.parametrize("start", [0, 1, 5])
def test_a_feed_ends_with_the_message_that_makes_it_long(start: int) -> None:
    text = "x" * (MAX_INFLATED // 2)
    one = frame(TEXT, deflated(text.encode()), reserved=RSV1)
    data = one * 3 + frame(PING) + one
    reading = parser()
    assert reading.feed(data[:start]) == []
    found = []
    position = start
    while position < len(data):
        events = reading.feed(data[position:])
        assert reading.at_boundary
        found.append(events)
        position = len(data) - reading.unparsed
    assert found == [[text] * 2, [text, Ping(b""), text]]
    assert reading.feed(b"") == []
    assert reading.unparsed == 0


def test_data_after_a_close_frame_is_never_fed_again() -> None:
    text = frame(TEXT, deflated(b"x" * MAX_INFLATED), reserved=RSV1)
    reading = parser()
    assert reading.feed(text * 2) == ["x" * MAX_INFLATED]
    assert reading.unparsed == len(text)
    assert len(reading.feed(frame(CLOSE) + text)) == 1
    assert reading.unparsed == 0
    assert reading.feed(text) == []
    assert reading.unparsed == 0


def test_the_limit_is_what_comes_out_not_what_comes_in() -> None:
    for size in (0, 1, 100, 1000):
        # Without compression, the payload is longer than the message.
        for level in (0, 9):
            payload = deflated(b"a" * size, level=level)
            for parts in ([], [1], [len(payload) // 2, len(payload) - 1]):
                stream = fragments(BINARY, payload, parts)
                assert parser(limit=size).feed(stream * 2)[:1] == [b"a" * size]
                if size:
                    assert plain(parser(limit=size - 1).feed(stream)) == [TOO_BIG]


@pytest.mark.parametrize("limit", [sys.maxsize - 1, sys.maxsize, 2**70])
def test_a_limit_may_be_any_number(limit: int) -> None:
    stream = frame(TEXT, deflated(b"Hello"), reserved=RSV1)
    assert parser(limit=limit).feed(stream) == ["Hello"]


def test_each_message_has_the_whole_limit() -> None:
    stream = frame(BINARY, deflated(b"a" * 100), reserved=RSV1) + frame(BINARY, b"b" * 100)
    assert parser(NO_TAKEOVER, limit=100).feed(stream * 2) == [b"a" * 100, b"b" * 100] * 2


@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=300), limit=st.integers(0, 300), places=cuts)
def test_the_inflater_alone_gives_the_message_or_says_too_big(data: bytes, limit: int, places: list[int]) -> None:
    inflater = RawInflater(TAKEOVER)
    *first, last = split(deflated(data), places)
    out = b""
    expected = nullcontext() if len(data) <= limit else pytest.raises(WebSocketError, check=lambda e: e.code == 1009)
    with expected:
        for piece in first:
            out += inflater.inflate(piece, final=False, limit=limit - len(out))
        out += inflater.inflate(last, final=True, limit=limit - len(out))
        assert out == data


# --- what the server sends --------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(parameters=all_parameters, level=st.integers(1, 9), messages=st.lists(texts, max_size=5))
def test_compressed_messages_reach_a_client(parameters: Parameters, level: int, messages: list[str]) -> None:
    deflater = Deflater(parameters, level)
    client = FrameProtocol(client=True, extensions=[client_extension(parameters)])
    stream = b"".join(build_frame(TEXT, deflater.deflate(text.encode()), compressed=True) for text in messages)
    client.receive_bytes(stream)
    received = list(client.received_frames())
    assert [(one.opcode, one.payload) for one in received] == [(TEXT, text) for text in messages]


@pytest.mark.parametrize("window", range(9, 16))
def test_no_more_than_the_agreed_window_is_needed_to_read_the_server(window: int) -> None:
    """Section 7.1.2.1."""
    data = bytes(range(256)) * 2 + bytes(70_000) + bytes(range(256))
    payload = Deflater(Parameters(False, False, window, None), 9).deflate(data)
    assert zlib.decompressobj(wbits=-window).decompress(payload + TAIL) == data


def test_a_context_makes_what_was_said_before_short() -> None:
    message = b"".join(i.to_bytes(2, "big") for i in range(500))
    deflater = Deflater(TAKEOVER, 6)
    assert len(deflater.deflate(message)) > 10 * len(deflater.deflate(message))


def test_without_a_context_a_message_is_the_same_for_all_and_always() -> None:
    message = b"said to many" * 10
    one, other = Deflater(NO_TAKEOVER, 6), Deflater(NO_TAKEOVER, 6)
    assert one.deflate(message) == one.deflate(message) == other.deflate(message) == deflated(message, level=6)


def test_an_empty_message_is_one_byte() -> None:
    """Section 7.2.3.6."""
    assert Deflater(NO_TAKEOVER, 6).deflate(b"") in (b"\0", b"\x02\0")


def test_the_level_is_the_one_asked_for() -> None:
    message = b"".join(i.to_bytes(2, "big") for i in range(3000)) * 2
    for parameters in (TAKEOVER, NO_TAKEOVER):
        for level in (0, 1, 9):
            assert Deflater(parameters, level).deflate(message) == deflated(message, level=level)
