"""The timeout of a callback's awaitable."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .container import SessionContainer

__all__ = ["CallbackTimeout"]


class CallbackTimeout:
    """The timeout of an awaitable of the current task.

    Args:
        manager: Schedules the deadline.
        seconds: The timeout.
        on_expired: Called when it has expired, before the task is cancelled.

    Attributes:
        has_expired: Whether the timeout has cancelled the task.
    """

    __slots__ = ("_manager", "_on_expired", "_task", "bucket", "due", "has_expired")

    def __init__(self, manager: "SessionContainer", seconds: float, on_expired: Callable[[], None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._manager = manager
        self._on_expired = on_expired
        self.has_expired = False
        self.bucket: int | None = None
        self.due = manager.now() + seconds
        manager.schedule(self)

    def check(self, now: float) -> None:
        """Cancel the task, unless the event loop was blocked: then the awaitable may be about to complete."""
        if not self._manager.postpone(self, now):
            self.due = inf
            self.has_expired = True
            self._on_expired()
            self._task.cancel()

    def cancel(self) -> None:
        """Called when the awaitable has ended."""
        self._manager.cancel(self)
        if self.has_expired:
            self._task.uncancel()
