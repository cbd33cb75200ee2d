"""The sending half of a session: the queue of messages from the application to one client."""

import logging
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from ..observe import trace
from ..observe.stats import Stats
from ..protocol import CloseCode, Outgoing, PreparedMessage
from ..settings import Settings
from .limit_log import log_exceeded_limit
from .ports import Receiver, UnsentResponse
from .states import CONNECTING, IDLE, OPENED, RUNNING, SessionState

try:
    from .._speedups import CALLBACKS_IDLE, CALLBACKS_RUNNING, SESSION_OPEN, SessionCore
    from .._speedups import IN_CALLBACK as IN_CALLBACK_IN_C
except ImportError:  # the C module was not built
    IN_CALLBACK_IN_C, SESSION_OPEN, CALLBACKS_IDLE, CALLBACKS_RUNNING = 1, 1, 0, 1

    class SessionCore:  # type: ignore[no-redef]
        """The fields that C reads for each message. Its methods are replaced by their fallbacks in subclasses."""

        __slots__ = (
            "_blocked",
            "_callbacks",
            "_outbox",
            "_outbox_waiters",
            "_receiver",
            "_settings",
            "_stats",
            "_thread",
            "_unsent_response",
            "bucket",
            "due",
            "queued",
            "state",
        )


if TYPE_CHECKING:
    from .callbacks import Callbacks
    from .container import SessionContainer

logger = logging.getLogger(__name__)

#: High-water mark of a client's outbox, in characters: above it, an awaited ``send`` waits.
HIGH_WATER: Final = 64 * 1024

# Bits of `_blocked`: why messages stay in the outbox. If none is set and a receiver is attached, the outbox is empty.
# All combinations are legal, but FLUSH_SCHEDULED is set together with BATCHING only.
IN_CALLBACK: Final = 1  # set by the session while it runs on_open or delivers messages; at the end it flushes the batch
RECEIVER_FULL: Final = 2  # set by the receiver; also cleared if it is detached or the session ends
BATCHING: Final = 4  # set for the life of a session whose `immediate_flush` is off
FLUSH_SCHEDULED: Final = 8  # until the flush at the start of the next iteration
REASONS: Final = IN_CALLBACK | RECEIVER_FULL | BATCHING | FLUSH_SCHEDULED
#: No reason, but keeps a session that is traced, for its life, off the fast path in C, which traces nothing.
TRACED: Final = 16


if (IN_CALLBACK_IN_C, SESSION_OPEN, CALLBACKS_IDLE, CALLBACKS_RUNNING) != (IN_CALLBACK, OPENED, IDLE, RUNNING):
    raise ImportError("sockjs_tornado._speedups was built from other sources: build it again")


