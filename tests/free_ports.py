"""Ports of loopback for programs that are told where to listen."""

import contextlib
import random
import socket
from collections.abc import Iterator


def reserve_port() -> socket.socket:
    """Bind a socket to a free port.

    Until it is closed nobody else gets the port, and who connects while nobody listens there does not meet itself; but
    a program that asks for this port may listen there.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """Find a free port, and keep it for whoever asks for it."""
    with reserve_port() as sock:
        yield sock.getsockname()[1]


def free_port() -> int:
    """Return a port on which nobody listens, and that the system gives to no connection meanwhile."""
    while True:
        port = random.randrange(15_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
