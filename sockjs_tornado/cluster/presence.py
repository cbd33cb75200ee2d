"""Who is present in a room, on all nodes.

A room has a hash in Redis: a field for each member, named ``node:label``, with the JSON that was given to ``join``. It
counts while its node is alive, which a key with an expiry says. So a node that dies takes its members with it, and one
that lives renews that key and the expiry of its rooms' hashes, however many members there are.
"""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, Final

from ..exceptions import ClusterUnavailable
from ..session.rooms import Rooms
from .commands import Commands
from .envelope import Names

__all__ = ["LIFETIME", "Presence"]

#: Seconds after which a node that does not renew its entries is taken for dead.
LIFETIME: Final = 15.0

#: Rooms whose entries are renewed together.
_CHUNK: Final = 500

# Those of dead nodes are dropped on the way.
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
    """The entries of one node, and what others have.

    Args:
        commands: Where Redis is told.
        names: What things are called.
        node: The node's id.
        rooms: The node's members.
        lifetime: Seconds after which a node that does not renew its entries is taken for dead.
    """

    def __init__(self, commands: Commands, names: Names, node: str, rooms: Rooms, lifetime: float = LIFETIME) -> None:
        self._commands = commands
        self._names = names
        self._node = node
        self._rooms = rooms
        self._lifetime = round(1000 * lifetime)
        # Who has left, by room, where Redis could not be told.
        self._stale: dict[str, set[str]] = {}
        # Rooms with members of whom it could not.
        self._untold: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to renew."""
        self._spawn(self._renew())

    async def close(self) -> None:
        """Stop renewing, and take back what says that the node is alive."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._commands.submit("DEL", self._names.alive(self._node))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _member(self, label: str) -> str:
        return f"{self._node}:{label}"

    def appeared(self, room: str, label: str, text: str) -> "asyncio.Future[Any]":
        """Tell the others of a member; return what is done once they see it.

        Args:
            room: Where.
            label: Who; unique on this node.
            text: What was given to ``join``, as JSON.
        """
        return self._tell(room, self._member(label), text)

    def _tell(self, room: str, *fields: str) -> "asyncio.Future[Any]":
        def note(future: "asyncio.Future[Any]") -> None:
            if future.exception() is not None:
                self._untold.add(room)

        told = self._commands.submit("HSET", self._names.presence(room), *fields)
        told.add_done_callback(note)
        self._commands.submit("PEXPIRE", self._names.presence(room), self._lifetime)
        return told

    def vanished(self, room: str, label: str) -> None:
        """Tell them that it has left."""

        def note(future: "asyncio.Future[Any]") -> None:
            if future.exception() is not None:
                self._stale.setdefault(room, set()).add(label)

        self._commands.submit("HDEL", self._names.presence(room), self._member(label)).add_done_callback(note)

    def restore(self) -> None:
        """Hear that Redis is back: it may have lost everything, and may know of members that have left."""
        self._spawn(self._register(list(self._rooms.present())))

    def _take_back(self) -> None:
        stale, self._stale = self._stale, {}
        for room, labels in stale.items():
            for label in labels - self._rooms.presence(room).keys():
                self.vanished(room, label)

    async def of(self, room: str) -> dict[str, Any]:
        """Return what each member has given to ``join``, by node and label.

        Raises:
            ClusterUnavailable: Redis is away.
        """
        reply = await self._commands.submit("EVAL", _READ, 1, self._names.presence(room), self._names.alive(""))
        entries = dict(zip(reply[::2], reply[1::2], strict=True))
        others = {
            member.decode(): json.loads(text)
            for member, text in entries.items()
            if not member.startswith(f"{self._node}:".encode())
        }
        # Of its own the node knows better.
        return others | {self._member(label): value for label, value in self._rooms.presence(room).items()}

    async def _renew(self) -> None:
        while True:
            if self._commands.available:
                await self._register_where_lost()
            await asyncio.sleep(self._lifetime / 3000)

    async def _register_where_lost(self) -> None:
        alive = self._names.alive(self._node)
        try:
            # It replies what was there before.
            known = await self._commands.submit("SET", alive, 1, "PX", self._lifetime, "GET")
            self._take_back()
            rooms = list(self._rooms.present())
            untold, self._untold = self._untold, set()
            if known is None:
                await self._register(rooms)
                return
            await self._register([room for room in untold if self._rooms.presence(room)])
            for start in range(0, len(rooms), _CHUNK):
                chunk = rooms[start : start + _CHUNK]
                renewed = [
                    self._commands.submit("PEXPIRE", self._names.presence(room), self._lifetime) for room in chunk
                ]
                there = await asyncio.gather(*renewed)
                await self._register([room for room, was in zip(chunk, there, strict=True) if not was])
        except ClusterUnavailable:
            pass  # restore() comes

    async def _register(self, rooms: list[str]) -> None:
        """Tell Redis of all members of rooms, and of who has left."""
        self._commands.submit("SET", self._names.alive(self._node), 1, "PX", self._lifetime)
        self._take_back()
        for start in range(0, len(rooms), _CHUNK):
            for room in rooms[start : start + _CHUNK]:
                fields = [
                    part
                    for label, value in self._rooms.presence(room).items()
                    for part in (self._member(label), json.dumps(value))
                ]
                if fields:
                    self._tell(room, *fields)
            await asyncio.wait([self._commands.submit("PING")])
