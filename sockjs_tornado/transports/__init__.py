"""The transports: how frames look on one kind of response, and what a request of its kind means.

They are written against the exchange port of :mod:`.exchange`; nothing here knows Tornado.
"""

from collections.abc import Iterator

from ..session.kept import MAX_ID
from ..settings import Settings
from .endpoint import Endpoint
from .eventsource import EventSource
from .htmlfile import HtmlFile
from .jsonp import Jsonp, JsonpSend
from .pages import Greeting, Iframe, Info
from .websocket import RawWebSocket, WebSocket
from .xhr import XhrPolling, XhrSend, XhrStreaming

__all__ = ["enabled_endpoints"]

_SESSION = rf"/[^/.]{{1,{MAX_ID}}}/(?P<session_id>[^/.]{{1,{MAX_ID}}})"


def enabled_endpoints(settings: Settings, restricted: bool) -> Iterator[tuple[str, type[Endpoint]]]:
    """Yield the URLs of a router, as regular expressions behind the prefix, and what answers there.

    Args:
        settings: Of the router.
        restricted: Whether the origin policy refuses anybody; then the iframe page, which works for pages of any
            origin, is not offered.
    """
    # The busiest come first: Tornado tries one after the other. A slash at the end changes nothing, as in sockjs-node.
    if any(map(settings.is_enabled, ("xhr", "xhr_streaming", "eventsource", "htmlfile"))):
        yield f"{_SESSION}/xhr_send/?", XhrSend
    for name, receiving in (
        ("xhr", XhrPolling),
        ("websocket", WebSocket),
        ("xhr_streaming", XhrStreaming),
        ("eventsource", EventSource),
        ("htmlfile", HtmlFile),
        ("jsonp", Jsonp),
    ):
        if settings.is_enabled(name):
            yield f"{_SESSION}/{name}/?", receiving
    if settings.is_enabled("jsonp"):
        yield f"{_SESSION}/jsonp_send/?", JsonpSend
    if settings.is_enabled("rawwebsocket"):
        yield "/websocket/?", RawWebSocket
    yield "/info/?", Info
    if not restricted:
        yield r"/iframe(?:-[0-9-.a-z_]*)?\.html/?", Iframe
    yield "/?", Greeting
