"""The last messages of a room, kept in Redis for those who come again.

A room's history is a stream. An entry's id is the message's offset, 1 for the first, and each entry names the epoch:
random text that is born with the stream. So one key has all of it, and whoever finds another epoch than before knows
that the stream was lost meanwhile.

A Redis that was started anew, or has taken over from another, may lack the last messages: their offsets are given
again. So an epoch begins with the name of the run of Redis that it is of, and the next run begins another one.
"""

import contextlib
import secrets
from typing import Any, Final, NamedTuple

from ..session.ports import Position
from .commands import Commands
from .envelope import Names, decode, value_of

__all__ = ["TTL", "Recovered", "position_of", "publish_command", "recover"]

#: Seconds that a history is kept after the last message in it, unless told otherwise.
TTL: Final = 24 * 60 * 60

# Asked for each time, which takes Redis 3 µs: only there is it known which run it is.
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

# All there is where the position is another stream's, or where the stream may end too early.
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
    """What was published in a room since somebody was there last.

    Attributes:
        messages: Offset and message of each, in order.
        complete: Whether nothing is missing. It is not where the history was shorter, has expired, or is another one,
            as it is after each start of Redis: then ``messages`` are all that it holds, or what it still holds of
            what was missed.
        position: Where it ends, for the next time. Of an empty history it is offset 0 of epoch ``""``.
    """

    messages: list[tuple[int, Any]]
    complete: bool
    position: Position


def publish_command(
    names: Names, room: str, envelope: bytes, history: int, ttl: float | None
) -> tuple[str | bytes | int, ...]:
    """Return the command that publishes an envelope.

    Args:
        names: What things are called.
        room: Where.
        envelope: The envelope.
        history: How many messages the room's history shall hold, this one included; 0 where it is not for there.
        ttl: Seconds that the history is kept, None for a day.

    Raises:
        TypeError: The history is no ``int``, or the seconds are no number.
        ValueError: One of them is too small.
    """
    if type(history) is not int:
        raise TypeError(f"history is a number of messages, int, not {type(history).__name__}")
    if history < 0 or (ttl is not None and not 0.001 <= ttl < 1e10):
        raise ValueError(f"history={history!r}, ttl={ttl!r}: takes 0 or more messages, and more than 0 seconds")
    channel = names.channel(room)
    if not history:
        if ttl is not None:
            raise ValueError("ttl is of a history: give history=, too")
        return "PUBLISH", channel, envelope
    lifetime = int(1000 * (TTL if ttl is None else ttl))
    epoch = secrets.token_hex(8)
    return "EVAL", _PUBLISH, 1, names.history(room), channel, envelope, epoch, history, lifetime


def position_of(reply: Any) -> Position | None:
    """Return what the reply to :func:`publish_command` says."""
    return Position(reply[0], reply[1].decode()) if isinstance(reply, list) else None


async def recover(commands: Commands, names: Names, room: str, offset: int, epoch: str) -> Recovered:
    """Return what was published in a room behind a position.

    Raises:
        TypeError: The position is of other types.
        ClusterUnavailable: Redis is away.
    """
    if type(offset) is not int or not isinstance(epoch, str):
        raise TypeError(f"a position is int and str, not {type(offset).__name__} and {type(epoch).__name__}")
    # What clients say may be anything; no stream has got so far.
    offset = offset if 0 <= offset < 2**53 else 2**53
    reply = await commands.submit("EVAL", _RECOVER, 1, names.history(room), offset, epoch)
    if not reply:
        return Recovered([], False, Position(0, ""))
    last, now, entries, known = reply
    messages = []
    for id_, fields in entries:
        # One that makes no sense, of a later version for example, is missing.
        with contextlib.suppress(ValueError):
            messages.append((int(id_.partition(b"-")[0]), value_of(decode(fields[3]).message)))
    return Recovered(messages, bool(known) and len(messages) == last - offset, Position(last, now.decode()))
