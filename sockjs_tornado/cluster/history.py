"""The history of a room: its last messages, kept in Redis for clients that reconnect.

A room's history is a stream. An entry's id is the message's offset, beginning with 1, and each entry has the epoch: a
random string that is created with the stream. A client that finds another epoch than before knows that the stream was
lost in between.

After a restart or a failover, Redis may have lost the last messages, and assigns their offsets again. Therefore an
epoch begins with the run id of the Redis server, and the next run starts a new epoch.
"""

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, Final, NamedTuple

from ..protocol import JSONValue, encode_message
from ..session.ports import Position, PublishOptions
from ..validation import safe_repr
from .base import batches
from .commands import Commands
from .envelope import Envelope, RedisKeys, value_of
from .envelope_signing import EnvelopeSigner
from .message_decoder import MessageDecoder
from .redis_connection import Args

#: The default time in seconds for which a history is kept after its last message.
TTL: Final = 24 * 60 * 60

# Read in each call, which takes Redis 3 µs: only the server knows its run id.
RUN: Final = """
local run = string.sub(string.match(redis.call('INFO', 'server'), 'run_id:(%x+)'), 1, 8)
"""

#: Seconds for which an idempotency key is kept.
IDEMPOTENCY_TTL: Final = 600

_MAX_KEY_LENGTH: Final = 200

# With a second key, the idempotency key, it replies with the position of the message that was published before.
_PUBLISH: Final = f"""
if KEYS[2] then
    local offset, epoch = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) (.*)$')
    if offset then
        return {{tonumber(offset), epoch, 1}}
    end
end
{RUN}
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
if KEYS[2] then
    redis.call('SET', KEYS[2], offset .. ' ' .. epoch, 'PX', ARGV[6])
end
return {{tonumber(offset), epoch}}
"""

# The reply is nil if a message with the idempotency key was published before.
_PUBLISH_ONCE: Final = """
if redis.call('SET', KEYS[1], '', 'NX', 'PX', ARGV[3]) then
    return redis.call('PUBLISH', ARGV[1], ARGV[2])
end
"""

_PUBLISH_MANY: Final = """
for i = 2, #ARGV do
    redis.call('PUBLISH', ARGV[i], ARGV[1])
end
"""

#: An offset that no stream reaches, and above which Lua's numbers are not exact.
_MAX_OFFSET: Final = 2**53

_PUBLISH_MANY_SIGNED: Final = """
for i = 2, #ARGV, 2 do
    redis.call('PUBLISH', ARGV[i], ARGV[1] .. ARGV[i + 1])
end
"""

#: The largest number of rooms in one command: Redis is blocked while it executes a command.
_MANY: Final = 500

# The whole history if the position is of another epoch, or if the last messages of the stream may have been lost. With
# a limit (0: none), the last entries are read from the end, so that Redis does not read the others.
_RECOVER: Final = f"""{RUN}
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last then
    return {{}}
end
local offset = tonumber(string.match(last[1], '^%d+'))
local from, known = '-', 0
if last[2][2] == ARGV[2] and string.sub(ARGV[2], 1, 8) == run and tonumber(ARGV[1]) <= offset then
    from, known = '(' .. ARGV[1] .. '-0', 1
end
if ARGV[3] == '0' then
    return {{offset, last[2][2], redis.call('XRANGE', KEYS[1], from, '+'), known}}
end
local newest = redis.call('XREVRANGE', KEYS[1], '+', from, 'COUNT', ARGV[3])
local entries = {{}}
for i = #newest, 1, -1 do
    entries[#entries + 1] = newest[i]
end
return {{offset, last[2][2], entries, known}}
"""


class _RecoveredFields(NamedTuple):
    messages: list[tuple[int, Any]]
    complete: bool
    position: Position


class Recovered(_RecoveredFields):
    """The messages that were published in a room after a position.

    Callers that request the same at the same time receive the same object, so do not modify the messages.

    Attributes:
        messages: The offset and the message of each, in order.
        complete: Whether ``messages`` has all of them. It is False if there are more than the limit, and if the history
            is too short, has expired, or has another epoch, as after each start of Redis; ``messages`` then has those
            that are still in the history, up to the limit.
        position: The position of the last message, for the next call. For an empty history it is offset 0 of epoch
            ``""``.
    """

    def encode(self, **fields: str | int | bool | None) -> JSONValue:
        """Return a message for clients: an object with ``messages``, ``offset``, ``epoch``, and the given fields.

        It is encoded once for all callers that share the result and give the same fields, for example for thousands of
        clients that reconnect after a restart.

        Args:
            fields: More members of the object.

        Raises:
            TypeError: A value of a field is not hashable, such as a list.
        """
        # Without __slots__, a subclass of a tuple has a __dict__.
        cache: dict[Any, JSONValue] = self.__dict__.setdefault("_encoded", {})
        # 1 and True are equal, but not the same in JSON.
        key = tuple((name, type(value), value) for name, value in fields.items())
        message = cache.get(key)
        if message is None:
            encoded = encode_message({**fields, "messages": self.messages, **self.position._asdict()})
            message = cache[key] = JSONValue(str(encoded))
        return message


