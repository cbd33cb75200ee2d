"""The dashboard: what it sends, to which pages, and what they may do."""

import ast
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from application import Echo, LogWatch, Serve, close_router
from client import HANDSHAKE, Client, Connect, Join, Peer, request, within
from programs import ROOT
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application

from sockjs_tornado import CloseCode, SockJSConnection, SockJSRouter
from sockjs_tornado.dashboard import Dashboard, service
from sockjs_tornado.dashboard.access import RateLimit, is_allowed_host, is_local
from sockjs_tornado.dashboard.listing import listing
from sockjs_tornado.exceptions import ConfigurationError
from sockjs_tornado.observe.metrics import _INITIAL_LABELS
from sockjs_tornado.serving import bind_sockets, http_server
from sockjs_tornado.settings import Settings


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let samples come without a wait."""
    monkeypatch.setattr(service, "INTERVAL", 0.01)


@pytest.fixture
def echo() -> SockJSRouter:
    """What is watched."""
    return SockJSRouter(Echo, "/echo")


def table_of(name: str) -> set[str]:
    """Return the keys of a table in the page's script."""
    script = (ROOT / "sockjs_tornado/dashboard/page/dashboard.js").read_text()
    found = re.search(rf"^const {name} = {{\n(.*?)^}};$", script, re.MULTILINE | re.DOTALL)
    assert found
    return set(re.findall(r"^  (\w+): ", found[1], re.MULTILINE))


def counted_rejections() -> set[str]:
    """Return the names under which the package counts rejections, as far as they are literals."""
    found: set[ast.expr] = set()
    for path in (ROOT / "sockjs_tornado").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Subscript(value=ast.Attribute(attr="rejected"), slice=name):
                    found.add(name)
                case ast.Call(func=ast.Attribute(attr="reject"), args=[_, _, _, name, *_]):
                    found.add(name)
                case ast.Call(func=ast.Attribute(attr="respond_unavailable"), args=[_, name]):
                    found.add(name)
                case ast.Call(func=ast.Name(id="BadRequest" | "RequestTooLargeError"), args=[_, _, name]):
                    found.add(name)
                case ast.FunctionDef(name="limit_reached" | "check_requester"):
                    found |= {value.value for value in ast.walk(node) if isinstance(value, ast.Return) and value.value}
    return {name.value for name in found if isinstance(name, ast.Constant) and isinstance(name.value, str)}


def test_every_rejection_is_explained_and_counted_from_0_on() -> None:
    # These are names of settings, which the code that rejects gets as arguments.
    others = table_of("REASONS") - counted_rejections()
    assert others <= set(Settings.__dataclass_fields__) | {"unexpected_body"}
    assert counted_rejections() <= table_of("REASONS") == set(_INITIAL_LABELS["reason"])


def test_the_page_explains_every_close_code() -> None:
    # The others are of RFC 6455.
    assert {str(int(code)) for code in CloseCode} <= table_of("CODES")


async def enter(peer: Peer, password: str = "", run: str = "", clock: float = 0) -> None:
    """Come as the page does."""
    assert await peer.frame() == "o"
    await peer.send(json.dumps({"password": password, "run": run, "clock": clock}))


async def samples(peer: Peer) -> list[dict[str, Any]]:
    """Return the next samples."""
    found: list[dict[str, Any]] = json.loads(await peer.message())
    return found


async def test_a_page_receives_the_counters_of_the_routers(echo: SockJSRouter, serve: Serve, join: Join) -> None:
    dashboard = Dashboard({"echo": echo, "none": SockJSRouter(Echo, "/none")}, local_only=True)
    server = await serve(dashboard.router, echo)
    page, guest = join(server, "websocket", prefix="/dashboard/sockjs"), join(server, "xhr")
    await enter(page)
    ((first),) = await samples(page)
    assert first["routers"].keys() == {"echo", "none"}
    assert first["routers"]["echo"]["messages_received"] == 0

    assert await guest.frame() == "o"
    await guest.send("hello")
    last = first
    while last["routers"]["echo"]["messages_received"] == 0:
        (sample,) = await samples(page)
        assert sample["clock"] > last["clock"]
        last = sample
    assert last["routers"]["echo"]["sessions"] == {"xhr": 1}
    assert last["routers"]["none"]["sessions"] == {}


