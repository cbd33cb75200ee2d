"""Request bodies of SockJS URLs that do not arrive together with the head, or whose length is not known."""

import asyncio
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ..exceptions import BadRequest
from ..transports.endpoint import NO_CACHE, ORIGIN_REFUSED, PLAIN_TEXT, retry_after
from ..transports.limited_body import LimitedBody
from ..wire.chunked import ChunkedDecoder
from ..wire.http_parser import RequestHead

if TYPE_CHECKING:
    from .connection import HTTPConnection
    from .exchange import NativeExchange

logger = logging.getLogger(__name__)

#: Bytes of a body after which the event loop runs other callbacks. Few compressed bytes may become many.
_WORK_PER_TURN: Final = 256 * 1024


class BodyReader:
    """Collects a request body within the limits, and rejects the request as soon as one is exceeded.

    Args:
        connection: The connection.
        exchange: The request, which is passed to its endpoint when the body is complete.
        head: The head of the request.
    """

    __slots__ = ("_body", "_connection", "_decoder", "_exchange", "_finished", "_left", "_rest", "_steps")

    def __init__(self, connection: "HTTPConnection", exchange: "NativeExchange", head: RequestHead) -> None:
        self._connection = connection
        self._exchange = exchange
        self._left = head.content_length
        self._decoder = ChunkedDecoder() if head.is_chunked else None
        self._body = LimitedBody(exchange.endpoint, head.method, is_compressed=connection.server.may_decompress(head))
        # The rest of the work for the last read, if it is done in a later iteration of the event loop; whether the body
        # ends with that read, and the data behind the body.
        self._steps: Iterator[int] | None = None
        self._finished = False
        self._rest = b""

    def start(self, size: int) -> None:
        """Check the head of the request, and ask for the body if the client waits for that.

        Args:
            size: Bytes of the body, as far as they are known.
        """
        exchange = self._exchange
        try:
            if not exchange.endpoint.is_origin_allowed(exchange):
                exchange.endpoint.log_rejected_origin(exchange)
                raise BadRequest(403, ORIGIN_REFUSED.decode(), "allowed_origins")
            self._body.check_size(size)
        except BadRequest as error:
            self._reject(error)
        else:
            self._connection.limit_body_time()
            if exchange.expects_continue:
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def data_received(self, data: bytes) -> bytes:
        """Process the next bytes of the body; return those that belong to the next request."""
        if self._steps is not None:
            self._rest += data
            return b""
        try:
            if self._decoder is None:
                piece, rest = data[: self._left], data[self._left :]
                self._left -= len(piece)
                self._finished = not self._left
            else:
                piece = self._decoder.feed(data)
                # Compressed data may decompress to nothing, so its own size counts, too.
                self._body.check_size(self._decoder.size)
                rest, self._finished = bytes(self._decoder.unread), self._decoder.finished
        except BadRequest as error:
            self._reject(error)
        else:
            self._rest = rest
            return self._collect(self._body.add(piece))
        return b""

    def _collect(self, steps: Iterator[int]) -> bytes:
        """Add a piece to the body, in several iterations of the event loop if it is much work.

        Returns:
            Data that belongs to the next request.
        """
        work = 0
        try:
            for size in steps:
                work += size
                if work >= _WORK_PER_TURN:
                    self._steps = steps
                    self._connection.pause_reading()
                    asyncio.get_running_loop().call_soon(self._continue)
                    return b""
            rest, self._rest = self._rest, b""
            if not self._finished:
                # Data that has arrived in the meantime.
                return self.data_received(rest) if rest else b""
            self._body.finish()
        except BadRequest as error:
            self._reject(error)
            return b""
        self._exchange.set_body(self._body.data, self._body.share)
        return self._connection.body_finished(self._exchange, rest)

    def _continue(self) -> None:
        steps, self._steps = self._steps, None
        # It is None if the client has disconnected.
        if steps is not None:
            self._connection.resume_reading()
            self._collect(steps)
            self._connection.limit_pipeline()

    def _reject(self, error: BadRequest) -> None:
        exchange = self._exchange
        endpoint = exchange.endpoint
        fields = [PLAIN_TEXT] if error.status == 403 else exchange.rejection_fields(PLAIN_TEXT, NO_CACHE)
        if error.limit:
            endpoint.server.stats.rejected[error.limit] += 1
        if error.status == 503:
            fields.append(retry_after())
            message = "%s is reached: long bodies get 503"
            endpoint.server.container.log.write(logger, logging.WARNING, error.limit, message, error.limit)
        self.on_disconnect()
        exchange.reject(error.status, fields, error.reason.encode())

    def on_disconnect(self) -> None:
        """Free the memory of the body, because the client has disconnected."""
        self._body.release()
        self._steps = None
