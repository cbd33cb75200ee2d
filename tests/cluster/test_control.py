"""Sessions of other processes that are selected by room, tag or id: on Redis, and on Unix sockets."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from application import LogWatch
from client import Join, until, within

from sockjs_tornado.cluster import AsyncPublisher, Publisher, pending_messages
from sockjs_tornado.cluster import messages as messages_module
from sockjs_tornado.cluster.envelope import encode, encode_control
from sockjs_tornado.exceptions import ClusterUnavailable
from sockjs_tornado.protocol import PreparedMessage
from sockjs_tornado.session.control import decode_command

from .conftest import Start, StartNode
from .node import Node
from .redis_server import RedisServer
from .turns import count_calls

ROOM = "lobby"

#: What the fixture ``start_two`` is.
StartTwo = Callable[[], Awaitable[tuple[Node, Node]]]


@pytest.fixture(params=["redis", "unix"])
def start_two(request: pytest.FixtureRequest, join: Join) -> StartTwo:
    """Return a function that starts two nodes of a cluster."""
    start: Any = request.getfixturevalue("node" if request.param == "redis" else "start")

    async def begin() -> tuple[Node, Node]:
        nodes = [await start(), await start()] if request.param == "redis" else await start(count=2)
        for made in nodes:
            made.join = join
        return nodes[0], nodes[1]

    return begin


#: The messages of :func:`publish_waiting`.
WAITING = [f"{number}" for number in range(20)]


def publish_waiting(node: Node) -> list[Any]:
    """Publish a message with history, and others that wait for it; return the results."""
    return [node.router.publish(ROOM, "stored", history=10), *(node.router.publish(ROOM, text) for text in WAITING)]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Deliver one message that has waited in each turn, and return the numbers of deliveries, one for each turn."""
    monkeypatch.setattr(pending_messages, "MAX_TURN", -1)
    return count_calls(monkeypatch, messages_module, "PreparedMessage")


async def test_sessions_of_all_nodes_are_controlled(start_two: StartTwo) -> None:
    here, there = await start_two()
    (phone, a), (laptop, b) = await here.enter(ROOM), await there.enter(ROOM)
    (other, c) = await there.enter("\ud800 ☃")
    for connection in (a, b):
        connection.tag("user:42")
    router = here.router
    # In the order of the calls, messages in rooms included.
    router.select(tag="user:42").join("orders")
    await until(lambda: "orders" in b.rooms)
    # Until the other node has subscribed to the room.
    await within(b.join("orders"))
    router.publish("orders", "shipped")
    router.select(room="orders").send({"to": ["the room"]})
    router.select(tag="user:42").leave("orders")
    router.publish("orders", "lost")
    router.select(id=c.global_id).send('\ud800 ☃ \u2028\n"')
    router.select(room="\ud800 ☃", exclude=a).send([])
    router.select(tag="user:42", exclude=a).send("not here")
    await within(router.select(tag="user:42").disconnect(4001, "Logged out ☃"))
    for peer, connection, last in ((phone, a, []), (laptop, b, ["not here"])):
        assert [await peer.message() for _ in range(2 + len(last))] == ["shipped", {"to": ["the room"]}, *last]
        assert await peer.frame() == 'c[4001,"Logged out ☃"]'
        assert await connection.closed() == (4001, "Logged out ☃")
        assert connection.rooms == {ROOM}
    assert [await other.message(), await other.message()] == ['\ud800 ☃ \u2028\n"', []]
    assert len(there.router.connections) == 1
    assert here.cluster.stats.published == 9
    # On Redis, the other node may have left the room before the message "lost".
    assert there.cluster.stats.received in (8, 9)


async def test_publishers_control_sessions(node: StartNode, redis_server: RedisServer) -> None:
    here = await node()
    members = [await here.enter(ROOM) for _ in range(2)]
    for _, connection in members:
        connection.tag("user:42")
    async with AsyncPublisher(redis_server.url) as publisher:
        await within(publisher.select(tag="user:42").join("orders"))
        await within(publisher.select(room="orders").send({"n": 1}))
    with Publisher(redis_server.url) as blocking:
        blocking.select(id=members[0][1].global_id).send("only you")
        blocking.select(tag="user:42").disconnect(4001, "Logged out")
        with pytest.raises(TypeError, match="expected one of"):
            blocking.select()
    received: list[list[Any]] = [[{"n": 1}, "only you"], [{"n": 1}]]
    for (peer, connection), messages in zip(members, received, strict=True):
        assert [await peer.message() for _ in messages] == messages
        assert await connection.closed() == (4001, "Logged out")


async def test_a_disconnect_does_not_overtake_messages_with_history(node: StartNode) -> None:
    here = await node()
    (peer, a), (excluded, b) = await here.enter(ROOM, "other"), await here.enter(ROOM)
    here.router.publish(ROOM, "stored", history=10)
    here.router.select(room=ROOM, exclude=b).send("selected")
    # Messages without history wait as well, once a command does.
    here.router.publish_many(["other"], "in order")
    result = here.router.select(room=ROOM, exclude=b).disconnect(4000, "Closed")
    assert not a.is_closed
    await within(result)
    assert [await peer.message() for _ in range(3)] == ["stored", "selected", "in order"]
    assert await peer.frame() == 'c[4000,"Closed"]'
    assert await excluded.message() == "stored"
    assert not b.is_closed
    assert not here.cluster._node.messages._pending