async def test_a_later_page_gets_the_earlier_samples(echo: SockJSRouter, serve: Serve, join: Join) -> None:
    dashboard = Dashboard({"echo": echo}, local_only=True)
    server = await serve(dashboard.router)
    first, second, third = (join(server, "websocket", prefix="/dashboard/sockjs") for _ in range(3))
    await enter(first)
    seen = [sample for _ in range(3) for sample in await samples(first)]
    await enter(second)
    assert (await samples(second))[:3] == seen
    # Who was there before lacks only what has come since.
    await enter(third, run=seen[1]["run"], clock=seen[1]["clock"])
    assert (await samples(third))[0] == seen[2]


async def test_nothing_runs_while_no_page_is_open(echo: SockJSRouter, serve: Serve, join: Join) -> None:
    dashboard = Dashboard({"echo": echo}, local_only=True)
    server = await serve(dashboard.router)
    for _ in range(2):
        assert dashboard._timer is None
        page = join(server, "xhr", prefix="/dashboard/sockjs")
        await enter(page)
        await samples(page)
        assert dashboard._timer is not None
        (viewer,) = dashboard._viewers
        viewer.close()
    assert dashboard._timer is None


async def test_the_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "INTERVAL", 1.0)
    assert Dashboard({}, local_only=True)._history.maxlen == 300


HOUR = 3600.0


def remember(dashboard: Dashboard, *sizes: int) -> None:
    """Have samples of these sizes from before, the last of which is the newest."""
    dashboard._history.clear()
    for size in sizes:
        dashboard._history.append((time.monotonic(), json.dumps("x" * (size - 2))))


