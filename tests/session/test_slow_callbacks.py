"""Callbacks that block the event loop are reported: plain ones by name, and what else delays the timer by its time."""

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from application import Echo, LogWatch, Serve
from client import Join
from doubles import FakeContainer, KeptSession, Receiver, make_session

from sockjs_tornado import Settings, SockJSRouter
from sockjs_tornado.observe.logs import ThrottledLog
from sockjs_tornado.observe.stats import SLOW_BUCKETS, Stats
from sockjs_tornado.session import SessionState, slow_callbacks
from sockjs_tornado.session.slow_callbacks import LagAlarm
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
    record = log.take(f"Notes.{name} blocked the event loop for 0.")
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
def test_the_time_of_a_callback_within_another_counts_once(
    container: FakeContainer, logged: LogWatch, way: str, is_outer_slow: bool
) -> None:
    inner = opened(container, on_close=block)

    def on_message(conn: Any, message: str) -> None:
        inner.close()
        if is_outer_slow:
            block()

    outer = opened(container, on_message=on_message)
    outer._stats = inner._stats
    began = time.monotonic()
    getattr(outer, way)(["1"])
    elapsed = time.monotonic() - began
    logged.take("Notes.on_close blocked the event loop for 0.")
    if is_outer_slow:
        logged.take("Notes.on_message blocked the event loop for 0.")
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


def test_the_histogram_is_cumulative() -> None:
    stats = Stats(list)
    for seconds in (0.1, 0.3, 20):
        stats.record_slow_callback(seconds)
    counts = dict(zip(SLOW_BUCKETS, stats.slow_callback_buckets, strict=True))
    assert (counts[0.05], counts[0.1], counts[0.25], counts[0.5], counts[10.0], counts[math.inf]) == (0, 1, 1, 2, 2, 3)
    assert stats.slow_callback_seconds == 20.4


# The timer.


def test_a_late_timer_is_reported_unless_callbacks_explain_it(logged: LogWatch) -> None:
    now = 1000.0
    stats = Stats(list)
    alarm = LagAlarm(0.1, ThrottledLog(lambda: now), stats)
    alarm.timer_ran(0.09)
    stats.record_slow_callback(2.0)
    alarm.timer_ran(1.5)
    stats.record_slow_callback(0.2)
    alarm.timer_ran(0.25)
    assert logged.records == []
    # The callbacks before the last run explain nothing any more.
    alarm.timer_ran(0.25)
    record = logged.take("the event loop was blocked or stopped for at least 0.250 s")
    assert record.levelname == "WARNING"
    assert "PYTHONASYNCIODEBUG=1" in record.getMessage()
    now += 60
    stats.record_slow_callback(0.5)
    alarm.timer_ran(1.5)
    logged.take("the event loop was blocked or stopped for at least 1.000 s")


async def test_the_router_has_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[float] = []
    monkeypatch.setattr(LagAlarm, "timer_ran", lambda self, lag: late.append(lag))
    container = SockJSRouter(Echo, "/echo").container
    container._deadlines._run()
    assert len(late) == 1
