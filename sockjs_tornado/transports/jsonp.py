"""jsonp and jsonp_send, and what htmlfile shares with them: the name of a function in the client's page."""

import re
from urllib.parse import parse_qs

from ..exceptions import PayloadError
from ..protocol import Framing, quote
from .endpoint import JAVASCRIPT, NO_CACHE, PLAIN_TEXT
from .exchange import Exchange
from .receiving import PollingEndpoint
from .sending import SendingEndpoint, decode_text

__all__ = ["Jsonp", "JsonpSend", "page_callback"]

_CALLBACK = re.compile(r"[a-zA-Z0-9_.-]{1,32}")


def page_callback(exchange: Exchange) -> str:
    """Return the name of the page's function, which goes into the answer as code.

    Raises:
        PayloadError: There is none, or it could be anything else than a name.
    """
    callback = exchange.argument("c") or exchange.argument("callback")
    if not callback:
        raise PayloadError('"callback" parameter required')
    if not _CALLBACK.fullmatch(callback):
        raise PayloadError('invalid "callback" parameter')
    return callback


class Jsonp(PollingEndpoint):
    """``GET …/jsonp?c=CALLBACK``: a script that calls a function."""

    name = "jsonp"
    content_type = JAVASCRIPT

    def framing(self, callback: str) -> Framing:
        """A call; the comment before it keeps the answer from being read as anything but a script."""

        def framing(frame: str) -> bytes:
            return f"/**/{callback}({quote(frame)});\r\n".encode()

        return framing

    def callback(self, exchange: Exchange) -> str:
        """The function to call."""
        return page_callback(exchange)


class JsonpSend(SendingEndpoint):
    """``POST …/jsonp_send``: a form with the field ``d``, or JSON itself."""

    def payload(self, exchange: Exchange) -> str:
        """The form's field, or the body."""
        text = decode_text(exchange.body())
        if exchange.content_type() != "application/x-www-form-urlencoded":
            return text
        try:
            values = parse_qs(text, errors="strict", max_num_fields=16).get("d")
        except ValueError:
            raise PayloadError("Broken JSON encoding.") from None
        return values[0] if values else ""

    def accept(self, exchange: Exchange) -> None:
        """Some browsers do strange things on a 204 in a frame, so the answer is a text."""
        exchange.respond(200, self.headers(exchange, PLAIN_TEXT, NO_CACHE), b"ok")
