"""Redis Sentinel: the sentinels are asked for the master, and again after each failover."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from application import LogWatch
from client import TIMEOUT, until, within
from free_ports import free_port

from sockjs_tornado.cluster import Publisher
from sockjs_tornado.cluster.redis_connection import RedisURL
from sockjs_tornado.cluster.redis_url import Address
from sockjs_tornado.cluster.sentinel import find_masters
from sockjs_tornado.exceptions import ClusterError, ClusterUnavailable

from .conftest import StartNode
from .node import SECRET
from .redis_groups import SENTINEL_PASSWORD, SentinelGroup

ROOM = "lobby"
PASSWORD = "s3crq"


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[SentinelGroup]:
    """Start a master, a replica and three sentinels, all with passwords."""
    with SentinelGroup(tmp_path, PASSWORD) as servers:
        await servers.ready()
        yield servers


async def test_a_failover_under_load_loses_no_session(
    node: StartNode, group: SentinelGroup, logged: LogWatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = group.url
    here, there = [
        await node(url, advertise=f"http://127.0.0.1:{free_port()}", secret=SECRET, timeout=10) for _ in range(2)
    ]
    peer, _ = await here.enter(ROOM)
    assert await here.poll("abc") == "o"
    await until(lambda: group.replica.command("EXISTS", "sockjs:session:/echo:abc"))
    polling = await here.journal.connection()
    published = 0

    async def publish() -> None:
        nonlocal published
        while True:
            with contextlib.suppress(ClusterUnavailable):
                await there.router.publish(ROOM, str(published + 1))
                published += 1
            await asyncio.sleep(0)

    load = asyncio.create_task(publish())
    try:
        with Publisher(url) as blocking:
            await asyncio.to_thread(blocking.publish, "other", "x")
            group.master.kill()
            with pytest.raises(ClusterUnavailable):
                await asyncio.to_thread(blocking.publish, "other", "x")
            await group.fail_over()
            await until(lambda: here.gaps and there.cluster.available)
            await within(asyncio.to_thread(blocking.publish, "other", "x", history=1))
        assert here.gaps == [{ROOM}]
        # What the other node publishes from now on is received.
        after = published + 1
        while int(await peer.message()) < after:
            pass
    finally:
        load.cancel()
    # The claim is known: the other node relays to its owner.
    polling.send("still here")
    assert await there.poll("abc") == 'a["still here"]'
    assert here.stats["claims_lost"] == there.stats["claims_lost"] == 0
    logged.records.clear()
    assert not any(secret in caplog.text for secret in (PASSWORD, SENTINEL_PASSWORD))


async def test_errors_of_the_sentinels_and_of_the_server_that_they_name(group: SentinelGroup) -> None:
    for url, expected in (
        (group.url.replace("/main", "/other"), "monitor no master of the name in the URL; check the name"),
        (group.url.replace(SENTINEL_PASSWORD, "wr0ng"), "requires another user or password: WRONGPASS"),
        (group.url.partition("?")[0], "requires another user or password: NOAUTH"),
        (group.url.replace(PASSWORD, "wr0ng"), "requires another user or password: WRONGPASS"),
        (f"redis://:{SENTINEL_PASSWORD}@127.0.0.1:{group.ports[0]}", "is in sentinel mode; the URL of sentinels is"),
    ):
        with pytest.raises(ClusterError, match=expected) as caught:
            await within(RedisURL(url).connect())
        assert not isinstance(caught.value, ClusterUnavailable)
        assert not any(secret in str(caught.value) for secret in (PASSWORD, SENTINEL_PASSWORD, "wr0ng"))
    with pytest.raises(ClusterUnavailable, match=r"no sentinel responds: Redis at 127.0.0.1:1 does not respond"):
        await within(RedisURL("sentinel://127.0.0.1:1,127.0.0.1:2/main").connect())

    (port, *others) = group.ports
    # A sentinel that names a server which is not promoted yet: a later attempt may succeed.
    group.ask(0, "REMOVE")
    group.ask(0, "MONITOR", "127.0.0.1", str(group.replica.port), "2")
    url = group.url.replace(f"127.0.0.1:{others[0]},127.0.0.1:{others[1]}", "")
    with pytest.raises(ClusterUnavailable, match="is a replica; the next master is not known yet"):
        await within(RedisURL(url.replace(f"{port},", f"{port}")).connect())
    # Another sentinel knows the master, whether it answers first or last.
    group.ask(1, "REMOVE")
    group.ask(1, "MONITOR", "127.0.0.1", str(group.replica.port), "2")
    connection = await within(RedisURL(group.url).connect())
    assert connection.address == ("127.0.0.1", group.master.port)
    connection.close()
    await asyncio.sleep(0)


async def choose(*answers: Address | Exception | str | None) -> list[Address]:
    """Return the masters that sentinels name; a str stands for one that never answers."""

    async def ask(sentinel: Address) -> Address | None:
        answer = answers[int(sentinel[1])]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            await asyncio.Event().wait()
        return answer

    masters = find_masters([("sentinel", number) for number in range(len(answers))], ask)
    async with asyncio.timeout(TIMEOUT), contextlib.aclosing(masters):
        # The first one is used if a sentinel never answers.
        return [await anext(masters)] if "silent" in answers else [master async for master in masters]


async def test_the_master_that_most_sentinels_name_is_the_first() -> None:
    old, new = ("old", 1), ("new", 1)
    down = ClusterUnavailable("down")
    assert await choose(new) == [new]
    # The third is not waited for.
    assert await choose(new, new, "silent") == [new]
    assert await choose(old, new, new) == [new, old]
    # Right after a failover, only the sentinel that led it may know the new master.
    assert await choose(old, old, new) == [old, new]
    assert await choose(old, down, new) == [old, new]
    assert await choose(None, down, new) == [new]
    with pytest.raises(ClusterUnavailable, match="no sentinel responds: down"):
        await choose(down, down)
    with pytest.raises(ClusterError, match="sentinel:0, sentinel:1 monitor no master"):
        await choose(None, down)
    with pytest.raises(ClusterError, match="password"):
        await choose(down, ClusterError("password"))
