"""Taking connections over from Tornado: after the head of a response they leave ``IOStream``.

:func:`take_over` moves a connection to an :class:`asyncio.Transport` of its own; from then on a
:class:`~sockjs_tornado.wire.connection.Connection` owns it. Over TLS the socket cannot be moved: there an object with
the same interface stands before the ``IOStream``, and the owner does not know.
"""

import asyncio
import contextlib
import errno
import functools
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from email.utils import formatdate
from http import HTTPStatus
from math import inf
from typing import Any

from tornado.iostream import IOStream, SSLIOStream, StreamClosedError

from .connection import READ_BUDGET, READ_SIZE, Connection
from .pending import PendingWrite, write_rest
from .sockets import set_user_timeout

__all__ = ["response_head", "take_over", "write_and_close", "write_now"]

#: Bytes of an SSL connection's write buffer at which writing is paused, and resumed.
_HIGH_WATER = 64 * 1024
_LOW_WATER = 16 * 1024


#: What a read counts for at least, in bytes: many TLS records with little in them take as long as full ones.
_MIN_READ = 2 * 1024


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


def take_over(
    stream: IOStream, protocol: Connection, *, nodelay: bool, user_timeout: float
) -> Coroutine[Any, Any, None]:
    """Give ``protocol`` the connection of ``stream``, which Tornado has let go.

    Bytes that the stream has read already are handed over; nothing is lost. Where the stream knows that the client has
    left, ``protocol`` never hears of the connection.

    Args:
        stream: What ``RequestHandler.detach`` returned.
        protocol: The new owner.
        nodelay: Whether small writes leave at once (TCP_NODELAY).
        user_timeout: Seconds after which a peer that acknowledges nothing is given up, 0 for the system's own.

    Returns:
        What has to be awaited. The protocol's manager expects the connection from now on.
    """
    protocol.takeover_started(_claim_slot(stream))
    return _take_over(stream, protocol, nodelay, user_timeout)


def _claim_slot(stream: IOStream) -> Callable[[], None] | None:
    """Take over what the stream's connection counts for at its server; return what to call when it is closed.

    None if the server does not count connections (see :mod:`sockjs_tornado.http.accepting`).
    """
    slot = getattr(stream, "connection_slot", None)
    return None if slot is None else slot.claim()


async def _take_over(stream: IOStream, protocol: Connection, nodelay: bool, user_timeout: float) -> None:
    moved = False
    try:
        moved = await _move(stream, protocol, nodelay, user_timeout)
    finally:
        if not moved:
            protocol.takeover_failed()


async def _move(stream: IOStream, protocol: Connection, nodelay: bool, user_timeout: float) -> bool:
    if stream.closed():
        return False
    try:
        # Before anything is written; asyncio sets it again for what it makes of the socket.
        stream.set_nodelay(nodelay)
        if user_timeout:
            set_user_timeout(stream.socket, user_timeout)
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
    protocol.adopt_socket(sock, unread)
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
    # Tornado has no public way to tell. Asking an empty buffer for bytes costs a read of the socket in vain, and leaves
    # the stream waiting for more.
    if getattr(stream, "_read_buffer_size", None) == 0:
        return b""
    reading = asyncio.ensure_future(stream.read_bytes(stream.max_buffer_size, partial=True))
    if reading.done():
        return reading.result()
    return b""


def write_now(stream: IOStream, data: bytes) -> bytes:
    """Write what the socket takes at once, without the buffer and the future that ``IOStream.write`` makes for it.

    Returns:
        What is left for ``IOStream.write``: all of it over TLS, behind what is still being written, where that may
        refuse it, and where something is wrong, which that will find out.
    """
    if type(stream) is not IOStream or stream.closed() or stream.writing() or stream.max_write_buffer_size is not None:
        return data
    try:
        return data[stream.socket.send(data) :]
    except OSError:
        return data


def write_and_close(stream: IOStream, data: bytes) -> PendingWrite | None:
    """Write ``data`` to a stream that Tornado has let go, then close it, over TLS with a close_notify.

    Returns:
        What is left to be written, if it is much.
    """
    release_slot = _claim_slot(stream) or _do_nothing
    pending = write_rest(stream, data)
    try:
        writing = stream.write(b"" if pending else data)
    except StreamClosedError:
        release_slot()
        return pending

    def written(future: "asyncio.Future[None]") -> None:
        future.exception()
        _close(stream)
        release_slot()

    writing.add_done_callback(written)
    return pending


def _do_nothing() -> None:
    pass


