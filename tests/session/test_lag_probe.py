"""A timer of each event loop shows for how long the event loop was blocked, by whatever ran in it."""

import asyncio
import gc
import logging
import math
import time
import weakref
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
from application import Echo, LogWatch, Serve
from client import TIMEOUT, Client, Connect, until
from event_loops import LOOPS
from tornado.web import Application, RequestHandler

from sockjs_tornado import SockJSRouter
from sockjs_tornado.observe.logs import ThrottledLog
from sockjs_tornado.observe.stats import Stats
from sockjs_tornado.serving import bind_sockets, http_server
from sockjs_tornado.session import lag_probe, slow_callbacks
from sockjs_tornado.session.lag_probe import INTERVAL, LagProbe, LagTimer
from sockjs_tornado.testing import connect as connect_in_memory

#: Seconds for which the tests block the event loop.
BLOCKED = 0.2

#: What is measured of that at least, as the documentation says.
MEASURED = BLOCKED - 0.1


class Recorded:
    """The delays that routers record."""

    def __init__(self) -> None:
        self._lags: asyncio.Queue[float] = asyncio.Queue()

    def add(self, lag: float) -> None:
        self._lags.put_nowait(lag)

    async def next(self) -> float:
        async with asyncio.timeout(TIMEOUT):
            return await self._lags.get()

    def block(self, *arguments: object) -> None:
        """Forget earlier delays, and block the event loop."""
        self._lags = asyncio.Queue()
        time.sleep(BLOCKED)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded()
    record_lag = Stats.record_lag

    def record(stats: Stats, lag: float) -> None:
        record_lag(stats, lag)
        recorded.add(lag)

    monkeypatch.setattr(Stats, "record_lag", record)
    return recorded


async def block_in_task(recorded: Recorded, port: int) -> None:
    async def block() -> None:
        recorded.block()

    await asyncio.create_task(block())


async def block_in_callback(recorded: Recorded, port: int) -> None:
    asyncio.get_running_loop().call_later(0, recorded.block)
    await asyncio.sleep(0.001)


async def block_in_handler(recorded: Recorded, port: int) -> None:
    client = await Client.connect(port)
    assert (await client.ask("GET", "/block")).status == 200
    await client.leave()


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("block", [block_in_task, block_in_callback, block_in_handler])
def test_whatever_blocks_a_server_is_measured_each_time(
    recorded: Recorded, loop_name: str, block: Callable[[Recorded, int], Awaitable[None]]
) -> None:
    """Also without any session, or request to the router."""

    class Handler(RequestHandler):
        get = recorded.block

    async def run() -> None:
        router = SockJSRouter(Echo, "/echo")
        sockets = bind_sockets(0, "127.0.0.1")
        application = Application([*router.urls, ("/block", Handler)], log_function=lambda handler: None)
        port = sockets[0].getsockname()[1]
        async with http_server(application, sockets):
            for phase in range(5):
                await asyncio.sleep(INTERVAL * phase / 5)
                await block(recorded, port)
                assert await recorded.next() >= MEASURED
            assert router.stats.snapshot()["timer_lag_peak"] >= MEASURED
        await router.close()

    loop = LOOPS[loop_name]()
    loop.run_until_complete(run())
    loop.close()


async def test_a_router_of_another_server_measures_from_its_first_request_on(
    recorded: Recorded, serve: Serve, connect: Connect
) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    assert (await client.ask("GET", "/echo/info")).status == 200
    recorded.block()
    assert await recorded.next() >= MEASURED
    # A closed router does not measure, and its responses start nothing.
    await router.close()
    assert (await client.ask("GET", "/echo/info")).status == 404
    router._set_application(router.application)
    assert router._lag_probe._timer is None


def test_each_event_loop_with_sessions_is_measured(recorded: Recorded) -> None:
    router = SockJSRouter(Echo, "/echo")

    async def run() -> None:
        async with connect_in_memory(router):
            recorded.block()
            assert await recorded.next() >= MEASURED

    for factory in LOOPS.values():
        loop = factory()
        loop.run_until_complete(run())
        loop.close()


