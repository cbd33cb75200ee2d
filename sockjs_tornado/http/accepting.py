"""Which connections an HTTP server accepts: so many of one address, and none with the last file descriptors.

A connection that sends nothing costs a descriptor for ``idle_connection_timeout``, and a process has only so many. Two
limits keep some for everybody else. Connections count from the moment they are accepted until they are closed, also
after a session has taken them over from Tornado.
"""

import errno
import functools
import ipaddress
import logging
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream

from ..observe.logs import ThrottledLog
from ..session.addresses import network_of

if sys.platform != "win32":
    import resource

__all__ = ["Admission", "LimitedServer", "PatientSocket"]

logger = logging.getLogger(__name__)

#: Descriptors that are left for other things, unless the process may have few: then an eighth.
RESERVED: Final = 64

#: Which part of the others one address may have.
_SHARE: Final = 4

#: Seconds to wait when there are no more file descriptors for further clients.
PAUSE: Final = 0.5

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Slot:
    """What one connection counts for.

    Attributes:
        is_claimed: Whether the connection was taken over from Tornado, so that it outlives what Tornado knows of it.
    """

    __slots__ = ("_admission", "_network", "is_claimed")

    def __init__(self, admission: "Admission", network: str) -> None:
        self._admission: Admission | None = admission
        self._network = network
        self.is_claimed = False

    def claim(self) -> Callable[[], None]:
        """Take the slot over together with the connection; return what has to be called when that is closed."""
        self.is_claimed = True
        return self.release

    def release(self) -> None:
        """Count the connection no more; calling it again does nothing."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.release(self._network)


class Admission:
    """Counts connections.

    Args:
        max_per_ip: Connections that one address may have, 0 for any number. None for a quarter of the descriptors that
            clients may have, for addresses that the internet routes; of others, such as a proxy's, any number.
        reserved: Descriptors that clients may not have; None for 64, or an eighth of all if that is less.

    Attributes:
        max_per_ip: Connections that one address may have, 0 for any number.
        reserved: Descriptors that clients may not have.
        highest: The number that a client's descriptor may have at most; None if there is no limit.
        refused: Connections that were closed at once.

    Raises:
        ValueError: A number is negative, or nothing is left for clients.
    """

    def __init__(self, max_per_ip: int | None = None, reserved: int | None = None) -> None:
        for name, value in (("max_connections_per_ip", max_per_ip), ("reserved_descriptors", reserved)):
            if value is not None and value < 0:
                raise ValueError(f"{name}: got {value!r}, takes a number, 0 or more, or None")
        limit = _descriptor_limit()
        if reserved is None:
            reserved = 0 if limit is None else min(RESERVED, limit // 8)
        if limit is not None and reserved >= limit:
            raise ValueError(f"reserved_descriptors: got {reserved}, but the process may have {limit} in all")
        self.reserved = reserved
        # The system gives the lowest number that is free: if that is n, n are in use.
        self.highest = None if limit is None or not reserved else limit - reserved - 1
        self._is_default = max_per_ip is None
        if max_per_ip is None:
            max_per_ip = 0 if limit is None else max(1, (limit - reserved) // _SHARE)
        self.max_per_ip = max_per_ip
        self.refused = 0
        self._connections: Counter[str] = Counter()
        self._log = ThrottledLog(time.monotonic)

    def refuses(self, address: Any) -> bool:
        """Return whether a connection from ``address`` is one too many, and count and log that."""
        network = self._counted_network(address)
        if network is None or self._connections[network] < self.max_per_ip:
            return False
        self.refused += 1
        self._log.write(
            logger,
            logging.WARNING,
            "max_connections_per_ip",
            "closed a connection from %s, which has %d already (max_connections_per_ip)",
            network,
            self.max_per_ip,
        )
        return True

    def enter(self, address: Any) -> Slot | None:
        """Count a connection; None if those of its address are not limited."""
        network = self._counted_network(address)
        if network is None:
            return None
        self._connections[network] += 1
        return Slot(self, network)

    def release(self, network: str) -> None:
        """Count a connection no more."""
        self._connections[network] -= 1
        if not self._connections[network]:
            del self._connections[network]

    def _counted_network(self, address: Any) -> str | None:
        # That of a Unix socket is text, or nothing.
        if not self.max_per_ip or not isinstance(address, tuple):
            return None
        return None if self._is_default and not _is_public(address[0]) else network_of(address[0])


@functools.lru_cache(maxsize=1024)
def _is_public(ip: str) -> bool:
    """Return whether the internet routes an address: where clients come from, rather than a proxy."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_global


def _descriptor_limit() -> int | None:
    """Return how many descriptors the process may have, None for any number."""
    if sys.platform == "win32":  # pragma: no cover
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


class LimitedServer(HTTPServer):
    """An HTTP server that counts its connections.

    Attributes:
        admission: What counts them; set once the server is made.
    """

    admission: Admission

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Count a new connection, and serve it."""
        slot = self.admission.enter(address)
        # Whoever takes the stream over looks for it there.
        stream.connection_slot = slot  # type: ignore[attr-defined]
        super().handle_stream(stream, address)

    def on_close(self, server_conn: Any) -> None:
        """Count a connection no more that Tornado has closed, or has let go to somebody who does not count it."""
        slot: Slot | None = server_conn.stream.connection_slot
        if slot is not None and not slot.is_claimed:
            slot.release()
        super().on_close(server_conn)


class PatientSocket(socket.socket):
    """A listening socket that waits when clients have all the file descriptors that they may have.

    New clients wait in its backlog meanwhile. Without this, the event loop would try again without end, and the process
    could not open a file or a connection to its database.

    Attributes:
        admission: What says which connections are too many; set once the socket is made.
    """

    admission: Admission
    _short = False

    def accept(self) -> Any:
        """Accept a connection.

        Raises:
            BlockingIOError: There is none, or there are no descriptors.
            ConnectionAbortedError: There was one, which was refused; there may be others.
        """
        highest = self.admission.highest
        if self._short and highest is not None and not self._has_descriptors(highest):
            self._wait()
        try:
            connection, address = super().accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self._report(error.strerror or str(error))
            self._wait()
        if self.admission.refuses(address):
            connection.close()
            raise ConnectionAbortedError
        if highest is not None and connection.fileno() >= highest:
            self._report(
                f"all file descriptors but the {self.admission.reserved} reserved ones are in use "
                "(reserved_descriptors); raise the limit of the process (ulimit -n, LimitNOFILE)"
            )
        else:
            self._short = False
        return connection, address

    def _has_descriptors(self, highest: int) -> bool:
        try:
            lowest_free = os.dup(self.fileno())
        except OSError:
            return False
        os.close(lowest_free)
        return lowest_free <= highest

    def _report(self, why: str) -> None:
        if not self._short:
            logger.warning("cannot accept clients for now: %s", why)
        self._short = True

    def _wait(self) -> None:
        loop = IOLoop.current()
        loop.update_handler(self.fileno(), 0)
        loop.call_later(PAUSE, self._resume)
        raise BlockingIOError from None

    def _resume(self) -> None:
        # Unless the server has stopped.
        if self.fileno() >= 0:
            IOLoop.current().update_handler(self.fileno(), IOLoop.READ)
