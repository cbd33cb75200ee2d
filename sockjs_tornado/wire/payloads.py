"""What clients send: JSON arrays of strings, in a POST or in a websocket message.

Anybody may send these, so that reading one is bounded: it costs one pass over the payload, refuses at the first byte
that cannot belong to an array of strings, and stops behind the message that is one too many. No other JSON value is
ever built, however it is nested.
"""

import json
import re
from collections.abc import Callable
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from ..exceptions import PayloadError

__all__ = ["Payload", "decode_payload", "decode_strings", "decode_websocket_payload"]

#: A payload as text, or as UTF-8.
Payload = str | bytes | bytearray

#: Bytes up to which a payload goes to a decoder that builds the whole array, whatever is in it.
SMALL = 64 * 1024

_SPACE = re.compile(r"[ \t\r\n]*")


def _decode_in_python(payload: Payload) -> list[str]:
    value = json.loads(payload if isinstance(payload, str) else payload.decode())
    if type(value) is not list or not all(type(message) is str for message in value):
        raise PayloadError("Broken JSON encoding.")
    return value


# Nearly all payloads are arrays of ordinary strings. The fast decoder takes nothing else, and what it refuses is read
# again: of lone surrogates, and bare strings, it knows nothing. msgspec (the extra `fast`) is in C.
_decode_fast: Callable[[Payload], list[str]]
_REFUSALS: tuple[type[Exception], ...]
#: Whether the fast decoder stops at the first value that is no string.
_IS_STRICT: bool
try:
    import msgspec
except ImportError:
    # A payload nested too deep is a RecursionError.
    _decode_fast, _REFUSALS, _IS_STRICT = _decode_in_python, (ValueError, PayloadError, RecursionError), False
else:
    _decode_fast = msgspec.json.Decoder(list[str]).decode
    _REFUSALS, _IS_STRICT = (UnicodeError, msgspec.MsgspecError), True


def decode_payload(payload: Payload, limit: int) -> list[str]:
    """Decode what a client posts: a JSON array of strings.

    Any JSON escape is accepted, lone surrogates included; ``[]`` is no message.

    Args:
        payload: The JSON.
        limit: How many messages there may be. A longer list says that there are more, not how many.

    Raises:
        PayloadError: The payload is empty, is not JSON, or is not an array of strings. The text is the protocol's.
    """
    if len(payload) <= SMALL or _may_build(payload, limit):
        try:
            return _decode_fast(payload)
        except _REFUSALS:
            pass
    return _read(payload, limit, bare=False)


def decode_websocket_payload(payload: Payload, limit: int) -> list[str]:
    """Decode one websocket message: an array of strings or one bare string; an empty message is none.

    Args:
        payload: The JSON.
        limit: As for :func:`decode_payload`.

    Raises:
        PayloadError: As :func:`decode_payload`.
    """
    if len(payload) <= SMALL or _may_build(payload, limit):
        try:
            return _decode_fast(payload)
        except _REFUSALS:
            pass
    return _read(payload, limit, bare=True) if payload else []


def decode_strings(payload: str) -> list[str] | None:
    """Decode an array of strings from a peer that is trusted, None if it is anything else, or needs a second look."""
    try:
        return _decode_fast(payload)
    except _REFUSALS:
        return None


def _may_build(payload: Payload, limit: int) -> bool:
    """Return whether the fast decoder may have a large payload: what it builds must be bounded by ``limit``.

    A message of two characters takes 64 bytes and more, so that messages are counted, by their quotes, before any is
    made. Where quotes are part of messages it is the reader below that counts.
    """
    # One expression for each type: text and bytes are not counted alike.
    quotes = payload.count('"') if isinstance(payload, str) else payload.count(b'"')
    return _IS_STRICT and quotes <= 2 * limit


def _read(payload: Payload, limit: int, *, bare: bool) -> list[str]:
    """Read an array of strings, or with ``bare`` also one string.

    Raises:
        PayloadError: It is anything else.
    """
    try:
        text = payload if isinstance(payload, str) else payload.decode()
        start = _skip_space(text, 0)
        if start == len(text):
            raise PayloadError("Payload expected.")
        if bare and text[start] == '"':
            message, end = _scan(text, start + 1)
            messages = [message]
        else:
            messages, end = _read_array(text, start, limit)
    except ValueError:
        # A string that ends too early, or has something in it that must be escaped; bytes that are not UTF-8.
        raise PayloadError("Broken JSON encoding.") from None
    if len(messages) <= limit and _skip_space(text, end) != len(text):
        raise PayloadError("Broken JSON encoding.")
    return messages


def _read_array(text: str, start: int, limit: int) -> tuple[list[str], int]:
    """Return the strings of the array at ``start``, one more than ``limit`` at most, and where they end."""
    messages: list[str] = []
    if text[start] != "[":
        raise PayloadError("Broken JSON encoding.")
    position = _skip_space(text, start + 1)
    if text.startswith("]", position):
        return messages, position + 1
    while text.startswith('"', position):
        message, position = _scan(text, position + 1)
        messages.append(message)
        position = _skip_space(text, position)
        if len(messages) > limit or text.startswith("]", position):
            return messages, position + 1
        if not text.startswith(",", position):
            break
        position = _skip_space(text, position + 1)
    raise PayloadError("Broken JSON encoding.")


def _scan(text: str, start: int) -> tuple[str, int]:
    # The standard library's own: it is what `json` reads strings with, and in C.
    scanned: tuple[str, int] = scanstring(text, start, True)
    return scanned


def _skip_space(text: str, start: int) -> int:
    found: Any = _SPACE.match(text, start)
    end: int = found.end()
    return end
