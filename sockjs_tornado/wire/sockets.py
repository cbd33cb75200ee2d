"""Socket state and socket options that asyncio does not expose."""

import errno
import functools
import select
import socket
import sys
from typing import Any, Final

try:
    import fcntl
    import termios
except ImportError:  # pragma: no cover - Windows
    _QUEUE_SIZE = 0
else:
    _QUEUE_SIZE = termios.TIOCOUTQ


def _accept_socket_python(sock: socket.socket, /) -> tuple[socket.socket, Any]:
    """Accept a connection from a listening socket, and return it with the address of its client."""
    return socket.socket.accept(sock)


try:
    from .._speedups import accept_socket as accept_socket
except ImportError:  # the C module was not built, or this is not Linux
    accept_socket = _accept_socket_python

#: Errors of calls that create a file descriptor, if the process or the system has no resources for another one.
EXHAUSTED_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# Offset of tcpi_bytes_acked in Linux's struct tcp_info.
_BYTES_ACKED = 120

_HAS_USER_TIMEOUT = hasattr(socket, "TCP_USER_TIMEOUT")

# Limits of Linux: seconds of TCP_KEEPIDLE (MAX_TCP_KEEPIDLE) and milliseconds of TCP_USER_TIMEOUT.
_MAX_KEEPALIVE = 32767
_MAX_USER_TIMEOUT = 2**31 - 1

# POLLRDHUP (Linux) reports that the peer has closed its side even if there is unread data.
_RESET = select.POLLHUP | select.POLLERR
_HANGUP = getattr(select, "POLLRDHUP", 0) | _RESET


def peer_disconnected(sock: Any) -> bool:
    """Return whether the peer has closed or reset the connection, even if there is unread data.

    ``sock`` is None for a closed connection, here and below.
    """
    return _has_event(sock, _HANGUP)


def peer_reset(sock: Any) -> bool:
    """Return whether the connection is closed in both directions, as after a reset.

    A peer that has closed only its own side may still read (RFC 9293, section 3.6).
    """
    return _has_event(sock, _RESET)


def _has_event(sock: Any, events: int) -> bool:
    if sock is None or sock.fileno() < 0:
        return True
    if not hasattr(select, "poll"):  # pragma: no cover - Windows has no poll
        return False
    poll = select.poll()
    poll.register(sock.fileno(), events)
    return bool(poll.poll(0))


def set_user_timeout(sock: socket.socket, seconds: float, *, keepalive: bool = True) -> None:
    """Set TCP_USER_TIMEOUT: abort the connection if the peer acknowledges nothing for ``seconds``.

    By default, Linux retransmits for about 15 minutes (limit R2 in RFC 9293, section 3.8.3). TCP keepalive is enabled
    too, because an idle connection, such as a raw websocket, has nothing that the peer could acknowledge; not if
    ``keepalive`` is False, because the connection has inherited it.
    """
    _set_options(sock, _timeout_options(seconds) if keepalive else _timeout_options(seconds)[:1])


def set_keepalive(sock: socket.socket, seconds: float) -> None:
    """Enable the TCP keepalive of :func:`set_user_timeout`. Connections inherit it from the listening socket (Linux).

    Unlike TCP_USER_TIMEOUT, it does not abort a connection whose peer has stopped reading a response for a while.
    """
    _set_options(sock, _timeout_options(seconds)[1:])


def _set_options(sock: socket.socket, options: tuple[tuple[int, int, int], ...]) -> None:
    if _HAS_USER_TIMEOUT:  # pragma: no branch - Linux
        try:
            for level, option, value in options:
                sock.setsockopt(level, option, value)
        except OSError as error:
            # Unix sockets have no such options. Looking at the socket's family first would take longer.
            if error.errno != errno.EOPNOTSUPP:
                raise


@functools.lru_cache(maxsize=8)
def _timeout_options(seconds: float) -> tuple[tuple[int, int, int], ...]:
    """Return the socket options of a timeout: their levels, names and values."""
    keepalive = max(1, round(min(seconds, _MAX_KEEPALIVE)))
    return (
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(min(seconds * 1000, _MAX_USER_TIMEOUT)))),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keepalive),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, keepalive // 3)),
    )


def bytes_acked(sock: Any) -> int:
    """Return how many bytes the peer has acknowledged in total, or 0 if the system does not report it."""
    if not hasattr(socket, "TCP_INFO"):  # pragma: no cover - not Linux
        return 0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
    except OSError:
        return 0
    return int.from_bytes(info[_BYTES_ACKED:], sys.byteorder)


def bytes_unacked(sock: Any) -> int:
    """Return how many sent bytes the peer has not acknowledged, or 0 if the system does not report it."""
    if not _QUEUE_SIZE:  # pragma: no cover - Windows
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), _QUEUE_SIZE, bytes(4)), sys.byteorder)
    except (OSError, ValueError):
        return 0
