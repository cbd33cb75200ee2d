"""Who holds a session, where that is fixed: each session belongs to one of a fixed number of workers by its name."""

import zlib
from collections.abc import Callable, Sequence

from .ownership import Holder, Place

__all__ = ["Slots"]


class Slots:
    """The sessions of one worker among several.

    Args:
        addresses: Where each worker's listener is, in the same order for all.
        own: Which of them this is.

    Attributes:
        others: The other workers.
    """

    opens_for_others = True

    def __init__(self, addresses: Sequence[str], own: int) -> None:
        self._holders = [Holder(node_id(worker), address) for worker, address in enumerate(addresses)]
        self._own = self._holders[own]
        self.others = [holder for holder in self._holders if holder is not self._own]

    def _holder(self, key: str) -> Holder:
        # Python's own hash is another one in each process.
        return self._holders[zlib.crc32(key.encode("utf-8", "surrogateescape")) % len(self._holders)]

    def holds(self, key: str) -> bool:
        """Tell whether a session belongs to this worker."""
        return self._holder(key) is self._own

    async def claim(self, key: str, on_lost: Callable[[], None]) -> Holder | Place:
        """Return whose session it is."""
        return await self.find(key)

    async def find(self, key: str) -> Holder | Place:
        """Return whose session it is."""
        holder = self._holder(key)
        return Place.HERE if holder is self._own else holder

    async def settled(self, key: str) -> None:
        """Return at once: it is always known."""

    def hold(self, key: str, on_lost: Callable[[], None]) -> None:
        """Do nothing: what belongs to whom does not change."""

    def release(self, key: str) -> None:
        """Do nothing."""

    async def bury(self, key: str, holder: Holder) -> None:
        """Do nothing: the worker may be back soon."""


def node_id(worker: int) -> str:
    """Return a worker's name."""
    return f"worker-{worker}"
