"""Accept a client's messages, and slow it down. The queue itself, the inbox, is in ``CallbackQueue``."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ..observe import trace
from ..observe.stats import Stats
from ..protocol import Message
from ..settings import Settings
from .outbox import HIGH_WATER, IN_CALLBACK, TRACED, Outbox
from .states import OPENED

if TYPE_CHECKING:
    from .container import SessionContainer

#: Maximum number of POST requests of one client that wait until the inbox is drained.
MAX_INBOX_WAITERS: Final = 4


class RateLimit:
    """A token bucket, which is full at first.

    Args:
        rate: Tokens a second.
        burst: Size of the bucket.
        now: The time in seconds.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._at = now

    def consume(self, count: int, now: float, stall: float = 0.0) -> bool:
        """Consume ``count`` tokens and return True; if there are not enough, consume none and return False.

        Messages that arrived while the event loop was blocked, for ``stall`` seconds, are read as one burst, so the
        bucket is larger by the tokens of that time.
        """
        size = self._burst + stall * self._rate
        self._tokens = min(size, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if count > self._tokens:
            return False
        self._tokens -= count
        return True


class Inbox(Outbox):
    """The receiving half of a session, a base class of it."""

    __slots__ = ("_inbox_waiters", "_rate_limit")

    def __init__(self, settings: Settings, stats: Stats, container: "SessionContainer") -> None:
        Outbox.__init__(self, settings, stats, container)
        self._inbox_waiters: tuple[Callable[[], None], ...] = ()
        self._rate_limit: RateLimit | None = None
        if settings.max_inbound_rate is not None and (rate := settings.inbound_rate):
            self._rate_limit = RateLimit(*rate, container.now())

    @property
    def backlog(self) -> int:
        """Characters in the inbox, which wait for the application's callbacks."""
        return self._callbacks.backlog

    @property
    def _inbox_above_high_water(self) -> bool:
        """Whether the client should be slowed down until the application has processed its messages."""
        return self.state is OPENED and self._callbacks.backlog > min(HIGH_WATER, self._settings.max_queue_bytes // 2)

    @property
    def _inbox_full(self) -> bool:
        """Whether the inbox exceeds ``max_queue_bytes``."""
        return self._callbacks.backlog > self._settings.max_queue_bytes

    def _consume_rate_limit(self, count: int) -> bool:
        """Consume tokens of the rate limit for ``count`` messages; return False if there are not enough."""
        limit = self._rate_limit
        if limit is None or self.state is not OPENED:
            return True
        now = self._container.now()
        # An empty request costs one token, too.
        if limit.consume(max(count, 1), now, self._container.stall_duration(now)):
            return True
        self._stats.rejected["max_inbound_rate"] += 1
        return False

    def _receive_fallback(self, messages: Sequence[Message]) -> None:
        """Deliver the client's messages to the application, in order; its replies are sent as one batch."""
        if self.state is OPENED:
            if self._blocked & TRACED:
                for message in messages:
                    self._trace(f"> {trace.message(message)}")
            self._stats.messages_received += len(messages)
            self._blocked |= IN_CALLBACK
            self._callbacks.deliver(messages)
            self._after_receive()

    if not hasattr(Outbox, "_receive"):
        _receive = _receive_fallback

    def _after_receive(self) -> None:
        self._blocked &= ~IN_CALLBACK
        if self._outbox:
            self._flush()
        if self._callbacks.backlog and self._inbox_above_high_water and self._receiver is not None:
            self._receiver.pause_reading()

    def _inbox_drained(self) -> None:
        """Read from the client again, because the application has processed the queued messages."""
        if self._receiver is not None:
            self._receiver.resume_reading()
        self._wake_inbox_waiters()

    def _add_inbox_waiter(self, callback: Callable[[], None]) -> bool:
        """Call ``callback`` once, when the inbox is drained or the session ends.

        Returns:
            False if :data:`MAX_INBOX_WAITERS` callbacks are waiting already.
        """
        if len(self._inbox_waiters) >= MAX_INBOX_WAITERS:
            return False
        self._inbox_waiters += (callback,)
        return True

    def _remove_inbox_waiter(self, callback: Callable[[], None]) -> None:
        """Remove a callback that is no longer needed."""
        self._inbox_waiters = tuple(waiter for waiter in self._inbox_waiters if waiter != callback)

    def _wake_inbox_waiters(self) -> None:
        waiters, self._inbox_waiters = self._inbox_waiters, ()
        for callback in waiters:
            callback()
