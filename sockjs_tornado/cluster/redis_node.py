"""The parts of one node of a cluster on Redis: its connections, and what uses them."""

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Set
from secrets import token_hex
from typing import Any, Final

from ..exceptions import ClusterUnavailable
from ..observe.logs import ThrottledLog
from ..protocol import PreparedMessage
from ..recovery.messages import gap_message
from ..transports.http_transports import uses_http
from .base import MAX_TURN, ClusterStats, WaitForAll, cancel
from .bus import Bus
from .catch_up import CatchUp
from .commands import Commands
from .envelope import CONTROL, Channel
from .gap_reports import GapReports, OnGap
from .history import Recovered, Recoveries
from .membership import REFRESH_INTERVAL, Membership
from .message_decoder import MessageDecoder
from .messages import Messages, TransformMessage
from .permissions import acl_rules, command_probes
from .presence import Presence
from .redis_connection import RedisURL
from .secret import Secrets
from .shared_rooms import SharedRooms
from .topics import Topics

logger = logging.getLogger(__name__)

#: In a reply of Redis to ``INFO memory``.
_EVICTION_POLICY: Final = re.compile(rb"^maxmemory_policy:([a-z-]+)", re.MULTILINE)


class RedisNode:
    """One node: it creates its parts and connects them. If the process forks, each process creates its own node.

    The arguments that are not listed are those of :class:`~sockjs_tornado.cluster.redis.RedisCluster`.

    Args:
        make_url: Returns the URL, for the name of the connections.
        rooms: The rooms of this process, which use the new node from now on.
        topics: The callbacks of this process, by topic.
        routers: The routers of this process.
        secrets: The secrets that authenticate messages, or None.
        make_membership: Returns the membership, which relays requests. None if the nodes only share rooms.

    Attributes:
        id: The node's id.
        process: The id of its process.
        stats: The counters.
        keys: The names of keys and channels.
        commands: The connection for commands.
        bus: The connection for subscriptions.
    """

    def __init__(
        self,
        make_url: Callable[..., RedisURL],
        rooms: SharedRooms,
        topics: Topics,
        routers: Iterable[Any],
        *,
        client_name: str | None,
        secrets: Secrets | None,
        make_membership: Callable[..., Membership] | None,
        on_gap: OnGap | None,
        transform_message: TransformMessage | None,
        recovery: bool,
        timeout: float,
        presence_lifetime: float,
    ) -> None:
        self.id = token_hex(8)
        self.process = os.getpid()
        self.stats = ClusterStats()
        self.log = ThrottledLog()
        self.url = make_url(client_name=f"sockjs-{self.id}" if client_name is None else client_name)
        self.keys = self.url.keys
        self._rooms = rooms
        self._topics = topics
        self.commands = Commands(
            self.url,
            probes=command_probes(self.keys, relays=make_membership is not None),
            rules=acl_rules(self.keys),
            timeout=timeout,
            log=self.log,
            on_demoted=lambda: self.bus.reconnect(),  # A lambda, because the bus is created below.
            on_reconnect=self._redis_reconnected,
            on_rejected=self._command_rejected,
        )
        decoder = MessageDecoder(self.keys, secrets, self.stats, self.log)
        self.recoveries = Recoveries(self.commands, self.keys, decoder)
        report = ([self._send_gap_messages] if recovery else []) + ([on_gap] if on_gap else [])
        self.gap_reports = GapReports(self.commands, self.log, report)
        self.catch_up = CatchUp(
            self.commands,
            self.keys,
            decoder,
            lambda room, envelope: self.messages.deliver_envelope(room, envelope),  # As above.
            self._report_lost,
            lambda room: self.messages.caught_up(room),
        )
        self.messages = Messages(
            self.id,
            self.keys,
            rooms,
            self.commands,
            self.stats,
            self.log,
            transform_message,
            lambda room: self.bus.confirmation(room),
            self.catch_up,
            topics,
            decoder,
            secrets,
            recovery,
        )
        deliver, unsubscribed = self.messages.deliver, self._unsubscribed
        self.bus = Bus(
            self.url,
            self.keys,
            deliver,
            unsubscribed,
            self._gap_ended,
            self.log,
            timeout,
            self.catch_up.ping_sent,
            self._pong_received,
            self._bus_disconnected,
        )
        self.presence = Presence(self.commands, self.keys, self.id, rooms, presence_lifetime)
        self.membership: Membership | None = None
        if make_membership is not None:
            self.membership = make_membership(self.commands, self.keys, self.id, self.stats.relay, log=self.log)
        self._routers = routers
        for router in routers:
            self.add(router)
        rooms.bus = self.bus
        rooms.shared_presence = self.presence

    def add(self, router: Any) -> None:
        """Add a router."""
        if self.membership is not None:
            self.membership.node.add(router)

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Connect to Redis; see :meth:`RedisCluster.start`. The stack closes what was started, also after an error."""
        # It closes after the bus, which may start it until then.
        stack.push_async_callback(self.catch_up.close)
        for part in (self.commands, self.bus, self.membership, self.presence):
            if part is not None:
                stack.push_async_callback(part.close)
                await part.start()
        channels = (CONTROL, *self._topic_channels())
        # If the connection is lost at once, they are subscribed to after the reconnect.
        with contextlib.suppress(ClusterUnavailable):
            await WaitForAll(*map(self.bus.subscribe, channels))
        # Those of subscribe() meanwhile.
        for channel in self._topic_channels():
            if channel not in channels:
                self.bus.subscribe(channel)
        await self._check_eviction_policy()
        if self.membership is None:
            stack.push_async_callback(cancel, asyncio.create_task(self._check_relaying()))

    async def _check_relaying(self) -> None:
        """Log a warning, once, when another node relays requests, and this one has routers that need it, but does not.

        Nodes for websockets only, and those that only publish, need no address.
        """
        is_relaying = False
        while not is_relaying:
            if any(uses_http(router.settings) for router in self._routers):
                with contextlib.suppress(ClusterUnavailable):
                    is_relaying = await self.commands.call("EXISTS", self.keys.address(""))
            if not is_relaying:
                await asyncio.sleep(REFRESH_INTERVAL)
        logger.warning(
            "Other nodes in the namespace %r have an advertise address, but this node has none, so that neither relays "
            "requests for sessions of the other: unless the load balancer is sticky, requests over HTTP reach the "
            "wrong node, and fail. Set advertise and secret on all nodes",
            self.keys.namespace,
        )

    async def _check_eviction_policy(self) -> None:
        """Log a warning if Redis may evict the cluster's keys. All of them expire, so every policy but one does."""
        # Another server than Redis may reply with an error, or without this field.
        with contextlib.suppress(ClusterUnavailable):
            found = _EVICTION_POLICY.search(await self.commands.call("INFO", "memory"))
            if found and found[1] != b"noeviction":
                logger.warning(
                    "The maxmemory-policy of Redis at %s is %s: when its memory is full, it evicts the claims of "
                    "sessions, presence and histories. Set it to noeviction",
                    self.url.address,
                    found[1].decode(),
                )

    @property
    def available(self) -> bool:
        """Whether both connections to Redis are open."""
        return self.commands.available and self.bus.available

    def gauges(self) -> list[tuple[str, str, float]]:
        """Return the state of its parts; see :meth:`RedisCluster.gauges`."""
        commands, size = self.commands.queued
        links = (("commands", self.commands), ("bus", self.bus))
        return [
            *(("connected", link, float(connection.available)) for link, connection in links),
            *(("silence_seconds", link, connection.silence) for link, connection in links),
            ("queued_commands", "", commands),
            ("queued_bytes", "", size),
            ("claims", "", 0 if self.membership is None else self.membership.claim_count),
        ]

    async def recover(self, room: str, offset: int, epoch: str, limit: int | None) -> Recovered:
        """Read the history of a room for a member; see :meth:`RedisCluster.recover`."""
        subscription = self.bus.confirmation(room)
        # Before the history is read, so that the subscription has all later messages.
        is_subscribed = subscription is not None and subscription.done() and subscription.exception() is None
        disconnects = self.catch_up.disconnects
        recovered = await self.recoveries.recover(room, offset, epoch, limit)
        if is_subscribed and self.bus.confirmation(room) is subscription and disconnects == self.catch_up.disconnects:
            self.catch_up.recovered(room, recovered.position)
        return recovered

    # Events of the connections to Redis.

    def _redis_reconnected(self) -> None:
        # Redis may have been restarted without its data.
        self.presence.restore()
        if self.membership is not None:
            self.membership.refresh()

    def _command_rejected(self) -> None:
        self.stats.rejected_commands += 1

    def _unsubscribed(self, name: str | Channel) -> None:
        self.messages.unsubscribed(name)
        if isinstance(name, str):
            self.catch_up.unsubscribed(name)

    def _pong_received(self) -> None:
        self.catch_up.pong_received()
        self.messages.pong_received()

    async def _bus_disconnected(self) -> None:
        self.catch_up.disconnected()
        await self.messages.disconnected()

    def _gap_ended(self, names: Set[str | Channel]) -> None:
        self.stats.gaps += 1
        self.catch_up.subscribed(names)
        self._topics.gap(channel.name for channel in self._topic_channels() if channel in names)

    def _report_lost(self, rooms: Mapping[str, object]) -> None:
        # With tags, commands of router.select may have been missed, too.
        if rooms or self._rooms.tags is not None:
            self.gap_reports.add(rooms)

    def _topic_channels(self) -> list[Channel]:
        return [Channel("topic", name) for name in self._topics.names]

    async def _send_gap_messages(self, rooms: frozenset[str]) -> None:
        until = time.monotonic() + MAX_TURN
        for room in rooms:
            members = len(self._rooms.members(room))
            self._rooms.publish(room, PreparedMessage(gap_message(room, members)))
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + MAX_TURN
