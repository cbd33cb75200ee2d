"""``sockjs-tornado serve``: run a service from the command line."""

import argparse
import contextlib
import os

from ..server import HTTPServer
from .serve_logs import announce, configure_logging, report_error
from .serve_options import add_arguments, find_log_format, resolve
from .serve_process import (
    STARTUP_ERRORS,
    create_cluster,
    create_router,
    describe_error,
    greet,
    loop_factory,
    monitoring_application,
    run_process,
    warn_about_options,
)
from .serve_sockets import open_monitoring_sockets, open_sockets, ports_of, removed_at_end
from .serve_tls import create_tls
from .systemd import notify

__all__ = ["add_arguments", "run"]


def run(given: argparse.Namespace) -> int:
    """Serve until a signal arrives; return the exit code."""
    try:
        return _run(given)
    except STARTUP_ERRORS as error:
        report_error(describe_error(error), find_log_format(given, os.environ))
        return 1


def _run(given: argparse.Namespace) -> int:
    options = resolve(given, os.environ)
    # Before the application is imported: its own basicConfig() has no effect then.
    configure_logging(options)
    # Fail before anything is opened.
    router = create_router(options, create_cluster(options))
    warn_about_options(options, router, os.environ)
    create_tls(options)
    loop_factory(options)
    monitoring_application(options, router)
    with contextlib.ExitStack() as stack:
        sockets = open_sockets(options)
        for sock in sockets:
            stack.callback(sock.close)
        stack.enter_context(removed_at_end(options.uds))
        if options.workers > 1:
            # Not at the beginning: it requires a POSIX system.
            from .serve_workers import run_workers

            return run_workers(options, router, sockets)
        monitoring = open_monitoring_sockets(options)
        greeting = greet(options, router, sockets, ports_of(monitoring))

        def on_start(http: HTTPServer) -> None:
            # Not before it listens for signals: one would end the process without draining.
            announce(greeting, options.log_format)
            notify("READY=1")

        def on_drain(http: HTTPServer, number: int) -> None:
            notify("STOPPING=1")

        run_process(options, router, sockets, monitoring, on_start=on_start, on_drain=on_drain)
    return 0
