"""Publishing in rooms from programs that serve nobody: a script, a worker, a web application on another framework.

::

    with Publisher("redis://localhost:6379/0") as publisher:
        publisher.publish("news", {"headline": "It rains"})
"""

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..exceptions import ClusterUnavailable
from ..protocol import encode_message
from ..session.ports import Position
from ..session.rooms import check_room
from .commands import Commands
from .connection import FAILURES, TIMEOUT, check_url, database_of, explain, make_client
from .envelope import Names, encode
from .history import position_of, publish_command

__all__ = ["AsyncPublisher", "Publisher"]


def _command(names: Names, room: str, message: Any, history: int, ttl: float | None) -> tuple[str | bytes | int, ...]:
    check_room(room)
    return publish_command(names, room, encode("", 0, encode_message(message)), history, ttl)


class Publisher:
    """Publishes, and waits until Redis has the message. It may be used from many threads, and after a fork.

    Args:
        url: As of :class:`~sockjs_tornado.cluster.redis.RedisCluster`.
        namespace: As that of the cluster.

    Raises:
        ConfigurationError: The URL or the namespace is none.

    Nothing is connected before the first message.
    """

    def __init__(self, url: str, *, namespace: str = "sockjs") -> None:
        # Nothing is tried again: Redis might have taken it the first time.
        self._client = redis.Redis.from_url(
            check_url(url),
            protocol=2,
            socket_timeout=2 * TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
        self._names = Names(namespace, database_of(self._client))

    def publish(
        self, room: str, message: str | dict[str, Any] | list[Any], *, history: int = 0, ttl: float | None = None
    ) -> Position | None:
        """Send a message to all who are in a room, on all nodes.

        Args:
            room: Its name.
            message: ``str``, or a dict or list of JSON's types.
            history: How many messages the room's history shall hold, this one included; 0 where it is not for there.
            ttl: Seconds that the history is kept after this message, None for a day.

        Returns:
            Where it stands in the history, None where it has none.

        Raises:
            TypeError: An argument is of another type.
            ValueError: JSON has no form for a number in the message, or ``history`` or ``ttl`` make no sense.
            ClusterUnavailable: Redis is away, or did not take it.
            ClusterError: Redis wants another user or password.
        """
        command = _command(self._names, room, message, history, ttl)
        try:
            reply = self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except FAILURES as error:
            where = "that URL"
            refused = isinstance(error, redis.ResponseError)
            raise ClusterUnavailable(f"Redis refuses: {error}") if refused else explain(error, where) from error
        return position_of(reply)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncPublisher:
    """The same on an event loop; what is published in one of its turns reaches Redis together, and in order.

    Args:
        url: As of :class:`~sockjs_tornado.cluster.redis.RedisCluster`.
        namespace: As that of the cluster.

    Raises:
        ConfigurationError: The URL or the namespace is none.

    Use it as an asynchronous context manager, or call :meth:`start` and :meth:`close`.
    """

    def __init__(self, url: str, *, namespace: str = "sockjs") -> None:
        self._client = make_client(url)
        self._names = Names(namespace, database_of(self._client))
        self._commands = Commands(self._client)

    async def start(self) -> None:
        """Connect to Redis; lost, the connection is made again.

        Raises:
            ClusterUnavailable: There is no Redis.
            ClusterError: It wants a password, or is too old.
        """
        await self._commands.start()

    async def publish(
        self, room: str, message: str | dict[str, Any] | list[Any], *, history: int = 0, ttl: float | None = None
    ) -> Position | None:
        """Send a message to all who are in a room, on all nodes; as :meth:`Publisher.publish`."""
        return position_of(await self._commands.submit(*_command(self._names, room, message, history, ttl)))

    async def close(self) -> None:
        """Close the connection."""
        await self._commands.close()
        await self._client.aclose()

    async def __aenter__(self) -> "AsyncPublisher":
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
