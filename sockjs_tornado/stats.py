"""Counting what a router does."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Protocol

__all__ = ["Stats"]

#: Seconds that the rates are averaged over, at the least where there are samples that old.
_WINDOW = 10.0


class CountedSession(Protocol):
    """What is read from a session."""

    @property
    def transport_name(self) -> str:
        """Its transport."""

    @property
    def is_attached(self) -> bool:
        """Whether its client listens at this moment."""


class Stats:
    """Counters of one router; nothing runs while nobody asks.

    Args:
        sessions: Returns the open sessions.
        now: Returns monotonic seconds.

    Attributes:
        connections: Receiving requests and websockets that were attached to sessions.
        messages_sent: Messages handed to receivers.
        messages_received: Messages taken from clients.
        messages_dropped: Messages that waited for clients which did not take them, and were given up.
        rejected: What was refused, by the limit that did it.
    """

    __slots__ = (
        "_now",
        "_samples",
        "_sessions",
        "connections",
        "messages_dropped",
        "messages_received",
        "messages_sent",
        "rejected",
    )

    def __init__(
        self, sessions: Callable[[], Iterable[CountedSession]], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._sessions = sessions
        self._now = now
        self.connections = 0
        self.messages_sent = 0
        self.messages_received = 0
        self.messages_dropped = 0
        self.rejected: Counter[str] = Counter()
        self._samples = deque([self._sample()])

    def _sample(self) -> tuple[float, int, int, int]:
        return self._now(), self.connections, self.messages_sent, self.messages_received

    def dump(self) -> dict[str, float]:
        """Return the figures under the keys that sockjs-tornado 1.0 gave them.

        ``sessions_active`` and ``transp_NAME`` count open sessions, ``connections_active`` those whose client listens
        at this moment; ``connections_ps``, ``packets_sent_ps`` and ``packets_recv_ps`` are per second, averaged over
        the last 10 seconds or the time since the call before.
        """
        sessions = list(self._sessions())
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
