"""``sockjs-tornado serve``: run a service from the command line."""

import argparse
import os

from ..exceptions import ConfigurationError
from . import note
from .serve_options import add_arguments, resolve
from .serve_process import (
    CannotListen,
    create_router,
    create_tls,
    greet,
    loop_factory,
    open_sockets,
    removed_at_end,
    run_process,
)

__all__ = ["add_arguments", "run"]


def run(given: argparse.Namespace) -> int:
    """Serve until a signal arrives."""
    try:
        # Fail before anything is opened.
        options = resolve(given, os.environ)
        router = create_router(options)
        create_tls(options)
        loop_factory(options.uvloop)
        sockets = open_sockets(options)
    except ConfigurationError as error:
        note(f"Cannot serve: {error}")
        return 1
    except CannotListen as error:
        note(str(error))
        return 1
    greeting = greet(options, router, sockets)
    with removed_at_end(options.uds):
        # Not before: a signal would end the process without draining.
        run_process(options, router, sockets, on_start=lambda http: print(greeting, flush=True))
    return 0
