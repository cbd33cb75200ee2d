"""What jsonp adds: the form of a POST, and the name of a function in the query."""

from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote_to_bytes, urlencode

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.exceptions import PayloadError
from sockjs_tornado.handlers import SockJSHandler
from sockjs_tornado.transports.jsonp import JsonpSend, page_callback

FORM = "application/x-www-form-urlencoded"
#: Characters that a function's name may have.
SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
#: Fields that a form may have.
FIELDS = 16
BROKEN = "Broken JSON encoding."

server = SockJSRouter(SockJSConnection)
endpoint = JsonpSend(server)


class Target:
    """``JsonpSend.payload`` and ``page_callback``, given a query in the first line and a body behind it.

    - The payload of a form is its first field ``d`` as the URL standard decodes it, that of any other body the body; or
      it is a PayloadError with the protocol's text. Any text can be sent so.
    - A callback that is accepted is 1 to 32 characters of ``[a-zA-Z0-9_.-]``; another one is a PayloadError with one of
      the protocol's two texts.
    """

    def __call__(self, data: bytes) -> None:
        """Take a request's query and body."""
        query, _, body = data.partition(b"\n")
        check_callback(query.decode("latin-1"))
        assert payload(FORM, body) == field(body)
        try:
            text = body.decode()
        except UnicodeDecodeError:
            assert payload("text/plain", body) == BROKEN
        else:
            assert payload("text/plain", body) == text
            assert payload(FORM, urlencode({"x": "y", "d": text}).encode()) == text


def check_callback(query: str) -> None:
    """See that no callback but a safe one is accepted."""
    exchange: Any = SimpleNamespace(request=SimpleNamespace(query=query))
    exchange.argument = lambda name: SockJSHandler.argument(exchange, name)
    try:
        callback = page_callback(exchange)
    except PayloadError as error:
        assert str(error) in ('"callback" parameter required', 'invalid "callback" parameter')
        return
    assert 1 <= len(callback) <= 32
    assert SAFE.issuperset(callback)


def payload(content_type: str, body: bytes) -> str:
    """Return what the endpoint takes for the payload, or the error's text."""
    exchange: Any = SimpleNamespace(body=lambda: body, content_type=lambda: content_type)
    try:
        return endpoint.payload(exchange)
    except PayloadError as error:
        assert str(error) == BROKEN
        return BROKEN


def field(body: bytes) -> str:
    """Return the first field ``d`` that is not empty, decoded byte by byte."""
    pairs = body.split(b"&")
    try:
        body.decode()
        if len(pairs) > FIELDS:
            return BROKEN
        found = []
        for pair in pairs:
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            if value:
                found.append((unquote_to_bytes(name).decode(), unquote_to_bytes(value).decode()))
    except UnicodeDecodeError:
        return BROKEN
    return next((value for name, value in found if name == "d"), "")
