"""Fixtures: Tornado's server and the package's, which any test may start with any application."""

import asyncio
import contextlib
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tornado.netutil
import tornado.web
from application import Echo, TornadoServer, close_router
from client import Client, within

from sockjs_tornado import HTTPServer, SockJSRouter

SERVERS: dict[str, Any] = {
    "tornado": TornadoServer,
    "native": HTTPServer,
}

#: For tests of what Tornado's server does otherwise.
NATIVE = pytest.mark.parametrize("server_class", ["native"], indirect=True)

#: How clients reach a server.
KINDS = ("tcp", "unix", "tls")


class Site:
    """A server that listens, and its clients.

    Attributes:
        http: The server.
        connect_to: Where clients connect to: a port of 127.0.0.1, or the path of a Unix socket.
        tls: The TLS options of the clients, None for a server without TLS.
    """

    def __init__(self, http: Any, connect_to: int | str, tls: ssl.SSLContext | None) -> None:
        self.http = http
        self.connect_to = connect_to
        self.tls = tls
        self._clients: list[Client] = []

    async def connect(self, *, receive_buffer: int = 0, source: str = "127.0.0.1") -> Client:
        """Connect a client.

        Args:
            receive_buffer: Bytes that the kernel keeps for the client if it does not read; 0 for the default.
            source: The client's address, unless it is a Unix socket.
        """
        if isinstance(self.connect_to, str):
            sock = socket.socket(socket.AF_UNIX)
        else:
            sock = socket.socket()
            sock.bind((source, 0))
            # As asyncio does for the sockets that it creates: what a client writes arrives at once.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        address = self.connect_to if isinstance(self.connect_to, str) else ("127.0.0.1", self.connect_to)
        try:
            await within(asyncio.get_running_loop().sock_connect(sock, address))
        except OSError:
            sock.close()
            raise
        name = "localhost" if self.tls else None
        client = Client(*await within(asyncio.open_connection(sock=sock, ssl=self.tls, server_hostname=name)))
        self._clients.append(client)
        return client

    async def stop(self) -> None:
        """Disconnect the clients and stop the server."""
        for client in self._clients:
            client.writer.transport.abort()
        for client in self._clients:
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()
        self.http.stop()
        await within(self.http.close_all_connections())


#: The type of the fixture ``listen``.
Listen = Callable[..., Awaitable[Site]]


@pytest.fixture(params=SERVERS)
def server_class(request: pytest.FixtureRequest) -> Any:
    """Each class of servers."""
    return SERVERS[request.param]


@pytest.fixture
async def listen(server_class: Any, tmp_path: Path, certificate: tuple[Path, Path]) -> AsyncIterator[Listen]:
    """Return a function that starts a server: ``site = await listen({"/": Handler}, kind="tls", **options)``.

    Options go to the server. Instead of handlers by their URLs, it takes anything that the server takes.
    """
    sites: list[Site] = []

    async def start(application: Any, kind: str = "tcp", **options: Any) -> Site:
        if isinstance(application, dict):
            application = tornado.web.Application(list(application.items()), log_function=lambda handler: None)
        tls = None
        if kind == "tls":
            tls = ssl.create_default_context(cafile=certificate[0])
            if "ssl_options" not in options:
                options["ssl_options"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                options["ssl_options"].load_cert_chain(*certificate)
        http = server_class(application, **options)
        connect_to: int | str
        if kind == "unix":
            connect_to = str(tmp_path / "socket")
            http.add_socket(tornado.netutil.bind_unix_socket(connect_to))
        else:
            sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
            connect_to = sockets[0].getsockname()[1]
            http.add_sockets(sockets)
        sites.append(Site(http, connect_to, tls))
        return sites[-1]

    yield start
    for site in sites:
        await site.stop()


#: The type of the fixture ``routers``.
Routers = Callable[..., SockJSRouter]


@pytest.fixture
async def routers() -> AsyncIterator[Callable[..., SockJSRouter]]:
    """Return a function that creates a router for ``/echo``, which is closed after the test."""
    created: list[SockJSRouter] = []

    def create(connection: Any = Echo, prefix: str = "/echo", **settings: Any) -> SockJSRouter:
        created.append(SockJSRouter(connection, prefix, settings))
        return created[-1]

    yield create
    for router in created:
        await close_router(router)


@pytest.fixture
def _no_collections() -> Iterator[None]:
    """Keep what only the garbage collector would free, so that a test finds it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
