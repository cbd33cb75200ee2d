"""Listening sockets, from which clients are accepted with few system calls."""

import socket
from collections.abc import Callable
from typing import Any, Final

from tornado.ioloop import IOLoop

from ..wire.sockets import accept_socket

#: The largest number of clients that are accepted in one iteration of the event loop, as in Tornado.
_MAX_BATCH: Final = 128

#: Number of full batches after which the batch size is doubled.
_GROWTH_INTERVAL: Final = 4


class Listener:
    """A listening socket whose clients are accepted by the running event loop.

    Usually only one client is waiting. Therefore only one is accepted in an iteration of the event loop, which saves
    the system call that would find no other. The event loop calls again as long as clients are waiting. If that happens
    repeatedly, more clients are accepted in one iteration, until none is left.

    Args:
        sock: The socket. It stays usable, and is closed by :meth:`close`.
        on_accept: Called with each connection and the address of its client.
    """

    __slots__ = ("_accept", "_batch_size", "_full_batches", "_is_closed", "_on_accept", "_sock")

    def __init__(self, sock: socket.socket, on_accept: Callable[[socket.socket, Any], None]) -> None:
        self._sock = sock
        self._on_accept = on_accept
        # A subclass may override accept().
        self._accept = sock.accept if type(sock).accept is not socket.socket.accept else None
        # Clients to accept in one iteration of the event loop.
        self._batch_size = 1
        # Successive batches of this size that were full: a client was waiting at each call.
        self._full_batches = 0
        self._is_closed = False
        IOLoop.current().add_handler(sock, self._accept_clients, IOLoop.READ)

    def close(self) -> None:
        """Stop accepting, and close the socket."""
        if not self._is_closed:
            self._is_closed = True
            IOLoop.current().remove_handler(self._sock)
            self._sock.close()

    def _accept_clients(self, sock: object, events: int) -> None:
        for _ in range(self._batch_size):
            # The connection of an accepted client may have stopped the server.
            if self._is_closed:
                return
            try:
                connection, address = accept_socket(self._sock) if self._accept is None else self._accept()
            except BlockingIOError:
                self._batch_size = 1
                self._full_batches = 0
                return
            except ConnectionAbortedError:
                # The client was rejected, or has left before it was accepted.
                continue
            self._on_accept(connection, address)
        self._full_batches += 1
        if self._full_batches == _GROWTH_INTERVAL:
            self._full_batches = 0
            self._batch_size = min(2 * self._batch_size, _MAX_BATCH)
