"""Parsing of frames from HTTP responses in arbitrary chunks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockjs_tornado.client.framing import EventFraming, FrameTooLong, LineFraming
from sockjs_tornado.protocol import messages_frame
from sockjs_tornado.transports.http_transports import eventsource_framing, xhr_framing

pieces = st.lists(st.integers(1, 30), max_size=20)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut bytes into pieces of some sizes, and the rest."""
    chunks = []
    for size in sizes:
        chunks.append(data[:size])
        data = data[size:]
    return [*chunks, data]


@given(st.lists(st.text()), pieces)
def test_lines_are_frames(messages: list[str], sizes: list[int]) -> None:
    frames = ["o", *(messages_frame((message,)) for message in messages), "h"]
    data = b"h" * 2048 + b"\n" + b"".join(f"{frame}\n".encode() for frame in frames)
    framing = LineFraming(10_000)
    assert [frame for chunk in cut(data, sizes) for frame in framing.feed(chunk)] == frames
    assert not framing.is_incomplete


@given(st.lists(st.text()), pieces)
def test_events_are_frames(messages: list[str], sizes: list[int]) -> None:
    frames = ["o", *(messages_frame((message,)) for message in messages), "h"]
    data = b"\r\n" + b"".join(eventsource_framing(frame) for frame in frames)
    framing = EventFraming(10_000)
    assert [frame for chunk in cut(data, sizes) for frame in framing.feed(chunk)] == frames
    assert not framing.is_incomplete


def test_other_event_streams_are_understood() -> None:
    framing = EventFraming(1000)
    stream = b': comment\nevent: message\ndata:a["x\ndata: y%25"]\n\ndata: h\r\n\r\nid: 7\n\ndata: o'
    assert list(framing.feed(stream)) == ['a["x\ny%"]', "h"]
    assert framing.is_incomplete


@pytest.mark.parametrize("framing", [LineFraming, EventFraming])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_that_is_too_long_is_found_early(framing: type[LineFraming], end: bytes) -> None:
    with pytest.raises(FrameTooLong):
        list(framing(100).feed(b"x" * 101 + end))


def test_an_event_as_long_as_the_limit_is_a_frame() -> None:
    assert list(EventFraming(108).feed(b"data: " + b"x" * 102 + b"\n\n")) == ["x" * 102]
    framing = EventFraming(100)
    assert list(framing.feed(b"data: " + b"x" * 50 + b"\n")) == []
    assert list(framing.feed(b"data: " + b"x" * 49 + b"\n\n")) == ["x" * 50 + "\n" + "x" * 49]
    assert list(framing.feed(b"data: " + b"x" * 50 + b"\n")) == []
    with pytest.raises(FrameTooLong):
        list(framing.feed(b"data: " + b"x" * 50 + b"\n"))


def test_an_event_of_many_lines_is_bounded() -> None:
    framing = EventFraming(100)
    with pytest.raises(FrameTooLong):
        list(framing.feed(b"data: xx\n" * 100))


def test_a_prelude_may_be_longer_than_any_frame_but_ends() -> None:
    framing = LineFraming(100)
    assert list(framing.feed(b"h" * 2048)) == []
    assert list(framing.feed(b"\no\n")) == ["o"]
    with pytest.raises(FrameTooLong):
        list(framing.feed(b"h" * 70_000))


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UnicodeDecodeError):
        list(LineFraming(100).feed(b"\xff\n"))
    with pytest.raises(UnicodeDecodeError):
        list(EventFraming(100).feed(b"data: %FF\n\n"))


def test_the_framings_are_those_of_the_server() -> None:
    message = json.dumps(["100%", "\u2028"])
    assert list(LineFraming(100).feed(xhr_framing(message))) == [message]
