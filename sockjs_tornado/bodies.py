"""Request bodies that Tornado must not gather first: one said to be too long, and one whose length is not said.

A request is looked at when its head is there. Most go to :class:`~sockjs_tornado.handlers.SockJSHandler`, which has the
whole body when it is made; the others go to :class:`StreamedBodyHandler`, and end where the limit is reached.
"""

import re
from collections.abc import Awaitable, Sequence
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import PathMatches, URLSpec
from tornado.web import RequestHandler, stream_request_body

from .handlers import SockJSHandler, header_value
from .transports.endpoint import NO_CACHE, PLAIN_TEXT, Endpoint
from .wire.connection import Connection
from .wire.stream import response_head, write_and_close

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
            if headers.get_list("Transfer-Encoding"):
                return None
            if headers.get_list("Content-Length"):
                length = header_value(headers, "Content-Length")
                # Tornado takes the same length more than once, too.
                if not length.isdecimal() or len(length) > 18 or int(length) > self._max_size:
                    return None
        return found


class _Refusal(Connection):
    """An answer to a request whose body is not read: it may still be on its way, and is passed over."""

    def opened(self) -> None:
        self.shut()


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
        length = self.header("Content-Length")
        if self.header("Transfer-Encoding"):
            # With a length, or for HTTP/1.0, chunks may be an attack on a proxy (RFC 9112, section 6.1).
            if length or not self.persistent:
                await self._refuse(400)
        elif length.isdecimal():
            await self._refuse(413)

    async def _refuse(self, status: int) -> None:
        self._finished = True
        response = self._refusal(status)
        container = self._endpoint.server.container
        if container.closing:
            # Nobody waits for those who are refused.
            write_and_close(self._leave(), response)
        else:
            await self.take_over(status, _Refusal(container, response))

    def _refusal(self, status: int) -> bytes:
        body = _TOO_LARGE if status == 413 and self.method != "HEAD" else b""
        self._endpoint.server.stats.rejected["max_message_size"] += status == 413
        fields = self._endpoint.headers(self, PLAIN_TEXT, NO_CACHE)
        return response_head(status, [*fields, ("Content-Length", str(len(body))), ("Connection", "close")]) + body

    def data_received(self, chunk: bytes) -> None:
        """Take a part of the body; what is too much is answered at once, and passed over to its end."""
        if not self.answered:
            self._chunks += chunk
            if len(self._chunks) > self._max_size:
                self._chunks.clear()
                self.answered = True
                self.set_status(413)
                self._connection.write(self._refusal(413))

    def _serve(self, session_id: str = "") -> Awaitable[None] | None:
        if self.answered:
            # All of the body has come: now the connection can end without a reset.
            self._finished = True
            write_and_close(self._leave(), b"")
            return None
        return super()._serve(session_id)

    head = get = post = delete = patch = put = options = _serve

    # The request begins before its body is there.
    _execute = RequestHandler._execute  # type: ignore[assignment]

    def body(self) -> bytes:
        """Return the request's body."""
        return bytes(self._chunks)
