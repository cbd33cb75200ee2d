"""Request bodies of SockJS URLs that do not arrive together with the head, or whose length is not known."""

import logging
import zlib
from typing import TYPE_CHECKING

from ..transports.endpoint import NO_CACHE, ORIGIN_REFUSED, PLAIN_TEXT, TOO_LARGE, TRY_AGAIN, retry_after
from ..transports.exchange import Headers
from ..wire.budget import BudgetShare
from ..wire.chunked import ChunkedDecoder
from ..wire.http_parser import BadRequest, RequestHead

if TYPE_CHECKING:
    from .connection import HTTPConnection
    from .exchange import NativeExchange

logger = logging.getLogger(__name__)

#: Maximum bytes that one call of the decompressor returns.
_PIECE_SIZE = 64 * 1024


class BodyReader:
    """Collects a request body within the limits, and rejects the request as soon as one is exceeded.

    Args:
        connection: The connection.
        exchange: The request, which is passed to its endpoint when the body is complete.
        head: The head of the request.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_decoder",
        "_exchange",
        "_inflater",
        "_left",
        "_limit",
        "_limit_name",
        "_share",
    )

    def __init__(self, connection: "HTTPConnection", exchange: "NativeExchange", head: RequestHead) -> None:
        self._connection = connection
        self._exchange = exchange
        self._body = bytearray()
        self._left = head.content_length
        self._decoder = ChunkedDecoder() if head.is_chunked else None
        self._inflater = zlib.decompressobj(16 + zlib.MAX_WBITS) if connection.server.may_decompress(head) else None
        self._limit, self._limit_name = exchange.endpoint.body_limit(head.method)
        self._share = BudgetShare(exchange.endpoint.server.body_budget)

    def start(self, size: int) -> None:
        """Check the head of the request, and ask for the body if the client waits for that.

        Args:
            size: Bytes of the body, as far as they are known.
        """
        exchange = self._exchange
        endpoint = exchange.endpoint
        if not endpoint.is_origin_allowed(exchange):
            endpoint.server.stats.rejected["allowed_origins"] += 1
            self._reject(403, [PLAIN_TEXT], ORIGIN_REFUSED)
        elif self._fits(size):
            self._connection.limit_body_time()
            if exchange.expects_continue:
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def data_received(self, data: bytes) -> bytes:
        """Process the next bytes of the body; return those that belong to the next request."""
        if self._decoder is None:
            piece, rest = data[: self._left], data[self._left :]
            self._left -= len(piece)
            finished = not self._left
        else:
            try:
                piece = self._decoder.feed(data)
            except BadRequest as error:
                self._reject_with(error.status, error.reason.encode(), error.limit)
                return b""
            # Compressed data may decompress to nothing, so its own size counts, too.
            if not self._fits(self._decoder.size):
                return b""
            rest, finished = self._decoder.unread, self._decoder.finished
        if not (self._append(piece) if self._inflater is None else self._inflate(piece)):
            return b""
        if finished:
            if self._inflater is not None and not self._inflater.eof:
                self._reject_with(400, b"Broken gzip encoding.", "")
                return b""
            self._exchange.set_body(self._body, self._share)
            return self._connection.body_finished(self._exchange, rest)
        return b""

    def _append(self, data: bytes) -> bool:
        if not self._fits(len(self._body) + len(data)):
            return False
        self._body += data
        self._share.resize(len(self._body))
        return True

    def _inflate(self, data: bytes) -> bool:
        assert self._inflater is not None
        while data:
            try:
                if self._inflater.eof:
                    raise zlib.error
                inflated = self._inflater.decompress(data, _PIECE_SIZE)
            except zlib.error:
                self._reject_with(400, b"Broken gzip encoding.", "")
                return False
            data = self._inflater.unconsumed_tail or self._inflater.unused_data
            if not self._append(inflated):
                return False
        return True

    def _fits(self, size: int) -> bool:
        """Reject the request if a body of ``size`` bytes is not allowed, and return whether it is."""
        if size > self._limit:
            self._reject_with(413, TOO_LARGE, self._limit_name)
        elif not self._share.fits(size):
            self._reject_with(503, TRY_AGAIN, "max_buffered_body_bytes")
        else:
            return True
        return False

    def _reject_with(self, status: int, text: bytes, reason: str) -> None:
        exchange = self._exchange
        endpoint = exchange.endpoint
        fields = exchange.rejection_fields(PLAIN_TEXT, NO_CACHE)
        if reason:
            endpoint.server.stats.rejected[reason] += 1
        if status == 503:
            fields.append(retry_after())
            message = "%s is reached: long bodies get 503"
            endpoint.server.container.log.write(logger, logging.WARNING, reason, message, reason)
        self._reject(status, fields, text)

    def _reject(self, status: int, fields: Headers, text: bytes) -> None:
        self._share.resize(0)
        self._body = bytearray()
        self._exchange.reject(status, fields, text)

    def on_disconnect(self) -> None:
        """Free the memory of the body, because the client has disconnected."""
        self._share.resize(0)
        self._body = bytearray()
