import asyncio
import math
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from application import LogWatch
from doubles import KeptSession, Notes, Receiver, make_session
from tornado.web import Application

from sockjs_tornado import HTTPServer, Settings, SockJSConnection, SockJSRouter
from sockjs_tornado.observe.stats import Stats
from sockjs_tornado.session.container import SessionContainer
from sockjs_tornado.session.session import Session, SessionState
from sockjs_tornado.session.states import RouterState

Make = Callable[..., KeptSession]


@pytest.fixture
async def container() -> AsyncIterator[SessionContainer]:
    container = SessionContainer(Settings(), Stats(list))
    yield container
    for session in container:
        session.check(math.inf)
    await container.close(3000, "Go away!")


def keep(container: SessionContainer, session_id: str | None = "a", **more: Any) -> KeptSession:
    """Return a session that the container keeps."""
    session = make_session(container, session_id, **more)
    container.add(session, register=True)
    return session


def polled(container: SessionContainer, session_id: str = "a", **more: Any) -> KeptSession:
    """Return an open session of a polling client that is between two polls."""
    session = keep(container, session_id, **more)
    Receiver(session, 1).attach()
    return session


async def test_sessions_are_found_by_their_id(container: SessionContainer) -> None:
    first, second = keep(container, "a"), keep(container, "b")
    assert container.get("a") is first
    assert container.get("b") is second
    assert container.get("c") is None
    assert len(container) == 2
    assert set(container) == {first, second}


async def test_websockets_are_kept_and_not_found(container: SessionContainer) -> None:
    sessions = {keep(container, None), keep(container, None)}
    assert len(container) == 2
    assert set(container) == sessions


async def test_a_session_that_ends_is_forgotten(container: SessionContainer) -> None:
    session, other = keep(container, "a"), keep(container, "b")
    session.close()
    assert container.get("a") is None
    assert list(container) == [other]
    assert session.bucket is None


async def test_a_websocket_that_ends_is_forgotten(container: SessionContainer) -> None:
    Receiver(keep(container, None)).attach().cut()
    assert len(container) == 0


async def test_to_forget_a_session_leaves_another_of_the_same_id(container: SessionContainer) -> None:
    first, second = keep(container, "a"), keep(container, "a")
    container.remove(first)
    assert container.get("a") is second
    container.remove(second)
    assert container.get("a") is None


async def test_sessions_may_end_while_they_are_gone_through(container: SessionContainer) -> None:
    for number in range(5):
        keep(container, str(number))
    for session in container:
        session.close()
    assert len(container) == 0


async def test_a_session_that_its_constructor_closed_is_not_kept(container: SessionContainer) -> None:
    class Closed(SockJSConnection):
        def __init__(self, session: Session) -> None:
            super().__init__(session)
            self.close()

    keep(container, "a", kind=Closed)
    assert container.get("a") is None
    assert len(container) == 0
    assert container._deadlines._timer is None


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, 0.1),
        ({"disconnect_delay": 1}, 0.05),
        ({"heartbeat_delay": 1}, 0.05),
        ({"websocket_ping_interval": 1}, 0.05),
        ({"websocket_ping_interval": 10, "websocket_ping_timeout": 1}, 0.05),
        ({"disconnect_delay": 0.01}, 0.005),
    ],
)
def test_a_bucket_spans_a_twentieth_of_the_shortest_delay(options: dict[str, Any], seconds: float) -> None:
    assert SessionContainer(Settings(**options), Stats(list))._deadlines._resolution == seconds


async def test_a_session_that_times_out_leaves_no_timer(container: SessionContainer) -> None:
    ended = asyncio.Event()
    session = polled(container, acts={"on_close": lambda conn: ended.set()}, disconnect_delay=0.01)
    await ended.wait()
    await asyncio.sleep(0)
    assert session.state is SessionState.CLOSED
    assert len(container) == 0
    assert container._deadlines._timer is None


