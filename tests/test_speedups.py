"""What is in C does the same as what is in Python, and sees nothing else of its arguments than that."""

import json
from json.encoder import encode_basestring
from typing import Any

import pytest
from client import BINARY, TEXT, frame
from hypothesis import example, given
from hypothesis import strategies as st

from sockjs_tornado import _speedups, protocol
from sockjs_tornado.exceptions import PayloadError
from sockjs_tornado.protocol import JSONValue, decode_payload, messages_frame
from sockjs_tornado.transports import websocket
from sockjs_tornado.wire import websocket as wire
from sockjs_tornado.wire.websocket import text_frame

#: All that is special to JSON, to UTF-8 or to clients, with its neighbours.
ODD = (
    '\0\x07\b\t\n\v\f\r\x1f !"#[\\]/\x7f\x80\u07ff\u0800\u200b\u200c\u200f\u2010\u2027\u2028\u202f\u2030\u205f\u2060'
    "\u206f\u2070\uffef\ufff0\uffff\ufeff😀"
)
SURROGATES = "\ud800\udbff\udc00\udfff"
#: Around the sizes at which the length of a frame takes another form, and of the pieces that are looked at together.
SIZES = (0, 1, 7, 8, 9, 15, 16, 17, 115, 120, 121, 122, 255, 256, 257, 65_529, 65_530, 65_531, 65_532, 70_000)

texts = st.text(st.sampled_from(ODD) | st.characters(exclude_categories=["Cs"]) | st.sampled_from("abc"))
any_texts = st.text(st.sampled_from(ODD + SURROGATES) | st.characters())


def in_python(messages: list[str]) -> bytes:
    """Return what Python code makes of messages."""
    items = ",".join(map(encode_basestring, messages))
    return text_frame(protocol._MUST_ESCAPE.sub(protocol._escape, f"a[{items}]"))


def test_they_are_in_use() -> None:
    assert wire.read_text_frames is _speedups.read_text_frames
    assert websocket.write_messages is _speedups.write_messages
    assert protocol._decode_strings is not protocol._decode_in_python


class TestWriteMessages:
    @given(st.lists(texts))
    @example([ODD])
    @example([])
    @example([""])
    def test_it_writes_what_python_writes(self, messages: list[str]) -> None:
        assert _speedups.write_messages(messages) == in_python(messages)

    @pytest.mark.parametrize("special", ODD)
    def test_it_finds_a_character_wherever_it_stands(self, special: str) -> None:
        for position in range(20):
            messages = ["x" * position + special + "y" * (20 - position), special * position]
            assert _speedups.write_messages(messages) == in_python(messages)

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("character", ["x", "\n", "ä", "\u2028", "😀"], ids=ascii)
    def test_a_frame_of_any_size_has_its_length(self, size: int, character: str) -> None:
        messages = [character * size]
        assert _speedups.write_messages(messages) == in_python(messages)

    def test_every_character_is_written_as_python_writes_it(self) -> None:
        for start in range(0, 0x110000, 0x1000):
            messages = ["".join(map(chr, range(start, start + 0x1000)))]
            if not 0xD000 <= start < 0xE000:
                assert _speedups.write_messages(messages) == in_python(messages)

    @pytest.mark.parametrize(
        "messages",
        [
            *(["x", f"x{surrogate}"] for surrogate in SURROGATES),
            ["x", JSONValue("{}")],
            ["x", b"x"],
            ["x", None],
            [5],
            ("x",),
            "x",
            iter("x"),
            None,
        ],
        ids=lambda messages: type(messages).__name__,
    )
    def test_what_is_not_plain_text_is_left_to_python(self, messages: Any) -> None:
        assert _speedups.write_messages(messages) is None


