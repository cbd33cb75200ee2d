"""The port through which the relay finds the owner of a session: the node that holds it."""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol

__all__ = ["Location", "Owner", "Ownership"]


class Owner(NamedTuple):
    """A node that owns sessions.

    Attributes:
        node: The node's id.
        address: The address of its listener: ``http://host:port``, or the path of a Unix socket.
    """

    node: str
    address: str


class Location(Enum):
    """Where a session is if no other node owns it."""

    HERE = "here"
    NOWHERE = "nowhere"
    #: Its owner is gone, and the session with it.
    LOST = "lost"


class Ownership(Protocol):
    """The owners of sessions. A session's key is the router's prefix and the session id.

    Attributes:
        opens_relayed_sessions: Whether a relayed request may open a session.
    """

    opens_relayed_sessions: bool

    def owns(self, key: str) -> bool:
        """Return whether this node owns a session, or may open it without a claim."""

    async def claim(self, key: str, on_lost: Callable[[], None]) -> Owner | Location:
        """Make this node the owner of a session, unless another node is.

        Args:
            key: The session.
            on_lost: Called if another node becomes the owner later.

        Raises:
            ClusterUnavailable: The owner cannot be determined.
        """

    async def locate(self, key: str) -> Owner | Location:
        """Return where a session is.

        Raises:
            ClusterUnavailable: The owner cannot be determined.
        """

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
