"""``python -m sockjs_tornado info``: check ``/info``, each transport, and the timeouts of the proxies."""

import argparse
import asyncio
import json
import shutil
import sys
import textwrap

from ..client.fallback import resolve_base_url
from ..client.multi import Multi
from ..client.options import Options
from ..client.service_url import ServiceURL
from ..client.session import OpenFailed
from ..exceptions import ConfigurationError
from ..validation import check_seconds
from . import discard_output, printable, silence_tornado
from .checks import Finding, Level, check_iframe, check_info, describe_proxy
from .options import add_client_arguments, create_connector, find_service
from .probe import Prober
from .sending_checks import check_message_size, check_stickiness
from .session_checks import check_session
from .transport_checks import check_any_works, check_idle_timeouts, check_transports


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to a parser."""
    add_client_arguments(parser)
    parser.add_argument(
        "--timeout",
        type=float,
        default=5,
        metavar="SECONDS",
        help="timeout for each response (default 5); all transports are checked at the same time",
    )
    wait = "seconds to wait for a heartbeat, to check whether proxies close idle connections; 60 is usual (default 0)"
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help=wait)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Check a service; return 1 if a finding is bad."""
    try:
        connector = create_connector(arguments)
        check_seconds("--timeout", arguments.timeout, positive=True)
        check_seconds("--wait", arguments.wait)
    except ConfigurationError as error:
        print(f"Cannot check: {error}", file=sys.stderr)
        return 1
    silence_tornado()
    service = asyncio.run(find_service(connector, arguments.timeout))
    findings = asyncio.run(_run_checks(service, connector.options, arguments))
    try:
        if arguments.json:
            levels = [{**finding._asdict(), "level": finding.level.name.lower()} for finding in findings]
            print(json.dumps(levels, indent=2))
        else:
            _print(service.url, findings, quick=not arguments.wait)
        print(end="", flush=True)
    except BrokenPipeError:
        discard_output()
    return 1 if _is_bad(findings) else 0


def _is_bad(findings: list[Finding]) -> bool:
    return any(finding.level is Level.BAD for finding in findings)


async def _run_checks(service: ServiceURL, options: Options, arguments: argparse.Namespace) -> list[Finding]:
    multi = Multi()
    try:
        prober = Prober(service, service, options, multi)
        info, findings = await check_info(prober, arguments.timeout)
        findings = [*describe_proxy(prober), *findings]
        if info is not None:
            try:
                prober.service = resolve_base_url(service, info.get("base_url"))
            except OpenFailed as error:
                return [*findings, Finding(Level.BAD, "/info", str(error))]
            transports = await check_transports(prober, info, arguments.timeout)
            failures = check_any_works(transports)
            findings += [*failures, *transports]
            if not failures:
                has_streams = any(finding[:2] == (Level.GOOD, "xhr_streaming") for finding in transports)
                iframe, sending, session = await asyncio.gather(
                    check_iframe(prober, arguments.timeout),
                    check_stickiness(prober, arguments.timeout, has_streams=has_streams),
                    check_session(prober, transports),
                )
                # Afterwards, since its requests may use the whole bandwidth.
                size = (
                    await check_message_size(prober, arguments.timeout) if has_streams and not _is_bad(sending) else []
                )
                findings += [*iframe, *sending, *size, *session]
            if arguments.wait:
                findings += await check_idle_timeouts(prober, arguments.wait)
        return findings
    finally:
        multi.close()


def _print(url: str, findings: list[Finding], *, quick: bool) -> None:
    print(url)
    width = max(len(finding.subject) for finding in findings)
    # If the output is not a terminal, its width is taken as 110. At least 30 columns remain for text after the indent.
    columns = min(max(shutil.get_terminal_size((110, 0)).columns, width + 40), 110)
    indent = " " * (width + 10)
    # Neither URLs nor names of options are divided, so that they can be copied.
    wrapper = textwrap.TextWrapper(columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    printed: set[str] = set()
    for finding in findings:
        wrapper.initial_indent = f"  {finding.level.value:4}  {finding.subject:{width}}  "
        print(wrapper.fill(printable(finding.text)))
        if finding.advice and finding.advice not in printed:
            printed.add(finding.advice)
            wrapper.initial_indent = indent
            print(wrapper.fill(printable(finding.advice)))
    bad = sum(finding.level is Level.BAD for finding in findings)
    print(f"Bad findings: {bad} of {len(findings)}." if bad else "No problems found.")
    if quick and not bad:
        print("Use --wait 60 to check whether idle connections are closed.")
