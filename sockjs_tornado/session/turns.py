"""Sharing the turns of the event loop: for how long clients may keep each other waiting."""

import asyncio
from typing import Final

try:
    from .._speedups import TurnsCore
except ImportError:  # where it was not built

    class TurnsCore:  # type: ignore[no-redef]
        """The field that ``session.c`` reads before it delivers several messages."""

        __slots__ = ("share",)


__all__ = ["CALLBACK_BUDGET", "MAX_STEP", "Turns"]

#: Seconds that callbacks may take of a turn. The messages that are left wait for the next one.
CALLBACK_BUDGET: Final = 0.010

#: Messages between two looks at the clock. It is looked at after messages 1, 2, 4, 8, 16, 32, 48 and so on, so that
#: callbacks which take equally long exceed their budget by its double at most. ``session.c`` does the same.
MAX_STEP: Final = 16


class Turns(TurnsCore):
    """How the callbacks of a router's sessions share the turns of the event loop.

    Args:
        budget: Seconds that callbacks may take of a turn.

    Attributes:
        share: Seconds that a session which has several messages to deliver may take of this turn. While others wait for
            the next turn this one's budget is used up: the session delivers one message, and waits too. So the bound
            holds for all sessions together, apart from one message of each.
    """

    __slots__ = ("_budget", "_waiting")

    def __init__(self, budget: float) -> None:
        self._budget = self.share = budget
        self._waiting = 0

    def use_up(self) -> None:
        """Note that this turn's time is used up: sessions that deliver after this one deliver one message each."""
        if self.share:
            self.share = 0.0
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Begin a turn, which belongs to those that wait for it if there are any."""
        if not self._waiting:
            self.share = self._budget

    async def next(self) -> float:
        """Wait for the next turn, with a session whose callbacks have used up their time.

        Returns:
            How many seconds its callbacks may take of that turn. All that wait share one budget.
        """
        self._waiting += 1
        self.use_up()
        try:
            await asyncio.sleep(0)
            return self._budget / self._waiting
        finally:
            self._waiting -= 1
            self._begin()
