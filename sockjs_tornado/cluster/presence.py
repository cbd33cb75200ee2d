"""The presence of a room's members, on all nodes.

A room has a hash in Redis. A member is the field ``node:label``, with the JSON value that was passed to ``join``. The
entries of a node are valid while a key for the node exists, which expires. So the members of a node that dies disappear
with it, and a live node refreshes only that key and the expiry of its rooms' hashes, however many members there are.
"""

import asyncio
import contextlib
import json
import re
from typing import Any, Final

from ..session.rooms import Rooms
from .base import batches, cancel, repeat
from .claim_format import NODE
from .commands import Commands
from .envelope import RedisKeys
from .redis_connection import Args

#: The default time in seconds after which the entries of a node expire if it does not refresh them.
LIFETIME: Final = 15.0

#: The number of rooms whose entries are refreshed or written before other commands are sent.
_BATCH_SIZE: Final = 500

# The name of an entry: a node and the label of a session.
_MEMBER: Final = re.compile(rf"{NODE.pattern}:[0-9]{{1,20}}")

# Return the entries of live nodes, and delete those of dead ones.
_READ: Final = """
local alive, found = {}, {}
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
    local node = string.match(entries[i], '^[^:]*')
    if alive[node] == nil then
        alive[node] = redis.call('EXISTS', ARGV[1] .. node) == 1
    end
    if alive[node] then
        found[#found + 1] = entries[i]
        found[#found + 1] = entries[i + 1]
    else
        redis.call('HDEL', KEYS[1], entries[i])
    end
end
return found
"""


class Presence:
    """Writes the entries of one node, and reads those of all nodes."""

    def __init__(self, commands: Commands, keys: RedisKeys, node: str, rooms: Rooms, lifetime: float) -> None:
        self._commands = commands
        self._keys = keys
        self._node = node
        self._rooms = rooms
        self._lifetime = round(1000 * lifetime)
        # Failed writes to Redis: the labels of members that have left, by room, and rooms with new members.
        self._failed_removals: dict[str, set[str]] = {}
        self._failed_rooms: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Start refreshing the entries."""
        self._wake.set()
        self._task = asyncio.create_task(repeat(self._refresh, self._lifetime / 3000, self._wake))

    async def close(self) -> None:
        """Stop refreshing, and delete the key that marks this node as alive."""
        await cancel(self._task)
        self._commands.submit("DEL", self._keys.alive(self._node))

    def _member(self, label: str) -> str:
        return f"{self._node}:{label}"

    def add(self, room: str, label: str, text: str) -> "asyncio.Future[Any]":
        """Write a member's entry, and return a future that completes when other nodes see it."""
        return self._write(room, self._member(label), text)

    def _write(self, room: str, *fields: str) -> "asyncio.Future[Any]":
        command: Args = ("HSET", self._keys.presence(room), *fields)
        written = self._commands.call(*command)
        written.add_done_callback(lambda reply: self._failed_rooms.add(room) if reply.exception() else None)
        self._commands.submit("PEXPIRE", self._keys.presence(room), self._lifetime)
        return written

    def remove(self, room: str, label: str) -> None:
        """Delete a member's entry."""
        removed = self._commands.submit("HDEL", self._keys.presence(room), self._member(label))
        removed.add_done_callback(
            lambda reply: self._failed_removals.setdefault(room, set()).add(label) if reply.exception() else None
        )

    def restore(self) -> None:
        """Write all entries again after a reconnect: Redis may have lost them, or still have members that have left."""
        self._failed_rooms.update(self._rooms.rooms_with_presence())
        self._wake.set()

    async def get(self, room: str) -> dict[str, Any]:
        """Return the values that a room's members have passed to ``join``, by node and label."""
        reply = await self._commands.call("EVAL", _READ, 1, self._keys.presence(room), self._keys.alive(""))
        entries = dict(zip(reply[::2], reply[1::2], strict=True))
        others = {}
        for member, text in entries.items():
            # Skip what no node has written. UnicodeDecodeError is a ValueError.
            with contextlib.suppress(ValueError, RecursionError):
                name = member.decode()
                if _MEMBER.fullmatch(name) and not name.startswith(f"{self._node}:"):
                    others[name] = json.loads(text)
        # This node's own entries are taken from memory, which is always up to date.
        return others | {self._member(label): value for label, value in self._rooms.presence(room).items()}

    async def _refresh(self) -> None:
        """Refresh the expiry of all entries, and write again those that Redis does not have."""
        alive = self._keys.alive(self._node)
        known = await self._commands.get_and_expire(alive, self._lifetime)
        if known is None:
            await self._commands.call("SET", alive, 1, "PX", self._lifetime)
        removals, self._failed_removals = self._failed_removals, {}
        for room, labels in removals.items():
            for label in labels - self._rooms.presence(room).keys():
                self.remove(room, label)
        rooms = self._rooms.rooms_with_presence()
        failed, self._failed_rooms = self._failed_rooms, set()
        if known is None:
            await self._write_entries(rooms)
            return
        await self._write_entries(list(failed))
        for batch in batches(rooms, _BATCH_SIZE):
            refreshed = [self._commands.submit("PEXPIRE", self._keys.presence(room), self._lifetime) for room in batch]
            exists = await asyncio.gather(*refreshed)
            await self._write_entries([room for room, found in zip(batch, exists, strict=True) if not found])

    async def _write_entries(self, rooms: list[str]) -> None:
        """Write the entries of all members of rooms."""
        for batch in batches(rooms, _BATCH_SIZE):
            for room in batch:
                fields = [
                    part
                    for label, value in self._rooms.presence(room).items()
                    for part in (self._member(label), json.dumps(value))
                ]
                if fields:
                    self._write(room, *fields)
            await self._commands.wait_idle()
