"""The signals that stop :func:`~sockjs_tornado.serving.serve`."""

import asyncio
import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any

from .loop_watchdog import LoopWatchdog
from .validation import safe_repr


@dataclasses.dataclass(eq=False, slots=True)
class _Waiter:
    """A call of ``serve`` that waits for signals, or has received one, and so is stopping."""

    signals: Sequence[int]
    on_signal: Callable[[int], object]
    limit: float
    is_stopping: bool = False


class _SignalHandlers:
    """The signal handlers of all calls of ``serve``: signals are sent to the process, so that each one stops all.

    Used in the main thread only.
    """

    def __init__(self) -> None:
        self._waiters: list[_Waiter] = []
        # The handlers that were replaced.
        self._previous: dict[int, Any] = {}
        # While there are waiters.
        self._watchdog: LoopWatchdog | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, waiter: _Waiter) -> None:
        if self._loop is not asyncio.get_running_loop():
            # The other calls do not continue: their event loop was stopped, or this process is a fork of theirs.
            self._waiters.clear()
            self._close_watchdog()
        self._waiters.append(waiter)
        if self._watchdog is None:
            self._loop = asyncio.get_running_loop()
            self._start_watchdog()
        else:
            self._watchdog.extend(waiter.signals, waiter.limit)
        for number in waiter.signals:
            if number not in self._previous:
                # loop.add_signal_handler() does not exist on Windows.
                self._previous[number] = signal.signal(number, self._handle)

    def remove(self, waiter: _Waiter) -> None:
        if waiter not in self._waiters:
            # Its event loop was replaced.
            return
        self._waiters.remove(waiter)
        for number in self._previous.keys() - {each for other in self._waiters for each in other.signals}:
            handler = self._previous.pop(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if not any(other.is_stopping for other in self._waiters):
            # What it has counted was for this call: the others are serving.
            self._close_watchdog()
            if self._waiters:
                self._start_watchdog()

    def _start_watchdog(self) -> None:
        signals = {number for waiter in self._waiters for number in waiter.signals}
        self._watchdog = LoopWatchdog(signals, max(waiter.limit for waiter in self._waiters)).__enter__()

    def _close_watchdog(self) -> None:
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.__exit__()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._watchdog is not None:
            self._watchdog.signal_received()
        for waiter in self._waiters:
            if number in waiter.signals and self._loop is not None:
                waiter.is_stopping = True
                self._loop.call_soon_threadsafe(waiter.on_signal, number)


_handlers = _SignalHandlers()


def signal_name(number: int) -> str:
    """Return a signal's name, such as SIGTERM. Most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def check_signals(signals: Any) -> list[int]:
    """Return the numbers of signals.

    Raises:
        TypeError: They are none.
        RuntimeError: This is not the main thread, which handles signals.
    """
    numbers: list[Any] = list(signals) if isinstance(signals, Iterable) else [None]
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError(f"signals: expected a list of signals, such as [signal.SIGTERM], got {safe_repr(signals)}")
    if numbers and threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "serve: Python handles signals in the main thread, and this is another one: call serve(..., signals=()), "
            "and cancel its task to stop it"
        )
    return numbers


@contextlib.contextmanager
def handle_signals(signals: Sequence[int], on_signal: Callable[[int], object], limit: float) -> Iterator[None]:
    """Call a function in the event loop with each signal; end the process if it is blocked after this limit."""
    if not signals:
        # Then it need not be the main thread.
        yield
        return
    waiter = _Waiter(signals, on_signal, limit)
    try:
        _handlers.add(waiter)
        yield
    finally:
        _handlers.remove(waiter)
