"""Request bodies that Tornado must not gather first: one said to be too long, and one that comes in chunks.

A request is looked at when its head is there. Most go to :class:`~sockjs_tornado.handlers.SockJSHandler`, which has the
whole body when it is made; the others go to :class:`StreamedBodyHandler`, and end where the limit is reached.
"""

import contextlib
import re
from collections.abc import Sequence
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import PathMatches, URLSpec
from tornado.web import stream_request_body

from .handlers import SockJSHandler
from .transports.endpoint import NO_CACHE, PLAIN_TEXT, Endpoint
from .wire.stream import Connection, response_head

__all__ = ["StreamedBodyHandler", "url_specs"]

_TOO_LARGE = b"Payload too large."


def url_specs(endpoints: Sequence[tuple[str, Endpoint]], max_size: int) -> list[URLSpec]:
    """Return the URL specs of endpoints.

    Args:
        endpoints: Each with the regular expression of its path.
        max_size: Bytes that a body may have.
    """
    specs = [URLSpec(path, SockJSHandler, {"endpoint": endpoint}) for path, endpoint in endpoints]
    for spec in specs:
        spec.matcher = _BoundedPath(spec.regex, max_size)
    # Behind the others, which pass over what they do not take.
    return specs + [URLSpec(path, StreamedBodyHandler, {"endpoint": endpoint}) for path, endpoint in endpoints]


class _BoundedPath(PathMatches):
    """Matches a path, unless the request has a body that must not be gathered."""

    def __init__(self, pattern: re.Pattern[str], max_size: int) -> None:
        super().__init__(pattern)
        self._max_size = max_size

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        found = super().match(request)
        if found is not None:
            headers = request.headers
            if "Transfer-Encoding" in headers:
                return None
            if "Content-Length" in headers:
                length = headers["Content-Length"]
                # Tornado says what is wrong with one that is no number.
                if length.isdecimal() and (len(length) > 18 or int(length) > self._max_size):
                    return None
        return found


class _Refusal(Connection):
    """An answer to a request whose body is not read: it may still be on its way, and is passed over."""

    def opened(self) -> None:
        # To close with unread bytes in the socket would reset the connection, and the client might lose the answer.
        if self.transport.can_write_eof():
            # A client that has reset the connection meanwhile: its end is about to be heard of.
            with contextlib.suppress(OSError):
                self.transport.write_eof()
        self.linger()


@stream_request_body
class StreamedBodyHandler(SockJSHandler):
    """Gathers a request's body itself, and no more of it than may be."""

    def initialize(self, endpoint: Endpoint) -> None:
        """Take what the URL spec holds for every request."""
        super().initialize(endpoint)
        self._chunks = bytearray()
        self._max_size = endpoint.server.settings.max_message_size

    async def prepare(self) -> None:
        """Refuse a body that is said to be too long, before it is read."""
        if "Transfer-Encoding" not in self.request.headers:
            self._finished = True
            headers = [*self._too_large(), ("Content-Length", str(len(_TOO_LARGE))), ("Connection", "close")]
            keeper = self._endpoint.server.container
            await self.take_over(413, _Refusal(keeper, response_head(413, headers) + _TOO_LARGE))

    def data_received(self, chunk: bytes) -> None:
        """Take a part of the body; what is too much is answered, and passed over to its end."""
        if self.answered:
            return
        self._chunks += chunk
        if len(self._chunks) > self._max_size:
            self._chunks.clear()
            self.respond(413, [*self._too_large(), ("Connection", "close")], _TOO_LARGE)

    def _too_large(self) -> list[tuple[str, str]]:
        self._endpoint.server.stats.rejected["max_message_size"] += 1
        return self._endpoint.headers(self, PLAIN_TEXT, NO_CACHE)

    def body(self) -> bytes:
        """Return the request's body."""
        return bytes(self._chunks)
