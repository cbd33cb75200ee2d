"""Limits on the time that callbacks, or decoding, may take in one iteration of the event loop."""

import asyncio
import math
from collections.abc import Generator
from time import monotonic
from typing import Any

try:
    from .._speedups import MAX_STEP, MIN_CHARGE, TimeBudgetCore
except ImportError:  # the C module was not built
    #: Maximum number of messages between two clock reads. The clock is read after messages 1, 2, 4, 8, 16, 32, 48 and
    #: so on. If all callbacks take equally long, and less than the budget, together they take at most twice the budget.
    MAX_STEP = 16

    #: Seconds below which a delivery is not charged. Otherwise a thousand clients that send several messages at once to
    #: a fast callback would use up the budget, and their messages would be deferred, which costs three times as much.
    MIN_CHARGE = 0.001

    class TimeBudgetCore:  # type: ignore[no-redef]
        """The fields that ``_c/session.c`` reads before it delivers messages."""

        __slots__ = ("available", "slow_after")


class TimeBudget(TimeBudgetCore):
    """The budget that all sessions of a router share for callbacks, or all its connections for decoding.

    Args:
        seconds: Seconds that all may take together in one iteration of the event loop.
        slow_after: Seconds from which on callbacks are reported; infinity for never.

    Attributes:
        available: Seconds that are left in this iteration; 0 if they are used up, and while sessions wait. If it is 0,
            a session delivers one message (a connection decodes one piece) and waits for the next iteration. So each
            session or connection exceeds the limit at most by one message, or by :data:`MIN_CHARGE`.
    """

    __slots__ = ("_seconds", "_waiting")

    def __init__(self, seconds: float, slow_after: float = math.inf) -> None:
        self.slow_after = slow_after
        self._seconds = self.available = seconds
        self._waiting = 0

    def charge(self, seconds: float) -> None:
        """Deduct the time that a delivery took from this iteration's, if it is at least :data:`MIN_CHARGE`."""
        if seconds >= MIN_CHARGE and 0 < self.available < math.inf:
            if self.available == self._seconds:
                asyncio.get_running_loop().call_soon(self._refill)
            self.available = max(0.0, self.available - seconds)

    def exhaust(self) -> None:
        """Mark this iteration's budget as used up."""
        self.charge(math.inf)

    def _refill(self) -> None:
        """Start an iteration with a full budget, unless sessions wait: then the waiting sessions share it."""
        if not self._waiting:
            self.available = self._seconds

    async def wait(self) -> float:
        """Wait for the next iteration of the event loop, and return the waiting session's equal share of its time."""
        self._waiting += 1
        self.exhaust()
        try:
            await asyncio.sleep(0)
            share = self._seconds / self._waiting
        finally:
            self._waiting -= 1
        if self._seconds and not self._waiting:
            # Refill in the next iteration, because the sessions that waited use this one's time.
            asyncio.get_running_loop().call_soon(self._refill)
        return share


class Turn:
    """The delivery of several messages of one session in one iteration of the event loop, or in consecutive ones.

    Awaiting it waits for the next iteration, in which at least one message may be delivered.

    Attributes:
        left: Messages to deliver before :meth:`is_over` is called. The caller counts down.
    """

    __slots__ = ("_budget", "_deadline", "_started", "_step", "left")

    def __init__(self, budget: TimeBudget) -> None:
        self._budget = budget
        self._started = monotonic()
        self._deadline = self._started + budget.available
        self.left = self._step = 1

    def is_over(self) -> bool:
        """Return whether the time is used up."""
        self.left = self._step
        self._step = min(2 * self._step, MAX_STEP)
        return monotonic() >= self._deadline

    def charge(self) -> None:
        """Deduct the time that the delivery has taken."""
        self._budget.charge(monotonic() - self._started)

    def __await__(self) -> Generator[Any, Any, None]:
        share = yield from self._budget.wait().__await__()
        self._started = monotonic()
        self._deadline = self._started + share
        # Deliver one message before the clock is read. 2, because _run_due counts down before each message.
        self.left, self._step = 2, 1
