"""Clusters on Redis: a message that is published on one node reaches the rooms of all nodes.

::

    cluster = RedisCluster("redis://localhost:6379/0", on_gap=on_gap)
    router = SockJSRouter(Chat, "/chat", cluster=cluster)
    async with cluster:
        ...

With ``recovery=True``, :mod:`sockjs_tornado.recovery` sends pages what they have missed. In a protocol of your own, a
client that reconnects neither misses nor repeats messages with history if its connection does the following in order:

1. ``await connection.join(room)``. From now on, all messages are delivered.
2. ``await cluster.recover(room, offset, epoch)`` with the last position that the client knows; send the result.
3. Skip messages whose offset the client has already received. ``transform_message`` can add the offset to each message.

After an outage of Redis, the node itself delivers what its members have missed, from the histories. ``on_gap`` is
called with the rooms in which messages may be lost. Repeat the second and third step for each client in these rooms.
"""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Awaitable, Sequence, Set
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exceptions import ClusterUnavailable, ConfigurationError
from ..observe.logs import ThrottledLog
from ..protocol import JSONValue, PreparedMessage
from ..recovery.messages import gap_message
from ..session.ports import Position, PublishOptions
from ..session.rooms import check_room
from ..validation import check_callback, check_seconds
from .base import MAX_TURN, BaseCluster, CheckedRooms, ClusterStats, WaitForAll
from .bus import Bus
from .catch_up import CatchUp
from .commands import Commands
from .credentials import CredentialsFunction
from .envelope import CONTROL, Channel
from .gap_reports import GapReports, OnGap
from .history import Recovered, Recoveries
from .membership import Membership
from .message_decoder import MessageDecoder
from .messages import Messages, TransformMessage
from .permissions import acl_rules, command_probes
from .presence import LIFETIME, Presence
from .redis_connection import TIMEOUT, RedisURL
from .secret import SecretOption, check_secret

if TYPE_CHECKING:
    from ..session.control import Command
    from ..session.session import Session

__all__ = ["RedisCluster"]

_CLOSED = "is closed; create another one"


