import asyncio
import math
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from application import LogWatch, exception_of
from client import within
from event_loops import LOOPS
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sockjs_tornado.observe.logs import ThrottledLog
from sockjs_tornado.session.deadlines import BATCH_SIZE, Deadlines
from sockjs_tornado.session.grace import MAX_GRACE

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
    monkeypatch.setattr("sockjs_tornado.session.deadlines.asyncio", SimpleNamespace(get_running_loop=lambda: timers))
    return timers


@pytest.fixture
def deadlines(timers: Timers) -> Deadlines:
    return Deadlines(RESOLUTION, math.inf, timers.now, ThrottledLog(timers.now))


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
def test_a_deadline_at_infinity_does_no_harm(timers: Timers, deadlines: Deadlines, due: float) -> None:
    never, soon = Owner(due), Owner(1001)
    for owner in (never, soon):
        deadlines.schedule(owner)
    timers.advance(100)
    assert never.checks == []
    assert len(soon.checks) == 1


def test_deadlines_are_met_in_the_order_of_their_buckets(timers: Timers, deadlines: Deadlines) -> None:
    met: list[float] = []

    def note(due: float, owner: Owner) -> None:
        met.append(due)

    for due in (1003, 1001, 1004, 1002):
        deadlines.schedule(Owner(due, partial(note, due)))
    timers.advance(100)
    assert met == [1001, 1002, 1003, 1004]


def test_deadlines_that_a_busy_event_loop_has_missed_are_all_met(timers: Timers, deadlines: Deadlines) -> None:
    owners = [Owner(1002), Owner(1001), Owner(1003)]
    for owner in owners:
        deadlines.schedule(owner)
    timers.time = 1050.0
    timers.advance(0)
    assert [owner.checks for owner in owners] == [[1050]] * 3


def test_an_expired_deadline_is_checked_in_the_next_iteration(timers: Timers, deadlines: Deadlines) -> None:
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
def test_an_owner_cancelled_during_a_run_is_not_checked(timers: Timers, deadlines: Deadlines, apart: float) -> None:
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


def test_an_owner_that_cancels_itself_in_its_check_is_removed(timers: Timers, deadlines: Deadlines) -> None:
    def give_up(owner: Owner) -> None:
        owner.due = 1006  # though it is due again
        deadlines.cancel(owner)

    owner = Owner(1005, give_up)
    deadlines.schedule(owner)
    timers.advance(100)
    assert len(owner.checks) == 1
    assert timers.pending == []


def test_an_owner_may_cancel_itself_after_its_bucket_has_become_empty(timers: Timers, deadlines: Deadlines) -> None:
    other = Owner(1005)

    def act(owner: Owner) -> None:
        deadlines.schedule(other)
        deadlines.cancel(other)
        owner.due = 1006
        deadlines.cancel(owner)

    owner = Owner(1005, act)
    deadlines.schedule(owner)
    timers.advance(100)
    assert (len(owner.checks), other.checks) == (1, [])
    assert timers.pending == []


