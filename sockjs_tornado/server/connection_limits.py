"""Connection limits of an HTTP server: connections per address, and reserved file descriptors.

Even a connection that sends nothing uses a file descriptor for up to ``idle_connection_timeout``, and the number of
descriptors per process is limited. A connection counts from accept to close, also after a session has taken it over or
the application has detached it.
"""

import functools
import ipaddress
import logging
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, Final

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream

from ..observe.logs import ThrottledLog
from ..session.requester import network_of
from ..validation import is_size
from ..wire.responses import claim_slot
from ..wire.sockets import EXHAUSTED_ERRNOS, accept_socket
from ..wire.tornado_internals import connection_stream
from .http_server import HTTPServer

if sys.platform != "win32":  # pragma: no branch - Windows has no such module
    import resource

logger = logging.getLogger(__name__)

#: Default number of reserved file descriptors. If the process's limit is low, an eighth of it is reserved instead.
RESERVED: Final = 64

#: By default, one address may use one part in this many of the unreserved descriptors.
_SHARE: Final = 4

#: Seconds without accepting connections if no file descriptors are available.
RETRY_INTERVAL: Final = 0.5


class Admission:
    """Counts connections per address and decides which ones to reject.

    Args:
        max_per_ip: Maximum number of connections per address; 0 for no limit. The default, None, is a quarter of the
            unreserved descriptors for global addresses, and no limit for others, such as a proxy's.
        reserved: Number of descriptors that connections may not use. The default, None, is 64, or an eighth of the
            process's limit if that is less.

    Attributes:
        max_per_ip, reserved: The values in use.
        highest: Highest descriptor number that a connection may have; None for no limit.
        rejected: Number of connections that were closed immediately.
        total_rejected: The sum of ``rejected`` over all servers of the process; a class attribute.

    Raises:
        ValueError: A number is negative, or no descriptors are left for connections.
    """

    total_rejected: ClassVar[int] = 0

    def __init__(self, max_per_ip: int | None = None, reserved: int | None = None) -> None:
        for name, value in (("max_connections_per_ip", max_per_ip), ("reserved_descriptors", reserved)):
            if value is not None and not is_size(value):
                raise ValueError(f"{name}: expected a number, 0 or more, or None, got {value!r}")
        limit = _descriptor_limit()
        if reserved is None:
            reserved = 0 if limit is None else min(RESERVED, limit // 8)
        if limit is not None and reserved >= limit:
            raise ValueError(f"reserved_descriptors: expected less than the process's limit of {limit}, got {reserved}")
        self.reserved = reserved
        # The system assigns the lowest free number, so a new descriptor n means that n descriptors are in use.
        self.highest = None if limit is None or not reserved else limit - reserved - 1
        self._is_default = max_per_ip is None
        if max_per_ip is None:
            max_per_ip = 0 if limit is None else max(1, (limit - reserved) // _SHARE)
        self.max_per_ip = max_per_ip
        self.rejected = 0
        self._connections: Counter[str] = Counter()
        self._log = ThrottledLog(time.monotonic)

    def reject_if_full(self, address: Any) -> bool:
        """Return whether ``address`` has too many connections for another one. If so, count and log it."""
        network = self._counted_network(address)
        if network is None or self._connections[network] < self.max_per_ip:
            return False
        self.rejected += 1
        Admission.total_rejected += 1
        self._log.write(
            logger,
            logging.WARNING,
            "max_connections_per_ip",
            "Rejected a connection from %s, which has %d connections already (max_connections_per_ip)",
            network,
            self.max_per_ip,
        )
        return True

    def add(self, address: Any) -> Callable[[], None] | None:
        """Count a connection. Return the function that stops counting it, or None if its address is not limited."""
        network = self._counted_network(address)
        if network is None:
            return None
        self._connections[network] += 1
        return functools.partial(self.release, network)

    def release(self, network: str) -> None:
        """Stop counting a connection."""
        self._connections[network] -= 1
        if not self._connections[network]:
            del self._connections[network]

    def _counted_network(self, address: Any) -> str | None:
        # The address of a Unix socket is a string or empty.
        if not self.max_per_ip or not isinstance(address, tuple):
            return None
        return None if self._is_default and not _is_public(address[0]) else network_of(address[0])


@functools.lru_cache(maxsize=1024)
def _is_public(ip: str) -> bool:
    """Return whether an address is global, so that it belongs to a client and not to a proxy."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_global


def _descriptor_limit() -> int | None:
    """Return the process's limit of file descriptors, or None if there is none."""
    if sys.platform == "win32":  # pragma: no cover
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


class LimitedServer(HTTPServer):
    """An HTTP server that counts its connections."""

    #: Counts the connections. Must be set after the server is created.
    admission: Admission

    def handle_socket(self, sock: socket.socket, address: Any, release_slot: Callable[[], None] | None = None) -> None:
        """Count a new connection and serve it."""
        super().handle_socket(sock, address, self.admission.add(address))

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Count a new connection that Tornado's server serves."""
        # claim_slot() looks for it there, so that only one owner of the connection releases its slot.
        stream.release_slot = self.admission.add(address)  # type: ignore[attr-defined]
        super().handle_stream(stream, address)

    def on_close(self, server_conn: Any) -> None:
        """Release the slot of a connection that Tornado has closed or detached, unless its new owner claimed it."""
        release_slot = claim_slot(connection_stream(server_conn))
        if release_slot is not None:
            release_slot()
        super().on_close(server_conn)


class ThrottledSocket(socket.socket):
    """A listening socket that stops accepting while no unreserved file descriptors are available.

    New clients wait in the backlog of the socket. Otherwise, the event loop would retry to accept in a busy loop, and
    the process could not open files or database connections.
    """

    #: Decides which connections to reject. Must be set after the socket is created.
    admission: Admission
    _exhausted = False

    def accept(self) -> Any:
        """Accept a connection. Tornado tries the next one after a ConnectionAbortedError, not after other errors."""
        highest = self.admission.highest
        if self._exhausted and highest is not None and not self._has_descriptors(highest):
            self._wait()
        try:
            connection, address = accept_socket(self)
        except OSError as error:
            if error.errno not in EXHAUSTED_ERRNOS:
                raise
            self._report(error.strerror or str(error))
            self._wait()
        if self.admission.reject_if_full(address):
            connection.close()
            raise ConnectionAbortedError
        if highest is not None and connection.fileno() >= highest:
            self._report(
                f"all file descriptors but the {self.admission.reserved} reserved ones are in use "
                "(reserved_descriptors); raise the limit of the process (ulimit -n, LimitNOFILE)"
            )
        else:
            self._exhausted = False
        return connection, address

    def _has_descriptors(self, highest: int) -> bool:
        try:
            lowest_free = os.dup(self.fileno())
        except OSError:
            return False
        os.close(lowest_free)
        return lowest_free <= highest

    def _report(self, reason: str) -> None:
        if not self._exhausted:
            logger.warning("Cannot accept clients for now: %s", reason)
        self._exhausted = True

    def _wait(self) -> None:
        loop = IOLoop.current()
        loop.update_handler(self.fileno(), 0)
        loop.call_later(RETRY_INTERVAL, self._resume)
        raise BlockingIOError from None

    def _resume(self) -> None:
        # The server may have stopped and closed the socket.
        if self.fileno() >= 0:
            IOLoop.current().update_handler(self.fileno(), IOLoop.READ)
