"""Keepalive of websockets: pings, and the timeout of their pongs."""

from math import inf
from typing import Final

from ..settings import Settings
from .frames import ping_frame
from .pacing import PacedConnection
from .ports import ConnectionManager
from .sockets import bytes_acked, bytes_unacked

__all__ = ["KeepaliveConnection"]

#: Above this many unacknowledged bytes, a client that still acknowledges data is not timed out by a ping.
BACKLOG_BYTES: Final = 16 * 1024


class KeepaliveConnection(PacedConnection):
    """Base class of websockets. Any data that arrives after a ping counts as its pong.

    Args:
        manager: Counts the connection and schedules its deadline.
        head: Head of the response, written first.
        settings: The settings, of which ``websocket_ping_interval`` and ``websocket_ping_timeout`` are used.
    """

    __slots__ = ("_acked_at_ping", "_ping_sent", "_pong_pending")

    def __init__(self, manager: ConnectionManager, head: bytes, settings: Settings) -> None:
        super().__init__(manager, head)
        self._settings = settings
        # Set by every read (in C too), cleared when a ping is sent.
        self._received_since_ping = True
        # Whether the deadline in `due` is the timeout of a ping. If not, `due` is the time of the next ping.
        self._ping_sent = False
        # Whether the last ping has no pong yet. It may outlive the timeout if the client sends other data.
        self._pong_pending = False
        # Bytes acknowledged when the last ping was sent, if more than BACKLOG_BYTES were unacknowledged; else None.
        self._acked_at_ping: int | None = None

    def start_keepalive(self) -> None:
        """Schedule the first ping."""
        if self._settings.websocket_ping_interval:
            self.wake_after(self._settings.websocket_ping_interval)

    def on_ping_timeout(self) -> None:
        """Called when the client has not responded to a ping."""
        raise NotImplementedError

    def check(self, now: float) -> None:
        """Send a ping, or call :meth:`on_ping_timeout` if the client has not responded to the last one.

        While closing, enforce the close timeout.
        """
        interval = self._settings.websocket_ping_interval
        timeout = self._settings.websocket_ping_timeout or interval
        if self._closing:
            super().check(now)
        elif (
            self._ping_sent
            and not self._received_since_ping
            and self.transport.is_reading()
            and not self._is_making_progress()
        ):
            if not self._manager.postpone(self, now):
                self.due = inf
                self.on_ping_timeout()
        elif self._ping_sent and timeout < interval:
            self._ping_sent = False
            self.due = now + interval - timeout
        else:
            self._received_since_ping = False
            self._ping_sent = True
            self.due = now + timeout
            sock = self.transport.get_extra_info("socket")
            is_backlogged = self.unsent + bytes_unacked(sock) > BACKLOG_BYTES
            self._acked_at_ping = bytes_acked(sock) if is_backlogged else None
            self.write(ping_frame())
            self._pong_pending = True

    def _is_making_progress(self) -> bool:
        """Return whether the peer acknowledges the data that was sent before the ping."""
        before = self._acked_at_ping
        return before is not None and bytes_acked(self.transport.get_extra_info("socket")) > before
