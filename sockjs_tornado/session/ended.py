"""Recently ended sessions, by id, so that a late poll gets the close frame of its session.

When a phone wakes up, it polls with the id of a session that has expired. If a new session were opened for it, the
application would receive the rest of a conversation without its beginning.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

#: Seconds for which the id of an ended session is remembered.
ENDED_TIME: Final = 60

#: Maximum number of remembered sessions, and of characters in their ids and reasons. The oldest are evicted first.
MAX_ENDED: Final = 20_000
MAX_ENDED_SIZE: Final = 4 * 1024 * 1024


class Ended(NamedTuple):
    """How a session ended, and the client that opened it: the network of its address, and the hash of its origin."""

    code: int
    reason: str
    ip: str
    origin_hash: int | None


class EndedSessions:
    """Recently ended sessions. There is no timer: expired entries are removed when a session is added."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # In the order of expiry, each with its expiry time.
        self._all: dict[str, tuple[float, Ended]] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._all)

    def add(self, session_id: str, ended: Ended) -> None:
        """Add a session that has just ended."""
        self.discard(session_id)
        now = self._now()
        self._all[session_id] = (now + ENDED_TIME, ended)
        self._size += _size(session_id, ended)
        while self._all:
            oldest = next(iter(self._all))
            until, _ = self._all[oldest]
            if until > now and len(self._all) <= MAX_ENDED and self._size <= MAX_ENDED_SIZE:
                break
            self.discard(oldest)

    def get(self, session_id: str) -> Ended | None:
        """Return how a session ended; None if the id is unknown or has expired."""
        until, ended = self._all.get(session_id, (0.0, None))
        return ended if until > self._now() else None

    def discard(self, session_id: str) -> None:
        """Remove a session."""
        entry = self._all.pop(session_id, None)
        if entry is not None:
            self._size -= _size(session_id, entry[1])


def _size(session_id: str, ended: Ended) -> int:
    return len(session_id) + len(ended.reason)
