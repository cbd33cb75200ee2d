"""Limits on accepted connections, and how long a connection counts."""

import asyncio
import contextlib
import errno
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from application import Echo, LogWatch
from client import HANDSHAKE, TIMEOUT, Client, WebSocket, request, until, within
from programs import ServerProgram
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from sockjs_tornado import SockJSRouter
from sockjs_tornado.server.connection_limits import Admission, LimitedServer, ThrottledSocket
from sockjs_tornado.serving import bind_sockets, http_server
from sockjs_tornado.wire.sockets import accept_socket

PUBLIC = "8.8.8.8"


def have_descriptors(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Have the process believe that it may have so many."""
    monkeypatch.setattr(resource, "getrlimit", lambda what: (count, count))


# What is allowed.


@pytest.mark.parametrize(
    ("descriptors", "most", "highest"),
    [(1024, 240, 959), (65536, 16368, 65471), (32, 7, 27), (256, 56, 223), (resource.RLIM_INFINITY, 0, None)],
)
def test_one_address_may_have_a_quarter_of_what_clients_may_have(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, most: int, highest: int | None
) -> None:
    have_descriptors(monkeypatch, descriptors)
    admission = Admission()
    assert (admission.max_per_ip, admission.highest) == (most, highest)


@pytest.mark.parametrize(
    ("address", "counts"),
    [
        *((ip, True) for ip in (PUBLIC, "2600::1", f"::ffff:{PUBLIC}")),
        *((ip, False) for ip in ("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.0.1")),
        *((ip, False) for ip in ("::1", "fd00::1", "fe80::1", "fe80::1%eth0", "::ffff:10.0.0.1")),
    ],
)
def test_proxies_are_limited_only_if_configured(monkeypatch: pytest.MonkeyPatch, address: str, counts: bool) -> None:
    have_descriptors(monkeypatch, 1024)
    assert (Admission().add((address, 1)) is not None) == counts
    assert Admission(5).add((address, 1)) is not None
    assert Admission(0).add((address, 1)) is None
    # That of a Unix socket.
    assert Admission(5).add("") is None


def test_an_ipv6_host_has_all_of_its_network(logged: LogWatch) -> None:
    admission = Admission(2)
    first, second = (admission.add((ip, 1, 0, 0)) for ip in ("2600::1", "2600::2"))
    assert admission.reject_if_full(("2600::3", 1, 0, 0))
    assert not admission.reject_if_full(("2600:0:0:1::1", 1, 0, 0))
    assert first is not None
    first()
    assert not admission.reject_if_full(("2600::3", 1, 0, 0))
    assert admission.add(("2600::3", 1, 0, 0))
    assert admission.reject_if_full(("2600::4", 1, 0, 0))
    assert admission.rejected == 2
    assert second is not None
    # The second one comes within ten seconds.
    logged.take("Rejected a connection from 2600::/64, which has 2 connections already (max_connections_per_ip)")
    assert logged.records == []


async def test_with_a_proxy_s_header_fields_no_address_is_limited_by_default() -> None:
    for number, more, most in ((None, {}, None), (None, {"xheaders": True}, 0), (5, {"xheaders": True}, 5)):
        options: dict[str, Any] = {"max_connections_per_ip": number, **more}
        async with http_server(Application(), bind_sockets(0, "127.0.0.1"), **options) as server:
            admission: Admission = server.admission  # type: ignore[attr-defined]
            assert admission.max_per_ip == (Admission().max_per_ip if most is None else most)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"max_connections_per_ip": -1}, "max_connections_per_ip: expected a number, 0 or more, or None, got -1"),
        ({"reserved_descriptors": -1}, "reserved_descriptors: expected a number, 0 or more, or None, got -1"),
        ({"reserved_descriptors": 2**40}, "reserved_descriptors: expected less than the process's limit of "),
    ],
)
async def test_numbers_that_cannot_be_are_rejected(wrong: dict[str, Any], complaint: str) -> None:
    sockets = bind_sockets(0, "127.0.0.1")
    with pytest.raises(ValueError, match=complaint):
        async with http_server(Application(), sockets, **wrong):
            pass
    assert [sock.fileno() for sock in sockets] == [-1]


# What counts, and for how long.


class Served:
    """A server of echoes on which an address may have so many connections."""

    def __init__(self, router: SockJSRouter, server: Any, port: int, tls: ssl.SSLContext | None) -> None:
        self.router = router
        self.admission: Admission = server.admission
        self.port = port
        self.tls = tls
        self._released = asyncio.Event()
        release = self.admission.release

        def note(network: str) -> None:
            release(network)
            self._released.set()

        self.admission.release = note

    async def connect(self, source: str = "127.0.0.1") -> Client:
        return await Client.connect(self.port, tls=self.tls, source=source)

    async def is_refused(self, source: str = "127.0.0.1") -> bool:
        """Connect and return whether the connection is closed at once."""
        try:
            client = await self.connect(source)
        except (asyncio.IncompleteReadError, ConnectionError):
            return True
        client.write(request("GET", "/echo/info"))
        try:
            await client.response()
        except (asyncio.IncompleteReadError, ConnectionError):
            return True
        finally:
            await client.leave()
        return False

    async def emptied(self) -> None:
        """Wait until no connection counts."""
        async with asyncio.timeout(TIMEOUT):
            while self.admission._connections:
                self._released.clear()
                await self._released.wait()


@contextlib.asynccontextmanager
async def served(most: int, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None) -> AsyncIterator[Served]:
    router = SockJSRouter(Echo, "/echo", {"max_message_size": 1000})
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    application = Application(router.urls, log_function=lambda handler: None)
    more: dict[str, Any] = {"ssl_options": tls[0]} if tls else {}
    async with http_server(application, sockets, max_connections_per_ip=most, **more) as server:
        yield Served(router, server, port, tls[1] if tls else None)
        for session in router.container:
            session.close()
            session.check(session.due)
        await within(router.close())


@pytest.fixture(params=["tcp", "tls"])
def secured(request: pytest.FixtureRequest, certificate: tuple[Path, Path]) -> Any:
    """What a server and its clients need for TLS; None for TCP."""
    if request.param == "tcp":
        return None
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*certificate)
    return server, ssl.create_default_context(cafile=str(certificate[0]))


#: What a client may begin with; where the answer has to be there before it counts as taken over, its head.
BEGINNINGS = {
    "idle": b"",
    "half a head": b"GET /echo/info HT",
    "kept": request("GET", "/echo/info"),
    "polling": request("POST", "/echo/000/a/xhr", body=b"") * 2,
    "streaming": request("POST", "/echo/000/a/xhr_streaming", body=b""),
    "websocket": request("GET", "/echo/000/a/websocket", *HANDSHAKE),
    "raw websocket": request("GET", "/echo/websocket", *HANDSHAKE),
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
async def test_a_connection_counts_until_it_is_closed(secured: Any, beginning: str, logged: LogWatch) -> None:
    async with served(2, secured) as server:
        # Over TLS, a connection to which nothing was ever said has not even begun.
        clients = [await server.connect() for _ in range(2)]
        for client in clients:
            client.write(BEGINNINGS[beginning].replace(b"/a/", b"/%d/" % client.port))
            if BEGINNINGS[beginning].endswith(b"\r\n\r\n"):
                await client.head()
        assert await server.is_refused()
        assert not await server.is_refused("127.0.0.2")
        await clients[0].leave()
        async with asyncio.timeout(TIMEOUT):
            while await server.is_refused():
                pass
        clients[1].writer.transport.abort()
        await server.emptied()
    logged.take("max_connections_per_ip")


#: What ends a connection, or takes it over for an answer alone.
ENDINGS = {
    "closed by request": request("GET", "/echo/info", "Connection: close"),
    "an old client": request("GET", "/echo/info", version="HTTP/1.0"),
    "nonsense": b"\x00\x01\r\n\r\n",
    "a body too long": request("POST", "/echo/000/a/xhr_send", "Content-Length: 100000"),
    "a chunked body too long": request("POST", "/echo/000/a/xhr_send", "Transfer-Encoding: chunked")
    + b"fffff\r\n"
    + b"x" * 9999,
    "an old stream": request("POST", "/echo/000/b/xhr_streaming", version="HTTP/1.0", body=b""),
    "no websocket": request("GET", "/echo/000/a/websocket"),
    "a foreign path": request("GET", "/nothing"),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_nothing_counts_after_the_end(secured: Any, ending: str) -> None:
    async with served(2, secured) as server:
        client = await server.connect()
        client.write(ENDINGS[ending])
        if ending != "an old stream":
            with contextlib.suppress(ConnectionError):
                await within(client.reader.read(10))
        await client.leave()
        await server.emptied()


async def test_nothing_counts_after_a_session_has_closed(secured: Any) -> None:
    async with served(5, secured) as server:
        websocket = await WebSocket.open(await server.connect(), "/echo/000/a/websocket")
        assert await websocket.text() == "o"
        poll, stream = await server.connect(), await server.connect()
        poll.write(request("POST", "/echo/000/b/xhr", body=b"") * 2)
        stream.write(request("POST", "/echo/000/c/xhr_streaming", body=b""))
        assert (await poll.response()).body == b"o\n"
        await stream.head()
        assert sum(server.admission._connections.values()) == 3
        closing = asyncio.ensure_future(server.router.close())
        assert await websocket.text() == 'c[3000,"Go away!"]'
        for client in (websocket.client, poll, stream):
            await client.leave()
        await within(closing)
        await server.emptied()


async def test_a_connection_that_cannot_be_encrypted_is_closed_and_not_counted() -> None:
    server = LimitedServer(Application(), ssl_options=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    server.admission = Admission(max_per_ip=10)
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    accepted, client = socket.socketpair()
    with client, pytest.raises(ssl.SSLError):
        server.handle_socket(accepted, ("127.0.0.1", 1))
    assert accepted.fileno() < 0
    assert not server.admission._connections


async def test_a_connection_that_a_handler_takes_counts_until_it_is_closed() -> None:
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    application = Application([("/plain", WebSocketHandler)], log_function=lambda handler: None)
    async with http_server(application, sockets, max_connections_per_ip=5, server="native") as http:
        admission = http.admission  # type: ignore[attr-defined]
        websocket = await WebSocket.open(await Client.connect(port), "/plain")
        assert sum(admission._connections.values()) == 1
        await websocket.client.leave()
        await until(lambda: not admission._connections)


@pytest.mark.parametrize("kind", ["native", "tornado"])
async def test_a_connection_counts_until_its_client_leaves(kind: Literal["native", "tornado"]) -> None:
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    application = Application([], log_function=lambda handler: None)
    async with http_server(application, sockets, max_connections_per_ip=5, server=kind) as http:
        admission = http.admission  # type: ignore[attr-defined]
        client = await Client.connect(port)
        assert (await client.ask("GET", "/")).status == 404
        assert sum(admission._connections.values()) == 1
        await client.leave()
        await until(lambda: not admission._connections)


# The last descriptors.


@pytest.fixture
def program() -> Iterator[ServerProgram]:
    """A server that may have 64 descriptors, 24 of which are not for clients."""
    program = ServerProgram("tests/served.py", "--files", "64", "--reserved", "24")
    yield program
    program.stop()


def count(descriptors: Path) -> int:
    """Return how many a process has."""
    return len(list(descriptors.iterdir()))


@pytest.mark.parametrize("reason", ["reserved", "none"])
async def test_clients_wait_while_descriptors_are_used_up(
    monkeypatch: pytest.MonkeyPatch, logged: LogWatch, reason: str
) -> None:
    waits: asyncio.Queue[None] = asyncio.Queue()
    wait = ThrottledSocket._wait
    used_up = True

    def noted(self: ThrottledSocket) -> None:
        waits.put_nowait(None)
        wait(self)

    def accept_if_free(self: socket.socket) -> Any:
        if used_up and reason == "none":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return accept_socket(self)

    monkeypatch.setattr("sockjs_tornado.server.connection_limits.RETRY_INTERVAL", 0.01)
    monkeypatch.setattr(ThrottledSocket, "_wait", noted)
    monkeypatch.setattr("sockjs_tornado.server.connection_limits.accept_socket", accept_if_free)
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    async with http_server(Application(log_function=lambda handler: None), sockets) as server:
        admission: Admission = server.admission  # type: ignore[attr-defined]
        usual, admission.highest = admission.highest, 0 if reason == "reserved" else None
        clients = [await Client.connect(port) for _ in range(2)]
        for client in clients:
            client.write(request("GET", "/"))
        for _ in range(3):
            await within(waits.get())
        # The first one was accepted with the last descriptor.
        answers = [asyncio.ensure_future(client.response()) for client in clients]
        if reason == "reserved":
            assert (await answers[0]).status == 404
        assert not answers[1].done()
        used_up = False
        admission.highest = usual
        assert [(await answer).status for answer in answers] == [404, 404]
        for client in clients:
            await client.leave()
    logged.take("Cannot accept clients for now")


def test_a_socket_that_was_closed_meanwhile_does_not_accept() -> None:
    with ThrottledSocket() as sock:
        pass
    sock._resume()


def test_a_free_descriptor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThrottledSocket() as sock:
        assert sock._has_descriptors(sock.fileno() + 1000)
        assert not sock._has_descriptors(0)

        def fail(descriptor: int) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(os, "dup", fail)
        assert not sock._has_descriptors(1 << 20)


async def test_some_descriptors_are_left_for_other_things(program: ServerProgram) -> None:
    descriptors = Path(f"/proc/{program.pid}/fd")
    idle = [await Client.connect(program.ports[0]) for _ in range(100)]
    # Who comes now waits in the backlog.
    late = await Client.connect(program.ports[0])
    late.write(request("GET", "/echo/info"))
    answer = asyncio.ensure_future(late.response())
    async with asyncio.timeout(TIMEOUT):
        while count(descriptors) < 64 - 24:  # noqa: ASYNC110 - the other process does not call
            await asyncio.sleep(0.01)
    for client in idle:
        # Whether there is one for a client, the server finds out with one more.
        assert count(descriptors) <= 64 - 24 + 1
        await client.leave()
    assert (await answer).status == 200
    await late.leave()
    ended = await asyncio.to_thread(program.stop)
    assert ended.status == 0
    assert ended.errors.startswith("Cannot accept clients for now: all file descriptors but the 24 reserved ones")
