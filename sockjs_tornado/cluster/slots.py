"""Who holds a session, where that is fixed: each session belongs to one of a fixed number of workers by its name."""

import hashlib
from collections.abc import Callable, Sequence

from .ownership import Holder, Place

__all__ = ["Slots"]


class Slots:
    """The sessions of one worker among several.

    Args:
        addresses: Where each worker's listener is, in the same order for all.
        own: Which of them this is.
        secret: What all of them share. Without it, clients would choose the worker by the names that they choose.

    Attributes:
        others: The other workers.
    """

    opens_for_others = True

    def __init__(self, addresses: Sequence[str], own: int, secret: bytes) -> None:
        self._secret = secret[: hashlib.blake2s.MAX_KEY_SIZE]
        self._holders = [Holder(node_id(worker), address) for worker, address in enumerate(addresses)]
        self._own = self._holders[own]
        self.others = [holder for holder in self._holders if holder is not self._own]

    def _holder(self, key: str) -> Holder:
        digest = hashlib.blake2s(key.encode("utf-8", "surrogateescape"), digest_size=8, key=self._secret).digest()
        return self._holders[int.from_bytes(digest) % len(self._holders)]

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

    def retire(self, key: str) -> None:
        """Do nothing: the worker itself knows of it."""

    async def bury(self, key: str, holder: Holder) -> None:
        """Do nothing: the worker may be back soon."""


def node_id(worker: int) -> str:
    """Return a worker's name."""
    return f"worker-{worker}"
