"""The expected results of the scenarios in `browser/pages/scenarios.js`, for any client."""

from collections.abc import Mapping
from typing import Any

Seen = Mapping[str, dict[str, Any]]

#: The server's goodbyes, the one without a code and reason given, and the client's own.
GOODBYE = [4321, "Bye!", True]
AWKWARD_GOODBYE = [4999, '100% "bye" </script> ☃\n', True]
GO_AWAY = [3000, "Go away!", True]
CLIENT_CLOSED = [1000, "Normal closure", True]

#: Scenarios in which messages go out and come back: how many, of how many UTF-16 code units, and how it ends.
EXCHANGES = {
    "hundred": (101, 993, GOODBYE),
    "large": (2, 100_003, GOODBYE),
    "characters": (257, 65_539, GOODBYE),
    "awkward": (98, 389, AWKWARD_GOODBYE),
}
#: All that every transport goes through.
EVERY_TRANSPORT = [*EXCHANGES, "close", "idle", "leave"]
#: Where the client has the choice: what it takes.
CHOICES = {"choice": "websocket", "without_websocket": "xhr-streaming", "blocked_websocket": "xhr-streaming"}


def chain(name: str, port: int, transport: str | None, scenarios: list[str] | None = None) -> dict[str, Any]:
    """Return a chain of scenarios as `run` takes it; for a transport that is not forced, of those about the choice."""
    if scenarios is None:
        scenarios = list(CHOICES) if transport is None else EVERY_TRANSPORT
    return {"name": name, "base": f"http://127.0.0.1:{port}", "transports": transport, "scenarios": scenarios}


def facts(seen: Seen, name: str) -> dict[str, Any]:
    """Return what was seen in a scenario."""
    assert name in seen, f"{name} did not come to an end"
    assert "error" not in seen[name], seen[name]
    return seen[name]


def check_exchange(seen: Seen, name: str, scenario: str, transport: str) -> None:
    """See that every message came back, in order and intact, and then the server's goodbye."""
    found = facts(seen, f"{name} {scenario}")
    count, units, goodbye = EXCHANGES[scenario]
    assert found["wrong"] == []
    assert (found["sent"], found["received"], found["units"]) == (count, count, units)
    assert found["closed"] == goodbye
    assert (found["opened"], found["transport"]) == (1, transport)


def check_close(seen: Seen, name: str, transport: str) -> None:
    """See that the server's close arrived with its code and reason, after the open."""
    found = facts(seen, f"{name} close")
    assert found["closed"] == GO_AWAY
    assert (found["opened"], found["received"]) == (1, 0)
    assert found["transport"] == transport


def check_idle(seen: Seen, name: str, transport: str) -> None:
    """See that heartbeats came while nothing else did, and that messages still went through afterwards."""
    found = facts(seen, f"{name} idle")
    assert found["heartbeats"] >= 5
    assert found["wrong"] == []
    assert found["received"] == 2
    assert found["closed"] == GOODBYE
    assert (found["opened"], found["transport"]) == (1, transport)


def check_leave(seen: Seen, name: str, transport: str) -> None:
    """See that the server heard, once, that the client had left, and that its codes are those of docs/debugging.md."""
    found = facts(seen, f"{name} leave")
    (code,) = found["server"]["codes"]
    expected = [1000, 1005] if transport == "websocket" else [1002, 1006] if "polling" in transport else [1002]
    assert code in expected
    assert found["closed"] == CLIENT_CLOSED
    assert (found["opened"], found["transport"]) == (1, transport)


def check_choice(seen: Seen, name: str, scenario: str) -> None:
    """See which transport the client took, and that it worked."""
    found = facts(seen, f"{name} {scenario}")
    assert found["transport"] == CHOICES[scenario]
    assert (found["opened"], found["received"]) == (1, 1)
    assert found["closed"] == CLIENT_CLOSED
