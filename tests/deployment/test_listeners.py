"""Whatever a server listens on, TCP, TLS or a Unix socket, and whatever event loop it runs on."""

import asyncio
import functools
import itertools
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from client import (
    CLOSE,
    FRAMED,
    POLLING,
    RECEIVING,
    STREAMING,
    TRANSPORTS,
    WEBSOCKETS,
    Client,
    Connect,
    Peer,
    RawPeer,
    closing,
    peer,
    within,
)

from .conftest import Ended, Remember
from .proxies import server
from .visitor import abort_a_poll, begin, exchange, introduce, where


class Listener(NamedTuple):
    """What to connect to."""

    connect: Connect
    loop: str


async def connect_unix(path: str) -> Client:
    """Connect to a Unix socket."""
    return Client(*await within(asyncio.open_unix_connection(path)))


@pytest.fixture(
    scope="session",
    params=itertools.product(["tcp", "tls", "unix"], ["asyncio", "uvloop"]),
    ids="-".join,
)
def listener(
    request: pytest.FixtureRequest, certificate: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Listener]:
    """A server on such a socket and such an event loop."""
    kind, loop = request.param
    path = str(tmp_path_factory.mktemp("listener") / "1.sock")
    more = {"tcp": (), "tls": ("--certificate", str(certificate)), "unix": ("--unix", path)}[kind]
    with server("--loop", loop, *more) as program:
        (port,) = program.ports
        tls = ssl.create_default_context(cafile=certificate) if kind == "tls" else None
        connect = functools.partial(connect_unix, path) if kind == "unix" else functools.partial(Client.connect, port)
        yield Listener(functools.partial(connect, tls=tls) if tls else connect, loop)


Arrive = Callable[..., Peer]


@pytest.fixture
def arrive(listener: Listener, remember: Remember) -> Arrive:
    """Return a function that makes a client: `peer = arrive("xhr")`."""
    connect = remember(listener.connect)

    def make(transport: str, session: str = "") -> Peer:
        return peer(transport, connect, prefix="/sockjs/echo", session=session)

    return make


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_messages_come_back_one_by_one_and_many_together(
    arrive: Arrive, listener: Listener, transport: str
) -> None:
    client = await begin(arrive(transport))
    messages = [f"message {number} ☃" for number in range(20)]
    for message in messages:
        assert await exchange(client, message) == message
    for start in range(0, 20, 10):
        await client.send(*messages[start : start + 10])
    assert [await client.message() for _ in messages] == messages
    assert (await where(client))["loop"] == listener.loop


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_message_of_a_megabyte_comes_back(arrive: Arrive, transport: str) -> None:
    client = await begin(arrive(transport))
    message = "0123456789abcdef" * (1 << 16)
    assert await exchange(client, message) == message


async def test_a_broadcast_reaches_clients_of_all_transports(arrive: Arrive) -> None:
    clients = [await begin(arrive(transport)) for transport in TRANSPORTS for _ in range(2)]
    await clients[0].send("everybody: hello")
    for client in clients:
        assert await client.message() == "everybody: hello"


@pytest.mark.parametrize("transport", FRAMED)
async def test_the_servers_close_arrives_with_its_code_and_reason(arrive: Arrive, transport: str) -> None:
    client = await begin(arrive(transport))
    await client.send("close!")
    assert await client.frame() == 'c[4001,"Enough"]'


async def test_the_servers_close_arrives_on_a_raw_websocket(arrive: Arrive) -> None:
    client = arrive("rawwebsocket")
    assert isinstance(client, RawPeer)
    websocket = await client.listen()
    await client.send("close!")
    goodbye = await websocket.frame()
    assert (goodbye.opcode, goodbye.payload) == (CLOSE, (4001).to_bytes(2, "big") + b"Enough")
    websocket.write(closing(4001))
    assert await websocket.client.rest() == b""


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_second_receiver_is_rejected_and_the_first_continues(arrive: Arrive, transport: str) -> None:
    client = await begin(arrive("xhr_streaming"))
    second = arrive(transport, client.session)
    assert await second.frame() == 'c[2010,"Another connection still open"]'
    assert await exchange(client, "still here") == "still here"


@pytest.mark.parametrize("transport", STREAMING)
async def test_a_session_ends_when_its_stream_is_aborted(
    arrive: Arrive, listener: Listener, ended: Ended, transport: str
) -> None:
    client = await begin(arrive(transport))
    name = await introduce(client)
    client.vanish()
    assert await ended(listener.connect, name) == [[1002, "Connection interrupted"]]
    assert await arrive(transport, client.session).frame() == 'c[1002,"Connection interrupted"]'


@pytest.mark.parametrize("transport", POLLING)
async def test_a_session_ends_when_its_poll_is_aborted(
    arrive: Arrive, listener: Listener, ended: Ended, transport: str
) -> None:
    client = await begin(arrive(transport))
    name = await introduce(client)
    await abort_a_poll([arrive(transport, client.session), arrive(transport, client.session)])
    assert await ended(listener.connect, name) == [[1002, "Connection interrupted"]]


@pytest.mark.parametrize("transport", WEBSOCKETS)
async def test_a_connection_ends_when_its_websocket_is_aborted(
    arrive: Arrive, listener: Listener, ended: Ended, transport: str
) -> None:
    client = await begin(arrive(transport))
    name = await introduce(client)
    client.vanish()
    assert await ended(listener.connect, name) == [[1006, "Connection lost"]]


@pytest.mark.parametrize("transport", STREAMING)
async def test_a_client_that_returns_right_after_an_abort_is_accepted(arrive: Arrive, transport: str) -> None:
    for _ in range(5):
        client = await begin(arrive(transport))
        client.vanish()
        assert await arrive(transport, client.session).frame() in ("o", 'c[1002,"Connection interrupted"]')