def _close(stream: IOStream) -> None:
    """Close a stream whose data is written. Over TLS say so first: a peer cannot tell a bare end from an attack."""
    _send_close_notify(stream)
    stream.close()


def _send_close_notify(stream: IOStream) -> None:
    """Send the alert that ends a TLS connection's data (RFC 8446, section 6.1), unless the stream is closed already."""
    if isinstance(stream, SSLIOStream) and not stream.closed():
        # OpenSSL sends it, then looks for the peer's. That is not there yet (SSLWantReadError), or something else is
        # (SSLError); none of it matters any more, and neither does a peer that has left.
        with contextlib.suppress(OSError, ValueError):
            stream.socket.unwrap()


async def _read_to_end(sock: socket.socket) -> None:
    """End the writing side of a socket, and discard what comes until the peer ends its own."""
    loop = asyncio.get_running_loop()
    memory = bytearray(READ_SIZE)
    with contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.shutdown(socket.SHUT_WR)
        while True:
            if not await loop.sock_recv_into(sock, memory):
                break
            # While there are bytes, that waits for nothing, and nobody else would have a turn.
            await asyncio.sleep(0)


class _StreamTransport(asyncio.Transport):
    """An ``IOStream`` with the interface of an asyncio transport, for connections over TLS."""

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
        # Whether the writing side ends once all is written; and over TLS what is left after that, the bare socket.
        self._eof = False
        self._raw_socket: socket.socket | None = None
        self._discarding: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Tell the protocol and begin to read."""
        self._protocol.connection_made(self)
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        error = None
        taken, deadline = 0, inf
        try:
            while True:
                reading = asyncio.ensure_future(self._stream.read_bytes(READ_SIZE, partial=True))
                if not reading.done():
                    taken = 0
                elif taken >= READ_SIZE or time.monotonic() >= deadline:
                    # The stream is read without a wait for as long as the client sends: others first.
                    await asyncio.sleep(0)
                    taken = 0
                data = await reading
                if not taken:
                    deadline = time.monotonic() + READ_BUDGET
                taken += max(len(data), _MIN_READ)
                await self._reading_enabled.wait()
                # What comes while the last bytes are on their way out is for nobody.
                if not self._closing:
                    self._protocol.on_data(data)
        except (StreamClosedError, OSError):
            pass
        except Exception as exc:
            error = exc
            context = {"message": "Fatal error: protocol.on_data() call failed.", "exception": exc, "transport": self}
            asyncio.get_running_loop().call_exception_handler(context)
        if self._raw_socket is not None:
            await self._discard(self._raw_socket)
        self.abort()
        self._protocol.connection_lost(error)

    async def _discard(self, bare: socket.socket) -> None:
        """Read what comes after the close_notify, still encrypted, until the client closes; see :meth:`_shut`."""
        with bare:
            if not self._closing:
                self._discarding = asyncio.ensure_future(_read_to_end(bare))
                await asyncio.wait([self._discarding])

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
            if not self._pending and self._closing:
                _close(self._stream)
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
            _close(self._stream)
            self._stop_discarding()

    def abort(self) -> None:
        self._closing = True
        self._reading_enabled.set()
        self._stream.close()
        self._stop_discarding()

    def _stop_discarding(self) -> None:
        # To shut the reading side instead would leave a client that sends more waiting: Linux reopens no window then.
        if self._discarding is not None:
            self._discarding.cancel()

    def is_closing(self) -> bool:
        return self._closing or self._stream.closed()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._eof = True
        if not self._pending:
            self._shut()

    def _shut(self) -> None:
        """End the writing side alone: over TLS by a close_notify, and below that as over TCP.

        OpenSSL reads nothing more after that: it takes a peer that goes on sending for a violation. So the TLS
        connection is given up, and what the client still sends is read from the socket below.
        """
        if self._stream.closed():
            return
        self._reading_enabled.set()
        sock = self._stream.socket
        if isinstance(self._stream, SSLIOStream):
            try:
                self._raw_socket = socket.fromfd(sock.fileno(), sock.family, sock.type)
            except OSError:
                # No descriptor is free: the client learns of the end by its deadline.
                return
            _close(self._stream)
        else:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)

    def pause_reading(self) -> None:
        # At the end, what is still read is passed over.
        if not self._closing:
            self._reading_enabled.clear()

    def resume_reading(self) -> None:
        self._reading_enabled.set()

    def is_reading(self) -> bool:
        return self._reading_enabled.is_set() and not self._closing

    def get_write_buffer_size(self) -> int:
        # The futures of what has left are done in the loop's next turn.
        return self._pending if self._stream.writing() else 0
