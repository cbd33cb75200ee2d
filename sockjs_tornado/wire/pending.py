"""Progress of responses that a client reads slowly from a Tornado stream."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from tornado.iostream import IOStream, StreamClosedError

__all__ = ["PendingWrite", "write_tracked"]

#: Bytes per tracked write. Smaller rests of a response are not tracked.
PIECE_SIZE: Final = 16 * 1024


class PendingWrite:
    """Data written to a stream in pieces, so that the number of unsent bytes is known.

    Args:
        stream: An open stream without a ``max_write_buffer_size``.
        data: The data that the socket did not accept immediately.
    """

    __slots__ = ("_left", "_pieces", "_stream")

    def __init__(self, stream: IOStream, data: bytes) -> None:
        self._stream = stream
        self._left = len(data)
        self._pieces: deque[tuple[asyncio.Future[None], int]] = deque()
        # The client may have disconnected.
        with contextlib.suppress(StreamClosedError):
            for start in range(0, len(data), PIECE_SIZE):
                piece = data[start : start + PIECE_SIZE]
                self._pieces.append((stream.write(piece), len(piece)))

    @property
    def unsent(self) -> int:
        """Bytes that the operating system has not accepted; they stay counted if the connection is closed."""
        # Counted here because done callbacks run one iteration later, when the client may have polled again.
        pieces = self._pieces
        while pieces and pieces[0][0].done() and pieces[0][0].exception() is None:
            self._left -= pieces.popleft()[1]
        return self._left

    def abort(self) -> None:
        """Close the connection and discard the rest."""
        self._stream.close()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback`` in an iteration of the event loop after the last byte was sent."""
        if self._pieces:
            self._pieces[-1][0].add_done_callback(callback)
        else:
            asyncio.get_running_loop().call_soon(callback, None)


def write_tracked(stream: IOStream, data: bytes) -> PendingWrite | None:
    """Write ``data`` with progress tracking, if it is long enough.

    Returns:
        None if nothing was written, because the data is short, or because the stream is closed or limits its buffer.
    """
    if len(data) <= PIECE_SIZE or stream.max_write_buffer_size is not None or stream.closed():
        return None
    return PendingWrite(stream, data)
