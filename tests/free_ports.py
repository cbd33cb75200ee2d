"""Free ports on loopback, for programs that get their port as an argument."""

import contextlib
import itertools
import socket
from collections.abc import Iterator


def reserve_port() -> socket.socket:
    """Bind a socket to a free port.

    Until the socket is closed, the system assigns the port to no other socket, and a client that connects to it cannot
    connect to itself. A program that requests this port can listen on it.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """Find a free port, and reserve it for a program that requests it."""
    with reserve_port() as sock:
        yield sock.getsockname()[1]


def _candidates() -> Iterator[int]:
    """Return the ports of a range that no other process uses, in an endless circle."""
    for first in range(15_000, 31_000, _PORTS):
        # This socket claims the range as long as the process runs, also against another run of the tests.
        with socket.socket() as claim, contextlib.suppress(OSError):
            claim.bind(("127.0.0.1", first))
            yield from itertools.cycle(range(first + 1, first + _PORTS))
    raise RuntimeError("other processes use all ranges of ports")


#: The size of a range. All ranges lie below the range that the system assigns to connections.
_PORTS = 250
_ports = _candidates()


def free_port() -> int:
    """Return a free port outside the range that the system assigns to connections, and another one each time."""
    while True:
        port = next(_ports)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
