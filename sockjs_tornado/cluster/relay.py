"""The relay: requests for sessions of other nodes are sent to the owner, and its responses back to the client.

The owner of a session is looked up once and cached. The owner's response is sent to the client either as a whole or as
a stream that slows down if the client is slow. If the client disconnects, the owner sees a closed connection.
"""

import contextlib
import errno
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from socket import gaierror
from typing import Any, Final

from ..exceptions import ClusterUnavailable
from ..protocol import CloseCode
from ..session.states import RouterState
from ..transports.endpoint import SessionEndpoint
from ..transports.exchange import Exchange
from ..wire.connection import ConnectionManager
from ..wire.pending import PendingWrite
from ..wire.sockets import EXHAUSTED_ERRNOS
from .ownership import Location, Owner, Ownership
from .relay_requests import RelayedRequest, RelayedRequests
from .signing import RELAY_HEADER, STALE, RelayedClient, Signer
from .upstream import Pipe, Response, Stream, Upstream, UpstreamDisconnected, Upstreams

__all__ = ["SessionRelay"]

logger = logging.getLogger(__name__)

#: The size of the cache of owners, in sessions.
_MAX_CACHED_OWNERS: Final = 65536

# Fields of requests that are not forwarded: hop-by-hop fields (RFC 9110, section 7.6.1), Expect, and those that the
# relay sets itself.
_UNFORWARDED_HEADERS: Final = frozenset(
    {
        *("connection", "content-length", "expect", "keep-alive", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade", RELAY_HEADER.lower()),
    }
)

# The fields that a response for an existing session depends on, apart from Content-Type.
_FORWARDED_HEADERS: Final = (
    *("Host", "Origin", "Sec-WebSocket-Origin", "Sec-Fetch-Site", "Cookie"),
    *("Access-Control-Request-Headers", "Content-Encoding"),
)

# Errors of connect() that prove that the owner's process has ended: nothing listens at its address.
_REFUSED_ERRNOS: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT})

# Errors of connect() that mean that this node lacks resources; they say nothing about the owner.
_EXHAUSTED_ERRNOS: Final = EXHAUSTED_ERRNOS | {errno.EADDRNOTAVAIL}

# Fields that `response_head` sets (`_common_fields`), so a complete response must not repeat the owner's.
_REPLACED_HEADERS: Final = frozenset({"date", "x-content-type-options", "referrer-policy"})


