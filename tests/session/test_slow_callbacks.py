"""Callbacks that block the event loop are reported by name."""

import asyncio
import gc
import math
import time
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from application import Echo, LogWatch, Serve
from client import Join
from doubles import FakeContainer, KeptSession, Pause, Receiver, make_session

from sockjs_tornado import Settings, SockJSConnection, SockJSRouter
from sockjs_tornado.observe.stats import SLOW_BUCKETS, Stats
from sockjs_tornado.session import SessionState, callback_queue, slow_callbacks
from sockjs_tornado.session.slow_callbacks import TimedSteps
from sockjs_tornado.testing import connect
from sockjs_tornado.wire.time_budget import TimeBudget

#: Longer than the resolution of any clock that is read.
DURATION = 0.05


def block(*args: Any) -> None:
    """Block the event loop for a little longer than ``DURATION``."""
    end = time.monotonic() + 1.5 * DURATION
    while time.monotonic() < end:
        pass


def fail_slowly(*args: Any) -> None:
    """Block the event loop, then raise."""
    block()
    raise LookupError


async def nothing(*args: Any) -> None:
    """Do nothing in a coroutine."""


def block_and_wait(*args: Any) -> Any:
    """Block the event loop, and return an awaitable."""
    block()
    return nothing()


@pytest.fixture
def container() -> FakeContainer:
    container = FakeContainer()
    container.callback_budget = TimeBudget(math.inf, DURATION)
    return container


def opened(container: FakeContainer, **acts: Callable[..., Any]) -> KeptSession:
    """Return an open session with these callbacks."""
    session = make_session(container, acts=acts)
    Receiver(session).attach()
    return session


def assert_reported(log: LogWatch, session: KeptSession, name: str) -> None:
    """Check that one callback was reported, with its time."""
    record = log.take(f"Notes.{name} blocked the event loop for ")
    assert record.levelname == "WARNING"
    assert "asyncio.to_thread" in record.getMessage()
    stats = session._stats
    assert stats.snapshot()["slow_callbacks"] == 1
    assert DURATION <= stats.slow_callback_seconds == stats.timer_lag_peak


# With C, and by its twin.
receive = pytest.mark.parametrize("way", ["_receive", "_receive_fallback"])


@receive
@pytest.mark.parametrize("messages", [["1"], ["1", "2", "3"]])
def test_a_plain_callback_is_reported(
    container: FakeContainer, logged: LogWatch, way: str, messages: list[str]
) -> None:
    session = opened(container, on_message=lambda conn, message: block() if message == "1" else None)
    getattr(session, way)(messages)
    assert_reported(logged, session, "on_message")
    assert session.connection.calls == ["open", *messages]


@receive
def test_a_callback_that_returns_an_awaitable_or_raises_is_reported(
    container: FakeContainer, logged: LogWatch, way: str
) -> None:
    session = opened(container, on_message=block_and_wait)
    getattr(session, way)(["1"])
    assert_reported(logged, session, "on_message")
    # In another container, since records are throttled.
    other = FakeContainer()
    other.callback_budget = TimeBudget(math.inf, DURATION)
    session = opened(other, on_message=fail_slowly)
    getattr(session, way)(["1"])
    assert_reported(logged, session, "on_message")
    logged.take("on_message of")


@receive
def test_a_callback_whose_exception_ends_the_session_at_once_is_reported(
    container: FakeContainer, logged: LogWatch, way: str
) -> None:
    session = make_session(container, None, acts={"on_message": fail_slowly})
    receiver = Receiver(session).attach()
    # As of a channel.
    receiver.close = receiver.cut  # type: ignore[assignment, method-assign]
    getattr(session, way)(["1"])
    assert session.state is SessionState.CLOSED
    assert_reported(logged, session, "on_message")
    logged.take("on_message of")


@receive
@pytest.mark.usefixtures("logged")
def test_the_carrier_of_channels_is_not_reported_as_well(container: FakeContainer, way: str) -> None:
    session = opened(container, on_message=block)
    session.connection._is_carrier = True
    getattr(session, way)(["1"])
    assert session._stats.snapshot()["slow_callbacks"] == 0


@receive
def test_a_delivery_that_python_continues_is_reported_once(
    container: FakeContainer, logged: LogWatch, way: str
) -> None:
    def on_message(conn: Any, message: str) -> str | None:
        if message == "1":
            block()
            return "a value"
        return None

    session = opened(container, on_message=on_message)
    getattr(session, way)(["1", "2"])
    logged.take("returned a str")
    assert_reported(logged, session, "on_message")


