"""Commands to Redis, in order and in batches, over one connection."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from redis import ResponseError
from redis.asyncio import Redis

from ..exceptions import ClusterError, ClusterUnavailable
from ..observe.logs import ThrottledLog
from .connection import TIMEOUT, Line, check_server, connect, keep_connected, pack, together, where_is

__all__ = ["Commands"]

#: What may wait for Redis: commands, and bytes of them.
MAX_WAITING: Final = 10_000
MAX_BYTES: Final = 64 * 1024 * 1024

#: Commands that leave together, at the most.
_BATCH: Final = 1000


def _nothing() -> None:
    pass


class Commands:
    """Sends commands to Redis.

    What is submitted in one turn of the event loop leaves in one write. One batch is under way at a time, and what
    comes meanwhile gathers for the next: the busier it gets, the bigger they are.

    Args:
        client: What connections are made with; see :func:`~sockjs_tornado.cluster.connection.make_client`.
        timeout: Seconds of silence after which Redis is asked for a sign of life, which it has as long again to give.
        log: Hears of the connection's end.
        on_demoted: Called when Redis takes no writes any more: its other connections are to be given up, too.
        on_back: Called when it is there again.

    Attributes:
        available: Whether Redis is there.
    """

    def __init__(
        self,
        client: "Redis",
        *,
        timeout: float = TIMEOUT,
        log: ThrottledLog | None = None,
        on_demoted: Callable[[], object] = _nothing,
        on_back: Callable[[], object] = _nothing,
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._log = log or ThrottledLog(time.monotonic)
        self._on_demoted = on_demoted
        self._on_back = on_back
        self._waiting: deque[tuple[bytes, asyncio.Future[Any], asyncio.Future[Any] | None]] = deque()
        self._bytes = 0
        self._under_way: deque[asyncio.Future[Any]] = deque()
        # The question whether Redis is still the one that takes writes.
        self._asked: asyncio.Future[Any] | None = None
        self._wake = asyncio.Event()
        self._answered = asyncio.Event()
        self._ready = asyncio.Event()
        self._why_not = "is not connected yet"
        self._task: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether Redis is there, as far as is known."""
        return self._ready.is_set()

    async def ready(self) -> None:
        """Wait until Redis is there."""
        await self._ready.wait()

    async def start(self) -> None:
        """Connect.

        Raises:
            ClusterError: There is no Redis, or it wants a password, or is too old.
        """
        line = await connect(self._client)
        self._ready.set()
        self._task = asyncio.create_task(keep_connected(self._client, line, self._use, self._lost, self._log))

    async def close(self) -> None:
        """Wait until Redis has answered what was submitted, for some seconds at most, and close the connection."""
        if self._task is not None:
            task, self._task = self._task, None
            try:
                if self.available:
                    await asyncio.wait([self.submit("PING")], timeout=2 * self._timeout)
            finally:
                task.cancel()
                await asyncio.wait([task])
        self._why_not = "is not connected any more"

    def submit(self, *args: str | bytes | int, after: "asyncio.Future[Any] | None" = None) -> "asyncio.Future[Any]":
        """Send a command with the next batch.

        Args:
            args: The command and its arguments. Text is sent as UTF-8.
            after: What it, and all behind it, waits for; however that ends.

        Returns:
            The reply, with text as bytes. It need not be awaited.

        Raises:
            ClusterUnavailable: By the future. Redis is away, or refuses the command, or was lost before it replied: in
                that last case it may have done what it was told to. So it is where too much waits already.
        """
        future = asyncio.get_running_loop().create_future()
        if not self._ready.is_set():
            _fail(future, f"Redis {self._why_not}")
            return future
        data = pack(args)
        if len(self._waiting) >= MAX_WAITING or self._bytes + len(data) > MAX_BYTES:
            _fail(future, "too much waits for Redis")
            return future
        self._bytes += len(data)
        self._waiting.append((data, future, after))
        self._wake.set()
        return future

    async def _use(self, line: Line) -> None:
        if not self._ready.is_set():
            self._ready.set()
            self._on_back()
        try:
            # It is read without a pause, too: the end of a connection is heard on that way alone.
            await together(self._write(line), self._read(line), line.watch(self._ask, self._timeout))
        except ClusterError:
            self._on_demoted()
            raise

    def _ask(self) -> None:
        # A sign of life that says, too, whether it has become a replica.
        self._asked = self.submit("HELLO", 2)

    async def _write(self, line: Line) -> None:
        waiting = self._waiting
        while True:
            while not waiting:
                self._wake.clear()
                await self._wake.wait()
            batch: list[bytes] = []
            while waiting and len(batch) < _BATCH:
                data, future, after = waiting[0]
                if after is not None and not after.done():
                    if batch:
                        break
                    await asyncio.wait([after])
                waiting.popleft()
                self._bytes -= len(data)
                batch.append(data)
                self._under_way.append(future)
            self._answered.clear()
            await line.send(b"".join(batch))
            await self._answered.wait()

    async def _read(self, line: Line) -> None:
        under_way = self._under_way
        while True:
            reply = await line.receive()
            if under_way[0] is self._asked and not isinstance(reply, ResponseError):
                check_server(reply, where_is(self._client))
            future = under_way.popleft()
            if isinstance(reply, ResponseError):
                _fail(future, f"Redis refuses: {reply}")
            elif not future.done():
                future.set_result(reply)
            if not under_way:
                self._answered.set()

    def _lost(self) -> None:
        self._ready.clear()
        self._why_not = "is away"
        for future in self._under_way:
            _fail(future, "Redis was lost before it answered")
        for _, future, _ in self._waiting:
            _fail(future, "Redis was lost")
        self._under_way.clear()
        self._waiting.clear()
        self._bytes = 0


def _fail(future: "asyncio.Future[Any]", why: str) -> None:
    # It is done where somebody has cancelled it.
    if not future.done():
        future.set_exception(ClusterUnavailable(why))
        # Nobody has to ask for it.
        future.exception()
