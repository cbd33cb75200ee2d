"""Subscriptions: what is received, from when on, and which rooms have a gap."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from typing import Any

import pytest
from application import LogWatch
from client import until, within

from sockjs_tornado.cluster import base
from sockjs_tornado.cluster.bus import Bus
from sockjs_tornado.cluster.envelope import Channel, RedisKeys
from sockjs_tornado.cluster.redis_connection import RedisURL
from sockjs_tornado.exceptions import ClusterUnavailable
from sockjs_tornado.observe.logs import ThrottledLog

from .conftest import SILENCE
from .redis_server import RedisServer
from .turns import count_calls

KEYS = RedisKeys("test")


class RecordingBus:
    """A bus that records what it receives."""

    def __init__(self, url: str, timeout: float) -> None:
        self.received: list[tuple[str | Channel, bytes]] = []
        self.gaps: list[Set[str | Channel]] = []
        self.bus = Bus(
            RedisURL(url),
            KEYS,
            lambda room, data: self.received.append((room, data)),
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
            await within(self.confirmation(room))

    def confirmation(self, room: str) -> "asyncio.Future[None]":
        confirmation = self.bus.confirmation(room)
        assert confirmation is not None
        return confirmation


@pytest.fixture
async def start_bus(redis_server: RedisServer) -> AsyncIterator[Callable[..., Awaitable[RecordingBus]]]:
    """Return a function that starts a bus."""
    recorders = []

    async def start(ping_after: float = 2) -> RecordingBus:
        recorder = RecordingBus(redis_server.url, ping_after)
        await recorder.bus.start()
        recorders.append(recorder)
        return recorder

    yield start
    for recorder in recorders:
        await recorder.bus.close()


@pytest.fixture
def publish(redis_server: RedisServer) -> Callable[..., object]:
    """Return a function that publishes, and returns the number of receivers."""
    return lambda room, text="x": redis_server.command("PUBLISH", KEYS.channel(room), text)


async def test_messages_after_the_confirmation_are_received(start_bus: Any, publish: Any) -> None:
    recorder = await start_bus()
    rooms = ["", "a b", "☃", "\ud800", "x" * 100_000, "a\nb", "*", "a*"]
    await recorder.subscribe(*rooms)
    for room in rooms:
        assert publish(room) == 1
    assert publish("aa") == 0
    await until(lambda: len(recorder.received) == len(rooms))
    assert recorder.received == [(room, b"x") for room in rooms]


async def test_messages_after_unsubscribing_are_not_received(start_bus: Any, publish: Any) -> None:
    recorder = await start_bus()
    await recorder.subscribe("a", "b")
    recorder.bus.unsubscribe("a")
    assert recorder.bus.confirmation("a") is None
    await until(lambda: publish("a") == 0)
    assert publish("b") == 1


async def test_unsubscribing_and_subscribing_in_one_turn_loses_no_message(
    start_bus: Any, publish: Any, redis_server: RedisServer
) -> None:
    recorder = await start_bus()
    await recorder.subscribe("a")
    before = redis_server.command("INFO", "commandstats")
    recorder.bus.unsubscribe("a")
    await recorder.subscribe("a")
    after = redis_server.command("INFO", "commandstats")
    assert after["cmdstat_subscribe"]["calls"] == before["cmdstat_subscribe"]["calls"]
    assert publish("a") == 1


async def test_subscribing_and_unsubscribing_in_one_turn_sends_nothing(start_bus: Any, publish: Any) -> None:
    recorder = await start_bus()
    recorder.bus.subscribe("a")
    confirmation = recorder.confirmation("a")
    recorder.bus.unsubscribe("a")
    await recorder.subscribe("b")
    assert confirmation.done()
    assert (publish("a"), publish("b")) == (0, 1)


async def test_subscribing_again_when_redis_has_just_confirmed_loses_no_message(
    start_bus: Any, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = await start_bus()
    subscribed = recorder.bus._subscribed

    def subscribe_again(room: str) -> None:
        monkeypatch.setattr(recorder.bus, "_subscribed", subscribed)
        recorder.bus.unsubscribe(room)
        recorder.bus.subscribe(room)
        subscribed(room)
        # The reply confirms the new subscription, before the writer finds that it needs no command.
        assert recorder.confirmation(room).done()

    monkeypatch.setattr(recorder.bus, "_subscribed", subscribe_again)
    await recorder.subscribe("a")
    await recorder.subscribe("b")
    assert (publish("a", "1"), publish("b", "2")) == (1, 1)
    await until(lambda: len(recorder.received) == 2)
    assert recorder.received == [("a", b"1"), ("b", b"2")]


@pytest.mark.parametrize("pauses", list(itertools.product([0, 1, 3], repeat=3)))
async def test_rapid_changes_end_in_a_confirmed_subscription(
    start_bus: Any, publish: Any, pauses: tuple[int, ...]
) -> None:
    recorder = await start_bus()
    for pause in pauses:
        recorder.bus.subscribe("a")
        for _ in range(pause):
            await asyncio.sleep(0)
        recorder.bus.unsubscribe("a")
        for _ in range(pause):
            await asyncio.sleep(0)
    await recorder.subscribe("a")
    assert publish("a") == 1


async def test_many_messages_do_not_block_the_loop(start_bus: Any, publish: Any, redis_server: RedisServer) -> None:
    recorder = await start_bus()
    await recorder.subscribe("a")
    redis_server.command("EVAL", "for i = 1, 40000 do redis.call('PUBLISH', ARGV[1], i) end", 0, KEYS.channel("a"))
    turns = 0
    while len(recorder.received) < 40_000:
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10
    assert [int(data) for _, data in recorder.received] == list(range(1, 40_001))


async def end_by_kill(server: RedisServer, recorder: RecordingBus) -> None:
    server.kill()
    await until(lambda: not recorder.bus.available)
    server.start()


async def end_by_stop(server: RedisServer, recorder: RecordingBus) -> None:
    server.stop()
    server.start()


async def end_by_drop(server: RedisServer, recorder: RecordingBus) -> None:
    server.command("CLIENT", "KILL", "TYPE", "pubsub")


async def end_by_silence(server: RedisServer, recorder: RecordingBus) -> None:
    server.freeze()
    await until(lambda: not recorder.bus.available)
    server.thaw()


@pytest.mark.parametrize("end", [end_by_kill, end_by_stop, end_by_drop, end_by_silence])
async def test_after_a_disconnect_all_rooms_are_subscribed_again_and_the_gap_is_reported_once(
    start_bus: Any, publish: Any, redis_server: RedisServer, logged: LogWatch, end: Any
) -> None:
    recorder = await start_bus(**({"ping_after": SILENCE} if end is end_by_silence else {}))
    await recorder.subscribe("a", "b", "\ud800")
    for number in range(1, 3):
        await end(redis_server, recorder)
        await until(lambda number: len(recorder.gaps) == number, number)
        assert publish("b") == 1
    assert recorder.gaps == [{"a", "b", "\ud800"}] * 2
    # Everything that Redis has sent before is processed.
    await recorder.subscribe("later")
    assert len(recorder.gaps) == 2
    logged.take("reconnecting")


async def test_a_gap_has_the_rooms_joined_meanwhile_and_not_those_left(
    start_bus: Any, publish: Any, redis_server: RedisServer, logged: LogWatch
) -> None:
    recorder = await start_bus()
    await recorder.subscribe("a", "b", "c")
    recorder.bus.unsubscribe("c")
    redis_server.kill()
    await until(lambda: recorder.confirmation("a").done() and not recorder.bus.available)
    recorder.bus.unsubscribe("b")
    recorder.bus.subscribe("d")
    for number in range(100):
        recorder.bus.subscribe(f"{number}")
        recorder.bus.unsubscribe(f"{number}")
    assert len(recorder.bus._gap_rooms) + len(recorder.bus._changed) < 10
    with pytest.raises(ClusterUnavailable, match="subscribed to after the reconnect"):
        await recorder.confirmation("d")
    redis_server.start()
    await until(lambda: recorder.gaps)
    assert recorder.gaps == [{"a", "d"}]
    await within(recorder.confirmation("d"))
    assert (publish("a"), publish("b"), publish("c"), publish("d")) == (1, 0, 0, 1)
    logged.take("reconnecting")


async def test_a_pending_confirmation_fails_when_redis_disconnects(
    start_bus: Any, redis_server: RedisServer, logged: LogWatch
) -> None:
    recorder = await start_bus()
    redis_server.freeze()
    recorder.bus.subscribe("a")
    confirmation = recorder.confirmation("a")
    await asyncio.sleep(0)
    redis_server.kill()
    with pytest.raises(ClusterUnavailable):
        await within(confirmation)
    redis_server.start()
    await until(lambda: recorder.gaps)
    await within(recorder.confirmation("a"))
    logged.take("reconnecting")


async def test_without_subscriptions_there_is_no_gap(
    start_bus: Any, redis_server: RedisServer, logged: LogWatch
) -> None:
    recorder = await start_bus()
    redis_server.kill()
    redis_server.start()
    await until(lambda: logged.records)
    await until(lambda: recorder.bus.available)
    await recorder.subscribe("a")
    assert recorder.gaps == []
    logged.take("reconnecting")


async def test_many_reconnects_in_a_row_are_one_record(
    start_bus: Any,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    logged: LogWatch,
) -> None:
    """Such as those of a user without permission for the channels: Redis closes each connection."""
    monkeypatch.setattr("sockjs_tornado.observe.logs.INTERVAL", 1e9)
    caplog.set_level(logging.INFO, "sockjs_tornado.cluster.reconnecting")
    recorder = await start_bus()
    await recorder.subscribe("room")
    for number in range(1, 4):
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda wanted=number: len(recorder.gaps) == wanted)
    assert sum("Reconnected" in record.getMessage() for record in caplog.records) == 1
    logged.take("reconnecting")


async def test_a_room_that_is_subscribed_before_the_start_is_subscribed_by_it(
    publish: Any, redis_server: RedisServer
) -> None:
    recorder = RecordingBus(redis_server.url, 1)
    recorder.bus.subscribe("early")
    recorder.bus.subscribe("left")
    await recorder.bus.start()
    # Before its task runs.
    recorder.bus.unsubscribe("left")
    await within(recorder.confirmation("early"))
    assert publish("early") == 1
    await within(recorder.bus.close())


async def test_thousands_of_rooms_are_subscribed_again_in_slices(
    start_bus: Any, publish: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    recorder = await start_bus()
    rooms = [f"room {number}" for number in range(5000)]
    counts = count_calls(monkeypatch, KEYS, "channel")
    await recorder.subscribe(*rooms)
    redis_server.kill()
    await until(lambda: not recorder.bus.available)
    redis_server.start()
    await until(lambda: recorder.gaps)
    assert recorder.gaps == [set(rooms)]
    assert (sum(counts), max(counts)) == (10_000, base.SLICE)
    assert publish(rooms[-1]) == 1
    await within(recorder.confirmation(rooms[-1]))
    logged.take("reconnecting")


async def test_thousands_of_pending_confirmations_fail_in_slices(
    start_bus: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    recorder = await start_bus()
    redis_server.freeze()
    rooms = [f"room {number}" for number in range(3000)]
    for room in rooms:
        recorder.bus.subscribe(room)
    pending = [recorder.confirmation(room) for room in rooms]
    counts = count_calls(monkeypatch, base, "fail")
    redis_server.kill()
    await until(lambda: all(future.done() for future in pending))
    assert (sum(counts), max(counts)) == (3000, base.SLICE)
    logged.take("reconnecting")
