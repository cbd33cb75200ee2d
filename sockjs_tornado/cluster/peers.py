"""Rooms of workers on one host, which send their messages to each other directly."""

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..exceptions import ClusterError, ClusterUnavailable
from ..observe.logs import ThrottledLog
from ..protocol import JSONValue, PreparedMessage
from ..session.control import Command, decode_command, encode_command, execute
from ..session.grace import timeout
from ..session.rooms import Rooms, check_room
from .base import ClusterStats, WaitForAll, batches, cancel, fail
from .node import Node
from .ownership import Owner
from .upstream import UpstreamDisconnected

if TYPE_CHECKING:
    from ..session.session import Session

logger = logging.getLogger(__name__)

#: The largest size of one request in characters, unless a single message is larger.
_BATCH_SIZE: Final = 1024 * 1024

#: The largest number of rooms in one record.
_MANY: Final = 1000

#: The limit of the queue for one worker, in characters.
MAX_QUEUED: Final = 64 * 1024 * 1024

#: Seconds in which a worker must respond to a request for presence, and in which close() sends the queued messages.
_RESPONSE_TIMEOUT: Final = 4


#: Seconds for which an awaited publish waits for a worker. Its queue waits longer, in case the worker continues.
PUBLISH_TIMEOUT: Final = 2.0

_STALLED: Final = "another worker does not respond; it receives the message if it continues within 15 seconds"


