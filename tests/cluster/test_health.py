"""Nodes that accept connections and do not respond."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from application import LogWatch
from client import STREAMING, asking, first_frame, until, within

from .conftest import Start
from .node import Node

LOST = 'c[1002,"Connection interrupted"]'


class Hung:
    """A Unix socket whose process does not respond.

    Attributes:
        path: Its path.
        is_stopped: Whether it was stopped.
        heads: The first line of the request on each connection.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.heads: list[bytes] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.is_stopped = False

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._accept, self.path)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self.is_stopped:
            # It was accepted just before.
            writer.transport.abort()
        self.heads.append(await reader.readline())
        # Until the other side closes the connection.
        await reader.read(-1)
        writer.close()

    @property
    def accepted(self) -> int:
        """The number of connections."""
        return len(self._writers)

    @property
    def relayed(self) -> int:
        """The number of relayed requests."""
        return sum(b"/-/call/" not in head for head in self.heads)

    async def stop(self) -> None:
        """Close the socket and all connections."""
        self.is_stopped = True
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()
        # From Python 3.13 on, the server has removed it.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


@pytest.fixture
async def hung(start: Start, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Hung, list[Node]]]:
    """Return a hung worker, and all workers: the first one has ended, and the hung one has its address."""
    # It never responds, however long the others wait.
    monkeypatch.setattr("sockjs_tornado.cluster.health.PROBE_INTERVAL", 0.05)
    monkeypatch.setattr("sockjs_tornado.cluster.health.PROBE_TIMEOUT", 0.1)
    nodes = await start()
    await within(nodes[0].cluster.close())
    server = Hung(nodes[0].router.relay._node.owner.address)  # type: ignore[union-attr]
    await server.start()
    yield server, nodes
    if not server.is_stopped:
        await server.stop()


def monitor(node: Node) -> Any:
    """Return a node's monitor."""
    return node.router.relay._node.health  # type: ignore[union-attr]


