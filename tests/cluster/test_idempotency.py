"""Messages with an idempotency key, which are delivered once however often they are published."""

from typing import Any

import pytest
from application import LogWatch
from client import until, within

from sockjs_tornado import ConfigurationError
from sockjs_tornado.cluster import AsyncPublisher, Publisher
from sockjs_tornado.cluster.history import IDEMPOTENCY_TTL
from sockjs_tornado.exceptions import ClusterUnavailable

from .conftest import StartNode
from .redis_server import RedisServer

ROOM = "lobby"


@pytest.mark.parametrize("history", [0, 5])
async def test_a_message_is_delivered_once_however_it_is_published(
    node: StartNode, redis_server: RedisServer, history: int
) -> None:
    here, there = await node(), await node()
    members = [await member.enter(ROOM) for member in (here, there)]
    publish: dict[str, Any] = {"history": history, "idempotency_key": "order ☃ 7"}
    first = await within(here.router.publish(ROOM, "once", **publish))
    assert (first is None) == (history == 0)
    # The reply is that of the first, also to the other node, and with another message.
    again = [here.router.publish(ROOM, "again", **publish), there.router.publish(ROOM, "once", **publish)]
    assert [await within(result) for result in again] == [first, first]
    async with AsyncPublisher(redis_server.url) as publisher:
        assert await within(publisher.publish(ROOM, "once", **publish)) == first
    with Publisher(redis_server.url) as blocking:
        assert blocking.publish(ROOM, "once", **publish) == first
        # Other rooms and keys are others.
        blocking.publish(ROOM, "another", history=history, idempotency_key="order ☃ 8")
    await within(here.router.publish("other", "once", **publish))
    await within(here.router.publish(ROOM, "last", history=history))
    for peer, _ in members:
        assert [await peer.message() for _ in range(3)] == ["once", "another", "last"]
    assert not here.cluster._node.messages._pending
    (key,) = (key for key in redis_server.command("KEYS", "*published*7:*") if key.endswith(b"lobby"))
    assert 0 < redis_server.command("PTTL", key) <= 1000 * IDEMPOTENCY_TTL
    if history:
        assert redis_server.command("XLEN", f"sockjs:history:{ROOM}") == 3
        # What no node has written is a position in no history.
        redis_server.command("SET", key, b"7 \xff")
        assert await within(here.router.publish(ROOM, "once", **publish)) == (7, "\ufffd")


async def test_its_author_is_excluded_and_later_messages_wait_for_it(node: StartNode) -> None:
    here = await node()
    (author, connection), (other, _) = [await here.enter(ROOM) for _ in range(2)]
    results = [
        here.router.publish(ROOM, "once", exclude=connection, idempotency_key="a"),
        here.router.publish(ROOM, "twice", exclude=connection, idempotency_key="a"),
        here.router.publish(ROOM, "last"),
    ]
    for result in results:
        await within(result)
    assert [await other.message() for _ in range(2)] == ["once", "last"]
    assert await author.message() == "last"
    assert not here.cluster._node.messages._pending


async def test_if_redis_fails_nobody_receives_it_before_the_retry(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    redis_server.kill()
    with pytest.raises(ClusterUnavailable):
        await within(here.router.publish(ROOM, "once", idempotency_key="a"))
    redis_server.start()
    await until(lambda: here.cluster.available)
    await within(here.router.publish(ROOM, "once", idempotency_key="a"))
    assert await peer.message() == "once"
    logged.take("reconnecting")


@pytest.mark.parametrize("history", [0, 5])
async def test_members_of_its_node_but_its_author_receive_it_if_only_the_reply_is_lost(
    node: StartNode, redis_server: RedisServer, logged: LogWatch, history: int
) -> None:
    here = await node()
    (peer, _), (author, connection) = await here.enter(ROOM), await here.enter(ROOM)
    commands: Any = here.cluster.commands
    # The publish is sent only after the replies to earlier commands.
    await until(lambda: commands.queued[0] == 0)
    redis_server.freeze()
    publishing = here.router.publish(ROOM, "once", exclude=connection, history=history, idempotency_key="a")
    await until(lambda: commands._in_flight)
    # Redis reads the command before the end of the connection.
    commands._connection._writer.close()
    with pytest.raises(ClusterUnavailable):
        await within(publishing)
    redis_server.thaw()
    assert await peer.message() == "once"
    await until(lambda: here.cluster.available)
    for key in ("a", "b"):
        await within(here.router.publish(ROOM, key, history=history, idempotency_key=key))
    assert await peer.message() == await author.message() == "b"
    assert not here.cluster._node.messages._pending
    logged.take("reconnecting")


@pytest.mark.parametrize(
    ("key", "error"), [("", ValueError), ("x" * 201, ValueError), (b"a", TypeError), (7, TypeError)]
)
async def test_an_invalid_key_is_rejected(node: StartNode, key: Any, error: type[Exception]) -> None:
    here = await node()
    peer, connection = await here.enter(ROOM)
    with pytest.raises(error, match=r"^idempotency_key: expected"):
        connection.publish(ROOM, "x", idempotency_key=key)
    await within(connection.publish(ROOM, "y", idempotency_key="k" * 200))
    assert await peer.message() == "y"


async def test_a_single_process_has_no_idempotency_keys(node: StartNode) -> None:
    here = await node()
    here.router.cluster = None
    with pytest.raises(ConfigurationError, match=r"^history, ttl and idempotency_key require a RedisCluster: create"):
        here.router.publish(ROOM, "x", idempotency_key="a")
