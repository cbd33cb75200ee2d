"""Connections that decode their input in pieces, so that no client can block the event loop."""

import asyncio
import logging
from typing import Final

from .connection import Connection
from .ports import Container

#: Bytes to decode between two checks of the clock. As frames of six bytes they take some milliseconds in Python;
#: compressed data may grow by a factor of 1,000.
PIECE_SIZE: Final = 4096

#: The same if the time of this iteration is used up. Each connection decodes one such piece: as frames of six bytes, it
#: takes up to a millisecond.
SMALL_PIECE: Final = 512

logger = logging.getLogger(__name__)

# Bits of `_pause_flags`, whose legal combinations between two calls are:
#
# none                         the transport is read; `_unread` is empty, unless the transport is closing
# _INBOX_FULL                  paused until resume_reading(), which schedules _next_turn() if `_unread` is not empty
# _INBOX_FULL, _TURN_OVER      the same
# _TURN_OVER, _SCHEDULED       paused until _next_turn()
# all three                    paused until both were called, in any order
_INBOX_FULL: Final = 1  # set by pause_reading(), cleared by resume_reading(): the application is too slow
_TURN_OVER: Final = 2  # set when the time of this iteration is used up, cleared by _next_turn()
_SCHEDULED: Final = 4  # _next_turn() is scheduled for the next iteration, and clears this bit


class PacedConnection(Connection):
    """Base class of connections whose input takes time to decode.

    The data of a read is decoded in pieces. If the ``read_budget``, which all connections share, is used up,
    or if the application is too slow, the remaining pieces are decoded in a later iteration of the event loop. Nothing
    is read until then.
    """

    __slots__ = ("_pause_flags", "_unread")

    def __init__(self, container: Container, head: bytes) -> None:
        Connection.__init__(self, container, head)
        self._pause_flags = 0
        # Data that was read but not decoded yet.
        self._unread = b""

    def decode(self, data: bytes) -> int:
        """Decode a piece; return how many bytes were decoded, at least one."""
        raise NotImplementedError

    @property
    def piece_size(self) -> int:
        """Maximum size of the next piece in bytes; larger than :data:`PIECE_SIZE` for input that decodes quickly."""
        raise NotImplementedError

    @property
    def inbox_overflows(self) -> bool:
        """Whether to drop what is left when a client has disconnected, since the inbox is full."""
        return False

    def on_data(self, data: bytes) -> None:
        """Decode data from the client, or append it to the data that is not decoded yet."""
        if self._unread:
            # uvloop ignores a pause of reading within connection_made().
            if self.transport.is_reading():
                self.transport.pause_reading()
            self._unread += data
        else:
            position = self.decode(data) if len(data) <= SMALL_PIECE else 0
            if position < len(data):
                self._decode_pieces(data, position)

    def _decode_pieces(self, data: bytes, position: int = 0) -> None:
        """Decode the data from ``position`` on while there is time; at least one piece if ``position`` is 0."""
        container = self._container
        budget = container.read_budget
        now = start = container.now()
        deadline = start + budget.available
        end = len(data)
        while position < end and not self.transport.is_closing():
            if position and (self._pause_flags & _INBOX_FULL or now >= deadline):
                # If the application is too slow, resume_reading() continues.
                if not self._pause_flags & _INBOX_FULL:
                    self._end_turn()
                break
            size = self.piece_size
            if now >= deadline and size <= PIECE_SIZE:
                size = SMALL_PIECE
            position += self.decode(data[position : position + size])
            now = container.now()
        budget.charge(now - start)
        # If the client has reset the connection in the meantime, connection_lost() decodes the rest.
        self._unread = data[position:]

    def _end_turn(self) -> None:
        self._pause(_TURN_OVER)
        self._schedule()

    def _schedule(self) -> None:
        if not self._pause_flags & _SCHEDULED:
            self._pause_flags |= _SCHEDULED
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Decode the data left over from the last iteration, then resume reading."""
        self._pause_flags &= ~_SCHEDULED
        if self._pause_flags & _INBOX_FULL:
            # resume_reading() continues.
            self._pause_flags = _INBOX_FULL
            return
        unread, self._unread = self._unread, b""
        try:
            self._decode_pieces(unread)
        except Exception:
            # Do as the event loop does if a protocol's read callback fails.
            logger.exception("%r failed to decode data from the client", self)
            self.abort()
        if not self._unread:
            self._pause_flags &= ~_TURN_OVER
            self._continue_reading()

    def _pause(self, reason: int) -> None:
        if not self._pause_flags & (_INBOX_FULL | _TURN_OVER) and not self.transport.is_closing():
            self.transport.pause_reading()
        self._pause_flags |= reason

    def _continue_reading(self) -> None:
        if not self._pause_flags & (_INBOX_FULL | _TURN_OVER) and not self.transport.is_closing():
            self.transport.resume_reading()

    def accepts_input(self) -> bool:
        """Return whether input is processed. It is not while the application is too slow."""
        return not self._pause_flags & _INBOX_FULL

    def pause_reading(self) -> None:
        """Pause reading because the application is too slow."""
        self._pause(_INBOX_FULL)

    def resume_reading(self) -> None:
        """Resume reading."""
        self._pause_flags &= ~_INBOX_FULL
        if self._unread:
            # In the next iteration: the session may be in the middle of a state change.
            self._pause_flags |= _TURN_OVER
            self._schedule()
        else:
            self._continue_reading()

    def expect_close(self) -> None:
        super().expect_close()
        self.resume_reading()

    def eof_received(self) -> None:
        """Decode the remaining data, then close the connection."""
        self._decode_unread()
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Decode the remaining data, then report the disconnect."""
        if self._unread:
            self._decode_unread()
        super().connection_lost(exc)

    def _decode_unread(self) -> None:
        # This is at most the data of two reads, once per connection, so it does not need the time limit.
        unread, self._unread = self._unread, b""
        position = 0 if not self._closing else len(unread)
        while position < len(unread) and not self.inbox_overflows:
            position += self.decode(unread[position : position + PIECE_SIZE])
