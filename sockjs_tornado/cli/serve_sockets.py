"""The listening sockets of the command ``serve``: on a port, at a path, or inherited."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ..serving import bind_sockets
from .serve_options import ServeOptions

#: Clients that wait to be accepted, as in Tornado.
_BACKLOG: Final = 128


class CannotListen(Exception):
    """A listening socket cannot be opened; the text says why."""


def open_sockets(options: ServeOptions) -> list[socket.socket]:
    """Return the listening sockets, or raise CannotListen."""
    if options.fd is not None:
        return [_inherit(options.fd)]
    if options.uds is not None:
        return [_bind_unix(options.uds)]
    return listen_on(options.host, options.port)


def open_monitoring_sockets(options: ServeOptions, worker: int = 0) -> list[socket.socket]:
    """Return a worker's listening sockets for the metrics and health checks, or raise CannotListen."""
    if options.metrics_port is None:
        return []
    port = options.metrics_port and options.metrics_port + worker
    return listen_on(options.metrics_host, port, "--metrics-port")


def ports_of(sockets: Sequence[socket.socket]) -> list[int]:
    """Return the port of the sockets, if there is any, in a list."""
    return [sock.getsockname()[1] for sock in sockets[:1]]


def listen_on(host: str, port: int, option: str = "--port") -> list[socket.socket]:
    """Return sockets that listen on the port of an option, or raise CannotListen."""
    try:
        return bind_sockets(port, host)
    except OSError as error:
        name = "" if option == "--port" else f" ({option})"
        hint = f"; give the port with {option}" if host.count(":") == 1 else ""
        if error.errno == errno.EACCES:
            hint = (
                "; low ports need a privilege: use a port from 1024 on behind a proxy, --fd with a socket of systemd, "
                "or AmbientCapabilities=CAP_NET_BIND_SERVICE in its unit"
            )
        raise CannotListen(f"Cannot listen on {host}, port {port}{name}: {error.strerror}{hint}") from None


def _inherit(number: int) -> socket.socket:
    problem = "is not open"
    with contextlib.suppress(OSError, OverflowError):
        is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
        problem = "is not a listening socket"
        if is_socket:
            sock = socket.socket(fileno=os.dup(number))
            if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                os.close(number)
                return sock
            sock.close()
    raise CannotListen(f"Cannot listen on the file descriptor {number}: it {problem}")


def _bind_unix(path: str) -> socket.socket:
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                with socket.socket(socket.AF_UNIX) as probe:
                    # A server that accepts nobody at the moment must not keep this one waiting.
                    probe.setblocking(False)
                    if probe.connect_ex(path) == errno.ECONNREFUSED:
                        # Left behind by a process that was killed.
                        os.unlink(path)
        return socket.create_server(path, family=socket.AF_UNIX, backlog=_BACKLOG)
    except OSError as error:
        # Without a number: the path is too long, which only the first exception says.
        reason = os.strerror(error.errno) if error.errno else str(error.__context__ or error)
        if error.errno == errno.EADDRINUSE and not Path(path).is_socket():
            reason = "it exists, and is not a socket"
        raise CannotListen(f"Cannot listen on {path}: {reason}") from None


@contextlib.contextmanager
def removed_at_end(path: str | None) -> Iterator[None]:
    """Remove a Unix socket at the end, unless another process has replaced it."""
    created = None if path is None else os.stat(path)
    try:
        yield
    finally:
        if path is not None and created is not None:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(path), created):
                    os.unlink(path)
