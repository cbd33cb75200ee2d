"""What an application has of a client: :class:`SockJSClient`, over one session after another."""

import asyncio
import contextvars
import inspect
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from ..exceptions import ConnectError, ConnectionClosed
from ..protocol import CloseCode, check_close_code
from .fallback import open_session
from .multi import Multi
from .options import Options, Place
from .queues import Inbox, Outbox
from .session import ClientSession

__all__ = ["SockJSClient"]

logger = logging.getLogger(__name__)

#: Codes of an end at which nothing went wrong. 3000 is what a server closes with that gives no reason.
_CLEAN = (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.GO_AWAY)

#: Bytes that a websocket's close frame has for the reason (RFC 6455, section 5.5).
_REASON_BYTES = 123

# Which `on_reconnect` runs here: what that sends goes before all that waits. Tasks that it has started inherit it, and
# have no more of it once it is through.
_resyncing: contextvars.ContextVar[object] = contextvars.ContextVar("resyncing", default=None)


class SockJSClient:
    """A connection to a SockJS service, as :func:`sockjs_tornado.client.connect` makes it.

    All of it is for the event loop that it was made in; nothing is safe from another thread.
    """

    def __init__(self, place: Place, options: Options) -> None:
        self._place = place
        self._options = options
        self._multi = Multi()
        self._session: ClientSession | None = None
        self._runner: asyncio.Task[None] | None = None
        self._inbox = Inbox(options.max_queue_bytes)
        self._outbox = Outbox(options.max_queue_bytes)
        self._turn = asyncio.Lock()
        #: Set while messages can be handed over, or the connection has ended.
        self._usable = asyncio.Event()
        self._transport = ""
        #: Whether there is no session, and a new one is waited for.
        self._away = False
        self._resync: asyncio.Task[None] | None = None
        #: What tells the `on_reconnect` that runs from those before it; None while none does.
        self._resync_token: object = None
        self._closing: tuple[int, str] | None = None
        self._end: tuple[int, str] | None = None
        self._cause: BaseException | None = None
        #: Whether `on_reconnect` raised.
        self._failed = False

    @classmethod
    async def open(cls, place: Place, options: Options) -> Self:
        """Connect; applications call :func:`sockjs_tornado.client.connect`.

        Raises:
            ConnectError: No transport works.
        """
        self = cls(place, options)
        try:
            session = await open_session(place, self._multi, options)
        except BaseException:
            self._multi.close()
            raise
        # Nothing is awaited from here on: the connection is closed by whoever gets it.
        self._begin(session)
        if session.over is None:
            self._usable.set()
        self._runner = asyncio.create_task(self._run(session))
        return self

    # --- what an application sees

    @property
    def url(self) -> str:
        """The service's address, without credentials."""
        return self._place.url

    @property
    def transport(self) -> str:
        """Name of the transport in use, or last in use."""
        return self._transport

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended for good. Messages that came before may still be taken."""
        return self._end is not None

    @property
    def close_code(self) -> int | None:
        """Close code; None before the end. 1006 where the session ended without a word of the server."""
        return None if self._end is None else self._end[0]

    @property
    def close_reason(self) -> str | None:
        """Close reason; None before the end."""
        return None if self._end is None else self._end[1]

    async def recv(self) -> Any:
        """Wait for the next message and return it.

        May be cancelled without losing a message. Where several tasks wait, each message goes to one of them.

        Returns:
            A ``str``, or what the server sent as a JSON value.

        Raises:
            ConnectionClosed: The connection has ended, and all messages that came before were taken.
        """
        while not self._inbox:
            if self._end is not None:
                raise self._closed()
            await self._inbox.changed.wait()
        message = self._inbox.take()
        if self._session is not None and self._session.paused and self._inbox.is_low:
            self._session.resume()
        return message

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the messages: ``async for message in client``.

        The iteration ends when the connection was closed by :meth:`close`, or by the server with code 1000, 1001 or
        3000; when it ended otherwise, the iteration raises :exc:`~sockjs_tornado.exceptions.ConnectionClosed`.
        """
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.recv()
        except ConnectionClosed as error:
            if self._closing is not None or error.code in _CLEAN:
                raise StopAsyncIteration from None
            raise

    async def send(self, message: str) -> None:
        """Hand a message over; return once it is on its way, which it is in the order of the calls.

        Waits while ``max_queue_bytes`` are on their way already, and while the client connects again. A call that is
        cancelled has not sent anything.

        Args:
            message: Text.

        Raises:
            ConnectionClosed: The connection has ended.
            TypeError: The message is not a ``str``.
        """
        if not isinstance(message, str):
            raise TypeError(f"a message is str, not {type(message).__name__}")
        if self._is_resyncing:
            await self._wait_room()
            self._outbox.put(message)
            return
        async with self._turn:
            while True:
                await self._usable.wait()
                await self._wait_room()
                if self._usable.is_set():
                    break
            self._outbox.put(message)

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Send what was handed over, end the connection, and return when that is done; ``close_timeout`` at most.

        Over a websocket the server is told code and reason. Over HTTP a client has no means to: the server sees that it
        has left (code 1002). Calling it again, or after the end, only waits for the end. Within ``on_reconnect`` it
        returns at once, and what follows it there may be cancelled.

        Args:
            code: 1000 or 3000-4999. Default 1000.
            reason: At most 123 bytes of UTF-8. Default none.

        Raises:
            ValueError: Code or reason is not one that a client can give.
        """
        check_close_code(code)
        if code != CloseCode.NORMAL and code < CloseCode.GO_AWAY:
            raise ValueError(f"close code {code} is not one of 1000, 3000-4999")
        if len(reason.encode(errors="surrogatepass")) > _REASON_BYTES:
            raise ValueError(f"a close reason has at most {_REASON_BYTES} bytes")
        reason.encode()  # a lone surrogate has no form there
        if self._closing is None and self._end is None:
            self._closing = int(code), reason
        self._outbox.filled.set()
        runner = self._runner
        assert runner is not None
        if self._is_resyncing:
            return
        if self._away:
            runner.cancel()
        _, running = await asyncio.wait((runner,), timeout=self._options.close_timeout)
        if running:
            runner.cancel()
            await asyncio.wait((runner,))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "open" if self._end is None else f"closed: {self._end[0]}"
        return f"<{type(self).__name__} {self.url} {self._transport} {state}>"

    # --- what a session reports

    def received(self, messages: Sequence[Any], size: int) -> None:
        """Take messages; sessions call it."""
        self._inbox.put(messages, size)
        if self._inbox.is_full and self._session is not None and not self._session.paused:
            self._session.pause()

    def ended(self, code: int, reason: str) -> None:
        """Take notice of a session's end; sessions call it."""
        self._usable.clear()
        self._outbox.clear()
        # The task that sends goes on, and sees it.
        self._outbox.filled.set()

    # --- one session after another

    def _begin(self, session: ClientSession) -> None:
        self._session = session
        self._transport = session.transport
        session.adopt(self, self._options.heartbeat_timeout)
        if self._inbox.is_full and not session.paused:
            session.pause()

    async def _run(self, session: ClientSession) -> None:
        """Send what is to be sent, and connect again, until the end."""
        end: tuple[int, str] = CloseCode.ABNORMAL, "the event loop is ending"
        backoff = self._options.backoff
        loop = asyncio.get_running_loop()
        pauses: Iterator[float] = iter(()) if backoff is None else backoff.delays()
        pause = 0.0
        try:
            while True:
                began = loop.time()
                await self._pump(session)
                await self._stop_resync()
                end = self._closing or session.over or end
                if self._closing is not None or backoff is None or self._is_final(end[0]):
                    if session.over is not None:
                        self._conclude(end)
                    await session.close(*end, self._options.close_timeout)
                    return
                session.abort()
                logger.info("the connection to %s was lost: %d %s", self.url, *end)
                if loop.time() - began > pause:
                    pauses = backoff.delays()
                again, pause = await self._open_again(pauses)
                if again is None:
                    return
                session = again
                self._begin(session)
                self._resync = asyncio.create_task(self._set_up(session))
        except asyncio.CancelledError:
            if self._closing is None:
                raise
            end = self._closing
        finally:
            if self._resync is not None:
                self._resync.cancel()
            session.abort(*end)
            self._conclude(end)
            self._multi.close()

    def _is_final(self, code: int) -> bool:
        return self._failed or code in self._options.final_codes

    async def _open_again(self, pauses: Iterator[float]) -> tuple[ClientSession | None, float]:
        """Return a new session and the pause before it; no session where all attempts failed."""
        self._away = True
        pause = 0.0
        for pause in pauses:
            await asyncio.sleep(pause)
            try:
                session = await open_session(self._place, self._multi, self._options)
            except ConnectError as error:
                logger.info("%s", error)
                self._cause = error
            else:
                self._away = False
                self._cause = None
                return session, pause
        return None, pause

    async def _pump(self, session: ClientSession) -> None:
        """Hand messages to a session until it is over, or all are handed over and the application has closed."""
        while session.over is None:
            batch = self._outbox.take()
            if batch:
                await session.send(batch)
            elif self._closing is not None:
                return
            else:
                await self._outbox.filled.wait()

    async def _set_up(self, session: ClientSession) -> None:
        """Let the application set up a new session, before anything else is sent in it."""
        token = self._resync_token = object()
        _resyncing.set(token)
        failure: BaseException | None = None
        try:
            if self._options.on_reconnect is not None:
                result = self._options.on_reconnect(self)
                if inspect.isawaitable(result):
                    await result
        except Exception as error:
            failure = error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Of something that it waited for.
            failure = error
        finally:
            if self._resync_token is token:
                self._resync_token = None
        if session.over is not None:
            return
        if failure is None:
            self._usable.set()
        else:
            self._failed = True
            self._cause = failure
            session.abort(CloseCode.INTERNAL_ERROR, "on_reconnect failed")
            self._outbox.filled.set()

    @property
    def _is_resyncing(self) -> bool:
        return self._resync_token is not None and _resyncing.get() is self._resync_token

    async def _stop_resync(self) -> None:
        if self._resync is not None:
            self._resync.cancel()
            await asyncio.wait((self._resync,))
            self._resync = None

    def _conclude(self, end: tuple[int, str]) -> None:
        """Let everybody know that nothing more will come; only the first time counts."""
        if self._end is None:
            self._end = end
            self._inbox.end()
            self._outbox.clear()
            self._usable.set()

    def _closed(self) -> ConnectionClosed:
        assert self._end is not None
        error = ConnectionClosed(*self._end)
        error.__cause__ = self._cause
        return error

    async def _wait_room(self) -> None:
        while True:
            if self._end is not None:
                raise self._closed()
            if self._closing is not None:
                raise ConnectionClosed(*self._closing)
            if self._outbox.room.is_set():
                return
            await self._outbox.room.wait()
