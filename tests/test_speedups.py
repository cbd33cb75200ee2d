"""The functions in C return the same as those in Python, and use nothing of their arguments but the data."""

import contextlib
import functools
import gc
import json
import signal
import socket
import sys
from collections.abc import Iterator
from json.encoder import encode_basestring
from types import SimpleNamespace
from typing import Any

import pytest
from client import BINARY, CLOSE, PING, PONG, TEXT, closing, frame
from hypothesis import example, given
from hypothesis import strategies as st
from wire.heads import ATTRIBUTES, Refusal, any_heads, parse_result

from sockjs_tornado import _speedups, protocol
from sockjs_tornado.exceptions import PayloadError
from sockjs_tornado.observe.stats import Stats
from sockjs_tornado.protocol import JSONValue, messages_frame
from sockjs_tornado.session import deadlines
from sockjs_tornado.transports import websocket_receiver
from sockjs_tornado.wire import http_parser, payloads, write_queue
from sockjs_tornado.wire import websocket as wire
from sockjs_tornado.wire.frames import text_frame
from sockjs_tornado.wire.payloads import decode_payload, decode_websocket_payload
from sockjs_tornado.wire.websocket import FrameParser

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
    for name, module in {
        "read_text_frames": wire,
        "read_messages": websocket_receiver,
        "write_messages": websocket_receiver,
        "write_buffered": write_queue,
        "format_response": http_parser,
        "parse_head": http_parser,
        "RequestHead": http_parser,
        "enter_bucket": deadlines,
        "leave_bucket": deadlines,
    }.items():
        assert getattr(module, name) is getattr(_speedups, name)
    assert payloads._decode_fast is not payloads._decode_in_python


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
    def test_messages_other_than_plain_text_are_left_to_python(self, messages: Any) -> None:
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

    def test_it_reads_from_the_given_position(self) -> None:
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
    def test_arguments_of_other_kinds_are_rejected(self, arguments: Any) -> None:
        with pytest.raises((TypeError, SystemError, OverflowError)):
            _speedups.read_text_frames(*arguments)

    def test_a_position_before_the_beginning_is_rejected(self) -> None:
        with pytest.raises(ValueError, match="negative"):
            _speedups.read_text_frames(b"", -1, 1, [])


def read(
    stream: bytes, size: int | None = None, limit: int = 1_000_000, behind: bytes = frame(TEXT, '["unread"]')
) -> tuple[int, list[str]]:
    """Return where ``read_messages`` stops in a stream, and what it has read.

    Args:
        stream: What the client has sent.
        size: How much of it, all by default.
        limit: Bytes that a message may have.
        behind: What an earlier read has left in the memory behind it.
    """
    memory = bytearray(stream + behind)
    messages = ["before"]
    end = _speedups.read_messages(memory, len(stream) if size is None else size, limit, messages)
    assert memory == stream + behind, "the memory was written to"
    assert messages.pop(0) == "before"
    return end, messages


def check_reading(stream: bytes, limit: int = 1_000_000) -> int:
    """See that what was read is what Python reads of the same bytes; return where it stopped.

    Where nobody looks closer, the rest has to be such that Python is needed for it.
    """
    end, messages = read(stream, limit=limit)
    parser = FrameParser(limit)
    expected = []
    for event in parser.feed(stream[:end]):
        assert isinstance(event, str)
        expected += decode_websocket_payload(event, 1_000_000)
    assert messages == expected
    assert parser.at_boundary, "it has stopped within a frame"
    # It stops for good: what comes in two reads is the same.
    assert read(stream[end:], limit=limit) == (0, [])
    return end


