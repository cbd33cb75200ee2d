"""How sessions share the time for callbacks of one iteration of the event loop."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from application import Serve
from client import Join, within

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.session.container import CALLBACK_TIME
from sockjs_tornado.wire.connection import READ_BUDGET
from sockjs_tornado.wire.time_budget import TimeBudget


@pytest.mark.parametrize("many", [1, 2, 50])
async def test_all_that_wait_for_the_next_iteration_share_the_time_of_one(many: int) -> None:
    budget = TimeBudget(10.0)
    for _ in range(2):
        shares = await asyncio.gather(*(budget.wait() for _ in range(many)))
        # Who goes on first does not know whether the others will wait again.
        assert shares[0] == pytest.approx(10 / many)
        assert max(shares) <= 10


async def test_sessions_that_wait_again_and_again_keep_others_waiting_no_longer_than_one_does() -> None:
    budget = TimeBudget(10.0)
    used: dict[int, float] = {}
    turn = 0

    def count() -> None:
        nonlocal turn
        turn += 1
        asyncio.get_running_loop().call_soon(count)

    async def work() -> None:
        for _ in range(10):
            share = await budget.wait()
            used[turn] = used.get(turn, 0) + share

    count()
    await asyncio.gather(*(work() for _ in range(20)))
    assert len(used) > 5
    assert max(list(used.values())[:-1]) == pytest.approx(10)


async def test_a_wait_that_is_cancelled_is_over() -> None:
    budget = TimeBudget(10.0)
    waiting = asyncio.ensure_future(budget.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    assert await budget.wait() == 10


def chat(heard: list[str], done: asyncio.Event, last: str, act: Callable[[], None] = lambda: None) -> Any:
    """Return a connection class that records messages, and sets an event at the last one."""

    class Chat(SockJSConnection):
        def on_message(self, message: str) -> None:
            heard.append(message)
            act()
            if message == last:
                done.set()

    return Chat


async def test_a_session_delivers_one_message_in_an_iteration_whose_budget_is_used_up(serve: Serve, join: Join) -> None:
    heard: list[str] = []
    done = asyncio.Event()
    router = SockJSRouter(chat(heard, done, "6"), "/echo")
    router.container.callback_budget = TimeBudget(1000.0)
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    (session,) = router.container
    session._receive(["1", "2", "3"])
    assert heard == ["1", "2", "3"]
    router.container.callback_budget.exhaust()
    session._receive(["4", "5", "6"])
    assert heard == ["1", "2", "3", "4"]
    await within(done.wait())
    assert heard == ["1", "2", "3", "4", "5", "6"]


async def test_time_that_one_session_takes_is_not_left_for_others() -> None:
    budget = TimeBudget(10.0)
    budget.charge(8.0)
    assert budget.available == pytest.approx(2)
    budget.charge(8.0)
    assert budget.available == 0
    await asyncio.sleep(0)
    assert budget.available == 10


async def test_an_iteration_that_belongs_to_waiting_sessions_has_nothing_left_for_others() -> None:
    budget = TimeBudget(10.0)
    await asyncio.gather(*(budget.wait() for _ in range(3)), return_exceptions=True)
    waiting = asyncio.ensure_future(budget.wait())
    waiting.add_done_callback(lambda _: None)
    await budget.wait()
    assert budget.available == 0
    await waiting
    await asyncio.sleep(0)
    assert budget.available == 10


async def test_every_delivery_of_several_messages_is_charged(serve: Serve, join: Join) -> None:
    """Also if each one keeps the budget: together they must."""
    heard: list[str] = []
    done = asyncio.Event()

    def take_time() -> None:
        # Longer than any tick of the clock that C reads.
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            pass

    router = SockJSRouter(chat(heard, done, "4", take_time), "/echo")
    router.container.callback_budget = budget = TimeBudget(1000.0)
    server = await serve(router)
    peer = join(server, "websocket")
    assert await peer.frame() == "o"
    (session,) = router.container
    session._receive(["1", "2"])
    assert heard == ["1", "2"]
    assert 900 < budget.available < 1000
    await within(peer.send("3", "4"))
    await within(done.wait())


def test_the_budgets_leave_others_a_tenth_of_a_second() -> None:
    """Callbacks may exceed theirs by its double, and what is decoded in one piece counts as well."""
    assert 2 * CALLBACK_TIME + 2 * READ_BUDGET < 0.1


@pytest.mark.parametrize("waits", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize("transport", ["websocket", "xhr", "xhr_streaming", "jsonp"])
async def test_others_are_served_while_many_messages_of_one_client_are_delivered(
    serve: Serve, join: Join, transport: str, waits: bool
) -> None:
    """As if each message took longer than callbacks may take of one iteration of the event loop."""
    heard: list[str] = []
    begun, done = asyncio.Event(), asyncio.Event()

    class Chat(SockJSConnection):
        def on_message(self, message: str) -> Any:
            heard.append(message)
            if message == "5":
                begun.set()
            if len(heard) == 1001:
                done.set()
            return self.finish() if waits else None

        async def finish(self) -> None:
            """Wait for nothing."""

    router = SockJSRouter(Chat, "/echo")
    router.container.callback_budget = TimeBudget(0.0)
    server = await serve(router)
    flooding, other = join(server, transport), join(server, "websocket")
    assert await flooding.frame() == "o"
    assert await other.frame() == "o"
    sending = asyncio.ensure_future(flooding.send(*map(str, range(1000))))
    await within(begun.wait())
    await other.send("other")
    await within(done.wait())
    await within(sending)
    assert [message for message in heard if message != "other"] == [*map(str, range(1000))]
    assert heard.index("other") < 900
