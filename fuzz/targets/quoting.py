"""The encoding of strings and frames, and the framing of each transport."""

import json
import re
from typing import Any

from sockjs_tornado import protocol
from sockjs_tornado.protocol import (
    JSONValue,
    PreparedMessage,
    close_frame,
    encode_message,
    messages_frame,
    quote,
)
from sockjs_tornado.transports.http_transports import (
    HTTP_TRANSPORTS,
    eventsource_framing,
    htmlfile_framing,
    xhr_framing,
)
from sockjs_tornado.transports.receiving import chunked
from sockjs_tornado.transports.websocket_receiver import write_messages
from sockjs_tornado.wire.frames import text_frame

from ..target import join_surrogates, replaced, text_of

#: Characters that must be escaped for all transports.
UNSAFE = re.compile("[\x00-\x1f\u200c-\u200f\u2028-\u202f\u2060-\u206f\ufff0-\uffff\ud800-\udfff]")

#: Maximum nesting of values; deeper ones would exceed the interpreter's recursion limit.
MAX_DEPTH = 50

jsonp_framing = {transport.name: transport for transport in HTTP_TRANSPORTS}["jsonp"].framing("cb")


class Target:
    """``quote``, ``messages_frame``, ``close_frame`` and the framings, with any texts (separated by a byte FF).

    - A client decodes the same messages. Dicts and lists arrive as the same JSON values.
    - A frame contains only characters that are safe for all transports, and can be encoded as UTF-8.
    - msgspec and the C module make no difference.
    - A framing can be reversed, and no text can end it early: no line break for xhr and eventsource, no ``<`` for
      htmlfile.
    """

    def __call__(self, data: bytes) -> None:
        """Encode messages, and decode them like a client."""
        texts = [text_of(part) for part in data.split(b"\xff")]
        for text in texts:
            quoted = quote(text)
            assert not UNSAFE.search(quoted)
            assert json.loads(quoted) == join_surrogates(text)
        messages: list[str | JSONValue] = [*texts, *values(texts)]
        frame = messages_frame(messages)
        expected = [join_surrogates(str(item)) if isinstance(item, str) else json.loads(item.text) for item in messages]
        check_frame(frame)
        assert frame[0] == "a"
        assert canonical(json.loads(frame[1:])) == canonical(expected)
        with replaced(protocol, _encode_strings=protocol._encode_in_python, _ENCODE_ERRORS=(TypeError,)):
            assert messages_frame(messages) == frame, "msgspec makes a difference"
        in_c = write_messages(list(texts))
        assert in_c is None or in_c == text_frame(messages_frame(texts)), "C makes a difference"
        closing = close_frame(3000 + len(texts) % 2000, texts[0])
        check_frame(closing)
        assert closing[0] == "c"
        assert json.loads(closing[1:]) == [3000 + len(texts) % 2000, join_surrogates(texts[0])]
        prepared = PreparedMessage(texts[0])
        assert prepared.framed(xhr_framing) == prepared.framed(xhr_framing) == xhr_framing(messages_frame(texts[:1]))


def values(texts: list[str]) -> list[JSONValue]:
    """Return the dicts and lists among the texts as messages."""
    found = []
    for text in texts:
        if text.count("[") + text.count("{") <= MAX_DEPTH:
            try:
                value = json.loads(text)
                message = encode_message(value) if isinstance(value, dict | list) else ""
            except ValueError:
                # Invalid JSON, or NaN, which is not valid JSON either.
                continue
            if isinstance(message, JSONValue):
                found.append(message)
    return found


def canonical(value: Any) -> str:
    """Return a JSON value as text, so that a comparison includes the types."""
    return json.dumps(value)


def check_frame(frame: str) -> None:
    """Check that a frame is safe, and that each framing can be reversed."""
    assert not UNSAFE.search(frame)
    xhr = xhr_framing(frame).decode()
    assert xhr == f"{frame}\n"
    assert "\n" not in frame
    event = eventsource_framing(frame).decode()
    assert event.startswith("data: ")
    assert event.endswith("\r\n\r\n")
    assert not set("\r\n\0") & set(event[6:-4])
    assert event[6:-4].replace("%0D", "\r").replace("%0A", "\n").replace("%00", "\0").replace("%25", "%") == frame
    page = htmlfile_framing(frame).decode()
    assert page.count("<") == 2
    assert not UNSAFE.search(page.replace("\n", "").replace("\r", ""))
    script = re.fullmatch(r'<script>\np\((".*")\);\n</script>\r\n', page)
    assert script
    assert json.loads(script[1]) == frame
    call = re.fullmatch(r'/\*\*/cb\((".*")\);\r\n', jsonp_framing(frame).decode())
    assert call
    assert json.loads(call[1]) == frame
    size, _, rest = chunked(xhr_framing)(frame).partition(b"\r\n")
    assert rest == xhr.encode() + b"\r\n"
    assert int(size, 16) == len(rest) - 2