@receive
@pytest.mark.parametrize("is_outer_slow", [False, True])
def test_the_time_of_a_callback_within_another_counts_once(logged: LogWatch, way: str, is_outer_slow: bool) -> None:
    def on_message(conn: Any, message: str) -> None:
        inner.close()
        if is_outer_slow:
            block()

    while True:
        container = FakeContainer()
        container.callback_budget = TimeBudget(math.inf, DURATION)
        inner = opened(container, on_close=block)
        outer = opened(container, on_message=on_message)
        outer._stats = inner._stats
        began = time.monotonic()
        getattr(outer, way)(["1"])
        elapsed = time.monotonic() - began
        if is_outer_slow or elapsed < 2 * DURATION:
            break
        # The machine has suspended the process, perhaps in the outer callback.
        logged.records.clear()
    logged.take("Notes.on_close blocked the event loop for ")
    if is_outer_slow:
        logged.take("Notes.on_message blocked the event loop for ")
    assert outer._stats.snapshot()["slow_callbacks"] == 1 + is_outer_slow
    # The clock of C is coarse.
    assert outer._stats.slow_callback_seconds < elapsed + DURATION / 2


@pytest.mark.parametrize("name", ["on_open", "on_close", "on_dropped"])
def test_the_other_callbacks_are_reported(container: FakeContainer, logged: LogWatch, name: str) -> None:
    session = opened(container, **{name: block})
    if name == "on_dropped":
        session._callbacks.notify_dropped(1)
    session.close()
    assert_reported(logged, session, name)


@receive
@pytest.mark.parametrize("limit", [math.inf, 1e9])
def test_a_fast_callback_is_not_reported(container: FakeContainer, way: str, limit: float) -> None:
    container.callback_budget = TimeBudget(math.inf, limit)
    session = opened(container, on_message=block)
    getattr(session, way)(["1"])
    session.close()
    assert session._stats.snapshot()["slow_callbacks"] == 0


def test_the_setting_is_the_limit_and_0_is_for_never() -> None:
    assert slow_callbacks.slow_after(Settings()) == 0.1
    assert slow_callbacks.slow_after(Settings(slow_callback_duration=2)) == 2
    assert slow_callbacks.slow_after(Settings(slow_callback_duration=0)) == math.inf


