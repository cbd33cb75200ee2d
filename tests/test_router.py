"""The router: its URLs, its transports, broadcasts, and its end."""

import asyncio
import functools
import itertools
import json
import random
import re
import subprocess
import sys
from typing import Any

import pytest
from application import NATIVE, Echo, Journal, LogWatch, Noted, Serve, exception_of
from client import (
    FRAMED,
    HANDSHAKE,
    POLLING,
    RECEIVING,
    SCRIPT_URL,
    STREAMING,
    TEXT,
    URLS,
    Connect,
    Join,
    Url,
    WebSocket,
    asking,
    first_frame,
    frame,
    path_of,
    request,
    sending,
    settle,
    unframe,
    within,
)
from doubles import Notes, Receiver
from tornado.gen import coroutine
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.web import Application

from sockjs_tornado import ConfigurationError, Settings, SockJSConnection, SockJSRouter
from sockjs_tornado.session.session import Session

GONE = 'c[3000,"Go away!"]'

# URLs.


@pytest.mark.parametrize(
    "path",
    [
        "//",
        "///",
        "/a",
        "/a/",
        "/a/a",
        "/a/a/",
        "//a/xhr",
        "/a//xhr",
        "///xhr",
        "//xhr",
        "/a/a//xhr",
        "/a/a/xhr//",
        "/a/a//",
        "/a/a/a/xhr",
        "/a./a/xhr",
        "/.a/a/xhr",
        "/./a/xhr",
        "/a/a./xhr",
        "/a/./xhr",
        "/a/a.b/xhr_send",
        "/a/../websocket",
        "/a/a/xhr.html",
        "/a/a/XHR",
        "/a/a/xhr_polling",
        "/a/a/xhr%5Fsend",
        "/a%2Fa/xhr",
        "/a/a/info",
        "/a/info",
        "/info//",
        "/info/a",
        "/INFO",
        "/inf%6F",
        "/websocket//",
        "/a/websocket",
        "/a/websocket/",
        "/iframe",
        "/sockjs.js",
        "/sockjs.min.jsx",
        "/sockjs-min.js",
        "/sockjs.min.js.map",
        "/a/sockjs.min.js",
        "/a/a/sockjs.min.js",
        "x",
        ".",
        "/%",
    ],
)
async def test_there_is_nothing_else_below_the_prefix(serve: Serve, connect: Connect, path: str) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    for method in ("GET", "POST", "OPTIONS", "DELETE"):
        response = await client.ask(method, f"/echo{path}", body=b"")
        assert response.status == 404
    assert len(router.container) == 0


@pytest.mark.parametrize("url", URLS, ids=path_of)
async def test_a_url_may_end_with_a_slash(serve: Serve, connect: Connect, url: Url) -> None:
    journal = Journal()
    # The second of two polls is answered by a heartbeat.
    server = await serve(SockJSRouter(journal, "/a.b/c", {"heartbeat_delay": 0.05}))
    path, question_mark, query = url.path.partition("?")
    slashed = Url(f"{path.removesuffix('/')}/{question_mark}{query}", url.method, url.cors)
    statuses = []
    for asked in (url, slashed):
        if "send" in url.path:
            await (await connect(server)).ask("POST", "/a.b/c/000/abc/xhr", body=b"")
        fields = HANDSHAKE if path.endswith("/websocket") and asked is slashed else ()
        response = await (await connect(server)).fetch(asked, *fields, prefix="/a.b/c")
        statuses.append(response.status)
        if not journal.opened.empty():
            info = (await journal.connection()).info
            assert info.prefix == "/a.b/c"
            assert "send" in url.path or info.uri == f"/a.b/c{asked.path}"
    assert statuses[0] == statuses[1] < 300
    wrong = await (await connect(server)).ask("DELETE", f"/a.b/c{slashed.path}")
    assert (wrong.status, wrong["Allow"]) == (405, url.allow)


