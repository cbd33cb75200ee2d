"""States, receivers, requests of other clients, heartbeats and timeouts of a session."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from application import LogWatch
from doubles import IP, FakeContainer, Notes, Pause, Receiver, make_session

import sockjs_tornado
import sockjs_tornado.session as session_package
from sockjs_tornado import ConnectionInfo, SockJSConnection
from sockjs_tornado.exceptions import SessionStateError
from sockjs_tornado.protocol import PreparedMessage
from sockjs_tornado.session.requester import authorize_post, check_receiver
from sockjs_tornado.session.session import Session, SessionState
from sockjs_tornado.session.states import RouterState

from .receivers import (
    CLOSED,
    CLOSING,
    CONNECTING,
    DISCONNECT_DELAY,
    GO_AWAY,
    HEARTBEAT_DELAY,
    INTERRUPTED,
    OPEN,
    POLL,
    STILL_OPEN,
    STREAM,
    TIMED_OUT,
    everything_of,
    in_state,
    poll,
    polled,
    stream,
    welcome,
)

# The table of states.


LEGAL = {(CONNECTING, OPEN), (CONNECTING, CLOSED), (OPEN, CLOSING), (CLOSING, CLOSED)}


ILLEGAL = [(before, after) for before in SessionState for after in SessionState if (before, after) not in LEGAL]


@pytest.mark.parametrize(("before", "after"), ILLEGAL)
def test_an_illegal_transition_raises_and_changes_nothing(
    container: FakeContainer, before: SessionState, after: SessionState
) -> None:
    session = in_state(before, container)
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
    container: FakeContainer, events: list[Callable[[Session], Any]], states: list[SessionState]
) -> None:
    session = make_session(container)
    seen = [session.state]
    for event in events:
        event(session)
        seen.append(session.state)
    assert seen == states
    assert container.removed == ([session] if states[-1] is CLOSED else [])


def test_a_representation_shows_the_state_and_hides_the_id(container: FakeContainer) -> None:
    assert repr(make_session(container, "secret-id")) == "<KeptSession 1 xhr CONNECTING>"
    assert make_session(container, None).label == "2"


@pytest.mark.parametrize("state", [CLOSING, CLOSED])
def test_messages_go_nowhere_after_the_session_was_open(container: FakeContainer, state: SessionState) -> None:
    session = in_state(state, container)
    known = everything_of(session)
    session.send("lost")
    assert everything_of(session) == known
    session._send_prepared(PreparedMessage("lost"))
    assert everything_of(session) == known
    session._receive(["lost"])
    assert everything_of(session) == known


@pytest.mark.parametrize("state", SessionState)
def test_reports_of_a_receiver_that_was_never_attached_are_ignored(
    container: FakeContainer, state: SessionState
) -> None:
    session = in_state(state, container)
    known = everything_of(session)
    for report in (Session._detach, Session._receiver_lost, Session._pause_sending, Session._resume_sending):
        report(session, Receiver(session))
        assert everything_of(session) == known


def test_reports_of_a_detached_receiver_are_ignored(container: FakeContainer) -> None:
    session = make_session(container)
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


def test_a_closed_session_has_no_deadline(container: FakeContainer) -> None:
    session = in_state(CLOSED, container)
    assert container.due == math.inf
    assert session.due == math.inf


def test_a_check_that_comes_late_changes_nothing(container: FakeContainer) -> None:
    session = in_state(CLOSED, container)
    known = everything_of(session)
    session.check(container.now() + 1000)
    assert everything_of(session) == known


# Opening.


def test_the_open_frame_comes_first_and_once(container: FakeContainer) -> None:
    session = make_session(container, acts={"on_open": welcome})
    receiver = Receiver(session).attach()
    session.send("more")
    assert receiver.frames == ["o", ["welcome"], ["more"]]
    session._detach(receiver)
    assert stream(session).frames == []


def test_messages_of_on_open_leave_together(container: FakeContainer) -> None:
    def greet(conn: Notes, info: Any) -> None:
        conn.send("1")
        conn.session._send_prepared(PreparedMessage("2"))
        conn.send("3")

    session = make_session(container, acts={"on_open": greet})
    assert Receiver(session).attach().frames == ["o", ["1", "2", "3"]]


def test_the_open_frame_of_a_poll_is_all_it_gets(container: FakeContainer) -> None:
    session = make_session(container, acts={"on_open": welcome})
    assert poll(session) == ["o"]
    assert poll(session) == [["welcome"]]


@pytest.mark.parametrize("session_id", ["secret-id", None])
def test_a_client_that_is_lost_with_the_open_frame_was_never_there(
    container: FakeContainer, session_id: str | None
) -> None:
    class Lost(Receiver):
        def send_frame(self, frame: str) -> None:
            self.cut()

    session = make_session(container, session_id)
    Lost(session).attach()
    container.advance(DISCONNECT_DELAY)
    assert session.state is CLOSED
    assert session.connection.calls == []
    assert (container.open, container.removed) == ([], [session])


def test_on_open_is_given_what_is_known_of_the_request(container: FakeContainer) -> None:
    session = polled(container)
    assert session.connection.info is session.conn_info
    assert session.connection.info.ip == IP


def test_a_connection_is_created_with_its_session_before_the_first_receiver(container: FakeContainer) -> None:
    made = []

    def make(session: Session) -> Notes:
        made.append((session, session.state, session.session_id, session.conn_info.ip, session.server.settings))
        return Notes(session, {})

    session = make_session(container, kind=make)
    assert made == [(session, CONNECTING, "secret-id", IP, session.server.settings)]
    assert isinstance(session.connection, Notes)


def test_a_session_without_a_receiver_ends_without_the_application(container: FakeContainer) -> None:
    session = make_session(container)
    container.advance(DISCONNECT_DELAY - 0.001)
    assert session.state is CONNECTING
    container.advance(0.001)
    assert session.state is CLOSED
    assert session.connection.calls == []
    assert container.removed == [session]
    assert container.due == math.inf


def test_a_first_receiver_after_the_timeout_gets_the_close_frame(container: FakeContainer) -> None:
    session = make_session(container)
    container.advance(DISCONNECT_DELAY)
    assert poll(session) == [TIMED_OUT]
    assert session.connection.calls == []


@pytest.mark.parametrize("closing", [False, True])
def test_a_session_closed_before_its_first_receiver_sends_it_the_close_frame(
    container: FakeContainer, closing: bool
) -> None:
    session = make_session(container)
    container.state = RouterState.CLOSING if closing else RouterState.OPEN
    session.close(1001, "Restart")
    assert container.removed == [session]
    assert poll(session) == [(1001, "Restart")]
    assert session.connection.calls == []


def test_a_connection_may_close_itself_while_it_is_made(container: FakeContainer) -> None:
    class Full(Notes):
        def __init__(self, session: Session) -> None:
            super().__init__(session, {})
            self.send("lost")
            self.close(3001, "Full")
            self.close(3002, "Twice")

    session = make_session(container, kind=Full)
    assert session.state is CLOSED
    assert container.removed == [session]
    assert container.due == math.inf
    assert poll(session) == [(3001, "Full")]
    assert session.connection.calls == []


def test_a_constructor_that_raises_leaves_nothing_behind(container: FakeContainer) -> None:
    def fail(session: Session) -> Notes:
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match=r"^no database$"):
        make_session(container, kind=fail)
    assert container.due == math.inf
    assert container.removed == []


# The network.


@pytest.mark.parametrize("limit", [POLL, STREAM])
def test_a_second_receiver_is_rejected_and_the_first_untouched(container: FakeContainer, limit: float) -> None:
    session = polled(container)
    first = Receiver(session).attach()
    second = Receiver(session, limit).attach()
    assert second.frames == [STILL_OPEN]
    assert first.frames == []
    session._detach(second)
    session._receiver_lost(second)
    session.send("1")
    assert first.frames == [["1"]]
    assert session.connection.calls == ["open"]


@pytest.mark.parametrize("limit", [POLL, 3])
def test_a_recycled_client_receives_the_messages_queued_meanwhile(container: FakeContainer, limit: float) -> None:
    session = polled(container)
    receiver = Receiver(session, limit).attach()
    session._recycle()
    assert (receiver.recycled, receiver.ended) == (True, True)
    session.send("meanwhile")
    assert poll(session) == [["meanwhile"]]
    assert session.state is OPEN


def test_a_websocket_stays(container: FakeContainer) -> None:
    session = make_session(container, None)
    receiver = stream(session)
    session._recycle()
    assert (receiver.recycled, receiver.ended) == (True, False)
    session.send("x")
    assert receiver.take() == [["x"]]


@pytest.mark.parametrize("state", SessionState)
def test_without_a_receiver_recycle_does_nothing(container: FakeContainer, state: SessionState) -> None:
    session = in_state(state, container)
    session._recycle()
    assert session.state is state


def test_a_client_that_has_left_is_reported_even_while_it_is_recycled(container: FakeContainer) -> None:
    session = polled(container)
    receiver = Receiver(session, POLL).attach()
    receiver.gone = True
    session._recycle()
    assert not receiver.recycled
    receiver.cut()
    assert session.close_code == 1002


def test_a_receiver_whose_client_is_gone_is_noticed_before_the_next_one_is_judged(container: FakeContainer) -> None:
    session = make_session(container)
    first = stream(session)
    first.gone = True
    assert poll(session) == [INTERRUPTED]
    assert session.connection.calls == ["open", INTERRUPTED]
    assert first.frames == []
    assert first.ended


def test_the_next_receiver_after_an_interrupted_one_gets_the_queue_and_then_1002(container: FakeContainer) -> None:
    session = make_session(container)
    first = stream(session)
    session._pause_sending(first)
    session.send("1")
    first.gone = True
    assert poll(session) == [["1"]]
    assert poll(session) == [INTERRUPTED]


def test_a_cut_receiver_ends_the_session(container: FakeContainer) -> None:
    session = make_session(container)
    stream(session).cut()
    assert session.is_closed
    assert session.connection.calls == ["open", INTERRUPTED]
    assert poll(session) == [INTERRUPTED]
    assert poll(session) == [INTERRUPTED]
    container.advance(DISCONNECT_DELAY)
    assert container.removed == [session]


def test_a_request_that_was_cut_before_it_could_listen_ends_the_session(container: FakeContainer) -> None:
    session = polled(container)
    session._request_lost()
    assert (session.close_code, session.close_reason) == (1002, "Connection interrupted")
    assert Receiver(session, 1).attach().take() == [(1002, "Connection interrupted")]


def test_a_request_that_would_not_have_been_held_does_not_end_the_session(container: FakeContainer) -> None:
    session = polled(container)
    session.send("waiting")
    session._request_lost()
    assert not session.is_closed
    assert Receiver(session, 1).attach().take() == [["waiting"]]


def test_a_request_that_was_cut_does_no_harm_while_another_listens(container: FakeContainer) -> None:
    session = make_session(container)
    Receiver(session).attach()
    session._request_lost()
    assert not session.is_closed


def test_a_client_that_closes_says_why(container: FakeContainer) -> None:
    session = make_session(container, None)
    stream(session).cut(4001, "Done")
    assert session.connection.calls == ["open", (4001, "Done")]
    assert session.state is CLOSED


def test_a_websocket_session_waits_for_its_receiver_to_end(container: FakeContainer) -> None:
    session = make_session(container, None)
    receiver = stream(session)
    session.close()
    assert receiver.frames == [GO_AWAY]
    container.advance(1000)
    assert session.state is CLOSING
    receiver.cut(1006, "Connection lost")
    assert session.state is CLOSED
    assert session.connection.calls == ["open", GO_AWAY]
    assert container.removed == [session]


def test_another_address_is_rejected(container: FakeContainer) -> None:
    session = make_session(container)
    stranger = Receiver(session).attach("203.0.113.9")
    assert stranger.frames == [(1008, "Session was opened from another address")]
    assert session.state is CONNECTING
    first = stream(session)
    Receiver(session).attach("203.0.113.9")
    session.send("1")
    assert first.frames == [["1"]]
    session.close()
    assert Receiver(session).attach("203.0.113.9").frames == [(1008, "Session was opened from another address")]
    assert check_receiver(session, "203.0.113.9", "") == "verify_ip"
    assert check_receiver(session, IP, "") is None
    assert session.server.stats.rejected == {"verify_ip": 3}


A, B = "https://a.example", "https://b.example"


@pytest.mark.parametrize(
    ("ours", "others"), [(A, (B, "", "null", f"{A}:8443", A.upper())), ("", (A, "null")), ("null", (A, ""))]
)
def test_receivers_must_name_the_origin_of_the_first_one(
    container: FakeContainer, ours: str, others: tuple[str, ...]
) -> None:
    session = make_session(container)
    first = Receiver(session, 1)
    session._attach(first, IP, ours)
    assert first.frames == ["o"]
    for origin in others:
        stranger = Receiver(session)
        session._attach(stranger, IP, origin)
        assert stranger.frames == [(1008, "Session was opened from another origin")]
        assert check_receiver(session, IP, origin) == "session_origin"
    assert session.server.stats.rejected == {"session_origin": len(others)}
    session.send("x")
    again = Receiver(session, 1)
    session._attach(again, IP, ours)
    assert again.frames == [["x"]]


@pytest.mark.parametrize("is_immediate", [True, False])
def test_messages_of_the_constructor_follow_the_open_frame(container: FakeContainer, is_immediate: bool) -> None:
    class Early(SockJSConnection):
        def __init__(self, session: Session) -> None:
            super().__init__(session)
            self.send("first")
            self.join("lobby")

        def on_open(self, info: ConnectionInfo) -> None:
            self.send("third")

    session = make_session(container, kind=Early, immediate_flush=is_immediate)
    # The client is a member already, although its connection has not been taken over yet.
    container.rooms.publish("lobby", PreparedMessage("second"))
    session._attach(receiver := Receiver(session), IP, A)
    assert receiver.frames == ["o", ["first", "second", "third"]]
    assert session.queued == 0


def test_messages_before_the_session_is_opened_have_a_limit(container: FakeContainer, logged: LogWatch) -> None:
    limits: list[dict[str, Any]] = [{"max_queue_messages": 2}, {"max_queue_bytes": 8}]
    for limit in limits:
        session = make_session(container, **limit)
        for number in range(5):
            session.send(f"no {number}")
        session._receive(["lost"])
        session._attach(receiver := Receiver(session), IP, A)
        assert receiver.frames == ["o", ["no 0", "no 1"]]
    text = logged.take("Discarded a message that was sent before the session was opened").getMessage()
    assert "max_queue_messages (2) or max_queue_bytes" in text


def test_messages_of_a_constructor_that_closes_are_discarded(container: FakeContainer) -> None:
    class Closed(SockJSConnection):
        def __init__(self, session: Session) -> None:
            super().__init__(session)
            self.send("never")
            self.close(4000, "closed")

    session = make_session(container, kind=Closed)
    session._attach(receiver := Receiver(session), IP, A)
    assert receiver.frames == [(4000, "closed")]


def test_a_session_that_its_constructor_closed_has_no_origin(container: FakeContainer) -> None:
    class Closed(SockJSConnection):
        def __init__(self, session: Session) -> None:
            super().__init__(session)
            self.close(4000, "closed")

    session = make_session(container, kind=Closed)
    session._attach(receiver := Receiver(session, 1), IP, A)
    assert receiver.frames == [(4000, "closed")]
    assert not session.server.stats.rejected


def test_posts_must_name_the_origin_of_the_first_one(container: FakeContainer) -> None:
    session = make_session(container)
    session._attach(Receiver(session, 1), IP, A)
    assert not authorize_post(session, IP, B)
    assert not authorize_post(session, IP, "")
    assert authorize_post(session, IP, A)
    assert session.server.stats.rejected == {"session_origin": 2}


def test_a_post_without_an_origin_may_be_the_client_s(container: FakeContainer) -> None:
    session = make_session(container)
    session._attach(Receiver(session, 1), IP, A)
    assert check_receiver(session, IP, None) is None
    assert authorize_post(session, IP)
    assert not authorize_post(session, "203.0.113.9")
    session._attach(again := Receiver(session, 1), IP, None)
    session.send("x")
    assert again.frames == [["x"]]


def test_a_post_without_an_origin_opens_a_session_that_is_no_page_s(container: FakeContainer) -> None:
    session = make_session(container)
    session._attach(Receiver(session, 1), IP, None)
    assert authorize_post(session, IP)
    assert not authorize_post(session, IP, A)
    assert check_receiver(session, IP, A) == "session_origin"
    assert check_receiver(session, IP, "") is None


def test_a_post_without_an_origin_does_not_fix_the_origin_of_posts(container: FakeContainer) -> None:
    session = make_session(container)
    session._attach(Receiver(session, 1), IP, "")
    assert authorize_post(session, IP)
    assert authorize_post(session, IP, A)
    assert authorize_post(session, IP)
    assert not authorize_post(session, IP, B)


def test_the_first_post_fixes_the_origin_if_the_opening_request_cannot(container: FakeContainer) -> None:
    """Scripts and iframes are asked for without one."""
    session = make_session(container)
    session._attach(Receiver(session, 1), IP, "")
    assert authorize_post(session, IP, A)
    assert not authorize_post(session, IP, B)
    assert authorize_post(session, IP, A)
    assert authorize_post(session, IP, "")
    assert check_receiver(session, IP, A) == "session_origin"


def test_a_session_accepts_posts_of_its_client_once_it_is_open(container: FakeContainer) -> None:
    session = make_session(container)
    assert not authorize_post(session, IP)
    stream(session)
    assert authorize_post(session, IP)
    assert not authorize_post(session, "203.0.113.9")
    session.close()
    assert authorize_post(session, IP)


def test_another_address_is_accepted_without_verify_ip(container: FakeContainer) -> None:
    session = make_session(container, verify_ip=False)
    assert check_receiver(session, "203.0.113.9", "") is None
    assert Receiver(session).attach("203.0.113.9").frames == ["o"]


# Time.


def test_heartbeats_come_while_a_client_listens(container: FakeContainer) -> None:
    session = make_session(container)
    receiver = stream(session)
    container.advance(HEARTBEAT_DELAY - 0.001)
    assert receiver.take() == []
    container.advance(0.001)
    assert receiver.take() == ["h"]
    session.send("1")
    container.advance(2 * HEARTBEAT_DELAY)
    assert receiver.take() == [["1"], "h", "h"]


def test_a_heartbeat_ends_a_poll(container: FakeContainer) -> None:
    session = polled(container)
    receiver = Receiver(session, POLL).attach()
    container.advance(HEARTBEAT_DELAY)
    assert receiver.frames == ["h"]
    assert container.due == container.now() + DISCONNECT_DELAY


def test_there_are_no_heartbeats_without_a_receiver(container: FakeContainer) -> None:
    session = polled(container, disconnect_delay=1000)
    container.advance(999)
    assert session.state is OPEN
    assert poll(session) == []
    session.close()
    stream(session)
    container.advance(999)
    assert session.state is CLOSING
    assert container.due == 1999 + 1000


def test_a_client_that_does_not_come_back_is_missed_once(container: FakeContainer) -> None:
    session = polled(container)
    session.send("lost")
    container.advance(DISCONNECT_DELAY - 0.001)
    assert session.state is OPEN
    container.advance(0.001)
    assert session.connection.calls == ["open", TIMED_OUT]
    assert container.removed == [session]
    container.advance(1000)
    assert session.connection.calls == ["open", TIMED_OUT]
    assert poll(session) == [TIMED_OUT]


@pytest.mark.parametrize("ended", [Session._detach, Session._receiver_lost], ids=["detached", "lost"])
def test_a_session_is_over_soon_after_a_long_stream(
    container: FakeContainer, ended: Callable[[Session, Receiver], None]
) -> None:
    session = make_session(container)
    receiver = stream(session)
    container.advance(10)
    ended(session, receiver)
    container.advance(DISCONNECT_DELAY - 0.001)
    assert container.removed == []
    container.advance(0.001)
    assert container.removed == [session]


def test_messages_that_a_client_sent_before_its_timeout_are_delivered(container: FakeContainer) -> None:
    session = polled(container, acts={"on_message": lambda conn, message: Pause()})
    session._receive(["1", "2"])
    container.advance(DISCONNECT_DELAY)
    while not container.is_idle:
        container.turn()
    assert session.connection.calls == ["open", "1", "2", TIMED_OUT]


def test_a_client_that_comes_back_in_time_is_not_missed(container: FakeContainer) -> None:
    session = polled(container)
    for _ in range(5):
        container.advance(DISCONNECT_DELAY - 0.001)
        receiver = Receiver(session, POLL).attach()
        container.advance(DISCONNECT_DELAY)
        session.send("still here")
        assert receiver.frames == [["still here"]]
    assert session.connection.calls == ["open"]


def test_a_client_whose_deadline_passed_in_a_stall_gets_more_time(
    container: FakeContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = polled(container)

    def postpone(owner: Session, now: float) -> bool:
        owner.due = now + 1
        return True

    with monkeypatch.context() as patch:
        patch.setattr(container, "postpone", postpone)
        container.advance(DISCONNECT_DELAY)
    session.send("still here")
    assert poll(session) == [["still here"]]
    container.advance(DISCONNECT_DELAY)
    assert session.connection.calls == ["open", TIMED_OUT]


def test_the_delays_are_settings(container: FakeContainer) -> None:
    session = make_session(container, heartbeat_delay=2, disconnect_delay=3)
    receiver = stream(session)
    container.advance(2)
    assert receiver.frames == ["h"]
    session._detach(receiver)
    container.advance(2.999)
    assert session.state is OPEN
    container.advance(0.001)
    assert session.state is CLOSED


def test_the_class_has_the_path_of_sockjs_tornado_1_0() -> None:
    assert session_package.Session is sockjs_tornado.Session
    assert int(session_package.SessionState.OPEN) == 1
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        session_package.nothing  # noqa: B018
