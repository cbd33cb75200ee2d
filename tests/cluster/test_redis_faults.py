"""Faults of Redis that last until an operator acts: changed credentials and permissions, and a full memory."""

import json
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from application import Echo, LogWatch
from client import until, within
from free_ports import free_port
from prometheus_client import CollectorRegistry

from sockjs_tornado import SockJSRouter
from sockjs_tornado.cluster import Publisher, RedisCluster
from sockjs_tornado.cluster.base import RELAY_COUNTERS
from sockjs_tornado.cluster.envelope import RedisKeys
from sockjs_tornado.cluster.permissions import _COMMANDS, acl_rules
from sockjs_tornado.cluster.redis_errors import mask_user
from sockjs_tornado.exceptions import ClusterError, ClusterUnavailable
from sockjs_tornado.observe.metrics import SockJSCollector, monitoring_urls

from .conftest import Start, StartCommands, StartNode
from .node import SECRET, Node
from .redis_server import RedisServer

ROOM = "lobby"
USER = "ann7xq"


def url_of_user(server: RedisServer, *rules: str) -> str:
    """Create a user with a password and the given rules, and return the URL."""
    server.command("ACL", "SETUSER", USER, "reset", "on", ">old", *rules)
    return server.url.replace("//", f"//{USER}:old@")


def disconnect(server: RedisServer) -> None:
    """Close the user's connections."""
    server.command("CLIENT", "KILL", "USER", USER)


def relaying() -> dict[str, Any]:
    """Return the options of a node that relays."""
    return {"advertise": f"http://127.0.0.1:{free_port()}", "secret": SECRET}


@pytest.mark.parametrize("change", [("<old", ">new"), ("off",)], ids=["rotated password", "revoked user"])
async def test_refused_credentials_are_logged_as_long_as_they_are_refused(
    node: StartNode,
    redis_server: RedisServer,
    logged: LogWatch,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, ...],
) -> None:
    monkeypatch.setattr("sockjs_tornado.observe.logs.INTERVAL", 0.5)
    here = await node(url_of_user(redis_server, "~*", "&*", "+@all"))
    peer, _ = await here.enter(ROOM)
    redis_server.command("ACL", "SETUSER", USER, *change)
    disconnect(redis_server)
    await until(lambda: sum("Cannot reconnect" in record.getMessage() for record in logged.records) >= 3)
    redis_server.command("ACL", "SETUSER", USER, "on", ">old")
    await until(lambda: here.gaps)
    await within(here.router.publish(ROOM, "x"))
    assert await peer.message() == "x"
    texts = [record.getMessage() for record in logged.records]
    logged.records.clear()
    refused = [text for text in texts if "Cannot reconnect" in text]
    assert all("WRONGPASS" in text for text in refused)
    assert not any(USER in text for text in texts)