async def test_a_router_has_the_limit_of_its_setting(serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sockjs_tornado.session.container.slow_after", slow_callbacks.slow_after)
    # No machine is that slow.
    router = SockJSRouter(Echo, "/echo", slow_callback_duration=1e9)
    assert router.container.callback_budget.slow_after == 1e9
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    await peer.send("x")
    assert await peer.message() == "x"


# The steps of coroutines.

#: In C, if it was built, and its twin.
TIME_STEPS: Any = vars(callback_queue)["time_steps"]
each_kind = pytest.mark.parametrize("kind", [TIME_STEPS, TimedSteps], ids=["C", "twin"])


async def block_later(*args: Any) -> None:
    """Block the event loop between two awaits."""
    await Pause()
    block()
    await Pause()


@each_kind
@pytest.mark.parametrize("name", ["on_open", "on_message", "on_dropped", "on_close"])
@pytest.mark.parametrize("limit", [1, 2])
def test_a_coroutine_that_blocks_between_two_awaits_is_reported(
    container: FakeContainer, logged: LogWatch, monkeypatch: pytest.MonkeyPatch, kind: Any, name: str, limit: int
) -> None:
    monkeypatch.setattr(callback_queue, "time_steps", kind)
    session = make_session(container, acts={name: block_later}, max_concurrent_callbacks=limit)
    Receiver(session).attach()
    if name == "on_message":
        session._receive(["1"])
    elif name == "on_dropped":
        session._callbacks.notify_dropped(1)
    elif name == "on_close":
        session.close()
    assert logged.records == []
    while not container.is_idle:
        container.turn()
    assert_reported(logged, session, name)


@each_kind
@pytest.mark.parametrize("limit", [math.inf, 1e9])
def test_a_coroutine_that_blocks_for_less_is_not_reported(
    container: FakeContainer, monkeypatch: pytest.MonkeyPatch, kind: Any, limit: float
) -> None:
    monkeypatch.setattr(callback_queue, "time_steps", kind)
    container.callback_budget = TimeBudget(math.inf, limit)
    session = opened(container, on_message=block_later)
    session._receive(["1"])
    while not container.is_idle:
        container.turn()
    assert session._stats.snapshot()["slow_callbacks"] == 0


async def test_what_callbacks_wait_for_otherwise_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def note(coroutine: Any, owner: object, name: str, slow_after: float) -> Any:
        timed.append(name)
        return coroutine

    monkeypatch.setattr(callback_queue, "time_steps", note)

    class Slow(SockJSConnection):
        def on_message(self, message: str) -> Any:
            return asyncio.sleep(0) if message == "coroutine" else asyncio.ensure_future(asyncio.sleep(0))

    # With two callbacks at a time, the third waits for one of them.
    router = SockJSRouter(Slow, "/x", max_concurrent_callbacks=2)
    router.container.callback_budget.slow_after = 1e9
    async with connect(router) as client:
        client.connection.session._receive(["coroutine", "future", "coroutine", "future"])
        assert await client.recv_all() == []
    assert timed == ["on_message"] * 2


class Reports(list[Any]):
    """The callbacks, as a timer of steps sees them."""

    error: Exception | None = None

    def report_slow(self, seconds: float, name: str) -> None:
        self.append((seconds, name))
        if self.error is not None:
            raise self.error


@types.coroutine
def exchange(value: Any) -> Any:
    """Yield a value to the event loop; return what it sends."""
    return (yield value)


async def steps(log: list[Any]) -> Any:
    """Record what the event loop sends, and return a value."""
    try:
        log.append(await exchange("first"))
        try:
            log.append(await exchange("second"))
        except LookupError as error:
            log.append(error)
        return ("the", "result")
    finally:
        log.append("end")


async def through(awaitable: Any) -> Any:
    return await awaitable


@each_kind
@pytest.mark.parametrize("slow_after", [0.0, 1e9])
def test_a_timed_coroutine_is_driven_as_itself(kind: Any, slow_after: float) -> None:
    reports = Reports()
    log: list[Any] = []
    outer = through(kind(steps(log), reports, "on_message", slow_after))
    assert outer.send(None) == "first"
    assert outer.send("x") == "second"
    error = LookupError()
    with pytest.raises(StopIteration) as stopped:
        outer.throw(error)
    assert stopped.value.value == ("the", "result")
    assert log == ["x", error, "end"]
    expected = [] if slow_after else ["on_message"] * 3
    assert [name for _, name in reports] == expected
    assert all(type(seconds) is float and seconds >= 0 for seconds, _ in reports)


@each_kind
@pytest.mark.parametrize("result", [None, 5, (), (1, 2), ValueError("a value"), StopIteration(3)])
def test_the_result_of_a_timed_coroutine_is_its_own(kind: Any, result: Any) -> None:
    async def give() -> Any:
        await exchange(1)
        return result

    drives: list[Any] = [lambda timed: timed.send(None), next]
    for drive in drives:
        timed = kind(give(), Reports(), "on_open", 0.0)
        assert iter(timed) is timed.__await__() is timed
        assert drive(timed) == 1
        with pytest.raises(StopIteration) as stopped:
            drive(timed)
        assert stopped.value.value is result
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            drive(timed)
    outer = through(kind(give(), Reports(), "on_open", 0.0))
    outer.send(None)
    with pytest.raises(StopIteration) as stopped:
        outer.send(None)
    assert stopped.value.value is result


@each_kind
def test_a_timed_coroutine_raises_and_is_closed_as_itself(kind: Any) -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        through(kind(fail(), Reports(), "on_open", 0.0)).send(None)
    log: list[Any] = []
    outer = through(kind(steps(log), Reports(), "on_open", 0.0))
    outer.send(None)
    outer.close()
    assert log == ["end"]
    outer = through(kind(steps(log), Reports(), "on_open", 0.0))
    outer.send(None)
    with pytest.raises(asyncio.CancelledError):
        outer.throw(asyncio.CancelledError())
    assert log == ["end", "end"]


@each_kind
def test_an_exception_of_the_report_is_that_of_the_step(kind: Any) -> None:
    reports = Reports()
    reports.error = OSError("no log")
    log: list[Any] = []
    drives: list[Any] = [
        lambda timed: timed.send(None),
        lambda timed: timed.throw(KeyError()),
        lambda timed: timed.close(),
    ]
    for drive in drives:
        coroutine = steps(log)
        with pytest.raises(OSError, match="no log"):
            drive(kind(coroutine, reports, "on_open", 0.0))
        coroutine.close()


@each_kind
def test_a_timed_coroutine_is_freed_with_its_cycle(kind: Any) -> None:
    class Marker:
        pass

    async def hold(own: list[Any]) -> None:
        await exchange(1)

    marker = Marker()
    seen = weakref.ref(marker)
    own: list[Any] = [marker]
    timed = kind(hold(own), own, "on_open", 1e9)
    assert timed.send(None) == 1
    own.append(timed)
    del marker, own, timed
    gc.collect()
    assert seen() is None


def test_the_arguments_in_c_are_checked() -> None:
    with pytest.raises(TypeError):
        TIME_STEPS()
    coroutine = steps([])
    with pytest.raises(TypeError):
        TIME_STEPS(coroutine, Reports(), "x")
    coroutine.close()


def test_the_histogram_is_cumulative() -> None:
    stats = Stats(list)
    for seconds in (0.1, 0.3, 20):
        stats.record_slow_callback(seconds)
    counts = dict(zip(SLOW_BUCKETS, stats.slow_callback_buckets, strict=True))
    assert (counts[0.05], counts[0.1], counts[0.25], counts[0.5], counts[10.0], counts[math.inf]) == (0, 1, 1, 2, 2, 3)
    assert stats.slow_callback_seconds == 20.4


def test_the_advice_for_a_coroutine_says_that_it_must_suspend(container: FakeContainer, logged: LogWatch) -> None:
    class Slow(SockJSConnection):
        async def on_message(self, message: str) -> None:
            await block_later()

    session = make_session(container, kind=Slow)
    Receiver(session).attach()
    session._receive(["1"])
    while not container.is_idle:
        container.turn()
    advice = logged.take("Slow.on_message blocked the event loop for ").getMessage()
    assert "use `async def`" not in advice
    assert "`await asyncio.sleep(0)` in a long loop" in advice
