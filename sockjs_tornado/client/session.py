"""One SockJS session on the client's side: parses frames and reports messages and the end of the session.

The subclasses send and receive the frames, one over HTTP and one over a websocket.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ..exceptions import PayloadError
from ..protocol import CloseCode, decode_frame
from .options import Options

#: Close reason if the server violates the protocol.
INVALID_FRAME = "the server sent an invalid frame"

#: A possible reason if the server does not know the session, or opens it again.
SPLIT_SESSION = "perhaps a proxy sends requests of one session to different processes"


def frame_too_long(limit: int) -> str:
    """Return the close reason if a frame of the server has more bytes than ``max_message_size``."""
    return f"the server sent a frame of more than {limit} bytes (max_message_size)"


class OpenFailed(Exception):
    """A session, or the request for ``/info`` before it, has failed; the message says why.

    Attributes:
        code: Close code if the server closed the session instead of opening it, otherwise 0.
    """

    def __init__(self, reason: str, code: int = 0) -> None:
        super().__init__(reason)
        self.code = code


def no_data(seconds: float) -> str:
    """Return the close reason if the server has sent nothing for ``heartbeat_timeout``."""
    return f"no data received for {seconds:g} seconds (heartbeat_timeout)"


class ClientSession:
    """One session over one transport.

    The session is opening, open or closed: it is closed once ``close_status`` is set, and open once the ``_opened``
    future has a result. Neither is ever undone.

    Attributes:
        transport: Name of the transport.
        close_status: Close code and reason once the session is closed by either side, otherwise None.
        paused: Whether reading from the server is paused.
        failures: The transports that were tried before, each with the reason why it did not open.
    """

    def __init__(self, transport: str, options: Options) -> None:
        self.transport = transport
        self.close_status: tuple[int, str] | None = None
        self.paused = False
        self.failures: dict[str, str] = {}
        self._heartbeat_timeout = options.heartbeat_timeout
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._on_messages: Callable[[Sequence[Any], int], None] | None = None
        self._on_close: Callable[[], None] | None = None
        self._unread: list[tuple[Sequence[Any], int]] = []
        self._last_activity = self._loop.time()
        self._heartbeat_timer: asyncio.TimerHandle | None = None
        self._grace_started = 0.0

    # --- for the owner of the session

    async def open(self, seconds: float) -> None:
        """Open the session, or raise OpenFailed.

        The caller cancels this after `seconds`, and calls :meth:`abort` if the session did not open.
        """
        raise NotImplementedError

    def attach(self, on_messages: Callable[[Sequence[Any], int], None], on_close: Callable[[], None]) -> None:
        """Register the callbacks of an open session, and deliver the messages received so far.

        ``on_messages`` is called with the messages of each frame and the length of the frame in characters, and
        ``on_close`` if the session closes by itself. Nothing is called after that.
        """
        self._on_messages = on_messages
        self._on_close = on_close
        for messages, size in self._unread:
            on_messages(messages, size)
        self._unread.clear()
        if self.close_status is not None:
            on_close()
        elif self._heartbeat_timeout is not None:
            self._heartbeat_timer = self._loop.call_later(self._heartbeat_timeout, self._check_heartbeat)

    async def send(self, messages: Sequence[str]) -> None:
        """Send messages over an open session, in order; return when it can send the next ones, or is closed."""
        raise NotImplementedError

    async def ping(self) -> float:
        """Return the round-trip time of a ping in seconds; raise ConnectionClosed, or RuntimeError without pings."""
        raise RuntimeError(f"ping: the transport {self.transport} has no pings, only websocket has (client.transport)")

    def pause(self) -> None:
        """Stop reading from the server."""
        self.paused = True

    def resume(self) -> None:
        """Resume reading from the server."""
        self.paused = False
        self._last_activity = self._loop.time()

    async def close(self, code: int, reason: str, seconds: float) -> None:
        """Close the session and its connections. A closing handshake may take up to `seconds`."""
        self.abort(code, reason)

    def abort(self, code: int = CloseCode.ABNORMAL, reason: str = "") -> None:
        """Close the session and its connections immediately, without calling the callbacks."""
        self._detach()
        self._set_closed(code, reason)
        self._close_connections()

    # --- for subclasses

    def _detach(self) -> None:
        self._on_messages = self._on_close = None

    def _close_connections(self) -> None:
        """Close all connections. Idempotent."""

    def _handle_frame(self, text: str) -> None:
        """Process a frame."""
        if self.close_status is not None:
            return
        try:
            frame = decode_frame(text)
        except PayloadError:
            self._set_closed(CloseCode.ABNORMAL, INVALID_FRAME)
            return
        if frame.kind == "c":
            self._set_closed(frame.code, frame.reason)
        elif frame.kind == "o":
            if self._opened.done():
                why = "the server sent a second open frame"
                if self.transport != "websocket":
                    why += f"; {SPLIT_SESSION}"
                self._set_closed(CloseCode.ABNORMAL, why)
            else:
                self._opened.set_result(None)
        elif not self._opened.done():
            self._set_closed(CloseCode.ABNORMAL, "the server's first frame was not an open frame")
        elif frame.messages:
            if self._on_messages is None:
                self._unread.append((frame.messages, len(text)))
            else:
                self._on_messages(frame.messages, len(text))

    def _set_closed(self, code: int, reason: str) -> None:
        """Mark the session as closed. Only the first call has an effect."""
        if self.close_status is not None:
            return
        self.close_status = code, reason
        if self._heartbeat_timer is not None:
            self._heartbeat_timer.cancel()
        if not self._opened.done():
            is_failure = code == CloseCode.ABNORMAL
            why = reason if is_failure else f"closed by the server: {code} {reason}".rstrip()
            self._opened.set_exception(OpenFailed(why, 0 if is_failure else code))
            # Mark the exception as retrieved: open() may have been cancelled.
            self._opened.exception()
        elif self._on_close is not None:
            self._on_close()

    def _check_heartbeat(self) -> None:
        assert self._heartbeat_timeout is not None
        now = self._loop.time()
        # While reading is paused, missing heartbeats say nothing about the server.
        deadline = (now if self.paused else self._last_activity) + self._heartbeat_timeout
        if deadline <= now and self._grace_started < self._last_activity:
            # If the application blocked the event loop, data may have arrived that has not been read yet. Allow one
            # grace period for reading it.
            self._grace_started = now
            self._heartbeat_timer = self._loop.call_later(min(self._heartbeat_timeout / 10, 1), self._check_heartbeat)
        elif deadline <= now:
            self._set_closed(CloseCode.ABNORMAL, no_data(self._heartbeat_timeout))
            self._close_connections()
        else:
            self._heartbeat_timer = self._loop.call_at(deadline, self._check_heartbeat)
