"""Limits for request bodies that Tornado must not collect: long, chunked and compressed bodies.

The URL specs look at the head of each request. Most requests go to
:class:`~sockjs_tornado.http.handlers.SockJSHandler`, which starts when the whole body is there. The others go to
:class:`StreamedBodyHandler`, which reads the body piece by piece and rejects the request as soon as a limit
is exceeded. It cannot replace the other one, because it serves the request in a task: Tornado calls it before the body
has arrived.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from typing import Any, Final

from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.routing import PathMatches, URLSpec
from tornado.web import RequestHandler, stream_request_body

from ..exceptions import BadRequest
from ..session.grace import timeout
from ..session.states import RouterState
from ..transports.endpoint import NO_CACHE, ORIGIN_REFUSED, PLAIN_TEXT, Endpoint, retry_after
from ..transports.limited_body import LimitedBody
from ..wire.budget import UNCOUNTED_BYTES
from ..wire.chunked import ChunkedDecoder
from ..wire.connection import Connection
from ..wire.responses import response_head, write_and_close
from ..wire.tornado_internals import body_timeout, decompresses_body
from .handlers import SockJSHandler, header_value, remove_header

#: Maximum bytes per read.
READ_SIZE: Final = 64 * 1024

#: Bytes to process before yielding to the event loop, and the cost of a chunk in the same unit.
WORK_PER_TURN: Final = 256 * 1024
CHUNK_COST: Final = 4 * 1024

_LENGTH = re.compile(r"([0-9]+)(?:,[ \t]*\1)*")

logger = logging.getLogger(__name__)


def url_specs(endpoints: Sequence[tuple[str, Endpoint]]) -> list[URLSpec]:
    """Return the URL specs of endpoints, given with the regular expressions of their paths."""
    specs: list[URLSpec] = [_EndpointURL(path, SockJSHandler, endpoint) for path, endpoint in endpoints]
    for spec, (_, endpoint) in zip(specs, endpoints, strict=True):
        spec.matcher = _BodyLimitMatcher(spec.regex, endpoint)
    # These come last: the matchers above skip requests with a body that must be streamed.
    specs += [_EndpointURL(path, StreamedBodyHandler, endpoint) for path, endpoint in endpoints]
    return specs


class _EndpointURL(URLSpec, Sequence[Any]):
    """The URL spec of an endpoint, which is also a sequence, as the tuples of sockjs-tornado 1.0 were.

    An application may build other URL specs from its items: the pattern, the handler and its arguments. The handler is
    the one that accepts all bodies, since there is no matcher then.
    """

    def __init__(self, path: str, handler: type[SockJSHandler], endpoint: Endpoint) -> None:
        arguments = {"endpoint": endpoint}
        super().__init__(path, handler, arguments)
        self._items = (path, StreamedBodyHandler, arguments)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)


class _BodyLimitMatcher(PathMatches):
    """Matches a path, unless the request has a body that must be streamed."""

    def __init__(self, pattern: re.Pattern[str], endpoint: Endpoint) -> None:
        super().__init__(pattern)
        self._endpoint = endpoint

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        found = super().match(request)
        if found is not None:
            headers = request.headers
            limit = self._endpoint.body_limit(request.method or "")[0]
            if hasattr(request.connection, "serve_endpoint"):
                # The native server reads the body, for the other handler.
                return None
            if headers.get_list("Transfer-Encoding"):
                return None
            length = header_value(headers, "Content-Length")
            if length and length != "0":
                # Tornado also accepts a list of identical lengths, which is not a decimal number.
                if not length.isdecimal() or len(length) > 18 or decompresses_body(request):
                    return None
                if int(length) > min(UNCOUNTED_BYTES, limit):
                    return None
        return found


class _RejectedResponse(Connection):
    """The response to a rejected request, whose body may still be arriving and is discarded."""

    def on_connect(self) -> None:
        self.shutdown_write()


@stream_request_body
class StreamedBodyHandler(SockJSHandler):
    """Reads a request body within the limits, before Tornado reads it.

    The body is read in ``prepare``, which then removes the header fields of the body, so that Tornado finds none. This
    makes it possible to take over the connection and reject the request at any point of the body, to count chunks
    (Tornado 6.6 joins small ones), and to free the body when the client disconnects.
    """

    def _start(self) -> None:
        endpoint = self.endpoint
        self._body = LimitedBody(endpoint, self.method, is_compressed=decompresses_body(self.request))
        self._work = 0
        # `prepare` rejects unsupported methods. Tornado would respond and close the connection while the client may
        # still send the body.
        self.SUPPORTED_METHODS = (self.method,)
        if not self._pass_on(StreamedBodyHandler):
            self._waiting = self._receive()

    async def _receive(self) -> None:
        """Read the body or reject the request."""
        try:
            async with timeout(body_timeout(self.request)):
                await self._read()
        except BadRequest as error:
            self.release_body()
            await self._reject(error)
        except (StreamClosedError, TimeoutError):
            self.release_body()
            self._stream.close()
            self.detach()

    async def _serve_read(self, *args: str, **kwargs: str) -> None:
        """Serve the request, whose body was read."""
        waiting = self._serve()
        if waiting is not None:
            await waiting

    head = get = post = delete = patch = put = options = _serve_read  # type: ignore[assignment]

    async def _reject(self, error: BadRequest) -> None:
        response = self._render_rejection(error)
        container = self.endpoint.server.container
        if container.state >= RouterState.CLOSING:
            # A closing router does not wait for rejected requests.
            self.set_status(error.status)
            write_and_close(self._detach_stream(), response)
        else:
            await self.take_over(error.status, _RejectedResponse(container, response))

    def _render_rejection(self, error: BadRequest) -> bytes:
        endpoint = self.endpoint
        if error.limit:
            endpoint.server.stats.rejected[error.limit] += 1
        if error.status == 503:
            message = "%s is reached: long bodies get 503"
            endpoint.server.container.log.write(logger, logging.WARNING, error.limit, message, error.limit)
            fields = self.rejection_fields(PLAIN_TEXT, NO_CACHE, retry_after())
        elif error.status == 403:
            fields = [PLAIN_TEXT]
        elif error.status == 405:
            fields = [endpoint.allow_header]
        else:
            fields = self.rejection_fields(PLAIN_TEXT, NO_CACHE)
        body = b"" if self.method == "HEAD" else error.reason.encode()
        fields += [("Content-Length", str(len(body))), ("Connection", "close")]
        return response_head(error.status, fields) + body

    async def _read(self) -> None:
        if not self.endpoint.is_origin_allowed(self):
            self.endpoint.log_rejected_origin(self)
            raise BadRequest(403, ORIGIN_REFUSED.decode(), "allowed_origins")
        if self.method not in RequestHandler.SUPPORTED_METHODS:
            raise BadRequest(405)
        length = self._declared_length()
        stream = self._stream
        # RFC 9110, section 10.1.1: ignore Expect in HTTP/1.0 requests.
        if self.is_http11 and self.header("Expect").lower() == "100-continue":
            stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if length is None:
            await self._read_chunks()
        else:
            await self._read_bytes(length)
        self._body.finish()
        for name in ("Content-Length", "Transfer-Encoding", "Expect"):
            remove_header(self.request.headers, name)

    def _declared_length(self) -> int | None:
        """Return the length of the body, or None if it is chunked. Reject a length that is invalid or too large."""
        encoding, length = self.header("Transfer-Encoding"), self.header("Content-Length")
        if encoding:
            # A chunked body with a Content-Length or in HTTP/1.0 may be request smuggling (RFC 9112, section 6.1).
            if length or not self.is_http11 or encoding.lower() != "chunked":
                raise BadRequest(400)
            self._body.check_size(0)
            return None
        headers = self.request.headers
        if not headers.get_list("Content-Length") and not headers.get_list("Transfer-Encoding"):
            # No body. Only URLs that an application has built from those of a router get here.
            return 0
        found = _LENGTH.fullmatch(length)
        if found is None:
            raise BadRequest(400)
        size = int(found[1]) if len(found[1]) <= 18 else 10**18
        self._body.check_size(size)
        return size

    async def _read_chunks(self) -> None:
        stream = self._stream
        decoder = ChunkedDecoder()
        while not decoder.finished:
            await self._decode(decoder, await stream.read_until(b"\r\n", max_bytes=64))
            while decoder.left:
                data = await stream.read_bytes(min(decoder.left, READ_SIZE), partial=True)
                await self._decode(decoder, data)
            # The end of the chunk, or of the body. Trailers are rejected.
            await self._decode(decoder, await stream.read_bytes(2))
            await self._yield_after_work(CHUNK_COST)

    async def _decode(self, decoder: ChunkedDecoder, data: bytes) -> None:
        try:
            piece = decoder.feed(data)
        except BadRequest as error:
            # Tornado does not say what is wrong with a malformed request either.
            error.reason = error.reason if error.limit else ""
            raise
        # Compressed data may decompress to nothing, so its own size counts, too.
        self._body.check_size(decoder.size)
        if piece:
            await self._append(piece)

    async def _read_bytes(self, length: int) -> None:
        """Read ``length`` bytes of the body."""
        while length:
            data = await self._stream.read_bytes(min(length, READ_SIZE), partial=True)
            length -= len(data)
            await self._append(data)

    async def _append(self, data: bytes) -> None:
        for size in self._body.add(data):
            await self._yield_after_work(size)

    async def _yield_after_work(self, size: int) -> None:
        """Yield to the event loop after some work. Reading data that has already arrived does not yield."""
        self._work += size
        if self._work >= WORK_PER_TURN:
            self._work = 0
            await asyncio.sleep(0)

    def body(self) -> bytearray:
        return self._body.data

    def release_body(self) -> None:
        self._body.release()

    def _release(self) -> None:
        self.release_body()
        super()._release()