async def test_heartbeats_come_with_time(container: SessionContainer) -> None:
    beats: asyncio.Queue[str] = asyncio.Queue()

    class Listening(Receiver):
        def send_frame(self, frame: str) -> None:
            beats.put_nowait(frame)

    receiver = Listening(keep(container, heartbeat_delay=0.01)).attach()
    assert [await beats.get() for _ in range(3)] == ["o", "h", "h"]
    receiver.cut()


async def test_call_soon_runs_in_the_next_iteration(container: SessionContainer) -> None:
    called = asyncio.Event()
    container.call_soon(called.set)
    assert not called.is_set()
    await asyncio.sleep(0)
    assert called.is_set()


async def test_a_coroutine_starts_at_once_if_python_supports_it(container: SessionContainer) -> None:
    steps = []
    ended = asyncio.Event()

    async def work() -> None:
        steps.append("began")
        await asyncio.sleep(0)
        steps.append("ended")
        ended.set()

    container.spawn(work())
    assert steps == (["began"] if sys.version_info >= (3, 12) else [])
    await ended.wait()
    assert steps == ["began", "ended"]


async def test_close_sends_every_client_the_close_frame(container: SessionContainer) -> None:
    polling, streaming, websocket, made = (keep(container, name) for name in ("poll", "stream", None, "made"))
    Receiver(polling, 1).attach()
    receivers = [Receiver(polling, 1).attach(), Receiver(streaming).attach(), Receiver(websocket).attach()]
    closing = asyncio.ensure_future(container.close(1001, "Restart"))
    await asyncio.sleep(0)
    assert [receiver.frames[-1] for receiver in receivers] == [(1001, "Restart")] * 3
    assert list(container) == [websocket]
    assert not closing.done()
    receivers[2].cut()
    await closing
    for session in (polling, streaming, websocket):
        assert session.connection.calls == ["open", (1001, "Restart")]
    assert made.connection.calls == []
    assert made.state is SessionState.CLOSED
    assert container._deadlines._timer is None


async def test_close_has_nothing_to_wait_for_without_sessions() -> None:
    container = SessionContainer(Settings(), Stats(list))
    closing = container.close(3000, "Go away!")
    with pytest.raises(StopIteration):
        closing.send(None)
    assert container.state is RouterState.CLOSING


async def test_close_waits_for_late_polls(container: SessionContainer) -> None:
    sessions = [polled(container, name, disconnect_delay=1000) for name in "ab"]
    sessions[0].send("1")
    closing = asyncio.ensure_future(container.close(3000, "Go away!"))
    await asyncio.sleep(0)
    assert Receiver(sessions[0], 1).attach().frames == [["1"]]
    for session in sessions:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not closing.done()
        assert Receiver(session, 1).attach().frames == [(3000, "Go away!")]
    await closing
    assert len(container) == 0


async def test_close_waits_for_a_poll_no_longer_than_disconnect_delay() -> None:
    container = SessionContainer(Settings(disconnect_delay=0.01), Stats(list))
    session = polled(container, disconnect_delay=0.01)
    await container.close(3000, "Go away!")
    assert session.state is SessionState.CLOSED
    assert session.connection.calls == ["open", (3000, "Go away!")]


async def test_close_releases_a_session_whose_deadline_a_stall_has_postponed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sockjs_tornado.session.container.CLOSE_MARGIN", 0)
    container = SessionContainer(Settings(disconnect_delay=0.01), Stats(list))
    session = polled(container, disconnect_delay=1000)
    await container.close(3000, "Go away!")
    assert len(container) == 0
    assert session.state is SessionState.CLOSED
    assert session.connection.calls == ["open", (3000, "Go away!")]


async def test_close_leaves_the_end_of_a_websocket_to_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sockjs_tornado.session.container.CLOSE_MARGIN", 0)
    container = SessionContainer(Settings(disconnect_delay=0.01), Stats(list))
    session = keep(container, None, disconnect_delay=1000)
    receiver = Receiver(session).attach()
    await container.close(3000, "Go away!")
    assert receiver.frames == ["o", (3000, "Go away!")]
    assert list(container) == [session]
    receiver.cut()
    assert len(container) == 0
    assert session.connection.calls == ["open", (3000, "Go away!")]


