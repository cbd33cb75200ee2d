"""Request bodies of SockJS URLs that do not arrive together with the head, or whose length is not known."""

import logging
from typing import TYPE_CHECKING

from ..transports.endpoint import NO_CACHE, ORIGIN_REFUSED, PLAIN_TEXT, retry_after
from ..transports.limited_body import BodyRejected, LimitedBody
from ..wire.chunked import ChunkedDecoder
from ..wire.http_parser import BadRequest, RequestHead

if TYPE_CHECKING:
    from .connection import HTTPConnection
    from .exchange import NativeExchange

logger = logging.getLogger(__name__)


class BodyReader:
    """Collects a request body within the limits, and rejects the request as soon as one is exceeded.

    Args:
        connection: The connection.
        exchange: The request, which is passed to its endpoint when the body is complete.
        head: The head of the request.
    """

    __slots__ = ("_body", "_connection", "_decoder", "_exchange", "_left")

    def __init__(self, connection: "HTTPConnection", exchange: "NativeExchange", head: RequestHead) -> None:
        self._connection = connection
        self._exchange = exchange
        self._left = head.content_length
        self._decoder = ChunkedDecoder() if head.is_chunked else None
        self._body = LimitedBody(exchange.endpoint, head.method, is_compressed=connection.server.may_decompress(head))

    def start(self, size: int) -> None:
        """Check the head of the request, and ask for the body if the client waits for that.

        Args:
            size: Bytes of the body, as far as they are known.
        """
        exchange = self._exchange
        try:
            if not exchange.endpoint.is_origin_allowed(exchange):
                raise BodyRejected(403, ORIGIN_REFUSED, "allowed_origins")
            self._body.check_size(size)
        except BodyRejected as rejected:
            self._reject(rejected)
        else:
            self._connection.limit_body_time()
            if exchange.expects_continue:
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def data_received(self, data: bytes) -> bytes:
        """Process the next bytes of the body; return those that belong to the next request."""
        try:
            if self._decoder is None:
                piece, rest = data[: self._left], data[self._left :]
                self._left -= len(piece)
                finished = not self._left
            else:
                piece = self._decoder.feed(data)
                # Compressed data may decompress to nothing, so its own size counts, too.
                self._body.check_size(self._decoder.size)
                rest, finished = self._decoder.unread, self._decoder.finished
            for _ in self._body.add(piece):
                pass
            if not finished:
                return b""
            self._body.finish()
        except BadRequest as error:
            self._reject(BodyRejected(error.status, error.reason.encode(), error.limit))
        except BodyRejected as rejected:
            self._reject(rejected)
        else:
            self._exchange.set_body(self._body.data, self._body.share)
            return self._connection.body_finished(self._exchange, rest)
        return b""

    def _reject(self, rejected: BodyRejected) -> None:
        exchange = self._exchange
        endpoint = exchange.endpoint
        fields = [PLAIN_TEXT] if rejected.status == 403 else exchange.rejection_fields(PLAIN_TEXT, NO_CACHE)
        if rejected.reason:
            endpoint.server.stats.rejected[rejected.reason] += 1
        if rejected.status == 503:
            fields.append(retry_after())
            message = "%s is reached: long bodies get 503"
            endpoint.server.container.log.write(logger, logging.WARNING, rejected.reason, message, rejected.reason)
        self._body.release()
        exchange.reject(rejected.status, fields, rejected.text)

    def on_disconnect(self) -> None:
        """Free the memory of the body, because the client has disconnected."""
        self._body.release()
