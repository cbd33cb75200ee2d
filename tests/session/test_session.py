import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from doubles import IP, FakeManager, Notes, Pause, Receiver, make_session
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import sockjs_tornado
import sockjs_tornado.session as session_package
from sockjs_tornado.exceptions import SessionStateError
from sockjs_tornado.protocol import PreparedMessage
from sockjs_tornado.session.outbox import HIGH_WATER, Outbox
from sockjs_tornado.session.session import Session, SessionState

CONNECTING, OPEN, CLOSING, CLOSED = SessionState

GO_AWAY = (3000, "Go away!")
STILL_OPEN = (2010, "Another connection still open")
INTERRUPTED = (1002, "Connection interrupted")
TIMED_OUT = (1006, "Session timed out")

DISCONNECT_DELAY = 5
HEARTBEAT_DELAY = 25

#: Frames that a receiver has room for.
POLL, STREAM = 1, math.inf


@pytest.fixture
def manager() -> FakeManager:
    return FakeManager()


def stream(session: Session, limit: float = STREAM) -> Receiver:
    """Return a receiver that has just attached, its first frame, if any, taken."""
    receiver = Receiver(session, limit).attach()
    receiver.take()
    return receiver


def poll(session: Session) -> list[Any]:
    """Return what a poll gets at once."""
    return Receiver(session, POLL).attach().frames


def polled(manager: FakeManager, **more: Any) -> Session:
    """Return a session that a poll has opened."""
    session = make_session(manager, **more)
    assert poll(session) == ["o"]
    return session


def in_state(state: SessionState, manager: FakeManager) -> Session:
    """Return a session that events have brought into a state."""
    session = make_session(manager)
    if state is CLOSED:
        session.close()
    elif state is not CONNECTING:
        stream(session).cut()
        if state is OPEN:
            session = polled(manager)
    assert session.state is state
    return session


def everything_of(session: Session) -> dict[str, Any]:
    """Return all that a session knows, to see that nothing has changed."""
    names = {*Session.__slots__, *Outbox.__slots__} - {"__dict__", "__weakref__"}
    values = {name: getattr(session, name) for name in names}
    return values | {"_outbox": list(session._outbox), "heard": list(session.connection.heard)}


def welcome(conn: Notes, info: Any) -> None:
    conn.send("welcome")


def echo(conn: Notes, message: str) -> None:
    conn.send(message)


# The table of states.

LEGAL = {(CONNECTING, OPEN), (CONNECTING, CLOSED), (OPEN, CLOSING), (CLOSING, CLOSED)}
ILLEGAL = [(before, after) for before in SessionState for after in SessionState if (before, after) not in LEGAL]


@pytest.mark.parametrize(("before", "after"), ILLEGAL)
def test_an_illegal_transition_raises_and_changes_nothing(
    manager: FakeManager, before: SessionState, after: SessionState
) -> None:
    session = in_state(before, manager)
    known = everything_of(session)
    with pytest.raises(SessionStateError, match=rf"{before.name}>: illegal transition to {after.name}$"):
        session._set_state(after)
    assert everything_of(session) == known


@pytest.mark.parametrize(
    ("events", "states"),
    [
        ([Session.close], [CONNECTING, CLOSED]),
        ([stream, Session.close], [CONNECTING, OPEN, CLOSING]),
        ([poll, Session.close, poll], [CONNECTING, OPEN, CLOSING, CLOSING]),
        ([lambda session: stream(session).cut()], [CONNECTING, CLOSING]),
        ([lambda session: session.server.container.advance(DISCONNECT_DELAY)], [CONNECTING, CLOSED]),
        ([poll, lambda session: session.server.container.advance(DISCONNECT_DELAY)], [CONNECTING, OPEN, CLOSED]),
        (
            [poll, Session.close, lambda session: session.server.container.advance(DISCONNECT_DELAY)],
            [CONNECTING, OPEN, CLOSING, CLOSED],
        ),
    ],
)
def test_events_lead_through_the_states(
    manager: FakeManager, events: list[Callable[[Session], Any]], states: list[SessionState]
) -> None:
    session = make_session(manager)
    seen = [session.state]
    for event in events:
        event(session)
        seen.append(session.state)
    assert seen == states
    assert manager.removed == ([session] if states[-1] is CLOSED else [])


def test_a_representation_tells_the_state_and_keeps_the_secret(manager: FakeManager) -> None:
    assert repr(make_session(manager, "secret-id")) == "<KeptSession 1 xhr CONNECTING>"
    assert make_session(manager, None).label == "2"


@pytest.mark.parametrize("state", [CONNECTING, CLOSING, CLOSED])
def test_messages_go_nowhere_unless_the_session_is_open(manager: FakeManager, state: SessionState) -> None:
    session = in_state(state, manager)
    known = everything_of(session)
    session.send("lost")
    assert everything_of(session) == known
    session._send_prepared(PreparedMessage("lost"))
    assert everything_of(session) == known
    session._receive(["lost"])
    assert everything_of(session) == known


@pytest.mark.parametrize("state", SessionState)
def test_what_a_receiver_reports_that_is_not_attached_changes_nothing(
    manager: FakeManager, state: SessionState
) -> None:
    session = in_state(state, manager)
    known = everything_of(session)
    for report in (Session._detach, Session._receiver_lost, Session._pause_sending, Session._resume_sending):
        report(session, Receiver(session))
        assert everything_of(session) == known


def test_one_that_was_attached_does_not_speak_for_the_one_that_is(manager: FakeManager) -> None:
    session = make_session(manager)
    former, current = Receiver(session, 1).attach(), stream(session)
    session._pause_sending(current)
    session.send("waits")
    known = everything_of(session)
    for report in (Session._detach, Session._receiver_lost, Session._pause_sending, Session._resume_sending):
        report(session, former)
        assert everything_of(session) == known
    current.drain()
    session._pause_sending(former)
    session.send("does not wait")
    assert current.frames == [["waits"], ["does not wait"]]


def test_a_closed_session_has_no_deadline(manager: FakeManager) -> None:
    session = in_state(CLOSED, manager)
    assert manager.due == math.inf
    assert session.due == math.inf


def test_a_check_that_comes_late_changes_nothing(manager: FakeManager) -> None:
    session = in_state(CLOSED, manager)
    known = everything_of(session)
    session.check(manager.now() + 1000)
    assert everything_of(session) == known


# Opening.


def test_the_open_frame_comes_first_and_once(manager: FakeManager) -> None:
    session = make_session(manager, acts={"on_open": welcome})
    receiver = Receiver(session).attach()
    session.send("more")
    assert receiver.frames == ["o", ["welcome"], ["more"]]
    session._detach(receiver)
    assert stream(session).frames == []


