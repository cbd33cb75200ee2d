"""The dashboard example's server: who is told what, and when."""

import importlib.util
import json
from typing import Any

import pytest
from application import Echo, Serve
from client import Connect, Join, Peer
from programs import ROOT

from sockjs_tornado import SockJSRouter


@pytest.fixture
def watch() -> Any:
    """The example's module, whose samples come without a wait."""
    spec = importlib.util.spec_from_file_location("watch", ROOT / "examples/dashboard/watch.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.INTERVAL = 0.01  # type: ignore[attr-defined]
    return module


@pytest.fixture
def echo() -> SockJSRouter:
    """What is watched."""
    return SockJSRouter(Echo, "/echo")


async def enter(peer: Peer, token: str = "", run: str = "", clock: float = 0) -> None:
    """Come as the page does."""
    assert await peer.frame() == "o"
    await peer.send(json.dumps({"token": token, "run": run, "clock": clock}))


async def samples(peer: Peer) -> list[dict[str, Any]]:
    """Return the next samples."""
    found: list[dict[str, Any]] = json.loads(await peer.message())
    return found


async def test_a_page_is_told_what_the_routers_count(watch: Any, echo: SockJSRouter, serve: Serve, join: Join) -> None:
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


async def test_who_comes_later_is_told_what_was_before(
    watch: Any, echo: SockJSRouter, serve: Serve, join: Join
) -> None:
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


async def test_nothing_runs_while_nobody_looks(watch: Any, echo: SockJSRouter, serve: Serve, join: Join) -> None:
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


async def test_the_history_is_bounded(watch: Any) -> None:
    watch.INTERVAL = 1.0
    assert watch.Dashboard({}).history.maxlen == 300


@pytest.mark.parametrize(
    ("said", "closed"),
    [
        ('{"token": "", "run": "", "clock": 0}', 'c[4001,"A token is needed"]'),
        ('{"token": "sesam", "run": "", "clock": 0}', 'c[4001,"Wrong token"]'),
        ('{"token": "\\ud800", "run": "", "clock": 0}', 'c[4001,"Wrong token"]'),
        ('{"run": "", "clock": 0}', 'c[4000,"This server does not understand that message"]'),
        ('{"token": "sesame", "run": "", "clock": "x"}', 'c[4000,"This server does not understand that message"]'),
        ("[" * 2000, 'c[4000,"This server does not understand that message"]'),
    ],
)
async def test_who_shows_no_token_is_told_nothing(
    watch: Any, echo: SockJSRouter, serve: Serve, join: Join, said: str, closed: str
) -> None:
    dashboard = watch.Dashboard({"echo": echo}, token="sesame")
    page = join(await serve(dashboard.router), "websocket", prefix="/dashboard/sockjs")
    assert await page.frame() == "o"
    await page.send(said)
    assert await page.frame() == closed
    assert dashboard.timer is None


def test_an_empty_token_is_refused(watch: Any) -> None:
    with pytest.raises(ValueError, match="token"):
        watch.Dashboard({}, token="")


async def test_who_shows_the_token_is_told(watch: Any, echo: SockJSRouter, serve: Serve, join: Join) -> None:
    dashboard = watch.Dashboard({"echo": echo}, token="sesame")
    page = join(await serve(dashboard.router), "websocket", prefix="/dashboard/sockjs")
    await enter(page, token="sesame")
    assert await samples(page)


async def test_who_says_nothing_is_closed(watch: Any, echo: SockJSRouter, serve: Serve, join: Join) -> None:
    watch.SECONDS = 0
    dashboard = watch.Dashboard({"echo": echo})
    page = join(await serve(dashboard.router), "websocket", prefix="/dashboard/sockjs")
    assert await page.frame() == "o"
    assert await page.frame() == 'c[4000,"Nothing was said in time"]'


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
