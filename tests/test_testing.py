"""Clients in memory: what a test of an application sees of its connection, and of its mistakes."""

import asyncio
import logging
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tornado.testing
import tornado.web
from application import Echo, LogWatch
from client import TIMEOUT
from programs import ROOT

from sockjs_tornado import (
    ConnectionClosed,
    ConnectionInfo,
    JSONValue,
    SockJSConnection,
    SockJSRouter,
    testing,
)
from sockjs_tornado.multiplex import MultiplexConnection
from sockjs_tornado.testing import ConnectionRejected, MemoryClient, connect_sync
from sockjs_tornado.testing.fixtures import Connect, sockjs_connect

__all__ = ["sockjs_connect"]

connect: Any = partial(testing.connect, timeout=TIMEOUT)

each_transport = pytest.mark.parametrize("transport", ["websocket", "rawwebsocket"])


class Recorder(SockJSConnection):
    """Keeps what its callbacks are called with, and does what the test wants."""

    def __init__(self, session: Any) -> None:
        super().__init__(session)
        self.calls: list[Any] = []

    def on_open(self, info: ConnectionInfo) -> Any:
        self.calls.append("open")

    def on_message(self, message: Any) -> Any:
        self.calls.append(message)

    def on_close(self) -> Any:
        self.calls.append((self.close_code, self.close_reason))


# Messages.


@each_transport
async def test_a_message_is_echoed(transport: str) -> None:
    async with connect(Echo, transport=transport) as client:
        await client.send("hello")
        assert await client.recv() == "hello"
        await client.send_json({"a": [1, None]})
        assert await client.recv_json() == {"a": [1, None]}
        assert client.info.transport == transport
        assert client.connection.session.transport_name == transport


async def test_a_page_receives_json_as_values() -> None:
    class Greeting(SockJSConnection):
        def on_open(self, info: ConnectionInfo) -> None:
            self.send("text")
            self.send({"tuple": (1, 2)})
            self.send(JSONValue("[null]"))
            self.send("\ud800 \u2028")

    async with connect(Greeting) as client:
        assert await client.recv_all() == ["text", {"tuple": [1, 2]}, [None], "\ud800 \u2028"]
    async with connect(Greeting, transport="rawwebsocket") as client:
        assert await client.recv_all() == ["text", '{"tuple":[1,2]}', "[null]", "\ud800 \u2028"]


async def test_a_raw_websocket_has_bytes() -> None:
    async with connect(Echo, transport="rawwebsocket") as client:
        await client.send(b"\0\xff")
        assert await client.recv() == b"\0\xff"
        client.connection.send("text", binary=True)
        assert await client.recv() == b"text"


async def test_a_client_sends_only_what_a_real_one_sends() -> None:
    async with connect(Echo) as client:
        with pytest.raises(TypeError, match=r"a client sends str, not dict: use send_json\(\) for JSON values"):
            await client.send({"a": 1})
        with pytest.raises(TypeError, match=r'a client sends str, not bytes: only connect\(\.\.\., transport="rawwebs'):
            await client.send(b"x")
    async with connect(Echo, transport="rawwebsocket") as client:
        with pytest.raises(TypeError, match="a client sends str or bytes, not list"):
            await client.send([])


async def test_several_clients_meet_in_a_router() -> None:
    class Chat(SockJSConnection):
        async def on_open(self, info: ConnectionInfo) -> None:
            await asyncio.sleep(0)
            self.join("lobby")

        async def on_message(self, message: str) -> None:
            await self.publish("lobby", message, exclude=self)

    router = SockJSRouter(Chat, "/chat")
    async with connect(router) as ann, connect(router) as bob, connect(router, transport="rawwebsocket") as cat:
        assert len(router.connections) == 3
        await ann.send("hello")
        assert await bob.recv() == await cat.recv() == "hello"
        assert await ann.recv_all() == []
        router.broadcast([ann.connection], {"to": "ann"})
        assert await ann.recv() == {"to": "ann"}
    assert len(router.container) == 0
    async with connect(router) as dan:
        await dan.send("the router is used again")


