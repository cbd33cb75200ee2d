"""The event loop of a router, and how Tornado's coroutines wait for what ``send`` returns."""

import asyncio
import contextlib
import threading

from tornado.gen import convert_yielded
from tornado.ioloop import IOLoop

from .connection import SendResult
from .exceptions import ConnectionClosed


class RouterLoop:
    """The event loop of a router's sessions: the one that runs when the first session is created.

    Attributes:
        loop: The event loop; None before the first session.
    """

    __slots__ = ("_io_loop", "loop")

    def __init__(self, io_loop: IOLoop | None) -> None:
        self._io_loop = io_loop
        self.loop: asyncio.AbstractEventLoop | None = None

    def bind(self, loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop | None:
        """Bind the router to the running loop, and return the one that it replaces, if any, which does not run.

        Raises:
            RuntimeError: If the previous loop is running.
        """
        previous = self.loop
        if previous is not None and previous.is_running():
            raise RuntimeError("a router must be used on one event loop: create a router for each")
        self.loop = loop
        self._io_loop = IOLoop.current()
        # Such as that of an earlier test.
        return previous

    def io_loop(self) -> IOLoop:
        """Return the event loop as Tornado's IOLoop; before the first session, the current one.

        Raises:
            RuntimeError: If this thread has none.
        """
        if self._io_loop is not None:
            return self._io_loop
        # In a thread that runs no event loop, apart from the main thread, the default would create one that nobody
        # runs.
        current = IOLoop.current(instance=_runs_loop() or threading.current_thread() is threading.main_thread())
        if current is None:
            raise RuntimeError(
                "router.io_loop: the event loop is unknown before the first session; get it in the thread of the "
                "event loop, with IOLoop.current()"
            )
        return current


def register_send_result() -> None:
    """Register what ``send`` returns with Tornado. Not at import, which should change nothing in Tornado."""
    convert_yielded.register(SendResult, _convert_yielded)  # type: ignore[attr-defined]


def _runs_loop() -> bool:
    """Return whether this thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _convert_yielded(result: SendResult) -> "asyncio.Future[None]":
    """Return a future for what :meth:`SockJSConnection.send` has returned, which Tornado waits for.

    Tornado does so if a callback of ``IOLoop.add_callback`` returns it, or a coroutine yields it. If the client has
    disconnected, that must not raise ConnectionClosed: in sockjs-tornado 1.0 it did nothing.
    """

    async def wait() -> None:
        with contextlib.suppress(ConnectionClosed):
            await result

    return asyncio.ensure_future(wait())
