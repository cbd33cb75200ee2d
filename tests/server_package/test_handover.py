"""Handing connections over to sessions."""

import asyncio
import errno
import socket
from typing import Any

import pytest
from application import close_router
from client import HANDSHAKE, Client, WebSocket, request, until, within
from tornado.web import Application, RequestHandler

from sockjs_tornado import HTTPServer, SockJSConnection, SockJSRouter
from sockjs_tornado.server import handover
from sockjs_tornado.serving import bind_sockets, http_server
from sockjs_tornado.session.connection_info import ConnectionInfo
from sockjs_tornado.wire import sockets as wire_sockets
from sockjs_tornado.wire.sockets import set_user_timeout

from .conftest import NATIVE, Listen, Site
from .test_connections import Hello, check_closed

#: Less than the high-water mark of the server, and more than the buffers of the sockets.
SIZE = 60_000


class Long(RequestHandler):
    """Answers with more than the system takes at once."""

    def get(self) -> None:
        self.finish(b"x" * SIZE)


async def test_a_websocket_waits_for_the_response_before_it() -> None:
    """The response's rest, which the system has not accepted yet, comes first."""
    opened = asyncio.Event()

    class Opening(SockJSConnection):
        def on_open(self, info: ConnectionInfo) -> None:
            opened.set()

    router = SockJSRouter(Opening, "/echo")
    server = HTTPServer(Application([("/long", Long), *router.urls], log_function=lambda handler: None))
    bound, sock = socket.create_server(("127.0.0.1", 0)), socket.socket()
    # Accepted sockets inherit the size.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for one in (bound, sock):
        one.setblocking(False)
    server.add_socket(bound)
    loop = asyncio.get_running_loop()
    await within(loop.sock_connect(sock, bound.getsockname()))
    await within(loop.sock_sendall(sock, request("GET", "/long") + request("GET", "/echo/0/a/websocket", *HANDSHAKE)))
    # Before anything is read.
    await within(opened.wait())
    client = Client(*await asyncio.open_connection(sock=sock))
    assert (await client.response()).body == b"x" * SIZE
    websocket = WebSocket(client, await client.response())
    assert await websocket.text() == "o"
    await client.leave()
    server.stop()
    await close_router(router)
    await within(server.close_all_connections())


class Owner(asyncio.Protocol):
    """Takes a connection over.

    Attributes:
        events: The methods that were called.
        nodelay: The option TCP_NODELAY when it got the socket.
    """

    def __init__(self) -> None:
        self.events: list[str] = []

    def takeover_started(self, release_slot: Any) -> None:
        self.events.append("started")

    def takeover_failed(self) -> None:
        self.events.append("failed")

    def adopt_socket(self, sock: socket.socket, unread: bytes) -> None:
        self.nodelay = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.events.append("made")


async def connected(site: Site) -> tuple[Client, Any]:
    """Return a client and its connection at the server."""
    client = await site.connect()
    (connection,) = await until(lambda: site.http.connections)
    return client, connection


