"""The relay's HTTP client, against servers on plain sockets that respond as each test requires."""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from application import Echo
from client import TIMEOUT, Connect, asking, settle, until, within
from hypothesis import given
from hypothesis import strategies as st

from sockjs_tornado import SockJSRouter
from sockjs_tornado.cluster import upstream as module
from sockjs_tornado.cluster.forwarding import Pipe, RelayedRequest
from sockjs_tornado.cluster.ownership import Owner
from sockjs_tornado.cluster.response_head import NotANode, parse_response_head
from sockjs_tornado.cluster.upstream import (
    MAX_IDLE,
    Response,
    Stream,
    Upstream,
    UpstreamDisconnected,
    Upstreams,
)
from sockjs_tornado.transports.receiving import ReceivingEndpoint

ASK = b"GET / HTTP/1.1\r\n\r\n"
# The fields that all responses of nodes have.
COMMON = b"Date: x\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
OK = b"HTTP/1.1 200 OK\r\n%sX-A: 1\r\nContent-Length: 2\r\n\r\nhi" % COMMON
ANSWER = Response(200, (("X-A", "1"),), b"hi")


class Side:
    """The server's side of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def asked(self) -> bytes:
        """Read a request's head."""
        return await within(self.reader.readuntil(b"\r\n\r\n"))

    async def gone(self) -> bytes:
        """Wait until the connection is closed, and return the data before; a reset counts as a close."""
        with contextlib.suppress(ConnectionError):
            return await within(self.reader.read(-1))
        return b""


class Node:
    """A server that passes its connections to the test.

    Attributes:
        address: The server's address.
    """

    def __init__(self) -> None:
        self._sides: asyncio.Queue[Side] = asyncio.Queue()
        self._all: list[Side] = []
        self.server: Any = None
        self.address = ""

    async def start(self, path: str = "") -> None:
        """Listen on a free port, or on a Unix socket."""
        if path:
            self.server = await asyncio.start_unix_server(self._take, path)
            self.address = path
        else:
            self.server = await asyncio.start_server(self._take, "127.0.0.1", 0)
            self.address = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._all.append(side := Side(reader, writer))
        self._sides.put_nowait(side)

    async def side(self) -> Side:
        """Return the server's side of the next connection."""
        return await within(self._sides.get())

    @property
    def waiting(self) -> int:
        """The number of connections that the test has not accepted."""
        return self._sides.qsize()

    async def close(self) -> None:
        """Stop listening, and close all connections."""
        self.server.close()
        for side in self._all:
            if not side.writer.is_closing():
                side.writer.transport.abort()
        for side in self._all:
            with contextlib.suppress(OSError):
                await side.writer.wait_closed()


@pytest.fixture(params=["tcp", "unix"])
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    """Return a server."""
    node = Node()
    await node.start(str(tmp_path / "s") if request.param == "unix" else "")
    yield node
    await node.close()


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    """Return the connections of a node."""
    made = Upstreams()
    yield made
    made.close()
    await until(lambda: not made.all)


async def opened(upstreams: Upstreams, node: Node) -> tuple[Upstream, Side, "asyncio.Future[Response | Stream]"]:
    """Send a request on a new connection."""
    upstream = await within(upstreams.connect(node.address))
    asked = upstream.send_request(ASK)
    side = await node.side()
    assert await side.asked() == ASK
    return upstream, side, asked


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (OK, ANSWER),
        (b"HTTP/1.1 204 No Content\r\n%s\r\n" % COMMON, Response(204, (), b"")),
        (b"HTTP/1.1 304 Not Modified\r\n%s\r\n" % COMMON, Response(304, (), b"")),
        (
            b"HTTP/1.1 404 Not Found\r\n%sConnection: keep-alive\r\ncontent-length:0\r\n\r\n" % COMMON,
            Response(404, (), b""),
        ),
        (
            b"HTTP/1.1 200 OK\r\n%sA:\xe9 x \r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 4\r\n\r\n\r\n\r\n"
            % COMMON,
            Response(200, (("A", "é x"), ("Set-Cookie", "a=b"), ("Set-Cookie", "c=d")), b"\r\n\r\n"),
        ),
    ],
)
async def test_a_response_in_any_pieces(node: Node, upstreams: Upstreams, data: bytes, answer: Response) -> None:
    upstream, side, asked = await opened(upstreams, node)
    for cut in range(len(data)):
        for piece in (data[:cut], data[cut:]):
            side.writer.write(piece)
            # Prevent the kernel from joining the pieces.
            await asyncio.sleep(0.001)
        assert await within(asked) == answer
        assert await within(upstreams.connect(node.address)) is upstream
        asked = upstream.send_request(ASK)
        await side.asked()
    for byte in data:
        side.writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert await within(asked) == answer
    assert node.waiting == 0


