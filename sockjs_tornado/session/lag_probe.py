"""A timer that shows for how long the event loop was blocked, by whatever ran in it."""

import asyncio
import logging
import weakref
from time import monotonic
from typing import Final

from ..observe.logs import ThrottledLog
from ..observe.stats import Stats

logger = logging.getLogger(__name__)

#: Seconds between two runs. If the loop is blocked before the timer is due, that time is not measured: at most 0.1 s,
#: also on uvloop, whose timers may run 1.5 ms early. A run costs 0.1 ms of CPU time, mostly to wake the process.
INTERVAL: Final = 0.098


class LagProbe:
    """Measures how late a timer runs, and logs it, unless callbacks that were reported explain it.

    It does not keep the router alive.

    Args:
        limit: Seconds from which on a delay is logged.
    """

    __slots__ = ("__weakref__", "_due", "_limit", "_log", "_loop", "_reported", "_stats", "_tick", "_timer")

    def __init__(self, limit: float, log: ThrottledLog, stats: Stats) -> None:
        self._limit = limit
        self._log = log
        self._stats = stats
        # Seconds of slow callbacks that were reported before the last run.
        self._reported = stats.slow_callback_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._tick = 0

    def start(self) -> None:
        """Measure the running event loop from now on, in place of the previous one."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self.stop()
            self._loop = loop
            self._tick = 0
            self._schedule(monotonic())

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None

    def record(self, lag: float) -> None:
        """Record that the timer has run ``lag`` seconds late."""
        self._stats.record_lag(lag)
        if lag >= self._limit:
            unexplained = lag - (self._stats.slow_callback_seconds - self._reported)
            if unexplained >= self._limit:
                self._log.write(
                    logger,
                    logging.WARNING,
                    "lag",
                    "the event loop was blocked or stopped for at least %.3f s, because the machine is overloaded, "
                    "or by other code of the application, such as its tasks, request handlers and the callbacks of "
                    "other routers: PYTHONASYNCIODEBUG=1 makes asyncio log which callback is slow "
                    "(slow_callback_duration)",
                    unexplained,
                )
        self._reported = self._stats.slow_callback_seconds

    def _schedule(self, now: float) -> None:
        # At multiples of the interval, so that the timers of several routers wake the process once. A timer may run
        # early, but not twice for one of them.
        self._tick = max(self._tick, int(now / INTERVAL)) + 1
        self._due = self._tick * INTERVAL
        assert self._loop is not None
        self._timer = self._loop.call_later(self._due - now, _run, weakref.ref(self))

    def run(self) -> None:
        """Called by the timer."""
        now = monotonic()
        self.record(max(now - self._due, 0.0))
        self._schedule(now)


def _run(reference: "weakref.ref[LagProbe]") -> None:
    probe = reference()
    if probe is not None:
        probe.run()
