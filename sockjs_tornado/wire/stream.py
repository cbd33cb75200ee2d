"""Takeover of connections from Tornado's ``IOStream``.

:func:`take_over` moves a connection to an :class:`asyncio.Transport`, whose protocol is a
:class:`~sockjs_tornado.wire.connection.Connection`. A connection cannot be moved if its stream is of another type, as
with TLS, or has unsent data, or if no file descriptor is free. Then an adapter gives the ``IOStream`` the interface of
an asyncio transport.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Coroutine
from math import inf
from typing import Any

from tornado.iostream import IOStream, SSLIOStream, StreamClosedError

from .connection import READ_BUDGET, READ_SIZE, Connection
from .responses import claim_slot, close_stream
from .sockets import EXHAUSTED_ERRNOS, set_user_timeout
from .tornado_internals import is_buffer_empty

#: High-water and low-water marks of the write buffer of a connection that was not moved, in bytes.
_HIGH_WATER = 64 * 1024
_LOW_WATER = 16 * 1024

#: Bytes that a read counts for at least: a small TLS record takes as long as a full one.
_MIN_READ = 2 * 1024


def take_over(
    stream: IOStream, protocol: Connection, *, nodelay: bool, user_timeout: float
) -> Coroutine[Any, Any, None]:
    """Move the connection of a detached stream to ``protocol``, by a coroutine that must be awaited.

    The container counts the connection from now on. Data that the stream has already read is passed on. If the
    stream is already closed, ``connection_made`` is not called.

    Args:
        stream: The stream returned by ``RequestHandler.detach``.
        protocol: The new owner of the connection.
        nodelay: Whether to set TCP_NODELAY.
        user_timeout: Seconds for TCP_USER_TIMEOUT; 0 keeps the system's default.
    """
    protocol.takeover_started(claim_slot(stream))
    return _take_over(stream, protocol, nodelay, user_timeout)


async def _take_over(stream: IOStream, protocol: Connection, nodelay: bool, user_timeout: float) -> None:
    moved = False
    try:
        if stream.closed():
            return
        if user_timeout:
            set_user_timeout(stream.socket, user_timeout)
        # Other types may encrypt, or have data that they do not count as being written.
        is_movable = type(stream) is IOStream and not stream.writing()
        sock = duplicate(stream.socket) if is_movable else None
        if sock is None:
            stream.set_nodelay(nodelay)
            _StreamTransport(stream, protocol).start()
            moved = True
            return
        try:
            protocol.adopt_socket(sock, read_unread(stream))
            # This ends the stream's pending read. The connection stays open through the duplicated socket.
            stream.close()
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, sock)
        except BaseException:
            sock.close()
            raise
        moved = True
        # The event loop has enabled TCP_NODELAY, unless the listening socket was created without the number of the
        # protocol. Unix sockets do not have the option, and the connection may already be closed.
        if not nodelay or sock.proto != socket.IPPROTO_TCP:
            with contextlib.suppress(OSError, ValueError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)
    except (StreamClosedError, OSError):
        # The client has disconnected.
        pass
    finally:
        if not moved:
            stream.close()
            protocol.takeover_failed()


def duplicate(sock: socket.socket) -> socket.socket | None:
    """Duplicate a socket; return None if no file descriptor is available."""
    try:
        return sock.dup()
    except OSError as error:
        if error.errno not in EXHAUSTED_ERRNOS:
            raise
        return None


def read_unread(stream: IOStream) -> bytes:
    """Return the contents of the stream's read buffer and empty it."""
    if is_buffer_empty(stream):
        return b""
    reading = asyncio.ensure_future(stream.read_bytes(stream.max_buffer_size, partial=True))
    return reading.result() if reading.done() else b""


async def _read_to_end(sock: socket.socket) -> None:
    """Close the writing side of a socket and discard incoming data until the peer closes its side."""
    loop = asyncio.get_running_loop()
    memory = bytearray(READ_SIZE)
    with contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.shutdown(socket.SHUT_WR)
        while True:
            if not await loop.sock_recv_into(sock, memory):
                break
            # sock_recv_into() does not yield to the event loop while data is available.
            await asyncio.sleep(0)


