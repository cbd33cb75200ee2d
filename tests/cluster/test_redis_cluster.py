"""Nodes on Redis: delivery in rooms, start and close, and their behaviour without Redis."""

import asyncio
import gc
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from application import Echo, Journal, LogWatch, Serve
from client import Join, Peer, until, within
from free_ports import free_port
from programs import TIMEOUT
from prometheus_client import CollectorRegistry, generate_latest
from tornado.web import Application

import sockjs_tornado.cluster
from sockjs_tornado import ConfigurationError, SockJSConnection, SockJSRouter, serving
from sockjs_tornado.cluster import AsyncPublisher, Publisher, RedisCluster
from sockjs_tornado.exceptions import ClusterError, ClusterUnavailable
from sockjs_tornado.observe.metrics import SockJSCollector
from sockjs_tornado.protocol import PreparedMessage

from .conftest import SILENCE, StartNode
from .node import SECRET, Node
from .redis_server import RedisServer

ROOM = "lobby"


async def receive(peer: Peer, count: int) -> list[Any]:
    return [await peer.message() for _ in range(count)]


# Delivery.


@pytest.mark.parametrize("message", ["hello", "", '\ud800 ☃ \u2028\n"', {"a": [1, None, "☃"]}, [], ["x", {"y": 2.5}]])
@pytest.mark.parametrize("history", [0, 3])
async def test_members_on_all_nodes_receive_a_message(node: StartNode, message: Any, history: int) -> None:
    nodes = [await node() for _ in range(3)]
    peers = [(await made.enter(ROOM))[0] for made in nodes]
    for made in nodes:
        await within(made.router.publish(ROOM, message, history=history))
    for peer in peers:
        assert await receive(peer, 3) == [message] * 3


@pytest.mark.parametrize("room", ["", "a b", "☃", "\ud800", "x" * 100_000, "__proto__", "a\nb", "*", "a:b"])
async def test_the_name_of_a_room_may_be_any_text(node: StartNode, room: str) -> None:
    here, there = await node(), await node()
    peer, connection = await here.enter(room, "other")
    assert connection.rooms == {room, "other"}
    there.router.publish(room, "x")
    there.router.publish(room, "y", history=1)
    there.router.publish("other", "z")
    assert await receive(peer, 3) == ["x", "y", "z"]


async def test_messages_of_one_node_arrive_in_order(node: StartNode) -> None:
    nodes = [await node() for _ in range(3)]
    peer, _ = await nodes[0].enter(ROOM)
    for number in range(100):
        for made in nodes:
            made.router.publish(ROOM, [nodes.index(made), number])
        await asyncio.sleep(0)
    received = await receive(peer, 300)
    for index in range(3):
        assert [number for sender, number in received if sender == index] == list(range(100))


async def test_local_members_receive_a_message_immediately_and_once(node: StartNode) -> None:
    here, there = await node(), await node()
    said, speaker = await here.enter(ROOM)
    received, _ = await here.enter(ROOM)
    away, _ = await there.enter(ROOM)
    sent = here.router.stats.messages_sent
    first = here.router.publish(ROOM, "a", exclude=speaker)
    assert here.router.stats.messages_sent == sent + 1
    await within(first)
    assert await away.message() == "a"
    await within(there.router.publish(ROOM, "b"))
    assert await receive(received, 2) == ["a", "b"]
    assert (await away.message(), await said.message()) == ("b", "b")


