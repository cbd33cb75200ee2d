"""Memory budgets that request bodies and incomplete websocket messages share."""

from typing import Final

#: Bytes of each share that are not counted: about as many as a connection needs to read the head of a request.
UNCOUNTED_BYTES: Final = 64 * 1024


class ByteBudget:
    """A limit for the memory that many requests use together, in bytes; 0 for no limit."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: Number of bytes in use.
        self.used = 0


class BudgetShare:
    """The share of one request or connection in a budget. The first :data:`UNCOUNTED_BYTES` are not counted."""

    __slots__ = ("_budget", "_counted")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._counted = 0

    def fits(self, size: int) -> bool:
        """Return whether the share may grow to ``size`` bytes."""
        more = max(size - UNCOUNTED_BYTES, 0) - self._counted
        limit = self._budget.limit
        return more <= 0 or not limit or self._budget.used + more <= limit

    def resize(self, size: int) -> None:
        """Set the size of the share in bytes. Call :meth:`fits` before it grows."""
        counted = max(size - UNCOUNTED_BYTES, 0)
        self._budget.used += counted - self._counted
        self._counted = counted
