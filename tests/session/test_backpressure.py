"""Clients and applications that do not keep up with their messages."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from application import LogWatch, exception_of
from doubles import FakeContainer, KeptSession, Notes, Pause, Receiver, make_session

from sockjs_tornado import SockJSConnection
from sockjs_tornado.protocol import PreparedMessage
from sockjs_tornado.session.inbox import MAX_INBOX_WAITERS
from sockjs_tornado.session.outbox import HIGH_WATER
from sockjs_tornado.session.session import Session, SessionState

from .receivers import DISCONNECT_DELAY, POLL, echo, poll, polled, stream

SLOW = (3008, "Slow consumer")


def stalled(container: FakeContainer, unsent: int = 0, **options: Any) -> tuple[KeptSession, Receiver]:
    """Return a session whose client reads no more, and its receiver."""
    session = make_session(container, **options)
    receiver = Receiver(session).attach()
    session._pause_sending(receiver)
    receiver.unsent = unsent
    receiver.take()
    return session, receiver


def drops(count: list[int]) -> dict[str, Callable[..., Any]]:
    return {"on_dropped": lambda conn, dropped: count.append(dropped)}


# At the bound.


def test_too_many_messages_close_the_session(container: FakeContainer) -> None:
    session, receiver = stalled(container, max_queue_messages=10)
    # What is in the buffer counts as one.
    for number in range(9):
        session.send(str(number))
    assert not session.is_closed
    session.send("9")
    assert receiver.frames == [SLOW]
    assert session.connection.calls[-1] == SLOW
    assert session._stats.messages_dropped == 10


def test_unsent_bytes_in_the_socket_s_buffer_count(container: FakeContainer) -> None:
    session, receiver = stalled(container, unsent=900, max_queue_bytes=1000)
    session.send("x" * 100)
    assert not session.is_closed
    session.send("x")
    assert receiver.frames == [SLOW]


def test_one_message_is_no_backlog(container: FakeContainer) -> None:
    session = make_session(container, max_queue_bytes=1000)
    Receiver(session, 1).attach()
    session.send("x" * 5000)
    assert not session.is_closed
    session.send("y")
    assert session.close_code == 3008


def test_a_broadcast_counts_like_any_message(container: FakeContainer) -> None:
    session, receiver = stalled(container, max_queue_messages=10)
    for number in range(10):
        session._send_prepared(PreparedMessage(str(number)))
    assert receiver.frames == [SLOW]


def test_messages_sent_within_a_callback_are_no_backlog_if_the_client_reads(container: FakeContainer) -> None:
    acts = {"on_message": lambda conn, message: [conn.send("x") for _ in range(100)]}
    session = make_session(container, max_queue_messages=10, acts=acts)
    receiver = Receiver(session).attach()
    session._receive(["go"])
    assert not session.is_closed
    assert sum(len(frame) for frame in receiver.take() if isinstance(frame, list)) == 100


def test_no_heartbeat_is_put_behind_what_is_not_taken(container: FakeContainer) -> None:
    session, receiver = stalled(container, heartbeat_delay=25)
    container.advance(60)
    assert receiver.take() == []
    receiver.drain()
    container.advance(25)
    assert receiver.take() == ["h"]
    assert not session.is_closed


# A response that is complete for the session, and of which the client has not taken all.


class Response:
    """What is left of a response.

    Attributes:
        unsent: Bytes of it.
        aborted: Whether its connection was closed.
    """

    def __init__(self, unsent: int) -> None:
        self.unsent = unsent
        self.aborted = False

    def abort(self) -> None:
        assert not self.aborted, "aborted twice"
        self.aborted = True


def answered(container: FakeContainer, unsent: int, **options: Any) -> tuple[KeptSession, Response]:
    """Return a session between two polls, and what its client has not taken of the answer to the first one."""
    session = make_session(container, **options)
    Receiver(session, 1).attach()
    response = Response(unsent)
    session._track_unsent_response(response)
    return session, response


def test_of_two_unsent_responses_the_first_one_counts(container: FakeContainer) -> None:
    """The second one cannot be read before it."""
    session, response = answered(container, 900, max_queue_bytes=1000)
    session._track_unsent_response(Response(100))
    session.send("x" * 101)
    assert session.close_code == 3008
    assert response.aborted


def test_the_unsent_rest_of_a_response_counts(container: FakeContainer) -> None:
    session, response = answered(container, 900, max_queue_bytes=1000)
    session.send("x" * 100)
    assert not session.is_closed
    response.unsent = 800
    session.send("x" * 100)
    assert not session.is_closed
    session.send("x")
    assert (session.close_code, session.close_reason) == SLOW
    assert response.aborted
    assert session._stats.messages_dropped == 3


def test_the_unsent_rest_of_a_response_counts_as_a_message(container: FakeContainer) -> None:
    session, response = answered(container, 1, max_queue_messages=10)
    for number in range(9):
        session.send(str(number))
    assert not session.is_closed
    session.send("9")
    assert session.close_code == 3008
    assert response.aborted


def test_messages_are_dropped_behind_what_is_left_of_a_response(container: FakeContainer) -> None:
    told: list[int] = []
    session, response = answered(container, 1000, max_queue_bytes=1000, slow_consumer="drop_oldest", acts=drops(told))
    session.send("old")
    assert told == [1]
    response.unsent = 0
    session.send("new")
    assert Receiver(session, 1).attach().frames == [["new"]]
    assert not response.aborted


def test_a_response_that_was_taken_counts_for_nothing(container: FakeContainer) -> None:
    session, response = answered(container, 1000, max_queue_bytes=1000, max_queue_messages=2)
    response.unsent = 0
    session.send("x")
    session.send("x" * 900)
    assert not session.is_closed
    assert Receiver(session, 1).attach().frames == [["x", "x" * 900]]


@pytest.mark.parametrize("unsent", [1, 10**6])
def test_a_request_before_the_last_response_was_sent_has_lost_messages(container: FakeContainer, unsent: int) -> None:
    session, response = answered(container, unsent)
    session.send("behind it")
    assert Receiver(session, 1).attach().frames == [(1002, "Connection interrupted")]
    assert session.connection.calls[-1] == (1002, "Connection interrupted")
    assert response.aborted
    assert session._stats.messages_dropped == 1
    # It stays so.
    assert Receiver(session, 1).attach().frames == [(1002, "Connection interrupted")]


def test_requests_of_other_clients_do_not_end_a_session(container: FakeContainer) -> None:
    session, response = answered(container, 1)
    stranger = Receiver(session, 1).attach("198.51.100.7")
    assert stranger.frames == [(1008, "Session was opened from another address")]
    assert not session.is_closed
    assert not response.aborted


def test_a_client_that_takes_a_long_response_is_not_late(container: FakeContainer) -> None:
    session, response = answered(container, 10, disconnect_delay=5)
    for left in range(9, -1, -1):
        response.unsent = left
        container.advance(5)
        assert not session.is_closed
    # From the end of it on, it has as long as ever.
    container.advance(4.9)
    assert not session.is_closed
    container.advance(0.2)
    assert session.close_code == 1006
    assert not response.aborted
    assert container.removed == [session]


def test_a_client_that_takes_nothing_is_late(container: FakeContainer) -> None:
    session, response = answered(container, 10, disconnect_delay=5)
    response.unsent = 9
    container.advance(5)
    assert not session.is_closed
    container.advance(5)
    assert session.close_code == 1006
    assert response.aborted
    assert container.removed == [session]


def test_the_last_response_of_a_closed_session_has_its_time_too(container: FakeContainer) -> None:
    session, response = answered(container, 10, disconnect_delay=5)
    session.close(3000, "bye")
    assert not response.aborted
    response.unsent = 9
    container.advance(5)
    assert not container.removed
    container.advance(5)
    assert container.removed == [session]
    assert response.aborted


def test_a_request_before_the_last_response_was_sent_gets_the_close_frame(container: FakeContainer) -> None:
    session, response = answered(container, 10)
    session.close(3000, "bye")
    assert Receiver(session, 1).attach().frames == [(3000, "bye")]
    assert response.aborted


# Losing messages in place of the client.


def test_the_oldest_messages_are_dropped_and_the_application_is_notified(container: FakeContainer) -> None:
    told: list[int] = []
    session, receiver = stalled(container, max_queue_messages=5, slow_consumer="drop_oldest", acts=drops(told))
    for number in range(10):
        session.send(str(number))
    assert told == [1] * 6
    assert session._stats.messages_dropped == 6
    receiver.drain()
    assert receiver.take() == [["6", "7", "8", "9"]]


def test_as_much_is_dropped_as_a_big_message_needs(container: FakeContainer) -> None:
    told: list[int] = []
    session, receiver = stalled(container, max_queue_bytes=100, slow_consumer="drop_oldest", acts=drops(told))
    for number in range(10):
        session.send(str(number) * 10)
    session.send("x" * 75)
    assert told == [8]
    receiver.drain()
    assert receiver.take() == [["8" * 10, "9" * 10, "x" * 75]]
    # The sizes of what is left were kept right.
    assert not session._outbox_above_high_water


def test_a_message_that_finds_no_room_at_all_is_dropped_itself(container: FakeContainer) -> None:
    told: list[int] = []
    session, receiver = stalled(
        container, unsent=100, max_queue_bytes=100, slow_consumer="drop_oldest", acts=drops(told)
    )
    session.send("x")
    assert told == [1]
    receiver.drain()
    assert receiver.take() == []


def test_drops_within_a_callback_are_reported_together_after_it(container: FakeContainer) -> None:
    heard: list[Any] = []

    def act(conn: Notes, message: str) -> None:
        for number in range(10):
            conn.send(str(number))
        heard.append("done")

    session, _ = stalled(
        container,
        max_queue_messages=5,
        slow_consumer="drop_oldest",
        acts={"on_message": act, "on_dropped": lambda conn, count: heard.append(count)},
    )
    session._receive(["go"])
    assert heard == ["done", 6]


def test_messages_dropped_by_on_dropped_are_reported_with_the_next_loss(container: FakeContainer) -> None:
    told: list[int] = []

    def tell(conn: Notes, count: int) -> None:
        told.append(count)
        conn.send("you have missed something")

    session, _ = stalled(container, max_queue_messages=5, slow_consumer="drop_oldest", acts={"on_dropped": tell})
    for number in range(5):
        session.send(str(number))
    assert told == [1]
    session.send("5")
    assert told == [1, 2]
    session.connection.close()
    assert session.is_closed


def test_a_slow_on_dropped_is_awaited(container: FakeContainer) -> None:
    heard: list[Any] = []
    go_on: list[bool] = []

    class Turn:
        def __await__(self) -> Any:
            while not go_on:
                yield

    async def tell(conn: Notes, count: int) -> None:
        heard.append(count)
        await Turn()
        heard.append("told")

    session, _ = stalled(
        container,
        max_queue_messages=2,
        slow_consumer="drop_oldest",
        acts={"on_dropped": tell, "on_message": lambda conn, message: heard.append(message)},
    )
    for number in range(4):
        session.send(str(number))
    container.turn()
    session._receive(["later"])
    container.turn()
    assert heard == [1]
    go_on.append(True)
    container.turn()
    assert heard == [1, "told", "later"]
    session.send("x")
    container.turn()
    # Two were dropped while it was being told, and one since.
    assert heard[3:] == [3, "told"]


def test_a_failing_on_dropped_closes_the_session(container: FakeContainer, logged: LogWatch) -> None:
    def fail(conn: Notes, count: int) -> None:
        raise LookupError

    session, _ = stalled(container, max_queue_messages=1, slow_consumer="drop_oldest", acts={"on_dropped": fail})
    session.send("x")
    assert type(exception_of(logged.take("on_dropped of"))) is LookupError
    assert session.close_code == 1011


def test_the_application_may_decide(container: FakeContainer) -> None:
    verdicts = iter(["drop_oldest", "close"])
    asked: list[SockJSConnection] = []

    def decide(conn: SockJSConnection) -> str:
        asked.append(conn)
        conn.send("this, too, finds no room, and does not ask again")
        return next(verdicts)

    session, receiver = stalled(container, max_queue_messages=2, slow_consumer=decide)
    session.send("1")
    session.send("2")
    assert asked == [session.connection]
    assert not session.is_closed
    session.send("3")
    assert receiver.frames == [SLOW]


@pytest.mark.parametrize("verdict", [None, "drop", LookupError])
def test_a_wrong_decision_is_logged_and_closes(container: FakeContainer, logged: LogWatch, verdict: Any) -> None:
    def decide(conn: SockJSConnection) -> Any:
        if verdict is LookupError:
            raise LookupError
        return verdict

    session, receiver = stalled(container, max_queue_messages=2, slow_consumer=decide)
    session.send("1")
    session.send("2")
    logged.take("slow_consumer failed for")
    assert receiver.frames == [SLOW]


def test_the_application_may_close_instead_of_deciding(container: FakeContainer) -> None:
    def decide(conn: SockJSConnection) -> str:
        conn.close(4000, "Too slow")
        return "drop_oldest"

    session, receiver = stalled(container, max_queue_messages=2, slow_consumer=decide)
    session.send("1")
    session.send("2")
    assert receiver.frames[-1] == (4000, "Too slow")
    assert session._stats.messages_dropped == 0


@pytest.mark.parametrize(
    ("options", "messages"), [({"max_queue_messages": 10}, ["x"] * 5), ({"max_queue_bytes": 100}, ["x" * 51])]
)
def test_an_awaited_send_waits_from_half_of_the_bound_on(
    container: FakeContainer, options: dict[str, Any], messages: list[str]
) -> None:
    session = make_session(container, **options)
    Receiver(session, 1).attach()
    for message in messages:
        assert not session._outbox_above_high_water
        session.send(message)
    if "max_queue_messages" in options:
        session.send("one more")
    assert session._outbox_above_high_water


# A client that is too fast.


def test_a_client_may_send_so_many_a_second(container: FakeContainer) -> None:
    session = make_session(container, max_inbound_rate=(1, 3))
    Receiver(session).attach()
    assert session._consume_rate_limit(3)
    assert not session._consume_rate_limit(1)
    assert session._stats.rejected == {"max_inbound_rate": 1}
    container.time += 1
    assert session._consume_rate_limit(1)


def test_a_rate_alone_lets_as_many_come_at_once(container: FakeContainer) -> None:
    session = make_session(container, max_inbound_rate=5)
    Receiver(session).attach()
    assert session._consume_rate_limit(5)
    assert not session._consume_rate_limit(1)


def test_an_empty_request_counts_too(container: FakeContainer) -> None:
    session = make_session(container, max_inbound_rate=2)
    Receiver(session).attach()
    assert [session._consume_rate_limit(0) for _ in range(3)] == [True, True, False]


def test_a_closed_session_rejects_no_requester(container: FakeContainer) -> None:
    session = make_session(container, max_inbound_rate=1)
    Receiver(session).attach()
    session.close()
    assert session._consume_rate_limit(100)


async def test_waiters_for_the_application_are_woken_on_close(container: FakeContainer) -> None:
    async def for_ever(conn: Notes, message: str) -> None:
        await asyncio.Event().wait()

    session = make_session(container, acts={"on_message": for_ever}, max_queue_bytes=1000)
    receiver = Receiver(session).attach()
    session._receive(["first"])
    session._receive(["x" * 600])
    assert session._inbox_above_high_water
    assert not receiver.reading
    let_go: list[int] = []
    held = [lambda number=number: let_go.append(number) for number in range(MAX_INBOX_WAITERS + 1)]
    assert [session._add_inbox_waiter(callback) for callback in held] == [True] * MAX_INBOX_WAITERS + [False]
    session._remove_inbox_waiter(held[0])
    session.close()
    assert let_go == [1, 2, 3]
    assert not session._inbox_above_high_water
    for coroutine in container._running:
        coroutine.close()


def test_waiters_are_woken_while_there_is_room(container: FakeContainer) -> None:
    session, receiver = stalled(container)
    went: list[int] = []

    def first() -> None:
        went.append(1)
        session._pause_sending(receiver)

    session._add_outbox_waiter(first)
    session._add_outbox_waiter(lambda: went.append(2))
    receiver.drain()
    assert went == [1]
    receiver.drain()
    assert went == [1, 2]


async def test_on_dropped_runs_between_two_messages(container: FakeContainer) -> None:
    heard: list[Any] = []

    async def act(conn: Notes, message: str) -> None:
        heard.append(message)
        await Pause()
        for number in range(5):
            conn.send(str(number))

    session, _ = stalled(
        container,
        max_queue_messages=2,
        slow_consumer="drop_oldest",
        acts={"on_message": act, "on_dropped": lambda conn, count: heard.append(count)},
    )
    session._receive(["a", "b", "c"])
    while not container.is_idle:
        container.turn()
    assert heard == ["a", 4, "b", 5, "c", 5]


def test_the_old_way_to_send_goes_nowhere_after_the_end(container: FakeContainer) -> None:
    session = make_session(container)
    receiver = Receiver(session).attach()
    session.close()
    container.advance(1000)
    assert session.conn is None
    receiver.take()
    session.send_message("x")
    assert receiver.take() == []


# A client that does not keep up.


def test_messages_wait_while_the_receiver_is_paused(container: FakeContainer) -> None:
    session = make_session(container)
    receiver = stream(session)
    receiver.full = True
    for message in "1234":
        session.send(message)
    assert receiver.take() == [["1"]]
    receiver.drain()
    assert receiver.take() == [["2", "3", "4"]]
    session.send("5")
    assert receiver.take() == [["5"]]


def test_a_reply_waits_while_the_receiver_is_paused(container: FakeContainer) -> None:
    session = make_session(container, acts={"on_message": echo})
    receiver = stream(session)
    session._pause_sending(receiver)
    session._receive(["1", "2"])
    assert receiver.frames == []
    session._receive(["3"])
    receiver.drain()
    assert receiver.frames == [["1", "2", "3"]]


def test_a_pause_ends_with_its_receiver(container: FakeContainer) -> None:
    session = make_session(container)
    first = stream(session)
    session._pause_sending(first)
    session.send("1")
    session._detach(first)
    assert not session._outbox_above_high_water
    second = stream(session, POLL)
    session.send("2")
    assert poll(session) == [["2"]]
    assert second.ended


def test_a_client_is_congested_above_the_mark(container: FakeContainer) -> None:
    session = polled(container)
    session.send("x" * HIGH_WATER)
    assert not session._outbox_above_high_water
    session.send("x")
    assert session._outbox_above_high_water
    poll(session)
    assert not session._outbox_above_high_water


def test_a_client_is_congested_while_its_receiver_is_paused(container: FakeContainer) -> None:
    session = make_session(container)
    receiver = stream(session)
    assert not session._outbox_above_high_water
    session._pause_sending(receiver)
    assert session._outbox_above_high_water
    session._resume_sending(receiver)
    assert not session._outbox_above_high_water


def congest_paused(session: Session, receiver: Receiver) -> None:
    session._pause_sending(receiver)


def congest_queued(session: Session, receiver: Receiver) -> None:
    session._detach(receiver)
    session.send("x" * (HIGH_WATER + 1))


@pytest.mark.parametrize(
    ("congest", "relieve"),
    [
        (congest_paused, lambda session, receiver: receiver.drain()),
        (congest_paused, lambda session, receiver: session._detach(receiver)),
        (congest_paused, lambda session, receiver: receiver.cut()),
        (congest_paused, lambda session, receiver: session.close()),
        (congest_queued, lambda session, receiver: poll(session)),
        (congest_queued, lambda session, receiver: stream(session)),
        (congest_queued, lambda session, receiver: session.close()),
        (congest_queued, lambda session, receiver: session.server.container.advance(DISCONNECT_DELAY)),
    ],
)
def test_a_waiter_is_woken_once_when_the_client_keeps_up_or_is_gone(
    container: FakeContainer, congest: Callable[[Session, Receiver], None], relieve: Callable[[Session, Receiver], None]
) -> None:
    session = make_session(container)
    receiver = stream(session)
    congest(session, receiver)
    woken = []
    session._add_outbox_waiter(lambda: woken.append(1))
    session._add_outbox_waiter(lambda: woken.append(2))
    assert woken == []
    assert session._outbox_above_high_water
    relieve(session, receiver)
    assert woken == [1, 2]
    session.close()
    poll(session)
    assert woken == [1, 2]


@pytest.mark.parametrize("session_id", ["secret-id", None])
def test_a_client_that_does_not_read_is_closed_at_the_bound(container: FakeContainer, session_id: str | None) -> None:
    session = make_session(container, session_id, max_queue_bytes=100)
    receiver = Receiver(session).attach()
    receiver.full = True
    session.send("fills the buffer")
    session.send("x" * 50)
    session.send("x" * 50)
    assert session.state is SessionState.OPEN
    session.send("x")
    assert (session.state, session.close_code, session.close_reason) == (SessionState.CLOSING, 3008, "Slow consumer")
    assert receiver.take()[-2:] == [["fills the buffer"], (3008, "Slow consumer")]


def test_a_client_that_does_not_poll_is_closed_at_the_bound(container: FakeContainer) -> None:
    session = make_session(container, max_queue_bytes=100)
    Receiver(session, 1).attach()
    session.send("x" * 101)
    assert not session.is_closed  # one message is no pile
    session.send("x")
    assert session.close_code == 3008
    assert Receiver(session, 1).attach().take() == [(3008, "Slow consumer")]


def test_a_client_that_does_not_read_is_aborted(container: FakeContainer) -> None:
    session = make_session(container, acts={"on_message": lambda conn, message: Pause()}, max_queue_bytes=100)
    receiver = stream(session)
    session._receive(["1", "2"])
    session._pause_sending(receiver)
    for _ in range(2):
        session.send("x" * 51)
    assert receiver.frames == [(3008, "Slow consumer")]
    assert poll(session) == [(3008, "Slow consumer")]
    while not container.is_idle:
        container.turn()
    assert session.connection.calls == ["open", "1", (3008, "Slow consumer")]


def test_an_application_is_overrun_above_the_bound(container: FakeContainer) -> None:
    session = polled(container, acts={"on_message": lambda conn, message: Pause()}, max_queue_bytes=100)
    session._receive(["1", "x" * 36])  # and a share of 64 for the message
    assert not session._inbox_full
    session._receive([""])
    assert session._inbox_full
    while not container.is_idle:
        container.turn()
    assert not session._inbox_full


def test_messages_that_are_only_batched_do_not_close_the_session(container: FakeContainer) -> None:
    def much(conn: Notes, message: str) -> None:
        for _ in range(3):
            conn.send("x" * 60)

    session = make_session(container, acts={"on_message": much}, max_queue_bytes=100)
    receiver = Receiver(session).attach()
    receiver.take()
    session._receive(["go"])
    assert session.state is SessionState.OPEN
    assert [message for frame in receiver.take() for message in frame] == ["x" * 60] * 3


def test_reading_stops_while_the_application_falls_behind(container: FakeContainer) -> None:
    def wait(conn: Notes, message: str) -> Pause:
        return Pause()

    session = make_session(container, None, acts={"on_message": wait}, max_queue_bytes=2 * HIGH_WATER)
    receiver = Receiver(session).attach()
    session._receive(["first", "x" * HIGH_WATER])
    assert not receiver.reading
    assert not session._inbox_full
    session._receive(["x" * HIGH_WATER])
    assert session._inbox_full
    while not receiver.reading:
        container.turn()
    assert not session._inbox_full


def test_an_application_may_catch_up_while_no_receiver_is_attached(container: FakeContainer) -> None:
    session = make_session(container, acts={"on_message": lambda conn, message: Pause()})
    poll(session)
    session._receive(["1", "x" * HIGH_WATER])
    while not container.is_idle:
        container.turn()
    assert session.connection.calls == ["open", "1", "x" * HIGH_WATER]


def test_a_removed_waiter_is_not_woken(container: FakeContainer) -> None:
    session = make_session(container)
    receiver = stream(session)
    session._pause_sending(receiver)
    woken: list[int] = []
    callbacks = [lambda: woken.append(1), lambda: woken.append(2)]
    for callback in callbacks:
        session._add_outbox_waiter(callback)
    session._remove_outbox_waiter(callbacks[0])
    session._remove_outbox_waiter(callbacks[0])
    receiver.drain()
    assert woken == [2]
    session._remove_outbox_waiter(callbacks[1])
    assert woken == [2]


def test_a_waiter_waits_on_while_the_buffer_fills_up_again(container: FakeContainer) -> None:
    session = make_session(container)
    receiver = stream(session)
    session._pause_sending(receiver)
    session.send("1")
    woken = []
    session._add_outbox_waiter(lambda: woken.append(1))
    receiver.full = True
    session._resume_sending(receiver)
    assert receiver.frames == [["1"]]
    assert woken == []
    receiver.drain()
    assert woken == [1]
