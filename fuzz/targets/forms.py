"""The parts of jsonp: the form of a POST, and the callback in the query."""

from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote_to_bytes, urlencode

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.exceptions import PayloadError
from sockjs_tornado.http.handlers import SockJSHandler
from sockjs_tornado.transports.receiving import page_callback
from sockjs_tornado.transports.sending import SendingEndpoint
from sockjs_tornado.wire import forms

from ..target import replaced

FORM = "application/x-www-form-urlencoded"
#: Characters that a callback may have.
SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
#: Maximum number of fields in a form.
MAX_FIELDS = 16
BROKEN = "Broken JSON encoding."

server = SockJSRouter(SockJSConnection)
endpoint = SendingEndpoint(server, is_form=True)


class Target:
    """``SendingEndpoint.payload`` and ``page_callback``, with a query in the first line, followed by a body.

    - The payload of a form is its first field ``d``, decoded by the URL standard; the payload of any other body is the
      body itself. Otherwise PayloadError is raised with the protocol's text. Any text can be sent. The size of the
      pieces in which the field is decoded makes no difference.
    - An accepted callback is 1 to 32 characters of ``[a-zA-Z0-9_.-]``; any other raises PayloadError with one of the
      protocol's two texts.
    """

    def __call__(self, data: bytes) -> None:
        """Check the query and the body of a request."""
        query, _, body = data.partition(b"\n")
        check_callback(query.decode("latin-1"))
        expected = field(body)
        assert payload(FORM, body) == expected
        for size in (3, 4, 7):
            with replaced(forms, PIECE_SIZE=size):
                assert payload(FORM, body) == expected, "the size of the pieces makes a difference"
        assert payload("text/plain", body) == body
        assert payload(FORM, urlencode({"x": "y", "d": body}).encode()) == (body if is_text(body) else BROKEN)


def check_callback(query: str) -> None:
    """Check that only safe callbacks are accepted."""
    exchange: Any = SimpleNamespace(uri=f"/?{query}")
    exchange.argument = lambda name: SockJSHandler.argument(exchange, name)
    try:
        callback = page_callback(exchange)
    except PayloadError as error:
        assert str(error) in ('"callback" parameter required', 'invalid "callback" parameter')
        return
    assert 1 <= len(callback) <= 32
    assert SAFE.issuperset(callback)


def payload(content_type: str, body: bytes) -> bytes | str:
    """Return the endpoint's payload, or the error text if it raises or the payload is not UTF-8."""
    exchange: Any = SimpleNamespace(body=lambda: body, content_type=lambda: content_type)
    try:
        found = bytes(endpoint.payload(exchange))
    except PayloadError as error:
        assert str(error) == BROKEN
        return BROKEN
    return found if content_type != FORM or is_text(found) else BROKEN


def field(body: bytes) -> bytes | str:
    """Return the first non-empty field ``d``, decoded in one piece."""
    pairs = body.split(b"&")
    if len(pairs) > MAX_FIELDS:
        return BROKEN
    for pair in pairs:
        name, _, value = pair.replace(b"+", b" ").partition(b"=")
        if value and unquote_to_bytes(name) == b"d":
            found = unquote_to_bytes(value)
            return found if is_text(found) else BROKEN
    return b""


def is_text(data: bytes) -> bool:
    """Return whether bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
