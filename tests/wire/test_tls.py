"""The transport of TLS connections, with protocols that the servers do not have."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from client import until, within

from sockjs_tornado.wire.tls import TLSTransport


class Recording(asyncio.BufferedProtocol):
    """Notes what it is told.

    Attributes:
        events: What it was told, and the data.
        ended: Set when the connection is closed.
    """

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.memory = bytearray(100)
        self.ended = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.memory

    def buffer_updated(self, nbytes: int) -> None:
        self.events.append(bytes(self.memory[:nbytes]))

    def eof_received(self) -> bool:
        self.events.append("end")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


class Failing(Recording):
    """Reads one record, then pauses until the next iteration, and fails at the second record."""

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        if len(self.events) == 2:
            raise RuntimeError("a bug")
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self.transport.resume_reading)


class Pair:
    """A TLS transport, and the client that it is connected to.

    Attributes:
        protocol: The transport's protocol.
        transport: The transport.
        handshakes: What was reported of the handshake: None, or an error.
        sock: The client's socket.
        session: The client's TLS session.
    """

    def __init__(self, protocol: Recording, certificate: Path) -> None:
        self.protocol = protocol
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server_socket, self.sock = socket.socketpair()
        self._server_socket.setblocking(False)
        self.handshakes: list[Exception | None] = []
        self._buffer = bytearray(65536)
        self.transport = TLSTransport(
            protocol,
            self._server_socket,
            context,
            self._buffer,
            lambda: self.handshakes.append(None),
            self.handshakes.append,
        )
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = ssl.create_default_context(cafile=certificate).wrap_bio(
            self._incoming, self._outgoing, server_hostname="127.0.0.1"
        )

    async def connect(self) -> None:
        """Give the transport its socket."""
        await asyncio.get_running_loop().connect_accepted_socket(lambda: self.transport, self._server_socket)

    async def handshake(self) -> None:
        """Connect, and do the client's part of the handshake."""
        await self.connect()
        await within(asyncio.to_thread(self._handshake))
        await until(lambda: self.handshakes)

    def _handshake(self) -> None:
        while True:
            try:
                self.session.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self._incoming.write(self.sock.recv(65536))
            else:
                self.flush()
                return

    def flush(self) -> None:
        """Send what the session has to send, in one packet."""
        self.sock.sendall(self._outgoing.read())

    def write(self, *records: bytes) -> None:
        """Send records, all in one packet."""
        for record in records:
            self.session.write(record)
        self.flush()

    def close_session(self) -> None:
        """Send a close_notify."""
        with pytest.raises(ssl.SSLWantReadError):
            self.session.unwrap()
        self.flush()

    async def rest(self) -> bytes:
        """Receive what the server sends until it closes the connection."""
        received = b""
        while data := await within(asyncio.to_thread(self.sock.recv, 65536)):
            received += data
        return received

    def decrypt(self, data: bytes) -> bytes:
        """Return what the server has sent, up to its close_notify or its end."""
        self._incoming.write(data)
        self._incoming.write_eof()
        plain = b""
        with contextlib.suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
            while piece := self.session.read(65536):
                plain += piece
        return plain

    def receive(self, data: bytes) -> None:
        """Let the transport have read data."""
        self._buffer[: len(data)] = data
        self.transport.buffer_updated(len(data))


MakePair = Callable[[Recording], Pair]


@pytest.fixture
async def make_pair(certificate: Path) -> AsyncIterator[MakePair]:
    """Return a function that makes a pair for a protocol, whose connection the test makes and closes or leaves open."""
    pairs: list[Pair] = []

    def make(protocol: Recording) -> Pair:
        pairs.append(Pair(protocol, certificate))
        return pairs[-1]

    yield make
    for made in pairs:
        made.transport.abort()
        made.sock.close()
        await within(made.protocol.ended.wait())


