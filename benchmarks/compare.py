"""Compare this server with others: run each load against each server, on the same machine.

`python benchmarks/compare.py --quick` gives a first result in a few minutes; without `--quick` results are reliable.
The extra `bench` is required for the chart, Node.js for the peers in JavaScript, HAProxy for the loads behind it, and
OpenSSL for those over TLS. Peers are installed from their registries into a cache directory outside of the checkout.

Servers are interleaved within each repetition, so that a drift of the machine's speed affects all of them. Server and
load run on different cores. Figures are per second of the server's CPU time, which depends less on other processes. The
results are written to the output directory as comparison.md, .svg, .png and .json.

The exit status is 1 if this server failed a load, and 2 if the command line is invalid. Failures of peers are reported
in the table and do not stop the run.
"""

import argparse
import dataclasses
import datetime
import importlib.util
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from comparison.chart import draw
from comparison.loads import LOADS, Load
from comparison.machine import Cores, choose_cores, describe_machine
from comparison.results import Report, Run, applies
from comparison.running import RunError, Stuck, measure
from comparison.servers import REFERENCE, ROOT, SERVERS, Installed, InstallError, Server, install
from comparison.table import markdown
from hosting import raise_file_limit

#: Repetitions, duration of each load and warm-up in seconds; a shorter warm-up would include the peers' JIT compilers.
FULL = (5, 5.0, 3.0)
QUICK = (2, 1.0, 1.5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison, write the files, and return the exit status."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    cores = choose_cores(os.sched_getaffinity(0))
    warn_about_setup(cores)
    files = raise_file_limit()
    options.output.mkdir(parents=True, exist_ok=True)
    servers = options.servers
    loads = tuple(load.within(files) for load in options.only)
    installed, missing = install_all(servers, options)
    runs: list[Run] = []
    report = Report(
        loads=loads,
        servers=servers,
        runs=runs,
        versions={name: one.version for name, one in installed.items()},
        missing=missing,
        machine=describe_machine(),
        command=shlex.join(["python", "benchmarks/compare.py", *(sys.argv[1:] if arguments is None else arguments)]),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        notes=describe_run(options, cores, None if loads == options.only else files),
    )
    stuck: set[tuple[str, str]] = set()
    started = time.monotonic()
    for repetition, load, server in schedule(options.repetitions, loads, [s for s in servers if s.name in installed]):
        if (load.name, server.name) in stuck:
            continue
        run = measure_once(repetition, load, server, installed[server.name], options, cores, files, stuck)
        runs.append(run)
        elapsed = time.monotonic() - started
        log(f"{elapsed:5.0f} s  {repetition + 1}  {load.name:24} {server.name:20} {outcome(load, run)}")
        # Write after each measurement, so that an interrupted run of an hour is not lost.
        write_raw(report, options.output / "comparison.json")
    write(report, options.output)
    ours = {server.name for server in servers if server.kind == "ours"}
    return 1 if ours & set(missing) or any(run.failure and run.server in ours for run in runs) else 0


def schedule(repetitions: int, loads: Sequence[Load], servers: Sequence[Server]) -> Iterator[tuple[int, Load, Server]]:
    """Yield the measurements in order: all servers in turn, starting with a different one in each repetition."""
    for repetition in range(repetitions):
        for load in loads:
            applicable = [server for server in servers if applies(load, server)]
            first = repetition % len(applicable) if applicable else 0
            for server in applicable[first:] + applicable[:first]:
                yield repetition, load, server


def measure_once(
    repetition: int,
    load: Load,
    server: Server,
    installed: Installed,
    options: argparse.Namespace,
    cores: Cores,
    files: int,
    stuck: set[tuple[str, str]],
) -> Run:
    """Run one measurement and record failures; if it timed out, add it to ``stuck``, so that it is not repeated."""
    duration = options.duration if options.duration_given else max(options.duration, load.least_duration)
    try:
        result = measure(server, installed, load, duration, options.warmup, cores, files)
    except RunError as error:
        if isinstance(error, Stuck):
            stuck.add((load.name, server.name))
        return Run(repetition, load.name, server.name, None, str(error))
    return Run(repetition, load.name, server.name, result)


def install_all(servers: Sequence[Server], options: argparse.Namespace) -> tuple[dict[str, Installed], dict[str, str]]:
    """Install the servers; return the installed ones, and the errors of the others, by name."""
    installed: dict[str, Installed] = {}
    missing: dict[str, str] = {}
    for server in servers:
        try:
            installed[server.name] = install(server, options.peers, options.own_python)
        except InstallError as error:
            missing[server.name] = str(error)
            log(f"{server.name} is not installed: {error}")
        else:
            log(f"{server.name}: {installed[server.name].version}")
    return installed, missing


def outcome(load: Load, run: Run) -> str:
    """Return a short description of a result."""
    if run.result is None:
        return f"failed: {run.failure}"
    return f"{load.figure.read(run.result):,.1f} {load.figure.unit}"


def describe_run(options: argparse.Namespace, cores: Cores, files: int | None) -> list[str]:
    """Return notes on how the comparison was run."""
    times = "once each" if options.repetitions == 1 else f"{options.repetitions} times each"
    notes = [
        f"{times}, for {options.duration:g} s after a warm-up of {options.warmup:g} s; messages of 64 bytes; a new"
        " server process for each measurement"
    ]
    if cores.server:
        notes.append(f"server on core {format_cores(cores.server)}, load on {format_cores(cores.load)}")
    else:
        notes.append("server and load were not pinned to cores")
    if files is not None:
        notes.append(f"the number of sessions is limited by the maximum of {files:,} open files")
    return notes


def format_cores(cores: frozenset[int]) -> str:
    """Format a set of cores as text."""
    return ", ".join(map(str, sorted(cores)))


def warn_about_setup(cores: Cores) -> None:
    """Warn before a long run about missing cores or packages."""
    if not cores.server:
        log("warning: server and load share one core and influence each other")
    if importlib.util.find_spec("matplotlib") is None:
        log("warning: no chart, since matplotlib is not installed (extra `bench`)")


def write(report: Report, directory: Path) -> None:
    """Write all files of a report."""
    write_raw(report, directory / "comparison.json")
    text = markdown(report)
    (directory / "comparison.md").write_text(text, encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is not None:
        draw(report, directory, "comparison")
    print(text)
    log(f"written to {directory}")


def write_raw(report: Report, file: Path) -> None:
    """Write all measurements as JSON."""
    raw: dict[str, Any] = {
        "date": report.date,
        "command": report.command,
        "machine": dict(report.machine),
        "notes": list(report.notes),
        "versions": dict(report.versions),
        "missing": dict(report.missing),
        "reference": REFERENCE,
        "runs": [dataclasses.asdict(run) for run in report.runs],
    }
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    temporary.replace(file)


def log(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line and apply the defaults."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter loads, 2 repetitions: at most 5 minutes"
    )
    parser.add_argument("--repetitions", type=number(int, 1), metavar="N", help="repetitions [5; quick: 2]")
    parser.add_argument(
        "--duration", type=number(float, 0.001), metavar="S", help="duration of each load in seconds [5; quick: 1]"
    )
    parser.add_argument("--warmup", type=number(float, 0), metavar="S", help="warm-up in seconds [3; quick: 1.5]")
    parser.add_argument(
        "--only", type=names_of(LOADS), metavar="LOAD,...", help=f"loads, of {', '.join(load.name for load in LOADS)}"
    )
    parser.add_argument(
        "--servers",
        type=names_of(SERVERS),
        metavar="NAMES",
        help=f"servers, of {', '.join(one.name for one in SERVERS)}",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        default=ROOT / "build/benchmarks",
        help="output directory [build/benchmarks]",
    )
    parser.add_argument(
        "--peers",
        type=Path,
        metavar="DIR",
        default=cache / "sockjs-tornado-bench",
        help="directory for installed servers [%(default)s]",
    )
    parser.add_argument(
        "--own-python",
        metavar="FILE",
        help="interpreter with this project and its extra `fast` [installed among the peers]",
    )
    options = parser.parse_args(arguments)
    repetitions, duration, warmup = QUICK if options.quick else FULL
    options.repetitions = options.repetitions or repetitions
    options.duration_given = options.duration is not None
    options.duration = options.duration or duration
    options.warmup = warmup if options.warmup is None else options.warmup
    options.only = options.only or tuple(load for load in LOADS if load.quick or not options.quick)
    options.servers = options.servers or SERVERS
    options.peers = options.peers.resolve()
    if options.peers.is_relative_to(ROOT):
        parser.error("--peers must be outside of the checkout")
    return options


def names_of(known: Sequence[Any]) -> Any:
    """Return a parser of comma-separated names, which returns the objects in the order of ``known``."""

    def names(text: str) -> tuple[Any, ...]:
        requested = [name.strip() for name in text.split(",") if name.strip()]
        unknown = set(requested) - {one.name for one in known}
        if unknown or not requested:
            names_given = ", ".join(sorted(unknown)) or "nothing"
            raise argparse.ArgumentTypeError(f"expected {', '.join(one.name for one in known)}, got {names_given}")
        return tuple(one for one in known if one.name in requested)

    return names


def number(kind: type[int] | type[float], least: float) -> Callable[[str], float]:
    """Return a parser of finite numbers that are not below a limit."""

    def parse_number(text: str) -> float:
        value = kind(text)
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected {least:g} or more, got {text}")
        return value

    return parse_number


if __name__ == "__main__":
    # Raise an exception on SIGTERM, so that the running server and load are stopped too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
