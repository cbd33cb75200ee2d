"""The client in memory."""

import asyncio
import json
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from ..connection import SockJSConnection
from ..exceptions import ConnectionClosed
from ..protocol import CloseCode, check_session_close
from ..router import SockJSRouter
from ..session.connection_info import ConnectionInfo
from .receiver import MemoryReceiver
from .watch import RouterWatch

#: Number of messages that an error shows, and of characters of each.
_SHOWN: Final = 10
_WIDTH: Final = 100


class MemoryClient:
    """A client in memory, which :func:`connect` returns.

    If a callback has raised, the next call raises the exception. Messages that were received before can be read first.
    The callbacks of all clients of a router count, since the test may wait for one that depends on another. If a task
    that a callback has created raises, and nothing awaits it, the end of the last client of the router raises that.

    Attributes:
        router: The router.
        connection: The application's connection.
        info: The request, as ``on_open`` got it.
    """

    connection: SockJSConnection
    info: ConnectionInfo

    def __init__(
        self, router: SockJSRouter, receiver: MemoryReceiver, watch: RouterWatch, timeout: float, *, is_own: bool
    ) -> None:
        self.router = router
        self._receiver = receiver
        self._session = receiver.session
        self.connection = self._session.conn
        self.info = self._session.conn_info
        self._watch = watch
        self._timeout = timeout
        # Whether the router was created for this client.
        self._is_own = is_own
        self._has_left = False
        self._read: deque[Any] = deque(maxlen=_SHOWN)
        receiver.on_change = watch.notify

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._session!r}>"

    def __del__(self) -> None:
        if not self._has_left and not self.is_closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed. Messages that were received before can still be read."""
        return self._receiver.close_status is not None

    @property
    def close_code(self) -> int | None:
        """The close code that the client got, or None."""
        return self._receiver.close_status[0] if self._receiver.close_status else None

    @property
    def close_reason(self) -> str | None:
        """The close reason that the client got, or None."""
        return self._receiver.close_status[1] if self._receiver.close_status else None

    async def send(self, message: str | bytes) -> None:
        """Send a message.

        A callback that does not wait for anything has ended when this returns. If the application is so slow that its
        messages fill the queue, it waits, as a websocket that is not read.

        Raises:
            TypeError: The message is not a ``str`` (or ``bytes`` on a raw websocket), which is all that clients send.
            ConnectionClosed: The connection is closed.
        """
        accepted = (str, bytes) if self._receiver.binary else (str,)
        if not isinstance(message, accepted):
            names = " or ".join(kind.__name__ for kind in accepted)
            hint = (
                'only connect(..., transport="rawwebsocket") sends bytes'
                if isinstance(message, bytes | bytearray | memoryview)
                else "use send_json() for JSON values"
            )
            raise TypeError(f"a client sends {names}, not {type(message).__name__}: {hint}")
        await self._wait_until(
            lambda: self._receiver.is_reading or self.is_closed, "the application did not accept a message", None
        )
        self._watch.raise_error()
        self._check_open()
        with self._watch.calling(self._session.label):
            self._receiver.receive(message)
        # An `async def` callback begins in the next iteration, before Python 3.12.
        await asyncio.sleep(0)
        self._watch.raise_error()

    async def send_json(self, value: Any) -> None:
        """Send a JSON value as text, as pages do: ``socket.send(JSON.stringify(value))``.

        Raises:
            TypeError: The value, or a part of it, cannot be encoded.
            ValueError: It contains NaN or an infinity, which no page can send.
        """
        await self.send(json.dumps(value, allow_nan=False))

    async def recv(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - the message says what happened
        """Return the next message, as the page would receive it: text, or the value of a message that was sent as JSON.

        Args:
            timeout: Seconds to wait. Default: those of :func:`connect`.

        Raises:
            TimeoutError: No message has arrived. The error says what has happened instead.
            ConnectionClosed: The connection was closed instead.
        """
        await self._wait_until(lambda: self._receiver.messages or self.is_closed, "no message was received", timeout)
        if not self._receiver.messages:
            self._watch.raise_error()
            self._check_open()
        message = self._receiver.read()
        self._read.append(message)
        return message

    async def recv_json(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - as recv()
        """Return the value of the next message, which is JSON in text.

        Raises:
            TypeError: The message is no text: it was sent as JSON, so that ``recv`` returns its value.
            ValueError: The text is not JSON.
        """
        message = await self.recv(timeout)
        if not isinstance(message, str | bytes):
            raise TypeError(
                f"the message was not sent as text, but as a {type(message).__name__}: use recv(), which returns "
                f"{_shorten(message)}"
            )
        try:
            return json.loads(message)
        except ValueError as error:
            raise ValueError(f"the message {_shorten(message)} is not JSON: {error}") from None

    async def recv_all(self) -> list[Any]:
        """Return all messages that were received after the callbacks of all clients of the router have ended.

        This shows that a message was *not* sent: ``assert await client.recv_all() == []``.

        Raises:
            TimeoutError: A callback has not ended.
        """
        await self._callbacks_ended(lambda: False)
        messages = []
        while self._receiver.messages:
            messages.append(await self.recv())
        self._watch.raise_error()
        return messages

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the messages until the connection is closed."""
        while True:
            try:
                message = await self.recv()
            except ConnectionClosed:
                return
            yield message

    async def wait_closed(self, timeout: float | None = None) -> tuple[int, str]:  # noqa: ASYNC109 - as recv()
        """Wait until the server closes the connection; return the close code and reason.

        Args:
            timeout: Seconds to wait. Default: those of :func:`connect`.

        Raises:
            TimeoutError: It is still open. The error says what has happened instead.
        """
        await self._wait_until(lambda: self.is_closed, "the connection was not closed", timeout)
        self._watch.raise_error()
        assert self._receiver.close_status is not None
        return self._receiver.close_status

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection, as a page does that calls ``socket.close()``; wait until ``on_close`` has ended.

        Args:
            code: Close code for ``on_close``. If the server has closed the connection, it has no effect.
            reason: Close reason for ``on_close``.

        Raises:
            TypeError: The code is not an ``int``, or the reason is not a ``str``.
            ValueError: The code is not within 0-65535.
            TimeoutError: A callback has not ended.
        """
        check_session_close(code, reason)
        await self._leave(code, reason)
        self._watch.raise_error()

    async def abort(self) -> None:
        """Lose the connection, as a client without a network (close code 1006); wait until ``on_close`` has ended.

        Raises:
            TimeoutError: A callback has not ended.
        """
        await self.close(CloseCode.ABNORMAL, "Connection lost")

    # Called by connect.

    async def wait_open(self) -> None:
        """Wait until ``on_open`` has ended."""
        opening = self.router.container._opening
        await self._callbacks_ended(lambda: self._session not in opening)
        self._watch.raise_error()

    async def leave(self, error: BaseException) -> None:
        """Close the connection because the test has failed; add what has failed in callbacks to the exception."""
        try:
            await self._leave(CloseCode.NORMAL, "")
        except TimeoutError as timeout:
            error.add_note(f"sockjs_tornado: {timeout}")
        self._watch.add_notes(error)

    # Internal.

    async def _leave(self, code: int, reason: str) -> None:
        if self._has_left:
            return
        self._has_left = True
        try:
            if self._receiver.close_status is None:
                with self._watch.calling(self._session.label):
                    self._receiver.disconnect(code, reason)
            await self._callbacks_ended(lambda: self._session.conn is None)
        finally:
            if self._is_own:
                for task in self.router.container._tasks:
                    task.cancel()
                await self.router.close()
            self._watch.release(self.router)

    def _check_open(self) -> None:
        if self._receiver.close_status is not None:
            error = ConnectionClosed(*self._receiver.close_status)
            error.add_note(f"sockjs_tornado: {self._describe()}")
            raise error

    async def _wait_until(self, condition: Callable[[], object], failure: str, seconds: float | None) -> None:
        """Wait until a condition is true, or an exception is there to be raised."""
        seconds = self._timeout if seconds is None else seconds
        try:
            await self._watch.wait_until(lambda: condition() or self._watch.has_errors, seconds)
        except TimeoutError:
            raise TimeoutError(f"{failure} within {seconds:g} s: {self._describe()}") from None
        if not condition():
            self._watch.raise_error()

    async def _callbacks_ended(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true, or no callback is running."""
        tasks = self.router.container._tasks
        # A close frame is answered, and batched messages are sent, in the next iteration.
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(self._timeout):
                while not condition() and tasks:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.sleep(0)
        except TimeoutError:
            raise TimeoutError(f"callbacks have not ended within {self._timeout:g} s: {self._describe()}") from None

    def _describe(self) -> str:
        """Return what has happened, for an error."""
        if self._receiver.close_status is None:
            parts = [f"the connection is open, {self._describe_rooms()}"]
        else:
            code, reason = self._receiver.close_status
            parts = [f"the connection was closed: {code:d} {reason!r}"]
        if self._session.conn is not None and self._session._callbacks.awaited is not None:
            kind = type(self._session.conn).__qualname__
            parts.append(f"{kind}.{self._session._callbacks.awaited[0] or 'on_message'} is running")
        unread = list(self._receiver.messages)[:_SHOWN]
        for label, messages in (("received before", self._read), ("received but not read", unread)):
            if messages:
                parts.append(f"{label}: {', '.join(map(_shorten, messages))}")
        if not self._read and not unread:
            parts.append("nothing was received")
        return "; ".join(parts) + self._watch.logged()

    def _describe_rooms(self) -> str:
        rooms = sorted(self.router.container.rooms.rooms_of(self._session))
        if not rooms:
            return "in no room"
        others = (
            ", which no other client can join, since connect() has made a router for this one" if self._is_own else ""
        )
        more = f" and {len(rooms) - _SHOWN} more" if len(rooms) > _SHOWN else ""
        return f"in the rooms {', '.join(map(_shorten, rooms[:_SHOWN]))}{more}{others}"


def _shorten(message: object) -> str:
    text = repr(message)
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}... ({len(text)} characters)"
