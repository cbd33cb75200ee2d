"""Time limit for incomplete websocket messages."""

from collections.abc import Callable
from math import inf
from typing import Final

from ..wire.ports import ConnectionManager

__all__ = ["MessageDeadline"]

#: Seconds that a message may take from its first to its last byte.
MESSAGE_TIME: Final = 60.0

#: Received bytes that extend the deadline by one second. A message of 10 MiB may take up to 12 minutes.
BYTES_PER_SECOND: Final = 16 * 1024


class MessageDeadline:
    """The deadline of an incomplete message.

    Args:
        manager: Schedules the deadline.
        is_reading: Returns whether the connection is read. If not, the deadline starts over.
        on_late: Called when the deadline has passed.

    Attributes:
        due: Time of the next call of :meth:`check`.
        bucket: Used by the manager to find the deadline.
        size: Received bytes of the message, before decompression.
    """

    __slots__ = ("_begun", "_is_reading", "_manager", "_on_late", "bucket", "due", "size")

    def __init__(self, manager: ConnectionManager, is_reading: Callable[[], bool], on_late: Callable[[], None]) -> None:
        self._manager = manager
        self._is_reading = is_reading
        self._on_late = on_late
        self._begun = manager.now()
        self.size = 0
        self.bucket: int | None = None
        self.due = self._begun + MESSAGE_TIME
        manager.schedule(self)

    def check(self, now: float) -> None:
        """Call ``on_late`` if the deadline, extended by the bytes received, has passed."""
        self.due = self._begun + MESSAGE_TIME + self.size / BYTES_PER_SECOND
        if not self._is_reading():
            self._begun = now
            self.due = now + MESSAGE_TIME
        elif now >= self.due and not self._manager.postpone(self, now):
            self.due = inf
            self._on_late()

    def end(self) -> None:
        """Cancel the deadline: the message is complete, or the connection is closing."""
        self._manager.cancel(self)
        self.due = inf