class SessionRelay:
    """The relay of one router.

    Args:
        router: The router.
        ownership: The owners of sessions.
        upstreams: The connections to other nodes.
        signer: Signs requests.
        stats: The relay's counters.
        local_fallback: Whether to open new sessions here while their owner cannot be determined.
        rpc: Calls a function on another node; see :meth:`Node.rpc`.
    """

    def __init__(
        self,
        router: Any,
        ownership: Ownership,
        upstreams: Upstreams,
        signer: Signer,
        stats: Counter[str],
        local_fallback: bool,
        rpc: Callable[[Owner, str, bytes], Awaitable[bytes]],
    ) -> None:
        self._router = router
        self._prefix = f"{router.prefix}:"
        self._container = router.container
        self._ownership = ownership
        self._upstreams = upstreams
        self._signer = signer
        self._stats = stats
        self._local_fallback = local_fallback
        self._owner_cache: dict[str, Owner] = {}
        # The last relayed response of each session, while its client has not received all of it.
        self._unfinished: dict[str, PendingWrite] = {}
        self._requests = RelayedRequests(router.container, rpc)
        # A function for the cookie is the application's, and may read any header field.
        self._forward_all_headers = callable(router.settings.jsessionid)
        router.container.on_removed = self._session_removed

    def owns(self, session_id: str) -> bool:
        """Return whether this node owns the session, may open it, or remembers that it ended here."""
        return self._container.ended(session_id) is not None or self._ownership.owns(self._prefix + session_id)

    def serve(self, endpoint: SessionEndpoint, exchange: Exchange) -> Awaitable[None] | None:
        """Respond to a request for a session that this router does not have."""
        if endpoint.opens_sessions and exchange.is_disconnected():
            # The client is gone; do not open or claim a session.
            endpoint.respond_disconnected(exchange)
            return None
        if exchange.relayed:
            return self._serve_relayed(endpoint, exchange)
        return self._serve(endpoint, exchange)

    async def handoff_clients(self) -> None:
        """End the relayed responses of all clients, which then send their next request through another node."""
        await self._requests.handoff_clients()

    def recycle(self, key: str) -> None:
        """End the current response of a session at another node's request, if the session belongs to this router."""
        if key.startswith(self._prefix):
            session = self._container.get(key.removeprefix(self._prefix))
            if session is not None:
                session._recycle()

    async def _serve_relayed(self, endpoint: SessionEndpoint, exchange: Exchange) -> None:
        key = self._prefix + exchange.session_id
        # Redis may have replied to the other node's lookup before it replies to this node's claim.
        await self._ownership.wait_for_pending_claim(key)
        if exchange.responded:
            return
        if self.owns(exchange.session_id):
            await _await_if_needed(endpoint.handle(exchange))
        else:
            exchange.respond(421, [])

    async def _serve(self, endpoint: SessionEndpoint, exchange: Exchange) -> None:
        key = self._prefix + exchange.session_id
        # Take the body now: the exchange releases it if the client disconnects.
        body = exchange.body()
        if endpoint.opens_sessions and self._abort_unfinished(key):
            endpoint.respond_session_gone(exchange)
            return
        location: Owner | Location | None = self._owner_cache.get(key)
        for is_last_attempt in (False, True):
            try:
                location = location or await self._claim_or_locate(key, endpoint, exchange)
            except ClusterUnavailable:
                if not self._local_fallback or not endpoint.opens_sessions or self._container.restarting:
                    if not exchange.responded:
                        endpoint.respond_unavailable(exchange, "cluster")
                    return
                self._ownership.claim_later(key, partial(self._claim_lost, exchange.session_id))
                location = Location.HERE
            if location is Location.HERE:
                await self._serve_here(key, endpoint, exchange)
                return
            # If the client has disconnected, its messages are still delivered to the owner.
            if exchange.responded and (endpoint.opens_sessions or not isinstance(location, Owner)):
                return
            if location is Location.NOWHERE:
                await _await_if_needed(endpoint.serve_session(exchange, None))
                return
            if location is Location.LOST:
                endpoint.respond_session_gone(exchange)
                return
            if await self._relay(key, location, endpoint, exchange, body):
                return
            # That node does not have the session. If the owner came from the cache, look it up once more.
            self._owner_cache.pop(key, None)
            if is_last_attempt:
                # The node was restarted at the same address, or the session has just ended.
                await self._owner_lost(key, location, endpoint, exchange)
            location = None

    def _abort_unfinished(self, key: str) -> bool:
        """Abort the last relayed response if its client has not received all of it; return whether it was aborted.

        A new request means that the client has given up the last response. Its messages are lost, which the owner does
        not know: it has sent them to this node.
        """
        response = self._unfinished.pop(key, None)
        if response is None or not response.unsent:
            return False
        response.abort()
        return True

    def _watch_unfinished(self, key: str, response: PendingWrite) -> None:
        deadline = _ReadDeadline(self._container, response, self._router.settings.disconnect_delay)

        def forget(done: Any) -> None:
            self._container.cancel(deadline)
            if self._unfinished.get(key) is response:
                del self._unfinished[key]

        self._unfinished[key] = response
        response.add_done_callback(forget)

    async def _claim_or_locate(self, key: str, endpoint: SessionEndpoint, exchange: Exchange) -> Owner | Location:
        # If a limit is reached, look the session up but do not claim it.
        if not endpoint.opens_sessions or self._container.limit_reached(exchange.remote_ip) is not None:
            return await self._ownership.locate(key)
        return await self._ownership.claim(key, partial(self._claim_lost, exchange.session_id))

    async def _serve_here(self, key: str, endpoint: SessionEndpoint, exchange: Exchange) -> None:
        # The checks run again: the state may have changed while the claim was pending.
        try:
            response = None if exchange.responded else endpoint.handle(exchange)
        finally:
            if self._container.get(exchange.session_id) is None:
                # No session was opened: the client has disconnected, a limit is reached, or the application's
                # connection could not be created.
                self._ownership.release(key)
        await _await_if_needed(response)

    async def _relay(
        self,
        key: str,
        owner: Owner,
        endpoint: SessionEndpoint,
        exchange: Exchange,
        body: bytes | bytearray,
        *,
        is_retry: bool = False,
    ) -> bool:
        """Send the request to the owner, and its response to the client.

        Args:
            key: The session.
            owner: The session's owner.
            endpoint: The endpoint of the request.
            exchange: The request.
            body: The body of the request.
            is_retry: Whether the owner has rejected the request as stale before.

        Returns:
            False if that node does not own the session.
        """
        try:
            upstream = await self._upstreams.connect(owner.address)
        except OSError as error:
            await self._connect_failed(key, owner, endpoint, exchange, error)
            return True
        except UpstreamDisconnected:
            self._upstream_disconnected(key, endpoint, exchange)
            return True
        if (endpoint.opens_sessions and _client_gone(exchange)) or self._container.state is RouterState.CLOSED:
            self._upstreams.put_back(owner.address, upstream)
            if not _client_gone(exchange):
                # The router has closed meanwhile: the endpoint rejects the request. If it were relayed now, its client
                # would not be handed off.
                await _await_if_needed(endpoint.handle(exchange))
            return True
        request = self._requests.add(owner, key if endpoint.opens_sessions else None)
        try:
            return await self._send_request(upstream, request, key, endpoint, exchange, body, is_retry=is_retry)
        finally:
            request.response_sent()

    async def _send_request(
        self,
        upstream: Upstream,
        request: RelayedRequest,
        key: str,
        endpoint: SessionEndpoint,
        exchange: Exchange,
        body: bytes | bytearray,
        *,
        is_retry: bool,
    ) -> bool:
        owner = request.owner
        pending = upstream.send_request(self._build_request(owner, endpoint, exchange, body))
        if endpoint.opens_sessions:
            # This closes the connection to the owner, which thereby notices that the client has disconnected.
            exchange.notify_on_disconnect(partial(upstream.cancel_request, pending))
        try:
            response = await pending
        except UpstreamDisconnected:
            # The owner may have processed the request, so it is not repeated.
            self._upstream_disconnected(key, endpoint, exchange)
            return True
        if _client_gone(exchange):
            if isinstance(response, Stream):
                response.upstream.abort()
        elif response.status == 421:
            return False
        elif not is_retry and _rejection(response) == STALE:
            # The owner was blocked until the signature had expired, and did not process the request. Sign it again.
            return await self._relay(key, owner, endpoint, exchange, body, is_retry=True)
        else:
            self._stats["relayed"] += 1
            self._cache_owner(key, owner)
            await self._respond(response, request, endpoint, exchange)
            if endpoint.opens_sessions and exchange.pending is not None:
                self._watch_unfinished(key, exchange.pending)
        return True

    def _upstream_disconnected(self, key: str, endpoint: SessionEndpoint, exchange: Exchange) -> None:
        self._owner_cache.pop(key, None)
        if not _client_gone(exchange):
            endpoint.respond_session_gone(exchange)

    async def _connect_failed(
        self, key: str, owner: Owner, endpoint: SessionEndpoint, exchange: Exchange, error: OSError
    ) -> None:
        if error.errno in _EXHAUSTED_ERRNOS or isinstance(error, gaierror):
            message = "Cannot connect to other nodes: %s. Check this node's file descriptor limit and name resolution."
            self._container.log.write(logger, logging.WARNING, "relay", message, error.strerror)
            if not _client_gone(exchange):
                endpoint.respond_unavailable(exchange, "relay")
            return
        logger.info("Cannot connect to node %s: %s", owner.address, error)
        self._owner_cache.pop(key, None)
        if error.errno in _REFUSED_ERRNOS:
            await self._owner_lost(key, owner, endpoint, exchange)
        elif not _client_gone(exchange):
            # The owner may be alive and only unreachable from here, so there is no tombstone; if it is not, its claim
            # expires.
            endpoint.respond_session_gone(exchange)

    async def _respond(
        self, response: Response | Stream, request: RelayedRequest, endpoint: SessionEndpoint, exchange: Exchange
    ) -> None:
        if isinstance(response, Stream):
            try:
                await exchange.take_over(response.status, Pipe(request, response))
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
            fields = [(name, value) for name, value in response.fields if name.lower() not in _REPLACED_HEADERS]
            exchange.respond(response.status, fields, response.body)

    def _build_request(
        self, owner: Owner, endpoint: SessionEndpoint, exchange: Exchange, body: bytes | bytearray
    ) -> bytes:
        method, uri = exchange.method, exchange.uri
        client = RelayedClient(exchange.remote_ip, exchange.remote_port, exchange.secure)
        if self._forward_all_headers or (endpoint.opens_sessions and self._ownership.opens_relayed_sessions):
            lines = [
                f"{name}: {value}\r\n" for name, value in exchange.fields() if name.lower() not in _UNFORWARDED_HEADERS
            ]
        else:
            lines = [f"{name}: {value}\r\n" for name in _FORWARDED_HEADERS if (value := exchange.header(name))]
            if content_type := exchange.content_type():
                lines.append(f"Content-Type: {content_type}\r\n")
        signature = self._signer.sign(owner.node, method, uri, body, client)
        lines += [f"{RELAY_HEADER}: {signature}\r\n", f"Content-Length: {len(body)}\r\n"]
        # The version tells the owner whether the client supports chunked responses.
        version = "1.1" if exchange.is_http11 else "1.0"
        return f"{method} {uri} HTTP/{version}\r\n{''.join(lines)}\r\n".encode("latin-1") + body

    async def _owner_lost(self, key: str, owner: Owner, endpoint: SessionEndpoint, exchange: Exchange) -> None:
        if not _client_gone(exchange):
            endpoint.respond_session_gone(exchange)
        # Without Redis there is no tombstone; the claim expires.
        with contextlib.suppress(ClusterUnavailable):
            await self._ownership.write_tombstone(key, owner)

    def _cache_owner(self, key: str, owner: Owner) -> None:
        if len(self._owner_cache) >= _MAX_CACHED_OWNERS and key not in self._owner_cache:
            del self._owner_cache[next(iter(self._owner_cache))]
        self._owner_cache[key] = owner

    def _session_removed(self, session_id: str) -> None:
        if self._container.ended(session_id) is not None:
            self._ownership.retire(self._prefix + session_id)
        else:
            # No client has received the open frame.
            self._ownership.release(self._prefix + session_id)

    def _claim_lost(self, session_id: str) -> None:
        # Unregister the session first, so that later requests are relayed to the new owner.
        session = self._container.unregister(session_id)
        if session is not None:
            message = "Closed session %s: another node has claimed it. Check this node's connection to Redis."
            self._container.log.write(logger, logging.WARNING, "lost", message, session.label)
            session.close(CloseCode.INTERRUPTED, "Connection interrupted")


