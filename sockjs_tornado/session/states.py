"""The states of sessions, their callbacks, and routers."""

from enum import IntEnum
from typing import Final


class SessionState(IntEnum):
    """State of a session. For the application it is closed from ``CLOSING`` on."""

    #: Created; no receiver has been attached yet.
    CONNECTING = 0
    #: The first receiver was attached; ``on_open`` is called, after the open frame. A raw websocket has no such frame.
    OPEN = 1
    #: Closed for the application. A websocket's session remains until its connection has ended; any other for
    #: ``disconnect_delay``, so that a later poll gets the close frame.
    CLOSING = 2
    #: Ended and removed from its router.
    CLOSED = 3


# The members as constants: before Python 3.12, each `SessionState.OPEN` calls methods of the enumeration.
CONNECTING, OPENED, CLOSING, CLOSED = SessionState


# A session becomes OPEN when its first receiver is attached, or CLOSED if it is closed or times out before. It becomes
# CLOSING on close(), on a disconnect or at its deadline, and CLOSED when a websocket has ended, when the deadline for
# fetching the close frame has passed, or, while the router is closing, as soon as the client needs no close frame.
TRANSITIONS: Final = {
    CONNECTING: (OPENED, CLOSED),
    OPENED: (CLOSING,),
    CLOSING: (CLOSED,),
    CLOSED: (),
}


# States of the callbacks of a session: UNOPENED, then any of the next three, then OVER. Plain integers, because C
# compares the field with an integer's identity.
UNOPENED: Final = 3  # on_open was not called yet
IDLE: Final = 0  # no callback runs, and no event is queued
RUNNING: Final = 1  # a callback other than on_dropped runs or is scheduled; then run those of the queued events
IN_DROPPED: Final = 2  # the same for on_dropped; messages dropped meanwhile are reported with those dropped later
OVER: Final = 4  # on_close has ended


class RouterState(IntEnum):
    """State of a router. It never goes back; ``close()`` without ``drain()`` skips ``DRAINING``."""

    #: Opens sessions.
    OPEN = 0
    #: ``drain()`` was called: no session is opened, and the existing ones are closed in batches.
    DRAINING = 1
    #: All sessions are closed. Only requests of clients that may not know that are served, and after ``drain()`` also
    #: those for sessions of other processes.
    CLOSING = 2
    #: No request is served.
    CLOSED = 3