async def test_clients_of_a_hung_node_are_notified_until_it_responds(
    hung: tuple[Hung, list[Node]], logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, (owner, other, _) = hung
    probes = []
    identify = monitor(other)._identify

    async def note(upstream: Any, owner: Any, seconds: float) -> Any:
        probes.append(seconds)
        return await identify(upstream, owner, seconds)

    monkeypatch.setattr(monitor(other), "_identify", note)
    sessions = [owner.own() for _ in range(3)]
    answers = [other.poll(sessions[0]), other.poll(sessions[1], "jsonp"), other.send(sessions[2], "x")]
    assert await within(asyncio.gather(*answers)) == [LOST, LOST, 404]
    text = logged.take("does not respond").getMessage()
    assert f"Node {server.path} does not respond; closed 3 requests" in text
    assert "whether its host can be reached" not in text
    assert other.stats["relay_unresponsive"] == 1
    # Further requests are not sent to it. Those for other nodes are not affected.
    assert server.relayed == 3
    assert await other.poll(owner.own(), "jsonp") == LOST
    assert await other.send(owner.own(), "x") == 404
    assert server.relayed == 3
    assert await other.poll(other.own()) == "o"
    # It is probed all the time, so that it is used again as soon as it responds. Now it may take its time.
    monkeypatch.setattr("sockjs_tornado.cluster.health.PROBE_TIMEOUT", 1000)
    # If it was accepted just before the server is closed, asyncio forgets the connection, and the probe waits for it.
    await until(lambda: 1000 in probes and server.accepted == 3 + len(probes))
    await server.stop()
    await within(owner.cluster.start())
    await until(lambda: not any(node.failed for node in monitor(other)._nodes.values()))
    assert await other.poll(sessions[0]) == "o"
    assert await other.send(sessions[0], "y") == 204


async def test_a_hung_node_that_nobody_needs_is_forgotten(
    hung: tuple[Hung, list[Node]], logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (owner, other, _) = hung
    monkeypatch.setattr("sockjs_tornado.cluster.health.FORGET_TIME", 0)
    assert await other.poll(owner.own()) == LOST
    logged.take("does not respond")
    await until(lambda: not monitor(other)._nodes)


async def test_a_request_on_a_connection_that_has_just_become_idle_is_watched(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be sent before the node knows that the response to the last request has arrived."""
    owner, other, _ = await start()
    forwarder = other.router.relay._forwarder  # type: ignore[union-attr]
    send_now, put_back = forwarder.send_now, other.upstreams.put_back
    sessions = [owner.own(), owner.own()]
    held: list[Any] = []
    sent: list[bool] = []

    def hold(request: Any, fallback: Any) -> bool:
        if sessions[1] not in request.key:
            return bool(send_now(request, fallback))
        held.append((request, fallback))
        return True

    def put_back_and_send(upstream: Any) -> None:
        put_back(upstream)
        if held:
            sent.append(send_now(*held.pop()))

    for session in sessions:
        assert await other.poll(session) == "o"
    monkeypatch.setattr(forwarder, "send_now", hold)
    monkeypatch.setattr(other.upstreams, "put_back", put_back_and_send)
    connection = await owner.journal.connection()
    async with other.client() as first, other.client() as second:
        first.write(asking("xhr", f"/echo/000/{sessions[0]}"))
        second.write(asking("xhr", f"/echo/000/{sessions[1]}"))
        await until(lambda: held and connection.session._receiver)
        connection.send("x")
        assert (await first.response()).body == b'a["x"]\n'
        assert sent == [True]
        assert [len(node.upstreams) for node in monitor(other)._nodes.values()] == [1]


@pytest.mark.parametrize("transport", STREAMING)
async def test_streams_of_a_hung_node_end(
    start: Start, logged: LogWatch, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    owner, other, _ = await start()
    monkeypatch.setattr("sockjs_tornado.cluster.health.PROBE_INTERVAL", 0.05)
    async with other.client() as client:
        client.write(asking(transport, f"/echo/000/{owner.own()}"))
        assert await first_frame(client, transport) == "o"
        connection = await owner.journal.connection()
        probes = 0
        identify = monitor(other)._identify

        async def hang(*arguments: Any) -> None:
            nonlocal probes
            probes += 1
            raise TimeoutError

        # The process responds to no probe, but keeps its connections.
        monkeypatch.setattr(monitor(other), "_identify", hang)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            # Not at the end of the response, since there is none.
            await within(client.chunk())
        logged.take("does not respond; closed 1 requests")
        assert (await connection.closed())[0] == 1002
        # It is logged once, until it responds again.
        await until(lambda: probes > 2)
        monkeypatch.setattr(monitor(other), "_identify", identify)
        await until(lambda: not any(node.failed for node in monitor(other)._nodes.values()))
    assert other.stats["relay_unresponsive"] == 1


async def test_a_node_that_responds_to_probes_may_take_its_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sockjs_tornado.cluster.health.PROBE_INTERVAL", 0.01)
    monkeypatch.setattr("sockjs_tornado.cluster.health.PROBE_TIMEOUT", 1000)
    owner, other, _ = await start()
    session = owner.own()
    assert await other.poll(session) == "o"
    connection = await owner.journal.connection()
    probes = 0
    identify = monitor(other)._identify

    async def count(*arguments: Any) -> Any:
        nonlocal probes
        reply = await identify(*arguments)
        probes += 1
        return reply

    monkeypatch.setattr(monitor(other), "_identify", count)
    waiting = asyncio.ensure_future(other.poll(session))
    await until(lambda: probes > 2)
    assert not waiting.done()
    connection.send("x")
    assert await within(waiting) == 'a["x"]'
    # Without requests there are no probes.
    await until(lambda: not monitor(other)._nodes)


@pytest.mark.parametrize(
    ("error", "is_failed"),
    [
        (TimeoutError(), True),
        (OSError(113, "no route"), True),
        (ConnectionRefusedError(111, "refused"), False),
        (OSError(24, "too many open files"), False),
    ],
)
async def test_only_a_node_that_cannot_be_reached_has_failed(
    hung: tuple[Hung, list[Node]],
    logged: LogWatch,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    is_failed: bool,
) -> None:
    _, (owner, other, _) = hung
    opened = 0
    really_open = other.upstreams.open

    async def fail(address: str) -> Any:
        nonlocal opened
        opened += 1
        if opened == 1:
            return await really_open(address)
        raise error

    monkeypatch.setattr(other.upstreams, "open", fail)
    asked = asyncio.ensure_future(other.poll(owner.own()))
    if is_failed:
        assert await within(asked) == LOST
        assert "whether its host can be reached" in logged.take("does not respond").getMessage()
    else:
        await until(lambda: opened > 3)
        assert not asked.done()
        monkeypatch.undo()
        asked.cancel()
        await asyncio.wait([asked])
