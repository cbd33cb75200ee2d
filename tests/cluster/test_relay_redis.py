"""Requests that reach any node, if the owners of sessions are in Redis."""

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from application import LogWatch, Noted, Serve
from client import POLLING, RECEIVING, asking, first_frame, new_session, sending, unframe, until, within
from tornado.httpserver import HTTPServer
from tornado.web import Application

from sockjs_tornado.cluster.claims import CLAIM_TIME
from sockjs_tornado.session.ended import ENDED_TIME
from sockjs_tornado.session.states import RouterState
from sockjs_tornado.wire.budget import UNCOUNTED_BYTES

from .node import Member, Node
from .redis_server import RedisServer

LOST = 'c[1002,"Connection interrupted"]'
STILL_OPEN = 'c[2010,"Another connection still open"]'

Start = Callable[..., Awaitable[list[Node]]]


@pytest.fixture
async def start(serve: Serve, redis_server: RedisServer) -> AsyncIterator[Start]:
    """Return a function that starts nodes: ``a, b = await start(2, {"verify_ip": True})``."""
    nodes: list[Node] = []

    async def begin(count: int = 3, settings: dict[str, Any] | None = None, **options: Any) -> list[Node]:
        made = []
        for _ in range(count):
            member = Member(redis_server.url, f"node-{len(nodes)}", **options)
            node = Node(member, settings or {}, Noted, "/echo")
            await member.start()
            node.server = await serve(node.router)
            nodes.append(node)
            made.append(node)
        return made

    yield begin
    for node in nodes:
        await within(node.cluster.close())
    for node in nodes:
        await until(lambda node: not node.upstreams.all, node)


def key(session: str) -> str:
    """Return a claim's key."""
    return f"test:session:/echo:{session}"


def remaining(redis: RedisServer, session: str) -> int:
    """Return the seconds until a claim expires."""
    seconds = redis.command("TTL", key(session))
    assert isinstance(seconds, int)
    return seconds


async def poll_ended(node: Node, session: str, transport: str = "xhr") -> str:
    """Poll for a frame of an ended session, and return its only frame."""
    body = (await node.ask(asking(transport, f"/echo/000/{session}"))).body
    # Streams have a prelude.
    begins = {"xhr_streaming": b"h\n", "eventsource": b"\r\n", "htmlfile": b"\r\n\r\n"}.get(transport, b"")
    return unframe(transport, body.partition(begins)[2] if begins else body)


async def finish(node: Node, session: str) -> None:
    """Let a session time out."""
    found = node.router.get_session(session)
    assert found is not None
    found.close()
    found.check(found.due)
    assert node.router.get_session(session) is None


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_session_is_used_through_any_node(start: Start, redis_server: RedisServer, transport: str) -> None:
    a, b, c = await start()
    session = new_session()
    base = f"/echo/000/{session}"
    async with a.client() as first, b.client() as second:
        first.write(asking(transport, base))
        assert await first_frame(first, transport) == "o"
        connection = await a.journal.connection()
        assert redis_server.command("GET", key(session)) == a.cluster.claims._value(f"/echo:{session}")
        assert await c.send(session, "x", transport) == (200 if transport == "jsonp" else 204)
        assert await connection.message() == "x"
        if transport in POLLING:
            second.write(asking(transport, base))
            connection.send("y")
            assert unframe(transport, (await second.response()).body) == 'a["y"]'
        else:
            connection.send("y")
            assert unframe(transport, await first.chunk()) == 'a["y"]'
        connection.close()
    if transport in POLLING:
        assert await c.poll(session, transport) == 'c[3000,"Go away!"]'
    await finish(a, session)
    assert await poll_ended(b, session, transport) == 'c[3000,"Go away!"]'
    assert await c.send(session, "x", transport) == 404
    assert [len(node.router.container) for node in (a, b, c)] == [0, 0, 0]
    assert len(a.cluster.claims) == 0
    # No other node can open it meanwhile.
    assert CLAIM_TIME < remaining(redis_server, session) <= ENDED_TIME


