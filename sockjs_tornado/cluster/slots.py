"""Owners of sessions in a fixed set of workers: the hash of a session's key determines its owner."""

import hashlib
from collections.abc import Callable, Sequence

from .ownership import Location, Owner

__all__ = ["Slots", "node_id"]


class Slots:
    """The sessions of one worker in a fixed set.

    Args:
        addresses: The addresses of all workers' listeners, in the same order on each worker.
        own: The index of this worker.
        secret: The secret that all workers share. It keys the hash, so that clients cannot choose a worker by the ids
            of their sessions.

    Attributes:
        own: This worker.
        others: The other workers.
    """

    opens_relayed_sessions = True

    def __init__(self, addresses: Sequence[str], own: int, secret: bytes) -> None:
        self._secret = secret[: hashlib.blake2s.MAX_KEY_SIZE]
        self._owners = [Owner(node_id(worker), address) for worker, address in enumerate(addresses)]
        self.own = self._owners[own]
        self.others = [owner for owner in self._owners if owner is not self.own]

    def _owner_of(self, key: str) -> Owner:
        digest = hashlib.blake2s(key.encode("utf-8", "surrogateescape"), digest_size=8, key=self._secret).digest()
        return self._owners[int.from_bytes(digest) % len(self._owners)]

    def owns(self, key: str) -> bool:
        """Return whether a session belongs to this worker."""
        return self._owner_of(key) is self.own

    async def claim(self, key: str, on_lost: Callable[[], None]) -> Owner | Location:
        """Return the session's owner."""
        return await self.locate(key)

    async def locate(self, key: str) -> Owner | Location:
        """Return the session's owner."""
        owner = self._owner_of(key)
        return Location.HERE if owner is self.own else owner

    async def wait_for_pending_claim(self, key: str) -> None:
        """Return immediately: the owner is always known."""

    def claim_later(self, key: str, on_lost: Callable[[], None]) -> None:
        """Do nothing: the owner of a session does not change."""

    def release(self, key: str) -> None:
        """Do nothing."""

    def retire(self, key: str) -> None:
        """Do nothing: the owner itself knows that the session has ended."""

    async def write_tombstone(self, key: str, owner: Owner) -> None:
        """Do nothing: the worker may be restarted soon."""


def node_id(worker: int) -> str:
    """Return a worker's id."""
    return f"worker-{worker}"
