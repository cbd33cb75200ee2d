"""Header fields of authenticating proxies: the setting ``trusted_headers``."""

import pytest
import tornado.httpserver
from application import Journal, LogWatch, Serve
from client import Connect, WebSocket, new_session

import sockjs_tornado
from sockjs_tornado import SockJSRouter

SETTINGS = {
    "allowed_origins": ["same-origin", "null"],
    "trusted_headers": ["Remote-User", "X-Auth-Request-*"],
}
FIELDS = ("remote-user: ann", "X-Auth-Request-Email: a@b.org", "X-Other: no")


@pytest.fixture(autouse=True, params=["tornado", "native"])
def http_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve on either HTTP server."""
    if request.param == "native":
        monkeypatch.setattr(tornado.httpserver, "HTTPServer", sockjs_tornado.HTTPServer)


@pytest.mark.parametrize("transport", ["websocket", "xhr"])
# The native server keeps short heads as they are.
@pytest.mark.parametrize("padding", ["", "x" * 2000])
@pytest.mark.parametrize(("origin", "user"), [("http://localhost", "ann"), ("", "ann"), ("null", None)])
async def test_the_fields_of_a_proxy_reach_the_application(
    serve: Serve, connect: Connect, logged: LogWatch, transport: str, padding: str, origin: str, user: str | None
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", SETTINGS)))
    fields = [*FIELDS, f"X-Padding: {padding}", *([f"Origin: {origin}"] if origin else [])]
    path = f"/echo/000/{new_session()}/{transport}"
    if transport == "websocket":
        await WebSocket.open(client, path, *fields)
    else:
        assert (await client.ask("POST", path, *fields, body=b"")).body == b"o\n"
    info = (await journal.connection()).session.conn_info
    assert info.get_header("Remote-User") == user
    assert info.get_header("X-Auth-Request-Email") == (user and "a@b.org")
    # That is logged once.
    for _ in range(2):
        assert info.get_header("X-Other") is None
    logged.take("info.headers never has the field 'x-other', since any client could send it: if your proxy ")
    with pytest.raises(KeyError):
        info.headers["X-Token"]
    logged.take("info.headers never has the field 'x-token', ")
    assert info.headers.get("Cookie") is None
    logged.take("info.headers never has the field 'cookie', use info.cookies")


async def test_without_the_setting_the_application_gets_none_of_them(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", allowed_origins="same-origin")))
    await client.ask("POST", f"/echo/000/{new_session()}/xhr", *FIELDS, body=b"")
    assert "remote-user" not in (await journal.connection()).session.conn_info.headers


NAMES = [f"X-Forwarded-{name}" for name in ("User", "Email", "Groups", "Preferred-Username", "Access-Token")]


@pytest.mark.parametrize("padding", ["", "x" * 2000])
@pytest.mark.parametrize(
    ("allowed", "origin", "kept"),
    [
        ("*", "http://localhost", []),
        ("*", "", []),
        (["same-origin", "null"], "null", []),
        (["same-origin", "null"], "http://localhost", ["ann"] * len(NAMES)),
    ],
)
async def test_forwarded_users_are_left_out_unless_the_origin_is_trusted(
    serve: Serve, connect: Connect, padding: str, allowed: str | list[str], origin: str, kept: list[str]
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", allowed_origins=allowed)))
    fields = [f"{name}: ann" for name in NAMES] + ["X-Forwarded-For: 192.0.2.7", f"X-Padding: {padding}"]
    fields += [f"Origin: {origin}"] if origin else []
    await client.ask("POST", f"/echo/000/{new_session()}/xhr", *fields, body=b"")
    info = (await journal.connection()).session.conn_info
    assert [info.headers[name] for name in NAMES if name in info.headers] == kept
    assert info.get_header("X-Forwarded-For") == "192.0.2.7"