class _Batch:
    """Records that are sent in one request."""

    __slots__ = ("count", "done", "records", "size")

    def __init__(self) -> None:
        self.records: list[str] = []
        self.size = 0
        # The number of messages: a record may have several rooms.
        self.count = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _WorkerQueue:
    """The messages for one worker. They are sent in order, one request at a time; later ones wait for the next batch.

    Args:
        send: Sends a request to the worker, or raises ClusterUnavailable.
        on_failure: Called with the reason and the number of messages that the worker did not accept.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[object]], on_failure: Callable[[str, int], None]) -> None:
        self._send = send
        self._on_failure = on_failure
        self._batches: deque[_Batch] = deque()
        # The size of all batches, including the one that is being sent.
        self._size = 0
        # Whether the worker has not responded for PUBLISH_TIMEOUT. Until it responds, awaited calls fail at once.
        self._is_stalled = False
        self._task: asyncio.Task[None] | None = None

    def add(self, record: str, count: int = 1) -> "asyncio.Future[None]":
        """Queue a record, and return the future of its batch, which raises ClusterUnavailable on failure."""
        size = len(record)
        if self._size + size > MAX_QUEUED:
            rejected = _Batch()
            rejected.count = count
            self._fail(rejected, "the queue for another worker is full")
            return rejected.done
        if not self._batches or self._batches[-1].size + size > _BATCH_SIZE:
            self._batches.append(_Batch())
        batch = self._batches[-1]
        batch.records.append(record)
        batch.count += count
        batch.size += size
        self._size += size
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        if self._is_stalled:
            fail(batch.done, _STALLED)
        return batch.done

    def _stall(self, batch: _Batch) -> None:
        """Called when the worker has not accepted a batch in time."""
        self._is_stalled = True
        for each in (batch, *self._batches):
            fail(each.done, _STALLED)

    async def close(self) -> None:
        """Send the queued messages, for at most :data:`_RESPONSE_TIMEOUT` seconds."""
        if self._task is not None:
            task = self._task
            with contextlib.suppress(TimeoutError):
                async with timeout(_RESPONSE_TIMEOUT):
                    await asyncio.wait([task])
            await cancel(task)
            while self._batches:
                self._fail(self._batches.popleft(), "this worker is stopping")
            self._size = 0

    async def _run(self) -> None:
        try:
            while self._batches:
                batch = self._batches.popleft()
                await self._send_batch(batch)
                self._size -= batch.size
        finally:
            self._task = None

    async def _send_batch(self, batch: _Batch) -> None:
        sending = asyncio.ensure_future(self._send(f"[{','.join(batch.records)}]".encode()))
        try:
            with contextlib.suppress(TimeoutError):
                async with timeout(PUBLISH_TIMEOUT):
                    await asyncio.wait([sending])
            if not sending.done():
                self._stall(batch)
            await sending
        except ClusterUnavailable as error:
            self._fail(batch, str(error))
        except asyncio.CancelledError:
            await cancel(sending)
            self._fail(batch, "this worker is stopping")
            raise
        else:
            self._is_stalled = False
            if not batch.done.done():
                batch.done.set_result(None)

    def _fail(self, batch: _Batch, reason: str) -> None:
        self._on_failure(reason, batch.count)
        fail(batch.done, reason)


class Peers:
    """Publishes this worker's messages, and delivers those of other workers."""

    def __init__(
        self,
        node: Node,
        others: Sequence[Owner],
        rooms: Rooms,
        stats: ClusterStats,
        log: ThrottledLog,
        deliver_topic: Callable[[str, str], None],
    ) -> None:
        self._node = node
        self._others = others
        self._rooms = rooms
        self._stats = stats
        self._log = log
        self._deliver_topic = deliver_topic
        self._queues = [_WorkerQueue(partial(self._call, other, "publish"), self._publish_failed) for other in others]
        node.rpcs["publish"] = self._handle_publish
        node.rpcs["presence"] = self._handle_presence
        node.rpcs["count"] = self._handle_presence_count

    def publish(self, room: str, message: str | JSONValue, exclude: "Sequence[Session]") -> WaitForAll:
        """Send a message to all members of a room; the awaitable completes when all running workers have it."""
        return self.publish_many((room,), message, exclude)

    def publish_many(self, rooms: Sequence[str], message: str | JSONValue, exclude: "Sequence[Session]") -> WaitForAll:
        """Send a message to all members of some rooms; the awaitable completes when all running workers have it."""
        self._stats.published += len(rooms)
        prepared = PreparedMessage(message)
        for room in rooms:
            self._rooms.publish(room, prepared, exclude)
        encoded = f"{json.dumps(isinstance(message, JSONValue))},{json.dumps(str(message))}"
        records = [(f"[{json.dumps(list(batch))},{encoded}]", len(batch)) for batch in batches(rooms, _MANY)]
        return WaitForAll(*[queue.add(*record) for queue in self._queues for record in records])

    def execute(self, command: Command, exclude: "Sequence[Session]") -> WaitForAll:
        """Execute a command for all sessions of its target; the result is that of :meth:`publish`."""
        self._stats.published += 1
        execute(self._rooms, command, exclude)
        return self._send(encode_command(command))

    def publish_topic(self, topic: str, text: str) -> WaitForAll:
        """Send a message of a topic, given as JSON; the result is that of :meth:`publish`."""
        return self._send(topic, text)

    def _send(self, *record: str) -> WaitForAll:
        encoded = json.dumps(record)
        return WaitForAll(*[queue.add(encoded) for queue in self._queues])

    async def presence_count(self, room: str) -> int:
        """Return the number of a room's members that have a presence. All running workers must respond."""
        replies = await self._call_all("count", room)
        return self._rooms.presence_count(room) + sum(int(reply or b"0") for reply in replies)

    async def _call_all(self, name: str, room: str) -> list[bytes | None]:
        check_room(room)
        body = json.dumps(room).encode()
        return await asyncio.gather(*(self._call(other, name, body, _RESPONSE_TIMEOUT) for other in self._others))

    async def presence(self, room: str) -> dict[str, Any]:
        """Return the presence of a room's members, by worker and label. All running workers must respond."""
        replies = await self._call_all("presence", room)
        present = {f"{self._node.owner.node}:{label}": value for label, value in self._rooms.presence(room).items()}
        for other, reply in zip(self._others, replies, strict=True):
            present |= {f"{other.node}:{label}": value for label, value in json.loads(reply or "{}").items()}
        return present

    async def _call(self, other: Owner, name: str, body: bytes, seconds: float | None = None) -> bytes | None:
        """Call a worker; return its result, or None if it is not running, so that its rooms have no members."""
        try:
            async with timeout(seconds):
                reply = await self._node.rpc(other, name, body)
        except (TimeoutError, UpstreamDisconnected, ClusterError) as error:
            raise ClusterUnavailable(f"{other.node} did not respond to {name!r}: {error!r}") from None
        except OSError:
            return None
        return reply

    async def close(self) -> None:
        """Send all queued messages."""
        await asyncio.gather(*(queue.close() for queue in self._queues))

    def _handle_publish(self, body: bytes) -> bytes:
        for record in json.loads(body):
            match record:
                case [list(rooms), bool(is_json), str(text)]:
                    prepared = PreparedMessage(JSONValue(text) if is_json else text)
                    for room in rooms:
                        self._deliver(self._rooms.publish, room, prepared)
                case _:
                    self._deliver(self._execute_record, record)
        return b""

    def _execute_record(self, record: Any) -> None:
        match record:
            case [str(text)]:
                execute(self._rooms, decode_command(text))
            case [str(topic), str(text)]:
                self._deliver_topic(topic, text)
            case _:
                raise ValueError("a record of another worker is malformed; all workers must run the same version")

    def _deliver(self, function: Callable[..., None], *args: Any) -> None:
        self._stats.received += 1
        try:
            function(*args)
        except Exception as error:
            # An error of the application must not stop the delivery of later messages.
            self._log.write(logger, logging.ERROR, "deliver", "Failed to deliver a message", error=error)

    def _handle_presence(self, body: bytes) -> bytes:
        return json.dumps(self._rooms.presence(json.loads(body))).encode()

    def _handle_presence_count(self, body: bytes) -> bytes:
        return b"%d" % self._rooms.presence_count(json.loads(body))

    def _publish_failed(self, reason: str, count: int) -> None:
        self._stats.publish_failures += count
        message = "%d messages did not reach another worker: %s"
        self._log.write(logger, logging.WARNING, "lost message", message, count, reason)
