"""When a session sends its messages, and which of them leave together."""

import pytest
from doubles import FakeContainer, Notes, Pause, Receiver, make_session

from sockjs_tornado.protocol import PreparedMessage

from .receivers import GO_AWAY, POLL, STREAM, echo, poll, polled, stream

# Receiving and sending.


@pytest.mark.parametrize("limit", [POLL, STREAM])
def test_the_callbacks_of_a_session_run_in_order(container: FakeContainer, limit: float) -> None:
    session = make_session(container)
    Receiver(session, limit).attach()
    session._receive(["1", "2"])
    session._receive([])
    session._receive(["3"])
    session.close()
    assert session.connection.calls == ["open", "1", "2", "3", GO_AWAY]


def test_a_message_is_written_at_once_if_a_receiver_is_attached(container: FakeContainer) -> None:
    session = make_session(container)
    receiver = stream(session)
    session.send("1")
    assert receiver.take() == [["1"]]
    session.send("2")
    assert receiver.take() == [["2"]]


def test_messages_sent_without_a_receiver_leave_together(container: FakeContainer) -> None:
    session = polled(container)
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


def test_messages_sent_while_a_batch_is_received_leave_together(container: FakeContainer) -> None:
    def answer(conn: Notes, message: str) -> None:
        conn.send(f"{message}a")
        conn.send(f"{message}b")

    session = make_session(container, acts={"on_message": answer})
    receiver = stream(session)
    session._receive(["1", "2", "3"])
    assert receiver.frames == [["1a", "1b", "2a", "2b", "3a", "3b"]]


def test_messages_of_an_async_callback_before_its_first_await_leave_with_the_batch(container: FakeContainer) -> None:
    async def answer(conn: Notes, message: str) -> None:
        conn.send(f"{message}a")
        await Pause()
        conn.send(f"{message}b")

    session = make_session(container, acts={"on_message": answer})
    receiver = stream(session)
    session._receive(["1", "2"])
    assert receiver.take() == [["1a"]]
    container.turn()
    assert receiver.take() == [["1b"], ["2a"]]


def test_a_reply_to_a_polling_client_is_one_frame(container: FakeContainer) -> None:
    session = make_session(container, acts={"on_message": echo})
    poll(session)
    receiver = Receiver(session, POLL).attach()
    session._receive(["1", "2"])
    assert receiver.frames == [["1", "2"]]


def test_messages_to_another_session_are_not_held_back_by_a_batch(container: FakeContainer) -> None:
    other = make_session(container)
    receiver = stream(other)
    seen = []

    def tell(conn: Notes, message: str) -> None:
        other.send(message)
        seen.append(receiver.take())

    session = make_session(container, acts={"on_message": tell})
    stream(session)
    session._receive(["1", "2"])
    assert seen == [[["1"]], [["2"]]]


def test_a_stream_that_is_full_is_followed_by_the_next_one(container: FakeContainer) -> None:
    session = make_session(container)
    first = Receiver(session, 3).attach()
    for message in "abc":
        session.send(message)
    assert first.frames == ["o", ["a"], ["b"]]
    second = stream(session)
    session.send("d")
    assert second.frames == [["d"]]


def test_bytes_are_for_receivers_of_bytes(container: FakeContainer) -> None:
    raw, framed = make_session(container, None), make_session(container, None)
    assert not raw._accepts_bytes
    Receiver(raw, binary=True).attach()
    stream(framed)
    assert (raw._accepts_bytes, framed._accepts_bytes) == (True, False)
    raw.close()
    assert raw._accepts_bytes


# immediate_flush.


def test_without_immediate_flush_messages_wait_until_the_next_iteration(container: FakeContainer) -> None:
    session = make_session(container, immediate_flush=False)
    receiver = stream(session)
    session.send("1")
    session.send("2")
    session._send_prepared(PreparedMessage("3"))
    assert receiver.frames == []
    assert len(container._soon) == 1
    container.turn()
    assert receiver.take() == [["1", "2", "3"]]
    assert container.is_idle
    session.send("4")
    container.turn()
    assert receiver.take() == [["4"]]


def test_without_immediate_flush_a_reply_leaves_with_its_batch(container: FakeContainer) -> None:
    session = make_session(container, immediate_flush=False, acts={"on_message": echo})
    receiver = stream(session)
    session.send("0")
    session._receive(["1", "2"])
    assert receiver.take() == [["0", "1", "2"]]
    container.turn()
    assert receiver.take() == []


def test_without_immediate_flush_messages_of_an_iteration_within_a_batch_stay_together(
    container: FakeContainer,
) -> None:
    def answer(conn: Notes, message: str) -> None:
        conn.send(message)
        container.turn()

    session = make_session(container, immediate_flush=False, acts={"on_message": answer})
    receiver = stream(session)
    session.send("0")
    session._receive(["1", "2"])
    assert receiver.take() == [["0", "1", "2"]]


def test_without_immediate_flush_nothing_is_lost_between_polls(container: FakeContainer) -> None:
    session = polled(container, immediate_flush=False)
    session.send("1")
    container.turn()
    session.send("2")
    assert poll(session) == [["1", "2"]]
    container.turn()
    receiver = Receiver(session, POLL).attach()
    session.send("3")
    container.turn()
    assert receiver.frames == [["3"]]


def test_without_immediate_flush_a_close_does_not_wait(container: FakeContainer) -> None:
    session = make_session(container, immediate_flush=False)
    receiver = stream(session)
    session.send("1")
    session.close()
    assert receiver.frames == [["1"], GO_AWAY]
    container.turn()
    assert receiver.frames == [["1"], GO_AWAY]


# Prepared messages.


def test_a_prepared_message_is_handed_on_as_it_is(container: FakeContainer) -> None:
    session = make_session(container)
    receiver = stream(session)
    message = PreparedMessage("1")
    session._send_prepared(message)
    assert receiver.frames == [message]


def test_a_prepared_message_stands_in_line_behind_queued_ones(container: FakeContainer) -> None:
    session = polled(container)
    session._send_prepared(PreparedMessage("1"))
    session.send("2")
    session._send_prepared(PreparedMessage("3"))
    assert poll(session) == [["1", "2", "3"]]


def test_a_prepared_message_stands_in_line_within_a_batch(container: FakeContainer) -> None:
    def answer(conn: Notes, message: str) -> None:
        conn.send("before")
        conn.session._send_prepared(PreparedMessage(message))
        conn.send("behind")

    session = make_session(container, acts={"on_message": answer})
    receiver = stream(session)
    session._receive(["1"])
    assert receiver.frames == [["before", "1", "behind"]]


def test_a_prepared_message_waits_while_the_receiver_is_paused(container: FakeContainer) -> None:
    session = make_session(container)
    receiver = stream(session)
    session._pause_sending(receiver)
    session._send_prepared(PreparedMessage("1"))
    session.send("2")
    assert receiver.frames == []
    session._resume_sending(receiver)
    assert receiver.frames == [["1", "2"]]
