"""jsonp and jsonp_send, byte by byte, and the callbacks that htmlfile takes as well."""

import sys
import tracemalloc
from typing import Any
from urllib.parse import parse_qs, quote

import pytest
from application import Echo, Journal, Serve
from client import FORM, Connect, asking
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sockjs_tornado import SockJSRouter
from sockjs_tornado.exceptions import PayloadError
from sockjs_tornado.transports import jsonp
from sockjs_tornado.transports.jsonp import MAX_FIELDS, MAX_INVALID_ESCAPES, form_field


async def test_each_poll_is_a_call_of_the_callback(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.ask("GET", "/echo/000/abc/jsonp?c=%63allback")
    assert (response.status, response.reason) == (200, "OK")
    assert response["Content-Type"] == "application/javascript; charset=UTF-8"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Content-Length"] == str(len(response.body))
    assert response.body == b'/**/callback("o");\r\n'
    await client.ask("POST", "/echo/000/abc/jsonp_send", body=b'["x", "\\u2028\\"<\xe2\x82\xac"]')
    response = await client.ask("GET", "/echo/000/abc/jsonp?c=other.name-1_")
    assert response.body == b'/**/other.name-1_("a[\\"x\\",\\"\\\\u2028\\\\\\"<\xe2\x82\xac\\"]");\r\n'


async def test_polls_get_heartbeats_and_the_end(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", {"heartbeat_delay": 0.02})))
    bodies = [(await client.ask("GET", "/echo/000/abc/jsonp?c=cb")).body for _ in range(2)]
    assert bodies == [b'/**/cb("o");\r\n', b'/**/cb("h");\r\n']
    (await journal.connection()).close(3001, '"quoted"\u2029')
    for _ in range(2):
        response = await client.ask("GET", "/echo/000/abc/jsonp?c=cb")
        assert response.body == b'/**/cb("c[3001,\\"\\\\\\"quoted\\\\\\"\\\\u2029\\"]");\r\n'


# The callback.


@pytest.mark.parametrize("transport", ["jsonp", "htmlfile"])
@pytest.mark.parametrize("query", ["", "?", "?c", "?c=", "?x=1", "?C=cb"])
async def test_a_callback_is_required(serve: Serve, connect: Connect, transport: str, query: str) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    response = await client.ask("GET", f"/echo/000/abc/{transport}{query}")
    assert (response.status, response.reason) == (500, "Internal Server Error")
    assert response.body == b'"callback" parameter required'
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert len(router.container) == 0


@pytest.mark.parametrize("transport", ["jsonp", "htmlfile"])
@pytest.mark.parametrize(
    "callback",
    [
        "x" * 33,
        "x" * 10_000,
        "call back",
        "a+b",
        "a(b",
        "a%28",
        "%20",
        "%00",
        "%0a",
        "cb%0A",
        "cb%0D%0A",
        "%C3%A4",
        "%ff",
        "\xe4",
        "a;b",
        "a/b",
        "a$b",
        "a[0]",
        "a'b",
        '"',
        "%3Cscript%3E",
        "%EF%BC%A1",
        "%u0041",
    ],
)
async def test_a_callback_is_a_short_name_and_nothing_else(
    serve: Serve, connect: Connect, transport: str, callback: str
) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    response = await client.ask("GET", f"/echo/000/abc/{transport}?c={callback.replace(' ', '%20')}")
    assert (response.status, response.reason) == (500, "Internal Server Error")
    assert response.body == b'invalid "callback" parameter'
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert len(router.container) == 0


@pytest.mark.parametrize(
    ("query", "callback"),
    [
        ("c=" + "x" * 32, "x" * 32),
        ("c=a", "a"),
        ("c=AZaz09-_.", "AZaz09-_."),
        ("c=%61%62", "ab"),
        ("c=first&c=second", "first"),
        ("x=%ff&c=cb&", "cb"),
        ("t=123&c=cb", "cb"),
    ],
)
async def test_a_name_of_up_to_32_is_a_callback(serve: Serve, connect: Connect, query: str, callback: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.ask("GET", f"/echo/000/abc/jsonp?{query}")
    assert response.body == f'/**/{callback}("o");\r\n'.encode()
    client.write(asking("htmlfile", "/echo/000/xyz").replace(b"c=cb", query.encode()))
    assert (await client.head()).status == 200
    assert f"var c = parent.{callback};\n".encode() in await client.chunk()


# Sending.


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (FORM, b"d=" + quote('["x +%"]').encode()),
        (FORM, b"d=%5B%22x+%2B%25%22%5D"),
        (f"{FORM}; charset=UTF-8", b"d=%5B%22x+%2B%25%22%5D"),
        ("Content-Type: APPLICATION/X-WWW-Form-URLEncoded ;x=y", b"d=%5B%22x+%2B%25%22%5D"),
        (FORM, b"other=1&d=%5B%22x+%2B%25%22%5D&d=ignored"),
        (FORM, b'd=["x+%2B%25"]'),
        ("Content-Type: text/plain", b'["x +%"]'),
        ("Content-Type: application/json; charset=utf-8", b'["x +%"]'),
        ("Content-Type:", b'["x +%"]'),
        ("X-No: content type", b'["x +%"]'),
    ],
)
async def test_a_form_or_json_is_sent(serve: Serve, connect: Connect, content_type: str, body: bytes) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await client.ask("GET", "/echo/000/abc/jsonp?c=cb")
    response = await client.ask("POST", "/echo/000/abc/jsonp_send", content_type, body=body)
    assert (response.status, response.reason) == (200, "OK")
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert response["Content-Length"] == "2"
    assert response.body == b"ok"
    connection = await journal.connection()
    assert await connection.message() == "x +%"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (None, b"Payload expected."),
        (b"", b"Payload expected."),
        (b"d=", b"Payload expected."),
        (b"d", b"Payload expected."),
        (b"d=%20", b"Payload expected."),
        (b"x=1", b"Payload expected."),
        (b'["x"]', b"Payload expected."),
        (b"d=[", b"Broken JSON encoding."),
        (b"d=x", b"Broken JSON encoding."),
        (b"d=%22x%22", b"Broken JSON encoding."),
        (b"d=%ff", b"Broken JSON encoding."),
        (b"d=[%22%ff%22]", b"Broken JSON encoding."),
        (b"d=\xff", b"Broken JSON encoding."),
        (b"d=[1]", b"Broken JSON encoding."),
        (b"x=1&" * 20 + b'd=["x"]', b"Broken JSON encoding."),
    ],
)
async def test_a_form_without_messages_is_refused_and_the_session_lives_on(
    serve: Serve, connect: Connect, body: bytes | None, text: bytes
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    await client.ask("GET", "/echo/000/abc/jsonp?c=cb")
    response = await client.ask("POST", "/echo/000/abc/jsonp_send", FORM, body=body)
    assert (response.status, response.reason) == (500, "Internal Server Error")
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert response.body == text
    await client.ask("POST", "/echo/000/abc/jsonp_send", FORM, body=b"d=%5B%22alive%22%5D")
    response = await client.ask("GET", "/echo/000/abc/jsonp?c=cb")
    assert response.body == b'/**/cb("a[\\"alive\\"]");\r\n'


# The form.

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


def found_in(form: bytes) -> bytes | None:
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
        patch.setattr(jsonp, "PIECE_SIZE", max(piece, 3))
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
SIZE = 3 * jsonp.PIECE_SIZE

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

    tracemalloc.start()
    sys.setprofile(note)
    try:
        found = found_in(form)
    finally:
        sys.setprofile(None)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (None if found is None else len(found)) == wanted
    # The form itself is there already.
    assert peak < 2 * len(form) + 4 * jsonp.PIECE_SIZE
    assert calls < 100
