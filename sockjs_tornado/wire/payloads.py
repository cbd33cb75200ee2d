"""Decoding of client payloads: JSON arrays of strings, in a POST or in a websocket message.

Clients are not trusted, so the cost of decoding is bounded. A payload above 64 KiB is read once, only up to the first
byte that cannot be part of an array of strings, or up to one message more than allowed; no other JSON value is built. A
smaller payload may be built as a whole before it is checked, and read a second time if it is rejected.
"""

import json.decoder
import re
from collections.abc import Callable
from typing import Any

from ..exceptions import PayloadError

#: A payload as text, or as UTF-8.
Payload = str | bytes | bytearray

#: Payloads up to this size are decoded by a JSON decoder that builds the whole array.
SMALL = 64 * 1024

#: White space of JSON, up to 256 characters. More is skipped by ``str.lstrip``, which takes a tenth of the time.
_SPACE = re.compile(r"[ \t\r\n]{0,256}")
_SPACE_BLOCK = 1024 * 1024
# The `json` module reads strings with this function, which is implemented in C.
_scan: Callable[[str, int, bool], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]

# Other ASCII characters that str.lstrip strips.
_OTHER_SPACE = "\v\f\x1c\x1d\x1e\x1f"


def _decode_in_python(payload: Payload) -> list[str]:
    value = json.loads(payload if isinstance(payload, str) else payload.decode())
    if type(value) is not list or not all(type(message) is str for message in value):
        raise PayloadError("Broken JSON encoding.")
    return value


# Nearly all payloads are arrays of ordinary strings, which the fast decoder handles. A payload that it rejects is read
# again below, for example because of a lone surrogate or a bare string. msgspec (the extra `fast`) is written in C.
_decode_fast: Callable[[Payload], list[str]]
_DECODE_ERRORS: tuple[type[Exception], ...]
#: Whether the fast decoder stops at the first value that is not a string.
_IS_STRICT: bool
try:
    import msgspec
except ImportError:  # msgspec is not installed
    # Deep nesting raises RecursionError.
    _decode_fast, _DECODE_ERRORS, _IS_STRICT = _decode_in_python, (ValueError, PayloadError, RecursionError), False
else:
    _decode_fast = msgspec.json.Decoder(list[str]).decode
    _DECODE_ERRORS, _IS_STRICT = (UnicodeError, msgspec.MsgspecError), True


def decode_payload(payload: Payload, limit: int) -> list[str]:
    """Decode the payload of a POST: a JSON array of strings.

    Every JSON escape is accepted, including lone surrogates. ``[]`` contains no message.

    Args:
        payload: The JSON text.
        limit: Maximum number of messages. If the payload has more, the result is longer than ``limit``, but may be
            incomplete.

    Raises:
        PayloadError: The payload is empty, is not JSON, or is not an array of strings. The error text is part of the
            SockJS protocol.
    """
    if len(payload) <= SMALL or _may_build(payload, limit):
        try:
            return _decode_fast(payload)
        except _DECODE_ERRORS:
            pass
    return _read(payload, limit, bare=False)


def decode_websocket_payload(payload: Payload, limit: int) -> list[str]:
    """Decode a websocket message in the same way; it may also be one bare string. An empty message is ignored."""
    if len(payload) <= SMALL or _may_build(payload, limit):
        try:
            return _decode_fast(payload)
        except _DECODE_ERRORS:
            pass
    return _read(payload, limit, bare=True) if payload else []


def decode_strings(payload: str) -> list[str] | None:
    """Decode an array of strings from a trusted peer. Return None if the fast decoder rejects it."""
    try:
        return _decode_fast(payload)
    except _DECODE_ERRORS:
        return None


def _may_build(payload: Payload, limit: int) -> bool:
    """Return whether the fast decoder may decode a large payload.

    A decoded message takes at least 64 bytes of memory, even if it has two characters. So the number of messages must
    be limited before they are decoded. Each message has at least two quotes, so few quotes mean few messages. If there
    are more than ``2 * limit`` quotes, :func:`_read` decodes and counts the messages one by one.
    """
    # bytes.count() needs bytes, and str.count() a str.
    quotes = payload.count('"') if isinstance(payload, str) else payload.count(b'"')
    return _IS_STRICT and 0 < quotes <= 2 * limit


def _read(payload: Payload, limit: int, *, bare: bool) -> list[str]:
    """Read an array of strings or, if ``bare`` is true, also a single string."""
    try:
        text = payload if isinstance(payload, str) else payload.decode()
        start = _skip_space(text, 0)
        if start == len(text):
            raise PayloadError("Payload expected.")
        if bare and text[start] == '"':
            message, end = _scan(text, start + 1, True)
            messages = [message]
        else:
            messages, end = _read_array(text, start, limit)
    except ValueError:
        # An unterminated string, an unescaped control character, or invalid UTF-8.
        raise PayloadError("Broken JSON encoding.") from None
    if len(messages) <= limit and _skip_space(text, end) != len(text):
        raise PayloadError("Broken JSON encoding.")
    return messages


def _read_array(text: str, start: int, limit: int) -> tuple[list[str], int]:
    """Return the strings of the array at ``start``, at most one more than ``limit``, and the end position."""
    messages: list[str] = []
    if text[start] != "[":
        raise PayloadError("Broken JSON encoding.")
    position = _skip_space(text, start + 1)
    if text.startswith("]", position):
        return messages, position + 1
    while text.startswith('"', position):
        message, position = _scan(text, position + 1, True)
        messages.append(message)
        position = _skip_space(text, position)
        if len(messages) > limit or text.startswith("]", position):
            return messages, position + 1
        if not text.startswith(",", position):
            break
        position = _skip_space(text, position + 1)
    raise PayloadError("Broken JSON encoding.")


def _skip_space(text: str, start: int) -> int:
    """Return the position of the first character that is not white space."""
    found: Any = _SPACE.match(text, start)
    end: int = found.end()
    while end - start >= 256 and text[end : end + 1].isspace():
        block = text[end : end + _SPACE_BLOCK]
        space = block[: len(block) - len(block.lstrip())]
        if not space.isascii() or any(character in space for character in _OTHER_SPACE):
            raise PayloadError("Broken JSON encoding.")
        end += len(space)
    return end
