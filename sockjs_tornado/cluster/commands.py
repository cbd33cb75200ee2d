"""Commands to Redis: sent in order and in batches over one connection."""

import asyncio
import contextlib
import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NoReturn

from redis import ResponseError

from ..exceptions import ClusterError, ClusterUnavailable
from ..observe.logs import ThrottledLog
from .base import fail, fail_all
from .credentials import Credentials
from .reconnecting import ReconnectingConnection
from .redis_connection import TIMEOUT, Args, RedisConnection, RedisURL, pack_command
from .redis_errors import mask_user
from .redis_url import describe
from .server_check import check_server

logger = logging.getLogger(__name__)

#: The limit of the queue: the memory that its commands take. The last command may exceed it.
MAX_QUEUED_BYTES: Final = 64 * 1024 * 1024

#: The memory in bytes that a queued command takes in addition to its encoded arguments.
_OVERHEAD: Final = 400

#: The largest number of commands in one write, and the size in bytes after which no command is added.
_BATCH_SIZE: Final = 1000
_BATCH_BYTES: Final = 1024 * 1024


#: Why a command is rejected if the queue is full.
FULL: Final = "the queue of commands for Redis is full"

# What an operator does about a rejected command, by the beginning of the reply.
_REMEDIES: Final = {
    "NOPERM": "Grant the user the permissions that docs/scaling.md lists (ACL SETUSER).",
    "NOAUTH": "Check the credentials.",
    "WRONGPASS": "Check the credentials.",
    "OOM": "New sessions, members and histories cannot be stored. Raise maxmemory, or delete other data.",
    "MISCONF": "Redis cannot save its data to disk, and accepts no writes. Check its log and its disk.",
    "ASK": "The slot of the namespace is being moved to another server of Redis Cluster; wait until that is done.",
    "TRYAGAIN": "The slot of the namespace is being moved to another server of Redis Cluster; wait until that is done.",
    "NOREPLICAS": "Redis has too few replicas, and accepts no writes (min-replicas-to-write).",
    "ERR unknown command": "The command was renamed or disabled in the configuration of Redis.",
}


class NotPermitted(ClusterUnavailable):
    """Redis does not permit the user to run a command."""


class DeferredCommand:
    """A command that waits until the queue has room for it. Until then, its caller holds it, not the queue.

    Attributes:
        args: The command, or () after it was submitted.
        reply: The future of its reply.
    """

    __slots__ = ("__weakref__", "after", "args", "reply")

    def __init__(self, args: Args, after: "asyncio.Future[Any] | None", reply: "asyncio.Future[Any]") -> None:
        self.args = args
        self.after = after
        self.reply = reply

    def __del__(self) -> None:
        if self.args and not self.reply.get_loop().is_closed():
            fail(self.reply, FULL)


