"""Run a script of the documentation on a free port: ``run_script.py SCRIPT``.

The script listens on a free port instead of its own, and the address is printed.
"""

import runpy
import socket
import sys
from pathlib import Path
from typing import Any

import tornado.netutil
import tornado.tcpserver

bind_sockets = tornado.netutil.bind_sockets


def bind_free_port(port: int, address: str | None = None, **more: Any) -> list[socket.socket]:
    """Listen on a free port, and print the address."""
    sockets = bind_sockets(0, address, **more)
    print(f"Listening on http://{address}:{sockets[0].getsockname()[1]}", flush=True)
    return sockets


if __name__ == "__main__":
    for module in (tornado.netutil, tornado.tcpserver):
        setattr(module, "bind_sockets", bind_free_port)  # noqa: B010 - type checkers know only the real function
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, without the tests
    runpy.run_path(sys.argv[1], run_name="__main__")
