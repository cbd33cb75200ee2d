"""The sessions of a router: lookup by id, limits, deadlines and tasks."""

import asyncio
import contextlib
import itertools
import logging
import math
import random
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Final

from ..observe.logs import ThrottledLog, log_end
from ..observe.stats import Stats
from ..settings import Settings
from ..wire.connection import READ_BUDGET, READ_SIZE
from ..wire.time_budget import TimeBudget
from ..wire.write_queue import WriteQueue
from .callback_queue import WaitingCloses
from .deadlines import BATCH_SIZE, Deadlines
from .ended import Ended, EndedSessions
from .grace import timeout
from .ports import Cluster
from .requester import network_of
from .rooms import Rooms
from .session import Session
from .slow_callbacks import slow_after
from .states import CLOSED, CLOSING, RouterState

logger = logging.getLogger(__name__)

#: Seconds that callbacks may take of one iteration of the event loop; the remaining messages wait for the next one.
CALLBACK_TIME: Final = 0.010

#: Seconds that :meth:`SessionContainer.close` adds to ``disconnect_delay`` before it stops waiting for clients.
CLOSE_MARGIN: Final = 10

#: Minimum interval in seconds between two batches of sessions that are closed.
_BATCH_INTERVAL = 0.1

_ROUTER_CLOSING: Final = RouterState.CLOSING


def _with_channels(sessions: Iterable[Session]) -> Iterator[Session]:
    """Yield sessions, each after those of its channels."""
    for session in sessions:
        if getattr(session.conn, "_is_carrier", False):
            yield from _with_channels(session.conn._channel_sessions())
        yield session


