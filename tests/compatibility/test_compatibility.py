"""Names and behaviour that applications for sockjs-tornado 1.0 rely on."""

import asyncio
import functools
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
import tornado.gen
import tornado.web
from application import Echo, Journal, LogWatch, Noted, RunningServer, Serve
from client import Connect, Join, Peer, WebSocket, asking, messages_of, new_session, unframe, within
from tornado.ioloop import IOLoop

import sockjs_tornado
from sockjs_tornado import ConfigurationError, ConnectionInfo, Session, Settings, SockJSConnection, SockJSRouter

each_transport = pytest.mark.parametrize("transport", ["websocket", "xhr"])

#: Every setting of sockjs-tornado 1.0 with another value than its default there.
OLD_SETTINGS = {
    "session_check_interval": 2,
    "disconnect_delay": 6,
    "heartbeat_delay": 26,
    "disabled_transports": ["eventsource", "htmlfile"],
    "sockjs_url": "/static/sockjs.min.js",
    "response_limit": 4096,
    "jsessionid": False,
    "immediate_flush": False,
    "disable_nagle": False,
    "verify_ip": False,
}


async def enter(
    server: RunningServer, connect: Connect, transport: str, *fields: str, base: str = "", query: str = ""
) -> int:
    """Open a session with these header fields and this query, and return the client's port."""
    client = await connect(server)
    base = base or f"/chat/000/{new_session()}"
    if transport == "websocket":
        websocket = await WebSocket.open(client, f"{base}/websocket{query}", *fields)
        assert await websocket.text() == "o"
    else:
        response = await client.ask("POST", f"{base}/xhr{query}", *fields, body=b"")
        assert response.body == b"o\n"
    return client.port


async def opened(peer: Peer) -> Peer:
    """Return a client once its session is open."""
    assert await peer.frame() == "o"
    return peer


# The router.


@each_transport
async def test_a_router_takes_its_arguments_by_position(serve: Serve, join: Join, transport: str) -> None:
    class Own(Session):
        pass

    loop = IOLoop.current()
    journal = Journal()
    router = SockJSRouter(journal, "/chat", {"heartbeat_delay": 10}, loop, Own)
    peer = await opened(join(await serve(router), transport, prefix="/chat"))
    connection = await journal.connection()
    assert type(connection.session) is Own
    assert router.io_loop is loop
    assert router.get_connection_class() is journal
    assert router.settings["heartbeat_delay"] == 10
    await peer.send("hello")
    assert await connection.message() == "hello"


def test_a_router_is_made_before_the_event_loop_runs() -> None:
    router = SockJSRouter(Echo, "/chat")
    assert router.urls
    assert router.stats.dump()["sessions_active"] == 0


async def test_the_event_loop_is_the_running_one_by_default() -> None:
    assert SockJSRouter(Echo).io_loop is IOLoop.current()


async def test_the_urls_join_those_of_an_application(serve: Serve, connect: Connect) -> None:
    class Page(tornado.web.RequestHandler):
        def get(self) -> None:
            self.finish("page")

    chat, echo = SockJSRouter(Echo, "/chat"), SockJSRouter(Echo, "/echo")
    routes: list[Any] = [("/", Page)]
    assert chat.apply_routes(routes) is routes
    assert routes[1:] == chat.urls
    server = await serve()
    server.http.request_callback = tornado.web.Application(echo.apply_routes(routes), log_function=lambda handler: None)
    for path, body in (("/", b"page"), ("/chat", b"Welcome to SockJS!\n"), ("/echo/", b"Welcome to SockJS!\n")):
        assert (await (await connect(server)).ask("GET", path)).body == body