async def test_channels_are_used_as_they_are() -> None:
    async with connect(MultiplexConnection.get(a=Echo)) as client:
        await client.send("sub,a")
        await client.send("msg,a,hello")
        assert await client.recv() == "msg,a,hello"


async def test_iterating_ends_with_the_connection() -> None:
    class Countdown(SockJSConnection):
        async def on_open(self, info: ConnectionInfo) -> None:
            for number in range(3):
                self.send(str(number))
                await asyncio.sleep(0)
            self.close()

    async with connect(Countdown) as client:
        assert [message async for message in client] == ["0", "1", "2"]


async def test_recv_all_waits_until_callbacks_have_ended() -> None:
    class Slow(SockJSConnection):
        async def on_message(self, message: str) -> None:
            for _ in range(10):
                await asyncio.sleep(0)
            self.send("done")

    router = SockJSRouter(Slow, "/x", immediate_flush=False)
    async with connect(router) as client, connect(router) as other:
        assert await other.recv_all() == []
        await client.send("x")
        await client.send("x")
        assert await client.recv_all() == ["done", "done"]
        assert await other.recv_all() == []


# The request.


async def test_the_application_sees_the_request() -> None:
    router = SockJSRouter(Recorder, r"/(?:chat|news)/\w+", allowed_origins=["https://example.com"])
    async with connect(
        router,
        path="/news/sport",
        arguments={"token": "a b", "tag": ["x", "y"]},
        headers={"Origin": "https://example.com", "User-Agent": "test", "X-Secret": "left out"},
        cookies={"user": "42", "theme": "dark"},
        ip="192.0.2.7",
    ) as client:
        info = client.info
        assert info is client.connection.session.conn_info
        assert (info.ip, info.prefix) == ("192.0.2.7", "/news/sport")
        assert re.fullmatch(r"/news/sport/000/[\w-]+/websocket", info.path)
        assert info.arguments == {"token": ["a b"], "tag": ["x", "y"]}
        assert dict(info.headers) == {"host": "localhost", "origin": "https://example.com", "user-agent": "test"}
        assert info.cookies == {"user": "42", "theme": "dark"}


async def test_cookies_are_withheld_as_in_production(logged: LogWatch) -> None:
    async with connect(Recorder, cookies={"user": "42"}, headers=[("Host", "example.com")]) as client:
        assert client.info.cookies == {}
        assert client.info.headers["host"] == "example.com"
    logged.take("info.cookies is empty")


async def test_a_subprotocol_is_selected() -> None:
    class Stomp(Recorder):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            if "v9" in subprotocols:
                raise tornado.web.HTTPError(418, reason="Too old")
            return subprotocols[-1]

    async with connect(Stomp, subprotocols=["v11.stomp", "v12.stomp"]) as client:
        assert client.info.subprotocol == "v12.stomp"
    with pytest.raises(ConnectionRejected, match="rejected with status 418: Too old"):
        await connect(Stomp, subprotocols=["v9"])


async def test_the_cookie_setting_may_read_the_request() -> None:
    seen = []

    def choose(request: Any) -> bool:
        seen.append((request.remote_ip, request.path, request.headers["X-Test"]))
        return True

    async with connect(SockJSRouter(Echo, "/chat", jsessionid=choose), ip="192.0.2.7", headers={"X-Test": "1"}):
        ((ip, path, header),) = seen
    assert (ip, path.split("/")[1], header) == ("192.0.2.7", "chat", "1")


def test_a_forgotten_await_is_recognised() -> None:
    connector = connect(Echo)
    with pytest.raises(AttributeError, match=r"has no attribute 'send': await connect\(\.\.\.\), or use `async with"):
        connector.send("x")
    with pytest.raises(AttributeError, match=r"has no attribute 'sent'$"):
        connector.sent("x")
    with pytest.raises(TypeError, match="use `async with` instead of `with`, or connect_sync"), connector:
        pass


async def test_a_client_that_is_dropped_causes_a_warning() -> None:
    client = await connect(Echo)
    with pytest.warns(ResourceWarning, match="^unclosed <MemoryClient of "):
        del client