async def test_six_first_requests_at_once(start: Start) -> None:
    nodes = await start()
    for _ in range(20):
        data = asking("xhr_streaming", f"/echo/000/{new_session()}")
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(node.client()) for node in nodes * 2]
            for client in clients:
                client.write(data)
            first = [first_frame(client, "xhr_streaming") for client in clients]
            assert sorted(await within(asyncio.gather(*first))) == [STILL_OPEN] * 5 + ["o"]


async def test_concurrent_first_polls_some_of_which_disconnect(start: Start, redis_server: RedisServer) -> None:
    """Whoever disconnects, whenever: no unused session is left, and the remaining clients have the session."""
    nodes = await start(settings={"disconnect_delay": 0.1})
    for delay in range(12):
        session = new_session()
        data = asking("xhr", f"/echo/000/{session}")
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(node.client()) for node in nodes * 2]
            for client in clients:
                client.write(data)
            for _ in range(delay):
                await asyncio.sleep(0)
            for client in clients:
                await client.leave()
        await until(lambda: not any(len(node.router.container) for node in nodes))
        await until(lambda: not any(len(node.cluster.claims) for node in nodes))
    # The ids of those that were opened stay claimed for a while.
    keys = redis_server.command("KEYS", "test:session:*")
    assert isinstance(keys, list)
    assert all(0 < redis_server.command("TTL", name) <= ENDED_TIME for name in keys)


async def test_a_disconnect_during_a_claim(start: Start, redis_server: RedisServer) -> None:
    a, b = await start(2)
    session = new_session()
    redis_server.freeze()
    try:
        async with a.client() as client, b.client() as other:
            for each in (client, other):
                each.write(asking("xhr", f"/echo/000/{session}"))
            await until(lambda: a.cluster.claims._pending and b.cluster.claims._pending)
            await client.leave()
            async with a.client() as another:
                assert (await another.ask("GET", "/not-there")).status == 404
            redis_server.thaw()
            # Whichever claim was first.
            assert (await other.response()).body in (b"o\n", LOST.encode() + b"\n")
    finally:
        redis_server.thaw()
    await until(lambda: not len(a.cluster.claims))
    assert len(a.router.container) == 0


async def test_a_disconnect_before_the_request_is_read_claims_nothing(start: Start, redis_server: RedisServer) -> None:
    (a,) = await start(1)
    async with a.client(plain=True) as client:
        client.write(asking("xhr", f"/echo/000/{new_session()}"))
        await client.leave()
    async with a.client() as another:
        assert (await another.ask("GET", "/not-there")).status == 404
    assert redis_server.command("KEYS", "test:session:*") == []
    assert not a.cluster.claims._pending


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "leaves"])
async def test_a_relayed_request_waits_for_the_owner_s_pending_claim(
    start: Start, redis_server: RedisServer, stays: bool
) -> None:
    """The other node gets the reply of Redis before the owner does."""
    a, b = await start(2)
    session = new_session()
    claims = a.cluster.claims
    may_go_on = asyncio.get_running_loop().create_future()
    claimed = claims._set

    def slow(name: str) -> Any:
        reply = claimed(name)

        async def wait() -> Any:
            answer = await reply
            await may_go_on
            return answer

        return asyncio.ensure_future(wait())

    claims._set = slow
    async with a.client() as first, b.client() as second:
        first.write(asking("xhr", f"/echo/000/{session}"))
        await until(lambda: redis_server.command("EXISTS", key(session)))
        second.write(asking("xhr", f"/echo/000/{session}"))
        await until(lambda: len(b.upstreams.all) == 1)
        async with a.client() as another:
            assert (await another.ask("GET", "/not-there")).status == 404
        assert len(a.router.container) == 0
        if not stays:
            await second.leave()
            await until(lambda: not b.upstreams.all)
        may_go_on.set_result(None)
        connection = await a.journal.connection()
        if not stays:
            assert (await first.response()).body == b"o\n"
            connection.send("x")
            assert await b.poll(session) == 'a["x"]'
            return
        bodies = asyncio.gather(first.response(), second.response())
        connection.send("x")
        assert {response.body for response in await within(bodies)} == {b"o\n", b'a["x"]\n'}


