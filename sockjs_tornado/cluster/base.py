"""The base class of clusters."""

import asyncio
import contextlib
import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any, Self

from ..exceptions import ClusterUnavailable
from ..session.rooms import Rooms

if TYPE_CHECKING:
    from ..session.session import Session

__all__ = ["BaseCluster", "CheckedRooms", "ClusterStats", "WaitForAll", "fail", "wait_and_clear"]


class WaitForAll:
    """Awaits futures in their order, and raises the exception of the first one that failed.

    A task that is cancelled meanwhile does not cancel the futures, which others may await, too.
    """

    __slots__ = ("_futures",)

    def __init__(self, *futures: "asyncio.Future[Any]") -> None:
        self._futures = futures

    def __await__(self) -> Generator[Any, None, None]:
        for future in self._futures:
            yield from asyncio.shield(future).__await__()


def fail(future: "asyncio.Future[Any]", reason: str) -> None:
    """Set ClusterUnavailable on a future that is not done yet, and that need not be awaited."""
    if not future.done():
        future.set_exception(ClusterUnavailable(reason))
        # Mark the exception as retrieved.
        future.exception()


async def wait_and_clear(event: asyncio.Event, seconds: float) -> None:
    """Wait until an event is set, but no longer than ``seconds``, and clear it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    event.clear()


class CheckedRooms(Rooms):
    """Rooms that sessions can join only while the cluster is running: ``check`` raises RuntimeError otherwise."""

    __slots__ = ("_check",)

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    def join(self, session: "Session", room: str, presence: Any = None) -> Awaitable[None]:
        """Add a session to a room; see :meth:`Rooms.join`."""
        self._check()
        return super().join(session, room, presence)


@dataclasses.dataclass(slots=True)
class ClusterStats:
    """The counters of one node.

    Attributes:
        published: Messages that were sent to other nodes.
        publish_failures: Published messages that failed to reach them, or may have failed.
        received: Messages received from other nodes. On Redis, this node's own messages count only if they have
            history or follow one that has.
        skipped: Received messages that could not be decoded.
        gaps: Losses of all subscriptions, during which messages of other nodes may have been missed.
        relay: The relay's counters by name: relayed requests, rejected requests by reason, lost claims, and tombstones.
    """

    published: int = 0
    publish_failures: int = 0
    received: int = 0
    skipped: int = 0
    gaps: int = 0
    relay: Counter[str] = dataclasses.field(default_factory=Counter)

    def snapshot(self) -> dict[str, int]:
        """Return all counters by the names of the attributes, and those of the relay by their own names."""
        counters = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        relay = counters.pop("relay")
        return {**counters, **relay}


class BaseCluster(ABC):
    """The state that all clusters have, and the checks before each use.

    Attributes:
        rooms: The rooms of its routers.
        labels: Numbers for the labels of their sessions.
        stats: The counters.
    """

    rooms: CheckedRooms
    stats: ClusterStats

    def __init__(self) -> None:
        self.labels: Iterator[int] = itertools.count(1)
        # Empty while the cluster is running.
        self._unusable_reason = "was not started: await cluster.start()"
        # The thread of the event loop that the cluster was started in.
        self._thread = 0

    def _set_running(self) -> None:
        self._unusable_reason = ""
        self._thread = get_ident()

    def _check_usable(self) -> None:
        if self._unusable_reason:
            raise RuntimeError(f"the cluster {self._unusable_reason}")
        if get_ident() != self._thread:
            raise RuntimeError(
                "a cluster can be used only in its event loop's thread; use loop.call_soon_threadsafe in other threads"
            )

    def counters(self) -> dict[str, int]:
        """Return the counters by name; for :mod:`~sockjs_tornado.observe.metrics`."""
        return self.stats.snapshot()

    @abstractmethod
    async def start(self) -> None:
        """Start the cluster."""

    @abstractmethod
    async def close(self) -> None:
        """Close the cluster."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
