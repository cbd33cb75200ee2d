"""The frames of SockJS 0.3.3: ``o`` (open), ``h`` (heartbeat), ``a[...]`` (messages), ``c[code,"reason"]`` (close)."""

import json
import re
from collections.abc import Callable, Sequence
from enum import IntEnum
from inspect import iscoroutine
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from .exceptions import PayloadError
from .wire.payloads import decode_strings

#: A message from a client; bytes on a raw websocket only.
Message = str | bytes


class JSONValue:
    """A message that is already JSON. It is put into the frame unquoted, so that the page receives the value.

    On a raw websocket, which has no SockJS frames, the text is the message.

    Args:
        text: JSON text. It is not checked; if it is invalid, no page can read the frame that contains it.

    Raises:
        TypeError: If the text is not a ``str``.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"JSON text must be str, not {type(text).__name__}")
        # Lines end frames on some transports. In JSON they are white space only.
        self.text = text if "\n" not in text and "\r" not in text else text.replace("\n", " ").replace("\r", " ")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text!r})"

    def __str__(self) -> str:
        return self.text

    def __len__(self) -> int:
        return len(self.text)


#: A message that :func:`encode_message` accepts without ``json_encode``.
Encodable = str | dict[str, Any] | list[Any] | tuple[Any, ...] | JSONValue

#: A message to a client; bytes on a raw websocket only.
Outgoing = str | bytes | JSONValue

#: Encodes a frame for one kind of response. Receivers of the same kind use the same function object.
Framing = Callable[[str], bytes]

OPEN = "o"
HEARTBEAT = "h"


class Frame(NamedTuple):
    """A decoded frame; ``kind`` is its first character, and the other fields are those of ``a`` and ``c`` frames."""

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
    TRY_AGAIN_LATER = 1013
    STILL_OPEN = 2010
    GO_AWAY = 3000
    SLOW_CONSUMER = 3008
    TOO_FAST = 3013


# Characters that some transport would change. encode_basestring escapes quotes, backslashes
# and controls below U+0020. A surrogate in a str is always a lone one, which UTF-8 cannot encode.
_MUST_ESCAPE = re.compile("[\u200c-\u200f\u2028-\u202f\u2060-\u206f\ufff0-\uffff\ud800-\udfff]")


def _encode_in_python(messages: Sequence[str]) -> str:
    return f"[{','.join(map(encode_basestring, messages))}]"


# Most frames are arrays of strings without surrogates. The fast encoder handles only these; if it raises, the frame is
# encoded again by slower code. msgspec (the extra `fast`) has a fast encoder in C.
_encode_strings: Callable[[Sequence[str]], str]
try:
    import msgspec
except ImportError:  # msgspec is not installed
    _encode_strings = _encode_in_python
    _ENCODE_ERRORS: tuple[type[Exception], ...] = (TypeError,)
else:
    _encode = msgspec.json.Encoder().encode
    _encode_strings = lambda messages: _encode(messages).decode()  # noqa: E731
    _ENCODE_ERRORS = (TypeError, UnicodeEncodeError, msgspec.MsgspecError)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def is_close_code(code: int) -> bool:
    """Return whether a websocket's close frame may contain ``code``: 1000-1003, 1007-1014, 3000-4999.

    See RFC 6455, section 7.4.
    """
    return 3000 <= code <= 4999 or 1000 <= code <= 1003 or 1007 <= code <= 1014


def nearest_close_code(code: int) -> int:
    """Return the code closest to ``code`` that a websocket's close frame may contain."""
    candidates = (min(max(code, first), last) for first, last in ((1000, 1003), (1007, 1014), (3000, 4999)))
    return min(candidates, key=lambda candidate: abs(candidate - code))


def check_session_close(code: object, reason: object) -> None:
    """Raise TypeError or ValueError if a SockJS close frame cannot contain these.

    Raises:
        TypeError: The code is not an ``int``, or the reason is not a ``str``.
        ValueError: The code is not within 0-65535.
    """
    if type(code) is bool or not isinstance(code, int):
        raise TypeError(f"close code must be int, not {type(code).__name__}")
    if not isinstance(reason, str):
        raise TypeError(f"close reason must be str, not {type(reason).__name__}")
    if not 0 <= code <= 65535:
        raise ValueError(f"close code: expected 0-65535, got {code!r}")


def quote(text: str) -> str:
    """Return ``text`` as a JSON string that every transport transmits unchanged.

    Escapes U+0000-1F, U+200C-200F, U+2028-202F, U+2060-206F, U+FFF0-FFFF and lone surrogates, in lower-case hex. All
    other characters are not escaped, so that text in any script keeps its size in UTF-8.
    """
    quoted = encode_basestring(text)
    return quoted if quoted.isascii() else _MUST_ESCAPE.sub(_escape, quoted)


