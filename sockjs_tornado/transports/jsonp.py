"""jsonp and jsonp_send, and what htmlfile shares with them: the name of a function in the client's page."""

import binascii
import re
from urllib.parse import unquote_to_bytes

from ..exceptions import PayloadError
from ..protocol import Framing, quote
from ..wire.payloads import Payload
from .endpoint import JAVASCRIPT, NO_CACHE, PLAIN_TEXT
from .exchange import Exchange
from .receiving import PollingEndpoint
from .sending import SendingEndpoint

__all__ = ["Jsonp", "JsonpSend", "form_field", "page_callback"]

#: Fields that a form may have.
MAX_FIELDS = 16

#: Bytes of a form that are unescaped at a time.
PIECE = 256 * 1024

#: Bytes of a field in which a percent sign may be no escape. Browsers escape each of them, and to read others is slow.
MAX_SLOPPY = 64 * 1024

# The field `d`, in both forms that its name can have.
_FIELD = (b"d=", b"%64=")

# From a form's escapes to those of quoted-printable, which differ by their sign alone, and which the standard library
# undoes in C. An equals sign that stands for itself becomes a byte that UTF-8 does not have, and back.
_QUOTED_PRINTABLE = bytes.maketrans(b"+%=", b" =\xff")
_EQUALS_SIGN = bytes.maketrans(b"\xff", b"=")

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

    def payload(self, exchange: Exchange) -> Payload:
        """Return the form's field, or the body."""
        body = exchange.body()
        return form_field(body) if exchange.content_type() == "application/x-www-form-urlencoded" else body

    def respond_accepted(self, exchange: Exchange) -> None:
        """Some browsers do strange things on a 204 in a frame, so the answer is a text."""
        exchange.respond(200, self.headers(exchange, PLAIN_TEXT, NO_CACHE), b"ok")


def form_field(form: bytes | bytearray) -> bytes:
    """Return the first field ``d`` of a form that is not empty, unescaped; ``b""`` if there is none.

    It is what ``urllib.parse.parse_qs`` finds, which makes an object of every escape: of a form of 10 MB, 900 MB. No
    other field is looked at.

    Args:
        form: The form, as browsers encode it (the URL standard, section 5.1).

    Raises:
        PayloadError: There are more than :data:`MAX_FIELDS` fields, or the field cannot be UTF-8.
    """
    if form.count(b"&") >= MAX_FIELDS:
        raise PayloadError("Broken JSON encoding.")
    start = 0
    while start < len(form):
        end = form.find(b"&", start)
        end = len(form) if end < 0 else end
        if form.startswith(_FIELD, start):
            begin = form.index(b"=", start) + 1
            if begin < end:
                return _unescape(form, begin, end)
        start = end + 1
    return b""


def _unescape(form: bytes | bytearray, start: int, end: int) -> bytes:
    """Return the bytes for which a part of a form stands."""
    if end - start <= PIECE:
        return _unescape_piece(bytes(form[start:end]), end - start)
    found = bytearray()
    position = start
    while position < end:
        stop = min(position + PIECE, end)
        if stop < end:
            # Not within an escape.
            escape = form.rfind(b"%", stop - 2, stop)
            stop = stop if escape < 0 else escape
        found += _unescape_piece(bytes(form[position:stop]), end - start)
        position = stop
    return bytes(found)


def _unescape_piece(piece: bytes, size: int) -> bytes:
    """Return the bytes for which a piece of a field of ``size`` bytes stands."""
    # It is in no UTF-8, and must not be taken for an equals sign below.
    if b"\xff" in piece:
        raise PayloadError("Broken JSON encoding.")
    quoted = piece.translate(_QUOTED_PRINTABLE)
    escapes = piece.count(b"%")
    found = binascii.a2b_qp(quoted) if escapes else quoted
    # Each escape has become one byte of three. What is no escape has not, or was taken for the end of a line.
    if len(found) != len(quoted) - 2 * escapes or (escapes and _has_soft_break(piece)):
        if size > MAX_SLOPPY:
            raise PayloadError("Broken JSON encoding.")
        return unquote_to_bytes(piece.replace(b"+", b" "))
    if b"=" in piece:
        if found.count(b"\xff") != piece.count(b"="):
            raise PayloadError("Broken JSON encoding.")
        found = found.translate(_EQUALS_SIGN)
    return found


def _has_soft_break(piece: bytes) -> bool:
    """Return whether an escape sign stands before the end of a line, which quoted-printable leaves out."""
    return (b"\n" in piece and b"%\n" in piece) or (b"\r" in piece and b"%\r" in piece)
