"""Time limit for websocket messages whose end does not come."""

from collections.abc import Callable
from math import inf
from typing import Any, Final, Protocol

__all__ = ["MessageDeadline"]

#: Seconds that a message may take from its first byte to its last.
MESSAGE_TIME: Final = 60.0

#: Bytes that earn a message another second. So one of 10 MiB may take 12 minutes at most.
BYTES_PER_SECOND: Final = 16 * 1024


class Timer(Protocol):
    """What keeps deadlines. The container is one."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def schedule(self, owner: Any) -> None:
        """Call ``owner.check`` once ``owner.due`` has come."""

    def cancel(self, owner: Any) -> None:
        """Forget a deadline."""

    def postpone(self, owner: Any, now: float) -> bool:
        """Return whether nobody is late yet, because the event loop stood still; ``owner.check`` is called again."""


class MessageDeadline:
    """The deadline of a message of which some bytes have come, but not the last.

    Args:
        timer: What keeps the deadline.
        is_reading: Returns whether the connection is read. While it is not, the client cannot be late.
        on_late: Called when the message has taken too long.

    Attributes:
        due: When :meth:`check` has to be called.
        bucket: The timer's note of where it keeps that deadline.
        size: Bytes of the message that have come, as they were sent.
    """

    __slots__ = ("_begun", "_is_reading", "_on_late", "_timer", "bucket", "due", "size")

    def __init__(self, timer: Timer, is_reading: Callable[[], bool], on_late: Callable[[], None]) -> None:
        self._timer = timer
        self._is_reading = is_reading
        self._on_late = on_late
        self._begun = timer.now()
        self.size = 0
        self.bucket: int | None = None
        self.due = self._begun + MESSAGE_TIME
        timer.schedule(self)

    def check(self, now: float) -> None:
        """Report the message as late, unless enough of it has come in time."""
        self.due = self._begun + MESSAGE_TIME + self.size / BYTES_PER_SECOND
        if not self._is_reading():
            self._begun = now
            self.due = now + MESSAGE_TIME
        elif now >= self.due and not self._timer.postpone(self, now):
            self.due = inf
            self._on_late()

    def end(self) -> None:
        """Forget the deadline: the message is complete, or nobody waits for it."""
        self._timer.cancel(self)
        self.due = inf
