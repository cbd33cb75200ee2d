"""Where a router keeps its sessions, with every deadline behind one timer."""

import asyncio
import contextlib
import itertools
import logging
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from ..observe.logs import ThrottledLog, log_end
from ..observe.stats import Stats
from ..settings import Settings
from ..wire.connection import READ_BUDGET, READ_SIZE, WriteQueue
from .addresses import network_of
from .deadlines import BATCH_SIZE, Deadlines
from .ended import Ended, EndedSessions
from .grace import timeout
from .ports import Cluster
from .rooms import Rooms
from .session import Session, SessionState
from .turns import CALLBACK_BUDGET, Turns

__all__ = ["SessionContainer", "check_seconds"]


logger = logging.getLogger(__name__)


#: Seconds beyond ``disconnect_delay`` that clients have at the end.
GRACE: Final = 10

#: Seconds between two batches of those that are closed over some time.
_STEP = 0.1


class SessionContainer:
    """The sessions of one router, on one event loop.

    Args:
        settings: Of the router.
        stats: Of the router.
        cluster: Of the router; its rooms, and the numbers of its sessions, are those of all its routers.

    Attributes:
        log: Where warnings and errors go.
        rooms: The rooms that sessions are in.
        stats: The counters.
        turns: How callbacks share the turns of the event loop.
        closing: Whether :meth:`close` was called; no session may be added from then on.
        draining: Whether :meth:`drain` was called; no client may open a session from then on.
        read_buffer: Memory that connections read into.
        read_budget: Seconds that decoding what one connection has read may take of a turn of the event loop.
        write_queue: Connections that have something to write.
        on_removed: Called with the id of a session that requests find no more.
    """

    now = staticmethod(time.monotonic)

    def __init__(self, settings: Settings, stats: Stats, cluster: Cluster | None = None) -> None:
        self.stats = stats
        self.log = ThrottledLog(self.now)
        self.rooms = Rooms() if cluster is None else cluster.rooms
        shortest = min(
            settings.disconnect_delay,
            settings.heartbeat_delay,
            settings.websocket_ping_interval or math.inf,
            settings.websocket_ping_timeout or math.inf,
            settings.callback_timeout or math.inf,
        )
        resolution = min(max(shortest / 20, 0.005), 0.1)
        interval = min(max(shortest / 10, 0.05), 1)
        self._deadlines = Deadlines(resolution, interval, self.now, self.log, stats)
        self.schedule = self._deadlines.schedule
        self.cancel = self._deadlines.cancel
        self.postpone = self._deadlines.postpone
        self.stall_duration = self._deadlines.stall_duration
        self._by_id: dict[str, Session] = {}
        self._ended = EndedSessions(self.now)
        self.ended = self._ended.get
        # Each with the address that it was counted under.
        self._all: dict[Session, str] = {}
        self._settings = settings
        self._by_ip: Counter[str] = Counter()
        # Those whose on_open is not through, channels among them; it may run on after the client has left.
        self._opening: set[Session] = set()
        # Those that are over, channels among them, while a callback still runs; each with its address.
        self._lingering: dict[Session, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._labels = itertools.count(1) if cluster is None else cluster.labels
        self._emptied: asyncio.Event | None = None
        self._patience = settings.disconnect_delay
        self.read_buffer = bytearray(READ_SIZE)
        self.read_budget = READ_BUDGET
        self.write_queue = WriteQueue(stats)
        self.turns = Turns(CALLBACK_BUDGET)
        self.on_removed: Callable[[str], None] | None = None
        self.closing = False
        self.draining = False

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._all))

    def add(self, session: Session) -> None:
        """Keep a session until it is over; one without an id cannot be found by :meth:`get`."""
        if session.state is SessionState.CLOSED:
            return  # by the connection's own constructor
        ip = network_of(session.conn_info.ip)
        self._all[session] = ip
        self._by_ip[ip] += 1
        self._opening.add(session)
        if session.session_id is not None:
            self._by_id[session.session_id] = session
            # The application may make a session under any id.
            self._ended.discard(session.session_id)

    def get(self, session_id: str) -> Session | None:
        """Return the session that a client calls ``session_id``, None where there is none."""
        return self._by_id.get(session_id)

    def unregister(self, session_id: str) -> Session | None:
        """Have requests find a session no more, and return it."""
        return self._by_id.pop(session_id, None)

    def remove(self, session: Session) -> None:
        """Forget a session."""
        self.cancel(session)
        ip = self._all.pop(session, None)
        if ip is not None:
            self._discount(ip)
        if session.session_id is not None and self._by_id.get(session.session_id) is session:
            del self._by_id[session.session_id]
            if session.opened_at:
                ended = Ended(
                    session.close_code or 0,
                    session.close_reason or "",
                    network_of(session.conn_info.ip),
                    session._origin_hash,
                )
                self._ended.add(session.session_id, ended)
            if self.on_removed is not None:
                self.on_removed(session.session_id)
        self._look_whether_empty()

    def add_lingering(self, session: Session) -> None:
        """Count a session, or a channel, that was removed while one of its callbacks still runs."""
        self._lingering[session] = ip = network_of(session.conn_info.ip)
        self._by_ip[ip] += 1

    def remove_lingering(self, session: Session) -> None:
        """Count it no more: the last of its callbacks has ended."""
        ip = self._lingering.pop(session, None)
        if ip is not None:
            self._discount(ip)

    def _discount(self, ip: str) -> None:
        self._by_ip[ip] -= 1
        if not self._by_ip[ip]:
            del self._by_ip[ip]

    def session_opened(self, session: Session) -> None:
        """Count a session that a client has opened."""
        if session in self._all:
            self.stats.session_opened(session.transport_name)
        else:
            # A channel within a session.
            self._opening.add(session)

    def session_closed(self, session: Session) -> None:
        """Count the end of a session, and log it."""
        if session in self._all:
            self.stats.session_closed(session.transport_name, session.close_code or 0)
            log_end(session, self.now() - session.opened_at)

    def on_open_finished(self, session: Session) -> None:
        """Hear that ``on_open`` of a session is through, or never begins."""
        self._opening.discard(session)

    def limit_reached(self, ip: str) -> str | None:
        """Return the name of the limit that keeps a new session from ``ip`` out, None where there is room for it."""
        settings = self._settings
        if self.draining:
            return "draining"
        if 0 < settings.max_sessions <= len(self._all) + len(self._lingering):
            return "max_sessions"
        if 0 < settings.max_sessions_per_ip <= self._by_ip[network_of(ip)]:
            return "max_sessions_per_ip"
        if self.unopened_limit_reached:
            return "max_unopened_sessions"
        return None

    @property
    def unopened_limit_reached(self) -> bool:
        """Whether there are as many sessions and channels whose ``on_open`` still runs as there may be."""
        return 0 < self._settings.max_unopened_sessions <= len(self._opening)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` at the event loop's next turn."""
        asyncio.get_running_loop().call_soon(callback)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as a task that :meth:`close` waits for.

        From Python 3.12 on it starts at once, and where it awaits nothing that is all there is to it.
        """
        loop = asyncio.get_running_loop()
        if sys.version_info >= (3, 12):
            task = asyncio.Task(coroutine, loop=loop, eager_start=True)
        else:
            task = loop.create_task(coroutine)
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def next_label(self) -> str:
        """Return a name for a session that no other one had."""
        return str(next(self._labels))

    def connection_opened(self) -> None:
        """Count a connection that was taken over."""
        self._connections += 1

    def connection_closed(self) -> None:
        """Count it no more."""
        self._connections -= 1
        self._look_whether_empty()

    def _look_whether_empty(self) -> None:
        if self._emptied is not None and not self._all and not self._connections:
            self._emptied.set()

    async def drain(self, seconds: float, code: int, reason: str) -> None:
        """Let no new session in, and close those there are over so many seconds."""
        self.draining = True
        sessions = list(self)
        # Who came together, and would come again together, is spread.
        random.shuffle(sessions)
        await self._close_all(sessions, seconds, code, reason)

    async def _close_all(self, sessions: list[Session], seconds: float, code: int, reason: str) -> None:
        """Close sessions, not so many at once that others would have to wait for it."""
        batch = BATCH_SIZE if not seconds else max(1, min(BATCH_SIZE, math.ceil(len(sessions) * _STEP / seconds)))
        pause = seconds * batch / len(sessions) if sessions else 0
        for start in range(0, len(sessions), batch):
            if start:
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            for session in sessions[start : start + batch]:
                # What a client has sent, and was told had arrived, is still heard.
                session.close(code, reason, discard=False)

    async def close(self, code: int, reason: str) -> None:
        """Close every session and wait until each client has its close frame or is out of time.

        That is at most ``disconnect_delay`` for a client that is between two polls. Callbacks that are still running
        afterwards have as long again, and are cancelled then.
        """
        self.closing = True
        await self._close_all(list(self), 0, code, reason)
        if self._emptied is None:
            self._emptied = asyncio.Event()
        self._look_whether_empty()
        # A client that takes its last bytes a few at a time is not waited for without end.
        with contextlib.suppress(TimeoutError):
            async with timeout(self._patience + GRACE):
                await self._emptied.wait()
        current = asyncio.current_task()
        with contextlib.suppress(TimeoutError):
            async with timeout(self._patience):
                # A callback that ends may be followed by on_close.
                while tasks := self._tasks - {current}:
                    await asyncio.wait(tasks)
        if tasks := self._tasks - {current}:
            logger.warning("%d callbacks did not end, and were cancelled", len(tasks))
            for task in tasks:
                task.cancel()
            # What follows on their end, on_close for one, has a turn.
            await asyncio.wait(tasks, timeout=GRACE)
        self._deadlines.close()

    @property
    def open_sessions(self) -> list[Session]:
        """The sessions that the application has accepted and that are not closed."""
        return [session for session in self._all if session.state is SessionState.OPEN and session.is_accepted]


def check_seconds(name: str, value: float) -> None:
    """Raise ValueError where ``value`` is no number of seconds."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: got {value!r}, takes a number of seconds, 0 or more")
