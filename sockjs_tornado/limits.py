"""How fast a client may send."""

__all__ = ["RateLimit"]


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

    def take(self, count: int, now: float) -> bool:
        """Take ``count`` tokens; where there are not so many, take none and return False."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if count > self._tokens:
            return False
        self._tokens -= count
        return True
