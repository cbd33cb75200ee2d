"""Sharing the turns of the event loop: for how long one client may keep the others waiting."""

import asyncio
from typing import Final

__all__ = ["CALLBACK_BUDGET", "MAX_STEP", "Turns"]

#: Seconds that the callbacks of one session may take of a turn. The messages that are left wait for the next one.
CALLBACK_BUDGET: Final = 0.010

#: Messages between two looks at the clock. It is looked at after messages 1, 2, 4, 8, 16, 32, 48 and so on, so that
#: callbacks which take equally long exceed their budget by its double at most. ``_session.c`` does the same.
MAX_STEP: Final = 16


class Turns:
    """How the callbacks of a router's sessions share the turns of the event loop.

    Args:
        budget: Seconds that the callbacks of one session may take of a turn.

    Attributes:
        budget: The same.
    """

    __slots__ = ("_waiting", "budget")

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self._waiting = 0

    async def next(self) -> float:
        """Wait for the next turn, with a session whose callbacks have used up their time.

        Returns:
            How many seconds its callbacks may take of that turn. All that wait share one budget: many of them keep the
            others waiting no longer than one does.
        """
        self._waiting += 1
        try:
            await asyncio.sleep(0)
            return self.budget / self._waiting
        finally:
            self._waiting -= 1
