"""TLS on the native server: the handshake, how connections end, and what applications see of it."""

import asyncio
import contextlib
import gc
import logging
import socket
import ssl
import weakref
from pathlib import Path
from typing import Any

import pytest
from application import Journal, close_router
from client import HANDSHAKE, TIMEOUT, new_session, request, until, within
from programs import create_certificate
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from sockjs_tornado import SockJSRouter
from sockjs_tornado.server import connection_io, secure_connection
from sockjs_tornado.server.connection_limits import Admission, LimitedServer

from .conftest import NATIVE, Listen, Site
from .test_bodies import FLOOD, KERNEL_BUFFER, new_echo
from .test_connections import Hello

pytestmark = NATIVE


class StrictClient:
    """A client on a blocking socket, for which an end without a close_notify is an error."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock

    @classmethod
    async def connect(cls, site: Site, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> "StrictClient":
        tls = site.tls
        assert tls is not None
        tls.minimum_version = tls.maximum_version = version

        def connect() -> ssl.SSLSocket:
            sock = socket.create_connection(("127.0.0.1", int(site.connect_to)), timeout=TIMEOUT)
            return tls.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False)

        return cls(await asyncio.to_thread(connect))

    async def send(self, data: bytes) -> None:
        await asyncio.to_thread(self.sock.sendall, data)

    async def rest(self) -> bytes:
        """Return all data before the server's close_notify; raise an error if there is none."""

        def read() -> bytes:
            data = bytearray()
            while piece := self.sock.recv(1 << 16):
                data += piece
            return bytes(data)

        return await asyncio.to_thread(read)

    async def plain_rest(self) -> bytes:
        """Return what follows on the underlying connection."""

        def read() -> bytes:
            return b"".join(iter(lambda: socket.socket.recv(self.sock, 1 << 16), b""))

        return await asyncio.to_thread(read)


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


