"""Counting what a router does."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from ..protocol import CloseCode

try:
    from .._speedups import CountersCore
except ImportError:  # where it was not built

    class CountersCore:  # type: ignore[no-redef]
        """What is counted for each message."""

        __slots__ = ("bytes_received", "messages_received", "messages_sent")


__all__ = ["Stats"]

#: Seconds that the rates are averaged over, at the least where there are samples that old.
_WINDOW: Final = 10.0

#: Seconds for which a high timer lag is remembered, at the least.
_PEAK_WINDOW: Final = 30.0

#: Close codes that are counted each by itself, beside those that have a name: clients choose theirs, of some thousands.
_MAX_CODES: Final = 64
_KNOWN: Final = frozenset(map(int, CloseCode))


class CountedSession(Protocol):
    """What is read from a session."""

    @property
    def transport_name(self) -> str:
        """Its transport."""

    @property
    def is_accepted(self) -> bool:
        """Whether the application has let its client in."""

    @property
    def is_closed(self) -> bool:
        """Whether it is over for the application."""

    @property
    def is_attached(self) -> bool:
        """Whether its client listens at this moment."""

    @property
    def queued(self) -> int:
        """Characters that wait for its client."""

    @property
    def backlog(self) -> int:
        """Characters that wait for its callbacks."""


class Stats(CountersCore):
    """Counters of one router; nothing runs while nobody asks.

    Args:
        sessions: Returns all sessions.
        now: Returns monotonic seconds.

    Attributes:
        sessions: Open sessions, by transport.
        opened: Sessions that clients have opened, by transport.
        closed: Sessions that have ended, by close code; beyond those that have a name and 64 others under
            ``"other"``.
        connections: Receiving requests and websockets that were attached to sessions.
        messages_sent: Messages handed to receivers.
        messages_received: Messages taken from clients.
        messages_dropped: Messages that waited for clients which did not take them, and were given up.
        bytes_sent: Bytes written to websockets, streams and polls, without the heads of responses.
        bytes_received: Bytes read from websockets and of the bodies of POSTs.
        rejected: What was refused, by the setting or the check that did it.
        callback_errors: Callbacks that raised, or took too long, by name.
        timer_lag: Seconds by which the router's timer was late the last time that it went off: what a callback that
            blocks makes everybody wait.
    """

    __slots__ = (
        "_all_sessions",
        "_now",
        "_peak",
        "_peak_before",
        "_peak_since",
        "_samples",
        "bytes_sent",
        "callback_errors",
        "closed",
        "connections",
        "messages_dropped",
        "opened",
        "rejected",
        "sessions",
        "timer_lag",
    )

    def __init__(
        self, sessions: Callable[[], Iterable[CountedSession]], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._all_sessions = sessions
        self._now = now
        self.sessions: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()
        self.closed: Counter[int | str] = Counter()
        self.connections = 0
        self.messages_sent = 0
        self.messages_received = 0
        self.messages_dropped = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.rejected: Counter[str] = Counter()
        self.callback_errors: Counter[str] = Counter()
        self.timer_lag = 0.0
        self._peak = self._peak_before = 0.0
        self._peak_since = now()
        self._samples = deque([self._sample()])

    def session_opened(self, transport: str) -> None:
        """Count a session that a client has opened."""
        self.sessions[transport] += 1
        self.opened[transport] += 1

    def session_closed(self, transport: str, code: int) -> None:
        """Count its end."""
        self.sessions[transport] -= 1
        known = code in _KNOWN or code in self.closed or len(self.closed) < _MAX_CODES
        self.closed[code if known else "other"] += 1

    def record_lag(self, seconds: float) -> None:
        """Hear by how much the timer was late."""
        self.timer_lag = seconds
        self._age()
        self._peak = max(self._peak, seconds)

    @property
    def timer_lag_peak(self) -> float:
        """The highest timer lag of the last 30 to 60 seconds."""
        self._age()
        return max(self._peak, self._peak_before)

    def _age(self) -> None:
        age = self._now() - self._peak_since
        if age >= _PEAK_WINDOW:
            self._peak_before = self._peak if age < 2 * _PEAK_WINDOW else 0.0
            self._peak = 0.0
            self._peak_since += age

    def snapshot(self) -> dict[str, Any]:
        """Return all figures under the names of the attributes, as JSON can take them.

        Beside them: ``attached``, the sessions whose client listens at this moment; ``queued``, characters that wait
        for clients in the server, and ``backlog``, for callbacks; ``timer_lag_peak``. It looks at every session, which
        for 100,000 takes some hundredths of a second.
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
            "timer_lag": self.timer_lag,
            "timer_lag_peak": self.timer_lag_peak,
        }

    def _sample(self) -> tuple[float, int, int, int]:
        return self._now(), self.connections, self.messages_sent, self.messages_received

    def dump(self) -> dict[str, float]:
        """Return the figures under the keys that sockjs-tornado 1.0 gave them.

        ``sessions_active`` and ``transp_NAME`` count open sessions, ``connections_active`` those whose client listens
        at this moment; ``connections_ps``, ``packets_sent_ps`` and ``packets_recv_ps`` are per second, averaged over
        the last 10 seconds or the time since the call before.
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
