"""The command line: ``python -m sockjs_tornado serve | connect | info``.

``serve`` needs nothing but the package; ``connect`` and ``info`` need the extra ``client``.
"""

import argparse
import importlib
from collections.abc import Sequence
from typing import Final

__all__ = ["main"]

#: The commands, each a module here that has ``add_arguments(parser)`` and ``run(options)``.
_COMMANDS: Final = {
    "serve": ("serve", "serve echo, chat, or a connection class of your own"),
    "connect": ("connect", "talk to a service: each line that is typed is a message"),
    "info": ("doctor", "say what a service offers, and what a proxy before it breaks"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What stands behind the program's name; by default, that of this process.

    Returns:
        The exit code: 0, 1 where it failed, or 2 where it was not understood.
    """
    parser = argparse.ArgumentParser(prog="python -m sockjs_tornado", description="A SockJS server and client.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (module, what) in _COMMANDS.items():
        command = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        try:
            implementation = importlib.import_module(f".{module}", __name__)
        except ImportError as error:
            # One command shall not need what another one does.
            command.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
            command.set_defaults(fail=str(error))
        else:
            implementation.add_arguments(command)
            command.set_defaults(run=implementation.run)
    options = parser.parse_args(arguments)
    if hasattr(options, "fail"):
        parser.error(options.fail)
    try:
        code: int = options.run(options)
    except KeyboardInterrupt:
        return 130
    return code
