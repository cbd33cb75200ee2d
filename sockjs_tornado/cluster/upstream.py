"""The relay's HTTP client: requests to other nodes over pooled connections.

It implements no more than the relay needs. It forwards streams as they arrive, stops reading when their client is slow,
and cancels a request when its client disconnects.
"""

import asyncio
import errno
import ssl
from functools import partial
from socket import gaierror
from time import monotonic
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from ..session.grace import timeout
from ..wire.connection import READ_SIZE, Connection
from ..wire.sockets import EXHAUSTED_ERRNOS, peer_disconnected, set_user_timeout
from ..wire.tls import TLSTransport
from .node_tls import NodeTLS
from .response_head import MAX_HEAD_SIZE, NotANode, ResponseHead, parse_response_head

#: Seconds to wait for a connection to a node.
CONNECT_TIMEOUT: Final = 2.0

#: Seconds after which an idle connection is closed. The listener's own timeout is much longer, so that it does not
#: close a connection that is about to be used.
IDLE_TIMEOUT: Final = 30.0

#: Seconds in which a node must acknowledge sent data (TCP_USER_TIMEOUT).
USER_TIMEOUT: Final = 30.0

#: The largest number of idle connections to one node.
MAX_IDLE: Final = 64


class UpstreamDisconnected(Exception):
    """The connection was closed before the response; the node may have processed the request."""


def is_refused(error: OSError) -> bool:
    """Return whether an error of connect() proves that the node's process has ended: nothing listens at its address."""
    return error.errno in (errno.ECONNREFUSED, errno.ENOENT)


def is_local(error: OSError) -> bool:
    """Return whether an error of connect() means that this node lacks resources; it says nothing about the other."""
    return error.errno in EXHAUSTED_ERRNOS | {errno.EADDRNOTAVAIL} or isinstance(error, gaierror)


