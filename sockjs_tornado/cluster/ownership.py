"""The owners of sessions: the port through which the relay finds the node that holds a session, and its simplest form.

A session's key is the router's prefix and the session id.
"""

import hashlib
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple


class Owner(NamedTuple):
    """A node that owns sessions.

    Attributes:
        node: The node's id.
        address: The address of its listener: ``http://host:port``, ``https://host:port``, or the path of a Unix socket.
    """

    node: str
    address: str


class Location(Enum):
    """Where a session is if no other node owns it."""

    HERE = "here"
    NOWHERE = "nowhere"
    #: Its owner is gone, and the session with it.
    LOST = "lost"


class Ownership:
    """The owners of sessions. The methods without a result do nothing if owners never change.

    Attributes:
        opens_relayed_sessions: Whether a relayed request may open a session.
    """

    opens_relayed_sessions: bool

    def owns(self, key: str) -> bool:
        """Return whether this node owns a session, or may open it without a claim."""
        raise NotImplementedError

    async def claim(self, key: str, on_lost: Callable[[], None]) -> Owner | Location:
        """Make this node the owner of a session, unless another node is; call ``on_lost`` if one becomes it later.

        Raises:
            ClusterUnavailable: The owner cannot be determined.
        """
        return await self.locate(key)

    async def locate(self, key: str) -> Owner | Location:
        """Return where a session is.

        Raises:
            ClusterUnavailable: The owner cannot be determined.
        """
        raise NotImplementedError

    async def wait_for_pending_claim(self, key: str) -> None:
        """Wait until this node's pending claim of a session, if any, has succeeded or failed."""

    def claim_later(self, key: str, on_lost: Callable[[], None]) -> None:
        """Own a session without a claim, and claim it as soon as possible."""

    def release(self, key: str) -> None:
        """Give up the ownership of a session that no client knows."""

    def retire(self, key: str) -> None:
        """Give up the ownership of a session that has ended. For a while, no other node can claim it."""

    async def write_tombstone(self, key: str, owner: Owner) -> None:
        """Record that a session's owner is gone, so that no node opens the session again for a while.

        Raises:
            ClusterUnavailable: The tombstone cannot be written.
        """


class Slots(Ownership):
    """Owners that never change: the hash of a session's key determines its worker.

    Args:
        owners: All workers, in the same order on each of them.
        own: This worker.
        secret: The key of the hash, so that clients cannot choose a worker by the ids of their sessions.
    """

    opens_relayed_sessions = True

    def __init__(self, owners: Sequence[Owner], own: Owner, secret: bytes) -> None:
        self._owners = owners
        self._own = own
        self._secret = secret[: hashlib.blake2s.MAX_KEY_SIZE]

    def _owner_of(self, key: str) -> Owner:
        digest = hashlib.blake2s(key.encode("utf-8", "surrogateescape"), digest_size=8, key=self._secret).digest()
        return self._owners[int.from_bytes(digest) % len(self._owners)]

    def owns(self, key: str) -> bool:
        return self._owner_of(key) is self._own

    async def locate(self, key: str) -> Owner | Location:
        owner = self._owner_of(key)
        return Location.HERE if owner is self._own else owner
