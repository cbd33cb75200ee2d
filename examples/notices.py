"""News that many should hear soon, and no more than once in a while."""

import asyncio
from collections.abc import Callable

DELAY = 0.1  # seconds


class Soon:
    """Calls a function when it is asked to, but never twice within `DELAY` seconds: what happens meanwhile is one call.

    If each of 1,200 people who leave at once were a notice to all the others, that would be 720,000 messages. A notice
    that names all who have left since the last one makes it 1,200 for each tenth of a second.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.called = float("-inf")
        self.timer: asyncio.TimerHandle | None = None  # while there is something to tell

    def __call__(self) -> None:
        """Have the function called."""
        if self.timer is None:
            loop = asyncio.get_running_loop()
            wait = self.called + DELAY - loop.time()
            if wait > 0:
                self.timer = loop.call_later(wait, self.now)
            else:
                self.now()

    def now(self) -> None:
        """Call it now."""
        self.cancel()
        self.called = asyncio.get_running_loop().time()
        self.function()

    def cancel(self) -> None:
        """Call it no more for what has happened so far."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
