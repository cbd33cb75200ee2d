"""What clients post, and what they send in websocket messages."""

import json
import re
from collections.abc import Callable

from sockjs_tornado.exceptions import PayloadError
from sockjs_tornado.transports import websocket_receiver
from sockjs_tornado.wire import payloads
from sockjs_tornado.wire.payloads import Payload, decode_payload, decode_websocket_payload
from sockjs_tornado.wire.websocket import TEXT

from ..target import replaced, text_of, whole_characters
from .frames import check_messages, client_frame

#: Bytes that a payload may have.
LIMIT = 1 << 15

#: Messages that a payload may have, more than fit into an input.
MANY = 1 << 20

#: The messages, or the protocol's text of what is wrong.
Outcome = list[str] | str

#: What takes the place of msgspec's decoder, and what has payloads of any size read as the large ones are.
PYTHON = {
    "_decode_fast": payloads._decode_in_python,
    "_DECODE_ERRORS": (ValueError, PayloadError, RecursionError),
    "_IS_STRICT": False,
}
LARGE = {"SMALL": -1}


Decoder = Callable[[Payload, int], list[str]]


class Target:
    """``decode_payload`` and ``decode_websocket_payload``, given any text.

    - They return a list of ``str`` or raise PayloadError with one of the protocol's two texts, and nothing else.
    - msgspec makes no difference, nor does the size, nor whether they are given text or bytes.
    - They accept exactly what the standard library's decoder finds to be an array of strings, white space around it
      included; on a websocket also one string, and nothing at all.
    - Of a large payload with more messages than it may have, one more than that is read, and nothing else.
    - What was decoded can be encoded, and decoded to the same again.
    - ``read_messages`` makes the same of it in a frame, or leaves it alone; it leaves nothing alone that clients send.
    """

    def __call__(self, data: bytes) -> None:
        """Decode a payload in both ways."""
        text = text_of(data)
        self._check(decode_payload, text, expected(text))
        self._check(decode_websocket_payload, text, expected(text, websocket=True))
        self._check_frame(data)
        self._check_frame(b'["' + data + b'"]')

    def _check_frame(self, payload: bytes) -> None:
        good = client_frame(TEXT, b'["good"]')
        frame = client_frame(TEXT, payload)
        end = check_messages(good + frame + good, LIMIT)
        if end == 0:
            assert "_speedups" not in websocket_receiver.read_messages.__module__, "it has left ordinary messages alone"
        else:
            whole = len(good + frame + good)
            assert end in (len(good), whole)
            assert (end == whole) == (len(payload) <= LIMIT and is_ordinary(payload)), "nearly all are ordinary"

    def _check(self, decode: Decoder, text: str, wanted: Outcome) -> None:
        found = outcome(decode, text)
        assert found == wanted
        for values in (PYTHON, LARGE, PYTHON | LARGE):
            with replaced(payloads, **values):
                assert outcome(decode, text) == found, f"a difference: {values}"
        data = text.encode("utf-8", "surrogatepass")
        if text == data.decode("utf-8", "replace"):
            assert outcome(decode, data) == outcome(decode, bytearray(data)) == found, "bytes make a difference"
        if isinstance(found, list):
            assert all(type(message) is str for message in found)
            assert decode(json.dumps(found), MANY) == [whole_characters(message) for message in found]
            if len(found) > 1:
                with replaced(payloads, **LARGE):
                    assert decode(text, len(found) - 1) == found
                    assert len(decode(text, 1)) == 2


def outcome(decode: Decoder, payload: Payload) -> Outcome:
    """Return what a decoder makes of a payload."""
    try:
        messages = decode(payload, MANY)
    except PayloadError as error:
        return str(error)
    assert type(messages) is list
    return messages


def expected(text: str, *, websocket: bool = False) -> Outcome:
    """Return what the protocol wants to be made of a text, by the standard library alone."""
    if websocket and not text:
        return []
    stripped = text.strip(" \t\r\n")
    if not stripped:
        return "Payload expected."
    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        return "Broken JSON encoding."
    if websocket and isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(message, str) for message in value):
        return value
    return "Broken JSON encoding."


def is_ordinary(payload: bytes) -> bool:
    """Tell whether bytes are an array of one or more strings without white space between them, or Unicode escapes."""
    try:
        text = payload.decode()
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not value or not isinstance(value, list) or not all(isinstance(message, str) for message in value):
        return False
    # Outside of the strings there are brackets, quotes and commas, and nothing else.
    between = re.sub(r'"(?:[^"\\]|\\[^u])*"', "", text)
    return between == f"[{',' * (len(value) - 1)}]"
