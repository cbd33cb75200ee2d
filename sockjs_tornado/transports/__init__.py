"""The transports: the framing of each kind of response, and the meaning of each kind of request.

Transports use the exchange port of :mod:`.exchange` and do not depend on Tornado.
"""

from collections.abc import Iterator

from ..session.request_limits import MAX_ID
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
    """Yield the URL patterns of a router, relative to its prefix, with their endpoint classes.

    Args:
        settings: The router's settings.
        restricted: Whether the origin policy rejects some origins. If so, there is no iframe page, because it works for
            pages of every origin.
    """
    # The most frequent URLs come first, since Tornado tries the patterns in order. As in sockjs-node, a trailing slash
    # is optional.
    if any(map(settings.is_enabled, ("xhr", "xhr_streaming", "eventsource", "htmlfile"))):
        yield f"{_SESSION}/xhr_send/?", XhrSend
    for name, endpoint in (
        ("xhr", XhrPolling),
        ("websocket", WebSocket),
        ("xhr_streaming", XhrStreaming),
        ("eventsource", EventSource),
        ("htmlfile", HtmlFile),
        ("jsonp", Jsonp),
    ):
        if settings.is_enabled(name):
            yield f"{_SESSION}/{name}/?", endpoint
    if settings.is_enabled("jsonp"):
        yield f"{_SESSION}/jsonp_send/?", JsonpSend
    if settings.is_enabled("rawwebsocket"):
        yield "/websocket/?", RawWebSocket
    yield "/info/?", Info
    if not restricted:
        yield r"/iframe(?:-[0-9-.a-z_]*)?\.html/?", Iframe
    yield "/?", Greeting
