"""The parser of request heads, in C and in Python, compared with those of h11 and Tornado."""

import base64
import contextlib
import gc
import sys
from collections.abc import Sequence
from typing import Any

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.other_parsers import h11_head, our_head, tornado_head
from sockjs_tornado.exceptions import BadRequest
from sockjs_tornado.wire import http_parser
from sockjs_tornado.wire.handshake import accept_handshake
from sockjs_tornado.wire.http_parser import RequestHead

from .heads import ATTRIBUTES, Parse, Refusal, any_heads, parse_result

#: The implementations; without the C module they are the same.
PARSERS: dict[str, Any] = {"C": http_parser.parse_head, "Python": http_parser._parse_head_python}
FORMATTERS: dict[str, Any] = {"C": http_parser.format_response, "Python": http_parser._format_response_python}

LINE = b"GET / HTTP/1.1\r\n"
HEAD = LINE + b"Host: x\r\n"
MAX_SIZE, MAX_FIELDS = 1000, 5

each_parser = pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)


def parsed(parse: Parse, data: bytes, max_size: int = MAX_SIZE, max_fields: int = MAX_FIELDS) -> RequestHead:
    """Return the head at the start of the data."""
    head: RequestHead | None = parse(data, 0, len(data), max_size, max_fields)
    assert head is not None
    return head


def history(parse: Parse, data: bytes, *limits: int) -> list[Any]:
    """Return what is found as the data arrives byte by byte: the same from the first result on."""
    found = [parse_result(parse, data, 0, end, *limits) for end in range(len(data) + 1)]
    results = [one for one in found if one is not None]
    assert all(one == results[0] for one in results)
    return found


# --- what is refused ----------------------------------------------------------

