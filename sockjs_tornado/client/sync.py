"""A synchronous SockJS client::

    from sockjs_tornado.client.sync import connect

    with connect("http://localhost:8080/echo") as client:
        client.send("hello")
        print(client.recv(timeout=5))
        for message in client:
            print(message)

It is the client of :mod:`sockjs_tornado.client`, on an event loop in a thread of its own, with the same options, the
same exceptions and the same guarantees. Several threads may use a client at once. In a coroutine, use
:mod:`sockjs_tornado.client`: a synchronous client blocks the event loop.

When the interpreter exits, open clients are closed as by ``close()``, within the longest of their ``close_timeout``,
after all threads that are not daemons have ended.
"""

import asyncio
import atexit
import contextlib
import contextvars
import inspect
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Self, Unpack

from ..exceptions import ConfigurationError, ConnectError, ConnectionClosed
from ..function_checks import check_callback
from ..protocol import CloseCode
from ..validation import check_seconds, warn_application
from . import SockJSClient as AsyncClient
from . import connect as connect_async
from .advice import EXHAUSTED
from .connection import is_normal_end
from .hooks import BaseClient, run_in_thread
from .loop_thread import LoopEnded, LoopThread
from .options import HOOK_PARAMETERS, TRANSPORTS, Backoff, ConnectOptions

__all__ = [
    "TRANSPORTS",
    "Backoff",
    "ConfigurationError",
    "ConnectError",
    "ConnectionClosed",
    "SockJSClient",
    "connect",
]

#: Additional seconds for the end of the thread, after ``close_timeout``.
_JOIN_TIMEOUT = 1

#: All clients that were not closed, for the exit of the interpreter.
_clients: "weakref.WeakSet[SockJSClient]" = weakref.WeakSet()


def connect(
    url: str,
    *,
    on_reconnect: "Callable[[SockJSClient], object] | None" = None,
    on_disconnect: "Callable[[SockJSClient, int, str], object] | None" = None,
    **options: Unpack[ConnectOptions],
) -> "SockJSClient":
    """Connect to a SockJS service: ``with connect(url) as client``, or ``client = connect(url)``.

    Args:
        url: URL of the service, such as ``"https://example.com/chat"``.
        on_reconnect: Plain function, called with the client in each new session but the first, in a thread of its own.
            Messages that it sends go before all others. Default None.
        on_disconnect: Plain function, called with the client, the close code and the reason before each reconnect, in a
            thread of its own. It may call ``close``, but cannot send. Default None.
        options: All other options of :class:`sockjs_tornado.client.connect`.

    Raises:
        ConfigurationError: The URL or an option is invalid (a ``ValueError``).
        ConnectError: No transport works. The error has the reason for each.
    """
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        warn_application(
            "a synchronous client blocks the running event loop: use sockjs_tornado.client.connect", RuntimeWarning
        )
    return SockJSClient(url, {"on_reconnect": on_reconnect, "on_disconnect": on_disconnect}, options)