@pytest.mark.parametrize("moves", [False, True])
def test_an_owner_whose_check_raises_affects_no_other(
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
        assert type(exception_of(logged.take("Checking the deadline of"))) is LookupError
    assert timers.pending == []


@pytest.mark.parametrize("says_so", [False, True])
def test_an_owner_that_is_due_again_is_checked_again(timers: Timers, deadlines: Deadlines, says_so: bool) -> None:
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


def test_an_owner_moved_during_a_run_is_checked_at_its_new_time(timers: Timers, deadlines: Deadlines) -> None:
    other = Owner(1020)

    def move(owner: Owner) -> None:
        other.due = 1008
        deadlines.schedule(other)

    deadlines.schedule(Owner(1005, move))
    deadlines.schedule(other)
    timers.advance(100)
    assert other.checks == [1008 + RESOLUTION]


def test_an_owner_moved_into_a_bucket_that_a_check_has_emptied_is_checked(timers: Timers, deadlines: Deadlines) -> None:
    moved = Owner(1020)

    def act(owner: Owner) -> None:
        for each in owners:
            deadlines.cancel(each)
        moved.due = 1005
        deadlines.schedule(moved)

    owners = [Owner(1005, act) for _ in range(2)]
    for owner in (*owners, moved):
        deadlines.schedule(owner)
    timers.advance(100)
    assert sorted(owner.checks for owner in owners) == [[], [1005 + RESOLUTION]]
    assert moved.checks == [1005 + RESOLUTION]
    assert timers.pending == []


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


@pytest.mark.parametrize("loop_name", LOOPS)
def test_deadlines_may_continue_in_another_loop(loop_name: str) -> None:
    """Also if the last one has ended before its timer ran."""
    now = time.monotonic
    deadlines = Deadlines(0.01, 0.02, now, ThrottledLog(now))

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        checked = loop.create_future()
        deadlines.schedule(Owner(now() + 0.03, checked.set_result))
        await within(checked)
        # Its timer never runs.
        second = Owner(now() + 0.005)
        deadlines.schedule(second)
        deadlines.cancel(second)

    for _ in range(3):
        loop = LOOPS[loop_name]()
        loop.run_until_complete(wait())
        loop.close()


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
        patch.setattr("sockjs_tornado.session.deadlines.asyncio", SimpleNamespace(get_running_loop=lambda: timers))
        deadlines = Deadlines(RESOLUTION, math.inf, timers.now, ThrottledLog(timers.now))
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


# A loop that stood still.

#: Seconds after which the timer runs at the latest, and within which a deadline is met.
INTERVAL = 1.0
SOON = INTERVAL + RESOLUTION


class Peer(Owner):
    """Somebody who waits for a peer, and calls it late at the deadline."""

    def __init__(self, deadlines: Deadlines, due: float) -> None:
        super().__init__(due)
        self._deadlines = deadlines

    def check(self, now: float) -> None:
        if not self._deadlines.postpone(self, now):
            super().check(now)


@pytest.fixture
def watchful(timers: Timers) -> Deadlines:
    """Deadlines that notice when the loop stood still."""
    return Deadlines(RESOLUTION, INTERVAL, timers.now, ThrottledLog(timers.now))


def stand_still(timers: Timers, seconds: float) -> None:
    """Let time pass without any timer, and then run the one that is due."""
    timers.time += seconds
    timers.advance(0)


@pytest.mark.parametrize("seconds", [2, 5, 25])
def test_no_client_is_late_for_as_long_as_the_loop_stalled(timers: Timers, watchful: Deadlines, seconds: float) -> None:
    due = 1000 + seconds / 2
    peer = Peer(watchful, due)
    watchful.schedule(peer)
    stand_still(timers, seconds)
    timers.advance(seconds - SOON)
    assert peer.checks == []
    timers.advance(2 * SOON)
    assert len(peer.checks) == 1
    assert timers.pending == []


def test_a_client_whose_data_arrived_meanwhile_is_not_late(timers: Timers, watchful: Deadlines) -> None:
    peer = Peer(watchful, 1005)
    watchful.schedule(peer)
    stand_still(timers, 6)
    timers.advance(1)
    peer.due = 1050.0
    watchful.schedule(peer)
    timers.advance(1050 - timers.time - 1)
    assert peer.checks == []
    timers.advance(1 + SOON)
    assert peer.checks == [1050 + RESOLUTION]


def test_a_stall_that_ends_before_the_deadline_counts_as_well(timers: Timers, watchful: Deadlines) -> None:
    peer = Peer(watchful, 1005)
    watchful.schedule(peer)
    stand_still(timers, 4.9)
    timers.advance(4.9 - SOON)
    assert peer.checks == []
    timers.advance(2 * SOON)
    assert len(peer.checks) == 1


def test_data_that_the_server_has_to_send_is_not_postponed(timers: Timers, watchful: Deadlines) -> None:
    heartbeat = Owner(1005)
    watchful.schedule(heartbeat)
    stand_still(timers, 6)
    assert heartbeat.checks == [1006]


@pytest.mark.parametrize("lag", [0, 0.05, 0.09])
def test_a_timer_that_is_hardly_late_postpones_nothing(timers: Timers, watchful: Deadlines, lag: float) -> None:
    peer = Peer(watchful, 1005)
    watchful.schedule(peer)
    while not peer.checks:
        (timer,) = timers.pending
        stand_still(timers, timer.when + lag - timers.time)
    assert peer.checks[0] <= 1005 + RESOLUTION + lag


def test_a_loop_that_stands_still_once_more_prolongs_the_grace_period(timers: Timers, watchful: Deadlines) -> None:
    peer = Peer(watchful, 1001)
    watchful.schedule(peer)
    stand_still(timers, 3)
    timers.advance(1)
    stand_still(timers, 10)
    timers.advance(10 - SOON)
    assert peer.checks == []
    timers.advance(2 * SOON)
    assert len(peer.checks) == 1


def test_a_grace_period_has_a_longest_time(timers: Timers, watchful: Deadlines) -> None:
    peer = Peer(watchful, 1005)
    watchful.schedule(peer)
    stand_still(timers, 10_000)
    timers.advance(MAX_GRACE - 1)
    assert peer.checks == []
    timers.advance(1 + SOON)
    assert len(peer.checks) == 1


@pytest.mark.parametrize("lag", [0.2, 3])
def test_constant_overload_postpones_no_deadline_for_ever(timers: Timers, watchful: Deadlines, lag: float) -> None:
    peers = [Peer(watchful, 1000.0 + 7 * number) for number in range(20)]
    for peer in peers:
        watchful.schedule(peer)
    while timers.pending:
        (timer,) = timers.pending
        stand_still(timers, timer.when + lag - timers.time)
    for number, peer in enumerate(peers):
        (checked,) = peer.checks
        assert checked - (1000 + 7 * number) <= MAX_GRACE + 2 * (lag + SOON)


def test_the_end_of_a_grace_period_is_for_all_even_if_it_takes_long(timers: Timers, watchful: Deadlines) -> None:
    class Slow(Peer):
        def check(self, now: float) -> None:
            super().check(now)
            if self.checks:
                timers.time += 0.001

    peers = [Slow(watchful, 1005) for _ in range(5 * BATCH_SIZE)]
    for peer in peers:
        watchful.schedule(peer)
    stand_still(timers, 10)
    timers.advance(10 + 2 * SOON)
    assert all(len(peer.checks) == 1 for peer in peers)
    # A stall after that is another one.
    late = Peer(watchful, timers.time + 1)
    watchful.schedule(late)
    stand_still(timers, 10)
    timers.advance(10 - SOON)
    assert late.checks == []


def test_it_is_known_for_how_long_the_loop_stood_still(timers: Timers, watchful: Deadlines) -> None:
    assert watchful.stall_duration(timers.time) == 0
    watchful.schedule(Peer(watchful, 1050))
    timers.advance(3)
    assert watchful.stall_duration(timers.time) == 0
    # Before the timer has run, and in the grace period.
    timers.time += 5
    assert 5 <= watchful.stall_duration(timers.time) <= 5 + INTERVAL
    timers.advance(3)
    assert 5 <= watchful.stall_duration(timers.time) <= 5 + INTERVAL
    timers.advance(5)
    assert watchful.stall_duration(timers.time) == 0


def test_the_timer_runs_in_between_for_as_long_as_there_is_a_deadline(timers: Timers, watchful: Deadlines) -> None:
    owner = Owner(1010)
    watchful.schedule(owner)
    timers.advance(20)
    assert owner.checks == [1010 + RESOLUTION]
    assert timers.made == 11
    assert timers.pending == []


# On an event loop.


async def test_deadlines_run_on_the_event_loop() -> None:
    deadlines = Deadlines(0.01, math.inf, time.monotonic, ThrottledLog(time.monotonic))
    met = asyncio.Event()
    due = time.monotonic() + 0.02
    owner = Owner(due, lambda owner: met.set())
    deadlines.schedule(owner)
    await met.wait()
    assert owner.checks[0] >= due
    assert deadlines._timer is None
