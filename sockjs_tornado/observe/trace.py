"""Tracing of sessions: one line for each state transition and each frame.

With ``SOCKJS_TRACE=1`` in the environment, the trace is written to standard error and shows the start of each message::

    1 websocket receiver attached
    1 websocket CONNECTING becomes OPEN
    1 websocket < o
    1 websocket > hello
    1 websocket < a["hello"]
    1 websocket receiver lost 1006 Connection lost
    1 websocket ends 1006 Connection lost
    1 websocket OPEN becomes CLOSING

Otherwise, ``logging.getLogger("sockjs_tornado.observe.trace").setLevel(logging.DEBUG)`` writes the trace to the log,
with the lengths of messages instead of their contents. Sessions that are opened afterwards are traced. Without tracing,
sessions have no overhead.
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

#: Length to which messages are truncated.
_WIDTH: Final = 100

_TO_TERMINAL: Final = os.environ.get("SOCKJS_TRACE", "").lower() not in ("", "0", "no", "off", "false")

if _TO_TERMINAL:
    _handler = logging.StreamHandler()
    _handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S"))
    logger.addHandler(_handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
elif logger.level == logging.NOTSET:
    # Keep the trace off even if the application enables DEBUG for the root logger.
    logger.setLevel(logging.INFO)


# The traced subclass of each session class. Usually there is one.
_classes: Final[dict[type[Session], type[Session]]] = {}


def traced(session_class: type[Session]) -> type[Session]:
    """Return ``session_class``, or a traced subclass of it if tracing is enabled."""
    if not logger.isEnabledFor(logging.DEBUG):
        return session_class
    found = _classes.get(session_class)
    if found is None:
        found = _classes[session_class] = type(session_class.__name__, (_Traced, session_class), {"__slots__": ()})
    return found


def _redact(text: str) -> str:
    """Return the part of a message that may be shown."""
    if not _TO_TERMINAL:
        return f"({len(text)} characters)"
    # Escape control characters, which could manipulate a terminal.
    text = ascii(text)[1:-1] if not text.isprintable() else text
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}... ({len(text)} characters)"


def _redact_close(code: int | None = None, reason: str = "") -> str:
    """Return the part of a close code and its reason that may be shown."""
    return "" if code is None else f" {code} {_redact(reason)}"


class _Traced(Session):
    """A session that traces its events."""

    __slots__ = ()

    def trace(self, event: str) -> None:
        """Write a line to the trace."""
        transport = self.conn_info.transport
        logger.debug("%s %s %s", self.label, transport, event, extra=session_fields(self.label, transport))

    def _set_state(self, state: SessionState) -> None:
        before = self.state
        super()._set_state(state)
        self.trace(f"{before.name} becomes {state.name}")

    def _attach(self, receiver: Receiver, ip: str, origin: str | None = "") -> None:
        """Attach a receiver and trace the frames sent to it."""
        self.trace("receiver attached")
        super()._attach(_TracedReceiver(receiver, self), ip, origin)

    def _detach(self, receiver: Receiver) -> None:
        """Detach a receiver."""
        self.trace("receiver detached")
        super()._detach(self._current(receiver))

    def _receiver_lost(self, receiver: Receiver, *reason: Any) -> None:
        """Called when a receiver's connection was lost."""
        current = self._current(receiver)
        # A receiver that was detached before only reports its own end.
        if current is self._receiver:
            self.trace(f"receiver lost{_redact_close(*reason)}")
        super()._receiver_lost(current, *reason)

    def _pause_sending(self, receiver: Receiver) -> None:
        """Called when the receiver's write buffer is full."""
        self.trace("receiver full")
        super()._pause_sending(self._current(receiver))

    def _resume_sending(self, receiver: Receiver) -> None:
        """Called when the receiver's write buffer has drained."""
        self.trace("receiver drained")
        super()._resume_sending(self._current(receiver))

    def _end(self, code: int, reason: str, *, discard: bool) -> None:
        self.trace(f"ends{_redact_close(code, reason)}")
        super()._end(code, reason, discard=discard)

    def _receive(self, messages: Sequence[Message]) -> None:
        """Deliver messages from the client to the application."""
        for message in messages:
            self.trace(f"> {_redact(message if isinstance(message, str) else repr(message))}")
        super()._receive(messages)

    def _current(self, receiver: Receiver) -> Receiver:
        """Return the traced wrapper of ``receiver`` if it is attached, else ``receiver``."""
        current = self._receiver
        return current if isinstance(current, _TracedReceiver) and current.receiver is receiver else receiver


class _TracedReceiver:
    """A receiver whose frames are traced."""

    def __init__(self, receiver: Receiver, session: _Traced) -> None:
        self.receiver = receiver
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self.receiver, name)

    def recycle(self) -> None:
        """End the response so that the client reconnects."""
        self._session.trace("receiver recycled")
        self.receiver.recycle()

    def send_frame(self, frame: str) -> None:
        """Send a frame."""
        self._session.trace(f"< {frame}")
        self.receiver.send_frame(frame)

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        """Send messages."""
        shown = [repr(message) if isinstance(message, bytes) else message for message in messages]
        self._session.trace(f"< {_redact(messages_frame(shown))}")
        self.receiver.send_messages(messages)

    def send_prepared(self, message: PreparedMessage) -> None:
        """Send a broadcast message."""
        self._session.trace(f"< {_redact(message.frame)}")
        self.receiver.send_prepared(message)

    def close(self, code: int, reason: str) -> None:
        """Send a close frame."""
        self._session.trace(f"< c{_redact_close(code, reason)}")
        self.receiver.close(code, reason)