class SharedRooms(CheckedRooms):
    """The rooms of a node: their subscriptions and their members' presence are kept in Redis."""

    __slots__ = ("_cluster", "_presence_written")

    def __init__(self, cluster: "RedisCluster") -> None:
        super().__init__(cluster._check_usable)
        self._cluster = cluster
        # Set by presence_set() while join() runs: the future of the presence that was written to Redis.
        self._presence_written: asyncio.Future[Any] | None = None

    def join(self, session: "Session", room: str, presence: Any = None) -> Awaitable[None]:
        """Add a session to a room; the awaitable completes when Redis has confirmed subscription and presence."""
        self._presence_written = None
        super().join(session, room, presence)
        pending = (self._cluster._bus.confirmation(room), self._presence_written)
        return WaitForAll(*(future for future in pending if future is not None))

    def room_created(self, room: str) -> None:
        self._cluster._bus.subscribe(room)

    def room_deleted(self, room: str) -> None:
        self._cluster._bus.unsubscribe(room)

    def presence_set(self, room: str, label: str, text: str) -> None:
        self._presence_written = self._cluster._presence.add(room, label, text)

    def presence_removed(self, room: str, label: str) -> None:
        self._cluster._presence.remove(room, label)


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
        on_gap: Called after each outage of Redis with the names of all rooms in which messages of other nodes may be
            lost: rooms without history, and those whose history does not have all messages that were missed. If
            connections have tags, it is called after each outage, perhaps with no room, since a ``disconnect`` may have
            been missed, too. It may be ``async def``. Its exceptions are logged.
        transform_message: Called with the room, the message and its :class:`Position` before a message with history is
            delivered to this node's members; they receive the value that it returns.
        recovery: Whether members receive messages with history in the protocol of :mod:`sockjs_tornado.recovery`, so
            that their clients can recover those that they miss. Default False.
        timeout: Seconds without data after which Redis is pinged, and seconds that it then has to reply. With the
            default of 2, a half-open connection is detected within 4 s.
        advertise: The private address at which other nodes reach this one: ``http://host:port``, or ``https://...`` for
            TLS. Any node can then serve any session. If None, the default, the nodes only share rooms.
        secret: The secret with which nodes authenticate to each other: at least 16 bytes, the same on all nodes and
            publishers. Messages that are not signed with it are not delivered. A list of secrets replaces one without
            downtime: the first one signs, and the signatures of all are accepted. Required with ``advertise``.
        listen: The address on which this node listens for the others, ``host:port``. Default: the advertised address.
        tls_certificate: The file with this node's certificate chain, for an ``https`` address. It must name the host,
            and be valid for servers and clients.
        tls_key: The file with its key. Default: the same file.
        tls_ca: The file with the authorities that issue the certificates of all nodes; nodes then accept connections
            with such a certificate only. If None, the authorities of the system verify the certificates of listeners.
        allow_public_listener: Whether to allow a public address to listen on.
        on_redis_down: How to answer a request for a session that this node does not know while Redis is unavailable.
            ``"reject"``, the default, responds 503. ``"local"`` opens the session on this node; use it only if the
            load balancer sends all requests of a session to one node, otherwise each node opens its own session.
        presence_lifetime: Seconds after which the members of a dead node are no longer present. Default 15.
        presence_events: Whether this node reports its members to ``watch_presence``, on all nodes: one more command for
            each ``join`` with a presence, and for the end of each. Default False.

    Raises:
        ConfigurationError: An argument is not valid.

    Attributes:
        node_id: The node's id, random and not secret. If the process forks before :meth:`start`, each process gets its
            own.
        commands: The connection for commands.
        recovery: The argument.
    """

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
        if not isinstance(recovery, bool):
            raise ConfigurationError(f"recovery: got {recovery!r}, expected True or False")
        if recovery and transform_message is not None:
            raise ConfigurationError("recovery and transform_message exclude each other: both define the messages")
        if on_redis_down not in ("local", "reject"):
            raise ConfigurationError(f'on_redis_down: got {on_redis_down!r}, expected "local" or "reject"')
        self.rooms: SharedRooms = SharedRooms(self)
        self._set_presence_events(presence_events)
        self._make_url = partial(RedisURL, url, namespace, credentials=credentials)
        self._client_name = client_name
        self._on_gap = on_gap
        self._transform_message = transform_message
        self.recovery = recovery
        self._timeout = timeout
        self._presence_lifetime = presence_lifetime
        # Held by start() and close(), so that they do not run at the same time.
        self._lifecycle = asyncio.Lock()
        self._exit_stack = contextlib.AsyncExitStack()
        self._routers: list[Any] = []
        self._make_membership: partial[Membership] | None = None
        if advertise is not None:
            self._make_membership = partial(
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
        self._secrets = None if secret is None else check_secret(secret)
        self._create_node()

    def _create_node(self) -> None:
        self.node_id = secrets.token_hex(8)
        self._process = os.getpid()
        self.stats = ClusterStats()
        self.log = ThrottledLog()
        self._url = self._make_url(
            client_name=f"sockjs-{self.node_id}" if self._client_name is None else self._client_name
        )
        self.keys = self._url.keys
        self.commands = Commands(
            self._url,
            probes=command_probes(self.keys, relays=self._make_membership is not None),
            rules=acl_rules(self.keys),
            timeout=self._timeout,
            log=self.log,
            on_demoted=lambda: self._bus.reconnect(),  # A lambda, because the bus is created below.
            on_reconnect=self._redis_reconnected,
            on_rejected=self._command_rejected,
        )
        decoder = MessageDecoder(self.keys, self._secrets, self.stats, self.log)
        self._recoveries = Recoveries(self.commands, self.keys, decoder)
        on_gap = ([self._send_gap_messages] if self.recovery else []) + ([self._on_gap] if self._on_gap else [])
        self._gap_reports = GapReports(self.commands, self.log, on_gap)
        self._catch_up = CatchUp(
            self.commands,
            self.keys,
            decoder,
            lambda room, envelope: self._messages.deliver_envelope(room, envelope),  # As above.
            self._gap_reports.add,
            lambda room: self._messages.caught_up(room),
        )
        self._messages = Messages(
            self.node_id,
            self.keys,
            self.rooms,
            self.commands,
            self.stats,
            self.log,
            self._transform_message,
            lambda room: self._bus.confirmation(room),
            self._catch_up,
            self._topics,
            decoder,
            self._secrets,
            self.recovery,
        )
        deliver, unsubscribed = self._messages.deliver, self._unsubscribed
        self._bus = Bus(
            self._url,
            self.keys,
            deliver,
            unsubscribed,
            self._gap_ended,
            self.log,
            self._timeout,
            self._catch_up.ping_sent,
            self._catch_up.pong_received,
            self._bus_disconnected,
        )
        self._presence = Presence(self.commands, self.keys, self.node_id, self.rooms, self._presence_lifetime)
        self._membership: Membership | None = None
        if self._make_membership is not None:
            self._membership = self._make_membership(
                self.commands, self.keys, self.node_id, self.stats.relay, log=self.log
            )
            for router in self._routers:
                self._membership.node.add(router)

    def add(self, router: Any) -> None:
        """Add a router; :class:`~sockjs_tornado.router.SockJSRouter` calls this."""
        self._routers.append(router)
        if self._membership is not None:
            self._membership.node.add(router)

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
            if self._process != os.getpid():
                # The process was forked: each process is a node of its own.
                self._create_node()
            stack.push_async_callback(self._topics.close)
            for part in (self.commands, self._bus, self._membership, self._presence):
                if part is not None:
                    stack.push_async_callback(part.close)
                    await part.start()
            stack.push_async_callback(self._catch_up.close)
            channels = (CONTROL, *self._topic_channels())
            # If the connection is lost at once, they are subscribed to after the reconnect.
            with contextlib.suppress(ClusterUnavailable):
                await WaitForAll(*map(self._bus.subscribe, channels))
            # Those of subscribe() meanwhile.
            for channel in self._topic_channels():
                if channel not in channels:
                    self._bus.subscribe(channel)
            self._set_running()
            self._exit_stack = stack.pop_all()

    async def close(self) -> None:
        """Send all queued commands to Redis and disconnect. Close the routers first.

        Closing it again does nothing.
        """
        async with self._lifecycle:
            if not self._unusable_reason:
                self._unusable_reason = _CLOSED
                self._gap_reports.cancel()
                # If this task is cancelled, the exit stack still runs the remaining callbacks.
                await self._exit_stack.aclose()

    @property
    def available(self) -> bool:
        """Whether the cluster is running, and both connections to Redis are open."""
        return super().available and self.commands.available and self._bus.available

    def gauges(self) -> list[tuple[str, str, float]]:
        """Return the current state, for :mod:`~sockjs_tornado.observe.metrics`: name, link to Redis or "", value."""
        commands, size = self.commands.queued
        links = (("commands", self.commands), ("bus", self._bus))
        return [
            *super().gauges(),
            *(("connected", link, float(connection.available)) for link, connection in links),
            *(("silence_seconds", link, connection.silence) for link, connection in links),
            ("queued_commands", "", commands),
            ("queued_bytes", "", size),
            ("claims", "", 0 if self._membership is None else self._membership.claim_count),
        ]

    # Events of the connections to Redis.

    def _redis_reconnected(self) -> None:
        # Redis may have been restarted without its data.
        self._presence.restore()
        if self._membership is not None:
            self._membership.refresh()

    def _command_rejected(self) -> None:
        self.stats.rejected_commands += 1

    def _unsubscribed(self, name: str | Channel) -> None:
        self._messages.unsubscribed(name)
        if isinstance(name, str):
            self._catch_up.unsubscribed(name)

    async def _bus_disconnected(self) -> None:
        self._catch_up.disconnected()
        await self._messages.disconnected()

    def _gap_ended(self, names: Set[str | Channel]) -> None:
        self.stats.gaps += 1
        lost = self._catch_up.subscribed(names)
        self._topics.gap(channel.name for channel in self._topic_channels() if channel in names)
        # With tags, commands of router.select may have been missed, too.
        if lost or self.rooms.tags is not None:
            self._gap_reports.add(lost)

    async def _send_gap_messages(self, rooms: frozenset[str]) -> None:
        until = time.monotonic() + MAX_TURN
        for room in rooms:
            members = len(self.rooms.members(room))
            self.rooms.publish(room, PreparedMessage(gap_message(room, members)))
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + MAX_TURN

    # Rooms.

    def publish(
        self, room: str, message: str | JSONValue, exclude: "Sequence[Session]", options: PublishOptions
    ) -> Awaitable[Position | None]:
        """Send a message to all sessions in a room, on every node; ``router.publish`` calls this."""
        self._check_usable()
        return self._messages.publish(room, message, exclude, options, self._bus.confirmation(room))

    def publish_many(
        self, rooms: Sequence[str], message: str | JSONValue, exclude: "Sequence[Session]"
    ) -> Awaitable[None]:
        """Send a message to all sessions in some rooms, on every node; ``router.publish_many`` calls this."""
        self._check_usable()
        return self._messages.publish_many(rooms, message, exclude)

    def execute(self, command: "Command", exclude: "Sequence[Session]") -> Awaitable[None]:
        """Execute a command for all sessions of its target, on every node; ``router.select`` calls this."""
        self._check_usable()
        return self._messages.execute(command, exclude)

    def _topic_channels(self) -> list[Channel]:
        return [Channel("topic", name) for name in self._topics.names]

    def _topic_subscribed(self, topic: str, is_new: bool) -> Awaitable[None]:
        channel = Channel("topic", topic)
        confirmation = self._bus.subscribe(channel) if is_new else self._bus.confirmation(channel)
        return WaitForAll(*([] if confirmation is None else [confirmation]))

    def _topic_unsubscribed(self, topic: str) -> None:
        self._bus.unsubscribe(Channel("topic", topic))

    @property
    def _node_name(self) -> str:
        return self.node_id

    def _send_topic_message(self, topic: str, text: str) -> Awaitable[None]:
        return self._messages.publish_topic(topic, text)

    async def presence(self, room: str) -> dict[str, Any]:
        """Return the presence of a room's members, on every node; ``router.presence`` calls this."""
        self._check_usable()
        return await self._presence.get(room)

    async def presence_count(self, room: str) -> int:
        """Return the number of a room's members that have a presence; ``router.presence_count`` calls this."""
        self._check_usable()
        return await self._presence.count(room)

    async def recover(self, room: str, offset: int, epoch: str, *, limit: int | None = None) -> Recovered:
        """Return the messages with history that were published in a room after a position, as a :class:`Recovered`.

        Identical calls of one turn of the event loop send one command to Redis, and return the same object. So use
        :meth:`Recovered.encode` for the response, if many clients may reconnect at the same time.

        Args:
            room: The name of the room.
            offset: The offset of the last message that the client has received, or 0 for none.
            epoch: The epoch of that message, or ``""`` for none. Both values may come from the client unchecked.
            limit: The largest number of messages to return: the last ones. None, the default, returns all.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: The limit is less than 1.
            ClusterUnavailable: Redis is unavailable.
            RuntimeError: The cluster was not started.
        """
        check_room(room)
        self._check_usable()
        subscription = self._bus.confirmation(room)
        # Before the history is read, so that the subscription has all later messages.
        is_subscribed = subscription is not None and subscription.done() and subscription.exception() is None
        disconnects = self._catch_up.disconnects
        recovered = await self._recoveries.recover(room, offset, epoch, limit)
        if is_subscribed and self._bus.confirmation(room) is subscription and disconnects == self._catch_up.disconnects:
            self._catch_up.recovered(room, recovered.position)
        return recovered
