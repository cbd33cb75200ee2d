"""Fixtures: Redis servers, and nodes of a cluster with clients in their rooms."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from application import Journal, Noted, Serve
from client import Join, Peer, within

from sockjs_tornado import SockJSRouter
from sockjs_tornado.cluster import RedisCluster

from .redis_server import RedisServer

#: Seconds of silence after which nodes ask Redis for a sign of life, in tests of a Redis that gives none. As short as a
#: Redis that has only a part of a processor is never silent for.
SILENCE = 0.5


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a Redis server for one test."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def module_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a Redis server for one module."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def empty_redis(module_redis: RedisServer) -> RedisServer:
    """Return the module's Redis server without the data of other tests."""
    module_redis.command("FLUSHALL")
    return module_redis


class Node:
    """A cluster's node with a router, and its clients.

    Attributes:
        cluster: The cluster.
        router: The router.
        gaps: The arguments of each call of ``on_gap``.
    """

    def __init__(self, serve: Serve, join: Join, url: str, **options: Any) -> None:
        self.gaps: list[frozenset[str]] = []
        options.setdefault("on_gap", self.gaps.append)
        self.cluster = RedisCluster(url, **options)
        self._journal = Journal()
        self.router = SockJSRouter(self._journal, "/echo", {"disconnect_delay": 60}, cluster=self.cluster)
        self._serve, self._join = serve, join
        self._server: Any = None

    @property
    def is_connected(self) -> bool:
        """Whether any of its connections to Redis is open, as far as the node knows."""
        return self.cluster.commands.available or self.cluster._bus.available

    async def enter(self, *rooms: str, presence: Any = None) -> tuple[Peer, Noted]:
        """Connect a client that joins rooms, and wait until messages of other nodes reach it."""
        self._server = self._server or await self._serve(self.router)
        peer = self._join(self._server, "websocket")
        assert await peer.frame() == "o"
        connection = await self._journal.connection()
        for room in rooms:
            await within(connection.join(room, presence))
        return peer, connection


#: What the fixture ``node`` is.
StartNode = Callable[..., Awaitable[Node]]


@pytest.fixture
async def node(redis_server: RedisServer, serve: Serve, join: Join) -> AsyncIterator[StartNode]:
    """Return a function that starts nodes: ``node = await node(timeout=0.2)``. They are closed after the test."""
    nodes: list[Node] = []

    async def start(url: str = "", **options: Any) -> Node:
        made = Node(serve, join, url or redis_server.url, **options)
        nodes.append(made)
        await made.cluster.start()
        return made

    yield start
    for made in nodes:
        await within(made.cluster.close())