async def test_an_unknown_session(start: Start, redis_server: RedisServer) -> None:
    a, b = await start(2)
    for node in (a, b):
        assert await node.send(new_session(), "x") == 404
        assert await node.send(new_session(), "x", "jsonp") == 404
    assert redis_server.command("KEYS", "test:session:*") == []


async def test_an_ended_session_is_not_opened_again_for_a_minute(start: Start, redis_server: RedisServer) -> None:
    a, b, c = await start()
    session = new_session()
    assert await a.poll(session) == "o"
    for node in (b, c):
        assert await node.send(session, "x") == 204
    await finish(a, session)
    for node in (a, b, c):
        assert await node.poll(session) == 'c[3000,"Go away!"]'
        assert await node.send(session, "y") == 404
    # A client with another address learns nothing, on any node.
    response = await b.ask(asking("xhr", f"/echo/000/{session}"), source="127.0.0.2")
    assert response.body == b'c[1008,"Session was opened from another address"]\n'
    assert [len(node.router.container) for node in (a, b, c)] == [0, 0, 0]
    assert not any(node.stats["tombstones"] for node in (a, b, c))
    # Later the node and Redis forget it. Nodes that have cached the owner look it up again.
    a.router.container._ended._now = lambda: time.monotonic() + ENDED_TIME
    redis_server.command("DEL", key(session))
    assert await b.poll(session) == "o"
    assert await c.send(session, "z") == 204
    assert await (await b.journal.connection()).message() == "z"


async def test_a_session_that_its_node_has_forgotten_too_early_is_lost(start: Start) -> None:
    """Too many sessions have ended there since."""
    a, b = await start(2)
    session = new_session()
    assert await a.poll(session) == "o"
    await finish(a, session)
    a.router.container._ended.discard(session)
    assert await b.poll(session) == LOST
    await until(lambda: b.stats["tombstones"] == 1)
    assert await a.poll(session) == LOST


async def test_an_ended_session_of_a_stopped_node(start: Start) -> None:
    a, b, c = await start()
    session = new_session()
    assert await a.poll(session) == "o"
    await finish(a, session)
    await within(a.cluster.close())
    for node in (b, c):
        assert await node.poll(session) == LOST
        assert await node.send(session, "x") == 404


async def test_a_node_is_restarted_at_the_same_address(start: Start, redis_server: RedisServer) -> None:
    a, b, c = await start()
    sessions = [new_session() for _ in range(3)]
    for session in sessions:
        assert await a.poll(session) == "o"
    assert await b.send(sessions[0], "x") == 204
    await within(a.cluster.vanish())
    (again,) = await start(1, advertise=a.cluster.advertise)
    # One whose owner was cached, and one whose owner was not.
    assert await b.poll(sessions[0]) == LOST
    assert await b.poll(sessions[1]) == LOST
    assert await b.send(sessions[2], "x") == 404
    assert again.stats["relay_misdirected"] >= 3
    await until(lambda: b.stats["tombstones"] == 3)
    for node in (b, c, again):
        for session in sessions:
            assert await node.poll(session) == LOST
            assert await node.send(session, "x") == 404
    assert b" - " in redis_server.command("GET", key(sessions[0]))


