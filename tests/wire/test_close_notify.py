"""Closing of TLS streams whose socket has no room for the close_notify."""

import asyncio
import contextlib
import fcntl
import socket
import ssl
import struct
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from client import TIMEOUT
from tornado.iostream import SSLIOStream

from sockjs_tornado.wire import responses
from sockjs_tornado.wire.responses import close_stream

from .server import passed, unix_pair

RECORD = b"x"


def _buffered(sock: socket.socket) -> int:
    """Return the memory of the socket's unread data, in bytes."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


@contextlib.asynccontextmanager
async def _full_stream(certificate: Path) -> AsyncIterator[tuple[SSLIOStream, ssl.SSLSocket, int]]:
    """Return a stream whose last write has filled the send buffer, its client, and the number of records sent.

    A Unix socket accepts data as a whole as long as its send buffer is not full, so the last record ends exactly there.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    client_context = ssl.create_default_context(cafile=certificate)
    with unix_pair() as (ours, theirs):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        ours.setblocking(False)
        theirs.settimeout(TIMEOUT)
        secured = context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
        stream = SSLIOStream(secured)
        client, _ = await asyncio.gather(
            asyncio.to_thread(
                client_context.wrap_socket, theirs, server_hostname="127.0.0.1", suppress_ragged_eofs=False
            ),
            stream.wait_for_handshake(),
        )
        with client:
            sent = 0
            while _buffered(secured) < secured.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF):
                await stream.write(RECORD)
                sent += 1
            yield stream, client, sent
            stream.close()


def _receive_to_the_end(client: ssl.SSLSocket) -> bytes:
    data = b""
    while piece := client.recv(1024):
        data += piece
    return data


async def test_a_close_notify_waits_for_room_in_the_send_buffer(certificate: Path) -> None:
    async with _full_stream(certificate) as (stream, client, sent):
        closed = asyncio.Event()
        close_stream(stream, closed.set)
        assert not stream.closed()
        assert await asyncio.to_thread(_receive_to_the_end, client) == sent * RECORD
        await passed(closed)
        assert stream.closed()


async def test_a_client_that_does_not_read_gets_no_close_notify(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "_MAX_ATTEMPTS", 2)
    async with _full_stream(certificate) as (stream, client, _):
        closed = asyncio.Event()
        close_stream(stream, closed.set)
        await passed(closed)
        with pytest.raises(ssl.SSLEOFError):
            await asyncio.to_thread(_receive_to_the_end, client)


async def test_a_stream_may_be_closed_in_the_meantime(certificate: Path) -> None:
    async with _full_stream(certificate) as (stream, _, _):
        closed = asyncio.Event()
        close_stream(stream, closed.set)
        stream.close()
        await passed(closed)
