"""The loads of the comparison, and the figure that is read from each result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["LOADS", "Figure", "Load"]

#: Open files of a server in addition to one per session.
SPARE_FILES = 100


@dataclass(frozen=True)
class Figure:
    """A number in a load's result.

    Args:
        unit: Its unit.
        read: Returns it from the result of ``loadtest.py``.
        more_is_better: Whether a higher number is better.
    """

    unit: str
    read: Callable[[Mapping[str, Any]], float]
    more_is_better: bool = True


def _sessions_per_cpu_second(result: Mapping[str, Any]) -> float:
    # In the server's part or at the top level of the result.
    return float(result["server"].get("sessions_per_cpu_second") or result["sessions_per_cpu_second"])


MESSAGES = Figure(
    "messages per second of server CPU", lambda result: float(result["server"]["messages_per_cpu_second"])
)
SESSIONS = Figure("sessions per second of server CPU", _sessions_per_cpu_second)
MEMORY = Figure(
    "KiB of memory per session", lambda result: result["server"]["rss_per_session_bytes"] / 1024, more_is_better=False
)
DELIVERY = Figure(
    "µs of server CPU per delivery",
    lambda result: 1e6 / result["server"]["messages_per_cpu_second"],
    more_is_better=False,
)
IDLING = Figure(
    "% of a core",
    lambda result: 100 * (result["server"]["cpu_user_s"] + result["server"]["cpu_system_s"]) / result["duration"],
    more_is_better=False,
)


@dataclass(frozen=True)
class Load:
    """A load.

    Args:
        name: Name on the command line.
        text: Title in the table, which may contain the number of sessions.
        scenario: Scenario of ``loadtest.py``.
        transport: Transport of ``loadtest.py``. Servers without SockJS get ``rawwebsocket`` instead of ``websocket``.
        sessions: Number of sessions; for ``connect``, number of sessions opened concurrently.
        figure: The figure to read from the result.
        in_flight: Number of messages in flight, per session, or of the sender of a broadcast.
        size: Size of a message in bytes.
        ours_alone: Whether it is only about the scaling of this server.
        quick: Whether it is part of ``--quick``.
        least_duration: Minimum duration in seconds, unless given on the command line.
        browser_fields: Whether requests have the header fields of a browser.
        keep_alive: Whether requests share connections; if not, each request has its own.
        tls: Whether the server serves over TLS.
        haproxy: Whether clients connect to HAProxy in front of the server. HAProxy's CPU time is not included.
    """

    name: str
    text: str
    scenario: str
    transport: str
    sessions: int
    figure: Figure
    in_flight: int = 1
    size: int = 64
    ours_alone: bool = False
    quick: bool = False
    least_duration: float = 0
    browser_fields: bool = False
    keep_alive: bool = True
    tls: bool = False
    haproxy: bool = False

    @property
    def title(self) -> str:
        """Title in the table."""
        return self.text.format(sessions=self.sessions)

    def within(self, files: int) -> "Load":
        """Return the load with fewer sessions if it exceeds the limit on open files."""
        most = files - SPARE_FILES
        if self.sessions <= most:
            return self
        return replace(self, sessions=max(1, most // 1000 * 1000 or most))


def _scaling(sessions: int) -> Load:
    return Load(
        f"scaling-broadcast-{sessions}",
        "broadcast to {sessions:,} websockets",
        "broadcast",
        "websocket",
        sessions,
        DELIVERY,
        ours_alone=True,
    )


_WEBSOCKET = Load("websocket-echo", "websocket echo, 1 in flight", "echo", "websocket", 100, MESSAGES, quick=True)
_STREAMING = Load("xhr-streaming-echo", "xhr_streaming echo", "echo", "xhr_streaming", 100, MESSAGES, quick=True)
_POLLING = Load("xhr-echo", "xhr polling echo", "echo", "xhr", 100, MESSAGES, quick=True)


def _variant(load: Load, name: str, text: str, **changes: bool) -> Load:
    return replace(load, name=f"{load.name}-{name}", text=f"{load.text}, {text}", quick=False, **changes)


#: All loads, in the order of the table.
LOADS = (
    _WEBSOCKET,
    Load("websocket-echo-16", "websocket echo, 16 in flight", "echo", "websocket", 100, MESSAGES, 16, quick=True),
    Load("broadcast", "broadcast to {sessions:,} websockets", "broadcast", "websocket", 1000, MESSAGES, quick=True),
    Load("broadcast-8", "8 broadcasts at once to {sessions:,} websockets", "broadcast", "websocket", 1000, MESSAGES, 8),
    Load(
        "broadcast-xhr-streaming",
        "broadcast to {sessions:,} xhr_streaming sessions",
        "broadcast",
        "xhr_streaming",
        1000,
        MESSAGES,
    ),
    Load("idle", "memory of {sessions:,} idle websocket sessions", "idle", "websocket", 5000, MEMORY),
    Load("connect", "websocket sessions opened and closed", "connect", "websocket", 32, SESSIONS),
    _STREAMING,
    _POLLING,
    _variant(_STREAMING, "browser", "header fields of a browser", browser_fields=True),
    _variant(_POLLING, "browser", "header fields of a browser", browser_fields=True),
    _variant(_POLLING, "close", "one connection per request", keep_alive=False),
    *(_variant(load, "tls", "over TLS", tls=True) for load in (_WEBSOCKET, _STREAMING, _POLLING)),
    *(_variant(load, "haproxy", "behind HAProxy", haproxy=True) for load in (_WEBSOCKET, _STREAMING, _POLLING)),
    _scaling(1000),
    _scaling(5000),
    _scaling(20000),
    # One heartbeat interval.
    Load(
        "scaling-idle",
        "{sessions:,} idle websockets",
        "idle",
        "websocket",
        20000,
        IDLING,
        ours_alone=True,
        least_duration=25,
    ),
)
