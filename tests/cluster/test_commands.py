"""Commands: sent in order and in batches; all pending ones fail when Redis is lost."""

import asyncio

import pytest
from client import within

from sockjs_tornado.cluster import commands as module
from sockjs_tornado.cluster.commands import Commands
from sockjs_tornado.cluster.redis_connection import RedisURL
from sockjs_tornado.exceptions import ClusterUnavailable

from .conftest import StartCommands
from .redis_server import RedisServer


def reads(server: RedisServer) -> int:
    """Return how often Redis has read from a socket."""
    return int(server.command("INFO", "stats")["total_reads_processed"])


async def test_each_future_gets_its_reply(start_commands: StartCommands) -> None:
    commands = await start_commands()
    futures = [commands.submit("ECHO", text) for text in ("a", b"b", 3, "☃", "\ud800")]
    replies = [b"a", b"b", b"3", "☃".encode(), b"\xed\xa0\x80"]
    assert await within(asyncio.gather(*futures)) == replies


async def test_commands_of_one_turn_are_sent_together(start_commands: StartCommands, redis_server: RedisServer) -> None:
    commands = await start_commands()
    before = reads(redis_server)
    futures = [commands.submit("RPUSH", "list", number) for number in range(500)]
    assert await within(asyncio.gather(*futures)) == list(range(1, 501))
    # One read takes at most 16 KiB; the others are of the commands that ask for the count.
    assert reads(redis_server) - before < 20


async def test_the_order_is_kept_across_batches(start_commands: StartCommands, redis_server: RedisServer) -> None:
    commands = await start_commands()
    for number in range(3000):
        commands.submit("RPUSH", "list", number)
        if number % 7 == 0:
            await asyncio.sleep(0)
    await within(commands.submit("PING"))
    assert redis_server.command("LRANGE", "list", 0, -1) == [b"%d" % number for number in range(3000)]


async def test_a_rejected_command_fails_alone(start_commands: StartCommands) -> None:
    commands = await start_commands()
    good, bad, also = commands.submit("SET", "a", 1), commands.submit("LPUSH", "a", 1), commands.submit("GET", "a")
    with pytest.raises(ClusterUnavailable, match="rejected the command: WRONGTYPE"):
        await within(bad)
    assert (await good, await also) == (b"OK", b"1")


async def test_a_cancelled_future_does_not_affect_others(start_commands: StartCommands) -> None:
    commands = await start_commands()
    first, second = commands.submit("ECHO", "a"), commands.submit("ECHO", "b")
    first.cancel()
    assert await within(second) == b"b"


async def test_a_command_and_later_ones_wait_for_a_future(start_commands: StartCommands) -> None:
    commands = await start_commands()
    gate = asyncio.get_running_loop().create_future()
    order = [
        commands.submit("INCR", "n"),
        commands.submit("INCR", "n", after=gate),
        commands.submit("INCR", "n"),
    ]
    assert await within(order[0]) == 1
    assert not order[1].done()
    gate.cancel()
    assert await within(asyncio.gather(*order)) == [1, 2, 3]


@pytest.mark.parametrize("limit", ["MAX_QUEUED", "MAX_QUEUED_BYTES"])
async def test_the_queue_is_limited(start_commands: StartCommands, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(module, limit, 100)
    commands = await start_commands()
    futures = [commands.submit("ECHO", "x") for _ in range(101)]
    with pytest.raises(ClusterUnavailable, match="queue of commands"):
        await futures[-1]
    assert await within(futures[0]) == b"x"
    assert await within(commands.submit("ECHO", "y")) == b"y"


async def test_close_waits_for_pending_commands(start_commands: StartCommands, redis_server: RedisServer) -> None:
    commands = await start_commands()
    for _ in range(100):
        commands.submit("INCR", "n")
    await within(commands.close())
    assert redis_server.command("GET", "n") == b"100"
    with pytest.raises(ClusterUnavailable, match="not connected any more"):
        await commands.submit("PING")


async def test_commands_before_the_start_fail(redis_server: RedisServer) -> None:
    commands = Commands(RedisURL(redis_server.url))
    assert not commands.available
    with pytest.raises(ClusterUnavailable, match="not connected yet"):
        await commands.submit("PING")
    await commands.close()
