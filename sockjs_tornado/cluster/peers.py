"""The rooms of several workers, which tell each other directly what is published in them."""

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..exceptions import ClusterError, ClusterUnavailable
from ..observe.logs import ThrottledLog
from ..protocol import JSONValue, PreparedMessage
from ..session.grace import timeout
from ..session.rooms import Rooms
from .node import Node
from .ownership import Owner
from .stats import ClusterStats
from .upstream import UpstreamDisconnected

if TYPE_CHECKING:
    from ..session.session import Session

__all__ = ["Peers"]

logger = logging.getLogger(__name__)

#: Bytes that leave in one request, unless one message has more, and that may wait for a worker that does not take them.
_BATCH: Final = 1024 * 1024
MAX_WAITING: Final = 64 * 1024 * 1024

#: Seconds in which a worker has to say who is present.
_PATIENCE: Final = 4


class _Sending:
    """What :meth:`Peers.publish` returns: done when all workers have the message, or are not there."""

    __slots__ = ("_batches",)

    def __init__(self, batches: "Sequence[asyncio.Future[None]]") -> None:
        self._batches = batches

    def __await__(self) -> Generator[Any, None, None]:
        for batch in self._batches:
            # Others wait for it, too: who is cancelled does not cancel it.
            yield from asyncio.shield(batch).__await__()


class _Batch:
    """Records that leave in one request."""

    __slots__ = ("done", "records", "size")

    def __init__(self) -> None:
        self.records: list[str] = []
        self.size = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Line:
    """What goes to one worker, in order: a request at a time, and what comes meanwhile gathers for the next.

    Args:
        call: Hands a request to the worker.
        lost: Called with the error and a number of messages that the worker did not take.
    """

    def __init__(
        self, call: Callable[[bytes], Awaitable[object]], lost: Callable[[ClusterUnavailable, int], None]
    ) -> None:
        self._call = call
        self._lost = lost
        self._waiting: deque[_Batch] = deque()
        self._size = 0
        self._task: asyncio.Task[None] | None = None

    def send(self, record: str) -> "asyncio.Future[None]":
        """Send a record.

        Returns:
            A future that others share. It fails with ClusterUnavailable.
        """
        size = len(record)
        if self._size + size > MAX_WAITING:
            refused = _Batch()
            refused.records.append(record)
            self._fail(refused, "too much waits for another worker")
            return refused.done
        if not self._waiting or self._waiting[-1].size + size > _BATCH:
            self._waiting.append(_Batch())
        batch = self._waiting[-1]
        batch.records.append(record)
        batch.size += size
        self._size += size
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return batch.done

    async def close(self) -> None:
        """Send what waits, for some seconds at most."""
        if self._task is not None:
            task = self._task
            with contextlib.suppress(TimeoutError):
                async with timeout(_PATIENCE):
                    await asyncio.wait([task])
            task.cancel()
            await asyncio.wait([task])
            while self._waiting:
                self._fail(self._waiting.popleft(), "this worker ends")

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting.popleft()
                await self._send(batch)
                self._size -= batch.size
        finally:
            self._task = None

    async def _send(self, batch: _Batch) -> None:
        try:
            await self._call(f"[{','.join(batch.records)}]".encode())
        except TimeoutError:
            self._fail(batch, "another worker does not answer")
        except (UpstreamDisconnected, ClusterError) as error:
            self._fail(batch, f"another worker may not have it: {str(error) or 'the connection ended'}")
        except OSError:
            # It is not there, and nobody is in its rooms.
            batch.done.set_result(None)
        except asyncio.CancelledError:
            self._fail(batch, "this worker ends")
            raise
        else:
            batch.done.set_result(None)

    def _fail(self, batch: _Batch, why: str) -> None:
        error = ClusterUnavailable(why)
        self._lost(error, len(batch.records))
        batch.done.set_exception(error)
        # Nobody has to ask for it.
        batch.done.exception()


class Peers:
    """Takes what is published on this worker, and on others.

    Args:
        node: What reaches the others.
        others: They.
        rooms: The members on this one.
        stats: Counters.
        log: Hears of what is lost, or makes no sense.
    """

    def __init__(
        self, node: Node, others: Sequence[Owner], rooms: Rooms, stats: ClusterStats, log: ThrottledLog
    ) -> None:
        self._node = node
        self._others = others
        self._rooms = rooms
        self._stats = stats
        self._log = log
        self._lines = [_Line(partial(node.rpc, other, "publish"), self._count_loss) for other in others]
        node.register_rpc("publish", self._take)
        node.register_rpc("presence", self._tell_presence)

    def publish(self, room: str, message: str | JSONValue, exclude: "Sequence[Session]") -> _Sending:
        """Send a message to all in a room.

        Args:
            room: Where.
            message: What.
            exclude: Who on this worker does not get it.
        """
        self._stats.published += 1
        self._rooms.publish(room, PreparedMessage(message), exclude)
        record = json.dumps([room, isinstance(message, JSONValue), str(message)])
        return _Sending([line.send(record) for line in self._lines])

    async def presence(self, room: str) -> dict[str, Any]:
        """Return who is present in a room, by worker and label.

        Raises:
            ClusterUnavailable: A worker is there, and does not answer.
        """
        asked = json.dumps(room).encode()
        replies = await asyncio.gather(*(self._ask_presence(other, asked) for other in self._others))
        present = {f"{self._node.id}:{label}": value for label, value in self._rooms.presence(room).items()}
        for other, reply in zip(self._others, replies, strict=True):
            present |= {f"{other.node}:{label}": value for label, value in reply.items()}
        return present

    async def _ask_presence(self, other: Owner, asked: bytes) -> dict[str, Any]:
        try:
            async with timeout(_PATIENCE):
                reply: dict[str, Any] = json.loads(await self._node.rpc(other, "presence", asked))
        except (TimeoutError, UpstreamDisconnected, ClusterError) as error:
            raise ClusterUnavailable(f"{other.node} does not say who is present: {error!r}") from None
        except OSError:
            # It is not there.
            return {}
        return reply

    async def close(self) -> None:
        """Send what waits."""
        await asyncio.gather(*(line.close() for line in self._lines))

    def _take(self, body: bytes) -> bytes:
        for room, is_json, text in json.loads(body):
            self._stats.received += 1
            try:
                self._rooms.publish(room, PreparedMessage(JSONValue(text) if is_json else text))
            except Exception as error:
                # It is the application's; what comes next must not suffer.
                self._log.write(logger, logging.ERROR, "deliver", "a message was not delivered", error=error)
        return b""

    def _tell_presence(self, body: bytes) -> bytes:
        return json.dumps(self._rooms.presence(json.loads(body))).encode()

    def _count_loss(self, error: ClusterUnavailable, count: int) -> None:
        self._stats.publish_failures += count
        message = "%d messages did not reach another worker: %s"
        self._log.write(logger, logging.WARNING, "lost message", message, count, error)
