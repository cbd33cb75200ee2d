"""The base class of sessions, which parses frames."""

import asyncio
from typing import Protocol

from .messages import decode_frame

#: Timeout for opening a session, in seconds.
OPEN_TIMEOUT = 15
#: Timeout for closing a session, in seconds.
CLOSE_TIMEOUT = 3


class SessionError(Exception):
    """A session could not be opened."""


class Listener(Protocol):
    """Receives the events of a session."""

    def messages_received(self, messages: list[bytes]) -> None:
        """Called with messages that arrived in one frame."""

    def session_closed(self, reason: str) -> None:
        """Called when the server closed an open session. Nothing is called after this."""


class Session:
    """A session. Subclasses call :meth:`_handle_frame` for frames, and :meth:`_fail` when the session is closed."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent and received."""
        return self._opened.done() and not self._closed

    def send(self, messages: list[bytes]) -> None:
        """Send messages in order."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the session. The listener is not called any more."""
        raise NotImplementedError

    async def wait_open(self) -> None:
        """Wait for the open frame; if there is none, close the session and raise SessionError."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await self._opened
        except (SessionError, TimeoutError) as error:
            await self.close()
            raise SessionError(str(error) or f"no open frame within {OPEN_TIMEOUT} seconds") from None

    def _handle_frame(self, frame: bytes) -> None:
        kind = frame[:1]
        if kind == b"a":
            messages = decode_frame(frame)
            self._deliver([frame] if messages is None else messages)
        elif kind == b"o" and not self._opened.done():
            self._opened.set_result(None)
        elif kind == b"c":
            self._fail(f"closed by the server: {frame.decode(errors='replace')}")
        elif kind != b"h":
            self._fail(f"unexpected frame: {frame[:80].decode(errors='replace')}")

    def _deliver(self, messages: list[bytes]) -> None:
        if not self._closed:
            self._listener.messages_received(messages)

    def _fail(self, reason: str) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._opened.done():
            self._opened.set_exception(SessionError(reason))
        else:
            self._listener.session_closed(reason)


class Transport(Protocol):
    """Opens sessions over one transport."""

    async def open(self, number: int, listener: Listener) -> Session:
        """Open the session with a number, or raise SessionError."""
