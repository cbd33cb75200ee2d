"""What leaves: strings, frames, and how each transport writes a frame."""

import json
import re
from typing import Any

from sockjs_tornado import SockJSConnection, SockJSRouter, protocol
from sockjs_tornado.protocol import (
    JSONValue,
    PreparedMessage,
    close_frame,
    encode_message,
    messages_frame,
    quote,
)
from sockjs_tornado.transports.eventsource import eventsource_framing
from sockjs_tornado.transports.htmlfile import htmlfile_framing
from sockjs_tornado.transports.jsonp import Jsonp
from sockjs_tornado.transports.receiving import chunked
from sockjs_tornado.transports.websocket_receiver import write_messages
from sockjs_tornado.transports.xhr import xhr_framing
from sockjs_tornado.wire.websocket import text_frame

from ..target import replaced, text_of, whole_characters

#: What no transport may carry as it is.
UNSAFE = re.compile("[\x00-\x1f\u200c-\u200f\u2028-\u202f\u2060-\u206f\ufff0-\uffff\ud800-\udfff]")

#: How deep a value may be nested to be sent here: deeper ones meet the interpreter's limit, not the package's.
DEPTH = 50

server = SockJSRouter(SockJSConnection)
jsonp_framing = Jsonp(server).framing("cb")


class Target:
    """``quote``, ``messages_frame``, ``close_frame`` and the framings, given any texts (a byte FF stands between two).

    - What a client decodes is what was given. JSON in dicts and lists arrives as the same value.
    - Nothing that a transport may not carry is in a frame, which UTF-8 has a form for.
    - msgspec and the module in C make no difference.
    - A framing can be taken off again and leaves the frame; no text can end it early: no line break for xhr and
      eventsource, no ``<`` for htmlfile.
    """

    def __call__(self, data: bytes) -> None:
        """Write messages, and read them as a client does."""
        texts = [text_of(part) for part in data.split(b"\xff")]
        for text in texts:
            quoted = quote(text)
            assert not UNSAFE.search(quoted)
            assert json.loads(quoted) == whole_characters(text)
        messages: list[str | JSONValue] = [*texts, *values(texts)]
        frame = messages_frame(messages)
        wanted = [whole_characters(str(item)) if isinstance(item, str) else json.loads(item.text) for item in messages]
        check_frame(frame)
        assert frame[0] == "a"
        assert plain(json.loads(frame[1:])) == plain(wanted)
        with replaced(protocol, _encode_strings=protocol._encode_in_python, _REFUSALS=(TypeError,)):
            assert messages_frame(messages) == frame, "msgspec makes a difference"
        in_c = write_messages(list(texts))
        assert in_c is None or in_c == text_frame(messages_frame(texts)), "C makes a difference"
        goodbye = close_frame(3000 + len(texts) % 2000, texts[0])
        check_frame(goodbye)
        assert goodbye[0] == "c"
        assert json.loads(goodbye[1:]) == [3000 + len(texts) % 2000, whole_characters(texts[0])]
        prepared = PreparedMessage(texts[0])
        assert prepared.framed(xhr_framing) == prepared.framed(xhr_framing) == xhr_framing(messages_frame(texts[:1]))


def values(texts: list[str]) -> list[JSONValue]:
    """Return the dicts and lists among the texts as messages."""
    found = []
    for text in texts:
        if text.count("[") + text.count("{") <= DEPTH:
            try:
                value = json.loads(text)
                message = encode_message(value) if isinstance(value, dict | list) else ""
            except ValueError:
                # No JSON, or NaN, which is none.
                continue
            if isinstance(message, JSONValue):
                found.append(message)
    return found


def plain(value: Any) -> str:
    """Return JSON's value as text that is equal for what is equal, types included."""
    return json.dumps(value)


def check_frame(frame: str) -> None:
    """See that a frame is safe, and that it survives each framing."""
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