def test_what_on_open_sends_leaves_together(manager: FakeManager) -> None:
    def greet(conn: Notes, info: Any) -> None:
        conn.send("1")
        conn.session._send_prepared(PreparedMessage("2"))
        conn.send("3")

    session = make_session(manager, acts={"on_open": greet})
    assert Receiver(session).attach().frames == ["o", ["1", "2", "3"]]


def test_the_open_frame_of_a_poll_is_all_it_gets(manager: FakeManager) -> None:
    session = make_session(manager, acts={"on_open": welcome})
    assert poll(session) == ["o"]
    assert poll(session) == [["welcome"]]


def test_on_open_is_given_what_is_known_of_the_request(manager: FakeManager) -> None:
    session = polled(manager)
    assert session.connection.info is session.conn_info
    assert session.connection.info.ip == IP


def test_a_connection_is_made_with_its_session_before_anybody_listens(manager: FakeManager) -> None:
    made = []

    def make(session: Session) -> Notes:
        made.append((session, session.state, session.session_id, session.conn_info.ip, session.server.settings))
        return Notes(session, {})

    session = make_session(manager, kind=make)
    assert made == [(session, CONNECTING, "secret-id", IP, session.server.settings)]
    assert isinstance(session.connection, Notes)


def test_a_session_that_nobody_listens_to_ends_without_the_application(manager: FakeManager) -> None:
    session = make_session(manager)
    manager.advance(DISCONNECT_DELAY - 0.001)
    assert session.state is CONNECTING
    manager.advance(0.001)
    assert session.state is CLOSED
    assert session.connection.heard == []
    assert manager.removed == [session]
    assert manager.due == math.inf


def test_a_first_receiver_that_comes_too_late_is_told_so(manager: FakeManager) -> None:
    session = make_session(manager)
    manager.advance(DISCONNECT_DELAY)
    assert poll(session) == [TIMED_OUT]
    assert session.connection.heard == []


@pytest.mark.parametrize("closing", [False, True])
def test_a_session_closed_before_its_first_receiver_tells_it_so(manager: FakeManager, closing: bool) -> None:
    session = make_session(manager)
    manager.closing = closing
    session.close(1001, "Restart")
    assert manager.removed == [session]
    assert poll(session) == [(1001, "Restart")]
    assert session.connection.heard == []


def test_a_connection_may_close_itself_while_it_is_made(manager: FakeManager) -> None:
    class Full(Notes):
        def __init__(self, session: Session) -> None:
            super().__init__(session, {})
            self.send("lost")
            self.close(3001, "Full")
            self.close(3002, "Twice")

    session = make_session(manager, kind=Full)
    assert session.state is CLOSED
    assert manager.removed == [session]
    assert manager.due == math.inf
    assert poll(session) == [(3001, "Full")]
    assert session.connection.heard == []


def test_a_constructor_that_raises_leaves_nothing_behind(manager: FakeManager) -> None:
    def fail(session: Session) -> Notes:
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match=r"^no database$"):
        make_session(manager, kind=fail)
    assert manager.due == math.inf
    assert manager.removed == []


# Receiving and sending.


@pytest.mark.parametrize("limit", [POLL, STREAM])
def test_a_life_in_order(manager: FakeManager, limit: float) -> None:
    session = make_session(manager)
    Receiver(session, limit).attach()
    session._receive(["1", "2"])
    session._receive([])
    session._receive(["3"])
    session.close()
    assert session.connection.heard == ["open", "1", "2", "3", GO_AWAY]


def test_a_message_is_written_at_once_where_a_client_listens(manager: FakeManager) -> None:
    session = make_session(manager)
    receiver = stream(session)
    session.send("1")
    assert receiver.take() == [["1"]]
    session.send("2")
    assert receiver.take() == [["2"]]


def test_what_is_sent_while_nobody_listens_leaves_together(manager: FakeManager) -> None:
    session = polled(manager)
    session.send("1")
    session.send("2")
    session.send("3")
    assert poll(session) == [["1", "2", "3"]]
    receiver = Receiver(session, POLL).attach()
    assert receiver.frames == []
    session.send("4")
    session.send("5")
    assert receiver.frames == [["4"]]
    assert poll(session) == [["5"]]


def test_what_is_sent_while_a_batch_is_received_leaves_together(manager: FakeManager) -> None:
    def answer(conn: Notes, message: str) -> None:
        conn.send(f"{message}a")
        conn.send(f"{message}b")

    session = make_session(manager, acts={"on_message": answer})
    receiver = stream(session)
    session._receive(["1", "2", "3"])
    assert receiver.frames == [["1a", "1b", "2a", "2b", "3a", "3b"]]


def test_what_an_async_callback_sends_at_once_leaves_with_the_batch(manager: FakeManager) -> None:
    async def answer(conn: Notes, message: str) -> None:
        conn.send(f"{message}a")
        await Pause()
        conn.send(f"{message}b")

    session = make_session(manager, acts={"on_message": answer})
    receiver = stream(session)
    session._receive(["1", "2"])
    assert receiver.take() == [["1a"]]
    manager.turn()
    assert receiver.take() == [["1b"], ["2a"]]


def test_a_reply_to_a_polling_client_is_one_frame(manager: FakeManager) -> None:
    session = make_session(manager, acts={"on_message": echo})
    poll(session)
    receiver = Receiver(session, POLL).attach()
    session._receive(["1", "2"])
    assert receiver.frames == [["1", "2"]]


def test_messages_to_another_session_are_not_held_back_by_a_batch(manager: FakeManager) -> None:
    other = make_session(manager)
    receiver = stream(other)
    seen = []

    def tell(conn: Notes, message: str) -> None:
        other.send(message)
        seen.append(receiver.take())

    session = make_session(manager, acts={"on_message": tell})
    stream(session)
    session._receive(["1", "2"])
    assert seen == [[["1"]], [["2"]]]


def test_a_stream_that_is_full_is_followed_by_the_next_one(manager: FakeManager) -> None:
    session = make_session(manager)
    first = Receiver(session, 3).attach()
    for message in "abc":
        session.send(message)
    assert first.frames == ["o", ["a"], ["b"]]
    second = stream(session)
    session.send("d")
    assert second.frames == [["d"]]


def test_bytes_are_for_receivers_of_bytes(manager: FakeManager) -> None:
    raw, framed = make_session(manager, None), make_session(manager, None)
    assert not raw._accepts_bytes
    Receiver(raw, binary=True).attach()
    stream(framed)
    assert (raw._accepts_bytes, framed._accepts_bytes) == (True, False)
    raw.close()
    assert raw._accepts_bytes


# immediate_flush.


