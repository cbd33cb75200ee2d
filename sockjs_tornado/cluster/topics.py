"""Messages between the processes of a cluster, such as "this entry of your cache is out of date". Clients get none."""

import asyncio
import inspect
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from ..function_checks import check_callback
from ..observe.logs import ThrottledLog

logger = logging.getLogger(__name__)

#: Called with a message; it may be ``async def``.
TopicCallback = Callable[[Any], Awaitable[object] | object]

#: Called without arguments if messages may have been missed; it may be ``async def``.
OnTopicGap = Callable[[], Awaitable[object] | object]

#: The largest number of messages that wait for one callback.
MAX_QUEUED: Final = 1000

#: The names of topics for events of presence begin with it.
RESERVED_PREFIX: Final = "sockjs.presence:"

# In place of a message: messages may have been missed.
_GAP: Final = object()


def check_topic(topic: object) -> None:
    """Raise TypeError if the name of a topic is not a ``str``, and ValueError if it is reserved."""
    if not isinstance(topic, str):
        raise TypeError(f"the name of a topic must be str, not {type(topic).__name__}")
    if topic.startswith(RESERVED_PREFIX):
        raise ValueError(f"the name of a topic must not begin with {RESERVED_PREFIX!r}; use watch_presence for a room")


def check_callbacks(callback: object, parameters: Sequence[str], on_gap: object) -> None:
    """Raise TypeError if the arguments are not functions, and ConfigurationError if their parameters are wrong.

    Args:
        callback: The function for messages.
        parameters: What it is called with.
        on_gap: The function for gaps, or None.
    """
    for name, function, expected in (("callback", callback, parameters), ("on_gap", on_gap, ())):
        if name == "callback" or function is not None:
            if not callable(function):
                raise TypeError(f"{name}: expected a function, got {function!r} ({type(function).__name__})")
            check_callback(name, function, expected)


def encode_topic_message(topic: object, message: Any) -> str:
    """Return a message as JSON, or raise TypeError or ValueError if it or the topic is not valid."""
    check_topic(topic)
    return json.dumps(message, allow_nan=False)


class _Subscriber:
    """One callback of a topic. It is called with one message at a time, in order."""

    __slots__ = ("_is_busy", "_is_removed", "_log", "_on_gap", "_queue", "_task", "callback")

    def __init__(self, callback: TopicCallback, on_gap: OnTopicGap | None, log: ThrottledLog) -> None:
        self.callback = callback
        self._on_gap = on_gap
        self._log = log
        self._queue: deque[Any] = deque()
        # Whether the callback is running, or its awaitable is.
        self._is_busy = False
        self._is_removed = False
        self._task: asyncio.Task[None] | None = None

    def receive(self, message: Any) -> None:
        """Call the callback with a message, now or after those that wait. Do nothing after :meth:`remove`."""
        if self._is_removed:
            return
        if len(self._queue) >= MAX_QUEUED:
            self._log.write(
                logger,
                logging.WARNING,
                "topic",
                "A callback of a topic is too slow: more than %d messages wait, and others are discarded",
                MAX_QUEUED,
            )
            if self._on_gap is not None:
                self._queue[-1] = _GAP
            return
        self._queue.append(message)
        if not self._is_busy:
            self._is_busy = True
            while self._queue:
                result = self._call(self._queue.popleft())
                if result is not None:
                    self._task = asyncio.create_task(self._finish(result))
                    return
            self._is_busy = False

    def gap(self) -> None:
        """Call ``on_gap``, after the messages that wait."""
        if self._on_gap is not None and not (self._queue and self._queue[-1] is _GAP):
            self.receive(_GAP)

    async def _finish(self, result: Awaitable[object]) -> None:
        """Await what a callback has returned, and process the messages that wait."""
        while True:
            try:
                await result
            except (Exception, asyncio.CancelledError) as error:
                # If this task was not cancelled, something was that the callback has awaited.
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise
                self._log_error(error)
            following = None
            while self._queue and following is None:
                following = self._call(self._queue.popleft())
            if following is None:
                self._is_busy = False
                return
            result = following

    def _call(self, message: Any) -> Awaitable[object] | None:
        try:
            result = self._on_gap() if message is _GAP and self._on_gap is not None else self.callback(message)
        except (Exception, asyncio.CancelledError) as error:
            self._log_error(error)
            return None
        return result if inspect.isawaitable(result) else None

    def _log_error(self, error: BaseException) -> None:
        self._log.write(logger, logging.ERROR, "callback", "A callback of a topic raised an exception", error=error)

    def remove(self) -> "asyncio.Task[None] | None":
        """Do not call the callback any more, and return the task of its running awaitable, which ends by itself."""
        self._is_removed = True
        self._queue.clear()
        return self._task

    def close(self) -> "asyncio.Task[None] | None":
        """Discard the messages that wait, and return the task of a running awaitable."""
        self._queue.clear()
        self._is_busy = False
        task, self._task = self._task, None
        return task


class Topics:
    """The callbacks of one process, by topic."""

    def __init__(self) -> None:
        self._subscribers: dict[str, list[_Subscriber]] = {}
        # The running awaitables of callbacks that were unsubscribed. asyncio itself has only weak references to tasks.
        self._ending: set[asyncio.Task[None]] = set()
        self._log = ThrottledLog()

    @property
    def names(self) -> list[str]:
        """The topics that have callbacks."""
        return list(self._subscribers)

    def __contains__(self, topic: str) -> bool:
        return topic in self._subscribers

    def subscribe(self, topic: str, callback: TopicCallback, on_gap: OnTopicGap | None) -> bool:
        """Add a callback, and return whether it is the topic's first one; see :meth:`BaseCluster.subscribe`."""
        subscribers = self._subscribers.setdefault(topic, [])
        subscribers.append(_Subscriber(callback, on_gap, self._log))
        return len(subscribers) == 1

    def unsubscribe(self, topic: str, callback: TopicCallback) -> bool:
        """Remove a callback, and return whether it was the topic's last one."""
        subscribers = self._subscribers.get(topic, [])
        for subscriber in subscribers:
            if subscriber.callback == callback:
                subscribers.remove(subscriber)
                task = subscriber.remove()
                if task is not None and not task.done():
                    self._ending.add(task)
                    task.add_done_callback(self._ending.discard)
                if not subscribers:
                    del self._subscribers[topic]
                return not subscribers
        return False

    def deliver(self, topic: str, text: str) -> None:
        """Call the callbacks of a topic with a message, given as JSON."""
        for subscriber in tuple(self._subscribers.get(topic, ())):
            # Each gets a value of its own, which it may change.
            subscriber.receive(json.loads(text))

    def gap(self, topics: Iterable[str]) -> None:
        """Report to the callbacks of some topics that messages may have been missed."""
        for topic in topics:
            for subscriber in tuple(self._subscribers.get(topic, ())):
                subscriber.gap()

    async def close(self) -> None:
        """Cancel what callbacks have started. The callbacks remain, for another start of the cluster.

        If a callback closes the cluster, it is not cancelled itself.
        """
        subscribers = [subscriber for each in self._subscribers.values() for subscriber in each]
        started = (*(subscriber.close() for subscriber in subscribers), *self._ending)
        tasks = [task for task in started if task is not None and task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