class _StreamTransport(asyncio.Transport):
    """Adapts an ``IOStream`` to the interface of an asyncio transport, for connections that cannot be moved."""

    def __init__(self, stream: IOStream, protocol: Connection) -> None:
        super().__init__({"socket": stream.socket})
        self._stream = stream
        self._protocol = protocol
        self._reading: asyncio.Task[None] | None = None
        self._reading_enabled = asyncio.Event()
        self._reading_enabled.set()
        self._pending = 0
        self._paused = False
        self._closing = False
        # Whether to close the writing side after the last write. Over TLS, the raw socket is then read until EOF.
        self._eof = False
        self._raw_socket: socket.socket | None = None
        self._discarding: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Call ``connection_made`` and start reading."""
        self._protocol.connection_made(self)
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        error = None
        read_size, deadline = 0, inf
        try:
            while True:
                reading = asyncio.ensure_future(self._stream.read_bytes(READ_SIZE, partial=True))
                if not reading.done():
                    read_size = 0
                elif read_size >= READ_SIZE or time.monotonic() >= deadline:
                    # While data is available, read_bytes() does not yield to the event loop.
                    await asyncio.sleep(0)
                    read_size = 0
                data = await reading
                if not read_size:
                    deadline = time.monotonic() + READ_BUDGET
                read_size += max(len(data), _MIN_READ)
                await self._reading_enabled.wait()
                # Discard data that arrives after close().
                if not self._closing:
                    self._protocol.on_data(data)
        except (StreamClosedError, OSError):
            pass
        except Exception as exc:
            error = exc
            context = {"message": "Fatal error: protocol.on_data() call failed.", "exception": exc, "transport": self}
            asyncio.get_running_loop().call_exception_handler(context)
        if self._raw_socket is not None:
            # Discard the encrypted data that follows the close_notify until the client closes; see _shut().
            with self._raw_socket:
                if not self._closing:
                    self._discarding = asyncio.ensure_future(_read_to_end(self._raw_socket))
                    await asyncio.wait([self._discarding])
        self.abort()
        self._protocol.connection_lost(error)

    def write(self, data: Any) -> None:
        # In pieces, so that the number of unsent bytes is known.
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
            if not self._pending and self._closing:
                close_stream(self._stream)
            elif not self._pending and self._eof:
                self._shut()

        writing.add_done_callback(written)
        if self._pending > _HIGH_WATER and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def close(self) -> None:
        self._closing = True
        self._reading_enabled.set()
        if not self._pending:
            close_stream(self._stream)
            self._stop_discarding()

    def abort(self) -> None:
        self._closing = True
        self._reading_enabled.set()
        self._stream.close()
        self._stop_discarding()

    def _stop_discarding(self) -> None:
        # Do not shut down the reading side instead: Linux would never reopen the TCP window of a sending client.
        if self._discarding is not None:
            self._discarding.cancel()

    def is_closing(self) -> bool:
        # Not if the client has closed the stream: data that was read before the end is still to be delivered.
        return self._closing

    def write_eof(self) -> None:
        self._eof = True
        if not self._pending:
            self._shut()

    def _shut(self) -> None:
        """Close only the writing side, over TLS with a close_notify first.

        After a close_notify, OpenSSL treats further data from the peer as an error. So the TLS stream is closed, and
        the remaining data is read from the underlying socket and discarded.
        """
        if self._stream.closed():
            return
        self._reading_enabled.set()
        sock = self._stream.socket
        if isinstance(self._stream, SSLIOStream):
            try:
                self._raw_socket = socket.fromfd(sock.fileno(), sock.family, sock.type)
            except OSError:
                # No file descriptor is free. The client is disconnected when the close timeout expires.
                return
            close_stream(self._stream)
        else:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)

    def pause_reading(self) -> None:
        # After close(), data is still read, but discarded.
        if not self._closing:
            self._reading_enabled.clear()

    def resume_reading(self) -> None:
        self._reading_enabled.set()

    def is_reading(self) -> bool:
        return self._reading_enabled.is_set() and not self._closing

    def get_write_buffer_size(self) -> int:
        # The futures of finished writes are resolved in the next iteration of the event loop.
        return self._pending if self._stream.writing() else 0
