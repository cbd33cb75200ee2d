"""Tornado's settings of an application are defaults of its routers, as in 1.0; those of routers belong elsewhere."""

from typing import Any

import pytest
import tornado.httpserver
from application import Echo, LogWatch, Serve
from client import PING, TEXT, Connect, WebSocket, frame, request

import sockjs_tornado
from sockjs_tornado import Settings, SockJSRouter

#: What a router is created with: settings as a mapping or an object, and by keyword.
WITHOUT: list[Any] = [(None, {}), ({"heartbeat_delay": 20}, {}), (Settings(heartbeat_delay=20), {})]
WITH: list[Any] = [
    ({"max_message_size": 200}, {}),
    ({}, {"max_message_size": 200}),
    (Settings(max_message_size=200), {}),
]


@pytest.fixture(autouse=True, params=["tornado", "native"])
def http_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve on either HTTP server."""
    if request.param == "native":
        monkeypatch.setattr(tornado.httpserver, "HTTPServer", sockjs_tornado.HTTPServer)


@pytest.mark.parametrize(("given", "keywords"), WITHOUT)
async def test_a_message_may_be_as_long_as_the_application_allows(
    serve: Serve, connect: Connect, given: Any, keywords: Any
) -> None:
    router = SockJSRouter(Echo, "/echo", given, **keywords)
    websocket = await WebSocket.open(
        await connect(await serve(router, websocket_max_message_size=100)), "/echo/websocket"
    )
    websocket.write(frame(TEXT, "x" * 100))
    assert await websocket.text() == "x" * 100
    websocket.write(frame(TEXT, "x" * 101))
    assert (await websocket.closed())[0] == 1009
    assert router.settings.max_message_size == 100


async def test_a_longer_message_has_room_in_the_memory_for_all(serve: Serve, connect: Connect) -> None:
    router = SockJSRouter(Echo, "/echo", max_buffered_body_bytes=1, max_message_size=5)
    assert router.body_budget.limit == 5
    router = SockJSRouter(Echo, "/echo", max_buffered_body_bytes=1)
    await WebSocket.open(await connect(await serve(router, websocket_max_message_size=2**30)), "/echo/websocket")
    assert router.body_budget.limit == 2**30


@pytest.mark.parametrize(("given", "keywords"), WITH)
async def test_a_setting_of_the_router_wins(serve: Serve, connect: Connect, given: Any, keywords: Any) -> None:
    router = SockJSRouter(Echo, "/echo", given, **keywords)
    websocket = await WebSocket.open(
        await connect(await serve(router, websocket_max_message_size=100)), "/echo/websocket"
    )
    websocket.write(frame(TEXT, "x" * 200))
    assert await websocket.text() == "x" * 200
    websocket.write(frame(TEXT, "x" * 201))
    assert (await websocket.closed())[0] == 1009


async def test_pings_are_sent_as_often_as_the_application_wants(serve: Serve, connect: Connect) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router, websocket_ping_interval=0.05, websocket_ping_timeout=0.02))
    websocket = await WebSocket.open(client, "/echo/websocket")
    assert await websocket.frame() == (PING, b"", True, 0)
    assert await client.rest() == b""


@pytest.mark.parametrize(
    ("own", "theirs", "effective"),
    [
        ({}, {}, (0, 0)),
        ({}, {"websocket_ping_interval": None, "websocket_ping_timeout": None}, (0, 0)),
        # Tornado reduces the timeout to the interval, too.
        ({}, {"websocket_ping_interval": 20, "websocket_ping_timeout": 30}, (20, 20)),
        ({}, {"websocket_ping_timeout": 30}, (0, 0)),
        ({"websocket_ping_interval": 0}, {"websocket_ping_interval": 20, "websocket_ping_timeout": 10}, (0, 0)),
        ({"websocket_ping_interval": 15}, {"websocket_ping_interval": 20, "websocket_ping_timeout": 10}, (15, 10)),
        (
            {"websocket_ping_interval": 15, "websocket_ping_timeout": 12},
            {"websocket_ping_interval": 2, "websocket_ping_timeout": 1},
            (15, 12),
        ),
    ],
)
async def test_both_sets_of_settings_are_merged(
    serve: Serve, connect: Connect, own: Any, theirs: Any, effective: Any
) -> None:
    router = SockJSRouter(Echo, "/echo", own)
    await (await connect(await serve(router, **theirs))).ask("GET", "/echo/info")
    assert (router.settings.websocket_ping_interval, router.settings.websocket_ping_timeout) == effective


@pytest.mark.parametrize(
    "theirs", [{"websocket_max_message_size": 0}, {"websocket_ping_interval": "20"}, {"websocket_ping_interval": -1}]
)
async def test_a_setting_that_is_no_number_is_ignored(
    serve: Serve, connect: Connect, logged: LogWatch, theirs: Any
) -> None:
    router = SockJSRouter(Echo, "/echo")
    before = router.settings
    response = await (await connect(await serve(router, **theirs))).ask("GET", "/echo/info")
    assert response.status == 200
    assert router.settings == before
    assert logged.take("ignored the application's settings websocket_max_message_size, ").levelname == "ERROR"


async def test_a_deprecated_setting_of_the_router_does_not_fail_a_request(serve: Serve, connect: Connect) -> None:
    # In tests, warnings are errors.
    with pytest.deprecated_call():
        router = SockJSRouter(Echo, "/echo", websocket_allow_origin="a.example")
    client = await connect(await serve(router, websocket_max_message_size=100))
    client.write(request("GET", "/echo/info"))
    assert (await client.response()).status == 200
    assert router.settings.max_message_size == 100


async def test_settings_of_a_router_that_only_the_application_has_are_logged(
    serve: Serve, connect: Connect, logged: LogWatch
) -> None:
    router = SockJSRouter(Echo, "/echo", heartbeat_delay=20)
    misplaced = {"allowed_origins": ["https://a.example"], "max_sessions": 5, "heartbeat_delay": 20, "base_url": "/"}
    client = await connect(await serve(router, **misplaced))
    for _ in range(2):
        assert (await client.ask("GET", "/echo/info")).status == 200
    text = logged.take("the router with the prefix '/echo' does not use the application's settings").getMessage()
    assert "allowed_origins, max_sessions: pass them to SockJSRouter(" in text
    assert text.endswith("allowed_origins=..., max_sessions=...)")
