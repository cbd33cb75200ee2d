"""Requests that a router relays to other nodes, and the handoff of their clients before this node stops.

If this node closed the connections, the sessions' owners would see clients that disconnect. So it first asks each owner
to end the responses; the clients send their next request through another node, and the sessions continue.
"""

import asyncio
import contextlib
import dataclasses
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from ..exceptions import ClusterError
from ..session.grace import timeout
from .ownership import Owner
from .upstream import UpstreamDisconnected

if TYPE_CHECKING:
    from ..transports.endpoint import SessionEndpoint
    from ..transports.exchange import Exchange

__all__ = ["MAX_CALL", "RECYCLE", "RelayedRequest", "handoff_clients"]

#: The remote call that ends the responses of sessions. Its body is a JSON list of their keys.
RECYCLE: Final = "recycle"

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


@dataclasses.dataclass(slots=True, eq=False)
class RelayedRequest:
    """One request for the session ``key``, until its client has the whole response.

    Attributes:
        done: A future that completes when the client has the response or has disconnected.
        is_streaming: Whether the client's connection was taken over, so that the response ends with the connection.
    """

    key: str
    owner: Owner
    endpoint: "SessionEndpoint"
    exchange: "Exchange"
    body: bytes | bytearray
    done: "asyncio.Future[None]" = dataclasses.field(default_factory=lambda: asyncio.get_running_loop().create_future())
    is_streaming: bool = False

    def response_sent(self) -> None:
        """Called when the request was answered, or when its connection was taken over for a stream."""
        # A stream may last for hours; free the memory of its request meanwhile.
        del self.exchange, self.body
        if not self.is_streaming:
            self.response_ended()

    def response_ended(self) -> None:
        """Called when the client has the response, or its connection is closed."""
        if not self.done.done():
            self.done.set_result(None)


async def handoff_clients(
    requests: Iterable[RelayedRequest], rpc: Callable[[Owner, str, bytes], Awaitable[bytes]]
) -> None:
    """Ask the owners to end the responses of requests; wait until they have ended, or for :data:`HANDOFF_TIMEOUT`."""
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
                    await rpc(owner, RECYCLE, json.dumps(keys).encode())
            await asyncio.wait([request.done for request in requests], timeout=interval)
            requests = [request for request in requests if not request.done.done()]
            interval *= 2

    with contextlib.suppress(TimeoutError):
        async with timeout(HANDOFF_TIMEOUT):
            await asyncio.gather(*(handoff_from(owner, requests) for owner, requests in by_owner.items()))


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
