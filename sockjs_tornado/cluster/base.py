"""The base class of clusters."""

import asyncio
import contextlib
import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

from ..exceptions import ClusterUnavailable, ConfigurationError
from ..session.rooms import COMPLETED, PresenceEvent, Rooms, check_room
from ..validation import check_flag
from .presence_events import PresenceCallback, PresenceWatcher, encode_presence_event, presence_topic
from .topics import OnTopicGap, TopicCallback, Topics, check_callbacks, check_topic, encode_topic_message

if TYPE_CHECKING:
    from ..session.session import Session


_T = TypeVar("_T")

#: The largest number of entries (rooms, members, futures) that are handled in one iteration of the event loop after an
#: outage, however many there are. A turn takes some milliseconds.
SLICE: Final = 250

#: Seconds for which messages are delivered before other callbacks of the event loop run.
MAX_TURN: Final = 0.005


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


def fail(future: "asyncio.Future[Any]", reason: str | ClusterUnavailable) -> None:
    """Set ClusterUnavailable on a future that is not done yet, and that need not be awaited."""
    if not future.done():
        future.set_exception(ClusterUnavailable(reason) if isinstance(reason, str) else reason)
        # Mark the exception as retrieved.
        future.exception()


async def fail_all(failures: "Iterable[tuple[asyncio.Future[Any], str]]") -> None:
    """Fail futures in order, each with its reason, :data:`SLICE` in each iteration of the event loop.

    If it is cancelled, the remaining ones fail at once. It does not yield after the last one, so that an iterable that
    may grow meanwhile is empty when it returns.
    """
    remaining = iter(failures)
    try:
        while len(failing := list(itertools.islice(remaining, SLICE))) == SLICE:
            for future, reason in failing:
                fail(future, reason)
            await asyncio.sleep(0)
    finally:
        for future, reason in itertools.chain(failing, remaining):
            fail(future, reason)


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
        published: Messages and commands that were sent to other nodes.
        publish_failures: Published messages that failed to reach them, or may have failed.
        received: Messages and commands received from other nodes. On Redis, this node's own ones count only if they
            have history or follow one that has.
        skipped: Received messages that could not be decoded.
        messages_forged: Received messages that were not signed with this cluster's secret.
        messages_replayed: Received messages that were sent before, or whose time differs too much from this node's.
        rejected_commands: Commands that Redis rejected, for example because its memory is full.
        gaps: Losses of all subscriptions, during which messages of other nodes were missed. Those with history are
            delivered afterwards.
        relay: The relay's counters by name: relayed requests, rejected requests by reason, lost claims, and tombstones.
    """

    published: int = 0
    publish_failures: int = 0
    received: int = 0
    skipped: int = 0
    messages_forged: int = 0
    messages_replayed: int = 0
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
        self._topics = Topics()

    def _set_presence_events(self, enabled: bool) -> None:
        check_flag("presence_events", enabled)
        if enabled:
            self.rooms.on_presence_change = self._send_presence_event

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

    @property
    def unusable_reason(self) -> str:
        """Why it cannot be used, such as ``"was not started: ..."``, or ``""`` while it is running."""
        return self._unusable_reason

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
        """Return the gauges of :mod:`~sockjs_tornado.observe.metrics`: name, link to Redis or "", and value."""
        return [
            ("available", "", float(self.available)),
            ("rooms", "", len(self.rooms)),
            ("members", "", self.rooms.memberships),
        ]

    def subscribe(self, topic: str, callback: TopicCallback, *, on_gap: OnTopicGap | None = None) -> Awaitable[None]:
        """Call a function with each message that :meth:`publish_topic` sends to a topic, in any process.

        Topics are between processes: clients neither send nor receive their messages. For example, a process whose
        copy of a user's data is out of date::

            def forget(message):
                cache.pop(message["id"], None)


            cluster.subscribe("users", forget, on_gap=cache.clear)

        It may be called before the cluster is started. The subscription lasts until :meth:`unsubscribe`.

        Args:
            topic: The name of the topic, any text that does not begin with ``sockjs.presence:``. Rooms of the same name
                are separate.
            callback: Called with the message: a JSON value of its own. It may be ``async def``; it is called with one
                message at a time, in order. Its exceptions are logged. If more than 1,000 messages wait for it, others
                are discarded, which is logged.
            on_gap: Called without arguments when messages may have been missed: after an outage of Redis, or because
                they were discarded. It may be ``async def``.

        Returns:
            An awaitable, which need not be awaited. It waits until messages of all other processes are received, and
            raises ClusterUnavailable if Redis is unavailable; they are received when it is available again.

        Raises:
            TypeError: The topic is not a ``str``, or an argument is not a function.
            ValueError: The name of the topic is reserved.
            ConfigurationError: A function has other parameters than it is called with.
            RuntimeError: The cluster is running in another thread.
        """
        check_topic(topic)
        check_callbacks(callback, ("message",), on_gap)
        return self._subscribe(topic, callback, on_gap)

    def _subscribe(self, topic: str, callback: TopicCallback, on_gap: OnTopicGap | None) -> Awaitable[None]:
        if not self._unusable_reason:
            self._check_usable()
        is_new = self._topics.subscribe(topic, callback, on_gap)
        return COMPLETED if self._unusable_reason else self._topic_subscribed(topic, is_new)

    def unsubscribe(self, topic: str, callback: TopicCallback) -> None:
        """Do not call a function for the messages of a topic any more. Does nothing if it is not subscribed.

        Args:
            topic: The name of the topic.
            callback: The function.
        """
        check_topic(topic)
        self._unsubscribe(topic, callback)

    def _unsubscribe(self, topic: str, callback: TopicCallback) -> None:
        if not self._unusable_reason:
            self._check_usable()
        if self._topics.unsubscribe(topic, callback) and not self._unusable_reason:
            self._topic_unsubscribed(topic)

    def publish_topic(self, topic: str, message: Any) -> Awaitable[None]:
        """Send a message to all callbacks that have subscribed to a topic, in all processes.

        Callbacks in this process are called at once. Each receives the message at most once, and those of one process
        in order.

        Args:
            topic: The name of the topic.
            message: A JSON value.

        Returns:
            An awaitable, which need not be awaited, as that of ``router.publish``.

        Raises:
            TypeError: The topic is not a ``str``, or the message cannot be encoded as JSON.
            ValueError: The message cannot be encoded as JSON, or the name of the topic is reserved.
            RuntimeError: The cluster was not started, or is running in another thread.
        """
        text = encode_topic_message(topic, message)
        self._check_usable()
        self.stats.published += 1
        self._topics.deliver(topic, text)
        return self._send_topic_message(topic, text)

    def watch_presence(
        self, room: str, callback: PresenceCallback, *, on_gap: OnTopicGap | None = None
    ) -> Awaitable[None]:
        """Call a function each time that a member with a presence joins or leaves a room, in any process.

        It is called after the change, so that ``router.presence`` has it already. Each event is received once at most,
        and those of one process in order. If a process dies, or another one loses its connection to Redis, no events
        report the changes: compare with ``router.presence`` from time to time.

        It may be called before the cluster is started. The watch lasts until :meth:`unwatch_presence`.

        Args:
            room: The name of the room.
            callback: Called with the event, the member, and its presence. The event is ``"join"``, ``"leave"``, or
                ``"update"`` if a member has joined again, perhaps with another presence. The member is
                ``"node:connection id"``, as in ``router.presence``. For ``"leave"``, the presence is the last one.
                The callback is called as that of :meth:`subscribe`, but never inside of ``join`` or ``leave``.
            on_gap: Called without arguments when events may have been missed, as that of :meth:`subscribe`.

        Returns:
            An awaitable, as that of :meth:`subscribe`.

        Raises:
            TypeError: The name of the room is not a ``str``, or an argument is not a function.
            ConfigurationError: The cluster was created without ``presence_events=True``, or a function has other
                parameters than it is called with.
            RuntimeError: The cluster is running in another thread.
        """
        check_room(room)
        check_callbacks(callback, ("event", "member", "presence"), on_gap)
        if self.rooms.on_presence_change is None:
            raise ConfigurationError(
                "watch_presence requires presence_events=True: pass it to the clusters of all processes"
            )
        return self._subscribe(presence_topic(room), PresenceWatcher(callback), on_gap)

    def unwatch_presence(self, room: str, callback: PresenceCallback) -> None:
        """Do not call a function for the events of a room any more. Does nothing if it does not watch the room.

        Args:
            room: The name of the room.
            callback: The function.
        """
        check_room(room)
        self._unsubscribe(presence_topic(room), PresenceWatcher(callback))

    def _send_presence_event(self, event: PresenceEvent, room: str, label: str, text: str) -> None:
        """Send a change of a member's presence to the watchers of its room. The rooms call this if it is enabled."""
        if self._unusable_reason:
            # Sessions may close after the cluster.
            return
        topic = presence_topic(room)
        message = encode_presence_event(event, f"{self._node_name}:{label}", text)
        self.stats.published += 1
        self._send_topic_message(topic, message)
        if topic in self._topics:
            # Not at once: a callback may change the rooms, which are being changed.
            asyncio.get_running_loop().call_soon(self._deliver_presence_event, topic, message)

    def _deliver_presence_event(self, topic: str, message: str) -> None:
        if not self._unusable_reason:
            self._topics.deliver(topic, message)

    @property
    @abstractmethod
    def _node_name(self) -> str:
        """The name of this process in the ids of members."""

    def _topic_subscribed(self, topic: str, is_new: bool) -> Awaitable[None]:
        """Called after :meth:`subscribe` while the cluster is running."""
        return COMPLETED

    def _topic_unsubscribed(self, topic: str) -> None:
        """Called after a topic has lost its last callback while the cluster is running."""
        return

    @abstractmethod
    def _send_topic_message(self, topic: str, text: str) -> Awaitable[None]:
        """Send a message, given as JSON, to the other processes."""

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
