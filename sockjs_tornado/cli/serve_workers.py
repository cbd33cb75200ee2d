"""``serve --workers``: several processes that share their sockets, and of which any can serve any session."""

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Final

from ..router import SockJSRouter
from ..server import HTTPServer
from .serve_logs import announce, configure_logging, report_error
from .serve_options import ServeOptions
from .serve_process import (
    STARTUP_ERRORS,
    create_cluster,
    create_router,
    describe_error,
    drain_deadline,
    greet,
    run_process,
)
from .serve_sockets import open_monitoring_sockets, ports_of
from .supervisor import Supervisor

#: Seconds that a worker may take to end after its drain.
_EXIT_MARGIN: Final = 5


def run_workers(options: ServeOptions, router: SockJSRouter, sockets: Sequence[socket.socket]) -> int:
    """Run the workers until a signal arrives; return the exit code."""

    def on_start(ports: list[list[int]]) -> None:
        all_ports = [port for worker_ports in ports for port in worker_ports]
        announce(greet(options, router, sockets, all_ports), options.log_format)

    async def run(directory: str) -> int:
        stop_time = drain_deadline(options, router) + _EXIT_MARGIN
        arguments = (options, f"{directory}/cluster", list(sockets), stop_time)
        return await Supervisor(options.workers, _run_worker, arguments, on_start, stop_time).run()

    # The directory of the Unix sockets through which the workers reach each other.
    with tempfile.TemporaryDirectory(prefix="sockjs-") as directory:
        return asyncio.run(run(directory))


def _run_worker(
    number: int,
    started: Connection,
    options: ServeOptions,
    directory: str,
    sockets: Sequence[socket.socket],
    stop_time: float,
) -> None:
    """Run a worker; send the ports of its metrics through the pipe when it serves."""
    # Leave the process group of the terminal: the parent process receives Ctrl-C and signals each worker once.
    os.setpgid(0, 0)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_with_parent, args=(parent.sentinel, stop_time), daemon=True).start()
    configure_logging(options)

    def on_drain(http: HTTPServer, signal_number: int) -> None:
        if signal_number == signal.SIGHUP:
            # The other workers accept its new clients.
            http.stop()

    try:
        router = create_router(options, create_cluster(options, number, directory))
        monitoring = open_monitoring_sockets(options, number)
        ports = ports_of(monitoring)
        run_process(options, router, sockets, monitoring, on_start=lambda http: started.send(ports), on_drain=on_drain)
    except STARTUP_ERRORS as error:
        report_error(describe_error(error), options.log_format)
        sys.exit(1)
    except Exception as error:
        # Otherwise multiprocessing prints it.
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)


def _exit_with_parent(parent: int, seconds: float) -> None:
    """Stop this process when the parent process exits for any reason, and end it after so many seconds."""
    wait([parent])
    os.kill(os.getpid(), signal.SIGTERM)
    # Python handles the signal in the main thread, which a callback may block forever.
    time.sleep(seconds)
    os._exit(1)