def test_a_connect_that_is_never_awaited_causes_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match=r"^connect\(\.\.\.\) was never awaited: use `async with connect"):
        connect(Echo)


def test_a_forgotten_await_of_the_fixture_is_recognised(sockjs_connect: Connect) -> None:
    connector: Any = sockjs_connect(Echo)
    with pytest.raises(AttributeError, match=r"has no attribute 'send': await connect\(\.\.\.\), or use `async with"):
        connector.send("x")


async def test_the_fixture_can_be_entered(sockjs_connect: Connect) -> None:
    async with sockjs_connect(Echo) as client:
        await client.send("x")
        assert await client.recv() == "x"
    assert client.is_closed


def test_wrong_arguments_are_reported_at_once() -> None:
    url: Any = "http://localhost/echo"
    with pytest.raises(TypeError, match=r"got 'http://localhost/echo'; use sockjs_tornado\.client for a URL$"):
        connect(url)
    with pytest.raises(ValueError, match=r"^ip: expected an IP address such as '192\.0\.2\.7', got 'localhost'$"):
        connect(Echo, ip="localhost")
    with pytest.raises(ValueError, match="transport: expected 'websocket' or 'rawwebsocket', got 'xhr'"):
        connect(Echo, transport="xhr")
    with pytest.raises(ValueError, match=r"path: expected one that the prefix '/a\+' matches, and no more, got '/b'$"):
        connect(SockJSRouter(Echo, "/a+"), path="/b")
    for path, hint in (("/a?b=c", r"pass the query as arguments=\{"), ("/a/", "the transport adds what follows it$")):
        with pytest.raises(ValueError, match=f"got '{re.escape(path)}'; {hint}"):
            connect(SockJSRouter(Echo, "/a"), path=path)
    application: Any = tornado.web.Application()
    with pytest.raises(ValueError, match=r"^connection: expected a subclass of SockJSConnection, .* got <torn"):
        connect(application)
    wrong: Any
    for name, wrong, text in (
        ("path", 5, "path: expected a str, got 5 (int)"),
        ("ip", None, "ip: expected a str, got None (NoneType)"),
        ("headers", {"X": 5}, "headers: expected pairs of a name and a value of type str, got ('X', 5)"),
        ("headers", ["X: 5"], "headers: expected pairs of a name and a value of type str, got 'X: 5'"),
        ("timeout", "5", "timeout: expected a number of seconds, 0 or more, got '5'"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{re.escape(text)}$"):
            connect(Echo, **{name: wrong})
    for name, wrong, expected in (
        ("arguments", "token=abc", r"\{'token': 'abc'\}"),
        ("headers", "Origin: null", r"\{'Origin': 'https://example\.com'\}"),
        ("cookies", "user=42", r"\{'user': '42'\}"),
        ("subprotocols", "v12.stomp", r"\['v12\.stomp'\]"),
    ):
        with pytest.raises(TypeError, match=rf"^{name}: expected {expected}, for example, got '{wrong}' \(str\)$"):
            connect(Echo, **{name: wrong})


async def test_wrong_values_of_the_client_are_errors() -> None:
    async with connect(Echo) as client:
        with pytest.raises(ValueError, match="not JSON compliant"):
            await client.send_json(float("nan"))
        wrong: Any = "4000"
        with pytest.raises(TypeError, match="close code must be int, not str"):
            await client.close(wrong)
        await client.send("no JSON")
        with pytest.raises(ValueError, match=r"^the message 'no JSON' is not JSON: Expecting value"):
            await client.recv_json()
        client.connection.send({"a": 1})
        with pytest.raises(TypeError, match=r"not sent as text, but as a dict: use recv\(\), which returns {'a': 1}$"):
            await client.recv_json()


# Rejected clients.


@pytest.mark.parametrize("result", ["False", "HTTPError", "coroutine"])
async def test_a_client_that_on_open_rejects_is_closed(result: str) -> None:
    class Private(Recorder):
        def on_open(self, info: ConnectionInfo) -> Any:
            self.send("no entry")
            if result == "HTTPError":
                raise tornado.web.HTTPError(403)
            return False if result == "False" else self.reject()

        async def reject(self) -> bool:
            await asyncio.sleep(0)
            return False

    async with connect(Private) as client:
        assert await client.wait_closed() == (3000, "Go away!")
        assert (client.is_closed, client.close_code, client.close_reason) == (True, 3000, "Go away!")
        assert await client.recv() == "no entry"
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert (closed.value.code, closed.value.reason) == (3000, "Go away!")
        assert closed.value.__notes__ == [
            "sockjs_tornado: the connection was closed: 3000 'Go away!'; received before: 'no entry'"
        ]
        with pytest.raises(ConnectionClosed):
            await client.send("x")
    assert client.connection.calls == [(3000, "Go away!")]


async def test_a_client_that_gets_no_session_is_rejected(logged: LogWatch) -> None:
    router = SockJSRouter(Echo, "/x", allowed_origins="same-origin", max_sessions=1)
    with pytest.raises(ConnectionRejected, match=r"rejected with status 403: Origin not allowed\.") as rejected:
        await connect(router, headers={"Origin": "https://evil.example"})
    assert (rejected.value.status, rejected.value.body) == (403, "Origin not allowed.\n")
    async with connect(router, headers={"Origin": "https://localhost"}):
        with pytest.raises(ConnectionRejected, match=r"rejected with status 503: Try again later\."):
            await connect(router)
    logged.take("max_sessions is reached")
    with pytest.raises(ConnectionRejected, match="414"):
        await connect(router, arguments={"long": "x" * 10_000})
    await router.close()
    with pytest.raises(ConnectionRejected, match=r"^rejected with status 404: the router was closed$"):
        await connect(router)
    with pytest.raises(ConnectionRejected, match="404: the settings disable the transport rawwebsocket"):
        await connect(SockJSRouter(Echo, "/y", disabled_transports=["rawwebsocket"]), transport="rawwebsocket")


# The end of a connection.


@each_transport
async def test_the_client_closes(transport: str) -> None:
    async with connect(Recorder, transport=transport) as client:
        await client.send("x")
    assert client.connection.calls == ["open", "x", (1000, "")]
    client = await connect(Recorder, transport=transport)
    await client.close(4001, "bye")
    assert client.connection.calls == ["open", (4001, "bye")]
    await client.close()
    client = await connect(Recorder, transport=transport)
    await client.abort()
    assert client.connection.calls == ["open", (1006, "Connection lost")]


@each_transport
async def test_the_server_closes(transport: str) -> None:
    async with connect(Recorder, transport=transport) as client:
        assert (client.close_code, client.close_reason) == (None, None)
        client.connection.send("last")
        client.connection.close(9000, "ё" * 100)
        expected = (9000, "ё" * 100) if transport == "websocket" else (4999, "ё" * 61)
        assert await client.wait_closed() == expected
        assert await client.recv() == "last"
        # The client's answer to the close frame has arrived, too.
        assert await client.recv_all() == []
        assert client.connection.session.conn is None
    assert client.connection.calls == ["open", (9000, "ё" * 100)]


async def test_on_close_has_ended_when_the_client_has_left() -> None:
    ended = []

    class Leaving(Recorder):
        async def on_message(self, message: str) -> None:
            for _ in range(10):
                await asyncio.sleep(0)
            ended.append("on_message")

        async def on_close(self) -> None:
            for _ in range(10):
                await asyncio.sleep(0)
            ended.append("on_close")

    async with connect(Leaving) as client:
        await client.send("x")
    assert ended == ["on_message", "on_close"]


async def test_a_router_may_be_closed_while_clients_are_connected() -> None:
    router = SockJSRouter(Recorder, "/x")
    async with connect(router) as client, connect(router, transport="rawwebsocket") as raw:
        await router.close()
        assert await client.wait_closed() == await raw.wait_closed() == (3000, "Go away!")


# Limits and backpressure.


async def test_a_client_that_does_not_read_is_slow() -> None:
    class Download(Recorder):
        async def on_message(self, message: str) -> None:
            for _ in range(8):
                await self.send("x" * 20_000)
            self.calls.append("sent")

    async with connect(Download) as client:
        await client.send("go")
        await asyncio.sleep(0)
        # It waits for the client.
        assert client.connection.calls == ["open"]
        assert client.connection.session._outbox_above_high_water
        for _ in range(8):
            assert await client.recv() == "x" * 20_000
        assert await client.recv_all() == []
        assert client.connection.calls == ["open", "sent"]


@pytest.mark.parametrize("transport", ["websocket", "rawwebsocket"])
async def test_a_client_that_is_too_slow_is_closed(transport: str) -> None:
    router = SockJSRouter(Recorder, "/x", max_queue_bytes=100_000)
    async with connect(router, transport=transport) as client:
        for _ in range(12):
            client.connection.send("x" * 20_000)
        assert await client.wait_closed() == (3008, "Slow consumer")


async def test_messages_of_one_frame_are_read_together() -> None:
    async with connect(Echo) as client:
        client.connection.send("x" * 100_000)
        session = client.connection.session
        assert session._receiver.unsent == 100_000 + len('a[""]')
        session._receive(["1", "2"])
        assert session.queued == 2
        assert await client.recv() == "x" * 100_000
        # Both are in one frame now.
        assert session._receiver.unsent == len('a["1","2"]')
        assert await client.recv() == "1"
        assert session._receiver.unsent == 0
        assert await client.recv() == "2"


async def test_a_slow_application_slows_the_client_down() -> None:
    class Busy(Recorder):
        may_end = asyncio.Event()

        async def on_message(self, message: str) -> None:
            await self.may_end.wait()
            self.calls.append(len(message))

    async with connect(Busy) as client:
        await client.send("x" * 70_000)
        await client.send("y" * 70_000)
        sending = asyncio.ensure_future(client.send("z"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not sending.done()
        Busy.may_end.set()
        await sending
    assert client.connection.calls == ["open", 70_000, 70_000, 1, (1000, "")]


async def test_the_limits_on_messages_hold(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sockjs_tornado.session")
    router = SockJSRouter(Recorder, "/x", max_message_size=10)
    async with connect(router) as client, connect(router, transport="rawwebsocket") as raw:
        await client.send("xxxxxx")
        await raw.send("x" * 10)
        await client.send("xxxxxxx")
        await raw.send(b"x" * 11)
        assert await client.wait_closed() == await raw.wait_closed() == (1009, "message too big")
    assert client.connection.calls == ["open", "xxxxxx", (1009, "message too big")]
    async with connect(SockJSRouter(Recorder, "/x", max_inbound_rate=(0.001, 1))) as client:
        await client.send("1")
        await client.send("2")
        assert await client.wait_closed() == (3013, "Too many messages")
    assert client.connection.calls == ["open", "1", (3013, "Too many messages")]
    for expected in ("1009: it has exceeded max_message_size (10)", "3013: it has exceeded max_inbound_rate"):
        assert caplog.text.count(f"of Recorder, from 127.0.0.1, with code {expected}") == 1


# Mistakes of the application.


class Failing(SockJSConnection):
    """Raises ValueError in one callback, before or after it has suspended."""

    callback = ""
    is_async = False

    def fail(self, name: str) -> Any:
        if self.callback != name:
            return None
        if self.is_async:
            return self.fail_later()
        raise ValueError("a mistake")

    async def fail_later(self) -> None:
        # After send() has returned, whether the task has begun at once (Python 3.12) or not.
        for _ in range(3):
            await asyncio.sleep(0)
        raise ValueError("a mistake")

    def on_open(self, info: ConnectionInfo) -> Any:
        return self.fail("on_open")

    def on_message(self, message: str) -> Any:
        self.send("before")
        return self.fail("on_message")

    def on_close(self) -> Any:
        return self.fail("on_close")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("callback", ["on_open", "on_message", "on_close"])
async def test_the_exception_of_a_callback_is_raised_in_the_test(callback: str, is_async: bool) -> None:
    kind: Any = type("Kind", (Failing,), {"callback": callback, "is_async": is_async})
    steps = []

    async def run() -> None:
        async with connect(kind) as client:
            steps.append("open")
            await client.send("x")
            assert await client.recv() == "before"
            steps.append("received")
            if callback != "on_close":
                await client.recv()

    with pytest.raises(ValueError, match="a mistake") as raised:
        await run()
    reached = {"on_open": 0, "on_message": 1 + is_async, "on_close": 2}[callback]
    assert steps == ["open", "received"][:reached]
    (note,) = raised.value.__notes__
    assert re.fullmatch(rf"sockjs_tornado: Kind.{callback} of <Session \d+ websocket \w+> failed", note)


async def test_an_exception_that_is_raised_nowhere_else_is_raised_at_the_end() -> None:
    class Later(Recorder):
        async def on_message(self, message: str) -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            raise ValueError("a mistake")

    async def run(*calls: str) -> None:
        async with connect(Later) as client:
            await client.send("x")
            for call in calls:
                await getattr(client, call)()

    for calls in ((), ("wait_closed",), ("recv_all",)):
        with pytest.raises(ValueError, match="a mistake"):
            await run(*calls)


@pytest.mark.parametrize("callback", ["on_open", "on_message", "on_close"])
async def test_the_exception_of_a_task_that_a_callback_has_created_is_raised_at_the_end(callback: str) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("a mistake")

    async def create(self: Any, *args: Any) -> None:
        self.task = asyncio.create_task(fail(), name="ticker")
        if callback == "on_close":
            await asyncio.wait([self.task])

    kind: Any = type("Kind", (Recorder,), {callback: create})
    router = SockJSRouter(kind, "/x")

    async def run(*, is_awaited: bool = False, **options: Any) -> None:
        async with connect(router, **options) as client, connect(router, **options) as other:
            await client.send("x")
            assert await client.recv_all() == []
            tasks = [each.connection.task for each in (client, other) if hasattr(each.connection, "task")]
            if tasks:
                await asyncio.wait(tasks)
            if is_awaited:
                with pytest.raises(ValueError, match="a mistake"):
                    await tasks[0]

    expected: Any = ValueError if callback == "on_message" else BaseExceptionGroup
    with pytest.raises(expected) as raised:
        await run()
    error: Any = raised.value
    for each in [error] if expected is ValueError else error.exceptions:
        assert each.__notes__ == ["sockjs_tornado: the task 'ticker', which a callback has created, failed"]
    if callback == "on_message":
        await run(is_awaited=True)
        await run(is_awaited=True, raise_exceptions=False)
    assert asyncio.get_running_loop().get_task_factory() is None


async def test_tasks_of_the_test_are_its_own(logged: LogWatch) -> None:
    async def fail() -> None:
        raise ValueError("a mistake")

    async with connect(Echo) as client:
        task = asyncio.create_task(fail())
        await client.send("x")
        await asyncio.wait([task])
    with pytest.raises(ValueError, match="a mistake"):
        await task


async def test_who_waits_for_another_client_gets_its_exception() -> None:
    kind: Any = type("Kind", (Failing,), {"callback": "on_message", "is_async": True})
    router = SockJSRouter(kind, "/x")
    async with connect(router) as ann, connect(router) as bob:
        await ann.send("x")
        with pytest.raises(ValueError, match="a mistake"):
            await bob.recv()
        # It is raised once.
        assert await bob.recv_all() == []
        assert await ann.wait_closed() == (1011, "Internal error")


async def test_several_exceptions_are_raised_together() -> None:
    kind: Any = type("Kind", (Failing,), {"callback": "on_close"})
    router = SockJSRouter(kind, "/x")
    ann, bob = await connect(router), await connect(router)
    bob.connection.close()
    ann.connection.close()
    with pytest.raises(BaseExceptionGroup) as raised:
        await ann.close()
    assert [str(error) for error in raised.value.exceptions] == ["a mistake", "a mistake"]
    await bob.close()


async def test_exceptions_do_not_hide_that_of_the_test() -> None:
    kind: Any = type("Kind", (Failing,), {"callback": "on_close"})
    with pytest.raises(ZeroDivisionError) as raised:
        async with connect(kind):
            raise ZeroDivisionError
    (note,) = raised.value.__notes__
    assert re.fullmatch(r"sockjs_tornado: Kind.on_close of <.*> failed: ValueError: a mistake", note)


async def test_exceptions_may_be_left_to_the_log(logged: LogWatch) -> None:
    kind: Any = type("Kind", (Failing,), {"callback": "on_message"})
    router = SockJSRouter(kind, "/x")
    log = router.container.log
    async with connect(router, raise_exceptions=False) as client, connect(router) as other:
        await client.send("x")
        assert await client.wait_closed() == (1011, "Internal error")
        logged.take("on_message of <Session 1 websocket CLOSED> failed")
        with pytest.raises(ValueError, match="a mistake"):
            await other.send("x")
    assert router.container.log is log


async def test_an_exception_of_the_constructor_is_raised() -> None:
    class Wrong(SockJSConnection):
        def __init__(self, session: Any) -> None:
            raise ValueError("a mistake")

    router = SockJSRouter(Wrong, "/x")
    log = router.container.log
    with pytest.raises(ValueError, match="a mistake"):
        await connect(router)
    assert router.container.log is log


async def test_the_error_says_what_was_received_instead(logged: LogWatch) -> None:
    class Forgetful(Recorder):
        async def on_message(self, message: str) -> Any:
            if message == "wait":
                await asyncio.Event().wait()
            return message

    client = await connect(Forgetful, timeout=0)
    with pytest.raises(
        TimeoutError,
        match=r"^no message was received within 0 s: the connection is open, in no room; nothing was received$",
    ):
        await client.recv()
    client.connection.join("lobby")
    client.connection.join("a")
    client.connection.send("first")
    client.connection.send("x" * 200)
    assert await client.recv() == "first"
    with pytest.raises(TimeoutError) as raised:
        await client.wait_closed()
    assert str(raised.value) == (
        "the connection was not closed within 0 s: the connection is open, in the rooms 'a', 'lobby', which no other "
        "client can join, since connect() has made a router for this one; received before: 'first'; "
        f"received but not read: '{'x' * 99}... (202 characters)"
    )
    await client.recv()
    await client.send("x")
    await client.send("wait")
    with pytest.raises(
        TimeoutError, match=r"Forgetful.on_message is running; .*; logged: Forgetful.on_message returned a str"
    ):
        await client.recv(timeout=0)
    logged.take("returned a str")
    with pytest.raises(TimeoutError, match=r"callbacks have not ended within 0 s: .*Forgetful.on_message is running"):
        await client.recv_all()
    with pytest.raises(TimeoutError, match=r"callbacks have not ended within 0 s: the connection was closed: 1000 ''"):
        await client.close()
    assert client.connection.calls[-1] == (1000, "")


async def test_a_failed_test_does_not_wait_long_for_callbacks() -> None:
    class Endless(Recorder):
        async def on_open(self, info: ConnectionInfo) -> None:
            await asyncio.Event().wait()

    with pytest.raises(
        TimeoutError, match=r"callbacks have not ended within 0 s: .*Endless.on_open is running"
    ) as raised:
        await connect(Endless, timeout=0)
    assert raised.value.__notes__
    client = await connect(Endless, timeout=0, wait_for_open=False)
    client.connection.send("x")
    assert await client.recv() == "x"
    with pytest.raises(TimeoutError, match="callbacks have not ended"):
        await client.close()


async def test_a_client_has_a_name_for_the_log() -> None:
    async with connect(Echo) as client:
        assert re.fullmatch(r"<MemoryClient of <Session \d+ websocket OPEN>>", repr(client))


# Frameworks.


class Page(tornado.web.RequestHandler):
    def get(self) -> None:
        self.application.settings["router"].publish("news", {"title": "read"})


class TestWithTornado(tornado.testing.AsyncHTTPTestCase):
    """The synchronous style of Tornado's tests, with a server beside the clients."""

    def get_app(self) -> tornado.web.Application:
        class News(SockJSConnection):
            async def on_open(self, info: ConnectionInfo) -> None:
                self.join("news")

            def on_message(self, message: str) -> None:
                if message == "fail":
                    raise ValueError("a mistake")
                self.send(message)

        self.router = SockJSRouter(News, "/news")
        return tornado.web.Application([*self.router.urls, ("/page", Page)], router=self.router)

    def test_a_request_publishes(self) -> None:
        with connect_sync(self.router, self.io_loop, timeout=TIMEOUT) as client:
            assert self.fetch("/page").code == 200
            assert client.recv() == {"title": "read"}
            assert client.info.ip == "127.0.0.1"
            assert client.router is self.router
            client.send_json([1])
            assert client.recv_json() == [1]
            client.send("x")
            assert client.recv_all() == ["x"]
            assert (client.is_closed, client.close_code, client.close_reason) == (False, None, None)
            assert client.call(client.connection.send, "last") is None
            client.call(client.connection.close, 4000, "bye")
            assert list(client) == ["last"]
            assert client.wait_closed() == (4000, "bye") == (client.close_code, client.close_reason)

    def test_mistakes_are_raised(self) -> None:
        with pytest.raises(ValueError, match="a mistake"), connect_sync(self.router, self.io_loop) as client:
            client.send("fail")
        client = connect_sync(self.router, self.io_loop)
        client.abort()
        with pytest.raises(ConnectionRejected):
            connect_sync(SockJSRouter(Echo, "/x", transports=["xhr"]), self.io_loop)

    @tornado.testing.gen_test
    async def test_coroutines_use_the_other_client(self) -> None:
        with pytest.raises(RuntimeError, match=r"the event loop is running; in a coroutine, use `async with connect"):
            connect_sync(self.router, self.io_loop)
        async with connect(self.router) as client:
            await client.send("x")
            assert await client.recv() == "x"


async def test_the_fixture_connects(sockjs_connect: Connect) -> None:
    router = SockJSRouter(Recorder, "/x")
    ann, bob = await sockjs_connect(router), await sockjs_connect(router, transport="rawwebsocket")
    assert isinstance(ann, MemoryClient)
    assert [client.info.transport for client in (ann, bob)] == ["websocket", "rawwebsocket"]


def run_pytest(directory: Path) -> tuple[int, str]:
    """Run the tests in a directory; return the exit status and the output."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-q", "."]
    ended = subprocess.run(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT * 4
    )
    return ended.returncode, ended.stdout


def test_the_fixture_reports_what_the_test_has_not_got(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["sockjs_tornado.testing.fixtures"]\n')
    (tmp_path / "test_it.py").write_text("""
from sockjs_tornado import SockJSConnection

class Wrong(SockJSConnection):
    def on_close(self):
        raise ValueError("a mistake")

async def test_it(sockjs_connect):
    await sockjs_connect(Wrong)
""")
    status, output = run_pytest(tmp_path)
    assert status == 1
    assert "ValueError: a mistake" in output
    assert "1 passed, 1 error" in output


def test_without_pytest_asyncio_the_error_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        """
import sys

sys.modules["pytest_asyncio"] = None
pytest_plugins = ["sockjs_tornado.testing.fixtures"]
"""
    )
    status, output = run_pytest(tmp_path)
    assert status != 0
    assert "sockjs_tornado.testing.fixtures requires pytest-asyncio (" in output
    assert "): pip install pytest-asyncio\n" in output


def test_the_tests_of_the_documentation_pass(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/testing.md").read_text(), re.M | re.S)
    for number, block in enumerate(blocks):
        name = "conftest.py" if block.startswith("pytest_plugins") else f"test_{number}.py"
        (tmp_path / name).write_text(block)
    status, output = run_pytest(tmp_path)
    assert status == 0, output
    assert f"{sum(block.count('def test_') for block in blocks)} passed" in output
