"""Publishers for programs without a router."""

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from application import LogWatch
from client import until, within

from sockjs_tornado import ConfigurationError, JSONValue
from sockjs_tornado.cluster import AsyncPublisher, Position, Publisher
from sockjs_tornado.cluster.envelope import CONTROL
from sockjs_tornado.cluster.redis_connection import RedisURL
from sockjs_tornado.exceptions import ClusterError, ClusterUnavailable

from .conftest import StartNode
from .redis_server import RedisServer

ROOM = "lobby"
UNCLOSED = r"^unclosed <sockjs_tornado\.cluster\.async_publisher\.AsyncPublisher "

#: What is logged, once, if a publisher finds no node.
NOBODY = "No node receives the messages of this publisher: none has subscribed to the namespace "

#: Publishes before it forks, and in three children.
FORKING = """
import os, sys
from sockjs_tornado.cluster import Publisher

publisher = Publisher(sys.argv[1])
publisher.publish("lobby", "parent")
children = []
for number in range(3):
    child = os.fork()
    if not child:
        for turn in range(20):
            publisher.publish("lobby", [number, turn])
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
publisher.publish("lobby", "parent")
publisher.close()
"""


@pytest.fixture
def _logged_that_there_is_no_node(logged: LogWatch) -> Iterator[None]:
    yield
    logged.take(NOBODY)


without_nodes = pytest.mark.usefixtures("_logged_that_there_is_no_node")


async def test_members_receive_messages(node: StartNode, redis_server: RedisServer) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)

    def publish() -> list[Any]:
        with Publisher(redis_server.unix_url) as publisher:
            return [
                publisher.publish(ROOM, "a \ud800"),
                publisher.publish(ROOM, {"b": 1}, history=2),
                publisher.publish(ROOM, ["c"], history=2, ttl=5),
                publisher.publish(ROOM, ("d", 1)),
                publisher.publish(ROOM, JSONValue('{"e": 2}')),
            ]

    # In a thread: it waits for Redis.
    _, b, c, *_ = await asyncio.to_thread(publish)
    assert [await peer.message() for _ in range(5)] == ["a \ud800", {"b": 1}, ["c"], ["d", 1], {"e": 2}]
    assert (b.offset, c) == (1, (2, b.epoch))
    assert await within(here.cluster.recover(ROOM, 1, b.epoch)) == ([(2, ["c"])], True, c)


async def test_it_needs_no_event_loop_and_works_after_a_fork(node: StartNode, redis_server: RedisServer) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    command = [sys.executable, "-W", "error", "-c", FORKING, redis_server.url]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    received = [await peer.message() for _ in range(62)]
    assert received[0] == received[-1] == "parent"
    for number in range(3):
        assert [turn for child, turn in received[1:-1] if child == number] == list(range(20))


@without_nodes
async def test_it_warns_that_it_blocks_an_event_loop(redis_server: RedisServer) -> None:
    def publish() -> None:
        publisher.publish(ROOM, "x")
        publisher.publish_many([ROOM], "x")
        publisher.publish_topic("topic", "x")
        publisher.presence(ROOM)

    with Publisher(redis_server.url) as publisher:
        with pytest.warns(RuntimeWarning, match="blocks the running event loop: use AsyncPublisher") as caught:
            publish()
        assert [found.filename for found in caught] == [__file__] * 4
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await asyncio.to_thread(publish)


