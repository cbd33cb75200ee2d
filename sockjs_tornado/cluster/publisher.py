"""Publishers for programs without a router: a script, a task queue, a web application in another framework.

::

    with Publisher("redis://localhost:6379/0") as publisher:
        publisher.publish("news", {"headline": "It rains"})
"""

import asyncio
import contextlib
import itertools
import os
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

import redis

from ..exceptions import ClusterError, ClusterUnavailable
from ..protocol import encode_message
from ..session.control import Command, Selection, check_target
from ..session.ports import Position, PublishOptions
from ..session.rooms import check_room, check_rooms
from .base import WaitForAll
from .commands import Commands
from .credentials import CredentialsFunction
from .envelope import CONTROL, Channel, RedisKeys
from .envelope_signing import EnvelopeSigner
from .history import position_of, publish_command, publish_many_commands
from .publisher_connection import create_client
from .redis_connection import CONNECTION_ERRORS, Args, RedisURL, mask_user, translate_error
from .secret import SecretOption, check_secret
from .topics import encode_topic_message

#: The number of commands of ``publish_many`` that are sent before the first reply.
_PIPELINE_SIZE: Final = 16


#: Seconds after which an unused connection of a ``Publisher`` is not used again.
_MAX_IDLE: Final = 15.0


def _command(keys: RedisKeys, signer: EnvelopeSigner, room: str, message: Any, options: PublishOptions) -> Args:
    check_room(room)
    return publish_command(keys, room, signer.encode(room, 0, encode_message(message)), options)


def _commands(keys: RedisKeys, signer: EnvelopeSigner, rooms: Iterable[str], message: Any) -> Iterator[Args]:
    names = check_rooms(rooms)
    for _, command in publish_many_commands(keys, names, signer, encode_message(message)):
        yield command


def _control_command(keys: RedisKeys, signer: EnvelopeSigner, command: Command) -> Args:
    return "PUBLISH", keys.channel(CONTROL), signer.encode_command(CONTROL, 0, command)


class _Signers:
    """The signers of a publisher: one for each call that is running, so that each one signs in the order of Redis.

    Each process has its own after a fork.
    """

    def __init__(self, keys: RedisKeys, secret: SecretOption | None) -> None:
        self._keys = keys
        self._secrets = None if secret is None else check_secret(secret)
        self._name = f"publisher-{secrets.token_hex(8)}"
        self._count = itertools.count()
        self._process = os.getpid()
        self._free: deque[EnvelopeSigner] = deque()

    def create(self) -> EnvelopeSigner:
        """Return another signer."""
        # Without a secret, the sender does not matter.
        node = "" if self._secrets is None else f"{self._name}-{os.getpid()}-{next(self._count)}"
        return EnvelopeSigner(node, self._keys, self._secrets)

    @contextlib.contextmanager
    def borrow(self) -> Iterator[EnvelopeSigner]:
        """Return a signer for the commands of one call."""
        if self._process != os.getpid():
            self._free.clear()
            self._process = os.getpid()
        try:
            signer = self._free.pop()
        except IndexError:
            signer = self.create()
        yield signer
        # Not after an exception: Redis may still execute the command, and after those of the next call.
        self._free.append(signer)


def _topic_command(keys: RedisKeys, signer: EnvelopeSigner, topic: str, message: Any) -> Args:
    channel = Channel("topic", topic)
    text = encode_topic_message(topic, message)
    return "PUBLISH", keys.channel(channel), signer.encode_topic(channel, text)


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


