"""Clients in memory for tests that are plain functions, which run the event loop while they wait."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from inspect import isawaitable
from typing import Any, TypeVar

from tornado.ioloop import IOLoop

from ..connection import SockJSConnection
from ..router import SockJSRouter
from ..session.connection_info import ConnectionInfo
from ..session.session import Session
from .client import MemoryClient
from .opening import connect

_T = TypeVar("_T")


class SyncMemoryClient:
    """A client in memory, which :func:`connect_sync` returns.

    Its methods are those of :class:`MemoryClient`, without ``await``. Each runs the event loop until it has ended; in
    between, the event loop stands still.

    Attributes:
        client: The client that it uses.
    """

    def __init__(self, client: MemoryClient, loop: asyncio.AbstractEventLoop) -> None:
        self.client = client
        self._loop = loop

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function while the event loop runs, such as ``client.connection.close``; return its result.

        If the result is awaitable, it is awaited.
        """

        async def call() -> Any:
            result = function(*args)
            return await result if isawaitable(result) else result

        return self._run(call())

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return self._loop.run_until_complete(coroutine)

    @property
    def router(self) -> SockJSRouter:
        """The router."""
        return self.client.router

    @property
    def connection(self) -> SockJSConnection:
        """The application's connection."""
        return self.client.connection

    @property
    def info(self) -> ConnectionInfo:
        """The request, as ``on_open`` got it."""
        return self.client.info

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed."""
        return self.client.is_closed

    @property
    def close_code(self) -> int | None:
        """The close code that the client got, or None."""
        return self.client.close_code

    @property
    def close_reason(self) -> str | None:
        """The close reason that the client got, or None."""
        return self.client.close_reason

    def send(self, message: str | bytes) -> None:
        """Send a message."""
        self._run(self.client.send(message))

    def send_json(self, value: Any) -> None:
        """Send a JSON value as text."""
        self._run(self.client.send_json(value))

    def recv(self, timeout: float | None = None) -> Any:
        """Return the next message."""
        return self._run(self.client.recv(timeout))

    def recv_json(self, timeout: float | None = None) -> Any:
        """Return the value of the next message, which is JSON in text."""
        return self._run(self.client.recv_json(timeout))

    def recv_all(self) -> list[Any]:
        """Return all messages that were received after the callbacks have ended."""
        return self._run(self.client.recv_all())

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the messages until the connection is closed."""
        messages = aiter(self.client)
        end = object()
        while (message := self._run(_next(messages, end))) is not end:
            yield message

    def wait_closed(self, timeout: float | None = None) -> tuple[int, str]:
        """Wait until the server closes the connection; return the close code and reason."""
        return self._run(self.client.wait_closed(timeout))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, and wait until ``on_close`` has ended."""
        self._run(self.client.close(code, reason))

    def abort(self) -> None:
        """Lose the connection (close code 1006), and wait until ``on_close`` has ended."""
        self._run(self.client.abort())

    def __enter__(self) -> "SyncMemoryClient":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            self.close()
        else:
            self._run(self.client.leave(error))


async def _await(connector: connect) -> MemoryClient:
    return await connector


async def _next(messages: Any, end: object) -> object:
    return await anext(messages, end)


def connect_sync(
    target: Callable[[Session], SockJSConnection] | SockJSRouter,
    io_loop: IOLoop | asyncio.AbstractEventLoop,
    **options: Any,
) -> SyncMemoryClient:
    """Connect a client in memory in a plain function: ``with connect_sync(router, self.io_loop) as client``.

    Args:
        target: The connection class, or the router.
        io_loop: The event loop, which must not be running, such as that of Tornado's ``AsyncTestCase``.
        options: Further arguments of :func:`connect`.

    Raises:
        ConnectionRejected: The client got an HTTP error instead of a session.
        RuntimeError: The event loop is running: use :func:`connect`.
        ValueError: An argument is not valid.
    """
    loop: asyncio.AbstractEventLoop = io_loop.asyncio_loop if isinstance(io_loop, IOLoop) else io_loop  # type: ignore[attr-defined]
    if loop.is_running():
        raise RuntimeError("connect_sync: the event loop is running; in a coroutine, use `async with connect(...)`")
    return SyncMemoryClient(loop.run_until_complete(_await(connect(target, **options))), loop)
