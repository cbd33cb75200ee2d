"""Connections taken over from Tornado: after the head of a response they leave ``IOStream``.

:func:`take_over` moves a connection to an :class:`asyncio.Transport` of its own and writes what its first bytes shall
be; from then on a :class:`Connection` owns it. Over TLS the socket cannot be moved: there an object with the same
interface stands before the ``IOStream``, and the :class:`Connection` does not know.
"""

import asyncio
import contextlib
import errno
import functools
import socket
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from math import inf
from typing import Any, Protocol

from tornado.iostream import IOStream, SSLIOStream, StreamClosedError

from .sockets import give_up_silent, peer_gone

__all__ = ["READ_SIZE", "Connection", "response_head", "take_over", "write_and_close"]

#: Bytes that one read takes at most. A loop may read one connection many times a turn: it bounds how long others wait.
READ_SIZE = 32 * 1024

#: Seconds in which a client has to take some of its last bytes.
LINGER = 2.0

#: Bytes that it has to take in that time at least.
_PACE = 16 * 1024

#: Bytes of an SSL connection's write buffer at which writing is paused, and resumed.
_HIGH_WATER = 64 * 1024
_LOW_WATER = 16 * 1024


class Traffic(Protocol):
    """What counts bytes."""

    bytes_received: int
    bytes_sent: int


class Keeper(Protocol):
    """What keeps connections: deadlines, and who is there. The container is one."""

    #: Memory to read into, shared by all connections of an event loop: it is worked off before the next read.
    read_buffer: memoryview

    @property
    def stats(self) -> Traffic:
        """What counts the bytes that connections send and receive."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def schedule(self, owner: Any) -> None:
        """See that ``owner.check`` is called once ``owner.due`` has come."""

    def cancel(self, owner: Any) -> None:
        """Forget a deadline."""

    def connection_opened(self) -> None:
        """Count a connection."""

    def connection_closed(self) -> None:
        """Count it no more."""


class Connection(asyncio.BufferedProtocol):
    """Base of what owns a taken-over connection.

    Args:
        keeper: What keeps it.
        head: Bytes to write before anything else.

    Attributes:
        transport: Set before :meth:`opened` is called.
        due: When :meth:`check` has to be called, in the keeper's seconds.
        bucket: The keeper's note of where it keeps that deadline.
    """

    __slots__ = (
        "_buffer",
        "_closing",
        "_ended",
        "_first",
        "_keeper",
        "_stats",
        "_unsent",
        "bucket",
        "due",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, keeper: Keeper, head: bytes) -> None:
        self._keeper = keeper
        self._stats = keeper.stats
        self._buffer = keeper.read_buffer
        self._closing = False
        self._ended = False
        self.bucket: int | None = None
        self.due = inf
        # What to write first, and then what had been read before: each is needed once.
        self._first: tuple[bytes, bytes] | None = (head, b"")

    def expect(self) -> None:
        """Hear that the connection is on its way."""
        self._keeper.connection_opened()

    def miss(self) -> None:
        """Hear that it will not come, or that it ends with the takeover, which was cancelled."""
        if self._first is None:
            self.connection_lost(None)
        else:
            self._keeper.connection_closed()

    def set_unread(self, unread: bytes) -> None:
        """Take the bytes that had been read before the connection was taken over."""
        if self._first is not None:
            self._first = (self._first[0], unread)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: write the head, then take what had come with the request."""
        self.transport = transport  # type: ignore[assignment]
        assert self._first is not None
        head, unread = self._first
        self._first = None
        self.transport.write(head)
        self.opened()
        if unread:
            self.received(unread)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory that the next read goes to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        self.received(self._buffer[:nbytes].tobytes())

    def eof_received(self) -> None:
        """Hear that the client has left; returning nothing closes the connection."""
        self.lost()
        self.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the connection is over."""
        # Of one whose takeover was cancelled, asyncio tells as well, uvloop does not.
        if self._ended:
            return
        self._ended = self._closing = True
        self._keeper.cancel(self)
        self._keeper.connection_closed()
        self.lost()

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the operating system has not taken yet."""
        return self.transport.get_write_buffer_size()

    def opened(self) -> None:
        """Hear that the head is on its way."""

    def received(self, data: bytes) -> None:
        """Take bytes from the client."""

    def lost(self) -> None:
        """Hear, possibly more than once, that the client has left."""

    def write(self, data: bytes) -> None:
        """Write, unless nobody is there any more."""
        if not self.transport.is_closing():
            self._stats.bytes_sent += len(data)
            self.transport.write(data)

    def finish(self) -> None:
        """Write nothing more, and close once the client has what is written, or does not take it."""
        self._closing = True
        self.transport.close()
        self.linger()

    def linger(self) -> None:
        """See that a client that does not take its last bytes is given up."""
        self._unsent = self.transport.get_write_buffer_size()
        self.wake_after(LINGER)

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self.transport.abort()

    def check(self, now: float) -> None:
        """Give up on a client that does not take its last bytes; over a slow line they take their time."""
        unsent = self.transport.get_write_buffer_size()
        taken = self._unsent - unsent
        if taken and taken >= min(_PACE, self._unsent):
            self._unsent = unsent
            self.due = now + LINGER
        else:
            self.due = inf
            self.abort()

    def wake_after(self, delay: float) -> None:
        """See that :meth:`check` is called in ``delay`` seconds."""
        self.due = self._keeper.now() + delay
        self._keeper.schedule(self)

    def is_gone(self) -> bool:
        """Tell whether the client has already left, even if the event loop has not said so yet."""
        return self.transport.is_closing() or peer_gone(self.transport.get_extra_info("socket"))


