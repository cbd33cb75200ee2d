"""Subscriptions to rooms: one connection to Redis on which everything comes that is published elsewhere."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from redis import ResponseError
from redis.asyncio import Redis

from ..exceptions import ClusterUnavailable
from ..observe.logs import ThrottledLog
from ..session.grace import timeout
from .connection import FAILURES, TIMEOUT, Line, connect, explain, keep_connected, pack, together, where_is
from .envelope import Names

__all__ = ["Bus"]

#: Rooms of one command: Redis does nothing else meanwhile.
_CHUNK: Final = 1000

#: Seconds for which what has come is delivered before the event loop's other callbacks have their turn.
_SLICE: Final = 0.005


class Bus:
    """Hears what is published in rooms.

    Args:
        client: What connections are made with.
        names: What the channels are called.
        deliver: Takes a room and what was published there.
        forget: Called with a room that is not subscribed to any more; with none when nothing is, as Redis is lost.
        on_gap: Called once after each loss, when everything is subscribed to again, with the rooms in which something
            may have been missed.
        log: Hears of the connection's end.
        timeout: Seconds of silence after which Redis is asked for a sign of life, which it has as long again to give.
    """

    def __init__(
        self,
        client: "Redis",
        names: Names,
        deliver: Callable[[str, bytes], object],
        forget: Callable[..., object],
        on_gap: Callable[[frozenset[str]], object],
        log: ThrottledLog,
        timeout: float = TIMEOUT,
    ) -> None:
        self._client = client
        self._names = names
        self._deliver = deliver
        self._forget = forget
        self._on_gap = on_gap
        self._log = log
        self._timeout = timeout
        # What shall be subscribed to, each with what is done once Redis has confirmed it.
        self._wanted: dict[str, asyncio.Future[None]] = {}
        # What this connection has been told to subscribe to, and how often that is not confirmed yet.
        self._sent: set[str] = set()
        self._unconfirmed: Counter[str] = Counter()
        # What to look at, whether Redis has to be told; in order.
        self._changed: dict[str, None] = {}
        self._ping = False
        self._given_up = False
        self._wake = asyncio.Event()
        self._connected = False
        # The rooms of the gap that is not over, and those of them that are not subscribed to again.
        self._missed: set[str] = set()
        self._missing: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect.

        Raises:
            ClusterError: There is no Redis, or it wants a password, or is too old, or lets this user hear nothing.
        """
        line = await connect(self._client)
        try:
            await self._try(line)
        except BaseException as error:
            await line.close()
            if isinstance(error, FAILURES):
                raise explain(error, where_is(self._client)) from error
            raise
        self._connected = True
        self._task = asyncio.create_task(keep_connected(self._client, line, self._use, self._lost, self._log))

    async def _try(self, line: Line) -> None:
        """See that subscribing is allowed."""
        async with timeout(TIMEOUT):
            for command in ("SUBSCRIBE", "UNSUBSCRIBE"):
                await line.send(pack((command, self._names.channel(""))))
                reply = await line.receive()
                if isinstance(reply, ResponseError):
                    raise reply

    def give_up(self) -> None:
        """Let go of the connection, and make another one: Redis is not the one that others publish to any more."""
        self._given_up = True
        self._wake.set()

    async def close(self) -> None:
        """Close the connection."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait([task])

    def subscribe(self, room: str) -> None:
        """Hear what is published in a room, from the event loop's next turn on."""
        self._wanted[room] = asyncio.get_running_loop().create_future()
        if self._connected:
            self._look_at(room)
        else:
            self._missed.add(room)
            _fail(self._wanted[room])

    def unsubscribe(self, room: str) -> None:
        """Hear it no more."""
        confirmed = self._wanted.pop(room)
        if not confirmed.done():
            confirmed.set_result(None)
        self._missing.discard(room)
        # Nobody is there any more who would miss something.
        self._missed.discard(room)
        self._forget(room)
        if self._connected:
            self._look_at(room)
        self._look_whether_whole()

    def confirmed(self, room: str) -> "asyncio.Future[None] | None":
        """Return what is done once Redis has confirmed that a room is subscribed to, None where it shall not be.

        It is for many to wait for, and not to be cancelled. Where Redis is away, or is lost, it raises
        ClusterUnavailable.
        """
        return self._wanted.get(room)

    def _look_at(self, room: str) -> None:
        self._changed[room] = None
        self._wake.set()

    async def _use(self, line: Line) -> None:
        self._connected = True
        self._given_up = False
        self._sent.clear()
        self._unconfirmed.clear()
        self._changed = dict.fromkeys(self._wanted)
        self._missing = set(self._wanted)
        self._renew_confirmations()
        self._wake.set()
        self._look_whether_whole()
        await together(self._read(line), self._write(line), line.watch(self._ask, self._timeout))

    def _renew_confirmations(self) -> None:
        for room, confirmed in self._wanted.items():
            if confirmed.done():
                self._wanted[room] = asyncio.get_running_loop().create_future()

    def _ask(self) -> None:
        self._ping = True
        self._wake.set()

    async def _write(self, line: Line) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._given_up:
                raise ClusterUnavailable("Redis takes no writes any more")
            changed, self._changed = self._changed, {}
            new = [room for room in changed if room in self._wanted and room not in self._sent]
            gone = [room for room in changed if room not in self._wanted and room in self._sent]
            self._sent.update(new)
            self._sent.difference_update(gone)
            self._unconfirmed.update(new)
            for room in changed:
                # It was left and entered again before Redis was told.
                self._look_whether_confirmed(room)
            await self._command(line, "SUBSCRIBE", new)
            await self._command(line, "UNSUBSCRIBE", gone)
            if self._ping:
                self._ping = False
                await line.send(pack(("PING",)))

    async def _command(self, line: Line, command: str, rooms: list[str]) -> None:
        for start in range(0, len(rooms), _CHUNK):
            await line.send(pack((command, *map(self._names.channel, rooms[start : start + _CHUNK]))))

    async def _read(self, line: Line) -> None:
        until = 0.0
        while True:
            match await line.receive():
                case [b"message", bytes(channel), bytes(data)]:
                    self._deliver(self._names.room(channel), data)
                case [b"subscribe", bytes(channel), _]:
                    self._confirm(self._names.room(channel))
                case ResponseError() as error:
                    raise error
            # What has come already is received without a pause.
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + _SLICE

    def _confirm(self, room: str) -> None:
        # More than one where it was left and entered again meanwhile.
        self._unconfirmed[room] -= 1
        if not self._unconfirmed[room]:
            del self._unconfirmed[room]
        self._look_whether_confirmed(room)

    def _look_whether_confirmed(self, room: str) -> None:
        confirmed = self._wanted.get(room)
        if confirmed is not None and room in self._sent and room not in self._unconfirmed:
            if not confirmed.done():
                confirmed.set_result(None)
            self._missing.discard(room)
            self._look_whether_whole()

    def _look_whether_whole(self) -> None:
        if self._missed and self._connected and not self._missing:
            missed = frozenset(self._missed)
            self._missed.clear()
            self._on_gap(missed)

    def _lost(self) -> None:
        self._connected = False
        self._renew_confirmations()
        _fail(*self._wanted.values())
        if self._task is not None:
            self._missed.update(self._wanted)
            self._forget()


def _fail(*futures: "asyncio.Future[Any]") -> None:
    for future in futures:
        if not future.done():
            future.set_exception(ClusterUnavailable("Redis is away: the room is subscribed to when it is back"))
            # Nobody has to ask for it.
            future.exception()
