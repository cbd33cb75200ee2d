"""Requests for sessions that another node holds: they are passed on to it, and its answers back.

Who holds a session is asked of Redis once, and remembered. The answer of the owner is the client's: whole, or as a
stream that slows down with its reader; where the client leaves, the owner hears of it.
"""

import asyncio
import contextlib
import errno
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from socket import gaierror
from typing import Any, Final, NamedTuple

from ..exceptions import ClusterUnavailable
from ..protocol import CloseCode
from ..transports.endpoint import SessionEndpoint
from ..transports.exchange import Exchange, PendingResponse
from ..wire.connection import ConnectionManager
from .ownership import Location, Owner, Ownership
from .relay_requests import RelayedRequest, RelayedRequests
from .signing import FIELD, STALE, Caller, Signer
from .upstream import Pipe, Response, Stream, Upstream, UpstreamLost, Upstreams

__all__ = ["SessionRelay"]

logger = logging.getLogger(__name__)

#: Sessions of other nodes whose owners are remembered.
_REMEMBERED: Final = 65536

# What concerns one connection (RFC 9110, section 7.6.1), and what is said anew.
_NOT_PASSED_ON: Final = frozenset(
    {
        *("connection", "content-length", "expect", "keep-alive", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade", FIELD.lower()),
    }
)

# What the answer to a request for a session that is there depends on, beside its content type.
_NEEDED: Final = (
    *("Host", "Origin", "Sec-WebSocket-Origin", "Sec-Fetch-Site", "Cookie"),
    *("Access-Control-Request-Headers", "Content-Encoding"),
)

# Nobody listens there: for certain, its process is no more.
_NOBODY: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT})

# Where this node is short of something, which says nothing of others.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})

# What every response has, and is written again.
_WRITTEN_ANEW: Final = frozenset({"date", "x-content-type-options", "referrer-policy"})


class _Asking(NamedTuple):
    """A request that was passed on, while its client waits."""

    upstream: Upstream
    asked: asyncio.Future[Response | Stream]

    def on_disconnect(self) -> None:
        """Have the other node hear that the client has left."""
        self.upstream.give_up(self.asked)


