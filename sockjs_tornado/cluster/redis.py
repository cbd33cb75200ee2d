"""Clusters on Redis: a message that is published on one node reaches the rooms of all nodes.

::

    cluster = RedisCluster("redis://localhost:6379/0", on_gap=on_gap)
    router = SockJSRouter(Chat, "/chat", cluster=cluster)
    async with cluster:
        ...

With ``recovery=True``, :mod:`sockjs_tornado.recovery` sends pages what they have missed. In a protocol of your own, a
client that reconnects misses no message with history, and receives none twice, if its connection does the following in
order:

1. ``await connection.join(room)``. From now on, all messages are delivered.
2. ``await cluster.recover(room, offset, epoch)`` with the last position that the client knows; send the result.
3. Skip messages whose offset the client has already received. ``transform_message`` can add the offset to each message.

After an outage of Redis, the node itself delivers what its members have missed, from the histories. ``on_gap`` is
called with the rooms in which messages may be lost. Repeat steps 2 and 3 for each client in these rooms.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exceptions import ConfigurationError
from ..function_checks import check_callback
from ..protocol import JSONValue
from ..session.ports import Position, PublishOptions
from ..session.rooms import check_room
from ..validation import check_flag, check_seconds, named_arguments
from .base import BaseCluster, WaitForAll
from .credentials import CredentialsFunction
from .envelope import Channel
from .gap_reports import OnGap
from .history import Recovered
from .membership import Membership
from .messages import TransformMessage
from .presence import LIFETIME
from .redis_connection import TIMEOUT, RedisURL
from .redis_node import RedisNode
from .secret import SecretOption, check_secret
from .shared_rooms import SharedRooms

if TYPE_CHECKING:
    from ..session.control import Command
    from ..session.session import Session

__all__ = ["RedisCluster"]

logger = logging.getLogger(__name__)

_CLOSED = "is closed; create another one"


class RedisCluster(BaseCluster):
    """One node of a cluster on Redis.

    Args:
        url: The URL of Redis, version 7.0 or newer. It is that of a server that accepts writes (``redis://``,
            ``rediss://`` for TLS, or ``unix://``), of the sentinels that know this server
            (``sentinel://host:port,host:port/master``, ``sentinels://`` for TLS), or of some servers of Redis Cluster
            (``cluster://host:port,host:port``, ``clusters://`` for TLS).
        namespace: The prefix of all keys and channels. With Redis Cluster, it becomes their hash tag, so that all are
            in one slot: ``{sockjs}``.
        credentials: A function that returns the :class:`Credentials`, or a tuple of username and password, in place of
            those in the URL. It is called before each connect, and before the credentials expire; the connections then
            authenticate again. It may be ``async def``; a plain function is called in a thread.
        client_name: The name of this node's connections, which ``CLIENT LIST`` shows. Default: ``sockjs-`` and the
            node's id. ``client_name`` in the URL has precedence.
        on_gap: Called after an outage of Redis with the names of all rooms in which messages of other nodes may be
            lost: rooms without history, and those whose history does not contain all missed messages. If there are
            none, it is not called, unless connections have tags: then it is called with an empty set, since a
            ``disconnect`` may have been missed, too. It may be ``async def``. Its exceptions are logged.
        transform_message: Called with the room, the message and its :class:`Position` before a message with history is
            delivered to this node's members; they receive the value that it returns.
        recovery: Whether members receive messages with history in the protocol of :mod:`sockjs_tornado.recovery`, so
            that their clients can recover those that they miss. Default False.
        timeout: Seconds without data after which the node pings Redis, and seconds within which Redis must then reply.
            With the default of 2, a half-open connection is detected within 4 s.
        advertise: The private address at which other nodes reach this one: ``http://host:port``, or ``https://...`` for
            TLS. Any node can then serve any session. If None, the default, the nodes only share rooms.
        secret: The secret with which nodes authenticate to each other: at least 16 bytes, the same on all nodes and
            publishers. Messages that are not signed with it are not delivered. To replace the secret without downtime,
            pass a list: the first one signs, and the signatures of all are accepted. Required with ``advertise``.
        listen: The address on which this node listens for the others, ``host:port``. Default: the advertised address.
        tls_certificate: The file with this node's certificate chain, for an ``https`` address. It must name the host,
            and be valid for servers and clients.
        tls_key: The file with its key. Default: the same file.
        tls_ca: The file with the CA certificates that verify the certificates of all nodes; nodes then accept
            connections with such a certificate only. If None, the certificates of listeners are verified by the CAs of
            the system.
        allow_public_listener: Whether to allow a public address to listen on.
        on_redis_down: How to answer a request for a session that this node does not know while Redis is unavailable.
            ``"reject"``, the default, responds 503. ``"local"`` opens the session on this node; use it only if the
            load balancer sends all requests of a session to one node, otherwise each node opens its own session.
        presence_lifetime: Seconds after which the members of a dead node are no longer present. Default 15.
        presence_events: Whether the callbacks of ``watch_presence``, on all nodes, are called for this node's members.
            This sends Redis one more command for each ``join`` with a presence, and one for its end. Default False.

    Raises:
        ConfigurationError: An argument is not valid.

    Attributes:
        node_id: The node's id, random and not secret. If the process forks before :meth:`start`, each process gets its
            own.
        commands: The connection for commands.
        recovery: The argument.
    """

    @named_arguments
    def __init__(
        self,
        url: str,
        *,
        namespace: str = "sockjs",
        credentials: CredentialsFunction | None = None,
        client_name: str | None = None,
        on_gap: OnGap | None = None,
        transform_message: TransformMessage | None = None,
        recovery: bool = False,
        advertise: str | None = None,
        secret: SecretOption | None = None,
        listen: str | None = None,
        tls_certificate: str | Path | None = None,
        tls_key: str | Path | None = None,
        tls_ca: str | Path | None = None,
        allow_public_listener: bool = False,
        on_redis_down: str = "reject",
        timeout: float = TIMEOUT,
        presence_lifetime: float = LIFETIME,
        presence_events: bool = False,
    ) -> None:
        super().__init__()
        for name, seconds in (("timeout", timeout), ("presence_lifetime", presence_lifetime)):
            check_seconds(name, seconds, positive=True)
        for name, function, parameters in (
            ("on_gap", on_gap, ("rooms",)),
            ("transform_message", transform_message, ("room", "message", "position")),
        ):
            if function is not None:
                if not callable(function):
                    raise ConfigurationError(f"{name}: got {function!r}, expected a function")
                check_callback(name, function, parameters)
        check_flag("recovery", recovery)
        check_flag("allow_public_listener", allow_public_listener)
        if recovery and transform_message is not None:
            raise ConfigurationError("recovery and transform_message exclude each other: both define the messages")
        if on_redis_down not in ("local", "reject"):
            raise ConfigurationError(f'on_redis_down: got {on_redis_down!r}, expected "local" or "reject"')
        self.rooms: SharedRooms = SharedRooms(self._check_usable)
        self._set_presence_events(presence_events)
        self.recovery = recovery
        # Held by start() and close(), so that they do not run at the same time.
        self._lifecycle = asyncio.Lock()
        self._exit_stack = contextlib.AsyncExitStack()
        self._routers: list[Any] = []
        make_membership: partial[Membership] | None = None
        if advertise is not None:
            make_membership = partial(
                Membership,
                advertise=advertise,
                secret=secret,
                listen=listen,
                tls_certificate=tls_certificate,
                tls_key=tls_key,
                tls_ca=tls_ca,
                allow_public_listener=allow_public_listener,
                on_redis_down=on_redis_down,
            )
        elif any(option is not None for option in (listen, tls_certificate, tls_key, tls_ca)):
            raise ConfigurationError("listen, tls_certificate, tls_key and tls_ca require advertise")
        elif on_redis_down == "local":
            raise ConfigurationError('on_redis_down="local" requires advertise; without it, all sessions are local')
        self._make_node = partial(
            RedisNode,
            partial(RedisURL, url, namespace, credentials=credentials),
            self.rooms,
            self._topics,
            self._routers,
            client_name=client_name,
            secrets=None if secret is None else check_secret(secret),
            make_membership=make_membership,
            on_gap=on_gap,
            transform_message=transform_message,
            recovery=recovery,
            timeout=timeout,
            presence_lifetime=presence_lifetime,
        )
        self._create_node()

    def _create_node(self) -> None:
        self._node = node = self._make_node()
        self.node_id, self.stats, self.keys, self.commands = node.id, node.stats, node.keys, node.commands

    def add(self, router: Any) -> None:
        """Add a router; :class:`~sockjs_tornado.router.SockJSRouter` calls this."""
        self._routers.append(router)
        self._node.add(router)

    async def start(self) -> None:
        """Connect to Redis. If the cluster is running, this does nothing.

        Raises:
            ClusterUnavailable: Redis does not respond.
            ClusterError: Redis requires a password, is too old, or does not permit the user to run a command that the
                cluster uses; another node advertises the same address; or Redis accepts no writes, as while its
                memory is full, and this node cannot connect to its own address either.
            ConfigurationError: The address to listen on is public, or is not an address of this host.
            RuntimeError: The cluster is closed.
        """
        async with self._lifecycle, contextlib.AsyncExitStack() as stack:
            if not self._unusable_reason:
                return
            if self._unusable_reason == _CLOSED:
                raise RuntimeError(f"the cluster {_CLOSED}")
            if self._node.process != os.getpid():
                # The process was forked: each process is a node of its own.
                self._create_node()
            stack.push_async_callback(self._topics.close)
            await self._node.start(stack)
            self._set_running()
            self._exit_stack = stack.pop_all()
            node = self._node
            logger.info(
                "Node %s is in the cluster of Redis at %s, database %d, namespace %r: %s",
                node.id,
                node.url.address,
                node.url.database,
                node.keys.namespace,
                "it only shares rooms (no advertise)"
                if node.membership is None
                else f"other nodes reach it at {node.membership.address}",
            )

    async def close(self) -> None:
        """Send all queued commands to Redis and disconnect. Close the routers first.

        Closing it again does nothing.
        """
        async with self._lifecycle:
            if not self._unusable_reason:
                self._unusable_reason = _CLOSED
                self._node.gap_reports.cancel()
                # If this task is cancelled, the exit stack still runs the remaining callbacks.
                await self._exit_stack.aclose()

    @property
    def available(self) -> bool:
        """Whether the cluster is running, and both connections to Redis are open."""
        return super().available and self._node.available

    def gauges(self) -> list[tuple[str, str, float]]:
        """Return the gauges of :mod:`~sockjs_tornado.observe.metrics`: name, link to Redis or "", and value."""
        return [*super().gauges(), *self._node.gauges()]

    def publish(
        self, room: str, message: str | JSONValue, exclude: "Sequence[Session]", options: PublishOptions
    ) -> Awaitable[Position | None]:
        """Send a message to all sessions in a room, on every node; ``router.publish`` calls this."""
        self._check_usable()
        return self._node.messages.publish(room, message, exclude, options, self._node.bus.confirmation(room))

    def publish_many(
        self, rooms: Sequence[str], message: str | JSONValue, exclude: "Sequence[Session]"
    ) -> Awaitable[None]:
        """Send a message to all sessions in some rooms, on every node; ``router.publish_many`` calls this."""
        self._check_usable()
        return self._node.messages.publish_many(rooms, message, exclude)

    def execute(self, command: "Command", exclude: "Sequence[Session]") -> Awaitable[None]:
        """Execute a command for all sessions of its target, on every node; ``router.select`` calls this."""
        self._check_usable()
        return self._node.messages.execute(command, exclude)

    def _topic_subscribed(self, topic: str, is_new: bool) -> Awaitable[None]:
        channel = Channel("topic", topic)
        confirmation = self._node.bus.subscribe(channel) if is_new else self._node.bus.confirmation(channel)
        return WaitForAll(*([] if confirmation is None else [confirmation]))

    def _topic_unsubscribed(self, topic: str) -> None:
        self._node.bus.unsubscribe(Channel("topic", topic))

    @property
    def _node_name(self) -> str:
        return self.node_id

    def _send_topic_message(self, topic: str, text: str) -> Awaitable[None]:
        return self._node.messages.publish_topic(topic, text)

    async def presence(self, room: str) -> dict[str, Any]:
        """Return the presence of a room's members, on every node; ``router.presence`` calls this."""
        self._check_usable()
        return await self._node.presence.get(room)

    async def presence_count(self, room: str) -> int:
        """Return the number of a room's members that have a presence; ``router.presence_count`` calls this."""
        self._check_usable()
        return await self._node.presence.count(room)

    async def recover(self, room: str, offset: int, epoch: str, *, limit: int | None = None) -> Recovered:
        """Return the messages with history that were published in a room after a position, as a :class:`Recovered`.

        Identical calls in one iteration of the event loop send one command to Redis, and return the same object. If
        many clients may reconnect at the same time, encode the response with :meth:`Recovered.encode`, which does
        so once for all callers.

        Args:
            room: The name of the room.
            offset: The offset of the last message that the client has received, or 0 for none.
            epoch: The epoch of that message, or ``""`` for none. Both values may come from the client unchecked.
            limit: The largest number of messages to return. If there are more, the last ones are returned. None, the
                default, returns all.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: The limit is less than 1.
            ClusterUnavailable: Redis is unavailable.
            RuntimeError: The cluster was not started.
        """
        check_room(room)
        self._check_usable()
        return await self._node.recover(room, offset, epoch, limit)
