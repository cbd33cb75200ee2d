"""Reconnecting: conditions, delays, and messages."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import tornado.httpserver
import tornado.web
from application import Echo, Journal, LogWatch, RunningServer, Serve
from client import until, within

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.client import TRANSPORTS, Backoff, ConnectError, ConnectionClosed, SockJSClient, runner

from .conftest import Dial, Link, Stub, line, status

MakeLink = Callable[[RunningServer], Awaitable[Link]]
MakeStub = Callable[..., Awaitable[Stub]]

each_transport = pytest.mark.parametrize("transport", TRANSPORTS)
SOON = Backoff(initial=0.01, maximum=0.05)


@each_transport
async def test_a_cut_session_is_followed_by_another(serve: Serve, dial: Dial, link: MakeLink, transport: str) -> None:
    journal = Journal()
    between = await link(await serve(SockJSRouter(journal, "/echo")))
    again: asyncio.Queue[SockJSClient] = asyncio.Queue()
    client = await dial(between, transport, reconnect=SOON, on_reconnect=again.put_nowait)
    first = await journal.connection()
    first.send("before")
    assert await within(client.recv()) == "before"
    assert again.empty()

    between.cut()
    assert await within(again.get()) is client
    second = await journal.connection()
    assert second.session.session_id != first.session.session_id or transport == "websocket"
    await client.send("after")
    assert await second.message() == "after"
    second.send("answer")
    assert await within(client.recv()) == "answer"
    assert not client.is_closed


@each_transport
async def test_a_restarted_server_is_found_again(serve: Serve, dial: Dial, transport: str) -> None:
    router = SockJSRouter(Echo, "/echo")
    server = await serve(router)
    again = asyncio.Event()
    client = await dial(server, transport, reconnect=SOON, on_reconnect=lambda client: again.set())
    server.http.stop()
    closing = asyncio.create_task(router.close(1012, "Service restart"))
    # Let sessions without a request time out.
    for session in router.container:
        await asyncio.sleep(0)
        session.check(session.due)
    await within(closing)
    await server.http.close_all_connections()
    sending = asyncio.create_task(client.send("after the restart"))

    anew = SockJSRouter(Echo, "/echo")
    http = tornado.httpserver.HTTPServer(tornado.web.Application(anew.urls, log_function=lambda handler: None))
    http.listen(server.port, "127.0.0.1")
    try:
        await within(again.wait())
        await within(sending)
        assert await within(client.recv()) == "after the restart"
    finally:
        await within(client.close())
        http.stop()
        for session in anew.container:
            session.close()
        await http.close_all_connections()


async def test_messages_received_before_the_disconnect_are_returned(serve: Serve, dial: Dial, link: MakeLink) -> None:
    journal = Journal()
    between = await link(await serve(SockJSRouter(journal, "/echo")))
    again = asyncio.Event()
    client = await dial(between, "websocket", reconnect=SOON, on_reconnect=lambda client: again.set())
    connection = await journal.connection()
    for number in range(10):
        connection.send(str(number))
    connection.close(4000, "again")
    await within(again.wait())
    (await journal.connection()).send("10")
    assert [await within(client.recv()) for _ in range(11)] == [str(number) for number in range(11)]


async def test_on_reconnect_sends_before_all_others(serve: Serve, dial: Dial, link: MakeLink) -> None:
    journal = Journal()
    between = await link(await serve(SockJSRouter(journal, "/echo")))
    reached = asyncio.Event()
    allowed = asyncio.Event()

    async def log_in(client: SockJSClient) -> None:
        await client.send("my name")
        assert await client.recv() == "welcome"
        reached.set()
        await allowed.wait()
        # Its tasks have the same priority.
        await asyncio.gather(client.send("subscribe a"), client.send("subscribe b"))

    client = await dial(between, "websocket", reconnect=SOON, on_reconnect=log_in)
    await journal.connection()
    between.cut()
    connection = await journal.connection()
    assert await connection.message() == "my name"
    sending = asyncio.create_task(client.send("of another task"))
    connection.send("welcome")
    await within(reached.wait())
    await asyncio.sleep(0)
    assert not sending.done()
    allowed.set()
    await within(sending)
    assert [await connection.message() for _ in range(3)] == ["subscribe a", "subscribe b", "of another task"]


async def test_a_failing_on_reconnect_ends_the_connection(serve: Serve, dial: Dial, link: MakeLink) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo")))

    async def fail(client: SockJSClient) -> None:
        raise KeyError("token")

    client = await dial(between, "xhr_streaming", reconnect=SOON, on_reconnect=fail)
    between.cut()
    with pytest.raises(ConnectionClosed) as caught:
        await within(client.recv())
    assert (caught.value.code, caught.value.reason) == (1011, "on_reconnect failed")
    assert isinstance(caught.value.__cause__, KeyError)


async def test_tasks_of_on_reconnect_lose_their_priority(serve: Serve, dial: Dial, link: MakeLink) -> None:
    """After on_reconnect has returned, its tasks have no priority in a later session, and may call close()."""
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    between = await link(server)
    go = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def work(client: SockJSClient) -> None:
        await go.wait()
        await client.send("work")
        await client.close()

    async def log_in(client: SockJSClient) -> None:
        if not tasks:
            tasks.append(asyncio.create_task(work(client)))
        else:
            # Let the other task run.
            go.set()
            for _ in range(5):
                await asyncio.sleep(0)
        await client.send("login")

    client = await dial(between, "websocket", reconnect=SOON, on_reconnect=log_in)
    await journal.connection()
    for _ in range(2):
        between.cut()
        connection = await journal.connection()
        assert await connection.message() == "login"
    assert await connection.message() == "work"
    await within(tasks[0])
    assert (client.is_closed, client.close_code) == (True, 1000)


async def test_a_cancelled_wait_within_on_reconnect_is_its_failure(serve: Serve, dial: Dial, link: MakeLink) -> None:
    async def set_up(client: SockJSClient) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.cancel()
        await waiting

    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    client = await dial(between, "websocket", reconnect=SOON, on_reconnect=set_up)
    between.cut()
    with pytest.raises(ConnectionClosed) as closed:
        await within(client.recv())
    assert (closed.value.code, type(closed.value.__cause__)) == (1011, asyncio.CancelledError)


@pytest.mark.parametrize("outcome", [asyncio.CancelledError(), KeyError("token"), None], ids=repr)
async def test_a_session_may_end_while_on_reconnect_runs(
    serve: Serve, dial: Dial, link: MakeLink, outcome: BaseException | None
) -> None:
    journal = Journal()
    between = await link(await serve(SockJSRouter(journal, "/echo")))
    calls: asyncio.Queue[int] = asyncio.Queue()
    cancelled: list[Any] = []

    async def stuck_at_first(client: SockJSClient) -> None:
        calls.put_nowait(calls.qsize())
        if len(cancelled) == 0:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                if outcome is not None:
                    raise outcome from None

    client = await dial(between, "websocket", reconnect=SOON, on_reconnect=stuck_at_first)
    between.cut()
    await within(calls.get())
    between.cut()
    await within(calls.get())
    assert cancelled == [True]
    await within(client.send("x"))
    for _ in range(2):
        await journal.connection()
    assert await (await journal.connection()).message() == "x"


async def test_a_session_that_follows_while_the_queue_is_full_is_not_read(serve: Serve, dial: Dial) -> None:
    journal = Journal()
    again = asyncio.Event()
    client = await dial(
        await serve(SockJSRouter(journal, "/echo")),
        "xhr_streaming",
        reconnect=SOON,
        max_queue_bytes=1,
        on_reconnect=lambda client: again.set(),
    )
    connection = await journal.connection()
    # Both are sent in one write, so that the client sees the end before it stops reading.
    asyncio.get_running_loop().call_soon(connection.send, "first")
    asyncio.get_running_loop().call_soon(connection.close, 4000, "again")
    await within(again.wait())
    assert client._runner.session.paused
    (await journal.connection()).send("second")
    assert [await within(client.recv()) for _ in range(2)] == ["first", "second"]


async def test_sessions_that_end_as_they_open_deliver_their_messages(stub: MakeStub, dial: Dial) -> None:
    session = line("o", 'a["message"]', 'c[4000,"again"]', 'a["after the end"]')
    server = await stub(xhr_streaming=[session, session, session, line("o", 'a["last"]', 'c[3000,"end"]')])
    client = await dial(server, "xhr_streaming", reconnect=SOON, max_queue_bytes=1)
    assert [await within(client.recv()) for _ in range(4)] == ["message"] * 3 + ["last"]
    with pytest.raises(ConnectionClosed, match="3000 end"):
        await within(client.recv())


@pytest.mark.parametrize("code", [1000, 1008, 3000])
async def test_a_final_code_is_the_end(serve: Serve, dial: Dial, code: int) -> None:
    journal = Journal()
    client = await dial(await serve(SockJSRouter(journal, "/echo")), reconnect=SOON)
    (await journal.connection()).close(code, "over")
    with pytest.raises(ConnectionClosed):
        await within(client.recv())
    assert client.close_code == code


async def test_final_codes_can_be_configured(serve: Serve, dial: Dial) -> None:
    journal = Journal()
    again = asyncio.Event()
    client = await dial(
        await serve(SockJSRouter(journal, "/echo")),
        reconnect=SOON,
        final_codes=[4001],
        on_reconnect=lambda client: again.set(),
    )
    (await journal.connection()).close(3000, "come back")
    await within(again.wait())
    (await journal.connection()).close(4001, "no more")
    with pytest.raises(ConnectionClosed):
        await within(client.recv())
    assert client.close_code == 4001


async def test_attempts_may_run_out(serve: Serve, dial: Dial, link: MakeLink) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    client = await dial(between, "websocket", reconnect=Backoff(initial=0.01, attempts=3))
    waiting = asyncio.create_task(client.recv())
    await asyncio.sleep(0)
    await between.refuse()
    between.cut()
    with pytest.raises(ConnectionClosed) as caught:
        await within(waiting)
    assert (caught.value.code, caught.value.reason) == (1006, "the connection was lost")
    assert isinstance(caught.value.__cause__, ConnectError)
    assert str(caught.value).endswith(
        f"; gave up after 3 attempts to reconnect, the last one: {caught.value.__cause__}"
    )
    with pytest.raises(ConnectionClosed):
        await client.send("x")


async def test_an_outage_is_a_warning_and_a_restart_is_none(
    serve: Serve, dial: Dial, link: MakeLink, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds in (60, 0.03):
        monkeypatch.setattr(runner, "OUTAGE", seconds)
        between = await link(await serve(SockJSRouter(Echo, "/echo")))
        client = await dial(between, "websocket", reconnect=Backoff(initial=0.01, factor=1, attempts=10))
        await between.refuse()
        between.cut()
        with pytest.raises(ConnectionClosed, match="gave up after 10"):
            await within(client.recv())
        assert len(logged.records) == (seconds < 1)
    # Once for all attempts.
    logged.take("Failed to reconnect: cannot connect to http://")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"heartbeat_timeout": 0.05}, "1006 no data received for 0.05 seconds (heartbeat_timeout)"),
        ({"max_message_size": 1000}, "1009 the server sent a frame of more than 1000 bytes (max_message_size)"),
    ],
)
async def test_a_limit_that_ends_each_session_is_logged(
    serve: Serve, dial: Dial, logged: LogWatch, options: Any, why: str
) -> None:
    class Sender(SockJSConnection):
        def on_open(self, info: Any) -> None:
            if "max_message_size" in options:
                self.send("x" * 2000)

    server = await serve(SockJSRouter(Sender, "/echo"))
    calls: list[int] = []
    await dial(server, reconnect=SOON, on_disconnect=lambda client, code, reason: calls.append(code), **options)
    await until(lambda: len(calls) > 1)
    logged.take(f"Lost the connection to http://127.0.0.1:{server.port}/echo: {why}")


async def test_one_session_without_heartbeats_causes_no_warning(serve: Serve, dial: Dial) -> None:
    """The network may have failed: the fixture fails if there is a warning."""
    server = await serve(SockJSRouter(SockJSConnection, "/echo"))
    client = await dial(
        server, reconnect=SOON, heartbeat_timeout=0.05, on_disconnect=lambda client, code, reason: client.close()
    )
    with pytest.raises(ConnectionClosed):
        await within(client.recv())


async def test_delays_grow_if_sessions_end_at_once(stub: MakeStub, dial: Dial) -> None:
    """The number of attempts is limited even if each attempt succeeds."""
    server = await stub({"websocket": False}, xhr_streaming=line("o", 'c[4000,"no"]'))
    client = await dial(server, "xhr_streaming", reconnect=Backoff(initial=0.5, factor=1, jitter=0, attempts=3))
    with pytest.raises(ConnectionClosed) as caught:
        await within(client.recv())
    assert str(caught.value) == "connection closed: 4000 no; gave up after 3 attempts to reconnect"
    assert server.requests.count("xhr_streaming") == 4


async def test_the_initial_connection_is_not_retried(stub: MakeStub, dial: Dial) -> None:
    server = await stub(status(503))
    with pytest.raises(ConnectError):
        await dial(server, reconnect=True)
    assert server.requests == ["info"]


# on_disconnect.


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_on_disconnect_is_called_before_each_reconnect(
    serve: Serve, dial: Dial, link: MakeLink, asynchronous: bool
) -> None:
    journal = Journal()
    between = await link(await serve(SockJSRouter(journal, "/echo")))
    calls: list[Any] = []

    async def wait() -> None:
        await asyncio.sleep(0)
        calls.append("waited")

    def disconnected(client: SockJSClient, code: int, reason: str) -> Any:
        calls.append((client.is_connected, client.is_closed, code, reason))
        return wait() if asynchronous else None

    def reconnected(client: SockJSClient) -> None:
        calls.append(client.is_connected)

    client = await dial(between, "websocket", reconnect=SOON, on_disconnect=disconnected, on_reconnect=reconnected)
    assert client.is_connected
    (await journal.connection()).close(4000, "again")
    await journal.connection()
    await until(lambda: calls.count(True) == 1)
    between.cut()
    connection = await journal.connection()
    await until(lambda: calls.count(True) == 2)
    connection.close(3000, "the end")
    with pytest.raises(ConnectionClosed):
        await within(client.recv())
    waited = ["waited"] if asynchronous else []
    assert calls == [
        *((False, False, 4000, "again"), *waited, True),
        *((False, False, 1006, "the connection was lost"), *waited, True),
    ]
    assert not client.is_connected


async def test_on_disconnect_cannot_send_or_wait_for_messages(serve: Serve, dial: Dial, link: MakeLink) -> None:
    journal = Journal()
    between = await link(await serve(SockJSRouter(journal, "/echo")))
    received: list[Any] = []

    async def disconnected(client: SockJSClient, code: int, reason: str) -> None:
        received.append(await client.recv())
        for call in (client.recv(), client.send("x"), client.ping()):
            with pytest.raises(ConnectionClosed, match="connection closed: 4000 again"):
                await call

    client = await dial(between, "websocket", reconnect=SOON, on_disconnect=disconnected)
    connection = await journal.connection()
    connection.send("last")
    connection.close(4000, "again")
    connection = await journal.connection()
    await client.send("y")
    assert await connection.message() == "y"
    assert received == ["last"]


async def test_a_failing_on_disconnect_ends_the_connection(serve: Serve, dial: Dial, link: MakeLink) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    client = await dial(between, "xhr_streaming", reconnect=SOON, on_disconnect=lambda client, code, reason: 1 // 0)
    between.cut()
    with pytest.raises(ConnectionClosed) as caught:
        await within(client.recv())
    assert (caught.value.code, caught.value.reason) == (1011, "on_disconnect failed")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("from_within", [False, True])
async def test_close_while_on_disconnect_runs(serve: Serve, dial: Dial, link: MakeLink, from_within: bool) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    running = asyncio.Event()

    async def disconnected(client: SockJSClient, code: int, reason: str) -> None:
        running.set()
        if from_within:
            await client.close(4000, "enough")
        await asyncio.Event().wait()

    client = await dial(between, "websocket", reconnect=SOON, on_disconnect=disconnected)
    between.cut()
    await within(running.wait())
    if not from_within:
        await within(client.close(4000, "enough"))
    with pytest.raises(ConnectionClosed, match="4000 enough"):
        await within(client.recv())


# Closing while reconnecting.


async def test_close_ends_the_waiting(serve: Serve, dial: Dial, link: MakeLink) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    client = await dial(between, "websocket", reconnect=Backoff(initial=1000, jitter=0))
    receiving = asyncio.create_task(client.recv())
    sending = None
    between.cut()
    await until(lambda: client._runner.reconnecting)
    sending = asyncio.create_task(client.send("x"))
    await asyncio.sleep(0)
    assert not sending.done()
    await within(client.close(4000, "enough"))
    assert (client.close_code, client.close_reason) == (4000, "enough")
    for task in (receiving, sending):
        with pytest.raises(ConnectionClosed):
            await within(task)


@pytest.mark.parametrize("from_within", [False, True])
async def test_close_while_on_reconnect_runs(serve: Serve, dial: Dial, link: MakeLink, from_within: bool) -> None:
    journal = Journal()
    between = await link(await serve(SockJSRouter(journal, "/echo")))
    running = asyncio.Event()

    async def hook(client: SockJSClient) -> None:
        running.set()
        if from_within:
            await client.close(4000, "enough")
        await asyncio.Event().wait()

    client = await dial(between, "websocket", reconnect=SOON, on_reconnect=hook)
    await journal.connection()
    between.cut()
    await within(running.wait())
    if not from_within:
        await within(client.close(4000, "enough"))
    with pytest.raises(ConnectionClosed) as caught:
        await within(client.recv())
    assert caught.value.code == 4000
    assert await (await journal.connection()).closed() == (4000, "enough")


async def test_close_times_out(serve: Serve, dial: Dial, link: MakeLink) -> None:
    for transport in TRANSPORTS:
        between = await link(await serve(SockJSRouter(SockJSConnection, "/echo")))
        client = await dial(between, transport, close_timeout=0.2)
        between.hold()
        await client.send("x")
        await within(client.close())
        assert client.close_code == 1000


async def test_close_aborts_a_write_without_an_error_in_the_log(serve: Serve, dial: Dial, link: MakeLink) -> None:
    between = await link(await serve(SockJSRouter(SockJSConnection, "/echo")))
    client = await dial(between, "websocket", close_timeout=0.1, max_queue_bytes=100_000_000)
    between.hold()
    for _ in range(50):  # more than the buffers of the sockets
        await client.send("x" * 1_000_000)
    await within(client.close(4000, "enough"))
    assert (client.close_code, client.close_reason) == (4000, "enough")


async def test_the_repr_says_whether_a_session_is_open(serve: Serve, dial: Dial, link: MakeLink) -> None:
    between = await link(await serve(SockJSRouter(Echo, "/echo")))
    shown: list[str] = []
    client = await dial(
        between, "websocket", reconnect=SOON, on_disconnect=lambda client, code, reason: shown.append(repr(client))
    )
    assert repr(client).endswith(" websocket open>")
    between.cut()
    await until(lambda: shown)
    assert shown[0].endswith(" websocket reconnecting>")
    await until(lambda: client.is_connected)
    closing = asyncio.create_task(client.close(4000))
    await until(lambda: not client.is_connected)
    assert repr(client).endswith(("closing>", "closed: 4000>"))
    await within(closing)
    assert repr(client).endswith(" websocket closed: 4000>")


async def test_close_does_not_wait_for_a_callback_that_ignores_its_cancellation(
    serve: Serve, dial: Dial, link: MakeLink
) -> None:
    running, may_end = asyncio.Event(), asyncio.Event()

    async def on_reconnect(client: SockJSClient) -> None:
        running.set()
        while not may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await may_end.wait()

    between = await link(await serve(SockJSRouter(SockJSConnection, "/echo")))
    backoff = Backoff(initial=0.01)
    client = await dial(between, "websocket", close_timeout=0.2, reconnect=backoff, on_reconnect=on_reconnect)
    between.cut()
    await within(running.wait())
    await within(client.close())
    assert client.is_closed
    may_end.set()


async def test_send_ends_with_the_connection(serve: Serve, dial: Dial, link: MakeLink) -> None:
    for transport in TRANSPORTS:
        between = await link(await serve(SockJSRouter(SockJSConnection, "/echo")))
        client = await dial(between, transport, max_queue_bytes=1)
        between.hold()
        sending: list[asyncio.Task[Any]] = []
        while True:
            sending.append(asyncio.create_task(client.send("x" * 1_000_000)))
            done, _ = await asyncio.wait(sending[-1:], timeout=0.3)
            if not done:
                break
            assert len(sending) < 200
        between.cut()
        with pytest.raises(ConnectionClosed):
            await within(sending[-1])