def test_without_immediate_flush_messages_gather_until_the_next_turn(manager: FakeManager) -> None:
    session = make_session(manager, immediate_flush=False)
    receiver = stream(session)
    session.send("1")
    session.send("2")
    session._send_prepared(PreparedMessage("3"))
    assert receiver.frames == []
    assert len(manager._soon) == 1
    manager.turn()
    assert receiver.take() == [["1", "2", "3"]]
    assert manager.is_idle
    session.send("4")
    manager.turn()
    assert receiver.take() == [["4"]]


def test_without_immediate_flush_a_reply_leaves_with_its_batch(manager: FakeManager) -> None:
    session = make_session(manager, immediate_flush=False, acts={"on_message": echo})
    receiver = stream(session)
    session.send("0")
    session._receive(["1", "2"])
    assert receiver.take() == [["0", "1", "2"]]
    manager.turn()
    assert receiver.take() == []


def test_without_immediate_flush_a_turn_within_a_batch_holds_its_messages_together(manager: FakeManager) -> None:
    def answer(conn: Notes, message: str) -> None:
        conn.send(message)
        manager.turn()

    session = make_session(manager, immediate_flush=False, acts={"on_message": answer})
    receiver = stream(session)
    session.send("0")
    session._receive(["1", "2"])
    assert receiver.take() == [["0", "1", "2"]]


def test_without_immediate_flush_nothing_is_lost_between_polls(manager: FakeManager) -> None:
    session = polled(manager, immediate_flush=False)
    session.send("1")
    manager.turn()
    session.send("2")
    assert poll(session) == [["1", "2"]]
    manager.turn()
    receiver = Receiver(session, POLL).attach()
    session.send("3")
    manager.turn()
    assert receiver.frames == [["3"]]


def test_without_immediate_flush_a_close_does_not_wait(manager: FakeManager) -> None:
    session = make_session(manager, immediate_flush=False)
    receiver = stream(session)
    session.send("1")
    session.close()
    assert receiver.frames == [["1"], GO_AWAY]
    manager.turn()
    assert receiver.frames == [["1"], GO_AWAY]


# Prepared messages.


def test_a_prepared_message_is_handed_on_as_it_is(manager: FakeManager) -> None:
    session = make_session(manager)
    receiver = stream(session)
    message = PreparedMessage("1")
    session._send_prepared(message)
    assert receiver.frames == [message]


def test_a_prepared_message_stands_in_line_behind_queued_ones(manager: FakeManager) -> None:
    session = polled(manager)
    session._send_prepared(PreparedMessage("1"))
    session.send("2")
    session._send_prepared(PreparedMessage("3"))
    assert poll(session) == [["1", "2", "3"]]


def test_a_prepared_message_stands_in_line_within_a_batch(manager: FakeManager) -> None:
    def answer(conn: Notes, message: str) -> None:
        conn.send("before")
        conn.session._send_prepared(PreparedMessage(message))
        conn.send("behind")

    session = make_session(manager, acts={"on_message": answer})
    receiver = stream(session)
    session._receive(["1"])
    assert receiver.frames == [["before", "1", "behind"]]


def test_a_prepared_message_waits_while_the_receiver_is_paused(manager: FakeManager) -> None:
    session = make_session(manager)
    receiver = stream(session)
    session._pause_sending(receiver)
    session._send_prepared(PreparedMessage("1"))
    session.send("2")
    assert receiver.frames == []
    session._resume_sending(receiver)
    assert receiver.frames == [["1", "2"]]


# Closing.


def test_a_stream_gets_what_was_sent_and_then_the_close_frame(manager: FakeManager) -> None:
    session = make_session(manager)
    receiver = stream(session)
    session._pause_sending(receiver)
    session.send("1")
    session.send("2")
    session.close(3001, "Enough")
    session.send("lost")
    assert receiver.frames == [["1", "2"], (3001, "Enough")]
    assert (session.close_code, session.close_reason) == (3001, "Enough")


def test_a_poll_gets_the_messages_and_the_next_poll_the_close_frame(manager: FakeManager) -> None:
    session = polled(manager)
    session.send("1")
    session.send("2")
    session.close()
    assert poll(session) == [["1", "2"]]
    assert poll(session) == [GO_AWAY]
    assert poll(session) == [GO_AWAY]


def test_a_stream_that_comes_after_the_close_gets_both(manager: FakeManager) -> None:
    session = polled(manager)
    session.send("1")
    session.close()
    assert Receiver(session).attach().frames == [["1"], GO_AWAY]


def test_a_held_poll_gets_the_close_frame(manager: FakeManager) -> None:
    session = polled(manager)
    receiver = Receiver(session, POLL).attach()
    session.close()
    assert receiver.frames == [GO_AWAY]


def test_a_close_within_a_batch_lets_a_held_poll_have_the_reply(manager: FakeManager) -> None:
    def answer(conn: Notes, message: str) -> None:
        conn.send("bye")
        conn.close()
        conn.send("lost")

    session = make_session(manager, acts={"on_message": answer})
    poll(session)
    receiver = Receiver(session, POLL).attach()
    session._receive(["1", "2"])
    assert receiver.frames == [["bye"]]
    assert poll(session) == [GO_AWAY]
    assert session.connection.heard == ["open", "1", GO_AWAY]


def test_a_closed_session_tells_every_receiver_until_it_is_forgotten(manager: FakeManager) -> None:
    session = make_session(manager)
    stream(session)
    session.close()
    manager.advance(DISCONNECT_DELAY - 0.001)
    assert poll(session) == [GO_AWAY]
    assert Receiver(session).attach().frames == [GO_AWAY]
    assert manager.removed == []
    manager.advance(0.001)
    assert manager.removed == [session]
    assert manager.due == math.inf


def test_to_close_again_does_not_make_a_session_forget_its_end(manager: FakeManager) -> None:
    session = make_session(manager)
    stream(session)
    session.close()
    session.close(4000, "Again")
    assert manager.removed == []
    assert poll(session) == [GO_AWAY]


def test_a_client_that_takes_the_last_messages_has_time_to_come_for_the_close_frame(manager: FakeManager) -> None:
    session = polled(manager)
    session.send("1")
    session.close()
    manager.advance(DISCONNECT_DELAY - 1)
    assert poll(session) == [["1"]]
    manager.advance(DISCONNECT_DELAY - 1)
    assert poll(session) == [GO_AWAY]


@pytest.mark.parametrize("limit", [POLL, STREAM])
def test_close_within_on_open(manager: FakeManager, limit: float) -> None:
    def reject(conn: Notes, info: Any) -> None:
        conn.send("sorry")
        conn.close(3001, "Full")
        conn.send("lost")

    session = make_session(manager, acts={"on_open": reject})
    frames = Receiver(session, limit).attach().frames
    while (3001, "Full") not in frames:
        frames += poll(session)
    assert frames == ["o", ["sorry"], (3001, "Full")]
    assert session.connection.heard == ["open", (3001, "Full")]