class TestReadTextFrames:
    @given(st.lists(st.tuples(st.sampled_from([TEXT, TEXT, TEXT, BINARY, 0, 9, 3]), texts, st.booleans())), st.data())
    def test_it_reads_what_python_reads(self, frames: list[tuple[int, str, bool]], data: st.DataObject) -> None:
        stream = b"".join(frame(opcode, text, fin=fin) for opcode, text, fin in frames)
        stream = stream[: data.draw(st.integers(0, len(stream)))]
        limit = data.draw(st.sampled_from([0, 1, 10, 124, 125, 1_000_000]))
        read: list[str] = []
        end = _speedups.read_text_frames(stream, 0, limit, read)
        expected: list[str] = []
        assert end >= wire._read_text_frames_python(stream, 0, limit, expected)
        # Python leaves longer ones to the code behind it.
        assert read[: len(expected)] == expected
        assert all(len(text.encode()) > 125 for text in read[len(expected) : len(expected) + 1])
        assert sum(len(frame(TEXT, text)) for text in read) == end

    @pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 125, 126, 127, 255, 256, 257, 65_535])
    def test_it_reads_frames_of_all_lengths_below_64_kib(self, size: int) -> None:
        text = ("0123456789äö😀" * (size // 10 + 1)).encode()[:size].decode("utf-8", "ignore")
        text += "x" * (size - len(text.encode()))
        stream = frame(TEXT, text) * 3
        for limit, count in ((size, 3), (size - 1, 0), (2**70, 3)):
            read: list[str] = []
            assert _speedups.read_text_frames(stream, 0, limit, read) == len(stream) // 3 * count
            assert read == [text] * count

    def test_it_reads_from_where_it_is_told_to(self) -> None:
        stream = b"..." + frame(TEXT, "a") + frame(TEXT, "b")
        read: list[str] = []
        assert _speedups.read_text_frames(stream, 3, 10, read) == len(stream)
        assert read == ["a", "b"]
        for position in (len(stream) - 6, len(stream), len(stream) + 1, 2**40):
            assert _speedups.read_text_frames(stream, position, 10, read) == position
        assert read == ["a", "b"]

    @pytest.mark.parametrize("size", [65_536, 100_000])
    def test_it_leaves_longer_ones_alone(self, size: int) -> None:
        read: list[str] = []
        assert _speedups.read_text_frames(frame(TEXT, "x" * size), 0, 10**9, read) == 0
        assert read == []

    def test_it_leaves_a_length_that_is_not_the_shortest_alone(self) -> None:
        read: list[str] = []
        assert _speedups.read_text_frames(b"\x81\xfe\x00\x05" + b"\0" * 9, 0, 10**9, read) == 0
        assert read == []

    def test_bad_text_raises_and_what_came_before_is_kept(self) -> None:
        read: list[str] = []
        with pytest.raises(UnicodeDecodeError):
            _speedups.read_text_frames(frame(TEXT, "good") + frame(TEXT, b"\xff"), 0, 10, read)
        assert read == ["good"]

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            (b"", 0, 1),
            (b"", 0, 1, [], None),
            ("", 0, 1, []),
            (bytearray(8), 0, 1, []),
            (b"", "0", 1, []),
            (b"", 0, "1", []),
            (b"\x81\x80\0\0\0\0", 0, 1, ()),
            (b"", 2**70, 1, []),
        ],
        ids=ascii,
    )
    def test_arguments_of_other_kinds_are_refused(self, arguments: Any) -> None:
        with pytest.raises((TypeError, SystemError, OverflowError)):
            _speedups.read_text_frames(*arguments)

    def test_a_position_before_the_beginning_is_refused(self) -> None:
        with pytest.raises(ValueError, match="negative"):
            _speedups.read_text_frames(b"", -1, 1, [])


def outcome(text: str) -> Any:
    """Return the messages of a payload, or the error."""
    try:
        return decode_payload(text)
    except PayloadError as error:
        return str(error)


class TestMsgspec:
    """The same results as of the standard library, whatever is given."""

    @staticmethod
    def check(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        fast = outcome(text)
        with monkeypatch.context() as patch:
            patch.setattr(protocol, "_decode_strings", protocol._decode_in_python)
            patch.setattr(protocol, "_REFUSALS", (PayloadError,))
            assert outcome(text) == fast

    @given(st.recursive(any_texts | st.none() | st.integers() | st.floats(), st.lists), st.booleans())
    def test_any_json_is_decoded_alike(self, value: Any, escaped: bool) -> None:
        with pytest.MonkeyPatch.context() as patch:
            self.check(json.dumps(value, ensure_ascii=escaped), patch)

    @given(st.text(st.sampled_from('[]",\\/ \t\n\0abu0d8c{}:1.eE-ntrflas\ufeff\ud800')))
    def test_any_text_is_decoded_alike(self, text: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for payload in (text, f'["{text}"]', f'["a",{text}]'):
                self.check(payload, patch)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "[]",
            " [ ] ",
            '["a"]x',
            '["a",]',
            "[" * 100_000,
            '["\\ud800"]',
            '["\\udc00\\ud800"]',
            '["\\u12"]',
            "\ufeff[]",
        ],
        ids=lambda text: ascii(text)[:20],
    )
    def test_what_is_odd_is_decoded_alike(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.check(text, monkeypatch)

    @given(st.lists(any_texts))
    def test_any_messages_are_encoded_alike(self, messages: list[str]) -> None:
        fast = messages_frame(messages)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(protocol, "_encode_strings", protocol._encode_in_python)
            assert messages_frame(messages) == fast
