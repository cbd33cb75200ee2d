"""Redis Cluster: the namespace is in one slot, and the nodes connect to the server that has it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from application import LogWatch
from client import until, within
from free_ports import free_port, reserve_port

from sockjs_tornado.cluster import AsyncPublisher, Publisher
from sockjs_tornado.cluster.envelope import RedisKeys
from sockjs_tornado.cluster.permissions import acl_rules
from sockjs_tornado.cluster.slot_routing import SlotMoved, servers_of
from sockjs_tornado.exceptions import ClusterError, ClusterUnavailable, ConfigurationError

from .conftest import StartNode
from .node import SECRET
from .redis_groups import ClusterGroup

ROOM = "lobby"
KEY = "{sockjs}:session:/echo:abc"
USER = "ann7xq"


def relaying() -> dict[str, Any]:
    """Return the options of a node that relays."""
    return {"advertise": f"http://127.0.0.1:{free_port()}", "secret": SECRET}


class Groups(NamedTuple):
    """Both groups of the tests, which need two seconds until they accept commands.

    Attributes:
        three: Three masters, each with a replica.
        one: One master, with TLS, which requires a certificate of its clients.
        tls_url: The URL of the latter.
    """

    three: ClusterGroup
    one: ClusterGroup
    tls_url: str


@pytest.fixture(scope="module")
def groups(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[Groups]:
    """Start both groups at the same time."""
    cert, key = map(str, certificate)
    uses_tls = any(item.get_closest_marker("redis_tls") for item in request.session.items)
    with reserve_port() as reserved:
        port = reserved.getsockname()[1]
        files = ("--tls-port", str(port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert)
        url = f"clusters://localhost:{port}/0?ssl_ca_certs={cert}&ssl_certfile={cert}&ssl_keyfile={key}"
        directory = tmp_path_factory.mktemp("groups")
        with (
            ClusterGroup(directory / "three", 3, has_replicas=True) as three,
            ClusterGroup(directory / "one", 1, *(files if uses_tls else ())) as one,
        ):
            yield Groups(three, one, url)


async def test_nodes_follow_the_slot_of_the_namespace(node: StartNode, groups: Groups, logged: LogWatch) -> None:
    group = groups.three
    await group.ready()
    number = group.with_slot(KEY)
    seeds = [server.port for server in group.masters]
    for server in (*group.masters, *group.replicas):
        rules = acl_rules(RedisKeys("sockjs", hash_tag=True)).split(" ")
        server.command("ACL", "SETUSER", USER, "on", ">s3crq", *rules)
    # Each node knows one server, the second one a replica.
    urls = [f"cluster://{USER}:s3crq@127.0.0.1:{port}" for port in (seeds[number - 1], group.replicas[number].port)]
    here, there = [await node(url, **relaying()) for url in urls]
    owner = group.masters[number]
    assert [made.cluster.commands._connection.address[1] for made in (here, there)] == [owner.port] * 2
    # The other room has no history, so that its gaps are told.
    peer, _ = await here.enter(ROOM, "other", presence="Ann")
    assert await here.poll("abc") == "o"
    assert owner.command("EXISTS", KEY) == 1
    polling = await here.journal.connection()
    await within(there.router.publish(ROOM, "a"))
    await within(there.router.publish_many([ROOM], "b"))
    await within(there.router.publish(ROOM, "c", history=2))
    assert list((await within(there.router.presence(ROOM))).values()) == ["Ann"]
    with Publisher(f"cluster://127.0.0.1:{seeds[number - 2]}", secret=SECRET) as blocking:
        blocking.publish(ROOM, "d", history=2)
        assert [await peer.message() for _ in range(4)] == ["a", "b", "c", "d"]
        # The server of the slot fails. Its replica is found through the others.
        await until(lambda: KEY.encode() in group.replicas[number].command("KEYS", "*"))
        owner.kill()
        group.replicas[number].command("CLUSTER", "FAILOVER", "TAKEOVER")
        await until(lambda: here.gaps and there.cluster.available)
        assert here.cluster.commands._connection.address == ("127.0.0.1", group.replicas[number].port)
        await within(there.router.publish(ROOM, "e", history=2))
        assert await peer.message() == "e"
        polling.send("still here")
        assert await there.poll("abc") == 'a["still here"]'
        assert here.stats["claims_lost"] == there.stats["claims_lost"] == 0
        blocking.publish(ROOM, "f", history=2)
        assert await peer.message() == "f"
        # The slot moves to another master, which is no failure: the next command gets MOVED.
        gaps = len(here.gaps)
        other = (number + 1) % 3
        slot = group.masters[other].command("CLUSTER", "KEYSLOT", KEY)
        group.replicas[number].command("FLUSHALL")
        for server in (group.masters[other], group.replicas[number]):
            server.command("CLUSTER", "SETSLOT", slot, "NODE", group.node_id(other))
        here.cluster._node.membership.refresh()
        there.cluster._node.membership.refresh()
        await until(lambda: len(here.gaps) > gaps and there.cluster.available)
        ports = [made.cluster.commands._connection.address[1] for made in (here, there)]
        assert ports == [group.masters[other].port] * 2
        blocking.publish(ROOM, "g", history=2)
        await within(there.router.publish(ROOM, "h", history=2))
        assert [await peer.message() for _ in range(2)] == ["g", "h"]
    # Only the first of them, and how many followed.
    while logged.records:
        logged.take("reconnecting")


@pytest.mark.redis_tls
async def test_one_shard_with_mutual_tls(node: StartNode, groups: Groups) -> None:
    (server,) = groups.one.masters
    await groups.one.ready()
    with pytest.raises(ClusterError, match=r'is in cluster mode; its URL is "cluster://host:port"'):
        await within(AsyncPublisher(server.url).start())
    # Redis Cluster would accept the message, on a channel that no node has subscribed to.
    with Publisher(server.url) as publisher, pytest.raises(ClusterError, match=r"is in cluster mode; its URL is"):
        publisher.publish(ROOM, "x")
    here = await node(groups.tls_url, namespace="a{b}c")
    peer, _ = await here.enter(ROOM)
    with Publisher(groups.tls_url, namespace="a{b}c") as publisher:
        publisher.publish(ROOM, "x", history=1)
    assert await peer.message() == "x"
    assert server.command("KEYS", "*:history:*") == [b"a{b}c:history:lobby"]
    with pytest.raises(ClusterUnavailable, match="certificate verify failed"):
        await within(AsyncPublisher(groups.tls_url.partition("?")[0]).start())


@pytest.mark.parametrize("namespace", ["a{}b", "a}b", "a{b", "{}{a}"])
def test_braces_that_are_no_hash_tag_are_rejected(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match=r'^namespace: .*with a hash tag such as "\{sockjs\}"$'):
        Publisher("cluster://localhost", namespace=namespace)
    assert RedisKeys(namespace).namespace == namespace


@pytest.mark.parametrize(
    ("reply", "address"),
    [
        ("MOVED 3999 10.0.0.2:7001", ("10.0.0.2", 7001)),
        ("MOVED 3999 ::1:7001", ("::1", 7001)),
        ("MOVED 3999 :7001", ("here", 7001)),
        ("MOVED 3999 ?:7001", ("here", 7001)),
    ],
)
def test_the_address_in_a_redirect(reply: str, address: tuple[str, int]) -> None:
    assert SlotMoved(reply).address(("here", 1)) == address


def test_the_servers_in_a_reply_to_cluster_slots() -> None:
    slots = [[0, 9, [b"a", 1, b"id", []], [b"b", 2]], [10, 16383, [b"", 3, b"id"], [None, 4, b"id"], [b"?", 5]]]
    assert list(servers_of(slots)) == [("a", 1), ("b", 2)]
    assert list(servers_of(ValueError("NOPERM"))) == []
