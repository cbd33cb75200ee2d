"""Streams of Tornado, for applications that use the connection of a request."""

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from tornado.iostream import IOStream

from ..wire.connection import CLOSE_TIMEOUT

if TYPE_CHECKING:
    from .connection import HTTPConnection


class ConnectionStream:
    """What applications use of ``request.connection.stream`` on Tornado's server.

    Args:
        connection: The connection.
    """

    def __init__(self, connection: "HTTPConnection") -> None:
        self._connection = connection

    @property
    def socket(self) -> socket.socket:
        """The connection's socket, which must not be read or written."""
        return self._connection.socket

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
        self._drop_transport()

    def _drop_transport(self) -> bool:
        """Close the transport's own socket if the transport has nothing to write; return whether it is closed."""
        if self._transport is not None and not self._transport.get_write_buffer_size():
            self._transport.abort()
            self._transport = None
        return self._transport is None

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Read into ``buf``; called by Tornado."""
        if not self._unread:
            return super().read_from_fd(buf)
        piece = self._unread[: len(buf)]
        buf[: len(piece)] = piece
        self._unread = self._unread[len(piece) :]
        return len(piece)

    def write_to_fd(self, data: memoryview) -> int:
        """Write what the socket accepts of ``data``; called by Tornado."""
        # Both sockets become writable together, and the transport has its turn before the next attempt.
        return super().write_to_fd(data) if self._drop_transport() else 0

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
