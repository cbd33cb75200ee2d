"""The xhr (polling), xhr_streaming and xhr_send transports, which use XMLHttpRequest."""

from ..protocol import Framing
from .endpoint import JAVASCRIPT, NO_CACHE, PLAIN_TEXT
from .exchange import Exchange
from .receiving import PollingEndpoint, StreamingEndpoint
from .sending import SendingEndpoint

__all__ = ["XhrPolling", "XhrSend", "XhrStreaming"]

# Some browsers deliver no data to the page before they have received 2 KiB.
_PRELUDE = b"h" * 2048 + b"\n"


def xhr_framing(frame: str) -> bytes:
    """Encode a frame as one line."""
    return f"{frame}\n".encode()


class XhrPolling(PollingEndpoint):
    """``POST …/xhr``."""

    name = "xhr"
    method = "POST"
    cors = True
    content_type = JAVASCRIPT

    def framing(self, callback: str) -> Framing:
        """Return the framing with one line per frame."""
        return xhr_framing


class XhrStreaming(StreamingEndpoint):
    """``POST …/xhr_streaming``."""

    name = "xhr_streaming"
    method = "POST"
    cors = True
    content_type = JAVASCRIPT

    def framing(self, callback: str) -> Framing:
        """Return the framing with one line per frame."""
        return xhr_framing

    def prelude(self, callback: str) -> bytes:
        """Return 2 KiB of padding and a line break."""
        return _PRELUDE


class XhrSend(SendingEndpoint):
    """``POST …/xhr_send``: JSON, regardless of the content type."""

    cors = True

    def respond_accepted(self, exchange: Exchange) -> None:
        """Respond with 204. The content type keeps browsers from parsing the empty body as XML."""
        exchange.respond(204, self.headers(exchange, PLAIN_TEXT, NO_CACHE))
