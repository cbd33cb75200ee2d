"""Running the application's callbacks: in order, one at a time, plain or ``async def``.

If a callback returns an awaitable, it runs as a task; events that arrive in the meantime are queued. If a callback
raises, the error is logged and the session is closed; other sessions are not affected.

A session's callbacks may run for a limited time in one iteration of the event loop. When it is used up, the remaining
messages stay in the inbox, as they do while an awaitable runs, and are delivered in later iterations, so that one
client cannot block the others.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from inspect import isawaitable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from tornado.web import HTTPError

from ..exceptions import ConnectionClosed
from ..observe.logs import session_fields
from ..protocol import CloseCode, Message
from .callback_budget import MAX_STEP

try:
    from .._speedups import CallbacksCore
except ImportError:  # the C module was not built

    class CallbacksCore:  # type: ignore[no-redef]
        """The fields that decide whether a message can be delivered at once; C reads them for each message."""

        __slots__ = ("_budget", "_busy", "_closing", "_dropped_pending", "_inbox", "connection")


if TYPE_CHECKING:
    from ..connection import ConnectionInfo, SockJSConnection
    from .callback_budget import CallbackBudget
    from .container import SessionContainer
    from .session import Session

__all__ = ["Callbacks"]

logger = logging.getLogger(__name__)

#: Exceptions of a callback that are handled; all others propagate. CancelledError is not an Exception.
_CAUGHT = (Exception, asyncio.CancelledError)

#: Characters that are added to the backlog for each message, so that empty messages count too.
_MESSAGE_OVERHEAD = 64


class Callbacks(CallbacksCore):
    """Run the callbacks of one session.

    Args:
        session: The session.
        timeout: Timeout in seconds for the awaitable of a callback, 0 for none.

    Attributes:
        connection: The application's connection, which has the callbacks. Set by the session.
        backlog: Size of the queued messages: characters, plus an overhead for each message.
        is_over: True before ``on_open`` is called and after ``on_close`` has ended.
    """

    # Legal states, between two calls. _busy, _closing and _dropped_pending are shared with _c/session.c.
    #
    # * Not _busy: no callback runs and none is due, that is, neither _closing nor _dropped_pending is set and the inbox
    #   is empty. is_over is set until open() is called.
    # * _busy: a callback runs or is scheduled. _closing, _dropped_pending and a filled inbox are events that wait for
    #   it, in any combination; _run_next() takes the first of: _dropped_pending, the inbox, _closing.
    # * _busy, _closing and is_over: on_close has ended. Final: _busy stays set so that no other callback runs.
    # * _dropped_running: on_dropped runs. Requires _busy and excludes _dropped_pending: messages that are dropped
    #   meanwhile only add to _dropped_count.
    # * _timed_out: the running awaitable was cancelled by its timeout. Requires _busy; cleared when it has ended.

    __slots__ = (
        "_dropped_count",
        "_dropped_running",
        "_session",
        "_timed_out",
        "_timeout",
        "backlog",
        "is_over",
    )

    connection: "SockJSConnection"

    def __init__(self, session: "Session", timeout: float) -> None:
        self._session = session
        self._timeout = timeout or None
        self._budget: CallbackBudget = session.server.container.callback_budget
        self._inbox: deque[Message] | None = None
        self.backlog = 0
        self._busy = False
        self._closing = False
        # Dropped messages that were not yet reported to on_dropped.
        self._dropped_count = 0
        self._dropped_pending = False
        self._dropped_running = False
        self._timed_out = False
        self.is_over = True

    def open(self, info: "ConnectionInfo") -> None:
        """Run ``on_open``. If it returns False or raises, the client is rejected."""
        self._busy = True
        self.is_over = False
        accepted = False
        try:
            result = self.connection.on_open(info)
        except _CAUGHT as error:
            self._handle_failure("on_open", error)
        else:
            if result is False:
                self._session.close()
            elif isawaitable(result):
                self._spawn(self._finish_open(result))
                return
            else:
                accepted = True
        self._session._on_open_finished(accepted)
        self._run_next()

    def deliver(self, messages: Sequence[Message]) -> None:
        """Run ``on_message`` for each message, or queue them if a callback is running."""
        if self._busy:
            self._queue(messages)
        else:
            self._busy = True
            self._run(self.connection.on_message, messages)

    def continue_delivery(
        self, on_message: Callable[[Message], object], messages: Sequence[Message], result: object, is_late: bool
    ) -> None:
        """Continue a delivery that C began, after a call that returned a value, closed the session or used up the time.

        Args:
            on_message: The callback.
            messages: The remaining messages of the batch.
            result: The result of the last call; possibly an awaitable.
            is_late: Whether this iteration's time for callbacks is used up.
        """
        if isawaitable(result):
            self._start_awaitable(result, messages)
        elif is_late and not self._session.is_closed:
            self._defer(messages)
        else:
            self._run(on_message, messages)

    def handle_error(self, error: BaseException) -> None:
        """Handle an exception of ``on_message``; raise it again if it is not one that closes the session."""
        if not isinstance(error, _CAUGHT):
            raise error
        self._handle_failure("on_message", error)
        self.finish_delivery()

    def finish_delivery(self) -> None:
        """Run the callbacks that have become due while ``on_message`` was running."""
        if self._dropped_pending or self._inbox or self._closing:
            self._run_next()
        else:
            self._busy = False

    def _defer(self, messages: Sequence[Message]) -> None:
        """Queue messages for the next iteration of the event loop, because this one's time for callbacks is used up."""
        self._queue(messages)
        self._budget.exhaust()
        self._spawn(self._finish_later())

    def _run(self, on_message: Callable[[Message], object], messages: Sequence[Message]) -> None:
        session = self._session
        total = len(messages)
        # Most reads contain one message: do not read the clock for it.
        next_look, started, deadline = 0, 0.0, 0.0
        budget = None
        if total > 1:
            # As in C, the one from before the callbacks, which could delete it.
            budget = self._budget
            next_look, started = 1, monotonic()
            deadline = started + budget.available
        # An earlier message, or the lookup of on_message, may have closed the session.
        for count, message in enumerate(() if session.is_closed else messages, 1):
            try:
                result = on_message(message)
            except _CAUGHT as error:
                self._handle_failure("on_message", error)
                break
            if result is not None and isawaitable(result):
                if budget is not None:
                    budget.charge(monotonic() - started)
                self._start_awaitable(result, messages[count:])
                return
            if session.is_closed:
                break
            if count == next_look and count < total:
                if monotonic() >= deadline:
                    self._defer(messages[count:])
                    return
                next_look += min(next_look, MAX_STEP)
        if budget is not None:
            budget.charge(monotonic() - started)
        self.finish_delivery()

    def _start_awaitable(self, result: Awaitable[object], messages: Sequence[Message]) -> None:
        """Start the awaitable of ``on_message``, and queue the messages behind it."""
        if not self._session.is_closed:
            self._queue(messages)
        self._spawn(self._finish_message(result))

    def notify_dropped(self, count: int) -> None:
        """Run ``on_dropped`` after the current callback; its next call reports messages dropped while it runs."""
        self._dropped_count += count
        if not self._dropped_running:
            self._dropped_pending = True
            if not self._busy:
                self._run_next()

    def close(self, *, discard: bool) -> None:
        """Run ``on_close``, after the current callback and, unless ``discard``, after the queued messages."""
        self._closing = True
        if discard:
            self.discard()
        if not self._busy:
            self._run_next()

    def discard(self) -> None:
        """Discard the queued messages."""
        self._inbox = None
        self.backlog = 0

    def _queue(self, messages: Sequence[Message]) -> None:
        if self._inbox is None:
            self._inbox = deque()
        for message in messages:
            self._inbox.append(message)
            self.backlog += len(message) + _MESSAGE_OVERHEAD

    def _run_next(self) -> None:
        """Run the callbacks that have become due while another was running."""
        self._busy = False
        if self._dropped_pending:
            self._busy = True
            awaitable = self._run_dropped()
            if awaitable is not None:
                self._spawn(self._finish_dropped(awaitable))
                return
            self._busy = False
        if self._inbox:
            self._busy = True
            self._spawn(self._finish_inbox())
        elif self._closing:
            # For good: no callback runs after on_close.
            self._busy = True
            try:
                result = self.connection.on_close()
            except _CAUGHT as error:
                self._handle_failure("on_close", error)
            else:
                if isawaitable(result):
                    self._spawn(self._finish_close(result))
                    return
            self._end()

    def _run_dropped(self) -> Awaitable[object] | None:
        """Run ``on_dropped``; return its awaitable, if it has returned one."""
        self._dropped_pending = False
        self._dropped_running = True
        count, self._dropped_count = self._dropped_count, 0
        try:
            result = self.connection.on_dropped(count)
        except _CAUGHT as error:
            self._handle_failure("on_dropped", error)
        else:
            if isawaitable(result):
                return result
        self._dropped_running = False
        return None

    async def _finish_dropped(self, result: Awaitable[object]) -> None:
        await self._guard("on_dropped", result)
        self._dropped_running = False
        await self._finish_inbox()

    def _end(self) -> None:
        self.is_over = True
        self._session._callbacks_ended()

    def clear(self) -> None:
        """Release the session and the connection."""
        del self._session, self.connection

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._session.server.container.spawn(coroutine)

    async def _finish_open(self, result: Awaitable[object]) -> None:
        if await self._guard("on_open", result) is False:
            self._session.close()
        self._session._on_open_finished(True)
        await self._finish_inbox()

    async def _finish_close(self, result: Awaitable[object]) -> None:
        await self._guard("on_close", result)
        self._end()

    async def _finish_message(self, result: Awaitable[object]) -> None:
        await self._guard("on_message", result)
        await self._finish_inbox()

    async def _finish_later(self) -> None:
        await self._finish_inbox(await self._next_iteration())

    async def _next_iteration(self) -> float:
        """Wait for the next iteration of the event loop; return the seconds that callbacks may take of it."""
        try:
            return await self._budget.wait()
        except asyncio.CancelledError as error:
            self._handle_failure("on_message", error)
            return self._budget.available

    async def _finish_inbox(self, seconds: float | None = None) -> None:
        left = step = 1
        started = monotonic() if self._inbox else None
        deadline = (started or 0.0) + (self._budget.available if seconds is None else seconds)
        while self._inbox:
            if self._dropped_pending:
                awaitable = self._run_dropped()
                if awaitable is not None:
                    await self._guard("on_dropped", awaitable)
                    self._dropped_running = False
                continue
            message = self._inbox.popleft()
            self.backlog -= len(message) + _MESSAGE_OVERHEAD
            if not self._inbox:
                self._session._inbox_drained()
            try:
                result = self.connection.on_message(message)
            except _CAUGHT as error:
                self._handle_failure("on_message", error)
            else:
                if isawaitable(result):
                    await self._guard("on_message", result)
            left -= 1
            if not left and self._inbox:
                left = step
                step = min(2 * step, MAX_STEP)
                if monotonic() >= deadline:
                    # This waits even if an awaitable has already yielded; that costs one iteration.
                    deadline = await self._next_iteration() + monotonic()
                    left = step = 1
        if started is not None:
            # Too much if an awaitable has suspended. In the worst case others deliver one message in this iteration.
            self._budget.charge(monotonic() - started)
        self._run_next()

    def _guard(self, name: str, result: Awaitable[object]) -> Awaitable[object]:
        # One coroutine for each awaitable, not two: this runs for every message if on_message is `async def`.
        return self._await(name, result) if self._timeout is None else self._await_with_timeout(name, result)

    async def _await_with_timeout(self, name: str, result: Awaitable[object]) -> object:
        assert self._timeout is not None
        task = asyncio.current_task()
        assert task is not None
        manager = self._session.server.container
        deadline = _CallbackDeadline(manager, self._timeout, partial(self._on_timeout, name, task))
        try:
            return await self._await(name, result)
        finally:
            manager.cancel(deadline)
            if self._timed_out:
                self._timed_out = False
                task.uncancel()

    async def _await(self, name: str, result: Awaitable[object]) -> object:
        try:
            return await result
        except _CAUGHT as error:
            if not self._timed_out:
                self._handle_failure(name, error)
            return None

    def _on_timeout(self, name: str, task: "asyncio.Task[Any]") -> None:
        """Close the session at once and cancel the awaitable, which may take its time to end."""
        self._timed_out = True
        self._handle_failure(name, TimeoutError(f"exceeded callback_timeout ({self._timeout:g} s)"))
        task.cancel()

    def _handle_failure(self, name: str, error: BaseException) -> None:
        session = self._session
        if isinstance(error, ConnectionClosed) and (session.is_closed or name != "on_open"):
            # The callback awaited a send to a client that disconnected, which is not an error. Still deliver the
            # queued messages, but not if on_open failed.
            logger.debug("%s of %r ended because a connection closed", name, session)
            if name == "on_open":
                self.discard()
        elif isinstance(error, HTTPError) and name == "on_open":
            session.close()
        elif isinstance(error, asyncio.CancelledError) and _is_cancelled():
            logger.debug("%s of %r was cancelled", name, session)
            session.close(CloseCode.GOING_AWAY, "Going away")
        else:
            session.server.stats.callback_errors[name] += 1
            log = session.server.container.log
            fields = session_fields(session.label, session.transport_name)
            log.write(logger, logging.ERROR, name, "%s of %r failed", name, session, error=error, extra=fields)
            session.close(CloseCode.INTERNAL_ERROR, "Internal error")


class _CallbackDeadline:
    """The deadline of a callback's awaitable.

    Args:
        manager: Schedules the deadline.
        seconds: The timeout.
        on_timeout: Called when the deadline has passed.
    """

    __slots__ = ("_manager", "_on_timeout", "bucket", "due")

    def __init__(self, manager: "SessionContainer", seconds: float, on_timeout: Callable[[], None]) -> None:
        self._manager = manager
        self._on_timeout = on_timeout
        self.bucket: int | None = None
        self.due = manager.now() + seconds
        manager.schedule(self)

    def check(self, now: float) -> None:
        """Call ``on_timeout``, unless the event loop was blocked: then the awaitable may be about to complete."""
        if not self._manager.postpone(self, now):
            self.due = inf
            self._on_timeout()


def _is_cancelled() -> bool:
    """Return whether the running task itself is being cancelled, rather than an awaitable that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
