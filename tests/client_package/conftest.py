"""Fixtures of the client's tests: clients, a proxy that can be interrupted, and servers with custom responses."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tornado.httpserver
import tornado.netutil
import tornado.web
from application import RunningServer
from client import within

from sockjs_tornado.client import ConnectionClosed, SockJSClient, connect

#: Type of the fixture ``dial``.
Dial = Callable[..., Awaitable[SockJSClient]]
#: Responds to a request in a :class:`Stub`.
Responder = Callable[[tornado.web.RequestHandler], Awaitable[None] | None]


@pytest.fixture
async def dial(serve: Any) -> AsyncIterator[Dial]:
    """Return a function that connects: ``client = await dial(server, "xhr", prefix="/chat", reconnect=True)``.

    The clients are closed at the end of the test, before the servers.
    """
    clients: list[SockJSClient] = []

    async def open_client(
        server: Any, *transports: str, prefix: str = "/echo", host: str = "127.0.0.1", scheme: str = "http", **more: Any
    ) -> SockJSClient:
        if transports:
            more["transports"] = transports
        # A high timeout, so that a busy machine does not cause a fallback.
        more.setdefault("transport_timeout", 20)
        client = await within(connect(f"{scheme}://{host}:{server.port}{prefix}", **more))
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        await within(client.close())


async def end_of(client: SockJSClient) -> tuple[int, str]:
    """Read all remaining messages, and return the close code and reason."""
    try:
        while True:
            await within(client.recv())
    except ConnectionClosed as error:
        return error.code, error.reason


class Link:
    """A TCP proxy in front of a server, which can abort or pause connections.

    Attributes:
        port: Port for the clients.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._accepting: set[asyncio.Task[None] | None] = set()
        self._forwarding: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()

    async def listen(self) -> None:
        """Accept connections, on the same port each time."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Stop accepting connections."""
        assert self._server is not None
        self._server.close()

    def cut(self) -> None:
        """Abort all connections."""
        for writer in self._writers:
            writer.transport.abort()

    def hold(self) -> None:
        """Stop forwarding data."""
        self._flows.clear()

    async def close(self) -> None:
        """Close the proxy and all connections."""
        await self.refuse()
        # These are short, and a cancelled one would not close its connection to the server.
        await asyncio.gather(*filter(None, self._accepting), return_exceptions=True)
        self.cut()
        for task in self._forwarding:
            task.cancel()
        if self._forwarding:
            await asyncio.wait(self._forwarding)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepting.add(asyncio.current_task())
        self._writers.add(writer)
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.add(back)
        for source, target in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._forward(source, target))
            self._forwarding.add(task)

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                await self._flows.wait()
                target.write(data)
                await target.drain()
        target.transport.abort()


@pytest.fixture
async def link(serve: Any) -> AsyncIterator[Callable[[RunningServer], Awaitable[Link]]]:
    """Return a function that starts a proxy in front of a server."""
    links: list[Link] = []

    async def make(server: RunningServer) -> Link:
        made = Link(server.port)
        await made.listen()
        links.append(made)
        return made

    yield make
    for made in links:
        await made.close()


class Stub:
    """A server whose responses are defined by the test.

    Attributes:
        port: Port of the server.
        requests: Last parts of the requested paths.
        headers: Header fields of each request.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[str] = []
        self.headers: list[Any] = []


def line(*frames: str) -> Responder:
    """Return a responder that sends frames on lines."""

    def responder(handler: tornado.web.RequestHandler) -> None:
        handler.write("".join(f"{frame}\n" for frame in frames))

    return responder


def status(code: int) -> Responder:
    """Return a responder that sends a status and an HTML page."""

    def responder(handler: tornado.web.RequestHandler) -> None:
        handler.set_status(code)
        if code != 204:
            handler.write("<html>\na page\n</html>\n")

    return responder


async def hang(handler: Any) -> None:
    """Never respond."""
    await handler.gone.wait()


@pytest.fixture
async def stub() -> AsyncIterator[Callable[..., Awaitable[Stub]]]:
    """Return a function that starts a server at ``/echo``: ``await stub(info, websocket=status(404), xhr=line("o"))``.

    Args:
        info: Response to ``/info``, as a mapping or a responder. responders: Responders by the last part of the URL, or
        lists with one for each request. The default is status 404.
    """
    servers: list[tornado.httpserver.HTTPServer] = []

    async def start(info: Any = None, **responders: Responder | list[Responder]) -> Stub:
        info = {} if info is None else info

        class Handler(tornado.web.RequestHandler):
            def initialize(self) -> None:
                self.gone = asyncio.Event()

            def on_connection_close(self) -> None:
                self.gone.set()

            async def get(self, path: str, name: str) -> None:
                running.requests.append(name)
                running.headers.append(self.request.headers)
                responder = info if name == "info" else responders.get(name, status(404))
                if isinstance(responder, Mapping):
                    self.write(dict(responder))
                    return
                if isinstance(responder, list):
                    responder = responder.pop(0) if responder else hang
                result = responder(self)
                if result is not None:
                    await result

            post = get

        application = tornado.web.Application([("/echo/(.*/)?([^/]*)", Handler)], log_function=lambda handler: None)
        http = tornado.httpserver.HTTPServer(application)
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        http.add_sockets(sockets)
        servers.append(http)
        running = Stub(sockets[0].getsockname()[1])
        return running

    yield start
    for http in servers:
        http.stop()
        await http.close_all_connections()


@pytest.fixture
def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """Return the SSL context of a server that accepts the same certificate from clients."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate[0]))
    context.load_cert_chain(*certificate)
    return context
