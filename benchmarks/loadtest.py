"""Load test for any SockJS server, which checks every message and measures throughput and latency.

Scenarios: `echo` (each session receives its own messages), `broadcast` (messages of one session are received by all),
`chat` (sessions send at random times, all receive), `idle` (memory of idle sessions), `connect` (sessions are opened
and closed). `echo` and `idle` require a service that echoes messages, `broadcast` and `chat` one that broadcasts them.

Without --rate, a message is sent for each one received. With --rate, messages are sent on schedule, independently of
the responses, and latencies are measured from the scheduled time, so that stalls of the server are visible.

Exit status: 0 if there were no errors; 1 if messages were lost, reordered, duplicated or corrupt, if connections
failed, or if the run was not possible; 2 if the command line is invalid. Requires Linux.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import random
import sys
from pathlib import Path
from urllib.parse import urlsplit

from load.plan import SCENARIOS, TRANSPORTS, WEBSOCKETS, Plan

OPEN_LOOP = ("echo", "broadcast", "chat")


def parse() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="URL of the SockJS service, e.g. http://127.0.0.1:8080/echo")

    def add(name: str, kind: type, default: object, text: str) -> None:
        parser.add_argument(
            name, type=kind, default=default, help=text + ("" if default is None else " (default: %(default)s)")
        )

    parser.add_argument("--transport", choices=TRANSPORTS, default="websocket", help="(default: %(default)s)")
    parser.add_argument("--scenario", choices=SCENARIOS, default="echo", help="(default: %(default)s)")
    add("--sessions", int, 100, "number of sessions; connect: number of concurrent ones")
    add("--in-flight", int, 1, "messages in flight; echo: per session, broadcast: of the sender")
    add("--size", int, 64, "size of a message in bytes")
    add("--duration", float, 5.0, "seconds to measure; idle: to keep the sessions open")
    add("--warmup", float, 1.0, "seconds of load before the measurement")
    add("--rate", float, None, "total messages per second, sent on schedule (default for chat: 10)")
    add("--processes", int, 1, "number of load processes")
    add("--drain-timeout", float, 5.0, "seconds without any message after which missing messages count as lost")
    parser.add_argument(
        "--pid",
        type=int,
        action="append",
        default=[],
        help="process id of the server, to measure CPU time and memory; may be given several times",
    )
    parser.add_argument("--browser-fields", action="store_true", help="send the header fields of a browser")
    parser.add_argument(
        "--no-keep-alive", dest="keep_alive", action="store_false", help="HTTP transports: one connection per request"
    )
    parser.add_argument(
        "--retry-2010", action="store_true", help="xhr, xhr_streaming: request again after the close code 2010"
    )
    parser.add_argument("--ca", metavar="FILE", help="certificates of the trusted authorities for https URLs")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON, - for standard output")
    parser.add_argument("--quiet", action="store_true", help="do not show progress on standard error")
    return parser, parser.parse_args()


def make_plan(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Plan:
    """Validate the options; exit with status 2 if one is invalid."""
    from load.messages import MIN_SIZE

    url = urlsplit(options.url)
    try:
        is_valid = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or url.query or url.fragment:
        parser.error(f"url: expected a SockJS URL such as http://127.0.0.1:8080/echo, got {options.url!r}")
    for name, least in (("sessions", 1), ("in_flight", 1), ("processes", 1), ("size", MIN_SIZE)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be {least} or more")
    if not 0 < options.duration < 1e6:
        parser.error("--duration must be more than 0")
    for name in ("warmup", "drain_timeout"):
        if not 0 <= getattr(options, name) < 1e6:
            parser.error(f"--{name.replace('_', '-')} must be 0 or more")
    if options.rate is not None:
        if options.scenario not in OPEN_LOOP:
            parser.error(f"--rate is not supported with {options.scenario}")
        if not 0 < options.rate <= 1e6:
            parser.error("--rate must be more than 0 and at most 1000000")
    if options.ca is not None and not Path(options.ca).is_file():
        parser.error(f"--ca: no such file: {options.ca}")
    if not options.keep_alive and options.transport in WEBSOCKETS:
        parser.error(f"--no-keep-alive is not supported with {options.transport}")
    for pid in options.pid:
        if not Path(f"/proc/{pid}/stat").exists():
            parser.error(f"--pid: no such process: {pid}")
    options.url = options.url.rstrip("/")
    options.processes = min(options.processes, options.sessions)
    options.progress = sys.stderr.isatty() and not options.quiet
    options.run = random.SystemRandom().getrandbits(32)
    return Plan(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Plan)})


def check_packages(plan: Plan) -> None:
    """Exit if a required module is missing."""
    # The HTTP transports use a module of this package's client.
    clients = ["picows"] if plan.transport in WEBSOCKETS else ["pycurl", "sockjs_tornado"]
    for module in ["hdrh", *clients]:
        if importlib.util.find_spec(module) is None:
            sys.exit(f"The module {module} is missing; in the checkout: pip install '.[bench]'")


def main() -> int:
    """Run the program, and return its exit status."""
    parser, options = parse()
    plan = make_plan(parser, options)
    check_packages(plan)
    # Imported here, after the check for missing modules.
    from load.coordinator import RunError, Tick, run
    from load.report import as_json, as_text, has_no_errors, progress_line

    def show(tick: Tick) -> None:
        print(f"\r\x1b[K{progress_line(plan, tick)}", end="", file=sys.stderr, flush=True)

    with contextlib.ExitStack() as stack:
        output = None
        if options.json == "-":
            output = sys.stdout
        elif options.json is not None:
            # Open the file before the run, to fail early.
            try:
                output = stack.enter_context(open(options.json, "w", encoding="utf-8"))
            except OSError as error:
                parser.error(f"--json: cannot write {options.json}: {error.strerror}")
        try:
            outcome = run(plan, options.pid, show)
        except RunError as error:
            print(f"loadtest: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            if plan.progress:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        report = as_json(plan, outcome)
        if output is not None:
            json.dump(report, output, indent=2)
            output.write("\n")
        if output is not sys.stdout:
            print(as_text(report))
    return 0 if has_no_errors(report) else 1


if __name__ == "__main__":
    sys.exit(main())
