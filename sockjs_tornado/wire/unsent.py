"""Progress of responses that a client reads slowly."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

#: Seconds between two checks of the progress.
_INTERVAL: Final = 1.0


class Unsent:
    """The end of a response that the operating system has not accepted yet.

    Args:
        transport: The connection.
        size: Number of bytes.
    """

    __slots__ = ("_left", "_transport")

    def __init__(self, transport: asyncio.Transport, size: int) -> None:
        self._transport = transport
        self._left = size

    @property
    def unsent(self) -> int:
        """Bytes that the operating system has not accepted; they stay counted if the connection is closed."""
        if self._left:
            size = self._transport.get_write_buffer_size()
            # A transport that closes may still send the rest; it has none once it is closed.
            if size or not self._transport.is_closing():
                # Later responses are behind these bytes, so this is at most too high.
                self._left = min(self._left, size)
        return self._left

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback`` after the last byte was sent, or the connection was closed; up to a second later."""
        if self.unsent and not self._transport.is_closing():
            asyncio.get_running_loop().call_later(_INTERVAL, self.add_done_callback, callback)
        else:
            callback(self)

    def abort(self) -> None:
        """Close the connection and discard the rest."""
        # In asyncio, abort() raises an exception if the transport is closed and had data to send at close().
        if self._transport.get_write_buffer_size() or not self._transport.is_closing():
            self._transport.abort()