#: Payloads of messages, and what is none of these.
strings = st.one_of(
    texts.map(encode_basestring),
    any_texts.map(json.dumps),
    st.text(st.sampled_from('\\\\"/bfnrtu0dDcC8x\n\x1f\x00 ä😀')).map('"{}"'.format),
)
spaces = st.sampled_from(["", "", "", "", " ", "\t\r\n"])
arrays = st.builds(
    lambda items, space, comma: f"{space}[{f'{space},'.join(items)}{comma}]{space}",
    st.lists(strings | st.sampled_from(["1", "null", "[]", '["x"]', "{}", ""]) | strings, max_size=4),
    spaces,
    st.sampled_from(["", "", "", "", ",", "]", "x", '"']),
)
ordinary = st.lists(texts, min_size=1, max_size=4).map(lambda items: f"[{','.join(map(encode_basestring, items))}]")
payload_bytes = st.one_of(
    ordinary.map(str.encode),
    ordinary.map(str.encode),
    arrays.map(lambda text: text.encode("utf-8", "surrogatepass")),
    strings.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=20).map(lambda data: b'["' + data + b'"]'),
    st.binary(max_size=20),
    st.integers(110, 300).map(lambda size: b'["%s"]' % (b"x" * size)),
)
masks = st.binary(min_size=4, max_size=4)
frames = st.one_of(
    st.builds(frame, st.just(TEXT), payload_bytes, mask=masks),
    st.builds(frame, st.just(TEXT), payload_bytes, mask=masks),
    st.builds(frame, st.just(TEXT), payload_bytes, mask=masks),
    st.builds(
        frame,
        st.sampled_from([0, TEXT, BINARY, CLOSE, PING, PONG, 3]),
        payload_bytes,
        fin=st.booleans(),
        reserved=st.sampled_from([0, 0, 4, 1]),
        mask=masks | st.none(),
    ),
    # A length that is not the shortest.
    payload_bytes.map(lambda data: b"\x81\xfe" + len(data).to_bytes(2, "big") + b"\0\0\0\0" + data),
    st.binary(max_size=12),
)


