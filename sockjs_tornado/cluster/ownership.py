"""The port through which the relay asks who holds a session."""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol

__all__ = ["Location", "Owner", "Ownership"]


class Owner(NamedTuple):
    """Another node that holds a session.

    Attributes:
        node: Its id.
        address: Where its listener is.
    """

    node: str
    address: str


class Location(Enum):
    """Where a session is that no other node holds."""

    HERE = "here"
    NOWHERE = "nowhere"
    #: Its node was lost, and the session with it.
    LOST = "lost"


class Ownership(Protocol):
    """Who holds which session. A session goes by a key of its router and its id.

    Attributes:
        opens_relayed_sessions: Whether a request that another node passes on may open a session.
    """

    opens_relayed_sessions: bool

    def owns(self, key: str) -> bool:
        """Tell whether this node holds a session, or may open it now."""

    async def claim(self, key: str, on_lost: Callable[[], None]) -> Owner | Location:
        """Have this node hold a session, unless another one does.

        Args:
            key: Of the session.
            on_lost: Called where another node holds it later on, all the same.

        Raises:
            ClusterUnavailable: Nobody can tell.
        """

    async def locate(self, key: str) -> Owner | Location:
        """Return who holds a session.

        Raises:
            ClusterUnavailable: Nobody can tell.
        """

    async def wait_for_pending_claim(self, key: str) -> None:
        """Wait while it is not known yet whether this node holds a session."""

    def claim_later(self, key: str, on_lost: Callable[[], None]) -> None:
        """Hold a session without asking; the claim is made when it can be."""

    def release(self, key: str) -> None:
        """Hold a session no more."""

    def retire(self, key: str) -> None:
        """Hold a session no more that ended. For a while, no other node may open it."""

    async def write_tombstone(self, key: str, owner: Owner) -> None:
        """Have nobody open a session whose owner is lost, for a while.

        Raises:
            ClusterUnavailable: It cannot be written down.
        """
