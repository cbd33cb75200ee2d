"""Callbacks of one session that run concurrently: the setting ``max_concurrent_callbacks``."""

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from application import Journal, LogWatch, Serve
from client import Join, until
from doubles import Pause

from sockjs_tornado import ConfigurationError, ConnectionInfo, SockJSConnection, SockJSRouter
from sockjs_tornado.multiplex import MultiplexConnection
from sockjs_tornado.session.concurrency import ConcurrentCallbacks

each_transport = pytest.mark.parametrize("transport", ["websocket", "xhr"])
UNLIMITED = {"max_concurrent_callbacks": 1000}


class Asking(SockJSConnection):
    """Asks its client something while it handles a message, as an application of sockjs-tornado 1.0 may do."""

    def on_open(self, info: ConnectionInfo) -> None:
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def on_message(self, message: str) -> None:
        if message.startswith("answer"):
            self.answer.set_result(message)
        else:
            self.send("question")
            self.send(f"{message}: {await self.answer}")


@each_transport
async def test_a_callback_waits_for_the_next_message(serve: Serve, join: Join, transport: str) -> None:
    peer = join(await serve(SockJSRouter(Asking, "/echo", UNLIMITED)), transport)
    assert await peer.frame() == "o"
    await peer.send("ask")
    assert await peer.message() == "question"
    await peer.send("answer 5")
    assert await peer.message() == "ask: answer 5"


