"""Summary of the measurements: medians, spread, and ratios to the reference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .loads import Load
from .servers import REFERENCE, Server

__all__ = ["Cell", "Report", "Run", "Spread", "applies", "summarise"]


@dataclass(frozen=True)
class Run:
    """One measurement.

    Args:
        repetition: Number of the repetition; ratios are calculated within a repetition.
        load: Name of the load.
        server: Name of the server.
        result: Result of the load, or None if it failed.
        failure: Reason of the failure.
    """

    repetition: int
    load: str
    server: str
    result: Mapping[str, Any] | None
    failure: str | None = None


@dataclass(frozen=True)
class Report:
    """A complete comparison.

    Args:
        loads: Loads, in order.
        servers: Servers, in order.
        runs: Measurements.
        versions: Versions of the servers, by name.
        missing: Reasons why servers could not be installed, by name.
        machine: Description of the machine.
        command: Command line.
        date: Start time.
        notes: Notes on how the comparison was run.
    """

    loads: Sequence[Load]
    servers: Sequence[Server]
    runs: Sequence[Run]
    versions: Mapping[str, str]
    missing: Mapping[str, str]
    machine: Mapping[str, str]
    command: str
    date: str
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """Return the spread of values, or None without values."""
        found = sorted(values)
        return cls(median(found), found[0], found[-1]) if found else None


@dataclass(frozen=True)
class Cell:
    """The summary of one server under one load.

    Args:
        figure: Spread of the figure.
        ratio: Spread of the ratio to the reference within each repetition; above 1 is better.
        count: Number of successful measurements.
        failures: Distinct reasons of failures.
    """

    figure: Spread | None
    ratio: Spread | None
    count: int
    failures: tuple[str, ...]


def applies(load: Load, server: Server) -> bool:
    """Return whether a load applies to a server: servers without SockJS have only websockets, no TLS or HAProxy."""
    if load.ours_alone:
        return server.kind == "ours"
    return server.kind != "ceiling" or (load.transport == "websocket" and not load.tls and not load.haproxy)


def summarise(report: Report) -> dict[tuple[str, str], Cell]:
    """Return the cells by the names of load and server, for all combinations that apply."""
    cells = {}
    for load in report.loads:
        reference = _values(report, load, REFERENCE)
        for server in report.servers:
            if applies(load, server):
                cells[load.name, server.name] = _cell(report, load, server, reference)
    return cells


def _cell(report: Report, load: Load, server: Server, reference: Mapping[int, float]) -> Cell:
    values = _values(report, load, server.name)
    ratios = []
    for repetition, value in values.items():
        other = reference.get(repetition)
        if other and value:
            ratios.append(value / other if load.figure.more_is_better else other / value)
    failures = [
        run.failure for run in report.runs if (run.load, run.server) == (load.name, server.name) and run.failure
    ]
    if server.name in report.missing:
        failures.append(f"not installed: {report.missing[server.name]}")
    return Cell(Spread.of(values.values()), Spread.of(ratios), len(values), tuple(dict.fromkeys(failures)))


def _values(report: Report, load: Load, server: str) -> dict[int, float]:
    return {
        run.repetition: load.figure.read(run.result)
        for run in report.runs
        if (run.load, run.server) == (load.name, server) and run.result is not None
    }
