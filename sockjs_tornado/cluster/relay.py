"""The relay: finds the owner of a session, which is looked up once and cached, and forwards the request to it."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..exceptions import ClusterUnavailable
from ..protocol import CloseCode
from ..transports.endpoint import SessionEndpoint
from ..transports.exchange import Exchange
from .forwarding import Forwarder, RelayedRequest
from .health import NodeUnresponsive
from .node_tls import tls_reason
from .ownership import Location, Owner
from .response_head import NotANode
from .upstream import UpstreamDisconnected, is_local, is_refused

if TYPE_CHECKING:
    from .node import Node

logger = logging.getLogger(__name__)

#: The size of the cache of owners, in sessions.
_MAX_CACHED_OWNERS: Final = 65536


class SessionRelay:
    """The relay of one router on a node."""

    def __init__(self, router: Any, node: "Node") -> None:
        self._node = node
        self._ownership = node.ownership
        self._prefix = f"{router.prefix}:"
        self._container = router.container
        self._owner_cache: dict[str, Owner] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._forwarder = Forwarder(router, node)
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
            return self._serve_for_other_node(endpoint, exchange)
        # Take the body now: the exchange releases it if the client disconnects.
        body = exchange.body()
        key = self._prefix + exchange.session_id
        if endpoint.opens_sessions and self._forwarder.abort_unfinished(key):
            endpoint.respond_session_gone(exchange)
            return None
        owner = self._owner_cache.get(key)
        if owner is not None:
            request = RelayedRequest(key, owner, endpoint, exchange, body)
            if self._forwarder.send_now(request, self._continue):
                return exchange.wait_until_responded()
        return self._serve_through_owner(endpoint, exchange, body)

    async def handoff_clients(self) -> None:
        """End the relayed responses of all clients, which then send their next request through another node."""
        await self._node.handoff_clients(self._forwarder.requests)

    def recycle(self, key: str) -> None:
        """End the current response of a session at another node's request, if the session belongs to this router."""
        if key.startswith(self._prefix):
            session = self._container.get(key.removeprefix(self._prefix))
            if session is not None:
                session._recycle()

    async def _serve_for_other_node(self, endpoint: SessionEndpoint, exchange: Exchange) -> None:
        key = self._prefix + exchange.session_id
        # Redis may have replied to the other node's lookup before it replies to this node's claim.
        await self._ownership.wait_for_pending_claim(key)
        if exchange.responded:
            return
        if self.owns(exchange.session_id):
            await _await_if_needed(endpoint.handle(exchange))
        else:
            exchange.respond(421, [])

    def _continue(self, sent: RelayedRequest) -> None:
        """Serve a request that was sent, but has no ordinary response."""
        task = asyncio.create_task(self._finish(sent, sent.exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, sent: RelayedRequest, exchange: Exchange) -> None:
        try:
            await self._serve_through_owner(sent.endpoint, exchange, sent.body, sent)
        except Exception as error:
            exchange.fail(error)

    async def _serve_through_owner(
        self,
        endpoint: SessionEndpoint,
        exchange: Exchange,
        body: bytes | bytearray,
        request: RelayedRequest | None = None,
    ) -> None:
        key = self._prefix + exchange.session_id
        location: Owner | Location | None = self._owner_cache.get(key) if request is None else request.owner
        is_last_attempt = False
        while True:
            try:
                location = location or await self._claim_or_locate(key, endpoint, exchange)
            except ClusterUnavailable:
                if not self._node.local_fallback or not endpoint.opens_sessions or self._container.restarting:
                    if not exchange.responded:
                        endpoint.respond_unavailable(exchange, "cluster")
                    return
                self._ownership.claim_later(key, partial(self._claim_lost, exchange.session_id))
                location = Location.HERE
            if location is Location.HERE:
                await self._serve_here(key, endpoint, exchange)
                return
            # If the client has disconnected, its messages are still delivered to the owner. A request that was sent
            # already has a response, which may be a stream to close.
            if request is None and exchange.responded and (endpoint.opens_sessions or not isinstance(location, Owner)):
                return
            if location is Location.NOWHERE:
                await _await_if_needed(endpoint.serve_session(exchange, None))
                return
            if location is Location.LOST:
                endpoint.respond_session_gone(exchange)
                return
            request = request or RelayedRequest(key, location, endpoint, exchange, body)
            try:
                if await self._forward(request, is_last_attempt=is_last_attempt):
                    return
            finally:
                request.release_exchange()
            location = request = None
            is_last_attempt = True

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

    async def _forward(self, request: RelayedRequest, *, is_last_attempt: bool) -> bool:
        """Forward a request to the owner of its session; return False if the owner is to be looked up once more."""
        endpoint, exchange = request.endpoint, request.exchange
        try:
            response = await self._forwarder.send(request)
        except UpstreamDisconnected:
            # The owner may have processed the request, so it is not repeated. If it was the client that disconnected,
            # the session has ended with its poll, so that nobody needs the cached owner any more.
            await self._owner_lost(request, write_tombstone=False)
        except NodeUnresponsive as error:
            # If the process hangs, it loses the claim, and closes the session as soon as it continues.
            await self._owner_lost(request, write_tombstone=error.accepts_connections)
        except NotANode:
            message = (
                "Another program than node %s answers at its address. Check the address that this node advertises "
                "(--advertise), also as other hosts resolve it, and that no proxy is between the nodes."
            )
            self._container.log.write(logger, logging.WARNING, "not a node", message, request.owner.address)
            # Another node may claim the session.
            self._owner_cache.pop(request.key, None)
            if not exchange.responded:
                endpoint.respond_unavailable(exchange, "relay")
        except OSError as error:
            await self._connect_failed(request, error)
        else:
            if response is None:
                # If the router has closed meanwhile, the endpoint rejects the request.
                await _await_if_needed(None if exchange.responded else endpoint.handle(exchange))
            elif response.status == 421 and not exchange.responded:
                # That node does not have the session. The owner may have come from the cache; otherwise the node was
                # restarted at the same address, or the session has just ended.
                if not is_last_attempt:
                    self._owner_cache.pop(request.key, None)
                    return False
                await self._owner_lost(request, write_tombstone=True)
            else:
                if not exchange.responded:
                    self._cache_owner(request.key, request.owner)
                await self._forwarder.respond(request, response)
        return True

    async def _connect_failed(self, request: RelayedRequest, error: OSError) -> None:
        if is_local(error):
            message = "Cannot connect to other nodes: %s. Check this node's file descriptor limit and name resolution."
            self._container.log.write(logger, logging.WARNING, "relay", message, error.strerror)
        elif isinstance(error, ssl.SSLError):
            # The node is alive, and the session with it.
            message = (
                "The TLS connection to node %s failed: %s. Check the certificates of both nodes (tls_certificate): "
                "their names, their dates, and their authority (tls_ca)."
            )
            address = request.owner.address
            self._container.log.write(logger, logging.WARNING, "tls", message, address, tls_reason(error))
        else:
            address = request.owner.address
            # During a restart, it is refused as well.
            level = logging.INFO if is_refused(error) else logging.WARNING
            message = (
                "Cannot connect to node %s: %s. Unless it was stopped, check that this host can reach the address that "
                "it advertises (--advertise), and that no other host has the same one."
            )
            reason = str(error) or type(error).__name__
            self._container.log.write(logger, level, ("connect", level), message, address, reason)
            # After other errors the owner may be alive and only unreachable from here; if it is not, its claim expires.
            await self._owner_lost(request, write_tombstone=is_refused(error))
            return
        if not request.exchange.responded:
            request.endpoint.respond_unavailable(request.exchange, "relay")

    async def _owner_lost(self, request: RelayedRequest, *, write_tombstone: bool) -> None:
        self._owner_cache.pop(request.key, None)
        if not request.exchange.responded:
            request.endpoint.respond_session_gone(request.exchange)
        if write_tombstone:
            # Without Redis there is no tombstone; the claim expires.
            with contextlib.suppress(ClusterUnavailable):
                await self._ownership.write_tombstone(request.key, request.owner)

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
            message = (
                "Closed session %s: another node has claimed it, because this node lost its connection to Redis, or "
                "because the nodes cannot reach each other (--advertise)."
            )
            self._container.log.write(logger, logging.WARNING, "lost", message, session.label)
            session.close(CloseCode.INTERRUPTED, "Connection interrupted")


async def _await_if_needed(response: Awaitable[None] | None) -> None:
    if response is not None:
        await response
