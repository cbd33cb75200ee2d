"""Report what blocks the event loop: plain callbacks, which are measured, and anything else that delays the timer."""

import logging
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from ..observe.logs import ThrottledLog, session_fields
from ..observe.stats import Stats
from ..settings import Settings

if TYPE_CHECKING:
    from .session import Session

logger = logging.getLogger(__name__)


def slow_after(settings: Settings) -> float:
    """Return the seconds from which on a callback, or a delay of the timer, is reported; infinity for never."""
    return settings.slow_callback_duration or inf


def report_slow_callback(session: "Session", name: str, seconds: float) -> None:
    """Count and log a callback that has blocked the event loop until now."""
    connection = session._callbacks.connection
    if getattr(connection, "_is_carrier", False):
        # The callbacks of its channels ran within its own, and are reported themselves.
        return
    stats, now = session._stats, monotonic()
    # Slow callbacks that ran within this one, such as an on_close that it caused, were recorded themselves. Their
    # middle is compared, because the clock of C is coarse.
    own = seconds - sum(recorded for middle, recorded in stats.recent_slow if middle > now - seconds)
    if own < session._callbacks._slow_after:
        return
    stats.recent_slow.append((now - seconds / 2, own))
    stats.record_slow_callback(own)
    kind = type(connection)
    session._container.log.write(
        logger,
        logging.WARNING,
        ("slow", kind, name),
        "%s.%s blocked the event loop for %.3f s, in which no client was served: use `async def`, and "
        "`await asyncio.to_thread(...)` for blocking calls (slow_callback_duration)",
        kind.__qualname__,
        name,
        own,
        extra=session_fields(session.label, session.transport_name),
    )


class LagAlarm:
    """Logs that the timer ran late, unless callbacks that were reported explain it.

    Args:
        limit: Seconds from which on a delay is logged.
    """

    def __init__(self, limit: float, log: ThrottledLog, stats: Stats) -> None:
        self._limit = limit
        self._log = log
        self._stats = stats
        # What was reported before.
        self._reported = stats.slow_callback_seconds

    def timer_ran(self, lag: float) -> None:
        """Called when the timer has run ``lag`` seconds late."""
        if lag >= self._limit:
            unexplained = lag - (self._stats.slow_callback_seconds - self._reported)
            if unexplained >= self._limit:
                self._log.write(
                    logger,
                    logging.WARNING,
                    "lag",
                    "the event loop was blocked or stopped for at least %.3f s, by an async callback, by other code of "
                    "the application, or because the machine is overloaded: PYTHONASYNCIODEBUG=1 makes asyncio log "
                    "which callback is slow (slow_callback_duration)",
                    unexplained,
                )
        self._reported = self._stats.slow_callback_seconds
