"""The sending half of a session: what is on its way from the application to one client."""

import logging
from collections.abc import Callable, Sequence
from enum import IntEnum
from threading import get_ident
from typing import Any, Final

from ..protocol import Message, Outgoing, PreparedMessage
from .ports import Counters, Receiver, SessionManager, SessionSettings, UnsentResponse

try:
    from .._speedups import SessionCore
except ImportError:  # where it was not built

    class SessionCore:  # type: ignore[no-redef]
        """What ordinary messages meet first, and the fields that it needs."""

        __slots__ = (
            "_callbacks",
            "_hold",
            "_outbox",
            "_receiver",
            "_settings",
            "_stats",
            "_thread",
            "_waiters",
            "queued",
            "state",
        )

        _send_fallback: Callable[[Outgoing], None]
        _send_prepared_fallback: Callable[[PreparedMessage], None]
        _receive_fallback: Callable[[Sequence[Message]], None]

        def send(self, message: Outgoing, /) -> None:
            """Send one message; after the end it goes nowhere.

            Raises:
                RuntimeError: In another thread than the event loop's.
            """
            self._send_fallback(message)

        def _send_prepared(self, message: PreparedMessage, /) -> None:
            """Send one message that is on its way to many."""
            self._send_prepared_fallback(message)

        def _receive(self, messages: Sequence[Message], /) -> None:
            """Hand the client's messages to the application, in order; what it sends meanwhile leaves together."""
            self._receive_fallback(messages)


__all__ = ["HIGH_WATER", "Outbox", "SessionState"]

logger = logging.getLogger(__name__)

#: Characters queued for one client above which an awaited ``send`` waits.
HIGH_WATER: Final = 64 * 1024


class SessionState(IntEnum):
    """Where a session stands. It is closed for the application from ``CLOSING`` on."""

    #: Made, and no receiver has come yet.
    CONNECTING = 0
    #: The application has been told of it.
    OPEN = 1
    #: Closed, but still there to tell the client so.
    CLOSING = 2
    #: Over and forgotten.
    CLOSED = 3


_OPENED: Final = SessionState.OPEN

# What holds messages back, as bits of one number: nothing does where it is 0.
CORKED: Final = 1  # callbacks are running; what they send leaves together at their end
PAUSED: Final = 2  # the receiver's own buffer is full
_GATHERING: Final = 4  # immediate_flush is off
_SCHEDULED: Final = 8  # gathering, and the flush at the loop's next turn is ordered


