"""The presence of a room's members, on all nodes.

A room has a hash in Redis. A member is the field ``node:label``, with the JSON value that was passed to ``join``. The
entries of a node are valid while a key for the node exists, which expires. So the members of a node that dies disappear
with it, and a live node refreshes only that key and the expiry of its rooms' hashes, however many members there are.
"""

import asyncio
import contextlib
import itertools
import json
import operator
from collections.abc import Iterable
from typing import Any, Final

from ..exceptions import ClusterUnavailable
from ..session.rooms import Rooms, check_room
from .base import SLICE, batches, cancel, repeat
from .commands import Commands
from .envelope import RedisKeys
from .presence_reading import count_command, decode_counts, decode_in_slices, read_command
from .redis_connection import Args

#: The default time in seconds after which the entries of a node expire if it does not refresh them.
LIFETIME: Final = 15.0

#: The largest number of failed removals, and of rooms to be written again, that a node remembers.
MAX_UNWRITTEN: Final = 10_000


class Presence:
    """Writes the entries of one node, and reads those of all nodes.

    A failed removal is repeated later. If there are more than :data:`MAX_UNWRITTEN`, the node begins a new *generation*
    of entries, with another name: it writes the entries of its present members again, and then deletes the key that
    makes the former ones valid. So the memory and the time that an outage costs have a bound, however many members have
    left.
    """

    def __init__(self, commands: Commands, keys: RedisKeys, node: str, rooms: Rooms, lifetime: float) -> None:
        self._commands = commands
        self._keys = keys
        self._node = node
        self._rooms = rooms
        self._lifetime = round(1000 * lifetime)
        # The name of this node in its entries: its id, after the first generation followed by "." and a number.
        self._name = node
        self._generation = 1
        # The names of earlier generations whose keys may exist.
        self._former_names: list[str] = []
        # What has to be written once Redis accepts it: the removals of members (room and label), the entries of some
        # rooms, those of all rooms, a new generation.
        self._removals: set[tuple[str, str]] = set()
        self._unwritten_rooms: set[str] = set()
        self._everything_unwritten = False
        self._generation_ended = False
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Start refreshing the entries."""
        self._wake.set()
        self._task = asyncio.create_task(repeat(self._refresh, self._lifetime / 3000, self._wake))

    async def close(self) -> None:
        """Stop refreshing, and delete the key that marks this node as alive."""
        await cancel(self._task)
        for name in self._names:
            self._commands.submit("DEL", self._keys.alive(name))

    @property
    def _names(self) -> tuple[str, ...]:
        """The names whose entries are valid."""
        return (self._name, *self._former_names)

    def add(self, room: str, label: str, text: str) -> "asyncio.Future[Any]":
        """Write a member's entry, and return a future that completes when other nodes see it."""
        if self._removals:
            self._removals.discard((room, label))
        return self._write(room, *(part for name in self._names for part in (f"{name}:{label}", text)))

    def _write(self, room: str, *fields: str) -> "asyncio.Future[Any]":
        command: Args = ("HSET", self._keys.presence(room), *fields)
        written = self._commands.call(*command)
        written.add_done_callback(lambda reply: self._write_later(room) if reply.exception() else None)
        self._commands.submit("PEXPIRE", self._keys.presence(room), self._lifetime)
        return written

    def remove(self, room: str, label: str) -> None:
        """Delete a member's entry."""
        if not self._commands.available or self._commands.is_full:
            self._remove_later(room, label)
            return
        fields = [f"{name}:{label}" for name in self._names]
        removed = self._commands.submit("HDEL", self._keys.presence(room), *fields)
        removed.add_done_callback(lambda reply: self._removal_failed(room, label) if reply.exception() else None)

    def _removal_failed(self, room: str, label: str) -> None:
        self._remove_later(room, label)
        # The member may have joined again since: its entry must be written after the removal is repeated.
        self._write_later(room)

    def _remove_later(self, room: str, label: str) -> None:
        if self._generation_ended:
            return
        self._removals.add((room, label))
        if len(self._removals) > MAX_UNWRITTEN:
            self._removals.clear()
            self._generation_ended = True

    def _write_later(self, room: str) -> None:
        # After a reconnect everything is written again.
        if self._commands.available and not self._everything_unwritten:
            self._unwritten_rooms.add(room)
            if len(self._unwritten_rooms) > MAX_UNWRITTEN:
                self._unwritten_rooms.clear()
                self._everything_unwritten = True

    def restore(self) -> None:
        """Write all entries again after a reconnect: Redis may have lost them, or still have members that have left."""
        self._everything_unwritten = True
        self._wake.set()

    async def get(self, room: str) -> dict[str, Any]:
        """Return the values that a room's members have passed to ``join``, by node and label."""
        check_room(room)
        reply = await self._commands.call(*read_command(self._keys, room, delete_expired=True))
        others = await decode_in_slices(reply, except_node=self._node)
        # This node's own entries are taken from memory, which is always up to date.
        entries = self._rooms.presence_entries((room,))
        while part := list(itertools.islice(entries, SLICE)):
            others.update((f"{self._node}:{label}", json.loads(text)) for _, label, text in part)
            if len(part) == SLICE:
                await asyncio.sleep(0)
        return others

    async def count(self, room: str) -> int:
        """Return the number of a room's members that have a presence."""
        check_room(room)
        counts = decode_counts(await self._commands.call(*count_command(self._keys, room)))
        counts[self._node] = self._rooms.presence_count(room)
        return sum(counts.values())

    async def _refresh(self) -> None:
        """Refresh the expiry of all entries, and write again those that Redis does not have."""
        known = await self._refresh_alive()
        if self._generation_ended:
            # If Redis rejects it because its memory is full, the rooms are still refreshed.
            with contextlib.suppress(ClusterUnavailable):
                await self._begin_generation()
                known = True
        await self._repeat_removals()
        if known is None:
            # After the removals, so that nobody sees members that have left.
            await self._commands.call("SET", self._keys.alive(self._name), 1, "PX", self._lifetime)
            self._everything_unwritten = True
        rooms = self._rooms.rooms_with_presence()
        everything, self._everything_unwritten = self._everything_unwritten, False
        unwritten, self._unwritten_rooms = self._unwritten_rooms, set()
        try:
            await self._write_entries(rooms if everything else unwritten)
        except ClusterUnavailable:
            self._everything_unwritten = True
            raise
        while self._former_names:
            await self._commands.call("DEL", self._keys.alive(self._former_names[0]))
            del self._former_names[0]
        for batch in batches([] if everything else rooms, SLICE):
            refreshed = [self._commands.submit("PEXPIRE", self._keys.presence(room), self._lifetime) for room in batch]
            exists = await asyncio.gather(*refreshed)
            await self._write_entries([room for room, found in zip(batch, exists, strict=True) if not found])
            await self._refresh_alive()

    async def _refresh_alive(self) -> Any:
        """Refresh the key that marks this node as alive; return None if it does not exist."""
        return await self._commands.get_and_expire(self._keys.alive(self._name), self._lifetime)

    async def _begin_generation(self) -> None:
        """Write all entries under another name. What was written before becomes invalid, and needs no removal."""
        name = f"{self._node}.{self._generation + 1}"
        await self._commands.call("SET", self._keys.alive(name), 1, "PX", self._lifetime)
        self._former_names.append(self._name)
        self._name = name
        self._generation += 1
        self._generation_ended = False
        self._removals.clear()
        self._unwritten_rooms.clear()
        self._everything_unwritten = True

    async def _repeat_removals(self) -> None:
        removals, self._removals = self._removals, set()
        remaining = iter(removals)
        try:
            while batch := list(itertools.islice(remaining, SLICE)):
                for room, label in batch:
                    self.remove(room, label)
                await self._refresh_alive()
        finally:
            for room, label in remaining:
                self._remove_later(room, label)

    async def _write_entries(self, rooms: Iterable[str]) -> None:
        """Write the entries of all members of rooms, :data:`SLICE` at a time."""
        entries = self._rooms.presence_entries(rooms)
        while batch := list(itertools.islice(entries, SLICE)):
            for room, members in itertools.groupby(batch, operator.itemgetter(0)):
                fields = [part for _, label, text in members for part in (f"{self._name}:{label}", text)]
                self._write(room, *fields)
            # The next ones are sent when Redis has replied, and this node stays alive however long it takes.
            await self._refresh_alive()
