"""What applications for sockjs-tornado 1.0 do that no documentation of 1.0 mentions."""

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import date
from typing import Any, NamedTuple

import pytest
import tornado.httpserver
import tornado.web
from application import Echo, Journal, LogWatch, Noted, Serve
from client import FRAMED, Client, Connect, Join, WebSocket, asking, new_session, until, within
from doubles import Receiver
from tornado.testing import bind_unused_port

from sockjs_tornado import (
    ConnectionInfo,
    JSONValue,
    Session,
    SockJSConnection,
    SockJSRouter,
)
from sockjs_tornado.multiplex import MultiplexConnection
from sockjs_tornado.protocol import encode_message
from sockjs_tornado.session import blocking

each_transport = pytest.mark.parametrize("transport", ["websocket", "xhr"])


class Wrapping(SockJSConnection):
    """Overrides ``send``, and sends with the session's method."""

    def send(self, message: Any, binary: bool = False) -> Any:
        self.session.send_message({"text": message}, binary=binary)

    def on_message(self, message: str) -> None:
        self.send(message)


@each_transport
async def test_an_overridden_send_may_send_through_the_session(serve: Serve, join: Join, transport: str) -> None:
    peer = join(await serve(SockJSRouter(Wrapping, "/echo")), transport)
    assert await peer.frame() == "o"
    await peer.send("hello")
    assert await peer.frame() == 'a[{"text":"hello"}]'


