"""A real server whose connections get owners that take notes, and clients that read when they are told to."""

import asyncio
import contextlib
import math
import random
import select
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from application import TornadoServer
from client import TIMEOUT
from tornado.iostream import IOStream
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.web import Application, RequestHandler

from sockjs_tornado.observe.stats import Stats
from sockjs_tornado.wire.connection import READ_SIZE, Connection
from sockjs_tornado.wire.stream import take_over
from sockjs_tornado.wire.time_budget import TimeBudget
from sockjs_tornado.wire.write_queue import WriteQueue

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"

#: Bytes that the kernel is asked to keep for a client that does not read; it may take several times as many.
KERNEL_BUFFER = 64 * 1024

#: More than it can keep.
FLOOD = 64 * KERNEL_BUFFER


def noise(size: int) -> bytes:
    """Return bytes in which nothing repeats, the same for each call."""
    return random.Random(size).randbytes(size)


async def passed(event: asyncio.Event) -> None:
    """Wait until an event was set."""
    async with asyncio.timeout(TIMEOUT):
        await event.wait()


class Ledger:
    """A container that writes down what it is asked for; its time stands still.

    Attributes:
        grace: Until when nobody is late, None if there is no grace period.
    """

    grace: float | None = None
    read_budget = TimeBudget(math.inf)

    def __init__(self, size: int = READ_SIZE) -> None:
        self.read_buffer = bytearray(size)
        self.stats = Stats(list)
        self.write_queue = WriteQueue(self.stats)
        self.deadlines: dict[Connection, float] = {}
        self.opened = 0
        self.closed = 0

    def now(self) -> float:
        return 1000.0

    def schedule(self, owner: Connection) -> None:
        self.deadlines[owner] = owner.due
        owner.bucket = 0

    def cancel(self, owner: Connection) -> None:
        self.deadlines.pop(owner, None)

    def postpone(self, owner: Connection, now: float) -> bool:
        if self.grace is None:
            return False
        owner.due = self.grace
        return True

    def connection_opened(self) -> None:
        self.opened += 1

    def connection_closed(self) -> None:
        self.closed += 1


class Recorder(Connection):
    """Writes down what it hears."""

    def __init__(self, container: Ledger | None = None) -> None:
        self.container = container or Ledger()
        super().__init__(self.container, HEAD)
        self.heard: list[str] = []
        self.data = bytearray()
        #: What came before anything was read from the transport.
        self.unread = b""
        self.changed = asyncio.Event()
        self.error: Exception | None = None
        self.times_lost = 0

    def note(self, what: str) -> None:
        self.heard.append(what)
        self.changed.set()

    async def until(self, condition: Callable[..., bool], *arguments: Any) -> None:
        """Wait for something that this connection hears of."""
        async with asyncio.timeout(TIMEOUT):
            while not condition(*arguments):
                self.changed.clear()
                await self.changed.wait()

    async def until_heard(self, what: str) -> None:
        await self.until(lambda: what in self.heard)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.unread = bytes(self.data)

    def on_connect(self) -> None:
        self.note("opened")

    def on_data(self, data: bytes) -> None:
        self.data += data
        self.note("received")

    def pause_writing(self) -> None:
        self.note("paused")

    def resume_writing(self) -> None:
        self.note("resumed")

    def on_disconnect(self) -> None:
        self.times_lost += 1
        self.changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        before = self.container.closed
        super().connection_lost(exc)
        if self.container.closed > before:
            self.error = exc
            self.note("ended")

    @property
    def without_data(self) -> list[str]:
        return [what for what in self.heard if what != "received"]


