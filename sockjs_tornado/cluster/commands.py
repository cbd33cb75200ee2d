"""Commands to Redis: sent in order and in batches over one connection."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from redis import ResponseError

from ..exceptions import ClusterError, ClusterUnavailable
from ..observe.logs import ThrottledLog
from .redis_connection import (
    TIMEOUT,
    RedisConnection,
    RedisURL,
    check_server,
    keep_connected,
    pack_command,
    run_until_first,
)

__all__ = ["Commands"]

#: The limits of the queue: the number of commands, and their size in bytes.
MAX_QUEUED: Final = 10_000
MAX_QUEUED_BYTES: Final = 64 * 1024 * 1024

#: The largest number of commands in one write.
_BATCH_SIZE: Final = 1000


def _ignore() -> None:
    """Do nothing."""


class Commands:
    """Sends commands to Redis.

    Commands of one turn of the event loop are sent in one write. The next batch is sent when Redis has replied to all
    of the last, so that batches grow with the load.

    Args:
        url: The server.
        timeout: Seconds without data after which Redis is pinged, and seconds that it then has to reply.
        log: The log for disconnects.
        on_demoted: Called when Redis no longer accepts writes, so that its other connections are closed, too.
        on_reconnect: Called after each reconnect.
    """

    def __init__(
        self,
        url: RedisURL,
        *,
        timeout: float = TIMEOUT,
        log: ThrottledLog | None = None,
        on_demoted: Callable[[], object] = _ignore,
        on_reconnect: Callable[[], object] = _ignore,
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._log = log or ThrottledLog(time.monotonic)
        self._on_demoted = on_demoted
        self._on_reconnect = on_reconnect
        # Each command with its reply's future, and the future that it waits for.
        self._queue: deque[tuple[bytes, asyncio.Future[Any], asyncio.Future[Any] | None]] = deque()
        self._queued_bytes = 0
        # The commands that were sent and have no reply yet.
        self._in_flight: deque[asyncio.Future[Any]] = deque()
        # The last ping: a HELLO, whose reply has the server's role.
        self._role_check: asyncio.Future[Any] | None = None
        # Set when a command is queued; when _in_flight is empty; while Redis is connected.
        self._wake = asyncio.Event()
        self._batch_done = asyncio.Event()
        self._connected = asyncio.Event()
        self._reason = "is not connected yet"
        self._task: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether Redis is connected."""
        return self._connected.is_set()

    async def wait_available(self) -> None:
        """Wait until Redis is connected."""
        await self._connected.wait()

    async def start(self) -> None:
        """Connect to Redis.

        Raises:
            ClusterError: Redis does not respond, requires a password, or is too old.
        """
        connection = await self._url.connect()
        self._connected.set()
        self._task = asyncio.create_task(
            keep_connected(self._url, connection, self._use, self._disconnected, self._log)
        )

    async def close(self) -> None:
        """Wait for the replies to all submitted commands, at most twice the timeout, and close the connection."""
        if self._task is not None:
            task, self._task = self._task, None
            try:
                if self.available:
                    await asyncio.wait([self.submit("PING")], timeout=2 * self._timeout)
            finally:
                task.cancel()
                await asyncio.wait([task])
        self._reason = "is not connected any more"

    def submit(self, *args: str | bytes | int, after: "asyncio.Future[Any] | None" = None) -> "asyncio.Future[Any]":
        """Send a command with the next batch.

        Args:
            args: The command and its arguments. Text is encoded as UTF-8.
            after: A future. The command and all later ones are sent when it is done, whether it succeeds or fails.

        Returns:
            The future of the reply, with text as bytes. It need not be awaited.

        Raises:
            ClusterUnavailable: Set on the future if Redis is unavailable, rejects the command, or if the queue is
                full. If the connection was lost before the reply, Redis may have executed the command.
        """
        future = asyncio.get_running_loop().create_future()
        if not self._connected.is_set():
            _fail(future, f"Redis {self._reason}")
            return future
        data = pack_command(args)
        if len(self._queue) >= MAX_QUEUED or self._queued_bytes + len(data) > MAX_QUEUED_BYTES:
            _fail(future, "the queue of commands for Redis is full")
            return future
        self._queued_bytes += len(data)
        self._queue.append((data, future, after))
        self._wake.set()
        return future

    async def _use(self, connection: RedisConnection) -> None:
        if not self._connected.is_set():
            self._connected.set()
            self._on_reconnect()
        try:
            # The reader always runs, even if no reply is expected: only it notices that the connection was closed.
            await run_until_first(
                self._write(connection), self._read(connection), connection.watch(self._ping, self._timeout)
            )
        except ClusterError:
            self._on_demoted()
            raise

    def _ping(self) -> None:
        self._role_check = self.submit("HELLO", 2)

    async def _write(self, connection: RedisConnection) -> None:
        queue = self._queue
        while True:
            while not queue:
                self._wake.clear()
                await self._wake.wait()
            batch: list[bytes] = []
            while queue and len(batch) < _BATCH_SIZE:
                data, future, after = queue[0]
                if after is not None and not after.done():
                    if batch:
                        break
                    await asyncio.wait([after])
                queue.popleft()
                self._queued_bytes -= len(data)
                batch.append(data)
                self._in_flight.append(future)
            self._batch_done.clear()
            await connection.send(b"".join(batch))
            await self._batch_done.wait()

    async def _read(self, connection: RedisConnection) -> None:
        in_flight = self._in_flight
        while True:
            reply = await connection.receive()
            if in_flight[0] is self._role_check and not isinstance(reply, ResponseError):
                check_server(reply, self._url.address)
            future = in_flight.popleft()
            if isinstance(reply, ResponseError):
                _fail(future, f"Redis rejected the command: {reply}")
            elif not future.done():
                future.set_result(reply)
            if not in_flight:
                self._batch_done.set()

    def _disconnected(self) -> None:
        self._connected.clear()
        self._reason = "is unavailable"
        for future in self._in_flight:
            _fail(future, "the connection to Redis was lost before the reply")
        for _, future, _ in self._queue:
            _fail(future, "the connection to Redis was lost")
        self._in_flight.clear()
        self._queue.clear()
        self._queued_bytes = 0


def _fail(future: "asyncio.Future[Any]", reason: str) -> None:
    # The future may be cancelled already.
    if not future.done():
        future.set_exception(ClusterUnavailable(reason))
        # Mark the exception as retrieved: the future need not be awaited.
        future.exception()
