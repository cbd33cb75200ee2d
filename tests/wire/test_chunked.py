"""The decoder of chunked bodies, compared with those of h11 and Tornado."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.other_parsers import h11_chunks, tornado_chunks
from sockjs_tornado.exceptions import BadRequest
from sockjs_tornado.wire.chunked import FREE_CHUNKS, MIN_CHUNK_SIZE, ChunkedDecoder

from .client import split
from .streams import cuts

#: A chunk of one byte, and the end of a body.
CHUNK, END = b"1\r\nx\r\n", b"0\r\n\r\n"


def decoded(pieces: list[bytes]) -> tuple[bytes, bytes] | None:
    """Return the body and the data behind it, or None if it is incomplete."""
    decoder = ChunkedDecoder()
    body = b""
    for number, piece in enumerate(pieces):
        body += decoder.feed(piece)
        if decoder.finished:
            assert decoder.size == len(body)
            return body, decoder.unread + b"".join(pieces[number + 1 :])
        assert decoder.unread == b""
        assert decoder.size >= len(body)
    return None


def singles(data: bytes) -> list[bytes]:
    """Return all bytes, each by itself."""
    return [data[start : start + 1] for start in range(len(data))]


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (END, b""),
        (b"0000000000000000\r\n\r\n", b""),
        (CHUNK + END, b"x"),
        (b"0000000000000001\r\nx\r\n00\r\n\r\n", b"x"),
        (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789"),
        (b"1f\r\n" + b"y" * 31 + b"\r\n" + CHUNK + END, b"y" * 31 + b"x"),
        # The data may look like anything.
        (b"7\r\n\r\n0\r\n\r\n\r\n" + END, b"\r\n0\r\n\r\n"),
        (b"2\r\n\0\xff\r\n" + END, b"\0\xff"),
    ],
    ids=ascii,
)
def test_a_body_is_decoded_however_it_is_cut(data: bytes, body: bytes) -> None:
    for behind in (b"", b"GET / HTTP/1.1\r\n", b"\r\n", b"0\r\n\r\n"):
        stream = data + behind
        assert decoded([stream]) == decoded(singles(stream)) == (body, behind)
        for step in range(2, 25):
            assert decoded([stream[start : start + step] for start in range(0, len(stream), step)]) == (body, behind)
        assert h11_chunks(stream) == tornado_chunks(stream) == (body, behind)
    assert decoded([data[:-1]]) is None


#: Each ends with the byte at which it becomes certain that it is invalid.
REFUSED = [
    # Sizes: no signs, no blanks, no prefix, at most 16 digits.
    *(
        b"\r",
        b"\n",
        b" ",
        b"-",
        b"+",
        b"g",
        b"\0",
        b"\xb2",
        b"1 ",
        b"1\t",
        b"1\n",
        b"0x",
        b"1_",
        b"1g",
        b"1\r\r",
        b"1\rx",
    ),
    *(b"00000000000000001", b"ffffffffffffffff0", b"1\r1"),
    # Extensions.
    *(b"1;", b"0;", b"1\r;", b"1:"),
    # The end of a chunk.
    *(
        b"1\r\nxx",
        b"1\r\nx\n",
        b"1\r\nx\r\r",
        b"1\r\nx\r0",
        b"1\r\nx0",
        b"1\r\nx\r\n\r",
        b"1\r\nx\r\n\n",
        b"1\r\nx\r\n ",
    ),
    CHUNK + b"g",
    CHUNK + b"00000000000000000",
    # Trailers, and the end of the body.
    *(b"0\r\nx", b"0\r\n ", b"0\r\n\n", b"0\r\n\r\r", b"0\r\n\rx", b"0\r\n0", CHUNK + b"0\r\nx", CHUNK + b"00\r\n:"),
]


@pytest.mark.parametrize("cut", [False, True])
def test_a_fault_is_found_with_the_byte_that_makes_it_certain(cut: bool) -> None:
    for data in REFUSED:
        pieces = singles(data) if cut else [data[:-1], data[-1:]]
        decoder = ChunkedDecoder()
        for piece in pieces[:-1]:
            decoder.feed(piece)
            assert not decoder.finished
        with pytest.raises(BadRequest) as caught:
            decoder.feed(pieces[-1])
        assert (caught.value.status, caught.value.limit) == (400, "")
        for behind in (b"", END):
            with pytest.raises(BadRequest):
                ChunkedDecoder().feed(data + behind)


def test_a_size_is_known_before_the_data() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"3\r\nabc\r\nffffffffffffffff\r") == b"abc"
    assert decoder.size == 3
    assert decoder.feed(b"\n") == b""
    assert decoder.size == 3 + 2**64 - 1
    assert decoder.feed(b"data") == b"data"
    assert not decoder.finished


def test_only_an_incomplete_size_is_kept() -> None:
    decoder = ChunkedDecoder()
    for piece in (b"10000", b"\r", b"\nx", b"y" * 65535, b"\r\n" + b"0" * 15, b"0\r"):
        decoder.feed(piece)
        assert len(decoder._line) <= 19
    assert decoder._line == b"\r\n" + b"0" * 16 + b"\r"
    decoder.feed(b"\n")
    assert decoder.feed(b"\r") == b""
    assert decoder.feed(b"\n") == b""
    assert decoder.finished


def test_data_may_be_in_any_buffer() -> None:
    for kind in (bytes, bytearray, memoryview):
        decoder = ChunkedDecoder()
        body = decoder.feed(kind(b"3\r\nab")) + decoder.feed(kind(b"c\r\n0\r\n\r\nrest"))
        assert body == b"abc"
        assert type(body) is type(decoder.unread) is bytes
        assert decoder.unread == b"rest"
    buffer = bytearray(b"3\r\nabc")
    decoder = ChunkedDecoder()
    data = decoder.feed(buffer)
    buffer[:] = b"\r\n0\r\n\r"
    assert decoder.feed(buffer) == b""
    buffer[:] = b"\nxxxxx"
    assert decoder.feed(buffer) == b""
    assert (data, decoder.unread) == (b"abc", b"xxxxx")


@pytest.mark.parametrize(
    "sizes",
    [
        [1] * FREE_CHUNKS,
        [1] * FREE_CHUNKS + [MIN_CHUNK_SIZE],
        [MIN_CHUNK_SIZE] * 3 * FREE_CHUNKS,
        [100_000] + [1] * (FREE_CHUNKS + 100_000 // MIN_CHUNK_SIZE - 1),
    ],
    ids=len,
)
def test_chunks_may_be_small_if_they_are_few_or_large_on_average(sizes: list[int]) -> None:
    stream = b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in sizes)
    for pieces in ([stream + END], [stream, END]):
        assert decoded(pieces) == (b"x" * sum(sizes), b"")
    more = b"".join(b"1\r\nx\r\n" for _ in range(2 + sum(sizes) // MIN_CHUNK_SIZE + FREE_CHUNKS))
    with pytest.raises(BadRequest) as caught:
        ChunkedDecoder().feed(stream + more)
    assert (caught.value.status, caught.value.limit) == (400, "chunk_size")


PIECES = [
    b"0",
    b"1",
    b"a",
    b"F",
    b"00",
    b"10",
    b"\r\n",
    b"\r",
    b"\n",
    b"x",
    b" ",
    b";",
    b"-",
    END,
    CHUNK,
    b"2\r\nyz\r\n",
]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Encoded bodies, of which many have a fault."""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    sizes = [draw(st.sampled_from([b"%x", b"%X", b"0%x", b"%016x"])) % len(chunk) for chunk in chunks]
    stream = b"".join(b"%b\r\n%b\r\n" % pair for pair in zip(sizes, chunks, strict=True))
    data = bytearray(stream + END + draw(st.binary(max_size=5)))
    for position in draw(st.lists(st.integers(0, len(data) - 1), max_size=2)):
        data[position : position + 1] = draw(st.sampled_from([b"", *PIECES]) | st.binary(max_size=1))
    return bytes(data)


@settings(max_examples=200)
@given(bodies() | st.lists(st.sampled_from(PIECES)).map(b"".join), cuts)
def test_what_is_accepted_is_the_same_to_others(data: bytes, cuts: list[int]) -> None:
    results = []
    for pieces in ([data], split(data, cuts), singles(data)):
        try:
            results.append(decoded(pieces))
        except BadRequest:
            results.append((b"", b"refused"))
    assert results[0] == results[1] == results[2]
    if results[0] is None:
        # Nobody else finds an end.
        assert tornado_chunks(data) is None
    elif results[0][1] != b"refused":
        assert results[0] == tornado_chunks(data) == h11_chunks(data)
