"""Nodes that know each other by way of Redis: what is published on one reaches the rooms of all.

::

    cluster = RedisCluster("redis://localhost:6379/0", on_gap=on_gap)
    router = SockJSRouter(Chat, "/chat", cluster=cluster)
    async with cluster:
        ...

Who comes again, and wants neither to miss nor to hear twice what was published with a history, does this in order:

1. ``await connection.join(room)``. From here on everything arrives.
2. ``await cluster.recover(room, offset, epoch)``, with the last position that the client knows, and send it that.
3. Skip messages whose offset the client has already received. ``transform_message`` can add the offset to each message.

``on_gap`` is told of rooms in which something may have been missed: there the same is to be done from the second step
on, for each client.
"""

import asyncio
import contextlib
import inspect
import itertools
import logging
import math
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..exceptions import ConfigurationError
from ..observe.logs import ThrottledLog
from ..protocol import JSONValue
from ..session.ports import Position
from ..session.rooms import check_room
from .bus import Bus
from .commands import Commands
from .connection import TIMEOUT, database_of, make_client
from .envelope import Names
from .history import Recovered, recover
from .membership import Membership
from .messages import Messages, TransformMessage
from .presence import LIFETIME, Presence
from .rooms import SharedRooms
from .stats import ClusterStats

if TYPE_CHECKING:
    from ..session.session import Session

__all__ = ["RedisCluster"]

logger = logging.getLogger(__name__)

#: Told of the rooms in which something may have been missed.
OnGap = Callable[[frozenset[str]], Awaitable[object] | object]