class Response(NamedTuple):
    """A complete response, without the header fields that all responses have."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes


class Stream(NamedTuple):
    """A response that ends when its connection is closed.

    Attributes:
        status: The status code.
        head: The bytes received so far: the head, and the beginning of the body.
        upstream: The connection, paused until :meth:`Upstream.attach_pipe`.
    """

    status: int
    head: bytes
    upstream: "Upstream"


class Upstream(asyncio.BufferedProtocol):
    """A connection to another node, with one request at a time.

    Its state follows from three fields. Idle: all are None. Waiting for a response: ``_response`` is set, and ``_head``
    as soon as the head of a complete response has arrived. Streaming: ``_pipe`` is set, from :meth:`attach_pipe` on;
    between the end of the head and that call the connection is paused.
    """

    def __init__(self, pool: "Upstreams", address: str) -> None:
        self._pool = pool
        self.address = address
        self._transport: asyncio.Transport | None = None
        self._response: asyncio.Future[Response | Stream] | None = None
        self._received = bytearray()
        self._head: ResponseHead | None = None
        self._pipe: Connection | None = None
        self.idle_since = 0.0
        # With TLS, the future of the handshake.
        self.handshake: asyncio.Future[None] | None = None

    def send_request(self, request: bytes) -> "asyncio.Future[Response | Stream]":
        """Send a request; return the future of the response, which may raise UpstreamDisconnected or NotANode."""
        response = self._response = asyncio.get_running_loop().create_future()
        if self._transport is None or self._transport.is_closing():
            self._complete(None)
        else:
            self._transport.write(request)
        return response

    def cancel_request(self, response: "asyncio.Future[Response | Stream]") -> None:
        """Close the connection if the request with this future is still pending: its client has disconnected."""
        if self._response is response:
            self.abort()
            self._complete(None)

    def fail(self, error: Exception) -> None:
        """Close the connection because the node does not respond; a pending request raises ``error``."""
        response, self._response = self._response, None
        if response is not None and not response.done():
            response.set_exception(error)
        self.abort()

    def is_disconnected(self) -> bool:
        """Return whether the peer has closed the connection, even if the event loop has not reported it yet."""
        transport = self._transport
        return transport is None or transport.is_closing() or peer_disconnected(transport.get_extra_info("socket"))

    def set_user_timeout(self, seconds: float) -> None:
        """Close the connection if the node does not acknowledge sent data in time."""
        if self._transport is not None and not self._transport.is_closing():
            set_user_timeout(self._transport.get_extra_info("socket"), seconds)

    def handshake_ended(self, error: Exception | None = None) -> None:
        """Called when the TLS handshake is complete, or has failed with an error, and when the connection is closed."""
        if self.handshake is not None and not self.handshake.done():
            if error is None:
                self.handshake.set_result(None)
            else:
                self.handshake.set_exception(error)

    def abort(self) -> None:
        """Close the connection immediately."""
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        """Pause reading."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort_unless_piped(self) -> None:
        """Close the connection of a stream that no client receives."""
        if self._pipe is None:
            self.abort()

    def attach_pipe(self, pipe: Connection) -> None:
        """Forward everything that arrives from now on to ``pipe``."""
        self._pipe = pipe
        if self._transport is None:
            pipe.close_transport()
        else:
            self.resume_reading()

    def detach_pipe(self) -> None:
        """Close the connection because the client has disconnected."""
        self._pipe = None
        self.abort()

    # Callbacks of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._pool.all.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._pool.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._pool.heard_from.add(self.address)
        data = self._pool.buffer[:nbytes]
        if self._pipe is not None:
            self._pipe.write(data.tobytes())
        elif self._response is None:
            # A response without a request.
            self.abort()
        else:
            seen = len(self._received)
            self._received += data
            try:
                self._parse_response(max(seen - 3, 0))
            except ValueError:
                self.abort()
                self._complete(NotANode(self.address))

    def _parse_response(self, start: int) -> None:
        received = self._received
        if self._head is None:
            end = received.find(b"\r\n\r\n", start)
            if end < 0:
                if len(received) > MAX_HEAD_SIZE:
                    raise ValueError("the head is too long")
                return
            head = parse_response_head(bytes(received[:end]))
            if head.length is None:
                # Read no more before the client's connection can take it, and can slow this one down.
                self.pause_reading()
                self._received = bytearray()
                self._complete(Stream(head.status, bytes(received), self))
                return
            del received[: end + 4]
            self._head = head
        status, fields, length, keep_alive = self._head
        assert length is not None
        if len(received) >= length:
            self._received, self._head = bytearray(), None
            self._complete(Response(status, fields, bytes(received[:length])))
            if keep_alive and len(received) == length:
                self._pool.put_back(self)
            else:
                self.abort()

    def _complete(self, result: Response | Stream | NotANode | ssl.SSLError | None) -> None:
        """Complete the pending request, if any. None and an error mean that there is no response."""
        response, self._response = self._response, None
        if response is None or response.done():
            return
        if result is None:
            response.set_exception(UpstreamDisconnected())
        elif isinstance(result, NotANode | ssl.SSLError):
            response.set_exception(result)
        else:
            response.set_result(result)

    def connection_lost(self, exc: Exception | None) -> None:
        transport, self._transport = self._transport, None
        self._pool.discard(self)
        # With TLS 1.3, a server rejects the client's certificate after the client's side of the handshake, before it
        # processes a request.
        self._complete(transport.error if isinstance(transport, TLSTransport) else None)
        self.handshake_ended(ConnectionResetError("the connection was closed during the TLS handshake"))
        if self._pipe is not None:
            self._pipe.close_transport()


