"""Requests that a router relays to other nodes, and the handoff of their clients before this node stops.

If this node closed the connections, the sessions' owners would see clients that disconnect. So it first asks each owner
to end the responses; the clients send their next request through another node, and the sessions continue.
"""

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

from ..exceptions import ClusterError
from ..session.grace import timeout
from ..wire.connection import ByteCounters, ConnectionManager
from .ownership import Owner
from .upstream import UpstreamDisconnected

__all__ = ["MAX_CALL", "RECYCLE", "RelayedRequest", "RelayedRequests"]

#: The remote call that ends the responses of sessions. Its body is a JSON list of their keys.
RECYCLE: Final = "renew"

#: Seconds that the handoff may take.
HANDOFF_TIMEOUT: Final = 2.0

#: Seconds before a call is repeated for the first time. A request that was relayed just before the call may reach the
#: owner after it.
RETRY_INTERVAL: Final = 0.1

#: The largest body of a remote call in bytes.
MAX_CALL: Final = 512 * 1024

# The limits of one call: the number of keys, and the characters after which no key is added.
_BATCH_SIZE: Final = 200
_BATCH_CHARACTERS: Final = 16 * 1024


class RelayedRequest:
    """One relayed request, until its client has the whole response.

    It manages the client's connection in place of the router's container, which at shutdown waits only for the clients
    of its own sessions.

    Args:
        owner: The node that owns the session.
        key: The session, or None if the client does not receive messages by this request.
        manager: The connection manager.

    Attributes:
        done: A future that completes when the client has the response or has disconnected.
    """

    __slots__ = ("_is_streaming", "_manager", "done", "key", "owner", "read_budget", "read_buffer", "write_queue")

    def __init__(self, owner: Owner, key: str | None, manager: ConnectionManager) -> None:
        self.owner = owner
        self.key = key
        self.read_buffer = manager.read_buffer
        self.read_budget = manager.read_budget
        self.write_queue = manager.write_queue
        self._manager = manager
        # True from connection_opened() to connection_closed(): the response ends with the client's connection.
        self._is_streaming = False
        self.done = asyncio.get_running_loop().create_future()

    def response_sent(self) -> None:
        """Called when the request was answered, or when its connection was taken over for a stream."""
        if not self._is_streaming and not self.done.done():
            self.done.set_result(None)

    # The manager of the client's connection.

    @property
    def stats(self) -> ByteCounters:
        """The byte counters."""
        return self._manager.stats

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._manager.now()

    def schedule(self, owner: Any) -> None:
        """Schedule a call of ``owner.check`` at ``owner.due``."""
        self._manager.schedule(owner)

    def cancel(self, owner: Any) -> None:
        """Cancel a deadline."""
        self._manager.cancel(owner)

    def postpone(self, owner: Any, now: float) -> bool:
        """Return whether the deadline was postponed because the event loop was blocked."""
        return self._manager.postpone(owner, now)

    def connection_opened(self) -> None:
        """Called when the client's connection is taken over for a stream."""
        self._is_streaming = True

    def connection_closed(self) -> None:
        """Called when that connection is closed, which ends the response."""
        self._is_streaming = False
        self.response_sent()


class RelayedRequests:
    """All requests that one router is relaying.

    Args:
        manager: The connection manager.
        rpc: Calls a function on another node; see :meth:`Node.rpc`.
    """

    def __init__(self, manager: ConnectionManager, rpc: Callable[[Owner, str, bytes], Awaitable[bytes]]) -> None:
        self._manager = manager
        self._rpc = rpc
        self._all: set[RelayedRequest] = set()

    def __len__(self) -> int:
        return len(self._all)

    def add(self, owner: Owner, key: str | None) -> RelayedRequest:
        """Register a request before it is relayed."""
        request = RelayedRequest(owner, key, self._manager)
        self._all.add(request)
        request.done.add_done_callback(lambda done: self._all.discard(request))
        return request

    async def handoff_clients(self) -> None:
        """Ask the owners to end all relayed responses; wait until they have ended, or for :data:`HANDOFF_TIMEOUT`."""
        by_owner: defaultdict[Owner, list[RelayedRequest]] = defaultdict(list)
        for request in self._all:
            by_owner[request.owner].append(request)
        with contextlib.suppress(TimeoutError):
            async with timeout(HANDOFF_TIMEOUT):
                await asyncio.gather(*(self._handoff_from(owner, requests) for owner, requests in by_owner.items()))

    async def _handoff_from(self, owner: Owner, requests: list[RelayedRequest]) -> None:
        interval = RETRY_INTERVAL
        while requests:
            # The owner may be down, or run a version without this call.
            with contextlib.suppress(OSError, UpstreamDisconnected, ClusterError):
                for keys in _batches(dict.fromkeys(request.key for request in requests if request.key is not None)):
                    await self._rpc(owner, RECYCLE, json.dumps(keys).encode())
            await asyncio.wait([request.done for request in requests], timeout=interval)
            requests = [request for request in requests if not request.done.done()]
            interval *= 2


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