class RedisCluster:
    """One node of a cluster.

    Args:
        url: Of a Redis 7.0 or newer: ``redis://``, ``rediss://`` or ``unix://``. It is one server; of several that
            replicate, the one that takes writes. (What Redis calls a cluster is something else.)
        namespace: What everything begins with that it has in Redis.
        on_gap: Called once after each loss of Redis, when it is back, with the names of all rooms in which messages
            of other nodes may have been missed. It may be ``async def``. What it raises is logged.
        transform_message: Called with the room, the message and its :class:`Position` before a message with history is
            delivered to this node's members; they receive the value that it returns.
        timeout: Seconds of silence after which Redis is asked for a sign of life, which it has as long again to give.
            With the default of 2, a connection that is half open is found within 4 s.
        advertise: Where other nodes reach this one, and nobody else does: ``http://host:port``. Any node may then be
            asked for any session. None, the default: they share rooms alone.
        secret: What the nodes prove themselves to each other with: 16 bytes or more, the same for all.
        listen: Where this node listens for the others, ``host:port``. Default: as advertised.
        allow_public_listener: Whether that may be an address that the internet reaches.
        on_redis_down: How to answer a request for a session that this node does not know while Redis is unavailable.
            ``"reject"``, the default, responds 503. ``"local"`` opens the session on this node; use it only if the
            load balancer sends all requests of a session to one node, otherwise each node opens its own session.
        presence_lifetime: Seconds after which the members of a node that has died are no longer present. Default 15.

    Raises:
        ConfigurationError: The URL or the namespace is none, or another argument makes no sense.

    Attributes:
        node_id: The name of this node; random, and no secret. Where the process is forked before :meth:`start`, each
            gets another.
        rooms: The rooms of its routers.
        labels: Numbers for their sessions.
        commands: What it sends to Redis.
        stats: Counters.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "sockjs",
        on_gap: OnGap | None = None,
        transform_message: TransformMessage | None = None,
        advertise: str | None = None,
        secret: str | bytes | None = None,
        listen: str | None = None,
        allow_public_listener: bool = False,
        on_redis_down: str = "reject",
        timeout: float = TIMEOUT,
        presence_lifetime: float = LIFETIME,
    ) -> None:
        for name, seconds in (("timeout", timeout), ("presence_lifetime", presence_lifetime)):
            _check_seconds(name, seconds)
        for name, function in (("on_gap", on_gap), ("transform_message", transform_message)):
            if function is not None and not callable(function):
                raise ConfigurationError(f"{name}: got {function!r}, takes a function")
        if on_redis_down not in ("local", "reject"):
            raise ConfigurationError(f'on_redis_down: got {on_redis_down!r}, takes "local" or "reject"')
        self.labels = itertools.count(1)
        self.rooms = SharedRooms(self._check_usable)
        self._url = url
        self._namespace = namespace
        self._on_gap = on_gap
        self._transform_message = transform_message
        self._timeout = timeout
        self._presence_lifetime = presence_lifetime
        self._missed: set[str] = set()
        self._telling: asyncio.Task[None] | None = None
        self._state = "was not started: await cluster.start()"
        self._thread = 0
        self._changing = asyncio.Lock()
        self._begun = contextlib.AsyncExitStack()
        self._routers: list[Any] = []
        self._make_membership: Callable[[], Membership] | None = None
        if advertise is not None:
            self._make_membership = lambda: Membership(
                self.commands,
                namespace,
                self.node_id,
                advertise,
                secret,
                listen,
                allow_public_listener,
                on_redis_down == "local",
                self.stats.relay,
            )
        elif secret is not None or listen is not None:
            raise ConfigurationError("secret and listen are for nodes that advertise an address")
        self._become_node()

    def _become_node(self) -> None:
        self.node_id = secrets.token_hex(8)
        self._process = os.getpid()
        self.stats = ClusterStats()
        self.log = ThrottledLog(time.monotonic)
        self._client = make_client(self._url)
        self.names = Names(self._namespace, database_of(self._client))
        self.commands = Commands(
            self._client,
            timeout=self._timeout,
            log=self.log,
            on_demoted=lambda: self._bus.give_up(),  # which is not made yet
            on_back=self._redis_back,
        )
        self._messages = Messages(
            self.node_id, self.names, self.rooms, self.commands, self.stats, self.log, self._transform_message
        )
        self._bus = Bus(
            self._client,
            self.names,
            self._messages.deliver,
            self._messages.forget,
            self._gap_ended,
            self.log,
            self._timeout,
        )
        self._presence = Presence(self.commands, self.names, self.node_id, self.rooms, self._presence_lifetime)
        self.rooms.connect(self._bus, self._presence)
        self._membership = self._make_membership() if self._make_membership else None
        for router in self._routers:
            self._add_to_membership(router)

    def add(self, router: Any) -> None:
        """Hear of a router; :class:`~sockjs_tornado.router.SockJSRouter` calls it."""
        self._routers.append(router)
        self._add_to_membership(router)

    def _add_to_membership(self, router: Any) -> None:
        if self._membership is not None:
            self._membership.add(router)

    async def start(self) -> None:
        """Connect to Redis. To start twice does nothing.

        Raises:
            ClusterUnavailable: There is no Redis.
            ClusterError: It wants a password, or is too old, or does not let this user have the channels. Or another
                node has the advertised address.
            ConfigurationError: The address to listen on is none of this host, or a public one.
            RuntimeError: It is closed.
        """
        # One at a time.
        async with self._changing, contextlib.AsyncExitStack() as begun:
            if not self._state:
                return
            if self._thread:
                raise RuntimeError("the cluster is closed; make another one")
            if self._process != os.getpid():
                # A fork has copied it: each process is a node of its own.
                self._become_node()
            begun.push_async_callback(self._client.aclose)
            await self.commands.start()
            begun.push_async_callback(self.commands.close)
            await self._bus.start()
            begun.push_async_callback(self._bus.close)
            if self._membership is not None:
                await self._membership.start()
                begun.push_async_callback(self._membership.close)
            self._presence.start()
            begun.push_async_callback(self._presence.close)
            self._thread = get_ident()
            self._state = ""
            self._begun = begun.pop_all()

    async def close(self) -> None:
        """Send what is still on its way to Redis, and let go of it; the routers should be closed before.

        To close twice does nothing.
        """
        async with self._changing:
            if not self._state:
                self._state = "is closed"
                if self._telling is not None:
                    self._telling.cancel()
                # Who waits no more leaves nothing open.
                await self._begun.aclose()

    async def __aenter__(self) -> "RedisCluster":
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def _check_usable(self) -> None:
        if self._state:
            raise RuntimeError(f"the cluster {self._state}")
        if get_ident() != self._thread:
            raise RuntimeError(
                "a cluster belongs to its event loop's thread: use loop.call_soon_threadsafe from another"
            )

    # What Redis does.

    def _redis_back(self) -> None:
        """Hear that it takes commands again, and may have forgotten everything."""
        self._presence.restore()
        if self._membership is not None:
            self._membership.refresh()

    def _gap_ended(self, rooms: frozenset[str]) -> None:
        self.stats.gaps += 1
        if self._on_gap is not None:
            self._missed |= rooms
            # Where tasks begin at once, it may be over before it is known here.
            if self._telling is None or self._telling.done():
                self._telling = asyncio.create_task(self._tell_gaps(self._on_gap))

    async def _tell_gaps(self, on_gap: OnGap) -> None:
        """Call ``on_gap``, one call at a time."""
        while self._missed:
            # Whoever is told may want to recover.
            await self.commands.ready()
            missed, self._missed = frozenset(self._missed), set()
            try:
                result = on_gap(missed)
                if inspect.isawaitable(result):
                    await result
            except Exception as error:
                self.log.write(logger, logging.ERROR, "on_gap", "on_gap failed", error=error)

    # Rooms.

    def publish(
        self, room: str, message: str | JSONValue, exclude: "Sequence[Session]", history: int, ttl: float | None
    ) -> Awaitable[Position | None]:
        """Send a message to all sessions in a room, on every node; ``router.publish`` calls it."""
        self._check_usable()
        return self._messages.publish(room, message, exclude, history, ttl, self._bus.confirmed(room))

    async def presence(self, room: str) -> dict[str, Any]:
        """Return who is present in a room, on every node; ``router.presence`` calls it."""
        self._check_usable()
        return await self._presence.of(room)

    async def recover(self, room: str, offset: int, epoch: str) -> Recovered:
        """Return what was published with history in a room behind a position.

        Args:
            room: Its name.
            offset: Of the last message that somebody has had; 0 for none.
            epoch: Of the same; ``""`` for none. Both may come from a client.

        Raises:
            TypeError: The room is no ``str``, or the position is of other types.
            ClusterUnavailable: Redis is away.
            RuntimeError: The cluster was not started.
        """
        check_room(room)
        self._check_usable()
        return await recover(self.commands, self.names, room, offset, epoch)

    def counters(self) -> dict[str, int]:
        """Return the counters by name; for :mod:`~sockjs_tornado.observe.metrics`."""
        return self.stats.snapshot()


def _check_seconds(name: str, value: object) -> None:
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigurationError(f"{name}: got {value!r}, takes a number of seconds above 0")
