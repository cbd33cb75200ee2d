"""The dashboard example's server: the samples that it sends, and to which pages."""

import ast
import importlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from application import Echo, Serve, close_router
from client import HANDSHAKE, Client, Connect, Join, Peer, request, within
from programs import ROOT
from tornado.web import Application

from sockjs_tornado import CloseCode, SockJSRouter
from sockjs_tornado.serving import bind_sockets, http_server
from sockjs_tornado.settings import Settings


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example's module, whose samples come without a wait."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    module = importlib.import_module("dashboard.watch")
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    return module


@pytest.fixture
def echo() -> SockJSRouter:
    """What is watched."""
    return SockJSRouter(Echo, "/echo")


def table_of(name: str) -> set[str]:
    """Return the keys of a table in the page's script."""
    script = (ROOT / "examples/dashboard/dashboard.js").read_text()
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


def test_the_page_explains_every_rejection() -> None:
    # These are names of settings, which the code that rejects gets as arguments.
    others = table_of("REASONS") - counted_rejections()
    assert others <= set(Settings.__dataclass_fields__) | {"unexpected_body"}
    assert counted_rejections() <= table_of("REASONS")


def test_the_page_explains_every_close_code() -> None:
    # The others are of RFC 6455.
    assert {str(int(code)) for code in CloseCode} <= table_of("CODES")


async def enter(peer: Peer, token: str = "", run: str = "", clock: float = 0) -> None:
    """Come as the page does."""
    assert await peer.frame() == "o"
    await peer.send(json.dumps({"token": token, "run": run, "clock": clock}))


async def samples(peer: Peer) -> list[dict[str, Any]]:
    """Return the next samples."""
    found: list[dict[str, Any]] = json.loads(await peer.message())
    return found


async def test_a_page_receives_the_counters_of_the_routers(
    watch: Any, echo: SockJSRouter, serve: Serve, join: Join
) -> None:
    dashboard = watch.Dashboard({"echo": echo, "none": SockJSRouter(Echo, "/none")})
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


async def test_a_later_page_gets_the_earlier_samples(watch: Any, echo: SockJSRouter, serve: Serve, join: Join) -> None:
    dashboard = watch.Dashboard({"echo": echo})
    server = await serve(dashboard.router)
    first, second, third = (join(server, "websocket", prefix="/dashboard/sockjs") for _ in range(3))
    await enter(first)
    seen = [sample for _ in range(3) for sample in await samples(first)]
    await enter(second)
    assert (await samples(second))[:3] == seen
    # Who was there before lacks only what has come since.
    await enter(third, run=seen[1]["run"], clock=seen[1]["clock"])
    assert (await samples(third))[0] == seen[2]


async def test_nothing_runs_while_no_page_is_open(watch: Any, echo: SockJSRouter, serve: Serve, join: Join) -> None:
    dashboard = watch.Dashboard({"echo": echo})
    server = await serve(dashboard.router)
    for _ in range(2):
        assert dashboard.timer is None
        page = join(server, "xhr", prefix="/dashboard/sockjs")
        await enter(page)
        await samples(page)
        assert dashboard.timer is not None
        (viewer,) = dashboard.viewers
        viewer.close()
    assert dashboard.timer is None


async def test_the_history_is_bounded(watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "INTERVAL", 1.0)
    assert watch.Dashboard({}).history.maxlen == 300


HOUR = 3600.0


def remember(watch: Any, dashboard: Any, *sizes: int) -> None:
    """Have samples of these sizes from before, the last of which is the newest."""
    dashboard.history.clear()
    for size in sizes:
        dashboard.history.append((watch.time.monotonic(), json.dumps("x" * (size - 2))))