async def test_messages_that_wait_for_redis_are_delivered_in_slices_after_a_disconnect(
    node: StartNode, redis_server: RedisServer, counts: list[int], logged: LogWatch
) -> None:
    here = await node()
    peer, connection = await here.enter(ROOM)
    redis_server.freeze()
    results = publish_waiting(here)
    assert counts == []
    here.cluster._node.bus.reconnect()
    await until(lambda: counts, interval=0)
    # What is published meanwhile does not overtake them.
    results.append(here.router.publish(ROOM, "meanwhile"))
    results.append(here.router.select(room=ROOM).disconnect(4000, "Closed"))
    assert len(counts) < len(WAITING)
    assert not connection.is_closed
    expected = [*WAITING, "meanwhile"]
    assert [await peer.message() for _ in expected] == expected
    assert await peer.frame() == 'c[4000,"Closed"]'
    assert counts == [1] * len(expected)
    redis_server.thaw()
    for result in results:
        await within(result)
    await until(lambda: here.cluster.stats.gaps)
    logged.take("reconnecting")


async def test_messages_whose_commands_fail_are_delivered_in_slices(
    node: StartNode, redis_server: RedisServer, counts: list[int], logged: LogWatch
) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    redis_server.freeze()
    results = publish_waiting(here)
    here.cluster.commands._connection.close()
    assert [await peer.message() for _ in WAITING] == WAITING
    # The commands fail in one turn, but a message may be sent to many members.
    assert counts == [1] * len(WAITING)
    for result in results:
        with pytest.raises(ClusterUnavailable):
            await within(result)
    redis_server.thaw()
    await until(lambda: here.cluster.commands.available)
    logged.take("reconnecting")