@each_transport
async def test_sessions_are_found_by_their_id(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/chat")
    peer = await opened(join(await serve(router), transport, prefix="/chat"))
    session = (await journal.connection()).session
    assert router.get_session(peer.session) is (session if transport == "xhr" else None)
    assert router.get_session("another") is None


async def test_an_application_makes_sessions(serve: Serve, join: Join) -> None:
    router = SockJSRouter(Echo, "/chat")
    server = await serve(router)
    session = router.create_session("mine")
    assert isinstance(session, Session)
    assert router.get_session("mine") is session
    hidden = router.create_session("hidden", register=False)
    assert router.get_session("hidden") is None
    peer = await opened(join(server, "xhr", prefix="/chat", session="mine"))
    await peer.send("hello")
    assert await peer.message() == "hello"
    assert session.conn_info.ip == "127.0.0.1"
    hidden.close()


async def test_a_session_that_the_application_made_is_for_the_address_that_opens_it(
    serve: Serve, connect: Connect
) -> None:
    router = SockJSRouter(Echo, "/chat")
    server = await serve(router)
    router.create_session("mine")
    for source, body in (("127.0.0.2", b"o\n"), ("127.0.0.1", b'c[1008,"Session was opened from another address"]\n')):
        client = await connect(server, source=source)
        assert (await client.ask("POST", "/chat/000/mine/xhr", body=b"")).body == body


async def test_every_setting_keeps_its_name(serve: Serve, connect: Connect) -> None:
    with pytest.warns(DeprecationWarning, match="session_check_interval"):
        router = SockJSRouter(Echo, "/chat", OLD_SETTINGS)
    expected = OLD_SETTINGS | {"disabled_transports": ("eventsource", "htmlfile")}
    assert {name: router.settings[name] for name in OLD_SETTINGS} == expected
    response = await (await connect(await serve(router))).ask("GET", "/chat/000/s/eventsource")
    assert response.status == 404


def test_every_setting_keeps_its_default() -> None:
    assert {name: Settings()[name] for name in OLD_SETTINGS if name != "sockjs_url"} == {
        "session_check_interval": 1,
        "disconnect_delay": 5,
        "heartbeat_delay": 25,
        "disabled_transports": (),
        "response_limit": 131072,
        "jsessionid": True,
        "immediate_flush": True,
        "disable_nagle": True,
        "verify_ip": True,
    }


def test_the_old_name_of_the_origin_list_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="allowed_origins") as caught:
        router = SockJSRouter(Echo, "/chat", {"websocket_allow_origin": ["example.com"]})
    assert [warning.filename for warning in caught] == [__file__]
    assert router.settings["allowed_origins"] == ("same-origin", "http://example.com", "https://example.com")
    assert router.settings["websocket_allow_origin"] == ("example.com",)


def test_a_misspelled_setting_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="heartbeat_delay"):
        SockJSRouter(Echo, "/chat", {"hearbeat_delay": 10})
    with pytest.raises(KeyError):
        SockJSRouter(Echo, "/chat").settings["hearbeat_delay"]


@pytest.mark.parametrize(
    ("settings", "websocket", "cookie"),
    [(None, True, True), ({}, True, True), ({"disabled_transports": ["websocket"], "jsessionid": False}, False, False)],
)
async def test_a_router_has_the_values_of_info(
    serve: Serve, connect: Connect, settings: Any, websocket: bool, cookie: bool
) -> None:
    router = SockJSRouter(Echo, "/chat", settings)
    assert (router.websockets_enabled, router.cookie_needed) == (websocket, cookie)
    info = json.loads((await (await connect(await serve(router))).ask("GET", "/chat/info")).body)
    assert (info["websocket"], info["cookie_needed"]) == (websocket, cookie)


async def test_statistics_have_their_old_keys(serve: Serve, join: Join) -> None:
    router = SockJSRouter(Echo, "/chat")
    server = await serve(router)
    keys = {"sessions_active", "connections_active", "connections_ps", "packets_sent_ps", "packets_recv_ps"}
    assert set(router.stats.dump()) == keys
    for transport in ("websocket", "xhr", "websocket"):
        await opened(join(server, transport, prefix="/chat"))
    figures = router.stats.dump()
    assert set(figures) == keys | {"transp_websocket", "transp_xhr"}
    assert (figures["transp_websocket"], figures["transp_xhr"], figures["sessions_active"]) == (2, 1, 3)
    assert all(isinstance(figure, int | float) for figure in figures.values())


