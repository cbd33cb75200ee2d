"""Closing a session, and all sessions of a router."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from doubles import FakeContainer, Notes, Pause, Receiver, make_session

from sockjs_tornado.session.session import Session
from sockjs_tornado.session.states import RouterState

from .receivers import (
    DISCONNECT_DELAY,
    GO_AWAY,
    INTERRUPTED,
    POLL,
    STREAM,
    everything_of,
    poll,
    polled,
    stream,
)

# Closing.


def test_a_stream_gets_what_was_sent_and_then_the_close_frame(container: FakeContainer) -> None:
    session = make_session(container)
    receiver = stream(session)
    session._pause_sending(receiver)
    session.send("1")
    session.send("2")
    session.close(3001, "Enough")
    session.send("lost")
    assert receiver.frames == [["1", "2"], (3001, "Enough")]
    assert (session.close_code, session.close_reason) == (3001, "Enough")


def test_a_poll_gets_the_messages_and_the_next_poll_the_close_frame(container: FakeContainer) -> None:
    session = polled(container)
    session.send("1")
    session.send("2")
    session.close()
    assert poll(session) == [["1", "2"]]
    assert poll(session) == [GO_AWAY]
    assert poll(session) == [GO_AWAY]


def test_a_stream_that_comes_after_the_close_gets_both(container: FakeContainer) -> None:
    session = polled(container)
    session.send("1")
    session.close()
    assert Receiver(session).attach().frames == [["1"], GO_AWAY]


def test_a_held_poll_gets_the_close_frame(container: FakeContainer) -> None:
    session = polled(container)
    receiver = Receiver(session, POLL).attach()
    session.close()
    assert receiver.frames == [GO_AWAY]


def test_a_close_within_a_batch_lets_a_held_poll_have_the_reply(container: FakeContainer) -> None:
    def answer(conn: Notes, message: str) -> None:
        conn.send("bye")
        conn.close()
        conn.send("lost")

    session = make_session(container, acts={"on_message": answer})
    poll(session)
    receiver = Receiver(session, POLL).attach()
    session._receive(["1", "2"])
    assert receiver.frames == [["bye"]]
    assert poll(session) == [GO_AWAY]
    assert session.connection.calls == ["open", "1", GO_AWAY]


def test_a_closed_session_sends_every_receiver_the_close_frame_until_it_is_removed(container: FakeContainer) -> None:
    session = make_session(container)
    stream(session)
    session.close()
    container.advance(DISCONNECT_DELAY - 0.001)
    assert poll(session) == [GO_AWAY]
    assert Receiver(session).attach().frames == [GO_AWAY]
    assert container.removed == []
    container.advance(0.001)
    assert container.removed == [session]
    assert container.due == math.inf


def test_a_second_close_keeps_the_first_code_and_reason(container: FakeContainer) -> None:
    session = make_session(container)
    stream(session)
    session.close()
    session.close(4000, "Again")
    assert container.removed == []
    assert poll(session) == [GO_AWAY]


def test_a_client_that_takes_the_last_messages_has_time_to_come_for_the_close_frame(container: FakeContainer) -> None:
    session = polled(container)
    session.send("1")
    session.close()
    container.advance(DISCONNECT_DELAY - 1)
    assert poll(session) == [["1"]]
    container.advance(DISCONNECT_DELAY - 1)
    assert poll(session) == [GO_AWAY]


@pytest.mark.parametrize("limit", [POLL, STREAM])
def test_close_within_on_open(container: FakeContainer, limit: float) -> None:
    def reject(conn: Notes, info: Any) -> None:
        conn.send("sorry")
        conn.close(3001, "Full")
        conn.send("lost")

    session = make_session(container, acts={"on_open": reject})
    frames = Receiver(session, limit).attach().frames
    while (3001, "Full") not in frames:
        frames += poll(session)
    assert frames == ["o", ["sorry"], (3001, "Full")]
    assert session.connection.calls == ["open", (3001, "Full")]


def test_close_within_on_close_does_nothing_more(container: FakeContainer) -> None:
    session = make_session(container, acts={"on_close": lambda conn: conn.close(3001, "Again")})
    receiver = stream(session)
    session.close()
    assert receiver.frames == [GO_AWAY]
    assert session.connection.calls == ["open", GO_AWAY]
    assert session.connection.close_code == 3000


def test_send_within_on_close_goes_nowhere(container: FakeContainer) -> None:
    session = make_session(container, acts={"on_close": lambda conn: conn.send("lost")})
    receiver = stream(session)
    session.close()
    assert receiver.frames == [GO_AWAY]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2010, 2999, 5000, 9000, 65535])
def test_a_sockjs_close_frame_contains_any_code(container: FakeContainer, code: int) -> None:
    session = make_session(container)
    receiver = stream(session)
    session.close(code, "Enough")
    assert receiver.frames == [(code, "Enough")]
    assert (session.close_code, session.close_reason) == (code, "Enough")


def test_the_reason_has_the_name_of_1_0_too(container: FakeContainer) -> None:
    session = make_session(container)
    receiver = stream(session)
    session.close(code=4000, message="Enough")
    assert receiver.frames == [(4000, "Enough")]


WRONG_CLOSES = [
    (-1, "No", ValueError, "close code: expected 0-65535, got -1"),
    (65536, "No", ValueError, "close code: expected 0-65535, got 65536"),
    (3000.0, "No", TypeError, "close code must be int, not float"),
    ("3000", "No", TypeError, "close code must be int, not str"),
    (None, "No", TypeError, "close code must be int, not NoneType"),
    (True, "No", TypeError, "close code must be int, not bool"),
    (3000, None, TypeError, "close reason must be str, not NoneType"),
    (3000, b"No", TypeError, "close reason must be str, not bytes"),
]


@pytest.mark.parametrize(("code", "reason", "error", "text"), WRONG_CLOSES)
def test_wrong_arguments_of_close_disconnect_the_client_and_raise(
    container: FakeContainer, code: Any, reason: Any, error: type[Exception], text: str
) -> None:
    session = make_session(container)
    receiver = stream(session)
    with pytest.raises(error, match=f"^{text}$"):
        session.close(code, reason)
    assert receiver.frames == [(1011, "Internal error")]
    # Then the session is closed already.
    known = everything_of(session)
    with pytest.raises(error, match=f"^{text}$"):
        session.close(code, reason)
    assert everything_of(session) == known


def expire(session: Session, receiver: Receiver) -> None:
    session._detach(receiver)
    session.server.container.advance(1000)


def be_noticed(session: Session, receiver: Receiver) -> None:
    receiver.gone = True
    poll(session)


def shut_down(session: Session, receiver: Receiver) -> None:
    session.server.container.state = RouterState.CLOSING
    session.close()


ENDINGS: list[Callable[[Session, Receiver], None]] = [
    lambda session, receiver: session.close(),
    lambda session, receiver: receiver.cut(),
    lambda session, receiver: receiver.cut(1000, "Bye"),
    expire,
    be_noticed,
    shut_down,
]


@pytest.mark.parametrize("session_id", ["secret-id", None])
@pytest.mark.parametrize("first", ENDINGS)
def test_on_close_runs_exactly_once(session_id: str | None, first: Callable[[Session, Receiver], None]) -> None:
    for second in ENDINGS:
        container = FakeContainer()
        session = make_session(container, session_id)
        receiver = stream(session)
        session._receive(["1"])
        first(session, receiver)
        code, reason = session.close_code, session.close_reason
        assert code is not None
        second(session, receiver)
        receiver.cut()
        container.advance(1000)
        assert session.connection.calls == ["open", "1", (code, reason)]
        assert container.removed == [session]


def test_messages_after_a_close_are_dropped_even_if_the_client_has_left(
    container: FakeContainer,
) -> None:
    async def work(conn: Notes, message: str) -> None:
        await Pause()
        conn.close()

    session = make_session(container, acts={"on_message": work})
    receiver = stream(session)
    session._receive(["1", "2"])
    receiver.cut()
    container.turn()
    assert session.connection.calls == ["open", "1", INTERRUPTED]


# The end of all sessions.


def test_on_shutdown_a_session_with_a_receiver_gets_the_close_frame_and_is_released(container: FakeContainer) -> None:
    session = polled(container)
    receiver = Receiver(session, POLL).attach()
    container.state = RouterState.CLOSING
    session.close(1001, "Restart")
    assert receiver.frames == [(1001, "Restart")]
    assert container.removed == [session]
    assert session.connection.calls == ["open", (1001, "Restart")]


def test_on_shutdown_a_client_between_two_polls_has_time_to_poll(container: FakeContainer) -> None:
    session = polled(container)
    session.send("1")
    container.state = RouterState.CLOSING
    session.close()
    assert poll(session) == [["1"]]
    assert container.removed == []
    assert poll(session) == [GO_AWAY]
    assert container.removed == [session]


def test_on_shutdown_a_client_that_does_not_poll_times_out(container: FakeContainer) -> None:
    session = polled(container)
    container.state = RouterState.CLOSING
    session.close()
    container.advance(DISCONNECT_DELAY - 0.001)
    assert container.removed == []
    container.advance(0.001)
    assert container.removed == [session]
    assert session.connection.calls == ["open", GO_AWAY]


def test_on_shutdown_a_stale_receiver_takes_no_close_frame(container: FakeContainer) -> None:
    session = make_session(container)
    first = Receiver(session, 1).attach()
    container.state = RouterState.CLOSING
    session.close()
    session._receiver_lost(first)
    assert container.removed == []
    assert poll(session) == [GO_AWAY]
    assert container.removed == [session]


@pytest.mark.parametrize("told", [lambda session: (stream(session), session.close()), lambda s: stream(s).cut()])
def test_on_shutdown_a_session_with_a_delivered_close_frame_is_released(
    container: FakeContainer, told: Callable[[Session], Any]
) -> None:
    session = make_session(container)
    told(session)
    assert container.removed == []
    container.state = RouterState.CLOSING
    session.close()
    assert container.removed == [session]


def test_on_shutdown_a_session_without_a_delivered_close_frame_is_kept(container: FakeContainer) -> None:
    session = polled(container)
    session.close(3001, "Before")
    container.state = RouterState.CLOSING
    session.close()
    assert container.removed == []
    assert poll(session) == [(3001, "Before")]
    assert container.removed == [session]


def test_on_shutdown_an_interrupted_session_is_released(container: FakeContainer) -> None:
    session = make_session(container)
    receiver = stream(session)
    container.state = RouterState.CLOSING
    receiver.cut()
    assert container.removed == [session]
    assert session.connection.calls == ["open", INTERRUPTED]


def test_on_shutdown_a_websocket_is_released_when_it_is_closed(container: FakeContainer) -> None:
    session = make_session(container, None)
    receiver = stream(session)
    container.state = RouterState.CLOSING
    session.close()
    assert receiver.frames == [GO_AWAY]
    assert container.removed == []
    receiver.cut()
    assert container.removed == [session]
