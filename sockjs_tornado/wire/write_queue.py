"""Writing to all connections at once, directly to their sockets, with one system call per connection."""

import asyncio
import logging
from typing import Any

from ..observe.stats import Stats

try:
    from .._speedups import write_buffered
except ImportError:  # the C module was not built

    def write_buffered(connections: list[Any], left: list[Any], /) -> int:
        """Send the write buffers, append connections with unsent data to ``left``; return the number of bytes sent."""
        left += connections
        return 0


logger = logging.getLogger(__name__)


class WriteQueue:
    """Connections with buffered data, flushed together in the next iteration of the event loop."""

    __slots__ = ("_loop", "_stats", "waiting")

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The connections. The caller that appends the first one must call :meth:`schedule_flush`.
        self.waiting: list[Any] = []

    def bind_loop(self) -> None:
        """Bind the queue to the running event loop and drop what was left from a previous, closed loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self.waiting = []

    def schedule_flush(self) -> None:
        """Schedule a flush for the next iteration of the event loop."""
        assert self._loop is not None
        self._loop.call_soon(self._write)

    def _write(self) -> None:
        waiting, self.waiting = self.waiting, []
        left: list[Any] = []
        try:
            self._stats.bytes_sent += write_buffered(waiting, left)
        finally:
            for connection in left:
                try:
                    connection.flush()
                except Exception:
                    logger.exception("%r failed to write", connection)
                    connection.abort()
