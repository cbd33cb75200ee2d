"""The comparison as a bar chart with a panel for each load."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .loads import Load
from .results import Cell, Report, applies, summarise
from .servers import REFERENCE, Server
from .table import format_number

__all__ = ["draw"]

# The palette of Okabe and Ito for people with colour blindness; peers are grey.
_OURS = {"ours-uvloop": "#0072B2", "ours-asyncio": "#56B4E9", "ours-tornado": "#009E73"}
_COLOURS = {"sockjs": "#9A9A9A", "ceiling": "#F5DFA8"}
_REFERENCE = "#4D4D4D"
_EDGE = "#B98A00"

_INK = "#222222"
_FAINT = "#DDDDDD"


def draw(report: Report, directory: Path, name: str) -> list[Path]:
    """Write the chart as SVG and PNG and return the files; an empty list if there is nothing to compare.

    The bars are relative to the reference. If the reference was not measured, they are absolute figures.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = summarise(report)
    loads = [
        load
        for load in report.loads
        if not load.ours_alone
        and any((cell := cells.get((load.name, server.name))) and cell.figure for server in report.servers)
    ]
    if not loads:
        return []
    columns = min(2, len(loads))
    rows = math.ceil(len(loads) / columns)
    most = max(sum(applies(load, server) for server in report.servers) for load in loads)
    with pyplot.rc_context({"font.size": 9, "svg.fonttype": "none", "text.color": _INK, "font.family": "DejaVu Sans"}):
        height = 0.8 + rows * (0.8 + 0.27 * most)
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(6.2 * columns, height), squeeze=False, layout="constrained"
        )
        panels = list(axes.flat)
        for axis, load in zip(panels, loads, strict=False):
            _panel(axis, report, load, cells)
        for axis in panels[len(loads) :]:
            axis.set_axis_off()
        figure.suptitle(_title(report, loads, cells), x=0.01, ha="left", fontsize=11)
        files = [directory / f"{name}.svg", directory / f"{name}.png"]
        for file in files:
            # "tight": titles may be longer than their panels.
            figure.savefig(file, dpi=130, facecolor="white", bbox_inches="tight")
        pyplot.close(figure)
    return files


def _title(report: Report, loads: list[Load], cells: Mapping[tuple[str, str], Cell]) -> str:
    machine = f"{report.machine['processor']}, {report.date}"
    if any(_is_relative(load, cells) for load in loads):
        return (
            "SockJS servers relative to sockjs for Node.js (= 1): longer is better\n"
            f"medians, lines from minimum to maximum; pale: plain websockets without SockJS ({machine})"
        )
    return f"SockJS servers: medians, lines from minimum to maximum ({machine})"


def _is_relative(load: Load, cells: Mapping[tuple[str, str], Cell]) -> bool:
    reference = cells.get((load.name, REFERENCE))
    return reference is not None and reference.figure is not None


def _panel(axis: Any, report: Report, load: Load, cells: Mapping[tuple[str, str], Cell]) -> None:
    servers = [server for server in report.servers if applies(load, server)]
    relative = _is_relative(load, cells)
    found = [cells[load.name, server.name] for server in servers]
    spreads = [cell.ratio if relative else cell.figure for cell in found]
    end = max((spread.high for spread in spreads if spread), default=1.0)
    for place, (server, spread) in enumerate(zip(servers, spreads, strict=True)):
        if spread is None:
            reason = "failed" if cells[load.name, server.name].failures else "not run"
            axis.text(0.01 * end, place, reason, va="center", style="italic", color="#666666")
            continue
        ceiling = server.kind == "ceiling"
        axis.barh(
            place, spread.median, 0.7, color=_colour(server), edgecolor=_EDGE if ceiling else "none", linewidth=0.6
        )
        axis.plot([spread.low, spread.high], [place, place], color=_INK, linewidth=1, solid_capstyle="butt")
        label = format_number(spread.median) + ("x" if relative else "")
        axis.text(spread.high + 0.012 * end, place, label, va="center", fontsize=8)
    if relative:
        axis.axvline(1, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axis.set_yticks(range(len(servers)), [server.title for server in servers])
    axis.invert_yaxis()
    axis.set_ylim(len(servers) - 0.4, -0.6)
    axis.set_xlim(0, end * 1.13)
    axis.set_title(f"{load.title}\n", loc="left", fontsize=9, fontweight="bold", pad=4)
    axis.text(0, 1.015, load.figure.unit + _note(load, relative), transform=axis.transAxes, va="bottom", fontsize=8)
    axis.set_axisbelow(True)
    axis.grid(axis="x", color=_FAINT, linewidth=0.6)
    axis.tick_params(length=0)
    for label, server in zip(axis.get_yticklabels(), servers, strict=True):
        label.set_fontweight("bold" if server.kind == "ours" else "normal")
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    axis.spines["left"].set_color("#888888")


def _note(load: Load, relative: bool) -> str:
    if load.figure.more_is_better:
        return ""
    return " (inverse)" if relative else " (less is better)"


def _colour(server: Server) -> str:
    if server.name == REFERENCE:
        return _REFERENCE
    return _OURS.get(server.name) or _COLOURS[server.kind]
