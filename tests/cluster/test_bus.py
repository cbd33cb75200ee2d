"""Subscriptions: what is received, from when on, and which rooms have a gap."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from application import LogWatch
from client import within

from sockjs_tornado.cluster.bus import Bus
from sockjs_tornado.cluster.envelope import RedisKeys
from sockjs_tornado.cluster.redis_connection import make_client
from sockjs_tornado.exceptions import ClusterUnavailable
from sockjs_tornado.observe.logs import ThrottledLog

from .conftest import SILENCE, until
from .redis_server import RedisServer

KEYS = RedisKeys("test")


class Ear:
    """A bus that records what it receives."""

    def __init__(self, url: str, timeout: float) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.gaps: list[frozenset[str]] = []
        self.client = make_client(url)
        self.bus = Bus(
            self.client,
            KEYS,
            lambda room, data: self.heard.append((room, data)),
            lambda *rooms: None,
            self.gaps.append,
            ThrottledLog(time.monotonic),
            timeout,
        )

    async def subscribe(self, *rooms: str) -> None:
        """Subscribe, and wait for the confirmation."""
        for room in rooms:
            self.bus.subscribe(room)
        for room in rooms:
            await within(self.confirmed(room))

    def confirmed(self, room: str) -> "asyncio.Future[None]":
        confirmed = self.bus.confirmation(room)
        assert confirmed is not None
        return confirmed


@pytest.fixture
async def listen(redis_server: RedisServer) -> AsyncIterator[Callable[..., Awaitable[Ear]]]:
    """Return a function that starts a bus."""
    ears = []

    async def start(patience: float = 2) -> Ear:
        ear = Ear(redis_server.url, patience)
        await ear.bus.start()
        ears.append(ear)
        return ear

    yield start
    for ear in ears:
        await ear.bus.close()
        await ear.client.aclose()


@pytest.fixture
def say(redis_server: RedisServer) -> Callable[..., object]:
    """Return a function that publishes, and returns the number of receivers."""
    return lambda room, text="x": redis_server.command("PUBLISH", KEYS.channel(room), text)


async def test_messages_after_the_confirmation_are_received(listen: Any, say: Any) -> None:
    ear = await listen()
    rooms = ["", "a b", "☃", "\ud800", "x" * 100_000, "a\nb", "*", "a*"]
    await ear.subscribe(*rooms)
    for room in rooms:
        assert say(room) == 1
    assert say("aa") == 0
    await until(lambda: len(ear.heard) == len(rooms))
    assert ear.heard == [(room, b"x") for room in rooms]


async def test_messages_after_unsubscribing_are_not_received(listen: Any, say: Any) -> None:
    ear = await listen()
    await ear.subscribe("a", "b")
    ear.bus.unsubscribe("a")
    assert ear.bus.confirmation("a") is None
    await until(lambda: say("a") == 0)
    assert say("b") == 1


async def test_unsubscribing_and_subscribing_in_one_turn_loses_no_message(
    listen: Any, say: Any, redis_server: RedisServer
) -> None:
    ear = await listen()
    await ear.subscribe("a")
    before = redis_server.command("INFO", "commandstats")
    ear.bus.unsubscribe("a")
    await ear.subscribe("a")
    after = redis_server.command("INFO", "commandstats")
    assert after["cmdstat_subscribe"]["calls"] == before["cmdstat_subscribe"]["calls"]
    assert say("a") == 1


async def test_subscribing_and_unsubscribing_in_one_turn_sends_nothing(listen: Any, say: Any) -> None:
    ear = await listen()
    ear.bus.subscribe("a")
    confirmed = ear.confirmed("a")
    ear.bus.unsubscribe("a")
    await ear.subscribe("b")
    assert confirmed.done()
    assert (say("a"), say("b")) == (0, 1)


@pytest.mark.parametrize("pauses", list(itertools.product([0, 1, 3], repeat=3)))
async def test_rapid_changes_end_in_a_confirmed_subscription(listen: Any, say: Any, pauses: tuple[int, ...]) -> None:
    ear = await listen()
    for pause in pauses:
        ear.bus.subscribe("a")
        for _ in range(pause):
            await asyncio.sleep(0)
        ear.bus.unsubscribe("a")
        for _ in range(pause):
            await asyncio.sleep(0)
    await ear.subscribe("a")
    assert say("a") == 1


async def test_many_messages_do_not_block_the_loop(listen: Any, say: Any, redis_server: RedisServer) -> None:
    ear = await listen()
    await ear.subscribe("a")
    redis_server.command("EVAL", "for i = 1, 100000 do redis.call('PUBLISH', ARGV[1], i) end", 0, KEYS.channel("a"))
    turns = 0
    while len(ear.heard) < 100_000:
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10
    assert [int(data) for _, data in ear.heard] == list(range(1, 100_001))


async def end_by_kill(server: RedisServer, ear: Ear) -> None:
    server.kill()
    await until(lambda: not ear.bus._connected)
    server.start()


async def end_by_stop(server: RedisServer, ear: Ear) -> None:
    server.stop()
    server.start()


async def end_by_drop(server: RedisServer, ear: Ear) -> None:
    server.command("CLIENT", "KILL", "TYPE", "pubsub")


async def end_by_silence(server: RedisServer, ear: Ear) -> None:
    server.freeze()
    await until(lambda: not ear.bus._connected)
    server.thaw()


@pytest.mark.parametrize("end", [end_by_kill, end_by_stop, end_by_drop, end_by_silence])
async def test_after_a_disconnect_all_rooms_are_subscribed_again_and_the_gap_is_reported_once(
    listen: Any, say: Any, redis_server: RedisServer, logged: LogWatch, end: Any
) -> None:
    ear = await listen(**({"patience": SILENCE} if end is end_by_silence else {}))
    await ear.subscribe("a", "b", "\ud800")
    for number in range(1, 3):
        await end(redis_server, ear)
        await until(lambda number=number: len(ear.gaps) == number)
        assert say("b") == 1
    assert ear.gaps == [{"a", "b", "\ud800"}] * 2
    await asyncio.sleep(0.25)
    assert len(ear.gaps) == 2
    logged.take("reconnecting")


async def test_a_gap_has_the_rooms_joined_meanwhile_and_not_those_left(
    listen: Any, say: Any, redis_server: RedisServer, logged: LogWatch
) -> None:
    ear = await listen()
    await ear.subscribe("a", "b", "c")
    ear.bus.unsubscribe("c")
    redis_server.kill()
    await until(lambda: ear.confirmed("a").done() and not ear.bus._connected)
    ear.bus.unsubscribe("b")
    ear.bus.subscribe("d")
    for number in range(100):
        ear.bus.subscribe(f"{number}")
        ear.bus.unsubscribe(f"{number}")
    assert len(ear.bus._gap_rooms) + len(ear.bus._changed) < 10
    with pytest.raises(ClusterUnavailable, match="subscribed to after the reconnect"):
        await ear.confirmed("d")
    redis_server.start()
    await until(lambda: ear.gaps)
    assert ear.gaps == [{"a", "d"}]
    await within(ear.confirmed("d"))
    assert (say("a"), say("b"), say("c"), say("d")) == (1, 0, 0, 1)
    logged.take("reconnecting")


async def test_a_pending_confirmation_fails_when_redis_disconnects(
    listen: Any, redis_server: RedisServer, logged: LogWatch
) -> None:
    ear = await listen()
    redis_server.freeze()
    ear.bus.subscribe("a")
    confirmed = ear.confirmed("a")
    await asyncio.sleep(0)
    redis_server.kill()
    with pytest.raises(ClusterUnavailable):
        await within(confirmed)
    redis_server.start()
    await until(lambda: ear.gaps)
    await within(ear.confirmed("a"))
    logged.take("reconnecting")


async def test_without_subscriptions_there_is_no_gap(listen: Any, redis_server: RedisServer, logged: LogWatch) -> None:
    ear = await listen()
    redis_server.kill()
    redis_server.start()
    await until(lambda: logged.records)
    await until(lambda: ear.bus._connected)
    await ear.subscribe("a")
    assert ear.gaps == []
    logged.take("reconnecting")


async def test_thousands_of_rooms_are_subscribed_again(
    listen: Any, say: Any, redis_server: RedisServer, logged: LogWatch
) -> None:
    ear = await listen()
    rooms = [f"room {number}" for number in range(5000)]
    await ear.subscribe(*rooms)
    redis_server.kill()
    redis_server.start()
    await until(lambda: ear.gaps)
    assert ear.gaps == [set(rooms)]
    assert say(rooms[-1]) == 1
    logged.take("reconnecting")
