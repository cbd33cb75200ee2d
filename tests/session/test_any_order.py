"""A session with events of its receivers in any order, compared with a model."""

import itertools
import math
from collections.abc import Callable
from typing import Any

from doubles import FakeContainer, Notes, Pause, Receiver, make_session
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

from sockjs_tornado.protocol import PreparedMessage
from sockjs_tornado.session.session import Session
from sockjs_tornado.session.states import RouterState

from .receivers import CLOSED, CLOSING, CONNECTING, DISCONNECT_DELAY, HEARTBEAT_DELAY, OPEN, STILL_OPEN

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
        self.container = FakeContainer(eager=eager)
        acts: dict[str, Callable[..., Any]] = {
            "on_open": self.on_open,
            "on_message": self.on_message,
            "on_dropped": self.on_dropped,
            "on_close": self.on_close,
        }
        settings: dict[str, Any] = {"max_queue_messages": 2, "slow_consumer": "drop_oldest"} if lossy else {}
        self.session = make_session(self.container, session_id, acts=acts, immediate_flush=immediate_flush, **settings)
        self.connection = self.session.connection
        self.receivers: list[Receiver] = []
        self.numbers = itertools.count()
        self.running = False
        # The model: what was given to the session, and whether it may keep what it has been given from its application.
        self.sent: list[str] = []
        self.posted: list[str] = []
        self.dropped = False
        # It may report that callbacks block, or that messages are discarded, which depends on the order of events.
        self.container.log.write_once = lambda *_: True  # type: ignore[method-assign]
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
        settings = self.session._settings
        is_full = (
            len(self.session._outbox) >= settings.max_queue_messages
            or self.session.queued + len(text) > settings.max_queue_bytes
        )
        if self.session.state is OPEN or (self.session.state is CONNECTING and not is_full):
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
        assert self.current is not None
        self.current.cut()

    @precondition(lambda self: self.current is not None and self.is_http)
    @rule()
    def the_client_leaves_unnoticed(self) -> None:
        assert self.current is not None
        self.current.gone = True

    @precondition(lambda self: self.current is not None)
    @rule()
    def the_buffer_is_full(self) -> None:
        assert self.current is not None
        self.session._pause_sending(self.current)

    @precondition(lambda self: self.current is not None)
    @rule()
    def the_next_write_fills_the_buffer(self) -> None:
        assert self.current is not None
        self.current.full = True

    @precondition(lambda self: self.current is not None)
    @rule()
    def the_buffer_drains(self) -> None:
        assert self.current is not None
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
            self.container.advance(seconds)

    @rule()
    def the_loop_turns(self) -> None:
        self.container.turn()

    @precondition(lambda self: len(self.receivers) > 3)
    @rule()
    def the_server_shuts_down(self) -> None:
        self.container.state = RouterState.CLOSING
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
        if self.current is not None and self.container.is_idle and not self.session._outbox_above_high_water:
            assert waiting == 0

    @invariant()
    def the_application_is_told_of_every_loss(self) -> None:
        lost = self.session._stats.messages_dropped
        assert self.told <= lost
        # What is lost while it is told of a loss is told with the next one.
        assert (self.told > 0) == (lost > 0) or not self.container.is_idle

    @invariant()
    def messages_come_in_in_order_and_none_twice(self) -> None:
        heard = [entry for entry in self.connection.calls if isinstance(entry, str) and entry != "open"]
        assert heard == self.posted[: len(heard)]
        if self.container.is_idle and not self.dropped:
            assert heard == self.posted

    @invariant()
    def the_application_hears_of_beginning_and_end_once(self) -> None:
        heard = self.connection.calls
        assert heard.count("open") == sum(receiver.frames.count("o") for receiver in self.receivers)
        assert heard[:1] in ([], ["open"])
        ends = [index for index, entry in enumerate(heard) if isinstance(entry, tuple)]
        if self.session.is_closed and self.container.is_idle and heard:
            assert ends == [len(heard) - 1]
        else:
            assert ends in ([], [len(heard) - 1])
            assert not ends or self.session.is_closed

    @invariant()
    def it_is_forgotten_once_and_for_all(self) -> None:
        assert self.container.removed == ([self.session] if self.session.state is CLOSED else [])
        if self.session.state is CLOSED:
            assert self.container.due == math.inf

    def written(self) -> list[Any]:
        # Receivers do not overlap, so that their order is that of what was written.
        texts: list[Any] = []
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
        self.container.advance(1000)
        for receiver in self.receivers:
            self.session._receiver_lost(receiver)
        assert self.session.state is CLOSED
        self.each_receiver_hears_the_protocol()
        self.messages_come_in_in_order_and_none_twice()
        self.the_application_hears_of_beginning_and_end_once()
        self.it_is_forgotten_once_and_for_all()

    def finish_callbacks(self) -> None:
        while not self.container.is_idle:
            self.container.turn()


def test_any_order_of_events() -> None:
    run_state_machine_as_test(
        AnyOrder,
        settings=hypothesis_settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
