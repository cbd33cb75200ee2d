"""A SockJS session: the state machine between the application's connection and the client's receivers.

It does no I/O, and its container is its clock; of HTTP it knows only the client's address and origin.
"""

from collections.abc import Callable
from math import inf
from typing import Any

from ..connection import SendResult, SockJSConnection
from ..exceptions import SessionStateError
from ..observe import trace
from ..protocol import HEARTBEAT, OPEN, CloseCode, check_session_close
from .callbacks import Callbacks
from .connection_checks import create_connection
from .connection_info import ConnectionInfo
from .inbox import Inbox
from .legacy import LegacySession
from .outbox import IN_CALLBACK, RECEIVER_FULL, TRACED
from .ports import Receiver
from .requester import REJECTIONS, check_receiver
from .states import CLOSED, CLOSING, CONNECTING, OPENED, TRANSITIONS, RouterState, SessionState

__all__ = ["Session", "SessionState"]


class Session(Inbox, LegacySession):
    """One client's session.

    An application uses the names that are documented here; names with an underscore are for the other modules of this
    package. Any other attribute is free for the application.

    Args:
        connection: Callable that creates the application's connection when called with the session.
        server: The router.
        session_id: The id that the client chose. For a raw websocket, whose URL has none, a random one.
        info: The request that opened the session.
        expiry: Another name of ``info``: a session class for sockjs-tornado 1.0 may pass its fourth argument on by this
            name.

    Attributes:
        server: The router, with the attributes that the application has set on it.
        session_id: See above. It is a secret of the client: do not log or publish it. ``router.get_session`` finds only
            sessions over HTTP by it.
        state: A :class:`~sockjs_tornado.session.session.SessionState`.
        conn: The application's connection. None after ``on_close`` has ended.
        conn_info: The request that opened the session.
        opened_at: When the session was opened, in monotonic seconds; 0 before.
        label: A name for logs, unique among the router's sessions.
        close_code: The close code, None while the session is open.
        close_reason: The close reason, None while the session is open.
        is_accepted: Whether ``on_open`` has accepted the client.
        is_closed: Whether the session is closed for the application.
        queued: Characters in the outbox, which wait for the client.
        due: The deadline at which :meth:`check` has to be called, in monotonic seconds.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_accepts_bytes",
        "_close_frame_sent",
        "_is_registered",
        "_origin_hash",
        "_post_origin_hash",
        "_send_result",
        "close_code",
        "close_reason",
        "conn",
        "conn_info",
        "is_accepted",
        "is_closed",
        "label",
        "opened_at",
        "server",
        "session_id",
    )

    #: Set if on_open has raised an exception that was logged. In the __dict__, since few sessions need it.
    _has_open_failed = False

    def __init__(
        self,
        connection: Callable[["Session"], SockJSConnection],
        server: Any,
        session_id: str | None,
        info: ConnectionInfo | None = None,
        *,
        expiry: ConnectionInfo | None = None,
    ) -> None:
        info = expiry if info is None else info
        if info is None:
            raise TypeError(f"{type(self).__name__}: info, the fourth argument, is required")
        # Each super() would take 0.3 % of the time to open and close a websocket.
        Inbox.__init__(self, server.settings, server.stats, server.container)
        # Not typed as Router, a class of a higher layer; applications set attributes on it.
        self.server = server
        self.session_id = session_id
        # Whether the session was registered under its id, even if another node has claimed that since. If not, it ends
        # with its receiver, as a websocket's does. Set by the container.
        self._is_registered = False
        self.state = CONNECTING
        self.conn_info = info
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self._accepts_bytes = False
        self.is_accepted = False
        self.is_closed = False
        # Hashes, because origins may be long. The hash of an empty origin is 0. None until the session is opened.
        self._origin_hash: int | None = None
        self._post_origin_hash: int | None = None
        # True once the client got its close frame, or has disconnected and needs none.
        self._close_frame_sent = False
        self._send_result: SendResult | None = None
        self.label = str(next(self._container.labels))
        self.bucket: int | None = None
        self.due = self._container.now() + self._settings.disconnect_delay
        self.opened_at = 0.0
        self._callbacks = Callbacks(self, server.settings.callback_timeout)
        # While it is created.
        self.conn = None
        self.conn = self._callbacks.connection = create_connection(connection, self)
        self._container.schedule(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label} {self.conn_info.transport} {self.state.name}>"

    def _set_state(self, state: SessionState) -> None:
        before = self.state
        if state not in TRANSITIONS[before]:
            raise SessionStateError(f"{self!r}: illegal transition to {state.name}")
        self.state = state
        if self._blocked & TRACED:
            self._trace(f"{before.name} becomes {state.name}")
        if state >= CLOSING and not self.is_closed:
            self.is_closed = True
            self._container.rooms.leave_all(self)

    # Called by transports, receivers and callbacks.

    def _attach(self, receiver: Receiver, ip: str, origin: str | None = "") -> None:
        """Attach a receiver.

        The first receiver opens the session. If another one is attached, the new receiver is closed with code 2010. If
        the session is closed, the new receiver gets the queued messages and the close frame. ``ip`` and ``origin`` are
        those of the request; see :func:`~sockjs_tornado.session.requester.check_requester`.
        """
        if self._blocked & TRACED:
            self._trace("receiver attached")
        check = check_receiver(self, ip, origin)
        if check is not None:
            self._stats.rejected[check] += 1
            self._close_receiver(receiver, CloseCode.POLICY_VIOLATION, REJECTIONS[check])
            return
        if self._unsent_response is not None and self._abort_unsent_response() and self.state is OPENED:
            # The client sent its next request before it had received the whole last response: messages are lost.
            self._stats.messages_dropped += self._discard_outbox()
            self._end(CloseCode.INTERRUPTED, "Connection interrupted", discard=False)
        current = self._receiver
        if current is not None and current.is_disconnected():
            self._receiver_lost(current)
            current.abort()
            current = None
        if current is not None:
            self._close_receiver(receiver, CloseCode.STILL_OPEN, "Another connection still open")
        elif self.state is OPENED:
            self._set_receiver(receiver)
            if self._outbox:
                self._flush()
        elif self.state is CONNECTING:
            self._set_state(OPENED)
            self._origin_hash = hash(origin or "")
            if origin is None:
                self._post_origin_hash = self._origin_hash
            self.opened_at = self._container.now()
            self._container.session_opened(self)
            self._accepts_bytes = receiver.binary
            self.conn_info.ip = self.conn_info.ip or ip
            self._set_receiver(receiver)
            self._send_frame(receiver, OPEN)
            # If the open frame could not be written, the session has ended before the application knows it.
            if self.state is OPENED:
                self._blocked |= IN_CALLBACK
                self._callbacks.open()
                self._blocked &= ~IN_CALLBACK
                if self._outbox:
                    self._flush()
            else:
                self._container.on_open_finished(self)
        else:
            self._receiver = receiver
            if self._outbox:
                self._flush()
            # If the messages have completed a poll, the next one gets the close frame.
            if receiver is self._receiver:
                self._receiver = None
                self._send_close(receiver)

    def _threadsafe_send(self) -> str:
        # send_threadsafe does not call methods that an application overrides.
        sends = getattr(type(self.conn), "send", None), type(self).send_message
        if sends == (SockJSConnection.send, Session.send_message):
            return super()._threadsafe_send()
        return "connection.router.io_loop.add_callback(connection.send, message)"

    def _set_receiver(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._stats.connections += 1
        self.due = self._container.now() + self._settings.heartbeat_delay
        self._container.schedule(self)

    def _detach(self, receiver: Receiver) -> None:
        """Detach a receiver that is complete; the client will send its next receiving request."""
        if self._blocked & TRACED:
            self._trace("receiver detached")
        if receiver is self._receiver:
            self._receiver = None
            self._blocked &= ~RECEIVER_FULL
            self.due = self._container.now() + self._settings.disconnect_delay
            self._container.schedule(self)
            self._wake_outbox_waiters()

    def _receiver_lost(
        self, receiver: Receiver, code: int = CloseCode.INTERRUPTED, reason: str = "Connection interrupted"
    ) -> None:
        """End the session because a receiver was disconnected or its client closed it.

        If the receiver is not attached any more, this is the end of a connection that was closed.
        """
        if receiver is self._receiver:
            if self._blocked & TRACED:
                self._trace(f"receiver lost {code} {trace.message(reason)}")
            self._receiver = None
            self._end(code, reason, discard=False)
            self._close_frame_sent = True
        if self.state is CLOSING and not self._is_registered:
            self._release()
        elif self.state is not CLOSED:
            self._release_early()

    def _request_lost(self) -> None:
        """End the session because a receiving request was disconnected before it was attached.

        The session continues if another request is attached, or if messages are queued: the response to the
        disconnected request would have contained them, so none are lost.
        """
        if self.state is OPENED and self._receiver is None and not self._outbox:
            self._end(CloseCode.INTERRUPTED, "Connection interrupted", discard=False)

    def _recycle(self) -> None:
        """End the current receiving request, if it is one, so that the client sends the next one."""
        receiver = self._receiver
        # If the client is gone, its disconnect will be reported separately; do not hide a possible loss.
        if self.state is OPENED and receiver is not None and not receiver.is_disconnected():
            if self._blocked & TRACED:
                self._trace("receiver recycled")
            receiver.recycle()

    # Used by the application, and by its connection.

    def close(
        self,
        code: int = CloseCode.GO_AWAY,
        reason: str = "Go away!",
        *,
        message: str | None = None,
        discard: bool = True,
    ) -> None:
        """Close the session. The client gets the messages that were sent before, then the close frame.

        Args:
            code: Close code, 0-65535. If a raw websocket's close frame must not contain it, it gets the nearest code
                that it may contain.
            reason: Close reason.
            message: The name of ``reason`` in sockjs-tornado 1.0.
            discard: Whether messages of the client that wait for a running callback are discarded.

        Raises:
            RuntimeError: If called from a thread other than the event loop's.
            TypeError: If the code is not an ``int`` or the reason is not a ``str``.
            ValueError: If the code is not within 0-65535. If this or TypeError is raised, the session was closed with
                code 1011.
        """
        self._check_thread()
        if message is not None:
            reason = message
        try:
            check_session_close(code, reason)
        except (TypeError, ValueError):
            # The caller wants the client to be disconnected, perhaps for security.
            self._close(CloseCode.INTERNAL_ERROR, "Internal error", discard)
            raise
        self._close(code, reason, discard)

    def _close(self, code: int, reason: str, discard: bool) -> None:
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
            # The client closed first; the application may still want its queued messages discarded.
            if discard:
                self._callbacks.discard()
            self._release_early()

    # Called at the deadline.

    def check(self, now: float) -> None:
        """Send a heartbeat if a receiver is attached; otherwise end the session, because none was attached in time."""
        if self.state is OPENED and self._receiver is not None:
            self.due = now + self._settings.heartbeat_delay
            # If the write buffer is full, a heartbeat would only make it longer.
            if not self._blocked & RECEIVER_FULL:
                self._send_frame(self._receiver, HEARTBEAT)
            return
        if self._is_making_progress():
            # The client sends its next request after it has received the whole response.
            self.due = now + self._settings.disconnect_delay
            return
        if self._container.postpone(self, now):
            return
        self._abort_unsent_response()
        if self.state is OPENED:
            self._end(CloseCode.ABNORMAL, "Session timed out", discard=False)
        elif self.state is CONNECTING:
            self.close_code, self.close_reason = CloseCode.ABNORMAL, "Session timed out"
        if self.state is not CLOSED:
            self._release()

    # The methods that end a session, and its state afterwards:
    #
    # _end            close it for the application              CLOSING
    # _send_close     send the close frame, _release_early()    CLOSING or CLOSED
    # _release_early  _release() if the router is closing and   CLOSED, or unchanged
    #                 the client needs no close frame
    # _release        remove it from the router                 CLOSED
    # _forget         when _release() and on_close have ended:  CLOSED, and conn is None
    #                 drop the connection

    def _end(self, code: int, reason: str, *, discard: bool) -> None:
        if self._blocked & TRACED:
            self._trace(f"ends {code} {trace.message(reason)}")
        self._set_state(CLOSING)
        self.close_code, self.close_reason = code, reason
        self._container.session_closed(self)
        self._blocked &= ~RECEIVER_FULL
        if self._outbox_waiters:
            self._wake_outbox_waiters()
        if self._inbox_waiters:
            self._wake_inbox_waiters()
        if not self._is_registered:
            # The receiver reports when the closing handshake has ended.
            self.due = inf
        else:
            self.due = self._container.now() + self._settings.disconnect_delay
            self._container.schedule(self)
        self._callbacks.close(discard=discard)

    def _send_close(self, receiver: Receiver) -> None:
        assert self.close_code is not None and self.close_reason is not None
        self._close_receiver(receiver, self.close_code, self.close_reason)
        self._close_frame_sent = True
        self._release_early()

    def _release_early(self) -> None:
        # A websocket's session is released when the connection has ended.
        if (
            self.state is CLOSING
            and self._close_frame_sent
            and self._is_registered
            and self._container.state >= RouterState.CLOSING
        ):
            self._release()

    def _release(self) -> None:
        self._set_state(CLOSED)
        self.due = inf
        if self._outbox:
            self._discard_outbox()
        self._callbacks.stop_watching()
        self._container.remove(self)
        if self._callbacks.is_over:
            self._forget()

    def _forget(self) -> None:
        """Called when session and callbacks have ended: end the reference cycle, to need no garbage collection."""
        self._container.forget(self)
        # Not if the constructor of the connection has closed the session.
        if self.conn is not None:
            self._callbacks.clear()
            self.conn = self._send_result = None
