"""`examples/recovery`: clients that lose their connections miss no message, or are told that they have."""

import asyncio
import contextlib
import importlib.util
import itertools
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from client import until, within
from client_package.conftest import Link
from free_ports import reserved_port
from programs import ROOT, TIMEOUT, ServerProgram

from sockjs_tornado.client import Backoff, connect
from sockjs_tornado.cluster import Publisher
from sockjs_tornado.exceptions import ClusterUnavailable

from .redis_server import RedisServer

ROOM = "ticks"
SECRET = "what the nodes have in common"
#: A history that holds all of a test's messages.
ALL = 10_000


def example_client() -> Any:
    """Return the module of the example's client."""
    path = ROOT / "examples/recovery/client.py"
    spec = importlib.util.spec_from_file_location("recovery_client", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recovery = example_client()


class Nodes:
    """Two servers of the example, and their Redis server.

    Attributes:
        redis: The Redis server.
        ports: The ports of the servers.
        complaints: Texts, one of which must be in each line that they log during a test.
    """

    def __init__(self, redis: RedisServer, programs: list[ServerProgram]) -> None:
        self.redis = redis
        self.ports = [program.ports[0] for program in programs]
        # A send to a session that has just ended is rejected; so is, without Redis, a send to a session whose owner
        # cannot be determined.
        self.complaints = ["404 POST /recovery/sockjs/", "503 POST /recovery/sockjs/"]

    def publish(self, *numbers: int, history: int = ALL) -> None:
        """Publish numbers like a program without a router."""
        with Publisher(self.redis.url, secret=SECRET) as publisher:
            for number in numbers:
                publisher.publish(ROOM, {"tick": number}, history=history)


@pytest.fixture(scope="module")
def programs(module_redis: RedisServer) -> Iterator[list[ServerProgram]]:
    """Run the servers for all tests; they must exit cleanly."""
    with contextlib.ExitStack() as life:
        running = []
        for _ in range(2):
            address = f"http://127.0.0.1:{life.enter_context(reserved_port())}"
            arguments = ("--port", "0", "--redis", module_redis.url, "--advertise", address, "--secret", SECRET)
            running.append(ServerProgram("examples/recovery/server.py", *arguments, "--every", "0"))
            life.callback(running[-1].stop)
        yield running
        assert [program.stop()[:2] for program in running] == [(0, "")] * 2


@pytest.fixture
async def nodes(module_redis: RedisServer, programs: list[ServerProgram]) -> AsyncIterator[Nodes]:
    """Return the servers, without messages; they must log nothing unexpected during the test."""
    # After a test without Redis: each server has two connections, and this command needs one.
    await until(lambda: module_redis.command("INFO", "clients")["connected_clients"] >= 5)
    module_redis.command("DEL", f"sockjs:history:{ROOM}")
    before = [program.errors_since(0)[1] for program in programs]
    nodes = Nodes(module_redis, programs)
    yield nodes
    for program, position in zip(programs, before, strict=True):
        lines = program.errors_since(position)[0].splitlines()
        assert [line for line in lines if not any(text in line for text in nodes.complaints)] == []


class Roundabout(Link):
    """A link that connects to a random node each time."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        super().__init__(0)

    @property
    def _target(self) -> int:
        return random.choice(self._ports)

    @_target.setter
    def _target(self, port: int) -> None:
        pass


class Reader:
    """A client that follows the room over its own link.

    Attributes:
        link: The link.
        heard: The numbers, in the order of their arrival, and "lost" for each report of a loss.
        ways: The sources of the messages.
    """

    def __init__(self, ports: list[int]) -> None:
        self.link = Roundabout(ports)
        self.heard: list[Any] = []
        self.ways: set[str] = set()
        self._changed = asyncio.Event()

    def _note(self, what: Any) -> None:
        self.heard.append(what)
        self._changed.set()

    def _message(self, data: Any, offset: int, how: str) -> None:
        self.ways.add(how)
        self._note(data["tick"])

    @contextlib.asynccontextmanager
    async def reading(self, transport: str) -> AsyncIterator["Reader"]:
        """Follow while the context is open."""
        await self.link.listen()
        self.follower = recovery.Follower(ROOM, self._message, lambda: self._note("lost"))
        url = f"http://127.0.0.1:{self.link.port}/recovery/sockjs"
        backoff = Backoff(initial=0.02, maximum=0.2)
        try:
            async with connect(
                url, transports=[transport], transport_timeout=20, reconnect=backoff, on_reconnect=self.follower.follow
            ) as client:
                running = asyncio.ensure_future(self.follower.run(client))
                yield self
                await client.close()
                await within(running)
        finally:
            await self.link.close()

    async def until_last(self, what: Any) -> None:
        """Wait until this is the last received number."""
        async with asyncio.timeout(TIMEOUT):
            while self.heard[-1:] != [what]:
                self._changed.clear()
                await self._changed.wait()

    async def until_followed(self) -> None:
        """Wait for the response to the first request."""
        await until(lambda: self.follower.position is not None)


Read = Callable[[str], Awaitable[Reader]]


@pytest.fixture
async def read(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Read]:
    """Return a function that starts a client: `reader = await read("websocket")`."""
    # The clients warn of the outages of the tests.
    monkeypatch.setattr(logging.getLogger("sockjs_tornado.client.connection"), "disabled", True)
    async with contextlib.AsyncExitStack() as life:

        async def begin(transport: str) -> Reader:
            return await life.enter_async_context(Reader(nodes.ports).reading(transport))

        yield begin


async def away(reader: Reader) -> None:
    """Cut a client's connection, and prevent a reconnect."""
    await reader.link.refuse()
    reader.link.cut()


async def disturb(readers: list[Reader], publishing: asyncio.Future[int], also: Callable[[], object]) -> int:
    """Cut one connection after the other while numbers are published, each at least once; return the next number."""
    for cuts, reader in enumerate(itertools.cycle(readers)):
        if cuts >= len(readers) and publishing.done():
            break
        await asyncio.sleep(random.uniform(0.01, 0.15))
        reader.link.cut()
        also()
    return await publishing


async def publish_slowly(nodes: Nodes, first: int, count: int) -> int:
    """Publish numbers, in bursts of all sizes, until so many are stored; return the next number."""
    number, stored = first, 0
    while stored < count:
        burst = range(number, number + min(random.randint(1, 20), count - stored))
        with contextlib.suppress(ClusterUnavailable):
            await asyncio.to_thread(nodes.publish, *burst)
            stored += len(burst)
        number = burst.stop
        await asyncio.sleep(random.uniform(0, 0.05))
    return number


@pytest.mark.parametrize("transport", ["websocket", "xhr_streaming", "eventsource", "xhr"])
async def test_clients_that_lose_connections_get_each_message_once_and_in_order(
    nodes: Nodes, read: Read, transport: str
) -> None:
    nodes.publish(1)
    readers = [await read(transport) for _ in range(4)]
    for reader in readers:
        await reader.until_last(1)
    nodes.publish(2)
    for reader in readers:
        await reader.until_last(2)
        assert "live" in reader.ways
    await away(readers[0])
    nodes.publish(3)
    await readers[0].link.listen()
    await readers[0].until_last(3)
    assert "recovered" in readers[0].ways
    publishing = asyncio.ensure_future(publish_slowly(nodes, 4, 397))
    assert await disturb(readers, publishing, also=lambda: None) == 401
    for reader in readers:
        await reader.until_last(400)
        assert reader.heard == list(range(1, 401))


async def test_no_message_is_lost_when_the_servers_lose_redis(nodes: Nodes, read: Read) -> None:
    nodes.complaints.append("reconnecting")
    nodes.publish(1)
    readers = [await read(transport) for transport in ("websocket", "xhr_streaming", "xhr")]
    for reader in readers:
        await reader.until_last(1)
    publishing = asyncio.ensure_future(publish_slowly(nodes, 2, 200))
    kinds = itertools.cycle(["pubsub", "normal"])

    def cut_redis() -> None:
        nodes.redis.command("CLIENT", "KILL", "TYPE", next(kinds))

    last = await disturb(readers, publishing, also=cut_redis)
    nodes.publish(last)
    # Messages published while the publisher lost Redis may have been stored or not.
    late = await read("websocket")
    await late.until_last(last)
    assert len(late.heard) >= 202
    for reader in readers:
        await reader.until_last(last)
        assert reader.heard == late.heard


@pytest.mark.parametrize("transport", ["websocket", "xhr"])
async def test_a_client_that_was_away_for_longer_than_the_history_gets_a_report(
    nodes: Nodes, read: Read, transport: str
) -> None:
    nodes.publish(1)
    reader = await read(transport)
    await reader.until_last(1)
    nodes.publish(2, 3)
    await reader.until_last(3)
    await away(reader)
    nodes.publish(*range(4, 8), history=5)
    await reader.link.listen()
    await reader.until_last(7)
    assert reader.heard == [1, 2, 3, 4, 5, 6, 7]
    await away(reader)
    nodes.publish(*range(8, 20), history=5)
    await reader.link.listen()
    await reader.until_last(19)
    nodes.publish(20)
    await reader.until_last(20)
    assert reader.heard[7:] == ["lost", 15, 16, 17, 18, 19, 20]


async def test_a_connected_client_gets_a_report_when_redis_loses_its_data(nodes: Nodes, read: Read) -> None:
    nodes.complaints.append("reconnecting")
    nodes.publish(1, 2, 3)
    readers = [await read(transport) for transport in ("websocket", "xhr")]
    for reader in readers:
        await reader.until_last(3)
    nodes.redis.kill()
    nodes.redis.start()
    for reader in readers:
        await reader.until_last("lost")
    nodes.publish(4, 5)
    for reader in readers:
        await reader.until_last(5)
        assert reader.heard == [1, 2, 3, "lost", 4, 5]


async def test_a_disconnected_client_gets_a_report_when_redis_loses_its_data(nodes: Nodes, read: Read) -> None:
    nodes.complaints.append("reconnecting")
    nodes.publish(1, 2, 3)
    reader = await read("websocket")
    await reader.until_last(3)
    await away(reader)
    nodes.redis.kill()
    nodes.redis.start()
    # The offsets are the same as those of the lost messages.
    nodes.publish(4, 5, 6)
    await reader.link.listen()
    await reader.until_last(6)
    assert reader.heard == [1, 2, 3, "lost", 4, 5, 6]


async def test_a_client_that_connects_during_an_outage_is_served_after_it(nodes: Nodes, read: Read) -> None:
    nodes.complaints.append("reconnecting")
    nodes.redis.kill()
    reader = await read("websocket")
    nodes.redis.start()
    await reader.until_followed()
    nodes.publish(1, 2)
    await reader.until_last(2)
    assert reader.heard == [1, 2]


async def test_a_room_without_messages_is_followed_from_the_first_one(nodes: Nodes, read: Read) -> None:
    reader = await read("websocket")
    await reader.until_followed()
    nodes.publish(1, 2)
    await reader.until_last(2)
    assert reader.heard == [1, 2]
    assert reader.ways == {"live"}


@pytest.mark.parametrize(
    "request_",
    [
        "hello",
        "[" * 100_000,
        '{"type": "follow", "room": "others", "id": 1}',
        '{"type": "follow", "room": "ticks"}',
        '{"type": "follow", "room": "ticks", "id": 1, "offset": 1}',
        '{"type": "follow", "room": "ticks", "id": 1, "offset": true, "epoch": ""}',
        '{"type": "follow", "room": "ticks", "id": 1, "offset": 1.5, "epoch": ""}',
        '{"type": "follow", "room": "ticks", "id": 1, "offset": 1, "epoch": null}',
    ],
    ids=range(8),
)
async def test_invalid_requests_are_rejected(nodes: Nodes, request_: str) -> None:
    async with connect(f"http://127.0.0.1:{nodes.ports[0]}/recovery/sockjs") as client:
        await client.send(request_)
        assert (await within(client.recv()))["type"] == ("refused" if "others" in request_ else "error")


@pytest.mark.parametrize("offset", [-1, 10**30])
async def test_an_impossible_position_is_a_loss(nodes: Nodes, offset: int) -> None:
    nodes.publish(1)
    async with connect(f"http://127.0.0.1:{nodes.ports[0]}/recovery/sockjs") as client:
        await client.send(f'{{"type": "follow", "room": "ticks", "id": 7, "offset": {offset}, "epoch": "\\ud800"}}')
        answer = await within(client.recv())
        assert (answer["type"], answer["id"], answer["lost"]) == ("caught up", 7, True)
        assert answer["messages"] == [[1, {"tick": 1}]]