class Outbox(SessionCore):
    """Messages that wait for a client, the receiver that takes them, and whoever waits until it has.

    The session is one: it decides when there is a receiver, and what becomes of a client that takes too little.

    Args:
        settings: The router's settings.
        stats: The router's counters.
        manager: What keeps the session.

    Attributes:
        queued: Characters that wait.
    """

    __slots__ = ("_in_slow_consumer_hook", "_manager", "_unsent_response", "_unsent_response_size")

    state: SessionState
    conn: Any

    def __init__(self, settings: SessionSettings, stats: Counters, manager: SessionManager) -> None:
        self._settings = settings
        self._stats = stats
        self._manager = manager
        self._thread = get_ident()
        self._receiver: Receiver | None = None
        self._outbox: list[Outgoing] = []
        self.queued = 0
        self._hold = 0 if settings.immediate_flush else _GATHERING
        self._in_slow_consumer_hook = False
        self._waiters: list[Callable[[], None]] | None = None
        # A client asks for the next response when it has the last one, so that there is one of these at most.
        self._unsent_response: UnsentResponse | None = None
        self._unsent_response_size = 0

    def _close_slow_consumer(self) -> None:
        """Close the session of a client for which too much waits."""
        raise NotImplementedError

    def _notify_dropped(self, count: int) -> None:
        """Let the application know that so many messages were dropped."""
        raise NotImplementedError

    @property
    def is_attached(self) -> bool:
        """Whether the client listens at this moment."""
        return self._receiver is not None

    @property
    def _outbox_above_high_water(self) -> bool:
        """Whether the client does not keep up with what is sent to it."""
        settings = self._settings
        return self.state is _OPENED and (
            bool(self._hold & PAUSED)
            or self.queued > min(HIGH_WATER, settings.max_queue_bytes // 2)
            or len(self._outbox) > settings.max_queue_messages // 2
        )

    def _check_thread(self) -> None:
        """Raise RuntimeError in another thread than the event loop's, where nothing here may be used."""
        if get_ident() != self._thread:
            raise RuntimeError(
                "a connection belongs to its event loop's thread; "
                "from another one use loop.call_soon_threadsafe(connection.send, message)"
            )

    def _send_fallback(self, message: Outgoing) -> None:
        self._check_thread()
        if self.state is _OPENED:
            self._outbox.append(message)
            self.queued += len(message)
            hold = self._hold
            if not hold and self._receiver is not None:
                self._flush()
            else:
                if hold == _GATHERING:
                    self._hold = _GATHERING | _SCHEDULED
                    self._manager.call_soon(self._gathered)
                # Most of the time no more is to be looked at than this.
                settings = self._settings
                if (
                    self.queued > settings.max_queue_bytes
                    or len(self._outbox) > settings.max_queue_messages
                    or hold & PAUSED
                    or self._unsent_response is not None
                ) and self._is_full():
                    self._overflow()

    def _send_prepared_fallback(self, message: PreparedMessage) -> None:
        receiver = self._receiver
        # While there is a receiver and nothing holds messages back, the session is open and its outbox empty.
        if receiver is not None and not self._hold:
            self._stats.messages_sent += 1
            receiver.send_prepared(message)
        else:
            self._send_fallback(message.text)

    def _pause_sending(self, receiver: Receiver) -> None:
        """Hear that the receiver's buffer is full: messages wait in the outbox."""
        if receiver is self._receiver:
            self._hold |= PAUSED

    def _resume_sending(self, receiver: Receiver) -> None:
        """Hear that the receiver's buffer has drained."""
        if receiver is self._receiver:
            self._hold &= ~PAUSED
            if self._outbox:
                self._flush()
            self._wake()

    def _track_unsent_response(self, response: UnsentResponse) -> None:
        """Count what the client has not taken of a response whose receiver is done."""
        if self._unsent_response is None:
            self._unsent_response = response
            self._unsent_response_size = response.unsent

    def _is_making_progress(self) -> bool:
        """Return whether the client has taken more of an unfinished response since the last time."""
        if self._unsent_response is None:
            return False
        before = self._unsent_response_size
        self._unsent_response_size = self._unsent_response.unsent
        if not self._unsent_response_size:
            self._unsent_response = None
        return self._unsent_response_size < before

    def _abort_unsent_response(self) -> bool:
        """Close the connection of an unfinished response, and return whether anything is missing of it."""
        response = self._unsent_response
        self._unsent_response = None
        if response is None or not response.unsent:
            return False
        response.abort()
        return True

    def _is_full(self) -> bool:
        """Tell whether more waits for the client than may, in the outbox and in the buffers of its connections."""
        settings = self._settings
        queued, waiting = self.queued, len(self._outbox)
        if self._hold & PAUSED and self._receiver is not None:
            queued += self._receiver.unsent
            waiting += 1
        unfinished = self._unsent_response.unsent if self._unsent_response is not None else 0
        if unfinished:
            queued += unfinished
            waiting += 1
        # One message, however big, is no pile.
        return waiting > 1 and (queued > settings.max_queue_bytes or waiting > settings.max_queue_messages)

    def _overflow(self) -> None:
        """Find more waiting than may: what is merely gathered goes out, a client that does not read is judged."""
        self._flush()
        if self._in_slow_consumer_hook or not self._is_full():
            return
        verdict = self._settings.slow_consumer
        if callable(verdict):
            self._in_slow_consumer_hook = True
            try:
                verdict = verdict(self.conn)
                if verdict not in ("close", "drop_oldest"):
                    raise ValueError(f"slow_consumer returned {verdict!r}, not 'close' or 'drop_oldest'")
            except Exception as error:
                what = "slow_consumer"
                self._manager.log.write(logger, logging.ERROR, what, "%s failed for %r", what, self, error=error)
                verdict = "close"
            finally:
                self._in_slow_consumer_hook = False
        if self.state is not _OPENED or not self._is_full():
            return
        if verdict == "drop_oldest":
            self._drop()
        else:
            self._close_slow_consumer()

    def _drop(self) -> None:
        dropped = 0
        while self._is_full() and self._outbox:
            self.queued -= len(self._outbox.pop(0))
            dropped += 1
        self._stats.messages_dropped += dropped
        self._notify_dropped(dropped)

    def _forget_queued(self) -> int:
        """Throw away what waits; return how many messages that were."""
        count = len(self._outbox)
        self._outbox.clear()
        self.queued = 0
        return count

    def _add_outbox_waiter(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once the client keeps up again, or the session ends."""
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(callback)

    def _remove_outbox_waiter(self, callback: Callable[[], None]) -> None:
        """Undo :meth:`on_drained` for somebody who waits no more."""
        if self._waiters is not None and callback in self._waiters:
            self._waiters.remove(callback)

    def _gathered(self) -> None:
        self._hold &= ~_SCHEDULED
        if self._outbox and not self._hold & CORKED:
            self._flush()

    def _flush(self) -> None:
        # To make a list may be to collect garbage, of which somebody may have sent it, or closed the session.
        empty: list[Outgoing] = []
        receiver, messages = self._receiver, self._outbox
        if messages and receiver is not None and not self._hold & PAUSED:
            self._outbox = empty
            self.queued = 0
            self._stats.messages_sent += len(messages)
            receiver.send_messages(messages)
            if self._waiters is not None:
                self._wake()

    def _wake(self) -> None:
        # Who is called may send, so that the others have to wait on.
        while self._waiters and not self._outbox_above_high_water:
            self._waiters.pop(0)()
