"""Frames and streams of clients that hypothesis makes."""

from client import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from hypothesis import strategies as st

from .client import split

#: Sizes around which the encoding of the length changes (section 5.2), and the parser's own short cut ends.
EDGES = [0, 1, 2, 125, 126, 127, 128, (1 << 16) - 1, 1 << 16, (1 << 16) + 1]

#: Codes that a close frame may carry: section 7.4, and those that IANA registered since for use by endpoints.
REGISTERED_CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014}

masks = st.binary(min_size=4, max_size=4)
cuts = st.lists(st.integers(min_value=0, max_value=400), max_size=8)
control_payloads = st.binary(max_size=125)


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Octets, now and then of a size at which something changes."""
    seed = draw(st.binary(max_size=40))
    size = draw(st.one_of(st.none(), st.sampled_from(EDGES)))
    return seed if size is None else ((seed or b"x") * size)[:size]


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """UTF-8, now and then long."""
    seed = draw(st.text(max_size=20)).encode()
    return seed * draw(st.sampled_from([1, 1, 1, 7, 4000]))


@st.composite
def control_frames(draw: st.DrawFn) -> bytes:
    return frame(draw(st.sampled_from([PING, PONG])), draw(control_payloads), mask=draw(masks))


@st.composite
def message_frames(draw: st.DrawFn) -> list[bytes]:
    """One message in any fragments, characters cut through, with control frames between them (section 5.4)."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    payload = draw(texts() if opcode == TEXT else payloads())
    parts = split(payload, draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    frames = []
    for index, part in enumerate(parts):
        fin = index == len(parts) - 1
        frames.append(frame(CONTINUATION if index else opcode, part, fin=fin, mask=draw(masks)))
        if not fin:
            frames.extend(draw(st.lists(control_frames(), max_size=2)))
    return frames


@st.composite
def close_frames(draw: st.DrawFn) -> bytes:
    code = draw(st.one_of(st.none(), st.sampled_from([*sorted(REGISTERED_CODES - {1014}), 3000, 3999, 4000, 4999])))
    if code is None:
        return frame(CLOSE, mask=draw(masks))
    reason = draw(st.text(max_size=30)).encode()
    return frame(CLOSE, code.to_bytes(2, "big") + reason, mask=draw(masks))


@st.composite
def legal_streams(draw: st.DrawFn) -> bytes:
    """Frames as a client may send them, with or without a close frame, and something after it."""
    groups = draw(st.lists(st.one_of(message_frames(), control_frames().map(lambda one: [one])), max_size=5))
    frames = [one for group in groups for one in group]
    if draw(st.booleans()):
        frames.append(draw(close_frames()))
        frames.append(draw(st.binary(max_size=10)))
    return b"".join(frames)


@st.composite
def wild_frames(draw: st.DrawFn) -> bytes:
    """A frame in which nothing is certain but that it is one: most have one thing wrong, some nothing."""
    size = draw(st.one_of(st.integers(0, 130), st.sampled_from(EDGES)))
    length = draw(
        st.one_of(
            st.none(),
            st.none(),
            st.sampled_from([bytes([126]) + size.to_bytes(4, "big")[-2:], bytes([127]) + size.to_bytes(8, "big")]),
            st.just(bytes([127, 0x80]) + size.to_bytes(7, "big")),
        )
    )
    return frame(
        draw(st.one_of(st.sampled_from([0, 1, 2, 8, 9, 10]), st.integers(0, 15))),
        (draw(st.binary(max_size=20)) or b"\x03\xe8")[:size].ljust(size, b"a"),
        fin=draw(st.booleans()),
        reserved=draw(st.one_of(st.just(0), st.just(0), st.integers(0, 7))),
        mask=draw(st.one_of(masks, masks, st.none())),
        length=length,
    )


@st.composite
def mutated_streams(draw: st.DrawFn) -> bytes:
    """A legal stream with one thing done to it."""
    stream = draw(legal_streams())
    # The heads of frames are what a mutation should hit, and small frames have more of them to a byte.
    place = draw(st.integers(0, min(len(stream), 300)))
    what = draw(st.sampled_from(["flip", "drop", "insert", "truncate", "repeat"]))
    if what == "flip" and place < len(stream):
        changed = bytes([stream[place] ^ 1 << draw(st.integers(0, 7))])
        return stream[:place] + changed + stream[place + 1 :]
    if what == "drop":
        return stream[:place] + stream[place + 1 :]
    if what == "insert":
        return stream[:place] + draw(st.binary(min_size=1, max_size=3)) + stream[place:]
    if what == "truncate":
        return stream[:place]
    return stream + stream[place:]
