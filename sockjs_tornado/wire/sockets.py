"""What the operating system knows of a connection, and does about it."""

import select
import socket
import sys
from typing import Any

try:
    import fcntl
    import termios
except ImportError:  # pragma: no cover - Windows
    _QUEUE_SIZE = 0
else:
    _QUEUE_SIZE = termios.TIOCOUTQ

__all__ = ["bytes_acked", "bytes_unacked", "peer_gone", "peer_reset", "set_user_timeout"]

# Where tcpi_bytes_acked stands in Linux's struct tcp_info.
_BYTES_ACKED = 120

# What Linux takes: the seconds of a keepalive (MAX_TCP_KEEPIDLE), and the milliseconds of a timeout.
_LONGEST_PROBE = 32767
_LONGEST_TIMEOUT = 2**31 - 1

# Linux tells of a peer that has closed its side even while there are bytes to be read before the end.
_RESET = select.POLLHUP | select.POLLERR
_HANGUP = getattr(select, "POLLRDHUP", 0) | _RESET


def peer_gone(sock: Any) -> bool:
    """Tell whether the other side of a socket has closed or aborted, whatever is still to be read.

    Args:
        sock: Anything with ``fileno``; None counts as gone.
    """
    return _has_event(sock, _HANGUP)


def peer_reset(sock: Any) -> bool:
    """Return whether a connection is over in both directions, as after a reset.

    A peer that has closed only its own direction may still read (RFC 9293, section 3.6).

    Args:
        sock: As :func:`peer_gone` takes it.
    """
    return _has_event(sock, _RESET)


def _has_event(sock: Any, events: int) -> bool:
    if sock is None or sock.fileno() < 0:
        return True
    if not hasattr(select, "poll"):  # pragma: no cover - Windows: only the event loop can tell
        return False
    poll = select.poll()
    poll.register(sock.fileno(), events)
    return bool(poll.poll(0))


def set_user_timeout(sock: socket.socket, seconds: float) -> None:
    """Have the operating system give up a peer that takes or acknowledges nothing for so long.

    Without it, Linux sends again what was not acknowledged for a quarter of an hour (RFC 9293, section 3.8.3, calls the
    limit R2). Where nothing is written at all, as on a raw websocket, keepalive probes ask for an acknowledgement.
    """
    if sock.family == getattr(socket, "AF_UNIX", None) or not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    whole = max(1, round(min(seconds, _LONGEST_PROBE)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(min(seconds * 1000, _LONGEST_TIMEOUT))))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, whole)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, whole // 3))


def bytes_acked(sock: Any) -> int:
    """Return how many bytes the peer has taken from the beginning on, 0 where the system does not tell."""
    if not hasattr(socket, "TCP_INFO"):  # pragma: no cover - not Linux
        return 0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
    except OSError:
        return 0
    return int.from_bytes(info[_BYTES_ACKED:], sys.byteorder)


def bytes_unacked(sock: Any) -> int:
    """Return how many bytes of what was written the peer has not taken yet, 0 where the system does not tell."""
    if not _QUEUE_SIZE:  # pragma: no cover - Windows
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), _QUEUE_SIZE, bytes(4)), sys.byteorder)
    except (OSError, ValueError):
        return 0