# The handshake.


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "begun"])
async def test_a_handshake_has_a_deadline(listen: Listen, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(secure_connection, "HANDSHAKE_TIMEOUT", 0.05)
    site = await listen({"/": Hello.counting()}, "tls")
    tls, site.tls = site.tls, None
    client = await site.connect()
    client.write(data)
    assert await client.rest() == b""
    await until(lambda: not site.http.connections)
    # A complete one ends the deadline.
    monkeypatch.setattr(secure_connection, "HANDSHAKE_TIMEOUT", 1000)
    site.tls = tls
    assert (await (await site.connect()).ask("GET", "/")).text == "hello"


async def test_tls_on_the_wrong_port_and_the_proxy_protocol_are_recognised(
    listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sockjs_tornado.server")
    with_tls, without = [await listen({"/": Hello.counting()}, kind) for kind in ("tls", "tcp")]
    tls, with_tls.tls = with_tls.tls, None
    client = await without.connect()
    client.write(b"PROXY TCP4 127.0.0.1 127.0.0.1 5000 80\r\n" + request("GET", "/"))
    await client.rest()
    without.tls = tls
    client = await with_tls.connect()
    client.write(request("GET", "/"))
    await client.rest()
    with pytest.raises(ssl.SSLError):
        await without.connect()
    assert [record.getMessage() for record in caplog.records] == [
        "Malformed HTTP message from 127.0.0.1: The PROXY protocol is not supported (send-proxy of HAProxy).",
        "TLS handshake with 127.0.0.1 failed: HTTP without TLS on a port with TLS",
        "Malformed HTTP message from 127.0.0.1: TLS on a port without TLS.",
    ]


async def test_close_all_connections_within_the_handshake(listen: Listen) -> None:
    site = await listen({"/": Hello.counting()}, "tls")
    site.tls = None
    client = await site.connect()
    await until(lambda: site.http.connections)
    await within(site.http.close_all_connections())
    assert await client.rest() == b""


async def test_a_connection_counts_from_accept_to_close(listen: Listen) -> None:
    site = await listen({"/": Hello.counting()}, "tls")
    server = LimitedServer(Application([("/", Hello.counting())]), ssl_options=site.http.ssl_options)
    limits = server.admission = Admission(max_per_ip=10)
    (sock,) = bind_sockets(0, "127.0.0.1")
    server.add_socket(sock)
    site.connect_to = sock.getsockname()[1]
    tls, site.tls = site.tls, None
    waiting = await site.connect()
    site.tls = tls
    served = await site.connect()
    assert (await served.ask("GET", "/")).text == "hello"
    await until(lambda: sum(limits._connections.values()) == 2)
    # One within the handshake, one after a handshake that failed, and one that was served.
    site.tls = None
    refused = await site.connect()
    refused.write(request("GET", "/"))
    with contextlib.suppress(ConnectionResetError):
        await refused.rest()
    waiting.writer.close()
    served.writer.close()
    await until(lambda: not limits._connections)
    server.stop()


# The end of a connection.


@VERSIONS
@pytest.mark.parametrize(
    "data",
    [
        request("GET", "/", "Connection: close"),
        request("GET", "/echo/info", "Connection: close"),
        b"nonsense\r\n\r\n",
        request("POST", "/echo/000/abc/xhr_send", "Content-Length: 1000000000"),
    ],
    ids=["handler", "endpoint", "refused", "too large"],
)
async def test_the_server_ends_a_connection_with_a_close_notify(
    listen: Listen, version: ssl.TLSVersion, data: bytes
) -> None:
    router = SockJSRouter(Journal(), "/echo")
    site = await listen(Application([("/", Hello.counting()), *router.urls], log_function=lambda handler: None), "tls")
    client = await StrictClient.connect(site, version)
    await client.send(data)
    assert (await client.rest()).startswith(b"HTTP/1.1 ")
    client.sock.close()
    await until(lambda: not site.http.connections)


async def test_an_idle_connection_ends_with_a_close_notify(listen: Listen) -> None:
    site = await listen({"/": Hello.counting()}, "tls", idle_connection_timeout=0.05)
    client = await StrictClient.connect(site)
    assert await client.rest() == b""
    client.sock.close()


@pytest.mark.parametrize("transport", ["websocket", "xhr_streaming"])
async def test_a_session_ends_with_a_close_notify(listen: Listen, transport: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    site = await listen(Application(router.urls, log_function=lambda handler: None), "tls")
    client = await StrictClient.connect(site)
    path = f"/echo/000/{new_session()}/{transport}"
    if transport == "websocket":
        await client.send(request("GET", path, *HANDSHAKE))
    else:
        await client.send(request("POST", path, "Connection: close", body=b""))
    (await journal.connection()).close()
    if transport == "websocket":
        # An empty close frame, masked.
        await client.send(b"\x88\x80abcd")
    assert b'c[3000,"Go away!"]' in await client.rest()
    client.sock.close()
    await close_router(router)


@VERSIONS
@pytest.mark.parametrize("size", [70_000, 3_000_000])
async def test_a_refused_body_does_not_hide_the_response(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, version: ssl.TLSVersion, size: int
) -> None:
    # The end of the client's data closes the connection, not the time limit.
    monkeypatch.setattr(connection_io, "CLOSE_TIMEOUT", 1000)
    site = await listen({"/": Hello.counting()}, "tls", max_body_size=1000)
    client = await StrictClient.connect(site, version)
    await client.send(request("POST", "/", body=b"a" * size))
    assert (await client.rest()).startswith(b"HTTP/1.1 413 ")
    # The server reads on, until the client ends.
    client.sock.shutdown(socket.SHUT_WR)
    assert await client.plain_rest() == b""
    client.sock.close()
    await until(lambda: not site.http.connections)


async def test_a_client_may_close_only_its_side(listen: Listen) -> None:
    """With a close_notify, after which it reads on (RFC 8446, section 6.1)."""

    class Long(RequestHandler):
        def get(self) -> None:
            self.write(b"x" * FLOOD)

    site = await listen({"/": Long}, "tls")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    assert site.tls is not None
    session = site.tls.wrap_bio(incoming, outgoing, server_hostname="localhost")
    site.tls = None
    client = await site.connect(receive_buffer=KERNEL_BUFFER)
    while True:
        try:
            session.do_handshake()
            break
        except ssl.SSLWantReadError:
            client.write(outgoing.read())
            incoming.write(await within(client.reader.read(1 << 16)))
    session.write(request("GET", "/"))
    with contextlib.suppress(ssl.SSLWantReadError):
        session.unwrap()
    client.write(outgoing.read())
    # Encrypted, all of it has arrived.
    assert len(await client.rest()) > FLOOD
    await until(lambda: not site.http.connections)


@VERSIONS
async def test_a_client_that_sends_no_tls_any_more_is_disconnected(listen: Listen, version: ssl.TLSVersion) -> None:
    site = await listen({"/": Hello.counting()}, "tls")
    client = await StrictClient.connect(site, version)
    await client.send(request("GET", "/")[:10])
    await asyncio.to_thread(socket.socket.sendall, client.sock, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with contextlib.suppress(ConnectionResetError):
        assert b"HTTP" not in await client.plain_rest()
    await until(lambda: not site.http.connections)
    client.sock.close()


async def test_a_connection_that_ended_is_freed(listen: Listen) -> None:
    site = await listen({"/": Hello.counting()}, "tls")
    client = await site.connect()
    assert (await client.ask("GET", "/")).text == "hello"
    gc.collect()
    # It is referenced by its connection, and vice versa.
    (transport,) = (weakref.ref(connection.transport) for connection in site.http.connections)
    gc.disable()
    try:
        client.writer.close()
        await until(lambda: transport() is None)
    finally:
        gc.enable()


# Bytes.


@pytest.mark.parametrize("size", [1, 1000, 16_384, 1_000_000])
async def test_requests_in_records_of_any_size(listen: Listen, size: int) -> None:
    site = await listen({"/": new_echo()}, "tls")
    client = await StrictClient.connect(site)
    bodies = [bytes([65 + number]) * 2000 for number in range(1 if size == 1 else 20)]
    data = b"".join(request("POST", "/", body=body) for body in bodies[:-1])
    data += request("POST", "/", "Connection: close", body=bodies[-1])

    def send() -> None:
        for start in range(0, len(data), size):
            client.sock.sendall(data[start : start + size])

    # All of it fits into the buffers of the kernel.
    await asyncio.to_thread(send)
    response = await client.rest()
    assert [body in response for body in bodies] == [True] * len(bodies)
    client.sock.close()


# What applications see.


async def test_a_session_over_tls_is_secure(listen: Listen) -> None:
    router = SockJSRouter(Journal(), "/echo", {"jsessionid": True})
    site = await listen(Application(router.urls, log_function=lambda handler: None), "tls")
    response = await (await site.connect()).ask("POST", f"/echo/000/{new_session()}/xhr", body=b"")
    assert "; Secure" in response["Set-Cookie"]
    await close_router(router)


async def test_the_session_is_known_to_handlers_and_to_the_access_log(listen: Listen) -> None:
    seen: list[Any] = []

    class Version(RequestHandler):
        def get(self) -> None:
            sock = self.request.connection.stream.socket  # type: ignore[union-attr]
            self.write(f"{sock.version()} {sock.getpeername()[0]}")

    router = SockJSRouter(Journal(), "/echo")
    application = Application(
        [("/", Version), *router.urls],
        log_function=lambda handler: seen.append((handler.request.protocol, handler.request.get_ssl_certificate())),
    )
    client = await (await listen(application, "tls")).connect()
    assert (await client.ask("GET", "/")).text == "TLSv1.3 127.0.0.1"
    assert (await client.ask("GET", "/echo/info")).status == 200
    assert seen == [("https", None)] * 2


@VERSIONS
async def test_a_websocket_of_tornado(listen: Listen, version: ssl.TLSVersion) -> None:
    class Socket(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            self.write_message(str(len(message)) + "x" * 3_000_000)
            self.close()

    site = await listen({"/": Socket}, "tls")
    client = await StrictClient.connect(site, version)
    # With the frame behind it, and in the kernel's buffers more than one read.
    frame = b"\x81\xfe\xff\xff\0\0\0\0" + b"a" * 65_535
    await client.send(request("GET", "/", *HANDSHAKE) + frame + b"\x88\x80abcd")
    data = await client.rest()
    assert b"65535x" in data
    assert data.count(b"x") >= 3_000_000
    client.sock.close()


async def test_a_certificate_may_be_renewed(listen: Listen, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    options = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    options.load_cert_chain(*certificate)
    site = await listen({"/": Hello.counting()}, "tls", ssl_options=options)
    before = await StrictClient.connect(site)
    new = await asyncio.to_thread(create_certificate, tmp_path)
    options.load_cert_chain(*new)
    assert site.tls is not None
    site.tls.load_verify_locations(new[0])
    after = await StrictClient.connect(site)
    assert before.sock.getpeercert() != after.sock.getpeercert()
    for client in (before, after):
        await client.send(request("GET", "/", "Connection: close"))
        assert (await client.rest()).endswith(b"hello")
        client.sock.close()
