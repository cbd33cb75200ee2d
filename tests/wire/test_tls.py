"""The transport of TLS connections, with protocols that the servers do not have."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

from client import within

from sockjs_tornado.wire.tls import TLSTransport


class Failing(asyncio.BufferedProtocol):
    """Reads one record, then pauses until the next iteration, and fails at the second record."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.memory = bytearray(100)
        self.ended = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.memory

    def buffer_updated(self, nbytes: int) -> None:
        self.records.append(bytes(self.memory[:nbytes]))
        if len(self.records) == 2:
            raise RuntimeError("a bug")
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


async def test_a_protocol_that_fails_on_data_read_before_a_pause_ends_the_connection(certificate: Path) -> None:
    loop = asyncio.get_running_loop()
    contexts: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate)
    client_context = ssl.create_default_context(cafile=certificate)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    protocol = Failing()

    def make_transport() -> TLSTransport:
        return TLSTransport(protocol, ours, server_context, bytearray(65536), lambda: None, lambda error: None)

    await loop.connect_accepted_socket(make_transport, ours)

    def talk() -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = client_context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        while True:
            try:
                session.do_handshake()
            except ssl.SSLWantReadError:
                theirs.sendall(outgoing.read())
                incoming.write(theirs.recv(65536))
            else:
                break
        session.write(b"first")
        session.write(b"second")
        # Both records in one packet.
        theirs.sendall(outgoing.read())

    await within(asyncio.to_thread(talk))
    await within(protocol.ended.wait())
    theirs.close()
    assert protocol.records == [b"first", b"second"]
    (context,) = contexts
    assert str(context["exception"]) == "a bug"
