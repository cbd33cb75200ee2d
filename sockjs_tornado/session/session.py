"""A SockJS session: a state machine between the application's connection and whatever receiver a client listens on.

It knows frames, a bounded outbox and its own state; it knows no HTTP, no Tornado, no socket and no clock of its own.
A transport attaches a receiver while a client listens and reports when it is done with it or has lost it; everything
else is the session's own decision.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Final

from ..connection import ConnectionInfo, SockJSConnection, drained
from ..exceptions import SessionStateError
from ..legacy.compat import LegacySession
from ..protocol import HEARTBEAT, OPEN, CloseCode, Message, check_close_code
from .callbacks import Callbacks
from .limits import RateLimit
from .outbox import HIGH_WATER, IN_CALLBACK, RECEIVER_FULL, Outbox, SessionState
from .ports import Receiver, RouterView
from .requester import REJECTIONS, check_requester
from .rooms import COMPLETED, check_room

__all__ = ["Session", "SessionState"]

#: POSTs of one client that may wait for the application to catch up.
MAX_INBOX_WAITERS: Final = 4

_NEVER: Final = float("inf")

CONNECTING, OPENED, CLOSING, CLOSED = SessionState

_TRANSITIONS: Final = {
    CONNECTING: (OPENED, CLOSED),
    OPENED: (CLOSING,),
    CLOSING: (CLOSED,),
    CLOSED: (),
}


class Session(Outbox, LegacySession):
    """One client's session.

    Args:
        connection: Anything that makes the application's connection when called with the session.
        server: The router.
        session_id: The client's name for the session; None for one that lives and dies with its receiver, as a
            websocket's does.

    Attributes:
        server: The router, with whatever attributes the application put there.
        session_id: As given. It is a secret of the client: do not log or publish it.
        state: A :class:`~sockjs_tornado.session.session.SessionState`.
        conn: The application's connection; None after the end, once ``on_close`` is through.
        conn_info: What is known of the request that opened the session.
        opened_at: When it opened, in the manager's seconds; 0 before.
        origin_hash: Hash of the origin that the opening request named, 0 for none.
        label: A name for logs, unique among the manager's sessions.
        close_code: Why the session closed, None before.
        close_reason: The same in words.
        is_accepted: Whether ``on_open`` has let the client in.
        is_closed: Whether the session is over for the application.
        takes_bytes: Whether messages may be bytes: on a raw websocket, from its opening on.
        due: When :meth:`check` has to be called, in the manager's seconds.
        bucket: The manager's note of where it keeps that deadline.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_accepts_bytes",
        "_close_frame_sent",
        "_inbox_waiters",
        "_origin_hash",
        "_post_origin_hash",
        "_rate_limit",
        "bucket",
        "close_code",
        "close_reason",
        "conn",
        "conn_info",
        "due",
        "is_accepted",
        "is_closed",
        "label",
        "opened_at",
        "server",
        "session_id",
    )

    def __init__(
        self,
        connection: Callable[["Session"], SockJSConnection],
        server: RouterView,
        session_id: str | None,
        info: ConnectionInfo,
    ) -> None:
        super().__init__(server.settings, server.stats, server.container)
        # The application puts attributes of its own there.
        self.server: Any = server
        self.session_id = session_id
        self.state = CONNECTING
        self.conn_info = info
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self._accepts_bytes = False
        self.is_accepted = False
        self.is_closed = False
        # Hashes, since what a client names may be long. Of nothing it is 0.
        self._origin_hash = 0
        self._post_origin_hash: int | None = None
        self._close_frame_sent = False
        self._inbox_waiters: list[Callable[[], None]] | None = None
        rate = server.settings.inbound_rate
        self._rate_limit = RateLimit(*rate, self._manager.now()) if rate else None
        self.label = self._manager.next_label()
        self.bucket: int | None = None
        self.due = self._manager.now() + self._settings.disconnect_delay
        self.opened_at = 0.0
        self._callbacks = Callbacks(self, server.settings.callback_timeout)
        self.conn = None
        self.conn = self._callbacks.connection = connection(self)
        self._manager.schedule(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label} {self.conn_info.transport} {self.state.name}>"

    def _set_state(self, state: SessionState) -> None:
        if state not in _TRANSITIONS[self.state]:
            raise SessionStateError(f"{self!r} cannot become {state.name}")
        self.state = state
        self.is_closed = state >= CLOSING
        if self.is_closed:
            self._manager.rooms.leave_all(self)

    # What the client's side reports.

    def _on_open_finished(self, accepted: bool) -> None:
        """Hear that ``on_open`` is through, and whether it has let the client in."""
        self.is_accepted = accepted and not self.is_closed
        self._manager.on_open_finished(self)

    def _check_requester(self, ip: str, origin: str | None) -> str | None:
        """Return the check that rejects a receiving request, None if the request may be the client's.

        A session belongs to the address that opened it (``verify_ip``), and to the origin that the opening request
        named. All receiving requests of a client are alike: if the first one named none, no other does.

        Args:
            ip: Where the request comes from.
            origin: The origin that it names, as :func:`~sockjs_tornado.session.requester.check_requester` takes it.
        """
        known_origin = None if self.state is CONNECTING else self._origin_hash
        return check_requester(self.conn_info.ip, known_origin, ip, origin, verify_ip=self._settings.verify_ip)

    def _authorize_post(self, ip: str, origin: str | None = None) -> bool:
        """Return whether a client that posts messages has been told of the session, and note where it posts from.

        Scripts and iframes cannot name an origin when they open a session. Browsers name it with every POST, so that
        the first POST that names one shows the client's. A session that was opened by a POST without an origin is no
        page's, and no page may send to it.
        """
        if self.state is CONNECTING:
            return False
        why = self._check_requester(ip, origin)
        if why == "session_origin" and not self._origin_hash:
            if self._post_origin_hash is None:
                self._post_origin_hash = hash(origin)
            if hash(origin) == self._post_origin_hash:
                why = None
        if why is not None:
            self._stats.rejected[why] += 1
        return why is None

    def _attach(self, receiver: Receiver, ip: str, origin: str | None = "") -> None:
        """Take a receiver that a client listens on.

        The first one opens the session. While another is attached the new one is told so and let go (close code
        2010); after the end it gets what was still queued and the close frame.

        Args:
            receiver: Where the client listens.
            ip: The address it listens from.
            origin: The origin that its request names, as for :meth:`foreign`.
        """
        why = self._check_requester(ip, origin)
        if why is not None:
            self._stats.rejected[why] += 1
            receiver.close(CloseCode.POLICY_VIOLATION, REJECTIONS[why])
            return
        if self._unsent_response is not None and self._abort_unsent_response() and self.state is OPENED:
            # Who asks for more before the last response has left has not read that to its end: messages are lost.
            self._stats.messages_dropped += self._discard_outbox()
            self._end(CloseCode.INTERRUPTED, "Connection interrupted", discard=False)
        current = self._receiver
        if current is not None and current.is_disconnected():
            self._receiver_lost(current)
            current.abort()
            current = None
        if current is not None:
            receiver.close(CloseCode.STILL_OPEN, "Another connection still open")
        elif self.state is OPENED:
            self._set_receiver(receiver)
            if self._outbox:
                self._flush()
        elif self.state is CONNECTING:
            self._set_state(OPENED)
            self._origin_hash = hash(origin or "")
            if origin is None:
                self._post_origin_hash = self._origin_hash
            self.opened_at = self._manager.now()
            self._manager.session_opened(self)
            self._accepts_bytes = receiver.binary
            self.conn_info.ip = self.conn_info.ip or ip
            self._set_receiver(receiver)
            receiver.send_frame(OPEN)
            self._blocked |= IN_CALLBACK
            self._callbacks.open(self.conn_info)
            self._blocked &= ~IN_CALLBACK
            if self._outbox:
                self._flush()
        else:
            self._receiver = receiver
            if self._outbox:
                self._flush()
            # A poll has taken the messages; the next one gets the close frame.
            if receiver is self._receiver:
                self._receiver = None
                self._send_close(receiver)

    def _set_receiver(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._stats.connections += 1
        self.due = self._manager.now() + self._settings.heartbeat_delay
        self._manager.schedule(self)

    def _detach(self, receiver: Receiver) -> None:
        """Hear that a receiver is done: it has taken what it can, and the client will come again."""
        if receiver is self._receiver:
            self._receiver = None
            self._blocked &= ~RECEIVER_FULL
            self.due = self._manager.now() + self._settings.disconnect_delay
            self._manager.schedule(self)
            self._wake_outbox_waiters()

    def _receiver_lost(
        self, receiver: Receiver, code: int = CloseCode.INTERRUPTED, reason: str = "Connection interrupted"
    ) -> None:
        """Hear that a receiver was cut off, or that the client closed: the session is over.

        Args:
            receiver: The receiver, which may be one that the session has already let go.
            code: What to tell the application.
            reason: The same in words.
        """
        if receiver is self._receiver:
            self._receiver = None
            self._end(code, reason, discard=False)
            self._close_frame_sent = True
        if self.state is CLOSING and (self.session_id is None or (self._close_frame_sent and self._manager.closing)):
            self._release()

    def _request_lost(self) -> None:
        """End the session because a receiving request was cut before it was attached.

        It goes on if another request is attached, and if messages are queued: the one that was cut would have been
        answered with them, and has not taken them.
        """
        if self.state is OPENED and self._receiver is None and not self._outbox:
            self._end(CloseCode.INTERRUPTED, "Connection interrupted", discard=False)

    def _consume_rate_limit(self, count: int) -> bool:
        """Return whether the client may send so many messages now (``max_inbound_rate``), and count them."""
        limit = self._rate_limit
        if limit is None or self.state is not OPENED:
            return True
        now = self._manager.now()
        # To send none is not for nothing.
        if limit.consume(max(count, 1), now, self._manager.stall_duration(now)):
            return True
        self._stats.rejected["max_inbound_rate"] += 1
        return False

    def _receive_fallback(self, messages: Sequence[Message]) -> None:
        if self.state is OPENED:
            self._stats.messages_received += len(messages)
            self._blocked |= IN_CALLBACK
            self._callbacks.deliver(messages)
            self._after_receive()

    def _after_receive(self) -> None:
        self._blocked &= ~IN_CALLBACK
        if self._outbox:
            self._flush()
        if self._callbacks.backlog and self._inbox_above_high_water and self._receiver is not None:
            self._receiver.pause_reading()

    def _inbox_drained(self) -> None:
        """Hear that the application has worked off what the client had sent."""
        if self._receiver is not None:
            self._receiver.resume_reading()
        self._wake_inbox_waiters()

    def _recycle(self) -> None:
        """Have the client ask anew, where it listens by requests: the session goes on with the next one."""
        receiver = self._receiver
        # Of one that has left, it will be heard: what it was sent last may be lost.
        if self.state is OPENED and receiver is not None and not receiver.is_disconnected():
            receiver.recycle()

    def _add_inbox_waiter(self, callback: Callable[[], None]) -> bool:
        """Call ``callback`` once the application has worked off what the client had sent, or the session ends.

        Returns:
            False where so many wait for that already that nobody else may.
        """
        if self._inbox_waiters is None:
            self._inbox_waiters = []
        if len(self._inbox_waiters) >= MAX_INBOX_WAITERS:
            return False
        self._inbox_waiters.append(callback)
        return True

    def _remove_inbox_waiter(self, callback: Callable[[], None]) -> None:
        """Undo :meth:`delay` for somebody who waits no more."""
        if self._inbox_waiters is not None and callback in self._inbox_waiters:
            self._inbox_waiters.remove(callback)

    def _wake_inbox_waiters(self) -> None:
        delayed = self._inbox_waiters
        if delayed is not None:
            self._inbox_waiters = None
            for callback in delayed:
                callback()

    # What the application does.

    @property
    def transport_name(self) -> str:
        """Name of the transport that opened the session."""
        return self.conn_info.transport

    @property
    def _inbox_above_high_water(self) -> bool:
        """Whether so much waits for the application that the client should be slowed down."""
        return self.state is OPENED and self._callbacks.backlog > min(HIGH_WATER, self._settings.max_queue_bytes // 2)

    @property
    def backlog(self) -> int:
        """Characters that wait for the application's callbacks."""
        return self._callbacks.backlog

    @property
    def _inbox_full(self) -> bool:
        """Whether more waits for the application than may."""
        return self._callbacks.backlog > self._settings.max_queue_bytes

    def close(self, code: int = CloseCode.GO_AWAY, reason: str = "Go away!", *, discard: bool = True) -> None:
        """Close the session: the client gets what was sent before, then the close frame.

        Args:
            code: Close code, one that may stand in a websocket's close frame.
            reason: The same in words.
            discard: Whether what the client had sent, and waits for a callback that runs, is forgotten.

        Raises:
            RuntimeError: In another thread than the event loop's.
            TypeError: The reason is no ``str``.
            ValueError: The code is another one.
        """
        self._check_thread()
        check_close_code(code)
        if not isinstance(reason, str):
            raise TypeError(f"a close reason is str, not {type(reason).__name__}")
        if self.state is CONNECTING:
            self.close_code, self.close_reason = code, reason
            self._release()
        elif self.state is OPENED:
            self._blocked &= ~RECEIVER_FULL
            if self._outbox:
                self._flush()
            receiver = self._receiver
            self._receiver = None
            self._end(code, reason, discard=discard)
            if receiver is not None:
                self._send_close(receiver)
        else:
            # The client had left before; what it had sent until then may not be wanted any more.
            if discard:
                self._callbacks.discard()
            if self.state is CLOSING and self._close_frame_sent and self._manager.closing:
                self._release()

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until the client keeps up; see the connection's ``send``."""
        return drained(self).__await__()

    @property
    def _rooms(self) -> frozenset[str]:
        """The rooms that it is in, or was in when it closed."""
        return self._manager.rooms.rooms_of(self)

    def _join(self, room: str, presence: Any = None) -> Awaitable[None]:
        """Enter a room; see the connection's ``join``."""
        self._check_thread()
        check_room(room)
        return COMPLETED if self.is_closed else self._manager.rooms.join(self, room, presence)

    def _leave(self, room: str) -> None:
        """Leave a room."""
        self._check_thread()
        self._manager.rooms.leave(self, room)

    def _close_slow_consumer(self) -> None:
        """Close the session of a client for which too much waits; it gets none of that any more."""
        receiver = self._receiver
        self._receiver = None
        self._stats.messages_dropped += self._discard_outbox()
        self._abort_unsent_response()
        self._end(CloseCode.SLOW_CONSUMER, "Slow consumer", discard=True)
        if receiver is not None:
            self._send_close(receiver)

    def _notify_dropped(self, count: int) -> None:
        """Let the application know that so many messages were dropped."""
        self._callbacks.notify_dropped(count)

    # What time does.

    def check(self, now: float) -> None:
        """Do what is due: a heartbeat while a client listens, the end where none has for too long."""
        if self.state is OPENED and self._receiver is not None:
            self.due = now + self._settings.heartbeat_delay
            # Behind what a client does not take, a heartbeat tells it nothing.
            if not self._blocked & RECEIVER_FULL:
                self._receiver.send_frame(HEARTBEAT)
            return
        if self._is_making_progress():
            # It cannot ask for more before it has all of that.
            self.due = now + self._settings.disconnect_delay
            return
        if self._manager.postpone(self, now):
            return
        self._abort_unsent_response()
        if self.state is OPENED:
            self._end(CloseCode.ABNORMAL, "Session timed out", discard=False)
        elif self.state is CONNECTING:
            self.close_code, self.close_reason = CloseCode.ABNORMAL, "Session timed out"
        if self.state is not CLOSED:
            self._release()

    # Inside.

    def _end(self, code: int, reason: str, *, discard: bool) -> None:
        self._set_state(CLOSING)
        self.close_code, self.close_reason = code, reason
        self._manager.session_closed(self)
        self._blocked &= ~RECEIVER_FULL
        self._wake_outbox_waiters()
        self._wake_inbox_waiters()
        if self.session_id is None:
            # The receiver knows when it has said goodbye, and reports it.
            self.due = _NEVER
        else:
            self.due = self._manager.now() + self._settings.disconnect_delay
            self._manager.schedule(self)
        self._callbacks.close(discard=discard)

    def _send_close(self, receiver: Receiver) -> None:
        assert self.close_code is not None and self.close_reason is not None
        receiver.close(self.close_code, self.close_reason)
        self._close_frame_sent = True
        # A session that ended before its first receiver came is released already.
        if self.state is CLOSING and self._manager.closing and self.session_id is not None:
            self._release()

    def _release(self) -> None:
        self._set_state(CLOSED)
        self.due = _NEVER
        self._discard_outbox()
        if self._callbacks.is_over:
            # Before on_open has begun, or after all.
            self._manager.on_open_finished(self)
        self._manager.remove(self)
        if not self._callbacks.is_over:
            self._manager.add_lingering(self)
        self._break_reference_cycle()

    def _break_reference_cycle(self) -> None:
        """Break the circle of session and connection when both are over: no garbage collector has to find it."""
        if self.conn is not None and self.state is CLOSED and self._callbacks.is_over:
            self._callbacks.clear()
            self._manager.rooms.forget(self)
            self._manager.remove_lingering(self)
            self.conn = None
