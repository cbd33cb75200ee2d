"""The eventsource transport: server-sent events (WHATWG HTML, section 9.2)."""

from ..protocol import Framing
from .receiving import StreamingEndpoint

__all__ = ["EventSource"]

# The client decodes the data with decodeURI. A line break would end the field, and NUL is not allowed in it.
_ESCAPES = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A", "\0": "%00"})


def eventsource_framing(frame: str) -> bytes:
    """Encode a frame as one event."""
    return f"data: {frame.translate(_ESCAPES)}\r\n\r\n".encode()


class EventSource(StreamingEndpoint):
    """``GET …/eventsource``."""

    name = "eventsource"
    cors = True
    # No charset parameter: some browsers rejected streams with one.
    content_type = ("Content-Type", "text/event-stream")

    def framing(self, callback: str) -> Framing:
        """Return the framing with one event per frame."""
        return eventsource_framing

    def prelude(self, callback: str) -> bytes:
        """Return an empty line, which an old browser waits for."""
        return b"\r\n"
