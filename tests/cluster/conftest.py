"""Fixtures: Redis servers, and nodes of a cluster with clients in their rooms."""

import functools
import importlib.metadata
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from application import Serve
from client import Join, until, within

from sockjs_tornado.cluster import LocalCluster, RedisCluster, UnixCluster
from sockjs_tornado.cluster.commands import Commands
from sockjs_tornado.cluster.redis_connection import RedisURL

from .node import SECRET, Node, start_workers
from .redis_server import RedisServer

#: Seconds of silence after which nodes ask Redis for a sign of life, in tests of a Redis that gives none. As short as a
#: Redis that has only a part of a processor is never silent for.
SILENCE = 0.5


@pytest.fixture(scope="session", autouse=True)
def _cached_versions() -> Iterator[None]:
    """Cache the versions of packages: redis-py reads its own from a file, in some milliseconds, for each connection."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "version", functools.cache(importlib.metadata.version))
        yield


@pytest.fixture(scope="module")
def module_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a Redis server for one module."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(module_redis: RedisServer) -> RedisServer:
    """Return the module's Redis server without traces of other tests."""
    module_redis.reset()
    return module_redis


#: What the fixture ``node`` is.
StartNode = Callable[..., Awaitable[Node]]


@pytest.fixture
async def node(redis_server: RedisServer, serve: Serve, join: Join) -> AsyncIterator[StartNode]:
    """Return a function that starts nodes: ``node = await node(timeout=0.2)``. They are closed after the test."""
    nodes: list[Node] = []

    async def start(url: str = "", **options: Any) -> Node:
        gaps: list[frozenset[str]] = []
        cluster = RedisCluster(url or redis_server.url, **{"on_gap": gaps.append, **options})
        # No heartbeat arrives between messages, however slow the machine is.
        made = Node(cluster, {"disconnect_delay": 60, "heartbeat_delay": 3600}, gaps=gaps)
        nodes.append(made)
        await cluster.start()
        made.join, made.server = join, await serve(made.router)
        return made

    yield start
    for made in nodes:
        await within(made.cluster.close())


#: What the fixture ``start_commands`` is.
StartCommands = Callable[..., Awaitable[Commands]]


@pytest.fixture
async def start_commands(redis_server: RedisServer) -> AsyncIterator[StartCommands]:
    """Return a function that connects to Redis: ``commands = await start_commands(timeout=0.2)``."""
    started: list[Commands] = []

    async def start(**options: Any) -> Commands:
        commands = Commands(RedisURL(redis_server.url), **options)
        await commands.start()
        started.append(commands)
        return commands

    yield start
    for commands in started:
        await within(commands.close())


#: What the fixture ``start`` is.
Start = Callable[..., Awaitable[list[Node]]]


@pytest.fixture
async def start(serve: Serve, tmp_path: Path) -> AsyncIterator[Start]:
    """Return a function that starts workers: ``owner, other, third = await start({"verify_ip": True})``."""
    nodes: list[Node] = []

    async def begin(settings: dict[str, Any] | None = None, **options: Any) -> list[Node]:
        nodes.extend(await start_workers(serve, tmp_path / "workers", settings=settings, **options))
        return nodes

    yield begin
    for node in nodes:
        await within(node.cluster.close())
    for node in nodes:
        await until(lambda node: not node.upstreams.all, node)


@pytest.fixture(params=["redis", "unix", "local"])
async def make_clusters(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Any, Any]]:
    """Return two nodes of a cluster that are not started; the second is the first one if there is one process."""
    clusters: list[Any]
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
        clusters = [RedisCluster(url, secret=SECRET, presence_events=True) for _ in range(2)]
    elif request.param == "unix":
        clusters = [UnixCluster(tmp_path / "workers", 2, number, presence_events=True) for number in range(2)]
    else:
        clusters = [LocalCluster()] * 2
    yield clusters[0], clusters[1]
    for cluster in clusters:
        await within(cluster.close())
