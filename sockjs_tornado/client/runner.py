"""The runner of a client: its sessions, one after another, and the queues between them and the application."""

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..exceptions import ConnectError, ConnectionClosed
from ..observe.logs import ThrottledLog
from ..protocol import CloseCode
from .fallback import open_session
from .hooks import call_hook, is_in_hook
from .multi import Multi
from .options import Backoff, Options
from .queues import ReceiveQueue, SendQueue
from .service_url import ServiceURL
from .session import ClientSession, no_data

if TYPE_CHECKING:
    from .connection import SockJSClient

# The name of the application's object, which users see.
logger = logging.getLogger("sockjs_tornado.client.connection")

#: Seconds without a session after which it is a warning that a client cannot reconnect. A server restarts within these.
OUTAGE: Final = 5.0


class SessionRunner:
    """Sends messages, receives them, and reconnects, until the connection of a client ends.

    The event loop refers to it, and it has only a weak reference to the client, which is garbage if the application has
    dropped it.

    Attributes:
        loop: The event loop.
        session: The current session, or the last one.
        receive_queue: The messages that the application has not read.
        send_queue: The messages that were not sent.
        writable: Set while a session is open and ``on_reconnect`` has returned, and for good with ``close_status``, to
            wake the senders.
        reconnecting: Whether there is no session, because the last one has ended and the next one is not open.
        requested_close: Code and reason of :meth:`request_close`, None before.
        close_status: Code and reason when the connection has ended for good, None before.
        task: The task that runs the sessions.
    """

    # `_hook` is the task that runs `on_disconnect`, while `reconnecting`, or `on_reconnect`, in the new session.
    # `_cause` is set while `reconnecting`, to the last failure, and otherwise only if a callback has raised.

    def __init__(
        self, client: "SockJSClient", service: ServiceURL, options: Options, multi: Multi, session: ClientSession
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._client = weakref.ref(client)
        self._service = service
        self._options = options
        self._multi = multi
        self.receive_queue = ReceiveQueue(options.max_queue_bytes)
        self.send_queue = SendQueue(options.max_queue_bytes)
        self.writable = asyncio.Event()
        self.writable.set()
        self.reconnecting = False
        self._hook: asyncio.Task[Any] | None = None
        self.requested_close: tuple[int, str] | None = None
        self.close_status: tuple[int, str] | None = None
        self._cause: BaseException | None = None
        self._details = ""
        self._log = ThrottledLog()
        #: Whether the last session has ended because of ``heartbeat_timeout``.
        self._was_silent = False
        self._start_session(session)
        self.task = asyncio.create_task(self._run())

    # --- for the client

    @property
    def end_of_session(self) -> tuple[int, str] | None:
        """Code and reason if the current session has ended or the application has closed the client, or None."""
        return self.close_status or self.requested_close or self.session.close_status

    def is_in_hook(self) -> bool:
        """Return whether the caller runs in the current call of ``on_disconnect`` or ``on_reconnect``."""
        return is_in_hook(self._hook)

    def raise_if_closed(self, status: tuple[int, str] | None) -> None:
        """Raise ConnectionClosed with this code and reason, unless it is None."""
        if status is not None:
            raise ConnectionClosed(*status, self._details) from self._cause

    async def wait_for_capacity(self) -> None:
        """Wait until the send queue is not full, or raise ConnectionClosed."""
        while True:
            self.raise_if_closed(self.close_status or self.requested_close)
            if self.send_queue.not_full.is_set():
                return
            await self.send_queue.not_full.wait()

    def request_close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection after the queued messages were sent. Only the first call has an effect."""
        if self.requested_close is None and self.close_status is None:
            self.requested_close = int(code), reason
        self.send_queue.not_empty.set()
        if self.reconnecting:
            self.task.cancel()

    def abandon(self) -> bool:
        """Close the connection of a client that is garbage, from any thread; return False if it was closed before."""
        if self.task.done() or self.requested_close is not None or self.close_status is not None:
            return False
        # If the event loop is closed, its connections are, too.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.request_close)
        return True

    # --- callbacks of the session

    def _messages_received(self, messages: Sequence[Any], size: int) -> None:
        self.receive_queue.put(messages, size)
        if self.receive_queue.is_full:
            self.session.pause()

    def _session_closed(self) -> None:
        self.writable.clear()
        self.send_queue.clear()
        # Wake the sending task, so that it notices.
        self.send_queue.not_empty.set()

    # --- one session after another

    def _start_session(self, session: ClientSession) -> None:
        self.session = session
        session.attach(self._messages_received, self._session_closed)
        if self.receive_queue.is_full:
            session.pause()

    async def _run(self) -> None:
        """Send messages and reconnect until the connection ends."""
        session = self.session
        status: tuple[int, str] = CloseCode.ABNORMAL, "the event loop was stopped"
        backoff = self._options.backoff
        loop = self.loop
        delays: Iterator[float] = iter(()) if backoff is None else backoff.delays()
        delay = 0.0
        try:
            while True:
                started = loop.time()
                await self._send_messages(session)
                if self._hook is not None:
                    self._hook.cancel()
                    await asyncio.wait((self._hook,))
                status = self.requested_close or session.close_status or status
                is_final = self._cause is not None or status[0] in self._options.final_codes
                if self.requested_close is not None or backoff is None or is_final:
                    if session.close_status is not None:
                        self._set_closed(status)
                    await session.close(*status, self._options.close_timeout)
                    return
                session.abort()
                self._log_disconnect(*status)
                if loop.time() - started > delay:
                    delays = backoff.delays()
                self.reconnecting = True
                self._hook = asyncio.create_task(self._call_hook(self._options.on_disconnect, *status))
                await asyncio.wait((self._hook,))
                self._cause = self._hook.result()
                if self._cause is not None:
                    status = CloseCode.INTERNAL_ERROR, "on_disconnect failed"
                    return
                next_session, delay = await self._reconnect(delays)
                if next_session is None:
                    self._details = self._describe_giving_up(backoff)
                    return
                session = next_session
                self._start_session(session)
                self._hook = asyncio.create_task(self._run_on_reconnect(session))
        except asyncio.CancelledError:
            if self.requested_close is None:
                raise
            status = self.requested_close
        finally:
            if self._hook is not None:
                self._hook.cancel()
            session.abort(*status)
            self._set_closed(status)
            self._multi.close()

    def _log_disconnect(self, code: int, reason: str) -> None:
        text, values = "Lost the connection to %s: %d %s", (self._service.url, code, reason)
        timeout = self._options.heartbeat_timeout
        is_silent = timeout is not None and reason == no_data(timeout)
        if code == CloseCode.TOO_BIG or (is_silent and self._was_silent):
            # A limit has ended the session, and may end each of the next ones. If only one session gets no heartbeats,
            # the network has failed.
            self._log.write(logger, logging.WARNING, "limit", text, *values)
        else:
            logger.info(text, *values)
        self._was_silent = is_silent

    async def _reconnect(self, delays: Iterator[float]) -> tuple[ClientSession | None, float]:
        """Return a new session and the delay before it, or None as the session if all attempts failed."""
        delay = 0.0
        started = asyncio.get_running_loop().time()
        is_reported = False
        for delay in delays:
            await asyncio.sleep(delay)
            try:
                session = await open_session(self._service, self._multi, self._options)
            except ConnectError as error:
                # An operator need not read the same once for each attempt.
                is_outage = not is_reported and asyncio.get_running_loop().time() - started >= OUTAGE
                is_reported |= is_outage
                logger.log(logging.WARNING if is_outage else logging.INFO, "Failed to reconnect: %s", error)
                self._cause = error
            else:
                logger.info("Reconnected to %s", self._service.url)
                self.reconnecting = False
                self._cause = None
                return session, delay
        return None, delay

    def _describe_giving_up(self, backoff: Backoff) -> str:
        # If each attempt has succeeded, and the session has ended at once, none of them has a cause.
        last = "" if self._cause is None else f", the last one: {self._cause}"
        return f"gave up after {backoff.attempts} attempts to reconnect{last}"

    async def _send_messages(self, session: ClientSession) -> None:
        """Send queued messages until the session is closed, or until the queue is empty after :meth:`request_close`."""
        while session.close_status is None:
            batch = self.send_queue.get_batch()
            if batch:
                await session.send(batch)
            elif self.requested_close is not None:
                return
            else:
                await self.send_queue.not_empty.wait()

    async def _call_hook(
        self, hook: Callable[..., Awaitable[object] | None] | None, *arguments: object
    ) -> BaseException | None:
        """Call a callback with the client, unless that is garbage; return the exception that it raised, or None."""
        client = self._client()
        return None if client is None else await call_hook(hook, client, *arguments)

    async def _run_on_reconnect(self, session: ClientSession) -> None:
        """Call ``on_reconnect``; when it has returned, let the other tasks send."""
        error = await self._call_hook(self._options.on_reconnect)
        if session.close_status is not None:
            return
        if error is None:
            self.writable.set()
        else:
            self._cause = error
            session.abort(CloseCode.INTERNAL_ERROR, "on_reconnect failed")
            self.send_queue.not_empty.set()

    def _set_closed(self, status: tuple[int, str]) -> None:
        """Record the end of the connection and wake all waiting tasks. Only the first call has an effect."""
        if self.close_status is None:
            self.close_status = status
            self.receive_queue.readable.set()
            self.send_queue.clear()
            self.writable.set()