async def test_a_protocol_that_fails_on_data_read_before_a_pause_ends_the_connection(make_pair: MakePair) -> None:
    contexts: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: contexts.append(context))
    pair = make_pair(Failing())
    await pair.handshake()
    pair.write(b"first", b"second")
    await within(pair.protocol.ended.wait())
    assert pair.protocol.events == [b"first", b"second"]
    (context,) = contexts
    assert str(context["exception"]) == "a bug"


async def test_a_failed_handshake_is_reported_once(make_pair: MakePair) -> None:
    pair = make_pair(Recording())
    await pair.connect()
    pair.receive(b"GET / HTTP/1.1\r\n\r\n")
    # uvloop may have read more.
    pair.receive(b"GET / HTTP/1.1\r\n\r\n")
    (error,) = pair.handshakes
    assert isinstance(error, ssl.SSLError)
    assert pair.transport.is_closing()
    await within(pair.protocol.ended.wait())


async def test_the_end_is_reported_once(make_pair: MakePair) -> None:
    pair = make_pair(Recording())
    await pair.handshake()
    pair.close_session()
    await until(lambda: pair.protocol.events)
    pair.transport.write_eof()
    # The end of the TCP connection follows.
    pair.sock.shutdown(socket.SHUT_WR)
    await until(lambda: pair.transport.is_closing() or pair.transport.eof_received())
    assert pair.protocol.events == ["end"]


@pytest.mark.parametrize("how", ["closed", "aborted", "shut"])
async def test_after_the_end_nothing_is_sent(make_pair: MakePair, how: str) -> None:
    pair = make_pair(Recording())
    await pair.handshake()
    pair.transport.write(b"the last")
    {"closed": pair.transport.close, "aborted": pair.transport.abort, "shut": pair.transport.write_eof}[how]()
    pair.transport.write(b"too late")
    pair.transport.write_eof()
    assert pair.transport.is_closing() == (how != "shut")
    assert pair.decrypt(await pair.rest()) == b"the last"


async def test_a_lost_connection_is_not_written_to(make_pair: MakePair) -> None:
    """The event loop has closed it, and tells the protocol in its next iteration."""
    pair = make_pair(Recording())
    await pair.handshake()
    pair.transport.pause_reading()
    pair.transport._transport.abort()
    pair.transport.write(b"too late")
    await within(pair.protocol.ended.wait())
    pair.transport.resume_reading()
    assert pair.decrypt(await pair.rest()) == b""


async def test_a_session_that_cannot_encrypt_is_aborted(make_pair: MakePair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one of TLS 1.2 whose client has begun a renegotiation."""
    pair = make_pair(Recording())
    await pair.handshake()

    def fail(data: bytes) -> bytes:
        raise ssl.SSLError("no renegotiation")

    monkeypatch.setattr(type(pair.transport.channel), "encrypt", lambda channel, data: fail(data))
    pair.transport.write(b"data")
    await within(pair.protocol.ended.wait())


async def test_the_rest_of_the_interface(make_pair: MakePair) -> None:
    pair = make_pair(Recording())
    await pair.handshake()
    transport = pair.transport
    assert transport.can_write_eof()
    assert transport.get_protocol() is pair.protocol
    assert transport.get_extra_info("ssl_object") is transport.channel.session
    assert transport.get_extra_info("socket").fileno() > 0
    transport.set_write_buffer_limits(high=100)
    assert transport._transport.get_write_buffer_limits()[1] == 100


async def test_reading_that_is_resumed_twice_in_one_iteration_goes_on_once(make_pair: MakePair) -> None:
    pair = make_pair(Recording())
    await pair.handshake()
    pair.transport.pause_reading()
    pair.write(b"one", b"two")
    for _ in range(2):
        pair.transport.resume_reading()
        pair.transport.pause_reading()
    pair.transport.resume_reading()
    await until(lambda: len(pair.protocol.events) == 2)
    assert pair.protocol.events == [b"one", b"two"]
