"""How fast a client may send, and how much many may hold together."""

from typing import Final

__all__ = ["UNCOUNTED_BYTES", "BudgetShare", "ByteBudget", "RateLimit"]

#: Bytes that each may hold without asking: about as much as every connection takes while a request's head is read.
UNCOUNTED_BYTES: Final = 64 * 1024


class RateLimit:
    """A token bucket: so many a second on average, and so many at once.

    Args:
        rate: Tokens that come in a second.
        burst: Tokens that the bucket holds; it is full to begin with.
        now: The time, in seconds.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def consume(self, count: int, now: float, stall: float = 0.0) -> bool:
        """Take ``count`` tokens; where there are not so many, take none and return False.

        Args:
            count: How many.
            now: The time.
            stall: For how long nothing was read, though it had arrived. What was sent in that time comes at once, and
                the bucket holds the tokens of that time as well.
        """
        most = self._burst + stall * self._rate
        self._tokens = min(most, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if count > self._tokens:
            return False
        self._tokens -= count
        return True


class ByteBudget:
    """Bytes that many hold together.

    Args:
        limit: How many there may be, 0 for any number.

    Attributes:
        used: How many there are.
    """

    __slots__ = ("_limit", "used")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0

    def has_room(self, size: int) -> bool:
        """Return whether ``size`` bytes more are within the limit."""
        return not self._limit or self.used + size <= self._limit


class BudgetShare:
    """What one of them holds. :data:`UNCOUNTED_BYTES` of it count for nothing."""

    __slots__ = ("_budget", "_counted")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._counted = 0

    def fits(self, size: int) -> bool:
        """Return whether it may become ``size`` bytes in all."""
        more = max(size - UNCOUNTED_BYTES, 0) - self._counted
        return more <= 0 or self._budget.has_room(more)

    def resize(self, size: int) -> None:
        """Count ``size`` bytes in all; ask :meth:`fits` before it becomes larger."""
        counted = max(size - UNCOUNTED_BYTES, 0)
        self._budget.used += counted - self._counted
        self._counted = counted
