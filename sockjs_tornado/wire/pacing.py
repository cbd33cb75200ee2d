"""Connections whose input is decoded in pieces, so that no client keeps the event loop from the others."""

import asyncio
import logging
from typing import Final

from .connection import Connection, ConnectionManager

__all__ = ["PIECE_SIZE", "PacedConnection"]

#: Bytes that are decoded between two looks at the clock. As frames of six bytes they take some milliseconds in Python;
#: compressed ones may become a thousand times as many.
PIECE_SIZE: Final = 4096

logger = logging.getLogger(__name__)

# Why the transport is not read, and what is due in the next turn of the event loop, as bits of one number.
_INBOX_FULL: Final = 1  # the application does not keep up
_TURN_OVER: Final = 2  # this connection has used up its part of the turn
_SCHEDULED: Final = 4  # _next_turn is called in the next turn


class PacedConnection(Connection):
    """Base of connections that decode much of what they read.

    What was read is decoded in pieces. If the time for that (the manager's ``read_budget``) is used up, or the
    application falls behind, the other pieces are decoded in a later turn of the event loop, and nothing is read
    before that.

    Args:
        manager: What keeps it.
        head: Bytes to write before anything else.
    """

    __slots__ = ("_pause_flags", "_unread")

    def __init__(self, manager: ConnectionManager, head: bytes) -> None:
        super().__init__(manager, head)
        self._pause_flags = 0
        # Read, but not decoded yet.
        self._unread = b""

    def decode(self, data: bytes) -> None:
        """Decode one piece."""
        raise NotImplementedError

    @property
    def piece_size(self) -> int:
        """How many bytes the next piece should have at most."""
        return PIECE_SIZE

    def on_data(self, data: bytes) -> None:
        """Decode bytes from the client, behind those that wait."""
        if self._unread:
            # If reading was paused in connection_made(), uvloop reads all the same.
            if self.transport.is_reading():
                self.transport.pause_reading()
            self._unread += data
        elif len(data) <= PIECE_SIZE:
            self.decode(data)
        else:
            self._decode_pieces(data)

    def _decode_pieces(self, data: bytes) -> None:
        manager = self._manager
        deadline = manager.now() + manager.read_budget
        end = len(data)
        position = 0
        while position < end and not self.transport.is_closing():
            if position and (self._pause_flags & _INBOX_FULL or manager.now() >= deadline):
                self._unread = data[position:]
                # Where the application is behind, resume_reading() goes on.
                if not self._pause_flags & _INBOX_FULL:
                    self._end_turn()
                return
            stop = position + self.piece_size
            self.decode(data[position:stop])
            position = stop

    def _end_turn(self) -> None:
        self._pause(_TURN_OVER)
        self._schedule()

    def _schedule(self) -> None:
        if not self._pause_flags & _SCHEDULED:
            self._pause_flags |= _SCHEDULED
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Begin a turn: decode what is left of the last one, then read again."""
        self._pause_flags &= ~_SCHEDULED
        if self._pause_flags & _INBOX_FULL:
            # resume_reading() goes on.
            self._pause_flags = _INBOX_FULL
            return
        unread, self._unread = self._unread, b""
        try:
            self._decode_pieces(unread)
        except Exception:
            # As an event loop does it with what fails in a read.
            logger.exception("%r failed to decode what it has read", self)
            self.abort()
        if not self._unread:
            self._pause_flags &= ~_TURN_OVER
            self._continue_reading()

    def _pause(self, why: int) -> None:
        if not self._pause_flags & (_INBOX_FULL | _TURN_OVER) and not self.transport.is_closing():
            self.transport.pause_reading()
        self._pause_flags |= why

    def _continue_reading(self) -> None:
        if not self._pause_flags & (_INBOX_FULL | _TURN_OVER) and not self.transport.is_closing():
            self.transport.resume_reading()

    def accepts_input(self) -> bool:
        """Return whether what the client sends is taken, as it is unless the application is behind."""
        return not self._pause_flags & _INBOX_FULL

    def pause_reading(self) -> None:
        """Read nothing more for now: the application does not keep up."""
        self._pause(_INBOX_FULL)

    def resume_reading(self) -> None:
        """Go on reading."""
        self._pause_flags &= ~_INBOX_FULL
        if self._unread:
            # Not at once: the session may be in the middle of something.
            self._pause_flags |= _TURN_OVER
            self._schedule()
        else:
            self._continue_reading()

    def expect_close(self) -> None:
        """Write nothing more, and leave the end to the client."""
        super().expect_close()
        self.resume_reading()

    def eof_received(self) -> None:
        """Hear that the client has left; what was read before is decoded first."""
        self._decode_rest()
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the connection is over; what was read before is decoded first."""
        self._decode_rest()
        super().connection_lost(exc)

    def _decode_rest(self) -> None:
        # No more than one or two reads, and once in a connection's life: others do not wait long for that.
        unread, self._unread = self._unread, b""
        if not self._closing:
            for start in range(0, len(unread), PIECE_SIZE):
                self.decode(unread[start : start + PIECE_SIZE])
