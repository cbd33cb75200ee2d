"""Counters of a router."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from ..protocol import CloseCode

try:
    from .._speedups import CountersCore
except ImportError:  # the C module was not built

    class CountersCore:  # type: ignore[no-redef]
        """The base class, which in C has the counters that C increments."""


#: Minimum number of seconds over which the rates of :meth:`Stats.dump` are averaged, if there are samples that old.
_WINDOW: Final = 10.0

#: Minimum number of seconds for which a peak of the timer lag is kept.
_PEAK_WINDOW: Final = 30.0

#: Upper limits of the histogram of slow callbacks, in seconds.
SLOW_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, math.inf)

#: Maximum number of different close codes to count, besides those of CloseCode. Clients may choose any of 2,000 codes.
_MAX_CODES: Final = 64
_KNOWN: Final = frozenset(map(int, CloseCode))


class _Counts(Counter[Any]):
    """A Counter whose items are set in half the time, with the methods of ``dict``, which are written in C."""

    __setitem__ = dict.__setitem__
    __delitem__ = dict.__delitem__

    def __repr__(self) -> str:
        return repr(Counter(self))


class Stats(CountersCore):
    """Counters of one router. There is no background task.

    Args:
        sessions: Returns all sessions.
        now: Returns the monotonic time in seconds.

    Attributes:
        sessions: Open sessions by transport.
        opened: Opened sessions by transport.
        closed: Closed sessions by close code. If there are more than 64 codes without a name, the others count as
            ``"other"``.
        connections: Receivers (receiving requests and websockets) that were attached to sessions.
        messages_sent: Messages sent to clients.
        messages_received: Messages received from clients.
        messages_dropped: Messages dropped because a client was too slow.
        bytes_sent: Bytes sent on websockets, streams and polls, without response heads.
        bytes_received: Bytes received on websockets and in POST bodies.
        rejected: Rejected requests, sessions and messages, by the setting or check that rejected them.
        callback_errors: Callbacks that raised an exception or timed out, by name.
        slow_callback_buckets: Cumulative histogram of the callbacks that blocked for ``slow_callback_duration`` or
            longer: the number that took at most 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5 and 10 seconds, and the number of all.
        slow_callback_seconds: Total seconds of these callbacks.
        timer_lag: Delay of a timer at its last run, in seconds. The router runs it every 0.1 s, to show for how long
            the event loop is blocked.
    """

    def __init__(self, sessions: Callable[[], Iterable[Any]], now: Callable[[], float] = time.monotonic) -> None:
        self._all_sessions = sessions
        self._now = now
        self.sessions: Counter[str] = _Counts()
        self.opened: Counter[str] = _Counts()
        self.closed: Counter[int | str] = _Counts()
        self.connections = 0
        self.messages_sent = 0
        self.messages_received = 0
        self.messages_dropped = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.rejected: Counter[str] = Counter()
        self.callback_errors: Counter[str] = Counter()
        self.slow_callback_buckets = [0] * len(SLOW_BUCKETS)
        self.slow_callback_seconds = 0.0
        #: The middle of each of the last slow callbacks, in monotonic seconds, and the seconds that were recorded.
        self.recent_slow: deque[tuple[float, float]] = deque(maxlen=100)
        self.timer_lag = 0.0
        self._peak = self._peak_before = 0.0
        self._peak_since = now()
        self._samples = deque([self._sample()])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sessions={dict(+self.sessions)!r} opened={dict(self.opened)!r}>"

    def session_opened(self, transport: str) -> None:
        """Count an opened session."""
        self.sessions[transport] += 1
        self.opened[transport] += 1

    def session_closed(self, transport: str, code: int) -> None:
        """Count a closed session."""
        self.sessions[transport] -= 1
        known = code in _KNOWN or code in self.closed or len(self.closed) < _MAX_CODES
        self.closed[code if known else "other"] += 1

    def record_slow_callback(self, seconds: float) -> None:
        """Count a callback that has blocked the event loop."""
        self.slow_callback_seconds += seconds
        for position, limit in enumerate(SLOW_BUCKETS):
            self.slow_callback_buckets[position] += seconds <= limit
        self._age()
        self._peak = max(self._peak, seconds)

    def record_lag(self, seconds: float) -> None:
        """Record the delay of the timer."""
        self.timer_lag = seconds
        self._age()
        self._peak = max(self._peak, seconds)

    @property
    def timer_lag_peak(self) -> float:
        """Maximum timer lag, or time of a blocking callback, of the last 30 to 60 seconds."""
        self._age()
        return max(self._peak, self._peak_before)

    def _age(self) -> None:
        age = self._now() - self._peak_since
        if age >= _PEAK_WINDOW:
            self._peak_before = self._peak if age < 2 * _PEAK_WINDOW else 0.0
            self._peak = 0.0
            self._peak_since += age

    def snapshot(self) -> dict[str, Any]:
        """Return all counters by attribute name, serializable as JSON.

        The result also contains ``attached``, the number of sessions with a receiver; ``queued``, the characters queued
        for clients; ``backlog``, the characters queued for callbacks; and ``timer_lag_peak``. Instead of
        ``slow_callback_buckets``, it contains ``slow_callbacks``, their number. The method iterates over all sessions,
        which takes some hundredths of a second for 100,000 sessions.
        """
        attached = queued = backlog = 0
        for session in self._all_sessions():
            attached += session.is_attached
            queued += session.queued
            backlog += session.backlog
        return {
            "sessions": dict(+self.sessions),
            "attached": attached,
            "queued": queued,
            "backlog": backlog,
            "opened": dict(self.opened),
            "closed": {str(code): count for code, count in self.closed.items()},
            "connections": self.connections,
            "messages_sent": self.messages_sent,
            "messages_received": self.messages_received,
            "messages_dropped": self.messages_dropped,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "rejected": dict(self.rejected),
            "callback_errors": dict(self.callback_errors),
            "slow_callbacks": self.slow_callback_buckets[-1],
            "slow_callback_seconds": self.slow_callback_seconds,
            "timer_lag": self.timer_lag,
            "timer_lag_peak": self.timer_lag_peak,
        }

    def _sample(self) -> tuple[float, int, int, int]:
        return self._now(), self.connections, self.messages_sent, self.messages_received

    def dump(self) -> dict[str, float]:
        """Return the counters by the keys of sockjs-tornado 1.0.

        ``sessions_active`` and ``transp_NAME`` are open sessions, ``connections_active`` those with a receiver.
        ``connections_ps``, ``packets_sent_ps`` and ``packets_recv_ps`` are rates per second, averaged over the last 10
        seconds or the time since the previous call.
        """
        sessions = [session for session in self._all_sessions() if session.is_accepted and not session.is_closed]
        current = self._sample()
        while len(self._samples) > 1 and current[0] - self._samples[1][0] >= _WINDOW:
            self._samples.popleft()
        before = self._samples[0]
        self._samples.append(current)
        seconds = current[0] - before[0]
        connections, sent, received = (
            (new - old) / seconds if seconds > 0 else 0.0 for new, old in zip(current[1:], before[1:], strict=True)
        )
        transports = Counter(session.transport_name for session in sessions)
        return {
            "sessions_active": len(sessions),
            "connections_active": sum(session.is_attached for session in sessions),
            "connections_ps": connections,
            "packets_sent_ps": sent,
            "packets_recv_ps": received,
            **{f"transp_{name}": count for name, count in transports.items()},
        }
