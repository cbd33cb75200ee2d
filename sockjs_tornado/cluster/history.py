"""The history of a room: its last messages, kept in Redis for clients that reconnect.

A room's history is a stream. An entry's id is the message's offset, beginning with 1, and each entry has the epoch: a
random string that is created with the stream. A client that finds another epoch than before knows that the stream was
lost in between.

After a restart or a failover, Redis may have lost the last messages, and assigns their offsets again. Therefore an
epoch begins with the run id of the Redis server, and the next run starts a new epoch.
"""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from ..session.ports import Position
from .base import batches
from .commands import Commands
from .envelope import RedisKeys, decode, value_of
from .redis_connection import Args

#: The default time in seconds for which a history is kept after its last message.
TTL: Final = 24 * 60 * 60

# Read in each call, which takes Redis 3 µs: only the server knows its run id.
_RUN: Final = """
local run = string.sub(string.match(redis.call('INFO', 'server'), 'run_id:(%x+)'), 1, 8)
"""

_PUBLISH: Final = f"""{_RUN}
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local offset, epoch = '1', run .. ARGV[3]
if last then
    offset = string.format('%.0f', tonumber(string.match(last[1], '^%d+')) + 1)
    if string.sub(last[2][2], 1, 8) == run then
        epoch = last[2][2]
    end
end
redis.call('XADD', KEYS[1], 'MAXLEN', '=', ARGV[4], offset .. '-0', 'epoch', epoch, 'envelope', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PUBLISH', ARGV[1], string.sub(ARGV[2], 1, -2) .. ',' .. offset .. ',"' .. epoch .. '"]')
return {{tonumber(offset), epoch}}
"""

_PUBLISH_MANY: Final = """
for i = 2, #ARGV do
    redis.call('PUBLISH', ARGV[i], ARGV[1])
end
"""

#: The largest number of rooms in one command: Redis is blocked while it executes a command.
_MANY: Final = 500

# The whole history if the position is of another epoch, or if the last messages of the stream may have been lost.
_RECOVER: Final = f"""{_RUN}
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last then
    return {{}}
end
local offset = tonumber(string.match(last[1], '^%d+'))
local from, known = '-', 0
if last[2][2] == ARGV[2] and string.sub(ARGV[2], 1, 8) == run and tonumber(ARGV[1]) <= offset then
    from, known = '(' .. ARGV[1] .. '-0', 1
end
return {{offset, last[2][2], redis.call('XRANGE', KEYS[1], from, '+'), known}}
"""


class Recovered(NamedTuple):
    """The messages that were published in a room after a position.

    Attributes:
        messages: The offset and the message of each, in order.
        complete: Whether ``messages`` has all of them. It is False if the history is too short, has expired, or has
            another epoch, as after each start of Redis; ``messages`` then has those that are still in the history.
        position: The position of the last message, for the next call. For an empty history it is offset 0 of epoch
            ``""``.
    """

    messages: list[tuple[int, Any]]
    complete: bool
    position: Position


def publish_command(keys: RedisKeys, room: str, envelope: bytes, history: int, ttl: float | None) -> Args:
    """Return the command that publishes an envelope, after checking ``history`` and ``ttl``; see ``router.publish``."""
    if type(history) is not int:
        raise TypeError(f"history: expected an int, a number of messages, got {type(history).__name__}")
    if history < 0 or (ttl is not None and not 0.001 <= ttl < 1e10):
        raise ValueError(f"history={history!r}, ttl={ttl!r}: expected 0 or more messages, and more than 0 seconds")
    channel = keys.channel(room)
    if not history:
        if ttl is not None:
            raise ValueError("ttl requires history")
        return "PUBLISH", channel, envelope
    lifetime = int(1000 * (TTL if ttl is None else ttl))
    epoch = secrets.token_hex(8)
    return "EVAL", _PUBLISH, 1, keys.history(room), channel, envelope, epoch, history, lifetime


def publish_many_commands(keys: RedisKeys, rooms: Sequence[str], envelope: bytes) -> Iterator[tuple[int, Args]]:
    """Yield the commands that publish an envelope in rooms, without history, and the number of rooms of each."""
    for batch in batches(rooms, _MANY):
        yield len(batch), ("EVAL", _PUBLISH_MANY, 0, envelope, *map(keys.channel, batch))


def position_of(reply: Any) -> Position | None:
    """Return the position in a reply to :func:`publish_command`, or None without history."""
    return Position(reply[0], reply[1].decode()) if isinstance(reply, list) else None


async def recover(commands: Commands, keys: RedisKeys, room: str, offset: int, epoch: str) -> Recovered:
    """Return the messages that were published in a room after a position; see ``RedisCluster.recover``."""
    if type(offset) is not int or not isinstance(epoch, str):
        raise TypeError(f"position: expected int and str, got {type(offset).__name__} and {type(epoch).__name__}")
    # The offset may come from a client. No stream is that long, so a larger one is not in the history either.
    offset = offset if 0 <= offset < 2**53 else 2**53
    reply = await commands.call("EVAL", _RECOVER, 1, keys.history(room), offset, epoch)
    if not reply:
        return Recovered([], False, Position(0, ""))
    last, now, entries, known = reply
    messages = []
    for id_, fields in entries:
        # Skip invalid entries, for example of a later version; ``complete`` is False then.
        with contextlib.suppress(ValueError, IndexError):
            messages.append((int(id_.partition(b"-")[0]), value_of(decode(fields[3]).message)))
    return Recovered(
        messages, bool(known) and len(messages) == last - offset, Position(last, now.decode(errors="replace"))
    )
