"""Who holds a session, where that is fixed: each session belongs to one of a fixed number of workers by its name."""

import hashlib
from collections.abc import Callable, Sequence

from .ownership import Location, Owner

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

    opens_relayed_sessions = True

    def __init__(self, addresses: Sequence[str], own: int, secret: bytes) -> None:
        self._secret = secret[: hashlib.blake2s.MAX_KEY_SIZE]
        self._owners = [Owner(node_id(worker), address) for worker, address in enumerate(addresses)]
        self._own = self._owners[own]
        self.others = [owner for owner in self._owners if owner is not self._own]

    def _owner_of(self, key: str) -> Owner:
        digest = hashlib.blake2s(key.encode("utf-8", "surrogateescape"), digest_size=8, key=self._secret).digest()
        return self._owners[int.from_bytes(digest) % len(self._owners)]

    def owns(self, key: str) -> bool:
        """Tell whether a session belongs to this worker."""
        return self._owner_of(key) is self._own

    async def claim(self, key: str, on_lost: Callable[[], None]) -> Owner | Location:
        """Return whose session it is."""
        return await self.locate(key)

    async def locate(self, key: str) -> Owner | Location:
        """Return whose session it is."""
        owner = self._owner_of(key)
        return Location.HERE if owner is self._own else owner

    async def wait_for_pending_claim(self, key: str) -> None:
        """Return at once: it is always known."""

    def claim_later(self, key: str, on_lost: Callable[[], None]) -> None:
        """Do nothing: what belongs to whom does not change."""

    def release(self, key: str) -> None:
        """Do nothing."""

    def retire(self, key: str) -> None:
        """Do nothing: the worker itself knows of it."""

    async def write_tombstone(self, key: str, owner: Owner) -> None:
        """Do nothing: the worker may be back soon."""


def node_id(worker: int) -> str:
    """Return a worker's name."""
    return f"worker-{worker}"
