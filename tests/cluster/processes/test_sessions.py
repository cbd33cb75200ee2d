"""Clients whose every request reaches another node."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from client import Client, asking, new_session, sending, unframe, until
from deployment.conftest import Visit, leave
from deployment.visitor import Stream, exchange

from sockjs_tornado.session.ended import ENDED_TIME

from ..redis_server import RedisServer
from .nodes import Circle, Front, NodeProcess, front, nodes

TRANSPORTS = ("xhr", "xhr_streaming", "eventsource", "jsonp")
SESSIONS = 100
MESSAGES = [f"message {number} ☃" for number in range(20)]

BUSY = 'c[2010,"Another connection still open"]'


class Crowd:
    """Clients that exchange messages at the same time.

    Attributes:
        broken: The errors, one for each client that had one.
    """

    def __init__(self, visit: Visit, port: int) -> None:
        self.broken: list[str] = []
        self._visit = visit
        self._port = port
        self._round_trips = 0
        self._half = asyncio.Event()

    async def talk(self) -> None:
        """Run all clients until they have finished or failed."""
        results = await asyncio.gather(*map(self._one, range(SESSIONS)), return_exceptions=True)
        self.broken = [repr(result) for result in results if result is not None]
        # Release those who wait for the first half.
        self._half.set()

    async def half_of_it(self) -> None:
        """Wait until half of the messages have been echoed."""
        await self._half.wait()

    async def _one(self, number: int) -> None:
        visitor = await self._visit(TRANSPORTS[number % len(TRANSPORTS)], self._port, prefix="/echo").open()
        if number % 8 < len(TRANSPORTS):
            for message in MESSAGES:
                assert await exchange(visitor, message) == message
                self._count()
        else:
            for message in MESSAGES:
                await visitor.send(message)
                self._count()
            assert [await visitor.message() for _ in MESSAGES] == MESSAGES
        visitor.vanish()

    def _count(self) -> None:
        self._round_trips += 1
        if self._round_trips == SESSIONS * len(MESSAGES) // 2:
            self._half.set()


async def requests(servers: list[NodeProcess]) -> list[int]:
    """Return the number of requests that each node has answered."""
    return [(await node.report())["requests"] for node in servers]


async def test_sessions_work_on_all_nodes_at_once(three: list[NodeProcess], round_robin: Front, visit: Visit) -> None:
    crowd = Crowd(visit, round_robin.port)
    await crowd.talk()
    assert crowd.broken == []
    assert min(await requests(three)) > SESSIONS * len(MESSAGES) / 3


async def test_a_node_can_be_removed_while_another_is_added(circle: Circle, tmp_path: Path, visit: Visit) -> None:
    async with nodes(circle, 4) as servers:
        *first, fresh = servers
        with front(first, tmp_path) as proxy:
            crowd = Crowd(visit, proxy.port)
            talking = asyncio.create_task(crowd.talk())
            await crowd.half_of_it()
            await proxy.send_away(0)
            await proxy.call(fresh)
            await talking
            assert crowd.broken == []
            assert min(await requests([fresh])) > SESSIONS


async def first_frames(transport: str, clients: list[Client]) -> Counter[str]:
    """Request one new session on many connections at once; return the first frames, for polls all but one."""
    data = asking(transport, f"/echo/000/{new_session()}")
    for client in clients:
        client.write(data)

    async def answer(client: Client) -> str:
        if transport == "xhr":
            return unframe(transport, (await client.response()).body)
        assert (await client.head()).status == 200
        stream = Stream(client)
        await stream.until(b"\n")
        return unframe(transport, await stream.until(b"\n"))

    answers = [asyncio.ensure_future(answer(client)) for client in clients]
    # The first poll has its response, so that another one is waiting.
    for result in asyncio.as_completed(answers):
        await result
        if sum(one.done() for one in answers) == len(clients) - (transport == "xhr"):
            break
    for one in answers:
        one.cancel()
    return Counter(one.result() for one in answers if one.done() and not one.cancelled())


async def six_at_once(port: int, transport: str) -> Counter[str]:
    """Make six clients request a new session at once, and return what they receive."""
    clients = [await Client.connect(port) for _ in range(6)]
    try:
        return await first_frames(transport, clients)
    finally:
        await leave(clients)


@pytest.mark.parametrize(("transport", "busy", "number"), [("xhr_streaming", 5, 250), ("xhr", 4, 50)])
async def test_concurrent_requests_open_a_new_session_once(
    round_robin: Front, transport: str, busy: int, number: int
) -> None:
    for _ in range(number):
        assert await six_at_once(round_robin.port, transport) == {"o": 1, BUSY: busy}


async def test_clients_that_disconnect_at_any_moment_leave_nothing_behind(
    circle: Circle, redis: RedisServer, tmp_path: Path
) -> None:
    brief = Circle(circle.redis, circle.secret, "--disconnect-delay", "0.5", "--namespace", "brief")
    dice = random.Random(1)

    async def come_and_go(number: int) -> None:
        transport = TRANSPORTS[number % len(TRANSPORTS)]
        base = f"/echo/000/{new_session()}"
        clients = [await Client.connect(proxy.port) for _ in range(3)]
        for client in clients:
            client.write(asking(transport, base) if client is not clients[1] else sending(transport, base, '["a"]'))
            await asyncio.sleep(dice.uniform(0, 0.01))
        await leave(clients)

    async def is_nothing_left() -> bool:
        reports = [await node.report() for node in servers]
        return not any(report["sessions"] or report["claims"] for report in reports)

    async with nodes(brief) as servers:
        with front(servers, tmp_path) as proxy:
            for start in range(0, SESSIONS, 20):
                await asyncio.gather(*map(come_and_go, range(start, start + 20)))
        assert any([(await node.report())["journal"] for node in servers])
        await until(is_nothing_left)
    # Redis has only the claims of ended sessions, which remain for a minute.
    claims = redis.command("KEYS", "brief:session:*")
    assert isinstance(claims, list)
    assert all(redis.command("TTL", claim) <= ENDED_TIME for claim in claims)
    assert -1 not in [redis.command("TTL", claim) for claim in claims]


@pytest.fixture
async def strangers(circle: Circle, tmp_path: Path) -> AsyncIterator[Front]:
    """Return HAProxy in front of three nodes that do not form a cluster."""
    async with nodes(Circle("", circle.secret)) as servers:
        with front(servers, tmp_path) as proxy:
            yield proxy


async def test_without_a_cluster_both_would_fail(strangers: Front, visit: Visit) -> None:
    # This shows that the two tests above are meaningful.
    crowd = Crowd(visit, strangers.port)
    await crowd.talk()
    assert len(crowd.broken) == SESSIONS
    assert await six_at_once(strangers.port, "xhr_streaming") == {"o": 3, BUSY: 3}
