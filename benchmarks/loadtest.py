"""Loads a SockJS server, of whatever make, checks every message, and says how fast it was.

Scenarios: `echo` (each session gets back what it sends), `broadcast` (what one session sends comes to all), `chat` (all
in one room, each speaks now and then), `idle` (sessions that do nothing: their memory), `connect` (sessions come and
go). `echo` and `idle` want a service that sends each message back, `broadcast` and `chat` one that sends it to all.

Without --rate, a message is sent when one has come back. With it, messages are sent on time whatever comes back, and
latencies are counted from when a message was due, so that a server which stalls cannot hide it.

Exit status: 0 all well; 1 messages were lost, reordered, duplicated or corrupt, connections failed, or the run could
not be done; 2 the command line is wrong. It runs on Linux.
"""

import argparse
import contextlib
import importlib.util
import json
import random
import sys
from pathlib import Path
from urllib.parse import urlsplit

from load.plan import SCENARIOS, TRANSPORTS, WEBSOCKETS, Plan

OPEN_LOOP = ("echo", "broadcast", "chat")


def parse() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="the SockJS prefix, e.g. http://127.0.0.1:8080/echo")

    def add(name: str, kind: type, default: object, text: str) -> None:
        parser.add_argument(
            name, type=kind, default=default, help=text + ("" if default is None else " (default: %(default)s)")
        )

    parser.add_argument("--transport", choices=TRANSPORTS, default="websocket", help="(default: %(default)s)")
    parser.add_argument("--scenario", choices=SCENARIOS, default="echo", help="(default: %(default)s)")
    add("--sessions", int, 100, "how many; connect: at a time")
    add("--in-flight", int, 1, "messages on their way at once; echo: of each session, broadcast: of the one that sends")
    add("--size", int, 64, "bytes of a message")
    add("--duration", float, 5.0, "seconds to measure; idle: to hold the sessions")
    add("--warmup", float, 1.0, "seconds of load before that")
    add("--rate", float, None, "messages per second in all, sent on time whatever comes back (chat: 10 if not given)")
    add("--processes", int, 1, "load processes")
    add("--patience", float, 5.0, "seconds without any message after which what is still to come counts as lost")
    parser.add_argument(
        "--pid",
        type=int,
        action="append",
        default=[],
        help="the server's process, for its CPU time and memory; may be given several times",
    )
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON, - for standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    return parser, parser.parse_args()


def make_plan(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Plan:
    """Check what the parser cannot; end the program with status 2 where something is wrong."""
    from load.messages import LEAST_SIZE

    url = urlsplit(options.url)
    try:
        well = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        well = False
    if not well or url.query or url.fragment:
        parser.error(f"{options.url!r} is no SockJS prefix such as http://127.0.0.1:8080/echo")
    for name, least in (("sessions", 1), ("in_flight", 1), ("processes", 1), ("size", LEAST_SIZE)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be {least} or more")
    if not 0 < options.duration < 1e6:
        parser.error("--duration must be more than 0")
    for name in ("warmup", "patience"):
        if not 0 <= getattr(options, name) < 1e6:
            parser.error(f"--{name} must be 0 or more")
    if options.rate is not None:
        if options.scenario not in OPEN_LOOP:
            parser.error(f"--rate says nothing about {options.scenario}")
        if not 0 < options.rate <= 1e6:
            parser.error("--rate must be more than 0, and no more than a million")
    for pid in options.pid:
        if not Path(f"/proc/{pid}/stat").exists():
            parser.error(f"--pid: there is no process {pid}")
    return Plan(
        url=options.url.rstrip("/"),
        transport=options.transport,
        scenario=options.scenario,
        sessions=options.sessions,
        in_flight=options.in_flight,
        size=options.size,
        duration=options.duration,
        warmup=options.warmup,
        rate=options.rate,
        processes=min(options.processes, options.sessions),
        patience=options.patience,
        progress=sys.stderr.isatty() and not options.quiet,
        run=random.SystemRandom().getrandbits(32),
    )


def check_packages(plan: Plan) -> None:
    """End the program where a module is missing."""
    # Those over HTTP have a part of the package's own client.
    clients = ["picows"] if plan.transport in WEBSOCKETS else ["pycurl", "sockjs_tornado"]
    for module in ["hdrh", *clients]:
        if importlib.util.find_spec(module) is None:
            sys.exit(f'The module {module} is missing: pip install "sockjs-tornado[bench]"')


def main() -> int:
    """Run the program, and return its exit status."""
    parser, options = parse()
    plan = make_plan(parser, options)
    check_packages(plan)
    # What these import is there now.
    from load.coordinator import RunError, Tick, run
    from load.report import as_json, as_text, is_well, progress_line

    def show(tick: Tick) -> None:
        print(f"\r\x1b[K{progress_line(plan, tick)}", end="", file=sys.stderr, flush=True)

    with contextlib.ExitStack() as stack:
        output = None
        if options.json == "-":
            output = sys.stdout
        elif options.json is not None:
            # Before the run, which may take long.
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
    return 0 if is_well(report) else 1


if __name__ == "__main__":
    sys.exit(main())