class SessionRelay:
    """What one router has of a cluster's relay.

    Args:
        router: The router.
        ownership: Who holds which session.
        upstreams: Connections to other nodes.
        signer: Signs requests.
        stats: Counts.
        local_fallback: Whether new sessions are opened while nobody can tell who holds them.
        call: Has another node do something.
    """

    def __init__(
        self,
        router: Any,
        ownership: Ownership,
        upstreams: Upstreams,
        signer: Signer,
        stats: Counter[str],
        local_fallback: bool,
        call: Callable[[Owner, str, bytes], Awaitable[bytes]],
    ) -> None:
        self._router = router
        self._prefix = f"{router.prefix}:"
        self._container = router.container
        self._ownership = ownership
        self._upstreams = upstreams
        self._signer = signer
        self._stats = stats
        self._local_fallback = local_fallback
        self._remembered: dict[str, Owner] = {}
        # Of each session, what a client has not taken of the last response that came through here.
        self._unfinished: dict[str, PendingResponse] = {}
        self._requests = RelayedRequests(router.container, call)
        # The application's own function may look at anything.
        self._asks_cookies = callable(router.settings.jsessionid)
        router.container.on_removed = self._removed

    def owns(self, session_id: str) -> bool:
        """Return whether the session is this node's to open, or ended here."""
        return self._container.ended(session_id) is not None or self._ownership.owns(self._prefix + session_id)

    def serve(self, endpoint: SessionEndpoint, exchange: Exchange) -> Awaitable[None] | None:
        """See that a request for a session that is not here gets answered."""
        if endpoint.opens and exchange.is_disconnected():
            # For nobody, nothing is opened or claimed.
            endpoint.dismiss(exchange)
            return None
        if exchange.relayed:
            return self._serve_another_node(endpoint, exchange)
        return self._serve(endpoint, exchange)

    async def handoff_clients(self) -> None:
        """Have the clients of sessions elsewhere ask anew, elsewhere; wait for a moment until they are on their way."""
        await self._requests.handoff_clients()

    def recycle(self, key: str) -> None:
        """Have a client whose request another node has passed on ask anew, if the session is this router's."""
        if key.startswith(self._prefix):
            session = self._container.get(key.removeprefix(self._prefix))
            if session is not None:
                session.recycle()

    async def _serve_another_node(self, endpoint: SessionEndpoint, exchange: Exchange) -> None:
        key = self._prefix + exchange.session_id
        # The other node may have heard of a claim before this one has.
        await self._ownership.wait_for_pending_claim(key)
        if exchange.answered:
            return
        if self.owns(exchange.session_id):
            await _finish(endpoint.handle(exchange))
        else:
            exchange.respond(421, [])

    async def _serve(self, endpoint: SessionEndpoint, exchange: Exchange) -> None:
        key = self._prefix + exchange.session_id
        # The exchange releases it if the client leaves.
        body = exchange.body()
        if endpoint.opens and self._has_unfinished(key):
            endpoint.respond_session_gone(exchange)
            return
        place: Owner | Location | None = self._remembered.get(key)
        for last in (False, True):
            try:
                place = place or await self._locate(key, endpoint, exchange)
            except ClusterUnavailable:
                if not self._local_fallback or not endpoint.opens or self._container.draining:
                    if not exchange.answered:
                        endpoint.unavailable(exchange, "cluster")
                    return
                self._ownership.claim_later(key, partial(self._lose, exchange.session_id))
                place = Location.HERE
            if place is Location.HERE:
                await self._serve_here(key, endpoint, exchange)
                return
            # What a client sends before it leaves is for the owner all the same.
            if exchange.answered and (endpoint.opens or not isinstance(place, Owner)):
                return
            if place is Location.NOWHERE:
                await _finish(endpoint.answer(exchange, None))
                return
            if place is Location.LOST:
                endpoint.respond_session_gone(exchange)
                return
            if await self._pass_on(key, place, endpoint, exchange, body):
                return
            # It has no such session. Where it was remembered, another node may have it by now, or nobody.
            self._remembered.pop(key, None)
            if last:
                # It was started anew at the same address, or has let go of the session in this moment.
                await self._lost(key, place, endpoint, exchange)
            place = None

    def _has_unfinished(self, key: str) -> bool:
        """Return whether a client asks for more before the last response has left, which is over then.

        The client cannot have read that to its end: messages are lost, and the session's owner knows nothing of it.
        """
        response = self._unfinished.pop(key, None)
        if response is None or not response.unsent:
            return False
        response.abort()
        return True

    def _keep_unfinished(self, key: str, response: PendingResponse) -> None:
        deadline = _Reading(self._container, response, self._router.settings.disconnect_delay)

        def forget(done: Any) -> None:
            self._container.cancel(deadline)
            if self._unfinished.get(key) is response:
                del self._unfinished[key]

        self._unfinished[key] = response
        response.add_done_callback(forget)

    async def _locate(self, key: str, endpoint: SessionEndpoint, exchange: Exchange) -> Owner | Location:
        # Where there is no room, nothing is claimed; who is refused has no trace in Redis.
        if not endpoint.opens or self._container.limit_reached(exchange.remote_ip) is not None:
            return await self._ownership.locate(key)
        return await self._ownership.claim(key, partial(self._lose, exchange.session_id))

    async def _serve_here(self, key: str, endpoint: SessionEndpoint, exchange: Exchange) -> None:
        # Much may have happened since the request was first looked at; it is looked at again.
        try:
            answering = None if exchange.answered else endpoint.handle(exchange)
        finally:
            if self._container.get(exchange.session_id) is None:
                # Its client has left, or there is no room for it, or the application could not make a connection.
                self._ownership.release(key)
        await _finish(answering)

    async def _pass_on(
        self,
        key: str,
        owner: Owner,
        endpoint: SessionEndpoint,
        exchange: Exchange,
        body: bytes | bytearray,
        *,
        again: bool = False,
    ) -> bool:
        """Have the owner answer; return False where it has no such session.

        Args:
            key: The session.
            owner: The node that holds it.
            endpoint: What the request is for.
            exchange: The request.
            body: Its body.
            again: Whether the owner found it stale the first time.
        """
        try:
            upstream = await self._upstreams.connect(owner.address)
        except OSError as error:
            await self._unreachable(key, owner, endpoint, exchange, error)
            return True
        except UpstreamLost:
            self._interrupted(key, endpoint, exchange)
            return True
        if (endpoint.opens and _has_left(exchange)) or self._router.closed:
            self._upstreams.put_back(owner.address, upstream)
            if not _has_left(exchange):
                # It is refused: nobody would let go of it any more.
                await _finish(endpoint.handle(exchange))
            return True
        request = self._requests.add(owner, key if endpoint.opens else None)
        try:
            return await self._ask(upstream, request, key, owner, endpoint, exchange, body, again=again)
        finally:
            request.response_sent()

    async def _ask(
        self,
        upstream: Upstream,
        request: RelayedRequest,
        key: str,
        owner: Owner,
        endpoint: SessionEndpoint,
        exchange: Exchange,
        body: bytes | bytearray,
        *,
        again: bool,
    ) -> bool:
        asked = upstream.ask(self._request(owner, endpoint, exchange, body))
        if endpoint.opens:
            exchange.watch(_Asking(upstream, asked))
        try:
            answer = await asked
        except UpstreamLost:
            # What it was told may have been done: it is not told again.
            self._interrupted(key, endpoint, exchange)
            return True
        if _has_left(exchange):
            if isinstance(answer, Stream):
                answer.upstream.abort()
        elif answer.status == 421:
            return False
        elif not again and _rejection(answer) == STALE:
            # The owner stood still until the signature had expired, and did nothing. Signed anew, it is in time.
            return await self._pass_on(key, owner, endpoint, exchange, body, again=True)
        else:
            self._stats["relayed"] += 1
            self._remember(key, owner)
            await self._answer(answer, request, endpoint, exchange)
            if endpoint.opens and exchange.pending is not None:
                self._keep_unfinished(key, exchange.pending)
        return True

    def _interrupted(self, key: str, endpoint: SessionEndpoint, exchange: Exchange) -> None:
        self._remembered.pop(key, None)
        if not _has_left(exchange):
            endpoint.respond_session_gone(exchange)

    async def _unreachable(
        self, key: str, owner: Owner, endpoint: SessionEndpoint, exchange: Exchange, error: OSError
    ) -> None:
        if error.errno in _EXHAUSTED or isinstance(error, gaierror):
            message = "cannot ask other nodes: %s"
            self._container.log.write(logger, logging.WARNING, "relay", message, error.strerror)
            if not _has_left(exchange):
                endpoint.unavailable(exchange, "relay")
            return
        logger.info("no connection to %s: %s", owner.address, error)
        self._remembered.pop(key, None)
        if error.errno in _NOBODY:
            await self._lost(key, owner, endpoint, exchange)
        elif not _has_left(exchange):
            # It may live, and this node stand still. If it does not, its claim ends by itself.
            endpoint.respond_session_gone(exchange)

    async def _answer(
        self, answer: Response | Stream, request: RelayedRequest, endpoint: SessionEndpoint, exchange: Exchange
    ) -> None:
        if isinstance(answer, Stream):
            try:
                await exchange.take_over(answer.status, Pipe(request, answer))
            finally:
                # Of a client that left in this moment, the pipe has not heard.
                answer.upstream.drop_unless_flowing()
        elif why := _rejection(answer):
            message = "another node finds what this one passes on %s: have they one secret, and one time?"
            self._container.log.write(logger, logging.ERROR, "relay", message, why)
            endpoint.unavailable(exchange, "relay")
        else:
            fields = [(name, value) for name, value in answer.fields if name.lower() not in _WRITTEN_ANEW]
            exchange.respond(answer.status, fields, answer.body)

    def _request(self, owner: Owner, endpoint: SessionEndpoint, exchange: Exchange, body: bytes | bytearray) -> bytes:
        method, uri = exchange.method, exchange.uri
        caller = Caller(exchange.remote_ip, exchange.remote_port, exchange.secure)
        if self._asks_cookies or (endpoint.opens and self._ownership.opens_relayed_sessions):
            lines = [f"{name}: {value}\r\n" for name, value in exchange.fields() if name.lower() not in _NOT_PASSED_ON]
        else:
            lines = [f"{name}: {value}\r\n" for name in _NEEDED if (value := exchange.header(name))]
            if content_type := exchange.content_type():
                lines.append(f"Content-Type: {content_type}\r\n")
        signature = self._signer.sign(owner.node, method, uri, body, caller)
        lines += [f"{FIELD}: {signature}\r\n", f"Content-Length: {len(body)}\r\n"]
        # The version says whether the client takes an answer in chunks.
        version = "1.1" if exchange.persistent else "1.0"
        return f"{method} {uri} HTTP/{version}\r\n{''.join(lines)}\r\n".encode("latin-1") + body

    async def _lost(self, key: str, owner: Owner, endpoint: SessionEndpoint, exchange: Exchange) -> None:
        if not _has_left(exchange):
            endpoint.respond_session_gone(exchange)
        # While Redis is away, the claim ends by itself.
        with contextlib.suppress(ClusterUnavailable):
            await self._ownership.write_tombstone(key, owner)

    def _remember(self, key: str, owner: Owner) -> None:
        if len(self._remembered) >= _REMEMBERED and key not in self._remembered:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[key] = owner

    def _removed(self, session_id: str) -> None:
        if self._container.ended(session_id) is not None:
            self._ownership.retire(self._prefix + session_id)
        else:
            # No client was told of it.
            self._ownership.release(self._prefix + session_id)

    def _lose(self, session_id: str) -> None:
        # What comes for it from now on is for the other node.
        session = self._container.unregister(session_id)
        if session is not None:
            message = "another node has session %s: closed here"
            self._container.log.write(logger, logging.WARNING, "lost", message, session.label)
            session.close(CloseCode.INTERRUPTED, "Connection interrupted")


