"""A thread that reports what blocks the event loop, and ends the process after a signal if it still does."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Collection
from math import inf
from typing import Final

logger = logging.getLogger(__name__)

#: Seconds without a response of the event loop after which it counts as blocked.
BLOCKED_AFTER: Final = 2.0

#: Seconds that writing the log may take: the blocked thread may hold a lock of it.
_LOG_TIMEOUT: Final = 1.0

#: The innermost frames of the blocked thread that are logged.
_LOGGED_FRAMES: Final = 8


class LoopWatchdog:
    """Logs where a callback blocks the event loop for long, while it still does: it may never return.

    After a signal, it ends the process if the event loop is blocked after a second one, or some time after the first.

    Python calls signal handlers in the main thread, between two of its instructions. A function in C, such as a query
    of a database, may run for minutes without one. So the numbers of the signals are read from the file descriptor for
    wakeups, too, to which the system's handler writes them at once. It also wakes an event loop that was about to wait.

    Use it as a context manager, in the thread of the running event loop: the main thread.

    Args:
        signals: The numbers of the signals.
        limit: Seconds from the first signal.
    """

    def __init__(self, signals: Collection[int], limit: float) -> None:
        self._signals = set(signals)
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._blocked_thread = threading.get_ident()
        self._reader, self._writer = socket.socketpair()
        # As set_wakeup_fd() requires. Nothing is lost: one byte is enough to wake the thread.
        self._writer.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="sockjs-loop-watchdog", daemon=True)
        self._previous_descriptor = -1
        self._is_closed = False
        # How often the handler has run, and how many signals the file descriptor has announced. Either can be less: the
        # handler may be late, and the application may have replaced the file descriptor.
        self._handled = self._announced = 0
        self._has_responded = True

    def __enter__(self) -> "LoopWatchdog":
        # On Windows, the file descriptor is a socket of the event loop, to which this could not pass the numbers on.
        if os.name == "posix":
            self._previous_descriptor = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if os.name == "posix":
            current = signal.set_wakeup_fd(self._previous_descriptor, warn_on_full_buffer=False)
            if current != self._writer.fileno():
                # The application's, as of loop.add_signal_handler().
                signal.set_wakeup_fd(current, warn_on_full_buffer=False)
        self._is_closed = True
        self._wake()
        self._thread.join()
        self._reader.close()
        self._writer.close()

    def extend(self, signals: Collection[int], limit: float) -> None:
        """Count these signals, too, and wait for this limit at least."""
        self._signals.update(signals)
        self._limit = max(self._limit, limit)

    def signal_received(self) -> None:
        """Count a signal; the handler calls this."""
        self._handled += 1
        self._wake()

    def _wake(self) -> None:
        # A full buffer wakes the thread as well.
        with contextlib.suppress(BlockingIOError):
            self._writer.send(b"\0")

    def _run(self) -> None:
        """Wait for signals, and then for the event loop."""
        end, next_check = inf, time.monotonic() + BLOCKED_AFTER
        is_reported = False
        # Checks in a row without a response. Two, because after the process was suspended, the first one may be early.
        missed = 0
        while True:
            self._reader.settimeout(max(next_check - time.monotonic(), 0.001))
            with contextlib.suppress(TimeoutError):
                self._read_numbers()
            if self._is_closed:
                return
            now, count = time.monotonic(), max(self._handled, self._announced)
            if count and end == inf:
                end, next_check = now + self._limit, now + BLOCKED_AFTER
                self._request_response()
            if count > 1 and end > now:
                # It has as long again.
                end, next_check = now, now + BLOCKED_AFTER
                self._request_response()
            if now < next_check:
                continue
            next_check = now + BLOCKED_AFTER
            if self._has_responded:
                missed = 0
                self._request_response()
            elif now >= end:
                self._end_process()
            elif end == inf:
                missed += 1
                if missed == 2:
                    self._log(
                        logging.WARNING,
                        "The event loop has been blocked for at least %.0f s, in which no client was served. Use "
                        "`async def`, and there `await asyncio.to_thread(...)` for blocking calls, and `await "
                        "asyncio.sleep(0)` in a long loop. A loop that catches exceptions must end at "
                        "ConnectionClosed. The callback is here:\n%s",
                        2 * BLOCKED_AFTER,
                    )
            elif not is_reported:
                is_reported = True
                self._log(
                    logging.WARNING,
                    "Cannot stop yet: a callback blocks the event loop. If it still does %.0f s after the signal, or "
                    "after a second one, the process ends without closing the sessions. The callback is here:\n%s",
                    self._limit,
                )

    def _read_numbers(self) -> None:
        numbers = self._reader.recv(256).replace(b"\0", b"")
        if not numbers:
            return
        self._announced += sum(number in self._signals for number in numbers)
        # The handler runs when the event loop does.
        self._call_respond()
        if self._previous_descriptor != -1:
            # uvloop's, which calls the handler then, or that of signals that the application handles.
            with contextlib.suppress(OSError):
                os.write(self._previous_descriptor, numbers)

    def _request_response(self) -> None:
        # A stopped event loop is not blocked.
        self._has_responded = not self._loop.is_running()
        if not self._has_responded:
            self._call_respond()

    def _call_respond(self) -> None:
        # RuntimeError: the event loop was closed.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._respond)

    def _respond(self) -> None:
        self._has_responded = True

    def _end_process(self) -> None:
        self._log(
            logging.ERROR,
            "Ending the process without closing the sessions: a callback blocks the event loop after the deadline or a "
            "second signal (limit: %.0f s). Use `async def`, and there `await asyncio.to_thread(...)` for blocking "
            "calls. The callback is here:\n%s",
            self._limit,
        )
        # sys.exit() would end this thread only.
        os._exit(1)

    def _log(self, level: int, message: str, *arguments: object) -> None:
        frame = sys._current_frames().get(self._blocked_thread)
        stack = "".join(traceback.format_stack(frame, _LOGGED_FRAMES)).rstrip()
        writing = threading.Thread(target=logger.log, args=(level, message, *arguments, stack), daemon=True)
        writing.start()
        writing.join(_LOG_TIMEOUT)
