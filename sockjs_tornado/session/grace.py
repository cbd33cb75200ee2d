"""Grace periods: timeouts are postponed after the event loop was blocked.

While a callback blocks the event loop, or the process is paused, polls and pongs wait in the kernel: on accepted
connections, in the listen backlog, or as SYNs that TCP retransmits because the backlog is full. When the loop goes on,
it runs the timers that are due before it has read that data: uvloop before it reads at all, asyncio before it has
accepted new connections. Therefore a timer that runs late starts a grace period in which no peer is treated as late.
"""

import asyncio
import contextlib
import math
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Any, Final, Self

#: Seconds by which a timer may be late without a grace period: on a busy machine that is normal.
LATE: Final = 0.1

#: Maximum length of a grace period in seconds, however long and often the loop is blocked. Permanent overload postpones
#: a timeout by no more than that.
MAX_GRACE: Final = 30.0

#: Number of timer runs in the time of a :func:`timeout`.
_STEPS: Final = 10


class Grace:
    """The grace period after the event loop was blocked.

    It lasts as long as the loop was blocked. Data that arrived in that time is read faster than it was sent, and TCP
    doubles the interval between retransmitted SYNs, so that a client which found the backlog full connects in time.

    If the loop is blocked again in a grace period, the period is extended, up to :data:`MAX_GRACE` after its start.
    Then all due deadlines are checked before another grace period can start.

    States: none (``_limit`` is infinity), running (``_limit`` is set), ending (``_is_over`` is set as well, until
    :meth:`all_done` is called with a later time).

    The loop may have been blocked for ``interval``, the time between two runs of the timer, before the timer was due.

    Attributes:
        end: End of the grace period, in the timer's seconds.
        stall: Upper bound of the seconds for which the loop was blocked.
    """

    __slots__ = ("_interval", "_is_over", "_limit", "end", "stall")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self.end = -math.inf
        self.stall = 0.0
        # Latest end of the grace period; infinity if there is none.
        self._limit = math.inf
        # Whether it has ended and the due deadlines are being checked.
        self._is_over = False

    def timer_ran(self, lag: float, now: float) -> None:
        """Start, extend or end a grace period, because the timer ran ``lag`` seconds late."""
        if self._is_over:
            return
        if lag > LATE and now < self._limit:
            if self._limit == math.inf:
                self._limit = now + MAX_GRACE
                self.stall = 0.0
            self.stall = max(self.stall, lag + self._interval)
            self.end = min(max(self.end, now + lag + self._interval), self._limit)
        elif now >= self.end and self._limit < math.inf:
            self._is_over = True

    def all_done(self, until: float) -> None:
        """Called when all deadlines before ``until`` were checked."""
        # Postponed deadlines are due at the end of the grace period.
        if self._is_over and self.end < until:
            self._is_over = False
            self._limit = math.inf


def timeout(seconds: float | None) -> AbstractAsyncContextManager[object]:
    """Return an async context manager like ``asyncio.timeout`` that is extended by grace periods."""
    return contextlib.nullcontext() if seconds is None else _Timeout(seconds)


class _Timeout:
    __slots__ = ("_due", "_end", "_grace", "_interval", "_scope", "_timer")

    def __init__(self, seconds: float) -> None:
        self._interval = seconds / _STEPS
        self._grace = Grace(self._interval)
        # Not the loop's time: uvloop does not advance it while the loop is blocked.
        self._end = monotonic() + seconds
        self._scope = asyncio.timeout(None)

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._set_timer()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._timer.cancel()
        await self._scope.__aexit__(*error)

    def _set_timer(self) -> None:
        now = monotonic()
        self._due = min(max(self._end, self._grace.end), now + self._interval)
        self._timer = asyncio.get_running_loop().call_later(self._due - now, self._run)

    def _run(self) -> None:
        now = monotonic()
        self._grace.timer_ran(now - self._due, now)
        if now < max(self._end, self._grace.end):
            self._grace.all_done(now)
            self._set_timer()
        else:
            self._scope.reschedule(asyncio.get_running_loop().time())
