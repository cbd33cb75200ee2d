"""Responses on streams of Tornado: what is left of a write, and the close_notify of a TLS stream with a full socket."""

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
from tornado.iostream import IOStream, SSLIOStream

from sockjs_tornado.wire import responses
from sockjs_tornado.wire.responses import PIECE_SIZE, PendingWrite, close_stream, write_tracked

from .server import noise, passed, unix_pair

#: More than the kernel keeps for a peer that does not read.
SIZE = 4 * 1024 * 1024


@pytest.fixture
async def pair() -> AsyncIterator[tuple[IOStream, socket.socket]]:
    """Return a stream, and the other end of its connection."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    stream = IOStream(ours)
    yield stream, theirs
    stream.close()
    theirs.close()


async def read(theirs: socket.socket, size: int) -> bytes:
    """Read so many bytes."""
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(TIMEOUT):
        while len(data) < size:
            data += await loop.sock_recv(theirs, size - len(data))
    return data


async def test_it_is_known_how_much_is_left(pair: tuple[IOStream, socket.socket]) -> None:
    stream, theirs = pair
    data = noise(SIZE)
    pending = write_tracked(stream, data)
    assert pending is not None
    first = pending.unsent
    assert 0 < first <= SIZE
    assert await read(theirs, SIZE // 2) == data[: SIZE // 2]
    # What the kernel has taken, it has taken in whole pieces, as far as is seen.
    assert 0 < pending.unsent <= SIZE // 2 + PIECE_SIZE
    done = asyncio.Event()
    pending.add_done_callback(lambda future: done.set())
    assert not done.is_set()
    assert await read(theirs, SIZE // 2) == data[SIZE // 2 :]
    async with asyncio.timeout(TIMEOUT):
        await done.wait()
        assert pending.unsent == 0
        done.clear()
        pending.add_done_callback(lambda future: done.set())
        assert not done.is_set()
        await done.wait()


async def test_later_writes_follow_a_tracked_one(pair: tuple[IOStream, socket.socket]) -> None:
    stream, theirs = pair
    data = noise(SIZE)
    assert write_tracked(stream, data)
    stream.write(b"behind")
    assert await read(theirs, SIZE + 6) == data + b"behind"


async def test_an_abort_closes_the_connection(pair: tuple[IOStream, socket.socket]) -> None:
    stream, _ = pair
    pending = write_tracked(stream, noise(SIZE))
    assert pending is not None
    left = pending.unsent
    pending.abort()
    assert stream.closed()
    await asyncio.sleep(0)
    # It will not be sent.
    assert pending.unsent == left


async def test_a_peer_that_leaves_has_not_taken_it(pair: tuple[IOStream, socket.socket]) -> None:
    stream, theirs = pair
    theirs.close()
    pending = PendingWrite(stream, noise(SIZE))
    assert pending.unsent == SIZE
    done = asyncio.Event()
    pending.add_done_callback(lambda future: done.set())
    async with asyncio.timeout(TIMEOUT):
        await done.wait()


async def test_short_writes_are_not_tracked(pair: tuple[IOStream, socket.socket]) -> None:
    stream, _ = pair
    assert write_tracked(stream, b"x" * PIECE_SIZE) is None
    stream.max_write_buffer_size = 1000
    assert write_tracked(stream, b"x" * SIZE) is None
    stream.max_write_buffer_size = None
    stream.close()
    assert write_tracked(stream, b"x" * SIZE) is None


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
