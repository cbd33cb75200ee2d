"""What is made of the measurements: medians, their spread, and the ratio to the reference."""

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
        repetition: Its number; ratios are taken within one.
        load: Name of the load.
        server: Name of the server.
        result: What the load has written, None where the server failed.
        failure: Why it failed.
    """

    repetition: int
    load: str
    server: str
    result: Mapping[str, Any] | None
    failure: str | None = None


@dataclass(frozen=True)
class Report:
    """A whole comparison.

    Args:
        loads: What was asked, in order.
        servers: Of whom, in order.
        runs: What came of it.
        versions: What each server is, by its name.
        missing: Why a server could not be installed, by its name.
        machine: Where it was, in words.
        command: The command line.
        date: When it began.
        notes: What a reader has to know of how it was run.
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
    """A median, and the least and greatest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """Return the spread of some values, None where there are none."""
        found = sorted(values)
        return cls(median(found), found[0], found[-1]) if found else None


@dataclass(frozen=True)
class Cell:
    """One server under one load.

    Args:
        figure: The figure.
        ratio: How many times as good as the reference within each repetition.
        count: How many measurements the figure is of.
        failures: Why others failed, each reason once.
    """

    figure: Spread | None
    ratio: Spread | None
    count: int
    failures: tuple[str, ...]


def applies(load: Load, server: Server) -> bool:
    """Tell whether a server is asked for a load: a bare websocket has no other transports."""
    if load.ours_alone:
        return server.kind == "ours"
    return server.kind != "ceiling" or load.transport == "websocket"


def summarise(report: Report) -> dict[tuple[str, str], Cell]:
    """Return the cells by the names of load and server; one that does not apply is not there."""
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
