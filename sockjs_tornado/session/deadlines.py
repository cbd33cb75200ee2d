"""Deadlines of many objects, with one timer."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

from ..observe.logs import ThrottledLog
from .grace import LATE, Grace

if TYPE_CHECKING:
    from .container import SessionContainer

logger = logging.getLogger(__name__)

#: Maximum number of owners that are checked before the loop runs other callbacks.
BATCH_SIZE: Final = 200

#: Deadlines beyond this are never checked. It is 30 million years, and the number of a bucket must be finite.
_NEVER: Final = 1e15


class Deadline(Protocol):
    """An object that has a deadline."""

    #: The deadline in monotonic seconds; infinity for none.
    due: float
    #: Used by :class:`Deadlines`; initially None.
    bucket: int | None

    def check(self, now: float) -> None:
        """Called when the deadline has passed. Before it treats a peer as late, it calls :meth:`Deadlines.postpone`."""


Buckets = dict[int, set[Deadline]]


def _enter_bucket_python(
    buckets: Buckets, resolution: float, on_new: Callable[[int], None], owner: Deadline, /
) -> None:
    """Move ``owner`` to the bucket of its deadline, if it is in none, or in a later one.

    Args:
        buckets: The buckets by their numbers.
        resolution: Span of a bucket in seconds.
        on_new: Called with the number of a bucket that was created.
        owner: The object that has the deadline.
    """
    if owner.due > _NEVER:
        return
    # The bucket is due when all of its span has passed.
    bucket = int(max(owner.due, 0.0) / resolution) + 1
    if owner.bucket is not None:
        if owner.bucket <= bucket:
            return
        _leave_bucket_python(buckets, owner)
    owner.bucket = bucket
    members = buckets.get(bucket)
    if members is None:
        buckets[bucket] = {owner}
        on_new(bucket)
    else:
        members.add(owner)


def _leave_bucket_python(buckets: Buckets, owner: Deadline, /) -> None:
    """Remove ``owner`` from its bucket, if it is in one, and delete the bucket if it is empty."""
    bucket = owner.bucket
    if bucket is not None:
        owner.bucket = None
        members = buckets.get(bucket)
        if members is not None:
            members.discard(owner)
            if not members:
                del buckets[bucket]


try:
    from .._speedups import enter_bucket, leave_bucket
except ImportError:  # the C module was not built
    enter_bucket, leave_bucket = _enter_bucket_python, _leave_bucket_python


class Deadlines:
    """Check many deadlines with one timer.

    Owners are kept in buckets, one for each span of time. If a deadline moves later, its owner stays in its bucket and
    is moved when the bucket is due. So a frequent change, such as that of a poll, costs nothing here.

    Args:
        resolution: Span of a bucket in seconds; a deadline is checked late by at most that.
        interval: Maximum time in seconds between two runs of the timer. If the event loop is blocked for longer, that
            is detected.

    Attributes:
        schedule: Called with an owner; calls ``owner.check`` when ``owner.due`` has passed.
        cancel: Called with an owner; removes its deadline.
    """

    def __init__(
        self,
        resolution: float,
        interval: float,
        now: Callable[[], float],
        log: ThrottledLog,
    ) -> None:
        self._resolution = resolution
        self._interval = interval
        self._now = now
        self._log = log
        self._grace = Grace(interval)
        self._buckets: Buckets = {}
        # Without functions in Python: opening and closing a websocket schedules three deadlines and cancels two.
        self.schedule = partial(enter_bucket, self._buckets, resolution, self._set_timer)
        self.cancel = partial(leave_bucket, self._buckets)
        # It may run once more after the last deadline was removed.
        self._timer: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer_due = 0.0

    def postpone(self, owner: Deadline, now: float) -> bool:
        """Postpone a deadline to the end of the grace period; return False if there is none.

        ``owner.check`` calls this before it treats a peer as late, because data of the peer may be unread. A deadline
        of the server's own, such as that of a heartbeat, is not postponed.
        """
        if now >= self._grace.end:
            return False
        owner.due = self._grace.end
        return True

    def stall_duration(self, now: float) -> float:
        """Return for how many seconds the event loop was blocked just now; 0 if it was not.

        Data that arrived in that time is read at once. On asyncio it is read before the timer runs.
        """
        if now < self._grace.end:
            return self._grace.stall
        lag = now - self._timer_due if self._timer is not None else 0.0
        return lag + self._interval if lag > LATE else 0.0

    def close(self) -> None:
        """Stop the timer and remove all deadlines."""
        for members in self._buckets.values():
            for owner in members:
                owner.bucket = None
        self._buckets.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._grace = Grace(self._interval)

    def _set_timer(self, bucket: int) -> None:
        """Run the timer when ``bucket`` is due, or earlier."""
        due = bucket * self._resolution
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            # The timer of a loop that has ended never runs.
            if self._timer_due <= due and self._loop is loop:
                return
            self._timer.cancel()
        now = self._now()
        self._timer_due = min(max(due, now), now + self._interval)
        self._timer = loop.call_later(self._timer_due - now, self._run)
        self._loop = loop

    def _run(self) -> None:
        self._timer = None
        now = self._now()
        lag = max(now - self._timer_due, 0.0)
        self._grace.timer_ran(lag, now)
        current = int(now / self._resolution)
        left = BATCH_SIZE
        for bucket in [bucket for bucket in self._buckets if bucket <= current]:
            # Look the bucket up each time: a check may delete it, and make another one with the same number.
            while left and (members := self._buckets.get(bucket)):
                left -= 1
                self._check_owner(members.pop(), bucket, now)
            if self._buckets.get(bucket):
                # Yield to the loop's other callbacks.
                self._set_timer(bucket)
                return
            self._buckets.pop(bucket, None)
        self._grace.all_done(current * self._resolution if self._buckets else inf)
        if self._buckets:
            self._set_timer(min(self._buckets))

    def _check_owner(self, owner: Deadline, bucket: int, now: float) -> None:
        if owner.due <= now:
            try:
                owner.check(now)
            except Exception as error:
                # An application may override it; the other deadlines must be checked all the same.
                message = "Checking the deadline of %r failed"
                self._log.write(logger, logging.ERROR, "deadline", message, owner, error=error)
        # Not if check() has cancelled or scheduled it.
        if owner.bucket == bucket:
            owner.bucket = None
            # If check() has not moved the deadline, remove it: it would be due again at once, forever.
            if owner.due > now:
                self.schedule(owner)


class CallbackTimeout:
    """The timeout of an awaitable of the current task. It calls ``on_expired``, then cancels the task."""

    __slots__ = ("_container", "_on_expired", "_task", "bucket", "due", "has_expired")

    def __init__(self, container: "SessionContainer", seconds: float, on_expired: Callable[[], None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._container = container
        self._on_expired = on_expired
        self.has_expired = False
        self.bucket: int | None = None
        self.due = container.now() + seconds
        container.schedule(self)

    def check(self, now: float) -> None:
        """Cancel the task, unless the event loop was blocked: then the awaitable may be about to complete."""
        if not self._container.postpone(self, now):
            self.due = inf
            self.has_expired = True
            self._on_expired()
            self._task.cancel()

    def cancel(self) -> None:
        """Called when the awaitable has ended."""
        self._container.cancel(self)
        if self.has_expired:
            self._task.uncancel()
