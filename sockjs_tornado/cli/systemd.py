"""Notifications to systemd, for units with ``Type=notify``; see ``sd_notify(3)``."""

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send a state such as ``"READY=1"`` to systemd, if it has started this process and waits for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        # In the abstract namespace of Linux.
        address = f"\0{address[1:]}"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.sendall(state.encode())