class Upstreams:
    """The pool of this node's connections to all other nodes.

    Args:
        tls: The options for nodes with an https address; by default, those of the system.

    Attributes:
        all: The open connections.
        buffer: The memory that all connections read into, so its content is processed before the next read.
        heard_from: The addresses of the nodes from which data has arrived since
            :class:`~sockjs_tornado.cluster.health.HealthMonitor` removed them.
        closed: Whether new connections are refused.
    """

    def __init__(self, tls: NodeTLS | None = None) -> None:
        self._tls = None if tls is None else tls.client
        # For encrypted data.
        self._tls_buffer = bytearray(READ_SIZE)
        self._idle: dict[str, list[Upstream]] = {}
        self.all: set[Upstream] = set()
        self.buffer = memoryview(bytearray(READ_SIZE))
        self.heard_from: set[str] = set()
        self.closed = False

    async def connect(self, address: str) -> Upstream:
        """Return an idle connection to a node, or a new one.

        Raises:
            OSError: The connection failed, or took longer than :data:`CONNECT_TIMEOUT` seconds. If the node's
                certificate is not accepted, it is an ssl.SSLError.
            UpstreamDisconnected: This node is stopping.
        """
        return self.take_idle(address) or await self.open(address)

    def take_idle(self, address: str) -> Upstream | None:
        """Return an idle connection to a node, or None if there is none."""
        while idle := self._idle.get(address):
            upstream = idle.pop()
            # Check for a close that the event loop has not reported, so that no request is lost on a dead connection.
            if upstream.idle_since >= _oldest() and not upstream.is_disconnected():
                return upstream
            upstream.abort()
        return None

    async def open(self, address: str) -> Upstream:
        """Return a new connection to a node; the exceptions are those of :meth:`connect`."""
        loop = asyncio.get_running_loop()
        make = partial(Upstream, self, address)
        async with timeout(CONNECT_TIMEOUT):
            if address.startswith("/"):
                _, upstream = await loop.create_unix_connection(make, address)
            else:
                parts = urlsplit(address)
                host, port = parts.hostname or "", parts.port or 80
                if parts.scheme == "https":
                    upstream = await self._open_tls(make(), host, port)
                else:
                    _, upstream = await loop.create_connection(make, host, port)
                upstream.set_user_timeout(USER_TIMEOUT)
        if self.closed:
            upstream.abort()
            raise UpstreamDisconnected
        return upstream

    async def _open_tls(self, upstream: Upstream, host: str, port: int) -> Upstream:
        self._tls = self._tls or ssl.create_default_context()
        loop = asyncio.get_running_loop()
        handshake = upstream.handshake = loop.create_future()
        # Not the transport of asyncio, which drops data that it has not decrypted when a stream ends.
        make = partial(
            TLSTransport,
            upstream,
            None,
            self._tls,
            self._tls_buffer,
            upstream.handshake_ended,
            upstream.handshake_ended,
            host,
        )
        await loop.create_connection(make, host, port)
        try:
            await handshake
        except BaseException:
            upstream.abort()
            raise
        return upstream

    def put_back(self, upstream: Upstream) -> None:
        """Return a connection to the pool after its request, and close those that have been idle for too long."""
        idle = self._idle.setdefault(upstream.address, [])
        oldest = _oldest()
        # The most recently used connection is used first, so the oldest are at the front.
        while idle and idle[0].idle_since < oldest:
            idle.pop(0).abort()
        if len(idle) >= MAX_IDLE:
            upstream.abort()
        else:
            upstream.idle_since = monotonic()
            idle.append(upstream)

    def discard(self, upstream: Upstream) -> None:
        """Remove a closed connection."""
        self.all.discard(upstream)
        idle = self._idle.get(upstream.address, [])
        if upstream in idle:
            idle.remove(upstream)
        if not idle:
            self._idle.pop(upstream.address, None)

    def close(self) -> None:
        """Close all connections, and refuse new ones."""
        self.closed = True
        for upstream in list(self.all):
            upstream.abort()


def _oldest() -> float:
    """Return the time after which a connection must have been used to be kept."""
    return monotonic() - IDLE_TIMEOUT
