"""Compares this server with others: every load against each of them in turn, on the same machine.

Run `python benchmarks/compare.py --quick` for a first answer in a few minutes, and without `--quick` for one to rely
on. It needs the extra `bench` for its chart, and Node.js for the peers that are written in JavaScript. Peers are
installed by their names into a cache directory, never into the checkout.

The servers are interleaved and the repetitions come outermost, so that a drift of the machine hits all alike. Server
and load run on different cores, and the figures are per second of the server's own CPU time, which holds still on a
machine that does other things too. What is measured is written to the output directory as comparison.md, .svg, .png and
.json.

The exit status is 0, 1 where this server failed a load, and 2 for a wrong command line. A peer that fails is reported
in the table and ends nothing.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from comparison.chart import draw
from comparison.loads import LOADS, Load
from comparison.machine import Cores, available_cores, choose_cores, describe_machine
from comparison.results import Report, Run, applies
from comparison.running import RunError, Stuck, measure, raise_file_limit
from comparison.servers import REFERENCE, ROOT, SERVERS, Installed, InstallError, Server, install
from comparison.table import markdown

#: Repetitions, seconds of each load, and seconds before what counts: less of them would measure the peers' compilers.
FULL = (5, 5.0, 3.0)
QUICK = (2, 1.0, 1.5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, write the files, and return the exit status."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    cores = choose_cores(available_cores())
    warn_of_what_is_missing(cores)
    files = raise_file_limit()
    options.output.mkdir(parents=True, exist_ok=True)
    servers = options.servers
    loads = options.only if files is None else tuple(load.within(files) for load in options.only)
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
    began = time.monotonic()
    for repetition, load, server in schedule(options.repetitions, loads, [s for s in servers if s.name in installed]):
        if (load.name, server.name) in stuck:
            continue
        run = measure_once(repetition, load, server, installed[server.name], options, cores, files, stuck)
        runs.append(run)
        say(
            f"{time.monotonic() - began:5.0f} s  {repetition + 1}  {load.name:24} {server.name:20} {outcome(load, run)}"
        )
        # Kept as it grows: a run of an hour is not lost with its last minute.
        write_raw(report, options.output / "comparison.json")
    write(report, options.output)
    ours = {server.name for server in servers if server.kind == "ours"}
    return 1 if ours & set(missing) or any(run.failure and run.server in ours for run in runs) else 0


def schedule(repetitions: int, loads: Sequence[Load], servers: Sequence[Server]) -> Iterator[tuple[int, Load, Server]]:
    """Yield what is measured, in order: all servers side by side, and another one first in every repetition."""
    for repetition in range(repetitions):
        for load in loads:
            asked = [server for server in servers if applies(load, server)]
            first = repetition % len(asked) if asked else 0
            for server in asked[first:] + asked[:first]:
                yield repetition, load, server


def measure_once(
    repetition: int,
    load: Load,
    server: Server,
    installed: Installed,
    options: argparse.Namespace,
    cores: Cores,
    files: int | None,
    stuck: set[tuple[str, str]],
) -> Run:
    """Measure, and note a failure as such; what did not come to an end is added to ``stuck``, and not tried again."""
    duration = options.duration if options.duration_given else max(options.duration, load.least_duration)
    try:
        result = measure(server, installed, load, duration, options.warmup, cores, files)
    except RunError as error:
        if isinstance(error, Stuck):
            stuck.add((load.name, server.name))
        return Run(repetition, load.name, server.name, None, str(error))
    return Run(repetition, load.name, server.name, result)


def install_all(servers: Sequence[Server], options: argparse.Namespace) -> tuple[dict[str, Installed], dict[str, str]]:
    """Install the servers; return those that can be started, and why the others cannot, by their names."""
    installed: dict[str, Installed] = {}
    missing: dict[str, str] = {}
    for server in servers:
        try:
            installed[server.name] = install(server, options.peers, options.own_python)
        except InstallError as error:
            missing[server.name] = str(error)
            say(f"{server.name} is not installed: {error}")
        else:
            say(f"{server.name}: {installed[server.name].version}")
    return installed, missing


def outcome(load: Load, run: Run) -> str:
    """Return what came of a measurement, in a few words."""
    if run.result is None:
        return f"failed: {run.failure}"
    return f"{load.figure.read(run.result):,.1f} {load.figure.unit}"


def describe_run(options: argparse.Namespace, cores: Cores, files: int | None) -> list[str]:
    """Return what a reader has to know of how it was run."""
    times = "once each" if options.repetitions == 1 else f"{options.repetitions} times each"
    notes = [
        f"{times}, for {options.duration:g} s after {options.warmup:g} s of warming up; messages of 64 bytes; a new"
        " server process for every measurement"
    ]
    if cores.server:
        notes.append(f"server on core {listed(cores.server)}, load on {listed(cores.load)}")
    else:
        notes.append("server and load were not pinned to cores of their own")
    if files is not None:
        notes.append(f"a process may have {files:,} open files here, and no more sessions than that")
    return notes


def listed(cores: frozenset[int]) -> str:
    """Return the numbers of cores as text."""
    return ", ".join(map(str, sorted(cores)))


def warn_of_what_is_missing(cores: Cores) -> None:
    """Say before a long run what it will lack."""
    if not cores.server:
        say("warning: server and load share what cores there are, and disturb each other")
    if importlib.util.find_spec("matplotlib") is None:
        say("warning: there will be no chart: matplotlib is missing, which the extra `bench` brings")


def write(report: Report, directory: Path) -> None:
    """Write all that is made of a report."""
    write_raw(report, directory / "comparison.json")
    text = markdown(report)
    (directory / "comparison.md").write_text(text, encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is not None:
        draw(report, directory, "comparison")
    print(text)
    say(f"written to {directory}")


def write_raw(report: Report, file: Path) -> None:
    """Write every measurement as JSON."""
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
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(file)


def say(text: str) -> None:
    """Tell whoever waits."""
    print(text, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; what was left to the defaults is filled in."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer loads, shorter and twice each: at most 5 minutes")
    parser.add_argument("--repetitions", type=positive_whole, metavar="N", help="of everything [5; quick: 2]")
    parser.add_argument("--duration", type=positive, metavar="S", help="seconds of each load [5; quick: 1]")
    parser.add_argument("--warmup", type=not_negative, metavar="S", help="seconds before what counts [3; quick: 1.5]")
    parser.add_argument(
        "--only", type=names_of(LOADS), metavar="LOAD,...", help=f"of {', '.join(load.name for load in LOADS)}"
    )
    parser.add_argument(
        "--servers", type=names_of(SERVERS), metavar="NAMES", help=f"of {', '.join(one.name for one in SERVERS)}"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", default=ROOT / "build/benchmarks", help="[build/benchmarks]"
    )
    parser.add_argument(
        "--peers", type=Path, metavar="DIR", default=cache / "sockjs-tornado-bench", help="[%(default)s]"
    )
    parser.add_argument(
        "--own-python",
        metavar="FILE",
        help="interpreter that has this project with its extra `fast` [one of its own, among the peers]",
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
        parser.error("--peers must be outside the checkout: nothing of the peers belongs into it")
    return options


def names_of(known: Sequence[Any]) -> Any:
    """Return a reader of comma-separated names, which returns those of ``known`` that bear them, in its order."""

    def names(text: str) -> tuple[Any, ...]:
        wanted = [name.strip() for name in text.split(",") if name.strip()]
        strangers = set(wanted) - {one.name for one in known}
        if strangers or not wanted:
            raise argparse.ArgumentTypeError(
                f"{', '.join(sorted(strangers)) or 'nothing'} is none of {', '.join(one.name for one in known)}"
            )
        return tuple(one for one in known if one.name in wanted)

    return names


def positive_whole(text: str) -> int:
    """Read a number of times."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def positive(text: str) -> float:
    """Read a number of seconds, more than none."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def not_negative(text: str) -> float:
    """Read a number of seconds."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


if __name__ == "__main__":
    # Raised as an exception, it ends the server and the load that are running too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
