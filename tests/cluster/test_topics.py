"""Messages between the processes of a cluster: on Redis, on Unix sockets, and in one process."""

import asyncio
import gc
from typing import Any

import pytest
from application import Echo, Journal, LogWatch, Serve
from client import Join, until, within

from sockjs_tornado import ConfigurationError, SockJSRouter
from sockjs_tornado.cluster import AsyncPublisher, LocalCluster, Publisher, RedisCluster, topics
from sockjs_tornado.cluster.topics import Topics
from sockjs_tornado.exceptions import ClusterUnavailable

from .node import SECRET
from .redis_server import RedisServer


async def test_callbacks_of_all_processes_receive_the_messages_in_order(make_clusters: tuple[Any, Any]) -> None:
    here, there = make_clusters
    received: dict[str, list[Any]] = {"before": [], "here": [], "there": [], "other": []}
    there.subscribe("users", received["before"].append)
    there.subscribe("users", received["other"].append)
    there.unsubscribe("users", received["other"].append)
    with pytest.raises(RuntimeError, match="was not started"):
        here.publish_topic("users", 0)
    for cluster in {here, there}:
        await within(cluster.start())
    await within(here.subscribe("users", received["here"].append))
    await within(there.subscribe("users", received["there"].append))
    await within(there.subscribe("\ud800 ☃", received["other"].append))
    messages = [{"id": 5}, "\ud800 ☃", None, [1.5, True], "end"]
    for message in messages:
        sent = here.publish_topic("users", message)
    # In this process at once.
    assert received["here"] == messages
    await within(sent)
    await within(here.publish_topic("\ud800 ☃", "x"))
    await until(lambda: received["other"])
    assert received == {"before": messages, "here": messages, "there": messages, "other": ["x"]}
    there.unsubscribe("users", received["there"].append)
    there.unsubscribe("users", print)
    there.unsubscribe("never", print)
    await within(here.publish_topic("users", "again"))
    await until(lambda: received["before"][-1] == "again")
    assert received["there"] == messages
    for function in (received["before"].append, received["here"].append):
        for cluster in (here, there):
            cluster.unsubscribe("users", function)
    await within(there.publish_topic("users", "nobody"))
    await within(here.publish_topic("\ud800 ☃", "y"))
    await until(lambda: received["other"][-1] == "y")
    assert received["here"][-1] == received["before"][-1] == "again"


async def test_publishers_send_messages_to_topics(redis_server: RedisServer) -> None:
    received: list[Any] = []
    async with RedisCluster(redis_server.url, secret=SECRET) as cluster:
        await within(cluster.subscribe("users", received.append))
        async with AsyncPublisher(redis_server.url, secret=SECRET) as publisher:
            await within(publisher.publish_topic("users", {"id": 1}))
        with Publisher(redis_server.url, secret=SECRET) as blocking:
            blocking.publish_topic("users", {"id": 2})
            with pytest.raises(ValueError, match="not JSON compliant"):
                blocking.publish_topic("users", float("nan"))
        await until(lambda: len(received) == 2)
        assert received == [{"id": 1}, {"id": 2}]


async def test_a_topic_that_is_subscribed_to_while_the_cluster_starts(redis_server: RedisServer) -> None:
    received: list[Any] = []
    cluster = RedisCluster(redis_server.url)
    starting = asyncio.create_task(cluster.start())
    await until(lambda: cluster._node.bus._confirmations, interval=0)
    cluster.subscribe("users", received.append)
    assert not cluster.available
    await within(starting)
    async with cluster, AsyncPublisher(redis_server.url) as publisher:
        # After the subscription.
        await within(cluster.subscribe("users", print))
        await within(publisher.publish_topic("users", 1))
        await until(lambda: received)
    assert received == [1]


async def test_messages_that_are_signed_with_another_secret_are_ignored(
    redis_server: RedisServer, logged: LogWatch
) -> None:
    received: list[Any] = []
    async with RedisCluster(redis_server.url, secret=SECRET) as cluster:
        await within(cluster.subscribe("users", received.append))
        for secret in (f"{SECRET}!", SECRET):
            with Publisher(redis_server.url, secret=secret) as publisher:
                publisher.publish_topic("users", secret)
        await until(lambda: received == [SECRET])
        assert cluster.stats.messages_forged == 1
    logged.take("that is not signed with this node's secret")


