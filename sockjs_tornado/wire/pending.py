"""Responses that a client takes slowly: what is left of one on a stream of Tornado's, and how much that is."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from tornado.iostream import IOStream, StreamClosedError

__all__ = ["PendingWrite", "write_rest"]

#: Bytes that are watched together. If no more than this is left of a response, nobody watches.
CHUNK_SIZE: Final = 16 * 1024


class PendingWrite:
    """What the operating system has not taken at once, written to a stream in pieces so that it can be seen how much.

    Args:
        stream: An open stream that refuses nothing (``max_write_buffer_size``).
        data: The bytes.
    """

    __slots__ = ("_left", "_pieces", "_stream")

    def __init__(self, stream: IOStream, data: bytes) -> None:
        self._stream = stream
        self._left = len(data)
        self._pieces: deque[tuple[asyncio.Future[None], int]] = deque()
        # The stream may find out that the client has left.
        with contextlib.suppress(StreamClosedError):
            for start in range(0, len(data), CHUNK_SIZE):
                piece = data[start : start + CHUNK_SIZE]
                self._pieces.append((stream.write(piece), len(piece)))

    @property
    def unsent(self) -> int:
        """Bytes that the operating system has not taken yet, and will not if the connection is closed."""
        # Not counted by callbacks, which come a turn later: the client may have asked for more by then.
        pieces = self._pieces
        while pieces and pieces[0][0].done() and pieces[0][0].exception() is None:
            self._left -= pieces.popleft()[1]
        return self._left

    def abort(self) -> None:
        """Close the connection: the rest is for nobody."""
        self._stream.close()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback``, soon, when nothing is on its way any more."""
        if self._pieces:
            self._pieces[-1][0].add_done_callback(callback)
        else:
            asyncio.get_running_loop().call_soon(callback, None)


def write_rest(stream: IOStream, data: bytes) -> PendingWrite | None:
    """Write what the operating system has not taken at once, if it is so much that it has to be watched.

    Returns:
        None if nothing was written: there is little to write, or the stream may refuse it.
    """
    if len(data) <= CHUNK_SIZE or stream.max_write_buffer_size is not None or stream.closed():
        return None
    return PendingWrite(stream, data)
