"""Stand-ins around a session, for tests without a server: a container, receivers, and a connection that records calls.

The test controls the clock. A write to a receiver that has ended fails the test, and so does a deadline that a check
leaves behind.
"""

import itertools
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any

from sockjs_tornado import ConnectionInfo, Settings, SockJSConnection
from sockjs_tornado.observe.logs import ThrottledLog
from sockjs_tornado.observe.stats import Stats
from sockjs_tornado.protocol import JSONValue, Message, PreparedMessage
from sockjs_tornado.session.callback_queue import WaitingCloses
from sockjs_tornado.session.rooms import Rooms
from sockjs_tornado.session.session import Session
from sockjs_tornado.session.states import RouterState
from sockjs_tornado.wire.time_budget import TimeBudget

IP = "192.0.2.1"


class Pause:
    """An awaitable that suspends a coroutine until the container's next iteration."""

    def __await__(self) -> Any:
        yield


class FakeContainer:
    """Keeps sessions without an event loop.

    Args:
        eager: Whether a coroutine starts at once, as eager tasks do, or in the next iteration.

    Attributes:
        time: The current time.
        open: The sessions that clients have opened and that are not closed.
        removed: The sessions that have ended, in order.
    """

    unopened_limit_reached = False

    def __init__(self, *, eager: bool = True) -> None:
        self.state = RouterState.OPEN
        self.time = 1000.0
        self.open: list[Session] = []
        self.removed: list[Session] = []
        self._eager = eager
        # Whose deadline is looked at, and when: a later one is found then, an earlier one has to be told of.
        self._deadlines: dict[Any, float] = {}
        self._soon: list[Callable[[], None]] = []
        self._running: list[Coroutine[Any, Any, None]] = []
        self.labels = itertools.count(1)
        self.log = ThrottledLog(self.now)
        self.rooms = Rooms()
        # What takes how long depends on the machine.
        self.callback_budget = TimeBudget(math.inf)
        self.waiting_closes = WaitingCloses()

    def now(self) -> float:
        return self.time

    def schedule(self, owner: Any) -> None:
        if owner.due < self._deadlines.get(owner, math.inf):
            self._deadlines[owner] = owner.due

    def cancel(self, owner: Any) -> None:
        self._deadlines.pop(owner, None)

    def postpone(self, owner: Any, now: float) -> bool:
        return False

    def stall_duration(self, now: float) -> float:
        return 0.0

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._running.append(coroutine)
        if self._eager:
            self._step(coroutine)

    def session_opened(self, session: Session) -> None:
        assert session not in self.open
        self.open.append(session)

    def session_closed(self, session: Session) -> None:
        self.open.remove(session)

    def on_open_finished(self, session: Session) -> None:
        pass

    def forget(self, session: Session) -> None:
        assert session in self.removed
        self.rooms.forget(session)

    def remove(self, session: Session) -> None:
        assert session not in self.removed
        self.cancel(session)
        self.removed.append(session)

    def get(self, session_id: str) -> Session | None:
        return None

    @property
    def due(self) -> float:
        """Time of the next deadline, infinity for none."""
        return min(self._deadlines.values(), default=math.inf)

    @property
    def is_idle(self) -> bool:
        """Whether no callback is scheduled or running."""
        return not self._soon and not self._running

    def advance(self, seconds: float) -> None:
        """Advance the clock, and check the owners whose deadlines have passed."""
        end = self.time + seconds
        while self.due <= end:
            owner = min(self._deadlines, key=self._deadlines.__getitem__)
            self.time = max(self.time, self._deadlines[owner])
            if owner.due <= self.time:
                owner.check(self.time)
            if owner in self._deadlines:
                assert owner.due > self.time, "the check has not moved its deadline"
                del self._deadlines[owner]
                self.schedule(owner)
        self.time = end

    def turn(self) -> None:
        """Run one iteration of the event loop."""
        callbacks, self._soon = self._soon, []
        for callback in callbacks:
            callback()
        for coroutine in tuple(self._running):
            self._step(coroutine)

    def _step(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            coroutine.send(None)
        except StopIteration:
            self._running.remove(coroutine)


class Receiver:
    """A receiver without a transport.

    Args:
        session: Its session.
        limit: The number of frames that it accepts: one for a poll, more for a stream, infinity for a websocket.
        binary: Whether it accepts bytes, as the raw websocket does.

    Attributes:
        frames: Everything written: frames and prepared messages as they are, messages as a list, a close frame as code
            and reason.
        ended: Whether nothing more may be written.
        gone: Whether the client has disconnected, unnoticed by the session.
        full: Whether the next write fills the buffer.
        reading: Whether it reads from the client.
        recycled: Whether the session has recycled it, which ends it unless it is a websocket's.
        unsent: Number of bytes in its buffer.
    """

    def __init__(self, session: Session, limit: float = math.inf, *, binary: bool = False) -> None:
        self.binary = binary
        self.frames: list[Any] = []
        self.ended = False
        self.gone = False
        self.full = False
        self.reading = True
        self.recycled = False
        self.unsent = 0
        self._session = session
        self._left = limit

    def attach(self, ip: str = IP) -> "Receiver":
        """Attach to the session."""
        self._session._attach(self, ip)
        return self

    def send_frame(self, frame: str) -> None:
        self._write(frame)

    def send_messages(self, messages: Sequence[Message | JSONValue]) -> None:
        assert messages
        self._write(list(messages))

    def send_prepared(self, message: PreparedMessage) -> None:
        self._write(message)

    def close(self, code: int, reason: str) -> None:
        assert not self.ended, "closed after its end"
        self.ended = True
        self.frames.append((code, reason))

    def is_disconnected(self) -> bool:
        return self.gone

    def abort(self) -> None:
        assert self.gone, "aborted while its client was there"
        self.ended = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def recycle(self) -> None:
        assert not self.ended, "recycled after its end"
        self.recycled = True
        if math.isfinite(self._left):
            self.ended = True
            self._session._detach(self)

    def cut(self, *why: Any) -> None:
        """Report that the connection was lost, or that the close is complete."""
        self.ended = True
        self._session._receiver_lost(self, *why)

    def drain(self) -> None:
        """Report that the buffer has room again."""
        self.full = False
        self._session._resume_sending(self)

    def take(self) -> list[Any]:
        """Return the frames written since the previous call."""
        frames, self.frames = self.frames, []
        return frames

    def _write(self, frame: Any) -> None:
        assert not self.ended, f"{frame!r} was written to a receiver that has ended"
        self.frames.append(frame)
        self._left -= 1
        if self._left <= 0:
            self.ended = True
            self._session._detach(self)
        elif self.full:
            self._session._pause_sending(self)


class Notes(SockJSConnection):
    """A connection that records its callbacks, and then runs a function of the test.

    Args:
        session: Its session.
        acts: A function for each callback, by name; its arguments are the connection and those of the callback.

    Attributes:
        calls: ``"open"``, each message, and the close code and reason.
        info: The argument of ``on_open``.
    """

    def __init__(self, session: Session, acts: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(session)
        self.calls: list[Any] = []
        self._acts = acts

    def on_open(self, info: ConnectionInfo) -> Any:
        self.info = info
        self.calls.append("open")
        return self._act("on_open", info)

    def on_message(self, message: Message) -> Any:
        self.calls.append(message)
        return self._act("on_message", message)

    def on_dropped(self, count: int) -> Any:
        return self._act("on_dropped", count)

    def on_close(self) -> Any:
        self.calls.append((self.close_code, self.close_reason))
        return self._act("on_close")

    def _act(self, name: str, *what: Any) -> Any:
        act = self._acts.get(name)
        return act(self, *what) if act is not None else None


def make_info(**fields: Any) -> ConnectionInfo:
    """Return the information about a request."""
    usual = {"ip": IP, "uri": "/chat/0/s/xhr", "prefix": "/chat", "transport": "xhr", "headers": {}, "cookies": {}}
    return ConnectionInfo(**usual | fields)


class KeptSession(Session):
    """A session that keeps its connection after the close, for the test."""

    __slots__ = ("connection",)

    def __init__(self, make: Callable[[Session], Any], *others: Any) -> None:
        super().__init__(make, *others)
        self.connection: Any = self.conn


def make_session(
    container: Any,
    session_id: str | None = "secret-id",
    *,
    kind: Callable[[Session], Any] | None = None,
    acts: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
    **settings: Any,
) -> KeptSession:
    """Return a session with a router of its own.

    Args:
        container: Its container.
        session_id: None for a websocket's session.
        kind: The factory of the connection; :class:`Notes` by default.
        acts: The functions that :class:`Notes` runs in its callbacks.
        settings: The settings of the router.
    """
    server = SimpleNamespace(settings=Settings(**settings), container=container, stats=Stats(list))
    session = KeptSession(kind or (lambda session: Notes(session, acts)), server, session_id, make_info())
    session._is_registered = session_id is not None
    return session