#: Each ends with the byte at which it becomes certain that it is invalid.
REFUSED: dict[int, list[bytes]] = {
    400: [
        # Before the request line.
        *(b"\n", b"\r\r", b"\rG", b"\r\n\r", b"\r\n\n", b" ", b"\t", b"\0", b"\x16", b"\x80"),
        # The method.
        *(b"GET\r", b"GET\n", b"GET\t", b"GET\0", b"G(", b"G:", b'G"', b"G\xe9", b"G\x7f", b"\r\n "),
        # The target.
        *(b"GET  ", b"GET \r", b"GET \t", b"GET /\t", b"GET /\r", b"GET /\n", b"GET /\0", b"GET /\x1f", b"GET /\x7f"),
        # The version.
        *(b"GET /  ", b"GET / \r", b"GET / h", b"GET / HTTP/1.1 ", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\r"),
        *(b"GET / HTTP/1.11", b"GET / HTTP/11", b"GET / HTTP/1,", b"GET / HTTPS", b"GET / HTTP ", b"GET / HTTP/ "),
        *(b"GET / HTTP/x", b"GET / HTTP/1.x", b"GET / HTTP/-", b"GET / HTTP/1.\xb2", b"GET / /"),
        # Names of fields, and blanks.
        *(LINE + b" ", LINE + b"\t", HEAD + b" ", HEAD + b"\t", HEAD + b"x: a\r\n b"[:7], LINE + b"\n", LINE + b"\0"),
        *(LINE + b":", LINE + b"Host ", LINE + b"Host\t", LINE + b"Host\r", LINE + b"Host\n", LINE + b"Ho\0"),
        *(LINE + b"Ho(", LINE + b'"', LINE + b"H\xf6", LINE + b"Ho/", LINE + b"[", LINE + b"\x7f"),
        # Values.
        *(HEAD + b"x: " + bytes([byte]) for byte in range(0x20) if byte not in b"\t\r"),
        *(HEAD + b"x: a\x7f", HEAD + b"x: a\n", HEAD + b"x: a\rb", HEAD + b"x: a\r\r", HEAD + b"x:\r "),
        # The end.
        *(HEAD + b"\r\r", HEAD + b"\rx", LINE + b"\r\n", LINE + b"x: y\r\n\r\n"),
        # Host.
        *(HEAD + b"host: x\r\n", HEAD + b"HOST:\r\n", b"GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n"),
        *(LINE + b"Host: a b\r\n", LINE + b"Host: a,b\r\n", LINE + b"Host: a/b\r\n", LINE + b"Host: a@b\r\n"),
        *(LINE + b"Host: a?\r\n", LINE + b"Host: %4\r\n", LINE + b"Host: %4g\r\n", LINE + b"Host: %\r\n"),
        *(LINE + b"Host: \xe4\r\n", LINE + b"Host: a\\b\r\n", LINE + b"Host: a\tb\r\n", LINE + b"Host: <\r\n"),
        # Content-Length.
        *(
            HEAD + b"Content-Length:" + value + b"\r\n"
            for value in (
                *(b"", b"-1", b"+1", b"1.0", b"0x1", b"1_0", b"1 1", b"1,2", b"1,,1", b"1 ,1", b",1", b"1,", b"1, "),
                *(b"a", b"1a", b"1" * 19, b"0" * 19, b"\xb2", b"1;", b'"1"', b"1,11", b"11,1", b"1,01", b"1\t1"),
            )
        ),
        *(HEAD + b"content-length: 1\r\nContent-Length: " + value + b"\r\n" for value in (b"2", b"01", b"1,2", b"")),
        HEAD + b"Content-Length: 12\r\nContent-Length: 1\r\n",
        HEAD + b"Content-Length: 0\r\nContent-Length: 00\r\n",
        # Transfer-Encoding.
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        HEAD + b"Content-Length: 0\r\ntransfer-encoding:chunked\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: identity\r\n",
    ],
    414: [
        b"GET /" + b"a" * (MAX_SIZE - 5),
        b"G" * MAX_SIZE,
        b"GET /" + b"a" * (MAX_SIZE - 15) + b" HTTP/1.1\r",
        b"\r\nGET /" + b"a" * (MAX_SIZE - 7),
    ],
    431: [
        HEAD + b"x" * (MAX_SIZE - len(HEAD)),
        HEAD + b"x:" + b"y" * (MAX_SIZE - len(HEAD) - 2),
        HEAD + b"x:" + b"y" * (MAX_SIZE - len(HEAD) - 4) + b"\r\n",
        HEAD + b"x:" + b"y" * (MAX_SIZE - len(HEAD) - 5) + b"\r\n\r",
        HEAD + b"x: y\r\n" * MAX_FIELDS,
        # The first fault counts.
        HEAD + b"x: y\r\n" * (MAX_FIELDS - 1) + b"Host: x\r\n",
    ],
    501: [
        *(
            HEAD + b"Transfer-Encoding:" + value + b"\r\n"
            for value in (
                *(b"", b"gzip", b"identity", b"chunked, chunked", b"gzip, chunked", b"chunked;q=1", b"chunked,"),
                *(b",chunked", b"xchunked", b"chunke", b"chunkedx", b"\xe7hunked", b"chunked\xa0", b'"chunked"'),
            )
        ),
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
    ],
    505: [
        *(
            b"GET / HTTP/%b\r\n" % version
            for version in (b"2.0", b"0.9", b"1.2", b"1.9", b"3.0", b"0.0", b"0.1", b"9.9")
        ),
        b"PRI * HTTP/2.0\r\n",
    ],
}


@each_parser
@pytest.mark.parametrize("status", REFUSED)
def test_a_fault_is_found_with_the_byte_that_makes_it_certain(parse: Parse, status: int) -> None:
    limit = {414: "request_uri", 431: "request_fields"}.get(status, "")
    for data in REFUSED[status]:
        *before, found = history(parse, data, MAX_SIZE, MAX_FIELDS)
        assert before == [None] * len(data), data
        assert found.status == status, data
        assert found.reason.endswith("."), data
        assert found.limit == limit, data
        assert parse_result(parse, data + b"\r\n\r\n", 0, len(data) + 4, MAX_SIZE, MAX_FIELDS) == found


# --- what is accepted ---------------------------------------------------------

#: Heads, and those of their attributes that are not as in ``GET / HTTP/1.1`` without a body.
ACCEPTED: list[tuple[bytes, dict[str, Any]]] = [
    (HEAD, {}),
    (LINE + b"hOST:\r\n", {}),
    (b"GET / HTTP/1.0\r\n", {"is_http11": False, "keep_alive": False, "count": 0}),
    (b"GET / HTTP/1.0\r\nHost: x\r\n", {"is_http11": False, "keep_alive": False}),
    (b"\r\n" + HEAD, {}),
    # Methods and targets.
    (b"get / HTTP/1.1\r\nHost: x\r\n", {"method": "get"}),
    (b"!#$%&'*+-.^_`|~09AZaz / HTTP/1.1\r\nHost: x\r\n", {"method": "!#$%&'*+-.^_`|~09AZaz"}),
    (b"GET http://y:80/a?b HTTP/1.1\r\nHost: x\r\n", {"target": "http://y:80/a?b"}),
    (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n", {"method": "OPTIONS", "target": "*"}),
    (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n", {"method": "CONNECT", "target": "x:443"}),
    (b"GET /%ff%00'\"<>\\^`{|}~#[] HTTP/1.1\r\nHost: x\r\n", {"target": "/%ff%00'\"<>\\^`{|}~#[]"}),
    (b"GET /\x80\xe4\xff HTTP/1.1\r\nHost: x\r\n", {"target": "/\x80\xe4\xff"}),
    *(
        (b"%b / HTTP/1.1\r\nHost: x\r\n" % method.encode(), {"method": method})
        for method in ("POST", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "GE", "GETS", "POS", "OPTION")
    ),
    # Hosts.
    *(
        (LINE + b"Host: %b\r\n" % host, {})
        for host in (b"a.example:8080", b"[::1]:80", b"[fe80::1%25eth0]", b"a_b", b"%41", b"x:", b"!$&'()*+;=~-._")
    ),
    # Bodies.
    (HEAD + b"Content-Length: 0\r\n", {"count": 2}),
    (HEAD + b"Content-Length: 12\r\n", {"count": 2, "content_length": 12, "has_body": True}),
    (HEAD + b"Content-Length:007\t\r\n", {"count": 2, "content_length": 7, "has_body": True}),
    (HEAD + b"CONTENT-LENGTH:" + b"9" * 18 + b"\r\n", {"count": 2, "content_length": 10**18 - 1, "has_body": True}),
    (HEAD + b"Content-Length: 12, 12,12,\t12\r\n", {"count": 2, "content_length": 12, "has_body": True}),
    (HEAD + b"content-length: 1\r\nContent-Length: 1, 1\r\n", {"count": 3, "content_length": 1, "has_body": True}),
    (HEAD + b"Transfer-Encoding: chunked\r\n", {"count": 2, "is_chunked": True, "has_body": True}),
    (HEAD + b"tRANSFER-eNCODING:\tCHUNKED \r\n", {"count": 2, "is_chunked": True, "has_body": True}),
    # Connections.
    *(
        (HEAD + b"Connection: " + value + b"\r\n", {"count": 2, "keep_alive": keep_alive})
        for value, keep_alive in (
            *((b"close", False), (b"Close", False), (b"x, close", False), (b"close\t,x", False), (b",, CLOSE,", False)),
            *((b"keep-alive, close", False), (b"keep-alive", True), (b"", True), (b"closed", True), (b"x close", True)),
            *((b"close;x", True), (b"upgrade", True), (b"clos", True), (b'"close"', True), (b",", True)),
        )
    ),
    (HEAD + b"Connection: x\r\nConnection: close\r\n", {"count": 3, "keep_alive": False}),
    (HEAD + b"Connection: clo\r\nConnection: se\r\n", {"count": 3}),
    *(
        (
            b"GET / HTTP/1.0\r\nConnection: " + value + b"\r\n",
            {"is_http11": False, "keep_alive": keep_alive},
        )
        for value, keep_alive in (
            *((b"keep-alive", True), (b"Keep-Alive", True), (b"x,\tkeep-alive", True), (b"keep-alive, close", False)),
            *((b"keep", False), (b"", False), (b"close", False)),
        )
    ),
    # Expectations and upgrades.
    (HEAD + b"Expect: 100-continue\r\n", {"count": 2, "expects_continue": True}),
    (HEAD + b"EXPECT:x, 100-Continue\r\n", {"count": 2, "expects_continue": True}),
    (HEAD + b"Expect: 100-continued\r\n", {"count": 2}),
    (b"GET / HTTP/1.0\r\nExpect: 100-continue\r\n", {"is_http11": False, "keep_alive": False}),
    (HEAD + b"Upgrade: websocket\r\n", {"count": 2, "has_upgrade": True}),
    (HEAD + b"upgrade:\r\n", {"count": 2, "has_upgrade": True}),
    # Names that only resemble them.
    (HEAD + b"Hosts: a b\r\nContent-Lengths: x\r\nX-Expect: y\r\nExpecx: 100-continue\r\n", {"count": 5}),
    (HEAD + b"Content_Length: x\r\nTransfer_Encoding: x\r\nHost_: x\r\nUpgrad: x\r\n", {"count": 5}),
    (HEAD + b"Content-Lengtx: x\r\nTransfer-Encodinx: x\r\nConnectiox: close\r\nUpgradx: x\r\n", {"count": 5}),
]


@each_parser
def test_a_valid_head_is_accepted_with_its_last_byte(parse: Parse) -> None:
    for lines, differences in ACCEPTED:
        data = lines + b"\r\n"
        expected: dict[str, Any] = dict.fromkeys(ATTRIBUTES, False)
        expected |= {"method": "GET", "target": "/", "is_http11": True, "keep_alive": True}
        expected |= {"size": len(data), "count": 1, "content_length": 0, **differences}
        head = parsed(parse, data)
        assert {name: getattr(head, name) for name in ATTRIBUTES} == expected, data
        *before, found = history(parse, data, MAX_SIZE, MAX_FIELDS)
        assert before == [None] * len(data), data
        for behind in (b"GET / HTTP/1.1\r\n\r\n", b"\n\0\xff" + bytes(2000)):
            whole = data + behind
            # Also if it is exactly as large as allowed.
            for limits in ((MAX_SIZE, MAX_FIELDS), (len(data), head.count)):
                assert parse_result(parse, whole, 0, len(whole), *limits) == found, data


@each_parser
def test_a_head_may_be_anywhere_in_any_buffer(parse: Parse) -> None:
    data = HEAD + b"x: y\r\n\r\n"
    expected = parse_result(parse, data, 0, len(data), MAX_SIZE, MAX_FIELDS)
    for before in (b"\0", data, b"\r\n"):
        whole = before + data + b"behind"
        for buffer in (whole, bytearray(whole), memoryview(whole), memoryview(bytearray(whole))):
            assert parse_result(parse, buffer, len(before), len(whole), MAX_SIZE, MAX_FIELDS) == expected
            assert parse(buffer, len(before), len(before) + len(data) - 1, MAX_SIZE, MAX_FIELDS) is None
    assert parse(b"", 0, 0, 1, 1) is None


@each_parser
def test_a_head_has_its_own_copy(parse: Parse) -> None:
    buffer = bytearray(HEAD + b"Cookie: a\r\n\r\n")
    head = parse(buffer, 0, len(buffer), MAX_SIZE, MAX_FIELDS)
    assert head is not None
    buffer[:] = bytes(len(buffer))
    buffer.clear()
    assert (head.method, head.target, head.header("cookie")) == ("GET", "/", "a")
    assert head.fields() == [("Host", "x"), ("Cookie", "a")]


@each_parser
def test_the_lines_of_a_field_are_joined(parse: Parse) -> None:
    lines = b"X: \t a b \t \r\nCookie: c=1\r\nx-y:\xe4\r\nx:\r\ncOOKIE: d=2\r\nX: ,\r\nHost: h\r\n\r\n"
    head = parsed(parse, LINE + lines, max_fields=7)
    assert head.header("x") == head.header("X") == "a b,,,"
    assert head.header_lines("x") == ["a b", "", ","]
    assert head.header("cookie") == head.header("COOKIE") == "c=1; d=2"
    assert head.header_lines("Cookie") == ["c=1", "d=2"]
    assert head.header("X-Y") == "\xe4"
    assert head.header_lines("X-Y") == ["\xe4"]
    for missing in ("", "y", "x-", "X-Y-Z", "x\0", "\xe4", "co\u212aie", "\ud800", "x" * 1000):
        assert head.header(missing) == ""
        assert head.header_lines(missing) == []
    pairs = [("X", "a b"), ("Cookie", "c=1"), ("x-y", "\xe4"), ("x", ""), ("cOOKIE", "d=2"), ("X", ","), ("Host", "h")]
    assert head.fields() == pairs
    # They are not shared.
    head.fields().clear()
    head.header_lines("x").clear()
    assert head.fields() == pairs
    assert head.header_lines("x") == ["a b", "", ","]


HANDSHAKE_FIELDS = {
    b"Upgrade": [*b"websocket WebSocket websocket2 websocke".split(), b""],
    b"Connection": b"Upgrade/upgrade/keep-alive, Upgrade/Keep-Alive, upgrade/keep-alive,upgrade".split(b"/"),
    b"Sec-WebSocket-Version": b"13 8 013".split(),
    b"Sec-WebSocket-Key": [
        *b"dGhlIHNhbXBsZSBub25jZQ== //////////////////////== ++++++++++++++++++++0Z==".split(),
        *b"dGhlIHNhbXBsZSBub25jZQ= dGhlIHNhbXBsZSBub25jZQA= dGhlIHNhbXBsZSBub25jZ===".split(),
        *b"dGhlIHNhbXBsZSBub25j==Q= dGhlIHNhbXBsZSBub25j-Q== \x80GhlIHNhbXBsZSBub25jZQ==".split(),
        *(b"dGhlIHNhbXBsZSBub25jZQ== ", b"dGhlIHNhbXBsZSBub25j Q=="),
    ],
}


@st.composite
def handshakes(draw: st.DrawFn) -> bytes:
    """Heads of handshakes, of which some have a fault."""
    lines = [b"Host: x"]
    for name, values in HANDSHAKE_FIELDS.items():
        lines.append(name + b": " + draw(st.just(values[0]) | st.sampled_from(values)))
    if draw(st.booleans()):
        lines[4] = b"sec-websocket-key: " + base64.b64encode(draw(st.binary(min_size=16, max_size=16)))
    other = draw(st.sampled_from([b"", b"", b"Sec-WebSocket-Protocol: a", b"Origin: b", *lines]))
    if other:
        lines.insert(draw(st.integers(0, len(lines))), other)
    if not draw(st.integers(0, 5)):
        del lines[draw(st.integers(0, len(lines) - 1))]
    return LINE + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


@given(data=handshakes())
def test_an_ordinary_handshake_of_a_websocket_is_accepted_alike(data: bytes) -> None:
    heads = [parse_result(parse, data, 0, len(data), MAX_SIZE, 10) for parse in PARSERS.values()]
    if not isinstance(heads[0], Refusal):
        first, second = (parsed(parse, data, max_fields=10) for parse in PARSERS.values())
        accepted = first.accept_handshake()
        assert accepted == second.accept_handshake()
        if accepted is not None:
            names = ("Upgrade", "Connection", "Sec-WebSocket-Version", "Sec-WebSocket-Key")
            assert ("Sec-WebSocket-Accept", accepted) in accept_handshake(*map(first.header, names))
            assert not first.header("Sec-WebSocket-Protocol")


@each_parser
def test_browsers_handshakes_are_ordinary(parse: Parse) -> None:
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    for connection in ("Upgrade", "keep-alive, Upgrade"):
        lines = [
            f"Connection: {connection}",
            "Upgrade: websocket",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        head = parsed(parse, HEAD + "\r\n".join(lines).encode() + b"\r\n\r\n")
        assert head.accept_handshake() == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert parsed(parse, HEAD + b"\r\n").accept_handshake() is None


@each_parser
@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 1000])
def test_there_may_be_as_many_fields_as_allowed(parse: Parse, count: int) -> None:
    data = b"GET / HTTP/1.0\r\n" + b"".join(b"x%d: %d\r\n" % (number, number) for number in range(count)) + b"\r\n"
    head = parsed(parse, data, len(data), count)
    assert head.count == count
    assert head.fields() == [(f"x{number}", str(number)) for number in range(count)]
    if count:
        assert head.header(f"X{count - 1}") == str(count - 1)
        with pytest.raises(BadRequest, match="Too many"):
            parse(data, 0, len(data), len(data), count - 1)


@each_parser
@pytest.mark.parametrize("size", [7, 8, 9, 63, 64, 65, 60_000])
def test_a_control_character_is_found_wherever_it_is(parse: Parse, size: int) -> None:
    for start in (b"GET /", HEAD + b"x: "):
        for position in {0, 1, 6, 7, 8, size // 2, size - 2, size - 1}:
            for byte in b"\0\x08\x0b\x1f\x7f":
                text = bytearray(b"\x80z" * size)[:size]
                text[position % size] = byte
                with pytest.raises(BadRequest):
                    parse(start + text, 0, len(start) + size, 1 << 20, MAX_FIELDS)
        text = bytearray(b"!~\x80\xff" * size)[:size]
        assert parse(start + text, 0, len(start) + size, 1 << 20, MAX_FIELDS) is None


# --- C and Python -------------------------------------------------------------


@settings(max_examples=150)
@given(any_heads, st.sampled_from([0, 1, 5, 20, 60, 1000]), st.sampled_from([0, 1, 3, 100]))
@example(b"GET / HTTP/1.1\r\n\r\n", 1000, 100)
def test_any_data_is_parsed_alike_however_it_is_cut(data: bytes, max_size: int, max_fields: int) -> None:
    in_c, in_python = (history(parse, data, max_size, max_fields) for parse in PARSERS.values())
    assert in_c == in_python


def test_arguments_of_other_kinds_are_treated_alike() -> None:
    others: list[Sequence[Any]] = [
        *((b"GET", start, end, 10, 10) for start, end in ((-1, 3), (0, 4), (2, 1), (4, 4), (0, -1), (0, 2**70))),
        *((b"GET", 0, 3, size, count) for size, count in ((-1, 1), (2**70, 1), (1, 2**70), (-(2**70), -1), (99, -1))),
        (b"GET / HTTP/1.0\r\n\r\n", 0, 18, 99, -1),
        *(("GET", 0, 3, 10, 10), (None, 0, 0, 10, 10), (memoryview(b"G-E-T-")[::2], 0, 3, 10, 10)),
        *((b"GET", "0", 3, 10, 10), (b"GET", 0, 3.0, 10, 10), (b"GET", 0, 3, None, 10)),
        *((), (b"GET", 0, 3, 10), (b"GET", 0, 3, 10, 10, 10)),
    ]
    for arguments in others:
        results: list[Any] = []
        for parse in PARSERS.values():
            try:
                results.append(parse(*arguments))
            except BadRequest as error:
                results.append(error.status)
            except (TypeError, ValueError, BufferError) as error:
                results.append(TypeError if isinstance(error, BufferError) else type(error))
        assert results[0] == results[1], arguments


@each_parser
def test_memory_does_not_grow(parse: Parse) -> None:
    good = HEAD + b"Cookie: a\r\nCookie: b\r\n\r\n"

    def blocks() -> int:
        for _ in range(300):
            head = parsed(parse, good)
            head.header("cookie")
            head.header("host")
            head.header_lines("x")
            head.fields()
            for data in (HEAD + b" ", HEAD, HEAD + b"\r\n"):
                parse_result(parse, bytearray(data), 0, len(data), MAX_SIZE, MAX_FIELDS)
            for fields in ([("a", "b")], [("a", "\r")], [("a", "\xe4")]):
                with contextlib.suppress(ValueError):
                    http_parser.format_response("x", fields, b"y")
        gc.collect()
        return sys.getallocatedblocks()

    blocks()
    before = blocks()
    references = sys.getrefcount(RequestHead)
    assert blocks() < before + 100
    assert sys.getrefcount(RequestHead) == references


# --- other parsers ------------------------------------------------------------


@settings(max_examples=200)
@given(any_heads)
def test_what_is_accepted_is_the_same_to_others(data: bytes) -> None:
    try:
        head = http_parser.parse_head(data, 0, len(data), 1000, 100)
    except BadRequest:
        return
    if head is not None:
        check_others(head, data[: head.size])


def test_what_is_accepted_in_the_table_is_the_same_to_others() -> None:
    for lines, _ in ACCEPTED:
        check_others(parsed(http_parser.parse_head, lines + b"\r\n"), lines + b"\r\n")


def check_others(head: RequestHead, data: bytes) -> None:
    """Check that h11 and Tornado parse a head in the same way."""
    assert our_head(head) == tornado_head(data) == h11_head(data)


# --- responses ----------------------------------------------------------------

each_formatter = pytest.mark.parametrize("format_response", FORMATTERS.values(), ids=FORMATTERS)
STATUS = "HTTP/1.1 200 OK\r\nDate: x\r\n"


@each_formatter
def test_a_response_is_understood_by_a_client(format_response: Any) -> None:
    body = bytes(range(256))
    fields = [("Content-Length", "256"), ("A", ""), ("b", "c \t\xe4\xff"), ("A", "x" * 100)]
    response = format_response(STATUS, fields, body)
    assert type(response) is bytes
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response)
    head, data, end = (client.next_event() for _ in range(3))
    assert isinstance(head, h11.Response)
    expected = [("Date", "x"), *fields]
    assert head.headers.raw_items() == [(name.encode(), value.encode("latin-1")) for name, value in expected]
    assert isinstance(data, h11.Data)
    assert data.data == body
    assert isinstance(end, h11.EndOfMessage)


any_texts = st.text(st.sampled_from("abc \t\r\n\0\x0b\x0c\x0e\x7f\x80\xff\u0100\ud800") | st.characters(), max_size=20)


@given(any_texts, st.lists(st.tuples(any_texts, any_texts), max_size=4), st.binary())
@example(STATUS, [("a", "b")] * 64, b"")
@example(STATUS, [("a", "b")] * 65, b"")
@example(STATUS, [("a", "1234567\r")], b"")
@example(STATUS, [("12345678\n", "")], b"")
@example("", [], b"")
def test_any_response_is_built_alike(status: str, fields: list[tuple[str, str]], body: bytes) -> None:
    in_c, in_python = (built(build, status, fields, body) for build in FORMATTERS.values())
    assert in_c == in_python
    if isinstance(in_c, bytes):
        lines = [status, *(f"{name}: {value}\r\n" for name, value in fields), "\r\n"]
        assert in_c == "".join(lines).encode("latin-1") + body
        assert not any(character in text for field in fields for text in field for character in "\r\n\0")


def built(build: Any, *arguments: Any) -> Any:
    """Return a response, or the error."""
    try:
        return build(*arguments)
    except (AttributeError, TypeError, ValueError) as error:
        return type(error), str(error)


@each_formatter
def test_a_field_that_splits_the_response_is_rejected(format_response: Any) -> None:
    unsafe = ["\r", "\n", "\0", "x\r\nSet-Cookie: y", "1234567\n", "12345678\r", "\xe4\n", "\t\0"]
    for field in [(text, "x") for text in unsafe] + [("x", text) for text in unsafe]:
        with pytest.raises(ValueError, match="CR, LF or NUL"):
            format_response(STATUS, [("a", "b"), field], b"")


def test_other_arguments_of_a_response_are_treated_alike() -> None:
    others: list[Sequence[Any]] = [
        *((STATUS, (("a", "b"),), b""), (STATUS, [["a", "b"]], b"")),
        *((STATUS, [("a", "b")], bytearray(b"x")), (STATUS, [("a", "b")], memoryview(b"x")), (STATUS, [], "x")),
        *((STATUS, [field], b"") for field in (("a",), ("a", "b", "c"), (b"a", "b"), ("a", 5), None, ("a", "\u20ac"))),
        *((STATUS, None, b""), ("\u20ac", [], b""), (b"x", [], b"")),
    ]
    for arguments in others:
        in_c, in_python = (built(build, *arguments) for build in FORMATTERS.values())
        assert in_c == in_python, arguments