class TestReadMessages:
    @given(st.lists(frames, max_size=6).map(b"".join), st.sampled_from([0, 1, 4, 10, 125, 1_000_000]), st.data())
    def test_it_reads_what_python_reads(self, stream: bytes, limit: int, data: st.DataObject) -> None:
        check_reading(stream, limit)
        cut = data.draw(st.integers(0, len(stream)))
        end, messages = read(stream, cut, limit)
        assert (end, messages) == read(stream[:cut], limit=limit, behind=b""), "it has read beyond the size"
        assert end <= cut

    @given(st.lists(st.lists(texts, min_size=1, max_size=4), max_size=5), masks)
    def test_it_reads_all_ordinary_messages(self, messages: list[list[str]], mask: bytes) -> None:
        sent = [f"[{','.join(map(encode_basestring, items))}]" for items in messages]
        # Of such as are in no need of one, Python writes no escape that begins with u.
        plain = [text for text in sent if "\\u" not in text]
        stream = b"".join(frame(TEXT, text, mask=mask) for text in plain)
        expected = [item for text in plain for item in json.loads(text)]
        assert read(stream) == (len(stream), expected)

    @given(st.one_of(payload_bytes, st.text(st.sampled_from('[]",\\/ \tnu0x\0ä')).map(str.encode)))
    def test_any_payload_is_read_alike_or_left_alone(self, payload: bytes) -> None:
        check_reading(frame(TEXT, '["a","b"]') + frame(TEXT, payload) + frame(TEXT, '["c"]'))

    @pytest.mark.parametrize("special", [*ODD, "ä", "\\u0041", "\\x", "\\", *("\\" + letter for letter in '"\\/bfnrt')])
    def test_it_finds_what_is_special_wherever_it_stands(self, special: str) -> None:
        for position in range(20):
            text = "x" * position + special + "y" * (20 - position)
            payload = f'["{text}","{special * position}"]'
            stream = frame(TEXT, payload)
            try:
                expected = json.loads(payload)
            except ValueError:
                assert read(stream) == (0, [])
            else:
                assert read(stream) == ((0, []) if "\\u" in special else (len(stream), expected))
            check_reading(stream)

    @pytest.mark.parametrize("size", [4, 5, 11, 12, 13, 124, 125, 126, 127, 255, 256, 257, 65_534, 65_535])
    def test_it_reads_frames_of_all_lengths_below_64_kib(self, size: int) -> None:
        text = "x" * (size - 4)
        stream = frame(TEXT, f'["{text}"]') * 3
        assert read(stream) == (len(stream), [text] * 3)
        assert read(stream, limit=size) == (len(stream), [text] * 3)
        assert read(stream, limit=size - 1) == (0, [])

    @pytest.mark.parametrize("limit", [2**63 - 1, 2**63, 2**70])
    def test_no_limit_is_too_high(self, limit: int) -> None:
        """Settings take any number."""
        assert read(frame(TEXT, '["x"]'), limit=limit) == (11, ["x"])

    @pytest.mark.parametrize("limit", [0, -1, -(2**63)])
    def test_a_limit_below_every_message_lets_none_through(self, limit: int) -> None:
        assert read(frame(TEXT, '["x"]'), limit=limit) == (0, [])

    @pytest.mark.parametrize(
        "other",
        [
            frame(TEXT, "[]"),
            frame(TEXT, ""),
            frame(TEXT, '"x"'),
            frame(TEXT, '["x",1]'),
            frame(TEXT, '["x","y"'),
            frame(TEXT, '["x","y",]'),
            frame(TEXT, '["x""y"]'),
            frame(TEXT, '["x","y"]]'),
            frame(TEXT, '["x","y"] '),
            frame(TEXT, ' ["x","y"]'),
            frame(TEXT, '["x", "y"]'),
            frame(TEXT, '["x",["y"]]'),
            frame(TEXT, '["x","\\u0041"]'),
            frame(TEXT, '["x","\\q"]'),
            frame(TEXT, '["x","\\'),
            frame(TEXT, '["x","\n"]'),
            frame(TEXT, '["x","y\0"]'),
            frame(TEXT, b'["x","\xff"]'),
            frame(TEXT, b'["x","\xed\xa0\x80"]'),
            frame(TEXT, b'["x","\xc3"]'),
            frame(TEXT, b'["x","\xc3","\xa4"]'),
            frame(TEXT, '["x"]', fin=False),
            frame(TEXT, '["x"]', reserved=4),
            frame(TEXT, '["x"]', mask=None),
            frame(BINARY, '["x"]'),
            frame(0, '["x"]'),
            frame(PING, '["x"]'),
            closing(1000, '["x"]'),
            frame(TEXT, f'["{"x" * 65_532}"]'),
            b"\x81\xfe\x00\x05\0\0\0\0" + b'["x"]',
        ],
        ids=lambda other: ascii(other)[:40],
    )
    def test_of_what_is_out_of_the_ordinary_nothing_is_kept(self, other: bytes) -> None:
        before = frame(TEXT, '["a","b"]') + frame(TEXT, '["c"]')
        assert read(before + other + before) == (len(before), ["a", "b", "c"])

    def test_of_a_frame_that_is_not_whole_nothing_is_read(self) -> None:
        for text in ("x" * 10, "y" * 200):
            whole = frame(TEXT, f'["{text}"]')
            for cut in range(len(whole)):
                # The rest is there, but it is none of what was read: it is from an earlier time.
                stream = frame(TEXT, '["a"]') + whole
                assert read(stream, 11 + cut) == (11, ["a"])
            assert read(stream) == (len(stream), ["a", text])

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            (bytearray(8), 0, 1),
            (bytearray(8), 0, 1, [], None),
            (b"12345678", 0, 1, []),
            (memoryview(bytearray(8)), 0, 1, []),
            (None, 0, 1, []),
            (bytearray(8), "0", 1, []),
            (bytearray(8), 0.0, 1, []),
            (bytearray(8), 0, "1", []),
            (bytearray(8), 0, None, []),
            (bytearray(8), 0, 1, ()),
            (bytearray(8), 0, 1, None),
        ],
        ids=lambda arguments: ",".join(type(argument).__name__ for argument in arguments),
    )
    def test_arguments_of_other_kinds_are_rejected(self, arguments: Any) -> None:
        with pytest.raises(TypeError):
            _speedups.read_messages(*arguments)

    @pytest.mark.parametrize("size", [-1, 9, 2**40, -(2**63)])
    def test_a_size_beyond_the_memory_is_rejected(self, size: int) -> None:
        with pytest.raises(ValueError, match="memory"):
            _speedups.read_messages(bytearray(8), size, 1, [])
        with pytest.raises(OverflowError):
            _speedups.read_messages(bytearray(8), 2**70, 1, [])

    def test_nothing_is_in_no_memory(self) -> None:
        assert read(b"", behind=b"") == (0, [])


@contextlib.contextmanager
def sockets(room: int = 1) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield two connected sockets that do not block; the first one has little room for what is not taken, or more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        yield ours, theirs


