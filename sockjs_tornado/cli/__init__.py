"""The command line, ``sockjs-tornado serve | connect | info``, and its safe output of untrusted text.

``python -m sockjs_tornado`` is the same.

``connect`` and ``info`` require the extra ``client``; ``serve`` does not.
"""

import argparse
import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .option_sources import suggest_option

#: Command name: module in this package, which has ``add_arguments(parser)`` and ``run(options)``, and help text.
_COMMANDS: Final = {
    "serve": ("serve", "serve echo, chat, or a connection class of your own"),
    "connect": ("connect", "connect to a service and send each line of the input as a message"),
    "info": ("doctor", "diagnose a service: its transports, and problems caused by proxies"),
}


class _Version(argparse.Action):
    """Print the versions and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        from .version import describe_versions

        print(describe_versions())
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Command-line arguments without the program name. Default: those of this process.

    Returns:
        The exit code: 0 on success, 1 on failure, 2 if the arguments are invalid, 130 after Ctrl-C.
    """
    name = Path(sys.argv[0]).stem
    program = name if name == "sockjs-tornado" else "python -m sockjs_tornado"
    parser = argparse.ArgumentParser(prog=program, description="A SockJS server and client.")
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show the versions, and whether accelerators and scripts are there"
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (module, summary) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        try:
            implementation = importlib.import_module(f".{module}", __name__)
        except ImportError as error:
            # Report a missing extra only if its command is used.
            command.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
            command.set_defaults(fail=str(error))
            command.epilog = f"{error}; then this lists the options."
        else:
            implementation.add_arguments(command)
            command.set_defaults(run=implementation.run, command=name, parser=command)
    options, unknown = parser.parse_known_args(arguments)
    if hasattr(options, "fail"):
        parser.error(options.fail)
    if unknown:
        name = unknown[0].partition("=")[0].removeprefix("--")
        known = re.findall(r"--([a-z-]+)", options.parser.format_usage())
        setting = "--set NAME=VALUE" if options.command == "serve" else ""
        hint = suggest_option(name, "--", known, setting, options.command) if unknown[0].startswith("-") else ""
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    try:
        code: int = options.run(options)
    except KeyboardInterrupt:
        return 130
    return code


def printable(text: str) -> str:
    """Escape control characters and everything else that a terminal would interpret or cannot show."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def discard_output() -> None:
    """Discard standard output, whose reader has exited, so that Python's flush at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def silence_tornado() -> None:
    """Keep Tornado's log, such as the traceback of an invalid response, out of the output if no log is configured."""
    logger = logging.getLogger("tornado")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def note(text: str) -> None:
    """Print a status message to standard error; standard output is for messages."""
    print(printable(text), file=sys.stderr, flush=True)
