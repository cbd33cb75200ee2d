import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sockjs_tornado.exceptions import PayloadError
from sockjs_tornado.protocol import (
    HEARTBEAT,
    OPEN,
    CloseCode,
    Frame,
    JSONValue,
    PreparedMessage,
    check_session_close,
    close_frame,
    decode_frame,
    is_close_code,
    messages_frame,
    nearest_close_code,
    quote,
)

properties = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

#: Any text at all, with lone surrogates and characters beyond the BMP.
TEXT = st.text(
    st.one_of(
        st.characters(codec=None, exclude_categories=()),
        st.characters(min_codepoint=0x2000, max_codepoint=0x206F),
        st.characters(min_codepoint=0xFFF0, max_codepoint=0xFFFF),
        st.characters(min_codepoint=0x10000),
        st.integers(0xD800, 0xDFFF).map(chr),
        st.sampled_from('\0\n\r\t\b\f\x1f\x7f"\\/[],'),
    )
)

#: What must not stand verbatim in a frame, beside quotes and backslashes.
UNSAFE = [
    *(range(0x20), range(0x200C, 0x2010), range(0x2028, 0x2030), range(0x2060, 0x2070), range(0xFFF0, 0x10000)),
    range(0xD800, 0xE000),
]
SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\b": r"\b", "\f": r"\f", '"': r"\"", "\\": r"\\"}


def utf16(texts: list[str]) -> list[bytes]:
    """Return texts as a browser has them: there two surrogates that meet are a pair."""
    return [text.encode("utf-16-le", "surrogatepass") for text in texts]


# What the server writes.


def test_the_constant_frames() -> None:
    assert (OPEN, HEARTBEAT) == ("o", "h")


def test_every_character_of_the_bmp_is_escaped_as_it_must_be_and_no_other() -> None:
    unsafe = set(itertools.chain.from_iterable(UNSAFE))
    for code in range(0x10000):
        character = chr(code)
        expected = SHORT_ESCAPES.get(character, f"\\u{code:04x}" if code in unsafe else character)
        assert quote(character) == f'"{expected}"'
        assert messages_frame([character]) == f'a["{expected}"]'


def test_every_character_beyond_the_bmp_stays_as_it_is() -> None:
    text = "".join(map(chr, range(0x10000, 0x110000)))
    assert quote(text) == f'"{text}"'
    assert messages_frame([text]) == f'a["{text}"]'


@given(st.lists(TEXT))
@properties
def test_any_messages_survive_their_frame(messages: list[str]) -> None:
    frame = messages_frame(messages)
    assert frame[0] == "a"
    assert utf16(json.loads(frame[1:])) == utf16(messages)


@given(st.lists(TEXT))
@properties
def test_a_frame_can_be_written_by_every_transport(messages: list[str]) -> None:
    frame = messages_frame(messages)
    frame.encode()
    assert not re.search("[\0-\x1f\u200c-\u200f\u2028-\u202f\u2060-\u206f\ufff0-\uffff]", frame)
    assert all(escape == escape.lower() for escape in re.findall(r"\\u....", frame))


@given(st.lists(TEXT))
@properties
def test_a_frame_is_compact(messages: list[str]) -> None:
    assert messages_frame(messages) == f"a[{','.join(map(quote, messages))}]"


@pytest.mark.parametrize(
    ("messages", "frame"),
    [
        ([], "a[]"),
        ([""], 'a[""]'),
        (["x"], 'a["x"]'),
        (["x", "y", "z"], 'a["x","y","z"]'),
        (["x, y"], 'a["x, y"]'),
        (["ключ", "\u2028"], 'a["ключ","\\u2028"]'),
        (["\ud800", "\udfff\U0001f600"], 'a["\\ud800","\\udfff\U0001f600"]'),
        (['{"a": "</script>"}'], 'a["{\\"a\\": \\"</script>\\"}"]'),
    ],
)
def test_messages_in_a_frame(messages: list[str], frame: str) -> None:
    assert messages_frame(messages) == frame
    assert messages_frame(tuple(messages)) == frame
    assert messages_frame(iter(messages)) == frame  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "reason", "frame"),
    [
        (3000, "Go away!", 'c[3000,"Go away!"]'),
        (CloseCode.STILL_OPEN, "Another connection still open", 'c[2010,"Another connection still open"]'),
        (CloseCode.INTERRUPTED, "", 'c[1002,""]'),
        (4999, 'a "reason"\n\u2028\ud800', 'c[4999,"a \\"reason\\"\\n\\u2028\\ud800"]'),
    ],
)
def test_a_close_frame_holds_code_and_reason(code: int, reason: str, frame: str) -> None:
    assert close_frame(code, reason) == frame


@given(st.integers(1000, 4999), TEXT)
@properties
def test_any_reason_survives_a_close_frame(code: int, reason: str) -> None:
    frame = close_frame(code, reason)
    assert frame[0] == "c"
    decoded = json.loads(frame[1:])
    assert decoded[0] == code
    assert utf16(decoded[1:]) == utf16([reason])


# Close codes.


def test_close_codes_are_those_that_a_frame_may_carry() -> None:
    allowed = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    assert {code for code in range(-1, 70_000) if is_close_code(code)} == allowed