async def test_a_client_that_reconnects_often_gets_little_history(
    watch: Any, serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = watch.Dashboard({})
    monkeypatch.setattr(watch, "INTERVAL", HOUR)
    monkeypatch.setattr(watch, "ADDRESS_LIMIT", (3, HOUR))
    server = await serve(dashboard.router)
    sizes = []
    for _ in range(10):
        page = join(server, "websocket", prefix="/dashboard/sockjs")
        await enter(page)
        sizes.append(len(await samples(page)))
        # Behind the one sample that the first page brings about.
        remember(watch, dashboard, *[1000] * 300)
    assert sizes == [1, 300, 300, *[0] * 7]
    # What an address may have says nothing of another one, unless all of them together ask for too much.
    assert dashboard.consume_rate_limit("192.0.2.1")
    monkeypatch.setattr(watch, "TOTAL_LIMIT", (0, HOUR))
    assert not dashboard.consume_rate_limit("192.0.2.2")


async def test_an_answer_is_bounded_and_has_the_newest(
    watch: Any, serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = watch.Dashboard({})
    monkeypatch.setattr(watch, "INTERVAL", HOUR)
    monkeypatch.setattr(watch, "MAX_RESPONSE", 1000)
    server = await serve(dashboard.router)
    first, second = (join(server, "websocket", prefix="/dashboard/sockjs") for _ in range(2))
    await enter(first)
    await samples(first)
    remember(watch, dashboard, 700, 400, 300, 200)
    await enter(second)
    assert [len(sample) + 2 for sample in await samples(second)] == [400, 300, 200]


async def first_close(page: Peer) -> AsyncIterator[str]:
    """Yield frames up to the close frame, a hundred at the most."""
    for _ in range(100):
        yield (frame := await page.frame())
        if frame.startswith("c"):
            break


async def test_a_page_asks_once(watch: Any, echo: SockJSRouter, serve: Serve, join: Join) -> None:
    dashboard = watch.Dashboard({"echo": echo})
    page = join(await serve(dashboard.router), "websocket", prefix="/dashboard/sockjs")
    await enter(page)
    await samples(page)
    await page.send(json.dumps({"token": "", "run": "", "clock": 0}))
    # Some more samples may have been on their way.
    frames = [frame async for frame in first_close(page)]
    assert frames[-1] == 'c[4000,"Invalid message"]'


@pytest.mark.parametrize(
    ("said", "closed"),
    [
        ('{"token": "", "run": "", "clock": 0}', 'c[4001,"A token is required"]'),
        ('{"token": "sesam", "run": "", "clock": 0}', 'c[4001,"Wrong token"]'),
        ('{"token": "\\ud800", "run": "", "clock": 0}', 'c[4001,"Wrong token"]'),
        ('{"run": "", "clock": 0}', 'c[4000,"Invalid message"]'),
        ('{"token": "sesame", "run": "", "clock": "x"}', 'c[4000,"Invalid message"]'),
        ("[" * 2000, 'c[4000,"Invalid message"]'),
    ],
)
async def test_a_client_without_a_token_gets_no_data(
    watch: Any, echo: SockJSRouter, serve: Serve, join: Join, said: str, closed: str
) -> None:
    dashboard = watch.Dashboard({"echo": echo}, token="sesame")
    page = join(await serve(dashboard.router), "websocket", prefix="/dashboard/sockjs")
    assert await page.frame() == "o"
    await page.send(said)
    assert await page.frame() == closed
    assert dashboard.timer is None


def test_an_empty_token_is_rejected(watch: Any) -> None:
    with pytest.raises(ValueError, match="token"):
        watch.Dashboard({}, token="")


async def test_a_client_with_the_token_gets_the_data(watch: Any, echo: SockJSRouter, serve: Serve, join: Join) -> None:
    dashboard = watch.Dashboard({"echo": echo}, token="sesame")
    page = join(await serve(dashboard.router), "websocket", prefix="/dashboard/sockjs")
    await enter(page, token="sesame")
    assert await samples(page)


async def test_a_page_that_sends_no_message_is_closed(
    watch: Any, echo: SockJSRouter, serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "REQUEST_TIMEOUT", 0)
    dashboard = watch.Dashboard({"echo": echo})
    page = join(await serve(dashboard.router), "websocket", prefix="/dashboard/sockjs")
    assert await page.frame() == "o"
    assert await page.frame() == 'c[4000,"No message in time"]'


async def test_pages_of_other_sites_may_not_connect(
    watch: Any, echo: SockJSRouter, serve: Serve, connect: Connect
) -> None:
    dashboard = watch.Dashboard({"echo": echo})
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
async def test_names_that_are_not_ours_are_rejected(watch: Any, host: str, status: int) -> None:
    # A page of such a name may have had it lead here, and would read everything.
    dashboard = watch.Dashboard({}, hosts=["stats.example"])
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


async def test_any_name_may_be_ours(watch: Any) -> None:
    hosts = importlib.import_module("dashboard.hosts")
    assert hosts.is_allowed_host("evil.example", {"*"})
