"""``sockjs-tornado serve``: run a service from the command line."""

import argparse
import contextlib
import os

from ..exceptions import ConfigurationError
from . import note
from .serve_logs import configure_logging
from .serve_options import add_arguments, resolve
from .serve_process import (
    CannotListen,
    create_router,
    create_tls,
    greet,
    loop_factory,
    monitoring_application,
    open_monitoring_sockets,
    open_sockets,
    removed_at_end,
    run_process,
)

__all__ = ["add_arguments", "run"]


def run(given: argparse.Namespace) -> int:
    """Serve until a signal arrives."""
    with contextlib.ExitStack() as stack:
        try:
            options = resolve(given, os.environ)
            # Before the application is imported: its own basicConfig() has no effect then.
            configure_logging(options)
            # Fail before anything is opened.
            router = create_router(options)
            create_tls(options)
            loop_factory(options.uvloop)
            monitoring_application(options, router)
            sockets = open_sockets(options)
            for sock in sockets:
                stack.callback(sock.close)
            stack.enter_context(removed_at_end(options.uds))
            monitoring = open_monitoring_sockets(options)
        except ConfigurationError as error:
            note(f"Cannot serve: {error}")
            return 1
        except CannotListen as error:
            note(str(error))
            return 1
        greeting = greet(options, router, sockets, monitoring)
        # Not before it listens for signals: one would end the process without draining.
        run_process(options, router, sockets, monitoring, on_start=lambda http: print(greeting, flush=True))
    return 0
