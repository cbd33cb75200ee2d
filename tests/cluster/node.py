"""Nodes of a cluster, all of them in the process of the tests."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from application import Journal, Noted, Serve
from client import Client, Join, Peer, Response, asking, new_session, sending, unframe, within
from free_ports import free_port

from sockjs_tornado import SockJSRouter
from sockjs_tornado.cluster.base import BaseCluster
from sockjs_tornado.cluster.commands import Commands
from sockjs_tornado.cluster.envelope import RedisKeys
from sockjs_tornado.cluster.membership import Membership
from sockjs_tornado.cluster.redis_connection import RedisURL
from sockjs_tornado.cluster.unix import UnixCluster

#: What all nodes of the tests share.
SECRET = "a secret of 16 bytes, or more"


class Node:
    """A node with a router that clients reach.

    Attributes:
        cluster: The cluster.
        router: The router.
        journal: The record of the router's connections.
        server: The server for clients.
        join: Connects clients for :meth:`enter`.
        gaps: The arguments of each call of ``on_gap``.
    """

    def __init__(
        self,
        cluster: Any,
        settings: dict[str, Any],
        kind: type[Noted] = Noted,
        prefix: str = "/echo",
        gaps: list[frozenset[str]] | None = None,
    ) -> None:
        self.cluster = cluster
        self.journal = Journal(kind)
        self.server: Any = None
        self.join: Join | None = None
        self.gaps = [] if gaps is None else gaps
        if isinstance(cluster, BaseCluster):
            self.router = SockJSRouter(self.journal, prefix, settings, cluster=cluster)  # type: ignore[arg-type]
        else:
            self.router = SockJSRouter(self.journal, prefix, settings)
            cluster.add(self.router)

    @property
    def is_connected(self) -> bool:
        """Whether any of its connections to Redis is open, as far as the node knows."""
        available: bool = self.cluster.commands.available or self.cluster._node.bus.available
        return available

    async def enter(self, *rooms: str, presence: Any = None) -> tuple[Peer, Noted]:
        """Connect a client that joins rooms, and wait until messages of other nodes reach it."""
        assert self.join is not None
        peer = self.join(self.server, "websocket")
        assert await peer.frame() == "o"
        connection = await self.journal.connection()
        for room in rooms:
            await within(connection.join(room, presence=presence))
        return peer, connection

    @property
    def port(self) -> int:
        """The port for clients."""
        port: int = self.server.port
        return port

    @property
    def stats(self) -> Counter[str]:
        """The relay's counters."""
        stats = self.cluster.stats
        return stats.relay if isinstance(self.cluster, BaseCluster) else stats  # type: ignore[no-any-return]

    @property
    def upstreams(self) -> Any:
        """Its connections to other nodes."""
        return self.router.relay._node.upstreams  # type: ignore[union-attr]

    def own(self) -> str:
        """Return the id of a new session that this worker owns."""
        assert self.router.relay is not None
        while True:
            session = new_session()
            if self.router.relay.owns(session):
                return session

    @contextlib.asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Client]:
        """Connect to the node."""
        client = await Client.connect(self.port, **options)
        try:
            yield client
        finally:
            client.writer.transport.abort()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()

    async def ask(self, data: bytes, method: str = "", **options: Any) -> Response:
        """Send a request on a new connection, and return the complete response."""
        async with self.client(**options) as client:
            client.write(data)
            return await client.response(method)

    async def poll(self, session: str, transport: str = "xhr", prefix: str = "/echo") -> str:
        """Poll for a frame."""
        response = await self.ask(asking(transport, f"{prefix}/000/{session}"))
        assert response.status == 200, response
        return unframe(transport, response.body)

    async def send(self, session: str, message: str, transport: str = "xhr") -> int:
        """Send a message and return the status of the response."""
        return (await self.ask(sending(transport, f"/echo/000/{session}", f'["{message}"]'))).status


async def start_workers(
    serve: Serve,
    directory: Path,
    count: int = 3,
    settings: dict[str, Any] | None = None,
    kind: type[Noted] = Noted,
    prefix: str = "/echo",
    **options: Any,
) -> list[Node]:
    """Start the workers of one host; each is closed by its ``cluster.close()``."""
    nodes = [Node(UnixCluster(directory, count, number), settings or {}, kind, prefix) for number in range(count)]
    for node in nodes:
        await node.cluster.start()
        node.server = await serve(node.router, **options)
    return nodes


class Member:
    """A membership with its own connection to Redis: the relay's part of a RedisCluster."""

    def __init__(self, url: str, name: str, **options: Any) -> None:
        self.stats: Counter[str] = Counter()
        self.commands = Commands(RedisURL(url), on_reconnect=lambda: self.membership.refresh())
        port = options.pop("port", None) or free_port()
        options.setdefault("advertise", f"http://127.0.0.1:{port}")
        options = {"secret": SECRET, "listen": None, "allow_public_listener": False, "on_redis_down": "local"} | options
        self.name = name
        self.advertise = options["advertise"]
        self.membership = Membership(self.commands, RedisKeys("test"), name, self.stats, **options)

    @property
    def claims(self) -> Any:
        """Its claims."""
        return self.membership._claims

    def add(self, router: Any) -> None:
        """Add a router."""
        self.membership.node.add(router)

    async def start(self) -> None:
        """Connect and start."""
        await self.commands.start()
        try:
            await self.membership.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close."""
        await self.membership.close()
        await self.commands.close()

    async def vanish(self) -> None:
        """Stop like a process that is killed: other nodes notice only that it does not respond."""
        membership: Any = self.membership
        membership._task.cancel()
        await asyncio.wait([membership._task])
        membership._task = None
        await self.close()
