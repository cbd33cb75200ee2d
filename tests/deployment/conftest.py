"""Fixtures: clients that disconnect after the test, and proxies."""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from client import Client, Connect
from programs import join_files

from .proxies import Node, node, nodes, proxy
from .visitor import Visitor

#: Proxies, and how they find the server of a session.
FRONTS = [(kind, sticky) for sticky in ("path", "cookie") for kind in ("haproxy", "nginx")]

#: One :func:`front` of each kind, for tests of what does not depend on how it finds the server.
each_kind = pytest.mark.parametrize("front", FRONTS[:2], ids="-".join, indirect=True)


class Front(NamedTuple):
    """A proxy before two servers."""

    kind: str
    sticky: str
    port: int
    nodes: list[Node]

    def behind(self, name: str) -> Connect:
        """Return how to connect to one of the servers without the proxy."""
        (port,) = [node.port for node in self.nodes if node.name == name]
        return partial(Client.connect, port)


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[list[Node]]:
    """Two servers that stand behind proxies."""
    with nodes() as running:
        yield running


@pytest.fixture(scope="session", params=FRONTS, ids="-".join)
def front(
    request: pytest.FixtureRequest, two_nodes: list[Node], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """A proxy before those servers."""
    kind, sticky = request.param
    with proxy(kind, sticky, two_nodes, tmp_path_factory.mktemp(kind)) as port:
        yield Front(kind, sticky, port, two_nodes)


@pytest.fixture(scope="session", params=["haproxy", "nginx"])
def unix_front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A proxy before two servers that listen on Unix sockets."""
    directory = tmp_path_factory.mktemp("unix")
    with (
        node("node8081", unix=directory / "1.sock") as one,
        node("node8082", unix=directory / "2.sock") as two,
        proxy(request.param, "path", [one, two], directory) as port,
    ):
        yield Front(request.param, "path", port, [one, two])


async def leave(clients: Sequence[Client]) -> None:
    """End connections."""
    for client in clients:
        client.writer.transport.abort()
    for client in clients:
        with contextlib.suppress(OSError):
            await client.writer.wait_closed()


Visit = Callable[..., Visitor]


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    """Return a function that makes a visitor: `visitor = visit("xhr", port)`."""
    visitors: list[Visitor] = []

    def make(transport: str, port: int, **more: Any) -> Visitor:
        visitor = Visitor(transport, port, **more)
        visitors.append(visitor)
        return visitor

    yield make
    await leave([client for visitor in visitors for client in visitor.clients])


class Remember:
    """Makes a way to connect one whose connections end with the test."""

    def __init__(self) -> None:
        self._clients: list[Client] = []

    def __call__(self, connect: Connect) -> Connect:
        async def connect_and_remember() -> Client:
            client = await connect()
            self._clients.append(client)
            return client

        return connect_and_remember

    async def leave(self) -> None:
        """End all connections."""
        await leave(self._clients)


@pytest.fixture
async def remember() -> AsyncIterator[Remember]:
    """Return a function that has connections end with the test: `connect = remember(connect)`."""
    memory = Remember()
    yield memory
    await memory.leave()


Ended = Callable[[Connect, str], Awaitable[list[list[Any]]]]


@pytest.fixture
def ended(remember: Remember) -> Ended:
    """Return a function that waits until a server has heard of a client's end, and tells the reasons that it heard."""

    async def ask(connect: Connect, name: str) -> list[list[Any]]:
        client = await remember(connect)()
        response = await client.ask("GET", f"/ended?name={name}")
        assert response.status == 200
        closes: list[list[Any]] = json.loads(response.body)["closes"]
        return closes

    return ask


@pytest.fixture(scope="session")
def certificate(certificate: tuple[Path, Path]) -> Path:
    """The certificate for localhost, with its key in the same file."""
    return join_files(certificate)