class SessionContainer:
    """The sessions of one router, on one event loop.

    Attributes:
        log: The log for warnings and errors.
        rooms: The rooms of the sessions, shared with the other routers of the cluster.
        by_id: The sessions that :meth:`get` finds.
        labels: Unique numbers for the labels of sessions.
        stats: The router's counters.
        callback_budget: Limits the time that callbacks may take of one iteration of the event loop.
        waiting_closes: The sessions that an ``on_close`` has closed.
        state: The router's state, which only :meth:`advance` changes.
        restarting: Whether :meth:`drain` was called: requests get 503 instead of 404, since another process will serve.
        read_buffer: Buffer that all connections read into.
        read_budget: Limits the time that decoding may take of one iteration of the event loop.
        write_queue: Connections that have data to write.
        resolution: Seconds by which a deadline may be checked late.
        on_removed: Called with the id of a session that has ended, unless it was unregistered.
    """

    now = staticmethod(time.monotonic)

    def __init__(self, settings: Settings, stats: Stats, cluster: Cluster | None = None) -> None:
        # At most 29 attributes: more of them would be kept in a dict, and opening a websocket would take 1 % longer.
        self.stats = stats
        self.log = ThrottledLog()
        self.rooms = Rooms() if cluster is None else cluster.rooms
        shortest = min(
            settings.disconnect_delay,
            settings.heartbeat_delay,
            settings.websocket_ping_interval or math.inf,
            settings.websocket_ping_timeout or math.inf,
            settings.callback_timeout or math.inf,
        )
        self.resolution = min(max(shortest / 20, 0.005), 0.1)
        interval = min(max(shortest / 10, 0.05), 1)
        self._deadlines = Deadlines(self.resolution, interval, self.now, self.log)
        self.schedule = self._deadlines.schedule
        self.cancel = self._deadlines.cancel
        self.postpone = self._deadlines.postpone
        self.stall_duration = self._deadlines.stall_duration
        self.by_id: dict[str, Session] = {}
        self._ended = EndedSessions(self.now)
        self.ended = self._ended.get
        # Sessions, and the network under which each is counted.
        self._all: dict[Session, str] = {}
        self._settings = settings
        # Not a Counter, whose methods for new and deleted keys are written in Python.
        self._by_ip: dict[str, int] = {}
        # Sessions and channels whose on_open has not finished; on_open may outlive the client.
        self._opening: set[Session] = set()
        # Sessions and channels that have ended while a callback still runs, each with its network.
        self._lingering: dict[Session, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self.labels = itertools.count(1) if cluster is None else cluster.labels
        self._emptied = asyncio.Event()
        self.read_buffer = bytearray(READ_SIZE)
        self.read_budget = TimeBudget(READ_BUDGET)
        self.write_queue = WriteQueue(stats)
        self.callback_budget = TimeBudget(CALLBACK_TIME, slow_after(settings))
        self.waiting_closes = WaitingCloses()
        self.on_removed: Callable[[str], None] | None = None
        self.state = RouterState.OPEN
        self.restarting = False

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._all))

    def add(self, session: Session, *, register: bool) -> None:
        """Keep a session until it ends. If ``register`` is set, :meth:`get` finds it by its id."""
        if session.state is CLOSED:
            return  # closed by the constructor of its connection
        ip = network_of(session.conn_info.ip)
        self._all[session] = ip
        self._by_ip[ip] = self._by_ip.get(ip, 0) + 1
        self._opening.add(session)
        if register and session.session_id is not None:
            session._is_registered = True
            self.by_id[session.session_id] = session
            # An application may create a session with any id.
            self._ended.discard(session.session_id)

    def get(self, session_id: str) -> Session | None:
        """Return the session with this id, or None."""
        return self.by_id.get(session_id)

    def unregister(self, session_id: str) -> Session | None:
        """Remove the id, so that requests no longer find the session; return the session, or None if there is none."""
        return self.by_id.pop(session_id, None)

    def remove(self, session: Session) -> None:
        """Remove a session or channel that has ended. It counts against the limits until :meth:`forget` is called."""
        self.cancel(session)
        ip = self._all.pop(session, None)
        if ip is None:
            # A channel, which has an entry only while its last callbacks run.
            ip = network_of(session.conn_info.ip)
            self._by_ip[ip] = self._by_ip.get(ip, 0) + 1
        self._lingering[session] = ip
        if session.session_id is not None and self.by_id.get(session.session_id) is session:
            del self.by_id[session.session_id]
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
        if self.state >= _ROUTER_CLOSING:
            self._check_empty()

    def forget(self, session: Session) -> None:
        """Forget a removed session or channel, because its last callback has ended or will never be called."""
        self._opening.discard(session)
        self.rooms.forget(session)
        ip = self._lingering.pop(session)
        left = self._by_ip[ip] - 1
        if left:
            self._by_ip[ip] = left
        else:
            del self._by_ip[ip]

    def session_opened(self, session: Session) -> None:
        """Count a session that was opened."""
        if session in self._all:
            self.stats.session_opened(session.conn_info.transport)
        else:
            # A multiplexed channel, which has no entry of its own.
            self._opening.add(session)

    def session_closed(self, session: Session) -> None:
        """Count and log the end of a session."""
        if session in self._all:
            code = session.close_code or 0
            transport = session.conn_info.transport
            self.stats.session_closed(transport, code)
            log_end(session.label, transport, code, self.now() - session.opened_at)

    def on_open_finished(self, session: Session) -> None:
        """Stop counting a session as unopened, because its ``on_open`` has finished."""
        self._opening.discard(session)

    def limit_reached(self, ip: str) -> str | None:
        """Return the name of the limit that rejects a new session from ``ip``, or None if it is allowed."""
        settings = self._settings
        if self.restarting:
            return "draining"
        if 0 < settings.max_sessions <= len(self._all) + len(self._lingering):
            return "max_sessions"
        if 0 < settings.max_sessions_per_ip <= self._by_ip.get(network_of(ip), 0):
            return "max_sessions_per_ip"
        if 0 < settings.max_unopened_sessions <= len(self._opening):
            return "max_unopened_sessions"
        return None

    @property
    def unopened_limit_reached(self) -> bool:
        """Whether ``max_unopened_sessions`` is reached."""
        return 0 < self._settings.max_unopened_sessions <= len(self._opening)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the next iteration of the event loop."""
        asyncio.get_running_loop().call_soon(callback)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as a task that :meth:`close` waits for.

        From Python 3.12 on it starts at once, and needs no iteration of the event loop if it never suspends.
        """
        loop = asyncio.get_running_loop()
        if sys.version_info >= (3, 12):  # pragma: no cover - depends on Python
            task = asyncio.Task(coroutine, loop=loop, eager_start=True)
        else:
            task = loop.create_task(coroutine)
        if not task.done():  # pragma: no branch - depends on Python
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def continue_on_next_loop(self, previous: asyncio.AbstractEventLoop) -> None:
        """Continue on the running event loop, because the previous one has ended, and its connections with it."""
        self._deadlines.close()
        self._connections = 0
        for session in self:
            # What waits for these belongs to the previous loop, too.
            session._outbox_waiters = session._unsent_response = None
            session._inbox_waiters = ()
            if session._receiver is not None:
                # No callback below may write to it.
                session._pause_sending(session._receiver)
        if previous.is_closed():
            # Its callbacks never end. Those of a loop that was only stopped may end when it runs again.
            self._tasks.clear()
            # Each once, since callbacks that begin now run on the new loop.
            for session in dict.fromkeys(_with_channels([*self, *self._lingering])):
                session._callbacks.abandon()
        for session in self:
            if session._receiver is not None:
                session._receiver_lost(session._receiver)
            elif session.state is CLOSING and not session._is_registered:
                # A websocket whose closing handshake had not ended.
                session._release()
            elif session.state is not CLOSED:
                self.schedule(session)

    def connection_opened(self) -> None:
        """Count a connection that was taken over from the HTTP server."""
        self._connections += 1

    def connection_closed(self) -> None:
        """Stop counting a connection, because it is closed."""
        # 0 if it is one of a previous event loop that runs again.
        self._connections = max(0, self._connections - 1)
        if self.state >= _ROUTER_CLOSING:
            self._check_empty()

    def _check_empty(self) -> None:
        """Wake :meth:`close` if nothing is left."""
        if not self._all and not self._connections:
            self._emptied.set()

    def advance(self, state: RouterState) -> None:
        """Set the router's state, unless it is a later one already."""
        self.state = max(self.state, state)

    def _check_thread(self, method: str) -> None:
        """Raise RuntimeError if there are sessions and this is not the thread of their event loop."""
        for session in self._all:
            session._check_thread(f"asyncio.run_coroutine_threadsafe(router.{method}(), router.io_loop.asyncio_loop)")
            return

    async def drain(self, seconds: float, code: int, reason: str) -> None:
        """Reject new sessions, and close the existing ones over ``seconds``."""
        self._check_thread("drain")
        self.restarting = True
        self.advance(RouterState.DRAINING)
        sessions = list(self)
        # Clients that connected together would reconnect together.
        random.shuffle(sessions)
        await self._close_all(sessions, seconds, code, reason)

    async def _close_all(self, sessions: list[Session], seconds: float, code: int, reason: str) -> None:
        """Close sessions in batches, so that the event loop is not blocked."""
        batch = BATCH_SIZE
        if seconds:
            batch = max(1, min(batch, math.ceil(len(sessions) * _BATCH_INTERVAL / seconds)))
        pause = seconds * batch / len(sessions) if sessions else 0
        for start in range(0, len(sessions), batch):
            if start:
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            for session in sessions[start : start + batch]:
                # The server has acknowledged the client's messages: deliver them.
                session.close(code, reason, discard=False)

    async def close(self, code: int, reason: str) -> None:
        """Close every session and wait until each client has received its close frame or its timeout has passed.

        A client that is between two polls has ``disconnect_delay`` seconds. Callbacks that are still running afterwards
        have as long again, and are then cancelled.
        """
        self._check_thread("close")
        self.advance(RouterState.CLOSING)
        await self._close_all(list(self), 0, code, reason)
        self._emptied.clear()
        self._check_empty()
        # A client may read its last bytes arbitrarily slowly.
        with contextlib.suppress(TimeoutError):
            async with timeout(self._settings.disconnect_delay + CLOSE_MARGIN):
                await self._emptied.wait()
        current = asyncio.current_task()
        with contextlib.suppress(TimeoutError):
            async with timeout(self._settings.disconnect_delay):
                # A callback that has ended may be followed by on_close.
                while tasks := self._tasks - {current}:
                    await asyncio.wait(tasks)
        if tasks := self._tasks - {current}:
            logger.warning("Cancelled %d callbacks that did not end in time", len(tasks))
            for task in tasks:
                task.cancel()
            # Let them end, and let on_close run.
            await asyncio.wait(tasks, timeout=CLOSE_MARGIN)
        for session in list(self):
            # If the event loop has stalled, the deadline for fetching the close frame may be later than the timeouts
            # above, and it will not be checked any more. A websocket's session ends with its connection.
            if session._is_registered and session.state is CLOSING:
                session._release()
        self._deadlines.close()
