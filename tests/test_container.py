import asyncio
import math
import sys
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from application import LogWatch
from doubles import Notes, Receiver, make_session
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sockjs_tornado import Settings, SockJSConnection
from sockjs_tornado.container import Deadlines, SessionContainer
from sockjs_tornado.logs import ThrottledLog
from sockjs_tornado.session import Session, SessionState
from sockjs_tornado.stats import Stats

#: Seconds that a bucket spans; a power of two, so that sums of it are exact.
RESOLUTION = 0.125


class Timer:
    """What ``call_later`` returns."""

    def __init__(self, loop: "Timers", when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self._loop = loop

    def cancel(self) -> None:
        self._loop.pending.remove(self)


class Timers:
    """An event loop of timers alone, on a clock that the test moves.

    Attributes:
        time: Now.
        pending: The timers that are set.
        made: How many there have been.
    """

    def __init__(self) -> None:
        self.time = 1000.0
        self.pending: list[Timer] = []
        self.made = 0

    def now(self) -> float:
        return self.time

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        assert delay >= 0
        timer = Timer(self, self.time + delay, callback)
        self.pending.append(timer)
        self.made += 1
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, and let the timers go off."""
        end = self.time + seconds
        for _ in range(10_000):
            timer = min(self.pending, key=lambda timer: timer.when, default=None)
            if timer is None or timer.when > end:
                self.time = end
                return
            self.pending.remove(timer)
            self.time = max(self.time, timer.when)
            timer.callback()
            assert len(self.pending) <= 1
        raise AssertionError("a timer is set again and again")


class Owner:
    """Somebody who has a deadline, and none any more once it has come.

    Args:
        due: When.
        act: What else to do then.
    """

    def __init__(self, due: float, act: Callable[["Owner"], object] = lambda owner: None) -> None:
        self.due = due
        self.bucket: int | None = None
        self.checks: list[float] = []
        self._act = act

    def check(self, now: float) -> None:
        assert self.due <= now
        self.checks.append(now)
        self.due = math.inf
        self._act(self)


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    timers = Timers()
    monkeypatch.setattr("sockjs_tornado.container.asyncio", SimpleNamespace(get_running_loop=lambda: timers))
    return timers


@pytest.fixture
def deadlines(timers: Timers) -> Deadlines:
    return Deadlines(RESOLUTION, timers.now, ThrottledLog(timers.now), Stats(list, timers.now))


# Deadlines, on a clock of their own.


def test_a_deadline_is_met_once_and_late_by_one_bucket_at_most(timers: Timers, deadlines: Deadlines) -> None:
    owners = [Owner(1000 + n / 64) for n in range(200)]
    for owner in owners:
        deadlines.schedule(owner)
    timers.advance(100)
    for owner in owners:
        (checked,) = owner.checks
        assert 1000 + owners.index(owner) / 64 <= checked <= 1000 + owners.index(owner) / 64 + RESOLUTION
        assert owner.bucket is None
    assert timers.pending == []


@pytest.mark.parametrize("due", [1e15, 1e16, 1e308, math.inf])
def test_a_deadline_that_never_comes_harms_nobody(timers: Timers, deadlines: Deadlines, due: float) -> None:
    never, soon = Owner(due), Owner(1001)
    for owner in (never, soon):
        deadlines.schedule(owner)
    timers.advance(100)
    assert never.checks == []
    assert len(soon.checks) == 1


def test_deadlines_are_met_in_the_order_of_their_buckets(timers: Timers, deadlines: Deadlines) -> None:
    met: list[float] = []
    for due in (1003, 1001, 1004, 1002):
        deadlines.schedule(Owner(due, lambda owner, due=due: met.append(due)))
    timers.advance(100)
    assert met == [1001, 1002, 1003, 1004]


def test_deadlines_that_a_busy_event_loop_has_missed_are_all_met(timers: Timers, deadlines: Deadlines) -> None:
    owners = [Owner(1002), Owner(1001), Owner(1003)]
    for owner in owners:
        deadlines.schedule(owner)
    timers.time = 1050.0
    timers.advance(0)
    assert [owner.checks for owner in owners] == [[1050]] * 3


def test_a_deadline_that_has_passed_is_met_with_the_next_turn(timers: Timers, deadlines: Deadlines) -> None:
    owner = Owner(900)
    deadlines.schedule(owner)
    assert owner.checks == []
    timers.advance(0)
    assert owner.checks == [1000]
    assert timers.pending == []


def test_there_is_one_timer_for_the_earliest(timers: Timers, deadlines: Deadlines) -> None:
    for due in (1020, 1010, 1030, 1010, 1005, 1006):
        deadlines.schedule(Owner(due))
        assert len(timers.pending) == 1
    assert timers.pending[0].when == 1005 + RESOLUTION


def test_a_deadline_that_moves_later_costs_no_timer(timers: Timers, deadlines: Deadlines) -> None:
    owner = Owner(1005)
    deadlines.schedule(owner)
    for seconds in range(6, 100):
        owner.due = 1000 + seconds
        deadlines.schedule(owner)
    assert timers.made == 1
    timers.advance(98)
    assert owner.checks == []
    assert timers.made == 2
    timers.advance(2)
    assert owner.checks == [1099 + RESOLUTION]


def test_a_deadline_that_moves_earlier_is_met_earlier_and_once(timers: Timers, deadlines: Deadlines) -> None:
    owner = Owner(1050)
    deadlines.schedule(owner)
    owner.due = 1005
    deadlines.schedule(owner)
    timers.advance(6)
    assert owner.checks == [1005 + RESOLUTION]
    assert timers.pending == []


def test_a_deadline_that_moves_earlier_leaves_its_neighbours(timers: Timers, deadlines: Deadlines) -> None:
    owner, neighbour = Owner(1050), Owner(1050)
    deadlines.schedule(owner)
    deadlines.schedule(neighbour)
    owner.due = 1005
    deadlines.schedule(owner)
    timers.advance(100)
    assert neighbour.checks == [1050 + RESOLUTION]


def test_a_deadline_that_is_cancelled_is_not_met(timers: Timers, deadlines: Deadlines) -> None:
    owner, neighbour = Owner(1005), Owner(1005)
    deadlines.schedule(owner)
    deadlines.schedule(neighbour)
    deadlines.cancel(owner)
    deadlines.cancel(owner)
    timers.advance(100)
    assert owner.checks == []
    assert neighbour.checks == [1005 + RESOLUTION]


def test_for_what_is_cancelled_no_timer_is_set_again(timers: Timers, deadlines: Deadlines) -> None:
    owners = [Owner(1005), Owner(1050), Owner(1050)]
    for owner in owners:
        deadlines.schedule(owner)
    for owner in owners:
        deadlines.cancel(owner)
    timers.advance(100)
    assert timers.made == 1
    assert timers.pending == []


def test_to_cancel_what_was_never_scheduled_does_nothing(timers: Timers, deadlines: Deadlines) -> None:
    deadlines.cancel(Owner(1005))
    assert timers.made == 0


def test_a_deadline_may_come_back_after_it_was_cancelled(timers: Timers, deadlines: Deadlines) -> None:
    owner = Owner(1005)
    deadlines.schedule(owner)
    deadlines.cancel(owner)
    owner.due = 1010
    deadlines.schedule(owner)
    timers.advance(100)
    assert owner.checks == [1010 + RESOLUTION]


@pytest.mark.parametrize("apart", [0, 5], ids=["in one bucket", "in two buckets"])
def test_whoever_is_cancelled_during_a_run_is_not_called(timers: Timers, deadlines: Deadlines, apart: float) -> None:
    owners: list[Owner] = []

    def cancel_the_other(owner: Owner) -> None:
        deadlines.cancel(owners[1 - owners.index(owner)])

    owners += [Owner(1005, cancel_the_other), Owner(1005 + apart, cancel_the_other)]
    for owner in owners:
        deadlines.schedule(owner)
    timers.time = 1050.0
    timers.advance(50)
    assert sorted(owner.checks for owner in owners) == [[], [1050]]
    assert timers.pending == []


def test_whoever_cancels_itself_when_it_is_called_is_forgotten(timers: Timers, deadlines: Deadlines) -> None:
    def give_up(owner: Owner) -> None:
        owner.due = 1006  # though it is due again
        deadlines.cancel(owner)

    owner = Owner(1005, give_up)
    deadlines.schedule(owner)
    timers.advance(100)
    assert len(owner.checks) == 1
    assert timers.pending == []


@pytest.mark.parametrize("moves", [False, True])
def test_whoever_fails_when_it_is_called_harms_nobody(
    timers: Timers, deadlines: Deadlines, moves: bool, logged: LogWatch
) -> None:
    class Broken(Owner):
        def check(self, now: float) -> None:
            self.checks.append(now)
            if moves:
                self.due = now + 10 if len(self.checks) == 1 else math.inf
            raise LookupError

    broken = Broken(1005)
    others = [Owner(1005), Owner(1005), Owner(1010)]
    for owner in (others[0], broken, *others[1:]):
        deadlines.schedule(owner)
    timers.advance(100)
    assert [len(owner.checks) for owner in others] == [1, 1, 1]
    # Without a new deadline it is not called again and again.
    assert len(broken.checks) == (2 if moves else 1)
    for _ in broken.checks:
        assert logged.take("failed at its deadline").exc_info[0] is LookupError
    assert timers.pending == []


@pytest.mark.parametrize("says_so", [False, True])
def test_whoever_is_due_again_is_called_again(timers: Timers, deadlines: Deadlines, says_so: bool) -> None:
    def again(owner: Owner) -> None:
        if len(owner.checks) < 4:
            owner.due = timers.now() + 10
            if says_so:
                deadlines.schedule(owner)

    owner = Owner(1010, again)
    deadlines.schedule(owner)
    timers.advance(1000)
    # Each begins to count when it is called, which is at the end of a bucket.
    assert owner.checks == [1000 + n * (10 + RESOLUTION) for n in range(1, 5)]
    assert timers.pending == []


def test_whoever_is_moved_during_a_run_is_called_at_its_new_time(timers: Timers, deadlines: Deadlines) -> None:
    other = Owner(1020)

    def move(owner: Owner) -> None:
        other.due = 1008
        deadlines.schedule(other)

    deadlines.schedule(Owner(1005, move))
    deadlines.schedule(other)
    timers.advance(100)
    assert other.checks == [1008 + RESOLUTION]


def test_a_late_deadline_made_during_a_run_does_not_hide_an_earlier_one(timers: Timers, deadlines: Deadlines) -> None:
    late, early = Owner(1080), Owner(1010)
    deadlines.schedule(Owner(1005, lambda owner: deadlines.schedule(late)))
    deadlines.schedule(early)
    timers.advance(100)
    assert early.checks == [1010 + RESOLUTION]
    assert late.checks == [1080 + RESOLUTION]


def test_infinity_is_never(timers: Timers, deadlines: Deadlines) -> None:
    owner = Owner(math.inf)
    deadlines.schedule(owner)
    assert timers.made == 0
    owner.due = 1005
    deadlines.schedule(owner)
    owner.due = math.inf
    deadlines.schedule(owner)
    timers.advance(10_000)
    assert owner.checks == []
    assert timers.pending == []


def test_closed_deadlines_are_forgotten(timers: Timers, deadlines: Deadlines) -> None:
    deadlines.close()
    owner = Owner(1005)
    deadlines.schedule(owner)
    deadlines.close()
    assert timers.pending == []
    timers.advance(100)
    assert owner.checks == []
    deadlines.cancel(owner)
    later = Owner(1200)
    deadlines.schedule(later)
    timers.advance(200)
    assert later.checks == [1200 + RESOLUTION]
    assert owner.checks == []


DELAYS = st.integers(0, 80).map(lambda eighths: eighths / 16)


@given(
    events=st.lists(
        st.one_of(
            st.tuples(st.just("move"), st.integers(0, 4), DELAYS),
            st.tuples(st.just("cancel"), st.integers(0, 4), st.none()),
            st.tuples(st.just("wait"), st.none(), DELAYS),
        ),
        max_size=40,
    )
)
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_deadlines_are_met_whatever_happened_before(events: list[tuple[str, Any, Any]]) -> None:
    timers = Timers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sockjs_tornado.container.asyncio", SimpleNamespace(get_running_loop=lambda: timers))
        deadlines = Deadlines(RESOLUTION, timers.now, ThrottledLog(timers.now), Stats(list, timers.now))
        owners = [Owner(math.inf) for _ in range(5)]
        expected: dict[int, float] = {}
        for event, number, delay in [*events, ("wait", None, 100)]:
            if event == "move":
                owners[number].due = expected[number] = timers.time + delay
                deadlines.schedule(owners[number])
            elif event == "cancel":
                expected.pop(number, None)
                deadlines.cancel(owners[number])
            else:
                timers.advance(delay)
                for number, owner in enumerate(owners):
                    due = expected.get(number, math.inf)
                    if owner.checks:
                        assert due <= owner.checks.pop() <= due + RESOLUTION
                        assert owner.checks == []
                        del expected[number]
                    else:
                        assert timers.time < due + RESOLUTION
        assert timers.pending == []


async def test_deadlines_run_on_the_event_loop() -> None:
    deadlines = Deadlines(0.01, time.monotonic, ThrottledLog(time.monotonic), Stats(list, time.monotonic))
    met = asyncio.Event()
    due = time.monotonic() + 0.02
    owner = Owner(due, lambda owner: met.set())
    deadlines.schedule(owner)
    await met.wait()
    assert owner.checks[0] >= due
    assert deadlines._timer is None


# The container.

Make = Callable[..., Session]


@pytest.fixture
async def container() -> AsyncIterator[SessionContainer]:
    container = SessionContainer(Settings(), Stats(list))
    yield container
    for session in container:
        session.check(math.inf)
    await container.close(3000, "Go away!")


def keep(container: SessionContainer, session_id: str | None = "a", **more: Any) -> Session:
    """Return a session that the container keeps."""
    session = make_session(container, session_id, **more)
    container.add(session)
    return session


def polled(container: SessionContainer, session_id: str = "a", **more: Any) -> Session:
    """Return an open session of a polling client that is between two polls."""
    session = keep(container, session_id, **more)
    Receiver(session, 1).attach()
    return session


async def test_sessions_are_found_by_their_id(container: SessionContainer) -> None:
    first, second = keep(container, "a"), keep(container, "b")
    assert container.get("a") is first
    assert container.get("b") is second
    assert container.get("c") is None
    assert len(container) == 2
    assert set(container) == {first, second}


async def test_websockets_are_kept_and_not_found(container: SessionContainer) -> None:
    sessions = {keep(container, None), keep(container, None)}
    assert len(container) == 2
    assert set(container) == sessions


async def test_a_session_that_ends_is_forgotten(container: SessionContainer) -> None:
    session, other = keep(container, "a"), keep(container, "b")
    session.close()
    assert container.get("a") is None
    assert list(container) == [other]
    assert session.bucket is None


async def test_a_websocket_that_ends_is_forgotten(container: SessionContainer) -> None:
    Receiver(keep(container, None)).attach().cut()
    assert len(container) == 0


async def test_to_forget_a_session_leaves_another_of_the_same_id(container: SessionContainer) -> None:
    first, second = keep(container, "a"), keep(container, "a")
    container.remove(first)
    assert container.get("a") is second
    container.remove(second)
    assert container.get("a") is None


async def test_sessions_may_end_while_they_are_gone_through(container: SessionContainer) -> None:
    for number in range(5):
        keep(container, str(number))
    for session in container:
        session.close()
    assert len(container) == 0


async def test_a_session_that_its_constructor_closed_is_not_kept(container: SessionContainer) -> None:
    class Closed(SockJSConnection):
        def __init__(self, session: Session) -> None:
            super().__init__(session)
            self.close()

    keep(container, "a", kind=Closed)
    assert container.get("a") is None
    assert len(container) == 0
    assert container._deadlines._timer is None


async def test_open_sessions_are_those_that_the_application_knows(container: SessionContainer) -> None:
    keep(container, "new")
    gate = asyncio.Event()
    polled(container, "opening", acts={"on_open": lambda conn, info: gate.wait()})
    session, closed = polled(container, "open"), polled(container, "closed")
    closed.close()
    assert container.open_sessions == [session]
    gate.set()


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, 0.1),
        ({"disconnect_delay": 1}, 0.05),
        ({"heartbeat_delay": 1}, 0.05),
        ({"websocket_ping_interval": 1}, 0.05),
        ({"websocket_ping_interval": 10, "websocket_ping_timeout": 1}, 0.05),
        ({"disconnect_delay": 0.01}, 0.005),
    ],
)
def test_a_bucket_spans_a_twentieth_of_the_shortest_delay(options: dict[str, float], seconds: float) -> None:
    assert SessionContainer(Settings(**options), Stats(list))._deadlines._resolution == seconds


async def test_a_session_that_times_out_leaves_no_timer(container: SessionContainer) -> None:
    ended = asyncio.Event()
    session = polled(container, acts={"on_close": lambda conn: ended.set()}, disconnect_delay=0.01)
    await ended.wait()
    await asyncio.sleep(0)
    assert session.state is SessionState.CLOSED
    assert len(container) == 0
    assert container._deadlines._timer is None


async def test_heartbeats_come_with_time(container: SessionContainer) -> None:
    beats: asyncio.Queue[str] = asyncio.Queue()

    class Listening(Receiver):
        def send_frame(self, frame: str) -> None:
            beats.put_nowait(frame)

    receiver = Listening(keep(container, heartbeat_delay=0.01)).attach()
    assert [await beats.get() for _ in range(3)] == ["o", "h", "h"]
    receiver.cut()


async def test_call_soon_means_the_next_turn(container: SessionContainer) -> None:
    called = asyncio.Event()
    container.call_soon(called.set)
    assert not called.is_set()
    await asyncio.sleep(0)
    assert called.is_set()


async def test_a_coroutine_starts_at_once_where_python_can(container: SessionContainer) -> None:
    steps = []
    ended = asyncio.Event()

    async def work() -> None:
        steps.append("began")
        await asyncio.sleep(0)
        steps.append("ended")
        ended.set()

    container.spawn(work())
    assert steps == (["began"] if sys.version_info >= (3, 12) else [])
    await ended.wait()
    assert steps == ["began", "ended"]


async def test_close_tells_everybody(container: SessionContainer) -> None:
    polling, streaming, websocket, made = (keep(container, name) for name in ("poll", "stream", None, "made"))
    Receiver(polling, 1).attach()
    receivers = [Receiver(polling, 1).attach(), Receiver(streaming).attach(), Receiver(websocket).attach()]
    closing = asyncio.ensure_future(container.close(1001, "Restart"))
    await asyncio.sleep(0)
    assert [receiver.frames[-1] for receiver in receivers] == [(1001, "Restart")] * 3
    assert list(container) == [websocket]
    assert not closing.done()
    receivers[2].cut()
    await closing
    for session in (polling, streaming, websocket):
        assert session.connection.heard == ["open", (1001, "Restart")]
    assert made.connection.heard == []
    assert made.state is SessionState.CLOSED
    assert container._deadlines._timer is None


async def test_close_has_nothing_to_wait_for_without_sessions() -> None:
    container = SessionContainer(Settings(), Stats(list))
    assert not container.closing
    closing = container.close(3000, "Go away!")
    with pytest.raises(StopIteration):
        closing.send(None)
    assert container.closing


async def test_close_waits_for_late_polls(container: SessionContainer) -> None:
    sessions = [polled(container, name, disconnect_delay=1000) for name in "ab"]
    sessions[0].send("1")
    closing = asyncio.ensure_future(container.close(3000, "Go away!"))
    await asyncio.sleep(0)
    assert Receiver(sessions[0], 1).attach().frames == [["1"]]
    for session in sessions:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not closing.done()
        assert Receiver(session, 1).attach().frames == [(3000, "Go away!")]
    await closing
    assert len(container) == 0


async def test_close_gives_up_on_a_poll_after_disconnect_delay() -> None:
    container = SessionContainer(Settings(disconnect_delay=0.01), Stats(list))
    session = polled(container, disconnect_delay=0.01)
    await container.close(3000, "Go away!")
    assert session.state is SessionState.CLOSED
    assert session.connection.heard == ["open", (3000, "Go away!")]


async def test_close_waits_for_callbacks_that_run(container: SessionContainer) -> None:
    gate = asyncio.Event()
    session = keep(container, acts={"on_message": lambda conn, message: gate.wait()})
    Receiver(session).attach()
    session.receive(["1"])
    closing = asyncio.ensure_future(container.close(3000, "Go away!"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(container) == 0
    assert not closing.done()
    gate.set()
    await closing
    assert session.connection.heard == ["open", "1", (3000, "Go away!")]


async def test_close_waits_for_an_async_on_close(container: SessionContainer) -> None:
    ended = []

    async def on_close(conn: Notes) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ended.append(conn)

    session = keep(container, acts={"on_close": on_close})
    Receiver(session).attach()
    await container.close(3000, "Go away!")
    assert ended == [session.connection]


async def test_close_waits_for_an_on_close_that_follows_a_callback(container: SessionContainer) -> None:
    gate = asyncio.Event()
    ended = []

    async def on_close(conn: Notes) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ended.append(conn)

    session = keep(container, acts={"on_message": lambda conn, message: gate.wait(), "on_close": on_close})
    Receiver(session).attach()
    session.receive(["1"])
    closing = asyncio.ensure_future(container.close(3000, "Go away!"))
    await asyncio.sleep(0)
    gate.set()
    await closing
    assert ended == [session.connection]


@pytest.mark.parametrize("callback", ["on_message", "on_close"])
async def test_close_cancels_a_callback_after_disconnect_delay(logged: LogWatch, callback: str) -> None:
    container = SessionContainer(Settings(disconnect_delay=0.01), Stats(list))
    ended = []

    async def hang(conn: Notes, *args: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(callback)

    session = keep(container, acts={callback: hang})
    Receiver(session).attach()
    session.receive(["x"])
    await container.close(3000, "Go away!")
    assert ended == [callback]
    # on_close has run in any case.
    assert session.connection.heard[-1] == (3000, "Go away!")
    logged.take("1 callbacks did not end, and were cancelled")


async def test_close_waits_for_connections_on_their_way(container: SessionContainer) -> None:
    container.connection_opened()
    container.connection_opened()
    closing = asyncio.ensure_future(container.close(3000, "Go away!"))
    for _ in range(2):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not closing.done()
        container.connection_closed()
    await closing


async def test_close_may_be_called_by_a_callback(container: SessionContainer) -> None:
    closed = asyncio.Event()

    async def on_message(conn: Notes, message: str) -> None:
        await container.close(3000, "Go away!")
        closed.set()

    session = keep(container, acts={"on_message": on_message})
    Receiver(session).attach()
    session.receive(["1"])
    await closed.wait()
    assert session.is_closed


async def test_close_may_be_called_twice_at_once(container: SessionContainer) -> None:
    session = polled(container, disconnect_delay=1000)
    both = asyncio.gather(container.close(3001, "First"), container.close(3002, "Second"))
    await asyncio.sleep(0)
    assert Receiver(session, 1).attach().frames == [(3001, "First")]
    await both
    await container.close(3003, "Third")
    assert session.connection.heard == ["open", (3001, "First")]