class Held(Journal):
    """Notes which callbacks begin and end; they wait until the test releases them."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.gates: dict[str, asyncio.Future[Any]] = {}
        self.running = self.most = 0

    def __call__(self, session: Any) -> Any:
        held = self

        class Connection(SockJSConnection):
            async def on_open(self, info: ConnectionInfo) -> Any:
                return await held.hold("open")

            async def on_message(self, message: str) -> None:
                await held.hold(message)

            async def on_close(self) -> None:
                await held.hold("close")

        return Connection(session)

    async def hold(self, name: str) -> Any:
        self.begun.append(name)
        self.running += 1
        self.most = max(self.most, self.running)
        gate = self.gates[name] = asyncio.get_running_loop().create_future()
        try:
            return await gate
        finally:
            self.running -= 1
            self.ended.append(name)


async def test_callbacks_begin_in_order_and_do_not_wait_for_each_other(serve: Serve, join: Join) -> None:
    held = Held()
    router = SockJSRouter(held, "/echo", UNLIMITED)
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    await peer.send("one", "two")
    await peer.send("three")
    await until(lambda: len(held.begun) == 4)
    (session,) = router.container
    session.close()
    await until(lambda: len(held.begun) == 5)
    assert held.begun == ["open", "one", "two", "three", "close"]
    assert (held.running, held.ended) == (5, [])
    for name in ("three", "close", "open", "one"):
        held.gates[name].set_result(None)
        await until(lambda name=name: name in held.ended)
    assert await peer.frame() == 'c[3000,"Go away!"]'
    # It counts against the limits until the last callback has ended.
    assert session in router.container._lingering or session in router.container
    assert session.conn is not None
    held.gates["two"].set_result(None)
    await until(lambda: session.conn is None)


@pytest.mark.parametrize("frames", [[["one", "two", "three", "four"]], [["one"], ["two"], ["three"], ["four"]]])
async def test_no_more_callbacks_run_at_a_time_than_the_setting_allows(
    serve: Serve, join: Join, frames: list[list[str]]
) -> None:
    held = Held()
    router = SockJSRouter(held, "/echo", {"max_concurrent_callbacks": 2})
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    await until(lambda: held.begun == ["open"])
    held.gates["open"].set_result(None)
    await until(lambda: held.ended == ["open"])
    for frame in frames:
        await peer.send(*frame)
    (session,) = router.container
    await until(lambda: session.backlog == 64 * 2 + len("threefour"))
    assert held.begun == ["open", "one", "two"]
    # Whichever ends first makes room for the next one.
    held.gates["two"].set_result(None)
    await until(lambda: held.begun[3:] == ["three"])
    assert held.ended == ["open", "two"]
    held.gates["three"].set_result(None)
    await until(lambda: held.begun[4:] == ["four"])
    assert (held.most, held.running) == (2, 2)
    for name in ("one", "four"):
        held.gates[name].set_result(None)
    session.close()
    await until(lambda: "close" in held.gates)
    held.gates["close"].set_result(None)
    await until(lambda: not held.running)


async def test_an_on_open_that_returns_false_rejects_the_client_later(serve: Serve, join: Join) -> None:
    held = Held()
    peer = join(await serve(SockJSRouter(held, "/echo", UNLIMITED)), "websocket")
    assert await peer.frame() == "o"
    await peer.send("one")
    await until(lambda: held.begun == ["open", "one"])
    held.gates["open"].set_result(False)
    assert await peer.frame() == 'c[3000,"Go away!"]'
    await until(lambda: held.begun == ["open", "one", "close"])
    for name in ("one", "close"):
        held.gates[name].set_result(None)
    await until(lambda: not held.running)


async def test_a_callback_that_raises_closes_the_connection(serve: Serve, join: Join, logged: LogWatch) -> None:
    held = Held()
    peer = join(await serve(SockJSRouter(held, "/echo", UNLIMITED)), "websocket")
    assert await peer.frame() == "o"
    await peer.send("one")
    await until(lambda: held.begun == ["open", "one"])
    held.gates["one"].set_exception(ValueError("wrong"))
    assert await peer.frame() == 'c[1011,"Internal error"]'
    logged.take("on_message of")
    await until(lambda: held.begun == ["open", "one", "close"])
    for name in ("open", "close"):
        held.gates[name].set_result(None)
    await until(lambda: not held.running)


async def test_a_callback_that_takes_too_long_is_cancelled(serve: Serve, join: Join, logged: LogWatch) -> None:
    held = Held()
    router = SockJSRouter(held, "/echo", UNLIMITED | {"callback_timeout": 0.05})
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    assert await peer.frame() == 'c[1011,"Internal error"]'
    await until(lambda: held.ended == ["open", "close"])
    logged.take("on_open of")
    logged.take("on_close of")


async def test_the_router_cancels_what_does_not_end(serve: Serve, join: Join, logged: LogWatch) -> None:
    held = Held()
    router = SockJSRouter(held, "/echo", UNLIMITED)
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    await peer.send("one", "two")
    await until(lambda: held.begun == ["open", "one", "two"])
    # Not before: with so short a delay, the session could end before the websocket is open.
    router.container._settings = dataclasses.replace(router.settings, disconnect_delay=0.05)
    await router.close()
    assert sorted(held.ended) == ["close", "one", "open", "two"]
    logged.take("Cancelled 4 callbacks")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "2"])
def test_the_setting_is_a_number_of_callbacks(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_concurrent_callbacks: expected a number of callbacks above 0"):
        SockJSRouter(Asking, "/echo", {"max_concurrent_callbacks": value})


async def test_the_carrier_of_channels_handles_its_messages_in_order(serve: Serve, join: Join) -> None:
    held = Held()
    router = SockJSRouter(MultiplexConnection.get(channel=held), "/echo", UNLIMITED)
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    await peer.send("sub,channel", "msg,channel,one", "msg,channel,two")
    await until(lambda: held.begun == ["open", "one", "two"])
    # It is opened again after the callbacks of the previous connection have ended.
    gates = dict(held.gates)
    await peer.send("uns,channel", "sub,channel", "msg,channel,three")
    await until(lambda: held.begun == ["open", "one", "two", "close"])
    for name in ("one", "two", "open"):
        gates[name].set_result(None)
    held.gates["close"].set_result(None)
    await until(lambda: held.begun[4:] == ["open", "three"])
    for name in ("three", "open"):
        held.gates[name].set_result(None)
    (session,) = router.container
    session.close()
    await until(lambda: held.begun[6:] == ["close"])
    held.gates["close"].set_result(None)
    await until(lambda: not held.running)


@pytest.mark.parametrize(("is_full", "is_ending"), [(False, True), (True, True), (True, False)])
async def test_a_task_that_is_collected_after_its_loop_was_closed_changes_nothing(
    is_full: bool, is_ending: bool
) -> None:
    ended: list[bool] = []
    tasks: list[Any] = []

    async def wait_for(name: str, awaitable: Any) -> None:
        await awaitable

    session: Any = SimpleNamespace(_container=SimpleNamespace(spawn=tasks.append))
    callbacks: Any = SimpleNamespace(wait_for=wait_for)
    concurrent = ConcurrentCallbacks(callbacks, session, 1 if is_full else 2)
    waiting = concurrent.start("on_message", Pause())
    tasks[0].send(None)
    if waiting is not None:
        waiting[1].send(None)  # type: ignore[attr-defined]
    if is_ending:
        assert not concurrent.end(lambda: ended.append(True))
    concurrent.abandon()
    tasks[0].close()
    assert (concurrent._count, concurrent._freed, ended) == (0, None, [True] * is_ending)
    if waiting is not None:
        waiting[1].close()  # type: ignore[attr-defined]


async def test_an_on_open_that_returns_another_value_accepts_the_client_with_a_warning(
    serve: Serve, join: Join, logged: LogWatch
) -> None:
    held = Held()
    router = SockJSRouter(held, "/echo", UNLIMITED)
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    await until(lambda: held.begun == ["open"])
    held.gates["open"].set_result("yes")
    await until(lambda: held.ended == ["open"])
    await peer.send("one")
    await until(lambda: held.begun == ["open", "one"])
    logged.take("Connection.on_open returned a value of type str, which accepts the client")
    (session,) = router.container
    session.close()
    await until(lambda: "close" in held.gates)
    for name in ("one", "close"):
        held.gates[name].set_result(None)
    await until(lambda: not held.running)
