"""Streams of Tornado, for applications that use the connection of a request."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from tornado.iostream import IOStream

from ..wire.connection import CLOSE_TIMEOUT
from ..wire.tls import TLSTransport

if TYPE_CHECKING:
    from .connection import HTTPConnection

#: Bytes that are read or encrypted at a time.
_PIECE_SIZE: Final = 64 * 1024


class TLSSocket:
    """A TLS connection's socket for applications. It has the methods of the TLS session and those of the socket.

    Args:
        sock: The socket.
        session: The TLS session.
    """

    def __init__(self, sock: socket.socket, session: ssl.SSLObject) -> None:
        self._socket = sock
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session if hasattr(self._session, name) else self._socket, name)


class ConnectionStream:
    """The methods of ``request.connection.stream`` that applications use on Tornado's server.

    Args:
        connection: The connection.
    """

    def __init__(self, connection: "HTTPConnection") -> None:
        self._connection = connection

    @property
    def socket(self) -> Any:
        """The connection's socket, which must not be read or written; with TLS, it has ``getpeercert()`` and so on."""
        return self._connection.application_socket

    def closed(self) -> bool:
        """Return whether the connection is closed."""
        return self._connection.transport.is_closing()

    def close(self) -> None:
        """Close the connection after the data that was written is sent."""
        self._connection.abort_after_write()

    def write(self, data: bytes) -> "asyncio.Future[None]":
        """Send data; return a future that is done when the client has read enough for further data."""
        self._connection.write(data)
        return self._connection.drained()

    def set_nodelay(self, value: bool) -> None:
        """Do nothing: each write is sent at once."""


class DetachedStream(IOStream):
    """A stream of Tornado for a connection that an application took over, such as a websocket of Tornado.

    It reads first what the transport had read already. It writes as soon as the transport has written everything.

    Args:
        sock: A duplicate of the transport's socket.
        transport: The transport, which must not read any more.
        unread: The data that was read and not used.
        release_slot: Called when the stream is closed.
        max_buffer_size: Maximum bytes in each of the stream's buffers.
    """

    def __init__(
        self,
        sock: socket.socket,
        transport: asyncio.Transport,
        unread: bytes,
        release_slot: Callable[[], None] | None,
        max_buffer_size: int | None,
    ) -> None:
        self._transport: asyncio.Transport | None = transport
        self._unread = memoryview(unread)
        self._release_slot = release_slot
        super().__init__(sock, max_buffer_size=max_buffer_size)
        self.drop_transport()

    def drop_transport(self) -> bool:
        """Close the transport's own socket if the transport has nothing to write; return whether it is closed."""
        if self._transport is not None and not self._transport.get_write_buffer_size():
            self._transport.abort()
            self._transport = None
        return self._transport is None

    def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        """Read until a regular expression matches, as every stream does."""
        return self._close_if_too_long(super().read_until_regex(regex, max_bytes))

    def read_until(self, delimiter: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        """Read until a delimiter, as every stream does."""
        return self._close_if_too_long(super().read_until(delimiter, max_bytes))

    def _close_if_too_long(self, read: Awaitable[bytes]) -> Awaitable[bytes]:
        # With exactly max_bytes in its buffer, Tornado waits for the socket, though there is more data.
        if self._unread and not asyncio.ensure_future(read).done():
            self.close()
        return read

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Read into ``buf``; called by Tornado."""
        if not self._unread:
            return super().read_from_fd(buf)
        piece = self._unread[: len(buf)]
        buf[: len(piece)] = piece
        self._unread = self._unread[len(piece) :]
        return len(piece)

    def write_to_fd(self, data: memoryview) -> int:
        """Write as much of ``data`` as the socket accepts; called by Tornado."""
        # Both sockets become writable together, and the transport has its turn before the next attempt.
        return super().write_to_fd(data) if self.drop_transport() else 0

    def close_fd(self) -> None:
        """Close the socket; called by Tornado."""
        super().close_fd()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
            # If the client does not read the rest.
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, transport.abort)
        release_slot, self._release_slot = self._release_slot, None
        if release_slot is not None:
            release_slot()


class DetachedTLSStream(DetachedStream):
    """A stream for a connection with TLS, which continues the TLS session.

    It is not an ``SSLIOStream``, which can only begin one.
    """

    def __init__(
        self,
        sock: socket.socket,
        transport: TLSTransport,
        unread: bytes,
        release_slot: Callable[[], None] | None,
        max_buffer_size: int | None,
    ) -> None:
        self._channel = transport.channel
        # Encrypted data that was not sent, and how many bytes of the write buffer it is.
        self._encrypted = memoryview(b"")
        self._encrypted_size = 0
        super().__init__(sock, transport, unread, release_slot, max_buffer_size)

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Read into ``buf``; called by Tornado."""
        if self._unread:
            return super().read_from_fd(buf)
        with memoryview(buf) as view:
            while (count := self._channel.read_into(view)) is None:
                piece = bytearray(_PIECE_SIZE)
                size = super().read_from_fd(piece)
                if size is None:
                    return None
                if size:
                    self._channel.incoming.write(memoryview(piece)[:size])
                else:
                    self._channel.incoming.write_eof()
        return count

    def write_to_fd(self, data: memoryview) -> int:
        """Write as much of ``data`` as the socket accepts; called by Tornado."""
        if not self.drop_transport():
            return 0
        if not self._encrypted:
            with data[:_PIECE_SIZE] as piece:
                self._encrypted = memoryview(self._channel.encrypt(piece))
                self._encrypted_size = len(piece)
        self._encrypted = self._encrypted[self.socket.send(self._encrypted) :]
        # Tornado waits until the socket is writable as long as there is data.
        return 0 if self._encrypted else self._encrypted_size

    def close_fd(self) -> None:
        """Close the socket, with a close_notify; called by Tornado."""
        if self._transport is None and not self._encrypted:
            with contextlib.suppress(OSError):
                self.socket.send(self._channel.close())
        super().close_fd()
