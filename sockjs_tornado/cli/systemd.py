"""Notifications to systemd, for units with ``Type=notify`` and ``WatchdogSec``; see ``sd_notify(3)``."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import NoReturn


def notify(state: str) -> None:
    """Send a state such as ``"READY=1"`` to systemd, if it has started this process and waits for it."""
    address = _address()
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), address)


@contextlib.contextmanager
def watchdog_notified() -> Iterator[None]:
    """Notify systemd's watchdog from the running event loop while the context is open.

    This does nothing unless the unit has ``WatchdogSec``. If a callback blocks the event loop for that long, systemd
    ends the process.
    """
    interval = _watchdog_interval()
    address = _address()
    if not interval or not address:
        yield
        return
    # It stays open, so that a notification is sent even if all file descriptors are in use.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)

        async def send() -> NoReturn:
            while True:
                with contextlib.suppress(OSError):
                    sock.sendto(b"WATCHDOG=1", address)
                await asyncio.sleep(interval / 2)

        task = asyncio.create_task(send())
        try:
            yield
        finally:
            task.cancel()


def _address() -> str:
    """Return the address of systemd's socket, or an empty text."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    # In the abstract namespace of Linux, it begins with @.
    return f"\0{address[1:]}" if address.startswith("@") else address


def _watchdog_interval() -> float:
    """Return the seconds within which systemd expects a notification of this process, or 0."""
    # The workers have the variables, too, but only the first process is watched.
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    try:
        return max(int(os.environ.get("WATCHDOG_USEC", "0")), 0) / 1_000_000
    except ValueError:
        return 0
