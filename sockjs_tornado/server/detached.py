"""Connections that an application takes over, for instance for Tornado's own websockets."""

import asyncio
import socket
from collections.abc import Callable

from tornado.iostream import IOStream

__all__ = ["DetachedStream"]


class DetachedStream(IOStream):
    """A stream of Tornado for a connection that belonged to an asyncio transport.

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
        release_slot, self._release_slot = self._release_slot, None
        if release_slot is not None:
            release_slot()
