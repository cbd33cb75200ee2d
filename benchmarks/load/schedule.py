"""A timer for sending on schedule."""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable, Iterator

_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Schedule:
    """Calls a function at each of the times that an iterator yields.

    It uses the kernel's timerfd: event loops wake up to a millisecond late, which is longer than many responses take.

    Args:
        times: Increasing times of `time.monotonic_ns`.
        fire: Called with the scheduled time.
    """

    def __init__(self, times: Iterator[int], fire: Callable[[int], None]) -> None:
        self._times = times
        self._fire = fire
        self._due = next(times, None)
        self._loop = asyncio.get_running_loop()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = self._check(self._libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC))
        self._loop.add_reader(self._timer, self._wake)
        self._set()

    @staticmethod
    def _check(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def _set(self) -> None:
        if self._due is not None:
            value = _Itimerspec(value=_Timespec(*divmod(self._due, 1_000_000_000)))
            self._check(self._libc.timerfd_settime(self._timer, _TFD_TIMER_ABSTIME, ctypes.byref(value), None))

    def _wake(self) -> None:
        os.read(self._timer, 8)
        self._fire_until(time.monotonic_ns())
        self._set()

    def _fire_until(self, now: int) -> None:
        while self._due is not None and self._due <= now:
            self._fire(self._due)
            self._due = next(self._times, None)

    def finish(self) -> None:
        """Call the function for all times up to now, and stop."""
        self._loop.remove_reader(self._timer)
        os.close(self._timer)
        self._fire_until(time.monotonic_ns())