def publish_command(keys: RedisKeys, room: str, envelope: bytes, options: PublishOptions) -> Args:
    """Return the command that publishes an envelope, after checking the options; see ``router.publish``."""
    history, ttl, idempotency_key = options
    if type(history) is not int:
        raise TypeError(f"history: expected an int, a number of messages, got {type(history).__name__}")
    _check_ttl(ttl)
    # No stream is longer than _MAX_OFFSET, and Redis would reject it.
    if not 0 <= history <= _MAX_OFFSET or (ttl is not None and not 0.001 <= ttl < 1e10):
        raise ValueError(
            f"history={safe_repr(history)}, ttl={ttl!r}: expected 0 to {_MAX_OFFSET} messages, and more than 0 seconds"
        )
    channel = keys.channel(room)
    once = () if idempotency_key is None else (keys.published(room, _check_key(idempotency_key)),)
    if not history:
        if ttl is not None:
            raise ValueError("ttl requires history")
        if once:
            return "EVAL", _PUBLISH_ONCE, 1, *once, channel, envelope, IDEMPOTENCY_TTL * 1000
        return "PUBLISH", channel, envelope
    lifetime = int(1000 * (TTL if ttl is None else ttl))
    epoch = secrets.token_hex(8)
    stream = (keys.history(room), *once)
    return (
        *("EVAL", _PUBLISH, len(stream), *stream),
        *(channel, envelope, epoch, history, lifetime, IDEMPOTENCY_TTL * 1000),
    )


def _check_ttl(ttl: object) -> None:
    if not isinstance(ttl, Real | None):
        raise TypeError(f"ttl: expected a number of seconds, got {type(ttl).__name__}")


def _check_key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"idempotency_key: expected a str, got {type(key).__name__}")
    if not 1 <= len(key) <= _MAX_KEY_LENGTH:
        raise ValueError(f"idempotency_key: expected 1 to {_MAX_KEY_LENGTH} characters, got {len(key)}")
    return key


def was_published_before(reply: Any) -> bool:
    """Return whether a reply to :func:`publish_command` says that nothing was sent, because of an idempotency key."""
    return reply is None or (isinstance(reply, list) and len(reply) == 3)


def publish_many_commands(
    keys: RedisKeys, rooms: Sequence[str], signer: EnvelopeSigner, message: str | JSONValue
) -> Iterator[tuple[int, Args]]:
    """Yield the commands that publish a message in rooms, without history, and the number of rooms of each.

    Submit each command before the next one is generated: the signatures are in the order of the commands.
    """
    body = signer.encode_body(0, message)
    tail = signer.tails(body) if signer.is_signing else None
    for batch in batches(rooms, _MANY):
        channels = map(keys.channel, batch)
        if tail is None:
            yield len(batch), ("EVAL", _PUBLISH_MANY, 0, body + b"]", *channels)
        else:
            rest = [part for channel in channels for part in (channel, tail(channel))]
            yield len(batch), ("EVAL", _PUBLISH_MANY_SIGNED, 0, body, *rest)


def position_of(reply: Any) -> Position | None:
    """Return the position in a reply to :func:`publish_command`, or None without history."""
    return Position(reply[0], reply[1].decode(errors="replace")) if isinstance(reply, list) else None


class Recoveries:
    """Reads the histories of rooms.

    Identical reads that are requested in one iteration of the event loop are one command with one result: after a
    restart, thousands of clients request the same.
    """

    def __init__(self, commands: Commands, keys: RedisKeys, decoder: MessageDecoder) -> None:
        self._commands = commands
        self._keys = keys
        self._decoder = decoder
        # The reads whose commands were not submitted yet.
        self._reads: dict[tuple[str, int, str, int], asyncio.Task[Recovered]] = {}

    async def recover(self, room: str, offset: int, epoch: str, limit: int | None = None) -> Recovered:
        """Return the messages that were published in a room after a position; see ``RedisCluster.recover``."""
        if type(offset) is not int or not isinstance(epoch, str):
            raise TypeError(f"position: expected int and str, got {type(offset).__name__} and {type(epoch).__name__}")
        if limit is not None and type(limit) is not int:
            raise TypeError(f"limit: expected an int, a number of messages, or None, got {type(limit).__name__}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit: expected 1 or more messages, or None for all, got {limit}")
        # Both may come from a client. No stream is that long, so a larger offset is not in the history either.
        offset = offset if 0 <= offset < _MAX_OFFSET else _MAX_OFFSET
        key = (room, offset, epoch, 0 if limit is None else min(limit, _MAX_OFFSET))
        read = self._reads.get(key)
        if read is None:
            read = asyncio.create_task(self._read(key))
            # All of its callers may have been cancelled: mark its exception as retrieved.
            read.add_done_callback(lambda read: read.cancelled() or read.exception())
            self._reads[key] = read
        # Cancelling one caller does not cancel the read, which others await, too.
        return await asyncio.shield(read)

    async def _read(self, key: tuple[str, int, str, int]) -> Recovered:
        # Until the next iteration, more callers may join. Once the command was submitted, its result may lack messages
        # that were published before a later call. An eager task yields here, too.
        await asyncio.sleep(0)
        self._reads.pop(key, None)
        room, offset, epoch, limit = key
        reply = await self._commands.call("EVAL", _RECOVER, 1, self._keys.history(room), offset, epoch, limit)
        if not reply:
            return Recovered([], False, Position(0, ""))
        last, now, entries, known = reply
        messages = await self._decoder.decode_history(room, entries, _offset_and_value)
        complete = bool(known) and len(messages) == last - offset
        return Recovered(messages, complete, Position(last, now.decode(errors="replace")))


def _offset_and_value(envelope: Envelope) -> tuple[int, Any]:
    assert envelope.position is not None
    return envelope.position.offset, value_of(envelope.message)
