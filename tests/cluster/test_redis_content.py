"""What another program writes to Redis: nodes send no request because of it, and clients receive nothing of it."""

import asyncio
import json
from typing import Any

import pytest
from application import LogWatch
from client import until, within
from free_ports import free_port

from .conftest import StartNode
from .node import SECRET
from .redis_server import RedisServer

ROOM = "lobby"


@pytest.mark.parametrize("node_name", ["a", "a\r\nHost: internal\r\n\r\nGET /secret HTTP/1.1\r\nX: y"])
async def test_no_request_is_sent_to_an_address_that_no_node_advertises(
    node: StartNode, redis_server: RedisServer, logged: LogWatch, tmp_path: Any, node_name: str
) -> None:
    """An internal service must not be reached by whoever can write to Redis, nor its answer reach a client."""
    reached = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(await reader.read(1000))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
        writer.close()

    here = await node(advertise=f"http://127.0.0.1:{free_port()}", secret=SECRET)
    path = str(tmp_path / "internal.sock")
    async with (
        await asyncio.start_server(serve, "127.0.0.1", 0) as server,
        await asyncio.start_unix_server(serve, path),
    ):
        port = server.sockets[0].getsockname()[1]
        for address in (f"http://127.0.0.1:{port}", path):
            for transport in ("xhr", "xhr_send"):
                redis_server.command("SET", "sockjs:session:/echo:abc", json.dumps([node_name, address]))
                request = f'POST /echo/000/abc/{transport} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n[""]'
                response = await here.ask(request.encode())
                assert response.status == 503
                assert b"secret" not in response.body
    assert reached == []
    assert here.stats["claims_forged"] == 4
    assert here.cluster.counters()["claims_forged"] == 4
    logged.take("Ignored a claim in Redis")


async def test_members_that_no_node_has_written_are_not_present(node: StartNode, redis_server: RedisServer) -> None:
    here, there = await node(), await node()
    await here.enter(ROOM, presence="Ann")
    for field, value in (
        ("x", "1"),
        (f"{here.cluster.node_id}:1\r\n", "1"),
        (f"{here.cluster.node_id}:77", "{"),
        (b"\xff", "1"),
    ):
        redis_server.command("HSET", f"sockjs:presence:{ROOM}", field, value)
    assert list((await within(there.router.presence(ROOM))).values()) == ["Ann"]


@pytest.mark.parametrize(
    "envelope",
    [
        '[true,"",0,"t","x"]',
        '[1,"a\\r\\nb",0,"t","x"]',
        '[1,"",-1,"t","x"]',
        '[1,"",true,"t","x"]',
        '[1,"",0,"t","x",-1,"e"]',
    ],
)
async def test_envelopes_have_a_strict_grammar(
    node: StartNode, redis_server: RedisServer, logged: LogWatch, envelope: str
) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    redis_server.command("PUBLISH", f"sockjs:room:{ROOM}", envelope)
    await within(here.router.publish(ROOM, "y"))
    await until(lambda: here.cluster.stats.skipped == 1)
    assert await peer.message() == "y"
    logged.take("Ignored a malformed message")


async def test_a_history_that_no_node_has_written_is_incomplete(node: StartNode, redis_server: RedisServer) -> None:
    here = await node()
    redis_server.command("XADD", f"sockjs:history:{ROOM}", "1-0", "epoch", b"\xff", "x", "y")
    redis_server.command("XADD", f"sockjs:history:{ROOM}", "2-0", "epoch", b"\xff")
    recovered = await within(here.cluster.recover(ROOM, 0, ""))
    assert (recovered.messages, recovered.complete) == ([], False)
