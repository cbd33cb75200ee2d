"""What another program writes to Redis: nodes send no request because of it, and clients receive nothing of it."""

import asyncio
import json
from typing import Any

import pytest
import redis
from application import LogWatch
from client import until, within
from free_ports import free_port

from sockjs_tornado.cluster import AsyncPublisher, Publisher
from sockjs_tornado.cluster.envelope import CONTROL, encode_control
from sockjs_tornado.session.control import Command, Target

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


async def test_only_messages_with_the_secret_are_delivered(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    """Neither forged ones, nor those of another room, nor a message once more."""
    here, there = await node(secret=SECRET), await node(secret=[SECRET + "!", SECRET])
    other = await node()
    peer, _ = await here.enter(ROOM, "other")
    channel = f"sockjs:room:{ROOM}"
    client = redis.Redis(port=redis_server.port, host="127.0.0.1")
    with client, client.pubsub(ignore_subscribe_messages=True) as spy:  # type: ignore[no-untyped-call]
        spy.subscribe(channel)
        await within(there.router.publish(ROOM, "of another secret"))
        await within(other.router.publish(ROOM, "without a secret"))
        with Publisher(redis_server.url) as publisher:
            await asyncio.to_thread(publisher.publish, ROOM, "without a secret")
        await until(lambda: here.cluster.stats.messages_forged == 3)
        assert f"from {there.cluster.node_id} that is not signed" in logged.take("not signed").getMessage()
        with Publisher(redis_server.url, secret=SECRET) as publisher:
            await asyncio.to_thread(publisher.select(room="other").send, "selected")
            assert await peer.message() == "selected"
            await asyncio.to_thread(publisher.publish, ROOM, "first")
        assert await peer.message() == "first"
        copies: list[bytes] = []
        while not copies or b"first" not in copies[-1]:
            if (message := await asyncio.to_thread(spy.get_message, timeout=5)) is not None:
                copies.append(message["data"])
    for target in (channel, "sockjs:room:other"):
        redis_server.command("PUBLISH", target, copies[-1])
    control = here.cluster.keys.channel(CONTROL)
    redis_server.command("PUBLISH", control, encode_control("", 0, Command("send", Target("room", ROOM), ("t", "x"))))
    await until(lambda: here.cluster.stats.messages_replayed == 1 and here.cluster.stats.messages_forged == 5)
    await until(lambda: there.cluster.stats.messages_forged == 1)
    assert "received before" in logged.take("from publisher-").getMessage()
    logged.take("from a publisher without a secret")
    await within(here.router.publish(ROOM, "second"))
    assert await peer.message() == "second"
    # A node accepts the other secrets of its list.
    friend, _ = await there.enter(ROOM)
    await within(here.router.publish(ROOM, "third"))
    assert await friend.message() == "third"
    # On a slow machine, a node has logged more than one of them.
    while logged.records:
        logged.take("not signed")


async def test_a_forged_history_is_not_recovered(node: StartNode, redis_server: RedisServer, logged: LogWatch) -> None:
    here = await node(secret=SECRET)
    position = await within(here.router.publish(ROOM, "real", history=10))
    assert position is not None
    entry = ("epoch", position.epoch, "envelope", '[1,"",0,"t","forged"]')
    redis_server.command("XADD", f"sockjs:history:{ROOM}", "2-0", *entry)
    recovered = await within(here.cluster.recover(ROOM, 0, position.epoch))
    assert (recovered.messages, recovered.complete) == ([(1, "real")], False)
    assert here.cluster.counters()["messages_forged"] == 1
    logged.take("not signed")


async def test_publishers_with_the_secret_reach_all_rooms_in_order(node: StartNode, redis_server: RedisServer) -> None:
    """From several threads and after a failure, so that no stamp arrives after a later one of the same sender."""
    here = await node(secret=SECRET)
    peer, _ = await here.enter(ROOM, "other")

    def publish(publisher: Publisher) -> None:
        for number in range(20):
            publisher.publish(ROOM, [number], history=5 * (number % 2))
        for history in (-1, 2**63):
            with pytest.raises(ValueError, match="history"):
                publisher.publish(ROOM, "x", history=history)

    with Publisher(redis_server.url, secret=SECRET) as publisher:
        await asyncio.gather(*(asyncio.to_thread(publish, publisher) for _ in range(4)))
        await asyncio.to_thread(publisher.publish_many, [ROOM, "other", "empty"], "many")
    async with AsyncPublisher(redis_server.url, secret=SECRET) as other:
        await asyncio.gather(*(other.publish(ROOM, [number]) for number in range(3)), other.publish_many([ROOM], "all"))
    received = [await peer.message() for _ in range(80 + 2 + 4)]
    for number in range(20):
        assert received[:80].count([number]) == 4
    assert received[80:] == ["many", "many", [0], [1], [2], "all"]
    await within(here.router.publish_many([ROOM, "other"], "of the node"))
    assert [await peer.message() for _ in range(2)] == ["of the node", "of the node"]
    assert here.cluster.stats.messages_replayed == here.cluster.stats.messages_forged == 0