@each_transport
async def test_each_session_has_the_id_of_its_url(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo")), transport)
    assert await peer.frame() == "o"
    assert (await journal.connection()).session.session_id == peer.session


async def test_a_raw_websocket_has_an_id_of_its_own(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    ids = set()
    for _ in range(2):
        await WebSocket.open(await connect(server), "/echo/websocket")
        ids.add((await journal.connection()).session.session_id)
    assert len(ids) == 2
    assert all(isinstance(id, str) and len(id) >= 32 for id in ids)


async def test_websockets_with_the_same_id_are_sessions_of_their_own(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    path = f"/echo/000/{new_session()}/websocket"
    websockets = [await WebSocket.open(await connect(server), path) for _ in range(2)]
    connections = [await journal.connection() for _ in websockets]
    assert connections[0].session.session_id == connections[1].session.session_id
    assert router.get_session(connections[0].session.session_id or "") is None
    connections[0].close(4000, "Enough")
    assert await websockets[0].text() == "o"
    assert await websockets[0].text() == 'c[4000,"Enough"]'
    assert [connection.is_closed for connection in connections] == [True, False]


@each_transport
async def test_a_page_receives_any_close_code(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo")), transport)
    assert await peer.frame() == "o"
    (await journal.connection()).close(9000, "Disconnected")
    assert await peer.frame() == 'c[9000,"Disconnected"]'


@pytest.mark.parametrize(
    ("code", "legal"), [(9000, 4999), (2010, 3000), (1015, 1014), (1006, 1007), (0, 1000), (4000, 4000)]
)
async def test_a_raw_websocket_receives_the_nearest_legal_close_code(
    serve: Serve, connect: Connect, code: int, legal: int
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    websocket = await WebSocket.open(await connect(server), "/echo/websocket")
    connection = await journal.connection()
    connection.close(code, "Disconnected")
    assert await websocket.closed() == (legal, "Disconnected")
    assert connection.close_code == code


def rebuilt_by_slices(urls: list[Any]) -> list[Any]:
    return [["/base" + url[0], *list(url[1:])] for url in urls]


def rebuilt_by_unpacking(urls: list[Any]) -> list[Any]:
    return [("/base" + pattern, handler, kwargs) for pattern, handler, kwargs in urls]


@pytest.mark.parametrize("rebuild", [rebuilt_by_slices, rebuilt_by_unpacking])
async def test_an_application_builds_other_urls_from_those_of_a_router(
    serve: Serve, join: Join, connect: Connect, rebuild: Any
) -> None:
    router = SockJSRouter(Echo, "/echo", {"max_message_size": 100})
    server = await serve(router)
    server.http.request_callback = tornado.web.Application(rebuild(router.urls), log_function=lambda handler: None)
    for transport in ("websocket", "xhr"):
        peer = join(server, transport, prefix="/base/echo")
        assert await peer.frame() == "o"
        await peer.send("hello")
        assert await peer.message() == "hello"
    # The limit of a body holds before the body has arrived.
    client = await connect(server)
    response = await client.ask("POST", "/base/echo/000/abc/xhr_send", "Content-Length: 101")
    assert response.status == 413


ALLOWED = {
    "*": (True, True, True, True),
    "": (True, False, False, False),
    "friend.example": (True, True, True, False),
    "friend.example,other.example:8443": (True, True, True, False),
}


@pytest.mark.parametrize("hosts", ALLOWED)
async def test_the_hosts_of_websocket_allow_origin_may_connect(serve: Serve, connect: Connect, hosts: str) -> None:
    with pytest.warns(DeprecationWarning, match="websocket_allow_origin"):
        router = SockJSRouter(Echo, "/echo", {"websocket_allow_origin": hosts})
    server = await serve(router)
    allowed = []
    for origin in ("http://localhost", "http://friend.example", "https://FRIEND.example", "https://notfriend.example"):
        client = await connect(server)
        response = await client.ask("GET", "/echo/info", f"Origin: {origin}")
        allowed.append(response.status == 200)
    assert tuple(allowed) == ALLOWED[hosts]


# Values.


class Point(NamedTuple):
    x: int
    y: int


def encode(value: Any) -> str:
    return json.dumps(value, default=str, indent=1)


@each_transport
async def test_tuples_and_json_are_sent_as_values(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo")), transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    for message, frame in (
        ((1, "two"), 'a[[1,"two"]]'),
        (Point(3, 4), "a[[3,4]]"),
        (JSONValue('{"a":\r\n\n1}'), 'a[{"a":   1}]'),
        (JSONValue("null"), "a[null]"),
    ):
        connection.send(message)
        assert await peer.frame() == frame


@each_transport
async def test_an_application_encodes_its_own_types(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"json_encode": encode})
    peer = join(await serve(router), transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    connection.join("room")
    day = date(2026, 11, 29)
    ways: list[Callable[[Any], object]] = [
        connection.send,
        connection.session.send_message,
        lambda message: router.broadcast([connection], message),
        lambda message: router.publish("room", message),
    ]
    for way in ways:
        way({"day": day})
        assert await peer.frame() == 'a[{  "day": "2026-11-29" }]'
        way(day)
        assert await peer.frame() == 'a["2026-11-29"]'
        # Text is not JSON.
        way("text")
        assert await peer.frame() == 'a["text"]'


async def test_an_error_of_the_encoder_reaches_the_caller(serve: Serve, join: Join) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"json_encode": json.dumps})
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    connection = await journal.connection()
    with pytest.raises(TypeError, match="date is not JSON serializable"):
        connection.send(date(2026, 11, 29))
    with pytest.raises(TypeError, match="bytes can be sent only on a raw websocket"):
        connection.send(b"bytes")
    connection.send("next")
    assert await peer.frame() == 'a["next"]'


def test_an_encoder_must_return_text() -> None:
    with pytest.raises(TypeError, match="JSON text must be str, not int"):
        JSONValue(5)  # type: ignore[arg-type]
    assert repr(encode_message([1], lambda value: b"[1]")) == "JSONValue('[1]')"


# Names that applications use for attributes of their own.


class Owner(SockJSConnection):
    def on_open(self, info: ConnectionInfo) -> None:
        owner: Any = self
        owner.id, owner.close_code, owner.close_reason, owner.rooms = 5, "mine", "own", ["hall"]
        owner.router, owner.publish = "printer", "news"
        request: Any = info
        request.user = "ann"
        self.join("room")

    def on_message(self, message: str) -> None:
        owner: Any = self
        request: Any = self.session.conn_info
        self.send(
            [owner.id, owner.close_code, owner.close_reason, owner.rooms, owner.router, owner.publish, request.user]
        )


@pytest.mark.filterwarnings("ignore:Owner.rooms was set:UserWarning")
@each_transport
async def test_an_application_uses_these_names_for_its_own_attributes(serve: Serve, join: Join, transport: str) -> None:
    router: Any = SockJSRouter(Owner, "/echo")
    router.connections, router.application, router.io_loop = "mine", "own", "another"
    peer = join(await serve(router), transport)
    assert await peer.frame() == "o"
    await peer.send("tell")
    assert await peer.frame() == 'a[[5,"mine","own",["hall"],"printer","news","ann"]]'
    router.publish("room", "still in the room")
    assert await peer.message() == "still in the room"
    assert (router.connections, router.application, router.io_loop) == ("mine", "own", "another")
    (session,) = router.container
    assert isinstance(session.handler.application, tornado.web.Application)
    session.close(4000, "Enough")
    assert await peer.frame() == 'c[4000,"Enough"]'
    assert (session.close_code, session.close_reason) == (4000, "Enough")


def test_settings_are_read_as_from_a_mapping() -> None:
    settings = SockJSRouter(Echo, "/echo", {"heartbeat_delay": 10}).settings
    assert (settings.get("heartbeat_delay"), settings.get("own"), settings.get("own", 5)) == (10, None, 5)


# The request.


@each_transport
async def test_an_application_reads_a_signed_cookie(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", allowed_origins="same-origin")
    client = await connect(await serve(router, cookie_secret="secret"))
    cookie = tornado.web.create_signed_value("secret", "user", "ann").decode()
    fields = (f"Cookie: theme=dark; user={cookie}", "Origin: http://localhost")
    path = f"/echo/000/{new_session()}/{transport}"
    if transport == "websocket":
        await WebSocket.open(client, path, *fields)
    else:
        assert (await client.ask("POST", path, *fields, body=b"")).body == b"o\n"
    connection = await journal.connection()
    info = connection.session.conn_info
    secret = connection.session.handler.application.settings["cookie_secret"]
    # As docs/migrating.md says.
    assert tornado.web.decode_signed_value(secret, "user", info.get_cookie("user")) == b"ann"
    assert tornado.web.decode_signed_value(secret, "user", info.get_cookie("theme")) is None


# Callbacks that wait.


class Asking(SockJSConnection):
    """Waits for the client's next message in ``on_message``."""

    answer: asyncio.Future[str] | None = None

    async def on_message(self, message: str) -> None:
        if self.answer is None:
            self.answer = asyncio.get_running_loop().create_future()
            self.send(await self.answer)
        elif not self.answer.done():
            self.answer.set_result(message)


@each_transport
async def test_a_callback_that_waits_for_the_next_message_is_reported(
    serve: Serve, join: Join, logged: LogWatch, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking.logger, "disabled", False)
    router = SockJSRouter(Asking, "/echo", {"disconnect_delay": 0.1})
    peer = join(await serve(router), transport)
    assert await peer.frame() == "o"
    await peer.send("ask")
    listening = asyncio.ensure_future(peer.frame())
    await peer.send("answer")
    await until(lambda: bool(logged.records))
    report = "Asking.on_message has been running for at least 0.1 s, and messages of its client wait until it ends"
    logged.take(report)
    (session,) = router.container
    session.conn.answer.set_result("no answer")
    assert await listening == 'a["no answer"]'


@each_transport
async def test_a_callback_may_wait_for_the_next_message_if_callbacks_are_concurrent(
    serve: Serve, join: Join, transport: str
) -> None:
    peer = join(await serve(SockJSRouter(Asking, "/echo", {"max_concurrent_callbacks": 100})), transport)
    assert await peer.frame() == "o"
    await peer.send("ask")
    await peer.send("answer")
    assert await peer.message() == "answer"


# The event loop.


@each_transport
async def test_a_thread_sends_with_the_routers_loop(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    peer = join(await serve(router), transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    await asyncio.to_thread(lambda: router.io_loop.add_callback(connection.send, "from a thread"))
    assert await peer.message() == "from a thread"


@pytest.mark.parametrize("transport", FRAMED)
async def test_threads_send_what_they_have_at_the_time_of_the_call(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo", {"json_encode": encode})), transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()

    def work(author: int) -> None:
        value: Any = {"author": author, "day": date(2026, 11, 29)}
        for number in range(50):
            value["number"] = number
            connection.send_threadsafe(value)
        value["number"] = "changed"

    # They run while the event loop stands still, so that it sends everything after their last change.
    threads = [threading.Thread(target=work, args=[author]) for author in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connection.send_threadsafe("end")
    messages = []
    while (message := await peer.message()) != "end":
        messages.append(message)
    for author in range(4):
        numbers = [message["number"] for message in messages if message["author"] == author]
        assert numbers == list(range(50))
    assert len(messages) == 200


async def test_a_thread_gets_the_errors_of_its_messages(serve: Serve, join: Join) -> None:
    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo")), "websocket")
    assert await peer.frame() == "o"
    connection = await journal.connection()
    with pytest.raises(TypeError, match="date"):
        await asyncio.to_thread(connection.send_threadsafe, {"day": date(2026, 11, 29)})
    with pytest.raises(ValueError, match="not JSON compliant"):
        await asyncio.to_thread(connection.send_threadsafe, [float("nan")])
    connection.send_threadsafe("next")
    assert await peer.frame() == 'a["next"]'


async def test_a_thread_sends_bytes_on_a_raw_websocket(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    websocket = await WebSocket.open(await connect(server), "/echo/websocket")
    connection = await journal.connection()
    await asyncio.to_thread(connection.send_threadsafe, b"bytes")
    await asyncio.to_thread(connection.send_threadsafe, "text", True)
    assert [(await websocket.frame()).payload for _ in range(2)] == [b"bytes", b"text"]


async def test_a_thread_s_message_to_a_closed_connection_goes_nowhere(serve: Serve, join: Join) -> None:
    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo")), "websocket")
    assert await peer.frame() == "o"
    connection = await journal.connection()
    connection.send_threadsafe("not sent before the event loop's next iteration")
    connection.close(4000, "Enough")
    assert await peer.frame() == 'c[4000,"Enough"]'


def test_a_thread_s_message_after_the_end_of_the_event_loop_goes_nowhere() -> None:
    router = SockJSRouter(Echo, "/echo")

    async def open_session() -> Session:
        return router.create_session("left")

    session = asyncio.run(open_session())
    session.conn.send_threadsafe("too late")


async def test_a_thread_gets_no_loop_that_nobody_runs() -> None:
    router = SockJSRouter(Echo, "/echo")
    with pytest.raises(RuntimeError, match=r"^router\.io_loop: the event loop is unknown before the first session"):
        await asyncio.to_thread(lambda: router.io_loop)


async def test_a_thread_with_an_event_loop_of_its_own_gets_it() -> None:
    router = SockJSRouter(Echo, "/echo")

    async def read() -> bool:
        # Before anything else in the thread has asked Tornado for it.
        loop = router.io_loop
        return loop.asyncio_loop is asyncio.get_running_loop()  # type: ignore[attr-defined]

    assert await asyncio.to_thread(asyncio.run, read())


def test_a_router_works_on_one_event_loop_after_another() -> None:
    router = SockJSRouter(Echo, "/echo", {"heartbeat_delay": 0.05, "disconnect_delay": 0.05})

    async def use() -> None:
        sock, port = bind_unused_port()
        server = tornado.httpserver.HTTPServer(tornado.web.Application(router.urls, log_function=lambda handler: None))
        server.add_sockets([sock])
        websocket = await WebSocket.open(
            Client(*await asyncio.open_connection("127.0.0.1", port)), f"/echo/000/{new_session()}/websocket"
        )
        polling = Client(*await asyncio.open_connection("127.0.0.1", port))
        base = f"/echo/000/{new_session()}"
        polling.write(asking("xhr", base))
        assert (await polling.response()).body == b"o\n"
        # Both deadlines pass: that of a heartbeat, and that of the next poll.
        assert [await websocket.text() for _ in range(2)] == ["o", "h"]
        await until(lambda: router.get_session(base.rpartition("/")[2]) is None)
        # The next loop starts with a session that was left over.
        polling.write(asking("xhr", f"/echo/000/{new_session()}"))
        assert (await polling.response()).body == b"o\n"
        websocket.client.writer.close()
        polling.writer.close()
        server.stop()
        await server.close_all_connections()
        await until(lambda: len(router.container) <= 1)

    for _ in range(3):
        asyncio.run(within(use()))


@pytest.mark.parametrize("kind", ["websocket", "closing", "xhr_streaming", "xhr"])
def test_a_session_ends_with_the_event_loop_of_its_connection(kind: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    kept: list[Any] = []

    async def open_session() -> None:
        sock, port = bind_unused_port()
        server = tornado.httpserver.HTTPServer(tornado.web.Application(router.urls, log_function=lambda handler: None))
        server.add_sockets([sock])
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        kept.extend((server, client))
        base = f"/echo/000/{new_session()}"
        if kind in ("websocket", "closing"):
            websocket = await WebSocket.open(client, f"{base}/websocket")
            assert await websocket.text() == "o"
        elif kind == "xhr_streaming":
            client.write(asking(kind, base))
            await client.head()
        else:
            client.write(asking(kind, base))
            assert (await client.response()).body == b"o\n"
            client.write(asking(kind, base))
        (session,) = router.container
        await until(lambda: session.is_attached)
        kept.append(session._receiver)
        if kind == "closing":
            session.close(4000, "Enough")

    async def go_on() -> None:
        connection = await journal.connection()
        router.create_session("next").close()
        assert await connection.closed() == (
            (4000, "Enough") if kind == "closing" else (1002, "Connection interrupted")
        )
        connection.send("too late")
        assert router.connections == []
        # Nothing is left that it would have to wait for, except sessions without a websocket, for their close frame.
        for session in router.container:
            session.check(session.due)
        await router.close()

    async def clean_up() -> None:
        server, client, receiver = kept
        client.writer.transport.abort()
        server.stop()
        await server.close_all_connections()
        if kind != "xhr":
            await until(lambda: receiver._ended)

    # Not closed, so that the test can clean up.
    first = asyncio.new_event_loop()
    first.run_until_complete(within(open_session()))
    asyncio.run(within(go_on()))
    first.run_until_complete(within(clean_up()))
    first.close()


class Stuck(Noted):
    """One of its callbacks never ends."""

    where = ""

    def on_open(self, info: ConnectionInfo) -> Any:
        super().on_open(info)
        return asyncio.Event().wait() if self.where == "on_open" else None

    def on_message(self, message: Any) -> Any:
        super().on_message(message)
        return asyncio.Event().wait() if self.where == "on_message" else None

    def on_close(self) -> Any:
        super().on_close()
        return asyncio.Event().wait() if self.where == "on_close" else None


@pytest.mark.parametrize("in_channel", [False, True])
@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize(
    ("where", "is_closed"),
    [("on_open", False), ("on_open", True), ("on_message", False), ("on_message", True), ("on_close", True)],
)
def test_a_callback_that_runs_when_its_event_loop_is_closed_ends_with_it(
    where: str, is_closed: bool, limit: int, in_channel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session counts until then, and would count forever."""
    monkeypatch.setattr(Stuck, "where", where)
    settings = {"max_sessions": 1, "max_unopened_sessions": 1, "max_concurrent_callbacks": limit}
    journal = Journal(Stuck)
    kind = MultiplexConnection.get(c=journal) if in_channel else journal
    router = SockJSRouter(kind, "/echo", settings)

    async def use() -> None:
        session = router.create_session("first")
        Receiver(session).attach()
        session._receive(["sub,c", "msg,c,x"] if in_channel else ["x"])
        if is_closed:
            session.close()
        # The callback starts.
        for _ in range(5):
            await asyncio.sleep(0)

    async def go_on() -> None:
        router.create_session("next").close()
        connection = await journal.connection()
        await connection.closed()
        for session in router.container:
            # No client polls for its close frame.
            session.check(session.due)
        assert router.container.limit_reached("127.0.0.1") is None
        await within(router.close())

    loop = asyncio.new_event_loop()
    loop.run_until_complete(within(use()))
    tasks = asyncio.all_tasks(loop)
    # Without cancelling its tasks, as asyncio.run() does.
    loop.close()
    asyncio.run(within(go_on()))
    for task in tasks:
        # Otherwise asyncio would report them.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()


async def test_a_router_does_not_work_on_two_event_loops_at_once() -> None:
    router = SockJSRouter(Echo, "/echo")
    router.create_session("mine").close()

    async def use() -> None:
        router.create_session("another")

    with pytest.raises(RuntimeError, match=r"^a router must be used on one event loop"):
        await asyncio.to_thread(lambda: asyncio.run(use()))
