"""A node: a process that serves requests that other nodes relay to it, and relays its clients' requests to them."""

import asyncio
import contextlib
import json
import socket
import ssl
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler

from ..exceptions import ClusterError
from ..http.handlers import SockJSHandler, header_value
from ..serving import HTTP_LIMITS, http_server
from ..session.grace import timeout
from ..transports.endpoint import SessionEndpoint
from .forwarding import RelayedRequest
from .health import HealthMonitor
from .node_tls import NodeTLS, tls_reason
from .ownership import Owner, Ownership
from .relay import SessionRelay
from .relayed_exchange import RelayedExchange
from .secret import Secrets
from .signing import MAX_AGE, RELAY_HEADER, Rejected, RelayedClient, Signer
from .upstream import CONNECT_TIMEOUT, Stream, Upstream, UpstreamDisconnected, Upstreams

#: The path of remote calls, followed by the function's name.
RPC_PATH: Final = "/-/call/"

#: The listener's backlog: connections that wait while its process is stopped or busy.
BACKLOG: Final = 4096

#: Signed for requests that a node sends for itself.
NO_CLIENT: Final = RelayedClient("", 0, False)

#: The remote call that returns a node's id.
_IDENTIFY: Final = "identify"

#: The remote call that ends the responses of sessions. Its body is a JSON list of their keys.
_RECYCLE: Final = "recycle"

#: Seconds that the handoff may take.
HANDOFF_TIMEOUT: Final = 2.0

#: Seconds before a call is repeated for the first time. A request that was relayed just before the call may reach the
#: owner after it.
RETRY_INTERVAL: Final = 0.1

# The limits of one call: the number of keys, and the characters after which no key is added.
_BATCH_SIZE: Final = 200
_BATCH_CHARACTERS: Final = 16 * 1024

# A relayed request has the client's header fields and the signature.
_MAX_HEADER_SIZE: Final = 4 * HTTP_LIMITS["max_header_size"]