class Publisher:
    """A blocking publisher. It may be used from several threads, and after a fork. It connects with the first message.

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

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "sockjs",
        secret: SecretOption | None = None,
        credentials: CredentialsFunction | None = None,
        client_name: str | None = None,
    ) -> None:
        redis_url = RedisURL(url, namespace, credentials=credentials, client_name=client_name)
        self._keys = redis_url.keys
        self._signers = _Signers(self._keys, secret)
        self._used_at = time.monotonic()
        self._client = create_client(redis_url)

    def publish(
        self,
        room: str,
        message: str | dict[str, Any] | list[Any],
        *,
        history: int = 0,
        ttl: float | None = None,
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Send a message to all members of a room, on all nodes.

        Args:
            room: The name of the room.
            message: A ``str``, or a dict or list that can be encoded as JSON.
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
            ClusterError: Redis requires another user or password.
        """
        self._close_if_idle()
        with _translated_errors(), self._signers.borrow() as signer:
            options = PublishOptions(history, ttl, idempotency_key)
            command = _command(self._keys, signer, room, message, options)
            try:
                reply = self._client.execute_command(*command)  # type: ignore[no-untyped-call]
            except redis.ResponseError as error:
                # redis-py 5 has no class of its own for MOVED here.
                moved = isinstance(error, redis.exceptions.MovedError) or str(error).startswith("MOVED ")
                if not moved and not isinstance(error, redis.ReadOnlyError):
                    raise
                # Not executed: another server is the master now. Find it, and try once more.
                self._client.connection_pool.disconnect(inuse_connections=False)
                reply = self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        return position_of(reply)

    def publish_many(self, rooms: Iterable[str], message: str | dict[str, Any] | list[Any]) -> None:
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
        self._close_if_idle()
        with (
            _translated_errors(),
            self._signers.borrow() as signer,
            self._client.pipeline(transaction=False) as pipeline,
        ):
            for command in _commands(self._keys, signer, rooms, message):
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
                if len(pipeline) >= _PIPELINE_SIZE:
                    pipeline.execute()
            pipeline.execute()

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
            ValueError: The message cannot be encoded as JSON.
            ClusterUnavailable: Redis is unavailable, or rejected the command.
            ClusterError: Redis requires another user or password.
        """
        self._run(lambda keys, signer: _topic_command(keys, signer, topic, message))

    def _execute(self, command: Command) -> None:
        self._run(lambda keys, signer: _control_command(keys, signer, command))

    def _run(self, command: Callable[[RedisKeys, EnvelopeSigner], Args]) -> None:
        self._close_if_idle()
        with _translated_errors(), self._signers.borrow() as signer:
            self._client.execute_command(*command(self._keys, signer))  # type: ignore[no-untyped-call]

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


class AsyncPublisher:
    """A publisher for an event loop. Messages of one turn of the loop are sent in order and in one write.

    It takes the arguments of :class:`Publisher`. Use it as an asynchronous context manager, or call :meth:`start` and
    :meth:`close`.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "sockjs",
        secret: SecretOption | None = None,
        credentials: CredentialsFunction | None = None,
        client_name: str | None = None,
    ) -> None:
        redis_url = RedisURL(url, namespace, credentials=credentials, client_name=client_name)
        self._keys = redis_url.keys
        self._signers = _Signers(self._keys, secret)
        self._signer = self._signers.create()
        self._commands = Commands(redis_url)

    async def start(self) -> None:
        """Connect to Redis. If the connection is lost later, it is reopened.

        Raises:
            ClusterUnavailable: Redis does not respond.
            ClusterError: Redis requires a password, or is too old.
        """
        await self._commands.start()
        # The process may have forked.
        self._signer = self._signers.create()

    async def publish(
        self,
        room: str,
        message: str | dict[str, Any] | list[Any],
        *,
        history: int = 0,
        ttl: float | None = None,
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Send a message to all members of a room, on all nodes; see :meth:`Publisher.publish`."""
        options = PublishOptions(history, ttl, idempotency_key)
        return position_of(await self._commands.call(*_command(self._keys, self._signer, room, message, options)))

    async def publish_many(self, rooms: Iterable[str], message: str | dict[str, Any] | list[Any]) -> None:
        """Send a message to all members of some rooms; see :meth:`Publisher.publish_many`."""
        replies: deque[asyncio.Future[Any]] = deque()
        for command in _commands(self._keys, self._signer, rooms, message):
            reply = self._commands.call(*command)
            # Only the first exception is raised. asyncio must not report the others.
            reply.add_done_callback(lambda reply: reply.cancelled() or reply.exception())
            replies.append(reply)
            if len(replies) >= _PIPELINE_SIZE:
                await replies[0]
                replies.popleft()
        await WaitForAll(*replies)

    def select(
        self, *, room: str | None = None, tag: str | None = None, id: str | None = None
    ) -> Selection[Awaitable[None]]:
        """Select connections on all nodes; see :meth:`Publisher.select`. Await the methods of the selection."""
        return Selection(check_target(room, tag, id), self._execute)

    async def publish_topic(self, topic: str, message: Any) -> None:
        """Send a message to the callbacks of a topic on all nodes; see :meth:`Publisher.publish_topic`."""
        await self._commands.call(*_topic_command(self._keys, self._signer, topic, message))

    async def _execute(self, command: Command) -> None:
        await self._commands.call(*_control_command(self._keys, self._signer, command))

    async def close(self) -> None:
        """Close the connection."""
        await self._commands.close()

    async def __aenter__(self) -> "AsyncPublisher":
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
