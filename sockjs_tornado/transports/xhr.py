"""xhr (polling), xhr_streaming and xhr_send: XMLHttpRequest, the fallback that works everywhere."""

from ..protocol import Framing
from .endpoint import JAVASCRIPT, NO_CACHE, PLAIN_TEXT
from .exchange import Exchange
from .receiving import PollingEndpoint, StreamingEndpoint
from .sending import SendingEndpoint

__all__ = ["XhrPolling", "XhrSend", "XhrStreaming"]

# Some browsers hand over nothing before this much has arrived.
_PRELUDE = b"h" * 2048 + b"\n"


def xhr_framing(frame: str) -> bytes:
    """Write a frame as one line."""
    return f"{frame}\n".encode()


class XhrPolling(PollingEndpoint):
    """``POST …/xhr``."""

    name = "xhr"
    method = "POST"
    cors = True
    content_type = JAVASCRIPT

    def framing(self, callback: str) -> Framing:
        """One line."""
        return xhr_framing


class XhrStreaming(StreamingEndpoint):
    """``POST …/xhr_streaming``."""

    name = "xhr_streaming"
    method = "POST"
    cors = True
    content_type = JAVASCRIPT

    def framing(self, callback: str) -> Framing:
        """One line."""
        return xhr_framing

    def prelude(self, callback: str) -> bytes:
        """2 KiB."""
        return _PRELUDE


class XhrSend(SendingEndpoint):
    """``POST …/xhr_send``: JSON, whatever the content type says."""

    cors = True

    def respond_accepted(self, exchange: Exchange) -> None:
        """204, with a content type so that no browser tries to parse nothing as XML."""
        exchange.respond(204, self.headers(exchange, PLAIN_TEXT, NO_CACHE))