async def test_deliveries_after_a_disconnect_end_although_more_is_published_meanwhile(
    node: StartNode, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    here = await node()
    await here.enter(ROOM)
    redis_server.freeze()
    delivered = 0

    def prepare(message: str) -> PreparedMessage:
        nonlocal delivered
        delivered += 1
        return PreparedMessage(message)

    # Each delivery takes a millisecond, and twice as many messages are published in a turn as one can deliver.
    monkeypatch.setattr(messages_module, "PreparedMessage", prepare)
    monkeypatch.setattr(pending_messages, "time", SimpleNamespace(monotonic=lambda: delivered / 1000))
    results = [here.router.publish(ROOM, "stored", history=10)]
    results += [here.router.publish(ROOM, "before") for _ in range(20)]
    here.cluster._node.bus.reconnect()
    await until(lambda: delivered, interval=0)
    while here.cluster._node.messages._pending.releases_all:
        results += [here.router.publish(ROOM, "meanwhile") for _ in range(10)]
        assert len(results) < 1000
        await asyncio.sleep(0)
    assert delivered == len(results) - 1
    redis_server.thaw()
    for result in results:
        await within(result)
    await until(lambda: here.cluster.stats.gaps)
    logged.take("reconnecting")


async def test_after_a_disconnect_of_redis_commands_are_executed_once_and_in_the_order_of_all_rooms(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    other, _ = await here.enter("other")
    redis_server.command("CLIENT", "PAUSE", 60000, "WRITE")
    here.router.publish("other", "stored", history=10)
    here.router.select(room="other").send("selected")
    here.router.publish(ROOM, "before")
    here.router.select(room=ROOM).disconnect(4000, "Closed")
    here.cluster._node.bus.reconnect()
    assert await peer.message() == "before"
    assert await peer.frame() == 'c[4000,"Closed"]'
    assert await other.message() == "selected"
    await until(lambda: here.cluster.stats.gaps)
    # Now this node receives the command from Redis.
    redis_server.command("CLIENT", "UNPAUSE")
    await within(here.router.publish("other", "end", history=10))
    assert [await other.message() for _ in range(2)] == ["stored", "end"]
    assert here.cluster.stats.received == 4
    logged.take("reconnecting")


async def test_messages_that_wait_for_redis_are_delivered_if_the_cluster_is_closed(
    node: StartNode, redis_server: RedisServer
) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    redis_server.freeze()
    here.router.publish(ROOM, "stored", history=10)
    here.router.publish(ROOM, "x")
    closing = asyncio.create_task(here.cluster.close())
    await until(lambda: not here.cluster._node.bus.available)
    # Redis accepts both messages, but this node does not receive them back any more.
    redis_server.thaw()
    await within(closing)
    assert await peer.message() == "x"


async def test_messages_that_wait_for_redis_are_delivered_at_once_if_the_cluster_is_closed(
    node: StartNode, redis_server: RedisServer, counts: list[int], logged: LogWatch
) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    redis_server.freeze()
    publish_waiting(here)
    here.cluster._node.bus.reconnect()
    await until(lambda: counts, interval=0)
    closing = asyncio.create_task(here.cluster.close())
    assert [await peer.message() for _ in WAITING] == WAITING
    assert counts[-1] > 1
    redis_server.thaw()
    await within(closing)
    logged.take("reconnecting")


async def test_no_message_overtakes_a_command_of_the_time_after_a_disconnect(
    node: StartNode, redis_server: RedisServer, counts: list[int], logged: LogWatch
) -> None:
    here = await node()
    peer, connection = await here.enter(ROOM)
    for room in ("first", "last"):
        await here.enter(room)
    redis_server.freeze()
    for room in ("first", "last"):
        here.router.publish(room, "stored", history=10)
        here.router.publish(room, "not stored")
    here.cluster._node.bus.reconnect()
    await until(lambda: counts, interval=0)
    assert len(counts) == 1
    here.router.select(room=ROOM).join("last")
    here.router.publish("last", "after")
    assert await peer.message() == "after"
    assert connection.rooms == {ROOM, "last"}
    redis_server.thaw()
    await until(lambda: here.cluster.stats.gaps)
    logged.take("reconnecting")


async def test_a_delivery_that_fails_after_a_disconnect_stops_neither_the_others_nor_the_reconnect(
    node: StartNode, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    redis_server.freeze()
    results = [
        here.router.publish(ROOM, message, history=history)
        for message, history in (("stored", 10), ("fails", 0), ("follows", 0))
    ]

    def prepare(message: str) -> PreparedMessage:
        if message == "fails":
            raise ValueError("it is of no use")
        return PreparedMessage(message)

    monkeypatch.setattr(messages_module, "PreparedMessage", prepare)
    here.cluster._node.bus.reconnect()
    assert await peer.message() == "follows"
    redis_server.thaw()
    for result in results:
        await within(result)
    await until(lambda: here.cluster.stats.gaps)
    logged.take("Failed to deliver a message")
    logged.take("reconnecting")


async def test_without_redis_a_disconnect_reaches_this_node_and_raises(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    members = [await here.enter(ROOM) for _ in range(2)]
    members[0][1].tag("user:42")
    redis_server.freeze()
    # The message may have been stored, the commands after it wait for the same reply.
    stored = here.router.publish(ROOM, "stored", history=10)
    pending = here.router.select(tag="user:42").disconnect(4001, "Logged out")
    redis_server.kill()
    for result in (stored, pending):
        with pytest.raises(ClusterUnavailable):
            await within(result)
    assert await members[0][0].frame() == 'c[4001,"Logged out"]'
    with pytest.raises(ClusterUnavailable):
        await within(here.router.select(room=ROOM).disconnect(4000, "Closed"))
    assert await members[1][0].frame() == 'c[4000,"Closed"]'
    assert here.cluster.stats.publish_failures == 3
    logged.take("reconnecting")


async def test_on_gap_is_called_on_nodes_whose_connections_have_tags(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    """They may have missed a disconnect."""
    here, there = await node(), await node()
    _, connection = await here.enter()
    connection.tag("user:42")
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: here.gaps == [frozenset()] and there.cluster.stats.gaps)
    assert there.gaps == []
    for _ in range(2):
        logged.take("reconnecting")
    await within(there.router.select(tag="user:42").disconnect())
    assert (await connection.closed())[0] == 3000


async def test_only_commands_are_executed_and_only_from_their_channel(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    peer, connection = await here.enter(ROOM)
    command = '["disconnect","room","lobby",4000,"x"]'
    # Clients may choose the text of a message, and some applications let them choose a room.
    there = await node()
    for room in (ROOM, "control", "control:", ":"):
        await within(connection.join(room))
        await within(there.router.publish(room, command))
        assert await peer.message() == command
    forged = encode_control("", 0, decode_command(command))
    redis_server.command("PUBLISH", f"sockjs:room:{ROOM}", forged)
    for data in (encode("", 0, command), b"", forged.replace(b"4000", b"-1")):
        redis_server.command("PUBLISH", "sockjs:control:", data)
    await within(there.router.publish(ROOM, "end"))
    assert await peer.message() == "end"
    assert (here.cluster.stats.skipped, there.cluster.stats.skipped) == (4, 3)
    for _ in range(2):
        logged.take("Ignored a malformed message")


async def test_an_unknown_command_does_not_stop_the_delivery(start: Start, join: Join, logged: LogWatch) -> None:
    """A worker of another version may send it."""
    here, there = await start(count=2)
    here.join = join
    peer, _ = await here.enter(ROOM)
    queue = there.cluster._peers._queues[0]
    queue.add(json.dumps(["[]"]))
    queue.add(json.dumps({"a": 1}))
    await within(there.router.publish(ROOM, "x"))
    assert await peer.message() == "x"
    for _ in range(2):
        logged.take("Failed to deliver a message")
