"""Reading, writing, deadlines and the end of a native server's connection."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final

from ..wire.connection import CLOSE_TIMEOUT, MAX_PIPELINED
from ..wire.sockets import peer_disconnected
from .repeated import RepeatedRequest
from .request import DISCARD, Request

try:
    from .._speedups import HTTPConnectionCore
except ImportError:  # the C module was not built

    class HTTPConnectionCore:  # type: ignore[no-redef]
        """Fields and methods of the hot path, as the C module implements them."""

        __slots__ = ("_buffer", "_data", "_repeated", "_request", "_writable_socket", "bucket", "due")

        _buffer: bytearray
        _process_data: Callable[[int], None]

        def get_buffer(self, sizehint: int, /) -> bytearray:
            """Return the buffer for the next read, which all connections share."""
            return self._buffer

        def buffer_updated(self, nbytes: int, /) -> None:
            """Process data from the client."""
            self._process_data(nbytes)


if TYPE_CHECKING:
    from .http_server import HTTPServer

logger = logging.getLogger(__name__)

#: Unsent bytes from which on no further requests are served. It is the high-water mark of asyncio's transports.
_MAX_UNSENT: Final = 64 * 1024

#: Bytes that the client must read within a time limit to get more time.
_MIN_DRAIN_BYTES: Final = 16 * 1024

#: Seconds between two checks whether the client has disconnected, while its further requests are not read.
DISCONNECT_INTERVAL: Final = 1.0


class ConnectionIO(HTTPConnectionCore, asyncio.BufferedProtocol):
    """The base class of :class:`~sockjs_tornado.server.connection.HTTPConnection`, which serves the requests.

    Args:
        server: The server.
        sock: The connection's socket.
        address: The client's address.
        release_slot: Called when the connection is closed.

    Attributes:
        transport: The asyncio transport.
        server: The server.
        socket: The connection's socket.
        address: The client's address.
        remote_ip: The client's IP address, or ``""`` for a Unix socket.
        was_flushed: Whether the connection was closed after the operating system had accepted everything.
        due: Time of the next call of :meth:`check`.
        bucket: Used by the server to find the deadline.
    """

    __slots__ = (
        "_body_due",
        "_is_congested",
        "_is_cut",
        "_is_paused",
        "_is_serving",
        "_release_slot",
        "_target",
        "_unsent",
        "_until_learned",
        "_write_waiters",
        "address",
        "remote_ip",
        "server",
        "socket",
        "transport",
        "was_flushed",
    )

    transport: asyncio.Transport
    due: float

    #: As in :class:`~sockjs_tornado.wire.connection.Connection`.
    data_received = None

    def __init__(
        self, server: "HTTPServer", sock: socket.socket, address: Any, release_slot: Callable[[], None] | None
    ) -> None:
        self.server = server
        self.address = address
        self.remote_ip = address[0] if isinstance(address, tuple) and address else ""
        self.due = inf
        self.bucket: int | None = None
        self.socket: socket.socket = sock
        self._buffer = server.read_buffer
        self._release_slot = release_slot
        self._request: Request | None = None
        self._data = b""
        # The target of the last request, and the number of requests with this target until its head is learned.
        self._target = ""
        self._until_learned = 1
        # Serves the requests whose heads are the same.
        self._repeated: RepeatedRequest | None = None
        # The socket, as long as the transport has nothing to write, so that C may write to it.
        self._writable_socket: socket.socket | None = sock
        # Whether the loop in _serve() runs, which continues when a response is complete.
        self._is_serving = False
        self._is_paused = False
        # Whether unsent data was discarded.
        self._is_cut = self.was_flushed = False
        # End of the time for the current body.
        self._body_due = inf
        # Whether the write buffer was above its high-water mark, and is not below its low-water mark yet.
        self._is_congested = False
        # Futures that wait until the client has read enough.
        self._write_waiters: list[asyncio.Future[None]] = []
        # Unsent bytes at the last check of the deadline.
        self._unsent = 0

    # Implemented by the subclass.

    def _continue(self) -> None:
        """Serve the next request if there is one, unless the client has not read enough of the responses."""
        raise NotImplementedError

    def eof_received(self) -> bool:
        """Called when the client closed its side; return whether the connection stays open for now."""
        raise NotImplementedError

    # Reading.

    def _end_turn(self) -> None:
        # Otherwise, uvloop reads a socket up to 32 times per iteration, as long as each read fills the buffer.
        if not self._is_paused and not self.transport.is_closing():
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        if not self._is_paused and self.owns_transport:
            self.transport.resume_reading()

    @property
    def owns_transport(self) -> bool:
        """Whether the connection was not handed over."""
        return not self.transport.is_closing() and self.transport.get_protocol() is self

    def pause_reading(self) -> None:
        """Stop reading; a disconnect is not noticed until :meth:`resume_reading`."""
        if not self._is_paused:
            self._is_paused = True
            if not self.transport.is_closing():
                self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Continue to read."""
        if self._is_paused:
            self._is_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def limit_pipeline(self) -> None:
        """Stop to read if there are many further requests."""
        if self._request is not None and len(self._data) > MAX_PIPELINED:
            self.pause_reading()
            self._limit_time(DISCONNECT_INTERVAL)

    def is_disconnected(self) -> bool:
        """Return whether the client has disconnected, even if the event loop has not reported it yet."""
        return self.transport.is_closing() or peer_disconnected(self.socket)

    def _disconnected(self) -> None:
        request, self._request = self._request, DISCARD
        self._data = b""
        if request is not None:
            request.on_disconnect()

    # Writing.

    def write(self, data: bytes) -> bool:
        """Send data, directly to the socket if nothing is buffered.

        Returns:
            Whether the operating system has accepted all data.
        """
        transport = self.transport
        if transport.is_closing():
            return True
        if not transport.get_write_buffer_size():
            # If the send fails, the transport meets and reports the same error when it writes the rest.
            with contextlib.suppress(OSError):
                sent = self.socket.send(data)
                if sent == len(data):
                    self._writable_socket = self.socket
                    return True
                data = data[sent:]
        self._writable_socket = None
        transport.write(data)
        self._congest(transport.get_write_buffer_size())
        return False

    def _congest(self, unsent: int) -> None:
        # The transport has reported this to the owner before this one, if there was one.
        if unsent > _MAX_UNSENT:
            self._is_congested = True

    @property
    def unsent(self) -> int:
        """Bytes written that the operating system has not accepted yet."""
        return self.transport.get_write_buffer_size()

    def drained(self) -> "asyncio.Future[None]":
        """Return a future that is done when the client has read enough for further data."""
        future = asyncio.get_running_loop().create_future()
        if self._is_congested and not self.transport.is_closing():
            self._write_waiters.append(future)
        else:
            future.set_result(None)
        return future

    def pause_writing(self) -> None:
        """Called when the write buffer is above its high-water mark."""
        self._is_congested = True
        # An application may wait until the client has read enough. Without a request, this changes no deadline.
        self._unsent = self.unsent
        self._limit_time(self.server.idle_timeout)

    def resume_writing(self) -> None:
        """Called when the write buffer has drained."""
        self._is_congested = False
        self._wake_writers()
        if self._request is None and not self._is_serving:
            self._continue()

    def _wake_writers(self) -> None:
        waiters, self._write_waiters = self._write_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # Deadlines.

    def _wait_for_request(self) -> None:
        self.due = self.server.now() + self.server.idle_timeout
        if self.bucket is None:
            self.server.schedule(self)

    def _limit_time(self, seconds: float) -> None:
        due = self.server.now() + seconds
        if due < self.due:
            self.due = due
            self.server.schedule(self)

    def limit_body_time(self, seconds: float | None = None) -> None:
        """Limit the time for the rest of a body, by default to the server's limit."""
        if seconds is None:
            seconds = self.server.body_timeout
        self._body_due = self.server.now() + seconds
        self._limit_time(seconds)

    def body_read(self) -> None:
        """Called when a body was read: its time limit ends."""
        self._body_due = inf
        if not self._is_congested:
            self.due = inf

    def check(self, now: float) -> None:
        """Close the connection if its client is late."""
        if self._request is DISCARD:
            if self._is_reading_responses():
                self.due = now + CLOSE_TIMEOUT
            elif not self.server.postpone(self, now):
                self.cut()
        elif now >= self._body_due:
            if not self.server.postpone(self, now):
                logger.info("Timeout reading body from %s", self.remote_ip or "a Unix socket")
                self._time_out()
        elif self._request is not None and not self._is_congested:
            self.due = self._body_due
            if self._is_paused and len(self._data) > MAX_PIPELINED:
                # The event loop reports a disconnect only while it reads.
                if not peer_disconnected(self.socket):
                    self.due = min(now + DISCONNECT_INTERVAL, self.due)
                elif not self.eof_received():
                    self.transport.close()
        elif self._is_reading_responses():
            self.due = min(now + self.server.idle_timeout, self._body_due)
        elif not self.server.postpone(self, now):
            self._time_out()

    def _is_reading_responses(self) -> bool:
        """Return whether the client has read enough of the unsent data since the last check."""
        unsent, before = self.unsent, self._unsent
        self._unsent = unsent
        # If there is more than before, the client has read what was there before.
        return bool(unsent) and (unsent > before or before - unsent >= min(_MIN_DRAIN_BYTES, before))

    def _time_out(self) -> None:
        self._disconnected()
        self.cut() if self.unsent else self.transport.close()

    # Closing.

    def _close(self) -> None:
        self._request = DISCARD
        self._begin_closing()
        self.transport.close()

    def close_gracefully(self) -> None:
        """Close the connection, whose client may still be sending, so that it can read the response.

        Closing a socket with unread data would reset the connection (RFC 9112, section 9.6).
        """
        self._request = DISCARD
        self._data = b""
        if self.transport.is_closing():
            return
        self._begin_closing()
        self.resume_reading()
        # If the client has reset the connection, connection_lost() follows.
        with contextlib.suppress(OSError):
            self.transport.write_eof()

    def _begin_closing(self) -> None:
        self._unsent = self.unsent
        self.due = inf
        self._limit_time(CLOSE_TIMEOUT)

    def abort_after_write(self) -> None:
        """Close the connection after the data that was written is sent."""
        self._disconnected()
        self._close()

    def abort(self) -> None:
        """Close the connection immediately and discard unsent data."""
        self._request = DISCARD
        self.cut()

    def cut(self) -> None:
        """Close the connection's transport immediately and discard unsent data."""
        self._is_cut = True
        self.transport.abort()

    def _leave(self) -> None:
        self.server.cancel(self)
        self.server.connection_ended(self)

    def _forget_head(self) -> None:
        """Free what refers to the connection."""
        repeated, self._repeated = self._repeated, None
        if repeated is not None:
            repeated.release()
