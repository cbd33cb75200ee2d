"""What the client's tests share: clients that end with their test, a link that can be cut, servers that misbehave."""

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
from client import WAIT, within

from sockjs_tornado.client import ConnectionClosed, SockJSClient, connect

#: What the fixture ``dial`` is.
Dial = Callable[..., Awaitable[SockJSClient]]
#: Answers one request in a server that misbehaves.
Answer = Callable[[tornado.web.RequestHandler], Awaitable[None] | None]


@pytest.fixture
async def dial(serve: Any) -> AsyncIterator[Dial]:
    """Return a function that connects: ``client = await dial(server, "xhr", prefix="/chat", reconnect=True)``.

    The connections end with the test, before the servers do.
    """
    clients: list[SockJSClient] = []

    async def open_client(
        server: Any, *transports: str, prefix: str = "/echo", host: str = "127.0.0.1", scheme: str = "http", **more: Any
    ) -> SockJSClient:
        if transports:
            more["transports"] = transports
        # However busy the machine is, a transport that works is not given up.
        more.setdefault("transport_timeout", 20)
        client = await within(connect(f"{scheme}://{host}:{server.port}{prefix}", **more))
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        await within(client.close())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells of."""
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)


async def end_of(client: SockJSClient) -> tuple[int, str]:
    """Take all messages that are left, and return code and reason of the connection's end."""
    try:
        while True:
            await within(client.recv())
    except ConnectionClosed as error:
        return error.code, error.reason


class Link:
    """Stands between clients and a server, and can be cut or held.

    Attributes:
        port: Where clients connect.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()

    async def listen(self) -> None:
        """Take connections, on the same port each time."""
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Take no more connections."""
        assert self._server is not None
        self._server.close()

    def cut(self) -> None:
        """Cut all connections."""
        for writer in self._writers:
            writer.transport.abort()

    def hold(self) -> None:
        """Let nothing through any more."""
        self._flows.clear()

    async def end(self) -> None:
        """End."""
        await self.refuse()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, back}
        for source, target in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pass(source, target))
            self._tasks.add(task)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                await self._flows.wait()
                target.write(data)
                await target.drain()
        target.transport.abort()


@pytest.fixture
async def link(serve: Any) -> AsyncIterator[Callable[[RunningServer], Awaitable[Link]]]:
    """Return a function that puts a link before a server."""
    links: list[Link] = []

    async def make(server: RunningServer) -> Link:
        made = Link(server.port)
        await made.listen()
        links.append(made)
        return made

    yield make
    for made in links:
        await made.end()


class Stub:
    """A server whose every answer is the test's own.

    Attributes:
        port: Where it listens.
        requests: Paths below the prefix that were asked for, without session ids.
        headers: The header fields of each request.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[str] = []
        self.headers: list[Any] = []


def line(*frames: str) -> Answer:
    """Return what answers with frames on lines."""

    def answer(handler: tornado.web.RequestHandler) -> None:
        handler.write("".join(f"{frame}\n" for frame in frames))

    return answer


def status(code: int) -> Answer:
    """Return what answers with a status and a page that is not meant for clients."""

    def answer(handler: tornado.web.RequestHandler) -> None:
        handler.set_status(code)
        if code != 204:
            handler.write("<html>\na page\n</html>\n")

    return answer


async def hang(handler: Any) -> None:
    """Do not answer."""
    await handler.gone.wait()


@pytest.fixture
async def stub() -> AsyncIterator[Callable[..., Awaitable[Stub]]]:
    """Return a function that starts a server at ``/echo``: ``await stub(info, websocket=status(404), xhr=line("o"))``.

    Args:
        info: What ``/info`` says, as a mapping or as an answer.
        answers: By the last part of the URL; a list is one for each request. What is missing is status 404.
    """
    servers: list[tornado.httpserver.HTTPServer] = []

    async def start(info: Any = None, **answers: Answer | list[Answer]) -> Stub:
        info = {} if info is None else info

        class Handler(tornado.web.RequestHandler):
            def initialize(self) -> None:
                self.gone = asyncio.Event()

            def on_connection_close(self) -> None:
                self.gone.set()

            async def get(self, path: str, name: str) -> None:
                running.requests.append(name)
                running.headers.append(self.request.headers)
                answer = info if name == "info" else answers.get(name, status(404))
                if isinstance(answer, Mapping):
                    self.write(dict(answer))
                    return
                if isinstance(answer, list):
                    answer = answer.pop(0) if answer else hang
                result = answer(self)
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
    """Return what a server needs, which knows clients by the same certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate[0]))
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
async def proxied() -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Return a function that starts a proxy for plain HTTP and returns its port."""
    servers: list[asyncio.Server] = []
    tasks: set[asyncio.Task[None]] = set()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A connection for each request: the first line says where to, and then bytes pass.
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(contextlib.suppress(OSError, asyncio.IncompleteReadError))
            stack.callback(writer.transport.abort)
            first = await reader.readuntil(b"\r\n")
            method, url, version = first.decode().split(" ")
            host, _, path = url.removeprefix("http://").partition("/")
            there, back = await asyncio.open_connection(*host.split(":"))
            stack.callback(back.transport.abort)
            head = await reader.readuntil(b"\r\n\r\n")
            back.write(f"{method} /{path} {version}Connection: close\r\n".encode() + head)

            async def forward() -> None:
                while data := await reader.read(1 << 16):
                    back.write(data)

            forwarding = asyncio.create_task(forward())
            stack.callback(forwarding.cancel)
            while data := await there.read(1 << 16):
                writer.write(data)
            # Not cut off: what was written is yet to be taken.
            writer.close()
            await writer.wait_closed()

    async def start() -> int:
        server = await asyncio.start_server(lambda *ends: tasks.add(asyncio.create_task(meet(*ends))), "127.0.0.1", 0)
        servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    yield start
    for server in servers:
        server.close()
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
        await asyncio.sleep(0)  # the sockets close in the loop's next turn
