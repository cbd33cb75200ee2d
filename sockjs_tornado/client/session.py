"""One SockJS session as its client sees it: frames come in, messages and one end come out.

How frames travel is the business of the subclasses, one for HTTP and one for websockets.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from ..exceptions import PayloadError
from ..protocol import CloseCode, decode_frame

__all__ = ["ClientSession", "Listener", "OpenFailed"]


class OpenFailed(Exception):
    """A session did not open; the text says why.

    Attributes:
        code: Close code where the server closed it in place of opening it, else 0.
    """

    def __init__(self, why: str, code: int = 0) -> None:
        super().__init__(why)
        self.code = code


class Listener(Protocol):
    """Who hears of a session."""

    def received(self, messages: Sequence[Any], size: int) -> None:
        """Take messages that came together, in this order, in a frame of so many characters."""

    def ended(self, code: int, reason: str) -> None:
        """Take notice that the session is over by itself. Nothing comes after this."""


class ClientSession:
    """One session over one transport.

    Args:
        transport: Name of the transport.

    Attributes:
        transport: The same.
        over: Close code and reason once the session is over, whoever ended it.
    """

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self.over: tuple[int, str] | None = None
        self.paused = False
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._listener: Listener | None = None
        self._early: list[tuple[Sequence[Any], int]] = []
        self._heard_at = self._loop.time()
        self._patience: float | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._doubted_at = 0.0

    # --- for whoever has the session

    async def open(self, seconds: float) -> None:
        """Open the session; :exc:`OpenFailed` where that fails.

        It is up to the caller to give up after so many seconds, and to :meth:`abort` whatever did not open.
        """
        raise NotImplementedError

    def adopt(self, listener: Listener, patience: float | None) -> None:
        """Hand over what has come since the session opened, and all that comes.

        Args:
            listener: Who hears of it.
            patience: Seconds of silence after which the session counts as lost; None for any.
        """
        self._listener = listener
        for messages, size in self._early:
            listener.received(messages, size)
        self._early.clear()
        if self.over is not None:
            listener.ended(*self.over)
        elif patience is not None:
            self._patience = patience
            self._watch = self._loop.call_later(patience, self._check_silence)

    async def send(self, messages: Sequence[str]) -> None:
        """Send messages, in this order. Return when more can be sent, or when the session is over."""
        raise NotImplementedError

    def pause(self) -> None:
        """Read no more from the server."""
        self.paused = True

    def resume(self) -> None:
        """Read on."""
        self.paused = False
        self._heard_at = self._loop.time()

    async def close(self, code: int, reason: str, seconds: float) -> None:
        """End the session, or what is left of one that has ended, as well as its transport can in so many seconds."""
        self.abort(code, reason)

    def abort(self, code: int = CloseCode.ABNORMAL, reason: str = "") -> None:
        """End the session at once. The listener hears nothing."""
        self._listener = None
        self._finish(code, reason)
        self._release()

    # --- for the subclasses

    def _release(self) -> None:
        """Let go of all connections. It may be called again."""

    def _heard(self) -> None:
        self._heard_at = self._loop.time()

    def _frame(self, text: str) -> None:
        """Take a frame."""
        if self.over is not None:
            return
        try:
            frame = decode_frame(text)
        except PayloadError:
            self._finish(CloseCode.ABNORMAL, "the server sent what is no frame")
            return
        if frame.kind == "c":
            self._finish(frame.code, frame.reason)
        elif frame.kind == "o":
            if self._opened.done():
                self._finish(CloseCode.ABNORMAL, "the server opened the session twice")
            else:
                self._opened.set_result(None)
        elif not self._opened.done():
            self._finish(CloseCode.ABNORMAL, "the server did not begin with an open frame")
        elif frame.messages:
            if self._listener is None:
                self._early.append((frame.messages, len(text)))
            else:
                self._listener.received(frame.messages, len(text))

    def _finish(self, code: int, reason: str) -> None:
        """Take notice that the session is over; only the first time counts."""
        if self.over is not None:
            return
        self.over = code, reason
        if self._watch is not None:
            self._watch.cancel()
        if not self._opened.done():
            lost = code == CloseCode.ABNORMAL
            why = reason if lost else f"closed by the server: {code} {reason}".rstrip()
            self._opened.set_exception(OpenFailed(why, 0 if lost else code))
            # Whoever waited may have given up already.
            self._opened.exception()
        elif self._listener is not None:
            self._listener.ended(code, reason)

    def _check_silence(self) -> None:
        assert self._patience is not None
        now = self._loop.time()
        # While the application takes nothing, it is us who do not listen.
        due = (now if self.paused else self._heard_at) + self._patience
        if due <= now and self._doubted_at < self._heard_at:
            # After the application has held up the event loop, much may have arrived that nobody has read yet.
            self._doubted_at = now
            self._watch = self._loop.call_later(min(self._patience / 10, 1), self._check_silence)
        elif due <= now:
            self._finish(CloseCode.ABNORMAL, f"nothing was heard for {self._patience:g} seconds")
            self._release()
        else:
            self._watch = self._loop.call_at(due, self._check_silence)
