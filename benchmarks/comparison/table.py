"""The comparison as Markdown."""

import re
from collections.abc import Mapping, Sequence

from .loads import Load
from .results import Cell, Report, Spread, applies, summarise
from .servers import REFERENCE, Server

__all__ = ["format_number", "markdown"]


def markdown(report: Report) -> str:
    """Return the report: machine and versions, tables, and reasons of failures."""
    cells = summarise(report)
    compared = [load for load in report.loads if not load.ours_alone]
    scaling = [load for load in report.loads if load.ours_alone]
    parts = ["# SockJS servers compared", _origin(report)]
    reasons: dict[str, int] = {}
    if compared:
        parts += ["## Side by side", _legend(report), _table(report, compared, report.servers, cells, reasons)]
    ours = [server for server in report.servers if server.kind == "ours"]
    if scaling and ours:
        parts += [
            "## How it scales",
            "Less is better. Scaling is linear if the cost per delivery does not depend on the number of sessions.",
            _table(report, scaling, ours, cells, reasons),
        ]
    if reasons:
        parts += ["Failures:", "\n".join(f"{number}. {reason}" for reason, number in reasons.items())]
    return "\n\n".join(parts) + "\n"


def format_number(value: float) -> str:
    """Format a figure: as an integer if it is large, otherwise with three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _origin(report: Report) -> str:
    machine = report.machine
    lines = [
        f"- {machine['processor']}, {machine['cores']} cores, {machine['kernel']}; {machine['python']}",
        f"- {report.date}: `{report.command}`",
        *(f"- {note}" for note in report.notes),
        *(
            f"- {server.title}: {report.versions[server.name]}"
            for server in report.servers
            if server.name in report.versions
        ),
    ]
    return "\n".join(lines)


def _legend(report: Report) -> str:
    text = "Median (minimum-maximum) of the repetitions."
    if any(server.name == REFERENCE for server in report.servers):
        text += (
            " In bold: ratio to sockjs for Node.js, as the median of the ratios within each repetition;"
            " above 1 is better."
        )
    if any(server.kind == "ceiling" for server in report.servers):
        text += " Servers in italics are plain websockets without SockJS, which show the upper limit."
    return text


def _table(
    report: Report,
    loads: Sequence[Load],
    servers: Sequence[Server],
    cells: Mapping[tuple[str, str], Cell],
    reasons: dict[str, int],
) -> str:
    head = ["load", *(f"*{server.title}*" if server.kind == "ceiling" else server.title for server in servers)]
    rows = [head, ["---", *("--:" for _ in servers)]]
    for load in loads:
        found = [
            _cell(cells[load.name, server.name], server, reasons) if applies(load, server) else "-"
            for server in servers
        ]
        rows.append([f"{load.title}<br>{load.figure.unit}", *found])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(cell: Cell, server: Server, reasons: dict[str, int]) -> str:
    lines = []
    if cell.figure is not None:
        if cell.ratio is not None and server.name != REFERENCE:
            lines.append(f"**{format_number(cell.ratio.median)}x**")
        lines += [format_number(cell.figure.median), _range(cell.figure)]
    if cell.failures:
        messages = dict.fromkeys(f"{server.title}: {_plain(failure)}" for failure in cell.failures)
        lines.append("failed " + " ".join(f"[{reasons.setdefault(message, len(reasons) + 1)}]" for message in messages))
    return "<br>".join(lines) or "not run"


def _range(spread: Spread) -> str:
    return f"({format_number(spread.low)}-{format_number(spread.high)})"


def _plain(text: str) -> str:
    # Remove the port, which differs each time.
    return re.sub(r"(127\.0\.0\.1):\d+", r"\1", " ".join(text.split()))