async def test_a_message_is_encoded_once_per_node(node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = await node(), await node()
    peers = [(await there.enter(ROOM))[0] for _ in range(5)]
    made = []

    class Counted(PreparedMessage):
        def __init__(self, text: Any) -> None:
            made.append(text)
            super().__init__(text)

    monkeypatch.setattr("sockjs_tornado.cluster.messages.PreparedMessage", Counted)
    here.router.publish(ROOM, "x")
    assert [await peer.message() for peer in peers] == ["x"] * 5
    assert made == ["x"] * 2


async def test_after_leaving_no_message_arrives_and_redis_is_unsubscribed(
    node: StartNode, redis_server: RedisServer
) -> None:
    here, there = await node(), await node()
    peer, connection = await here.enter(ROOM, "b")
    _, other = await here.enter(ROOM)
    connection.leave(ROOM)
    there.router.publish(ROOM, "lost")
    await within(there.router.publish("b", "received"))
    assert await peer.message() == "received"
    channel = f"sockjs:room:{ROOM}"
    assert redis_server.command("PUBSUB", "NUMSUB", channel) == [channel.encode(), 1]
    other.close()
    await until(lambda: redis_server.command("PUBSUB", "NUMSUB", channel) == [channel.encode(), 0])


async def test_routers_of_a_cluster_share_its_rooms(redis_server: RedisServer, serve: Serve, join: Join) -> None:
    async with RedisCluster(redis_server.url) as cluster:
        journal = Journal()
        routers = [SockJSRouter(journal, prefix, cluster=cluster) for prefix in ("/a", "/b")]
        server = await serve(*routers)
        peers = [join(server, "websocket", prefix=prefix) for prefix in ("/a", "/b")]
        connections = []
        for peer in peers:
            assert await peer.frame() == "o"
            connections.append(await journal.connection())
            await within(connections[-1].join(ROOM, presence="x"))
        assert connections[0].id != connections[1].id
        assert len(await routers[0].presence(ROOM)) == 2
        routers[0].publish(ROOM, "x")
        routers[1].publish(ROOM, "y", exclude=connections[0])
        assert await receive(peers[1], 2) == ["x", "y"]
        assert await peers[0].message() == "x"
        for peer in peers:
            peer.vanish()
        await until(lambda: not len(cluster.rooms))


async def test_namespaces_are_separate(node: StartNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sockjs_tornado.cluster.redis")
    here, there = (
        await node(namespace="a"),
        await node(namespace="b", advertise=f"http://127.0.0.1:{free_port()}", secret="x" * 16),
    )
    texts = [record.getMessage() for record in caplog.records]
    assert re.search(r"at 127\.0\.0\.1:\d+, database 0, namespace 'a': it only shares rooms", texts[0])
    assert re.search(r", namespace 'b': other nodes reach it at http://127\.0\.0\.1:\d+$", texts[1])
    peer, _ = await here.enter(ROOM)
    await within(there.router.publish(ROOM, "lost"))
    await within(here.router.publish(ROOM, "received"))
    assert await peer.message() == "received"


@pytest.mark.parametrize("is_first", [False, True])
async def test_a_node_without_an_address_warns_once_if_others_have_one(
    node: StartNode, monkeypatch: pytest.MonkeyPatch, logged: LogWatch, is_first: bool
) -> None:
    monkeypatch.setattr("sockjs_tornado.cluster.redis_node.REFRESH_INTERVAL", 0.01)
    relaying = {"advertise": f"http://127.0.0.1:{free_port()}", "secret": SECRET}
    for options in [{"secret": SECRET}, relaying] if is_first else [relaying, {"secret": SECRET}]:
        assert logged.records == []
        await node(**options)
    await until(lambda: logged.records)
    text = logged.take("Other nodes in the namespace 'sockjs' have an advertise address").getMessage()
    assert text.endswith("Set advertise and secret on all nodes")
    # They are connected all the same, and nodes that are alike log nothing.
    await node(namespace="other", secret=SECRET)
    await node(namespace="third", advertise=f"http://127.0.0.1:{free_port()}", secret=SECRET)


async def test_a_node_without_an_address_that_needs_none_does_not_warn(
    node: StartNode, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.cluster.redis_node.REFRESH_INTERVAL", 0.01)
    await node(advertise=f"http://127.0.0.1:{free_port()}", secret=SECRET)
    async with RedisCluster(redis_server.url, secret=SECRET) as cluster:
        SockJSRouter(SockJSConnection, "/a", transports=["websocket", "rawwebsocket"], cluster=cluster)
        # The replies come in the order of the commands.
        for _ in range(3):
            await within(cluster.commands.call("PING"))
        assert logged.records == []
        SockJSRouter(SockJSConnection, "/b", cluster=cluster)
        await until(lambda: logged.records)
        logged.take("Other nodes in the namespace 'sockjs' have an advertise address")


@pytest.mark.parametrize("rubbish", [b"", b"\xff", b"hello", b'[2,"",0,"t","x"]', b"[" * 100_000])
async def test_malformed_messages_are_ignored(
    node: StartNode, redis_server: RedisServer, logged: LogWatch, rubbish: bytes
) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    for _ in range(3):
        redis_server.command("PUBLISH", f"sockjs:room:{ROOM}", rubbish)
    redis_server.command("PUBLISH", f"sockjs:room:{ROOM}", '[1, "", 0, "t", "x"]')
    assert await peer.message() == "x"
    assert (here.cluster.stats.received, here.cluster.stats.skipped) == (4, 3)
    logged.take("Ignored a malformed message")


async def test_an_own_message_that_was_delivered_already_is_not_delivered_again(
    node: StartNode, redis_server: RedisServer
) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    redis_server.command("PUBLISH", f"sockjs:room:{ROOM}", f'[1, "{here.cluster.node_id}", 99, "t", "again"]')
    redis_server.command("PUBLISH", f"sockjs:room:{ROOM}", '[1, "", 0, "t", "x"]')
    assert await peer.message() == "x"


async def test_a_cancelled_join_does_not_affect_others(node: StartNode, redis_server: RedisServer) -> None:
    here = await node()
    _, one = await here.enter()
    _, two = await here.enter()
    redis_server.freeze()
    waiting = [asyncio.ensure_future(within(connection.join(ROOM))) for connection in (one, two)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    redis_server.thaw()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    await waiting[1]


# Many at once.

MANY = 12_000


async def test_many_messages_of_one_turn_reach_other_nodes(node: StartNode) -> None:
    """A message to everybody, if each user has a room: nothing is refused while Redis is healthy."""
    here, there = await node(), await node()
    peer, _ = await there.enter("user 0", f"user {MANY - 1}")
    for number in range(MANY - 1):
        here.router.publish(f"user {number}", "x")
    await within(here.router.publish(f"user {MANY - 1}", "y"))
    assert await receive(peer, 2) == ["x", "y"]
    assert (here.cluster.stats.published, here.cluster.stats.publish_failures) == (MANY, 0)


async def test_many_joins_with_presence_and_recoveries_of_one_turn_succeed(node: StartNode) -> None:
    here, there = await node(), await node()
    _, connection = await here.enter()
    rooms = [f"room {number}" for number in range(MANY // 2)]
    await within(asyncio.gather(*(connection.join(room, presence=room) for room in rooms)))
    assert list((await within(there.router.presence(rooms[-1]))).values()) == [rooms[-1]]
    recovered = await within(asyncio.gather(*(there.cluster.recover(room, 0, "") for room in rooms)))
    assert {result.messages == [] for result in recovered} == {True}


async def test_awaited_messages_wait_while_the_queue_is_full(
    node: StartNode, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.cluster.commands.MAX_QUEUED_BYTES", 5000)
    here, there = await node(), await node()
    peer, _ = await there.enter(ROOM)
    local, _ = await here.enter(ROOM)
    # Held results wait for their turn. Those that nobody holds are lost, which is counted.
    results = [here.router.publish(ROOM, [number], history=number % 2) for number in range(100)]
    here.router.publish(ROOM, "lost")
    sent = await within(asyncio.gather(*results))
    assert [position is not None for position in sent] == [False, True] * 50
    await within(here.router.publish(ROOM, "last"))
    assert await receive(peer, 101) == [*([number] for number in range(100)), "last"]
    assert [message for message in await receive(local, 102) if message != "lost"][-1] == "last"
    assert here.cluster.stats.publish_failures == 1
    logged.take("A message did not reach other nodes: the queue of commands for Redis is full")
    # A task that is cancelled, and a Redis that is lost meanwhile.
    for _ in range(2):
        results = [here.router.publish("other", "x" * 1000) for _ in range(10)]
        waiting = asyncio.gather(*results, return_exceptions=True)
        del results
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    results = [here.router.publish("other", "x" * 1000) for _ in range(10)]
    await lose(redis_server, here, there)
    failed = await within(asyncio.gather(*results, return_exceptions=True))
    assert isinstance(failed[-1], ClusterUnavailable)
    for _ in range(2):
        logged.take("reconnecting")


async def test_publish_many_sends_one_message_to_many_rooms(node: StartNode, redis_server: RedisServer) -> None:
    here, there = await node(), await node()
    rooms = [f"user {number}" for number in range(MANY)]
    members = [await made.enter("user 0", rooms[-1]) for made in (here, here, there)]
    before = int(redis_server.command("INFO", "stats")["total_net_input_bytes"])
    text = "x" * 10_000
    await within(here.router.publish_many(rooms, text, exclude=members[0][1]))
    # The message is sent once for hundreds of rooms.
    assert int(redis_server.command("INFO", "stats")["total_net_input_bytes"]) - before < 100 * MANY
    await within(here.router.publish_many({"user 0"}, "last"))
    for (peer, _), expected in zip(members, ([], [text] * 2, [text] * 2), strict=True):
        assert await receive(peer, len(expected) + 1) == [*expected, "last"]
    assert here.cluster.stats.published == MANY + 1
    assert there.cluster.stats.received == 3
    for wrong in ("user 0", 5, [5]):
        with pytest.raises(TypeError, match=r"rooms must be|name of a room"):
            here.router.publish_many(wrong, "x")  # type: ignore[arg-type]


async def test_publish_many_keeps_the_order_of_a_room(node: StartNode) -> None:
    here, there = await node(), await node()
    peers = [(await made.enter("a", "b"))[0] for made in (here, there)]
    here.router.publish("a", 1 * ["1"], history=5)
    results = here.router.publish_many(["a", "b"], "2")
    here.router.publish("a", "3")
    await within(results)
    for peer in peers:
        received = await receive(peer, 4)
        assert [message for message in received if message != "2"] == [["1"], "3"]
        assert sorted(map(str, received)) == ["2", "2", "3", "['1']"]
        assert "2" in received[received.index(["1"]) : received.index("3")]


async def test_publish_many_without_redis_raises_and_counts_each_room(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    await lose(redis_server, here)
    with pytest.raises(ClusterUnavailable):
        await within(here.router.publish_many([ROOM, *map(str, range(2000))], "x"))
    assert await peer.message() == "x"
    assert here.cluster.stats.publish_failures == 2001
    logged.take("reconnecting")


# Start and close.


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": "2"},
        {"timeout": float("nan")},
        {"presence_lifetime": -1},
        {"presence_lifetime": float("inf")},
        {"on_redis_down": "wait"},
        {"allow_public_listener": "no"},
        {"on_gap": 5},
        {"on_gap": lambda: None},
        {"transform_message": "x"},
        {"transform_message": lambda message, position: message},
        {"namespace": ""},
        {"secret": "short"},
    ],
)
def test_invalid_options_are_rejected(options: Any) -> None:
    (name,) = options
    with pytest.raises(ConfigurationError, match=f"^{name}: .*got "):
        RedisCluster("redis://localhost", **options)


def test_a_listener_requires_an_address() -> None:
    with pytest.raises(ConfigurationError, match=r"^listen, tls_certificate, .* require advertise$"):
        RedisCluster("redis://localhost", listen="127.0.0.1:9001")
    with pytest.raises(ConfigurationError, match=r'^on_redis_down="local" requires advertise; '):
        RedisCluster("redis://localhost", on_redis_down="local")


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "[0:0::0]"])
def test_an_address_for_all_interfaces_is_not_advertised(host: str) -> None:
    # Each node would take itself for the others.
    with pytest.raises(ConfigurationError, match=r"^advertise: got 'http://.*', to which other nodes cannot connect; "):
        RedisCluster("redis://localhost", advertise=f"http://{host}:9001", secret=SECRET, allow_public_listener=True)


@pytest.mark.parametrize("missing", ["redis", "hiredis"])
def test_without_redis_py_or_hiredis_the_error_says_what_to_install(missing: str) -> None:
    program = f"""
import sys
sys.modules["{missing}"] = None
import sockjs_tornado.cluster
try:
    sockjs_tornado.cluster.RedisCluster
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sockjs_tornado.cluster.RedisCluster requires redis-py and hiredis (")
    assert re.search(r'pip install "hiredis>=\S+" "redis\S+"\n$', done.stdout)


@pytest.mark.parametrize(("missing", "expected"), [("redis", ImportError), ("other", ModuleNotFoundError)])
def test_only_errors_of_missing_requirements_are_explained(
    monkeypatch: pytest.MonkeyPatch, missing: str, expected: type[Exception]
) -> None:
    def fail(name: str, package: str) -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(ImportError, match=missing) as caught:
        sockjs_tornado.cluster.__getattr__("RedisCluster")
    assert type(caught.value) is expected


def test_unknown_names_cannot_be_imported() -> None:
    with pytest.raises(ImportError, match="Nonsense"):
        from sockjs_tornado.cluster import Nonsense  # noqa: F401


async def test_rooms_cannot_be_used_before_the_start_and_after_the_end(
    redis_server: RedisServer, serve: Serve, join: Join, logged: LogWatch
) -> None:
    class Member(SockJSConnection):
        def on_open(self, info: object) -> None:
            self.join(ROOM)

    cluster = RedisCluster(redis_server.url)
    router = SockJSRouter(Member, "/echo", cluster=cluster)
    server = await serve(router)

    async def attempts(text: str) -> None:
        for history in (0, 1):
            with pytest.raises(RuntimeError, match=text):
                router.publish(ROOM, "x", history=history)
        for question in (router.presence(ROOM), cluster.recover(ROOM, 0, "")):
            with pytest.raises(RuntimeError, match=text):
                await question
        peer = join(server, "websocket")
        assert await peer.frame() == "o"
        assert (await peer.frame()).startswith("c[1011,")
        assert not len(cluster.rooms)

    await attempts(r"await cluster\.start\(\)")
    logged.take("'/echo' has clients, but its cluster was not started: await cluster.start()")
    await cluster.start()
    await cluster.start()
    peer = join(server, "websocket")
    assert await peer.frame() == "o"
    await cluster.close()
    await cluster.close()
    # Members can still leave.
    peer.vanish()
    await until(lambda: not len(cluster.rooms))
    await attempts("the cluster is closed")
    with pytest.raises(RuntimeError, match="create another one"):
        await cluster.start()
    logged.take("on_open")


async def test_messages_before_close_are_sent(node: StartNode) -> None:
    here, there = await node(), await node()
    peer, _ = await there.enter(ROOM)
    for number in range(100):
        here.router.publish(ROOM, str(number))
    await within(here.cluster.close())
    assert await receive(peer, 100) == [str(number) for number in range(100)]


async def test_use_in_another_thread_is_rejected(node: StartNode) -> None:
    here = await node()
    raised = []

    def attempt() -> None:
        try:
            here.router.publish("where nobody is", "x")
        except RuntimeError as error:
            raised.append(str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert raised == [
        "a cluster can be used only in its event loop's thread; use loop.call_soon_threadsafe in other threads"
    ]


#: Creates a cluster and forks twice; each child waits for the other's message.
FORKING = """
import asyncio, os, sys
from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.cluster import RedisCluster

cluster = RedisCluster(sys.argv[1])
router = SockJSRouter(SockJSConnection, cluster=cluster)

class Receiver:
    binary = False
    unsent = 0
    received = set()

    def send_frame(self, frame): pass

    def send_prepared(self, message): self.received.add(message.text)

    def close(self, code, reason): pass

async def main(name):
    async with cluster:
        session = router.create_session(None)
        session._attach(Receiver(), "127.0.0.1")
        await session.conn.join("lobby")
        async with asyncio.timeout(float(sys.argv[2])):
            while len(Receiver.received) < 2:
                await router.publish("lobby", name)
                await asyncio.sleep(0.01)
        # The other one may not be subscribed yet.
        await router.publish("lobby", name)

children = []
for name in ("a", "b"):
    child = os.fork()
    if not child:
        asyncio.run(main(name))
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


async def test_a_process_that_starts_a_cluster_after_a_fork_is_a_node_of_its_own(
    redis_server: RedisServer, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    cluster = RedisCluster(redis_server.url, advertise=address, secret=SECRET)
    router = SockJSRouter(Echo, "/echo", cluster=cluster)
    parent, relay = cluster.node_id, router.relay
    monkeypatch.setattr("os.getpid", lambda: -1)
    await within(cluster.start())
    try:
        assert cluster.node_id != parent
        assert router.relay is not relay
        owner = redis_server.command("GET", f"sockjs:address:{address}")
        assert owner.decode() == cluster.node_id
    finally:
        await within(cluster.close())


def test_each_process_after_a_fork_is_a_node(redis_server: RedisServer) -> None:
    command = [sys.executable, "-W", "error", "-c", FORKING, redis_server.url, str(TIMEOUT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * TIMEOUT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_serving_starts_and_closes_the_clusters(redis_server: RedisServer) -> None:
    cluster = RedisCluster(redis_server.url)
    routers = [SockJSRouter(Echo, prefix, {"disconnect_delay": 0.1}, cluster=cluster) for prefix in ("/a", "/b")]
    application = Application([url for router in routers for url in router.urls])
    sockets = serving.bind_sockets(0, "127.0.0.1")
    running = asyncio.ensure_future(serving.serve(application, routers, sockets, drain_time=0))
    await until(lambda: not cluster._unusable_reason)
    await within(routers[0].publish(ROOM, "x"))
    os.kill(os.getpid(), signal.SIGTERM)
    await within(running)
    assert cluster._unusable_reason.startswith("is closed")


async def test_serving_fails_if_a_cluster_does_not_start(redis_server: RedisServer) -> None:
    redis_server.kill()
    router = SockJSRouter(Echo, "/a", cluster=RedisCluster(redis_server.url))
    sockets = serving.bind_sockets(0, "127.0.0.1")
    with pytest.raises(ClusterUnavailable):
        await within(serving.serve(Application(router.urls), [router], sockets))
    assert all(sock.fileno() == -1 for sock in sockets)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# Without Redis.


async def lose(server: RedisServer, *nodes: Node) -> None:
    """Have a Redis end, and nodes know of it."""
    server.kill()
    await until(lambda: not any(made.is_connected for made in nodes))


async def test_during_an_outage_local_members_receive_messages(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    peer, connection = await here.enter(ROOM)
    await lose(redis_server, here)
    with pytest.raises(ClusterUnavailable, match="Redis is unavailable"):
        await here.router.publish(ROOM, "a")
    here.router.publish(ROOM, "b")
    other, newcomer = await here.enter()
    newcomer.join(ROOM)
    fresh = newcomer.join("fresh", presence="x")
    with pytest.raises(ClusterUnavailable):
        await within(fresh)
    here.router.publish(ROOM, "c")
    here.router.publish("fresh", "d")
    assert await receive(peer, 3) == ["a", "b", "c"]
    assert await receive(other, 2) == ["c", "d"]
    redis_server.start()
    await until(lambda: here.gaps)
    assert here.gaps == [{ROOM, "fresh"}]
    await within(here.router.publish(ROOM, "e"))
    assert await peer.message() == "e"
    assert connection.rooms == {ROOM}
    assert here.cluster.stats.publish_failures == 4
    logged.take("reconnecting")
    logged.take("A message did not reach other nodes: Redis is unavailable")


async def test_after_an_outage_any_node_serves_any_session_again(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    addresses = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    here, there = [await node(advertise=address, secret=SECRET) for address in addresses]
    assert await here.poll("abc") == "o"
    await lose(redis_server, here, there)
    # It has lost everything.
    redis_server.start()
    await until(lambda: here.cluster.commands.available and there.cluster.commands.available)
    await until(lambda: redis_server.command("EXISTS", "sockjs:session:/echo:abc"))
    assert await there.send("abc", "x") == 204
    assert await (await here.journal.connection()).message() == "x"
    logged.take("reconnecting")
    logged.take("reconnecting")


async def test_a_gap_need_not_be_reported(node: StartNode, redis_server: RedisServer, logged: LogWatch) -> None:
    here = await node(on_gap=None)
    peer, _ = await here.enter(ROOM)
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: here.cluster.stats.gaps)
    await within(here.router.publish(ROOM, "x"))
    assert await peer.message() == "x"
    logged.take("reconnecting")


async def test_gaps_while_on_gap_runs_are_reported_by_its_next_call(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    reported: asyncio.Queue[frozenset[str]] = asyncio.Queue()
    calls: list[asyncio.Future[None]] = []

    def on_gap(rooms: frozenset[str]) -> Awaitable[None]:
        reported.put_nowait(rooms)
        calls.append(asyncio.get_running_loop().create_future())
        return calls[-1]

    here = await node(on_gap=on_gap)
    await here.enter(ROOM)
    for number in range(1, 4):
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda number: here.cluster.stats.gaps == number, number)
    assert await within(reported.get()) == {ROOM}
    assert reported.empty()
    # The application has cancelled what its function awaits.
    calls[0].cancel()
    assert await within(reported.get()) == {ROOM}
    # The end of the cluster cancels the call.
    await within(here.cluster.close())
    await until(lambda: here.cluster._node.gap_reports._task.done())
    assert calls[1].cancelled()
    assert reported.empty()
    logged.take("on_gap raised an exception")
    logged.take("reconnecting")


async def test_a_user_that_loses_the_permission_to_subscribe_is_connected_again(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    peer, connection = await here.enter()
    redis_server.command("ACL", "LOG", "RESET")
    try:
        # Redis disconnects clients with subscriptions, such as that to the channel of commands.
        redis_server.command("ACL", "SETUSER", "default", "resetchannels")
        with pytest.raises(ClusterUnavailable):
            await within(connection.join(ROOM))
        # After the reconnect, it rejects the subscriptions.
        await until(lambda: redis_server.command("ACL", "LOG"))
    finally:
        redis_server.command("ACL", "SETUSER", "default", "allchannels")
    await until(lambda: here.gaps)
    await within(here.router.publish(ROOM, "x"))
    assert await peer.message() == "x"
    logged.take("reconnecting")


async def test_a_failure_is_logged_if_redis_is_lost_after_the_result_was_dropped(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    here.router.publish(ROOM, "x")
    await lose(redis_server, here)
    await until(lambda: here.cluster.stats.publish_failures)
    logged.take("reconnecting")
    logged.take("A message did not reach other nodes")


async def test_failures_are_logged_once_unless_they_are_awaited(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here = await node()
    await lose(redis_server, here)
    logged.take("reconnecting")
    sent = [here.router.publish(ROOM, "x") for _ in range(5)]
    results = await asyncio.gather(*sent, return_exceptions=True)
    assert [type(result) for result in results] == [ClusterUnavailable] * 5
    del sent, results
    gc.collect()
    assert logged.records == []
    for _ in range(5):
        here.router.publish(ROOM, "x")
    await until(lambda: here.cluster.stats.publish_failures == 10)
    logged.take("A message did not reach other nodes")
    assert logged.records == []


@pytest.mark.parametrize("end", ["kill", "freeze"])
async def test_after_an_outage_nodes_receive_messages_again(
    node: StartNode, redis_server: RedisServer, logged: LogWatch, end: str
) -> None:
    options = {"timeout": SILENCE} if end == "freeze" else {}
    here, there = await node(**options), await node(**options)
    (a, _), (b, _) = await here.enter(ROOM, "b"), await there.enter(ROOM)
    for number in range(1, 3):
        getattr(redis_server, end)()
        await until(lambda: not any(made.is_connected for made in (here, there)))
        {"kill": redis_server.start, "freeze": redis_server.thaw}[end]()
        await until(lambda number: len(here.gaps) == len(there.gaps) == number, number)
        await within(here.router.publish(ROOM, "x"))
        await within(there.router.publish(ROOM, "y"))
        assert sorted(await receive(a, 2)) == sorted(await receive(b, 2)) == ["x", "y"]
    assert (here.gaps, there.gaps) == ([frozenset({ROOM, "b"})] * 2, [frozenset({ROOM})] * 2)
    assert here.cluster.stats.gaps == 2
    for _ in range(2):
        logged.take("reconnecting")


async def test_on_gap_may_recover_and_raise(node: StartNode, redis_server: RedisServer, logged: LogWatch) -> None:
    """The subscription connection of one node is closed. It has received no message with history before."""
    recovered: list[Any] = []

    async def on_gap(rooms: frozenset[str]) -> None:
        recovered.append(await here.cluster.recover(ROOM, 1, epoch))
        raise ValueError("whatever")

    here, there = await node(on_gap=on_gap), await node()
    for text in "12":
        position: Any = await within(there.router.publish(ROOM, text, history=10))
    epoch = position.epoch
    await here.enter(ROOM)
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: recovered)
    assert recovered == [([(2, "2")], True, (2, epoch))]
    for _ in range(2):
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: here.is_connected and len(recovered) == here.cluster.stats.gaps)
    await until(lambda: there.cluster.stats.gaps)
    logged.take("on_gap raised an exception")
    # Each node has a log of its own.
    for _ in range(2):
        logged.take("reconnecting")


async def test_prometheus_exports_the_counters_of_clusters(node: StartNode) -> None:
    here = await node()
    await within(here.router.publish(ROOM, "x"))
    registry = CollectorRegistry()
    other = SockJSRouter(Echo, "/b", cluster=here.cluster)
    registry.register(SockJSCollector({"a": here.router, "b": other, "c": SockJSRouter(Echo, "/c")}))

    def value(counter: str, router: str = "a") -> float | None:
        return registry.get_sample_value("sockjs_cluster_total", {"router": router, "counter": counter})

    assert (value("published"), value("gaps"), value("published", "b")) == (1, 0, None)
    here.cluster.stats.relay["relayed"] += 1
    assert value("relayed") == 1
    assert b'counter="relayed"' in generate_latest(registry)


@pytest.mark.parametrize("said", ["nothing", "what a replica takes", "what it does not take"])
async def test_a_redis_that_becomes_a_replica_is_disconnected(
    node: StartNode, redis_server: RedisServer, tmp_path: Path, logged: LogWatch, said: str
) -> None:
    # Either the server reports it immediately, or the next ping finds it.
    here = await node(timeout=30 if said == "what it does not take" else SILENCE)
    peer, _ = await here.enter(ROOM)
    (tmp_path / "other").mkdir()
    with RedisServer(tmp_path / "other") as other:
        redis_server.command("REPLICAOF", "127.0.0.1", other.port)

        def is_let_go_of() -> bool:
            if said != "nothing":
                here.router.publish(ROOM, "x", history=int(said == "what it does not take"))
            return not here.is_connected

        await until(is_let_go_of)
        redis_server.command("REPLICAOF", "NO", "ONE")
        await until(lambda: here.gaps)
        assert here.gaps == [{ROOM}]
        await within(here.router.publish(ROOM, "y", history=1))
        while await peer.message() != "y":
            pass
    logged.take("reconnecting")
    if said != "nothing":
        logged.take("A message did not reach other nodes")


async def test_databases_of_one_redis_are_separate(node: StartNode, redis_server: RedisServer) -> None:
    urls = [redis_server.url, redis_server.url.replace("/0", "/1"), f"{redis_server.unix_url}?db=2"]
    peers = [(await (await node(url)).enter(ROOM))[0] for url in urls]
    for number, url in enumerate(urls):
        async with AsyncPublisher(url) as publisher:
            await within(publisher.publish(ROOM, [number]))
        with Publisher(url) as publisher:
            await asyncio.to_thread(publisher.publish, ROOM, [number, number], history=number)
    for number, peer in enumerate(peers):
        assert await receive(peer, 2) == [[number], [number, number]]


async def test_each_gap_is_reported_with_eager_tasks(
    node: StartNode, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    """The eager task factory is emulated, since not every supported Python has it."""
    create = asyncio.create_task

    def create_at_once(coroutine: Any, **options: Any) -> Any:
        if coroutine.__name__ != "_report":
            return create(coroutine, **options)
        with pytest.raises(StopIteration):
            coroutine.send(None)
        over = asyncio.get_running_loop().create_future()
        over.set_result(None)
        return over

    here = await node()
    await here.enter(ROOM)
    monkeypatch.setattr(asyncio, "create_task", create_at_once)
    for number in range(1, 4):
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda number: here.cluster.stats.gaps == number, number)
        assert here.gaps == [{ROOM}] * number
    logged.take("reconnecting")


def connections(server: RedisServer) -> int:
    """Return the number of clients of a Redis server, without the one that asks."""
    return len(server.command("CLIENT", "LIST").splitlines()) - 1


async def test_concurrent_starts_and_closes(redis_server: RedisServer) -> None:
    cluster = RedisCluster(redis_server.url)
    await within(asyncio.gather(cluster.start(), cluster.start()))
    assert connections(redis_server) == 2
    await within(asyncio.gather(cluster.close(), cluster.close()))
    await until(lambda: connections(redis_server) == 0)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_redis_that_evicts_keys_is_reported_at_the_start(
    redis_server: RedisServer, logged: LogWatch, policy: str
) -> None:
    redis_server.command("CONFIG", "SET", "maxmemory-policy", policy)
    async with RedisCluster(redis_server.url):
        pass
    logged.take(f"The maxmemory-policy of Redis at 127.0.0.1:{redis_server.port} is {policy}: ")


async def test_a_cancelled_close_leaves_no_connection(redis_server: RedisServer) -> None:
    cluster = RedisCluster(redis_server.url)
    await within(cluster.start())
    redis_server.freeze()
    closing = asyncio.create_task(cluster.close())
    for _ in range(20):
        await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(closing)
    redis_server.thaw()
    await until(lambda: connections(redis_server) == 0)


async def test_a_user_without_permission_to_subscribe_fails_at_the_start(redis_server: RedisServer) -> None:
    redis_server.command("ACL", "SETUSER", "app", "on", ">password", "~sockjs:*", "&other:*", "+@all")
    url = redis_server.url.replace("//", "//app:password@")
    cluster = RedisCluster(url)
    with pytest.raises(ClusterError, match="does not permit all commands: "):
        await within(cluster.start())
    await cluster.close()
    assert connections(redis_server) == 0
    redis_server.command("ACL", "SETUSER", "app", "&sockjs:*")
    async with RedisCluster(url):
        pass