def writer(direct: Any, gathered: Any) -> Any:
    """Return what is a connection to ``write_buffered``."""
    connection: Any = _speedups.ConnectionCore()
    connection._writable_socket = direct
    connection._write_buffer = gathered
    return connection


def lacking(name: str, sock: Any) -> Any:
    """Return a connection with an unset field."""
    connection = writer(sock, b"bad")
    delattr(connection, name)
    return connection


def fill(sock: socket.socket) -> None:
    """Send until there is no room for more."""
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(b"x" * 1000)


def taken(sock: socket.socket) -> bytes:
    """Return all that is there."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        while piece := sock.recv(1 << 20):
            data += piece
    return data


def flushing(direct: Any, gathered: Any, stats: Any) -> Any:
    """Return a connection, which notes in ``left`` what is left to Python to flush."""

    class Flushing(_speedups.ConnectionCore):
        def _flush(self: Any, flags: Any) -> None:
            self.left.append(flags)

    connection: Any = Flushing()
    connection._writable_socket, connection._write_buffer, connection._stats = direct, gathered, stats
    connection.left = []
    return connection


def test_a_flush_sends_what_the_socket_accepts_and_leaves_the_rest_to_python() -> None:
    with sockets() as (ours, theirs):
        stats = Stats(tuple)
        one = flushing(ours, b"hello", stats)
        one.flush()
        assert (one._write_buffer, one.left, stats.bytes_sent) == (None, [], 5)
        one.flush()
        assert one.left == []
        one._write_buffer = b" world"
        one.flush(socket.MSG_DONTWAIT)
        assert taken(theirs) == b"hello world"
        assert (one.left, stats.bytes_sent) == ([], 11)
        one._write_buffer = b"x" * 1_000_000
        one.flush(0)
        rest = len(one._write_buffer)
        sent = 1_000_000 - rest
        assert taken(theirs) == b"x" * sent
        assert 0 < sent < 1_000_000
        assert (one.left, stats.bytes_sent) == ([0], 11 + sent)
        theirs.close()
        # Python meets the error again.
        one.flush(0)
        assert (len(one._write_buffer), one.left, stats.bytes_sent) == (rest, [0, 0], 11 + sent)


def test_a_flush_that_is_not_ordinary_is_left_to_python() -> None:
    with sockets() as (ours, theirs), OtherSocket(fileno=ours.dup().detach()) as other:
        stats = Stats(tuple)
        for direct, data, counters, flags in (
            *((sock, b"data", stats, 0) for sock in (None, other, "socket")),
            *((ours, data, stats, 0) for data in ("data", bytearray(b"data"))),
            (ours, b"data", SimpleNamespace(bytes_sent=0), 0),
            *((ours, b"data", stats, flags) for flags in (None, -1, 2**31, 2**70, "0")),
        ):
            one = flushing(direct, data, counters)
            one.flush(flags)
            assert (one._write_buffer, one.left) == (data, [flags])
        assert (stats.bytes_sent, taken(theirs)) == (0, b"")
        with pytest.raises(TypeError):
            flushing(ours, b"data", stats).flush(0, 0)


class OtherSocket(socket.socket):
    """What a program may have made of a socket."""

    asked = 0

    def fileno(self) -> int:
        OtherSocket.asked += 1
        return -1


class Lookalike:
    """No connection, but in memory like one."""

    __slots__ = ("a_buffer", "b_direct", "c_framing", "d_gathered")

    def __init__(self, sock: socket.socket) -> None:
        self.b_direct = sock
        self.d_gathered = b"bad"


class TestWriteGathered:
    def test_all_is_taken(self) -> None:
        with sockets() as (a, b), sockets() as (c, d):
            connections = [writer(a, b"first"), writer(c, b"second"), writer(a, b", third")]
            left: list[Any] = []
            assert _speedups.write_buffered(connections, left) == 18
            assert left == []
            assert [connection._write_buffer for connection in connections] == [None] * 3
            assert (taken(b), taken(d)) == (b"first, third", b"second")

    def test_many_connections_write_in_order_even_if_some_cannot(self) -> None:
        with sockets(100_000) as (a, b), sockets(100_000) as (c, d), sockets() as (full, _):
            fill(full)
            connections = [writer((a, c)[number % 2], b"%d," % number) for number in range(300)]
            connections[200]._writable_socket = full
            left: list[Any] = []
            written = _speedups.write_buffered(connections, left)
            assert left == [connections[200]]
            assert [connection._write_buffer for connection in connections if connection._write_buffer] == [b"200,"]
            of_b, of_d = taken(b), taken(d)
            assert of_b == b"".join(b"%d," % number for number in range(0, 300, 2) if number != 200)
            assert of_d == b"".join(b"%d," % number for number in range(1, 300, 2))
            assert written == len(of_b + of_d)

    def test_a_connection_listed_twice_writes_once(self) -> None:
        # Who has written by itself meanwhile, and has more since then, is waiting twice.
        with sockets() as (ours, theirs):
            one = writer(ours, b"once")
            assert _speedups.write_buffered([one, one], []) == 4
            assert taken(theirs) == b"once"

    @pytest.mark.parametrize("collecting", [True, False])
    def test_no_garbage_is_collected_meanwhile(self, collecting: bool) -> None:
        # Of which somebody may close a socket whose number is known already.
        class Last:
            def __init__(self) -> None:
                self.circle = self

            def __del__(self) -> None:
                gone.append(moments[-1])

        moments, gone = ["before"], list[str]()
        thresholds = gc.get_threshold()
        with sockets() as (ours, theirs):
            one = writer(ours, b"data")
            connections, left = [one, one], list[Any]()
            Last()
            try:
                if not collecting:
                    gc.disable()
                gc.set_threshold(1)
                moments.append("meanwhile")
                written = _speedups.write_buffered(connections, left)
                moments.append("after")
                assert gc.isenabled() is collecting
            finally:
                gc.set_threshold(*thresholds)
                gc.enable()
            assert (written, left, taken(theirs)) == (4, [], b"data")
        gc.collect()
        assert gone in (["before"], ["after"])

    def test_written_data_is_released(self) -> None:
        data = bytes(1000)
        before = sys.getrefcount(data)
        with sockets(100_000) as (ours, _), sockets() as (full, _):
            fill(full)
            ones = [writer(ours, data), writer(full, data), writer(None, data)]
            _speedups.write_buffered(ones, [])
            assert sys.getrefcount(data) == before + 2
        del ones
        assert sys.getrefcount(data) == before

    def test_of_what_is_taken_in_part_the_rest_is_left(self) -> None:
        with sockets() as (ours, theirs):
            data = bytes(range(256)) * 4000
            one = writer(ours, data)
            before = object()
            left = [before]
            written = _speedups.write_buffered([one], left)
            assert 0 < written < len(data)
            assert left == [before, one]
            assert one._write_buffer == data[written:]
            assert taken(theirs) == data[:written]

    def test_of_what_is_not_taken_at_all_everything_is_left(self) -> None:
        with sockets() as (ours, theirs):
            fill(ours)
            one = writer(ours, b"data")
            left: list[Any] = []
            assert _speedups.write_buffered([one], left) == 0
            assert left == [one]
            assert one._write_buffer == b"data"
            assert set(taken(theirs)) == set(b"x")

    def test_a_connection_that_must_not_write_is_left(self) -> None:
        one = writer(None, b"data")
        left: list[Any] = []
        assert _speedups.write_buffered([one], left) == 0
        assert left == [one]
        assert one._write_buffer == b"data"

    def test_a_connection_without_data_is_skipped(self) -> None:
        left: list[Any] = []
        with sockets() as (ours, theirs):
            assert _speedups.write_buffered([writer(ours, None), writer(None, None)], left) == 0
            assert left == []
            assert _speedups.write_buffered([], left) == 0
            assert taken(theirs) == b""

    def test_no_bytes_are_soon_written(self) -> None:
        left: list[Any] = []
        with sockets() as (ours, theirs):
            one = writer(ours, b"")
            assert _speedups.write_buffered([one], left) == 0
            assert (left, one._write_buffer) == ([], None)
            theirs.close()
            two = writer(ours, b"")
            _speedups.write_buffered([two], left)
            # Left or written, but nothing in between: it would never be looked at again.
            assert (two in left) is (two._write_buffer is not None)

    def test_a_peer_that_has_gone_is_left_to_the_transport_and_no_signal_comes(self) -> None:
        signals: list[int] = []
        before = signal.signal(signal.SIGPIPE, lambda number, _: signals.append(number))
        try:
            with sockets() as (ours, theirs):
                theirs.close()
                one = writer(ours, b"data")
                left: list[Any] = []
                assert _speedups.write_buffered([one], left) == 0
                assert left == [one]
        finally:
            signal.signal(signal.SIGPIPE, before)
        assert signals == []

    def test_a_number_that_was_a_closed_socket_s_is_nobodys(self) -> None:
        with sockets() as (ours, theirs):
            for close in (socket.socket.close, socket.socket.detach):
                number = ours.fileno()
                duplicate = ours.dup()
                one = writer(ours, b"stray")
                close(ours)
                # detach() leaves it open: whoever has it now is not written to.
                with contextlib.suppress(OSError):
                    socket.socket(fileno=number).close()
                left: list[Any] = []
                assert _speedups.write_buffered([one], left) == 0
                assert left == [one]
                assert one._write_buffer == b"stray"
                assert taken(theirs) == b""
                ours = duplicate
            ours.close()

    @pytest.mark.parametrize(
        "bad",
        [
            lambda sock: writer(sock, "text"),
            lambda sock: writer(sock, bytearray(b"bad")),
            lambda sock: writer(sock, 5),
            lambda sock: writer(None, 5),
            lambda sock: writer("no socket", b"bad"),
            lambda sock: writer(-1, b"bad"),
            lambda sock: writer(OtherSocket.__new__(OtherSocket), b"bad"),
            functools.partial(lacking, "_writable_socket"),
            functools.partial(lacking, "_write_buffer"),
            Lookalike,
        ],
        ids=[
            *("text", "bytearray", "number", "number, no socket", "no socket", "negative", "other socket"),
            *("socket unset", "data unset", "no connection"),
        ],
    )
    def test_one_that_is_wrong_keeps_no_other_from_writing(self, bad: Any) -> None:
        with sockets() as (a, b), sockets() as (c, d), sockets() as (e, f):
            wrong = bad(e)
            first, second = writer(a, b"first"), writer(c, b"second")
            left: list[Any] = []
            _speedups.write_buffered([first, wrong, second], left)
            assert (taken(b), taken(d)) == (b"first", b"second")
            # Python looks at it, and finds what is wrong.
            assert left == [wrong]
            assert taken(f) == b""
            assert OtherSocket.asked == 0

    @pytest.mark.parametrize(
        "arguments", [(), ([],), ([], [], []), ((), []), ([], ()), (None, []), ([], None)], ids=ascii
    )
    def test_arguments_of_other_kinds_are_rejected(self, arguments: Any) -> None:
        with pytest.raises(TypeError):
            _speedups.write_buffered(*arguments)


def outcome(text: str) -> Any:
    """Return the messages of a payload, or the error."""
    try:
        return decode_payload(text, 1_000_000)
    except PayloadError as error:
        return str(error)


class TestMsgspec:
    """The same results as of the standard library, whatever is given."""

    @staticmethod
    def check(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        fast = outcome(text)
        with monkeypatch.context() as patch:
            patch.setattr(payloads, "_decode_fast", payloads._decode_in_python)
            patch.setattr(payloads, "_DECODE_ERRORS", (ValueError, PayloadError, RecursionError))
            patch.setattr(payloads, "_IS_STRICT", False)
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
    def test_unusual_payloads_are_decoded_alike(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.check(text, monkeypatch)

    @given(st.lists(any_texts))
    def test_any_messages_are_encoded_alike(self, messages: list[str]) -> None:
        fast = messages_frame(messages)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(protocol, "_encode_strings", protocol._encode_in_python)
            assert messages_frame(messages) == fast


class TestParseHead:
    @given(any_heads)
    def test_the_twin_is_called_only_if_there_is_a_fault(self, data: bytes) -> None:
        parse: Any = _speedups.parse_head
        for end in range(len(data) + 1):
            arguments = (data, 0, end, 1000, 5)
            is_refused = isinstance(parse_result(http_parser._parse_head_python, *arguments), Refusal)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(http_parser, "_parse_head_python", lambda *_: "called")
                assert (parse(*arguments) == "called") is is_refused

    def test_a_head_cannot_be_created_or_changed(self) -> None:
        head: Any = _speedups.parse_head(b"GET / HTTP/1.0\r\n\r\n", 0, 18, 100, 5)
        assert type(head) is _speedups.RequestHead
        with pytest.raises(TypeError):
            _speedups.RequestHead()
        with pytest.raises(TypeError):
            type("Derived", (_speedups.RequestHead,), {})
        with pytest.raises(TypeError):
            _speedups.RequestHead.method = "x"
        for name in (*ATTRIBUTES, "other"):
            with pytest.raises((AttributeError, TypeError)):
                setattr(head, name, 1)
            with pytest.raises((AttributeError, TypeError)):
                delattr(head, name)

    def test_a_name_must_be_text(self) -> None:
        head: Any = _speedups.parse_head(b"GET / HTTP/1.0\r\n\r\n", 0, 18, 100, 5)
        for name in (None, b"host", 5):
            for lookup in (head.header, head.header_lines):
                with pytest.raises(TypeError, match="must be a str"):
                    lookup(name)


class TestFormatResponse:
    def test_ordinary_responses_are_not_left_to_python(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(http_parser, "_format_response_python")
        fields = [("a", "b \t~")] * 64
        assert _speedups.format_response("x\r\n", fields, b"y") == b"x\r\n" + b"a: b \t~\r\n" * 64 + b"\r\ny"
        assert _speedups.format_response("x\r\n", [], b"") == b"x\r\n\r\n"
        for other in ([*fields, ("a", "b")], [("a", "\r")], [("\n", "b")], [("a", "\0")], [("a", "\xe4")]):
            with pytest.raises(AttributeError, match="_format_response_python"):
                _speedups.format_response("x", other, b"")


class TestBuckets:
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 2),
                st.none() | st.floats(-1, 5) | st.integers(0, 5) | st.sampled_from([1e15, 1.1e15, float("inf")]),
            ),
            max_size=30,
        )
    )
    def test_owners_are_where_python_keeps_them(self, calls: list[tuple[int, float | None]]) -> None:
        found = []
        for enter, leave in (
            (_speedups.enter_bucket, _speedups.leave_bucket),
            (deadlines._enter_bucket_python, deadlines._leave_bucket_python),
        ):
            buckets: dict[int, set[Any]] = {}
            created: list[int] = []
            owners: list[Any] = [type("Owner", (), {"bucket": None})() for _ in range(3)]
            for number, due in calls:
                if due is None:
                    leave(buckets, owners[number])
                else:
                    owners[number].due = due
                    enter(buckets, 0.1, created.append, owners[number])
            numbered = {key: {owners.index(owner) for owner in members} for key, members in buckets.items()}
            found.append((numbered, created, [owner.bucket for owner in owners]))
        assert found[0] == found[1]

    def test_a_bucket_may_be_deleted_before_the_last_owner_leaves_it(self) -> None:
        """As that of an owner which is being checked, and cancels the others first."""
        for leave in (_speedups.leave_bucket, deadlines._leave_bucket_python):
            owner: Any = SimpleNamespace(bucket=5)
            leave({}, owner)
            assert owner.bucket is None

    @pytest.mark.parametrize(
        ("owner", "error"),
        [
            (SimpleNamespace(due="x", bucket=None), TypeError),
            (SimpleNamespace(due=1.0, bucket="x"), TypeError),
            (SimpleNamespace(due=1.0), AttributeError),
            # It has no hash.
            (SimpleNamespace(due=1.0, bucket=None), TypeError),
            (SimpleNamespace(bucket=None), AttributeError),
        ],
    )
    def test_an_owner_that_cannot_be_kept_is_an_error(self, owner: Any, error: type[Exception]) -> None:
        for enter in (_speedups.enter_bucket, deadlines._enter_bucket_python):
            buckets: dict[int, set[Any]] = {}
            with pytest.raises(error):
                enter(buckets, 1.0, lambda number: None, SimpleNamespace(**vars(owner)))
            assert not buckets

    def test_an_error_of_the_timer_is_raised(self) -> None:
        owner: Any = type("Owner", (), {"due": 1.0, "bucket": None})()
        for enter in (_speedups.enter_bucket, deadlines._enter_bucket_python):
            owner.bucket = None
            with pytest.raises(IndexError):
                enter({}, 1.0, [].pop, owner)
