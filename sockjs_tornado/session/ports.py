"""The interfaces that a session is written against: receivers, the session manager and the router.

Transports, the container and the router implement them; tests implement them without a server.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..observe.logs import ThrottledLog
from ..protocol import JSONValue, Outgoing, PreparedMessage
from .callback_budget import CallbackBudget
from .rooms import Rooms

if TYPE_CHECKING:
    from .session import Session

__all__ = [
    "Cluster",
    "Counters",
    "Position",
    "Receiver",
    "RouterView",
    "SessionManager",
    "SessionSettings",
    "UnsentResponse",
]


class Position(NamedTuple):
    """Position of a message in the history of its room.

    Attributes:
        offset: Number of the message; the first is 1.
        epoch: Identifies the history. It changes if the history was lost or has expired.
    """

    offset: int
    epoch: str


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


class SessionManager(Protocol):
    """Clock, deadlines, tasks and limits of sessions; implemented by the container."""

    #: Whether all sessions are being closed.
    closing: bool
    #: The log for warnings and errors.
    log: ThrottledLog
    #: The rooms of its sessions.
    rooms: Rooms
    #: Limits the time that callbacks may take of one iteration of the event loop.
    callback_budget: CallbackBudget

    def now(self) -> float:
        """Return monotonic seconds."""

    def next_label(self) -> str:
        """Return a label that no other session has."""

    def schedule(self, owner: Any) -> None:
        """Call ``owner.check`` when ``owner.due`` has passed."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the next iteration of the event loop."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run ``coroutine`` as a task; from Python 3.12 on, start it at once."""

    def session_opened(self, session: "Session") -> None:
        """Called when a client has opened the session."""

    def session_closed(self, session: "Session") -> None:
        """Called when the session is closed for the application."""

    def on_open_finished(self, session: "Session") -> None:
        """Called when ``on_open`` has finished or will never be called."""

    def remove(self, session: "Session") -> None:
        """Remove a session that has ended."""

    @property
    def unopened_limit_reached(self) -> bool:
        """Whether ``max_unopened_sessions`` is reached."""

    def add_lingering(self, session: "Session") -> None:
        """Count a removed session against the limits while one of its callbacks runs."""

    def remove_lingering(self, session: "Session") -> None:
        """Stop counting it, because its last callback has ended."""

    def get(self, session_id: str) -> "Session | None":
        """Return the session with this id, or None."""

    def cancel(self, owner: Any) -> None:
        """Remove the deadline of ``owner``."""

    def stall_duration(self, now: float) -> float:
        """Return for how many seconds the event loop was blocked just now; 0 if it was not."""

    def postpone(self, owner: Any, now: float) -> bool:
        """Postpone the deadline if the event loop was blocked; return whether it was postponed."""


class SessionSettings(Protocol):
    """The settings that a session reads."""

    @property
    def disconnect_delay(self) -> float:
        """Seconds after which a session without a receiver ends."""

    @property
    def heartbeat_delay(self) -> float:
        """Seconds between heartbeats."""

    @property
    def immediate_flush(self) -> bool:
        """Whether each message is sent as its own frame."""

    @property
    def max_queue_bytes(self) -> int:
        """Maximum size of the outbox, and of the inbox, in characters."""

    @property
    def max_queue_messages(self) -> int:
        """Maximum number of messages in the outbox."""

    @property
    def slow_consumer(self) -> str | Callable[[Any], str]:
        """What to do if the outbox exceeds its limits: "close" or "drop_oldest", or a callable that returns one."""

    @property
    def inbound_rate(self) -> tuple[float, float] | None:
        """Rate limit: messages a second, and burst."""

    @property
    def callback_timeout(self) -> float:
        """Timeout in seconds for the awaitable of a callback, 0 for none."""

    @property
    def verify_ip(self) -> bool:
        """Whether all requests must come from the address that opened the session."""


class Counters(Protocol):
    """Counters that a session updates."""

    connections: int
    messages_sent: int
    messages_received: int
    messages_dropped: int
    rejected: Counter[str]
    callback_errors: Counter[str]


class RouterView(Protocol):
    """The part of the router that a session uses."""

    @property
    def settings(self) -> SessionSettings:
        """The router's settings."""

    @property
    def container(self) -> SessionManager:
        """The session's manager."""

    @property
    def stats(self) -> Counters:
        """The router's counters."""


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
        self, room: str, message: str | JSONValue, exclude: "Sequence[Session]", history: int, ttl: float | None
    ) -> Awaitable[Position | None]:
        """Send a message to all sessions in a room, in all processes."""

    async def presence(self, room: str) -> dict[str, Any]:
        """Return the presence of all members of a room, in all processes."""

    def counters(self) -> Mapping[str, int]:
        """Return its counters by name."""

    async def __aenter__(self) -> object:
        """Start the cluster."""

    async def __aexit__(self, *error: object) -> None:
        """Close the cluster."""