def response_head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the head of an HTTP/1.1 response, down to its empty line (RFC 9112, section 4)."""
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    return f"{_status_line(status)}{_common_fields(int(time.time()))}{''.join(lines)}\r\n".encode("latin-1")


@functools.cache
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"


# All responses of a second share them. Of an answer, browsers believe the content type alone; of a page of ours, other
# sites do not learn its address, which may hold a session id.
@functools.lru_cache(maxsize=1)
def _common_fields(seconds: int) -> str:
    date = formatdate(seconds, usegmt=True)
    return f"Date: {date}\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"


async def take_over(stream: IOStream, protocol: Connection, *, nodelay: bool, silence: float) -> None:
    """Give ``protocol`` the connection of ``stream``, which Tornado has let go.

    Bytes that the stream has read already are handed over; nothing is lost. Where the client has left meanwhile,
    ``protocol`` never hears of the connection.

    Args:
        stream: What ``RequestHandler.detach`` returned.
        protocol: The new owner.
        nodelay: Whether small writes leave at once (TCP_NODELAY).
        silence: Seconds after which a peer that acknowledges nothing is given up, 0 for the system's own.
    """
    protocol.expect()
    moved = False
    try:
        moved = await _move(stream, protocol, nodelay, silence)
    finally:
        if not moved:
            protocol.miss()


async def _move(stream: IOStream, protocol: Connection, nodelay: bool, silence: float) -> bool:
    if stream.closed():
        return False
    try:
        # Before anything is written; asyncio sets it again for what it makes of the socket.
        stream.set_nodelay(nodelay)
        if silence:
            give_up_silent(stream.socket, silence)
        if isinstance(stream, SSLIOStream):
            _StreamTransport(stream, protocol).start()
            return True
        try:
            sock = stream.socket.dup()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            # No second handle is to be had: it stays where it is.
            _StreamTransport(stream, protocol).start()
            return True
        try:
            unread = _take_unread(stream)
        except StreamClosedError:
            sock.close()
            raise
    except (StreamClosedError, OSError):
        stream.close()
        return False
    protocol.set_unread(unread)
    # The read that was still waiting for bytes ends here; the connection goes on under its second handle.
    stream.close()
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, sock)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            return False
        raise
    if not nodelay and sock.family != getattr(socket, "AF_UNIX", None):
        # The connection may be over already.
        with contextlib.suppress(OSError, ValueError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    return True


def _take_unread(stream: IOStream) -> bytes:
    """Return all that ``stream`` has in its buffer, leaving it empty."""
    reading = asyncio.ensure_future(stream.read_bytes(stream.max_buffer_size, partial=True))
    if reading.done():
        return reading.result()
    return b""


def write_and_close(stream: IOStream, data: bytes) -> None:
    """Write ``data`` to a stream that Tornado has let go, then close it."""
    try:
        writing = stream.write(data)
    except StreamClosedError:
        return

    def written(future: "asyncio.Future[None]") -> None:
        future.exception()
        stream.close()

    writing.add_done_callback(written)


class _StreamTransport(asyncio.Transport):
    """An ``IOStream`` with the interface of an asyncio transport, for connections over TLS."""

    def __init__(self, stream: IOStream, protocol: Connection) -> None:
        super().__init__({"socket": stream.socket})
        self._stream = stream
        self._protocol = protocol
        self._reading: asyncio.Task[None] | None = None
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._pending = 0
        self._paused = False
        self._closing = False

    def start(self) -> None:
        """Tell the protocol and begin to read."""
        self._protocol.connection_made(self)
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        error = None
        try:
            while True:
                data = await self._stream.read_bytes(READ_SIZE, partial=True)
                await self._may_read.wait()
                # What comes while the last bytes are on their way out is for nobody.
                if not self._closing:
                    self._protocol.received(data)
        except (StreamClosedError, OSError):
            pass
        except Exception as exc:
            error = exc
            context = {"message": "Fatal error: protocol.received() call failed.", "exception": exc, "transport": self}
            asyncio.get_running_loop().call_exception_handler(context)
        self.abort()
        self._protocol.connection_lost(error)

    def write(self, data: Any) -> None:
        # In pieces, so that it can be seen how much of it has left.
        for start in range(0, len(data), _HIGH_WATER):
            self._write_piece(data[start : start + _HIGH_WATER])

    def _write_piece(self, data: Any) -> None:
        if self._stream.closed():
            return
        writing = self._stream.write(data)
        size = len(data)
        self._pending += size

        def written(future: "asyncio.Future[None]") -> None:
            future.exception()
            self._pending -= size
            if self._paused and self._pending <= _LOW_WATER and not self._stream.closed():
                self._paused = False
                self._protocol.resume_writing()
            if self._closing and not self._pending:
                self._stream.close()

        writing.add_done_callback(written)
        if self._pending > _HIGH_WATER and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def close(self) -> None:
        self._closing = True
        self._may_read.set()
        if not self._pending:
            self._stream.close()

    def abort(self) -> None:
        self._closing = True
        self._may_read.set()
        self._stream.close()

    def is_closing(self) -> bool:
        return self._closing or self._stream.closed()

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        # At the end, what is still read is passed over.
        if not self._closing:
            self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def is_reading(self) -> bool:
        return self._may_read.is_set() and not self._closing

    def get_write_buffer_size(self) -> int:
        return self._pending
