"""What the scenarios know of a session, and what all transports share: the frames."""

import asyncio
from typing import Protocol

from .messages import decode_frame

#: Seconds in which a session opens.
OPEN_TIMEOUT = 15
#: Seconds in which a server answers that a session is to end.
CLOSE_TIMEOUT = 3


class SessionError(Exception):
    """A session did not open."""


class Listener(Protocol):
    """Who hears of a session."""

    def received(self, messages: list[bytes]) -> None:
        """Take messages that came together."""

    def broken(self, reason: str) -> None:
        """Take notice that an open session ended by itself. Nothing comes after this."""


class Session:
    """One client. Subclasses bring frames in by :meth:`_frame`, and call :meth:`_fail` where nothing more can come."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over = False

    @property
    def is_open(self) -> bool:
        """Whether messages come and go."""
        return self._opened.done() and not self._over

    def send(self, messages: list[bytes]) -> None:
        """Send messages, in this order."""
        raise NotImplementedError

    async def close(self) -> None:
        """End the session as a client does. The listener hears of nothing any more."""
        raise NotImplementedError

    async def wait_open(self) -> None:
        """Wait for the open frame; SessionError where it does not come."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await self._opened
        except TimeoutError:
            self._over = True
            raise SessionError(f"no open frame within {OPEN_TIMEOUT} seconds") from None

    def _frame(self, frame: bytes) -> None:
        kind = frame[:1]
        if kind == b"a":
            messages = decode_frame(frame)
            self._messages([frame] if messages is None else messages)
        elif kind == b"o" and not self._opened.done():
            self._opened.set_result(None)
        elif kind == b"c":
            self._fail(f"closed by the server: {frame.decode(errors='replace')}")
        elif kind != b"h":
            self._fail(f"unexpected frame: {frame[:80].decode(errors='replace')}")

    def _messages(self, messages: list[bytes]) -> None:
        if not self._over:
            self._listener.received(messages)

    def _fail(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        if not self._opened.done():
            self._opened.set_exception(SessionError(reason))
        else:
            self._listener.broken(reason)


class Transport(Protocol):
    """Opens sessions of one kind."""

    async def open(self, number: int, listener: Listener) -> Session:
        """Open a session; SessionError where that fails. `number` tells it from the run's others."""
