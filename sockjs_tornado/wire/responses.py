"""Responses that the server writes to Tornado's streams, and closing the streams after them."""

import asyncio
import contextlib
import functools
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http.client import responses
from typing import Any, Final

from tornado.iostream import IOStream, SSLIOStream, StreamClosedError

from .http_parser import format_response

#: Bytes per tracked write. Smaller rests of a response are not tracked.
PIECE_SIZE: Final = 16 * 1024

#: Seconds between two attempts to send a close_notify, and the number of attempts.
_RETRY_INTERVAL = 0.05
_MAX_ATTEMPTS = 40


def response_head(status: int, headers: Iterable[tuple[str, str]], body: bytes = b"") -> bytes:
    """Return the head of an HTTP/1.1 response (RFC 9112, section 4), followed by ``body``."""
    return format_response(_shared_head(status, int(time.time())), list(headers), body)


def shared_head(status: int) -> str:
    """Return the status line, and the fields that all responses have."""
    return _shared_head(status, int(time.time()))


# Cached because all responses of a status within a second begin in the same way.
@functools.lru_cache(maxsize=16)
def _shared_head(status: int, seconds: int) -> str:
    return f"HTTP/1.1 {status} {responses.get(status, 'Unknown')}\r\n{_common_fields(seconds)}"


# Browsers must not guess the content type, and must not send the URL, which may contain a session id, to other sites.
def _common_fields(seconds: int) -> str:
    date = formatdate(seconds, usegmt=True)
    return f"Date: {date}\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"


class PendingWrite:
    """Data written to an open stream in pieces, so that the number of unsent bytes is known."""

    __slots__ = ("_left", "_pieces", "_stream")

    def __init__(self, stream: IOStream, data: bytes) -> None:
        self._stream = stream
        self._left = len(data)
        self._pieces: deque[tuple[asyncio.Future[None], int]] = deque()
        # The client may have disconnected.
        with contextlib.suppress(StreamClosedError):
            for start in range(0, len(data), PIECE_SIZE):
                piece = data[start : start + PIECE_SIZE]
                self._pieces.append((stream.write(piece), len(piece)))

    @property
    def unsent(self) -> int:
        """Bytes that the operating system has not accepted; they stay counted if the connection is closed."""
        # Counted here because done callbacks run one iteration later, when the client may have polled again.
        pieces = self._pieces
        while pieces and pieces[0][0].done() and pieces[0][0].exception() is None:
            self._left -= pieces.popleft()[1]
        return self._left

    def abort(self) -> None:
        """Close the connection and discard the rest."""
        self._stream.close()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback`` in an iteration of the event loop after the last byte was sent."""
        if self._pieces:
            self._pieces[-1][0].add_done_callback(callback)
        else:
            asyncio.get_running_loop().call_soon(callback, None)


def write_tracked(stream: IOStream, data: bytes) -> PendingWrite | None:
    """Write ``data``, unless it is short or the stream is closed or limits its buffer; then return None."""
    if len(data) <= PIECE_SIZE or stream.max_write_buffer_size is not None or stream.closed():
        return None
    return PendingWrite(stream, data)


def write_and_close(stream: IOStream, data: bytes) -> PendingWrite | None:
    """Write ``data`` to a detached stream, then close it. Return the rest of the data if it is tracked."""
    release_slot = claim_slot(stream)
    pending = write_tracked(stream, data)
    try:
        writing = stream.write(b"" if pending else data)
    except StreamClosedError:
        close_stream(stream, release_slot)
        return pending

    def written(future: "asyncio.Future[None]") -> None:
        future.exception()
        close_stream(stream, release_slot)

    writing.add_done_callback(written)
    return pending


def claim_slot(stream: IOStream) -> Callable[[], None] | None:
    """Return the function that releases the connection's slot at the HTTP server; the caller must call it once.

    Return None if the server does not count the connection (see :mod:`sockjs_tornado.server.connection_limits`), or if
    the slot was already claimed.
    """
    release: Callable[[], None] | None = stream.__dict__.pop("release_slot", None)
    return release


def close_stream(stream: IOStream, on_closed: Callable[[], None] | None = None) -> None:
    """Close a stream after its last write, over TLS with a close_notify. Then call ``on_closed``.

    Without a close_notify, the peer must assume a truncation attack (RFC 8446, section 6.1). If the socket's send
    buffer is full, the stream stays open until the client has read enough of it, for 2 s at most.
    """
    _close(stream, on_closed, _MAX_ATTEMPTS)


def _close(stream: IOStream, on_closed: Callable[[], None] | None, attempts: int) -> None:
    if not _send_close_notify(stream) and attempts:
        # The stream has registered the socket with the event loop, so nothing else can wait until it is writable.
        asyncio.get_running_loop().call_later(_RETRY_INTERVAL, _close, stream, on_closed, attempts - 1)
        return
    stream.close()
    if on_closed is not None:
        on_closed()


def _send_close_notify(stream: IOStream) -> bool:
    """Return False if the socket's send buffer is full."""
    if isinstance(stream, SSLIOStream) and not stream.closed():
        # OpenSSL sends the alert, then tries to read the peer's. Ignore that it has not arrived (SSLWantReadError),
        # that other data has arrived (SSLError), or that the peer has disconnected.
        with contextlib.suppress(OSError, ValueError):
            try:
                stream.socket.unwrap()
            except ssl.SSLWantWriteError:
                return False
    return True
