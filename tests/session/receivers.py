"""Sessions in a given state, and receivers that attach to them."""

import math
from typing import Any

from doubles import FakeContainer, KeptSession, Notes, Receiver, make_session

from sockjs_tornado.session.inbox import Inbox
from sockjs_tornado.session.outbox import Outbox
from sockjs_tornado.session.session import Session, SessionState

CONNECTING, OPEN, CLOSING, CLOSED = SessionState

GO_AWAY = (3000, "Go away!")
STILL_OPEN = (2010, "Another connection still open")
INTERRUPTED = (1002, "Connection interrupted")
TIMED_OUT = (1006, "Session timed out")
DISCONNECT_DELAY = 5
HEARTBEAT_DELAY = 25

#: Frames that a receiver has room for.
POLL, STREAM = 1, math.inf


def stream(session: Session, limit: float = STREAM) -> Receiver:
    """Return a receiver that has just attached, its first frame, if any, taken."""
    receiver = Receiver(session, limit).attach()
    receiver.take()
    return receiver


def poll(session: Session) -> list[Any]:
    """Return what a poll gets at once."""
    return Receiver(session, POLL).attach().frames


def polled(container: FakeContainer, **more: Any) -> KeptSession:
    """Return a session that a poll has opened."""
    session = make_session(container, **more)
    assert poll(session) == ["o"]
    return session


def in_state(state: SessionState, container: FakeContainer) -> KeptSession:
    """Return a session that events have brought into a state."""
    session = make_session(container)
    if state is CLOSED:
        session.close()
    elif state is not CONNECTING:
        stream(session).cut()
        if state is OPEN:
            session = polled(container)
    assert session.state is state
    return session


def everything_of(session: KeptSession) -> dict[str, Any]:
    """Return all that a session knows, to see that nothing has changed."""
    names = {*Session.__slots__, *Inbox.__slots__, *Outbox.__slots__} - {"__dict__", "__weakref__"}
    values = {name: getattr(session, name) for name in names}
    return values | {"_outbox": list(session._outbox), "calls": list(session.connection.calls)}


def welcome(conn: Notes, info: Any) -> None:
    conn.send("welcome")


def echo(conn: Notes, message: str) -> None:
    conn.send(message)
