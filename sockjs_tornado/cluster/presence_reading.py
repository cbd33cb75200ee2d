"""How the presence of a room is read from Redis: the commands, and the decoding of their replies."""

import asyncio
import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any, Final

from .base import SLICE, batches
from .envelope import RedisKeys
from .redis_connection import Args

# The name of an entry: a node, after its first generation with a number, and the label of a session.
_MEMBER: Final = re.compile(r"([A-Za-z0-9_-]{1,64})(?:\.[0-9]{1,10})?:([0-9]{1,20})")

# Return the entries of live nodes, and delete those of dead ones if ARGV[2] is 1.
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
    elseif ARGV[2] == '1' then
        redis.call('HDEL', KEYS[1], entries[i])
    end
end
return found
"""

# Return the number of entries of each live name, without those that no node has written. Values are not checked.
_COUNT: Final = """
local alive, counts = {}, {}
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
    local node = string.match(entries[i], '^([%w_-]+%.?%d*):%d+$') or ''
    if alive[node] == nil then
        alive[node] = node ~= '' and redis.call('EXISTS', ARGV[1] .. node) == 1
    end
    if alive[node] then
        counts[node] = (counts[node] or 0) + 1
    end
end
local found = {}
for node, count in pairs(counts) do
    found[#found + 1] = node
    found[#found + 1] = count
end
return found
"""


def read_command(keys: RedisKeys, room: str, *, delete_expired: bool = False) -> Args:
    """Return the command for the entries of a room: a list of names and values in turn.

    Args:
        keys: The names of keys.
        room: The name of the room.
        delete_expired: Whether it also deletes the entries of dead nodes. If not, it writes nothing.
    """
    return "EVAL", _READ, 1, keys.presence(room), keys.alive(""), int(delete_expired)


def count_command(keys: RedisKeys, room: str) -> Args:
    """Return the command for the number of a room's entries, by node. It writes nothing."""
    return "EVAL", _COUNT, 1, keys.presence(room), keys.alive("")


def decode_entries(reply: Sequence[bytes], *, except_node: str = "") -> dict[str, Any]:
    """Return the values of members by ``"node:label"``, except those of one node."""
    present: dict[str, Any] = {}
    for field, text in zip(reply[::2], reply[1::2], strict=True):
        # Skip what no node has written. UnicodeDecodeError is a ValueError.
        with contextlib.suppress(ValueError, RecursionError):
            found = _MEMBER.fullmatch(field.decode())
            if found and found[1] != except_node:
                present[f"{found[1]}:{found[2]}"] = json.loads(text)
    return present


async def decode_in_slices(reply: Sequence[bytes], *, except_node: str = "") -> dict[str, Any]:
    """Do the same for a room of any size. Other callbacks of the event loop run in between."""
    present: dict[str, Any] = {}
    for part in batches(reply, 2 * SLICE):
        present |= decode_entries(part, except_node=except_node)
        if len(part) == 2 * SLICE:
            await asyncio.sleep(0)
    return present


def decode_counts(reply: Sequence[Any]) -> dict[str, int]:
    """Return the number of members of each node."""
    counts: dict[str, int] = {}
    for name, count in zip(reply[::2], reply[1::2], strict=True):
        # While a node begins a new generation, its members have entries under two names.
        node = name.partition(b".")[0].decode("utf-8", "replace")
        counts[node] = max(count, counts.get(node, 0))
    return counts
