"""Callbacks that keep the next messages of their own client waiting."""

from collections.abc import Callable, Generator
from typing import Any

import pytest
from application import LogWatch
from doubles import FakeContainer, KeptSession, Notes, Receiver, make_session

from sockjs_tornado.multiplex import MultiplexConnection
from sockjs_tornado.session import blocking

DELAY = 5.0
BLOCKED = "has been running for at least 5 s, and messages of its client wait until it ends"


class Gate:
    """An awaitable that ends after it was opened."""

    def __init__(self) -> None:
        self.is_open = False

    def __await__(self) -> Generator[None]:
        while not self.is_open:
            yield


class Stage:
    """A session whose ``on_message`` and ``on_open`` wait, each time for a gate of its own."""

    def __init__(self, container: FakeContainer, *, opens: bool = True, kind: type[Notes] = Notes) -> None:
        self.gates: list[Gate] = []
        acts: dict[str, Callable[..., Any]] = {"on_message": lambda conn, message: self.wait(message)}
        if not opens:
            acts["on_open"] = lambda conn, info: self.wait("open")
        self.container = container
        self.session: KeptSession = make_session(container, kind=lambda session: kind(session, acts))
        self.receiver = Receiver(self.session).attach()

    async def wait(self, message: str) -> None:
        gate = Gate()
        self.gates.append(gate)
        await gate

    def end_callback(self) -> None:
        """End the callback that is running, and begin the next one."""
        self.gates[-1].is_open = True
        self.container.turn()


def assert_reported(log: LogWatch, name: str) -> None:
    record = log.take(BLOCKED)
    assert record.levelname == "WARNING"
    text = record.getMessage()
    assert text.startswith(f"{name} ")
    assert "asyncio.create_task" in text
    assert "max_concurrent_callbacks" in text


@pytest.fixture(autouse=True)
def _logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log the warnings, unlike other tests."""
    monkeypatch.setattr(blocking.logger, "disabled", False)


@pytest.fixture
def container() -> FakeContainer:
    return FakeContainer()


def test_a_callback_that_blocks_messages_is_reported(container: FakeContainer, logged: LogWatch) -> None:
    stage = Stage(container)
    stage.session._receive(["one"])
    container.advance(60)
    # It has blocked nothing so far.
    stage.session._receive(["two"])
    container.advance(DELAY - 0.1)
    assert not logged.records
    container.advance(0.1)
    assert_reported(logged, "Notes.on_message")


def test_messages_of_the_same_frame_wait_as_well(container: FakeContainer, logged: LogWatch) -> None:
    stage = Stage(container)
    stage.session._receive(["one", "two"])
    container.advance(DELAY)
    assert_reported(logged, "Notes.on_message")


def test_an_on_open_that_never_ends_is_reported(container: FakeContainer, logged: LogWatch) -> None:
    stage = Stage(container, opens=False)
    stage.session._receive(["one"])
    container.advance(DELAY)
    assert_reported(logged, "Notes.on_open")


def test_a_class_is_reported_once(container: FakeContainer, logged: LogWatch) -> None:
    class Another(Notes):
        pass

    for kind in (Notes, Notes, Another):
        stage = Stage(container, kind=kind)
        stage.session._receive(["one", "two"])
        container.advance(2 * DELAY)
        stage.end_callback()
        stage.session._receive(["three"])
        container.advance(2 * DELAY)
    assert_reported(logged, "Notes.on_message")
    assert_reported(logged, f"{Another.__qualname__}.on_message")
    assert not logged.records


def test_callbacks_that_end_in_time_are_not_reported(container: FakeContainer, logged: LogWatch) -> None:
    stage = Stage(container)
    for _ in range(20):
        stage.session._receive(["one", "two"])
        container.advance(DELAY - 0.1)
        stage.end_callback()
    assert len(stage.gates) == 21
    # There are messages all the time, and the last callback does not end.
    container.advance(2 * DELAY)
    assert_reported(logged, "Notes.on_message")


def test_a_callback_that_blocks_no_message_is_not_reported(container: FakeContainer, logged: LogWatch) -> None:
    stage = Stage(container)
    stage.session._receive(["one", "two"])
    stage.end_callback()
    container.advance(10 * DELAY)
    assert not logged.records
    # Nothing is left to check, apart from the session itself.
    assert len(container._deadlines) == 1


def test_a_callback_may_wait_for_a_slow_client(container: FakeContainer, logged: LogWatch) -> None:
    stage = Stage(container)
    stage.session._receive(["one", "two"])
    stage.session._pause_sending(stage.receiver)
    container.advance(10 * DELAY)
    assert not logged.records
    stage.session._resume_sending(stage.receiver)
    container.advance(DELAY)
    assert_reported(logged, "Notes.on_message")


def test_a_carrier_may_wait_for_its_channels(container: FakeContainer, logged: LogWatch) -> None:
    assert MultiplexConnection._is_carrier
    stage = Stage(container, kind=type("Carrier", (Notes,), {"_is_carrier": True}))
    stage.session._receive(["one", "two"])
    container.advance(10 * DELAY)
    assert not logged.records


def test_a_stalled_event_loop_is_not_reported(
    container: FakeContainer, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(container)
    stage.session._receive(["one", "two"])
    postponed = []

    def postpone(owner: Any, now: float) -> bool:
        postponed.append(owner)
        owner.due = now + 1
        return True

    with monkeypatch.context() as patch:
        patch.setattr(container, "postpone", postpone)
        container.advance(DELAY)
    assert len(postponed) == 1
    assert not logged.records
    container.advance(1)
    assert_reported(logged, "Notes.on_message")


def test_nothing_is_watched_after_the_end_of_the_session(container: FakeContainer) -> None:
    stage = Stage(container)
    stage.session._receive(["one", "two"])
    stage.session.close()
    stage.end_callback()
    stage.session.check(stage.session.due)
    assert not container._deadlines
