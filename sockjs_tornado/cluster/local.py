"""A cluster of one process: the same application runs with and without other processes."""

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from ..exceptions import ConfigurationError
from ..protocol import JSONValue, PreparedMessage
from ..session.control import execute
from ..session.ports import PublishOptions
from ..session.rooms import COMPLETED
from .base import BaseCluster, CheckedRooms, ClusterStats
from .presence_events import PresenceCallback
from .topics import OnTopicGap

if TYPE_CHECKING:
    from ..session.control import Command
    from ..session.session import Session


class LocalCluster(BaseCluster):
    """A cluster of this process alone, for development and for small installations::

        cluster = RedisCluster(url) if url else LocalCluster()

    Rooms, ``router.select``, topics and events of presence work as in other clusters. History requires a RedisCluster.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rooms = CheckedRooms(self._check_usable)
        self.stats = ClusterStats()

    def add(self, router: Any) -> None:
        """Add a router; :class:`~sockjs_tornado.router.SockJSRouter` calls this."""

    async def start(self) -> None:
        """Start the cluster. If it is running, this does nothing."""
        self._set_running()

    async def close(self) -> None:
        """Close the cluster. Closing it again does nothing."""
        self._unusable_reason = "is closed: await cluster.start() to start it again"
        await self._topics.close()

    def publish(
        self, room: str, message: str | JSONValue, exclude: "Sequence[Session]", options: PublishOptions
    ) -> Awaitable[None]:
        """Send a message to all sessions in a room; ``router.publish`` calls this."""
        if options != PublishOptions():
            raise ConfigurationError(
                f"history, ttl and idempotency_key require a RedisCluster, got a {type(self).__name__}"
            )
        return self.publish_many((room,), message, exclude)

    def publish_many(
        self, rooms: Sequence[str], message: str | JSONValue, exclude: "Sequence[Session]"
    ) -> Awaitable[None]:
        """Send a message to all sessions in some rooms; ``router.publish_many`` calls this."""
        self._check_usable()
        self.stats.published += len(rooms)
        prepared = PreparedMessage(message)
        for room in rooms:
            self.rooms.publish(room, prepared, exclude)
        return COMPLETED

    def execute(self, command: "Command", exclude: "Sequence[Session]") -> Awaitable[None]:
        """Execute a command for all sessions of its target; ``router.select`` calls this."""
        self._check_usable()
        self.stats.published += 1
        execute(self.rooms, command, exclude)
        return COMPLETED

    def watch_presence(
        self, room: str, callback: PresenceCallback, *, on_gap: OnTopicGap | None = None
    ) -> Awaitable[None]:
        """Call a function each time that a member with a presence joins or leaves; see ``RedisCluster``."""
        self.rooms.on_presence_change = self._send_presence_event
        return super().watch_presence(room, callback, on_gap=on_gap)

    @property
    def _node_name(self) -> str:
        return "local"

    def _send_topic_message(self, topic: str, text: str) -> Awaitable[None]:
        return COMPLETED

    async def presence(self, room: str) -> dict[str, Any]:
        """Return the presence of a room's members; ``router.presence`` calls this."""
        self._check_usable()
        return {f"local:{label}": value for label, value in self.rooms.presence(room).items()}

    async def presence_count(self, room: str) -> int:
        """Return the number of a room's members that have a presence; ``router.presence_count`` calls this."""
        self._check_usable()
        return self.rooms.presence_count(room)