async def test_close_waits_for_callbacks_that_run(container: SessionContainer) -> None:
    gate = asyncio.Event()
    session = keep(container, acts={"on_message": lambda conn, message: gate.wait()})
    Receiver(session).attach()
    session._receive(["1"])
    closing = asyncio.ensure_future(container.close(3000, "Go away!"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(container) == 0
    assert not closing.done()
    gate.set()
    await closing
    assert session.connection.calls == ["open", "1", (3000, "Go away!")]


async def test_close_waits_for_an_async_on_close(container: SessionContainer) -> None:
    ended = []

    async def on_close(conn: Notes) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ended.append(conn)

    session = keep(container, acts={"on_close": on_close})
    Receiver(session).attach()
    await container.close(3000, "Go away!")
    assert ended == [session.connection]


async def test_close_waits_for_an_on_close_that_follows_a_callback(container: SessionContainer) -> None:
    gate = asyncio.Event()
    ended = []

    async def on_close(conn: Notes) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ended.append(conn)

    session = keep(container, acts={"on_message": lambda conn, message: gate.wait(), "on_close": on_close})
    Receiver(session).attach()
    session._receive(["1"])
    closing = asyncio.ensure_future(container.close(3000, "Go away!"))
    await asyncio.sleep(0)
    gate.set()
    await closing
    assert ended == [session.connection]


@pytest.mark.parametrize("callback", ["on_message", "on_close"])
async def test_close_cancels_a_callback_after_disconnect_delay(logged: LogWatch, callback: str) -> None:
    container = SessionContainer(Settings(disconnect_delay=0.01), Stats(list))
    ended = []

    async def hang(conn: Notes, *args: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(callback)

    session = keep(container, acts={callback: hang})
    Receiver(session).attach()
    session._receive(["x"])
    await container.close(3000, "Go away!")
    assert ended == [callback]
    # on_close has run in any case.
    assert session.connection.calls[-1] == (3000, "Go away!")
    logged.take("Cancelled 1 callbacks that did not end")


async def test_close_waits_for_connections_on_their_way(container: SessionContainer) -> None:
    container.connection_opened()
    container.connection_opened()
    closing = asyncio.ensure_future(container.close(3000, "Go away!"))
    for _ in range(2):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not closing.done()
        container.connection_closed()
    await closing


async def test_close_may_be_called_by_a_callback(container: SessionContainer) -> None:
    closed = asyncio.Event()

    async def on_message(conn: Notes, message: str) -> None:
        await container.close(3000, "Go away!")
        closed.set()

    session = keep(container, acts={"on_message": on_message})
    Receiver(session).attach()
    session._receive(["1"])
    await closed.wait()
    assert session.is_closed


async def test_close_may_be_called_twice_at_once(container: SessionContainer) -> None:
    session = polled(container, disconnect_delay=1000)
    both = asyncio.gather(container.close(3001, "First"), container.close(3002, "Second"))
    await asyncio.sleep(0)
    assert Receiver(session, 1).attach().frames == [(3001, "First")]
    await both
    await container.close(3003, "Third")
    assert session.connection.calls == ["open", (3001, "First")]


async def test_a_session_that_another_one_ends_on_the_next_loop_stays_closed(container: SessionContainer) -> None:
    others: list[KeptSession] = []
    session = keep(container, None, acts={"on_close": lambda connection: others[0].close()})
    Receiver(session).attach()
    others.append(keep(container, "b"))
    container.continue_on_next_loop(asyncio.get_running_loop())
    assert (session.state, others[0].state) == (SessionState.CLOSED, SessionState.CLOSED)
    assert len(container) == 0
    assert container.get("b") is None


def test_attributes_are_few_enough_to_be_stored_without_a_dict() -> None:
    router = SockJSRouter(SockJSConnection, "/echo")
    for instance in (router, router.container, router.stats, HTTPServer(Application(router.urls))):
        assert len(vars(instance)) < 30
