import pytest

from sockjs_tornado.session.ended import ENDED_TIME, MAX_ENDED, MAX_ENDED_SIZE, Ended, EndedSessions

GONE = Ended(3000, "Go away!", "192.0.2.1", 0)


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> EndedSessions:
    return EndedSessions(clock)


def test_a_session_is_remembered_for_a_while(sessions: EndedSessions, clock: Clock) -> None:
    assert sessions.get("a") is None
    sessions.add("a", GONE)
    clock.time += ENDED_TIME - 0.1
    assert sessions.get("a") == GONE
    assert sessions.get("b") is None
    clock.time += 0.1
    assert sessions.get("a") is None


def test_expired_sessions_are_removed_with_the_next_one(sessions: EndedSessions, clock: Clock) -> None:
    for number in range(100):
        sessions.add(str(number), GONE)
        clock.time += 1
    assert len(sessions) == ENDED_TIME
    clock.time += ENDED_TIME
    sessions.add("last", GONE)
    assert len(sessions) == 1
    assert sessions._size == len("last") + len(GONE.reason)


def test_a_session_that_ends_once_more_is_remembered_from_then_on(sessions: EndedSessions, clock: Clock) -> None:
    again = GONE._replace(code=3001)
    sessions.add("a", GONE)
    sessions.add("b", GONE)
    clock.time += ENDED_TIME - 1
    sessions.add("a", again)
    clock.time += 1
    sessions.add("c", GONE)
    assert (sessions.get("a"), sessions.get("b"), len(sessions)) == (again, None, 2)


def test_a_session_may_be_forgotten(sessions: EndedSessions) -> None:
    sessions.add("a", GONE)
    sessions.discard("a")
    sessions.discard("a")
    assert sessions.get("a") is None
    assert (len(sessions), sessions._size) == (0, 0)


def test_the_oldest_of_too_many_are_forgotten(sessions: EndedSessions) -> None:
    for number in range(MAX_ENDED + 10):
        sessions.add(str(number), GONE)
    assert len(sessions) == MAX_ENDED
    assert sessions.get("9") is None
    assert sessions.get("10") == GONE


def test_the_oldest_are_forgotten_for_their_size(sessions: EndedSessions) -> None:
    long = GONE._replace(reason="x" * (MAX_ENDED_SIZE // 10))
    for number in range(20):
        sessions.add(str(number), long)
    assert len(sessions) == 9
    assert sessions.get("10") is None
    assert sessions.get("11") == long
    # What is too big alone is not remembered at all, and takes the others with it.
    sessions.add("big", GONE._replace(reason="x" * MAX_ENDED_SIZE))
    assert (len(sessions), sessions._size) == (0, 0)
