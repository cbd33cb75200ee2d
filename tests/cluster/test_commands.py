"""Commands: sent in order and in batches; all pending ones fail when Redis is lost."""

import asyncio
from typing import Any

import pytest
from application import LogWatch
from client import until, within

from sockjs_tornado.cluster import base
from sockjs_tornado.cluster import commands as module
from sockjs_tornado.cluster.commands import Commands
from sockjs_tornado.cluster.redis_connection import RedisURL
from sockjs_tornado.exceptions import ClusterUnavailable

from .conftest import StartCommands
from .redis_server import RedisServer
from .turns import count_calls


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


async def test_the_queue_is_limited_by_its_size(start_commands: StartCommands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 100)
    commands = await start_commands()
    futures = [commands.submit("ECHO", "x") for _ in range(101)]
    with pytest.raises(ClusterUnavailable, match="queue of commands"):
        await futures[-1]
    assert await within(futures[0]) == b"x"
    assert await within(commands.submit("ECHO", "y")) == b"y"


async def test_many_commands_of_one_turn_are_executed(start_commands: StartCommands) -> None:
    commands = await start_commands()
    futures = [commands.submit("INCR", "n") for _ in range(12_000)]
    assert await within(futures[-1]) == 12_000
    assert all(future.exception() is None for future in futures)


async def test_calls_wait_in_order_while_the_queue_is_full(
    start_commands: StartCommands, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 2000)
    commands = await start_commands()
    sizes = []

    def append(*arguments: Any) -> None:
        Commands._append(commands, *arguments)
        sizes.append(commands._queued_bytes)

    monkeypatch.setattr(commands, "_append", append)
    await within(asyncio.gather(*(commands.call("RPUSH", "list", number) for number in range(500))))
    assert redis_server.command("LRANGE", "list", 0, -1) == [b"%d" % number for number in range(500)]
    assert 1000 < max(sizes) < 3000
    assert not commands.is_full


async def test_deferred_commands_fail_if_they_are_dropped_cancelled_or_redis_is_lost(
    start_commands: StartCommands, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 0)
    commands = await start_commands()
    replies = [commands.defer("INCR", "n").reply for _ in range(10_000)]
    assert len(commands._deferred) == 1
    for reply in (replies[0], replies[-1]):
        with pytest.raises(ClusterUnavailable, match="queue of commands"):
            await reply
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 1000)
    assert await within(commands.call("PING")) == b"PONG"
    commands.submit("SET", "n", 1)
    cancelled, held = commands.defer("INCR", "n"), commands.defer("INCR", "n")
    cancelled.reply.cancel()
    assert await within(held.reply) == 2
    redis_server.kill()
    waiting = [asyncio.ensure_future(commands.call("ECHO", "x" * 1000)) for _ in range(3)]
    last = commands.defer("INCR", "n")
    for future in (*waiting, last.reply):
        with pytest.raises(ClusterUnavailable, match=r"lost|unavailable"):
            await within(future)
    logged.take("reconnecting")


async def test_a_dropped_command_does_not_keep_later_ones_from_failing_when_redis_is_lost(
    start_commands: StartCommands, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 0)
    commands = await start_commands()
    dropped, held = commands.defer("INCR", "n"), commands.defer("INCR", "n")
    reply = dropped.reply
    del dropped
    redis_server.kill()
    with pytest.raises(ClusterUnavailable, match="the connection to Redis was lost"):
        await within(held.reply)
    with pytest.raises(ClusterUnavailable, match="queue of commands"):
        await reply
    logged.take("reconnecting")


async def test_close_waits_for_pending_commands(start_commands: StartCommands, redis_server: RedisServer) -> None:
    commands = await start_commands()
    for _ in range(100):
        commands.submit("INCR", "n")
    await within(commands.close())
    assert redis_server.command("GET", "n") == b"100"
    with pytest.raises(ClusterUnavailable, match=r"not connected any more: close\(\) was called"):
        await commands.submit("PING")


async def test_commands_before_the_start_fail(redis_server: RedisServer) -> None:
    commands = Commands(RedisURL(redis_server.url))
    assert not commands.available
    with pytest.raises(ClusterUnavailable, match=r"not connected yet: call start\(\) first"):
        await commands.submit("PING")
    await commands.close()


@pytest.mark.parametrize("is_closed", [False, True])
async def test_thousands_of_commands_fail_in_order_and_in_slices_when_redis_is_lost(
    start_commands: StartCommands,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    logged: LogWatch,
    is_closed: bool,
) -> None:
    commands = await start_commands()
    gate = asyncio.get_running_loop().create_future()
    failed: list[int] = []

    def submit(number: int) -> "asyncio.Future[Any]":
        future = commands.submit("INCR", "n", after=gate)
        future.add_done_callback(lambda _: failed.append(number))
        return future

    futures = [submit(number) for number in range(5000)]
    # The last ones are submitted while earlier ones fail.
    futures[0].add_done_callback(lambda _: futures.extend(map(submit, range(5000, 6000))))
    counts = count_calls(monkeypatch, base, "fail")
    redis_server.kill()
    await until(lambda: failed)
    if is_closed:
        await within(commands.close())
    await until(lambda: len(failed) == 6000)
    assert failed == list(range(6000))
    assert all(isinstance(future.exception(), ClusterUnavailable) for future in futures)
    assert is_closed or (max(counts) == base.SLICE and len(counts) == 6000 // base.SLICE)
    assert commands.queued == (0, 0)
    assert isinstance(commands.submit("PING").exception(), ClusterUnavailable)
    logged.take("reconnecting")
