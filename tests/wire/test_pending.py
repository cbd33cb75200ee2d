"""What is left of a response on a stream of Tornado's."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from client import TIMEOUT
from tornado.iostream import IOStream

from sockjs_tornado.wire.responses import PIECE_SIZE, PendingWrite, write_tracked

from .server import noise

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
