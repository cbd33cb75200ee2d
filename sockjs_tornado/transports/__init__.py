"""The transports: the framing of each kind of response, and the meaning of each kind of request.

Transports use the exchange port of :mod:`.exchange` and do not depend on Tornado.
"""

from collections.abc import Iterator

from ..session.connection_info import MAX_ID
from .endpoint import Endpoint
from .exchange import Router
from .http_transports import HTTP_TRANSPORTS
from .pages import ClientScript, Greeting, Iframe, Info
from .receiving import ReceivingEndpoint
from .sending import SendingEndpoint
from .websocket import RawWebSocket, WebSocket

_SESSION = rf"/[^/.]{{1,{MAX_ID}}}/(?P<session_id>[^/.]{{1,{MAX_ID}}})"


def enabled_endpoints(server: Router) -> Iterator[tuple[str, Endpoint]]:
    """Yield the URL patterns of a router, relative to its prefix, with their endpoints."""
    # The most frequent URLs come first, since Tornado tries the patterns in order. As in sockjs-node, a trailing slash
    # is optional.
    settings = server.settings
    transports = [transport for transport in HTTP_TRANSPORTS if settings.is_enabled(transport.name)]
    send_names = {transport.send_name for transport in transports}
    if "xhr_send" in send_names:
        yield f"{_SESSION}/xhr_send/?", SendingEndpoint(server, is_form=False)
    if settings.is_enabled("websocket"):
        yield f"{_SESSION}/websocket/?", WebSocket(server)
    for transport in transports:
        yield f"{_SESSION}/{transport.name}/?", ReceivingEndpoint(server, transport)
    if "jsonp_send" in send_names:
        yield f"{_SESSION}/jsonp_send/?", SendingEndpoint(server, is_form=True)
    if settings.is_enabled("rawwebsocket"):
        yield "/websocket/?", RawWebSocket(server)
    yield "/info/?", Info(server)
    # The iframe page works for pages of every origin, so there is none if the origin policy rejects some.
    if not server.origins.restricted:
        yield r"/iframe(?:-[0-9-.a-z_]*)?\.html/?", Iframe(server)
    yield r"/sockjs\.min\.js/?", ClientScript(server)
    yield "/?", Greeting(server)
