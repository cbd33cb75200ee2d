"""Running the application's callbacks: in order, one at a time, plain or ``async def``.

A plain callback is a plain call. An awaitable it returns runs as a task, and whatever comes meanwhile waits for it. A
callback that raises is logged and closes its own session, nothing else.

The time that a session's callbacks may take of one turn of the event loop is limited. The messages that are left then
wait in the inbox, as they do behind an awaitable, and are delivered in the next turns: other clients come first.
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
from ..protocol import CloseCode, Message
from .turns import MAX_STEP

try:
    from .._speedups import CallbacksCore
except ImportError:  # where it was not built

    class CallbacksCore:  # type: ignore[no-redef]
        """The fields that decide whether a message can be handed to the application at once."""

        __slots__ = ("_busy", "_closing", "_inbox", "_turns", "_untold", "connection")


if TYPE_CHECKING:
    from ..connection import ConnectionInfo, SockJSConnection
    from .ports import SessionManager
    from .session import Session
    from .turns import Turns

__all__ = ["Callbacks"]

logger = logging.getLogger(__name__)

#: What a callback may raise without harm to anything but its session; CancelledError is no Exception.
_FAILURES = (Exception, asyncio.CancelledError)

#: What an empty message counts for in the backlog.
_MESSAGE_SHARE = 64


class Callbacks(CallbacksCore):
    """The callbacks of one session.

    Args:
        session: Whose callbacks they are.
        timeout: Seconds that an awaitable of theirs may take, 0 for any.

    Attributes:
        connection: The application's object that has them; set once it is made.
        backlog: How much waits for what is running, in characters and a share for each message.
        is_over: Whether no callback runs or will run: before ``on_open``, and after ``on_close``.
    """

    __slots__ = (
        "_dropped",
        "_expired",
        "_session",
        "_telling",
        "_timeout",
        "backlog",
        "is_over",
    )

    connection: "SockJSConnection"

    def __init__(self, session: "Session", timeout: float) -> None:
        self._session = session
        self._timeout = timeout or None
        self._turns: Turns = session.server.container.turns
        self._inbox: deque[Message] | None = None
        self.backlog = 0
        self._busy = False
        self._closing = False
        # Messages that on_dropped has not been told of; whether it is to be told, and whether it is being told.
        self._dropped = 0
        self._untold = False
        self._telling = False
        # Whether what runs was called off, because it took too long.
        self._expired = False
        self.is_over = True

    def open(self, info: "ConnectionInfo") -> None:
        """Run ``on_open``; False from it, or an exception, rejects the client."""
        self._busy = True
        self.is_over = False
        accepted = False
        try:
            result = self.connection.on_open(info)
        except _FAILURES as error:
            self._failed("on_open", error)
        else:
            if result is False:
                self._session.close()
            elif isawaitable(result):
                self._spawn(self._finish_open(result))
                return
            else:
                accepted = True
        self._session._on_open_finished(accepted)
        self._done()

    def deliver(self, messages: Sequence[Message]) -> None:
        """Run ``on_message`` for each message, or queue them behind what is running."""
        if self._busy:
            self._queue(messages)
        else:
            self._busy = True
            self._run(self.connection.on_message, messages)

    def go_on(
        self, on_message: Callable[[Message], object], messages: Sequence[Message], result: object, is_late: bool
    ) -> None:
        """Run ``on_message`` for each message, after one that has returned ``result``, or has closed the session.

        Args:
            on_message: The callback.
            messages: The rest of those that came together.
            result: What the last one has returned.
            is_late: Whether the time for callbacks is used up in this turn of the event loop.
        """
        if self._awaits(result, messages, 0):
            return
        if is_late and not self._session.is_closed:
            self._defer(messages)
        else:
            self._run(on_message, messages)

    def raised(self, error: BaseException) -> None:
        """Hear what ``on_message`` has raised."""
        if not isinstance(error, _FAILURES):
            raise error
        self._failed("on_message", error)
        self.finish()

    def finish(self) -> None:
        """Go on with what came while ``on_message`` was running."""
        if self._untold or self._inbox or self._closing:
            self._done()
        else:
            self._busy = False

    def _defer(self, messages: Sequence[Message]) -> None:
        """Deliver messages in the next turn of the event loop: the time for callbacks is used up in this one."""
        self._queue(messages)
        self._turns.use_up()
        self._spawn(self._finish_later())

    def _run(self, on_message: Callable[[Message], object], messages: Sequence[Message]) -> None:
        session = self._session
        total = len(messages)
        # For one message, which is what most reads bring, the clock is not read.
        look, deadline = (1, monotonic() + self._turns.share) if total > 1 else (0, 0.0)
        # What came before, or the lookup of on_message, may have closed it.
        for count, message in enumerate(() if session.is_closed else messages, 1):
            try:
                result = on_message(message)
            except _FAILURES as error:
                self._failed("on_message", error)
                break
            if result is not None and self._awaits(result, messages, count):
                return
            if session.is_closed:
                break
            if count == look and count < total:
                if monotonic() >= deadline:
                    self._defer(messages[count:])
                    return
                look += min(look, MAX_STEP)
        self.finish()

    def _awaits(self, result: object, messages: Sequence[Message], start: int) -> bool:
        """Return whether ``on_message`` has returned an awaitable, which runs then; messages from ``start`` on wait."""
        if not isawaitable(result):
            return False
        if not self._session.is_closed:
            self._queue(messages[start:])
        self._spawn(self._finish_message(result))
        return True

    def dropped(self, count: int) -> None:
        """Run ``on_dropped``, after what is running; what it loses itself is told with the next loss."""
        self._dropped += count
        if not self._telling:
            self._untold = True
            if not self._busy:
                self._done()

    def close(self, *, discard: bool) -> None:
        """Run ``on_close``, after what is running and, unless discarded, what the client had sent before."""
        self._closing = True
        if discard:
            self.discard()
        if not self._busy:
            self._done()

    def discard(self) -> None:
        """Forget the messages that wait for what is running."""
        self._inbox = None
        self.backlog = 0

    def _queue(self, messages: Sequence[Message]) -> None:
        if self._inbox is None:
            self._inbox = deque()
        for message in messages:
            self._inbox.append(message)
            self.backlog += len(message) + _MESSAGE_SHARE

    def _done(self) -> None:
        """Go on with what came while a callback was running."""
        self._busy = False
        if self._untold:
            self._busy = True
            telling = self._tell()
            if telling is not None:
                self._spawn(self._finish_telling(telling))
                return
            self._busy = False
        if self._inbox:
            self._busy = True
            self._spawn(self._finish_inbox())
        elif self._closing:
            # Busy for good: nothing comes after on_close.
            self._busy = True
            try:
                result = self.connection.on_close()
            except _FAILURES as error:
                self._failed("on_close", error)
            else:
                if isawaitable(result):
                    self._spawn(self._finish_close(result))
                    return
            self._end()

    def _tell(self) -> Awaitable[object] | None:
        """Run ``on_dropped``; return what is to be awaited of it."""
        self._untold = False
        self._telling = True
        count, self._dropped = self._dropped, 0
        try:
            result = self.connection.on_dropped(count)
        except _FAILURES as error:
            self._failed("on_dropped", error)
        else:
            if isawaitable(result):
                return result
        self._telling = False
        return None

    async def _finish_telling(self, result: Awaitable[object]) -> None:
        await self._guard("on_dropped", result)
        self._telling = False
        await self._finish_inbox()

    def _end(self) -> None:
        self.is_over = True
        self._session._break_reference_cycle()

    def forget(self) -> None:
        """Let go of session and connection."""
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
        await self._finish_inbox(await self._next_turn())

    async def _next_turn(self) -> float:
        """Let others run; return how many seconds of the next turn the callbacks may take."""
        try:
            return await self._turns.next()
        except asyncio.CancelledError as error:
            self._failed("on_message", error)
            return self._turns.share

    async def _finish_inbox(self, budget: float | None = None) -> None:
        if self._inbox:
            left = step = 1
            deadline = monotonic() + (self._turns.share if budget is None else budget)
        while self._inbox:
            if self._untold:
                telling = self._tell()
                if telling is not None:
                    await self._guard("on_dropped", telling)
                    self._telling = False
                continue
            message = self._inbox.popleft()
            self.backlog -= len(message) + _MESSAGE_SHARE
            if not self._inbox:
                self._session._inbox_drained()
            try:
                result = self.connection.on_message(message)
            except _FAILURES as error:
                self._failed("on_message", error)
            else:
                if isawaitable(result):
                    await self._guard("on_message", result)
            left -= 1
            if not left and self._inbox:
                left = step
                step = min(2 * step, MAX_STEP)
                if monotonic() >= deadline:
                    # If an awaitable has let others run already, this wait is not needed, and costs one turn.
                    deadline = await self._next_turn() + monotonic()
                    left = step = 1
        self._done()

    def _guard(self, name: str, result: Awaitable[object]) -> Awaitable[object]:
        # One coroutine for each awaitable, not two: this is run for each message of an `async def`.
        return self._await(name, result) if self._timeout is None else self._await_in_time(name, result)

    async def _await_in_time(self, name: str, result: Awaitable[object]) -> object:
        assert self._timeout is not None
        task = asyncio.current_task()
        assert task is not None
        manager = self._session.server.container
        deadline = _Deadline(manager, self._timeout, partial(self._expire, name, task))
        try:
            return await self._await(name, result)
        finally:
            manager.cancel(deadline)
            if self._expired:
                self._expired = False
                task.uncancel()

    async def _await(self, name: str, result: Awaitable[object]) -> object:
        try:
            return await result
        except _FAILURES as error:
            if not self._expired:
                self._failed(name, error)
            return None

    def _expire(self, name: str, task: "asyncio.Task[Any]") -> None:
        """Call off what takes too long; its session ends now, whatever it makes of that."""
        self._expired = True
        self._failed(name, TimeoutError(f"takes longer than callback_timeout ({self._timeout:g} s)"))
        task.cancel()

    def _failed(self, name: str, error: BaseException) -> None:
        session = self._session
        if isinstance(error, ConnectionClosed) and (session.is_closed or name != "on_open"):
            # Somebody left while the callback was waiting for it: the ordinary end of a conversation. What this client
            # had sent is still worth hearing, unless it was not let in yet.
            logger.debug("%s of %r ended with a connection", name, session)
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
            log.write(logger, logging.ERROR, name, "%s of %r failed", name, session, error=error, session=session)
            session.close(CloseCode.INTERNAL_ERROR, "Internal error")


class _Deadline:
    """When an awaitable of a callback has taken too long.

    Args:
        manager: What keeps the deadline.
        seconds: How long it may take.
        expire: Called then.
    """

    __slots__ = ("_expire", "_manager", "bucket", "due")

    def __init__(self, manager: "SessionManager", seconds: float, expire: Callable[[], None]) -> None:
        self._manager = manager
        self._expire = expire
        self.bucket: int | None = None
        self.due = manager.now() + seconds
        manager.schedule(self)

    def check(self, now: float) -> None:
        """Cancel it, unless what it waits for may have arrived while the event loop stood still."""
        if not self._manager.postpone(self, now):
            self.due = inf
            self._expire()


def _is_cancelled() -> bool:
    """Tell whether the running task is being cancelled, rather than something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
