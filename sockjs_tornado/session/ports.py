"""The ports of a session: what it writes to, what keeps it, and what it sees of its router.

The session is written against these. Transports, the container and the router fill them; tests fill them without any.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..observe.logs import ThrottledLog
from ..protocol import JSONValue, Outgoing, PreparedMessage
from .rooms import Rooms
from .turns import Turns

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
    """Where a message stands in the history of its room.

    Attributes:
        offset: Its number, 1 for the first.
        epoch: Of what history: it is another one when the history was lost, or has expired, in between.
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
        """Bytes that were written and that the operating system has not taken yet."""

    def send_frame(self, frame: str) -> None:
        """Write a frame that is not a message: open or heartbeat."""

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        """Write messages, in order, together."""

    def send_prepared(self, message: PreparedMessage) -> None:
        """Write one message that is on its way to many."""

    def close(self, code: int, reason: str) -> None:
        """Tell the client that the session is closed, and end."""

    def is_disconnected(self) -> bool:
        """Tell whether the client has already left, even if the event loop has not said so yet."""

    def abort(self) -> None:
        """Let go of a client that has already left."""

    def pause_reading(self) -> None:
        """Take nothing more from the client for now, where the receiver is what takes it."""

    def resume_reading(self) -> None:
        """Go on taking."""

    def recycle(self) -> None:
        """Have the client ask anew, where it does that by another request."""


class UnsentResponse(Protocol):
    """A response that is complete for its receiver, while its client has not taken all of it."""

    @property
    def unsent(self) -> int:
        """Bytes that the operating system has not taken yet, and will not if the connection is closed."""

    def abort(self) -> None:
        """Close the connection: the rest is for nobody."""


class SessionManager(Protocol):
    """What keeps sessions: time, deadlines and tasks. The container is one."""

    #: Whether the end of all sessions has begun.
    closing: bool
    #: Where warnings and errors go.
    log: ThrottledLog
    #: The rooms that its sessions may be in.
    rooms: Rooms
    #: How callbacks share the turns of the event loop.
    turns: Turns

    def now(self) -> float:
        """Return monotonic seconds."""

    def next_label(self) -> str:
        """Return a name that no session has had."""

    def schedule(self, owner: Any) -> None:
        """See that ``owner.check`` is called once ``owner.due`` has come."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` at the event loop's next turn."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run ``coroutine`` as a task, at once where Python can."""

    def session_opened(self, session: "Session") -> None:
        """Hear that a client has opened the session."""

    def session_closed(self, session: "Session") -> None:
        """Hear that the session is closed for the application."""

    def on_open_finished(self, session: "Session") -> None:
        """Hear that ``on_open`` of the session is through, or never begins."""

    def remove(self, session: "Session") -> None:
        """Forget a session that is over."""

    @property
    def unopened_limit_reached(self) -> bool:
        """Whether there are as many sessions and channels whose ``on_open`` still runs as there may be."""

    def add_lingering(self, session: "Session") -> None:
        """Count a session that was removed while one of its callbacks still runs."""

    def remove_lingering(self, session: "Session") -> None:
        """Count it no more: the last of its callbacks has ended."""

    def get(self, session_id: str) -> "Session | None":
        """Return the session that a client calls ``session_id``."""

    def cancel(self, owner: Any) -> None:
        """Forget a deadline."""

    def stall_duration(self, now: float) -> float:
        """Return for how many seconds the event loop stood still just now, 0 if it did not."""

    def postpone(self, owner: Any, now: float) -> bool:
        """Return whether nobody is late yet, because the event loop stood still; ``owner.check`` is called again."""


class SessionSettings(Protocol):
    """The settings that a session reads."""

    @property
    def disconnect_delay(self) -> float:
        """Seconds that a session lives without a receiver."""

    @property
    def heartbeat_delay(self) -> float:
        """Seconds between heartbeats."""

    @property
    def immediate_flush(self) -> bool:
        """Whether a message gets a frame of its own."""

    @property
    def max_queue_bytes(self) -> int:
        """What may wait for a client, and for the application."""

    @property
    def max_queue_messages(self) -> int:
        """How many messages may wait for a client."""

    @property
    def slow_consumer(self) -> str | Callable[[Any], str]:
        """What becomes of a client for which more waits: "close" or "drop_oldest"."""

    @property
    def inbound_rate(self) -> tuple[float, float] | None:
        """How many messages a client may send a second, and at once."""

    @property
    def callback_timeout(self) -> float:
        """Seconds that an awaitable of a callback may take, 0 for any."""

    @property
    def verify_ip(self) -> bool:
        """Whether a session is for one address alone."""


class Counters(Protocol):
    """What a session counts."""

    connections: int
    messages_sent: int
    messages_received: int
    messages_dropped: int
    rejected: Counter[str]
    callback_errors: Counter[str]


class RouterView(Protocol):
    """What a session needs of its router."""

    @property
    def settings(self) -> SessionSettings:
        """The router's settings."""

    @property
    def container(self) -> SessionManager:
        """What keeps the session."""

    @property
    def stats(self) -> Counters:
        """The router's counters."""


class Cluster(Protocol):
    """What a router needs of what makes the rooms of several processes one."""

    @property
    def rooms(self) -> Rooms:
        """The rooms of all its routers in this process."""

    @property
    def labels(self) -> Iterator[int]:
        """Numbers for their sessions."""

    def add(self, router: Any) -> None:
        """Hear of a router."""

    def publish(
        self, room: str, message: str | JSONValue, exclude: "Sequence[Session]", history: int, ttl: float | None
    ) -> Awaitable[Position | None]:
        """Send a message to all sessions in a room, in every process."""

    async def presence(self, room: str) -> dict[str, Any]:
        """Return who is present in a room, in every process."""

    def counters(self) -> Mapping[str, int]:
        """Return what it has counted, by name."""

    async def __aenter__(self) -> object:
        """Begin."""

    async def __aexit__(self, *error: object) -> None:
        """End."""
