"""Connections that were taken over from Tornado: what owns one, and when it writes.

A :class:`Connection` gathers what it has to write until the event loop comes round, and writes it straight to its
socket: all that a client gets meanwhile is one system call. What the socket does not take goes to the transport, which
waits until it does.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Protocol

from .sockets import peer_gone

try:
    from .._speedups import ConnectionCore, write_buffered
except ImportError:  # where it was not built

    class ConnectionCore:  # type: ignore[no-redef]
        """What ordinary bytes meet first, and the fields that it needs: those of websockets with SockJS among them."""

        __slots__ = (
            "_buffer",
            "_framing",
            "_is_plain",
            "_parser",
            "_queue",
            "_received_since_ping",
            "_session",
            "_settings",
            "_stats",
            "_writable_socket",
            "_write_buffer",
        )

        _buffer: bytearray
        _buffer_write: Callable[[bytes], None]
        _take_messages: Callable[[int], None]
        _write_messages: Callable[[Sequence[Any]], None]
        _write_prepared: Callable[[Any], None]

        def get_buffer(self, sizehint: int, /) -> bytearray:
            """Return the memory that the next read goes to."""
            return self._buffer

        def take_messages(self, nbytes: int, /) -> None:
            """Take what was read from a websocket."""
            self._take_messages(nbytes)

        def write(self, data: bytes, /) -> None:
            """Write when the event loop comes round, together with all else that is written until then."""
            self._buffer_write(data)

        def write_messages(self, messages: Sequence[Any], /) -> None:
            """Write messages to a websocket, in one frame."""
            self._write_messages(messages)

        def write_prepared(self, message: Any, /) -> None:
            """Write a message that is on its way to many to a websocket."""
            self._write_prepared(message)

    def write_buffered(connections: list[Any], left: list[Any], /) -> int:
        """Write what connections have gathered; those that still have something are added to ``left``.

        Returns:
            How many bytes were written.
        """
        left += connections
        return 0


__all__ = ["READ_BUDGET", "READ_SIZE", "ByteCounters", "Connection", "ConnectionManager", "WriteQueue"]

#: Bytes that one read takes at most, and so does a turn of the event loop: after a full read others are first.
READ_SIZE = 32 * 1024

#: Seconds that reading from one connection, and decoding what was read, may take of a turn of the event loop.
READ_BUDGET = 0.005

#: Seconds in which a client has to take some of its last bytes, and to close its side.
CLOSE_TIMEOUT = 2.0

#: Bytes that it has to take in that time at least.
_MIN_DRAIN_BYTES = 16 * 1024

#: Bytes that are gathered at most: more are worth a system call of their own.
_MAX_BUFFERED = 8 * 1024

logger = logging.getLogger(__name__)


class ByteCounters(Protocol):
    """What counts bytes."""

    bytes_received: int
    bytes_sent: int


class WriteQueue:
    """Connections that have something to write when the event loop comes round.

    Args:
        stats: What counts the bytes.

    Attributes:
        waiting: The connections. Who adds the first one calls :meth:`schedule_flush`.
    """

    __slots__ = ("_loop", "_stats", "waiting")

    def __init__(self, stats: ByteCounters) -> None:
        self._stats = stats
        self._loop: asyncio.AbstractEventLoop | None = None
        self.waiting: list[Connection] = []

    def bind_loop(self) -> None:
        """Hear of a new connection. It may be the first one on another loop; what an ended one has left is void."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self.waiting = []

    def schedule_flush(self) -> None:
        """See that what is gathered from now on gets written."""
        assert self._loop is not None
        self._loop.call_soon(self._write)

    def _write(self) -> None:
        waiting, self.waiting = self.waiting, []
        left: list[Connection] = []
        try:
            self._stats.bytes_sent += write_buffered(waiting, left)
        finally:
            for connection in left:
                try:
                    connection.flush()
                except Exception:
                    logger.exception("%r failed to write", connection)
                    connection.abort()