class _Reading:
    """The deadline by which a client has to take some of a response that was passed on.

    The session's owner does not see to that: for it, this node has taken the response.

    Args:
        manager: What keeps the deadline.
        response: The response.
        seconds: In which the client has to take some of it.
    """

    __slots__ = ("_manager", "_response", "_seconds", "_unsent", "bucket", "due")

    def __init__(self, manager: ConnectionManager, response: PendingResponse, seconds: float) -> None:
        self._manager = manager
        self._response = response
        self._seconds = seconds
        self._unsent = response.unsent
        self.bucket: int | None = None
        self.due = manager.now() + seconds
        manager.schedule(self)

    def check(self, now: float) -> None:
        """Close the connection of a client that takes nothing."""
        before, self._unsent = self._unsent, self._response.unsent
        if self._unsent < before:
            self.due = now + self._seconds
        elif not self._manager.postpone(self, now):
            self.due = inf
            self._response.abort()


def _rejection(answer: Response | Stream) -> str | None:
    """Return why another node does not answer a request, None if it does."""
    return dict(answer.fields).get(FIELD) if isinstance(answer, Response) else None


async def _finish(answering: Awaitable[None] | None) -> None:
    if answering is not None:
        await answering


def _has_left(exchange: Exchange) -> bool:
    # While this waits, nobody else answers.
    return exchange.answered