def test_the_close_codes_of_sessions() -> None:
    for code in (0, 999, 1005, CloseCode.GO_AWAY, 9000, 65535):
        check_session_close(code, "")
    for code in (-1, 65536, 10**9):
        with pytest.raises(ValueError, match=rf"^close code: expected 0-65535, got {code}$"):
            check_session_close(code, "")
    with pytest.raises(TypeError, match=r"^close reason must be str, not bytes$"):
        check_session_close(3000, b"reason")


def test_the_nearest_close_code_of_a_legal_one_is_itself() -> None:
    legal = [code for code in range(70_000) if is_close_code(code)]
    assert [nearest_close_code(code) for code in legal] == legal
    others = {0: 1000, 999: 1000, 1004: 1003, 1005: 1003, 1006: 1007, 1015: 1014, 2999: 3000, 5000: 4999, 65535: 4999}
    assert {code: nearest_close_code(code) for code in others} == others


@pytest.mark.parametrize("code", ["3000", 3000.0, None, b"3000", True, float("nan"), [3000]])
def test_a_close_code_is_a_whole_number(code: Any) -> None:
    with pytest.raises(TypeError, match=r"^close code must be int, not "):
        check_session_close(code, "")


def test_the_servers_own_close_codes() -> None:
    assert {code.name: code.value for code in CloseCode} == {
        "NORMAL": 1000,
        "GOING_AWAY": 1001,
        "INTERRUPTED": 1002,
        "NO_STATUS": 1005,
        "ABNORMAL": 1006,
        "INVALID_DATA": 1007,
        "POLICY_VIOLATION": 1008,
        "TOO_BIG": 1009,
        "INTERNAL_ERROR": 1011,
        "SERVICE_RESTART": 1012,
        "TRY_AGAIN_LATER": 1013,
        "STILL_OPEN": 2010,
        "GO_AWAY": 3000,
        "SLOW_CONSUMER": 3008,
        "TOO_FAST": 3013,
    }


# A message to many.


class Framings:
    """A framing that counts how often it is asked."""

    def __init__(self, prefix: str) -> None:
        self.asked: list[str] = []
        self._prefix = prefix

    def __call__(self, frame: str) -> bytes:
        self.asked.append(frame)
        return f"{self._prefix}{frame}".encode()


def test_a_prepared_message_has_one_frame() -> None:
    message = PreparedMessage('a "message"')
    assert message.text == 'a "message"'
    assert message.frame == 'a["a \\"message\\""]'
    assert message.frame is message.frame


def test_a_prepared_message_renders_each_framing_once() -> None:
    message = PreparedMessage("x")
    one, two = Framings("1:"), Framings("2:")
    for _ in range(3):
        assert message.framed(one) == b'1:a["x"]'
        assert message.framed(two) == b'2:a["x"]'
        assert message.plain(one) == b"1:x"
        assert message.plain(two) == b"2:x"
    assert one.asked == two.asked == ['a["x"]', "x"]


def test_a_prepared_message_that_is_never_framed_costs_nothing() -> None:
    message = PreparedMessage("x")
    framing = Framings("")
    message.plain(framing)
    assert message._frame is None
    assert framing.asked == ["x"]


def test_a_framing_that_fails_is_asked_again() -> None:
    class Closed(Exception):
        pass

    message = PreparedMessage("x")
    framing = Framings("")
    answers: Iterator[Exception | bytes] = iter([Closed(), b"ready"])

    def framing_that_fails_once(frame: str) -> bytes:
        framing(frame)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(Closed):
        message.framed(framing_that_fails_once)
    assert message.framed(framing_that_fails_once) == b"ready"
    assert message.framed(framing_that_fails_once) == b"ready"
    assert framing.asked == ['a["x"]'] * 2


# What a client receives.


@properties
@given(st.lists(TEXT))
def test_a_client_reads_the_messages_that_a_server_wrote(messages: list[str]) -> None:
    frame = decode_frame(messages_frame(messages))
    assert frame.kind == "a"
    assert utf16(list(frame.messages)) == utf16(messages)


@properties
@given(st.integers(0, 5000), TEXT)
def test_a_client_reads_the_close_that_a_server_wrote(code: int, reason: str) -> None:
    frame = decode_frame(close_frame(code, reason))
    assert (frame.kind, frame.code) == ("c", code)
    assert utf16([frame.reason]) == utf16([reason])


def test_a_client_reads_the_frames_without_a_body() -> None:
    assert decode_frame(OPEN) == Frame("o")
    assert decode_frame(HEARTBEAT) == Frame("h")


def test_a_client_reads_other_json_values() -> None:
    frame = messages_frame(("text", JSONValue('{"a":[1,null]}'), JSONValue("[]")))
    assert decode_frame(frame) == Frame("a", ["text", {"a": [1, None]}, []])
    assert decode_frame(' a["x"]'[1:] + " ") == Frame("a", ["x"])
    assert decode_frame("a[]") == Frame("a", [])


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "x", "oo", "o ", "hh", "h[]", "O", "a", "a{}", 'a"x"', 'a["x"', 'a["x"]]', "a[NaN", "null", "m[]"),
        *("c", "c[]", "c[3000]", 'c["3000","x"]', 'c[3000,"x",1]', "c[3000,null]", 'c[true,"x"]', 'c[3000.5,"x"]'),
        f"a{'[' * 100_000}",
    ],
    ids=lambda text: text[:20],
)
def test_a_client_refuses_what_is_no_frame(text: str) -> None:
    with pytest.raises(PayloadError):
        decode_frame(text)