@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_node_is_gone(start: Start, monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
    # Do not wait for the timeout.
    for limit in (
        "node.CONNECT_TIMEOUT",
        "upstream.CONNECT_TIMEOUT",
        "node.HANDOFF_TIMEOUT",
        "peers._RESPONSE_TIMEOUT",
    ):
        monkeypatch.setattr(f"sockjs_tornado.cluster.{limit}", 1000)
    a, b, c = await start()
    session, other = new_session(), new_session()
    for each in (session, other):
        assert await a.poll(each) == "o"
    async with b.client() as client:
        client.write(asking(transport, f"/echo/000/{session}"))
        if transport not in POLLING:
            await client.head()
        await until(lambda: a.router.container.get(session)._receiver)  # type: ignore[union-attr]
        for found in a.router.container:
            if transport not in POLLING and found._receiver is not None:
                found._receiver.transport.abort()  # type: ignore[attr-defined]
        await within(a.cluster.vanish())
        if transport in POLLING:
            assert unframe(transport, (await client.response()).body) == LOST
        else:
            await client.rest()
    assert await b.poll(session) == LOST
    assert await c.poll(other) == LOST
    assert await b.send(other, "x") == 404
    await until(lambda: b.stats["tombstones"] + c.stats["tombstones"] == 2)


async def test_a_node_that_has_the_router_no_longer(start: Start, logged: LogWatch) -> None:
    """It is not taken for another program."""
    a, b = await start(2)
    session = new_session()
    assert await a.poll(session) == "o"
    # So that the owner is known, and there is an idle connection.
    assert await b.send(session, "x") == 204
    rules = a.router.relay._node._application.wildcard_router.rules  # type: ignore[union-attr]
    del rules[1:]
    assert await b.poll(session) == LOST
    assert logged.records == []


async def test_another_program_at_the_address_of_a_node(
    start: Start, logged: LogWatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its response is none of the session."""
    caplog.set_level(logging.INFO, "sockjs_tornado.cluster.relay")
    a, b = await start(2)
    sessions = [new_session() for _ in range(3)]
    for session in sessions:
        assert await a.poll(session) == "o"
        # So that the owner is known, and there is an idle connection.
        assert await b.send(session, "x") == 204
    address = a.router.relay._node.owner.address  # type: ignore[union-attr]
    await within(a.cluster.vanish())
    other = HTTPServer(Application([], log_function=lambda handler: None))
    other.listen(urlsplit(address).port or 0, "127.0.0.1")
    for session in sessions[:2]:
        assert (await b.ask(asking("xhr", f"/echo/000/{session}"))).status == 503
    assert logged.take("Another program than node").getMessage().startswith(f"Another program than node {address} ")
    assert len(b.router.relay._owner_cache) == 1  # type: ignore[union-attr]
    other.stop()
    await other.close_all_connections()
    assert await b.poll(sessions[2]) == LOST
    assert f"Cannot connect to node {address}: [Errno 111]" in caplog.text
    assert b.stats["relayed"] == 3


async def test_a_draining_node_opens_no_session(start: Start, redis_server: RedisServer) -> None:
    a, b, c = await start(3, {"disconnect_delay": 30})
    session, mine = new_session(), [new_session() for _ in range(2)]
    assert await a.poll(session) == "o"
    for each in mine:
        assert await b.poll(each) == "o"
    draining = asyncio.ensure_future(b.router.drain(0))
    await until(lambda: b.router.container.state >= RouterState.CLOSING)
    assert await b.send(session, "x") == 204
    response = await b.ask(asking("xhr", f"/echo/000/{new_session()}"))
    assert (response.status, "Retry-After" in response) == (503, True)
    assert await b.send(new_session(), "x") == 404
    # Its own sessions are served through other nodes until the end.
    for each in mine:
        assert await a.poll(each) == 'c[1012,"Service restart"]'
    await within(draining)
    assert all(remaining(redis_server, each) > CLAIM_TIME for each in mine)
    # No other node opens its sessions, neither before nor after it has stopped.
    assert (await c.ask(asking("xhr", f"/echo/000/{mine[0]}"))).status == 503
    await within(b.cluster.close())
    for node, each in zip((a, c), mine, strict=True):
        assert await node.poll(each) == LOST
        assert await node.send(each, "x") == 404


async def test_a_closing_router_opens_no_session(start: Start, redis_server: RedisServer) -> None:
    (a,) = await start(1, {"disconnect_delay": 30})
    session = new_session()
    assert await a.poll(session) == "o"
    redis_server.freeze()
    opening = asyncio.ensure_future(a.ask(asking("xhr", f"/echo/000/{new_session()}")))
    await until(lambda: a.cluster.claims._pending)
    closing = asyncio.ensure_future(a.router.close())
    await until(lambda: a.router.container.state >= RouterState.CLOSING)
    redis_server.thaw()
    assert (await within(opening)).status == 404
    assert (await a.ask(asking("xhr", f"/echo/000/{new_session()}"))).status == 404
    assert await a.poll(session) == 'c[3000,"Go away!"]'
    await within(closing)
    await until(lambda: redis_server.command("KEYS", "test:session:*") == [key(session).encode()])


async def test_a_node_with_the_largest_number_of_sessions(
    start: Start, redis_server: RedisServer, logged: LogWatch
) -> None:
    a, b = await start(2, {"max_sessions": 1})
    session, other = new_session(), new_session()
    assert await a.poll(session) == "o"
    response = await a.ask(asking("xhr", f"/echo/000/{other}"))
    assert (response.status, "Retry-After" in response) == (503, True)
    await until(lambda: redis_server.command("KEYS", "test:session:*") == [key(session).encode()])
    # Other nodes accept more.
    assert await b.poll(other) == "o"
    assert await a.send(other, "x") == 204
    responses = await asyncio.gather(*(a.ask(asking("xhr", f"/echo/000/{new_session()}")) for _ in range(5)))
    assert {response.status for response in responses} == {503}
    await until(lambda: len(a.cluster.claims) == 1)
    logged.take("max_sessions is reached")


async def lose(*nodes: Node) -> None:
    """Make nodes notice that Redis is unavailable, which they do with the next command."""
    for node in nodes:
        node.cluster.commands.submit("PING")
    await until(lambda: not any(node.cluster.commands.available for node in nodes))


@pytest.fixture
def away(redis_server: RedisServer, logged: LogWatch) -> Iterator[Callable[..., Awaitable[None]]]:
    """Return a function that stops Redis, at most until the end of the test."""
    lost = 0

    async def take_away(*nodes: Node) -> None:
        nonlocal lost
        redis_server.kill()
        await lose(*nodes)
        lost += len(nodes)

    yield take_away
    if redis_server._process is None:
        redis_server.start()
    for _ in range(lost):
        logged.take("reconnecting")


@pytest.mark.parametrize("on_redis_down", ["local", "reject"])
async def test_without_redis(
    start: Start, redis_server: RedisServer, away: Callable[..., Awaitable[None]], on_redis_down: str
) -> None:
    a, b = await start(2, on_redis_down=on_redis_down)
    session, unknown, new = new_session(), new_session(), new_session()
    for each in (session, unknown):
        assert await a.poll(each) == "o"
    assert await b.send(session, "x") == 204
    await away(a, b)
    # Sessions of this node, and those whose owner is cached, continue.
    assert await a.send(session, "x") == 204
    assert await b.send(session, "x") == 204
    assert await b.send(unknown, "x") == 503
    async with b.client() as client:
        client.write(asking("xhr", f"/echo/000/{new}"))
        response = await client.response()
    if on_redis_down == "reject":
        assert (response.status, "Retry-After" in response) == (503, True)
        assert b.router.stats.rejected == {"cluster": 2}
        assert len(b.cluster.claims) == 0
        return
    assert response.body == b"o\n"
    redis_server.start()
    # It is claimed as soon as possible.
    await until(lambda: redis_server.command("GET", key(new)) == b.cluster.claims._value(f"/echo:{new}"))
    await until(lambda: redis_server.command("GET", key(unknown)) == a.cluster.claims._value(f"/echo:{unknown}"))
    assert await a.send(new, "x") == 204
    assert await (await b.journal.connection()).message() == "x"
    assert await b.send(unknown, "x") == 204


async def test_a_disconnect_without_redis_claims_nothing(
    start: Start, away: Callable[..., Awaitable[None]], logged: LogWatch
) -> None:
    (a,) = await start(1, {"max_sessions": 1})
    assert await a.poll(new_session()) == "o"
    await away(a)
    assert (await a.ask(asking("xhr", f"/echo/000/{new_session()}"))).status == 503
    assert len(a.cluster.claims) == 1
    logged.take("max_sessions is reached")


async def test_two_nodes_that_open_one_session_without_redis(
    start: Start, redis_server: RedisServer, away: Callable[..., Awaitable[None]], logged: LogWatch
) -> None:
    a, b = await start(2)
    await away(a, b)
    session = new_session()
    connections = []
    for node in (a, b):
        assert await node.poll(session) == "o"
        connections.append(await node.journal.connection())
    redis_server.start()
    # One of them loses it after the reconnect.
    await until(lambda: any(connection.closes for connection in connections))
    loser = 0 if connections[0].closes else 1
    assert await connections[loser].closed() == (1002, "Connection interrupted")
    assert not connections[1 - loser].closes
    logged.take("another node has claimed it")
    assert [len(node.cluster.claims) for node in (a, b)] == ([0, 1] if loser == 0 else [1, 0])
    nodes = (a, b)
    assert await nodes[1 - loser].send(session, "x") == 204
    # Requests that reach the loser are relayed to the owner.
    assert await nodes[loser].send(session, "y") == 204
    assert [await connections[1 - loser].message() for _ in range(2)] == ["x", "y"]


@pytest.mark.parametrize("size", [1, 3 * UNCOUNTED_BYTES], ids=["a short message", "a long one"])
async def test_messages_before_a_disconnect_are_delivered(start: Start, size: int) -> None:
    a, b = await start(2)
    session = new_session()
    assert await a.poll(session) == "o"
    connection = await a.journal.connection()
    for number in range(10):
        async with b.client() as client:
            client.write(sending("xhr", f"/echo/000/{session}", f'["{str(number) * size}"]'))
            # The kernel has the close, but the server, in the same process, has not noticed it yet.
            client.writer.transport.set_write_buffer_limits(0)
            await within(client.writer.drain())
    assert sorted([await connection.message() for _ in range(10)]) == [str(number) * size for number in range(10)]


async def test_no_claim_is_left_if_the_application_fails(
    start: Start, redis_server: RedisServer, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    (a,) = await start(1)

    def fail(session: object) -> None:
        raise RuntimeError("no database")

    monkeypatch.setattr(a.router, "_connection", fail)
    response = await a.ask(asking("xhr", f"/echo/000/{new_session()}"))
    assert response.status == 500
    logged.take("Uncaught exception")
    assert len(a.cluster.claims) == 0
    await until(lambda: redis_server.command("KEYS", "test:session:*") == [])


async def test_nothing_is_claimed_above_a_limit(start: Start, redis_server: RedisServer, logged: LogWatch) -> None:
    a, b = await start(2, {"max_sessions": 1})
    session = new_session()
    assert await a.poll(session) == "o"
    before = sets(redis_server)
    response = await a.ask(asking("xhr", f"/echo/000/{new_session()}"))
    assert response.status == 503
    assert sets(redis_server) == before
    # Sessions of other nodes are still served.
    other = new_session()
    assert await b.poll(other) == "o"
    assert await a.send(other, "x") == 204
    logged.take("max_sessions is reached")


def sets(redis_server: RedisServer) -> Any:
    """Return how many keys were set, according to Redis."""
    statistics: Any = redis_server.command("INFO", "commandstats")
    return statistics["cmdstat_set"]["calls"]


@pytest.mark.parametrize(
    ("error", "status", "buried"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), 404, True),
        (TimeoutError(), 404, False),
        (OSError(errno.EHOSTUNREACH, "no route"), 404, False),
        (socket.gaierror(socket.EAI_AGAIN, "later"), 503, False),
        (OSError(errno.EMFILE, "too many"), 503, False),
    ],
)
async def test_a_tombstone_is_written_if_the_owner_is_certainly_gone(
    start: Start,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    logged: LogWatch,
    error: OSError,
    status: int,
    buried: bool,
) -> None:
    a, b = await start(2)
    session = new_session()
    assert await a.poll(session) == "o"

    async def fail(address: str) -> None:
        raise error

    monkeypatch.setattr(b.upstreams, "connect", fail)
    assert await b.send(session, "x") == status
    monkeypatch.undo()
    if buried:
        await until(lambda: b" - " in redis_server.command("GET", key(session)))
    else:
        assert await b.send(session, "y") == 204
    if status == 503:
        logged.take("Cannot connect to other nodes")
    elif not buried:
        logged.take("Unless it was stopped, check that this host can reach the address that it advertises")
