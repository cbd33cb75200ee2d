"""Run the application's callbacks in order, one at a time, plain or ``async def``.

If a callback returns an awaitable, it runs as a task, and events that arrive in the meantime are queued. If the time
for callbacks of one iteration of the event loop is used up, the remaining messages are queued, too.
:mod:`.callbacks` calls ``on_message`` for messages that need not be queued.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from functools import partial
from inspect import isawaitable, iscoroutine
from math import inf
from time import monotonic
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from ..protocol import Message
from ..wire.time_budget import TimeBudget, Turn
from .blocking import BlockingWatch
from .callback_results import check_result, handle_failure, suspended_at
from .concurrency import ConcurrentCallbacks
from .deadlines import CallbackTimeout
from .slow_callbacks import TimedSteps, report_slow_callback
from .states import CLOSED, IDLE, IN_DROPPED, OVER, RUNNING, UNOPENED

try:
    from .._speedups import CallbacksCore, time_steps
except ImportError:  # the C module was not built
    time_steps = TimedSteps  # type: ignore[assignment]

    class CallbacksCore:  # type: ignore[no-redef]
        """The fields that decide whether a message can be delivered at once; C reads them for each message."""

        __slots__ = ("_budget", "_events", "_state", "connection")


if TYPE_CHECKING:
    from ..connection import SockJSConnection
    from .session import Session

#: Exceptions of a callback that are handled; all others propagate. CancelledError is not an Exception.
CAUGHT = (Exception, asyncio.CancelledError)

#: Characters that are added to the backlog for each message, so that empty messages count too.
_MESSAGE_OVERHEAD = 64


class _Event(str):
    """The name of a callback that is queued, unlike a message, which is a plain ``str`` or bytes."""

    __slots__ = ()


_OPEN, _DROPPED, _CLOSE = map(_Event, ("on_open", "on_dropped", "on_close"))


class WaitingCloses:
    """The sessions of a router that an ``on_close`` has closed, whose own ``on_close`` runs when that one has returned.

    Attributes:
        queues: Their callbacks.
        is_running: Whether an ``on_close`` is running.
    """

    __slots__ = ("is_running", "queues")

    def __init__(self) -> None:
        self.queues: deque[CallbackQueue] = deque()
        self.is_running = False


#: A callback's name and what it has returned. The name is empty if the callbacks wait for something else, such as the
#: next iteration of the loop.
Awaited = tuple[str, Awaitable[object]]


class CallbackQueue(CallbacksCore):
    """Run the callbacks of one session in order, except for messages that need not wait.

    Attributes:
        connection: The application's connection, which has the callbacks. Set by the session.
        backlog: Size of the queued messages: characters, plus an overhead for each message.
        awaited: What the queued messages wait for, or None.
    """

    __slots__ = (
        "_concurrent",
        "_dropped_count",
        "_session",
        "_slow_after",
        "_timeout",
        "_turn",
        "_watch",
        "awaited",
        "backlog",
    )

    connection: "SockJSConnection"

    def __init__(self, session: "Session", timeout: float) -> None:
        self._session = session
        self._timeout = timeout or None
        # Set by open() if the setting allows it.
        self._concurrent: ConcurrentCallbacks | None = None
        self._watch: BlockingWatch | None = None
        self.awaited: Awaited | None = None
        self._budget: TimeBudget = session._container.callback_budget
        self._slow_after = self._budget.slow_after
        self._state = UNOPENED
        # Messages and _Event, in the order of the callbacks: OPEN or DROPPED, messages, CLOSE. None if there are none.
        self._events: deque[Any] | None = None
        self.backlog = 0
        # Dropped messages that were not yet reported to on_dropped.
        self._dropped_count = 0
        # While queued messages are delivered.
        self._turn: Turn | None = None

    @property
    def is_over(self) -> bool:
        """True before ``on_open`` is called and after ``on_close`` has ended."""
        return self._state in (UNOPENED, OVER)

    def open(self) -> None:
        """Run ``on_open``. If it returns False or raises, the client is rejected."""
        limit = self._session._settings.max_concurrent_callbacks
        if limit > 1 and not getattr(self.connection, "_is_carrier", False):
            self._concurrent = ConcurrentCallbacks(self, self._session, limit)
        self._state = RUNNING
        self._start(self._run(_OPEN) or self._run_due())

    def report_slow(self, seconds: float, name: str = "on_message") -> None:
        """Report a plain callback, several calls of it in one iteration, or a step of an ``async def`` callback."""
        report_slow_callback(self._session, name, seconds)

    def _check_time(self, name: str, slow_at: float) -> None:
        """Report a callback that has ended after ``slow_at``, in monotonic seconds."""
        if slow_at < inf and monotonic() >= slow_at:
            self.report_slow(monotonic() - slow_at + self._slow_after, name)

    def notify_dropped(self, count: int) -> None:
        """Run ``on_dropped`` after the current callback; its next call reports messages dropped while it runs."""
        self._dropped_count += count
        if self._state is not IN_DROPPED:
            events = self._events = self._events or deque()
            if not events or events[0] is not _DROPPED:
                events.appendleft(_DROPPED)
            self._run_if_idle()

    def close(self, *, discard: bool) -> None:
        """Run ``on_close``, after the current callback and, unless ``discard``, after the queued messages."""
        if discard:
            self.discard()
        if self._state is not IDLE:
            self._events = self._events or deque()
            self._events.append(_CLOSE)
            return
        self._state = RUNNING
        waiting = self._session._container.waiting_closes
        if waiting.is_running:
            # An on_close closes others, whose on_close may close others in turn: nested calls would exhaust the stack.
            self._events = deque((_CLOSE,))
            waiting.queues.append(self)
            return
        # A carrier closes its channels, whose on_close runs at once.
        waiting.is_running = not getattr(self.connection, "_is_carrier", False)
        try:
            self._start(self._run(_CLOSE) or self._run_due())
            while waiting.queues:
                queue = waiting.queues.popleft()
                queue._start(queue._run_due())
        finally:
            waiting.is_running = False

    def discard(self) -> None:
        """Discard the queued messages."""
        if self.backlog:
            assert self._events is not None
            self._events = deque(event for event in self._events if isinstance(event, _Event)) or None
            self.backlog = 0

    def _queue(self, messages: Sequence[Message]) -> None:
        if not self.backlog:
            if self._watch is None:
                self._watch = BlockingWatch(self, self._session)
            self._watch.start()
        self._events = self._events or deque()
        self._events.extend(messages)
        self.backlog += sum(map(len, messages)) + len(messages) * _MESSAGE_OVERHEAD

    def _run_if_idle(self) -> None:
        if self._state is IDLE:
            self._state = RUNNING
            self._start(self._run_due())

    def _start(self, awaited: Awaited | None) -> None:
        if awaited is not None:
            self._session._container.spawn(self._run_as_task(awaited))

    async def _run_as_task(self, awaited: Awaited | None) -> None:
        """Await what callbacks have returned, and run those that are due then."""
        while awaited is not None:
            self.awaited = awaited
            name, awaitable = awaited
            result = await self.wait_for(name, awaitable)
            if result is not None:
                result = await self._resolve(name, result)
            if name != "on_message":
                self._finish(name, result)
            self.awaited = None
            awaited = self._run_due()

    def _run_due(self) -> Awaited | None:
        """Run the callbacks that are due, in order, until one has to be awaited or the time is used up."""
        while self._events:
            event = self._events[0]
            if type(event) is _Event:
                self._events.popleft()
            else:
                if self._turn is None:
                    self._turn = Turn(self._budget)
                else:
                    self._turn.left -= 1
                    if not self._turn.left and self._turn.is_over():
                        return self._pause()
                self._events.popleft()
                self.backlog -= len(event) + _MESSAGE_OVERHEAD
                if not self.backlog:
                    self._session._inbox_drained()
            awaited = self._run(event)
            if awaited is not None:
                return awaited
        self._events = None
        if self._turn is not None:
            # Too much if an awaitable has suspended. In the worst case others deliver one message in this iteration.
            self._turn.charge()
            self._turn = None
        if self._state is not OVER:
            self._state = IDLE
        return None

    def _run(self, event: Any) -> Awaited | None:
        """Run the callback of an event or a message, and return what has to be awaited before the next one."""
        name = event if type(event) is _Event else "on_message"
        result: object = None
        slow_at = monotonic() + self._slow_after
        try:
            if event is _OPEN:
                result = self.connection.on_open(self._session.conn_info)
            elif event is _CLOSE:
                result = self.connection.on_close()
            elif event is _DROPPED:
                self._state = IN_DROPPED
                count, self._dropped_count = self._dropped_count, 0
                result = self.connection.on_dropped(count)
            else:
                result = self.connection.on_message(event)
        except CAUGHT as error:
            handle_failure(self._session, name, error)
        if monotonic() >= slow_at:
            self._check_time(name, slow_at)
        awaited = None
        if result is not None:
            if not isawaitable(result):
                check_result(self._session, name, result)
            elif self._concurrent is None:
                return name, result
            else:
                awaited = self._concurrent.start(name, result)
                result = None
        if type(event) is _Event:
            self._finish(name, result)
        return awaited

    def _finish(self, name: str, result: object) -> None:
        """Called when a callback of an event has ended."""
        if name is _OPEN:
            if result is False:
                self._session.close()
            self._session.is_accepted = not self._session.is_closed
            self._session._container.on_open_finished(self._session)
        elif name is _DROPPED:
            self._state = RUNNING
        elif name is _CLOSE and (self._concurrent is None or self._concurrent.end(self._end)):
            self._end()

    def _end(self) -> None:
        """Called when the last callback has ended."""
        self._state = OVER
        if self._session.state is CLOSED:
            self._session._forget()

    def _pause(self) -> Awaited:
        """Return what waits for the next iteration, because this one's time for callbacks is used up."""
        self._budget.exhaust()
        if self._turn is None:
            self._turn = Turn(self._budget)
        return "", self._turn

    def abandon(self) -> None:
        """Stop waiting for callbacks whose event loop was closed, and run those that are due then."""
        concurrent, self._concurrent = self._concurrent, None
        if concurrent is not None:
            concurrent.abandon()
        if self._state not in (RUNNING, IN_DROPPED):
            return
        name, _ = self.awaited or ("", None)
        self.awaited = None
        if name not in ("", "on_message"):
            self._finish(name, None)
        if self._state is not OVER:
            self._start(self._run_due())

    def stop_watching(self) -> None:
        """Do not report a blocking callback any more. Called when the session has ended."""
        if self._watch is not None:
            self._watch.cancel()

    def clear(self) -> None:
        """Release the session and the connection."""
        self._watch = self._concurrent = None
        del self._session, self.connection

    # One coroutine for each awaitable, not two: this runs for every message if on_message is `async def`.
    async def wait_for(self, name: str, awaitable: Awaitable[object]) -> object:
        timeout = None
        if self._timeout is not None and name:
            timeout = CallbackTimeout(self._session._container, self._timeout, partial(self._expire, name, awaitable))
        if name and type(awaitable) is CoroutineType and self._slow_after < inf:
            awaitable = time_steps(awaitable, self, name, self._slow_after)
        try:
            return await awaitable
        except CAUGHT as error:
            if timeout is None or not timeout.has_expired:
                handle_failure(self._session, name or "on_message", error)
            return None
        finally:
            if timeout is not None:
                timeout.cancel()

    async def _resolve(self, name: str, result: object) -> object:
        """Check and return what an awaited callback has returned; of a coroutine, what that returns.

        Otherwise, ``return self.check(info)`` in an ``async def on_open`` would accept a client unchecked. Other
        awaitables may be tasks that run for long; only ``on_open``, whose result decides, awaits them.
        """
        while iscoroutine(result) or (name == "on_open" and isawaitable(result)):
            result = await self.wait_for(name, result)
        if result is not None:
            check_result(self._session, name, result)
        return result

    def _expire(self, name: str, awaitable: Awaitable[object]) -> None:
        # This closes the session at once; the awaitable may take its time to end.
        error = TimeoutError(f"exceeded callback_timeout ({self._timeout:g} s)")
        handle_failure(self._session, name, error.with_traceback(suspended_at(awaitable)))