async def test_a_large_body(node: Node, upstreams: Upstreams) -> None:
    _, side, asked = await opened(upstreams, node)
    body = bytes(range(256)) * 40_000
    side.writer.write(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (COMMON, len(body)) + body)
    answer = await within(asked)
    assert isinstance(answer, Response)
    assert answer.body == body
    # The connection's buffer shrinks again.
    assert (await within(upstreams.connect(node.address)))._received == b""


async def test_connections_are_reused(node: Node, upstreams: Upstreams) -> None:
    first, side, asked = await opened(upstreams, node)
    second, other, also_asked = await opened(upstreams, node)
    side.writer.write(OK)
    assert await within(asked) == ANSWER
    assert await within(upstreams.connect(node.address)) is first
    other.writer.write(OK)
    assert await within(also_asked) == ANSWER
    assert await within(upstreams.connect(node.address)) is second
    assert len(upstreams.all) == 2


async def test_the_number_of_idle_connections_is_limited(node: Node, upstreams: Upstreams) -> None:
    connections = [await within(upstreams.connect(node.address)) for _ in range(MAX_IDLE + 3)]
    for connection in connections:
        upstreams.put_back(connection)
    await until(lambda: len(upstreams.all) == MAX_IDLE)


async def test_connections_that_are_idle_for_long_are_closed(node: Node, upstreams: Upstreams) -> None:
    old, older, new = [await within(upstreams.connect(node.address)) for _ in range(3)]
    upstreams.put_back(older)
    upstreams.put_back(old)
    for connection in (older, old):
        connection.idle_since -= module.IDLE_TIMEOUT + 1
    upstreams.put_back(new)
    await until(lambda: len(upstreams.all) == 1)
    assert await within(upstreams.connect(node.address)) is new
    # Even if no connection was put back meanwhile.
    upstreams.put_back(new)
    new.idle_since -= module.IDLE_TIMEOUT + 1
    assert await within(upstreams.connect(node.address)) is not new
    await until(lambda: len(upstreams.all) == 1)


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not seen yet"])
async def test_a_connection_that_was_closed_meanwhile_is_not_used(node: Node, upstreams: Upstreams, seen: bool) -> None:
    upstream, side, asked = await opened(upstreams, node)
    side.writer.write(OK)
    await within(asked)
    if seen:
        side.writer.close()
        await until(lambda: len(upstreams.all) == 0)
    else:
        # The event loop does not run in between.
        with socket.socket(fileno=os.dup(side.writer.get_extra_info("socket").fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)
        assert upstream.is_disconnected()
    again, other, asked = await opened(upstreams, node)
    assert again is not upstream
    other.writer.write(OK)
    assert await within(asked) == ANSWER


@pytest.mark.parametrize("data", [b"", b"HTTP", OK[:30], OK[:-1]], ids=["nothing", "status", "head", "body"])
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
async def test_an_incomplete_response(node: Node, upstreams: Upstreams, data: bytes, reset: bool) -> None:
    _, side, asked = await opened(upstreams, node)
    side.writer.write(data)
    await side.writer.drain()
    if reset:
        side.writer.transport.abort()
    else:
        side.writer.close()
    with pytest.raises(UpstreamDisconnected):
        await within(asked)
    await until(lambda: len(upstreams.all) == 0)


RUBBISH = [
    b"\r\n\r\n",
    b"rubbish\r\n\r\n",
    b"HTTP/1.1 2x0 OK\r\n\r\n",
    b"HTTP/1.1 200\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/2 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: x\ny\r\n\r\n",
    b"x" * 100_000,
    b"HTTP/1.1 404 Not Found\r\nServer: nginx\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nDate: x\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
    # As of Django, which also sends these fields by default.
    b"HTTP/1.1 404 Not Found\r\nServer: x\r\n%bContent-Length: 0\r\n\r\n" % COMMON,
]


@pytest.mark.parametrize("data", RUBBISH, ids=lambda data: repr(data[:50]))
async def test_a_malformed_response(node: Node, upstreams: Upstreams, data: bytes) -> None:
    _, side, asked = await opened(upstreams, node)
    side.writer.write(data)
    with pytest.raises(NotANode, match=f"^the response of {re.escape(node.address)} is not one of a node$"):
        await within(asked)
    await side.gone()


@given(st.text(st.characters(max_codepoint=255)) | st.text(st.sampled_from("HTTP/1. 20OK\r\nA:content-length0")))
def test_a_head_is_parsed_or_rejected(text: str) -> None:
    for head in (text, f"HTTP/1.1 200 OK\r\n{text}"):
        with contextlib.suppress(ValueError):
            parse_response_head(head.encode("latin-1"))


async def test_a_response_without_a_request_closes_the_connection(node: Node, upstreams: Upstreams) -> None:
    _, side, asked = await opened(upstreams, node)
    side.writer.write(OK + b"!")
    assert await within(asked) == ANSWER
    await side.gone()
    _, side, asked = await opened(upstreams, node)
    side.writer.write(OK)
    assert await within(asked) == ANSWER
    side.writer.write(OK)
    await side.gone()
    await until(lambda: len(upstreams.all) == 0)


async def test_a_connection_that_will_be_closed_is_not_kept(node: Node, upstreams: Upstreams) -> None:
    _, side, asked = await opened(upstreams, node)
    side.writer.write(OK.replace(b"X-A: 1", b"X-A: 1\r\nConnection: Close"))
    assert await within(asked) == ANSWER
    await side.gone()
    await until(lambda: len(upstreams.all) == 0)


async def test_cancelling_closes_the_connection(node: Node, upstreams: Upstreams) -> None:
    upstream, side, asked = await opened(upstreams, node)
    side.writer.write(OK[:-1])
    upstream.cancel_request(asked)
    with pytest.raises(UpstreamDisconnected):
        await within(asked)
    await side.gone()
    await until(lambda: len(upstreams.all) == 0)


async def test_cancelling_too_late_does_nothing(node: Node, upstreams: Upstreams) -> None:
    upstream, side, asked = await opened(upstreams, node)
    side.writer.write(OK)
    await within(asked)
    # When it is in the pool, and when it has another request.
    upstream.cancel_request(asked)
    assert await within(upstreams.connect(node.address)) is upstream
    other = upstream.send_request(ASK)
    upstream.cancel_request(asked)
    await side.asked()
    side.writer.write(OK)
    assert await within(other) == ANSWER


async def test_a_request_on_a_closed_connection(node: Node, upstreams: Upstreams) -> None:
    upstream = await within(upstreams.connect(node.address))
    upstream.abort()
    with pytest.raises(UpstreamDisconnected):
        await within(upstream.send_request(ASK))
    await until(lambda: len(upstreams.all) == 0)
    with pytest.raises(UpstreamDisconnected):
        await within(upstream.send_request(ASK))


async def test_nothing_listens(upstreams: Upstreams, tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{sock.getsockname()[1]}"
        for place in (address, str(tmp_path / "none"), "http://name.invalid:1"):
            with pytest.raises(OSError):  # noqa: PT011 - which one says the system
                await within(upstreams.connect(place))
    assert len(upstreams.all) == 0


async def test_a_connection_that_is_closed_during_the_tls_handshake(upstreams: Upstreams) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.transport.abort(), "127.0.0.1", 0)
    async with server:
        with pytest.raises(ConnectionResetError):
            await within(upstreams.connect(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    assert len(upstreams.all) == 0


async def test_a_connect_timeout(upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.1)
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listening.getsockname())
        async with asyncio.timeout(TIMEOUT):
            # The connection's own timeout; that of the test would be a cancellation.
            with pytest.raises(TimeoutError):
                await upstreams.connect(f"http://127.0.0.1:{listening.getsockname()[1]}")
    assert len(upstreams.all) == 0


async def test_a_closed_pool_makes_no_connections(node: Node, upstreams: Upstreams) -> None:
    connecting = asyncio.ensure_future(upstreams.connect(node.address))
    await asyncio.sleep(0)
    upstreams.close()
    with pytest.raises(UpstreamDisconnected):
        await within(connecting)
    await until(lambda: len(upstreams.all) == 0)


async def test_a_pool_that_closes_when_a_connection_has_just_been_made(
    node: Node, upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection_made = Upstream.connection_made

    def close_pool(upstream: Upstream, transport: Any) -> None:
        connection_made(upstream, transport)
        upstreams.close()

    monkeypatch.setattr(Upstream, "connection_made", close_pool)
    with pytest.raises(UpstreamDisconnected):
        await within(upstreams.connect(node.address))
    assert await (await node.side()).gone() == b""
    await until(lambda: len(upstreams.all) == 0)


# Streams.

HEAD = b"HTTP/1.1 200 OK\r\n%sConnection: close\r\n\r\n" % COMMON


class Router:
    """A router with one endpoint, which pipes an upstream's stream to a client."""

    def __init__(self, upstreams: Upstreams, node: Node, timeout: float) -> None:
        self.router = router = SockJSRouter(Echo, "/echo", {"network_timeout": timeout})
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()

        class Piping(ReceivingEndpoint):
            def serve_session(endpoint, exchange: Any, session: Any) -> Any:  # noqa: N805
                return self.pipe(upstreams, node, RelayedRequest("", Owner("", ""), endpoint, exchange, b""))

        for spec in router.urls:
            assert spec.kwargs is not None
            endpoint = spec.kwargs["endpoint"]
            if isinstance(endpoint, ReceivingEndpoint) and endpoint.transport.name == "xhr":
                spec.kwargs["endpoint"] = Piping(router, endpoint.transport)

    async def pipe(self, upstreams: Upstreams, node: Node, request: RelayedRequest) -> None:
        """Pipe a response."""
        upstream = await upstreams.connect(node.address)
        answer = await upstream.send_request(ASK)
        assert isinstance(answer, Stream)
        self.streams.put_nowait(answer)
        taking_over = request.exchange.take_over(answer.status, Pipe(self.router.container, answer, request))
        if taking_over is not None:
            await taking_over
        answer.upstream.abort_unless_piped()


@pytest.fixture
async def piped(request: pytest.FixtureRequest, serve: Any, connect: Connect, node: Node, upstreams: Upstreams) -> Any:
    """Return a client, its node, and the router and server between. The parameter is the network timeout."""
    made = Router(upstreams, node, getattr(request, "param", 60))
    server = await serve(made.router)
    client = await connect(server)
    client.write(asking("xhr", "/echo/000/abc"))
    side = await node.side()
    await side.asked()
    return client, side, made.router, server


async def test_a_stream_is_forwarded_as_it_arrives(piped: Any, upstreams: Upstreams) -> None:
    client, side, router, _ = piped
    side.writer.write(HEAD + b"first")
    assert await client.exactly(len(HEAD) + 5) == HEAD + b"first"
    for number in range(100):
        side.writer.write(b"%03d" % number)
        assert await client.exactly(3) == b"%03d" % number
    side.writer.close()
    assert await client.rest() == b""
    await until(lambda: len(upstreams.all) == 0)
    await until(lambda: router.container._connections == 0)


async def test_a_stream_may_end_before_it_is_attached(piped: Any, upstreams: Upstreams) -> None:
    client, side, _, _ = piped
    side.writer.write(HEAD + b"x" * 100_000)
    side.writer.close()
    assert len(await client.rest()) == len(HEAD) + 100_000
    await until(lambda: len(upstreams.all) == 0)


@pytest.mark.parametrize("when", ["asked", "flowing"])
async def test_a_disconnect_is_noticed(piped: Any, upstreams: Upstreams, connect: Connect, when: str) -> None:
    client, side, router, server = piped
    if when == "flowing":
        side.writer.write(HEAD)
        await client.exactly(len(HEAD))
        await client.leave()
        assert await side.gone() == b""
    else:
        await client.leave()
        await settle(connect, server)
        side.writer.write(HEAD)
        assert await side.gone() == b""
    await until(lambda: len(upstreams.all) == 0)
    await until(lambda: router.container._connections == 0)


async def test_a_half_closed_connection_is_a_disconnect(piped: Any, upstreams: Upstreams) -> None:
    client, side, _, _ = piped
    side.writer.write(HEAD)
    await client.exactly(len(HEAD))
    client.writer.write_eof()
    await side.gone()
    await until(lambda: len(upstreams.all) == 0)


async def test_a_stream_whose_connection_is_lost_before_it_is_attached_ends(node: Node, upstreams: Upstreams) -> None:
    upstream = await upstreams.connect(node.address)
    answering = upstream.send_request(ASK)
    side = await node.side()
    await side.asked()
    side.writer.write(HEAD)
    assert isinstance(await within(answering), Stream)
    upstreams.close()
    await until(lambda: not upstreams.all)
    closed: list[str] = []
    pipe: Any = SimpleNamespace(close_transport=lambda: closed.append("pipe"))
    upstream.attach_pipe(pipe)
    assert closed == ["pipe"]
    # The client may still be slow, and then fast again.
    upstream.pause_reading()
    upstream.resume_reading()
    upstream.detach_pipe()
    await side.gone()


async def fill(side: Side) -> int:
    """Write until the connection accepts no more data; return the number of bytes."""
    written = 0
    with contextlib.suppress(TimeoutError):
        while True:
            side.writer.write(b"x" * 65536)
            written += 65536
            async with asyncio.timeout(0.3):
                await side.writer.drain()
            assert written < 200_000_000
    return written


async def test_a_slow_client_slows_the_stream_down(piped: Any, upstreams: Upstreams) -> None:
    client, side, router, _ = piped
    side.writer.write(HEAD)
    client.pause_reading()
    written = await fill(side)
    (upstream,) = upstreams.all
    # The rest is in the kernel's buffers.
    assert upstream._pipe is not None
    assert upstream._pipe.unsent < 1_000_000
    assert upstream._received == b""
    client.resume_reading()
    side.writer.write(b"end")
    side.writer.close()
    data = await client.rest()
    assert len(data) == len(HEAD) + written + 3
    assert data.endswith(b"end")
    await until(lambda: router.container._connections == 0)


@pytest.mark.parametrize("piped", [1], indirect=True)
async def test_a_client_that_does_not_read_to_the_end_is_disconnected(piped: Any, upstreams: Upstreams) -> None:
    client, side, router, _ = piped
    side.writer.write(HEAD)
    client.pause_reading()
    await fill(side)
    side.writer.close()
    await until(lambda: router.container._connections == 0)
    await until(lambda: len(upstreams.all) == 0)