def test_close_within_on_close_does_nothing_more(manager: FakeManager) -> None:
    session = make_session(manager, acts={"on_close": lambda conn: conn.close(3001, "Again")})
    receiver = stream(session)
    session.close()
    assert receiver.frames == [GO_AWAY]
    assert session.connection.heard == ["open", GO_AWAY]
    assert session.connection.close_code == 3000


def test_send_within_on_close_goes_nowhere(manager: FakeManager) -> None:
    session = make_session(manager, acts={"on_close": lambda conn: conn.send("lost")})
    receiver = stream(session)
    session.close()
    assert receiver.frames == [GO_AWAY]


@pytest.mark.parametrize("state", SessionState)
def test_a_close_code_that_no_frame_may_carry_changes_nothing(manager: FakeManager, state: SessionState) -> None:
    session = in_state(state, manager)
    known = everything_of(session)
    for code in (999, 1004, 1005, 1006, 1015, 2010, 2999, 5000, 3000.0, "3000", None):
        with pytest.raises(ValueError, match=rf"^close code: expected .*, got {code!r}$"):
            session.close(code, "No")  # type: ignore[arg-type]
        assert everything_of(session) == known


@pytest.mark.parametrize("state", SessionState)
def test_a_close_reason_that_is_no_text_changes_nothing(manager: FakeManager, state: SessionState) -> None:
    session = in_state(state, manager)
    known = everything_of(session)
    for reason in (None, b"No", 3):
        with pytest.raises(TypeError, match=rf"^close reason must be str, not {type(reason).__name__}$"):
            session.close(3000, reason)  # type: ignore[arg-type]
        assert everything_of(session) == known


def expire(session: Session, receiver: Receiver) -> None:
    session._detach(receiver)
    session.server.container.advance(1000)


def be_noticed(session: Session, receiver: Receiver) -> None:
    receiver.gone = True
    poll(session)


def shut_down(session: Session, receiver: Receiver) -> None:
    session.server.container.closing = True
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
        manager = FakeManager()
        session = make_session(manager, session_id)
        receiver = stream(session)
        session._receive(["1"])
        first(session, receiver)
        code, reason = session.close_code, session.close_reason
        assert code is not None
        second(session, receiver)
        receiver.cut()
        manager.advance(1000)
        assert session.connection.heard == ["open", "1", (code, reason)]
        assert manager.removed == [session]


def test_what_the_application_no_longer_wants_to_hear_is_dropped_even_after_the_client_left(
    manager: FakeManager,
) -> None:
    async def work(conn: Notes, message: str) -> None:
        await Pause()
        conn.close()

    session = make_session(manager, acts={"on_message": work})
    receiver = stream(session)
    session._receive(["1", "2"])
    receiver.cut()
    manager.turn()
    assert session.connection.heard == ["open", "1", INTERRUPTED]


# The network.


@pytest.mark.parametrize("limit", [POLL, STREAM])
def test_a_second_receiver_is_turned_away_and_the_first_untouched(manager: FakeManager, limit: float) -> None:
    session = polled(manager)
    first = Receiver(session).attach()
    second = Receiver(session, limit).attach()
    assert second.frames == [STILL_OPEN]
    assert first.frames == []
    session._detach(second)
    session._receiver_lost(second)
    session.send("1")
    assert first.frames == [["1"]]
    assert session.connection.heard == ["open"]


@pytest.mark.parametrize("limit", [POLL, 3])
def test_a_client_that_is_to_ask_anew_finds_what_came_meanwhile(manager: FakeManager, limit: float) -> None:
    session = polled(manager)
    receiver = Receiver(session, limit).attach()
    session._recycle()
    assert (receiver.recycled, receiver.ended) == (True, True)
    session.send("meanwhile")
    assert poll(session) == [["meanwhile"]]
    assert session.state is OPEN


def test_a_websocket_stays(manager: FakeManager) -> None:
    session = make_session(manager, None)
    receiver = stream(session)
    session._recycle()
    assert (receiver.recycled, receiver.ended) == (True, False)
    session.send("x")
    assert receiver.take() == [["x"]]


@pytest.mark.parametrize("state", SessionState)
def test_where_nobody_listens_nobody_is_to_ask_anew(manager: FakeManager, state: SessionState) -> None:
    session = in_state(state, manager)
    session._recycle()
    assert session.state is state


def test_a_client_that_has_left_is_lost_all_the_same(manager: FakeManager) -> None:
    session = polled(manager)
    receiver = Receiver(session, POLL).attach()
    receiver.gone = True
    session._recycle()
    assert not receiver.recycled
    receiver.cut()
    assert session.close_code == 1002


def test_a_receiver_whose_client_is_gone_is_noticed_before_the_next_one_is_judged(manager: FakeManager) -> None:
    session = make_session(manager)
    first = stream(session)
    first.gone = True
    assert poll(session) == [INTERRUPTED]
    assert session.connection.heard == ["open", INTERRUPTED]
    assert first.frames == []
    assert first.ended


def test_whoever_follows_a_cut_receiver_gets_what_was_queued_and_then_1002(manager: FakeManager) -> None:
    session = make_session(manager)
    first = stream(session)
    session._pause_sending(first)
    session.send("1")
    first.gone = True
    assert poll(session) == [["1"]]
    assert poll(session) == [INTERRUPTED]


def test_a_cut_receiver_ends_the_session(manager: FakeManager) -> None:
    session = make_session(manager)
    stream(session).cut()
    assert session.is_closed
    assert session.connection.heard == ["open", INTERRUPTED]
    assert poll(session) == [INTERRUPTED]
    assert poll(session) == [INTERRUPTED]
    manager.advance(DISCONNECT_DELAY)
    assert manager.removed == [session]


def test_a_request_that_was_cut_before_it_could_listen_ends_the_session(manager: FakeManager) -> None:
    session = polled(manager)
    session._request_lost()
    assert (session.close_code, session.close_reason) == (1002, "Connection interrupted")
    assert Receiver(session, 1).attach().take() == [(1002, "Connection interrupted")]


def test_a_request_that_would_not_have_been_held_does_not_end_the_session(manager: FakeManager) -> None:
    session = polled(manager)
    session.send("waiting")
    session._request_lost()
    assert not session.is_closed
    assert Receiver(session, 1).attach().take() == [["waiting"]]


def test_a_request_that_was_cut_does_no_harm_while_another_listens(manager: FakeManager) -> None:
    session = make_session(manager)
    Receiver(session).attach()
    session._request_lost()
    assert not session.is_closed


def test_a_client_that_closes_says_why(manager: FakeManager) -> None:
    session = make_session(manager, None)
    stream(session).cut(4001, "Done")
    assert session.connection.heard == ["open", (4001, "Done")]
    assert session.state is CLOSED