class Node:
    """One node. Other nodes send their requests to its private listener.

    Attributes:
        owner: This node's id and address.
        ownership: The owners of sessions.
        stats: The relay's counters.
        local_fallback: Whether to open new sessions here while their owner cannot be determined.
        upstreams: The connections to other nodes.
        health: Detects other nodes that do not respond.
        rpcs: The functions that other nodes may call by :meth:`rpc`, by name.
    """

    def __init__(
        self,
        owner: Owner,
        secrets: Secrets,
        ownership: Ownership,
        stats: Counter[str],
        local_fallback: bool,
        tls: NodeTLS | None = None,
    ) -> None:
        self.owner = owner
        self.ownership = ownership
        self.stats = stats
        self.local_fallback = local_fallback
        self.signer = Signer(secrets, owner.node)
        self._tls = tls
        self.upstreams = Upstreams(tls)
        self.health = HealthMonitor(self.upstreams, stats, self._identify)
        self.rpcs: dict[str, Callable[[bytes], bytes]] = {
            _RECYCLE: self._recycle,
            _IDENTIFY: lambda body: owner.node.encode(),
        }
        self._relays: list[SessionRelay] = []
        # Remote calls may be larger than messages of clients.
        self._max_body_size = HTTP_LIMITS["max_body_size"]
        specs = [URLSpec(f"{RPC_PATH}([a-z]+)", _RPCHandler, {"node": self})]
        # The node that received the client's request writes the access log.
        self._application = Application(
            specs, default_handler_class=_UnknownPathHandler, log_function=lambda handler: None
        )
        self._server = contextlib.AsyncExitStack()

    def add(self, router: Any) -> None:
        """Relay a router's requests, and serve those that other nodes relay to it. Call this before :meth:`start`."""
        router.relay = SessionRelay(router, self)
        self._relays.append(router.relay)
        specs = [
            URLSpec(path, SockJSHandler, {"endpoint": endpoint})
            for path, endpoint in router.endpoints
            if isinstance(endpoint, SessionEndpoint)
        ]
        # Not add_handlers(), whose rules depend on the host: Tornado would serve their requests.
        self._application.wildcard_router.add_rules(specs)
        self._max_body_size = max(self._max_body_size, router.settings.max_message_size + 1)

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve requests of other nodes on listening sockets, which :meth:`close` closes."""
        self.upstreams.closed = False
        # No network timeout here: the routers set it for the streams of their clients.
        server = http_server(
            self._application,
            sockets,
            network_timeout=0,
            max_body_size=self._max_body_size,
            max_header_size=_MAX_HEADER_SIZE,
            ssl_options=None if self._tls is None else self._tls.server,
        )
        listener = await self._server.enter_async_context(server)
        # Before the event loop accepts the first connection.
        listener.exchange_type = partial(RelayedExchange, self)

    async def close(self) -> None:
        """Close the listener and all relayed requests."""
        self.upstreams.close()
        await self.health.close()
        await self._server.aclose()

    def verify(self, signature: str, method: str, uri: str, body: bytes | bytearray) -> RelayedClient:
        """Return the client of a relayed request, or raise Rejected."""
        try:
            return self.signer.verify(signature, method, uri, body)
        except Rejected as rejected:
            self.stats[f"relay_{rejected.reason}"] += 1
            raise

    async def handoff_clients(self, requests: Iterable[RelayedRequest]) -> None:
        """Ask the owners to end the responses of relayed requests, and wait until they have ended.

        If this node closed the connections, the owners would see clients that disconnect. Instead, the clients send
        their next request through another node. This takes no longer than :data:`HANDOFF_TIMEOUT`.
        """
        by_owner: defaultdict[Owner, list[RelayedRequest]] = defaultdict(list)
        for request in requests:
            by_owner[request.owner].append(request)

        async def handoff_from(owner: Owner, requests: list[RelayedRequest]) -> None:
            interval = RETRY_INTERVAL
            while requests:
                # The owner may be down, or run a version without this call.
                with contextlib.suppress(OSError, UpstreamDisconnected, ClusterError):
                    # The other requests send messages, and have a response soon.
                    receiving = dict.fromkeys(request.key for request in requests if request.endpoint.opens_sessions)
                    for keys in _batches(receiving):
                        await self.rpc(owner, _RECYCLE, json.dumps(keys).encode())
                await asyncio.wait([request.done for request in requests], timeout=interval)
                requests = [request for request in requests if not request.done.done()]
                interval *= 2

        with contextlib.suppress(TimeoutError):
            async with timeout(HANDOFF_TIMEOUT):
                await asyncio.gather(*(handoff_from(owner, requests) for owner, requests in by_owner.items()))

    def _recycle(self, body: bytes) -> bytes:
        for key in json.loads(body):
            for relay in self._relays:
                relay.recycle(key)
        return b""

    async def identify_self(self) -> str | None:
        """Return the id of the node that answers at this node's own address, or None if nothing listens there.

        Raises:
            ClusterError: Something else answers there, or a node with another secret.
        """
        address = self.owner.address
        try:
            upstream = await self.upstreams.connect(address)
        except ssl.SSLError as error:
            raise _tls_error(address, error) from None
        except OSError:
            return None
        try:
            found = await self._call(upstream, "", _IDENTIFY, b"", CONNECT_TIMEOUT)
        except UpstreamDisconnected:
            return None
        except ssl.SSLError as error:
            raise _tls_error(address, error) from None
        except (TimeoutError, ClusterError):
            message = f"{address} is not a node of this cluster, or its secret differs from this node's"
            raise ClusterError(message) from None
        finally:
            upstream.abort()
        return found.decode()

    async def _identify(self, upstream: Upstream, owner: Owner, seconds: float) -> bytes:
        """Return the id of a node, within some seconds."""
        return await self._call(upstream, owner.node, _IDENTIFY, b"", seconds)

    async def rpc(self, owner: Owner, name: str, body: bytes) -> bytes:
        """Call one of another node's :attr:`rpcs`, and return its result.

        Raises:
            OSError: The node cannot be reached, or, as TimeoutError, does not respond.
            UpstreamDisconnected: The connection was closed; the function may have run.
            ClusterError: The node rejected the call.
        """
        # After MAX_AGE the node would reject the request as stale.
        return await self._call(await self.upstreams.connect(owner.address), owner.node, name, body, MAX_AGE)

    async def _call(self, upstream: Upstream, to: str, name: str, body: bytes, seconds: float) -> bytes:
        uri = RPC_PATH + name
        signature = self.signer.sign(to, "POST", uri, body, NO_CLIENT)
        head = (
            f"POST {uri} HTTP/1.1\r\nHost: node\r\n{RELAY_HEADER}: {signature}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        pending = upstream.send_request(head.encode() + body)
        try:
            async with timeout(seconds):
                response = await pending
        finally:
            upstream.cancel_request(pending)
        if isinstance(response, Stream):
            upstream.abort()
        # Only a node sets the header field.
        elif response.status == 200 and RELAY_HEADER in dict(response.fields):
            return response.body
        raise ClusterError(f"{upstream.address} responded {response.status} to a call of {name!r}")


def _tls_error(address: str, error: ssl.SSLError) -> ClusterError:
    return ClusterError(
        f"the TLS connection to this node's own address {address} failed ({tls_reason(error)}); check that "
        "this node's certificate names this address, has not expired, is issued by an authority that the nodes trust, "
        "and is valid for servers and clients"
    )


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    """Split keys into lists that the owner processes quickly."""
    batch: list[str] = []
    length = 0
    for key in keys:
        batch.append(key)
        length += len(key)
        if len(batch) >= _BATCH_SIZE or length > _BATCH_CHARACTERS:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


class _RPCHandler(RequestHandler):
    """Calls one of :attr:`Node.rpcs` for another node."""

    def initialize(self, node: Node) -> None:
        self._node = node

    def prepare(self) -> None:
        request = self.request
        assert request.method is not None
        assert request.uri is not None
        try:
            self._node.verify(header_value(request.headers, RELAY_HEADER), request.method, request.uri, request.body)
        except Rejected as rejected:
            self.set_status(403)
            self.set_header(RELAY_HEADER, rejected.reason)
            self.finish()

    def post(self, name: str) -> None:
        self.set_header(RELAY_HEADER, self._node.owner.node)
        function = self._node.rpcs.get(name)
        if function is None:
            self.set_status(404)
        else:
            self.finish(function(self.request.body))


class _UnknownPathHandler(RequestHandler):
    """Responds to requests for sessions of a router that this node does not have, or has no longer."""

    def prepare(self) -> None:
        self.set_status(421)
        self.set_header(RELAY_HEADER, "misdirected")
        self.finish()