async def test_after_an_outage_callbacks_are_told_and_receive_messages_again(
    redis_server: RedisServer, logged: LogWatch
) -> None:
    events: list[Any] = []
    async with RedisCluster(redis_server.url) as here, RedisCluster(redis_server.url) as there:
        await within(here.subscribe("users", events.append, on_gap=lambda: events.append("gap")))
        await within(here.subscribe("users", lambda message: None))
        redis_server.stop()
        await until(lambda: not here.available and not there.commands.available)
        with pytest.raises(ClusterUnavailable):
            await within(there.publish_topic("users", "lost"))
        with pytest.raises(ClusterUnavailable):
            await within(here.subscribe("other", events.append))
        redis_server.start()
        await until(lambda: events == ["gap"])
        await there.commands.wait_available()
        for topic in ("users", "other"):
            await within(there.publish_topic(topic, topic))
        await until(lambda: events == ["gap", "users", "other"])
        # The callbacks in this process need no Redis.
        assert there.stats.publish_failures == 1
    for _ in range(2):
        logged.take("reconnecting")


async def test_only_messages_of_topics_reach_callbacks(redis_server: RedisServer, serve: Serve, join: Join) -> None:
    """Neither rooms of the same name nor envelopes of other types do."""
    received: list[Any] = []
    async with RedisCluster(redis_server.url) as here, RedisCluster(redis_server.url) as there:
        journal = Journal()
        router = SockJSRouter(journal, "/echo", cluster=here)
        peer = join(await serve(router), "websocket")
        assert await peer.frame() == "o"
        await within((await journal.connection()).join("users"))
        await within(here.subscribe("users", received.append))
        other = SockJSRouter(Echo, "/echo", cluster=there)
        await within(other.publish("users", '{"id": 1}'))
        await within(there.publish_topic("users", {"id": 2}))
        await within(other.publish("users", "end"))
        assert [await peer.message(), await peer.message()] == ['{"id": 1}', "end"]
        assert received == [{"id": 2}]


async def test_a_callback_is_called_with_one_message_at_a_time(logged: LogWatch) -> None:
    registry = Topics()
    events: list[Any] = []
    may_go_on = asyncio.Event()

    async def callback(message: Any) -> None:
        events.append(("begin", message))
        await may_go_on.wait()
        events.append(("end", message))
        if message == 0:
            raise ValueError("whatever")

    registry.subscribe("a", callback, lambda: events.append("gap"))
    for number in range(3):
        registry.deliver("a", str(number))
    for _ in range(2):
        registry.gap(["a", "unknown"])
    await until(lambda: events)
    assert events == [("begin", 0)]
    may_go_on.set()
    await until(lambda: events[-1] == "gap")
    assert events == [*((step, number) for number in range(3) for step in ("begin", "end")), "gap"]
    logged.take("A callback of a topic raised an exception")
    registry.deliver("a", "4")
    await until(lambda: events[-1] == ("end", 4))
    await registry.close()


async def test_a_callback_that_publishes_or_fails_gets_the_next_message(logged: LogWatch) -> None:
    received: list[Any] = []
    async with LocalCluster() as cluster:

        def callback(message: int) -> None:
            if message < 3:
                cluster.publish_topic("a", message + 1)
            # Each is appended after its callback has been called, in order.
            received.append(message)
            raise ValueError("whatever")

        cluster.subscribe("a", callback)
        await cluster.publish_topic("a", 0)
    assert received == [0, 1, 2, 3]
    logged.take("A callback of a topic raised an exception")


async def test_messages_for_a_slow_callback_are_limited(logged: LogWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "MAX_QUEUED", 3)
    registry = Topics()
    received: list[Any] = []
    may_go_on = asyncio.Event()

    async def slow(message: Any) -> None:
        await may_go_on.wait()
        received.append(message)

    silent: list[Any] = []

    async def slow_without_on_gap(message: Any) -> None:
        await may_go_on.wait()
        silent.append(message)

    registry.subscribe("a", slow, lambda: received.append("gap"))
    registry.subscribe("a", slow_without_on_gap, None)
    for number in range(10):
        registry.deliver("a", str(number))
    may_go_on.set()
    await until(lambda: len(received) == len(silent) == 4)
    assert received == [0, 1, 2, "gap"]
    assert silent == [0, 1, 2, 3]
    logged.take("A callback of a topic is too slow")


