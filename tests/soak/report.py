"""The checks at the end of a run, and the report."""

from collections import Counter
from typing import Any

from client import TRANSPORTS, WEBSOCKETS

from .load import Load
from .state import State, closed_as_slow

#: Maximum growth of the process after the warm-up, in bytes.
MAX_GROWTH = 20 * 1024 * 1024
#: Figures that must have their initial values after all clients have disconnected.
UNCHANGED = ("fds", "tasks", "deadlines", "rooms")
#: Figures that must be 0 then.
ZERO = ("sessions", "connections")
#: Types of objects that belong to the request for the state itself.
OWN = ("IOStream", "HTTP1Connection", "HTTPConnection", "DelegatedRequest")


def find_leaks(before: State, after: State) -> list[str]:
    """Return descriptions of leaks."""
    found = [f"{name}: expected {before[name]}, got {after[name]}" for name in UNCHANGED if after[name] != before[name]]
    found += [f"{name}: {after[name]} left" for name in ZERO if after[name]]
    if after["opens"] != after["closes"]:
        found.append(f"on_open ran {after['opens']} times, on_close {after['closes']} times")
    found += [f"open: {after['open']}"] * bool(after["open"])
    for name, count in after["alive"].items():
        if count > (before["alive"].get(name, 0) if name in OWN else 0):
            found.append(f"{name}: {count} alive")
    return found


def check_end(load: Load, after: State, warm: State) -> None:
    """Record violations at the end of a run."""
    growth = after["rss"] - warm["rss"]
    if growth > MAX_GROWTH:
        load.violate(f"the server has grown by {growth / 2**20:.1f} MiB since the warm-up")
    for record in after["records"]:
        load.violate(f"logged: {record}")
    if after["logged"] > len(after["records"]):
        load.violate(f"{after['logged']} records were logged in total")
    for error in after["errors"]:
        load.violate(f"event loop: {error}")
    # Without these events, a run proves little.
    if not load.checked:
        load.violate("no message was checked")
    for name in TRANSPORTS:
        if not closed_as_slow(after, name):
            load.violate(f"no slow consumer was closed on {name}")
    for name in WEBSOCKETS:
        if f"{name} 1006 Ping timeout" not in after["reasons"]:
            load.violate(f"no ping was missed on {name}")


def create_report(
    load: Load, facts: dict[str, Any], before: State, warm: State, after: State, peak: State
) -> dict[str, Any]:
    """Return the report as a JSON object."""
    clients: dict[str, dict[str, int]] = {}
    for (kind, name), count in sorted(load.counts.items()):
        clients.setdefault(kind, {})[name] = count
    return {
        **facts,
        "seed": load.seed,
        "clients": clients,
        "messages_checked": load.checked,
        "messages": {"read": after["read"], "written": after["written"]},
        "on_open": after["opens"],
        "on_close": after["closes"],
        "closes": after["reasons"],
        "rss": {"before": before["rss"], "warm": warm["rss"], "peak": peak["rss"], "after": after["rss"]},
        "fds": {"before": before["fds"], "peak": peak["fds"], "after": after["fds"]},
        "tasks": {"before": before["tasks"], "peak": peak["tasks"], "after": after["tasks"]},
        "sessions": {"peak": peak["sessions"], "after": after["sessions"]},
        "lag": {"server": round(peak["lag"], 3), "clients": round(load.lag, 3)},
        "logged": after["logged"],
        "violations": dict(load.violations),
    }


def as_text(report: dict[str, Any]) -> str:
    """Return the report as text."""
    lines = [
        f"seed {report['seed']}, {report['seconds']} s of load, {report['server']} server, "
        f"network namespace: {report['namespace']}",
        "",
        "clients",
    ]
    for kind, counts in report["clients"].items():
        lines.append(f"  {kind:8} {sum(counts.values()):7}  {', '.join(f'{name} {n}' for name, n in counts.items())}")
    reasons: Counter[str] = Counter()
    for reason, count in report["closes"].items():
        reasons[reason.partition(" ")[2]] += count
    lines += ["", "closes"]
    lines += [f"  {count:7}  {reason}" for reason, count in reasons.most_common()]
    rss = {name: f"{size / 2**20:.1f}" for name, size in report["rss"].items()}
    lines += [
        "",
        f"messages  {report['messages_checked']} checked, {report['messages']['read']} read and "
        f"{report['messages']['written']} written by the server",
        f"on_open   {report['on_open']} times, on_close {report['on_close']} times",
        f"RSS       {rss['before']} MiB before, {rss['warm']} after the warm-up, {rss['after']} at the end "
        f"(under load up to {rss['peak']})",
    ]
    for name in ("fds", "tasks", "sessions"):
        lines.append(f"{name:9} " + ", ".join(f"{when} {count}" for when, count in report[name].items()))
    lines.append(
        f"lag       up to {report['lag']['server']} s in the server, {report['lag']['clients']} s in the clients"
    )
    lines += ["", f"violations: {sum(report['violations'].values()) or 'none'}"]
    lines += [f"  {count} x {text}" for text, count in report["violations"].items()]
    return "\n".join(lines)
