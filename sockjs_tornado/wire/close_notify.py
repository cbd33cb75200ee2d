"""Closing of TLS streams: without a close_notify, the peer must assume a truncation attack (RFC 8446, section 6.1)."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable

from tornado.iostream import IOStream, SSLIOStream

__all__ = ["close_stream"]

#: Seconds between two attempts to send a close_notify, and the number of attempts.
_RETRY_INTERVAL = 0.05
_MAX_ATTEMPTS = 40


def close_stream(stream: IOStream, on_closed: Callable[[], None] | None = None) -> None:
    """Close a stream after its last write, over TLS with a close_notify.

    If the socket's send buffer is full, the stream stays open until the client has read enough of it, for 2 s at most.

    Args:
        stream: The stream. It may be closed already.
        on_closed: Called once the stream is closed.
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