def test_a_websocket_session_waits_for_its_receiver_to_end(manager: FakeManager) -> None:
    session = make_session(manager, None)
    receiver = stream(session)
    session.close()
    assert receiver.frames == [GO_AWAY]
    manager.advance(1000)
    assert session.state is CLOSING
    receiver.cut(1006, "Connection lost")
    assert session.state is CLOSED
    assert session.connection.heard == ["open", GO_AWAY]
    assert manager.removed == [session]


def test_another_address_is_turned_away(manager: FakeManager) -> None:
    session = make_session(manager)
    stranger = Receiver(session).attach("203.0.113.9")
    assert stranger.frames == [(1008, "Session was opened from another address")]
    assert session.state is CONNECTING
    first = stream(session)
    Receiver(session).attach("203.0.113.9")
    session.send("1")
    assert first.frames == [["1"]]
    session.close()
    assert Receiver(session).attach("203.0.113.9").frames == [(1008, "Session was opened from another address")]
    assert session._check_requester("203.0.113.9", "") == "verify_ip"
    assert session._check_requester(IP, "") is None
    assert session.server.stats.rejected == {"verify_ip": 3}


A, B = "https://a.example", "https://b.example"


@pytest.mark.parametrize(
    ("ours", "others"), [(A, (B, "", "null", f"{A}:8443", A.upper())), ("", (A, "null")), ("null", (A, ""))]
)
def test_who_listens_names_the_origin_that_the_first_one_named(
    manager: FakeManager, ours: str, others: tuple[str, ...]
) -> None:
    session = make_session(manager)
    first = Receiver(session, 1)
    session._attach(first, IP, ours)
    assert first.frames == ["o"]
    for origin in others:
        stranger = Receiver(session)
        session._attach(stranger, IP, origin)
        assert stranger.frames == [(1008, "Session was opened from another origin")]
        assert session._check_requester(IP, origin) == "session_origin"
    assert session.server.stats.rejected == {"session_origin": len(others)}
    session.send("x")
    again = Receiver(session, 1)
    session._attach(again, IP, ours)
    assert again.frames == [["x"]]


def test_who_sends_names_the_origin_that_the_first_one_named(manager: FakeManager) -> None:
    session = make_session(manager)
    session._attach(Receiver(session, 1), IP, A)
    assert not session._authorize_post(IP, B)
    assert not session._authorize_post(IP, "")
    assert session._authorize_post(IP, A)
    assert session.server.stats.rejected == {"session_origin": 2}


def test_a_post_without_an_origin_may_be_the_client_s(manager: FakeManager) -> None:
    session = make_session(manager)
    session._attach(Receiver(session, 1), IP, A)
    assert session._check_requester(IP, None) is None
    assert session._authorize_post(IP)
    assert not session._authorize_post("203.0.113.9")
    session._attach(again := Receiver(session, 1), IP, None)
    session.send("x")
    assert again.frames == [["x"]]


def test_a_post_without_an_origin_opens_a_session_that_is_no_page_s(manager: FakeManager) -> None:
    session = make_session(manager)
    session._attach(Receiver(session, 1), IP, None)
    assert session._authorize_post(IP)
    assert not session._authorize_post(IP, A)
    assert session._check_requester(IP, A) == "session_origin"
    assert session._check_requester(IP, "") is None


def test_a_post_without_an_origin_does_not_say_where_the_client_sends_from(manager: FakeManager) -> None:
    session = make_session(manager)
    session._attach(Receiver(session, 1), IP, "")
    assert session._authorize_post(IP)
    assert session._authorize_post(IP, A)
    assert session._authorize_post(IP)
    assert not session._authorize_post(IP, B)


def test_where_the_opening_request_cannot_name_an_origin_the_first_post_does(manager: FakeManager) -> None:
    """Scripts and iframes are asked for without one."""
    session = make_session(manager)
    session._attach(Receiver(session, 1), IP, "")
    assert session._authorize_post(IP, A)
    assert not session._authorize_post(IP, B)
    assert session._authorize_post(IP, A)
    assert session._authorize_post(IP, "")
    assert session._check_requester(IP, A) == "session_origin"


def test_a_session_is_known_to_whom_it_was_told(manager: FakeManager) -> None:
    session = make_session(manager)
    assert not session._authorize_post(IP)
    stream(session)
    assert session._authorize_post(IP)
    assert not session._authorize_post("203.0.113.9")
    session.close()
    assert session._authorize_post(IP)


def test_another_address_is_let_in_without_verify_ip(manager: FakeManager) -> None:
    session = make_session(manager, verify_ip=False)
    assert session._check_requester("203.0.113.9", "") is None
    assert Receiver(session).attach("203.0.113.9").frames == ["o"]


# Time.


def test_heartbeats_come_while_a_client_listens(manager: FakeManager) -> None:
    session = make_session(manager)
    receiver = stream(session)
    manager.advance(HEARTBEAT_DELAY - 0.001)
    assert receiver.take() == []
    manager.advance(0.001)
    assert receiver.take() == ["h"]
    session.send("1")
    manager.advance(2 * HEARTBEAT_DELAY)
    assert receiver.take() == [["1"], "h", "h"]


def test_a_heartbeat_ends_a_poll(manager: FakeManager) -> None:
    session = polled(manager)
    receiver = Receiver(session, POLL).attach()
    manager.advance(HEARTBEAT_DELAY)
    assert receiver.frames == ["h"]
    assert manager.due == manager.now() + DISCONNECT_DELAY


def test_there_are_no_heartbeats_for_nobody(manager: FakeManager) -> None:
    session = polled(manager, disconnect_delay=1000)
    manager.advance(999)
    assert session.state is OPEN
    assert poll(session) == []
    session.close()
    stream(session)
    manager.advance(999)
    assert session.state is CLOSING
    assert manager.due == 1999 + 1000


def test_a_client_that_does_not_come_back_is_missed_once(manager: FakeManager) -> None:
    session = polled(manager)
    session.send("lost")
    manager.advance(DISCONNECT_DELAY - 0.001)
    assert session.state is OPEN
    manager.advance(0.001)
    assert session.connection.heard == ["open", TIMED_OUT]
    assert manager.removed == [session]
    manager.advance(1000)
    assert session.connection.heard == ["open", TIMED_OUT]
    assert poll(session) == [TIMED_OUT]


@pytest.mark.parametrize("ended", [Session._detach, Session._receiver_lost], ids=["detached", "lost"])
def test_a_session_is_over_soon_after_a_long_stream(
    manager: FakeManager, ended: Callable[[Session, Receiver], None]
) -> None:
    session = make_session(manager)
    receiver = stream(session)
    manager.advance(10)
    ended(session, receiver)
    manager.advance(DISCONNECT_DELAY - 0.001)
    assert manager.removed == []
    manager.advance(0.001)
    assert manager.removed == [session]


