"""sockjs-client in Node.js: the transports that it has there, all scenarios side by side in one process."""

import json
import subprocess
from collections.abc import Iterator

import pytest
from programs import ROOT, Ended, ServerProgram, check_sockjs_client, find_program
from scenarios import (
    CHOICES,
    EXCHANGES,
    Seen,
    chain,
    check_choice,
    check_close,
    check_exchange,
    check_idle,
    check_leave,
)

TRANSPORTS = ["websocket", "xhr-streaming", "eventsource", "xhr-polling"]
each_transport = pytest.mark.parametrize("transport", TRANSPORTS)

#: Seconds in which all scenarios come to an end, however busy the machine is.
TIMEOUT = 180


class Run:
    """One run of all scenarios.

    Attributes:
        seen: What was seen, by transport and scenario.
        errors: What Node.js wrote on standard error.
        server: The server, which has been asked to stop.
    """

    seen: Seen
    errors: str
    server: ServerProgram


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Go through all scenarios."""
    check_sockjs_client()
    node = find_program("Node.js", "node", "nodejs")
    result = Run()
    result.server = ServerProgram("tests/browser/server.py")
    try:
        (port,) = result.server.ports
        chains = [chain(transport, port, transport) for transport in TRANSPORTS]
        chains.append(chain("any", port, None))
        ended = subprocess.run(
            [node, "tests/node/client.js"],
            cwd=ROOT,
            input=json.dumps(chains),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert ended.returncode == 0, ended.stderr
        result.seen = json.loads(ended.stdout)
        result.errors = ended.stderr
        result.server.ask_to_stop()
        yield result
    finally:
        result.server.stop()


@each_transport
@pytest.mark.parametrize("scenario", EXCHANGES)
def test_messages_come_back_in_order_and_intact(run: Run, transport: str, scenario: str) -> None:
    check_exchange(run.seen, transport, scenario, transport)


@each_transport
def test_a_close_arrives_with_its_code_and_reason(run: Run, transport: str) -> None:
    check_close(run.seen, transport, transport)


@each_transport
def test_an_idle_connection_is_kept_open_by_heartbeats(run: Run, transport: str) -> None:
    check_idle(run.seen, transport, transport)


@each_transport
def test_the_server_notices_once_that_a_client_has_left(run: Run, transport: str) -> None:
    check_leave(run.seen, transport, transport)


@pytest.mark.parametrize("scenario", CHOICES)
def test_the_client_falls_back_to_the_best_transport(run: Run, scenario: str) -> None:
    check_choice(run.seen, "any", scenario)


def test_node_has_no_error(run: Run) -> None:
    assert run.errors == ""


def test_the_server_exits_without_output(run: Run) -> None:
    assert run.server.stop() == Ended(status=0, output="", errors="")