async def test_the_reason_of_a_long_outage_is_logged(
    start_commands: StartCommands, redis_server: RedisServer, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the connections of other programs are the reason, which Redis itself says."""
    monkeypatch.setattr("sockjs_tornado.observe.logs.INTERVAL", 0)
    monkeypatch.setattr("sockjs_tornado.cluster.reconnecting._LONG_OUTAGE", 0)
    commands = await start_commands()
    redis_server.command("CONFIG", "SET", "maxclients", 1)
    redis_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    address = f"127.0.0.1:{redis_server.port}"
    expected = f"Cannot reconnect to Redis: Redis at {address} accepts no more connections: ERR max number of clients"
    # Redis closes the connection at once, so that its reply is not always received.
    await until(lambda: any(record.getMessage().startswith(expected) for record in logged.records))
    redis_server.command("CONFIG", "SET", "maxclients", 100)
    await within(commands.wait_available())
    texts = [record.getMessage() for record in logged.records if record.levelno == logging.WARNING]
    logged.records.clear()
    assert all(text.startswith(("Cannot reconnect", f"Redis at {address} does not respond")) for text in texts)


async def test_a_connection_that_redis_closes_is_explained(
    start_commands: StartCommands, redis_server: RedisServer, logged: LogWatch
) -> None:
    commands = await start_commands()
    redis_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await until(lambda: logged.records)
    hint = "; reconnecting. If Redis was not restarted, its log has the reason, such as client-output-buffer-limit"
    assert logged.take("does not respond").getMessage().endswith(hint)
    await within(commands.wait_available())


async def test_a_command_that_is_no_longer_permitted_is_logged_and_counted(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node(url_of_user(redis_server, "~*", "&*", "+@all"))
    redis_server.command("ACL", "SETUSER", USER, "-publish")
    for _ in range(3):
        here.router.publish(ROOM, "x")
    await until(lambda: here.cluster.stats.publish_failures == 3)
    assert here.cluster.counters()["rejected_commands"] == 3
    record = logged.take("rejects commands of this node: NOPERM")
    assert "'publish' command" in record.getMessage()
    assert USER not in record.getMessage()
    logged.take("A message did not reach other nodes")
    assert logged.records == []
    with pytest.raises(ClusterUnavailable, match="rejected the command: NOPERM") as caught:
        await within(here.router.publish(ROOM, "x"))
    assert USER not in str(caught.value)


async def test_without_the_permission_for_getex_everything_is_refreshed_all_the_same(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node(url_of_user(redis_server, "~*", "&*", "+@all"), presence_lifetime=0.6, **relaying())
    assert await here.poll("abc") == "o"
    keys = ("sockjs:session:/echo:abc", here.cluster._node.membership._key)
    redis_server.command("ACL", "SETUSER", USER, "-getex")
    for key in keys:
        redis_server.command("PEXPIRE", key, 20_000)
    here.cluster._node.membership.refresh()
    for key in keys:
        await until(lambda key: redis_server.command("PTTL", key) > 20_000, key)
    alive = here.cluster.keys.alive(here.cluster.node_id)
    before = redis_server.command("PEXPIRETIME", alive)
    await until(lambda: redis_server.command("PEXPIRETIME", alive) > before)
    # A claim that is missing is set again.
    redis_server.command("DEL", keys[0])
    here.cluster._node.membership.refresh()
    await until(lambda: redis_server.command("EXISTS", keys[0]))
    assert here.stats["claims_lost"] == 0
    logged.take("rejects commands of this node: NOPERM")


@pytest.mark.parametrize("code", ["NOPERM ", ""])
def test_the_name_of_a_user_is_masked(code: str) -> None:
    """Redis repeats it in some versions; redis-py omits the code in exceptions of their own class."""
    reply = f"{code}User {USER} of\nus has no permissions to run the 'get' command"
    assert mask_user(reply) == f"{code}User *** has no permissions to run the 'get' command"
    assert mask_user(f"ERR {reply}") == f"ERR {reply}"
    pipeline = f"Command # 12 (EVAL s3crq (a)) of pipeline caused error: {reply}"
    assert mask_user(pipeline) == mask_user(reply)


def test_an_error_of_a_publisher_does_not_have_the_user(redis_server: RedisServer) -> None:
    with Publisher(url_of_user(redis_server, "~*", "&*", "+@all", "-publish", "-eval")) as publisher:
        with pytest.raises(ClusterError, match="no permissions to run") as caught:
            publisher.publish(ROOM, "x")
        assert USER not in str(caught.value)
        with pytest.raises(ClusterError, match="no permissions to run") as caught:
            publisher.publish_many([ROOM], "x")
        assert USER not in str(caught.value)


async def test_while_the_memory_is_full_everything_that_exists_is_refreshed(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node(presence_lifetime=0.6, **relaying())
    there = await node(**relaying())
    assert await here.poll("abc") == "o"
    _, ann = await here.enter(ROOM, presence="Ann")
    redis_server.command("CONFIG", "SET", "maxmemory", 1)
    keys = {
        "claim": "sockjs:session:/echo:abc",
        "address": here.cluster._node.membership._key,
        "alive": here.cluster.keys.alive(here.cluster.node_id),
        "presence": here.cluster.keys.presence(ROOM),
    }
    for key in (keys["claim"], keys["address"]):
        redis_server.command("PEXPIRE", key, 20_000)
    here.cluster._node.membership.refresh()
    for key in (keys["claim"], keys["address"]):
        await until(lambda key: redis_server.command("PTTL", key) > 20_000, key)
    for key in (keys["alive"], keys["presence"]):
        before = redis_server.command("PEXPIRETIME", key)
        await until(lambda key, before: redis_server.command("PEXPIRETIME", key) > before, key, before)
    assert list((await within(there.router.presence(ROOM))).values()) == ["Ann"]
    await within(there.router.publish(ROOM, "x"))
    # New ones cannot be stored, which is logged.
    with pytest.raises(ClusterUnavailable, match="OOM"):
        await within(ann.join("other", presence="Ann"))
    assert (await here.ask(b"POST /echo/000/new/xhr HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).status == 503
    assert here.cluster.counters()["rejected_commands"] >= 2
    logged.take("rejects commands of this node: OOM")
    # The claim of an ended session remains for its full time.
    redis_server.command("PEXPIRE", keys["claim"], 20_000)
    here.cluster._node.membership._claims.retire("/echo:abc")
    await until(lambda: redis_server.command("PTTL", keys["claim"]) > 50_000)
    redis_server.command("CONFIG", "SET", "maxmemory", 0)


async def test_a_node_starts_while_the_memory_is_full_and_registers_later(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    redis_server.command("CONFIG", "SET", "maxmemory", 1)
    here, there = await node(**relaying()), await node(**relaying())
    for made in (here, there):
        text = logged.take("Started without registering").getMessage()
        assert made.cluster._node.membership.address in text
        assert "OOM" in text
        logged.take("rejects commands of this node: OOM")
    peer, _ = await here.enter(ROOM)
    await within(there.router.publish(ROOM, "x"))
    assert await peer.message() == "x"
    redis_server.command("CONFIG", "SET", "maxmemory", 0)
    for made in (here, there):
        made.cluster._node.membership.refresh()
        await until(lambda key: redis_server.command("EXISTS", key), made.cluster._node.membership._key)
    assert await here.poll("abc") == "o"
    assert await there.send("abc", "x") == 204


async def test_a_node_that_cannot_verify_its_address_does_not_start_while_the_memory_is_full(
    redis_server: RedisServer, logged: LogWatch
) -> None:
    redis_server.command("CONFIG", "SET", "maxmemory", 1)
    options = relaying() | {"listen": f"127.0.0.1:{free_port()}"}
    with pytest.raises(
        ClusterError, match=r"Cannot register the advertise address http.*: make Redis accept writes.*OOM"
    ):
        await within(RedisCluster(redis_server.url, **options).start())
    logged.take("own advertise address")
    logged.take("rejects commands of this node: OOM")


@pytest.mark.parametrize("command", sorted(set(_COMMANDS) - {"hello", "select"}))
async def test_a_missing_permission_fails_the_start_with_the_rules_that_are_required(
    redis_server: RedisServer, command: str
) -> None:
    url = url_of_user(redis_server, "~sockjs:*", "&sockjs:*", "+@all", f"-{command}")
    with pytest.raises(ClusterError, match="does not permit all commands: NOPERM") as raised:
        await within(RedisCluster(url, **relaying()).start())
    text = str(raised.value)
    assert f"The user must be permitted to run {command} on" in text
    assert USER not in text
    found = re.search(r"ACL SETUSER <user> (.*)$", text)
    assert found is not None
    redis_server.command("ACL", "SETUSER", USER, *found[1].split(" "))
    async with RedisCluster(url, **relaying()):
        pass


@pytest.mark.parametrize("namespace", ["sockjs", "a*[b]?\\"])
async def test_the_rules_permit_everything_that_a_cluster_does(
    node: StartNode, redis_server: RedisServer, namespace: str
) -> None:
    rules = acl_rules(RedisKeys(namespace)).split(" ")
    url = url_of_user(redis_server, *rules).replace("/0", "/1")
    here, there = [await node(url, namespace=namespace, **relaying()) for _ in range(2)]
    peer, ann = await here.enter(ROOM, presence="Ann")
    await within(there.router.publish(ROOM, "a"))
    await within(there.router.publish_many([ROOM], "b"))
    position = await within(there.router.publish(ROOM, "c", history=2))
    assert [await peer.message() for _ in range(3)] == ["a", "b", "c"]
    assert (await within(there.cluster.recover(ROOM, 0, ""))).position == position
    assert list((await within(there.router.presence(ROOM))).values()) == ["Ann"]
    assert await here.poll("abc") == "o"
    assert await there.send("abc", "x") == 204
    ann.leave(ROOM)
    for made in (here, there):
        await within(made.cluster.close())
        assert made.cluster.counters()["rejected_commands"] == 0


async def test_keys_and_channels_of_the_namespace_must_be_permitted(redis_server: RedisServer) -> None:
    for rules in (("~other:*", "&*"), ("~*", "&other:*"), ("~sockjs:room:*", "&*")):
        with pytest.raises(ClusterError, match=r"NOPERM .*~sockjs:\* &sockjs:\* \+del "):
            await within(RedisCluster(url_of_user(redis_server, *rules, "+@all")).start())
    assert redis_server.command("KEYS", "*") == []


def metrics(node: Node) -> Callable[..., float | None]:
    """Return a function that returns the value of a metric of the node's cluster."""
    registry = CollectorRegistry()
    registry.register(SockJSCollector({"a": node.router}))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"sockjs_cluster_{name}", {"router": "a", **labels})

    return value


