"""The timeouts of websockets: of pings without a pong, and of incomplete messages."""

from collections.abc import Callable
from math import inf
from typing import Final

from ..settings import Settings
from .frames import PING, build_frame
from .pacing import PacedConnection
from .ports import Container
from .sockets import bytes_acked, bytes_unacked

#: Above this many unacknowledged bytes, a client that still acknowledges data is not timed out by a ping.
BACKLOG_BYTES: Final = 16 * 1024

#: Seconds that a message may take from its first to its last byte.
MESSAGE_TIME: Final = 60.0

#: Received bytes that extend the deadline by one second. A message of 10 MiB may take up to 12 minutes.
BYTES_PER_SECOND: Final = 16 * 1024


class KeepaliveConnection(PacedConnection):
    """Base class of websockets. Any data that arrives after a ping counts as its pong."""

    __slots__ = ("_acked_at_ping", "_ping_sent", "_pong_pending")

    def __init__(self, container: Container, head: bytes, settings: Settings) -> None:
        PacedConnection.__init__(self, container, head)
        self._settings = settings
        # Set by every read (in C too), cleared when a ping is sent.
        self._received_since_ping = True
        # Whether the deadline in `due` is the timeout of a ping. If not, `due` is the time of the next ping.
        self._ping_sent = False
        # Whether the last ping has no pong yet. It may outlive the timeout if the client sends other data.
        self._pong_pending = False
        # Bytes acknowledged when the last ping was sent, if more than BACKLOG_BYTES were unacknowledged; else None.
        self._acked_at_ping: int | None = None

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
            if not self._container.postpone(self, now):
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
            self.write(build_frame(PING, b""))
            self._pong_pending = True

    def _is_making_progress(self) -> bool:
        """Return whether the peer acknowledges the data that was sent before the ping."""
        before = self._acked_at_ping
        return before is not None and bytes_acked(self.transport.get_extra_info("socket")) > before


class MessageDeadline:
    """The deadline of an incomplete message, of which ``size`` bytes were received (before decompression).

    It starts over while ``is_reading`` returns False. ``on_late`` is called when it has passed.
    """

    __slots__ = ("_begun", "_container", "_is_reading", "_on_late", "bucket", "due", "size")

    def __init__(self, container: Container, is_reading: Callable[[], bool], on_late: Callable[[], None]) -> None:
        self._container = container
        self._is_reading = is_reading
        self._on_late = on_late
        self._begun = container.now()
        self.size = 0
        self.bucket: int | None = None
        self.due = self._begun + MESSAGE_TIME
        container.schedule(self)

    def check(self, now: float) -> None:
        """Call ``on_late`` if the deadline, extended by the bytes received, has passed."""
        self.due = self._begun + MESSAGE_TIME + self.size / BYTES_PER_SECOND
        if not self._is_reading():
            self._begun = now
            self.due = now + MESSAGE_TIME
        elif now >= self.due and not self._container.postpone(self, now):
            self.due = inf
            self._on_late()

    def end(self) -> None:
        """Cancel the deadline: the message is complete, or the connection is closing."""
        self._container.cancel(self)
        self.due = inf
