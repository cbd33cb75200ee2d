"""The owners of sessions, stored in Redis.

A claim is a key with an expiry that its node refreshes. The first node to set the key owns the session. If that node is
found to be gone, the claim is replaced by a tombstone, and no node opens the session again until the tombstone expires.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from ..exceptions import ClusterUnavailable
from ..observe.logs import ThrottledLog
from ..session.ended import ENDED_TIME
from .base import batches
from .claim_format import DeadOwner, claim_prefix, encode_claim, encode_tombstone, parse_claim
from .commands import Commands
from .envelope import RedisKeys
from .ownership import Location, Owner, Ownership
from .secret import Secrets

logger = logging.getLogger(__name__)

#: Seconds after which a claim expires if it is not refreshed.
CLAIM_TIME: Final = 30

#: The number of claims that are refreshed or released before other commands are sent.
_BATCH_SIZE: Final = 500

#: A script that replaces or deletes a key if it has the expected value. If only the expiry changes, it also works while
#: the memory of Redis is full.
REPLACE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
if ARGV[2] == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""

# The beginning of the claim is compared, because the owner may have signed it with another one of the secrets.
_WRITE_TOMBSTONE: Final = """
if string.sub(redis.call('GET', KEYS[1]) or '', 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""


class Claims(Ownership):
    """The claims of one node. The counters are those of lost and forged claims, and of tombstones.

    Args:
        commands: The connection to Redis.
        keys: The names of keys.
        node: This node.
        stats: The counters.
        secrets: The secrets that all nodes share, with which claims are authenticated.
        log: The log.
    """

    opens_relayed_sessions = False

    def __init__(
        self,
        commands: Commands,
        keys: RedisKeys,
        node: Owner,
        stats: Counter[str],
        secrets: Secrets,
        log: ThrottledLog | None = None,
    ) -> None:
        self._commands = commands
        self._key = keys.session
        self._node = node
        self._stats = stats
        self._secrets = secrets
        self._log = log or ThrottledLog()
        # The sessions that this node owns, each with the callback for a lost claim.
        self._owned: dict[str, Callable[[], None]] = {}
        # The replies to pending claims. A key is here until _claimed() has put it into _owned.
        self._pending: dict[str, asyncio.Future[Any]] = {}

    def __len__(self) -> int:
        return len(self._owned)

    def owns(self, key: str) -> bool:
        return key in self._owned

    async def claim(self, key: str, on_lost: Callable[[], None]) -> Owner | Location:
        """Claim a session. Concurrent calls for one session share one claim."""
        pending = self._pending.get(key)
        if pending is None:
            # Before the first await, so that later requests for the session wait for this claim.
            pending = self._pending[key] = self._set(key)
            # No partial(): if the callback failed, asyncio would log its arguments, and the key has the session id.
            pending.add_done_callback(lambda reply: self._claimed(key, on_lost, reply))
        await self.wait_for_pending_claim(key)
        return self._parse(key, pending.result())

    def _claimed(self, key: str, on_lost: Callable[[], None], reply: "asyncio.Future[Any]") -> None:
        del self._pending[key]
        if reply.exception() is None and reply.result() in (None, self._value(key)):
            self._owned.setdefault(key, on_lost)

    async def locate(self, key: str) -> Owner | Location:
        await self.wait_for_pending_claim(key)
        value = None if key in self._owned else await self._commands.call("GET", self._key(key))
        if key in self._owned:
            return Location.HERE
        location = Location.NOWHERE if value is None else self._parse(key, value)
        # Our own stale claim: Redis was unavailable when we released it.
        return Location.NOWHERE if location is Location.HERE else location

    async def wait_for_pending_claim(self, key: str) -> None:
        pending = self._pending.get(key)
        if pending is not None:
            # Afterwards _claimed() has run: callbacks run in the order in which they were added.
            await asyncio.wait([pending])

    def claim_later(self, key: str, on_lost: Callable[[], None]) -> None:
        """Own a session without a claim while Redis is unavailable; :meth:`refresh` claims it."""
        self._owned.setdefault(key, on_lost)

    def release(self, key: str) -> None:
        """Delete the claim of a session."""
        if self._owned.pop(key, None) is not None:
            # If Redis is unavailable, the claim expires.
            self._commands.submit("EVAL", REPLACE, 1, self._key(key), self._value(key), b"", 0)

    def retire(self, key: str) -> None:
        """Let the claim of an ended session expire after :data:`~sockjs_tornado.session.ended.ENDED_TIME`.

        Until then, other nodes relay requests for the session to this node. If this node is gone, they find that the
        session is lost.
        """
        if self._owned.pop(key, None) is not None:
            value = self._value(key)
            self._commands.submit("EVAL", REPLACE, 1, self._key(key), value, value, ENDED_TIME * 1000)

    async def release_all(self) -> None:
        """Retire all claims because the node stops, and its sessions with it."""
        for batch in batches(list(self._owned), _BATCH_SIZE):
            for key in batch:
                self.retire(key)
            # Do not overfill the queue of commands.
            await self._commands.wait_idle()

    async def write_tombstone(self, key: str, owner: Owner) -> None:
        """Replace a claim by a tombstone if it is still the given owner's."""
        tombstone = encode_tombstone(self._secrets, key, owner.node)
        replaced = await self._commands.call(
            "EVAL", _WRITE_TOMBSTONE, 1, self._key(key), claim_prefix(owner), tombstone, ENDED_TIME * 1000
        )
        self._stats["tombstones"] += replaced

    async def refresh(self) -> None:
        """Refresh all claims, claim again those that are missing in Redis, and lose those that another node has now.

        Raises:
            ClusterUnavailable: Redis became unavailable meanwhile.
        """
        for batch in batches(list(self._owned), _BATCH_SIZE):
            failures = [
                result
                for result in await asyncio.gather(*map(self._refresh, batch), return_exceptions=True)
                if isinstance(result, BaseException)
            ]
            for failure in failures:
                # If Redis has rejected a command, as while its memory is full, refresh the others.
                if not isinstance(failure, ClusterUnavailable) or not self._commands.available:
                    raise failure

    async def _refresh(self, key: str) -> None:
        own = self._value(key)
        value = await self._commands.get_and_expire(self._key(key), CLAIM_TIME * 1000)
        if value is None and key in self._owned:
            value = await self._set(key)
        if value is None or value == own:
            return
        if not self._is_lost_to(key, value):
            # No node has claimed the session or found this node dead, so keep it.
            if key in self._owned:
                await self._commands.call("SET", self._key(key), own, "PX", CLAIM_TIME * 1000)
        elif (on_lost := self._owned.pop(key, None)) is not None:
            self._stats["claims_lost"] += 1
            on_lost()

    def _set(self, key: str) -> "asyncio.Future[Any]":
        return self._commands.call("SET", self._key(key), self._value(key), "NX", "GET", "PX", CLAIM_TIME * 1000)

    def _value(self, key: str) -> bytes:
        return encode_claim(self._secrets, key, self._node)

    def _parse(self, key: str, value: bytes | None) -> Owner | Location:
        """Return the location that a claim's value stands for; None is the reply if this node's claim was the first.

        Raises:
            ClusterUnavailable: The value is not a claim of a node with the same secret.
        """
        if value is None:
            return Location.HERE
        try:
            owner = parse_claim(self._secrets, key, value)
        except ValueError:
            self._report_forged()
            # The text must not have the key, which has the session id.
            raise ClusterUnavailable("the claim of the session in Redis is not valid") from None
        if isinstance(owner, DeadOwner):
            return Location.LOST
        return Location.HERE if owner == self._node else owner

    def _is_lost_to(self, key: str, value: bytes) -> bool:
        """Return whether a value in the place of this node's claim ends its ownership of the session."""
        try:
            owner = parse_claim(self._secrets, key, value)
        except ValueError:
            self._report_forged()
            return False
        # A tombstone of another owner is an old one that somebody has written again.
        return not isinstance(owner, DeadOwner) or owner.node == self._node.node

    def _report_forged(self) -> None:
        self._stats["claims_forged"] += 1
        message = (
            "Ignored a claim in Redis that no node with this secret has written. Check that all nodes share the same "
            "secret, and that only they can write to Redis."
        )
        self._log.write(logger, logging.ERROR, "claim", message)
