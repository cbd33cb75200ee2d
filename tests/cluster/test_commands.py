"""Commands: sent in order and in batches; all pending ones fail when Redis is lost."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from application import LogWatch
from client import within

from sockjs_tornado.cluster import commands as module
from sockjs_tornado.cluster.commands import Commands
from sockjs_tornado.cluster.redis_connection import RedisURL
from sockjs_tornado.exceptions import ClusterUnavailable

from .conftest import SILENCE, until
from .redis_server import RedisServer

Open = Callable[..., Awaitable[Commands]]


@pytest.fixture
async def connect(redis_server: RedisServer) -> AsyncIterator[Open]:
    """Return a function that starts commands."""
    opened = []

    async def start(**options: Any) -> Commands:
        commands = Commands(RedisURL(redis_server.url), **options)
        await commands.start()
        opened.append(commands)
        return commands

    yield start
    for commands in opened:
        await within(commands.close())


def reads(server: RedisServer) -> int:
    """Return how often Redis has read from a socket."""
    return int(server.command("INFO", "stats")["total_reads_processed"])


async def test_each_future_gets_its_reply(connect: Open) -> None:
    commands = await connect()
    futures = [commands.submit("ECHO", text) for text in ("a", b"b", 3, "☃", "\ud800")]
    replies = [b"a", b"b", b"3", "☃".encode(), b"\xed\xa0\x80"]
    assert await within(asyncio.gather(*futures)) == replies


async def test_commands_of_one_turn_are_sent_together(connect: Open, redis_server: RedisServer) -> None:
    commands = await connect()
    before = reads(redis_server)
    futures = [commands.submit("RPUSH", "list", number) for number in range(500)]
    assert await within(asyncio.gather(*futures)) == list(range(1, 501))
    # One read takes at most 16 KiB; the others are of the commands that ask for the count.
    assert reads(redis_server) - before < 20


async def test_the_order_is_kept_across_batches(connect: Open, redis_server: RedisServer) -> None:
    commands = await connect()
    for number in range(3000):
        commands.submit("RPUSH", "list", number)
        if number % 7 == 0:
            await asyncio.sleep(0)
    await within(commands.submit("PING"))
    assert redis_server.command("LRANGE", "list", 0, -1) == [b"%d" % number for number in range(3000)]


async def test_a_rejected_command_fails_alone(connect: Open) -> None:
    commands = await connect()
    good, bad, also = commands.submit("SET", "a", 1), commands.submit("LPUSH", "a", 1), commands.submit("GET", "a")
    with pytest.raises(ClusterUnavailable, match="rejected the command: WRONGTYPE"):
        await within(bad)
    assert (await good, await also) == (b"OK", b"1")


async def test_a_cancelled_future_does_not_affect_others(connect: Open) -> None:
    commands = await connect()
    first, second = commands.submit("ECHO", "a"), commands.submit("ECHO", "b")
    first.cancel()
    assert await within(second) == b"b"


async def test_a_command_and_later_ones_wait_for_a_future(connect: Open) -> None:
    commands = await connect()
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
async def test_the_queue_is_limited(connect: Open, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(module, limit, 100)
    commands = await connect()
    futures = [commands.submit("ECHO", "x") for _ in range(101)]
    with pytest.raises(ClusterUnavailable, match="queue of commands"):
        await futures[-1]
    assert await within(futures[0]) == b"x"
    assert await within(commands.submit("ECHO", "y")) == b"y"


async def test_close_waits_for_pending_commands(connect: Open, redis_server: RedisServer) -> None:
    commands = await connect()
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


async def test_a_disconnect_is_reported_and_followed_by_a_reconnect(
    connect: Open, redis_server: RedisServer, logged: LogWatch
) -> None:
    told: list[str] = []
    commands = await connect(on_reconnect=lambda: told.append("back"))
    redis_server.freeze()
    waiting = [commands.submit("PING") for _ in range(3)]
    await asyncio.sleep(0)
    redis_server.kill()
    for future in waiting:
        with pytest.raises(ClusterUnavailable, match="lost"):
            await within(future)
    assert not commands.available
    with pytest.raises(ClusterUnavailable, match="is unavailable"):
        await commands.submit("PING")
    assert told == []
    redis_server.start()
    await within(commands.wait_available())
    assert await within(commands.submit("PING")) == b"PONG"
    assert told == ["back"]
    logged.take("reconnecting")


async def test_an_exception_in_a_callback_is_logged_and_followed_by_a_reconnect(
    connect: Open, redis_server: RedisServer, logged: LogWatch
) -> None:
    times = []

    def on_reconnect() -> None:
        times.append(1)
        if len(times) == 1:
            raise ValueError("whatever")

    commands = await connect(on_reconnect=on_reconnect)
    redis_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await until(lambda: len(times) == 2)
    assert await within(commands.submit("PING")) == b"PONG"
    logged.take("reconnecting")
    assert logged.take("Error on a Redis connection").exc_info


@pytest.mark.parametrize("busy", [False, True])
async def test_a_silent_redis_is_disconnected(
    connect: Open, redis_server: RedisServer, logged: LogWatch, busy: bool
) -> None:
    back: list[int] = []
    commands = await connect(timeout=SILENCE, on_reconnect=lambda: back.append(1))
    redis_server.freeze()
    waiting = [commands.submit("PING") for _ in range(3)] if busy else []
    await until(lambda: not commands.available)
    for future in waiting:
        with pytest.raises(ClusterUnavailable):
            await future
    redis_server.thaw()
    await within(commands.wait_available())
    assert await within(commands.submit("PING")) == b"PONG"
    assert len(back) == 1
    logged.take(f"no data for {2 * SILENCE:g} s; reconnecting")


async def test_an_idle_redis_is_not_disconnected(connect: Open, redis_server: RedisServer) -> None:
    back: list[int] = []
    commands = await connect(timeout=SILENCE, on_reconnect=lambda: back.append(1))

    def asked() -> int:
        return int(redis_server.command("INFO", "commandstats")["cmdstat_hello"]["calls"])  # type: ignore[index]

    before = asked()
    await until(lambda: asked() >= before + 3)
    assert not back
    assert commands.available


async def test_a_blocked_loop_is_not_mistaken_for_silence(connect: Open) -> None:
    back: list[int] = []
    commands = await connect(timeout=SILENCE, on_reconnect=lambda: back.append(1))
    for _ in range(2):
        time.sleep(3 * SILENCE)  # noqa: ASYNC251 - it is what some callback does
        await asyncio.sleep(SILENCE / 2)
    assert await within(commands.submit("PING")) == b"PONG"
    assert not back


async def test_a_long_reply_is_not_mistaken_for_silence(redis_server: RedisServer) -> None:
    redis_server.command("SET", "long", b"x" * 1_000_000)
    tasks = []

    async def slow_down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_connection("127.0.0.1", redis_server.port)

        async def answer() -> None:
            while data := await answers.read(20_000):
                writer.write(data)
                await asyncio.sleep(0.02)
            writer.close()

        tasks.append(asyncio.create_task(answer()))
        while data := await reader.read(20_000):
            questions.write(data)
        questions.close()

    async with await asyncio.start_server(slow_down, "127.0.0.1", 0) as server:
        commands = Commands(RedisURL(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"), timeout=0.2)
        await commands.start()
        assert await within(commands.submit("GET", "long")) == b"x" * 1_000_000
        await commands.close()
        await within(asyncio.gather(*tasks))
