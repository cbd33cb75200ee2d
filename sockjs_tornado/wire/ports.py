"""The interfaces that connections are written against. The session package implements them, and so do tests."""

from typing import Any, Protocol

from ..observe.stats import Stats
from .time_budget import TimeBudget
from .write_queue import WriteQueue


class Container(Protocol):
    """Counts connections and schedules their deadlines. The session container implements it."""

    #: Read buffer shared by all connections of an event loop. It is processed before the next read.
    read_buffer: bytearray
    #: The time that decoding may take, shared by all connections.
    read_budget: TimeBudget
    #: Connections with buffered data.
    write_queue: WriteQueue

    @property
    def stats(self) -> Stats:
        """Counters of the bytes sent and received."""

    def now(self) -> float:
        """Return the monotonic time in seconds."""

    def schedule(self, owner: Any) -> None:
        """Call ``owner.check`` when ``owner.due`` is reached."""

    def cancel(self, owner: Any) -> None:
        """Cancel the deadline of ``owner``."""

    def postpone(self, owner: Any, now: float) -> bool:
        """Postpone the deadline if the event loop was blocked, and return whether it was postponed."""

    def connection_opened(self) -> None:
        """Count a new connection."""

    def connection_closed(self) -> None:
        """Stop counting a connection."""
