"""Requests are forwarded to the owners of their sessions, and the owners' responses to the clients.

A response is sent to the client either as a whole or as a stream that slows down if the client is slow. If the client
disconnects, the owner sees a closed connection.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from ..session.states import RouterState
from ..transports.exchange import PendingResponse
from ..wire.connection import Connection
from ..wire.ports import Container
from .ownership import Owner
from .signing import RELAY_HEADER, STALE, RelayedClient
from .upstream import Response, Stream, Upstream

if TYPE_CHECKING:
    from ..transports.endpoint import SessionEndpoint
    from ..transports.exchange import Exchange
    from .node import Node

logger = logging.getLogger(__name__)

# Fields of requests that are not forwarded: hop-by-hop fields (RFC 9110, section 7.6.1), Expect, and those that the
# relay sets itself.
_UNFORWARDED_HEADERS: Final = frozenset(
    {
        *("connection", "content-length", "expect", "keep-alive", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade", RELAY_HEADER.lower()),
    }
)

# Fields of requests that the response of an existing session depends on, apart from Content-Type.
_FORWARDED_HEADERS: Final = (
    *("Host", "Origin", "Sec-WebSocket-Origin", "Sec-Fetch-Site", "Cookie"),
    *("Access-Control-Request-Headers", "Content-Encoding"),
)


@dataclasses.dataclass(slots=True, eq=False)
class RelayedRequest:
    """One request for the session ``key``, until its client has the whole response.

    Attributes:
        is_streaming: Whether the client's connection was taken over, so that the response ends with the connection.
        response: The future of the owner's response, if :meth:`Forwarder.send_now` has sent the request.
    """

    key: str
    owner: Owner
    endpoint: "SessionEndpoint"
    exchange: "Exchange"
    body: bytes | bytearray
    is_streaming: bool = False
    response: "asyncio.Future[Response | Stream] | None" = None
    _is_done: bool = False
    _done: "asyncio.Future[None] | None" = None

    @property
    def done(self) -> "asyncio.Future[None]":
        """A future that completes when the client has the response or has disconnected. Most requests need none."""
        if self._done is None:
            self._done = asyncio.get_running_loop().create_future()
            if self._is_done:
                self._done.set_result(None)
        return self._done

    def release_exchange(self) -> None:
        """Free the memory of a request that was served, or whose connection was taken over for a stream."""
        # A stream may last for hours.
        del self.exchange, self.body
        if not self.is_streaming:
            self.stream_closed()

    def stream_closed(self) -> None:
        """Called when a connection that was taken over is closed."""
        self._is_done = True
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


class Forwarder:
    """Forwards the requests of one router on a node.

    Attributes:
        requests: The requests whose clients do not have the whole response yet.
    """

    def __init__(self, router: Any, node: "Node") -> None:
        self._container = router.container
        self._node = node
        self.requests: set[RelayedRequest] = set()
        self._read_timeout = router.settings.disconnect_delay
        # jsessionid may be the application's function, which may read any header field.
        self._forward_all_headers = callable(router.settings.jsessionid)
        # The last response of each session, while its client has not received all of it.
        self._unfinished: dict[str, PendingResponse] = {}

    async def send(self, request: RelayedRequest) -> Response | Stream | None:
        """Send a request to the owner of its session, unless the client has disconnected or the router was closed.

        Raises:
            OSError: The connection to the owner failed.
            NodeUnresponsive: The owner does not respond.
            NotANode: Another program answers at the owner's address.
            UpstreamDisconnected: The connection was closed before the response; the owner may have processed the
                request.
        """
        sent, request.response = request.response, None
        response = await (self._send_once(request) if sent is None else sent)
        if _rejection(response) == STALE and not request.exchange.responded:
            # The owner was blocked until the signature had expired, and did not process the request. Sign it again.
            response = await self._send_once(request)
        return response

    def send_now(self, request: RelayedRequest, fallback: Callable[[RelayedRequest], None]) -> bool:
        """Send a request without a task, if there is an idle connection to the owner of its session.

        Args:
            request: The request.
            fallback: Called unless the owner sends an ordinary response, which is passed on to the client. It can
                call :meth:`send`, which then returns the owner's response, or raises an exception.

        Returns:
            Whether the request was sent.
        """
        node = self._node
        upstream = None if node.health.has_failed(request.owner) else node.upstreams.take_idle(request.owner.address)
        if upstream is None:
            return False

        def finished(response: "asyncio.Future[Response | Stream]") -> None:
            result = response.result() if response.exception() is None else None
            if isinstance(result, Response) and result.status != 421 and _rejection(result) is None:
                if not request.exchange.responded:
                    node.stats["relayed"] += 1
                    try:
                        self._pass_on(request, result)
                    except Exception as error:
                        request.exchange.fail(error)
                self.requests.discard(request)
                request.release_exchange()
            else:
                request.response = response
                request.done.add_done_callback(lambda done: self.requests.discard(request))
                fallback(request)

        self._send_over(upstream, request).add_done_callback(finished)
        return True

    async def _send_once(self, request: RelayedRequest) -> Response | Stream | None:
        self._node.health.check(request.owner)
        upstream = await self._node.upstreams.connect(request.owner.address)
        # The handoff would miss the client of a request that is sent after the router has closed.
        client_left = request.endpoint.opens_sessions and request.exchange.responded
        if client_left or self._container.state is RouterState.CLOSED:
            self._node.upstreams.put_back(upstream)
            return None
        request.done.add_done_callback(lambda done: self.requests.discard(request))
        return await self._send_over(upstream, request)

    def _send_over(self, upstream: Upstream, request: RelayedRequest) -> "asyncio.Future[Response | Stream]":
        """Send a request over a connection, and return the future of the response."""
        try:
            data = self._encode(request)
        except BaseException:
            self._node.upstreams.put_back(upstream)
            raise
        self.requests.add(request)
        response = upstream.send_request(data)
        if request.endpoint.opens_sessions:
            # This closes the connection to the owner, which thereby notices that the client has disconnected.
            request.exchange.notify_on_disconnect(partial(upstream.cancel_request, response))
        watched = self._node.health.watch(request.owner, upstream, response)

        def stop_watching(response: "asyncio.Future[Response | Stream]") -> None:
            if not response.cancelled() and response.exception() is None and isinstance(response.result(), Stream):
                # Until the stream ends.
                request.done.add_done_callback(lambda done: watched.pop(response, None))
            else:
                watched.pop(response, None)

        response.add_done_callback(stop_watching)
        return response

    def _encode(self, request: RelayedRequest) -> bytes:
        exchange, body = request.exchange, request.body
        method, uri = exchange.method, exchange.uri
        if self._forward_all_headers or (
            request.endpoint.opens_sessions and self._node.ownership.opens_relayed_sessions
        ):
            lines = [
                f"{name}: {value}\r\n" for name, value in exchange.fields() if name.lower() not in _UNFORWARDED_HEADERS
            ]
        else:
            lines = [f"{name}: {value}\r\n" for name in _FORWARDED_HEADERS if (value := exchange.header(name))]
            if content_type := exchange.content_type():
                lines.append(f"Content-Type: {content_type}\r\n")
        client = RelayedClient(exchange.remote_ip, exchange.remote_port, exchange.secure)
        signature = self._node.signer.sign(request.owner.node, method, uri, body, client)
        lines += [f"{RELAY_HEADER}: {signature}\r\n", f"Content-Length: {len(body)}\r\n"]
        # The version tells the owner whether the client supports chunked responses.
        version = "1.1" if exchange.is_http11 else "1.0"
        return f"{method} {uri} HTTP/{version}\r\n{''.join(lines)}\r\n".encode("latin-1") + body

    async def respond(self, request: RelayedRequest, response: Response | Stream) -> None:
        """Send the owner's response to the client.

        Before that, ``exchange.responded`` means that the client has disconnected.
        """
        endpoint, exchange = request.endpoint, request.exchange
        if exchange.responded:
            if isinstance(response, Stream):
                response.upstream.abort()
            return
        self._node.stats["relayed"] += 1
        if isinstance(response, Stream):
            try:
                taking_over = exchange.take_over(response.status, Pipe(self._container, response, request))
                if taking_over is not None:
                    await taking_over
            finally:
                # If the client disconnected during the takeover, the pipe was never attached.
                response.upstream.abort_unless_piped()
        elif reason := _rejection(response):
            message = (
                "Peer node rejected a relayed request as %s. Check that all nodes share the same secret and that their "
                "clocks are synchronized."
            )
            self._container.log.write(logger, logging.ERROR, "relay", message, reason)
            endpoint.respond_unavailable(exchange, "relay")
        else:
            self._pass_on(request, response)

    def _pass_on(self, request: RelayedRequest, response: Response) -> None:
        exchange = request.exchange
        exchange.respond(response.status, list(response.fields), response.body)
        if request.endpoint.opens_sessions and exchange.pending is not None:
            self._watch_unfinished(request.key, exchange.pending)

    def abort_unfinished(self, key: str) -> bool:
        """If a client has not received all of its session's last response, abort the response, and return True.

        A new request means that the client has given up the last response. Its messages are lost. The owner does not
        know this, because it has sent them to this node.
        """
        response = self._unfinished.pop(key, None)
        if response is None or not response.unsent:
            return False
        response.abort()
        return True

    def _watch_unfinished(self, key: str, response: PendingResponse) -> None:
        deadline = _ReadDeadline(self._container, response, self._read_timeout)

        def forget(done: Any) -> None:
            self._container.cancel(deadline)
            if self._unfinished.get(key) is response:
                del self._unfinished[key]

        self._unfinished[key] = response
        response.add_done_callback(forget)


class Pipe(Connection):
    """A client's connection that forwards the bytes of the owner's stream."""

    __slots__ = ("_request", "_upstream")

    def __init__(self, container: Container, stream: Stream, request: RelayedRequest) -> None:
        super().__init__(container, stream.head)
        self._upstream = stream.upstream
        self._request = request

    def takeover_started(self, release_slot: Callable[[], None] | None = None) -> None:
        """Called when the takeover starts. The container does not count it, or close() would wait for its end."""
        self._release_slot = release_slot
        self._request.is_streaming = True

    def _release(self) -> None:
        if self._release_slot is not None:
            self._release_slot()
        self._request.stream_closed()

    def on_connect(self) -> None:
        """Start forwarding the stream."""
        self._upstream.attach_pipe(self)

    def on_disconnect(self) -> None:
        """Close the connection to the owner, which thereby notices that the client has disconnected."""
        self._upstream.detach_pipe()

    def pause_writing(self) -> None:
        """Stop reading from the owner while the client is slow."""
        self._upstream.pause_reading()

    def resume_writing(self) -> None:
        """Continue reading from the owner."""
        self._upstream.resume_reading()


class _ReadDeadline:
    """The deadline by which a client must have read more of a relayed response.

    The session's owner does not check this: for the owner, this node is the client, and has read everything.
    """

    __slots__ = ("_container", "_response", "_seconds", "_unsent", "bucket", "due")

    def __init__(self, container: Container, response: PendingResponse, seconds: float) -> None:
        self._container = container
        self._response = response
        self._seconds = seconds
        self._unsent = response.unsent
        self.bucket: int | None = None
        self.due = container.now() + seconds
        container.schedule(self)

    def check(self, now: float) -> None:
        """Close the connection if the client has read nothing since the last check."""
        before, self._unsent = self._unsent, self._response.unsent
        if self._unsent < before:
            self.due = now + self._seconds
        elif not self._container.postpone(self, now):
            self.due = inf
            self._response.abort()


def _rejection(response: Response | Stream | None) -> str | None:
    """Return the reason why another node rejected a request, or None if it did not."""
    if isinstance(response, Response):
        for name, value in response.fields:
            if name == RELAY_HEADER:
                return value
    return None
