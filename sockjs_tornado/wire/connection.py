"""Connections that were taken over from an HTTP server.

A :class:`Connection` buffers its writes until the next iteration of the event loop; see :mod:`.write_queue`. If the
socket does not accept all the data, the rest goes to the asyncio transport, which waits until the socket is writable.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from .ports import Container
from .sockets import peer_disconnected

try:
    from .._speedups import MAX_BUFFERED, ConnectionCore
except ImportError:  # the C module was not built
    #: Maximum bytes in the write buffer. Larger writes are sent immediately.
    MAX_BUFFERED = 8 * 1024

    class ConnectionCore:  # type: ignore[no-redef]
        """Fields and methods of the hot path, as the C module implements them.

        The fields include those of :class:`~sockjs_tornado.transports.websocket_receiver.WebSocketReceiver` and
        :class:`~sockjs_tornado.transports.receiving.StreamReceiver`.
        """

        __slots__ = (
            "_buffer",
            "_framing",
            "_is_plain",
            "_left",
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
        _flush: Callable[[int], None]
        _process_read: Callable[[int], None]
        _write_lines: Callable[[Sequence[Any]], None]
        _write_messages: Callable[[Sequence[Any]], None]
        _write_prepared: Callable[[Any], None]

        def get_buffer(self, sizehint: int, /) -> bytearray:
            """Return the buffer for the next read."""
            return self._buffer

        def flush(self, flags: int = 0, /) -> None:
            """Send the write buffer now, with flags of ``socket.send``; drop it if the connection is closed."""
            self._flush(flags)

        def process_read(self, nbytes: int, /) -> None:
            """Process the ``nbytes`` that were just read from a websocket."""
            self._process_read(nbytes)

        def write(self, data: bytes, /) -> None:
            """Buffer ``data``; it is sent in the next iteration of the event loop."""
            self._buffer_write(data)

        def write_lines(self, messages: Sequence[Any], /) -> None:
            """Write messages to a stream as one frame."""
            self._write_lines(messages)

        def write_messages(self, messages: Sequence[Any], /) -> None:
            """Write messages to a websocket as one frame."""
            self._write_messages(messages)

        def write_prepared(self, message: Any, /) -> None:
            """Write a broadcast message to a websocket."""
            self._write_prepared(message)


#: Maximum bytes per read. After a full read, the connection pauses until the next iteration of the event loop.
READ_SIZE = 32 * 1024

#: Seconds per iteration of the event loop that all connections together may spend on decoding, and one TLS connection
#: on reading.
READ_BUDGET = 0.005

#: Bytes of further requests that are read while a response is pending. Then reading pauses.
MAX_PIPELINED = 64 * 1024

#: Seconds within which a client must read some of the remaining data, and then close the connection.
CLOSE_TIMEOUT = 2.0

#: Linux: wait for what follows, here the end of the connection, and send it in the same segment. Two segments take
#: about 10 µs of CPU time, one takes 6. If nothing follows, TCP sends the data after 200 ms.
_MSG_MORE = getattr(socket, "MSG_MORE", 0)

#: Bytes that the client must read within :data:`CLOSE_TIMEOUT` to get more time.
_MIN_DRAIN_BYTES = 16 * 1024


class Connection(ConnectionCore, asyncio.BufferedProtocol):
    """Base class of protocols that own a taken-over connection.

    Args:
        container: Counts the connection and schedules its deadline.
        head: Head of the response, written first.

    Attributes:
        transport: The asyncio transport; set before :meth:`on_connect` is called.
        due: Time of the next call of :meth:`check`, on the container's clock.
        bucket: Used by the container to find the deadline.
    """

    __slots__ = (
        "_closing",
        "_container",
        "_ended",
        "_initial",
        "_release_slot",
        "_socket",
        "_unsent",
        "bucket",
        "due",
        "transport",
    )

    transport: asyncio.Transport

    #: uvloop looks for it in every protocol, and to find none takes 1 % of the time to open and close a websocket.
    data_received = None

    def __init__(self, container: Container, head: bytes) -> None:
        self._container = container
        self._stats = container.stats
        self._buffer = container.read_buffer
        self._queue = container.write_queue
        self._write_buffer: bytes | None = None
        # The transport's socket, or None if only the transport may write (TLS, or after the last write). Keep the
        # object, not its file descriptor: after a close, the same number may belong to another connection.
        self._socket: socket.socket | None = None
        # The same socket while the transport's own write buffer is empty, else None. C writes to this one.
        self._writable_socket: socket.socket | None = None
        # Set by the first method that closes the connection; never cleared. Nothing is written afterwards.
        self._closing = False
        # Set by connection_lost(), together with _closing; never cleared.
        self._ended = False
        self._release_slot: Callable[[], None] | None = None
        self.bucket: int | None = None
        self.due = inf
        # The response head and the data that was read before the takeover; None after connection_made().
        self._initial: tuple[bytes, bytes] | None = (head, b"")

    def takeover_started(self, release_slot: Callable[[], None] | None = None) -> None:
        """Called when the takeover starts; the connection counts from now on.

        ``release_slot`` is called when it is closed, so that the HTTP server stops counting it.
        """
        self._release_slot = release_slot
        self._container.connection_opened()

    def takeover_failed(self) -> None:
        """Called when the takeover failed or was cancelled."""
        if self._initial is None:
            self.connection_lost(None)
        else:
            self._release()

    def _release(self) -> None:
        if self._release_slot is not None:
            self._release_slot()
        self._container.connection_closed()

    def adopt_socket(self, sock: socket.socket | None, unread: bytes) -> None:
        """Set the socket to write to, or None if only the transport may, and what was read before the takeover."""
        self._socket = self._writable_socket = sock
        assert self._initial is not None
        self._initial = (self._initial[0], unread)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write the response head, then process the data that arrived with the request."""
        self.transport = transport  # type: ignore[assignment]
        assert self._initial is not None
        head, unread = self._initial
        self._initial = None
        if self.transport.get_write_buffer_size():
            # The rest of a response before this one.
            self._writable_socket = None
        self._queue.bind_loop()
        # bytes_sent does not include response heads.
        self._stats.bytes_sent -= len(head)
        # Not with write(), which would schedule a flush.
        self._write_buffer = head
        try:
            self.on_connect()
        finally:
            self.flush()
        if unread:
            self.on_data(unread)

    def buffer_updated(self, nbytes: int) -> None:
        self.on_data(bytes(memoryview(self._buffer)[:nbytes]))
        if nbytes == len(self._buffer):
            self._end_turn()

    def _end_turn(self) -> None:
        """Pause reading until the next iteration of the event loop.

        Otherwise, uvloop reads a socket up to 32 times per iteration, as long as each read fills the buffer.
        """
        # If reading is already paused, the code that paused it also resumes it.
        if not self.transport.is_closing() and self.transport.is_reading():
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._continue_reading)

    def _continue_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def eof_received(self) -> None:
        """Called when the client closed its side; returning None closes the connection."""
        self.on_disconnect()
        self.close_transport()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection is closed."""
        # After a cancelled takeover, asyncio calls this a second time; uvloop does not.
        if self._ended:
            return
        self._ended = self._closing = True
        self._write_buffer = self._socket = self._writable_socket = None
        if self.bucket is not None:
            self._container.cancel(self)
        self._release()
        self.on_disconnect()

    @property
    def unsent(self) -> int:
        """Bytes written that the operating system has not accepted yet."""
        return self.transport.get_write_buffer_size() + len(self._write_buffer or b"")

    def on_connect(self) -> None:
        """Called once, after the response head was written."""

    def on_data(self, data: bytes) -> None:
        """Called with data from the client."""

    def on_disconnect(self) -> None:
        """Called when the connection has ended or the client has closed its side; possibly more than once."""

    def _buffer_write(self, data: bytes) -> None:
        buffered = self._write_buffer
        if buffered is None:
            self._write_buffer = data
            waiting = self._queue.waiting
            if not waiting:
                self._queue.schedule_flush()
            waiting.append(self)
            if len(data) > MAX_BUFFERED:
                self.flush()
        elif len(buffered) + len(data) <= MAX_BUFFERED:
            self._write_buffer = buffered + data
        else:
            self.flush()
            self._buffer_write(data)

    def _flush(self, flags: int) -> None:
        data = self._write_buffer
        if data is None:
            return
        self._write_buffer = None
        self._stats.bytes_sent += len(data)
        sock = self._socket
        if sock is not None and not self.transport.get_write_buffer_size():
            try:
                data = data[sock.send(data, flags) :]
            except OSError:
                # The transport meets and reports the same error when it writes the data.
                self._writable_socket = None
            else:
                self._writable_socket = None if data else sock
        if data and self.transport.is_closing():
            self._stats.bytes_sent -= len(data)
        elif data:
            self.transport.write(data)

    def close_transport(self, data: bytes = b"") -> None:
        """Close the connection after the written data is sent, or when the client stops reading it.

        Args:
            data: Further data. It must not matter if the client has sent something that is not read any more.
        """
        if data:
            # Not with write(), which would schedule a flush. It leaves together with the end of the connection.
            self._write_buffer = (self._write_buffer or b"") + data
            self.flush(_MSG_MORE)
        else:
            self.flush()
        if self._writable_socket is None:
            self._end_writing()
        else:
            # Everything was sent, so that the transport closes in the next iteration, and needs no deadline.
            self._closing = True
            self._unsent = 0
            self._socket = self._writable_socket = None
        self.transport.close()

    def release_transport(self) -> Callable[[], None] | None:
        """Give the transport up after the end of the response, for another owner.

        Returns:
            The callback that :meth:`takeover_started` was called with.
        """
        self.flush()
        self._ended = self._closing = True
        self._socket = self._writable_socket = None
        self._container.cancel(self)
        release_slot, self._release_slot = self._release_slot, None
        self._release()
        return release_slot

    def expect_close(self) -> None:
        """Stop writing and let the client close the connection; close it after :data:`CLOSE_TIMEOUT` otherwise.

        Data from the client still goes to :meth:`on_data`, which calls :meth:`close_transport` when it finds the
        client's own close. Until then both directions stay open: if one were closed, a proxy would close the other, and
        a client that is sending would fail before it has read the last bytes.
        """
        self._end_writing()
        if not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    def shutdown_write(self) -> None:
        """Close the writing side, and discard incoming data until the client closes or the timeout expires.

        This ends the response to a request whose body is rejected (RFC 9112, section 9.6). Closing a socket with unread
        data would reset the connection, and the client might lose the end of the response.
        """
        self._end_writing()
        if not self.transport.is_closing():
            # If the client has reset the connection, connection_lost() follows.
            with contextlib.suppress(OSError):
                self.transport.write_eof()

    def _end_writing(self) -> None:
        self.flush()
        self._socket = self._writable_socket = None
        if not self._closing:
            self._closing = True
            # Only once: the client's close frame does not extend the time for the remaining data.
            self._unsent = self.transport.get_write_buffer_size()
            self.wake_after(CLOSE_TIMEOUT)

    def abort(self) -> None:
        """Close the connection immediately and discard unsent data."""
        self._closing = True
        self._write_buffer = self._socket = self._writable_socket = None
        self.transport.abort()

    def check(self, now: float) -> None:
        """Close the connection if the client stopped reading, or has read everything but does not close."""
        unsent = self.transport.get_write_buffer_size()
        drained = self._unsent - unsent
        if drained and drained >= min(_MIN_DRAIN_BYTES, self._unsent):
            self._unsent = unsent
            self.due = now + CLOSE_TIMEOUT
        elif not self._container.postpone(self, now):
            self.due = inf
            if unsent or self.transport.is_closing():
                self.abort()
            else:
                # Everything was sent, so that TLS can close with a close_notify.
                self.transport.close()

    def wake_after(self, delay: float) -> None:
        """Schedule a call of :meth:`check` in ``delay`` seconds."""
        self.due = self._container.now() + delay
        self._container.schedule(self)

    def is_disconnected(self) -> bool:
        """Return whether the client has disconnected, even if the event loop has not reported it yet."""
        return self.transport.is_closing() or peer_disconnected(self.transport.get_extra_info("socket"))
