"""Reports of a run as JSON and as text."""

from typing import Any

from .coordinator import Outcome, Tick
from .plan import Plan
from .recorder import percentile_ms

_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9, "max": 100.0}
_LABELS = {"p999": "p99.9"}
_MISTAKES = ("lost", "reordered", "duplicated", "corrupt")
#: Maximum number of distinct errors in a report.
_MAX_REASONS = 10


def as_json(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """Return the report as a JSON object."""
    result = outcome.result
    connecting = plan.scenario == "connect"
    messages = 0 if connecting else result.arrived
    report: dict[str, Any] = {
        "url": plan.url,
        "transport": plan.transport,
        "scenario": plan.scenario,
        "sessions": plan.sessions,
        "sessions_open": result.open,
        "in_flight": plan.in_flight,
        "size": plan.size,
        "rate": plan.rate,
        "duration": plan.duration,
        "warmup": plan.warmup,
        "processes": plan.processes,
        "browser_fields": plan.browser_fields,
        "keep_alive": plan.keep_alive,
        "messages": messages,
        "messages_sent": result.sent,
        "messages_per_second": messages / plan.duration,
        "latency_ms": {name: percentile_ms(outcome.latencies, value) for name, value in _PERCENTILES.items()},
        "errors": {name: result.mistakes[name] for name in _MISTAKES} | {"connection": result.errors.total()},
        "reasons": dict(result.errors.most_common(_MAX_REASONS)),
        "server": None,
    }
    if connecting:
        report["sessions_opened"] = result.arrived
        report["sessions_per_second"] = result.arrived / plan.duration
    if outcome.before is not None and outcome.begin is not None and outcome.end is not None:
        cpu = outcome.end.cpu_s - outcome.begin.cpu_s
        server: dict[str, float | None] = {
            "cpu_user_s": round(outcome.end.user_s - outcome.begin.user_s, 3),
            "cpu_system_s": round(outcome.end.system_s - outcome.begin.system_s, 3),
            "messages_per_cpu_second": messages / cpu if cpu and not connecting else None,
            "rss_bytes": outcome.end.rss_bytes,
            "rss_per_session_bytes": (outcome.end.rss_bytes - outcome.before.rss_bytes) / result.open
            if result.open
            else None,
        }
        report["server"] = server
        if connecting:
            report["sessions_per_cpu_second"] = result.arrived / cpu if cpu else None
    return report


def has_no_errors(report: dict[str, Any]) -> bool:
    """Return whether the run had no errors."""
    return not any(report["errors"].values())


def as_text(report: dict[str, Any]) -> str:
    """Return the report as text."""
    lines = [f"{report['scenario']}, {report['transport']}, {report['sessions']} sessions, {report['url']}"]

    def line(name: str, text: str) -> None:
        lines.append(f"  {name:<12}{text}")

    if "sessions_opened" in report:
        line("sessions", f"{report['sessions_opened']:,} opened, {report['sessions_per_second']:,.0f} per second")
    elif report["scenario"] != "idle":
        line("messages", f"{report['messages']:,} received, {report['messages_per_second']:,.0f} per second")
    latencies = {name: value for name, value in report["latency_ms"].items() if value is not None}
    if latencies:
        line(
            "latency", ", ".join(f"{_LABELS.get(name, name)} {value:.3g}" for name, value in latencies.items()) + " ms"
        )
    server = report["server"]
    if server is not None:
        cpu = server["cpu_user_s"] + server["cpu_system_s"]
        share = 100 * cpu / report["duration"]
        line("server CPU", f"{server['cpu_user_s']:.2f} s user, {server['cpu_system_s']:.2f} s system ({share:.0f} %)")
        for name in ("messages", "sessions"):
            rate = server.get(f"{name}_per_cpu_second") or report.get(f"{name}_per_cpu_second")
            if rate:
                line("", f"{rate:,.0f} {name} per CPU second")
        memory = f"{server['rss_bytes'] / 2**20:.1f} MiB"
        if server["rss_per_session_bytes"] is not None:
            memory += f", {server['rss_per_session_bytes'] / 2**10:.1f} KiB per session"
        line("memory", memory)
    errors = [f"{number} {name}" for name, number in report["errors"].items() if number]
    line("errors", ", ".join(errors) or "none")
    for reason, number in report["reasons"].items():
        line("", f"{number} x {reason}")
    return "\n".join(lines)


def progress_line(plan: Plan, tick: Tick) -> str:
    """Return the progress as a line of text."""
    if plan.scenario == "connect":
        text = f"{tick.arrived:,} sessions opened/s"
    else:
        text = f"{tick.sessions:,} sessions, {tick.arrived:,} messages/s"
    low, high = percentile_ms(tick.latencies, 50), percentile_ms(tick.latencies, 99)
    if low is not None and high is not None:
        text += f", p50 {low:.3g} ms, p99 {high:.3g} ms"
    return text
