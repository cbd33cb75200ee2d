"""Subscriptions to rooms and other channels: one connection to Redis that receives the messages published there."""

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Set
from typing import Final, NoReturn

from redis import ResponseError

from ..exceptions import ClusterUnavailable
from ..observe.logs import ThrottledLog
from .base import MAX_TURN, SLICE, fail, fail_all
from .credentials import Credentials
from .envelope import Channel, RedisKeys
from .permissions import acl_rules, subscription_probes
from .reconnecting import ReconnectingConnection
from .redis_connection import RedisConnection, RedisURL, pack_command
from .redis_url import describe

logger = logging.getLogger(__name__)

_UNAVAILABLE: Final = "Redis is unavailable; the room is subscribed to after the reconnect"


class Bus(ReconnectingConnection):
    """Subscribes to rooms, and delivers their messages. Other channels are subscribed to as rooms are.

    A room passes through three sets. ``_confirmations`` has the rooms that this node is in. A room is in ``_sent`` if
    the last command for it on this connection was SUBSCRIBE. ``_unconfirmed`` counts the SUBSCRIBE commands without a
    reply. A subscription is confirmed if its room is in the first two and not in the third.

    Args:
        deliver: Called with a room and a message that was published in it.
        on_unsubscribed: Called with a room after its unsubscription.
        on_gap: Called after each reconnect, when all subscriptions are confirmed again, with the rooms in which
            messages may have been missed.
        on_ping: Called before each PING. ``on_pong`` is called with the reply, after everything that Redis had sent
            before.
        on_disconnect: Awaited after a disconnect, which ends all subscriptions, and before the reconnect; None for
            nothing.
    """

    def __init__(
        self,
        url: RedisURL,
        keys: RedisKeys,
        deliver: Callable[[str | Channel, bytes], object],
        on_unsubscribed: Callable[[str | Channel], object],
        on_gap: Callable[[Set[str | Channel]], object],
        log: ThrottledLog,
        timeout: float,
        on_ping: Callable[[], object] = lambda: None,
        on_pong: Callable[[], object] = lambda: None,
        on_disconnect: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        # RESP3 permits AUTH on a connection with subscriptions, which credentials that expire require.
        protocol = 3 if url.has_credentials_function else 2
        super().__init__(url, timeout, log, subscription_probes(keys), acl_rules(keys), protocol)
        self._keys = keys
        self._deliver = deliver
        self._on_unsubscribed = on_unsubscribed
        self._on_gap = on_gap
        self._on_ping = on_ping
        self._on_pong = on_pong
        self._disconnect_callback = on_disconnect
        # The rooms to be subscribed to, each with the future of its confirmation: _confirmed if Redis has confirmed it
        # on this connection, otherwise a pending one, or one of an earlier connection until confirmation() replaces it.
        # So neither a disconnect nor a reconnect creates a future for every room.
        self._confirmations: dict[str | Channel, asyncio.Future[None]] = {}
        self._confirmed: asyncio.Future[None]
        # The pending ones of them.
        self._pending: dict[str | Channel, asyncio.Future[None]] = {}
        self._sent: set[str | Channel] = set()
        self._unconfirmed: Counter[str | Channel] = Counter()
        # The rooms for which the writer has to check whether a command is needed, in order.
        self._changed: dict[str | Channel, object] = {}
        # Requests to the writer, which _wake wakes up.
        self._ping_requested = False
        self._new_credentials: Credentials | None = None
        self._reconnect_requested = False
        self._wake = asyncio.Event()
        # The rooms of the current gap: a dict, because to copy a dict is faster than to create a set (1 ms instead of 3
        # for 100,000; 4 ms if entries were removed from it).
        self._gap_rooms: dict[str | Channel, object] = {}
        # The number of them that are not subscribed again yet. The gap ends when it is 0.
        self._resubscribing = 0

    def reconnect(self) -> None:
        """Close the connection and open another one: this server is no longer the one that nodes publish to."""
        self._reconnect_requested = True
        self._wake.set()

    def subscribe(self, room: str | Channel) -> "asyncio.Future[None]":
        """Subscribe to a room in the next iteration of the event loop, and return :meth:`confirmation`."""
        if self.available:
            self._mark_changed(room)
        else:
            self._gap_rooms[room] = None
        return self._create_confirmation(room)

    def unsubscribe(self, room: str | Channel) -> None:
        """Unsubscribe from a room."""
        confirmation = self._confirmations.pop(room)
        self._pending.pop(room, None)
        if not confirmation.done():
            confirmation.set_result(None)
        # The room has no members left that could have missed a message.
        if room in self._gap_rooms:
            del self._gap_rooms[room]
            self._resubscribing -= confirmation is not self._confirmed
        self._on_unsubscribed(room)
        if self.available:
            self._mark_changed(room)
        self._maybe_end_gap()

    def confirmation(self, room: str | Channel) -> "asyncio.Future[None] | None":
        """Return a future that completes when Redis has confirmed a subscription, or None without a subscription.

        The future is shared, and must not be cancelled. It raises ClusterUnavailable if Redis is not connected, or if
        the connection is lost.
        """
        if room not in self._confirmations:
            return None
        confirmation = self._confirmations[room]
        if confirmation.done() and confirmation is not self._confirmed:
            confirmation = self._create_confirmation(room)
        return confirmation

    def _create_confirmation(self, room: str | Channel) -> "asyncio.Future[None]":
        confirmation = self._confirmations[room] = asyncio.get_running_loop().create_future()
        if self.available:
            self._pending[room] = confirmation
        else:
            fail(confirmation, _UNAVAILABLE)
        return confirmation

    def _create_events(self) -> None:
        super()._create_events()
        self._forget_confirmations()

    def _forget_confirmations(self) -> None:
        self._confirmed = asyncio.get_running_loop().create_future()
        self._confirmed.set_result(None)

    def _mark_changed(self, room: str | Channel) -> None:
        self._changed[room] = None
        self._wake.set()

    def _on_connect(self, is_reconnect: bool) -> None:
        self._reconnect_requested = False
        self._new_credentials = None
        self._sent.clear()
        self._unconfirmed.clear()
        self._changed = {**self._confirmations}
        self._resubscribing = len(self._gap_rooms)
        self._wake.set()
        self._maybe_end_gap()

    def _ping(self) -> None:
        self._ping_requested = True
        self._wake.set()

    async def _authenticate(self, credentials: Credentials) -> None:
        self._new_credentials = credentials
        self._wake.set()

    async def _write(self, connection: RedisConnection) -> NoReturn:
        while True:
            await self._wake.wait()
            self._wake.clear()
            changed, self._changed = iter(self._changed), {}
            while True:
                if self._reconnect_requested:
                    raise ClusterUnavailable("Redis no longer accepts writes")
                rooms = list(itertools.islice(changed, SLICE))
                await self._send_commands(connection, rooms)
                if self._ping_requested:
                    self._ping_requested = False
                    self._on_ping()
                    await connection.send(pack_command(("PING",)))
                if self._new_credentials is not None:
                    command = ("AUTH", *self._new_credentials.args)
                    self._new_credentials = None
                    await connection.send(pack_command(command))
                if len(rooms) < SLICE:
                    break
                # After a reconnect all rooms have changed.
                await asyncio.sleep(0)

    async def _send_commands(self, connection: RedisConnection, changed: list[str | Channel]) -> None:
        new = [room for room in changed if room in self._confirmations and room not in self._sent]
        gone = [room for room in changed if room not in self._confirmations and room in self._sent]
        self._sent.update(new)
        self._sent.difference_update(gone)
        self._unconfirmed.update(new)
        for room in changed:
            # A room that was unsubscribed and subscribed since the last command needs none.
            self._maybe_confirm(room)
        for command, rooms in (("SUBSCRIBE", new), ("UNSUBSCRIBE", gone)):
            if rooms:
                await connection.send(pack_command((command, *map(self._keys.channel, rooms))))

    async def _read(self, connection: RedisConnection) -> NoReturn:
        until = 0.0
        while True:
            match await connection.receive():
                case [b"message", bytes(channel), bytes(data)]:
                    self._deliver(self._keys.room(channel), data)
                case [b"subscribe", bytes(channel), _]:
                    self._subscribed(self._keys.room(channel))
                case [b"pong", _] | b"PONG":
                    self._on_pong()
                case ResponseError() as error if str(error).startswith("WRONGPASS"):
                    # The reply to AUTH. The subscriptions remain until the old credentials expire.
                    message = "Redis at %s rejects the new credentials of this node: %s"
                    address = describe(connection.address)
                    self._log.write(logger, logging.WARNING, "new credentials", message, address, error)
                case ResponseError() as error:
                    raise error
            # receive() does not yield to the event loop while data is buffered.
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + MAX_TURN

    def _subscribed(self, room: str | Channel) -> None:
        # The count is larger than 1 if the room was unsubscribed and subscribed again before the reply.
        self._unconfirmed[room] -= 1
        if not self._unconfirmed[room]:
            del self._unconfirmed[room]
        self._maybe_confirm(room)

    def _maybe_confirm(self, room: str | Channel) -> None:
        if room in self._confirmations and room in self._sent and room not in self._unconfirmed:
            confirmation = self._pending.pop(room, None)
            if confirmation is not None:
                confirmation.set_result(None)
            if room in self._gap_rooms:
                self._resubscribing -= self._confirmations[room] is not self._confirmed
            self._confirmations[room] = self._confirmed
            self._maybe_end_gap()

    def _maybe_end_gap(self) -> None:
        if self._gap_rooms and self.available and not self._resubscribing:
            rooms, self._gap_rooms = self._gap_rooms, {}
            self._on_gap(rooms.keys())

    async def _on_disconnect(self) -> None:
        pending, self._pending = self._pending, {}
        self._forget_confirmations()
        try:
            if self._disconnect_callback is not None:
                await self._disconnect_callback()
                # Each of the two takes some milliseconds for 100,000 rooms.
                await asyncio.sleep(0)
            self._gap_rooms = {**self._confirmations, **self._gap_rooms}
        finally:
            await fail_all((future, _UNAVAILABLE) for future in pending.values())
