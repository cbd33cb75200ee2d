"""The HTTP API on one of two nodes."""

from typing import Any

from application import LogWatch
from client import until
from test_http_api import api_of

from .conftest import StartNode
from .redis_server import RedisServer


async def test_it_controls_the_sessions_of_all_nodes(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here, there = await node(), await node()
    peer, connection = await there.enter("news")
    connection.tag("user:42")
    connection.join("desk", presence="bob")
    async with api_of(here.router) as api:
        status, response = await api.post("/publish", room="news", message="stored", history=5, ttl=60)
        assert (status, response["position"]["offset"]) == (200, 1)
        assert response["position"]["epoch"]
        assert await peer.message() == "stored"
        for name, value in (("history", "10"), ("history", None), ("ttl", "60")):
            fields: Any = {"room": "news", "message": "x", "history": 1, name: value}
            status, response = await api.post("/publish", **fields)
            assert (status, response["error"].partition(" expected ")[0]) == (400, f"{name}:")
        # The node that has joined may still be writing it.
        assert len(await there.router.presence("desk")) == 1
        (name,) = await here.router.presence("desk")
        found = await api.ask("GET", "/presence?room=desk")
        assert found.text == f'{{"count": 1, "members": {{"{name}": "bob"}}}}'
        assert await api.post("/disconnect", tag="user:42", code=4001, reason="Logged out") == (200, {})
        assert await connection.closed() == (4001, "Logged out")
        redis_server.kill()
        for path, fields in (("/publish", {"room": "news", "message": "x"}), ("/disconnect", {"tag": "user:42"})):
            assert (await api.post(path, **fields))[0] == 503
        refused = await api.ask("GET", "/presence?room=desk")
        assert (refused.status, refused["Retry-After"]) == (503, "1")
        assert "Redis is unavailable" in refused.text
        await here.cluster.close()
        for path, fields in (("/publish", {"room": "news", "message": "x"}), ("/disconnect", {"tag": "user:42"})):
            assert await api.post(path, **fields) == (503, {"error": "the cluster is closed; create another one"})
        assert (await api.ask("GET", "/presence?room=desk")).status == 503
    await until(lambda: not here.is_connected and not there.is_connected)
    for _ in (here, there):
        logged.take("reconnecting")
