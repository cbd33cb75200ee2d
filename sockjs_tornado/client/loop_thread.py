"""An event loop in a thread of its own, in which other threads run coroutines and wait for their results."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

T = TypeVar("T")


class LoopEnded(Exception):
    """The thread's event loop has ended, or ends before the coroutine has finished."""


class LoopThread:
    """A daemon thread that runs an event loop until :meth:`stop` is called.

    The event loop is asyncio's for selectors, on all platforms: libcurl's sockets are watched with ``add_reader``.
    """

    def __init__(self, name: str) -> None:
        # Reentrant, as a signal handler may interrupt its own thread in any of the methods.
        self._lock = threading.RLock()
        self._has_ended = False
        self._results: set[Future[Any]] = set()
        self._process = os.getpid()
        self._loop = asyncio.SelectorEventLoop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run_loop, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system has no more threads
            self._loop.close()
            raise
        except BaseException:  # of a signal handler, while the thread starts
            self.stop()
            raise

    @property
    def is_foreign(self) -> bool:
        """Whether this process is a fork of the one that has the thread."""
        return os.getpid() != self._process

    @property
    def has_ended(self) -> bool:
        """Whether the event loop has ended."""
        return self._has_ended

    def run(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any, seconds: float | None = None) -> T:
        """Run a coroutine function in the event loop, with the caller's context variables, and return its result.

        If the wait is interrupted (by KeyboardInterrupt, or after so many ``seconds`` with TimeoutError), the coroutine
        is cancelled.

        Raises:
            LoopEnded: The event loop has ended.
            RuntimeError: The caller is a forked process, or runs in the event loop, which would wait for itself.
        """
        if self.is_foreign:
            raise RuntimeError("a client cannot be used in a forked process: connect in that process")
        if self._is_current():
            raise RuntimeError("the client is used in its own thread, as by a logging handler: this would never return")
        result: Future[T] = Future()
        try:
            with self._lock:
                self._results.add(result)
                self._call_soon(self._start, result, function, arguments)
            return result.result(seconds)
        except BaseException:
            result.cancel()  # does nothing if the result has arrived
            raise
        finally:
            self._results.discard(result)

    def stop(self) -> None:
        """End the event loop, cancelling everything that runs in it. Idempotent; from any thread."""
        with contextlib.suppress(LoopEnded):
            self._call_soon(self._stopping.set)

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, for so many seconds at most. In the thread itself, return at once."""
        if not self._is_current():
            self._thread.join(seconds)

    def _is_current(self) -> bool:
        # Not by its identifier, which another thread may have once this one has ended.
        return threading.current_thread() is self._thread

    def _call_soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        with self._lock:
            if self._has_ended:
                raise LoopEnded
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _start(self, result: "Future[T]", function: Callable[..., Coroutine[Any, Any, T]], arguments: Any) -> None:
        if result.cancelled():
            return
        task = self._loop.create_task(function(*arguments))

        def transfer(task: "asyncio.Task[T]") -> None:
            # The caller may have cancelled the result.
            with contextlib.suppress(InvalidStateError):
                error: BaseException | None = LoopEnded() if task.cancelled() else task.exception()
                if error is None:
                    result.set_result(task.result())
                else:
                    result.set_exception(error)

        def cancel(result: "Future[T]") -> None:
            if result.cancelled():
                with contextlib.suppress(LoopEnded):
                    self._call_soon(task.cancel)

        task.add_done_callback(transfer)
        result.add_done_callback(cancel)

    def _run_loop(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._wait())
            finally:
                # From here on, nothing is scheduled. The runner cancels all tasks, and then closes the loop.
                with self._lock:
                    self._has_ended = True
                    results = list(self._results)
                for result in results:
                    with contextlib.suppress(InvalidStateError):
                        result.set_exception(LoopEnded())

    async def _wait(self) -> None:
        await self._stopping.wait()