def refuse_option(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Let the system refuse an option of the socket."""

    def refuse(sock: socket.socket, seconds: float, *, keepalive: bool) -> None:
        raise OSError(code, "refused")

    monkeypatch.setattr(handover, "set_user_timeout", refuse)


@NATIVE
@pytest.mark.parametrize("nodelay", [False, True])
async def test_the_new_owner_gets_the_connection_with_the_option(listen: Listen, nodelay: bool) -> None:
    client, connection = await connected(await listen({"/": Hello.counting()}))
    owner: Any = Owner()
    connection.hand_over(owner, nodelay=nodelay, user_timeout=0)
    assert owner.events == ["started", "made"]
    assert bool(owner.nodelay) == nodelay
    connection.transport.abort()
    await check_closed(client)


@NATIVE
async def test_a_connection_that_is_closing_is_not_handed_over(listen: Listen) -> None:
    client, connection = await connected(await listen({"/": Hello.counting()}))
    connection.transport.abort()
    owner: Any = Owner()
    connection.hand_over(owner, nodelay=True, user_timeout=0)
    assert owner.events == ["started", "failed"]
    await check_closed(client)


@NATIVE
async def test_a_connection_whose_options_are_refused_is_closed(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, connection = await connected(await listen({"/": Hello.counting()}))
    refuse_option(monkeypatch, errno.EINVAL)
    owner: Any = Owner()
    connection.hand_over(owner, nodelay=True, user_timeout=10)
    assert owner.events == ["started", "failed"]
    await check_closed(client)


@NATIVE
async def test_options_that_a_kind_of_socket_does_not_have_are_not_needed(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, connection = await connected(await listen({"/": Hello.counting()}))
    refuse_option(monkeypatch, errno.EOPNOTSUPP)
    owner: Any = Owner()
    connection.hand_over(owner, nodelay=True, user_timeout=10)
    assert owner.events == ["started", "made"]
    connection.transport.abort()
    await check_closed(client)


@NATIVE
async def test_a_stopped_server_closes_a_connection_that_is_given_back(listen: Listen) -> None:
    site = await listen({"/": Hello.counting()})
    client, connection = await connected(site)
    owner: Any = Owner()
    connection.hand_over(owner, nodelay=True, user_timeout=0)
    site.http.stop()
    connection.take_back(request("GET", "/"), None)
    assert await client.rest() == b""
    await until(lambda: not site.http.connections)


@pytest.mark.parametrize(("of_server", "of_router", "calls"), [(7, 7, 0), (30, 7, 1), (0, 7, 1), (7, 0, 0), (0, 0, 0)])
async def test_a_timeout_that_sockets_inherit_is_not_set_again(
    monkeypatch: pytest.MonkeyPatch, of_server: float, of_router: float, calls: int
) -> None:
    seen: list[float] = []

    def noted(sock: socket.socket, seconds: float, *, keepalive: bool) -> None:
        seen.append(seconds)
        set_user_timeout(sock, seconds, keepalive=keepalive)

    monkeypatch.setattr(handover, "set_user_timeout", noted)
    router = SockJSRouter(SockJSConnection, "/echo", {"network_timeout": of_router})
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    async with http_server(Application(router.urls), sockets, network_timeout=of_server, server="native"):
        websocket = await WebSocket.open(await Client.connect(port), "/echo/000/a/websocket")
        assert await websocket.text() == "o"
        (session,) = router.container
        receiver: Any = session._receiver
        sock = receiver.transport.get_extra_info("socket")
        seconds = of_router or of_server
        found = [sock.getsockopt(level, option) for level, option, _ in wire_sockets._timeout_options(7)]
        if seconds:
            assert found == [value for _, _, value in wire_sockets._timeout_options(seconds)]
        else:
            assert found[:2] == [0, 0]
        await websocket.client.leave()
        await close_router(router)
    assert seen == [of_router] * calls


@pytest.mark.parametrize(
    ("of_routers", "inherits"), [((7, 7), True), ((7, 8), False), ((0,), False)], ids=["same", "different", "none"]
)
async def test_keepalive_is_set_once_for_all_connections(
    monkeypatch: pytest.MonkeyPatch, of_routers: tuple[int, ...], inherits: bool
) -> None:
    seen: list[bool] = []

    def noted(sock: socket.socket, seconds: float, *, keepalive: bool) -> None:
        seen.append(keepalive)
        set_user_timeout(sock, seconds, keepalive=keepalive)

    monkeypatch.setattr(handover, "set_user_timeout", noted)
    routers = [
        SockJSRouter(SockJSConnection, f"/{number}", {"network_timeout": seconds})
        for number, seconds in enumerate(of_routers)
    ]
    server = HTTPServer(Application([url for router in routers for url in router.urls]))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    client = await Client.connect(sockets[0].getsockname()[1])
    (connection,) = await until(lambda: server.connections)
    options = wire_sockets._timeout_options(7)
    # The connection of another service may stop to read for longer.
    assert connection.socket.getsockopt(*options[0][:2]) == 0
    assert bool(connection.socket.getsockopt(*options[1][:2])) == inherits
    websocket = await WebSocket.open(client, "/0/000/a/websocket")
    assert await websocket.text() == "o"
    (session,) = routers[0].container
    receiver: Any = session._receiver
    sock = receiver.transport.get_extra_info("socket")
    if of_routers[0]:
        assert [sock.getsockopt(level, option) for level, option, _ in options] == [value for _, _, value in options]
    assert seen == ([not inherits] if of_routers[0] else [])
    await websocket.client.leave()
    await asyncio.gather(*map(close_router, routers))
    server.stop()
    await server.close_all_connections()
