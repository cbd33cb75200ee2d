"""The HTTP API: who may use it, and what it does in one process."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Literal
from unittest.mock import Mock

import pytest
from application import LogWatch, Serve, exception_of
from client import Client, Join, Response, request
from cluster.node import Node
from tornado.web import Application

from sockjs_tornado.exceptions import ConfigurationError
from sockjs_tornado.http_api import MAX_BODY_SIZE, api_urls
from sockjs_tornado.serving import bind_sockets, http_server

TOKEN = "b3NwkJx0c2V2ZXJ5c2VjcmV0"
OLD_TOKEN = "an-old-token-of-a-client"


class NoCluster:
    """In place of a cluster: the router has none."""

    def add(self, router: Any) -> None:
        """Do nothing."""


@contextlib.asynccontextmanager
async def api_of(
    router: Any, prefix: str = "", server: Literal["native", "tornado"] = "native"
) -> AsyncIterator["API"]:
    """Serve the API of a router, and return a client of it."""
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    application = Application(
        api_urls(router, token=[TOKEN, OLD_TOKEN], prefix=prefix), xsrf_cookies=True, log_function=lambda handler: None
    )
    async with http_server(application, sockets, server=server):
        client = await Client.connect(port)
        yield API(client)
        await client.leave()


class API:
    """A client of the API."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def ask(self, method: str, path: str, body: Any = None, token: str | None = f"Bearer {TOKEN}") -> Response:
        """Send a request; a body other than bytes is encoded as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        fields = [] if token is None else [f"Authorization: {token}"]
        return await self.client.ask(method, path, *fields, body=data)

    async def post(self, path: str, **fields: Any) -> tuple[int, Any]:
        """Return the status and the fields of the response."""
        response = await self.ask("POST", path, fields)
        return response.status, json.loads(response.body)


@pytest.fixture
async def node(serve: Serve, join: Join) -> Node:
    """Return one process without a cluster."""
    made = Node(NoCluster(), {})
    made.join, made.server = join, await serve(made.router)
    return made


async def test_it_publishes_disconnects_and_knows_who_is_present(node: Node) -> None:
    (ann, first), (bob, second) = await node.enter("news"), await node.enter("news", "sport")
    first.tag("user:42")
    second.join("desk", presence={"name": "bob"})
    async with api_of(node.router, "/api") as api:
        assert await api.post("/api/publish", room="news", message={"n": 1}) == (200, {"position": None})
        assert await api.post("/api/publish", rooms=["news", "sport"], message="both") == (200, {"position": None})
        assert [await ann.message() for _ in range(2)] == [{"n": 1}, "both"]
        assert [await bob.message() for _ in range(3)] == [{"n": 1}, "both", "both"]
        present = await api.ask("GET", "/api/presence?room=desk")
        (name,) = json.loads(present.body)["members"]
        assert json.loads(present.body) == {"count": 1, "members": {name: {"name": "bob"}}}
        assert present["Cache-Control"] == "no-store"
        assert await api.post("/api/disconnect", tag="user:42", code=4001, reason="Logged out") == (200, {})
        assert await first.closed() == (4001, "Logged out")
        assert await api.post("/api/disconnect", room="sport") == (200, {})
        assert await second.closed() == (3000, "Go away!")
        # Nobody is left.
        assert await api.post("/api/disconnect", room="sport") == (200, {})
        assert json.loads((await api.ask("GET", "/api/presence?room=desk")).body) == {"count": 0, "members": {}}


@pytest.mark.parametrize(
    "token",
    [
        None,
        TOKEN,
        "",
        "Bearer",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        "Bearer \xff",
        "Bearer a b",
    ],
)
async def test_a_request_needs_a_token(node: Node, token: str | None) -> None:
    peer, _ = await node.enter("news")
    async with api_of(node.router) as api:
        for method, path, body in (
            ("POST", "/publish", {"room": "news", "message": "x"}),
            ("POST", "/disconnect", {"room": "news"}),
            ("GET", "/presence?room=news", None),
        ):
            response = await api.ask(method, path, body, token)
            assert response.status == 401
            assert response["WWW-Authenticate"] == "Bearer"
            assert "Authorization: Bearer TOKEN" in json.loads(response.body)["error"]
        accepted = await api.ask("POST", "/publish", {"room": "news", "message": "ok"}, f"bearer {OLD_TOKEN}")
        assert accepted.status == 200
    assert await peer.message() == "ok"


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("/publish", {"room": "a"}, "message: required"),
        ("/publish", {"room": "a", "message": 1}, "message: expected a string, an object or an array"),
        ("/publish", {"room": "a", "message": {"a": float("nan")}}, "message: "),
        ("/publish", {"message": "x"}, "room, rooms: expected one of them"),
        ("/publish", {"room": "a", "rooms": ["b"], "message": "x"}, "room, rooms: expected one of them"),
        ("/publish", {"room": 1, "message": "x"}, "str"),
        ("/publish", {"rooms": "ab", "message": "x"}, "rooms: expected an array of strings"),
        ("/publish", {"rooms": [1], "message": "x"}, "str"),
        ("/publish", {"rooms": ["a"], "message": "x", "history": 5}, "history, ttl, idempotency_key: only with room"),
        ("/publish", {"room": "a", "message": "x", "history": 5}, "require a RedisCluster"),
        ("/publish", {"room": "a", "message": "x", "to": "b"}, "'to': unknown field; expected room, rooms, message"),
        ("/disconnect", {}, "room, tag, id: expected one of them"),
        ("/disconnect", {"tag": "a", "id": "b"}, "room, tag, id: expected one of them"),
        ("/disconnect", {"tag": 7}, "tag must be str"),
        ("/disconnect", {"tag": "a", "code": "4000"}, "code"),
        ("/disconnect", {"tag": "a", "code": 70000}, "65535"),
        ("/disconnect", {"tag": "a", "reason": None}, "reason"),
        ("/disconnect", {"tags": "a"}, "'tags': unknown field; expected room, tag, id, code, reason"),
    ],
)
async def test_a_wrong_field_is_named(node: Node, path: str, fields: dict[str, Any], expected: str) -> None:
    peer, connection = await node.enter("a")
    async with api_of(node.router) as api:
        status, response = await api.post(path, **fields)
        assert status == 400
        assert expected in response["error"]
        assert list(response) == ["error"]
        assert (await api.post("/publish", room="a", message="first"))[0] == 200
    assert await peer.message() == "first"
    assert not connection.is_closed


async def test_a_bug_is_logged(node: Node, monkeypatch: pytest.MonkeyPatch, logged: LogWatch) -> None:
    monkeypatch.setattr(node.router, "publish", Mock(side_effect=RuntimeError("a bug")))
    async with api_of(node.router) as api:
        assert await api.post("/publish", room="a", message="x") == (500, {"error": "Internal Server Error"})
    assert "a bug" in str(exception_of(logged.take("Uncaught exception")))


async def test_other_requests_are_refused(node: Node) -> None:
    async with api_of(node.router) as api:
        for body in (b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000):
            response = await api.ask("POST", "/publish", body)
            assert (response.status, json.loads(response.body)) == (400, {"error": "the body: expected a JSON object"})
        response = await api.ask("GET", "/presence")
        assert (response.status, json.loads(response.body)) == (
            400,
            {"error": "room: required, as in /presence?room=NAME"},
        )
        for method, path, allowed in (("GET", "/publish", "POST"), ("DELETE", "/presence", "GET")):
            response = await api.ask(method, path)
            assert (response.status, response["Allow"]) == (405, allowed)
            assert json.loads(response.body) == {"error": "Method Not Allowed"}


@pytest.mark.parametrize("server", ["native", "tornado"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["Content-Length: 1048576"], 401),
        ([f"Authorization: Bearer {TOKEN}", "Content-Length: 1048577"], 413),
        ([f"Authorization: Bearer {TOKEN}", "Transfer-Encoding: chunked"], 413),
    ],
    ids=["without a token", "too long", "chunked"],
)
async def test_a_refused_body_is_not_kept(
    node: Node, server: Literal["native", "tornado"], fields: list[str], status: int
) -> None:
    async with api_of(node.router, server=server) as api:
        api.client.write(request("POST", "/publish", *fields))
        if fields[-1].endswith("chunked"):
            api.client.write(b"100001\r\n" + b" " * (MAX_BODY_SIZE + 1) + b"\r\n0\r\n\r\n")
        # The response does not wait for the body, if its length is known.
        response = await api.client.response("POST")
        assert response.status == status
        assert list(json.loads(response.body)) == ["error"]


@pytest.mark.parametrize(
    "token", ["", "short", "with a blank, but so long that it would do", "ü" * 30, [], [TOKEN, "x"], None, 5]
)
def test_a_weak_token_is_rejected_and_not_shown(node: Node, token: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        api_urls(node.router, token=token)
    if token:
        assert "openssl rand" in str(caught.value)
        assert TOKEN not in str(caught.value)
        assert "blank, but" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["api", 5, None, "/a b", "http://api"])
def test_a_prefix_that_no_path_begins_with_is_rejected(node: Node, prefix: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'^prefix: expected "" or a path such as "/api", got '):
        api_urls(node.router, token=TOKEN, prefix=prefix)
    # As that of a router.
    assert api_urls(node.router, token=TOKEN, prefix="/api/")[0].regex.pattern == "/api/publish$"


def test_a_list_of_urls_is_no_router(node: Node) -> None:
    with pytest.raises(ConfigurationError, match="router: expected a SockJSRouter, got"):
        api_urls(node.router.urls, token=TOKEN)  # type: ignore[arg-type]
