"""Progress of responses that a client reads slowly."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .connection_io import ConnectionIO

#: Seconds between two checks of the progress.
_INTERVAL: Final = 1.0


class Unsent:
    """The end of a response that the operating system has not accepted yet.

    Args:
        connection: The connection.
        size: Number of bytes.
    """

    __slots__ = ("_connection", "_left")

    def __init__(self, connection: "ConnectionIO", size: int) -> None:
        self._connection = connection
        self._left = size

    @property
    def unsent(self) -> int:
        """Bytes that the operating system has not accepted; if the connection was cut, they stay counted."""
        if self._left:
            connection = self._connection
            if connection.was_flushed:
                self._left = 0
            # A transport that closes may still send the rest; it has none once it is closed.
            elif (size := connection.unsent) or not connection.transport.is_closing():
                # Later responses are behind these bytes, so this is at most too high.
                self._left = min(self._left, size)
        return self._left

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback`` after the last byte was sent, or the connection was closed; up to a second later."""
        if self.unsent and (self._connection.unsent or not self._connection.transport.is_closing()):
            asyncio.get_running_loop().call_later(_INTERVAL, self.add_done_callback, callback)
        else:
            callback(self)

    def abort(self) -> None:
        """Close the connection and discard the rest."""
        # In asyncio, abort() raises an exception if the transport is closed and had data to send at close().
        if self._connection.unsent or not self._connection.transport.is_closing():
            self._connection.cut()
