"""Connections to Redis that are monitored and reopened."""

import asyncio
import logging
import time

import pytest
from application import LogWatch
from client import until, within

from sockjs_tornado.cluster.commands import Commands
from sockjs_tornado.cluster.reconnecting import _run_until_first
from sockjs_tornado.cluster.redis_connection import RedisConnection, RedisURL
from sockjs_tornado.exceptions import ClusterUnavailable

from .conftest import SILENCE, StartCommands
from .redis_server import RedisServer


async def test_a_disconnect_is_reported_and_followed_by_a_reconnect(
    start_commands: StartCommands, redis_server: RedisServer, logged: LogWatch
) -> None:
    told: list[str] = []
    commands = await start_commands(on_reconnect=lambda: told.append("back"))
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
    start_commands: StartCommands, redis_server: RedisServer, logged: LogWatch
) -> None:
    times = []

    def on_reconnect() -> None:
        times.append(1)
        if len(times) == 1:
            raise ValueError("whatever")

    commands = await start_commands(on_reconnect=on_reconnect)
    redis_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await until(lambda: len(times) == 2)
    assert await within(commands.submit("PING")) == b"PONG"
    logged.take("reconnecting")
    assert logged.take("Error on a Redis connection").exc_info


@pytest.mark.parametrize("busy", [False, True])
async def test_a_silent_redis_is_disconnected(
    start_commands: StartCommands, redis_server: RedisServer, logged: LogWatch, busy: bool
) -> None:
    back: list[int] = []
    commands = await start_commands(timeout=SILENCE, on_reconnect=lambda: back.append(1))
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


async def test_an_idle_redis_is_not_disconnected(start_commands: StartCommands, redis_server: RedisServer) -> None:
    back: list[int] = []
    commands = await start_commands(timeout=SILENCE, on_reconnect=lambda: back.append(1))

    def asked() -> int:
        return int(redis_server.command("INFO", "commandstats")["cmdstat_hello"]["calls"])

    before = asked()
    await until(lambda: asked() >= before + 3)
    assert not back
    assert commands.available


async def test_a_blocked_loop_is_not_mistaken_for_silence(
    start_commands: StartCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    back: list[int] = []
    commands = await start_commands(timeout=SILENCE, on_reconnect=lambda: back.append(1))
    pinged, ping = asyncio.Event(), commands._ping

    def record_ping() -> None:
        ping()
        pinged.set()

    monkeypatch.setattr(commands, "_ping", record_ping)
    for _ in range(2):
        # Redis has as long to respond as the loop is blocked.
        await within(pinged.wait())
        pinged.clear()
        time.sleep(1.5 * SILENCE)  # noqa: ASYNC251 - it is what some callback does
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


@pytest.mark.parametrize(("lasting", "pauses"), [(5, [0.1, 0.2, 0.4, 0.8, 1, 1]), (0, [0.1] * 6)])
async def test_delays_grow_until_a_connection_is_stable(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, logged: LogWatch, lasting: float, pauses: list[float]
) -> None:
    monkeypatch.setattr("sockjs_tornado.cluster.reconnecting._STABLE_AFTER", lasting)
    seen: list[float] = []

    def uniform(shortest: float, longest: float) -> float:
        seen.append(longest)
        return 0.0

    monkeypatch.setattr("random.uniform", uniform)

    async def use(connection: RedisConnection) -> None:
        raise OSError("it is of no use")

    commands = Commands(RedisURL(redis_server.url))
    monkeypatch.setattr(commands, "_use", use)
    await commands.start()
    await until(lambda: len(seen) >= len(pauses))
    await commands.close()
    assert seen[: len(pauses)] == pauses
    # An outage of a stable connection has a record of its own.
    logged.take("it is of no use; reconnecting")
    assert (len(logged.records) >= len(pauses) - 1) is (not lasting)
    logged.records.clear()


async def test_attempts_to_reconnect_are_no_warnings(
    start_commands: StartCommands, redis_server: RedisServer, logged: LogWatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sockjs_tornado.cluster.reconnecting")
    commands = await start_commands()
    redis_server.kill()
    await until(lambda: caplog.text.count("Cannot reconnect: ") >= 2)
    redis_server.start()
    await within(commands.wait_available())
    assert await within(commands.submit("PING")) == b"PONG"
    logged.take("reconnecting")
    assert not logged.records


async def test_when_one_part_of_a_connection_ends_the_others_are_cancelled() -> None:
    waiting = asyncio.Event()
    cancelled = []

    async def wait() -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    await within(_run_until_first(wait(), waiting.wait(), wait()))
    assert cancelled == [1, 1]