@pytest.mark.parametrize("call", ["publish", "publish_topic", "select"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_it_warns_once_that_no_node_listens(
    node: StartNode, redis_server: RedisServer, logged: LogWatch, call: str, is_async: bool
) -> None:
    await node()
    here: Any = AsyncPublisher if is_async else Publisher

    async def publish(publisher: Any) -> None:
        def run() -> Any:
            if call == "select":
                return publisher.select(tag="nobody").disconnect()
            return getattr(publisher, call)("empty", "x")

        if not is_async:
            await asyncio.to_thread(run)
            await asyncio.to_thread(run)
        else:
            async with publisher:
                await within(run())
                await within(run())

    await publish(here(redis_server.url))
    assert logged.records == []
    await publish(here(redis_server.url, namespace="chat"))
    assert logged.take(f"{NOBODY}'chat' and the database 0 of this Redis server.").levelname == "WARNING"
    await publish(here(redis_server.url.removesuffix("/0") + "/1"))
    logged.take(f"{NOBODY}'sockjs' and the database 1 of this Redis server.")


async def test_many_threads_can_use_it(node: StartNode, redis_server: RedisServer) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    with Publisher(redis_server.url) as publisher:

        def publish(number: int) -> None:
            for turn in range(20):
                publisher.publish(ROOM, [number, turn])

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        received = [await peer.message() for _ in range(100)]
        for thread in threads:
            thread.join()
    for number in range(5):
        assert [turn for thread_, turn in received if thread_ == number] == list(range(20))


async def test_presence_is_read_from_outside(
    node: StartNode, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await node(), await node()
    for made, name in ((here, "Ann"), (there, {"name": "\ud800 ☃"}), (there, None)):
        await made.enter(ROOM, presence=name)
    # The node of this member is not alive, and no node has written the other entry.
    others = "gone:1", '"Zoe"', f"{here.cluster.node_id}:forged", '"Eve"'
    redis_server.command("HSET", f"sockjs:presence:{ROOM}", *others)
    monkeypatch.setattr("sockjs_tornado.cluster.presence_reading.SLICE", 1)
    async with AsyncPublisher(redis_server.url) as asynchronous:
        with Publisher(redis_server.unix_url) as blocking:
            for publisher in (blocking, asynchronous):
                call = asyncio.to_thread if publisher is blocking else lambda function, room: function(room)
                present = await within(call(publisher.presence, ROOM))
                assert await within(call(publisher.presence_count, ROOM)) == len(present) == 2
                assert await within(call(publisher.presence, "empty")) == {}
                assert await within(call(publisher.presence_count, "empty")) == 0
                # It reads only.
                assert redis_server.command("HLEN", f"sockjs:presence:{ROOM}") == 4
                assert present == await within(here.router.presence(ROOM))
                redis_server.command("HSET", f"sockjs:presence:{ROOM}", *others)
            for wrong in (blocking.presence, blocking.presence_count):
                with pytest.raises(TypeError, match="the name of a room must be str, not int"):
                    wrong(5)  # type: ignore[arg-type]
            redis_server.command("DEL", f"sockjs:presence:{ROOM}")
            redis_server.command("SET", f"sockjs:presence:{ROOM}", "of another type")
            for read in (blocking.presence, blocking.presence_count):
                with pytest.raises(ClusterUnavailable, match="WRONGTYPE"):
                    await within(asyncio.to_thread(read, ROOM))
            for ask in (asynchronous.presence, asynchronous.presence_count):
                with pytest.raises(ClusterUnavailable, match="WRONGTYPE"):
                    await within(ask(ROOM))


async def test_publish_many(node: StartNode, redis_server: RedisServer) -> None:
    here = await node()
    rooms = [f"user {number}" for number in range(20_000)]
    peer, _ = await here.enter(*rooms[::4000])
    with Publisher(redis_server.url) as publisher:
        await asyncio.to_thread(publisher.publish_many, iter(rooms), {"a": 1})
        for wrong in ("user 1", [5]):
            with pytest.raises(TypeError, match="room"):
                publisher.publish_many(wrong, "x")  # type: ignore[arg-type]
    async with AsyncPublisher(redis_server.url) as asynchronous:
        await within(asynchronous.publish_many(rooms, "b"))
        await within(asynchronous.publish_many((), "c"))
    assert [await peer.message() for _ in range(10)] == [{"a": 1}] * 5 + ["b"] * 5


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_user_that_may_publish_in_rooms_only_causes_no_warning(
    redis_server: RedisServer, logged: LogWatch, is_async: bool
) -> None:
    keys = RedisURL(redis_server.url).keys
    rooms = b"&" + keys.channel("*")
    redis_server.command("ACL", "SETUSER", "ann", "on", ">s3crq", "+hello", "+client", "+publish", rooms)
    url = redis_server.url.replace("//", "//ann:s3crq@")
    if is_async:
        async with AsyncPublisher(url) as publisher:
            await within(publisher.publish(ROOM, "x"))
    else:
        with Publisher(url) as blocking:
            await asyncio.to_thread(blocking.publish, ROOM, "x")
    # The check whether there is a node was rejected, which does not concern the caller.
    assert keys.channel(CONTROL) in [entry[b"object"] for entry in redis_server.command("ACL", "LOG")]
    assert logged.records == []


@without_nodes
async def test_many_messages_of_one_turn_are_published(redis_server: RedisServer) -> None:
    async with AsyncPublisher(redis_server.url) as publisher:
        assert set(await within(asyncio.gather(*(publisher.publish(str(n), "x") for n in range(20_000))))) == {None}


@without_nodes
def test_the_async_publisher_works_in_one_event_loop_after_another(redis_server: RedisServer) -> None:
    publisher = AsyncPublisher(redis_server.url)

    async def publish(number: int) -> Position | None:
        async with publisher:
            # More than one batch, so that each event of the connection is waited for.
            await asyncio.gather(*(publisher.publish(ROOM, "x") for _ in range(2000)))
            return await publisher.publish(ROOM, str(number), history=9)

    for number in (1, 2, 3):
        position = asyncio.run(publish(number))
        assert position is not None
        assert position.offset == number


def test_the_async_publisher_rejects_another_event_loop(redis_server: RedisServer) -> None:
    publisher = AsyncPublisher(redis_server.url)

    async def use_elsewhere() -> None:
        def run(call: Callable[[], Awaitable[object]]) -> None:
            async def wait() -> None:
                await call()

            with pytest.raises(RuntimeError, match="must be used in the event loop in which it was started; from ano"):
                asyncio.run(wait())

        await publisher.start()
        calls: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: publisher.publish(ROOM, "x"),
            lambda: publisher.publish_many([ROOM], "x"),
            lambda: publisher.presence(ROOM),
            publisher.select(tag="x").disconnect,
            publisher.close,
        )
        for call in calls:
            await asyncio.to_thread(run, call)

    asyncio.run(use_elsewhere())
    # The other event loop may also have ended.
    with pytest.raises(RuntimeError, match="must be used in the event loop in which it was started"):
        asyncio.run(publisher.publish(ROOM, "x"))

    async def start_again() -> None:
        async with publisher:
            assert await publisher.presence(ROOM) == {}

    asyncio.run(start_again())


async def test_an_async_publisher_that_was_started_keeps_its_connection(redis_server: RedisServer) -> None:
    publisher = AsyncPublisher(redis_server.url, client_name="twice")
    await publisher.start()
    async with publisher:
        await publisher.start()
        assert redis_server.command("CLIENT", "LIST").count(b"name=twice ") == 1
    await until(lambda: b"name=twice " not in redis_server.command("CLIENT", "LIST"))


async def test_an_async_publisher_that_is_dropped_closes_its_connection(redis_server: RedisServer) -> None:
    publisher = AsyncPublisher(redis_server.url, client_name="dropped")
    await publisher.start()

    def is_connected() -> bool:
        return b"name=dropped " in redis_server.command("CLIENT", "LIST")

    assert is_connected()
    with pytest.warns(ResourceWarning, match=UNCLOSED):
        del publisher
    await until(lambda: not is_connected())


@without_nodes
async def test_the_first_message_after_an_idle_cut_is_published(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall drops an idle connection, and neither side is told."""
    is_cut = False
    accepted = 0
    writers: list[asyncio.StreamWriter] = []
    tasks: list[Any] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1000):
                if not is_cut or number > 1:
                    writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted = number = accepted + 1
        tasks.append(asyncio.current_task())
        there, back = await asyncio.open_connection("127.0.0.1", redis_server.port)
        writers.extend((writer, back))
        await asyncio.gather(forward(reader, back, number), forward(there, writer, number))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
        with Publisher(f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0") as publisher:
            for _ in range(2):
                await within(asyncio.to_thread(publisher.publish, ROOM, "x"))
            assert accepted == 1
            is_cut = True
            monkeypatch.setattr("sockjs_tornado.cluster.publisher._MAX_IDLE", 0)
            await within(asyncio.to_thread(publisher.publish, ROOM, "y"))
            await within(asyncio.to_thread(publisher.publish_many, [ROOM], "z"))
            assert accepted == 3
        for writer in writers:
            writer.transport.abort()
        await within(asyncio.gather(*tasks))


def test_publish_many_without_redis_raises(redis_server: RedisServer) -> None:
    with Publisher(redis_server.url) as publisher:
        redis_server.kill()
        with pytest.raises(ClusterUnavailable, match="does not respond"):
            publisher.publish_many(["a", "b"], "x")


@without_nodes
def test_an_outage_raises_and_it_works_again_afterwards(redis_server: RedisServer) -> None:
    with Publisher(redis_server.url) as publisher:
        assert publisher.publish(ROOM, "x") is None
        redis_server.kill()
        for _ in range(2):
            with pytest.raises(ClusterUnavailable, match="does not respond"):
                publisher.publish(ROOM, "x")
        for read in (publisher.presence, publisher.presence_count):
            with pytest.raises(ClusterUnavailable, match="does not respond"):
                read(ROOM)
        redis_server.start()
        assert publisher.presence(ROOM) == {}
        assert publisher.publish(ROOM, "x", history=1) is not None
        redis_server.command("SET", f"sockjs:history:{ROOM}", "x")
        with pytest.raises(ClusterUnavailable, match="Redis rejected the command: WRONGTYPE"):
            publisher.publish(ROOM, "x", history=1)
        # The connection is lost while a command waits for its reply.
        redis_server.command("CLIENT", "PAUSE", 60000, "WRITE")
        ended = threading.Event()

        def kill_until_ended() -> None:
            while not ended.is_set():
                redis_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        killing = threading.Thread(target=kill_until_ended)
        killing.start()
        try:
            with pytest.raises(ClusterUnavailable, match="does not respond"):
                publisher.publish(ROOM, "x")
        finally:
            ended.set()
            killing.join()
            redis_server.command("CLIENT", "UNPAUSE")


@pytest.mark.parametrize("count", [600, 9000])
async def test_only_the_first_failure_of_many_is_reported(logged: LogWatch, count: int) -> None:
    """Of two commands, and of more than are sent at once."""
    publisher = AsyncPublisher("redis://127.0.0.1:1")
    with pytest.raises(ClusterUnavailable):
        await within(publisher.publish_many([f"{number}" for number in range(count)], "x"))
    # Let the other commands end.
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
    gc.collect()
    assert logged.records == []


@without_nodes
def test_a_required_password(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "secret") as server:
        with Publisher(server.url) as publisher, pytest.raises(ClusterError, match="user or password"):
            publisher.publish(ROOM, "x")
        with Publisher(server.url.replace("//", "//:secret@")) as publisher:
            assert publisher.publish(ROOM, "x") is None


@pytest.mark.parametrize("kind", [Publisher, AsyncPublisher])
def test_invalid_arguments_are_rejected(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^url: "):
        kind("http://localhost")
    with pytest.raises(ConfigurationError, match=r"^namespace: "):
        kind("redis://localhost", namespace="")
    with pytest.raises(TypeError, match=r"select\(tag=\.\.\.\) .* got 'user:42' without one"):
        kind("redis://localhost").select("user:42")


def test_invalid_messages_are_rejected() -> None:
    with Publisher("redis://127.0.0.1:1") as publisher:
        for room, message, options, error in (
            (5, "x", {}, "room"),
            (ROOM, 5, {}, "message"),
            (ROOM, "x", {"history": "1"}, "history: expected an int"),
            (ROOM, "x", {"history": 1, "ttl": "60"}, "ttl: expected a number of seconds"),
        ):
            with pytest.raises(TypeError, match=error):
                publisher.publish(room, message, **options)  # type: ignore[arg-type]


async def test_the_async_publisher_keeps_the_order(node: StartNode, redis_server: RedisServer) -> None:
    here = await node(namespace="app")
    peer, _ = await here.enter(ROOM)
    async with AsyncPublisher(redis_server.url, namespace="app") as publisher:
        sent = await within(asyncio.gather(*(publisher.publish(ROOM, str(number)) for number in range(50))))
        position = await within(publisher.publish(ROOM, "last", history=1))
    assert sent == [None] * 50
    assert position is not None
    assert position.offset == 1
    assert [await peer.message() for _ in range(51)] == [*map(str, range(50)), "last"]


@without_nodes
async def test_an_outage_of_the_async_publisher(redis_server: RedisServer, logged: LogWatch) -> None:
    async with AsyncPublisher(redis_server.url) as publisher:
        redis_server.kill()
        with pytest.raises(ClusterUnavailable):
            await within(publisher.publish(ROOM, "x"))
        redis_server.start()
        await until(lambda: publisher._commands.available)
        await within(publisher.publish(ROOM, "x"))
    logged.take("reconnecting")
    redis_server.kill()
    with pytest.raises(ClusterUnavailable, match="does not respond"):
        await AsyncPublisher(redis_server.url).start()
