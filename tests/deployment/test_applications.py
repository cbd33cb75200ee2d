"""Several routers, applications and event loops in one process."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from client import TRANSPORTS, WEBSOCKETS, Client, Peer, new_session, peer

from .conftest import Remember
from .proxies import server
from .visitor import begin, exchange, where

#: All that is served: on which port, under which prefix, by whom and in which thread.
PLACES = [
    (0, "/a/b/c", "first", "MainThread"),
    (0, "/chat", "chat", "MainThread"),
    (0, "", "root", "MainThread"),
    (1, "/a/b/c", "second", "MainThread"),
    (2, "/a/b/c", "other thread", "other"),
]
NODES = [node for _, _, node, _ in PLACES]


@pytest.fixture(scope="session", params=["asyncio", "uvloop"])
def ports(request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """The ports of a server with three applications, two of them on one event loop."""
    with server("--loop", request.param, script="tests/deployment/serve_many.py") as program:
        yield program.ports


Arrive = Callable[..., Peer]


@pytest.fixture
def arrive(ports: list[int], remember: Remember) -> Arrive:
    """Return a function that makes a client of one of the routers: `peer = arrive("chat", "xhr")`."""

    def make(node: str, transport: str, session: str = "") -> Peer:
        number, prefix, _, _ = PLACES[NODES.index(node)]
        connect = remember(partial(Client.connect, ports[number]))
        return peer(transport, connect, prefix=prefix, session=session)

    return make


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("prefix", "node", "thread"), [place[1:] for place in PLACES], ids=NODES)
async def test_a_router_answers_under_its_own_prefix(
    arrive: Arrive, prefix: str, node: str, thread: str, transport: str
) -> None:
    client = await begin(arrive(node, transport))
    facts = await where(client)
    assert (facts["prefix"], facts["node"], facts["thread"]) == (prefix, node, thread)
    for number in range(5):
        assert await exchange(client, str(number)) == str(number)


@pytest.mark.parametrize(("number", "prefix"), [place[:2] for place in PLACES], ids=NODES)
async def test_pages_are_at_their_urls(ports: list[int], remember: Remember, number: int, prefix: str) -> None:
    client = await remember(partial(Client.connect, ports[number]))()
    assert (await client.ask("GET", prefix or "/")).text == "Welcome to SockJS!\n"
    assert (await client.ask("GET", f"{prefix}/info")).status == 200
    assert (await client.ask("GET", f"{prefix}/iframe.html")).status == 200
    # What is no URL of SockJS is the application's own.
    assert (await client.ask("GET", "/pid")).status == 200
    assert (await client.ask("GET", f"{prefix}/nothing")).status == 404


@pytest.mark.parametrize("transport", [name for name in TRANSPORTS if name not in WEBSOCKETS])
async def test_routers_know_nothing_of_each_others_sessions(arrive: Arrive, transport: str) -> None:
    session = new_session()
    # Within one of them, the second would be told of the first.
    clients = [await begin(arrive(node, transport, session)) for node in NODES]
    assert [(await where(client))["node"] for client in clients] == NODES


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_broadcast_stays_within_its_router(arrive: Arrive, transport: str) -> None:
    clients = [await begin(arrive(node, transport)) for node in NODES]
    for client, node in zip(clients, NODES, strict=True):
        await client.send(f"everybody: {node}")
    for client, node in zip(clients, NODES, strict=True):
        assert await client.message() == f"everybody: {node}"
    for client in clients:
        assert await exchange(client, "that was all") == "that was all"


async def test_all_of_them_work_at_the_same_time(arrive: Arrive) -> None:
    clients = [await begin(arrive(node, transport)) for node in NODES for transport in TRANSPORTS]
    messages = [f"{number} " + "x" * (1 << number) for number in range(15)]

    async def echo(client: Peer) -> None:
        for message in messages:
            assert await exchange(client, message) == message

    await asyncio.gather(*(echo(client) for client in clients))
