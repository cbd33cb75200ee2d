"""The interfaces of which sessions and routers know several implementations."""

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..protocol import JSONValue, Outgoing, PreparedMessage
from .rooms import Rooms

if TYPE_CHECKING:
    from .control import Command
    from .session import Session


class Position(NamedTuple):
    """Position of a message in the history of its room.

    Attributes:
        offset: Number of the message; the first is 1.
        epoch: Identifies the history. It changes if the history was lost or has expired.
    """

    offset: int
    epoch: str


class PublishOptions(NamedTuple):
    """How a message is published by a cluster; see ``router.publish``."""

    history: int = 0
    ttl: float | None = None
    idempotency_key: str | None = None


class Receiver(Protocol):
    """The connection or request on which a client receives; the session writes to it.

    A receiver never changes the state of the session. It reports three kinds of event: ``Session._detach`` if it is
    complete, ``Session._receiver_lost`` if its client disconnected, and ``Session._pause_sending`` or
    ``Session._resume_sending`` if its write buffer has filled up or drained. After :meth:`close`, only a websocket
    reports an event: its disconnect.
    """

    @property
    def binary(self) -> bool:
        """Whether messages may be bytes."""

    @property
    def unsent(self) -> int:
        """Bytes that were written but not yet accepted by the operating system."""

    def send_frame(self, frame: str) -> None:
        """Write an open frame or a heartbeat."""

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        """Write messages, in order, as one batch."""

    def send_prepared(self, message: PreparedMessage) -> None:
        """Write one message of a broadcast."""

    def close(self, code: int, reason: str) -> None:
        """Send the close frame and end the connection or the response."""

    def is_disconnected(self) -> bool:
        """Return whether the client has disconnected, even if the event loop has not reported it yet."""

    def abort(self) -> None:
        """Close the connection of a client that has disconnected."""

    def pause_reading(self) -> None:
        """Stop reading messages, if the client sends them on this connection."""

    def resume_reading(self) -> None:
        """Read messages again."""

    def recycle(self) -> None:
        """End this response so that the client sends its next request. Does nothing on a websocket."""


class UnsentResponse(Protocol):
    """A response that the receiver has completed and the client has not received completely."""

    @property
    def unsent(self) -> int:
        """Bytes that the operating system has not accepted yet."""

    def abort(self) -> None:
        """Close the connection; the unsent bytes are discarded."""


class Cluster(Protocol):
    """A cluster, whose rooms span several processes, as its routers use it."""

    @property
    def rooms(self) -> Rooms:
        """The rooms of all routers of the cluster in this process."""

    @property
    def labels(self) -> Iterator[int]:
        """Unique numbers for the labels of their sessions."""

    def add(self, router: Any) -> None:
        """Add a router."""

    def publish(
        self, room: str, message: str | JSONValue, exclude: "Sequence[Session]", options: PublishOptions
    ) -> Awaitable[Position | None]:
        """Send a message to all sessions in a room, in all processes."""

    def publish_many(
        self, rooms: Sequence[str], message: str | JSONValue, exclude: "Sequence[Session]"
    ) -> Awaitable[None]:
        """Send a message to all sessions in some rooms, in all processes."""

    def execute(self, command: "Command", exclude: "Sequence[Session]") -> Awaitable[None]:
        """Execute a command for all sessions of its target, in all processes."""

    async def presence(self, room: str) -> dict[str, Any]:
        """Return the presence of all members of a room, in all processes."""

    async def presence_count(self, room: str) -> int:
        """Return the number of members of a room that have a presence, in all processes."""

    @property
    def unusable_reason(self) -> str:
        """Why it cannot be used, or ``""`` while it is running."""

    @property
    def available(self) -> bool:
        """Whether messages reach the other processes."""

    def counters(self) -> Mapping[str, int]:
        """Return its counters by name."""

    def gauges(self) -> Sequence[tuple[str, str, float]]:
        """Return its current state: the name, the link that it is about or "", and the value of each gauge."""

    async def __aenter__(self) -> object:
        """Start the cluster."""

    async def __aexit__(self, *error: object) -> None:
        """Close the cluster."""
