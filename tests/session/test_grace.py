import asyncio
import math
import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from client import within

from sockjs_tornado.session.grace import LATE, MAX_GRACE, Grace, timeout

#: Seconds for which the event loop stands still, longer than each timeout here.
STALL = 0.6


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection."""
    here, there = socket.socketpair()
    here.setblocking(False)
    with here, there:
        yield here, there


async def test_data_that_arrived_during_a_stall_is_in_time(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    loop = asyncio.get_running_loop()

    def stand_still() -> None:
        time.sleep(STALL / 2)
        there.send(b"x")
        time.sleep(STALL / 2)

    loop.call_soon(stand_still)
    async with timeout(STALL / 3):
        assert await loop.sock_recv(here, 1) == b"x"


@pytest.mark.parametrize("stall", [0, STALL])
async def test_a_timeout_strikes_all_the_same(stall: float) -> None:
    began = time.monotonic()
    asyncio.get_running_loop().call_soon(time.sleep, stall)
    with pytest.raises(TimeoutError):
        async with timeout(0.1):
            await asyncio.Event().wait()
    assert time.monotonic() - began >= max(0.1, 2 * stall)


class Clock:
    """An event loop whose time moves when the test says so, and the scope of a timeout.

    Attributes:
        now: The time.
        struck: When the timeout struck, None before.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.struck: float | None = None
        self._timer: tuple[float, Callable[[], None]] | None = None
        asyncio_here = SimpleNamespace(get_running_loop=lambda: self, timeout=lambda when: self)
        monkeypatch.setattr("sockjs_tornado.session.grace.asyncio", asyncio_here)
        monkeypatch.setattr("sockjs_tornado.session.grace.monotonic", self.time)

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> "Clock":
        assert delay >= 0
        self._timer = self.now + delay, callback
        return self

    def cancel(self) -> None:
        self._timer = None

    def reschedule(self, when: float) -> None:
        self.struck = when

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *error: object) -> None:
        pass

    def advance(self, seconds: float) -> None:
        """Let time pass, and run the timer when it is due."""
        end = self.now + seconds
        while self._timer is not None and self._timer[0] <= end:
            self.now, callback = self._timer
            self._timer = None
            callback()
        self.now = end

    def stand_still(self, seconds: float) -> None:
        """Let time pass without running the timer, and run it then."""
        self.now += seconds
        assert self._timer is not None
        callback = self._timer[1]
        self._timer = None
        callback()


async def test_a_timeout_strikes_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    async with timeout(10):
        clock.advance(9.9)
        assert clock.struck is None
        clock.advance(0.2)
        assert clock.struck == 1010


async def test_each_stall_is_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    async with timeout(10):
        # The grace period of the first one is over long before the end.
        clock.stand_still(2)
        clock.advance(6)
        clock.stand_still(5)
        clock.advance(4)
        assert clock.struck is None
        clock.advance(2)
        assert clock.struck is not None


async def test_a_stall_that_ended_before_the_timeout_is_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    async with timeout(10):
        clock.stand_still(9.9)
        clock.advance(8.8)
        assert clock.struck is None
        clock.advance(2)
        assert clock.struck is not None


async def test_constant_overload_postpones_no_timeout_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    async with timeout(10):
        while clock.struck is None:
            clock.stand_still(4)
        assert clock.struck <= 1010 + MAX_GRACE + 8


async def test_there_may_be_no_timeout() -> None:
    async with timeout(None):
        await asyncio.sleep(0)


async def test_an_exception_of_the_block_is_raised() -> None:
    with pytest.raises(LookupError):
        async with timeout(10):
            raise LookupError


async def test_to_be_cancelled_is_no_timeout() -> None:
    async def wait() -> None:
        async with timeout(100):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)


async def test_nothing_is_left_of_a_timeout_that_did_not_strike() -> None:
    async with timeout(0.01):
        pass
    # Nobody is cancelled by it.
    await asyncio.sleep(0.05)


def test_a_timer_that_is_hardly_late_begins_nothing() -> None:
    grace = Grace(1)
    grace.timer_ran(LATE, 1000)
    assert grace.end == -math.inf


def test_a_stall_is_forgiven_and_the_time_before_the_timer_was_due() -> None:
    grace = Grace(1)
    grace.timer_ran(5, 1000)
    assert grace.end == 1006


def test_a_shorter_stall_does_not_shorten_a_grace_period() -> None:
    grace = Grace(1)
    grace.timer_ran(9, 1000)
    grace.timer_ran(0.2, 1001)
    assert grace.end == 1010


def test_another_one_begins_only_after_everything_due_was_done() -> None:
    grace = Grace(1)
    grace.timer_ran(100, 1000)
    assert grace.end == 1000 + MAX_GRACE
    for now in (1030, 1031):
        grace.timer_ran(1, now)
        assert grace.end <= now
    # What was postponed to the end is not done yet.
    grace.all_done(1030)
    grace.timer_ran(1, 1031)
    assert grace.end == 1030
    grace.all_done(1031)
    grace.timer_ran(5, 1032)
    assert grace.end == 1038


def test_work_done_meanwhile_does_not_end_a_grace_period() -> None:
    grace = Grace(1)
    grace.timer_ran(5, 1000)
    grace.all_done(1000)
    grace.timer_ran(0, 1001)
    grace.all_done(1001)
    assert grace.end == 1006