# A publisher has no settings.
_ENCODE_HINT = "a router's setting json_encode can encode other types; JSONValue(text) is JSON that is encoded already"
_AWAIT_HINT = "await it, and send the result"
_BYTES_HINT = "encode them as text, for example as base64"


def encode_message(message: object, json_encode: Callable[[Any], str | bytes] | None = None) -> str | JSONValue:
    """Encode a message for :func:`messages_frame`: text is unchanged, a dict, list or tuple becomes JSON.

    If ``json_encode`` is set, it encodes values of all types except text and bytes.

    Raises:
        TypeError: If it is of another type, or contains a value that JSON does not support.
        ValueError: If it contains NaN, an infinity or itself.
    """
    if isinstance(message, str):
        return message
    if isinstance(message, JSONValue):
        return message
    if json_encode is not None and not isinstance(message, bytes | bytearray | memoryview):
        encoded = json_encode(message)
        return JSONValue(encoded.decode() if isinstance(encoded, bytes) else encoded)
    if isinstance(message, dict | list | tuple):
        try:
            return JSONValue(json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
        except TypeError as error:
            hint = _AWAIT_HINT if "type coroutine " in str(error) else _ENCODE_HINT
            raise TypeError(f"{error}; {hint}") from None
        except ValueError as error:
            raise ValueError(f"message: {error}") from None
    hint = _AWAIT_HINT if iscoroutine(message) else _ENCODE_HINT
    if isinstance(message, bytes | bytearray | memoryview):
        # With json_encode, it would be the same.
        hint = _BYTES_HINT
    raise TypeError(
        "a message must be str, dict, list, tuple or JSONValue (bytes only in send() on a raw websocket), "
        f"not {type(message).__name__}; {hint}"
    )


def encode_outgoing(
    message: object, json_encode: Callable[[Any], str | bytes] | None, *, binary: bool, accepts_bytes: bool
) -> Outgoing:
    """Encode a message as :func:`encode_message` does, or bytes if the transport accepts them.

    If ``binary`` is set and the transport accepts bytes, text is sent as bytes.

    Raises:
        TypeError: See :func:`encode_message`; also for bytes on a transport for text.
        ValueError: See :func:`encode_message`.
    """
    if isinstance(message, bytes | bytearray | memoryview):
        if not accepts_bytes:
            raise TypeError(f"bytes can be sent only on a raw websocket; {_BYTES_HINT}")
        return bytes(message)
    encoded = encode_message(message, json_encode)
    return str(encoded).encode() if binary and accepts_bytes else encoded


def messages_frame(messages: Sequence[str | JSONValue]) -> str:
    """Return the ``a[...]`` frame that carries ``messages`` in order."""
    try:
        frame = "a" + _encode_strings(messages)  # type: ignore[arg-type]
    except _ENCODE_ERRORS:
        items = [item.text if isinstance(item, JSONValue) else encode_basestring(item) for item in messages]
        frame = f"a[{','.join(items)}]"
    return frame if frame.isascii() else _MUST_ESCAPE.sub(_escape, frame)


def close_frame(code: int, reason: str) -> str:
    """Return the close frame ``c[code,"reason"]``."""
    return f"c[{code:d},{quote(reason)}]"


def decode_frame(text: str) -> Frame:
    """Decode a frame of a server: ``o``, ``h``, ``a[...]`` or ``c[code,"reason"]``.

    Raises:
        PayloadError: If it is none of these.
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
        return json.loads(text)
    except (ValueError, RecursionError):
        raise PayloadError("Broken JSON encoding.") from None


class PreparedMessage:
    """One message of a broadcast. Each encoding of it is computed once, for all sessions.

    Attributes:
        text: The message, for sessions that have to queue it.
        rendered: The results of :meth:`framed`, by framing.
    """

    __slots__ = ("_frame", "_plain", "rendered", "text")

    def __init__(self, text: str | JSONValue) -> None:
        self.text = text
        self._frame: str | None = None
        self.rendered: dict[Framing, bytes] = {}
        self._plain: dict[Framing, bytes] = {}

    @property
    def frame(self) -> str:
        """The ``a[...]`` frame that contains this message only."""
        frame = self._frame
        if frame is None:
            frame = self._frame = messages_frame((self.text,))
        return frame

    def framed(self, framing: Framing) -> bytes:
        """Return ``framing(self.frame)``, which is computed once for each framing."""
        data = self.rendered.get(framing)
        if data is None:
            data = self.rendered[framing] = framing(self.frame)
        return data

    def plain(self, framing: Framing) -> bytes:
        """Return ``framing(str(self.text))``, for raw websockets; it is computed once for each framing."""
        try:
            return self._plain[framing]
        except KeyError:
            data = self._plain[framing] = framing(str(self.text))
            return data
