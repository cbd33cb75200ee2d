"""A stopping node hands off the clients whose requests it relays: their sessions continue through other nodes."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from application import Noted, RunningServer, Serve
from client import (
    POLLING,
    RECEIVING,
    STREAMING,
    TIMEOUT,
    Client,
    asking,
    messages_of,
    new_session,
    unframe,
    until,
    within,
)

from sockjs_tornado import SockJSRouter
from sockjs_tornado.cluster import node as module
from sockjs_tornado.cluster import upstream
from sockjs_tornado.cluster.forwarding import RelayedRequest
from sockjs_tornado.cluster.ownership import Owner, Ownership
from sockjs_tornado.cluster.secret import Secrets
from sockjs_tornado.cluster.upstream import UpstreamDisconnected
from sockjs_tornado.exceptions import ClusterError
from sockjs_tornado.session.states import RouterState

from .node import Member, Node, start_workers
from .redis_server import RedisServer

CUT = (1002, "Connection interrupted")

Start = Callable[..., Awaitable[list[Node]]]


@pytest.fixture(params=["unix", "redis"])
async def start(
    request: pytest.FixtureRequest, serve: Serve, module_redis: RedisServer, tmp_path: Path
) -> AsyncIterator[Start]:
    """Return a function that starts nodes: ``owner, other, third = await start({"disconnect_delay": 1})``."""
    nodes: list[Node] = []

    async def begin(settings: dict[str, Any] | None = None) -> list[Node]:
        if request.param == "unix":
            nodes.extend(await start_workers(serve, tmp_path / "workers", settings=settings))
            return nodes
        module_redis.command("FLUSHALL")
        for number in range(3):
            node = Node(Member(module_redis.url, f"node-{number}"), settings or {}, Noted, "/echo")
            nodes.append(node)
            await node.cluster.start()
            node.server = await serve(node.router)
        return nodes

    yield begin
    for node in nodes:
        await within(node.cluster.close())
    for node in nodes:
        await until(lambda node: not node.upstreams.all, node)
        assert len(relay_requests(node)) == 0


def relay_requests(node: Node) -> Any:
    """Return the requests that a node relays."""
    return node.router.relay._forwarder.requests  # type: ignore[union-attr]


async def open_session(owner: Node, session: str = "") -> tuple[str, Noted]:
    """Open a session through a node."""
    if not session:
        session = new_session() if isinstance(owner.cluster, Member) else owner.own()
    assert await owner.poll(session) == "o"
    return session, await owner.journal.connection()


async def listen(client: Client, transport: str, session: str, connection: Noted) -> None:
    """Start receiving messages, and wait until the session has a receiver."""
    client.write(asking(transport, f"/echo/000/{session}"))
    await until(lambda: connection.session._receiver)


async def read_to_end(client: Client, transport: str) -> None:
    """Read a response that ends properly and has no message."""
    if transport in POLLING:
        assert unframe(transport, (await client.response()).body) == "h"
    else:
        assert (await client.head()).status == 200
        await client.chunks()
        assert await client.rest() == b""


@pytest.mark.parametrize("how", ["close", "drain"])
@pytest.mark.parametrize("transport", RECEIVING)
async def test_sessions_of_other_nodes_continue(start: Start, transport: str, how: str) -> None:
    # Longer than the timeout of `within`: shutdown does not wait for the streams of other nodes' sessions.
    owner, other, third = await start({"disconnect_delay": 60})
    session, connection = await open_session(owner)
    async with other.client() as client, third.client() as again:
        await listen(client, transport, session, connection)
        assert len(relay_requests(other)) == 1
        ending = asyncio.ensure_future(other.router.close() if how == "close" else other.router.drain(0))
        await read_to_end(client, transport)
        await within(ending)
        await within(other.cluster.close())
        connection.send("meanwhile")
        again.write(asking(transport, f"/echo/000/{session}"))
        if transport in POLLING:
            assert unframe(transport, (await again.response()).body) == 'a["meanwhile"]'
        else:
            await again.head()
            await again.chunk()
            assert unframe(transport, await again.chunk()) == 'a["meanwhile"]'
        assert await third.send(session, "still here") == 204
        assert await connection.message() == "still here"
    assert other.stats["relayed"] == 1


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming"])
async def test_no_message_is_lost_or_repeated(start: Start, transport: str) -> None:
    owner, other, third = await start()
    session, connection = await open_session(owner)
    got: list[Any] = []
    ending: list[asyncio.Future[None]] = []

    async def send_messages() -> None:
        for number in range(300):
            connection.send(str(number))
            await asyncio.sleep(0)
            if number == 100:
                await until(lambda: other.stats["relayed"])
                ending.append(asyncio.ensure_future(other.router.drain(0)))

    async def hear_stream(node: Node) -> None:
        async with node.client() as client:
            client.write(asking("xhr_streaming", f"/echo/000/{session}"))
            if (await client.head()).status == 503:
                return
            await client.chunk()
            while data := await client.chunk():
                got.extend(messages_of(unframe("xhr_streaming", data)))
                if len(got) == 300:
                    return

    async def receive_messages() -> None:
        while len(got) < 300:
            node = other if not other.router.draining else third
            if transport == "xhr":
                response = await node.ask(asking("xhr", f"/echo/000/{session}"))
                # The node may have stopped already: a proxy would try another one.
                if response.status != 503 and (text := unframe("xhr", response.body)) != "h":
                    got.extend(messages_of(text))
            else:
                await hear_stream(node)

    await within(asyncio.gather(send_messages(), receive_messages()))
    await within(ending[0])
    assert got == [str(number) for number in range(300)]


async def test_a_draining_node_still_relays(start: Start) -> None:
    owner, other, third = await start({"disconnect_delay": 1})
    session, connection = await open_session(owner)
    # A client of its own session that does not reconnect, which the drain waits for.
    await open_session(other)
    async with other.client() as client:
        ending = asyncio.ensure_future(other.router.drain(0))
        await until(lambda: other.router.container.state >= RouterState.CLOSING)
        for number in range(3):
            client.write(asking("xhr", f"/echo/000/{session}"))
            connection.send(f"{number}")
            assert unframe("xhr", (await client.response()).body) == f'a["{number}"]'
            assert await other.send(session, f"{number}") == 204
            assert await connection.message() == f"{number}"
        assert not ending.done()
        # It is served until the end, and then handed off, too.
        await listen(client, "xhr", session, connection)
        assert unframe("xhr", (await client.response()).body) == "h"
        await within(ending)
        client.write(asking("xhr", f"/echo/000/{session}"))
        assert (await client.response()).status == 503
    connection.send("x")
    assert await third.poll(session) == 'a["x"]'


async def test_requests_that_arrive_at_the_end_are_rejected(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, other, third = await start()
    session, connection = await open_session(owner)
    connect, may_go_on, waiting = upstream.Upstreams.connect, asyncio.Event(), asyncio.Event()

    async def slow(upstreams: Any, address: str) -> Any:
        waiting.set()
        await may_go_on.wait()
        return await connect(upstreams, address)

    async with other.client() as client:
        with monkeypatch.context() as patched:
            patched.setattr(upstream.Upstreams, "connect", slow)
            client.write(asking("xhr", f"/echo/000/{session}"))
            await within(waiting.wait())
            await within(other.router.drain(0))
            may_go_on.set()
            assert (await client.response()).status == 503
    connection.send("x")
    assert await third.poll(session) == 'a["x"]'


async def test_many_sessions_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_SIZE", 7)
    nodes = await start()
    ending, *owners = nodes
    found = [await open_session(owner) for owner in owners for _ in range(8)]
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for number, (session, connection) in enumerate(found):
            transport = RECEIVING[number % len(RECEIVING)]
            client = await stack.enter_async_context(ending.client())
            await listen(client, transport, session, connection)
            clients.append((client, transport))
        finished = asyncio.ensure_future(ending.router.close())
        for client, transport in clients:
            await read_to_end(client, transport)
        await within(finished)
    assert not any(connection.is_closed for _, connection in found)


async def test_a_session_id_may_have_any_bytes(start: Start) -> None:
    owner, other, _ = await start()
    while True:
        session = f"\udcff☃{new_session()}"
        if isinstance(owner.cluster, Member) or owner.router.relay.owns(session):  # type: ignore[union-attr]
            break
    path = session.replace("\udcff", "%ff").replace("☃", "%e2%98%83")
    _, connection = await open_session(owner, path)
    assert connection.session.session_id == session
    async with other.client() as client:
        await listen(client, "xhr", path, connection)
        ending = asyncio.ensure_future(other.router.close())
        await read_to_end(client, "xhr")
        await within(ending)


async def test_only_responses_that_this_node_relays_are_recycled(start: Start) -> None:
    owner, other, third = await start()
    session, connection = await open_session(owner)
    _, connection_2 = found = await open_session(owner)
    async with third.client() as stays, other.client() as client:
        await listen(stays, "xhr", session, connection)
        await listen(client, "xhr", found[0], connection_2)
        ending = asyncio.ensure_future(other.router.close())
        await read_to_end(client, "xhr")
        await within(ending)
        connection.send("x")
        assert unframe("xhr", (await stays.response()).body) == 'a["x"]'


async def test_the_owner_is_gone(start: Start) -> None:
    owner, other, _ = await start()
    session, connection = await open_session(owner)
    async with other.client() as client:
        await listen(client, "xhr", session, connection)
        both = asyncio.gather(owner.cluster.close(), other.router.close())
        assert unframe("xhr", (await client.response()).body) in ("h", 'c[1002,"Connection interrupted"]')
        await within(both)


@pytest.mark.parametrize("why", ["too old", "stands still"])
async def test_an_owner_that_does_not_recycle_is_not_waited_for(
    start: Start, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(module, "HANDOFF_TIMEOUT", 0.2)
    owner, other, _ = await start()
    session, connection = await open_session(owner)
    membership: Any = owner.cluster
    node = membership.membership.node if isinstance(membership, Member) else membership._node
    if why == "too old":
        del node.rpcs["recycle"]
    else:
        node.rpcs["recycle"] = lambda body: b""
    async with other.client() as client:
        await listen(client, "xhr_streaming", session, connection)
        await within(other.router.close())
        assert connection.session._receiver
        await within(other.cluster.close())
        await client.rest()
        assert await connection.closed() == CUT


@pytest.mark.parametrize("transport", STREAMING)
async def test_a_slow_client_keeps_its_stream(start: Start, monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
    """If the response ended, the client would miss the data that it has not read, without notice."""
    monkeypatch.setattr(module, "HANDOFF_TIMEOUT", 0.2)
    owner, other, _ = await start({"response_limit": 1 << 30, "max_queue_bytes": 1 << 30})
    session, connection = await open_session(owner)
    async with other.client() as client:
        await listen(client, transport, session, connection)
        client.pause_reading()
        # More than all sockets on the way can buffer, so that the client does not catch up.
        while connection.session.queued < 32 << 20:
            connection.send("x" * 100_000)
            await asyncio.sleep(0)
        await within(other.router.close())
        assert connection.session._receiver
        await within(other.cluster.close())
        client.resume_reading()
        assert await connection.closed() == CUT


async def test_routers_do_not_affect_each_other(serve: Serve, tmp_path: Path) -> None:
    nodes = await start_workers(serve, tmp_path / "workers", 2, prefix="/echo")
    routers: list[SockJSRouter] = []
    servers: list[RunningServer] = []
    for node in nodes:
        routers.append(SockJSRouter(node.journal, "/echo:more"))
        node.cluster.add(routers[-1])
        servers.append(await serve(routers[-1]))
    # Both receive the request: the same session id may exist in both.
    owner, other = nodes
    session = next(name for name in iter(new_session, "") if routers[0].relay.owns(name))  # type: ignore[union-attr]
    base = f"/echo:more/000/{session}"
    for server in servers:
        client = await Client.connect(server.port)
        client.write(asking("xhr", base))
        if server is servers[0]:
            assert (await client.response()).body == b"o\n"
            connection = await owner.journal.connection()
            client.writer.transport.abort()
    await until(lambda: connection.session._receiver)
    await within(other.router.close())
    assert connection.session._receiver
    ending = asyncio.ensure_future(routers[1].close())
    assert (await client.response()).body == b"h\n"
    await within(ending)
    client.writer.transport.abort()
    for node in nodes:
        await within(node.cluster.close())


# Relayed requests without any node.


A, B = Owner("a", "/a"), Owner("b", "/b")


class RecordedCalls:
    """Records remote calls."""

    def __init__(self, *ends: Any) -> None:
        self.made: list[tuple[str, list[str]]] = []
        self.ends = list(ends)

    async def __call__(self, owner: Owner, name: str, body: bytes) -> bytes:
        assert name == "recycle"
        assert len(body) <= 512 * 1024
        self.made.append((owner.node, json.loads(body)))
        end = self.ends.pop(0) if self.ends else None
        if isinstance(end, BaseException):
            raise end
        if end is not None:
            await end()
        return b""


async def handoff_clients(found: set[RelayedRequest], calls: RecordedCalls) -> None:
    """Hand off clients of a node whose remote calls are recorded."""
    node = module.Node(Owner("x", ""), Secrets(b""), Ownership(), Counter(), False)
    node.rpc = calls  # type: ignore[method-assign]
    await node.handoff_clients(found)


def add(found: set[RelayedRequest], owner: Owner, key: str, receives: bool = True) -> RelayedRequest:
    """Register a request whose client receives messages, or sends some."""
    endpoint: Any = SimpleNamespace(opens_sessions=receives)
    exchange: Any = None
    request = RelayedRequest(key, owner, endpoint, exchange, b"")
    found.add(request)
    request.done.add_done_callback(lambda done: found.discard(request))
    return request


async def test_the_end_of_a_request_may_be_reported_twice() -> None:
    """Its connection closes while its response is sent."""
    found: set[RelayedRequest] = set()
    request = add(found, A, "/echo:1")
    request.stream_closed()
    request.release_exchange()
    assert request.done.done()
    await until(lambda: not found)


@pytest.mark.parametrize("error", [OSError(), TimeoutError(), UpstreamDisconnected(), ClusterError()])
async def test_the_call_is_repeated_because_a_request_may_arrive_after_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(module, "RETRY_INTERVAL", 0.001)

    async def end() -> None:
        request.release_exchange()

    calls = RecordedCalls(None, error, end)
    found: set[RelayedRequest] = set()
    request = add(found, A, "/echo:1")
    await within(handoff_clients(found, calls))
    assert calls.made == [("a", ["/echo:1"])] * 3
    assert len(found) == 0


async def test_owners_are_called_concurrently() -> None:
    both = asyncio.Barrier(2)

    async def end() -> None:
        await both.wait()
        while under_way:
            under_way.pop().release_exchange()

    calls = RecordedCalls(end, end)
    found: set[RelayedRequest] = set()
    under_way = [add(found, owner, f"/echo:{number}") for number in range(3) for owner in (A, B)]
    await within(handoff_clients(found, calls))
    assert sorted((name, sorted(keys)) for name, keys in calls.made) == [
        (name, ["/echo:0", "/echo:1", "/echo:2"]) for name in "ab"
    ]


async def test_an_owner_that_does_not_respond_does_not_delay_the_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANDOFF_TIMEOUT", 0.05)
    ended: list[str] = []

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("never")

    before = asyncio.all_tasks()
    found: set[RelayedRequest] = set()
    request = add(found, A, "/echo:1")
    await within(handoff_clients(found, RecordedCalls(never)))
    assert ended == ["never"]
    assert asyncio.all_tasks() == before
    request.release_exchange()


async def test_a_send_is_waited_for_without_a_call() -> None:
    calls = RecordedCalls()
    found: set[RelayedRequest] = set()
    sending = add(found, A, "/echo:1", receives=False)
    handing_off = asyncio.ensure_future(handoff_clients(found, calls))
    await asyncio.sleep(0)
    assert not handing_off.done()
    sending.release_exchange()
    await within(handing_off)
    assert calls.made == []


async def test_a_stream_is_relayed_until_its_connection_is_closed() -> None:
    request = add(set(), A, "/echo:1")
    request.is_streaming = True
    request.release_exchange()
    assert not request.done.done()
    request.stream_closed()
    assert request.done.done()


@pytest.mark.parametrize(("count", "length", "calls"), [(0, 1, 0), (200, 10, 1), (201, 10, 2), (3, 32_000, 3)])
async def test_calls_are_limited_in_size(monkeypatch: pytest.MonkeyPatch, count: int, length: int, calls: int) -> None:
    monkeypatch.setattr(module, "HANDOFF_TIMEOUT", 0.05)
    made = RecordedCalls()
    found: set[RelayedRequest] = set()
    keys = ["\udcff" * (length - 5) + f"{number:05}" for number in range(count)]
    # Each key twice: a second receiver may be present until it has been rejected.
    under_way = [add(found, A, key) for key in [*keys, *keys]]
    monkeypatch.setattr(module, "RETRY_INTERVAL", 1)
    await within(handoff_clients(found, made))
    assert len(made.made) == calls
    assert sorted(key for _, some in made.made for key in some) == keys
    for request in under_way:
        request.release_exchange()


async def test_without_requests_the_handoff_returns_immediately() -> None:
    calls = RecordedCalls()
    handing_off = handoff_clients(set(), calls)
    async with asyncio.timeout(TIMEOUT):
        await handing_off
    assert calls.made == []
