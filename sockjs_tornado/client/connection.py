"""The client that an application uses, :class:`SockJSClient`. It may have several sessions, one after another."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Self

from ..exceptions import ConnectError, ConnectionClosed
from ..protocol import CloseCode
from .fallback import open_session
from .hooks import call_hook, is_in_hook
from .multi import Multi
from .options import Options, ServiceURL
from .queues import ReceiveQueue, SendQueue
from .session import ClientSession

logger = logging.getLogger(__name__)

#: Close codes of a normal end. Servers use 3000 if the application gives no code.
_NORMAL_CODES = (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.GO_AWAY)

#: Maximum length of the reason in a websocket's close frame in bytes (RFC 6455, section 5.5).
_MAX_REASON_LENGTH = 123


class SockJSClient:
    """A connection to a SockJS service, returned by :func:`sockjs_tornado.client.connect`.

    Use it only in the event loop in which it was created: in another one, its methods raise RuntimeError. From another
    thread, call ``asyncio.run_coroutine_threadsafe(client.send(message), loop)``.
    """

    # `_requested_close` is set by close(), `_close_status` when the connection has ended for good. `_writable` is set
    # while a session is open and `on_reconnect` has returned, and for good with `_close_status`, to wake the senders.
    # `_hook` is the task that runs `on_disconnect`, while `_reconnecting`, or `on_reconnect`, in the new session.
    # `_cause` is set while `_reconnecting`, to the last failure, and otherwise only if a callback has raised.

    def __init__(self, service: ServiceURL, options: Options, multi: Multi, session: ClientSession) -> None:
        self._loop = asyncio.get_running_loop()
        self._service = service
        self._options = options
        self._multi = multi
        self._receive_queue = ReceiveQueue(options.max_queue_bytes)
        self._send_queue = SendQueue(options.max_queue_bytes)
        self._send_lock = asyncio.Lock()
        self._writable = asyncio.Event()
        self._writable.set()
        self._reconnecting = False
        self._hook: asyncio.Task[Any] | None = None
        self._requested_close: tuple[int, str] | None = None
        self._close_status: tuple[int, str] | None = None
        self._cause: BaseException | None = None
        self._start_session(session)
        self._runner = asyncio.create_task(self._run())

    # --- for applications

    @property
    def url(self) -> str:
        """URL of the service, without credentials."""
        return self._service.url

    @property
    def transport(self) -> str:
        """Name of the current transport, or of the last one."""
        return self._session.transport

    @property
    def failures(self) -> dict[str, str]:
        """The transports that were tried before the current one, each with the reason why it did not open."""
        return dict(self._session.failures)

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended for good. Messages received before may still be read."""
        return self._close_status is not None

    @property
    def is_connected(self) -> bool:
        """Whether a session is open. False while the client reconnects, and after :meth:`close` was called."""
        return self._end_of_session() is None

    @property
    def close_code(self) -> int | None:
        """Close code, or None if the connection is open. 1006 if the server did not close the session."""
        return None if self._close_status is None else self._close_status[0]

    @property
    def close_reason(self) -> str | None:
        """Close reason, or None if the connection is open."""
        return None if self._close_status is None else self._close_status[1]

    async def recv(self) -> Any:
        """Wait for the next message and return it.

        Cancelling this does not lose a message. If several tasks wait, each message goes to one of them.

        Returns:
            A ``str``, or the value if the server sent another JSON value.

        Raises:
            ConnectionClosed: The connection has ended and all messages received before have been read.
        """
        self._check_loop()
        while not self._receive_queue:
            # In on_disconnect, no other message would arrive before it returns.
            self._raise_if_closed(self._close_status or (self._session.close_status if self._is_in_hook() else None))
            await self._receive_queue.readable.wait()
        message = self._receive_queue.get()
        if self._session.paused and self._receive_queue.below_low_water:
            self._session.resume()
        return message

    def take_received(self) -> Any:
        """Return the next message of a client whose event loop has ended; raise IndexError if there is none."""
        return self._receive_queue.get()

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the messages: ``async for message in client``.

        The iteration ends if the connection was closed by :meth:`close`, or by the server with code 1000, 1001 or 3000.
        If it ended in any other way, the iteration raises :exc:`~sockjs_tornado.exceptions.ConnectionClosed`.
        """
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.recv()
        except ConnectionClosed as error:
            if is_normal_end(self, error):
                raise StopAsyncIteration from None
            raise

    async def send(self, message: str) -> None:
        """Queue a message for sending. Messages are sent in the order of the calls.

        Waits while ``max_queue_bytes`` are queued, and while the client reconnects. If the call is cancelled, nothing
        is sent.

        Args:
            message: Text to send.

        Raises:
            ConnectionClosed: The connection has ended.
            TypeError: The message is not a ``str``.
        """
        self._check_loop()
        if not isinstance(message, str):
            raise TypeError(
                f"message: expected str, got {type(message).__name__}; send_json() sends values as JSON text"
            )
        if self._is_in_hook():
            # The next session opens after on_disconnect has returned.
            self._raise_if_closed(self._session.close_status)
            await self._wait_for_capacity()
            self._send_queue.put(message)
            return
        async with self._send_lock:
            while True:
                await self._writable.wait()
                await self._wait_for_capacity()
                # The session may have ended while this waited for capacity.
                if self._writable.is_set():
                    break
            self._send_queue.put(message)

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
        self._raise_if_closed(self._end_of_session())
        return await self._session.ping()

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Send the queued messages, close the connection and wait until it is closed, at most ``close_timeout``.

        Over a websocket, the server receives code and reason. Over HTTP, a client cannot send them: the server sees a
        disconnect (code 1002). If the connection is closing or closed already, this only waits. If called in
        ``on_disconnect`` or ``on_reconnect``, it returns immediately, and the rest of the callback may be cancelled.

        Args:
            code: 1000 or 3000-4999. Default 1000.
            reason: At most 123 bytes of UTF-8. Default empty.

        Raises:
            ValueError: Code or reason is invalid.
        """
        self._check_loop()
        if code != CloseCode.NORMAL and code not in range(3000, 5000):
            raise ValueError(f"close code: expected 1000 or 3000-4999, got {code!r}")
        if len(reason.encode(errors="surrogatepass")) > _MAX_REASON_LENGTH:
            raise ValueError(f"close reason: expected at most {_MAX_REASON_LENGTH} bytes of UTF-8")
        reason.encode()  # raises UnicodeEncodeError, a ValueError, for a lone surrogate
        if self._requested_close is None and self._close_status is None:
            self._requested_close = int(code), reason
        self._send_queue.not_empty.set()
        if self._reconnecting:
            self._runner.cancel()
        if self._is_in_hook():
            return
        _, running = await asyncio.wait((self._runner,), timeout=self._options.close_timeout)
        if running:
            self._runner.cancel()
            await asyncio.wait((self._runner,))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "open" if self._close_status is None else f"closed: {self._close_status[0]}"
        return f"<{type(self).__name__} {self.url} {self.transport} {state}>"

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "a SockJSClient must be used in the event loop in which it was created; from another thread, call "
                "asyncio.run_coroutine_threadsafe(client.send(message), loop)"
            )

    # --- callbacks of the session

    def _messages_received(self, messages: Sequence[Any], size: int) -> None:
        self._receive_queue.put(messages, size)
        if self._receive_queue.is_full:
            self._session.pause()

    def _session_closed(self) -> None:
        self._writable.clear()
        self._send_queue.clear()
        # Wake the sending task, so that it notices.
        self._send_queue.not_empty.set()

    # --- one session after another

    def _start_session(self, session: ClientSession) -> None:
        self._session = session
        session.attach(self._messages_received, self._session_closed)
        if self._receive_queue.is_full:
            session.pause()

    async def _run(self) -> None:
        """Send messages and reconnect until the connection ends."""
        session = self._session
        status: tuple[int, str] = CloseCode.ABNORMAL, "the event loop was stopped"
        backoff = self._options.backoff
        loop = asyncio.get_running_loop()
        delays: Iterator[float] = iter(()) if backoff is None else backoff.delays()
        delay = 0.0
        try:
            while True:
                started = loop.time()
                await self._send_messages(session)
                if self._hook is not None:
                    self._hook.cancel()
                    await asyncio.wait((self._hook,))
                status = self._requested_close or session.close_status or status
                is_final = self._cause is not None or status[0] in self._options.final_codes
                if self._requested_close is not None or backoff is None or is_final:
                    if session.close_status is not None:
                        self._set_closed(status)
                    await session.close(*status, self._options.close_timeout)
                    return
                session.abort()
                logger.info("Lost the connection to %s: %d %s", self.url, *status)
                if loop.time() - started > delay:
                    delays = backoff.delays()
                self._reconnecting = True
                self._hook = asyncio.create_task(call_hook(self._options.on_disconnect, self, *status))
                await asyncio.wait((self._hook,))
                self._cause = self._hook.result()
                if self._cause is not None:
                    status = CloseCode.INTERNAL_ERROR, "on_disconnect failed"
                    return
                next_session, delay = await self._reconnect(delays)
                if next_session is None:
                    return
                session = next_session
                self._start_session(session)
                self._hook = asyncio.create_task(self._run_hook(session))
        except asyncio.CancelledError:
            if self._requested_close is None:
                raise
            status = self._requested_close
        finally:
            if self._hook is not None:
                self._hook.cancel()
            session.abort(*status)
            self._set_closed(status)
            self._multi.close()

    async def _reconnect(self, delays: Iterator[float]) -> tuple[ClientSession | None, float]:
        """Return a new session and the delay before it, or None as the session if all attempts failed."""
        delay = 0.0
        for delay in delays:
            await asyncio.sleep(delay)
            try:
                session = await open_session(self._service, self._multi, self._options)
            except ConnectError as error:
                logger.info("Failed to reconnect: %s", error)
                self._cause = error
            else:
                self._reconnecting = False
                self._cause = None
                return session, delay
        return None, delay

    async def _send_messages(self, session: ClientSession) -> None:
        """Send queued messages until the session is closed, or until the queue is empty after :meth:`close`."""
        while session.close_status is None:
            batch = self._send_queue.get_batch()
            if batch:
                await session.send(batch)
            elif self._requested_close is not None:
                return
            else:
                await self._send_queue.not_empty.wait()

    def _end_of_session(self) -> tuple[int, str] | None:
        """Return code and reason if the current session has ended, or the application has called :meth:`close`."""
        return self._close_status or self._requested_close or self._session.close_status

    def _is_in_hook(self) -> bool:
        """Return whether the caller runs in the current call of ``on_disconnect`` or ``on_reconnect``."""
        return is_in_hook(self._hook)

    async def _run_hook(self, session: ClientSession) -> None:
        """Call ``on_reconnect``; when it has returned, let the other tasks send."""
        error = await call_hook(self._options.on_reconnect, self)
        if session.close_status is not None:
            return
        if error is None:
            self._writable.set()
        else:
            self._cause = error
            session.abort(CloseCode.INTERNAL_ERROR, "on_reconnect failed")
            self._send_queue.not_empty.set()

    def _set_closed(self, status: tuple[int, str]) -> None:
        """Record the end of the connection and wake all waiting tasks. Only the first call has an effect."""
        if self._close_status is None:
            self._close_status = status
            self._receive_queue.readable.set()
            self._send_queue.clear()
            self._writable.set()

    def _raise_if_closed(self, status: tuple[int, str] | None) -> None:
        if status is not None:
            raise ConnectionClosed(*status) from self._cause

    async def _wait_for_capacity(self) -> None:
        while True:
            self._raise_if_closed(self._close_status or self._requested_close)
            if self._send_queue.not_full.is_set():
                return
            await self._send_queue.not_full.wait()


def is_normal_end(client: SockJSClient, error: ConnectionClosed) -> bool:
    """Return whether an iteration over the messages ends without an error, after ``recv`` has raised one."""
    return client._requested_close is not None or error.code in _NORMAL_CODES
