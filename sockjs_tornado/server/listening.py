"""Listening sockets, from which clients are accepted with few system calls."""

import socket
from typing import Any, Final

from ..wire.sockets import accept_socket

#: Clients that are accepted in one iteration of the event loop at most, as in Tornado.
_MAX_BATCH: Final = 128

#: Full batches after which the next ones are twice as large.
_GROWTH_INTERVAL: Final = 4


class Listener:
    """A listening socket, as Tornado accepts clients from it: until :meth:`accept` raises BlockingIOError.

    Usually only one client is waiting. So only one is accepted in an iteration of the event loop, which calls again as
    long as clients are waiting: this saves the system call that fails. If that happens again and again, more are
    accepted in one iteration, until none is left.

    Args:
        sock: The socket. It stays usable, and is closed by :meth:`close`.
    """

    __slots__ = ("_accept_next", "_batch_size", "_full_batches", "_left", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # Another class may accept in its own way.
        self._accept_next = sock.accept if type(sock).accept is not socket.socket.accept else None
        # Clients to accept in this iteration of the event loop, and those of them that are left.
        self._batch_size = self._left = 1
        # Batches of this size after which no client was found missing.
        self._full_batches = 0

    def fileno(self) -> int:
        """Return the file descriptor, or -1 if the socket is closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection and the address of its client.

        Raises:
            BlockingIOError: No client is waiting, or enough were accepted in this iteration.
        """
        if not self._left:
            self._full_batches += 1
            if self._full_batches == _GROWTH_INTERVAL:
                self._full_batches = 0
                self._batch_size = min(2 * self._batch_size, _MAX_BATCH)
            self._left = self._batch_size
            raise BlockingIOError
        self._left -= 1
        try:
            return accept_socket(self._sock) if self._accept_next is None else self._accept_next()
        except BlockingIOError:
            self._batch_size = self._left = 1
            self._full_batches = 0
            raise
