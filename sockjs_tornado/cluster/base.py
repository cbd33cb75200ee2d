"""The base class of clusters."""

import asyncio
import contextlib
import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

from ..exceptions import ClusterUnavailable
from ..session.rooms import Rooms

if TYPE_CHECKING:
    from ..session.session import Session


_T = TypeVar("_T")


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


def batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Split items into batches, between which other commands are sent."""
    return (items[start : start + size] for start in range(0, len(items), size))


async def repeat(refresh: Callable[[], Awaitable[object]], seconds: float, wake: asyncio.Event) -> NoReturn:
    """Call ``refresh`` every ``seconds``, and at once when ``wake`` is set, as after a reconnect to Redis."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await wake.wait()
        wake.clear()
        # If Redis becomes unavailable, `wake` is set after the reconnect.
        with contextlib.suppress(ClusterUnavailable):
            await refresh()


async def cancel(task: "asyncio.Task[Any] | None") -> None:
    """Cancel a task, if any, and wait until it has ended."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


class CheckedRooms(Rooms):
    """Rooms that sessions can join only while the cluster is running: ``check`` raises RuntimeError otherwise."""

    __slots__ = ("_check",)

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    def join(self, session: "Session", room: str, presence: Any = None) -> Awaitable[None]:
        self._check()
        return super().join(session, room, presence)


#: The names of the relay's counters, which :meth:`BaseCluster.counters` has from the start.
RELAY_COUNTERS: Final = (
    "relayed",
    "relay_forged",
    "relay_stale",
    "relay_replayed",
    "relay_misdirected",
    "relay_unresponsive",
    "claims_lost",
    "claims_forged",
    "tombstones",
)


@dataclasses.dataclass(slots=True)
class ClusterStats:
    """The counters of one node.

    Attributes:
        published: Messages that were sent to other nodes.
        publish_failures: Published messages that failed to reach them, or may have failed.
        received: Messages received from other nodes. On Redis, this node's own messages count only if they have
            history or follow one that has.
        skipped: Received messages that could not be decoded.
        rejected_commands: Commands that Redis rejected, for example because its memory is full.
        gaps: Losses of all subscriptions, during which messages of other nodes were missed. Those with history are
            delivered afterwards.
        relay: The relay's counters by name: relayed requests, rejected requests by reason, lost claims, and tombstones.
    """

    published: int = 0
    publish_failures: int = 0
    received: int = 0
    skipped: int = 0
    rejected_commands: int = 0
    gaps: int = 0
    relay: Counter[str] = dataclasses.field(default_factory=Counter)


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
        """Return the counters by name, those of the relay among them; for :mod:`~sockjs_tornado.observe.metrics`."""
        counters = {field.name: getattr(self.stats, field.name) for field in dataclasses.fields(self.stats)}
        relay = counters.pop("relay")
        return {**dict.fromkeys(RELAY_COUNTERS, 0), **counters, **relay}

    @property
    def available(self) -> bool:
        """Whether the cluster is running and connected, so that messages reach the other nodes."""
        return not self._unusable_reason

    def gauges(self) -> list[tuple[str, str, float]]:
        """Return the current state, for :mod:`~sockjs_tornado.observe.metrics`: name, link to Redis or "", value."""
        return [
            ("available", "", float(self.available)),
            ("rooms", "", len(self.rooms)),
            ("members", "", self.rooms.memberships),
        ]

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
