"""The publisher for an event loop, such as that of another web framework.

::

    async with AsyncPublisher("redis://localhost:6379/0") as publisher:
        await publisher.publish("news", {"headline": "It rains"})
"""

import asyncio
import contextlib
import warnings
from collections import deque
from collections.abc import Awaitable, Iterable
from typing import Any

from ..exceptions import ClusterError
from ..protocol import Encodable
from ..session.control import Command, Selection, check_target, keywords_only
from ..session.ports import Position, PublishOptions
from ..session.rooms import check_room
from .base import WaitForAll
from .commands import Commands
from .history import position_of
from .presence_reading import count_command, decode_counts, decode_in_slices, read_command
from .publisher_commands import (
    PIPELINE_SIZE,
    BasePublisher,
    control_command,
    room_command,
    room_commands,
    topic_command,
)
from .redis_connection import Args, RedisURL


class AsyncPublisher(BasePublisher):
    """A publisher for an event loop. Messages of one iteration of the loop are sent in order and in one write.

    It takes the arguments of :class:`~sockjs_tornado.cluster.Publisher`. Use it as an asynchronous context manager, or
    call :meth:`start` and :meth:`close`.

    Until :meth:`close` was called, it can be used only in the event loop in which it was started: in another one, its
    methods raise RuntimeError. If it is dropped without :meth:`close`, there is a ``ResourceWarning``, and the
    connection is closed.
    """

    def _prepare(self, url: RedisURL) -> None:
        self._signer = self._signers.create()
        self._commands = Commands(url)
        #: The event loop between start() and close().
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Connect to Redis. If the connection is lost later, it is reopened. If it was started, this does nothing.

        Raises:
            ClusterUnavailable: Redis does not respond.
            ClusterError: Redis requires a password, or is too old.
        """
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        await self._commands.start()
        self._loop = loop
        # The process may have forked.
        self._signer = self._signers.create()

    async def publish(
        self,
        room: str,
        message: Encodable,
        *,
        history: int = 0,
        ttl: float | None = None,
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Send a message to all members of a room, on all nodes; see :meth:`.Publisher.publish`."""
        options = PublishOptions(history, ttl, idempotency_key)
        reply = await self._call(room_command(self._keys, self._signer, room, message, options))
        await self._check_listeners(reply)
        return position_of(reply)

    async def publish_many(self, rooms: Iterable[str], message: Encodable) -> None:
        """Send a message to all members of some rooms; see :meth:`.Publisher.publish_many`."""
        replies: deque[asyncio.Future[Any]] = deque()
        for command in room_commands(self._keys, self._signer, rooms, message):
            reply = self._call(command)
            # Only the first exception is raised. asyncio must not report the others.
            reply.add_done_callback(lambda reply: reply.cancelled() or reply.exception())
            replies.append(reply)
            if len(replies) >= PIPELINE_SIZE:
                await replies[0]
                replies.popleft()
        await WaitForAll(*replies)

    @keywords_only
    def select(
        self, *, room: str | None = None, tag: str | None = None, id: str | None = None
    ) -> Selection[Awaitable[None]]:
        """Select connections on all nodes; see :meth:`.Publisher.select`. Await the methods of the selection."""
        return Selection(check_target(room, tag, id), self._execute)

    async def publish_topic(self, topic: str, message: Any) -> None:
        """Send a message to the callbacks of a topic on all nodes; see :meth:`.Publisher.publish_topic`."""
        await self._check_listeners(await self._call(topic_command(self._keys, self._signer, topic, message)))

    async def presence(self, room: str) -> dict[str, Any]:
        """Return the presence of the members of a room, on all nodes; see :meth:`.Publisher.presence`."""
        check_room(room)
        return await decode_in_slices(await self._call(read_command(self._keys, room)))

    async def presence_count(self, room: str) -> int:
        """Return the number of members of a room that have a presence; see :meth:`.Publisher.presence_count`."""
        check_room(room)
        return sum(decode_counts(await self._call(count_command(self._keys, room))).values())

    def _call(self, command: Args) -> asyncio.Future[Any]:
        self._check_loop()
        return self._commands.call(*command)

    def _check_loop(self) -> None:
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "an AsyncPublisher must be used in the event loop in which it was started; from another thread, call "
                "asyncio.run_coroutine_threadsafe(publisher.publish(...), loop); in another event loop, start() another"
            )

    async def _execute(self, command: Command) -> None:
        self._listeners.check(await self._call(control_command(self._keys, self._signer, command)))

    async def _check_listeners(self, reply: object) -> None:
        if self._listeners.is_due(reply):
            with contextlib.suppress(ClusterError):
                self._listeners.check(await self._call(self._listeners.command(self._signer)))

    async def close(self) -> None:
        """Close the connection."""
        self._check_loop()
        self._loop = None
        await self._commands.close()

    def __del__(self) -> None:
        # Missing if the constructor has failed.
        loop = getattr(self, "_loop", None)
        if loop is not None:
            # If the event loop is closed, the connection is, too.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._commands.abort)
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    async def __aenter__(self) -> "AsyncPublisher":
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