@pytest.mark.parametrize("name", ["000", "a", "-", "~!$&'()*+,;=:@", "%20", "%2F", "%2e", "%00", "%ff", "x" * 255])
async def test_the_server_part_is_for_load_balancers_only(serve: Serve, connect: Connect, name: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b"o\n"
    assert (await client.ask("POST", f"/echo/{name}/abc/xhr_send", body=b'["x"]')).status == 204
    assert (await client.ask("POST", f"/echo/{name}x/abc/xhr", body=b"")).body == b'a["x"]\n'


@pytest.mark.parametrize(
    ("prefix", "base"),
    [
        ("/echo", "/echo"),
        ("/echo/", "/echo"),
        ("/a/b-c.d", "/a/b-c.d"),
        ("", ""),
        ("/", ""),
        ("/room-[a-z]+", "/room-xyz"),
        ("/(?:x|y)", "/y"),
    ],
)
async def test_the_urls_begin_with_the_prefix(serve: Serve, connect: Connect, prefix: str, base: str) -> None:
    server = await serve(SockJSRouter(Echo, prefix))
    below = await serve(SockJSRouter(Echo, f"{prefix}/x"))
    for number, url in enumerate(URLS):
        # A session for each, or the second one would be told that the first one listens.
        asked = Url(url.path.replace("abc", f"abc{number}"), url.method, url.cors)
        found = base if base + asked.path else "/"
        response = await (await connect(server)).fetch(asked, prefix=found)
        expected = 404 if "send" in asked.path else 101 if asked.path.endswith("websocket") else 200
        assert response.status == expected, asked
        if found != "/":
            response = await (await connect(below)).fetch(asked, prefix=base or "/y")
            assert response.status == 404, asked


@pytest.mark.parametrize("prefix", ["x", "echo", "/(a)", "(/a)", "/(?P<name>a)", "/[", None, 1, b"/a"])
def test_a_prefix_that_no_path_can_begin_with_is_rejected(prefix: Any) -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        SockJSRouter(Echo, prefix)


@pytest.mark.parametrize(
    ("prefix", "hint"),
    [
        ("/caf\xe9", "percent-encoded: use '/caf%C3%A9'"),
        ("/a b", "percent-encoded: use '/a%20b'"),
        ("/\ud800", "percent-encoded: use '/%3F'"),
        ("/a$", "since more follows: omit the `$`"),
        (r"/a\\$", "since more follows: omit the `$`"),
        ("/a/{room}", "use `[^/]+` for a part that varies, and read it in `info.prefix`"),
        ("/a/<room>", "use `[^/]+` for a part that varies, and read it in `info.prefix`"),
        ("/a?token=1", "since it has a query: omit that"),
    ],
)
def test_a_prefix_that_no_request_matches_is_rejected(prefix: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^prefix: got .*, which no request matches, .*{re.escape(hint)}$"):
        SockJSRouter(Echo, prefix)


def test_a_prefix_that_matches_what_follows_it_causes_a_warning() -> None:
    for end in ("/.*", "/.+"):
        with pytest.warns(UserWarning, match=r"which also matches /a/info: use '/a', or '/a/\[\^/\]\+' for one part"):
            SockJSRouter(Echo, f"/a{end}")


def test_a_prefix_may_be_any_other_regular_expression() -> None:
    for prefix in ("/[a-z]{2,3}", "/[^/]+", r"/a\{b", "/(?:a)?", "/a(?<=a)/b", "/a?(?=/)"):
        assert SockJSRouter(Echo, prefix).prefix == prefix
    assert SockJSRouter(Echo, r"/a\$").prefix == r"/a\$"


@pytest.mark.parametrize("connection", [None, "Echo", Echo(None), 1])  # type: ignore[arg-type]
def test_an_argument_that_creates_no_connection_is_rejected(connection: Any) -> None:
    with pytest.raises(ConfigurationError, match="connection"):
        SockJSRouter(connection, "/echo")


@pytest.mark.parametrize("transport", FRAMED)
async def test_the_application_sees_what_a_pattern_matched(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/room-[a-z]+"))
    for room in ("/room-red", "/room-blue"):
        peer = join(server, transport, prefix=room)
        assert await peer.frame() == "o"
        connection = await journal.connection()
        assert connection.info.prefix == room
        assert connection.info.path.startswith(f"{room}/000/")


async def test_routers_of_one_application_do_not_meet(serve: Serve, connect: Connect) -> None:
    journals = [Journal() for _ in range(3)]
    prefixes = ["/a", "/ab", "/c"]
    routers = [SockJSRouter(journal, prefix) for journal, prefix in zip(journals, prefixes, strict=True)]
    client = await connect(await serve(*routers))
    connections = []
    for prefix, journal in zip(prefixes, journals, strict=True):
        # The same session id in all of them.
        assert (await client.ask("POST", f"{prefix}/000/abc/xhr", body=b"")).body == b"o\n"
        connections.append(await journal.connection())
    await client.ask("POST", "/ab/000/abc/xhr_send", body=b'["x"]')
    assert await connections[1].message() == "x"
    routers[1].broadcast(routers[1].connections, "for ab")
    assert [router.connections for router in routers] == [[connection] for connection in connections]
    connections[0].send("for a")
    connections[2].close()
    assert (await client.ask("POST", "/a/000/abc/xhr", body=b"")).body == b'a["for a"]\n'
    assert (await client.ask("POST", "/ab/000/abc/xhr", body=b"")).body == b'a["for ab"]\n'
    assert (await client.ask("POST", "/c/000/abc/xhr", body=b"")).body == b'c[3000,"Go away!"]\n'
    closing = asyncio.ensure_future(routers[0].close())
    assert (await client.ask("POST", "/a/000/abc/xhr", body=b"")).body == b'c[3000,"Go away!"]\n'
    await within(closing)
    assert [(await client.ask("GET", f"{prefix}/info")).status for prefix in prefixes] == [404, 200, 200]


# Transports.


def urls_of(*names: str) -> set[str]:
    """Return the last parts of the URLs that a few transports have."""
    urls = set(names) - {"rawwebsocket"}
    if {"xhr", "xhr_streaming", "eventsource", "htmlfile"} & urls:
        urls.add("xhr_send")
    if "jsonp" in urls:
        urls.add("jsonp_send")
    return urls


EVERY = ("websocket", "rawwebsocket", "xhr", "xhr_streaming", "eventsource", "htmlfile", "jsonp")


@pytest.mark.parametrize(
    ("settings", "offered"),
    [
        ({}, EVERY),
        ({"transports": None}, EVERY),
        *(({"transports": [name]}, (name,)) for name in EVERY),
        ({"transports": ("jsonp", "xhr")}, ("jsonp", "xhr")),
        ({"disabled_transports": EVERY[:-1]}, EVERY[-1:]),
        ({"disabled_transports": ["websocket"]}, EVERY[2:]),
        *(({"disabled_transports": [name]}, tuple(other for other in EVERY if other != name)) for name in EVERY[1:]),
        ({"transports": ["xhr", "jsonp", "websocket"], "disabled_transports": ["jsonp"]}, ("xhr", "websocket")),
        ({"transports": EVERY, "disabled_transports": ["websocket"]}, EVERY[2:]),
    ],
    ids=str,
)
async def test_disabled_transports_are_not_found(
    serve: Serve, connect: Connect, settings: dict[str, Any], offered: tuple[str, ...]
) -> None:
    router = SockJSRouter(Echo, "/echo", settings)
    server = await serve(router)
    found = set()
    for url in URLS:
        if "/000/" in url.path:
            response = await (await connect(server)).fetch(Url(url.path, "DELETE", False))
            assert response.status in (404, 405)
            if response.status == 405:
                found.add(path_of(url).removeprefix("/"))
    assert found == urls_of(*offered)
    client = await connect(server)
    response = await client.ask("GET", "/echo/info")
    assert json.loads(response.body)["websocket"] is ("websocket" in offered)
    assert (await client.ask("GET", "/echo")).status == 200
    raw = await client.ask("GET", "/echo/websocket", *HANDSHAKE)
    assert raw.status == (101 if "rawwebsocket" in offered else 404)


def test_settings_come_as_a_mapping_or_as_settings() -> None:
    settings = Settings(heartbeat_delay=7)
    assert SockJSRouter(Echo, "/x", settings).settings is settings
    assert SockJSRouter(Echo, "/x", {"heartbeat_delay": 7}).settings == settings
    assert SockJSRouter(Echo, "/x").settings == Settings()
    for wrong in ({"heartbeat": 7}, {"heartbeat_delay": "7"}, ["heartbeat_delay"], "x"):
        with pytest.raises(ConfigurationError):
            SockJSRouter(Echo, "/x", wrong)  # type: ignore[arg-type]


# What moves over from sockjs-tornado 1.0.


async def test_the_routes_go_to_a_list_of_others() -> None:
    router = SockJSRouter(Echo, "/echo")
    routes: list[Any] = ["another"]
    assert router.apply_routes(routes) is routes
    assert routes == ["another", *router.urls]
    assert router.get_connection_class() is Echo
    assert router.io_loop is IOLoop.current()
    assert SockJSRouter(Echo, io_loop=(loop := IOLoop.current())).io_loop is loop


@pytest.mark.parametrize("transport", FRAMED)
async def test_sessions_are_of_the_class_that_was_given(serve: Serve, join: Join, transport: str) -> None:
    class Special(Session):
        pass

    journal = Journal()
    router = SockJSRouter(journal, "/echo", None, None, Special)
    server = await serve(router)
    peer = join(server, transport)
    assert await peer.frame() == "o"
    session = (await journal.connection()).session
    assert type(session) is Special
    assert session.server is router
    # A websocket's session cannot be found again.
    assert router.get_session(peer.session) is (None if transport == "websocket" else session)


async def test_an_application_may_make_a_session_itself(serve: Serve, join: Join) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    session = router.create_session("abc")
    assert router.get_session("abc") is session
    assert router.create_session("other", register=False) not in (session, router.get_session("other"))
    assert router.get_session("other") is None
    peer = join(await serve(router), "xhr", session="abc")
    # It was nobody's address's so far.
    assert await peer.frame() == "o"
    assert (await journal.connection()).session is session


async def test_a_send_may_be_left_to_tornados_loop_and_coroutines(serve: Serve, join: Join) -> None:
    @coroutine
    def send_by_yielding() -> Any:
        yield connection.send("yielded")
        return "done"

    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    peer = join(await serve(router), "xhr_streaming")
    assert await peer.frame() == "o"
    connection = await journal.connection()
    router.io_loop.add_callback(connection.send, "from the loop")
    assert await peer.frame() == 'a["from the loop"]'
    assert await within(send_by_yielding()) == "done"
    assert await peer.frame() == 'a["yielded"]'
    connection.close()
    # To a client that has left it comes to nothing.
    router.io_loop.add_callback(connection.send, "too late")
    assert await within(send_by_yielding()) == "done"
    assert await peer.frame() == GONE


def test_an_import_registers_nothing_with_tornado() -> None:
    source = "import tornado.gen, sockjs_tornado; assert list(tornado.gen.convert_yielded.registry) == [object]"
    subprocess.run([sys.executable, "-c", source], check=True)


# Broadcasts.


async def test_a_broadcast_reaches_all_transports_at_once(serve: Serve, connect: Connect, join: Join) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    # Two of each: a polling client holds one poll, and the other one is between two of them.
    peers: list[Any] = [join(server, transport) for transport in FRAMED * 2]
    for peer in peers:
        assert await peer.frame() == "o"
    for peer in peers[: len(peers) // 2]:
        if peer.transport in POLLING:
            await peer.listen()
    raw = [await WebSocket.open(await connect(server), "/echo/websocket") for _ in range(2)]
    await settle(connect, server)
    connections = [await journal.connection() for _ in range(len(peers) + len(raw))]
    message = "to all: \u2028 </script> % \x00 ä"
    for number, send in enumerate((router.broadcast, connections[0].broadcast)):
        send((connection for connection in connections), f"{message}{number}")
    router.broadcast(set(router.connections), {"number": 2})
    for peer in peers:
        assert [await peer.message() for _ in range(3)] == [f"{message}0", f"{message}1", {"number": 2}]
    for websocket in raw:
        assert [await websocket.text() for _ in range(3)] == [f"{message}0", f"{message}1", '{"number":2}']


async def test_connections_are_those_that_the_application_has_accepted() -> None:
    gate = asyncio.Event()
    acts = {"opening": {"on_open": lambda conn, info: gate.wait()}}
    settings = {"disconnect_delay": 0.05}
    router = SockJSRouter(lambda session: Notes(session, acts.get(session.session_id or "", {})), "", settings)
    new, opening, accepted, closed = map(router.create_session, ("new", "opening", "accepted", "closed"))
    for session in (opening, accepted, closed):
        Receiver(session, 1).attach()
    closed.close()
    assert router.connections == [accepted.conn]
    gate.set()
    await router.close()
    assert new.is_closed


async def test_a_broadcast_skips_closed_connections(serve: Serve, join: Join) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    peers = [join(server, transport) for transport in FRAMED]
    connections = []
    for peer in peers:
        assert await peer.frame() == "o"
        connections.append(await journal.connection())
    for connection in connections[::2]:
        connection.close()
    assert set(router.connections) == set(connections[1::2])
    router.broadcast(connections, "x")
    for peer in peers[::2]:
        assert await peer.frame() == GONE
    for peer in peers[1::2]:
        assert await peer.frame() == 'a["x"]'


async def test_a_broadcast_may_change_the_set_of_connections(serve: Serve, join: Join) -> None:
    everyone: set[SockJSConnection] = set()

    class Chat(Echo):
        def on_open(self, info: object) -> None:
            everyone.add(self)
            self.broadcast(everyone, f"{len(everyone)} here")

        def on_message(self, message: Any) -> None:
            for connection in everyone - {self}:
                connection.close()
            self.broadcast(everyone, message)

        def on_close(self) -> None:
            everyone.discard(self)
            self.broadcast(everyone, f"{len(everyone)} left")

    server = await serve(SockJSRouter(Chat, "/echo"))
    peers = [join(server, transport) for transport in ("xhr_streaming", "websocket", "eventsource")]
    for number, peer in enumerate(peers):
        assert await peer.frame() == "o"
        for other in peers[: number + 1]:
            assert await other.message() == f"{number + 1} here"
    await peers[0].send("bye")
    assert [await peers[0].message() for _ in range(3)] == ["2 left", "1 left", "bye"]


@pytest.mark.parametrize("message", [b"x", None, 1])
async def test_a_broadcast_is_text(message: Any) -> None:
    with pytest.raises(TypeError):
        SockJSRouter(Echo, "/echo").broadcast([], message)


@pytest.mark.parametrize(
    ("clients", "got"), [("x", "'x' (str)"), ({"a": 1}, "'a' (str)"), (None, "None (NoneType)"), ([5], "5 (int)")]
)
async def test_a_broadcast_has_the_clients_before_the_message(clients: Any, got: str) -> None:
    router = SockJSRouter(Echo, "/echo")
    expected = "broadcast(clients, message): clients must be an iterable of connections, such as router.connections"
    with pytest.raises(TypeError, match=re.escape(f"{expected}, got {got}")):
        router.broadcast(clients, {object()})


async def test_a_broadcast_is_not_for_one_connection(serve: Serve, join: Join) -> None:
    router = SockJSRouter(Echo, "/echo")
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    client: Any = router.connections[0]
    with pytest.raises(TypeError, match=r"clients must be an iterable of connections, .*, got <.*Echo object"):
        router.broadcast(client, "x")


async def test_a_broadcast_is_for_the_thread_of_the_event_loop(serve: Serve, join: Join) -> None:
    router = SockJSRouter(Echo, "/echo")
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    with pytest.raises(
        RuntimeError, match=r"a router .* router.io_loop.add_callback\(router.broadcast, clients, message\)$"
    ):
        await asyncio.to_thread(router.broadcast, router.connections, "x")
    router.connections[0].join("lobby")
    router.connections[0].tag("user:42")
    with pytest.raises(
        RuntimeError, match=r"a router .* router.io_loop.add_callback\(router.select\(...\).send, ...\)$"
    ):
        await asyncio.to_thread(router.select(tag="user:42").send, "x")
    with pytest.raises(
        RuntimeError, match=r"a router .* router.io_loop.add_callback\(router.publish, room, message\)$"
    ):
        await asyncio.to_thread(router.publish, "lobby", "x")
    with pytest.raises(
        RuntimeError, match=r"a router .* router.io_loop.add_callback\(router.publish, room, message\)$"
    ):
        await asyncio.to_thread(router.publish, "a room without members", "x")
    router.broadcast(router.connections, "y")
    assert await peer.frame() == 'a["y"]'


@pytest.mark.parametrize("end", [SockJSRouter.close, SockJSRouter.drain])
async def test_a_router_is_not_ended_in_another_thread(serve: Serve, join: Join, end: Any) -> None:
    router = SockJSRouter(Echo, "/echo")
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    with pytest.raises(
        RuntimeError, match=rf"asyncio.run_coroutine_threadsafe\(router.{end.__name__}\(\), router.io_loop.asyncio_l"
    ):
        await asyncio.to_thread(lambda: asyncio.run(end(router)))
    assert not router.draining
    await peer.send("x")
    assert await peer.frame() == 'a["x"]'


# A thousand messages.

_AWKWARD = [
    "",
    "\x00\x01\x1f\x7f\x80\x9f",
    "\"\\/'`\b\f\n\r\t",
    "</script><!--]]>&lt;",
    "%%25%0A%00+%u0041",
    "\u200c\u200f\u2028\u202f\u2060\u206f\ufeff\ufff0\uffff",
    "äßø€\u4e2d\u6587\u05d0\U0001f600\U0010ffff",
    "\ud800 \udfff \udbff",
    "data: x\r\n\r\n",
    'a["x"]c[3000,"Go away!"]h',
    "x" * 1000,
]


def awkward_messages(count: int) -> list[str]:
    """Return messages of all that has ever gone wrong, always the same ones."""
    chance = random.Random(7)
    messages = []
    for number in range(count):
        parts = [chance.choice(_AWKWARD) for _ in range(chance.randrange(4))]
        parts += [chr(chance.randrange(0x10000)) for _ in range(chance.randrange(20))]
        chance.shuffle(parts)
        messages.append(f"{number}:{''.join(parts)}")
    # What JSON makes of surrogates that happen to be pairs.
    decoded: list[str] = json.loads(json.dumps(messages))
    return decoded


@pytest.mark.parametrize("transport", FRAMED)
async def test_every_character_is_written_as_clients_can_read_it(serve: Serve, join: Join, transport: str) -> None:
    def written(code: int) -> str:
        short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
        escaped = (
            (0x00, 0x1F),
            (0x200C, 0x200F),
            (0x2028, 0x202F),
            (0x2060, 0x206F),
            (0xD800, 0xDFFF),
            (0xFFF0, 0xFFFF),
        )
        if code in short:
            return short[code]
        return f"\\u{code:04x}" if any(first <= code <= last for first, last in escaped) else chr(code)

    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    peer = join(server, transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    for start in range(0, 0x10000, 0x1000):
        codes = range(start, start + 0x1000)
        connection.send("".join(map(chr, codes)))
        assert await peer.frame() == f'a["{"".join(map(written, codes))}"]'
    connection.send("\U00010000 \U0001f600 \U0010ffff")
    assert await peer.frame() == 'a["\U00010000 \U0001f600 \U0010ffff"]'
    connection.close(3000, "\u2028\x00\ud800")
    assert await peer.frame() == 'c[3000,"\\u2028\\u0000\\ud800"]'


@pytest.mark.parametrize("transport", FRAMED)
async def test_a_thousand_messages_arrive_whole_and_in_order(serve: Serve, join: Join, transport: str) -> None:
    messages = awkward_messages(1000)
    heard = []

    class Listening(Echo):
        def on_message(self, message: str | bytes) -> None:
            heard.append(message)
            super().on_message(message)

    settings = {"response_limit": 20_000, "disconnect_delay": 60}
    peer = join(await serve(SockJSRouter(Listening, "/echo", settings)), transport)
    assert await peer.frame() == "o"

    async def send_all() -> None:
        rest = iter(messages)
        for size in itertools.cycle((1, 2, 7, 30)):
            batch = list(itertools.islice(rest, size))
            if not batch:
                return
            await peer.send(*batch)

    sending_all = asyncio.ensure_future(send_all())
    echoed = [await peer.message() for _ in messages]
    await within(sending_all)
    assert heard == messages
    assert echoed == messages


async def test_a_thousand_messages_pass_a_raw_websocket_whole_and_in_order(serve: Serve, connect: Connect) -> None:
    # A text frame has no form for lone surrogates.
    messages = [message.encode("utf-8", "replace").decode() for message in awkward_messages(1000)]
    websocket = await WebSocket.open(await connect(await serve(SockJSRouter(Echo, "/echo"))), "/echo/websocket")
    for message in messages:
        websocket.write(frame(TEXT, message))
    assert [await websocket.text() for _ in messages] == messages


# The end.


class Everyone:
    """Clients of all kinds of one router, each attached in its own way."""

    def __init__(self, server: Any, connect: Connect, join: Join) -> None:
        self.peers: list[Any] = [join(server, transport) for transport in FRAMED]
        self.between: list[Any] = [join(server, transport) for transport in POLLING]
        self.raw: list[WebSocket] = []
        self._server = server
        self._connect = connect

    async def join(self) -> None:
        """Open all sessions; ``peers`` listen, ``between`` do not."""
        for peer in self.peers + self.between:
            assert await peer.frame() == "o"
        for peer in self.peers:
            if peer.transport in POLLING:
                await peer.listen()
        self.raw = [await WebSocket.open(await self._connect(self._server), "/echo/websocket")]
        await settle(self._connect, self._server)

    def __len__(self) -> int:
        return len(self.peers) + len(self.between) + len(self.raw)


def has_timer(router: SockJSRouter) -> bool:
    """Tell whether a timer of the router's is still to come."""
    return router.container._deadlines._timer is not None


async def test_the_close_of_a_router_is_sent_to_every_client_once(serve: Serve, connect: Connect, join: Join) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    everyone = Everyone(server, connect, join)
    await everyone.join()
    connections = [await journal.connection() for _ in range(len(everyone))]
    assert has_timer(router)
    closing = asyncio.ensure_future(router.close(3999, "restart"))
    for peer in everyone.peers + everyone.between:
        assert await peer.frame() == 'c[3999,"restart"]'
        if peer.transport == "websocket":
            assert await peer.websocket.closed() == (1000, "")
            peer.vanish()
        elif peer.transport in STREAMING:
            await peer.client.end_of_stream()
    for websocket in everyone.raw:
        assert await websocket.closed() == (3999, "restart")
        websocket.write(frame(8))
    await within(closing)
    assert router.closed
    assert [connection.closes for connection in connections] == [[(3999, "restart")]] * len(everyone)
    assert len(router.container) == 0
    assert router.connections == []
    assert not has_timer(router)
    # Twice is once.
    await within(router.close())
    assert [len(connection.closes) for connection in connections] == [1] * len(everyone)


@pytest.mark.parametrize("url", URLS, ids=path_of)
async def test_nothing_is_found_behind_the_end(serve: Serve, connect: Connect, join: Join, url: Url) -> None:
    router = SockJSRouter(Echo, "/echo")
    server = await serve(router)
    peer = join(server, "xhr_streaming", session="abc")
    assert await peer.frame() == "o"
    closing = asyncio.ensure_future(router.close())
    assert await peer.frame() == GONE
    await within(closing)
    for method in (url.method, "OPTIONS", "TRACE", "FOO"):
        client = await connect(server)
        response = await client.fetch(Url(url.path, method, url.cors))
        assert response.status == 404
        for absent in ("Set-Cookie", "Allow", "Access-Control-Allow-Origin"):
            assert absent not in response


async def test_a_closing_router_serves_only_clients_that_need_a_close_frame(
    serve: Serve, connect: Connect, join: Join
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    peer = join(server, "xhr", session="abc")
    assert await peer.frame() == "o"
    closing = asyncio.ensure_future(router.close())
    await settle(connect, server)
    assert not closing.done()
    assert not router.closed
    for url in URLS:
        new = url.path.replace("abc", "new")
        expected = 200 if url == SCRIPT_URL else 404
        assert (await (await connect(server)).fetch(Url(new, url.method, url.cors))).status == expected
    # A websocket is a new session whatever its id.
    assert (await (await connect(server)).ask("GET", "/echo/000/abc/websocket", *HANDSHAKE)).status == 404
    client = await connect(server)
    assert (await client.ask("OPTIONS", "/echo/000/abc/xhr")).status == 204
    client.write(sending("xhr", "/echo/000/abc", '["x"]'))
    assert (await client.response()).status == 204
    assert not closing.done()
    assert await peer.frame() == GONE
    await within(closing)
    assert (await (await connect(server)).ask("POST", "/echo/000/abc/xhr", body=b"")).status == 404


@pytest.mark.parametrize(("code", "error"), [(-1, ValueError), (65536, ValueError), ("3000", TypeError)])
async def test_the_end_has_a_code_that_clients_may_see(
    serve: Serve, join: Join, code: Any, error: type[Exception]
) -> None:
    router = SockJSRouter(Echo, "/echo")
    peer = join(await serve(router), "xhr_streaming")
    assert await peer.frame() == "o"
    with pytest.raises(error, match=r"^close code"):
        await router.close(code)
    with pytest.raises(TypeError, match=r"^close reason"):
        await router.close(3000, b"reason")  # type: ignore[arg-type]
    await peer.send("still there")
    assert await peer.frame() == 'a["still there"]'


async def test_the_end_may_have_any_code_of_sessions(serve: Serve, join: Join) -> None:
    """As ``close`` of a connection."""
    router = SockJSRouter(Echo, "/echo")
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    await within(router.close(9000, "Over"))
    assert await peer.frame() == 'c[9000,"Over"]'


async def test_the_end_waits_no_longer_than_the_disconnect_delay(serve: Serve, join: Join) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"disconnect_delay": 0.5})
    server = await serve(router)
    assert await join(server, "xhr").frame() == "o"
    connection = await journal.connection()
    await within(router.close())
    assert connection.closes == [(3000, "Go away!")]
    assert not has_timer(router)


async def test_the_end_waits_for_callbacks(serve: Serve, join: Join) -> None:
    ended = []

    class Slow(Echo):
        async def on_close(self) -> None:
            for _ in range(10):
                await asyncio.sleep(0)
            ended.append(self.close_code)

    router = SockJSRouter(Slow, "/echo")
    server = await serve(router)
    peers = [join(server, transport) for transport in STREAMING]
    for peer in peers:
        assert await peer.frame() == "o"
    await within(router.close(1001, "later"))
    assert ended == [1001] * 3


async def test_sessions_that_had_ended_before_do_not_hold_up_the_end(
    serve: Serve, connect: Connect, join: Join
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"disconnect_delay": 1000})
    server = await serve(router)
    told, cut, dropped = [join(server, transport) for transport in ("xhr_streaming", "eventsource", "websocket")]
    connections = []
    for peer in (told, cut, dropped):
        assert await peer.frame() == "o"
        connections.append(await journal.connection())
    connections[0].close(3001, "before")
    assert await told.frame() == 'c[3001,"before"]'
    cut.vanish()
    dropped.vanish()
    for connection in connections[1:]:
        await connection.closed()
    # All would be kept for disconnect_delay, to tell who asks.
    await within(router.close())
    assert [code for connection in connections for code, _ in connection.closes] == [3001, 1002, 1006]


@pytest.mark.parametrize("transport", [*RECEIVING, "websocket", "raw"])
async def test_a_router_may_end_while_a_client_arrives(serve: Serve, connect: Connect, transport: str) -> None:
    ends = []

    class Ending(Noted):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            ends.append(asyncio.ensure_future(router.close()))

    journal = Journal(Ending)
    router = SockJSRouter(journal, "/echo", {"disconnect_delay": 0.1})
    client = await connect(await serve(router))
    data = asking(transport, "/echo/000/abc")
    if transport in ("websocket", "raw"):
        path = "/echo/websocket" if transport == "raw" else "/echo/000/abc/websocket"
        data = request("GET", path, *HANDSHAKE)
    client.write(data)
    if transport in POLLING:
        assert await first_frame(client, transport) == "o"
    elif transport in STREAMING:
        # The native server needs no further turn to take the connection over.
        if NATIVE:
            assert await first_frame(client, transport) == "o"
            assert unframe(transport, await client.chunk()) == GONE
        else:
            assert await first_frame(client, transport) == GONE
        await client.end_of_stream()
    else:
        websocket = WebSocket(client, await client.response())
        assert websocket.response.status == 101
        if transport == "websocket":
            if NATIVE:
                assert await websocket.text() == "o"
            assert await websocket.text() == GONE
        assert await websocket.closed() == ((3000, "Go away!") if transport == "raw" else (1000, ""))
        await client.leave()
    await within(ends[0])
    assert len(router.container) == 0
    assert not has_timer(router)
    while not journal.opened.empty():
        connection = await journal.connection()
        assert await connection.closed() == (3000, "Go away!")


async def test_a_callback_may_end_the_router(serve: Serve, join: Join) -> None:
    class Ending(Noted):
        async def on_message(self, message: str) -> None:
            self.send("last words")
            await self.session.server.close(3001, message)

    journal = Journal(Ending)
    router = SockJSRouter(journal, "/echo", {"disconnect_delay": 0.1})
    server = await serve(router)
    peer = join(server, "xhr_streaming")
    assert await peer.frame() == "o"
    await peer.send("the end")
    assert [await peer.frame(), await peer.frame()] == ['a["last words"]', 'c[3001,"the end"]']
    assert await (await journal.connection()).closed() == (3001, "the end")


@pytest.mark.parametrize("settings", [{}, {"transports": ["websocket", "rawwebsocket"]}])
async def test_forked_processes_without_a_cluster_are_reported(
    serve: Serve, connect: Connect, logged: LogWatch, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr("sockjs_tornado.http.first_request.task_id", lambda: 1)
    client = await connect(await serve(SockJSRouter(Echo, "/a", settings)))
    for _ in range(2):
        assert (await client.ask("GET", "/a/info")).status == 200
    if not settings:
        logged.take("the router with the prefix '/a' has no cluster, but its process is one of several")


async def test_settings_as_attributes_of_the_router_are_reported(
    serve: Serve, connect: Connect, logged: LogWatch
) -> None:
    router: Any = SockJSRouter(Echo, "/a")
    router.allowed_origins, router.owner = ["https://a.example"], "me"
    # The application's own, and where it keeps what it has given to the router.
    router.transports, router.max_sessions = {"xhr": 0}, router.settings.max_sessions
    assert (await (await connect(await serve(router))).ask("GET", "/a/info")).status == 200
    logged.take("'/a' does not use its own attributes allowed_origins: pass them to SockJSRouter(connection, ")


async def test_a_router_that_another_one_hides_is_reported_once(
    serve: Serve, connect: Connect, logged: LogWatch
) -> None:
    client = await connect(
        await serve(SockJSRouter(Echo, "/a"), SockJSRouter(Echo, "/b"), SockJSRouter(SockJSConnection, "/a/"))
    )
    for prefix in ("/b", "/a", "/a"):
        assert (await client.ask("GET", f"{prefix}/info")).status == 200
    logged.take("two routers of the application have the prefix '/a': <SockJSRouter '/a' of Echo> gets all requests")


def test_a_router_is_shown_with_its_prefix_and_connection() -> None:
    assert repr(SockJSRouter(Echo, "/a")) == "<SockJSRouter '/a' of Echo>"
    assert re.fullmatch(
        r"<SockJSRouter '/b' of functools.partial\(.*\)>", repr(SockJSRouter(functools.partial(Echo), "/b"))
    )


async def test_what_is_not_a_request_handler_says_so(logged: LogWatch) -> None:
    router: Any = SockJSRouter(Echo, "/echo")
    application = Application(
        [("/router", router), ("/class", Echo), ("/kind", SockJSRouter)], log_function=lambda handler: None
    )
    server = HTTPServer(application)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    try:
        for path, message in (
            ("/router", "a SockJSRouter is not a request handler: pass its URLs"),
            ("/kind", "SockJSRouter is not a request handler: create a router, and pass its URLs"),
            ("/class", 'Echo is not a request handler: create SockJSRouter(Echo, "/prefix"), and pass its URLs'),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", sockets[0].getsockname()[1])
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await within(reader.read())
            writer.close()
            assert message in str(exception_of(logged.take("Uncaught exception")))
        if NATIVE:
            logged.take("the router with the prefix '/echo' is the target of a rule, which serves none of its paths")
    finally:
        server.stop()
        await server.close_all_connections()


def test_a_router_is_no_connection() -> None:
    router: Any = SockJSRouter(Echo, "/echo")
    with pytest.raises(ConfigurationError, match=r"^connection: expected a subclass of SockJSConnection"):
        SockJSRouter(router, "/echo")


def test_a_router_in_place_of_its_urls_is_rejected() -> None:
    router: Any = SockJSRouter(Echo, "/echo")
    hint = r"pass its URLs, Application\(router\.urls\)"
    with pytest.raises(TypeError, match=hint):
        Application(router)
    with pytest.raises(AttributeError, match=hint):
        Application([router])
    with pytest.raises(AttributeError, match=r"^'SockJSRouter' object has no attribute 'url'$"):
        _ = router.url
    assert not hasattr(router, "application_data")


def test_keywords_are_settings() -> None:
    assert SockJSRouter(Echo, "/a", heartbeat_delay=10).settings == Settings(heartbeat_delay=10)
    settings = Settings(heartbeat_delay=10, disconnect_delay=3)
    expected = Settings(heartbeat_delay=20, disconnect_delay=3)
    assert SockJSRouter(Echo, "/a", settings, heartbeat_delay=20).settings == expected
    mapping = {"heartbeat_delay": 10, "disconnect_delay": 3}
    assert SockJSRouter(Echo, "/a", mapping, heartbeat_delay=20).settings == expected
    assert mapping["heartbeat_delay"] == 10


@pytest.mark.parametrize("wrong", [5, Echo, "Session"])
def test_a_session_class_is_one(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^session_kls: expected a subclass of sockjs_tornado\.Session, got "):
        SockJSRouter(Echo, "/echo", session_kls=wrong)


@pytest.mark.parametrize(
    ("name", "nearest"), [("heartbeat", "heartbeat_delay, which expects "), ("session_klass", "session_kls")]
)
@pytest.mark.parametrize("settings", [None, {}, Settings()])
def test_an_unknown_keyword_is_rejected_with_the_nearest_one(name: str, nearest: str, settings: Any) -> None:
    keywords: dict[str, Any] = {name: 10}
    with pytest.raises(ConfigurationError, match=rf"^{name}: unknown setting \(got 10\); the nearest is {nearest}"):
        SockJSRouter(Echo, "/a", settings, **keywords)


def test_a_cluster_must_be_one() -> None:
    url: Any = "redis://localhost:6379/0"
    with pytest.raises(ConfigurationError, match=r"^cluster: expected a RedisCluster or UnixCluster, got 'redis://"):
        SockJSRouter(Echo, "/chat", cluster=url)


@pytest.mark.parametrize("connection", [None, "Echo", 5, Echo])
def test_an_argument_that_creates_no_connection_is_rejected_at_once(connection: Any) -> None:
    if callable(connection):
        assert SockJSRouter(connection, "/chat").get_connection_class() is connection
    else:
        with pytest.raises(ConfigurationError, match=r"^connection: expected a subclass of SockJSConnection"):
            SockJSRouter(connection, "/chat")
