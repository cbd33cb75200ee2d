"""The port between transports and requests: all transports work behind a front that knows nothing of Tornado."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
from application import Echo, Journal
from client import FRAMED, HANDSHAKE, POLLING, RECEIVING, TEXT, Client, Peer, WebSocket, asking, frame, peer, within

from sockjs_tornado import ConnectionInfo, SockJSRouter
from sockjs_tornado.transports import enabled_endpoints
from sockjs_tornado.transports.exchange import Headers
from sockjs_tornado.wire.connection import Connection
from sockjs_tornado.wire.handshake import accept_handshake
from sockjs_tornado.wire.responses import response_head
from sockjs_tornado.wire.sockets import peer_disconnected


class StreamsExchange:
    """One request, read from asyncio's streams; each has a connection of its own."""

    session_id = ""
    remote_ip = "192.0.2.1"
    is_http11 = True
    secure = False
    take_back = None

    def __init__(self, head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start, *lines = head.decode("latin-1").strip().split("\r\n")
        self.method, self.uri, _ = start.split(" ")
        self._headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        self._body = body
        self._reader = reader
        self._writer = writer
        self.responded = False
        self.pending = None

    def header(self, name: str) -> str:
        return self._headers.get(name.lower(), "")

    def handshake(self) -> tuple[Headers, list[str]]:
        names = ("Upgrade", "Connection", "Sec-WebSocket-Version", "Sec-WebSocket-Key")
        return accept_handshake(*map(self.header, names)), []

    def ignored_proxy_fields(self) -> tuple[str, list[str]]:
        return "", []

    def cookie(self, name: str) -> str | None:
        return dict(pair.split("=") for pair in self.header("Cookie").split("; ") if pair).get(name)

    def argument(self, name: str) -> str | None:
        return parse_qs(self.uri.partition("?")[2]).get(name, [None])[0]

    def content_type(self) -> str:
        return self.header("Content-Type").partition(";")[0]

    def body(self) -> bytes:
        return self._body

    def release_body(self) -> None:
        self._body = b""

    def jsessionid_setting(self) -> str | bool:
        return True

    def info(self, transport: str, suffix: int) -> ConnectionInfo:
        prefix = self.uri.rsplit("/", suffix)[0]
        return ConnectionInfo(
            ip=self.remote_ip, uri=self.uri, prefix=prefix, transport=transport, headers={}, cookies={}
        )

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        assert not self.responded
        self.responded = True
        if status != 204:
            headers = [*headers, ("Content-Length", str(len(body)))]
        self._writer.write(response_head(status, [*headers, ("Connection", "close")]) + body)
        self._writer.close()

    async def wait_for_response(self, on_disconnect: Callable[[], None]) -> None:
        # Ends with the connection, from either side.
        with contextlib.suppress(OSError):
            await self._reader.read()
        if not self.responded:
            self.responded = True
            self._writer.close()
            on_disconnect()

    async def take_over(self, status: int, protocol: Connection) -> None:
        assert not self.responded
        self.responded = True
        transport = self._writer.transport
        protocol.takeover_started()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def is_disconnected(self) -> bool:
        return peer_disconnected(self._writer.get_extra_info("socket"))

    def probe_half_closed(self) -> bool:
        return False


@pytest.fixture
async def front() -> AsyncIterator[Any]:
    """Return a function that serves a router on asyncio's streams and gives back what connects to it."""
    servers: list[asyncio.Server] = []
    clients: list[Client] = []
    routers: list[SockJSRouter] = []
    tasks: set[asyncio.Task[None]] = set()
    # A writer that nobody refers to closes its connection, whoever has that by then.
    writers: list[asyncio.StreamWriter] = []

    async def start(router: SockJSRouter) -> Any:
        endpoints = [(re.compile(f"/echo{pattern}"), endpoint) for pattern, endpoint in enabled_endpoints(router)]

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            exchange = StreamsExchange(head, body, reader, writer)
            for pattern, endpoint in endpoints:
                match = pattern.fullmatch(exchange.uri.partition("?")[0])
                if match:
                    exchange.session_id = unquote(match.groupdict().get("session_id", ""))
                    offered: Any = exchange
                    waiting: Awaitable[None] | None = endpoint.handle(offered)
                    if waiting is not None:
                        await waiting
                    return
            exchange.respond(404, [])

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            task = asyncio.ensure_future(handle(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        servers.append(server)
        routers.append(router)

        async def connect() -> Client:
            client = await Client.connect(server.sockets[0].getsockname()[1])
            clients.append(client)
            return client

        return connect

    yield start
    for client in clients:
        client.writer.transport.abort()
    for router in routers:
        closing = asyncio.ensure_future(router.close())
        await asyncio.sleep(0)
        for session in router.container:
            session.check(session.due)
        await within(closing)
    for server in servers:
        server.close()
        await server.wait_closed()
    while tasks:
        await within(asyncio.wait(tasks))


class OneRequestPeer(Peer):
    """A polling client that has a new connection for each poll."""

    async def frame(self) -> str:
        return await peer(self.transport, self.connect, session=self.session).frame()


async def test_pages_are_served_by_another_front(front: Any) -> None:
    connect = await front(SockJSRouter(Echo, "/echo"))
    assert (await (await connect()).ask("GET", "/echo")).text == "Welcome to SockJS!\n"
    assert (await (await connect()).ask("POST", "/echo/info", body=b"")).status == 405
    response = await (await connect()).ask("OPTIONS", "/echo/info", "Origin: http://a.example")
    assert (response.status, response["Access-Control-Allow-Origin"]) == (204, "http://a.example")
    response = await (await connect()).ask("GET", "/echo/000/abc/jsonp?c=%20", "Cookie: JSESSIONID=mine")
    assert (response.status, response["Set-Cookie"]) == (500, "JSESSIONID=mine; path=/; HttpOnly")


async def test_a_body_that_another_front_has_let_through_is_measured(front: Any) -> None:
    connect = await front(SockJSRouter(Echo, "/echo", {"max_message_size": 100}))
    assert (await (await connect()).ask("POST", "/echo/000/abc/xhr", body=b"")).text == "o\n"
    for size, status in ((100, 204), (101, 413)):
        body = b'["' + b"x" * (size - 4) + b'"]'
        assert (await (await connect()).ask("POST", "/echo/000/abc/xhr_send", body=body)).status == status


@pytest.mark.parametrize("transport", FRAMED)
async def test_every_transport_works_behind_another_front(front: Any, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"response_limit": 200})
    connect = await front(router)
    client = peer(transport, connect)
    if transport in POLLING:
        client = OneRequestPeer(transport, connect, session=client.session)
    assert await client.frame() == "o"
    connection = await journal.connection()
    assert (connection.info.ip, connection.info.transport) == ("192.0.2.1", transport)
    for message in ("x" * 300, "y"):
        client._sender = None
        await client.send(message)
        assert await connection.message() == message
        connection.send(message)
        assert await client.frame() == f'a["{message}"]'
    connection.close(3001, "enough")
    assert await client.frame() == 'c[3001,"enough"]'
    assert await connection.closed() == (3001, "enough")


@pytest.mark.parametrize("transport", RECEIVING)
async def test_another_front_reports_a_client_that_leaves(front: Any, transport: str) -> None:
    journal = Journal()
    connect = await front(SockJSRouter(journal, "/echo"))
    opening = OneRequestPeer("xhr", connect)
    assert await opening.frame() == "o"
    client = await connect()
    client.write(asking(transport, opening.base))
    intruder = OneRequestPeer("xhr", connect, session=opening.session)
    assert await intruder.frame() == 'c[2010,"Another connection still open"]'
    await client.leave()
    assert await (await journal.connection()).closed() == (1002, "Connection interrupted")
    assert await opening.frame() == 'c[1002,"Connection interrupted"]'


async def test_another_front_gives_its_connection_to_a_raw_websocket(front: Any) -> None:
    connect = await front(SockJSRouter(Echo, "/echo"))
    assert (await (await connect()).ask("GET", "/echo/websocket", *HANDSHAKE[1:])).status == 400
    websocket = await WebSocket.open(await connect(), "/echo/websocket")
    websocket.write(frame(TEXT, "hi"))
    assert await websocket.text() == "hi"