class ConnectionManager(Protocol):
    """What keeps connections: deadlines, and who is there. The container is one."""

    #: Memory to read into, shared by all connections of an event loop: it is worked off before the next read.
    read_buffer: bytearray
    #: Seconds that decoding what one connection has read may take of a turn of the event loop.
    read_budget: float
    #: Who has something to write.
    write_queue: WriteQueue

    @property
    def stats(self) -> ByteCounters:
        """What counts the bytes that connections send and receive."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def schedule(self, owner: Any) -> None:
        """See that ``owner.check`` is called once ``owner.due`` has come."""

    def cancel(self, owner: Any) -> None:
        """Forget a deadline."""

    def postpone(self, owner: Any, now: float) -> bool:
        """Return whether nobody is late yet, because the event loop stood still; ``owner.check`` is called again."""

    def connection_opened(self) -> None:
        """Count a connection."""

    def connection_closed(self) -> None:
        """Count it no more."""


class Connection(ConnectionCore, asyncio.BufferedProtocol):
    """Base of what owns a taken-over connection.

    Args:
        manager: What keeps it.
        head: Bytes to write before anything else.

    Attributes:
        transport: Set before :meth:`on_connect` is called.
        due: When :meth:`check` has to be called, in the manager's seconds.
        bucket: The manager's note of where it keeps that deadline.
    """

    __slots__ = (
        "_closing",
        "_ended",
        "_initial",
        "_manager",
        "_release_slot",
        "_socket",
        "_unsent",
        "bucket",
        "due",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, manager: ConnectionManager, head: bytes) -> None:
        self._manager = manager
        self._stats = manager.stats
        self._buffer = manager.read_buffer
        self._queue = manager.write_queue
        self._write_buffer: bytes | None = None
        # The transport's, unless only the transport may write to it; and the same while the transport has nothing left
        # to write. A socket object knows when it was closed, and its number may be another connection's.
        self._socket: socket.socket | None = None
        self._writable_socket: socket.socket | None = None
        self._closing = False
        self._ended = False
        self._release_slot: Callable[[], None] | None = None
        self.bucket: int | None = None
        self.due = inf
        # What to write first, and then what had been read before: each is needed once.
        self._initial: tuple[bytes, bytes] | None = (head, b"")

    def takeover_started(self, release_slot: Callable[[], None] | None = None) -> None:
        """Hear that the connection is on its way.

        Args:
            release_slot: Called when the connection is closed, so that the HTTP server counts it no more.
        """
        self._release_slot = release_slot
        self._manager.connection_opened()

    def takeover_failed(self) -> None:
        """Hear that it will not come, or that it ends with the takeover, which was cancelled."""
        if self._initial is None:
            self.connection_lost(None)
        else:
            self._release()

    def _release(self) -> None:
        if self._release_slot is not None:
            self._release_slot()
        self._manager.connection_closed()

    def adopt_socket(self, sock: socket.socket, unread: bytes) -> None:
        """Take the transport's socket, and the bytes that had been read before the connection was taken over."""
        self._socket = self._writable_socket = sock
        if self._initial is not None:
            self._initial = (self._initial[0], unread)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: write the head, then take what had come with the request."""
        self.transport = transport  # type: ignore[assignment]
        assert self._initial is not None
        head, unread = self._initial
        self._initial = None
        self._queue.bind_loop()
        self.write(head)
        # Heads of responses are not counted.
        self._stats.bytes_sent -= len(head)
        self.on_connect()
        if unread:
            self.on_data(unread)

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        self.on_data(bytes(memoryview(self._buffer)[:nbytes]))
        if nbytes == len(self._buffer):
            self._end_turn()

    def _end_turn(self) -> None:
        """Read no more in this turn of the event loop, after a full read.

        uvloop reads a socket up to 32 times a turn, for as long as each read is a full one.
        """
        # If it does not read, somebody else has stopped that, and goes on with it.
        if not self.transport.is_closing() and self.transport.is_reading():
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._continue_reading)

    def _continue_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def eof_received(self) -> None:
        """Hear that the client has left; returning nothing closes the connection."""
        self.on_disconnect()
        self.close_transport()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the connection is over."""
        # Of one whose takeover was cancelled, asyncio tells as well, uvloop does not.
        if self._ended:
            return
        self._ended = self._closing = True
        self._write_buffer = self._socket = self._writable_socket = None
        self._manager.cancel(self)
        self._release()
        self.on_disconnect()

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the operating system has not taken yet."""
        return self.transport.get_write_buffer_size() + len(self._write_buffer or b"")

    def on_connect(self) -> None:
        """Hear that the head is on its way."""

    def on_data(self, data: bytes) -> None:
        """Take bytes from the client."""

    def on_disconnect(self) -> None:
        """Hear, possibly more than once, that the client has left."""

    def _buffer_write(self, data: bytes) -> None:
        gathered = self._write_buffer
        if gathered is None:
            self._write_buffer = data
            waiting = self._queue.waiting
            if not waiting:
                self._queue.schedule_flush()
            waiting.append(self)
            if len(data) > _MAX_BUFFERED:
                self.flush()
        elif len(gathered) + len(data) <= _MAX_BUFFERED:
            self._write_buffer = gathered + data
        else:
            self.flush()
            self._buffer_write(data)

    def flush(self) -> None:
        """Write at once what was gathered, unless nobody is there any more."""
        data = self._write_buffer
        if data is None:
            return
        self._write_buffer = None
        self._stats.bytes_sent += len(data)
        sock = self._socket
        if sock is not None and not self.transport.get_write_buffer_size():
            # What is wrong, the transport finds out when it writes the rest.
            with contextlib.suppress(OSError):
                data = data[sock.send(data) :]
            self._writable_socket = None if data else sock
        if data and self.transport.is_closing():
            self._stats.bytes_sent -= len(data)
        elif data:
            self.transport.write(data)

    def close_transport(self) -> None:
        """Write nothing more, and close once the client has what is written, or does not take it."""
        self._end_writing()
        self.transport.close()

    def expect_close(self) -> None:
        """Write nothing more, and leave the end to the client, unless it is out of time.

        Data from the client still goes to :meth:`on_data`, which calls :meth:`close_transport` when it finds the
        client's own close. Until then both directions stay open: if one were closed, a proxy would close the other, and
        a client that is sending would fail before it has read the last bytes.
        """
        self._end_writing()
        if not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    def shutdown_write(self) -> None:
        """Write nothing more, say so, and discard what still comes until the client closes, or is out of time.

        This is for HTTP (RFC 9112, section 9.6): the response is complete, and says "Connection: close". Closing with
        unread bytes in the socket would reset the connection, and the client might lose what it has not read yet.
        """
        self._end_writing()
        if not self.transport.is_closing():
            # If the client has reset the connection meanwhile, its end is reported soon.
            with contextlib.suppress(OSError):
                self.transport.write_eof()

    def _end_writing(self) -> None:
        self.flush()
        self._socket = self._writable_socket = None
        if not self._closing:
            self._closing = True
            # Once: a client that answers the close frame has no more time for its last bytes than before.
            self._unsent = self.transport.get_write_buffer_size()
            self.wake_after(CLOSE_TIMEOUT)

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._write_buffer = self._socket = self._writable_socket = None
        self.transport.abort()

    def check(self, now: float) -> None:
        """Close the connection of a client that takes none of its last bytes, or has them all and does not close."""
        unsent = self.transport.get_write_buffer_size()
        taken = self._unsent - unsent
        if taken and taken >= min(_MIN_DRAIN_BYTES, self._unsent):
            self._unsent = unsent
            self.due = now + CLOSE_TIMEOUT
        elif not self._manager.postpone(self, now):
            self.due = inf
            if unsent or self.transport.is_closing():
                self.abort()
            else:
                # Nothing is missing, which TLS can say.
                self.transport.close()

    def wake_after(self, delay: float) -> None:
        """See that :meth:`check` is called in ``delay`` seconds."""
        self.due = self._manager.now() + delay
        self._manager.schedule(self)

    def is_disconnected(self) -> bool:
        """Tell whether the client has already left, even if the event loop has not said so yet."""
        return self.transport.is_closing() or peer_gone(self.transport.get_extra_info("socket"))
