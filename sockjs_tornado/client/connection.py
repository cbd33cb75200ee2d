"""The client that an application uses, :class:`SockJSClient`. Its ``SessionRunner`` does the work."""

import asyncio
import json
import warnings
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NoReturn, Self

from ..exceptions import ConnectionClosed
from ..protocol import CloseCode
from .hooks import BaseClient
from .multi import Multi
from .options import Options
from .runner import SessionRunner
from .service_url import ServiceURL
from .session import ClientSession

#: Close codes of a normal end. Servers use 3000 if the application gives no code.
_NORMAL_CODES = (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.GO_AWAY)

#: Maximum length of the reason in a websocket's close frame in bytes (RFC 6455, section 5.5).
_MAX_REASON_LENGTH = 123


class SockJSClient(BaseClient):
    """A connection to a SockJS service, returned by :func:`sockjs_tornado.client.connect`.

    Use it only in the event loop in which it was created: in another one, its methods raise RuntimeError. From another
    thread, call ``asyncio.run_coroutine_threadsafe(client.send(message), loop)``.

    If the application drops a client without :meth:`close`, there is a ``ResourceWarning``. The queued messages are
    sent, and the connection is closed. If the event loop has ended before, the connection is closed already.
    """

    #: Whether a client that is garbage warns that it was not closed. False if its owner does.
    _warns = True

    def __init__(self, service: ServiceURL, options: Options, multi: Multi, session: ClientSession) -> None:
        self._service = service
        self._options = options
        self._send_lock = asyncio.Lock()
        self._runner = SessionRunner(self, service, options, multi, session)

    # --- for applications

    @property
    def url(self) -> str:
        """URL of the service, without credentials."""
        return self._service.url

    @property
    def transport(self) -> str:
        """Name of the current transport, or of the last one."""
        return self._runner.session.transport

    @property
    def failures(self) -> dict[str, str]:
        """The transports that were tried before the current one, each with the reason why it did not open."""
        return dict(self._runner.session.failures)

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended for good. Messages received before may still be read."""
        return self._runner.close_status is not None

    @property
    def is_connected(self) -> bool:
        """Whether a session is open. False while the client reconnects, and after :meth:`close` was called."""
        return self._runner.end_of_session is None

    @property
    def close_code(self) -> int | None:
        """Close code, or None if the connection is open. 1006 if it was lost, 1009 if a frame was too large."""
        return None if self._runner.close_status is None else self._runner.close_status[0]

    @property
    def close_reason(self) -> str | None:
        """Close reason, or None if the connection is open."""
        return None if self._runner.close_status is None else self._runner.close_status[1]

    async def recv(self) -> Any:
        """Wait for the next message and return it.

        For a timeout, use ``async with asyncio.timeout(seconds)``: cancelling this does not lose a message. If several
        tasks wait, each message goes to one of them.

        Returns:
            A ``str``, or the value if the server sent another JSON value.

        Raises:
            ConnectionClosed: The connection has ended and all messages received before have been read.
        """
        self._check_loop()
        while not self._runner.receive_queue:
            # In on_disconnect, no other message would arrive before it returns.
            self._runner.raise_if_closed(
                self._runner.close_status or (self._runner.session.close_status if self._runner.is_in_hook() else None)
            )
            await self._runner.receive_queue.readable.wait()
        message = self._runner.receive_queue.get()
        if self._runner.session.paused and self._runner.receive_queue.below_low_water:
            self._runner.session.resume()
        return message

    def take_received(self) -> Any:
        """Return the next message of a client whose event loop has ended; raise IndexError if there is none."""
        return self._runner.receive_queue.get()

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the messages: ``async for message in client``.

        The iteration ends if the connection was closed by :meth:`close`, or by the server with code 1000, 1001 or 3000.
        If it ended in any other way, the iteration raises :exc:`~sockjs_tornado.exceptions.ConnectionClosed`.
        """
        return self

    # Type checkers find this mistake themselves.
    if not TYPE_CHECKING:

        def __iter__(self) -> NoReturn:
            raise TypeError("use `async for` instead of `for`, or sockjs_tornado.client.sync without asyncio")

    async def __anext__(self) -> Any:
        try:
            return await self.recv()
        except ConnectionClosed as error:
            if is_normal_end(self, error):
                raise StopAsyncIteration from None
            raise

    async def send(self, message: str) -> None:
        """Queue a message for sending. Messages are sent in the order of the calls.

        Waits while ``max_queue_bytes`` are queued, and while the client reconnects. If the call is cancelled, as by
        ``asyncio.timeout``, nothing is sent.

        Args:
            message: Text to send.

        Raises:
            ConnectionClosed: The connection has ended.
            TypeError: The message is not a ``str``.
        """
        self._check_loop()
        if not isinstance(message, str):
            raise TypeError(f"message: expected str, got {type(message).__name__}; {_hint_at_text(message)}")
        if self._runner.is_in_hook():
            # The next session opens after on_disconnect has returned.
            self._runner.raise_if_closed(self._runner.session.close_status)
            await self._runner.wait_for_capacity()
            self._runner.send_queue.put(message)
            return
        async with self._send_lock:
            while True:
                await self._runner.writable.wait()
                await self._runner.wait_for_capacity()
                # The session may have ended while this waited for capacity.
                if self._runner.writable.is_set():
                    break
            self._runner.send_queue.put(message)

    async def send_json(self, value: Any) -> None:
        """Encode a value as JSON, and send the text as :meth:`send` does.

        Args:
            value: Any value that ``json.dumps`` encodes, apart from NaN and infinities, which are not JSON.

        Raises:
            ConnectionClosed: The connection has ended.
            TypeError: The value, or a part of it, cannot be encoded.
            ValueError: It contains NaN, an infinity or itself.
        """
        await self.send(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))

    async def ping(self) -> float:
        """Send a ping over the websocket, and return the round-trip time in seconds.

        There is no timeout other than ``heartbeat_timeout``: use ``asyncio.timeout``. While the application does not
        read its messages and the receive queue is full, the response is not read either.

        Raises:
            ConnectionClosed: The session has ended, or ends before the response. With ``reconnect``, there may be
                another one later.
            RuntimeError: The current transport is not ``websocket``: others have no pings.
        """
        self._check_loop()
        self._runner.raise_if_closed(self._runner.end_of_session)
        return await self._runner.session.ping()

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Send the queued messages, close the connection and wait until it is closed, at most ``close_timeout``.

        Over a websocket, the server receives code and reason. Over HTTP, a client cannot send them: the server sees a
        disconnect (code 1002). If the connection is closing or closed already, this only waits. If called in
        ``on_disconnect`` or ``on_reconnect``, it returns immediately, and the rest of the callback may be cancelled.

        Args:
            code: 1000 or 3000-4999. Default 1000.
            reason: At most 123 bytes of UTF-8. Default empty.

        Raises:
            TypeError: The reason is not a ``str``.
            ValueError: Code or reason is invalid.
        """
        self._check_loop()
        if code != CloseCode.NORMAL and code not in range(3000, 5000):
            raise ValueError(f"close code: expected 1000 or 3000-4999, got {code!r}")
        if not isinstance(reason, str):
            raise TypeError(f"close reason must be str, not {type(reason).__name__}")
        if len(reason.encode(errors="surrogatepass")) > _MAX_REASON_LENGTH:
            raise ValueError(f"close reason: expected at most {_MAX_REASON_LENGTH} bytes of UTF-8")
        reason.encode()  # raises UnicodeEncodeError, a ValueError, for a lone surrogate
        self._runner.request_close(code, reason)
        if self._runner.is_in_hook():
            return
        task = self._runner.task
        _, running = await asyncio.wait((task,), timeout=self._options.close_timeout)
        if running:
            # Tornado logs an error if a write is cancelled that an open stream has not finished.
            self._runner.session.abort(code, reason)
            task.cancel()
            await asyncio.wait((task,))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __del__(self) -> None:
        # Missing if the constructor has failed.
        runner: SessionRunner | None = getattr(self, "_runner", None)
        if runner is not None and runner.abandon() and self._warns:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        if self._runner.close_status is not None:
            state = f"closed: {self._runner.close_status[0]}"
        else:
            state = "open" if self.is_connected else "reconnecting" if self._runner.reconnecting else "closing"
        return f"<{type(self).__name__} {self.url} {self.transport} {state}>"

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._runner.loop:
            raise RuntimeError(
                "a SockJSClient must be used in the event loop in which it was created; from another thread, call "
                "asyncio.run_coroutine_threadsafe(client.send(message), loop)"
            )


def _hint_at_text(message: object) -> str:
    is_bytes = isinstance(message, bytes | bytearray | memoryview)
    return "encode bytes as text, such as base64" if is_bytes else "send_json() sends values as JSON text"


def is_normal_end(client: SockJSClient, error: ConnectionClosed) -> bool:
    """Return whether an iteration over the messages ends without an error, after ``recv`` has raised one."""
    return client._runner.requested_close is not None or error.code in _NORMAL_CODES
