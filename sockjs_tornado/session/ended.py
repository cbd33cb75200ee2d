"""Sessions that ended, by their ids: what a client is told that comes too late.

A phone that wakes up polls with the id of a session that expired meanwhile. To open a new session for it would have the
application hear the rest of a conversation whose beginning it does not know. So the client gets the close frame of the
session that it had.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["ENDED_TIME", "MAX_ENDED", "MAX_ENDED_SIZE", "Ended", "EndedSessions"]

#: Seconds for which the id of a session that ended is remembered.
ENDED_TIME: Final = 60

#: Sessions that are remembered at most, and characters of their ids and close reasons. The oldest are forgotten first.
MAX_ENDED: Final = 20_000
MAX_ENDED_SIZE: Final = 4 * 1024 * 1024


class Ended(NamedTuple):
    """How a session ended, and whose it was.

    Attributes:
        code: Its close code.
        reason: The same in words.
        ip: What the address that opened it counts as, see :func:`~sockjs_tornado.session.addresses.network_of`.
        origin_hash: Hash of the origin that opened it.
    """

    code: int
    reason: str
    ip: str
    origin_hash: int


class EndedSessions:
    """Sessions that ended not long ago. There is no timer: what is too old goes with the next one that comes.

    Args:
        now: Returns monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # In the order in which they are forgotten, each with the time of that.
        self._all: dict[str, tuple[float, Ended]] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._all)

    def add(self, session_id: str, ended: Ended) -> None:
        """Remember a session that ended just now."""
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
        """Return how a session ended, None if it is unknown or too long ago."""
        until, ended = self._all.get(session_id, (0.0, None))
        return ended if until > self._now() else None

    def discard(self, session_id: str) -> None:
        """Forget a session."""
        entry = self._all.pop(session_id, None)
        if entry is not None:
            self._size -= _size(session_id, entry[1])


def _size(session_id: str, ended: Ended) -> int:
    return len(session_id) + len(ended.reason)
