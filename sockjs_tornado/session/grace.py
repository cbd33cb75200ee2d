"""What the event loop owes to others after it stood still: time to read what had arrived.

A callback that blocks, a paused process or a burst of work makes the event loop stand still. Meanwhile polls and pongs
arrive in the kernel: on accepted connections, in the listen backlog, or as SYNs that TCP repeats because the backlog is
full. The timers that are due by then run before the loop has read all that: on uvloop before it reads anything, on
asyncio before it has accepted new connections and read from them. So every timeout would strike, although nobody is
late. Therefore a timer that runs late begins a grace period, in which nobody is called late.
"""

import asyncio
import contextlib
import math
from contextlib import AbstractAsyncContextManager
from time import monotonic
from types import TracebackType
from typing import Final, Self

__all__ = ["LATE", "MAX_GRACE", "Grace", "timeout"]

#: Seconds by which a timer may be late without a grace period: a busy machine, not a loop that stood still.
LATE: Final = 0.1

#: Seconds that a grace period lasts at most, however long the loop stood still and however often it does so meanwhile.
#: Constant overload postpones a timeout by no more than that.
MAX_GRACE: Final = 30.0

#: Runs of the timer in the time of a :func:`timeout`.
_STEPS: Final = 10


class Grace:
    """The time that peers are given after the event loop stood still.

    It is as long as the loop stood still: what arrived meanwhile is read faster than it was sent, and TCP repeats a
    SYN after intervals that double, so that a client which found the backlog full connects within as long again.

    A loop that stands still during a grace period prolongs it, up to :data:`MAX_GRACE` after its beginning. Then
    everything that is due is done before another grace period may begin.

    Args:
        interval: Seconds between two runs of the timer. The loop may have stood still for so long before the timer was
            due.

    Attributes:
        end: Until when nobody is called late, in the timer's seconds.
        stall: For how long the loop stood still before that, at most.
    """

    __slots__ = ("_interval", "_is_over", "_limit", "end", "stall")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self.end = -math.inf
        self.stall = 0.0
        # When the grace period has to end, infinity if there is none.
        self._limit = math.inf
        # Whether it ended, and what is due is being done.
        self._is_over = False

    def timer_ran(self, lag: float, now: float) -> None:
        """Begin, prolong or end a grace period.

        Args:
            lag: Seconds by which the timer was late.
            now: The time.
        """
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
        """Called when everything that was due before ``until`` is done."""
        # What was postponed is due at the end.
        if self._is_over and self.end < until:
            self._is_over = False
            self._limit = math.inf


def timeout(seconds: float | None) -> AbstractAsyncContextManager[object]:
    """Return an async context manager like that of ``asyncio.timeout``, but with a grace period.

    Args:
        seconds: How long the block may take, None for any time. If the event loop stood still, what the block waits for
            may have arrived, and it may take longer by the grace period.
    """
    return contextlib.nullcontext() if seconds is None else _Timeout(seconds)


class _Timeout:
    __slots__ = ("_due", "_end", "_grace", "_interval", "_scope", "_timer")

    def __init__(self, seconds: float) -> None:
        self._interval = seconds / _STEPS
        self._grace = Grace(self._interval)
        # Not the loop's own time: uvloop's stands still with the loop.
        self._end = monotonic() + seconds
        self._scope = asyncio.timeout(None)

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._set_timer()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._scope.__aexit__(kind, error, traceback)

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
