import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from application import LogWatch, exception_of
from doubles import FakeContainer, KeptSession, Notes, Receiver, make_session
from tornado.web import HTTPError

from sockjs_tornado import ConnectionClosed
from sockjs_tornado.session.session import Session
from sockjs_tornado.wire.time_budget import TimeBudget

GO_AWAY = (3000, "Go away!")
INTERRUPTED = (1002, "Connection interrupted")
INTERNAL_ERROR = (1011, "Internal error")

Act = Callable[..., Any]


class LoopContainer(FakeContainer):
    """A container whose coroutines run as tasks of the event loop.

    Args:
        eager: Whether they start at once, as from Python 3.12 on.
    """

    def __init__(self, *, eager: bool) -> None:
        super().__init__(eager=eager)
        self.tasks: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._eager:
            try:
                waits_for = coroutine.send(None)
            except StopIteration:
                return
            coroutine = _Started(coroutine, waits_for).finish()
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def settle(self) -> None:
        """Wait until no callback is running any more."""
        while self.tasks:
            await asyncio.wait(self.tasks)


class _Started:
    """The rest of a coroutine that waits for its first future."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Any:
        waits_for = self._waits_for
        while True:
            try:
                result = yield waits_for
            except BaseException as error:
                step: tuple[Callable[[Any], Any], Any] = self._coroutine.throw, error
            else:
                step = self._coroutine.send, result
            try:
                waits_for = step[0](step[1])
            except StopIteration:
                return

    async def finish(self) -> None:
        await self


@pytest.fixture(params=[False, True], ids=["lazy tasks", "eager tasks"])
async def container(request: pytest.FixtureRequest) -> AsyncIterator[LoopContainer]:
    container = LoopContainer(eager=request.param)
    yield container
    await container.settle()


def opened(container: LoopContainer, session_id: str | None = None, **acts: Act) -> tuple[KeptSession, Receiver]:
    """Return an open session and its receiver."""
    session = make_session(container, session_id, acts=acts)
    return session, Receiver(session).attach()


def plainly(act: Act) -> Act:
    return act


def later(act: Act) -> Act:
    """Return an ``async def`` that does the same after a while."""

    async def wait_and_act(*args: Any) -> Any:
        await asyncio.sleep(0)
        return act(*args)

    return wait_and_act


def at_once(act: Act) -> Act:
    """Return an ``async def`` that does the same without waiting for anything."""

    async def act_at_once(*args: Any) -> Any:
        return act(*args)

    return act_at_once


def awaitably(act: Act) -> Act:
    """Return a plain function whose result is awaited."""

    def act_awaitably(*args: Any) -> Any:
        return at_once(act)(*args)

    return act_awaitably


any_way = pytest.mark.parametrize("way", [plainly, later, at_once, awaitably])


def nothing(*args: Any) -> None:
    pass


def fail(*args: Any) -> None:
    raise LookupError("the application's own fault")


# Order.


@any_way
async def test_callbacks_run_in_order_one_at_a_time(container: LoopContainer, way: Callable[[Act], Act]) -> None:
    running: list[str] = []

    def act(name: str) -> Act:
        whole = way(nothing)

        def begin(conn: Notes, *what: Any) -> Any:
            assert running == [], f"{name} began within {running}"
            result = whole(conn, *what)
            if result is None:
                return None
            running.append(name)

            async def finish() -> None:
                await result
                running.remove(name)

            return finish()

        return begin

    session, receiver = opened(container, None, **{name: act(name) for name in ("on_open", "on_message", "on_close")})
    session._receive(["1", "2"])
    session._receive(["3"])
    receiver.cut()
    await container.settle()
    assert session.connection.calls == ["open", "1", "2", "3", INTERRUPTED]


async def test_messages_that_come_while_a_callback_runs_wait_for_it(container: LoopContainer) -> None:
    gates = {name: asyncio.Event() for name in ("open", "1", "2", "3")}
    began: asyncio.Queue[str] = asyncio.Queue()

    async def on_open(conn: Notes, info: Any) -> None:
        began.put_nowait("open")
        await gates["open"].wait()

    async def on_message(conn: Notes, message: str) -> None:
        began.put_nowait(message)
        await gates[message].wait()

    session, _ = opened(container, on_open=on_open, on_message=on_message)
    session._receive(["1", "2"])
    session._receive(["3"])
    for name in gates:
        assert await began.get() == name
        assert session.connection.calls[-1] == name
        assert began.empty()
        gates[name].set()
    await container.settle()
    assert session.connection.calls == ["open", "1", "2", "3"]


async def test_after_an_async_callback_plain_ones_go_on(container: LoopContainer) -> None:
    def on_message(conn: Notes, message: str) -> Any:
        return asyncio.sleep(0) if message == "1" else None

    session, _ = opened(container, on_message=on_message)
    session._receive(["1", "2"])
    session._receive(["3"])
    await container.settle()
    session._receive(["4"])
    assert session.connection.calls == ["open", "1", "2", "3", "4"]


async def test_a_message_that_a_plain_callback_brings_about_waits_for_its_end(container: LoopContainer) -> None:
    within: list[Any] = []

    def on_message(conn: Notes, message: str) -> None:
        if message == "1":
            session._receive(["2"])
            within.append(list(conn.calls))

    session, _ = opened(container, on_message=on_message)
    session._receive(["1"])
    session._receive(["3"])
    await container.settle()
    assert within == [["open", "1"]]
    assert session.connection.calls == ["open", "1", "2", "3"]


async def test_on_close_waits_for_what_is_running(container: LoopContainer) -> None:
    gate = asyncio.Event()
    session, _ = opened(container, on_message=lambda conn, message: gate.wait())
    session._receive(["1"])
    session.close()
    assert session.connection.calls == ["open", "1"]
    gate.set()
    await container.settle()
    assert session.connection.calls == ["open", "1", GO_AWAY]


async def test_waiting_messages_are_counted_until_they_are_delivered(container: LoopContainer) -> None:
    gates = {message: asyncio.Event() for message in ("1", "22", "333")}
    began: asyncio.Queue[str] = asyncio.Queue()

    async def on_message(conn: Notes, message: str) -> None:
        began.put_nowait(message)
        await gates[message].wait()

    session, receiver = opened(container, on_message=on_message)
    callbacks = session._callbacks
    share = 64
    assert callbacks.backlog == 0
    session._receive(["1", "22"])
    assert callbacks.backlog == 2 + share
    session._receive(["333"])
    receiver.reading = False
    for message, backlog, reading in (("1", 5 + 2 * share, False), ("22", 3 + share, False), ("333", 0, True)):
        assert await began.get() == message
        assert callbacks.backlog == backlog
        assert receiver.reading == reading
        gates[message].set()
    await container.settle()
    session._receive(["1", "22", "333"])
    await container.settle()
    assert callbacks.backlog == 0


async def test_dropped_messages_are_no_longer_counted(container: LoopContainer) -> None:
    gate = asyncio.Event()
    session, _ = opened(container, on_message=lambda conn, message: gate.wait())
    session._receive(["1", "2"])
    assert session._callbacks.backlog > 0
    session.close()
    assert session._callbacks.backlog == 0
    gate.set()


async def test_sessions_do_not_wait_for_each_other(container: LoopContainer) -> None:
    gate = asyncio.Event()
    busy, _ = opened(container, on_message=lambda conn, message: gate.wait())
    other, _ = opened(container, on_message=later(nothing))
    busy._receive(["1", "2"])
    other._receive(["3", "4"])
    others = asyncio.ensure_future(asyncio.wait(container.tasks, return_when=asyncio.FIRST_COMPLETED))
    await others
    assert other.connection.calls == ["open", "3", "4"]
    assert busy.connection.calls == ["open", "1"]
    gate.set()


async def test_a_result_that_is_not_awaitable_means_nothing(container: LoopContainer) -> None:
    session, _ = opened(
        container, on_open=lambda conn, info: True, on_message=lambda conn, message: False, on_close=lambda conn: False
    )
    session._receive(["1", "2"])
    session.close()
    assert session.connection.calls == ["open", "1", "2", GO_AWAY]


async def test_any_awaitable_is_awaited(container: LoopContainer) -> None:
    futures = {message: asyncio.get_running_loop().create_future() for message in "12"}
    began: asyncio.Queue[str] = asyncio.Queue()

    def on_message(conn: Notes, message: str) -> Awaitable[object]:
        began.put_nowait(message)
        return futures[message]

    session, _ = opened(container, on_message=on_message)
    session._receive(["1", "2"])
    assert await began.get() == "1"
    assert began.empty()
    futures["1"].set_result(True)
    assert await began.get() == "2"
    session.close()
    assert session.connection.calls == ["open", "1", "2"]
    futures["2"].set_result(False)
    await container.settle()
    assert session.connection.calls == ["open", "1", "2", GO_AWAY]


# Letting in and rejecting.


@any_way
@pytest.mark.parametrize("answer", [None, True, 0, "", "no"])
async def test_on_open_lets_in_with_anything_but_false(
    container: LoopContainer, way: Callable[[Act], Act], answer: Any, logged: LogWatch
) -> None:
    seen = []

    def let_in(conn: Notes, info: Any) -> Any:
        seen.append(conn.session.is_accepted)
        return answer

    session, receiver = opened(container, on_open=way(let_in))
    session._receive(["1"])
    await container.settle()
    assert receiver.frames == ["o"]
    assert session.connection.calls == ["open", "1"]
    assert seen == [False]
    assert session.is_accepted
    if answer is not None and answer is not True:
        logged.take("on_open returned a value of type")


@any_way
@pytest.mark.parametrize("left", [False, True], ids=["client stays", "client leaves"])
async def test_on_open_rejects_with_false_before_any_message(
    container: LoopContainer, way: Callable[[Act], Act], left: bool
) -> None:
    session, receiver = opened(container, on_open=way(lambda conn, info: False))
    session._receive(["1", "2"])
    if left and not session.is_closed:
        receiver.cut()
    await container.settle()
    assert session.connection.calls == ["open", (session.close_code, session.close_reason)]
    assert receiver.frames[1:] in ([GO_AWAY], [])
    assert session.is_closed
    assert not session.is_accepted


@any_way
async def test_on_open_rejects_silently_with_an_http_error(container: LoopContainer, way: Callable[[Act], Act]) -> None:
    def reject(conn: Notes, info: Any) -> None:
        raise HTTPError(403)

    session, receiver = opened(container, on_open=way(reject))
    session._receive(["1"])
    await container.settle()
    assert receiver.frames == ["o", GO_AWAY]
    assert session.connection.calls == ["open", GO_AWAY]
    assert not session.is_accepted


async def test_a_client_that_disconnected_while_on_open_awaited_it_was_not_accepted(container: LoopContainer) -> None:
    async def greet(conn: Notes, info: Any) -> None:
        await conn.send("welcome")
        conn.calls.append("never")

    session = make_session(container, None, acts={"on_open": greet})
    receiver = Receiver(session)
    receiver.full = True
    receiver.attach()
    session._receive(["1"])
    receiver.cut()
    await container.settle()
    assert session.connection.calls == ["open", INTERRUPTED]


# What fails.


async def check_failure(container: LoopContainer, logged: LogWatch, name: str, opening: Any, calls: list[Any]) -> None:
    """Check that the callback of this name has failed, and that its session is closed after these calls."""
    session, receiver = opening
    await container.settle()
    record = logged.take(f"{name} of <KeptSession 1 xhr ")
    assert record.levelname == "ERROR"
    assert type(exception_of(record)) is LookupError
    end = GO_AWAY if name == "on_close" else INTERNAL_ERROR
    assert receiver.frames == ["o", end]
    assert session.connection.calls == [*calls, end]


@any_way
async def test_an_exception_in_on_open_is_logged_and_rejects(
    container: LoopContainer, way: Callable[[Act], Act], logged: LogWatch
) -> None:
    session, _ = opening = opened(container, on_open=way(fail))
    session._receive(["1"])
    await check_failure(container, logged, "on_open", opening, ["open"])


@any_way
async def test_an_exception_in_on_close_after_one_in_on_open_does_not_hide_it(
    container: LoopContainer, way: Callable[[Act], Act], logged: LogWatch
) -> None:
    def use_what_is_missing(connection: Any) -> None:
        connection.missing.discard(connection)

    session, _ = opened(container, on_open=way(fail), on_close=way(use_what_is_missing))
    await container.settle()
    record = logged.take("on_open of <KeptSession 1 xhr ")
    assert type(exception_of(record)) is LookupError
    record = logged.take("on_close of <KeptSession 1 xhr ")
    assert record.exc_info is None
    assert record.levelname == "ERROR"
    assert (
        " failed, too, after on_open had failed: AttributeError: 'Notes' object has no attribute" in record.getMessage()
    )
    assert f"({__file__}:{use_what_is_missing.__code__.co_firstlineno + 1})" in record.getMessage()
    assert session._stats.callback_errors == {"on_open": 1, "on_close": 1}


@any_way
async def test_an_exception_in_on_message_is_logged_and_closes(
    container: LoopContainer, way: Callable[[Act], Act], logged: LogWatch
) -> None:
    session, _ = opening = opened(container, on_message=way(fail))
    session._receive(["1", "2"])
    session._receive(["3"])
    await check_failure(container, logged, "on_message", opening, ["open", "1"])


@any_way
async def test_an_exception_in_a_message_that_waited_is_logged_and_closes(
    container: LoopContainer, way: Callable[[Act], Act], logged: LogWatch
) -> None:
    failing = way(fail)

    def on_message(conn: Notes, message: str) -> Any:
        return asyncio.sleep(0) if message == "1" else failing()

    session, _ = opening = opened(container, on_message=on_message)
    session._receive(["1", "2", "3"])
    await check_failure(container, logged, "on_message", opening, ["open", "1", "2"])


@any_way
async def test_an_exception_in_on_close_is_logged_and_changes_nothing(
    container: LoopContainer, way: Callable[[Act], Act], logged: LogWatch
) -> None:
    session, _ = opening = opened(container, on_close=way(fail))
    session.close()
    await check_failure(container, logged, "on_close", opening, ["open"])


@any_way
async def test_a_failure_touches_no_other_session(
    container: LoopContainer, way: Callable[[Act], Act], logged: LogWatch
) -> None:
    other, receiver = opened(container)
    session, _ = opened(container, on_message=way(fail))
    session._receive(["1"])
    other._receive(["1"])
    await container.settle()
    logged.take("on_message of")
    assert receiver.frames == ["o"]
    assert other.connection.calls == ["open", "1"]


@any_way
@pytest.mark.parametrize("name", ["on_open", "on_message", "on_close"])
async def test_a_cancellation_within_a_callback_is_a_failure_like_others(
    container: LoopContainer, way: Callable[[Act], Act], name: str, logged: LogWatch
) -> None:
    def cancelled(*args: Any) -> None:
        raise asyncio.CancelledError

    session, receiver = opened(container, None, **{name: way(cancelled)})
    session._receive(["1"])
    session._receive(["2"])
    await container.settle()
    session.close()
    await container.settle()
    assert type(exception_of(logged.take(f"{name} of <KeptSession 1 xhr "))) is asyncio.CancelledError
    end = GO_AWAY if name == "on_close" else INTERNAL_ERROR
    assert receiver.frames == ["o", end]
    assert (
        session.connection.calls
        == {
            "on_open": ["open", end],
            "on_message": ["open", "1", end],
            "on_close": ["open", "1", "2", end],
        }[name]
    )


async def test_a_cancelled_helper_does_not_end_the_others(container: LoopContainer, logged: LogWatch) -> None:
    helper = asyncio.get_running_loop().create_future()

    async def wait_for_helper(conn: Notes, message: str) -> None:
        await helper

    session, _ = opened(container, on_message=wait_for_helper)
    session._receive(["1", "2"])
    helper.cancel()
    await container.settle()
    logged.take("on_message of")
    assert session.connection.calls == ["open", "1", INTERNAL_ERROR]


async def test_a_cancellation_within_a_plain_callback_needs_no_task(container: LoopContainer, logged: LogWatch) -> None:
    def cancelled(conn: Notes, message: str) -> None:
        raise asyncio.CancelledError

    session, receiver = opened(container, on_message=cancelled)
    # As from an asyncio protocol.
    asyncio.get_running_loop().call_soon(session._receive, ["1"])
    await asyncio.sleep(0)
    logged.take("on_message of")
    assert receiver.frames == ["o", INTERNAL_ERROR]


async def test_a_failure_of_a_callback_that_is_cancelled_is_logged(container: LoopContainer, logged: LogWatch) -> None:
    began = asyncio.Event()

    async def fail_in_the_end(conn: Notes, message: str) -> None:
        began.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            fail()

    session, _ = opened(container, on_message=fail_in_the_end)
    session._receive(["1"])
    await began.wait()
    await asyncio.sleep(0)
    for task in container.tasks:
        task.cancel()
    await container.settle()
    assert type(exception_of(logged.take("on_message of"))) is LookupError
    assert session.close_code == 1011


async def test_a_callback_that_is_cancelled_itself_ends_quietly(container: LoopContainer) -> None:
    began = asyncio.Event()

    async def wait_for_ever(conn: Notes, message: str) -> None:
        began.set()
        await asyncio.get_running_loop().create_future()

    session, receiver = opened(container, on_message=wait_for_ever)
    session._receive(["1", "2"])
    await began.wait()
    await asyncio.sleep(0)
    # As when an event loop ends.
    for task in container.tasks:
        task.cancel()
    await container.settle()
    assert receiver.frames == ["o", (1001, "Going away")]
    assert session.connection.calls == ["open", "1", (1001, "Going away")]


@any_way
async def test_an_http_error_after_on_open_is_logged(
    container: LoopContainer, way: Callable[[Act], Act], logged: LogWatch
) -> None:
    def reject(conn: Notes, message: str) -> None:
        raise HTTPError(403)

    session, _ = opened(container, on_message=way(reject))
    session._receive(["1"])
    await container.settle()
    assert type(exception_of(logged.take("on_message of"))) is HTTPError
    assert session.close_code == 1011


@any_way
async def test_connections_that_close_each_other_in_on_close_do_not_exhaust_the_stack(
    container: LoopContainer, way: Callable[[Act], Act]
) -> None:
    closed: list[str] = []

    def close_the_next(conn: Notes) -> None:
        closed.append(conn.id)
        for following in sessions[sessions.index(conn.session) + 1 :][:1]:
            following.close()
            assert following.is_closed

    sessions: list[Session] = [opened(container, on_close=way(close_the_next))[0] for _ in range(400)]
    labels = [session.label for session in sessions]
    sessions[0].close()
    while container.tasks:
        await container.settle()
    assert closed == labels
    assert all(session.is_closed for session in sessions)


@any_way
async def test_another_connection_that_closed_does_no_harm_to_this_one(
    container: LoopContainer, way: Callable[[Act], Act]
) -> None:
    def tell_another(conn: Notes, message: str) -> None:
        raise ConnectionClosed(1002, "Another connection's")

    session, _ = opened(container, on_message=way(tell_another))
    session._receive(["1"])
    await container.settle()
    assert not session.is_closed


@any_way
async def test_a_client_is_rejected_if_on_open_raises_because_another_connection_closed(
    container: LoopContainer, way: Callable[[Act], Act], logged: LogWatch
) -> None:
    def tell_another(conn: Notes, info: Any) -> None:
        raise ConnectionClosed(1002, "Another connection's")

    session, receiver = opened(container, on_open=way(tell_another))
    session._receive(["1"])
    await container.settle()
    assert type(exception_of(logged.take("on_open of"))) is ConnectionClosed
    assert receiver.frames == ["o", INTERNAL_ERROR]
    assert session.connection.calls == ["open", INTERNAL_ERROR]
    assert not session.is_accepted


def test_an_exception_in_the_constructor_is_the_callers() -> None:
    def make(session: Session) -> Notes:
        raise LookupError("the application's own fault")

    with pytest.raises(LookupError, match=r"^the application's own fault$"):
        make_session(FakeContainer(), kind=make)


# A client that leaves.


@any_way
async def test_messages_that_a_client_sent_before_it_left_are_delivered(
    container: LoopContainer, way: Callable[[Act], Act]
) -> None:
    session, receiver = opened(container, on_open=later(nothing), on_message=way(nothing))
    session._receive(["1", "2"])
    session._receive(["3"])
    receiver.cut()
    await container.settle()
    assert session.connection.calls == ["open", "1", "2", "3", INTERRUPTED]


async def test_an_echo_that_awaits_a_disconnected_client_raises_nothing_and_receives_the_rest(
    container: LoopContainer,
) -> None:
    async def echo(conn: Notes, message: str) -> None:
        await conn.send(message)
        conn.calls.append("never")

    session, receiver = opened(container, on_message=echo)
    session._pause_sending(receiver)
    session._receive(["1", "2", "3"])
    receiver.cut()
    await container.settle()
    assert session.connection.calls == ["open", "1", "2", "3", INTERRUPTED]


async def test_waiting_messages_are_dropped_when_the_application_closes(container: LoopContainer) -> None:
    gate = asyncio.Event()
    session, _ = opened(container, on_message=lambda conn, message: gate.wait())
    session._receive(["1", "2"])
    session._receive(["3"])
    session.close()
    gate.set()
    await container.settle()
    assert session.connection.calls == ["open", "1", GO_AWAY]


@any_way
async def test_waiting_messages_are_dropped_when_a_callback_closes(
    container: LoopContainer, way: Callable[[Act], Act]
) -> None:
    session, _ = opened(container, on_message=way(lambda conn, message: conn.close()))
    session._receive(["1", "2"])
    session._receive(["3"])
    await container.settle()
    assert session.connection.calls == ["open", "1", GO_AWAY]


async def test_waiting_messages_are_dropped_when_a_callback_closes_and_then_awaits(container: LoopContainer) -> None:
    def close_and_wait(conn: Notes, message: str) -> Any:
        conn.close()
        return asyncio.sleep(0)

    session, _ = opened(container, on_message=close_and_wait)
    session._receive(["1", "2"])
    await container.settle()
    assert session.connection.calls == ["open", "1", GO_AWAY]


async def test_waiting_messages_are_dropped_when_the_application_closes_after_the_client_left(
    container: LoopContainer,
) -> None:
    async def work(conn: Notes, message: str) -> None:
        await asyncio.sleep(0)
        conn.close()

    session, receiver = opened(container, on_message=work)
    session._receive(["1", "2"])
    receiver.cut()
    await container.settle()
    assert session.connection.calls == ["open", "1", INTERRUPTED]


async def test_waiting_messages_are_dropped_when_a_callback_fails_after_the_client_left(
    container: LoopContainer, logged: LogWatch
) -> None:
    session, receiver = opened(container, on_message=later(fail))
    session._receive(["1", "2"])
    receiver.cut()
    await container.settle()
    logged.take("on_message of")
    assert session.connection.calls == ["open", "1", INTERRUPTED]


# Turns of the event loop.


@pytest.fixture
def hurried(container: LoopContainer) -> LoopContainer:
    """Return a container on which the time for callbacks is used up after each message."""
    container.callback_budget = TimeBudget(0.0)
    return container


either_code = pytest.mark.parametrize(
    "receive", [Session._receive, Session._receive_fallback], ids=["in C", "in Python"]
)


@either_code
@pytest.mark.parametrize("way", [plainly, at_once, awaitably])
async def test_others_are_served_between_slow_messages(
    hurried: LoopContainer, way: Callable[[Act], Act], receive: Act
) -> None:
    order: list[str] = []
    flooding, _ = opened(hurried, on_message=way(lambda conn, message: order.append(message)))
    other, _ = opened(hurried, on_message=lambda conn, message: order.append(message))
    receive(flooding, [str(number) for number in range(20)])
    asyncio.get_running_loop().call_soon(receive, other, ["other"])
    await hurried.settle()
    assert [message for message in order if message != "other"] == [str(number) for number in range(20)]
    # A task that does not start at once takes a turn of its own to begin.
    assert order.index("other") <= 3


@either_code
async def test_a_callback_that_exceeds_its_time_lets_others_run(container: LoopContainer, receive: Act) -> None:
    """With the clocks that are used in earnest: in C one that may advance every 10 ms."""
    container.callback_budget = TimeBudget(0.001)
    order: list[str] = []

    def work(conn: Notes, message: str) -> None:
        order.append(message)
        end = time.monotonic() + 0.03
        while time.monotonic() < end:
            pass

    session, _ = opened(container, on_message=work)
    receive(session, ["1", "2", "3"])
    assert order == ["1"]
    asyncio.get_running_loop().call_soon(order.append, "other")
    await container.settle()
    assert [message for message in order if message != "other"] == ["1", "2", "3"]
    assert order.index("other") < 3


async def test_the_clock_is_read_less_and_less_often(container: LoopContainer, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[int] = []
    heard: list[str] = []

    def clock() -> float:
        times.append(len(heard))
        return 0.0

    monkeypatch.setattr("sockjs_tornado.wire.time_budget.monotonic", clock)
    session, _ = opened(container, on_message=lambda conn, message: heard.append(message))
    session._receive_fallback(["one"])
    assert times == []
    session._receive_fallback(["x"] * 60)
    assert times == [1, 2, 3, 5, 9, 17, 33, 49, 61]


async def test_the_time_of_an_iteration_is_measured_from_its_beginning(
    container: LoopContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    container.callback_budget = TimeBudget(3.0)
    now = 0.0
    heard: list[str] = []
    turns: list[list[str]] = []

    def take_a_second(conn: Notes, message: str) -> None:
        nonlocal now
        now += 1
        heard.append(message)

    def turn() -> None:
        if heard:
            turns.append(heard[:])
            heard.clear()
        if len(turns) < 4:
            asyncio.get_running_loop().call_soon(turn)

    monkeypatch.setattr("sockjs_tornado.wire.time_budget.monotonic", lambda: now)
    session, _ = opened(container, on_message=take_a_second)
    session._receive_fallback(list("abcdefghijklmn"))
    turn()
    await container.settle()
    await asyncio.sleep(0)
    # Three would do, but the clock is not read after the third.
    assert turns == [list("abcd"), list("efgh"), list("ijkl"), list("mn")]


@either_code
@pytest.mark.parametrize("way", [plainly, at_once])
async def test_messages_that_wait_for_the_next_iteration_are_delivered_before_on_close(
    hurried: LoopContainer, way: Callable[[Act], Act], receive: Act
) -> None:
    session, receiver = opened(hurried, on_message=way(nothing))
    receive(session, ["1", "2", "3"])
    receive(session, ["4"])
    receiver.cut()
    await hurried.settle()
    assert session.connection.calls == ["open", "1", "2", "3", "4", INTERRUPTED]


@either_code
async def test_messages_that_wait_for_the_next_iteration_are_dropped_when_the_application_closes(
    hurried: LoopContainer, receive: Act
) -> None:
    session, receiver = opened(hurried)
    receive(session, ["1", "2", "3"])
    session.close()
    assert session.connection.calls == ["open", "1"]
    await hurried.settle()
    assert session.connection.calls == ["open", "1", GO_AWAY]
    assert receiver.frames == ["o", GO_AWAY]


@either_code
async def test_messages_that_wait_for_the_next_iteration_pause_reading(hurried: LoopContainer, receive: Act) -> None:
    session, receiver = opened(hurried)
    receive(session, ["1", "x" * 70_000, "3"])
    assert session.backlog == 70_001 + 2 * 64
    assert not receiver.reading
    await hurried.settle()
    assert session.backlog == 0
    assert receiver.reading
    assert session.connection.calls[2:] == ["x" * 70_000, "3"]


@either_code
async def test_on_dropped_runs_before_messages_that_wait_for_the_next_iteration(
    hurried: LoopContainer, receive: Act
) -> None:
    session, _ = opened(
        hurried,
        on_message=lambda conn, message: session._callbacks.notify_dropped(5) if message == "1" else None,
        on_dropped=lambda conn, count: conn.calls.append(count),
    )
    receive(session, ["1", "2"])
    await hurried.settle()
    assert session.connection.calls == ["open", "1", 5, "2"]


@either_code
async def test_an_exception_in_a_message_that_waited_for_the_next_iteration_closes_the_session(
    hurried: LoopContainer, receive: Act, logged: LogWatch
) -> None:
    session, _ = opened(hurried, on_message=lambda conn, message: fail() if message == "2" else None)
    receive(session, ["1", "2", "3"])
    await hurried.settle()
    assert type(exception_of(logged.take("on_message of <KeptSession 1 xhr "))) is LookupError
    assert session.connection.calls == ["open", "1", "2", INTERNAL_ERROR]


@either_code
async def test_a_session_whose_wait_for_the_next_iteration_is_cancelled_ends(
    hurried: LoopContainer, receive: Act
) -> None:
    session, receiver = opened(hurried)
    receive(session, ["1", "2", "3"])
    # Until it waits.
    await asyncio.sleep(0)
    for task in hurried.tasks:
        task.cancel()
    await hurried.settle()
    assert session.connection.calls[-1] == (1001, "Going away")
    assert receiver.frames == ["o", (1001, "Going away")]
