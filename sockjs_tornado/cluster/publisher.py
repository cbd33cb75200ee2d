"""The blocking publisher for programs without a router: a script, a task queue, another web framework.

::

    with Publisher("redis://localhost:6379/0") as publisher:
        publisher.publish("news", {"headline": "It rains"})
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

import redis

from ..exceptions import ClusterError, ClusterUnavailable
from ..protocol import Encodable
from ..session.control import Command, Selection, check_target, keywords_only
from ..session.ports import Position, PublishOptions
from ..session.rooms import check_room
from ..validation import warn_application
from .envelope_signing import EnvelopeSigner
from .history import position_of
from .presence_reading import count_command, decode_counts, decode_entries, read_command
from .publisher_commands import (
    PIPELINE_SIZE,
    BasePublisher,
    control_command,
    room_command,
    room_commands,
    topic_command,
)
from .publisher_connection import create_client
from .redis_connection import Args, RedisURL
from .redis_errors import CONNECTION_ERRORS, mask_user, translate_error

#: Seconds after which an unused connection of a ``Publisher`` is not used again.
_MAX_IDLE: Final = 15.0


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except CONNECTION_ERRORS as error:
        if isinstance(error, redis.ResponseError):
            raise ClusterUnavailable(f"Redis rejected the command: {mask_user(str(error))}") from error
        if isinstance(error, ClusterError):
            raise
        raise translate_error(error, "the given URL") from error


class Publisher(BasePublisher):
    """A blocking publisher. It may be used from several threads, and after a fork. It connects with the first message.

    In the thread of a running event loop, each call causes a ``RuntimeWarning``, since the loop stands still until
    Redis has replied: use :class:`AsyncPublisher` there.

    Args:
        url: The URL of the Redis server, as for :class:`~sockjs_tornado.cluster.redis.RedisCluster`.
        namespace: The namespace of the cluster.
        secret: The secret of the cluster, if its nodes have one: they ignore messages that are not signed with it.
        credentials: As for ``RedisCluster``. A connection that is used for longer than the credentials are valid is
            replaced. An ``async def`` function is called in another event loop, in a thread.
        client_name: The name of the connections, which CLIENT LIST shows. Default: none.

    Raises:
        ConfigurationError: An argument is not valid.
    """

    def _prepare(self, url: RedisURL) -> None:
        self._used_at = time.monotonic()
        self._client = create_client(url)

    def publish(
        self,
        room: str,
        message: Encodable,
        *,
        history: int = 0,
        ttl: float | None = None,
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Send a message to all members of a room, on all nodes.

        Args:
            room: The name of the room.
            message: A ``str``, a dict, list or tuple that can be encoded as JSON, or an object or array as a
                :class:`~sockjs_tornado.JSONValue`.
            history: The number of messages to keep in the room's history, including this one; 0 not to add it.
            ttl: Seconds for which the history is kept after this message, or None for a day.
            idempotency_key: A text of 1 to 200 characters that identifies the message, for a retry after
                ClusterUnavailable. For 10 minutes, the room receives one message with this key: publishing another one
                sends nothing, and returns the position of the first.

        Returns:
            The message's position in the history, or None without history.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: A number in the message cannot be encoded as JSON, or ``history``, ``ttl`` or the length of the
                key is out of range.
            ClusterUnavailable: Redis is unavailable, or rejected the command.
            ClusterError: Redis requires another user or password, or none.
            ConfigurationError: A file of certificates that the URL names cannot be read.
        """
        self._begin()
        with _translated_errors(), self._signers.borrow() as signer:
            options = PublishOptions(history, ttl, idempotency_key)
            reply = self._send(room_command(self._keys, signer, room, message, options))
            self._check_listeners(reply, signer)
        return position_of(reply)

    def publish_many(self, rooms: Iterable[str], message: Encodable) -> None:
        """Send a message to all members of some rooms. It is encoded once, and sent once for hundreds of rooms.

        Args:
            rooms: The names of the rooms. A connection that is in several of them receives the message several times.
            message: As for :meth:`publish`. It is not added to the histories of the rooms.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: A number in the message cannot be encoded as JSON.
            ClusterUnavailable: Redis is unavailable, or rejected a command. The message may have reached some rooms.
            ClusterError: Redis requires another user or password.
        """
        self._begin()
        with (
            _translated_errors(),
            self._signers.borrow() as signer,
            self._client.pipeline(transaction=False) as pipeline,
        ):
            for command in room_commands(self._keys, signer, rooms, message):
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
                if len(pipeline) >= PIPELINE_SIZE:
                    pipeline.execute()
            pipeline.execute()

    @keywords_only
    def select(self, *, room: str | None = None, tag: str | None = None, id: str | None = None) -> Selection[None]:
        """Select connections on all nodes, to close them, to add them to a room, or to send to them::

            publisher.select(tag="user:42").disconnect(4001, "Logged out")

        The methods of the selection raise ClusterUnavailable and ClusterError as :meth:`publish` does.

        Args:
            room: Select the members of this room.
            tag: Select the connections with this tag; see :meth:`~sockjs_tornado.SockJSConnection.tag`.
            id: Select the connection with this :attr:`~sockjs_tornado.SockJSConnection.global_id`.

        Raises:
            TypeError: Unless one of ``room``, ``tag`` and ``id`` is given, as a ``str``.
        """
        return Selection(check_target(room, tag, id), self._execute)

    def publish_topic(self, topic: str, message: Any) -> None:
        """Send a message to the callbacks of a topic on all nodes; see ``publish_topic`` of a cluster.

        Args:
            topic: The name of the topic.
            message: A JSON value.

        Raises:
            TypeError: The topic is not a ``str``, or the message cannot be encoded as JSON.
            ValueError: The message cannot be encoded as JSON, or the name of the topic is reserved.
            ClusterUnavailable: Redis is unavailable, or rejected the command.
            ClusterError: Redis requires another user or password.
        """
        self._begin()
        with _translated_errors(), self._signers.borrow() as signer:
            self._check_listeners(self._send(topic_command(self._keys, signer, topic, message)), signer)

    def presence(self, room: str) -> dict[str, Any]:
        """Return the presence of the members of a room, on all nodes, as ``router.presence`` does.

        Args:
            room: The name of the room.

        Returns:
            The presence that each member has passed to ``join``, by ``"node:connection id"``.

        Raises:
            TypeError: The name of the room is not a ``str``.
            ClusterUnavailable: Redis is unavailable, or rejected the command.
            ClusterError: Redis requires another user or password.
        """
        check_room(room)
        return decode_entries(self._read(read_command(self._keys, room)))

    def presence_count(self, room: str) -> int:
        """Return the number of members of a room that have a presence; Redis counts them. See :meth:`presence`."""
        check_room(room)
        return sum(decode_counts(self._read(count_command(self._keys, room))).values())

    def _read(self, command: Args) -> Any:
        self._begin()
        with _translated_errors():
            return self._send(command)

    def _execute(self, command: Command) -> None:
        self._begin()
        with _translated_errors(), self._signers.borrow() as signer:
            self._listeners.check(self._send(control_command(self._keys, signer, command)))

    def _check_listeners(self, reply: object, signer: EnvelopeSigner) -> None:
        """Check, once, whether there is a node, if nobody has received a message."""
        if self._listeners.is_due(reply):
            # The message was sent: its publisher must not get an error now, and repeat it.
            with contextlib.suppress(*CONNECTION_ERRORS):
                self._listeners.check(self._send(self._listeners.command(signer)))

    def _send(self, command: Args) -> Any:
        """Send a command, and return the reply."""
        try:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            # redis-py 5 has no class of its own for MOVED here.
            moved = isinstance(error, redis.exceptions.MovedError) or str(error).startswith("MOVED ")
            if not moved and not isinstance(error, redis.ReadOnlyError):
                raise
            # Not executed: another server is the master now. Find it, and try once more.
            self._client.connection_pool.disconnect(inuse_connections=False)
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    def _begin(self) -> None:
        """Begin a call: warn if it blocks an event loop until Redis has replied, and close idle connections."""
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            warn_application("a Publisher blocks the running event loop: use AsyncPublisher", RuntimeWarning)
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        """Close connections that were not used for a while, so that the next command opens another one.

        A firewall may have dropped them without notice. A command on such a connection gets no reply, and must not be
        repeated, because Redis may have executed it.
        """
        now = time.monotonic()
        if now - self._used_at > _MAX_IDLE:
            self._client.connection_pool.disconnect(inuse_connections=False)
        self._used_at = now

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
