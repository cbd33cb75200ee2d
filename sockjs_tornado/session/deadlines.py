"""Deadlines: many behind one timer."""

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import Final, Protocol

from ..observe.logs import ThrottledLog
from .grace import LATE, Grace

__all__ = ["BATCH_SIZE", "Deadline", "Deadlines", "LagRecorder"]

logger = logging.getLogger(__name__)

#: Owners that are checked before the loop's other callbacks have their turn.
BATCH_SIZE: Final = 200

#: Deadlines beyond this are treated as "never": 30 million years, and no bucket has a number for what may lie beyond.
_NEVER: Final = 1e15


class Deadline(Protocol):
    """Somebody who has a deadline."""

    #: When, in monotonic seconds; infinity for never.
    due: float
    #: Kept by :class:`Deadlines`; None to begin with.
    bucket: int | None

    def check(self, now: float) -> None:
        """Do what is due. Before a peer is called late, :meth:`Deadlines.postpone` has to be asked."""


class LagRecorder(Protocol):
    """What is told by how much the timer was late."""

    def record_lag(self, seconds: float) -> None:
        """Take notice of it."""


class Deadlines:
    """Many deadlines behind one timer.

    They stand in buckets of a fixed span of time. A deadline that moves later stays where it is and is moved when its
    bucket comes up, so that what happens often (a poll that comes back) costs nothing here.

    Args:
        resolution: Seconds that a bucket spans, by which a deadline may be late.
        interval: Seconds after which the timer runs at the latest while there is a deadline. A loop that stands still
            for longer is noticed; for a client that is in time by more than that, nothing else matters.
        now: Returns monotonic seconds.
        log: Where it goes when somebody fails at a deadline.
        stats: Is told by how much the timer was late.
    """

    def __init__(
        self, resolution: float, interval: float, now: Callable[[], float], log: ThrottledLog, stats: LagRecorder
    ) -> None:
        self._resolution = resolution
        self._interval = interval
        self._now = now
        self._log = log
        self._stats = stats
        self._grace = Grace(interval)
        self._buckets: dict[int, set[Deadline]] = {}
        self._timer: asyncio.Handle | None = None
        self._timer_due = 0.0

    def schedule(self, owner: Deadline) -> None:
        """See that ``owner.check`` is called once ``owner.due`` has come."""
        if owner.due > _NEVER:
            return
        # One later: the bucket comes up when all of its span has passed.
        bucket = int(owner.due / self._resolution) + 1
        if owner.bucket is not None:
            if owner.bucket <= bucket:
                return
            self.cancel(owner)
        owner.bucket = bucket
        members = self._buckets.get(bucket)
        if members is None:
            self._buckets[bucket] = {owner}
            self._set_timer(bucket)
        else:
            members.add(owner)

    def cancel(self, owner: Deadline) -> None:
        """Forget a deadline."""
        bucket = owner.bucket
        if bucket is not None:
            owner.bucket = None
            members = self._buckets.get(bucket)
            if members is not None:
                members.discard(owner)
                if not members:
                    del self._buckets[bucket]

    def postpone(self, owner: Deadline, now: float) -> bool:
        """Move a deadline to the end of the grace period, if there is one.

        ``owner.check`` asks before it calls a peer late: what the peer sent may not have been read yet. What the server
        itself has to send by then, such as a heartbeat, is not postponed.

        Args:
            owner: Whose deadline has come.
            now: What ``owner.check`` was called with.

        Returns:
            Whether the deadline was moved; then nobody is late yet.
        """
        if now >= self._grace.end:
            return False
        owner.due = self._grace.end
        return True

    def stall_duration(self, now: float) -> float:
        """Return for how many seconds the loop stood still just now, 0 if it did not.

        What was sent in that time is read at once. On asyncio it is read before the timer runs.
        """
        if now < self._grace.end:
            return self._grace.stall
        lag = now - self._timer_due if self._timer is not None else 0.0
        return lag + self._interval if lag > LATE else 0.0

    def close(self) -> None:
        """Stop the timer and forget everything."""
        for members in self._buckets.values():
            for owner in members:
                owner.bucket = None
        self._buckets.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._grace = Grace(self._interval)

    def _set_timer(self, bucket: int) -> None:
        """Let the timer run for ``bucket``, or before."""
        due = bucket * self._resolution
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        now = self._now()
        self._timer_due = min(max(due, now), now + self._interval)
        self._timer = asyncio.get_running_loop().call_later(self._timer_due - now, self._run)

    def _run(self) -> None:
        self._timer = None
        now = self._now()
        lag = max(now - self._timer_due, 0.0)
        self._stats.record_lag(lag)
        self._grace.timer_ran(lag, now)
        current = int(now / self._resolution)
        left = BATCH_SIZE
        for bucket in [bucket for bucket in self._buckets if bucket <= current]:
            members = self._buckets.get(bucket, set())
            while members and left:
                left -= 1
                self._settle(members.pop(), bucket, now)
            if members:
                # The loop's other callbacks first.
                self._set_timer(bucket)
                return
            self._buckets.pop(bucket, None)
        self._grace.all_done(current * self._resolution if self._buckets else inf)
        if self._buckets:
            self._set_timer(min(self._buckets))

    def _settle(self, owner: Deadline, bucket: int, now: float) -> None:
        # Not one that an earlier owner's check moved.
        if owner.bucket == bucket:
            if owner.due <= now:
                try:
                    owner.check(now)
                except Exception as error:
                    # A subclass of the application's: the others' deadlines must not suffer.
                    self._log.write(logger, logging.ERROR, "deadline", "%r failed at its deadline", owner, error=error)
            # Nor has one that cancelled itself.
            if owner.bucket == bucket:
                owner.bucket = None
                # Who did nothing about a deadline has none any more: it would be due again at once, for ever.
                if owner.due > now:
                    self.schedule(owner)
