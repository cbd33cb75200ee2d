"""The payloads of POST requests and of websocket messages."""

import json
import re
from collections.abc import Callable

from sockjs_tornado.exceptions import PayloadError
from sockjs_tornado.transports import websocket_receiver
from sockjs_tornado.wire import payloads
from sockjs_tornado.wire.frames import TEXT
from sockjs_tornado.wire.payloads import Payload, decode_payload, decode_websocket_payload

from ..target import join_surrogates, replaced, text_of
from .frames import check_messages, client_frame

#: Maximum size of a payload in bytes.
LIMIT = 1 << 15

#: Maximum number of messages in a payload, more than fit into an input.
MAX_MESSAGES = 1 << 20

#: The messages, or the protocol's error text.
Outcome = list[str] | str

#: Replacements that disable msgspec, and that decode payloads of any size like large ones.
PYTHON = {
    "_decode_fast": payloads._decode_in_python,
    "_DECODE_ERRORS": (ValueError, PayloadError, RecursionError),
    "_IS_STRICT": False,
}
LARGE = {"SMALL": -1}


Decoder = Callable[[Payload, int], list[str]]


class Target:
    """``decode_payload`` and ``decode_websocket_payload``, with any text.

    - They return a list of ``str``, or raise PayloadError with one of the protocol's two texts, and nothing else.
    - msgspec makes no difference, nor does the size, nor whether the payload is text or bytes.
    - They accept exactly those payloads that the standard library decodes to an array of strings, with white space
      around it; over a websocket also a single string and an empty payload.
    - If a large payload has too many messages, decoding stops after one more than the limit.
    - Decoded messages can be encoded and decoded again with the same result.
    - ``read_messages`` returns the same messages from a frame, or does not read it; it reads all ordinary payloads.
    """

    def __call__(self, data: bytes) -> None:
        """Decode a payload with both functions."""
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
            assert "_speedups" not in websocket_receiver.read_messages.__module__, "it did not read an ordinary message"
        else:
            whole = len(good + frame + good)
            assert end in (len(good), whole)
            assert (end == whole) == (len(payload) <= LIMIT and is_ordinary(payload)), (
                "it must read exactly the ordinary messages"
            )

    def _check(self, decode: Decoder, text: str, expected_outcome: Outcome) -> None:
        found = outcome(decode, text)
        assert found == expected_outcome
        for values in (PYTHON, LARGE, PYTHON | LARGE):
            with replaced(payloads, **values):
                assert outcome(decode, text) == found, f"different outcome with {values}"
        data = text.encode("utf-8", "surrogatepass")
        if text == data.decode("utf-8", "replace"):
            assert outcome(decode, data) == outcome(decode, bytearray(data)) == found, "bytes make a difference"
        if isinstance(found, list):
            assert all(type(message) is str for message in found)
            assert decode(json.dumps(found), MAX_MESSAGES) == [join_surrogates(message) for message in found]
            if len(found) > 1:
                with replaced(payloads, **LARGE):
                    assert decode(text, len(found) - 1) == found
                    assert len(decode(text, 1)) == 2


def outcome(decode: Decoder, payload: Payload) -> Outcome:
    """Return the outcome of a decoder."""
    try:
        messages = decode(payload, MAX_MESSAGES)
    except PayloadError as error:
        return str(error)
    assert type(messages) is list
    return messages


def expected(text: str, *, websocket: bool = False) -> Outcome:
    """Return the outcome that the protocol requires, with the standard library only."""
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
    """Return whether a payload is an array of one or more strings, without white space and Unicode escapes."""
    try:
        text = payload.decode()
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not value or not isinstance(value, list) or not all(isinstance(message, str) for message in value):
        return False
    # Outside of the strings, only brackets and commas are allowed.
    between = re.sub(r'"(?:[^"\\]|\\[^u])*"', "", text)
    return between == f"[{',' * (len(value) - 1)}]"