async def test_gauges_and_counters_tell_the_state(node: StartNode, redis_server: RedisServer, logged: LogWatch) -> None:
    here = await node(**relaying())
    value = metrics(here)
    names = [
        "published",
        "publish_failures",
        "received",
        "skipped",
        "messages_forged",
        "messages_replayed",
        "gaps",
        "rejected_commands",
        *RELAY_COUNTERS,
    ]
    assert [value("total", counter=name) for name in names] == [0] * len(names)
    assert (value("rooms"), value("members"), value("claims"), value("available")) == (0, 0, 0, 1)
    await here.enter(ROOM, "b")
    await here.enter(ROOM)
    assert await here.poll("abc") == "o"
    assert (value("rooms"), value("members"), value("claims")) == (2, 3, 1)
    assert [value("connected", link=link) for link in ("commands", "bus")] == [1, 1]
    redis_server.freeze()
    here.router.publish(ROOM, "x")
    assert (value("queued_commands") or 0) >= 1
    assert (value("queued_bytes") or 0) > 400
    silence = [value("silence_seconds", link=link) or 0 for link in ("commands", "bus")]
    await until(lambda: [value("connected", link=link) for link in ("commands", "bus")] == [0, 0])
    assert value("available") == 0
    # It grows until the reconnect.
    for link, before in zip(("commands", "bus"), silence, strict=True):
        assert (value("silence_seconds", link=link) or 0) > before
    assert (value("queued_commands"), value("queued_bytes")) == (0, 0)
    redis_server.thaw()
    await until(lambda: value("available") == 1)
    logged.take("reconnecting")
    logged.take("A message did not reach other nodes")


@pytest.mark.parametrize("require", [False, True])
async def test_readiness_tells_whether_the_cluster_is_available(
    node: StartNode, redis_server: RedisServer, logged: LogWatch, require: bool
) -> None:
    here = await node()
    routers = {"a": here.router, "b": SockJSRouter(Echo, "/b")}
    here.server.application.wildcard_router.add_rules(monitoring_urls(routers, require_cluster=require))

    async def readiness() -> tuple[int, Any]:
        async with here.client() as client:
            response = await client.ask("GET", "/readyz")
        return response.status, json.loads(response.body)

    assert await readiness() == (200, {"status": "ok", "draining": [], "clusters": {"a": "ok"}})
    redis_server.kill()
    await until(lambda: not here.is_connected)
    status, text = (503, "cluster unavailable") if require else (200, "ok")
    assert await readiness() == (status, {"status": text, "draining": [], "clusters": {"a": "unavailable"}})
    logged.take("reconnecting")


async def test_the_state_of_a_cluster_of_one_host(start: Start) -> None:
    here, *_ = await start()
    value = metrics(here)
    assert (value("available"), value("rooms"), value("members")) == (1, 0, 0)
    assert value("total", counter="relayed") == 0
    await within(here.cluster.close())
    assert value("available") == 0