async def test_a_client_that_reconnects_often_gets_little_history(
    serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = Dashboard({}, local_only=True)
    monkeypatch.setattr(service, "INTERVAL", HOUR)
    dashboard._samples_limit = RateLimit((3, HOUR), (100, HOUR))
    server = await serve(dashboard.router)
    sizes = []
    for _ in range(10):
        page = join(server, "websocket", prefix="/dashboard/sockjs")
        await enter(page)
        sizes.append(len(await samples(page)))
        # Behind the one sample that the first page brings about.
        remember(dashboard, *[1000] * 300)
    assert sizes == [1, 300, 300, *[0] * 7]


async def test_an_answer_is_bounded_and_has_the_newest(
    serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = Dashboard({}, local_only=True)
    monkeypatch.setattr(service, "INTERVAL", HOUR)
    monkeypatch.setattr(service, "MAX_RESPONSE", 1000)
    server = await serve(dashboard.router)
    first, second = (join(server, "websocket", prefix="/dashboard/sockjs") for _ in range(2))
    await enter(first)
    await samples(first)
    remember(dashboard, 700, 400, 300, 200)
    await enter(second)
    assert [len(sample) + 2 for sample in await samples(second)] == [400, 300, 200]


async def first_close(page: Peer) -> AsyncIterator[str]:
    """Yield frames up to the close frame, a hundred at the most."""
    for _ in range(100):
        yield (frame := await page.frame())
        if frame.startswith("c"):
            break


async def test_a_page_asks_once(echo: SockJSRouter, serve: Serve, join: Join) -> None:
    dashboard = Dashboard({"echo": echo}, local_only=True)
    page = join(await serve(dashboard.router), "websocket", prefix="/dashboard/sockjs")
    await enter(page)
    await samples(page)
    await page.send(json.dumps({"password": "", "run": "", "clock": 0}))
    # Some more samples may have been on their way.
    frames = [frame async for frame in first_close(page)]
    assert frames[-1] == 'c[4000,"Invalid message"]'


@pytest.mark.parametrize(
    ("said", "closed"),
    [
        ('{"password": "", "run": "", "clock": 0}', 'c[4001,"A password is required"]'),
        ('{"password": "open sesam", "run": "", "clock": 0}', 'c[4001,"Wrong password"]'),
        ('{"password": "\\ud800", "run": "", "clock": 0}', 'c[4001,"Wrong password"]'),
        ('{"run": "", "clock": 0}', 'c[4000,"Invalid message"]'),
        ('{"password": "open sesame", "run": "", "clock": "x"}', 'c[4000,"Invalid message"]'),
        ("[" * 2000, 'c[4000,"Invalid message"]'),
    ],
)
async def test_a_client_without_a_password_gets_no_data(
    echo: SockJSRouter, serve: Serve, join: Join, logged: LogWatch, said: str, closed: str
) -> None:
    dashboard = Dashboard({"echo": echo}, password="open sesame")
    page = join(await serve(dashboard.router), "websocket", prefix="/dashboard/sockjs")
    assert await page.frame() == "o"
    await page.send(said)
    assert await page.frame() == closed
    assert dashboard._timer is None
    if "Wrong" in closed:
        logged.take("wrong password")


@pytest.mark.parametrize("password", ["", "sesame", "1234567", 12345678, b"open sesame"])
def test_a_short_password_is_rejected(password: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^password: expected at least 8 characters"):
        Dashboard({}, password=password)


def test_a_dashboard_requires_a_password_or_local_access() -> None:
    with pytest.raises(ConfigurationError, match=r"^password: set one, or local_only=True"):
        Dashboard({})
    wrong: Any = "false"
    with pytest.raises(ConfigurationError, match=r"^local_only: expected True or False, got 'false'$"):
        Dashboard({}, local_only=wrong)
    with pytest.raises(ConfigurationError, match=r'^prefix: expected "" or a path such as "/api", got None$'):
        Dashboard({}, None, local_only=True)  # type: ignore[arg-type]


async def test_a_client_with_the_password_gets_the_data(echo: SockJSRouter, serve: Serve, join: Join) -> None:
    dashboard = Dashboard({"echo": echo}, password="open sesame")
    page = join(await serve(dashboard.router), "websocket", prefix="/dashboard/sockjs")
    await enter(page, password="open sesame")
    assert await samples(page)


async def test_a_page_that_sends_no_message_is_closed(
    echo: SockJSRouter, serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "REQUEST_TIMEOUT", 0)
    dashboard = Dashboard({"echo": echo}, local_only=True)
    page = join(await serve(dashboard.router), "websocket", prefix="/dashboard/sockjs")
    assert await page.frame() == "o"
    assert await page.frame() == 'c[4000,"No message in time"]'


async def test_pages_of_other_sites_may_not_connect(echo: SockJSRouter, serve: Serve, connect: Connect) -> None:
    dashboard = Dashboard({"echo": echo}, local_only=True)
    client = await connect(await serve(dashboard.router))
    client.write(
        b"POST /dashboard/sockjs/000/s/xhr HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    assert (await client.response()).status == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(
            (host, 200)
            for host in ("localhost", "localhost:8080", "LOCALHOST.", "a.localhost", "127.0.0.1", "[::1]:80")
        ),
        *((host, 200) for host in ("192.0.2.1:8080", "[2001:db8::1]", "stats.example", "Stats.Example:8080")),
        *((host, 403) for host in ("evil.example", "evil.example:8080", "localhost.evil.example", "notlocalhost")),
        *(
            (host, 403)
            for host in ("127.0.0.1.evil.example", "stats.example.evil.example", "my.stats.example", "2130706433")
        ),
    ],
)
async def test_names_that_are_not_ours_are_rejected(host: str, status: int) -> None:
    # A page of such a name may have had it lead here, and would read everything.
    dashboard = Dashboard({}, password="open sesame", hosts=["stats.example"])
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    async with http_server(Application(dashboard.urls, log_function=lambda handler: None), sockets):
        for what in (
            request("GET", "/dashboard/", host=host),
            request("GET", "/dashboard/dashboard.js", host=host),
            request("GET", "/dashboard/sockjs/info", f"Origin: http://{host}", host=host),
            request("POST", "/dashboard/sockjs/000/s/xhr", f"Origin: http://{host}", host=host, body=b""),
            request("GET", "/dashboard/sockjs/000/t/websocket", *HANDSHAKE, f"Origin: http://{host}", host=host),
        ):
            client = await within(Client.connect(port))
            client.write(what)
            answer = await client.response()
            assert answer.status in ((200, 101) if status == 200 else (403,))
            if status == 403:
                assert answer.body.startswith(b"This dashboard is not available under this host name.")
            await client.leave()
        await close_router(dashboard.router)


async def test_any_name_may_be_ours() -> None:
    assert is_allowed_host("evil.example", {"*"})


# Without a password.


def from_client(ip: str, host: str, *fields: str) -> HTTPServerRequest:
    """Return a request of a client with this address."""
    headers = HTTPHeaders(dict(field.split(": ") for field in fields) | {"Host": host})
    request = HTTPServerRequest(headers=headers, start_line=RequestStartLine("GET", "/dashboard/", "HTTP/1.1"))
    request.remote_ip = ip
    return request


@pytest.mark.parametrize(
    ("ip", "host", "fields", "expected"),
    [
        ("127.0.0.1", "localhost:8080", (), True),
        ("127.9.9.9", "127.0.0.1", (), True),
        ("::1", "[::1]:8080", (), True),
        ("::ffff:127.0.0.1", "a.localhost.", (), True),
        ("192.0.2.1", "localhost", (), False),
        ("::ffff:192.0.2.1", "localhost", (), False),
        ("127.0.0.1", "192.0.2.1", (), False),
        ("127.0.0.1", "stats.example", (), False),
        # A proxy on the same computer.
        ("127.0.0.1", "127.0.0.1", ("X-Forwarded-For: 192.0.2.1",), False),
        ("127.0.0.1", "127.0.0.1", ("X-Real-IP: 127.0.0.1",), False),
        ("127.0.0.1", "127.0.0.1", ("Via: 1.1 proxy",), False),
        ("127.0.0.1", "127.0.0.1", ("Forwarded: for=192.0.2.1",), False),
        ("127.0.0.1", "127.0.0.1", ("x-forwarded-proto: https",), False),
        # A Unix socket.
        ("", "localhost", (), False),
    ],
)
def test_without_a_password_only_this_computer_has_access(
    ip: str, host: str, fields: tuple[str, ...], expected: bool
) -> None:
    request = from_client(ip, host, *fields)
    assert is_local(request) is expected
    (rule, *_) = Dashboard({}, hosts=["stats.example"], local_only=True).urls
    assert (rule.matcher.match(request) is None) is expected
    (rule, *_) = Dashboard({}, password="open sesame", hosts=["stats.example"]).urls
    assert rule.matcher.match(request) is None


def test_a_request_of_http_1_0_is_one_of_a_proxy() -> None:
    request = from_client("127.0.0.1", "localhost")
    assert is_local(request)
    request.version = "HTTP/1.0"
    assert not is_local(request)


async def test_a_proxy_gets_nothing_without_a_password() -> None:
    dashboard = Dashboard({}, local_only=True)
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    async with http_server(Application(dashboard.urls, log_function=lambda handler: None), sockets):
        for path in ("/dashboard", "/dashboard/", "/dashboard/sockjs/info", "/dashboard/sockjs/000/a/websocket"):
            client = await within(Client.connect(port))
            response = await client.ask("GET", path, "X-Forwarded-For: 192.0.2.1")
            assert response.status == 403
            assert response.text.startswith("This dashboard is available on the server's own computer only")
            await client.leave()
        await close_router(dashboard.router)


# Rate limits.


def test_a_network_has_a_burst_and_all_of_them_have_another(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("sockjs_tornado.dashboard.access.time.monotonic", lambda: now)
    limit = RateLimit((2, 10.0), (5, 1.0))
    assert [limit.consume("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert [limit.consume(f"2001:db8::{host}") for host in range(3)] == [True, True, False]
    assert [limit.consume(f"198.51.100.{host}") for host in range(3)] == [True, False, False]
    now += 10.0
    assert limit.allows("192.0.2.1")
    assert [limit.consume("192.0.2.1") for _ in range(2)] == [True, False]


def test_the_memory_of_a_limit_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sockjs_tornado.dashboard.access.MAX_NETWORKS", 100)
    limit = RateLimit((1, HOUR))
    for number in range(300):
        assert limit.consume(f"10.0.{number // 250}.{number % 250}")
    assert len(limit._until) == 100
    # Those that were counted last are remembered.
    assert not limit.allows("10.0.0.200")
    assert limit.allows("10.0.0.199")


async def test_passwords_are_not_looked_at_after_too_many_wrong_ones(
    serve: Serve, join: Join, logged: LogWatch
) -> None:
    dashboard = Dashboard({}, password="open sesame")
    dashboard._wrong_passwords = RateLimit((3, HOUR))
    server = await serve(dashboard.router)
    closed = []
    for password in ["", "a", "b", "c", "open sesame", "d"]:
        page = join(server, "websocket", prefix="/dashboard/sockjs")
        await enter(page, password)
        closed.append(await page.frame())
    wrong, late = 'c[4001,"Wrong password"]', 'c[4001,"Too many wrong passwords: try again later"]'
    assert closed == ['c[4001,"A password is required"]', wrong, wrong, wrong, late, late]
    # Once in ten seconds, and without the password.
    messages = {record.getMessage() for record in logged.records}
    assert messages == {"A client at 127.0.0.1 has sent a wrong password to the dashboard"}
    logged.records.clear()


async def test_wrong_passwords_of_others_do_not_lock_the_operator_out(
    echo: SockJSRouter, serve: Serve, join: Join, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = Dashboard({"echo": echo}, password="open sesame")
    dashboard._all_wrong_passwords = RateLimit((1, HOUR))
    server = await serve(dashboard.router)
    first, slow, short, operator = (join(server, "websocket", prefix="/dashboard/sockjs") for _ in range(4))
    await enter(first, "wrong")
    assert await first.frame() == 'c[4001,"Wrong password"]'
    monkeypatch.setattr(service, "PASSWORD_DELAY", HOUR)
    await enter(slow, "wrong")
    # It does not help to try again while the response is delayed.
    await slow.send(json.dumps({"password": "open sesame", "run": "", "clock": 0}))
    await enter(operator, "open sesame")
    assert await samples(operator)
    assert len(dashboard.router.connections) == 2
    assert len(dashboard._viewers) == 1
    monkeypatch.setattr(service, "PASSWORD_DELAY", 0.001)
    await enter(short, "wrong")
    assert await short.frame() == 'c[4001,"Wrong password"]'
    logged.take("wrong password")


# Sessions and rooms.


async def answer(page: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request, and return the response; samples may come before it."""
    await page.send(json.dumps(request))
    while isinstance(found := json.loads(await page.message()), list):
        pass
    return dict(found)


class Roomy(SockJSConnection):
    """Joins rooms."""

    def on_message(self, message: str) -> None:
        self.join(message)
        self.send(message)


async def test_a_page_lists_sessions_and_rooms(serve: Serve, join: Join) -> None:
    chat, echo = SockJSRouter(Roomy, "/chat"), SockJSRouter(Echo, "/echo")
    dashboard = Dashboard({"chat": chat, "echo": echo}, local_only=True)
    server = await serve(dashboard.router, chat, echo)
    page = join(server, "websocket", prefix="/dashboard/sockjs")
    first, second, third = join(server, "xhr"), join(server, "websocket", prefix="/chat"), join(server, "websocket")
    assert await first.frame() == await second.frame() == await third.frame() == "o"
    rooms = [f"room {number}" for number in range(7)] + ["x" * 200]
    for room in rooms:
        await second.send(room)
        assert await second.message() == room
    await enter(page)
    await samples(page)
    found = await answer(page, {"list": "", "search": ""})
    assert (found["total"], found["all_rooms"]) == (3, 8)
    assert {(row["router"], row["transport"], row["ip"]) for row in found["sessions"]} == {
        ("chat", "websocket", "127.0.0.1"),
        ("echo", "websocket", "127.0.0.1"),
        ("echo", "xhr", "127.0.0.1"),
    }
    (row,) = (row for row in found["sessions"] if row["router"] == "chat")
    assert row["rooms"] == rooms[:5]
    assert row["more_rooms"] == 3
    assert {room["room"] for room in found["rooms"]} == {*rooms[:7], "x" * 100}
    assert all((room["router"], room["members"]) == ("chat", 1) for room in found["rooms"])

    async def searched(router: str, search: str) -> list[str]:
        found = await answer(page, {"list": router, "search": search})
        return sorted(f"{row['router']} {row['transport']}" for row in found["sessions"])

    assert await searched("echo", "") == ["echo websocket", "echo xhr"]
    assert await searched("", "websocket") == ["chat websocket", "echo websocket"]
    assert await searched("", "room 6") == ["chat websocket"]
    assert await searched("", "127.0.0.1") == ["chat websocket", "echo websocket", "echo xhr"]
    assert await searched("none", "") == []
    # The ids, with which others could take sessions over, are secret.
    assert all(str(session.session_id) not in json.dumps(found) for session in echo.container)


async def test_a_listing_is_bounded(serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sockjs_tornado.dashboard.listing.MAX_ROWS", 2)
    router = SockJSRouter(Roomy, "/echo")
    server = await serve(router)
    for number in range(4):
        peer = join(server, "websocket")
        assert await peer.frame() == "o"
        for room in range(number):
            await peer.send(str(room))
            assert await peer.message() == str(room)
    found = listing({"echo": router}, "")
    assert (len(found["sessions"]), found["total"], found["all_rooms"]) == (2, 4, 3)
    assert [(room["room"], room["members"]) for room in found["rooms"]] == [("0", 3), ("1", 2)]
    monkeypatch.setattr("sockjs_tornado.dashboard.listing.MAX_SEARCHED", 3)
    (last,) = (session.label for session in list(router.container)[-1:])
    assert listing({"echo": router}, "websocket")["total"] == 4
    assert router.container.rooms.largest(1) == [("0", 3)]
    assert last


async def test_listings_are_rate_limited(echo: SockJSRouter, serve: Serve, join: Join) -> None:
    dashboard = Dashboard({"echo": echo}, settings={"max_inbound_rate": None}, local_only=True)
    dashboard._listing_limit = RateLimit((2, HOUR), (100, HOUR))
    page = join(await serve(dashboard.router, echo), "websocket", prefix="/dashboard/sockjs")
    await enter(page)
    await samples(page)
    found = [await answer(page, {"list": "", "search": ""}) for _ in range(4)]
    assert [bool(each) for each in found] == [True, True, False, False]


async def test_a_page_disconnects_a_session(echo: SockJSRouter, serve: Serve, join: Join) -> None:
    dashboard = Dashboard({"echo": echo}, local_only=True)
    server = await serve(dashboard.router, echo)
    page, guest, other = join(server, "websocket", prefix="/dashboard/sockjs"), join(server, "xhr"), join(server, "xhr")
    assert await guest.frame() == "o"
    assert await other.frame() == "o"
    await enter(page)
    await samples(page)
    first, second = (await answer(page, {"list": "echo", "search": ""}))["sessions"]
    label = min(first["label"], second["label"], key=int)
    request = {"disconnect": label, "router": "echo"}
    assert await answer(page, request) == {"disconnected": label, "router": "echo", "found": True}
    assert await guest.frame() == 'c[3000,"Closed by the operator"]'
    assert await answer(page, request) == {"disconnected": label, "router": "echo", "found": False}
    assert (await answer(page, {"disconnect": label, "router": "none"}))["found"] is False
    assert len(echo.connections) == 1


@pytest.mark.parametrize("request_", [{"list": "", "search": ""}, {"disconnect": "1", "router": "echo"}])
async def test_a_client_without_the_password_neither_lists_nor_disconnects(
    echo: SockJSRouter, serve: Serve, join: Join, request_: dict[str, str]
) -> None:
    dashboard = Dashboard({"echo": echo}, password="open sesame")
    server = await serve(dashboard.router, echo)
    guest = join(server, "websocket")
    assert await guest.frame() == "o"
    page = join(server, "websocket", prefix="/dashboard/sockjs")
    assert await page.frame() == "o"
    await page.send(json.dumps(request_))
    assert await page.frame() == 'c[4000,"Invalid message"]'
    assert len(echo.connections) == 1


async def test_the_pages_files_have_a_strict_policy_and_nothing_else_is_served() -> None:
    dashboard = Dashboard({}, "/admin/stats", local_only=True)
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    async with http_server(Application(dashboard.urls, log_function=lambda handler: None), sockets):
        for name in ("", "dashboard.js", "dashboard.css", "uPlot.iife.min.js", "uPlot.min.css"):
            client = await within(Client.connect(port))
            response = await client.ask("GET", f"/admin/stats/{name}")
            assert response.status == 200
            policy = response["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; ")
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            await client.leave()
        for path in (
            "/admin/stats/index.html",
            "/admin/stats/../service.py",
            "/dashboard/",
            "/admin/stats/sockjs.min.js",
        ):
            client = await within(Client.connect(port))
            assert (await client.ask("GET", path)).status == 404
            await client.leave()
        await close_router(dashboard.router)


@pytest.mark.parametrize(
    "routers",
    [SockJSRouter(Echo, "/echo"), [SockJSRouter(Echo, "/echo")], {"echo": Echo}],
    ids=["one", "a list", "a connection"],
)
def test_routers_without_names_are_rejected(routers: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^routers: expected a mapping of names to routers, such as"):
        Dashboard(routers, local_only=True)


@pytest.mark.parametrize("host", ["https://stats.example", "stats.example:8080", "stats.example/"])
def test_a_host_that_is_a_url_is_rejected(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^hosts: got .*, expected a name without a scheme, path and port$"):
        Dashboard({}, hosts=[host], local_only=True)


@pytest.mark.parametrize("hosts", ["Stats.Example", ["Stats.Example"]])
def test_a_host_may_be_a_single_name_in_any_case(hosts: Any) -> None:
    (rule, *_) = Dashboard({}, password="open sesame", hosts=hosts).urls
    assert rule.matcher.match(from_client("192.0.2.1", "stats.example")) is None
    assert rule.matcher.match(from_client("192.0.2.1", "s")) is not None
