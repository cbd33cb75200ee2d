"""A timer of each event loop that shows for how long the loop was blocked, by whatever ran in it."""

import asyncio
import logging
from time import monotonic
from typing import Final
from weakref import WeakKeyDictionary, WeakSet

from ..observe.logs import ThrottledLog
from ..observe.stats import Stats

logger = logging.getLogger(__name__)

#: Seconds between two runs. If the loop is blocked before the timer is due, that time is not measured: at most 0.1 s,
#: also on uvloop, whose timers may run 1.5 ms early. A run costs 0.1 ms of CPU time, mostly to wake the process.
INTERVAL: Final = 0.098


class LagProbe:
    """Records for one router how late the timer of its event loop runs.

    The timer does not keep the router alive.

    Args:
        limit: Seconds from which on a delay is logged, unless slow callbacks that were reported explain it.
    """

    __slots__ = ("__weakref__", "_reported", "_timer", "limit", "log", "stats")

    def __init__(self, limit: float, log: ThrottledLog, stats: Stats) -> None:
        self.limit = limit
        self.log = log
        self.stats = stats
        # Seconds of slow callbacks that were reported before the last run.
        self._reported = stats.slow_callback_seconds
        self._timer: LagTimer | None = None

    def start(self) -> None:
        """Measure the running event loop from now on, in place of the previous one."""
        loop = asyncio.get_running_loop()
        timer = _timers.get(loop)
        if timer is None:
            timer = _timers[loop] = LagTimer()
            timer.schedule(monotonic())
        if timer is not self._timer:
            self.stop()
            self._timer = timer
            timer.probes.add(self)

    def stop(self) -> None:
        """Do not measure any more."""
        if self._timer is not None:
            self._timer.probes.discard(self)
            self._timer = None

    def take_slow_seconds(self) -> float:
        """Return the seconds of slow callbacks that were reported since the last call."""
        before, self._reported = self._reported, self.stats.slow_callback_seconds
        return self._reported - before


class LagTimer:
    """The timer of an event loop, which runs once an interval while a router is measured.

    Attributes:
        probes: The probes of the routers that use the event loop.
    """

    __slots__ = ("_due", "_tick", "probes")

    def __init__(self) -> None:
        self.probes: WeakSet[LagProbe] = WeakSet()
        self._due = 0.0
        self._tick = 0

    def schedule(self, now: float) -> None:
        """Run at the next multiple of the interval. A timer may run early, but not twice for one of them."""
        self._tick = max(self._tick, int(now / INTERVAL)) + 1
        self._due = self._tick * INTERVAL
        # Without a reference to the handle, which has one to the event loop, and would keep it in _timers.
        asyncio.get_running_loop().call_later(self._due - now, self.run)

    def run(self) -> None:
        """Called by the event loop."""
        # References, since the garbage collector may remove routers at any time.
        probes = list(self.probes)
        if not probes:
            del _timers[asyncio.get_running_loop()]
            return
        now = monotonic()
        lag = max(now - self._due, 0.0)
        # First, since the application's log may raise an exception.
        self.schedule(now)
        self.record(lag)

    def record(self, lag: float) -> None:
        """Record that the timer has run ``lag`` seconds late. It is logged once, whatever the number of routers."""
        probes = list(self.probes)
        for probe in probes:
            probe.stats.record_lag(lag)
        unexplained = lag - sum(probe.take_slow_seconds() for probe in probes)
        probe = min(probes, key=lambda probe: probe.limit)
        if unexplained >= probe.limit:
            probe.log.write(
                logger,
                logging.WARNING,
                "lag",
                "the event loop was blocked or stopped for at least %.3f s, because the machine is overloaded, or by "
                "other code of the application, such as its tasks and request handlers: PYTHONASYNCIODEBUG=1 makes "
                "asyncio log which callback is slow (slow_callback_duration)",
                unexplained,
            )


#: The timers of the event loops on which a router is measured.
_timers: WeakKeyDictionary[asyncio.AbstractEventLoop, LagTimer] = WeakKeyDictionary()