async def test_what_blocks_the_event_loop_is_logged(
    recorded: Recorded, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.session.container.slow_after", slow_callbacks.slow_after)
    router = SockJSRouter(Echo, "/echo", slow_callback_duration=MEASURED)
    router._measure_lag()
    recorded.block()
    await recorded.next()
    await router.close()
    assert logged.take("the event loop was blocked or stopped for at least ").levelname == "WARNING"


async def test_one_record_tells_of_a_delay_whatever_the_number_of_routers(
    recorded: Recorded, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.session.container.slow_after", slow_callbacks.slow_after)
    routers = [SockJSRouter(Echo, f"/{number}", slow_callback_duration=MEASURED) for number in range(3)]
    for router in routers:
        router._measure_lag()
    recorded.block()
    assert len({await recorded.next() for _ in routers}) == 1
    logged.take("the event loop was blocked or stopped for at least ")
    # The slow callback of one router explains it to all.
    recorded.block()
    routers[1].stats.record_slow_callback(1e9)
    for _ in routers:
        await recorded.next()
    assert logged.records == []
    for router in routers:
        await router.close()


async def test_a_router_that_is_measured_can_be_freed(recorded: Recorded) -> None:
    router = SockJSRouter(Echo, "/echo")
    router._measure_lag()
    await recorded.next()
    freed = weakref.ref(router)
    del router
    gc.collect()
    assert freed() is None
    # The timer ends, and so does that of a loop whose routers are closed.
    loop = asyncio.get_running_loop()
    await until(lambda: loop not in lag_probe._timers)
    router = SockJSRouter(Echo, "/echo")
    router._measure_lag()
    await recorded.next()
    await router.close()


def test_an_event_loop_that_was_measured_can_be_freed() -> None:
    loop = asyncio.new_event_loop()

    async def measure() -> SockJSRouter:
        router = SockJSRouter(Echo, "/echo")
        router._measure_lag()
        return router

    router = loop.run_until_complete(measure())
    loop.close()
    freed = weakref.ref(loop)
    del loop
    gc.collect()
    assert freed() is None
    assert router.stats.timer_lag == 0


def test_a_delay_is_logged_unless_callbacks_explain_it(logged: LogWatch) -> None:
    now = 1000.0
    stats = Stats(list)
    probe = LagProbe(0.1, ThrottledLog(lambda: now), stats)
    timer = LagTimer()
    timer.probes.add(probe)
    timer.record(0.09)
    stats.record_slow_callback(2.0)
    timer.record(1.5)
    stats.record_slow_callback(0.2)
    timer.record(0.25)
    assert logged.records == []
    # The callbacks before the last run explain nothing any more.
    timer.record(0.25)
    record = logged.take("the event loop was blocked or stopped for at least 0.250 s")
    assert record.levelname == "WARNING"
    assert "PYTHONASYNCIODEBUG=1" in record.getMessage()
    now += 60
    stats.record_slow_callback(0.5)
    timer.record(1.5)
    logged.take("the event loop was blocked or stopped for at least 1.000 s")
    assert stats.timer_lag == 1.5


def test_the_timer_runs_once_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000 * INTERVAL
    delays: list[float] = []
    loop = SimpleNamespace(call_later=lambda delay, *call: delays.append(delay))
    monkeypatch.setattr(lag_probe, "monotonic", lambda: now)
    monkeypatch.setattr(lag_probe, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    timer = LagTimer()
    probe = LagProbe(math.inf, ThrottledLog(lambda: now), Stats(list))
    timer.probes.add(probe)
    timer.schedule(now)
    # Early, on time, and late.
    for time_of_run, expected in ((1000.99, 1.01), (1002, 1), (1004.75, 0.25)):
        now = time_of_run * INTERVAL
        timer.run()
        assert delays[-1] == pytest.approx(expected * INTERVAL)


def test_an_exception_of_the_log_does_not_end_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    now = 1000 * INTERVAL
    delays: list[float] = []
    loop = SimpleNamespace(call_later=lambda delay, *call: delays.append(delay))
    monkeypatch.setattr(lag_probe, "monotonic", lambda: now)
    monkeypatch.setattr(lag_probe, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    timer = LagTimer()
    probe = LagProbe(0.1, ThrottledLog(lambda: now), Stats(list))
    timer.probes.add(probe)
    timer.schedule(now)
    lag_probe.logger.addFilter(fail)
    try:
        now *= 2
        with pytest.raises(ZeroDivisionError):
            timer.run()
    finally:
        lag_probe.logger.removeFilter(fail)
    assert len(delays) == 2
