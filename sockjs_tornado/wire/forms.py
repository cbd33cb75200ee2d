"""The form of a jsonp client's POST."""

import binascii
from urllib.parse import unquote_to_bytes

from ..exceptions import PayloadError

#: Maximum number of form fields.
MAX_FIELDS = 16

#: Bytes of a form to unescape at a time.
PIECE_SIZE = 256 * 1024

#: Maximum size of a field with invalid escapes, which are slow to decode. Browsers never produce them.
MAX_INVALID_ESCAPES = 64 * 1024

# The start of the field `d`, with a plain and with an escaped name.
_FIELD = (b"d=", b"%64=")

# Quoted-printable differs from the escapes of a form only in the escape character, and the standard library decodes it
# in C. A literal equals sign is mapped to a byte that never occurs in UTF-8, and back.
_QUOTED_PRINTABLE = bytes.maketrans(b"+%=", b" =\xff")
_EQUALS_SIGN = bytes.maketrans(b"\xff", b"=")


def form_field(form: bytes | bytearray) -> bytes:
    """Return the first non-empty field ``d`` of a form, unescaped, or ``b""`` if there is none.

    The result is the same as that of ``urllib.parse.parse_qs``, which needs 900 MB of memory for a form of 10 MB,
    because it creates an object per escape. Other fields are ignored.

    Args:
        form: The form, encoded as by browsers (URL standard, section 5.1).

    Raises:
        PayloadError: There are more than :data:`MAX_FIELDS` fields, or the field is not valid UTF-8.
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
    """Unescape a part of a form."""
    found = bytearray()
    position = start
    while position < end:
        stop = min(position + PIECE_SIZE, end)
        if stop < end:
            # Do not split an escape.
            escape = form.rfind(b"%", stop - 2, stop)
            stop = stop if escape < 0 else escape
        found += _unescape_piece(bytes(form[position:stop]), end - start)
        position = stop
    return bytes(found)


def _unescape_piece(piece: bytes, size: int) -> bytes:
    """Unescape a piece of a field that has ``size`` bytes in total."""
    # 0xFF is not valid in UTF-8, and would become an equals sign below.
    if b"\xff" in piece:
        raise PayloadError("Broken JSON encoding.")
    quoted = piece.translate(_QUOTED_PRINTABLE)
    escapes = piece.count(b"%")
    found = binascii.a2b_qp(quoted) if escapes else quoted
    # A valid escape shrinks from three bytes to one. Check for invalid escapes, and for percent signs before a line
    # break, which quoted-printable removes as a soft line break.
    has_soft_break = escapes and ((b"\n" in piece and b"%\n" in piece) or (b"\r" in piece and b"%\r" in piece))
    if len(found) != len(quoted) - 2 * escapes or has_soft_break:
        if size > MAX_INVALID_ESCAPES:
            raise PayloadError("Broken JSON encoding.")
        return unquote_to_bytes(piece.replace(b"+", b" "))
    if b"=" in piece:
        if found.count(b"\xff") != piece.count(b"="):
            raise PayloadError("Broken JSON encoding.")
        found = found.translate(_EQUALS_SIGN)
    return found
