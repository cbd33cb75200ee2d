"""``python -m sockjs_tornado info``: what a service offers, each transport tried and timed, and what a proxy breaks."""

import argparse
import asyncio
import json
import sys
import textwrap
from typing import Final

from ..client.curl import FetchFailed
from ..client.multi import Multi
from ..client.options import Options, ServiceURL
from ..exceptions import ConfigurationError
from .checks import Finding, Level, check_info, check_patience, check_stickiness, check_transports, follow
from .options import add_arguments as add_client_arguments
from .options import make_connector
from .probe import Prober
from .terminal import printable

__all__ = ["add_arguments", "run"]

TRANSPORTS: Final = ("websocket", "xhr_streaming", "eventsource", "htmlfile", "xhr", "jsonp")

#: Those that a silent connection of may be cut.
_LASTING: Final = ("websocket", "xhr_streaming", "eventsource", "xhr")

_MARKS: Final = {Level.GOOD: "ok", Level.NOTE: "note", Level.BAD: "BAD"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    add_client_arguments(parser)
    parser.add_argument(
        "--timeout", type=float, default=5, metavar="SECONDS", help="that each answer may take (default 5)"
    )
    wait = "listen so long for a heartbeat, to see whether silent connections are cut (60, say; default 0: do not)"
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help=wait)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Examine a service; 1 where something is bad."""
    try:
        connector = make_connector(arguments)
        if not 0 < arguments.timeout < 86_400:
            raise ConfigurationError("--timeout: takes a number of seconds above 0")
        if not 0 <= arguments.wait < 86_400:
            raise ConfigurationError("--wait: takes a number of seconds")
    except ConfigurationError as error:
        print(f"Cannot ask: {error}", file=sys.stderr)
        return 1
    service = connector.service
    findings = asyncio.run(_examine(service, connector.options, arguments))
    if arguments.json:
        print(
            json.dumps([{**finding._asdict(), "level": finding.level.name.lower()} for finding in findings], indent=2)
        )
    else:
        _print(service.url, findings, quick=not arguments.wait)
    return 1 if any(finding.level is Level.BAD for finding in findings) else 0


async def _examine(service: ServiceURL, given: Options, arguments: argparse.Namespace) -> list[Finding]:
    multi = Multi()
    try:
        prober = Prober(service, given, multi)
        info, findings = await check_info(prober, arguments.timeout)
        if info is not None:
            try:
                prober = follow(prober, info)
            except FetchFailed as error:
                return [*findings, Finding(Level.BAD, "/info", str(error))]
            findings += await check_transports(prober, TRANSPORTS, info, arguments.timeout)
            findings += await check_stickiness(prober, arguments.timeout)
            if arguments.wait:
                findings += await check_patience(prober, _LASTING, arguments.wait)
        return findings
    finally:
        multi.close()


def _print(url: str, findings: list[Finding], *, quick: bool) -> None:
    print(url)
    width = max(len(finding.subject) for finding in findings)
    advised: set[str] = set()
    for finding in findings:
        print(printable(f"  {_MARKS[finding.level]:4}  {finding.subject:{width}}  {finding.text}"))
        if finding.advice and finding.advice not in advised:
            advised.add(finding.advice)
            indent = " " * (width + 10)
            print(textwrap.fill(finding.advice, 110, initial_indent=indent, subsequent_indent=indent))
    bad = sum(finding.level is Level.BAD for finding in findings)
    print(f"Bad findings: {bad} of {len(findings)}." if bad else "Nothing is wrong that can be seen from here.")
    if quick and not bad:
        print("Say --wait 60 to see whether silent connections are cut.")