def test_what_a_client_sent_before_it_was_missed_is_delivered(manager: FakeManager) -> None:
    session = polled(manager, acts={"on_message": lambda conn, message: Pause()})
    session._receive(["1", "2"])
    manager.advance(DISCONNECT_DELAY)
    while not manager.is_idle:
        manager.turn()
    assert session.connection.heard == ["open", "1", "2", TIMED_OUT]


def test_a_client_that_comes_back_in_time_is_not_missed(manager: FakeManager) -> None:
    session = polled(manager)
    for _ in range(5):
        manager.advance(DISCONNECT_DELAY - 0.001)
        receiver = Receiver(session, POLL).attach()
        manager.advance(DISCONNECT_DELAY)
        session.send("still here")
        assert receiver.frames == [["still here"]]
    assert session.connection.heard == ["open"]


def test_the_delays_are_settings(manager: FakeManager) -> None:
    session = make_session(manager, heartbeat_delay=2, disconnect_delay=3)
    receiver = stream(session)
    manager.advance(2)
    assert receiver.frames == ["h"]
    session._detach(receiver)
    manager.advance(2.999)
    assert session.state is OPEN
    manager.advance(0.001)
    assert session.state is CLOSED


# A client that does not keep up.


def test_messages_wait_while_the_receiver_is_paused(manager: FakeManager) -> None:
    session = make_session(manager)
    receiver = stream(session)
    receiver.full = True
    for message in "1234":
        session.send(message)
    assert receiver.take() == [["1"]]
    receiver.drain()
    assert receiver.take() == [["2", "3", "4"]]
    session.send("5")
    assert receiver.take() == [["5"]]


def test_a_reply_waits_while_the_receiver_is_paused(manager: FakeManager) -> None:
    session = make_session(manager, acts={"on_message": echo})
    receiver = stream(session)
    session._pause_sending(receiver)
    session._receive(["1", "2"])
    assert receiver.frames == []
    session._receive(["3"])
    receiver.drain()
    assert receiver.frames == [["1", "2", "3"]]


def test_a_pause_ends_with_its_receiver(manager: FakeManager) -> None:
    session = make_session(manager)
    first = stream(session)
    session._pause_sending(first)
    session.send("1")
    session._detach(first)
    assert not session._outbox_above_high_water
    second = stream(session, POLL)
    session.send("2")
    assert poll(session) == [["2"]]
    assert second.ended


def test_a_client_is_congested_above_the_mark(manager: FakeManager) -> None:
    session = polled(manager)
    session.send("x" * HIGH_WATER)
    assert not session._outbox_above_high_water
    session.send("x")
    assert session._outbox_above_high_water
    poll(session)
    assert not session._outbox_above_high_water


def test_a_client_is_congested_while_its_receiver_is_paused(manager: FakeManager) -> None:
    session = make_session(manager)
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
def test_whoever_waits_is_woken_once_when_the_client_keeps_up_or_is_gone(
    manager: FakeManager, congest: Callable[[Session, Receiver], None], relieve: Callable[[Session, Receiver], None]
) -> None:
    session = make_session(manager)
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
def test_a_client_that_does_not_read_is_closed_at_the_bound(manager: FakeManager, session_id: str | None) -> None:
    session = make_session(manager, session_id, max_queue_bytes=100)
    receiver = Receiver(session).attach()
    receiver.full = True
    session.send("fills the buffer")
    session.send("x" * 50)
    session.send("x" * 50)
    assert session.state is SessionState.OPEN
    session.send("x")
    assert (session.state, session.close_code, session.close_reason) == (SessionState.CLOSING, 3008, "Slow consumer")
    assert receiver.take()[-2:] == [["fills the buffer"], (3008, "Slow consumer")]


def test_a_client_that_does_not_poll_is_closed_at_the_bound(manager: FakeManager) -> None:
    session = make_session(manager, max_queue_bytes=100)
    Receiver(session, 1).attach()
    session.send("x" * 101)
    assert not session.is_closed  # one message is no pile
    session.send("x")
    assert session.close_code == 3008
    assert Receiver(session, 1).attach().take() == [(3008, "Slow consumer")]


def test_a_client_that_does_not_read_is_let_go_for_good(manager: FakeManager) -> None:
    session = make_session(manager, acts={"on_message": lambda conn, message: Pause()}, max_queue_bytes=100)
    receiver = stream(session)
    session._receive(["1", "2"])
    session._pause_sending(receiver)
    for _ in range(2):
        session.send("x" * 51)
    assert receiver.frames == [(3008, "Slow consumer")]
    assert poll(session) == [(3008, "Slow consumer")]
    while not manager.is_idle:
        manager.turn()
    assert session.connection.heard == ["open", "1", (3008, "Slow consumer")]


def test_an_application_is_overrun_above_the_bound(manager: FakeManager) -> None:
    session = polled(manager, acts={"on_message": lambda conn, message: Pause()}, max_queue_bytes=100)
    session._receive(["1", "x" * 36])  # and a share of 64 for the message
    assert not session._inbox_full
    session._receive([""])
    assert session._inbox_full
    while not manager.is_idle:
        manager.turn()
    assert not session._inbox_full


def test_what_is_merely_gathered_is_no_reason_to_close(manager: FakeManager) -> None:
    def much(conn: Notes, message: str) -> None:
        for _ in range(3):
            conn.send("x" * 60)

    session = make_session(manager, acts={"on_message": much}, max_queue_bytes=100)
    receiver = Receiver(session).attach()
    receiver.take()
    session._receive(["go"])
    assert session.state is SessionState.OPEN
    assert [message for frame in receiver.take() for message in frame] == ["x" * 60] * 3


def test_reading_stops_while_the_application_falls_behind(manager: FakeManager) -> None:
    def wait(conn: Notes, message: str) -> Pause:
        return Pause()

    session = make_session(manager, None, acts={"on_message": wait}, max_queue_bytes=2 * HIGH_WATER)
    receiver = Receiver(session).attach()
    session._receive(["first", "x" * HIGH_WATER])
    assert not receiver.reading
    assert not session._inbox_full
    session._receive(["x" * HIGH_WATER])
    assert session._inbox_full
    while not receiver.reading:
        manager.turn()
    assert not session._inbox_full


def test_an_application_may_catch_up_while_nobody_listens(manager: FakeManager) -> None:
    session = make_session(manager, acts={"on_message": lambda conn, message: Pause()})
    poll(session)
    session._receive(["1", "x" * HIGH_WATER])
    while not manager.is_idle:
        manager.turn()
    assert session.connection.heard == ["open", "1", "x" * HIGH_WATER]


def test_whoever_waits_no_more_is_not_woken(manager: FakeManager) -> None:
    session = make_session(manager)
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


