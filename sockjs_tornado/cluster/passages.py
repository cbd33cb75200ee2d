"""What a router passes on to other nodes, and how it lets go of that before it ends.

Where a request is cut here, the node that holds the session sees a client that has left. So it is told before, and has
the client ask anew; the session lives on.
"""

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

from ..exceptions import ClusterError
from ..grace import timeout
from ..wire.connection import ConnectionManager, Traffic
from .ownership import Owner
from .upstream import UpstreamLost

__all__ = ["MAX_CALL", "RENEW", "Passage", "Passages"]

#: By what nodes have one another renew the receivers of sessions: a JSON list of their keys.
RENEW: Final = "renew"

#: Seconds that all this may take.
PATIENCE: Final = 2.0

#: Seconds after which a node is told again. What it was just asked may have come to it later than what it was told.
PAUSE: Final = 0.1

#: Bytes that a call may have.
MAX_CALL: Final = 512 * 1024

# Sessions that a node renews in one go, and characters of their keys that begin no further call.
_SLICE: Final = 200
_LONG: Final = 16 * 1024


class Passage:
    """One request that is passed on, until its client has all of the answer.

    It keeps the client's connection in place of the container, which waits for the clients of its own sessions alone.

    Args:
        owner: The node that holds the session.
        key: The session, None where its client does not listen by this request.
        manager: What keeps connections.

    Attributes:
        over: Done when the client has its answer, or has left.
    """

    __slots__ = ("_flows", "_manager", "key", "over", "owner", "read_budget", "read_buffer", "write_queue")

    def __init__(self, owner: Owner, key: str | None, manager: ConnectionManager) -> None:
        self.owner = owner
        self.key = key
        self.read_buffer = manager.read_buffer
        self.read_budget = manager.read_budget
        self.write_queue = manager.write_queue
        self._manager = manager
        self._flows = False
        self.over = asyncio.get_running_loop().create_future()

    def answered(self) -> None:
        """Hear that the request was answered, or that a connection was taken over for the answer."""
        if not self._flows and not self.over.done():
            self.over.set_result(None)

    # What keeps the connection.

    @property
    def stats(self) -> Traffic:
        """What counts the bytes."""
        return self._manager.stats

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._manager.now()

    def schedule(self, owner: Any) -> None:
        """See that ``owner.check`` is called once ``owner.due`` has come."""
        self._manager.schedule(owner)

    def cancel(self, owner: Any) -> None:
        """Forget a deadline."""
        self._manager.cancel(owner)

    def postpone(self, owner: Any, now: float) -> bool:
        """Return whether nobody is late yet, because the event loop stood still; ``owner.check`` is called again."""
        return self._manager.postpone(owner, now)

    def connection_opened(self) -> None:
        """Hear of the connection."""
        self._flows = True

    def connection_closed(self) -> None:
        """Hear of its end, and so of the answer's."""
        self._flows = False
        self.answered()


class Passages:
    """What one router passes on.

    Args:
        manager: What keeps connections.
        call: Has another node do something.
    """

    def __init__(self, manager: ConnectionManager, call: Callable[[Owner, str, bytes], Awaitable[bytes]]) -> None:
        self._manager = manager
        self._call = call
        self._all: set[Passage] = set()

    def __len__(self) -> int:
        return len(self._all)

    def begin(self, owner: Owner, key: str | None) -> Passage:
        """Note a request that is about to be passed on."""
        passage = Passage(owner, key, self._manager)
        self._all.add(passage)
        passage.over.add_done_callback(lambda over: self._all.discard(passage))
        return passage

    async def let_go(self) -> None:
        """Have the clients of all that is under way ask anew, and wait until it is over, but not for long."""
        by_owner: defaultdict[Owner, list[Passage]] = defaultdict(list)
        for passage in self._all:
            by_owner[passage.owner].append(passage)
        with contextlib.suppress(TimeoutError):
            async with timeout(PATIENCE):
                await asyncio.gather(*(self._let_go(owner, passages) for owner, passages in by_owner.items()))

    async def _let_go(self, owner: Owner, passages: list[Passage]) -> None:
        pause = PAUSE
        while passages:
            # A node that is gone, or that is too old to know of this.
            with contextlib.suppress(OSError, UpstreamLost, ClusterError):
                for keys in _slices(dict.fromkeys(passage.key for passage in passages if passage.key is not None)):
                    await self._call(owner, RENEW, json.dumps(keys).encode())
            await asyncio.wait([passage.over for passage in passages], timeout=pause)
            passages = [passage for passage in passages if not passage.over.done()]
            pause *= 2


def _slices(keys: Iterable[str]) -> Iterator[list[str]]:
    """Return keys in lists that a node makes short work of."""
    found: list[str] = []
    length = 0
    for key in keys:
        found.append(key)
        length += len(key)
        if len(found) >= _SLICE or length > _LONG:
            yield found
            found, length = [], 0
    if found:
        yield found