class _ReadDeadline:
    """The deadline by which a client must have read more of a relayed response.

    The session's owner does not check this: for the owner, this node is the client, and has read everything.

    Args:
        manager: The manager of deadlines.
        response: The response.
        seconds: The timeout for each check.
    """

    __slots__ = ("_manager", "_response", "_seconds", "_unsent", "bucket", "due")

    def __init__(self, manager: ConnectionManager, response: PendingWrite, seconds: float) -> None:
        self._manager = manager
        self._response = response
        self._seconds = seconds
        self._unsent = response.unsent
        self.bucket: int | None = None
        self.due = manager.now() + seconds
        manager.schedule(self)

    def check(self, now: float) -> None:
        """Close the connection if the client has read nothing since the last check."""
        before, self._unsent = self._unsent, self._response.unsent
        if self._unsent < before:
            self.due = now + self._seconds
        elif not self._manager.postpone(self, now):
            self.due = inf
            self._response.abort()


def _rejection(response: Response | Stream) -> str | None:
    """Return the reason for which another node rejected a request, or None if it did not."""
    return dict(response.fields).get(RELAY_HEADER) if isinstance(response, Response) else None


async def _await_if_needed(response: Awaitable[None] | None) -> None:
    if response is not None:
        await response


def _client_gone(exchange: Exchange) -> bool:
    """Return whether the client has disconnected. Until the relay responds, only that sets ``responded``."""
    return exchange.responded
