"""Limit how often a function is called, for notifications about many clients to many clients."""

import asyncio
from collections.abc import Callable

INTERVAL = 0.1  # seconds


class Throttle:
    """Calls a function on request, but at most once per `INTERVAL` seconds: requests in between lead to one call.

    If 1,200 clients disconnect at once and each one were a notification to all others, that would be 720,000 messages.
    With one notification that names all of them, it is 1,200 messages per interval.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.last_call = float("-inf")
        self.timer: asyncio.TimerHandle | None = None  # set while a call is scheduled

    def __call__(self) -> None:
        """Call the function now, or schedule a call if the last one was too recent."""
        if self.timer is None:
            loop = asyncio.get_running_loop()
            delay = self.last_call + INTERVAL - loop.time()
            if delay > 0:
                self.timer = loop.call_later(delay, self.flush)
            else:
                self.flush()

    def flush(self) -> None:
        """Call the function immediately."""
        self.cancel()
        self.last_call = asyncio.get_running_loop().time()
        self.function()

    def cancel(self) -> None:
        """Cancel a scheduled call."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
