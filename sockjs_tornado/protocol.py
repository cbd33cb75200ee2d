"""The SockJS 0.3.3 framing: what stands between two strings and the bytes of a transport.

Pure functions and constants; nothing here knows a session or a socket. The frames a client accepts are ``o`` (open),
``h`` (heartbeat), ``a[...]`` (an array of messages) and ``c[code,"reason"]`` (close).
"""

import json
import re
from collections.abc import Callable, Sequence
from enum import IntEnum
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from .exceptions import PayloadError
from .wire.payloads import decode_strings

__all__ = [
    "HEARTBEAT",
    "OPEN",
    "CloseCode",
    "Frame",
    "Framing",
    "JSONValue",
    "Message",
    "Outgoing",
    "PreparedMessage",
    "check_close_code",
    "close_frame",
    "decode_frame",
    "encode_message",
    "is_close_code",
    "messages_frame",
    "quote",
]

#: What a client sends; bytes on a raw websocket only.
Message = str | bytes


class JSONValue:
    """A message that is JSON already and goes into the frame as it is, so that the page gets the value itself.

    Args:
        text: The JSON; it is the message where there are no SockJS frames.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __len__(self) -> int:
        return len(self.text)


#: What an application sends; bytes on a raw websocket only.
Outgoing = str | bytes | JSONValue

#: How one kind of response writes a frame. What is shared by many receivers is one function object for all of them.
Framing = Callable[[str], bytes]

OPEN = "o"
HEARTBEAT = "h"


class Frame(NamedTuple):
    """What a frame says to a client.

    Attributes:
        kind: ``o``, ``h``, ``a`` or ``c``.
        messages: Of ``a``, what the array holds: strings, or whatever JSON values the server sent.
        code: Of ``c``, the close code.
        reason: Of ``c``, the reason.
    """

    kind: str
    messages: Sequence[Any] = ()
    code: int = 0
    reason: str = ""


class CloseCode(IntEnum):
    """Close codes that the server itself uses."""

    NORMAL = 1000
    GOING_AWAY = 1001
    INTERRUPTED = 1002
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    STILL_OPEN = 2010
    GO_AWAY = 3000
    SLOW_CONSUMER = 3008
    TOO_FAST = 3013


# What the client cannot receive verbatim on some transport. encode_basestring has dealt with quotes, backslashes and
# the controls below U+0020; a surrogate in a str is always a lone one, and UTF-8 has no form for it.
_MUST_ESCAPE = re.compile("[\u200c-\u200f\u2028-\u202f\u2060-\u206f\ufff0-\uffff\ud800-\udfff]")

_raw_decode = json.JSONDecoder().raw_decode
_JSON_SPACE = " \t\r\n"


def _encode_in_python(messages: Sequence[str]) -> str:
    return f"[{','.join(map(encode_basestring, messages))}]"


# Nearly all that is encoded is arrays of ordinary strings. The fast encoder takes nothing else, and what it refuses is
# looked at again, more slowly. msgspec (the extra `fast`) has it in C.
_encode_strings: Callable[[Sequence[str]], str]
try:
    import msgspec
except ImportError:
    _encode_strings = _encode_in_python
    _REFUSALS: tuple[type[Exception], ...] = (TypeError,)
else:
    _encode = msgspec.json.Encoder().encode
    _encode_strings = lambda messages: _encode(messages).decode()  # noqa: E731
    _REFUSALS = (TypeError, UnicodeEncodeError, msgspec.MsgspecError)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def is_close_code(code: int) -> bool:
    """Tell whether a code may stand in a close frame (RFC 6455, section 7.4): 1000-1003, 1007-1014 or 3000-4999."""
    return 3000 <= code <= 4999 or 1000 <= code <= 1003 or 1007 <= code <= 1014


def check_close_code(code: object) -> None:
    """Raise ValueError where ``code`` is no ``int`` or :func:`is_close_code` says no."""
    if not isinstance(code, int) or not is_close_code(code):
        raise ValueError(f"close code {code!r} is not one of 1000-1003, 1007-1014, 3000-4999")


def quote(text: str) -> str:
    """Return ``text`` as a JSON string literal that every transport carries intact.

    Escapes U+0000-1F, U+200C-200F, U+2028-202F, U+2060-206F, U+FFF0-FFFF and lone surrogates, with lower-case hex;
    everything else stays as it is, so that text in any script keeps its UTF-8 size.
    """
    quoted = encode_basestring(text)
    return quoted if quoted.isascii() else _MUST_ESCAPE.sub(_escape, quoted)


def encode_message(message: object) -> str | JSONValue:
    """Return what goes into a frame for a message.

    Raises:
        TypeError: It is neither text nor a dict or list of JSON's types.
        ValueError: It has a number that JSON has no form for, or contains itself.
    """
    if isinstance(message, str):
        return message
    if isinstance(message, dict | list):
        return JSONValue(json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    raise TypeError(f"a message is str, dict or list (bytes on a raw websocket), not {type(message).__name__}")


def messages_frame(messages: Sequence[str | JSONValue]) -> str:
    """Return the ``a[...]`` frame that carries ``messages`` in order."""
    try:
        frame = "a" + _encode_strings(messages)  # type: ignore[arg-type]
    except _REFUSALS:
        items = [item.text if isinstance(item, JSONValue) else encode_basestring(item) for item in messages]
        frame = f"a[{','.join(items)}]"
    return frame if frame.isascii() else _MUST_ESCAPE.sub(_escape, frame)


def close_frame(code: int, reason: str) -> str:
    """Return the close frame ``c[code,"reason"]``."""
    return f"c[{code:d},{quote(reason)}]"


def decode_frame(text: str) -> Frame:
    """Decode what a server sends: ``o``, ``h``, ``a[...]`` or ``c[code,"reason"]``.

    Raises:
        PayloadError: It is none of these.
    """
    kind, body = text[:1], text[1:]
    if kind == "a":
        # A server may send any JSON values.
        messages: Any = decode_strings(body)
        if messages is None:
            messages = _decode_json(body)
        if type(messages) is list:
            return Frame("a", messages)
    if kind == "c":
        match _decode_json(body):
            case [int(code), str(reason)] if type(code) is int:
                return Frame("c", code=code, reason=reason)
    elif kind in (OPEN, HEARTBEAT) and not body:
        return Frame(kind)
    raise PayloadError("Broken framing.")


def _decode_json(text: str) -> object:
    try:
        payload, end = _raw_decode(text)
        if end == len(text):
            return payload
    except (ValueError, RecursionError):
        pass
    # The decoder above takes no white space around the value; only what has some pays for looking.
    stripped = text.strip(_JSON_SPACE)
    if not stripped:
        raise PayloadError("Payload expected.")
    if len(stripped) != len(text):
        return _decode_json(stripped)
    raise PayloadError("Broken JSON encoding.")


class PreparedMessage:
    """One message on its way to many sessions: each form of it is made once.

    Args:
        text: The message.

    Attributes:
        text: The message itself, for sessions that have to queue it.
        rendered: What :meth:`framed` has returned so far, by framing.
    """

    __slots__ = ("_frame", "_plain", "rendered", "text")

    def __init__(self, text: str | JSONValue) -> None:
        self.text = text
        self._frame: str | None = None
        self.rendered: dict[Framing, bytes] = {}
        self._plain: dict[Framing, bytes] = {}

    @property
    def frame(self) -> str:
        """The ``a[...]`` frame that carries the message alone."""
        frame = self._frame
        if frame is None:
            frame = self._frame = messages_frame((self.text,))
        return frame

    def framed(self, framing: Framing) -> bytes:
        """Return ``framing(self.frame)``, computed once for each framing."""
        try:
            return self.rendered[framing]
        except KeyError:
            data = self.rendered[framing] = framing(self.frame)
            return data

    def plain(self, framing: Framing) -> bytes:
        """Return ``framing(str(self.text))``, for where there are no SockJS frames; computed once for each framing."""
        try:
            return self._plain[framing]
        except KeyError:
            data = self._plain[framing] = framing(str(self.text))
            return data