async def test_an_unsubscribed_callback_gets_no_more_messages_and_ends_by_itself() -> None:
    registry = Topics()
    received: list[Any] = []

    async def callback(message: Any) -> None:
        received.append(message)
        try:
            # Nothing else refers to the future, nor to this task.
            await asyncio.get_running_loop().create_future()
        finally:
            received.append("end")

    def unsubscribe(message: Any) -> None:
        registry.unsubscribe("b", received.append)

    registry.subscribe("a", callback, None)
    registry.subscribe("b", unsubscribe, None)
    registry.subscribe("b", received.append, lambda: received.append("gap"))
    for number in range(3):
        registry.deliver("a", str(number))
    await until(lambda: received)
    registry.unsubscribe("a", callback)
    # Also of the message that is being delivered.
    registry.deliver("b", "5")
    registry.gap(["b"])
    gc.collect()
    await asyncio.sleep(0)
    assert received == [0]
    await registry.close()
    assert received == [0, "end"]


async def test_a_callback_whose_awaitable_was_cancelled_gets_the_next_message(logged: LogWatch) -> None:
    registry = Topics()
    received: list[Any] = []
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()

    async def callback(message: Any) -> None:
        received.append(message)
        await cancelled

    def plain(message: Any) -> None:
        received.append(-message)
        cancelled.result()

    registry.subscribe("a", callback, None)
    registry.subscribe("b", plain, None)
    for topic in ("a", "b"):
        for number in (1, 2):
            registry.deliver(topic, str(number))
    await until(lambda: len(received) == 4)
    # Each plain callback is called at once; the awaitable of the other one runs as a task.
    assert sorted(received) == [-2, -1, 1, 2]
    logged.take("A callback of a topic raised an exception")
    logged.take("A callback of a topic raised an exception")
    await registry.close()


async def test_closing_a_cluster_cancels_callbacks() -> None:
    cancelled: list[Any] = []

    async def callback(message: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(message)
            raise

    async with LocalCluster() as cluster:
        cluster.subscribe("a", callback)
        cluster.publish_topic("a", 1)
        cluster.publish_topic("a", 2)
        await asyncio.sleep(0)
    assert cancelled == [1]
    # It can be started again, and its callbacks are still there.
    async with cluster:
        cluster.publish_topic("a", 3)
        await asyncio.sleep(0)
    assert cancelled == [1, 3]


async def test_a_callback_may_close_the_cluster() -> None:
    events: list[str] = []
    cluster = LocalCluster()
    await cluster.start()

    async def callback(message: Any) -> None:
        await cluster.close()
        events.append("closed")

    cluster.subscribe("shutdown", callback)
    cluster.publish_topic("shutdown", None)
    await until(lambda: events)
    assert not cluster.available


async def test_mistakes_are_errors_that_name_what_was_expected() -> None:
    async with LocalCluster() as cluster:
        wrong: Any = cluster
        with pytest.raises(TypeError, match="topic must be str, not int"):
            wrong.publish_topic(5, "x")
        with pytest.raises(TypeError, match="topic must be str, not int"):
            wrong.subscribe(5, print)
        with pytest.raises(TypeError, match=r"callback: expected a function, got 'x' \(str\)"):
            wrong.subscribe("a", "x")
        with pytest.raises(TypeError, match="on_gap: expected a function"):
            wrong.subscribe("a", print, on_gap=5)
        with pytest.raises(ConfigurationError, match=r"callback: expected .* as callback\(message\), got .*\(\)$"):
            wrong.subscribe("a", lambda: None)
        with pytest.raises(ConfigurationError, match=r"on_gap: expected .* as on_gap\(\), got .*\(rooms\)$"):
            wrong.subscribe("a", print, on_gap=lambda rooms: None)
        with pytest.raises(TypeError, match="not JSON serializable"):
            wrong.publish_topic("a", {1, 2})
        router = SockJSRouter(Echo, "/echo", cluster=cluster)
        with pytest.raises(ConfigurationError, match="require a RedisCluster"):
            router.publish("a", "x", history=1)


async def test_a_local_cluster_has_rooms_presence_and_selections(serve: Serve, join: Join) -> None:
    async with LocalCluster() as cluster:
        journal = Journal()
        router = SockJSRouter(journal, "/echo", cluster=cluster)
        peer = join(await serve(router), "websocket")
        assert await peer.frame() == "o"
        connection = await journal.connection()
        await connection.join("lobby", presence="Ann")
        await router.publish_many(["lobby", "empty"], "x")
        await router.publish("lobby", "y")
        assert [await peer.message(), await peer.message()] == ["x", "y"]
        assert await router.presence("lobby") == {f"local:{connection.id}": "Ann"}
        assert await router.presence_count("lobby") == 1
        await router.select(room="lobby").disconnect(4000, "Closed")
        assert await peer.frame() == 'c[4000,"Closed"]'
        assert cluster.counters()["published"] == 4
