"""Publishers for programs without a router: a script, a task queue, a web application in another framework.

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
from .envelope import RedisKeys, encode
from .history import position_of, publish_command
from .redis_connection import CONNECTION_ERRORS, TIMEOUT, RedisURL, translate_error


def _command(
    keys: RedisKeys, room: str, message: Any, history: int, ttl: float | None
) -> tuple[str | bytes | int, ...]:
    check_room(room)
    return publish_command(keys, room, encode("", 0, encode_message(message)), history, ttl)


class Publisher:
    """A blocking publisher. It may be used from several threads, and after a fork. It connects with the first message.

    Args:
        url: The URL of the Redis server, as for :class:`~sockjs_tornado.cluster.redis.RedisCluster`.
        namespace: The namespace of the cluster.

    Raises:
        ConfigurationError: The URL or the namespace is not valid.
    """

    def __init__(self, url: str, *, namespace: str = "sockjs") -> None:
        self._keys = RedisKeys(namespace, RedisURL(url).database)
        # No retries: Redis may have executed the command the first time.
        self._client = redis.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=2 * TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )

    def publish(
        self, room: str, message: str | dict[str, Any] | list[Any], *, history: int = 0, ttl: float | None = None
    ) -> Position | None:
        """Send a message to all members of a room, on all nodes.

        Args:
            room: The name of the room.
            message: A ``str``, or a dict or list that can be encoded as JSON.
            history: The number of messages to keep in the room's history, including this one; 0 not to add it.
            ttl: Seconds for which the history is kept after this message, or None for a day.

        Returns:
            The message's position in the history, or None without history.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: A number in the message cannot be encoded as JSON, or ``history`` or ``ttl`` is out of range.
            ClusterUnavailable: Redis is unavailable, or rejected the command.
            ClusterError: Redis requires another user or password.
        """
        command = _command(self._keys, room, message, history, ttl)
        try:
            reply = self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except CONNECTION_ERRORS as error:
            if isinstance(error, redis.ResponseError):
                raise ClusterUnavailable(f"Redis rejected the command: {error}") from error
            raise translate_error(error, "the given URL") from error
        return position_of(reply)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncPublisher:
    """A publisher for an event loop. Messages of one turn of the loop are sent in order and in one write.

    It takes the arguments of :class:`Publisher`. Use it as an asynchronous context manager, or call :meth:`start` and
    :meth:`close`.
    """

    def __init__(self, url: str, *, namespace: str = "sockjs") -> None:
        server = RedisURL(url)
        self._keys = RedisKeys(namespace, server.database)
        self._commands = Commands(server)

    async def start(self) -> None:
        """Connect to Redis. If the connection is lost later, it is reopened.

        Raises:
            ClusterUnavailable: Redis does not respond.
            ClusterError: Redis requires a password, or is too old.
        """
        await self._commands.start()

    async def publish(
        self, room: str, message: str | dict[str, Any] | list[Any], *, history: int = 0, ttl: float | None = None
    ) -> Position | None:
        """Send a message to all members of a room, on all nodes; see :meth:`Publisher.publish`."""
        return position_of(await self._commands.submit(*_command(self._keys, room, message, history, ttl)))

    async def close(self) -> None:
        """Close the connection."""
        await self._commands.close()

    async def __aenter__(self) -> "AsyncPublisher":
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
