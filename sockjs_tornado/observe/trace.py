"""Showing what every session does: its transitions and its frames, a line each.

``SOCKJS_TRACE=1`` in the environment writes them to standard error, with the beginnings of what is said::

    1 websocket receiver attached
    1 websocket CONNECTING becomes OPEN
    1 websocket < o
    1 websocket > hello
    1 websocket < a["hello"]
    1 websocket receiver lost 1006 Connection lost
    1 websocket ends 1006 Connection lost
    1 websocket OPEN becomes CLOSING

Without it, ``logging.getLogger("sockjs_tornado.observe.trace").setLevel(logging.DEBUG)`` has the same lines written to
the log, with lengths in place of contents: no message of anybody is logged. Sessions that begin after that are traced.
Those that are not traced cost nothing.
"""

import logging
import os
from collections.abc import Sequence
from typing import Any, Final

from ..protocol import Message, Outgoing, PreparedMessage, messages_frame
from ..session.ports import Receiver
from ..session.session import Session, SessionState
from .logs import session_fields

__all__ = ["traced"]

logger = logging.getLogger(__name__)

#: Characters of a line beyond which what is said is cut.
_WIDTH: Final = 100

_TO_TERMINAL: Final = os.environ.get("SOCKJS_TRACE", "").lower() not in ("", "0", "no", "off", "false")

if _TO_TERMINAL:
    _handler = logging.StreamHandler()
    _handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S"))
    logger.addHandler(_handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
elif logger.level == logging.NOTSET:
    # Not even where all of an application's debugging is switched on.
    logger.setLevel(logging.INFO)


# As many as there are classes of sessions: one, mostly.
_classes: Final[dict[type[Session], type[Session]]] = {}


def traced(session_class: type[Session]) -> type[Session]:
    """Return ``session_class``, or one that does the same and is traced, where somebody wants to see it."""
    if not logger.isEnabledFor(logging.DEBUG):
        return session_class
    found = _classes.get(session_class)
    if found is None:
        found = _classes[session_class] = type(session_class.__name__, (_Traced, session_class), {"__slots__": ()})
    return found


def _shown(text: str) -> str:
    """Return what may be shown of something said."""
    if not _TO_TERMINAL:
        return f"({len(text)} characters)"
    # Control characters could do things to a terminal.
    text = ascii(text)[1:-1] if not text.isprintable() else text
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}... ({len(text)} characters)"


def _said(code: int | None = None, reason: str = "") -> str:
    """Return what may be shown of a close code and its reason."""
    return "" if code is None else f" {code} {_shown(reason)}"


class _Traced(Session):
    """Writes a line for each thing that happens to it."""

    __slots__ = ()

    def trace(self, what: str) -> None:
        """Write a line."""
        transport = self.conn_info.transport
        logger.debug("%s %s %s", self.label, transport, what, extra=session_fields(self))

    def _set_state(self, state: SessionState) -> None:
        before = self.state
        super()._set_state(state)
        self.trace(f"{before.name} becomes {state.name}")

    def _attach(self, receiver: Receiver, ip: str, origin: str | None = "") -> None:
        """Take a receiver, and see what is written to it."""
        self.trace("receiver attached")
        super()._attach(_TracedReceiver(receiver, self), ip, origin)

    def _detach(self, receiver: Receiver) -> None:
        """Hear that a receiver is done."""
        self.trace("receiver detached")
        super()._detach(self._current(receiver))

    def _receiver_lost(self, receiver: Receiver, *why: Any) -> None:
        """Hear that a receiver was cut off."""
        current = self._current(receiver)
        # What is told of one that was let go before is its end.
        if current is self._receiver:
            self.trace(f"receiver lost{_said(*why)}")
        super()._receiver_lost(current, *why)

    def _pause_sending(self, receiver: Receiver) -> None:
        """Hear that the receiver's buffer is full."""
        self.trace("receiver full")
        super()._pause_sending(self._current(receiver))

    def _resume_sending(self, receiver: Receiver) -> None:
        """Hear that the receiver's buffer has drained."""
        self.trace("receiver drained")
        super()._resume_sending(self._current(receiver))

    def _end(self, code: int, reason: str, *, discard: bool) -> None:
        self.trace(f"ends{_said(code, reason)}")
        super()._end(code, reason, discard=discard)

    def _receive(self, messages: Sequence[Message]) -> None:
        """Hand the client's messages to the application."""
        for message in messages:
            self.trace(f"> {_shown(message if isinstance(message, str) else repr(message))}")
        super()._receive(messages)

    def _current(self, receiver: Receiver) -> Receiver:
        """Return what was attached in place of ``receiver``."""
        current = self._receiver
        return current if isinstance(current, _TracedReceiver) and current.receiver is receiver else receiver


class _TracedReceiver:
    """A receiver whose frames are seen."""

    def __init__(self, receiver: Receiver, session: _Traced) -> None:
        self.receiver = receiver
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self.receiver, name)

    def recycle(self) -> None:
        """Have the client ask anew."""
        self._session.trace("receiver recycled")
        self.receiver.recycle()

    def send_frame(self, frame: str) -> None:
        """Write a frame."""
        self._session.trace(f"< {frame}")
        self.receiver.send_frame(frame)

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        """Write messages."""
        shown = [repr(message) if isinstance(message, bytes) else message for message in messages]
        self._session.trace(f"< {_shown(messages_frame(shown))}")
        self.receiver.send_messages(messages)

    def send_prepared(self, message: PreparedMessage) -> None:
        """Write a message on its way to many."""
        self._session.trace(f"< {_shown(message.frame)}")
        self.receiver.send_prepared(message)

    def close(self, code: int, reason: str) -> None:
        """Write a close frame."""
        self._session.trace(f"< c{_said(code, reason)}")
        self.receiver.close(code, reason)
