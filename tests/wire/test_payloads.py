import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from memory import least_memory, traced_memory

from sockjs_tornado.exceptions import PayloadError
from sockjs_tornado.wire import payloads
from sockjs_tornado.wire.payloads import decode_payload, decode_websocket_payload

# For each of four ways.
properties = hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)

#: Messages that a payload may have, where it does not matter.
LIMIT = 10_000

#: Any text at all, with lone surrogates and characters beyond the BMP.
TEXT = st.text(
    st.one_of(
        st.characters(codec=None, exclude_categories=()),
        st.characters(min_codepoint=0x10000),
        st.integers(0xD800, 0xDFFF).map(chr),
        st.sampled_from('\0\n\r\t\b\f\x1f\x7f"\\/[],'),
    )
)

#: Characters that mean something in a payload, or are near to that.
ODD = st.text('[]{},:"\\/u0dD8cCx1 \t\r\n\v\0\u00a0\ufeff\U0001f600ä')


def utf16(texts: list[str]) -> list[bytes]:
    """Return texts as a browser has them: there two surrogates that meet are a pair."""
    return [text.encode("utf-16-le", "surrogatepass") for text in texts]


@pytest.fixture(params=["small", "large", "small without msgspec", "large without msgspec"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have payloads decoded in one of the ways that there are."""
    way: str = request.param
    if "large" in way:
        monkeypatch.setattr(payloads, "SMALL", -1)
    if "without" in way:
        monkeypatch.setattr(payloads, "_decode_fast", payloads._decode_in_python)
        monkeypatch.setattr(payloads, "_DECODE_ERRORS", (ValueError, PayloadError, RecursionError))
        monkeypatch.setattr(payloads, "_IS_STRICT", False)
    return way


def expected(text: str, *, websocket: bool = False) -> list[str] | str:
    """Return what the standard library makes of a payload, or the protocol's text of what is wrong."""
    if websocket and not text:
        return []
    stripped = text.strip(" \t\r\n")
    if not stripped:
        return "Payload expected."
    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        return "Broken JSON encoding."
    if websocket and type(value) is str:
        return [value]
    is_right = type(value) is list and all(type(message) is str for message in value)
    return value if is_right else "Broken JSON encoding."


def outcome(decode: Callable[[Any, int], list[str]], payload: str | bytes | bytearray, limit: int = LIMIT) -> Any:
    """Return the messages of a payload, or the error's text."""
    try:
        return decode(payload, limit)
    except PayloadError as error:
        return str(error)


def forms_of(text: str) -> Iterator[str | bytes | bytearray]:
    """Return a payload in all types that it may have."""
    yield text
    if not any("\ud800" <= character <= "\udfff" for character in text):
        yield text.encode()
        yield bytearray(text.encode())


#: Payloads that are right everywhere.
PAYLOADS = [
    ("[]", []),
    ('[""]', [""]),
    ('["x"]', ["x"]),
    ('["x","y"]', ["x", "y"]),
    (' [ "x" ,\t"y"\r\n] \n', ["x", "y"]),
    ('["\\u0041\\n\\/\\\\\\""]', ['A\n/\\"']),
    ('["\\uD83D\\uDE00"]', ["\U0001f600"]),
    ('["\\ud83d","\\uDE00x"]', ["\ud83d", "\ude00x"]),
    ('["\\u0000\x7f\u2028\ufeff"]', ["\0\x7f\u2028\ufeff"]),
    ('["ключ \U0001f600"]', ["ключ \U0001f600"]),
    ('["[\\"x\\"]"]', ['["x"]']),
]
#: Payloads that are wrong everywhere.
BROKEN = [
    *('["x"', '["x]', "[x]", "['x']", '["x",]', '[,"x"]', '["x" "y"]', '["x"]y', '["x"]["y"]', "]", "[", "x", "\\"),
    *("null", "true", "false", "5", "-1.5", "1e999", "NaN", "-Infinity", "{}", '{"0":"x"}', '{"x":["y"]}'),
    *("[null]", "[true]", "[5]", "[1e999]", "[NaN]", "[[]]", '[["x"]]', "[{}]", '["x",5]', '[5,"x"]', '["x",null]'),
    *('["\n"]', '["\0"]', '["\x1f"]', '["\\x41"]', '["\\u004"]', '["\\u00g1"]', '["\\"]', '\0["x"]', '["x"]\0', "\0"),
    *('\ufeff["x"]', '\u00a0["x"]', '["x"]\u2028', '\v["x"]', '\f["x"]', '"x', '"x"y', '"x""y"', '"\n"'),
    *("9" * 5000, f"[{'9' * 5000}]", f"-{'9' * 5000}.5e{'9' * 5000}"),
    *("[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"x":' * 100_000, '[{"x":' * 50_000, '["x",' * 100_000),
    " " * 100_000 + "[" * 100_000,
]


@pytest.mark.parametrize("decode", [decode_payload, decode_websocket_payload])
@pytest.mark.usefixtures("way")
def test_a_payload_is_an_array_of_strings(decode: Any) -> None:
    for text, messages in PAYLOADS:
        for payload in forms_of(text):
            assert decode(payload, LIMIT) == messages


@pytest.mark.parametrize("decode", [decode_payload, decode_websocket_payload])
@pytest.mark.usefixtures("way")
def test_anything_else_is_rejected_with_the_protocol_s_text(decode: Any) -> None:
    for text in BROKEN:
        for payload in forms_of(text):
            assert outcome(decode, payload, 1_000_000) == "Broken JSON encoding."
    for data in (
        b'["\xff"]',
        b'\xff["x"]',
        b'["x"]\xff',
        b'["\xed\xa0\x80"]',
        b'["\xc3"]',
        b'["\xc3","\xa4"]',
        b"\xff",
    ):
        assert outcome(decode, data) == outcome(decode, bytearray(data)) == "Broken JSON encoding."


@pytest.mark.parametrize("text", ["", " ", "\t\r\n "])
def test_a_post_must_have_a_payload(text: str) -> None:
    with pytest.raises(PayloadError, match=r"^Payload expected\.$"):
        decode_payload(text, LIMIT)


@pytest.mark.parametrize("text", ['"x"', '""', ' "x" '])
def test_a_post_is_no_bare_string(text: str) -> None:
    with pytest.raises(PayloadError, match=r"^Broken JSON encoding\.$"):
        decode_payload(text, LIMIT)


def test_an_empty_websocket_message_is_no_message() -> None:
    assert decode_websocket_payload("", LIMIT) == []


def test_a_websocket_message_of_white_space_is_rejected() -> None:
    with pytest.raises(PayloadError, match=r"^Payload expected\.$"):
        decode_websocket_payload(" ", LIMIT)


@pytest.mark.parametrize(
    ("text", "message"), [('"x"', "x"), ('""', ""), (' "x"\n', "x"), ('"\\ud800"', "\ud800"), ('"[\\"x\\"]"', '["x"]')]
)
def test_a_websocket_message_may_be_one_bare_string(text: str, message: str) -> None:
    assert decode_websocket_payload(text, LIMIT) == [message]


SPACE = st.text(" \t\r\n", max_size=3)


@given(st.lists(TEXT), st.booleans(), SPACE, SPACE)
@properties
@pytest.mark.usefixtures("way")
def test_any_messages_survive_their_payload(messages: list[str], ascii_only: bool, before: str, behind: str) -> None:
    text = before + json.dumps(messages, ensure_ascii=ascii_only) + behind
    for payload in forms_of(text):
        for decode in (decode_payload, decode_websocket_payload):
            assert utf16(decode(payload, LIMIT)) == utf16(messages)


@given(st.one_of(TEXT, ODD, ODD.map('["{}"]'.format), st.recursive(st.none() | st.text(), st.lists).map(json.dumps)))
@properties
@pytest.mark.usefixtures("way")
def test_any_text_is_what_the_standard_library_finds_it_to_be(text: str) -> None:
    for payload in forms_of(text):
        assert outcome(decode_payload, payload) == expected(text)
        assert outcome(decode_websocket_payload, payload) == expected(text, websocket=True)


@given(st.binary())
@properties
@pytest.mark.usefixtures("way")
def test_bytes_that_are_not_utf_8_are_rejected(data: bytes) -> None:
    for payload in (data, b'["' + data + b'"]'):
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            assert outcome(decode_payload, payload) == "Broken JSON encoding."
        else:
            assert outcome(decode_payload, payload) == expected(text)


@pytest.mark.parametrize("length", [255, 256, 257, 5000])
@pytest.mark.parametrize("end", ["", "\v", "\f", "\x1c", "\x1f", "\x85", "\xa0", "\u2003", "\ufeff", "x", '"'])
@pytest.mark.usefixtures("way")
def test_long_white_space_is_skipped_as_json_does(length: int, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "_SPACE_BLOCK", 1000)
    space = " \t\r\n" * (length // 4) + " " * (length % 4)
    for text in (
        f"{space}{end}[]",
        f"[{space}{end}]",
        f'["x"{space}{end}]',
        f'["x",{space}{end}"y"]',
        f'["x"]{space}{end}',
        f"{space}{end}",
        f'{space}{end}{space}["x"]',
    ):
        assert outcome(decode_payload, text) == expected(text), (text[:20], text[-20:])


# What a payload may cost.

#: Bytes of a payload that shall be large.
SIZE = 300_000


def repeated(part: str, before: str = "", behind: str = "") -> bytes:
    """Return a large payload."""
    return (before + part * (SIZE // len(part.encode())) + behind).encode()


#: Large payloads with what the protocol calls them, or how many messages are read.
LARGE = {
    "one message": (repeated("x", '["', '"]'), 1),
    "quotes in a message": (repeated('\\"', '["', '"]'), 1),
    "escapes": (repeated("a\\n", '["', '"]'), 1),
    "no end": (repeated("x", '["'), "Broken JSON encoding."),
    "no end of escapes": (repeated("a\\u0041", '["'), "Broken JSON encoding."),
    "a fault at the end": (repeated("x", '["', '"]x'), "Broken JSON encoding."),
    "lone surrogates": (repeated("\\ud800", '["', '"]'), 1),
    "arrays": (repeated("[],", "[", "[]]"), "Broken JSON encoding."),
    "depth": (repeated("["), "Broken JSON encoding."),
    "objects": (repeated('{"":'), "Broken JSON encoding."),
    "numbers": (repeated("1,", "[", "1]"), "Broken JSON encoding."),
    "a number": (repeated("1", "[", "]"), "Broken JSON encoding."),
    "keywords": (repeated("null,", "[", "null]"), "Broken JSON encoding."),
    "strings and then an array": (repeated("[],", '["x",', "[]]"), "Broken JSON encoding."),
    "empty messages": (repeated('"",', "[", '""]'), LIMIT + 1),
    "short messages": (repeated('"ab",', "[", '"ab"]'), LIMIT + 1),
    "short messages without an end": (repeated('"ab",', "["), LIMIT + 1),
    "white space": (repeated(" "), "Payload expected."),
    "white space in an array": (repeated(" ", "[", "]"), 0),
    "white space between messages": (repeated('"x" , ', "[", '"x"]'), LIMIT + 1),
    "bytes that are no text": (repeated("x", '["') + b"\xff", "Broken JSON encoding."),
}


#: Payloads of this size are decoded in two of the ways.
LARGE_WAYS = pytest.mark.parametrize("way", ["large", "large without msgspec"], indirect=True)


def calls_of(call: Callable[[], Any]) -> tuple[Any, int]:
    """Return what ``call`` returns, and how many functions were called meanwhile, those in C included."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        found = call()
    finally:
        sys.setprofile(None)
    return found, count


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("decode", [decode_payload, decode_websocket_payload])
@LARGE_WAYS
@pytest.mark.usefixtures("way")
def test_no_payload_takes_more_memory_than_three_of_its_kind(name: str, decode: Any) -> None:
    payload, wanted = LARGE[name]
    # What the messages that may be read take, however short they are: an object of 64 bytes for each, in a list.
    least = (LIMIT + 1) * 80

    def peak() -> int:
        with traced_memory() as traced:
            found = outcome(decode, payload)
            most = traced()[1]
        assert (found if isinstance(found, str) else len(found)) == wanted
        return most

    # The payload itself is there already.
    assert least_memory(peak, 2 * len(payload) + least) < 2 * len(payload) + least


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("decode", [decode_payload, decode_websocket_payload])
@LARGE_WAYS
@pytest.mark.usefixtures("way")
def test_a_payload_takes_as_many_steps_as_it_may_have_messages(name: str, decode: Any) -> None:
    payload, wanted = LARGE[name]
    limit = 10
    found, calls = calls_of(lambda: outcome(decode, payload, limit))
    if isinstance(wanted, int):
        assert len(found) == min(wanted, limit + 1)
    else:
        assert found == wanted
    assert calls < 20 * limit


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.usefixtures("way")
def test_reading_ends_behind_the_message_that_is_one_too_many(count: int) -> None:
    messages = [str(number) for number in range(count)]
    text = json.dumps(messages)
    assert decode_payload(text, 2) == decode_websocket_payload(text, 2) == messages
    # In a payload of any size, nothing is said of what stands behind that one.
    assert len(decode_payload(repeated(',"x"', '["x"', "]"), 2)) == 3