class SockJSClient(BaseClient):
    """A connection to a SockJS service, returned by :func:`sockjs_tornado.client.sync.connect`.

    All methods may be called from any thread. In a forked process, they raise RuntimeError.
    """

    def __init__(self, url: str, hooks: dict[str, Any], options: ConnectOptions) -> None:
        self._hook_threads: set[int] = set()
        for name, hook in hooks.items():
            if inspect.iscoroutinefunction(hook):
                raise ConfigurationError(f"{name}: expected a plain function, got an async one")
            if callable(hook):
                check_callback(name, hook, HOOK_PARAMETERS[name])
                hooks[name] = run_in_thread(weakref.ref(self), name, hook, self._hook_threads)
        connector = connect_async(url, **hooks, **options)
        # It is not awaited if there is no event loop, which is no mistake of the application.
        connector._warns = False
        self._close_timeout = connector.options.close_timeout
        try:
            self._thread = LoopThread("SockJSClient")
        except OSError as error:
            raise ConnectError(connector.service.url, {"info": str(error)}, EXHAUSTED) from error
        try:
            self._thread.run(self._open, connector)
        except BaseException:
            self._thread.stop()
            self._thread.join(_JOIN_TIMEOUT)
            raise
        self._finalizer = weakref.finalize(self, _abandon, self._thread, repr(self))
        self._finalizer.atexit = False
        _clients.add(self)
        # Registered once only.
        atexit.unregister(_close_clients)
        atexit.register(_close_clients)

    async def _open(self, connector: connect_async) -> None:
        self._client: AsyncClient = await connector
        # A finalizer does.
        self._client._warns = False

    @property
    def url(self) -> str:
        """URL of the service, without credentials."""
        return self._client.url

    @property
    def transport(self) -> str:
        """Name of the current transport, or of the last one."""
        return self._client.transport

    @property
    def failures(self) -> dict[str, str]:
        """The transports that were tried before the current one, each with the reason why it did not open."""
        return self._client.failures

    @property
    def is_connected(self) -> bool:
        """Whether a session is open. False while the client reconnects, and after :meth:`close` was called."""
        return self._client.is_connected

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended for good. Messages received before may still be read."""
        return self._client.is_closed

    @property
    def close_code(self) -> int | None:
        """Close code, or None if the connection is open. 1006 if it was lost, 1009 if a frame was too large."""
        return self._client.close_code

    @property
    def close_reason(self) -> str | None:
        """Close reason, or None if the connection is open."""
        return self._client.close_reason

    def recv(self, timeout: float | None = None) -> Any:
        """Wait for the next message and return it. If several threads wait, each message goes to one of them.

        Args:
            timeout: Seconds to wait, 0 to return only a message that has arrived, or None for no limit.

        Returns:
            A ``str``, or the value if the server sent another JSON value.

        Raises:
            ConnectionClosed: The connection has ended and all messages received before have been read.
            TimeoutError: No message has arrived in this time.
        """
        try:
            return self._run("no message", timeout, self._client.recv)
        except LoopEnded:
            # Nothing else uses the queue any more.
            self._thread.join(_JOIN_TIMEOUT)
            with contextlib.suppress(IndexError):
                return self._client.take_received()
            raise self._closed_error() from None

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the messages: ``for message in client``.

        The iteration ends if the connection was closed by :meth:`close`, or by the server with code 1000, 1001 or 3000.
        If it ended in any other way, the iteration raises :exc:`~sockjs_tornado.exceptions.ConnectionClosed`.
        """
        return self

    def __next__(self) -> Any:
        try:
            return self.recv()
        except ConnectionClosed as error:
            if is_normal_end(self._client, error):
                raise StopIteration from None
            raise

    def send(self, message: str, timeout: float | None = None) -> None:
        """Queue a message for sending. Messages of one thread are sent in the order of the calls.

        Waits while ``max_queue_bytes`` are queued, and while the client reconnects. If the wait is interrupted or times
        out, nothing is sent.

        Args:
            message: Text to send.
            timeout: Seconds to wait, or None for no limit.

        Raises:
            ConnectionClosed: The connection has ended.
            TimeoutError: The message could not be queued in this time.
            TypeError: The message is not a ``str``.
        """
        self._run_while_open("not sent", timeout, self._client.send, message)

    def send_json(self, value: Any, timeout: float | None = None) -> None:
        """Encode a value as JSON, and send the text as :meth:`send` does.

        Args:
            value: Any value that ``json.dumps`` encodes, apart from NaN and infinities, which are not JSON.
            timeout: Seconds to wait, or None for no limit.

        Raises:
            ConnectionClosed: The connection has ended.
            TimeoutError: The message could not be queued in this time.
            TypeError: The value, or a part of it, cannot be encoded.
            ValueError: It contains NaN, an infinity or itself.
        """
        self._run_while_open("not sent", timeout, self._client.send_json, value)

    def ping(self, timeout: float | None = None) -> float:
        """Send a ping over the websocket, and return the round-trip time in seconds.

        Args:
            timeout: Seconds to wait, or None for no limit.

        Raises:
            ConnectionClosed: The session has ended, or ends before the response.
            RuntimeError: The current transport is not ``websocket``: others have no pings.
            TimeoutError: No response has arrived in this time.
        """
        seconds: float = self._run_while_open("no response to the ping", timeout, self._client.ping)
        return seconds

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Send the queued messages, close the connection and wait until it is closed, at most ``close_timeout``.

        If a first Ctrl-C has led here, a second one closes the connection immediately. If called in ``on_disconnect``
        or ``on_reconnect``, this returns immediately.

        Args:
            code: 1000 or 3000-4999. Default 1000. As the reason, it reaches the server only over a websocket.
            reason: At most 123 bytes of UTF-8. Default empty.

        Raises:
            ValueError: Code or reason is invalid.
        """
        try:
            if threading.get_ident() in self._hook_threads:
                self._thread.run(self._client.close, code, reason)
                self._thread.run(self._start_closing)
                return
            self._thread.run(self._close, code, reason, seconds=self._close_timeout + _JOIN_TIMEOUT)
        except (LoopEnded, TimeoutError):
            pass
        except Exception:
            raise
        except BaseException:
            self._forget()
            raise
        self._forget()
        self._thread.join(_JOIN_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        # In a forked process, there is nothing to close.
        if not self._thread.is_foreign:
            self.close()

    def __repr__(self) -> str:
        return repr(self._client)

    async def _close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        await self._client.close(code, reason)
        self._thread.stop()

    async def _start_closing(self) -> None:
        """Start to close the client, and then its thread."""
        # A new context, in which close() waits for the callback in which it was called.
        self._closing = asyncio.create_task(self._close(), context=contextvars.Context())

    def _forget(self) -> None:
        self._thread.stop()
        self._finalizer.detach()
        _clients.discard(self)

    def _run(self, failure: str, timeout: float | None, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a method of the asynchronous client within a time, or raise TimeoutError with an explanation."""
        if timeout is None:
            return self._thread.run(function, *arguments)
        check_seconds("timeout", timeout, otherwise=", or None for no limit")
        try:
            return self._thread.run(_run_within, timeout, function, *arguments)
        except TimeoutError:
            raise TimeoutError(f"{failure} within {timeout:g} seconds") from None

    def _run_while_open(self, failure: str, timeout: float | None, function: Callable[..., Any], *given: Any) -> Any:
        try:
            return self._run(failure, timeout, function, *given)
        except LoopEnded:
            self._thread.join(_JOIN_TIMEOUT)
            raise self._closed_error() from None

    def _closed_error(self) -> ConnectionClosed:
        return ConnectionClosed(self.close_code or CloseCode.ABNORMAL, self.close_reason or "")


async def _run_within(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    async with asyncio.timeout(seconds):
        return await function(*arguments)


def _abandon(thread: LoopThread, name: str) -> None:
    """Called when a client that was not closed is garbage."""
    if not thread.has_ended and not thread.is_foreign:
        thread.stop()
        warnings.warn(f"unclosed {name}", ResourceWarning, stacklevel=2)


def _close_clients() -> None:
    """Close all clients, at the exit of the interpreter."""
    clients = [client for client in _clients if not client._thread.is_foreign]
    for client in clients:
        with contextlib.suppress(LoopEnded, TimeoutError):
            client._thread.run(client._start_closing, seconds=_JOIN_TIMEOUT)
    deadline = time.monotonic() + _JOIN_TIMEOUT + max((client._close_timeout for client in clients), default=0)
    for client in clients:
        client._thread.join(max(deadline - time.monotonic(), 0))
