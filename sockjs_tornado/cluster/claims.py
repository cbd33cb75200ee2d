"""Who holds a session, as Redis knows it.

A claim is a key that is there as long as its node refreshes it. The first node to set it holds the session. Where that
node is found to be lost, the claim becomes a tombstone: nobody opens the session again while that stands.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from ..session.ended import ENDED_TIME
from .commands import Commands
from .ownership import Location, Owner

__all__ = ["CLAIM_TIME", "REPLACE", "Claims"]

#: Seconds that a claim stands without being refreshed.
CLAIM_TIME: Final = 30

#: Claims that are refreshed, or released, before other commands have their turn.
_SLICE: Final = 500

_TOMBSTONE: Final = b"-"

#: Writes a key, or deletes it, where it has the value that is expected.
REPLACE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""


class Claims:
    """The claims of one node.

    Args:
        commands: The way to Redis.
        namespace: What the keys begin with.
        node: Id of this node.
        address: Where its listener is.
        stats: Counts claims that were lost, and tombstones.
    """

    opens_relayed_sessions = False

    def __init__(self, commands: Commands, namespace: str, node: str, address: str, stats: Counter[str]) -> None:
        self._commands = commands
        self._prefix = f"{namespace}:session:"
        self._value = json.dumps([node, address]).encode()
        self._stats = stats
        # Each with what is called where it is lost.
        self._held: dict[str, Callable[[], None]] = {}
        # Claims on their way: what Redis will reply.
        self._pending: dict[str, asyncio.Future[Any]] = {}
        self._refreshing = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def owns(self, key: str) -> bool:
        """Tell whether this node holds a session."""
        return key in self._held

    async def claim(self, key: str, on_lost: Callable[[], None]) -> Owner | Location:
        """Claim a session; all who ask at the same time get one answer."""
        pending = self._pending.get(key)
        if pending is None:
            # Before anything is awaited: who asks meanwhile, from here or from another node, waits for it.
            pending = self._pending[key] = self._set(key)
            # No partial: asyncio would log its arguments if it failed, and the key has the session id.
            pending.add_done_callback(lambda reply: self._claimed(key, on_lost, reply))
        await self.wait_for_pending_claim(key)
        return self._place(pending.result())

    def _claimed(self, key: str, on_lost: Callable[[], None], reply: "asyncio.Future[Any]") -> None:
        del self._pending[key]
        if reply.exception() is None and self._place(reply.result()) is Location.HERE:
            self._held.setdefault(key, on_lost)

    async def locate(self, key: str) -> Owner | Location:
        """Return who holds a session."""
        await self.wait_for_pending_claim(key)
        value = None if key in self._held else await self._commands.submit("GET", self._key(key))
        if key in self._held:
            return Location.HERE
        place = Location.NOWHERE if value is None else self._place(value)
        # One of its own that it does not hold is left over: Redis was away when it was released.
        return Location.NOWHERE if place is Location.HERE else place

    async def wait_for_pending_claim(self, key: str) -> None:
        """Wait for a claim that is on its way."""
        pending = self._pending.get(key)
        if pending is not None:
            await asyncio.wait([pending])
            if key in self._pending:
                # The reply is there, and is taken at the loop's next turn.
                await asyncio.sleep(0)

    def claim_later(self, key: str, on_lost: Callable[[], None]) -> None:
        """Hold a session while Redis is away; :meth:`refresh` claims it."""
        self._held.setdefault(key, on_lost)

    def release(self, key: str) -> None:
        """Hold a session no more."""
        if self._held.pop(key, None) is not None:
            # Where Redis is away, the claim ends by itself.
            self._commands.submit("EVAL", REPLACE, 1, self._key(key), self._value, b"", 0)

    def retire(self, key: str) -> None:
        """Hold a session no more that ended; its claim stands for :data:`~sockjs_tornado.session.ended.ENDED_TIME`.

        Until then, other nodes ask this one. If it is gone, they find that the session is lost.
        """
        if self._held.pop(key, None) is not None:
            milliseconds = ENDED_TIME * 1000
            self._commands.submit("EVAL", REPLACE, 1, self._key(key), self._value, self._value, milliseconds)

    async def release_all(self) -> None:
        """Hold nothing more: the node ends, and its sessions with it."""
        keys = list(self._held)
        for start in range(0, len(keys), _SLICE):
            for key in keys[start : start + _SLICE]:
                self.retire(key)
            # No more may wait than so much; whether Redis is there is not asked.
            await asyncio.wait([self._commands.submit("PING")])

    async def write_tombstone(self, key: str, owner: Owner) -> None:
        """Make a claim a tombstone, if it is still the same."""
        value = json.dumps(list(owner)).encode()
        milliseconds = ENDED_TIME * 1000
        buried = await self._commands.submit("EVAL", REPLACE, 1, self._key(key), value, _TOMBSTONE, milliseconds)
        self._stats["tombstones"] += buried

    async def refresh(self) -> None:
        """Have all claims stand for their whole time again.

        One that Redis has forgotten is made anew. Where another node has made it meanwhile, this one has lost it.

        Raises:
            ClusterUnavailable: Redis went away meanwhile.
        """
        async with self._refreshing:
            keys = list(self._held)
            for start in range(0, len(keys), _SLICE):
                await asyncio.gather(*map(self._refresh, keys[start : start + _SLICE]))

    async def _refresh(self, key: str) -> None:
        value = await self._commands.submit("GETEX", self._key(key), "PX", CLAIM_TIME * 1000)
        if value is None and key in self._held:
            value = await self._set(key)
        if value is not None and value != self._value and (on_lost := self._held.pop(key, None)) is not None:
            self._stats["claims_lost"] += 1
            on_lost()

    def _set(self, key: str) -> "asyncio.Future[Any]":
        return self._commands.submit("SET", self._key(key), self._value, "NX", "GET", "PX", CLAIM_TIME * 1000)

    def _key(self, key: str) -> bytes:
        # A session id may be any bytes.
        return f"{self._prefix}{key}".encode("utf-8", "surrogateescape")

    def _place(self, value: bytes | None) -> Owner | Location:
        """Return what a claim says, None where there was none before this node's."""
        if value is None or value == self._value:
            return Location.HERE
        if value == _TOMBSTONE:
            return Location.LOST
        node, address = json.loads(value)
        return Owner(node, address)