def test_whoever_waits_waits_on_while_the_buffer_fills_up_again(manager: FakeManager) -> None:
    session = make_session(manager)
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


# The end of all sessions.


def test_at_the_end_a_session_with_a_client_is_told_and_released(manager: FakeManager) -> None:
    session = polled(manager)
    receiver = Receiver(session, POLL).attach()
    manager.closing = True
    session.close(1001, "Restart")
    assert receiver.frames == [(1001, "Restart")]
    assert manager.removed == [session]
    assert session.connection.heard == ["open", (1001, "Restart")]


def test_at_the_end_a_client_between_two_polls_has_time_to_come(manager: FakeManager) -> None:
    session = polled(manager)
    session.send("1")
    manager.closing = True
    session.close()
    assert poll(session) == [["1"]]
    assert manager.removed == []
    assert poll(session) == [GO_AWAY]
    assert manager.removed == [session]


def test_at_the_end_a_client_that_does_not_come_is_given_up(manager: FakeManager) -> None:
    session = polled(manager)
    manager.closing = True
    session.close()
    manager.advance(DISCONNECT_DELAY - 0.001)
    assert manager.removed == []
    manager.advance(0.001)
    assert manager.removed == [session]
    assert session.connection.heard == ["open", GO_AWAY]


def test_at_the_end_a_stale_receiver_takes_no_close_frame_away(manager: FakeManager) -> None:
    session = make_session(manager)
    first = Receiver(session, 1).attach()
    manager.closing = True
    session.close()
    session._receiver_lost(first)
    assert manager.removed == []
    assert poll(session) == [GO_AWAY]
    assert manager.removed == [session]


@pytest.mark.parametrize("told", [lambda session: (stream(session), session.close()), lambda s: stream(s).cut()])
def test_at_the_end_a_session_that_was_told_before_is_released(
    manager: FakeManager, told: Callable[[Session], Any]
) -> None:
    session = make_session(manager)
    told(session)
    assert manager.removed == []
    manager.closing = True
    session.close()
    assert manager.removed == [session]


def test_at_the_end_a_session_that_was_not_told_before_is_kept(manager: FakeManager) -> None:
    session = polled(manager)
    session.close(3001, "Before")
    manager.closing = True
    session.close()
    assert manager.removed == []
    assert poll(session) == [(3001, "Before")]
    assert manager.removed == [session]


def test_at_the_end_a_cut_session_is_released(manager: FakeManager) -> None:
    session = make_session(manager)
    receiver = stream(session)
    manager.closing = True
    receiver.cut()
    assert manager.removed == [session]
    assert session.connection.heard == ["open", INTERRUPTED]


def test_at_the_end_a_websocket_is_released_when_it_is_over(manager: FakeManager) -> None:
    session = make_session(manager, None)
    receiver = stream(session)
    manager.closing = True
    session.close()
    assert receiver.frames == [GO_AWAY]
    assert manager.removed == []
    receiver.cut()
    assert manager.removed == [session]


# Any order of events.

MESSAGES = st.lists(st.text("abc", max_size=3), max_size=4)
#: What the application does with a message of this text.
COMMANDS = st.sampled_from(["echo", "echo twice", "pause", "pause and echo", "close", "note"])


