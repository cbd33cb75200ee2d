from hypothesis import given
from hypothesis import strategies as st

from sockjs_tornado.session.inbox import RateLimit


def test_a_burst_is_let_through_and_then_the_rate() -> None:
    limit = RateLimit(10, 3, 100.0)
    assert [limit.consume(1, 100.0) for _ in range(4)] == [True, True, True, False]
    assert not limit.consume(1, 100.0625)
    assert limit.consume(1, 100.125)
    assert not limit.consume(1, 100.125)


def test_a_rejected_request_costs_no_token() -> None:
    limit = RateLimit(1, 5, 0.0)
    assert not limit.consume(6, 0.0)
    assert limit.consume(5, 0.0)


def test_a_long_silence_saves_up_no_more_than_a_burst() -> None:
    limit = RateLimit(10, 3, 0.0)
    assert limit.consume(3, 0.0)
    assert not limit.consume(4, 1000.0)
    assert limit.consume(3, 1000.0)


def test_messages_sent_while_reading_was_paused_may_arrive_at_once() -> None:
    for stall, fits in ((2.9, False), (3.0, True)):
        limit = RateLimit(10, 3, 0.0)
        assert limit.consume(3, 0.0)
        assert limit.consume(33, 5.0, stall) is fits
    assert not limit.consume(1, 5.0, stall=3.0)
    # It saves up nothing beyond that time.
    assert not limit.consume(4, 1000.0)


@given(
    st.integers(1, 100),
    st.integers(1, 100),
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from([0, 0.125, 1, 60]))),
)
def test_never_more_than_the_burst_and_the_rate(rate: int, burst: int, events: list[tuple[int, float]]) -> None:
    limit, now, taken = RateLimit(rate, burst, 0.0), 0.0, 0
    for count, later in events:
        now += later
        if limit.consume(count, now):
            taken += count
        assert taken <= burst + rate * now
