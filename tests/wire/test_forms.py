"""The forms in which clients of jsonp post messages."""

import sys
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from memory import least_memory, traced_memory

from sockjs_tornado.exceptions import PayloadError
from sockjs_tornado.wire import forms
from sockjs_tornado.wire.forms import MAX_FIELDS, MAX_INVALID_ESCAPES, form_field

properties = hypothesis_settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)

#: Parts of a form that mean something, to a form or to quoted-printable, and such as are near to that.
PARTS = st.sampled_from(
    [
        *("%41", "%C3%A4", "%c3", "%FF", "%3D", "%3d", "%2B", "%25", "%26", "%64", "%0A", "%0D%0A", "%20", "%00"),
        *("%", "%%", "%4", "%g1", "%4g", "%=", "%\n", "%\r", "%\r\n", "=", "==", "+", "&", "\n", "\r\n", " ", "\t \n"),
        *("d", "d=", "&d=", "x=1&", "_", "a", "abc", "ä", "\U0001f600", "\0", ";", "?", "=\n", "=41", ".\n", "\ufeff"),
    ]
)
FIELDS = st.lists(PARTS | st.characters(codec="utf-8")).map("".join)


def field_of(form: bytes) -> bytes | None:
    """Return what the standard library finds in a form, None if it cannot be text."""
    try:
        values = parse_qs(form.decode(), errors="strict", max_num_fields=MAX_FIELDS).get("d")
    except ValueError:
        return None
    return values[0].encode() if values else b""


def found_in(form: bytes | bytearray) -> bytes | None:
    """Return the field of a form, None if it cannot be text."""
    try:
        field = form_field(form)
        field.decode()
    except (PayloadError, UnicodeDecodeError):
        return None
    return field


@given(FIELDS, st.sampled_from([1, 2, 3, 5, 8, 1 << 20]))
@example("d=%3D%", 1)
@example("d=%\r", 3)
@properties
def test_the_field_of_a_form_is_what_the_standard_library_finds(text: str, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # An escape is three bytes long.
        patch.setattr(forms, "PIECE_SIZE", max(piece, 3))
        for form in (text.encode(), f"d={text}".encode(), f"x={text}&d=y".encode()):
            wanted = field_of(form)
            found = found_in(form)
            assert found == found_in(bytearray(form))
            # Of the other fields, nobody asks whether they are text.
            assert found == wanted or wanted is None
            if form.startswith(b"d=") and b"&" not in form:
                assert found == wanted


@given(st.binary())
@properties
def test_a_field_that_is_not_utf_8_is_no_text(data: bytes) -> None:
    form = b"d=" + data.replace(b"&", b"%26")
    assert found_in(form) == field_of(form)


@pytest.mark.parametrize("count", [MAX_FIELDS, MAX_FIELDS + 1])
def test_a_form_has_so_many_fields_and_no_more(count: int) -> None:
    form = b"x=1&" * (count - 1) + b"d=y"
    assert found_in(form) == field_of(form) == (b"y" if count == MAX_FIELDS else None)


def test_percent_signs_that_are_no_escapes_are_for_short_fields() -> None:
    for escape in (b"%", b"%g1", b"%\n"):
        short = b"x" * (MAX_INVALID_ESCAPES - len(escape)) + escape
        assert found_in(b"d=" + short) == short
        assert found_in(b"d=x" + short) is None
    assert found_in(b"d=x" + short.replace(escape, b"%41")) is not None


#: Bytes of a form that shall be large: some pieces.
SIZE = 3 * forms.PIECE_SIZE

#: Large forms, and how long what is in them is, None for what is refused.
LARGE: dict[str, tuple[bytes, int | None]] = {
    "escapes": (b"d=" + b"%41" * (SIZE // 3), SIZE // 3),
    "text": (b"d=" + b"x" * SIZE, SIZE),
    "spaces": (b"d=" + b"+" * SIZE, SIZE),
    "equals signs": (b"d=" + b"=" * SIZE, SIZE),
    "half of it escapes": (b"d=" + b"%0Axyz" * (SIZE // 6), SIZE // 6 * 4),
    "no escapes": (b"d=" + b"%" * SIZE, None),
    "no escape at the end": (b"d=" + b"%41" * (SIZE // 3) + b"%", None),
    "soft line breaks": (b"d=" + b"%\n" * (SIZE // 2), None),
    "no text": (b"d=" + b"=\xff" * (SIZE // 2), None),
    "escaped bytes that are no text": (b"d=" + b"=%ff" * (SIZE // 4), None),
    "fields": (b"&" * SIZE, None),
    "fields with names": (b"d&" * (SIZE // 2), None),
    "a long name": (b"%64" * (SIZE // 3) + b"=x", 0),
    "another field": (b"x=" + b"%41" * (SIZE // 3) + b"&d=y", 1),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_form_takes_little_memory_and_few_steps(name: str) -> None:
    form, wanted = LARGE[name]
    calls = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        found = found_in(form)
    finally:
        sys.setprofile(None)
    assert (None if found is None else len(found)) == wanted
    assert calls < 100

    def peak() -> int:
        with traced_memory() as traced:
            found_in(form)
            return traced()[1]

    # The form itself is there already.
    enough = 2 * len(form) + 4 * forms.PIECE_SIZE
    assert least_memory(peak, enough) < enough
