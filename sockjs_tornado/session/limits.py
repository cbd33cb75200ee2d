"""Rate limits for clients."""

__all__ = ["RateLimit"]


class RateLimit:
    """A token bucket.

    Args:
        rate: Tokens a second.
        burst: Size of the bucket, which is full at first.
        now: The time in seconds.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def consume(self, count: int, now: float, stall: float = 0.0) -> bool:
        """Consume ``count`` tokens and return True; if there are not enough, consume none and return False.

        Args:
            count: Number of tokens.
            now: The time in seconds.
            stall: Seconds for which the event loop was blocked. Messages that arrived in that time are read as one
                burst, so the bucket is larger by the tokens of that time.
        """
        size = self._burst + stall * self._rate
        self._tokens = min(size, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if count > self._tokens:
            return False
        self._tokens -= count
        return True
