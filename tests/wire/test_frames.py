"""The server's frames, as wsproto's client understands them."""

import itertools
from typing import Any

import pytest
from client import BINARY, CLOSE, PING, PONG, TEXT, frame
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from sockjs_tornado.wire.frames import (
    Close,
    build_frame,
    close_frame,
    read_close_frame,
    text_frame,
    to_utf8,
)
from sockjs_tornado.wire.websocket import FrameParser

from .streams import (
    EDGES,
    REGISTERED_CODES,
    control_payloads,
    payloads,
    texts,
)


def heard(stream: bytes) -> list[tuple[Opcode, Any]]:
    """Return what wsproto as a client hears."""
    client = FrameProtocol(client=True, extensions=[])
    client.receive_bytes(stream)
    messages = [(received.opcode, received.payload) for received in client.received_frames()]
    # All of the stream was frames: the next one begins where it ended.
    client.receive_bytes(build_frame(PONG, b"end"))
    if not messages or messages[-1][0] != Opcode.CLOSE:
        (end,) = client.received_frames()
        assert end.payload == b"end"
    return messages


@settings(deadline=None, max_examples=50)
@given(text=texts().map(bytes.decode))
def test_a_text_frame_reaches_a_client(text: str) -> None:
    assert heard(text_frame(text)) == [(TEXT, text)]


def test_a_text_frame_has_the_shortest_form_of_its_length_in_bytes() -> None:
    for character, size in itertools.product("a\u00e4\u20ac", EDGES):
        text = character * (size // len(character.encode()))
        assert heard(text_frame(text)) == [(TEXT, text)]
        assert text_frame(text) == build_frame(TEXT, text.encode()) == frame(TEXT, text.encode(), mask=None)


@settings(deadline=None, max_examples=50)
@given(payload=payloads())
def test_a_binary_frame_reaches_a_client(payload: bytes) -> None:
    assert heard(build_frame(BINARY, payload)) == [(BINARY, payload)]


@settings(deadline=None, max_examples=50)
@given(payload=control_payloads)
def test_pings_and_pongs_reach_a_client(payload: bytes) -> None:
    assert heard(build_frame(PING, payload) + build_frame(PONG, payload)) == [(PING, payload), (PONG, payload)]


def test_a_compressed_frame_has_the_first_reserved_bit() -> None:
    """RFC 7692, section 6: RSV1."""
    assert build_frame(TEXT, b"x", compressed=True) == frame(TEXT, b"x", reserved=4, mask=None)


any_text = st.text(st.characters(exclude_categories=()), max_size=130)


@settings(deadline=None, max_examples=50)
@given(code=st.one_of(st.sampled_from(sorted(REGISTERED_CODES - {1014})), st.integers(3000, 4999)), reason=any_text)
def test_a_close_frame_reaches_a_client_with_as_much_of_its_reason_as_fits(code: int, reason: str) -> None:
    """Section 5.5: at most 125 bytes of payload."""
    built = close_frame(code, reason)
    ((opcode, (heard_code, heard_reason)),) = heard(built)
    assert (opcode, heard_code) == (CLOSE, code)
    whole = to_utf8(reason).decode()
    assert whole.startswith(heard_reason)
    left = whole[len(heard_reason) :]
    assert not left or len((heard_reason + left[0]).encode()) > 123


def test_a_long_close_reason_is_cut_between_characters() -> None:
    for character in "a\u00e4\u20ac\U0001f600":
        for before in range(4):
            reason = "b" * before + character * 130
            ((_, (_, heard_reason)),) = heard(close_frame(1000, reason))
            room = (123 - before) // len(character.encode())
            assert heard_reason == "b" * before + character * room


def test_a_close_frame_without_a_code_is_empty() -> None:
    """Section 7.4.1: 1005 is never sent."""
    assert close_frame() == close_frame(1005, "unheard") == frame(CLOSE, mask=None)


HIGH, LOW = "\ud83d", "\ude00"


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("", ""),
        ("plain \u20ac \U0001f600", "plain \u20ac \U0001f600"),
        (chr(0xD800), "\ufffd"),
        (chr(0xDFFF), "\ufffd"),
        (f"a{HIGH}b", "a\ufffdb"),
        (HIGH + LOW, "\U0001f600"),
        (LOW + HIGH, "\ufffd\ufffd"),
        (HIGH + HIGH + LOW, "\ufffd\U0001f600"),
        (HIGH + "\U0001f600", "\ufffd\U0001f600"),
        ("\U0001f600" + LOW, "\U0001f600\ufffd"),
    ],
    ids=ascii,
)
def test_lone_surrogates_become_replacement_characters_as_in_a_browser(text: str, encoded: str) -> None:
    """A DOMString becomes a USVString: pairs are joined, what is left alone is replaced (Web IDL, section 3.2.11)."""
    assert to_utf8(text) == encoded.encode()


@settings(deadline=None, max_examples=60)
@given(text=any_text)
def test_any_text_becomes_valid_utf8_of_as_many_utf16_units(text: str) -> None:
    units = len(text.encode("utf-16-le", "surrogatepass"))
    assert len(to_utf8(text).decode().encode("utf-16-le")) == units


@given(
    data=st.builds(
        lambda first, second, rest: bytes((first, second)) + rest,
        st.sampled_from((0x88, 0x08, 0x89, 0x81, 0xC8)),
        st.sampled_from((0x80, 0x81, 0x82, 0x83, 0x00, 0x02, 0xFE)),
        st.binary(min_size=4, max_size=8),
    )
    | st.binary(max_size=9)
)
def test_a_close_frame_that_is_read_without_a_parser_is_what_the_parser_returns(data: bytes) -> None:
    found = read_close_frame(bytearray(data + b"\x88\x80 others"), len(data))
    assert not found or FrameParser(100).feed(data) == [Close(found, "")]


@given(code=st.sampled_from(sorted(REGISTERED_CODES)) | st.integers(3000, 4999), mask=st.binary(min_size=4, max_size=4))
def test_close_frames_without_a_reason_need_no_parser(code: int, mask: bytes) -> None:
    data = frame(CLOSE, code.to_bytes(2, "big"), mask=mask)
    assert read_close_frame(data, len(data)) == code
    data = frame(CLOSE, b"", mask=mask)
    assert read_close_frame(data, len(data)) == 1005
