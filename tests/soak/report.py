"""What a run has come to: what must be as before, what must have happened, and how it is told."""

from collections import Counter
from typing import Any

from .load import Load
from .state import State
from .visitor import TRANSPORTS, WEBSOCKETS

#: By how much the process may have grown between the end of the warm-up and the end, in bytes.
GROWTH = 20 * 1024 * 1024
#: What is exactly as before once all clients have left.
SAME = ("fds", "tasks", "deadlines", "rooms")
#: What there is none of then.
NONE = ("sessions", "connections")
#: Of what lives then, what belongs to the question's own request.
OWN = ("IOStream", "HTTP1Connection")


def left(before: State, after: State) -> list[str]:
    """Return what has not come back to what it was."""
    found = [f"{name}: {after[name]} instead of {before[name]}" for name in SAME if after[name] != before[name]]
    found += [f"{name}: {after[name]} are left" for name in NONE if after[name]]
    if after["opens"] != after["closes"]:
        found.append(f"on_open ran {after['opens']} times, on_close {after['closes']} times")
    found += [f"open: {after['open']}"] * bool(after["open"])
    for name, count in after["alive"].items():
        if count > (before["alive"].get(name, 0) if name in OWN else 0):
            found.append(f"{name}: {count} are alive")
    return found


def look(load: Load, after: State, warm: State) -> None:
    """Write down what is wrong at the end of a run."""
    growth = after["rss"] - warm["rss"]
    if growth > GROWTH:
        load.violate(f"the server has grown by {growth / 2**20:.1f} MiB since the warm-up")
    for record in after["records"]:
        load.violate(f"logged: {record}")
    if after["logged"] > len(after["records"]):
        load.violate(f"{after['logged']} records were logged in all")
    for error in after["errors"]:
        load.violate(f"event loop: {error}")
    # A run that has not seen these proves little.
    if not load.checked:
        load.violate("no message was checked")
    for name in TRANSPORTS:
        if not any(reason.startswith(f"{name} 3008 ") for reason in after["reasons"]):
            load.violate(f"no slow consumer was found on {name}")
    for name in WEBSOCKETS:
        if f"{name} 1006 Ping timeout" not in after["reasons"]:
            load.violate(f"no ping was missed on {name}")


def result(load: Load, facts: dict[str, Any], before: State, warm: State, after: State, peak: State) -> dict[str, Any]:
    """Return all that is worth telling, as JSON takes it."""
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


def readable(told: dict[str, Any]) -> str:
    """Return the same as text."""
    lines = [f"seed {told['seed']}, {told['seconds']} s of load, network namespace: {told['namespace']}", "", "clients"]
    for kind, counts in told["clients"].items():
        lines.append(f"  {kind:8} {sum(counts.values()):7}  {', '.join(f'{name} {n}' for name, n in counts.items())}")
    reasons: Counter[str] = Counter()
    for reason, count in told["closes"].items():
        reasons[reason.partition(" ")[2]] += count
    lines += ["", "closes"]
    lines += [f"  {count:7}  {reason}" for reason, count in reasons.most_common()]
    rss = {name: f"{size / 2**20:.1f}" for name, size in told["rss"].items()}
    lines += [
        "",
        f"messages  {told['messages_checked']} checked, {told['messages']['read']} read and "
        f"{told['messages']['written']} written by the server",
        f"on_open   {told['on_open']} times, on_close {told['on_close']} times",
        f"RSS       {rss['before']} MiB before, {rss['warm']} after the warm-up, {rss['after']} after all "
        f"(under load up to {rss['peak']})",
    ]
    for name in ("fds", "tasks", "sessions"):
        lines.append(f"{name:9} " + ", ".join(f"{when} {count}" for when, count in told[name].items()))
    lines.append(f"lag       up to {told['lag']['server']} s in the server, {told['lag']['clients']} s in the clients")
    lines += ["", f"violations: {sum(told['violations'].values()) or 'none'}"]
    lines += [f"  {count} x {text}" for text, count in told["violations"].items()]
    return "\n".join(lines)