class Outbox(SessionCore):
    """The sending half of a session, a base class of it.

    It queues messages, writes them to the attached receiver, and wakes waiters when the queue has drained.
    """

    __slots__ = ("_container", "_in_slow_consumer_callable", "_unsent_response_size")

    state: SessionState
    conn: Any
    _callbacks: "Callbacks"
    label: str
    transport_name: str
    close: Callable[[int, str], None]

    def __init__(self, settings: Settings, stats: Stats, container: "SessionContainer") -> None:
        self._settings = settings
        self._stats = stats
        self._container = container
        self._thread = get_ident()
        # The attached receiver. Set only while the session is OPEN; _attach() of a closed session sets it briefly.
        self._receiver: Receiver | None = None
        self._outbox: list[Outgoing] = []
        self.queued = 0
        self._blocked = 0 if settings.immediate_flush else BATCHING
        self._in_slow_consumer_callable = False
        self._outbox_waiters: list[Callable[[], None]] | None = None
        # At most one: a client sends its next request after it has received the whole response.
        self._unsent_response: UnsentResponse | None = None
        self._unsent_response_size = 0

    @property
    def is_attached(self) -> bool:
        """Whether a receiver is attached at this moment."""
        return self._receiver is not None

    @property
    def _outbox_above_high_water(self) -> bool:
        """Whether an awaited ``send`` has to wait for the client."""
        settings = self._settings
        return self.state is OPENED and (
            bool(self._blocked & RECEIVER_FULL)
            or self.queued > min(HIGH_WATER, settings.max_queue_bytes // 2)
            or len(self._outbox) > settings.max_queue_messages // 2
        )

    def _check_thread(self, router_call: str = "") -> None:
        """Raise RuntimeError if called from a thread other than the event loop's.

        Args:
            router_call: If a method of the router is checked, how another thread calls it.
        """
        if get_ident() != self._thread:
            if router_call:
                raise RuntimeError(
                    f"a router must be used from its event loop's thread; from another thread call {router_call}"
                )
            raise RuntimeError(
                "a connection must be used from its event loop's thread; "
                f"from another thread call {self._threadsafe_send()}, "
                "and other methods with connection.router.io_loop.add_callback(method)"
            )

    def _threadsafe_send(self) -> str:
        """Return the call with which another thread sends a message."""
        return "connection.send_threadsafe(message)"

    def _send_fallback(self, message: Outgoing) -> None:
        """Send one message. Does nothing if the session is closed, or has a full queue before it is opened."""
        self._check_thread()
        if self.state is OPENED:
            self._outbox.append(message)
            self.queued += len(message)
            blocked = self._blocked & REASONS
            if not blocked and self._receiver is not None:
                self._flush()
            else:
                if blocked == BATCHING:
                    self._blocked |= FLUSH_SCHEDULED
                    self._container.call_soon(self._flush_batch)
                # Cheap checks first; _exceeds_limits() is the exact one.
                settings = self._settings
                if (
                    self.queued > settings.max_queue_bytes
                    or len(self._outbox) > settings.max_queue_messages
                    or blocked & RECEIVER_FULL
                    or self._unsent_response is not None
                ) and self._exceeds_limits():
                    self._overflow()
        elif self.state is CONNECTING:
            # The constructor of the connection sends, or has joined a room. _attach() sends it after the open frame.
            if (
                len(self._outbox) < self._settings.max_queue_messages
                and self.queued + len(message) <= self._settings.max_queue_bytes
            ):
                self._outbox.append(message)
                self.queued += len(message)
            else:
                self._container.log.write_once(
                    logger,
                    logging.WARNING,
                    "unopened_queue",
                    "Discarded a message that was sent before the session was opened, in the constructor or to a room: "
                    "it would exceed max_queue_messages (%d) or max_queue_bytes (%d). Join and send in on_open",
                    self._settings.max_queue_messages,
                    self._settings.max_queue_bytes,
                )

    def _send_prepared_fallback(self, message: PreparedMessage) -> None:
        receiver = self._receiver
        # If a receiver is attached and nothing is blocked, the session is open and its outbox is empty.
        if receiver is not None and not self._blocked & REASONS:
            self._stats.messages_sent += 1
            if self._blocked & TRACED:
                self._trace(f"< {trace.message(message.frame)}")
            receiver.send_prepared(message)
        else:
            self._send_fallback(message.text)

    if not hasattr(SessionCore, "send"):
        send, _send_prepared = _send_fallback, _send_prepared_fallback

    def _trace(self, event: str) -> None:
        """Write a line to the trace. To be called only if ``TRACED`` is set."""
        trace.write(self.label, self.transport_name, event)

    def _send_frame(self, receiver: Receiver, frame: str) -> None:
        if self._blocked & TRACED:
            self._trace(f"< {frame}")
        receiver.send_frame(frame)

    def _close_receiver(self, receiver: Receiver, code: int, reason: str) -> None:
        if self._blocked & TRACED:
            self._trace(f"< c {code} {trace.message(reason)}")
        receiver.close(code, reason)

    def _pause_sending(self, receiver: Receiver) -> None:
        """Keep messages in the outbox, because the receiver's write buffer is full."""
        if receiver is self._receiver:
            self._blocked |= RECEIVER_FULL
            if self._blocked & TRACED:
                self._trace("receiver full")

    def _resume_sending(self, receiver: Receiver) -> None:
        """Send again, because the receiver's write buffer has drained."""
        if receiver is self._receiver:
            self._blocked &= ~RECEIVER_FULL
            if self._blocked & TRACED:
                self._trace("receiver drained")
            if self._outbox:
                self._flush()
            self._wake_outbox_waiters()

    def _track_unsent_response(self, response: UnsentResponse) -> None:
        """Count the bytes of a response that are unsent after its receiver was detached."""
        if self._unsent_response is None:
            self._unsent_response = response
            self._unsent_response_size = response.unsent

    def _is_making_progress(self) -> bool:
        """Return whether the client has received more of the unsent response since the last call."""
        if self._unsent_response is None:
            return False
        before = self._unsent_response_size
        self._unsent_response_size = self._unsent_response.unsent
        if not self._unsent_response_size:
            self._unsent_response = None
        return self._unsent_response_size < before

    def _abort_unsent_response(self) -> bool:
        """Abort the unsent response; return whether the client has not received all of it."""
        response = self._unsent_response
        self._unsent_response = None
        if response is None or not response.unsent:
            return False
        response.abort()
        return True

    def _exceeds_limits(self) -> bool:
        """Return whether the outbox and the write buffers of the client's connections exceed the settings' limits."""
        settings = self._settings
        queued, waiting = self.queued, len(self._outbox)
        if self._blocked & RECEIVER_FULL and self._receiver is not None:
            queued += self._receiver.unsent
            waiting += 1
        unsent = self._unsent_response.unsent if self._unsent_response is not None else 0
        if unsent:
            queued += unsent
            waiting += 1
        # A single message never exceeds the limits, whatever its size.
        return waiting > 1 and (queued > settings.max_queue_bytes or waiting > settings.max_queue_messages)

    def _overflow(self) -> None:
        """Flush messages that are merely batched; if the limits are still exceeded, apply ``slow_consumer``."""
        self._flush()
        if self._in_slow_consumer_callable or not self._exceeds_limits():
            return
        action = self._settings.slow_consumer
        if callable(action):
            self._in_slow_consumer_callable = True
            try:
                action = action(self.conn)
                if action not in ("close", "drop_oldest"):
                    raise ValueError(f"slow_consumer returned {action!r}, expected 'close' or 'drop_oldest'")
            except Exception as error:
                name = "slow_consumer"
                self._container.log.write(logger, logging.ERROR, name, "%s failed for %r", name, self, error=error)
                action = "close"
            finally:
                self._in_slow_consumer_callable = False
        if self.state is not OPENED or not self._exceeds_limits():
            return
        if action == "drop_oldest":
            self._drop_oldest()
        else:
            self._stats.messages_dropped += self._discard_outbox()
            self._abort_unsent_response()
            session: Any = self
            log_exceeded_limit(session, CloseCode.SLOW_CONSUMER, "max_queue_bytes", "max_queue_messages")
            self.close(CloseCode.SLOW_CONSUMER, "Slow consumer")

    def _drop_oldest(self) -> None:
        dropped = 0
        while self._exceeds_limits() and self._outbox:
            self.queued -= len(self._outbox.pop(0))
            dropped += 1
        self._stats.messages_dropped += dropped
        self._callbacks.notify_dropped(dropped)

    def _discard_outbox(self) -> int:
        """Discard the queued messages; return how many."""
        count = len(self._outbox)
        self._outbox.clear()
        self.queued = 0
        return count

    def _add_outbox_waiter(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when the outbox has drained below the high-water mark or the session ends."""
        if self._outbox_waiters is None:
            self._outbox_waiters = []
        self._outbox_waiters.append(callback)

    def _remove_outbox_waiter(self, callback: Callable[[], None]) -> None:
        """Remove a callback that is no longer needed."""
        if self._outbox_waiters is not None and callback in self._outbox_waiters:
            self._outbox_waiters.remove(callback)

    def _flush_batch(self) -> None:
        self._blocked &= ~FLUSH_SCHEDULED
        if self._outbox and not self._blocked & IN_CALLBACK:
            self._flush()

    def _flush(self) -> None:
        # Allocating may run the garbage collector, whose finalizers may send or close: read the fields afterwards.
        empty: list[Outgoing] = []
        receiver, messages = self._receiver, self._outbox
        if messages and receiver is not None and not self._blocked & RECEIVER_FULL:
            self._outbox = empty
            self.queued = 0
            self._stats.messages_sent += len(messages)
            if self._blocked & TRACED:
                self._trace(f"< {trace.messages(messages)}")
            receiver.send_messages(messages)
            if self._outbox_waiters is not None:
                self._wake_outbox_waiters()

    def _wake_outbox_waiters(self) -> None:
        # One at a time: a callback may send again and refill the outbox.
        while self._outbox_waiters and not self._outbox_above_high_water:
            self._outbox_waiters.pop(0)()