class Commands(ReconnectingConnection):
    """Sends commands to Redis.

    Commands of one iteration of the event loop are sent in one write. The next batch is sent when Redis has replied to
    all of the last, so that batches grow with the load.

    If the queue is full, :meth:`submit` fails, :meth:`call` waits, and :meth:`defer` returns a command that is
    submitted when there is room, unless its caller has dropped it before.

    Args:
        probes: Commands that Redis must permit, and ``rules`` that permit them; see :meth:`RedisURL.connect`.
        on_demoted: Called when Redis no longer accepts writes, so that its other connections are closed, too.
        on_reconnect: Called after each reconnect.
        on_rejected: Called after each command that Redis has rejected, which is then logged. None, the default, if all
            callers await the replies, so that an exception reports it already.
    """

    def __init__(
        self,
        url: RedisURL,
        *,
        probes: Sequence[Args] = (),
        rules: str = "",
        timeout: float = TIMEOUT,
        log: ThrottledLog | None = None,
        on_demoted: Callable[[], object] = lambda: None,
        on_reconnect: Callable[[], object] = lambda: None,
        on_rejected: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(url, timeout, log or ThrottledLog(), probes, rules)
        self._on_demoted = on_demoted
        self._on_reconnect = on_reconnect
        self._on_rejected = on_rejected
        # Each command with its reply's future, and the future that it waits for.
        self._queue: deque[tuple[bytes, asyncio.Future[Any], asyncio.Future[Any] | None]] = deque()
        self._queued_bytes = 0
        # The commands that wait for room, in order. Those of defer() are held by their callers.
        self._deferred: deque[Callable[[], DeferredCommand | None]] = deque()
        # The commands that were sent and have no reply yet.
        self._in_flight: deque[asyncio.Future[Any]] = deque()
        # The futures of commands that were submitted while those of earlier ones are failed after a disconnect, in
        # order; None at other times.
        self._rejected: deque[asyncio.Future[Any]] | None = None
        # The last ping: a HELLO, whose reply has the server's role.
        self._role_check: asyncio.Future[Any] | None = None
        # Set when a command is queued, and when _in_flight is empty.
        self._wake = asyncio.Event()
        self._batch_done = asyncio.Event()
        self._reason = "is not connected yet: call start() first, or use `async with`"

    async def close(self) -> None:
        """Wait for the replies to all submitted commands, at most twice the timeout, and close the connection."""
        try:
            if self._task is not None and self.available:
                await asyncio.wait([asyncio.ensure_future(self.wait_idle())], timeout=2 * self._timeout)
        finally:
            await super().close()
        self._reason = "is not connected any more: close() was called"

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
        if not self.available:
            if self._rejected is None:
                fail(future, f"Redis {self._reason}")
            else:
                self._rejected.append(future)
        elif self.is_full:
            fail(future, FULL)
        else:
            self._append(args, future, after)
        return future

    def defer(self, *args: str | bytes | int, after: "asyncio.Future[Any] | None" = None) -> DeferredCommand:
        """Submit a command as soon as the queue has room, after those that already wait.

        If the caller drops the returned command before, it fails. So a message that nobody awaits takes no memory.
        """
        deferred = DeferredCommand(args, after, asyncio.get_running_loop().create_future())
        while self._deferred and self._deferred[-1]() is None:
            # Of a message that nobody awaits.
            self._deferred.pop()
        self._deferred.append(weakref.ref(deferred))
        self._wake.set()
        return deferred

    def call(self, *args: str | bytes | int) -> "asyncio.Future[Any]":
        """Send a command as soon as the queue has room, in the order of the calls; return the future of its reply.

        Raises:
            ClusterUnavailable: Set on the future if Redis is unavailable, or rejects the command.
        """
        if not self.available or not self.is_full:
            return self.submit(*args)
        deferred = DeferredCommand(args, None, asyncio.get_running_loop().create_future())
        self._deferred.append(lambda: deferred)
        self._wake.set()
        return deferred.reply

    async def get_and_expire(self, key: bytes, milliseconds: int) -> Any:
        """Return the value of a key, and set its expiry, with GETEX, which works even while the memory is full.

        If the permission for GETEX was revoked after the start, which is logged, GET and PEXPIRE do the same, so that
        no session is lost.

        Raises:
            ClusterUnavailable: Redis is unavailable, or rejects the commands.
        """
        try:
            return await self.call("GETEX", key, "PX", milliseconds)
        except NotPermitted:
            value = await self.call("GET", key)
            if value is not None:
                await self.call("PEXPIRE", key, milliseconds)
            return value

    async def wait_idle(self) -> None:
        """Wait for the replies to all commands that were submitted before, or until Redis is unavailable."""
        with contextlib.suppress(ClusterUnavailable):
            await self.call("PING")

    @property
    def queued(self) -> tuple[int, int]:
        """The number of commands that wait for a reply, and the size of those that were not sent yet, in bytes."""
        return len(self._queue) + len(self._in_flight) + len(self._deferred), self._queued_bytes

    @property
    def is_full(self) -> bool:
        """Whether the queue has no room for another command. Later commands do not overtake those that wait."""
        return self._queued_bytes >= MAX_QUEUED_BYTES or bool(self._deferred)

    def _append(self, args: Args, future: "asyncio.Future[Any]", after: "asyncio.Future[Any] | None") -> None:
        data = pack_command(args)
        self._queued_bytes += len(data) + _OVERHEAD
        self._queue.append((data, future, after))
        self._wake.set()

    def _submit_deferred(self) -> None:
        while self._deferred and self._queued_bytes < MAX_QUEUED_BYTES:
            deferred = self._deferred.popleft()()
            if deferred is not None:
                args, deferred.args = deferred.args, ()
                if not deferred.reply.done():
                    self._append(args, deferred.reply, deferred.after)

    def _create_events(self) -> None:
        super()._create_events()
        self._wake = asyncio.Event()
        self._batch_done = asyncio.Event()

    def _on_connect(self, is_reconnect: bool) -> None:
        if is_reconnect:
            self._on_reconnect()

    async def _use(self, connection: RedisConnection) -> None:
        try:
            await super()._use(connection)
        except ClusterError:
            self._on_demoted()
            raise

    def _ping(self) -> None:
        self._role_check = self.submit("HELLO", 2)

    async def _authenticate(self, credentials: Credentials) -> None:
        await self.call("AUTH", *credentials.args)

    async def _write(self, connection: RedisConnection) -> NoReturn:
        queue = self._queue
        while True:
            self._submit_deferred()
            while not queue:
                self._wake.clear()
                await self._wake.wait()
                self._submit_deferred()
            batch: list[bytes] = []
            size = 0
            while queue and len(batch) < _BATCH_SIZE and size < _BATCH_BYTES:
                data, future, after = queue[0]
                if after is not None and not after.done():
                    if batch:
                        break
                    await asyncio.wait([after])
                queue.popleft()
                self._queued_bytes -= len(data) + _OVERHEAD
                size += len(data)
                batch.append(data)
                self._in_flight.append(future)
            self._batch_done.clear()
            await connection.send(b"".join(batch))
            await self._batch_done.wait()

    async def _read(self, connection: RedisConnection) -> NoReturn:
        in_flight = self._in_flight
        while True:
            reply = await connection.receive()
            if in_flight[0] is self._role_check and not isinstance(reply, ResponseError):
                check_server(reply, connection.address, self._url.parsed)
            future = in_flight.popleft()
            if isinstance(reply, ResponseError):
                kind = NotPermitted if str(reply).startswith("NOPERM") else ClusterUnavailable
                fail(future, kind(f"Redis rejected the command: {mask_user(str(reply))}"))
                if self._on_rejected is not None:
                    self._on_rejected()
                    self._log_rejection(str(reply), connection)
            elif not future.done():
                future.set_result(reply)
            if not in_flight:
                self._batch_done.set()

    def _log_rejection(self, reply: str, connection: RedisConnection) -> None:
        """Log a rejection that lasts until an operator acts: most commands are not awaited."""
        for code, remedy in _REMEDIES.items():
            if reply.startswith(code):
                message = "Redis at %s rejects commands of this node: %s. %s"
                where = describe(connection.address)
                self._log.write(logger, logging.WARNING, code, message, where, mask_user(reply).rstrip("."), remedy)

    async def _on_disconnect(self) -> None:
        self._reason = "is unavailable"
        self._queued_bytes = 0
        self._rejected = deque()
        try:
            await fail_all(self._drain(self._rejected))
        finally:
            self._rejected = None

    def _drain(self, rejected: "deque[asyncio.Future[Any]]") -> "Iterator[tuple[asyncio.Future[Any], str]]":
        """Remove the futures of all commands, in the order of the commands, each with the reason of its failure."""
        while self._in_flight:
            yield self._in_flight.popleft(), "the connection to Redis was lost before the reply"
        while self._queue:
            yield self._queue.popleft()[1], "the connection to Redis was lost"
        while self._deferred:
            deferred = self._deferred.popleft()()
            if deferred is not None:
                # It must not fail with another reason when it is deleted.
                deferred.args = ()
                yield deferred.reply, "the connection to Redis was lost"
        while rejected:
            yield rejected.popleft(), f"Redis {self._reason}"
