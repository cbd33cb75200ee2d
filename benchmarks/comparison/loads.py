"""The loads: what each asks of a server, and the figure that is read from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["LOADS", "Figure", "Load"]

#: Files that a server has open beside those of its sessions.
SPARE_FILES = 100


@dataclass(frozen=True)
class Figure:
    """One number of a load's result.

    Args:
        unit: What it counts.
        read: Takes it from what ``loadtest.py`` has written.
        more_is_better: Whether a greater one is.
    """

    unit: str
    read: Callable[[Mapping[str, Any]], float]
    more_is_better: bool = True


def _sessions_per_cpu_second(result: Mapping[str, Any]) -> float:
    # Beside the other figures of the server, or of the sessions.
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
    """What is asked of a server.

    Args:
        name: Its name on the command line.
        text: Its name in the table, with a place for the number of sessions where that matters.
        scenario: As ``loadtest.py`` calls it.
        transport: The same; bare websockets stand in for ``websocket`` where a server has no SockJS.
        sessions: How many there are; for ``connect`` how many are being opened at once.
        figure: What is read from the result.
        in_flight: Messages that each session, in a broadcast the sender, has under way.
        size: Bytes of a message.
        ours_alone: Whether it shows how this server scales, and no other is asked.
        quick: Whether it is part of ``--quick``.
        least_duration: Seconds that it takes at the least to see anything, unless the command line says otherwise.
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

    @property
    def title(self) -> str:
        """Its name in the table."""
        return self.text.format(sessions=self.sessions)

    def within(self, files: int) -> "Load":
        """Return the same for a server that may have so many files open: with fewer sessions if need be."""
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


#: In the order of the table.
LOADS = (
    Load("websocket-echo", "websocket echo, 1 in flight", "echo", "websocket", 100, MESSAGES, quick=True),
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
    Load("xhr-streaming-echo", "xhr_streaming echo", "echo", "xhr_streaming", 100, MESSAGES, quick=True),
    Load("xhr-echo", "xhr polling echo", "echo", "xhr", 100, MESSAGES, quick=True),
    _scaling(1000),
    _scaling(5000),
    _scaling(20000),
    # Once around, so that every session has had its heartbeat.
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