@pytest.mark.parametrize("through", ["router", "session", "connection"])
async def test_a_broadcast_reaches_everybody(serve: Serve, join: Join, through: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/chat")
    server = await serve(router)
    peers = [await opened(join(server, transport, prefix="/chat")) for transport in ("websocket", "xhr")]
    clients = {await journal.connection() for _ in peers}
    one = next(iter(clients))
    {"router": router, "session": one.session, "connection": one}[through].broadcast(clients, "hello")  # type: ignore[attr-defined]
    assert [await peer.message() for peer in peers] == ["hello", "hello"]


async def test_a_router_knows_its_connections(serve: Serve, join: Join) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/chat")
    server = await serve(router)
    assert router.connections == []
    for transport in ("websocket", "xhr"):
        await opened(join(server, transport, prefix="/chat"))
    connections = [await journal.connection() for _ in range(2)]
    assert set(router.connections) == set(connections)
    connections[0].close()
    assert router.connections == connections[1:]


@each_transport
@pytest.mark.parametrize(
    ("prefix", "matched"),
    [
        ("/room-[0-9]+", "/room-7"),
        ("^/room-[0-9]+", "/room-7"),
        ("/(?:ann|bob)/sockjs", "/bob/sockjs"),
        ("/kernel/[^/]+/?", "/kernel/a-b"),
        ("", ""),
    ],
)
async def test_the_prefix_is_a_regular_expression(
    serve: Serve, join: Join, transport: str, prefix: str, matched: str
) -> None:
    journal = Journal()
    peer = await opened(join(await serve(SockJSRouter(journal, prefix)), transport, prefix=matched))
    info = (await journal.connection()).info
    assert info.path == f"{matched}/000/{peer.session}/{transport}"
    assert info.prefix == matched


# The connection.


class Room(Noted):
    """Is made with more than a session."""

    def __init__(self, room: str, opened: "asyncio.Queue[Noted]", session: Session) -> None:
        super().__init__(session, opened)
        self.room = room


class Rooms:
    """Makes connections by a method."""

    def __init__(self) -> None:
        self.opened: asyncio.Queue[Noted] = asyncio.Queue()

    def make(self, session: Session) -> Room:
        return Room("den", self.opened, session)


@each_transport
@pytest.mark.parametrize("way", ["bound method", "partial", "lambda"])
async def test_a_connection_is_made_by_anything_callable(serve: Serve, join: Join, transport: str, way: str) -> None:
    rooms = Rooms()
    factories: dict[str, Callable[[Session], SockJSConnection]] = {
        "bound method": rooms.make,
        "partial": functools.partial(Room, "den", rooms.opened),
        "lambda": lambda session: Room("den", rooms.opened, session),
    }
    router = SockJSRouter(factories[way], "/chat")
    peer = await opened(join(await serve(router), transport, prefix="/chat"))
    connection = await within(rooms.opened.get())
    assert isinstance(connection, Room)
    assert connection.room == "den"
    assert router.get_connection_class() == factories[way]
    await peer.send("hello")
    assert await connection.message() == "hello"


@each_transport
async def test_a_dict_reaches_the_page_as_a_value(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    peer = await opened(join(await serve(SockJSRouter(journal, "/chat")), transport, prefix="/chat"))
    connection = await journal.connection()
    sent: list[Any] = [{"event": {"type": "Connected", "n": [1, None, 2.5]}}, {}, [1, "ü"]]
    for message in sent:
        connection.send(message)
    assert [await peer.message() for _ in sent] == sent


@each_transport
async def test_the_session_sends_and_closes(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    peer = await opened(join(await serve(SockJSRouter(journal, "/chat")), transport, prefix="/chat"))
    connection = await journal.connection()
    session = connection.session
    assert session.get_close_reason() == (3000, "Go away!")
    session.send_message("one")
    assert await peer.message() == "one"
    session.send_message({"two": 2}, stats=False, binary=False)
    assert await peer.message() == {"two": 2}
    assert (session.is_closed, connection.is_closed) == (False, False)
    session.close(3456, "Enough")
    assert (session.is_closed, connection.is_closed) == (True, True)
    connection.send("too late")
    session.send_message("too late")
    session.close()
    connection.close()
    assert await peer.frame() == 'c[3456,"Enough"]'
    assert await connection.closed() == (3456, "Enough")
    assert session.get_close_reason() == (3456, "Enough")


@each_transport
async def test_a_session_has_its_old_attributes(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/chat")
    server = await serve(router, app_name="mine")
    router.printer = "a printer"  # type: ignore[attr-defined]
    await opened(join(server, transport, prefix="/chat"))
    session = cast("Any", (await journal.connection()).session)
    assert session.transport_name == transport
    assert session.conn_info.ip == "127.0.0.1"
    assert session.server.printer == "a printer"
    assert session.server is router
    assert session.handler.application.settings["app_name"] == "mine"
    assert session.handler.application is server.application
    session.user = "ann"
    assert session.conn.session.user == "ann"


@each_transport
async def test_a_connection_has_a_name_for_logs(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/chat"))
    peers = [await opened(join(server, transport, prefix="/chat")) for _ in range(2)]
    names = [(await journal.connection()).id for _ in peers]
    assert len(set(names)) == 2
    assert not {peer.session for peer in peers} & set(names)


@each_transport
async def test_a_session_class_of_the_application_s(serve: Serve, join: Join, transport: str) -> None:
    class Counting(Session):
        def __init__(self, *arguments: Any) -> None:
            self.sent = 0
            super().__init__(*arguments)

        def send_message(self, msg: Any, stats: bool = True, binary: bool = False) -> None:
            self.sent += 1
            super().send_message(msg, stats, binary)

    class Answering(SockJSConnection):
        def on_message(self, message: str) -> None:
            self.session.send_message(f"{message} {self.session.sent}")  # type: ignore[attr-defined]

    router = SockJSRouter(Answering, "/chat", session_kls=Counting)
    peer = await opened(join(await serve(router), transport, prefix="/chat"))
    await peer.send("a")
    await peer.send("b")
    assert [await peer.message(), await peer.message()] == ["a 0", "b 1"]


# Opening.


class Guarded(Noted):
    """Does in ``on_open`` what the test wants."""

    act: Callable[["Guarded"], Any]

    def on_open(self, info: ConnectionInfo) -> Any:
        super().on_open(info)
        return type(self).act(self)


def guarded(act: Callable[[Guarded], Any]) -> Journal:
    """Return what makes connections that do this in ``on_open``."""
    return Journal(type("Guarded", (Guarded,), {"act": act}))


def forbid(connection: Guarded) -> None:
    raise tornado.web.HTTPError(403)


async def refuse_later(connection: Guarded) -> bool:
    await asyncio.sleep(0)
    return False


@each_transport
@pytest.mark.parametrize("act", [lambda connection: False, forbid, refuse_later], ids=["False", "HTTPError", "async"])
async def test_on_open_rejects(serve: Serve, join: Join, transport: str, act: Callable[[Guarded], Any]) -> None:
    journal = guarded(act)
    router = SockJSRouter(journal, "/chat")
    peer = await opened(join(await serve(router), transport, prefix="/chat"))
    assert await peer.frame() == 'c[3000,"Go away!"]'
    connection = await journal.connection()
    assert await connection.closed() == (3000, "Go away!")
    assert connection.is_closed
    assert router.connections == []


@each_transport
async def test_on_open_may_close(serve: Serve, join: Join, transport: str) -> None:
    def farewell(connection: Guarded) -> None:
        connection.send("Bye")
        connection.close()
        assert connection.is_closed

    journal = guarded(farewell)
    peer = await opened(join(await serve(SockJSRouter(journal, "/chat")), transport, prefix="/chat"))
    assert await peer.frame() == 'a["Bye"]'
    assert await peer.frame() == 'c[3000,"Go away!"]'
    assert await (await journal.connection()).closed() == (3000, "Go away!")


@each_transport
@pytest.mark.parametrize("result", [None, True, 0, "", "no"])
async def test_nothing_but_false_rejects(
    serve: Serve, join: Join, logged: LogWatch, transport: str, result: Any
) -> None:
    journal = guarded(lambda connection: result)
    peer = await opened(join(await serve(SockJSRouter(journal, "/chat")), transport, prefix="/chat"))
    await peer.send("hello")
    assert await (await journal.connection()).message() == "hello"
    if not isinstance(result, bool | None):
        logged.take("which accepts the client")


@each_transport
async def test_an_exception_closes(serve: Serve, join: Join, logged: LogWatch, transport: str) -> None:
    class Failing(Noted):
        def on_message(self, message: str) -> None:
            raise ValueError(message)

    journal = Journal(Failing)
    peer = await opened(join(await serve(SockJSRouter(journal, "/chat")), transport, prefix="/chat"))
    await peer.send("hello", "never heard")
    assert await peer.frame() == 'c[1011,"Internal error"]'
    assert await (await journal.connection()).closed() == (1011, "Internal error")
    assert logged.take("on_message").exc_info


# What is known of the request.

FIELDS = (
    "Origin: https://example.com",
    "Cookie: user=ann; theme=dark",
    "Authorization: Bearer secret",
    "User-Agent: agent/1",
    "X-Forwarded-Host: outside",
    "X-Secret: none of yours",
)


@each_transport
async def test_info_describes_the_request(serve: Serve, connect: Connect, logged: LogWatch, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/chat"))
    port = await enter(server, connect, transport, *FIELDS, query="?room=7&room=8&empty=")
    connection = await journal.connection()
    info = connection.info
    assert info is connection.session.conn_info
    assert (info.ip, info.port) == ("127.0.0.1", port)
    assert [info.get_argument(name) for name in ("room", "empty", "none")] == ["7", "", None]
    assert info.get_argument("none", "default") == "default"
    assert info.arguments == {"room": ["7", "8"], "empty": [""]}
    assert info.get_header("user-agent") == info.headers["User-Agent"] == "agent/1"
    assert info.get_header("Origin") == "https://example.com"
    assert info.get_header("X-Forwarded-Host") == "outside"
    assert info.get_header("X-Secret") is None
    assert info.get_header("X-Secret", "default") == "default"
    logged.take("info.headers never has the field 'x-secret'")


@each_transport
async def test_without_an_origin_list_there_are_no_credentials(
    serve: Serve, connect: Connect, logged: LogWatch, transport: str
) -> None:
    journal = Journal()
    await enter(await serve(SockJSRouter(journal, "/chat")), connect, transport, *FIELDS)
    info = (await journal.connection()).info
    assert dict(info.cookies) == {}
    assert info.get_cookie("user") is None
    logged.take("set allowed_origins to the origins of your pages")
    assert info.get_header("Authorization") is None
    logged.take("info.headers never has the field 'authorization', since a page of any site")
    # A client may send this one.
    assert info.get_header("Via") is None
    assert "authorization" not in info.headers
    assert "cookie" not in info.headers


@each_transport
async def test_with_an_origin_list_there_are_credentials(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/chat", {"allowed_origins": ["https://example.com"]})
    await enter(await serve(router), connect, transport, *FIELDS)
    info = (await journal.connection()).info
    assert dict(info.cookies) == {"user": "ann", "theme": "dark"}
    assert [info.get_cookie(name) for name in ("user", "none")] == ["ann", None]
    assert info.get_header("Authorization") == "Bearer secret"
    assert "cookie" not in info.headers


# Threads.


@each_transport
@pytest.mark.parametrize("act", ["send", "close", "broadcast", "router.broadcast", "session.close", "send_message"])
async def test_another_thread_is_rejected_at_once(serve: Serve, join: Join, transport: str, act: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/chat")
    peer = await opened(join(await serve(router), transport, prefix="/chat"))
    connection = await journal.connection()
    acts: dict[str, Callable[[], Any]] = {
        "send": lambda: connection.send("hello"),
        "close": connection.close,
        "broadcast": lambda: connection.broadcast([connection], "hello"),
        "router.broadcast": lambda: router.broadcast([connection], "hello"),
        "session.close": connection.session.close,
        "send_message": lambda: connection.session.send_message("hello"),
    }
    with pytest.raises(RuntimeError, match=r"router\.io_loop\.add_callback"):
        await asyncio.to_thread(acts[act])
    assert not connection.is_closed
    connection.send("nothing came before")
    assert await peer.message() == "nothing came before"


class Chatting(Noted):
    def send(self, message: Any, binary: bool = False) -> Any:
        return super().send(f"chat: {message}", binary)


class Tagging(Session):
    def send_message(self, msg: Any, stats: bool = True, binary: bool = False) -> None:
        super().send_message(f"tag: {msg}", stats, binary)


@pytest.mark.parametrize(("kind", "session_kls"), [(Chatting, Session), (Noted, Tagging)])
async def test_another_thread_is_told_how_to_call_an_overridden_method(
    serve: Serve, join: Join, kind: type[Noted], session_kls: type[Session]
) -> None:
    journal = Journal(kind)
    server = await serve(SockJSRouter(journal, "/chat", session_kls=session_kls))
    peer = await opened(join(server, "websocket", prefix="/chat"))
    connection = await journal.connection()
    with pytest.raises(
        RuntimeError, match=r"from another thread call connection.router.io_loop.add_callback\(connection.send, mess"
    ):
        await asyncio.to_thread(connection.send, "hello")
    await asyncio.to_thread(connection.router.io_loop.add_callback, connection.send, "hello")
    assert (await peer.message()).endswith(": hello")


@each_transport
async def test_another_thread_sends_through_the_event_loop(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/chat")
    peer = await opened(join(await serve(router), transport, prefix="/chat"))
    connection = await journal.connection()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(connection.send, "one")
        router.io_loop_of_the_application.add_callback(connection.send, "two")  # type: ignore[attr-defined]
        loop.call_soon_threadsafe(connection.close)

    router.io_loop_of_the_application = router.io_loop  # type: ignore[attr-defined]
    await asyncio.to_thread(work)
    assert [await peer.message(), await peer.message()] == ["one", "two"]
    assert await peer.frame() == 'c[3000,"Go away!"]'


@each_transport
async def test_tornado_s_loop_and_coroutines_send_to_a_disconnected_client(
    serve: Serve, join: Join, transport: str
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/chat")
    peer = await opened(join(await serve(router), transport, prefix="/chat"))
    connection = await journal.connection()

    @tornado.gen.coroutine
    def work() -> Any:
        yield connection.send("one")
        connection.close()
        yield connection.send("too late")
        return "done"

    assert await work() == "done"
    finished = asyncio.Event()
    # Nothing may be logged of it.
    router.io_loop.add_callback(connection.send, "too late")
    router.io_loop.add_callback(finished.set)
    await within(finished.wait())
    assert await peer.message() == "one"
    assert await peer.frame() == 'c[3000,"Go away!"]'


# Names.


def test_the_names_have_their_old_paths() -> None:
    assert {"SockJSConnection", "SockJSRouter"} <= set(sockjs_tornado.__all__)


@pytest.mark.parametrize("transport", ["eventsource", "htmlfile", "jsonp", "xhr_streaming"])
async def test_every_other_transport_is_served_as_well(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/chat"))
    base = f"/chat/000/{new_session()}"
    client = await connect(server)
    client.write(asking(transport, base))
    if transport == "jsonp":
        assert unframe(transport, (await client.response()).body) == "o"
        client.write(asking(transport, base))
        (await journal.connection()).send("hello")
        assert messages_of(unframe(transport, (await client.response()).body)) == ["hello"]
    else:
        await client.head()
        await client.chunk()
        assert unframe(transport, await client.chunk()) == "o"
        (await journal.connection()).send("hello")
        assert messages_of(unframe(transport, await client.chunk())) == ["hello"]