class AnyOrder(RuleBasedStateMachine):
    """A session whose receivers come, go and report in any order, beside a model of what must come out of it."""

    @initialize(
        session_id=st.sampled_from(["secret-id", None]),
        eager=st.booleans(),
        immediate_flush=st.booleans(),
        lossy=st.booleans(),
        calm=st.integers(0, 30),
    )
    def begin(self, session_id: str | None, eager: bool, immediate_flush: bool, lossy: bool, calm: int) -> None:
        self.manager = FakeManager(eager=eager)
        acts = {
            "on_open": self.on_open,
            "on_message": self.on_message,
            "on_dropped": self.on_dropped,
            "on_close": self.on_close,
        }
        settings: dict[str, Any] = {"max_queue_messages": 2, "slow_consumer": "drop_oldest"} if lossy else {}
        self.session = make_session(self.manager, session_id, acts=acts, immediate_flush=immediate_flush, **settings)
        self.connection = self.session.connection
        self.receivers: list[Receiver] = []
        self.numbers = itertools.count()
        self.running = False
        # The model: what was given to the session, and whether it may keep what it has been given from its application.
        self.sent: list[str] = []
        self.posted: list[str] = []
        self.dropped = False
        # How many messages to the client the application was told to be lost.
        self.told = 0
        # Steps before which nothing ends the session, or most runs would be over as they begin.
        self.calm = calm

    @invariant()
    def a_step_is_done(self) -> None:
        self.calm -= 1

    @property
    def current(self) -> Receiver | None:
        """The receiver that must be attached, None for none."""
        return next((receiver for receiver in self.receivers if not receiver.ended), None)

    @property
    def is_http(self) -> bool:
        return self.session.session_id is not None

    # The application.

    def send(self, text: str) -> None:
        self.note_sent(text)
        self.connection.send(text)

    def note_sent(self, text: str) -> None:
        if self.session.state is OPEN:
            self.sent.append(text)

    def close(self) -> None:
        self.dropped = True
        self.connection.close()

    def on_open(self, conn: Notes, info: Any) -> None:
        self.send("welcome")

    async def on_message(self, conn: Notes, message: str) -> None:
        assert not self.running, "two callbacks at once"
        self.running = True
        command = message.rpartition(" #")[0]
        if "pause" in command:
            await Pause()
        if "echo" in command:
            self.send(message)
        if "twice" in command:
            self.send(message)
        if "close" in command and self.calm < 0:
            self.close()
        self.running = False

    async def on_dropped(self, conn: Notes, count: int) -> None:
        assert not self.running, "on_dropped within a callback"
        assert count > 0
        self.running = True
        await Pause()
        self.told += count
        self.running = False

    def on_close(self, conn: Notes) -> None:
        assert not self.running, "on_close within a callback"
        self.send("too late")

    # The client.

    def attach(self, limit: float) -> Receiver:
        before = self.current
        receiver = Receiver(self.session, limit).attach()
        if before is not None and before.gone:
            before.ended = True
        elif before is not None:
            assert receiver.frames == [STILL_OPEN]
        self.receivers.append(receiver)
        return receiver

    @precondition(lambda self: self.is_http or not self.receivers)
    @rule(limit=st.sampled_from([1, 2, 4, math.inf]))
    def a_client_listens(self, limit: float) -> None:
        self.attach(limit if self.is_http else math.inf)

    @rule(commands=st.lists(COMMANDS, max_size=4))
    def messages_arrive(self, commands: list[str]) -> None:
        messages = [f"{command} #{next(self.numbers)}" for command in commands]
        if self.session.state is OPEN:
            self.posted += messages
        self.session._receive(messages)

    @rule()
    def another_address_tries(self) -> None:
        receiver = Receiver(self.session).attach("203.0.113.9")
        assert [frame[0] for frame in receiver.frames] == [1008]

    # The network.

    @precondition(lambda self: self.current is not None and self.calm < 0)
    @rule()
    def the_receiver_is_cut(self) -> None:
        self.current.cut()

    @precondition(lambda self: self.current is not None and self.is_http)
    @rule()
    def the_client_leaves_unnoticed(self) -> None:
        self.current.gone = True

    @precondition(lambda self: self.current is not None)
    @rule()
    def the_buffer_is_full(self) -> None:
        self.session._pause_sending(self.current)

    @precondition(lambda self: self.current is not None)
    @rule()
    def the_next_write_fills_the_buffer(self) -> None:
        self.current.full = True

    @precondition(lambda self: self.current is not None)
    @rule()
    def the_buffer_drains(self) -> None:
        self.current.drain()

    @precondition(lambda self: any(receiver.ended for receiver in self.receivers))
    @rule(
        data=st.data(),
        report=st.sampled_from(
            [Session._detach, Session._receiver_lost, Session._pause_sending, Session._resume_sending]
        ),
    )
    def one_that_has_ended_reports(self, data: st.DataObject, report: Callable[[Session, Receiver], None]) -> None:
        report(self.session, data.draw(st.sampled_from([receiver for receiver in self.receivers if receiver.ended])))

    # The server.

    @rule(messages=MESSAGES)
    def the_application_sends(self, messages: list[str]) -> None:
        for message in messages:
            self.send(f"{message} #{next(self.numbers)}")

    @rule()
    def the_application_broadcasts(self) -> None:
        text = f"to all #{next(self.numbers)}"
        self.note_sent(text)
        self.session._send_prepared(PreparedMessage(text))

    @precondition(lambda self: self.calm < 0)
    @rule()
    def the_application_closes(self) -> None:
        self.close()

    @rule(seconds=st.sampled_from([0, 1, DISCONNECT_DELAY, HEARTBEAT_DELAY, 100]))
    def time_passes(self, seconds: float) -> None:
        if self.calm < 0 or self.current is not None:
            self.manager.advance(seconds)

    @rule()
    def the_loop_turns(self) -> None:
        self.manager.turn()

    @precondition(lambda self: len(self.receivers) > 3)
    @rule()
    def the_server_shuts_down(self) -> None:
        self.manager.closing = True
        self.close()

    # What must hold.

    @invariant()
    def at_most_one_is_attached(self) -> None:
        attached = [receiver for receiver in self.receivers if not receiver.ended]
        assert len(attached) <= (self.session.state is OPEN)

    @invariant()
    def each_receiver_hears_the_protocol(self) -> None:
        everything = [frame for receiver in self.receivers for frame in receiver.frames]
        opens = [index for index, frame in enumerate(everything) if frame == "o"]
        assert opens in ([], [0])
        for receiver in self.receivers:
            closes = [frame for frame in receiver.frames if isinstance(frame, tuple)]
            assert closes in ([], receiver.frames[-1:])
            if closes and closes[0] != STILL_OPEN:
                assert closes[0] == (self.session.close_code, self.session.close_reason)

    @invariant()
    def messages_go_out_in_order_and_none_twice(self) -> None:
        written = self.written()
        lost = self.session._stats.messages_dropped
        if lost:
            rest = iter(self.sent)
            assert all(text in rest for text in written)
        else:
            assert written == self.sent[: len(written)]
        waiting = len(self.sent) - len(written) - lost
        assert waiting == len(self.session._outbox) or self.session.state is CLOSED
        if self.current is not None and self.manager.is_idle and not self.session._outbox_above_high_water:
            assert waiting == 0

    @invariant()
    def the_application_is_told_of_every_loss(self) -> None:
        lost = self.session._stats.messages_dropped
        assert self.told <= lost
        # What is lost while it is told of a loss is told with the next one.
        assert (self.told > 0) == (lost > 0) or not self.manager.is_idle

    @invariant()
    def messages_come_in_in_order_and_none_twice(self) -> None:
        heard = [entry for entry in self.connection.heard if isinstance(entry, str) and entry != "open"]
        assert heard == self.posted[: len(heard)]
        if self.manager.is_idle and not self.dropped:
            assert heard == self.posted

    @invariant()
    def the_application_hears_of_beginning_and_end_once(self) -> None:
        heard = self.connection.heard
        assert heard.count("open") == sum(receiver.frames.count("o") for receiver in self.receivers)
        assert heard[:1] in ([], ["open"])
        ends = [index for index, entry in enumerate(heard) if isinstance(entry, tuple)]
        if self.session.is_closed and self.manager.is_idle and heard:
            assert ends == [len(heard) - 1]
        else:
            assert ends in ([], [len(heard) - 1])
            assert not ends or self.session.is_closed

    @invariant()
    def it_is_forgotten_once_and_for_all(self) -> None:
        assert self.manager.removed == ([self.session] if self.session.state is CLOSED else [])
        if self.session.state is CLOSED:
            assert self.manager.due == math.inf

    def written(self) -> list[str]:
        # Receivers do not overlap, so that their order is that of what was written.
        texts: list[str] = []
        for receiver in self.receivers:
            for frame in receiver.frames:
                if isinstance(frame, PreparedMessage):
                    texts.append(frame.text)
                elif isinstance(frame, list):
                    texts.extend(frame)
        return texts

    def teardown(self) -> None:
        """Let the client take all there is, as long as there is somebody to give it."""
        if self.current is not None and not self.current.gone:
            self.current.drain()
        self.finish_callbacks()
        self.close()
        self.finish_callbacks()
        if self.is_http and self.session.state is CLOSING:
            last = self.attach(1)
            if self.session.state is CLOSING:
                last = self.attach(1)
            assert last.frames == [(self.session.close_code, self.session.close_reason)]
            assert len(self.written()) + self.session._stats.messages_dropped == len(self.sent)
        self.manager.advance(1000)
        for receiver in self.receivers:
            self.session._receiver_lost(receiver)
        assert self.session.state is CLOSED
        self.each_receiver_hears_the_protocol()
        self.messages_come_in_in_order_and_none_twice()
        self.the_application_hears_of_beginning_and_end_once()
        self.it_is_forgotten_once_and_for_all()

    def finish_callbacks(self) -> None:
        while not self.manager.is_idle:
            self.manager.turn()


def test_any_order_of_events() -> None:
    run_state_machine_as_test(
        AnyOrder,
        settings=hypothesis_settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


def test_the_class_is_where_sockjs_tornado_1_0_has_it() -> None:
    assert session_package.Session is sockjs_tornado.Session
    assert session_package.SessionState.OPEN == 1
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        session_package.nothing  # noqa: B018