class Client:
    """A blocking socket: what it is not told to read stays where it is."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT)
        self.sock = sock

    async def send(self, data: bytes) -> None:
        await asyncio.to_thread(self.sock.sendall, data)

    async def receive(self, size: int) -> bytes:
        """Return so many bytes, fewer where the server has closed."""

        def read() -> bytes:
            data = bytearray()
            while len(data) < size:
                try:
                    piece = self.sock.recv(min(size - len(data), 1 << 20))
                except (ConnectionError, ssl.SSLError):
                    break
                if not piece:
                    break
                data += piece
            return bytes(data)

        return await asyncio.to_thread(read)

    async def receive_all(self) -> bytes:
        """Return all bytes until the server closes."""
        return await self.receive(1 << 62)

    async def receive_to_the_end(self) -> bytes:
        """Return all bytes until the server says that it is done. An end that proves nothing raises, as a reset does.

        Over TLS the proof is a close_notify. The socket has to have been made strict; see :meth:`Site.connect`.
        """

        def read() -> bytes:
            data = bytearray()
            try:
                while piece := self.sock.recv(1 << 20):
                    data += piece
            except OSError as error:
                error.add_note(f"after {len(data)} bytes")
                raise
            return bytes(data)

        return await asyncio.to_thread(read)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with RST where the socket knows it."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Site:
    """A Tornado server whose only handler lets its connections be taken over.

    Attributes:
        nodelay: For :func:`take_over`.
        entered: Set when the handler has begun.
        gate: What the handler waits for before it gives the connection away; open unless a test closes it.
        noticed: Set when Tornado tells the handler that the client has gone.
        finished: Set when the handler has ended.
    """

    def __init__(self, kind: str, directory: Path, certificate: Path) -> None:
        self.kind = kind
        self.nodelay = True
        self.chunk_size: int | None = None
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.noticed = asyncio.Event()
        self.finished = asyncio.Event()
        self.give: Callable[[IOStream], Awaitable[None]] = self._take_over
        self.next: list[Recorder] = []
        self._path = str(directory / "socket")
        self._certificate = certificate
        self._port = 0
        self.servers: list[Any] = []
        self._clients: list[Client] = []

    async def _take_over(self, stream: IOStream) -> None:
        await take_over(stream, self.next.pop(0), nodelay=self.nodelay, user_timeout=0)

    def start(self, listening: socket.socket | None = None) -> None:
        """Listen, by default on a socket that Tornado makes."""
        options = None
        if self.kind == "tls":
            options = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            options.load_cert_chain(self._certificate)
        site = self

        class Handler(RequestHandler):
            async def get(self) -> None:
                site.entered.set()
                try:
                    await site.gate.wait()
                    await site.give(self.detach())
                finally:
                    site.finished.set()

            def on_connection_close(self) -> None:
                site.noticed.set()

        application = Application([("/", Handler)], log_function=lambda handler: None)
        server = TornadoServer(application, ssl_options=options, chunk_size=self.chunk_size)
        if listening is None:
            if self.kind == "unix":
                listening = bind_unix_socket(self._path)
            else:
                (listening,) = bind_sockets(0, "127.0.0.1")
        if self.kind != "unix":
            self._port = listening.getsockname()[1]
        # Connections inherit it.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
        server.add_socket(listening)
        self.servers.append(server)

    async def connect(self) -> Client:
        """Return a client that has said nothing yet."""

        def open_socket() -> socket.socket:
            if self.kind == "unix":
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(self._path)
                return sock
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(TIMEOUT)
            sock.connect(("127.0.0.1", self._port))
            if self.kind == "tls":
                context = ssl.create_default_context(cafile=self._certificate)
                # Without a close_notify, an end is an error.
                return context.wrap_socket(sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
            return sock

        client = Client(await asyncio.to_thread(open_socket))
        self._clients.append(client)
        return client

    async def request(self, more: bytes = b"", recorder: Recorder | None = None) -> tuple[Client, Recorder]:
        """Send a request, with bytes that follow it at once, and return both ends."""
        recorder = recorder or Recorder()
        self.next.append(recorder)
        client = await self.connect()
        await client.send(REQUEST + more)
        return client, recorder

    async def taken_over(self, more: bytes = b"", recorder: Recorder | None = None) -> tuple[Client, Recorder]:
        """Return both ends of a connection that was taken over, its head read by the client."""
        client, recorder = await self.request(more, recorder)
        assert await client.receive(len(HEAD)) == HEAD
        await recorder.until_heard("opened")
        await passed(self.finished)
        return client, recorder

    async def stop(self) -> None:
        for client in self._clients:
            client.close()
        for server in self.servers:
            server.stop()
            await server.close_all_connections()


@contextlib.asynccontextmanager
async def serving(kind: str, directory: Path, certificate: Path) -> AsyncIterator[Site]:
    site = Site(kind, directory, certificate)
    yield site
    await site.stop()


async def some_turns() -> None:
    """Let the event loop do all that it can do now."""
    for _ in range(20):
        await asyncio.sleep(0)


def wait_for(sock: socket.socket, event: int) -> None:
    """Wait, standing still, until the kernel has news of a socket."""
    poll = select.poll()
    poll.register(sock.fileno(), event)
    assert poll.poll(TIMEOUT * 1000)


@contextlib.contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
    with ours, theirs:
        yield ours, theirs


@contextlib.contextmanager
def unix_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


PAIRS = pytest.mark.parametrize("pair", [tcp_pair, unix_pair], ids=["tcp", "unix"])
Pair = Callable[[], contextlib.AbstractContextManager[tuple[socket.socket, socket.socket]]]
