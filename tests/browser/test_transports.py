"""sockjs-client in Chromium: every transport, from pages of the server's own origin and of another.

All scenarios run side by side, once, in the pages of one Chromium; the tests below look at what was seen.
"""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from programs import Ended, ServerProgram
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
    facts,
)
from selenium.common.exceptions import TimeoutException

from .conftest import Chromium

pytestmark = pytest.mark.browser

# A page opens at most six HTTP/1.1 connections to one port, and a session takes one to receive and one to send.
OF_ONE_PAGE = [
    ["websocket", "xhr-streaming", "eventsource", "iframe-eventsource"],
    ["htmlfile", "iframe-htmlfile"],
    ["xhr-polling", "iframe-xhr-polling", "jsonp-polling"],
]
TRANSPORTS = [transport for transports in OF_ONE_PAGE for transport in transports]
# sockjs-client uses htmlfile only where the page's origin is the server's.
CASES = [
    (origin, transport)
    for origin in ("same", "cross")
    for transport in TRANSPORTS
    if (origin, transport) != ("cross", "htmlfile")
]
each_case = pytest.mark.parametrize(("origin", "transport"), CASES)

#: Errors of sockjs-client's own, which it makes on some runs, depending on what comes first.
CLIENT_RACES = [
    # A client that leaves cannot call off a script that is loading, and its function is gone when the script comes.
    r"/leave/\S+/jsonp\?c=\S+ .*TypeError: _jp\.\w+ is not a function",
    # In an iframe, the client opens the next stream before it learns that the session is closed, and its object is gone
    # when that stream comes.
    r"/htmlfile\?c=_jp\.\w+: TypeError: Cannot read properties of undefined \(reading '(start|message)'\)",
]

#: Seconds in which all scenarios come to an end, however busy the machine is.
TIMEOUT = 180


class Run:
    """One run of all scenarios.

    Attributes:
        seen: What was seen, by origin, transport and scenario.
        version: The version of sockjs-client.
        complaints: Errors of the pages, as Chromium tells of them.
        server: The server, which has been asked to stop.
    """

    seen: Seen
    version: str
    complaints: list[str]
    server: ServerProgram


@pytest.fixture(scope="module")
def run(chromium: Chromium) -> Iterator[Run]:
    """Go through all scenarios."""
    own_ports = len(OF_ONE_PAGE)
    result = Run()
    result.server = ServerProgram("tests/browser/server.py", "--ports", str(own_ports + 1 + len(TRANSPORTS)))
    try:
        ports = result.server.ports
        page = "http://{}:{}/pages/scenarios.html".format
        windows = []
        for port, transports in zip(ports, OF_ONE_PAGE, strict=False):
            chains = [chain(f"same {transport}", port, transport) for transport in transports]
            if transports is OF_ONE_PAGE[1]:
                chains.append(chain("same any", port, None))
            windows.append(start(chromium, page("127.0.0.1", port), chains))
        # Another host name, and a port of its own for each transport.
        elsewhere, *ports = ports[own_ports:]
        chains = [
            chain(f"cross {transport}", port, transport, ["close"] if transport == "htmlfile" else None)
            for port, transport in zip(ports, TRANSPORTS, strict=True)
        ]
        chains.append(chain("cross any", ports[TRANSPORTS.index("htmlfile")], None))
        windows.append(start(chromium, page("localhost", elsewhere), chains))

        result.version = chromium.driver.execute_script("return SockJS.version")
        result.seen = collect(chromium, windows)
        result.complaints = chromium.complaints()
        chromium.close_windows(windows)
        result.server.ask_to_stop()
        yield result
    finally:
        result.server.stop()


def start(chromium: Chromium, url: str, chains: list[dict[str, Any]]) -> str:
    """Open a page that goes through chains of scenarios."""
    window: str = chromium.open(url)
    chromium.driver.execute_script("start(arguments[0])", chains)
    return window


def collect(chromium: Chromium, windows: list[str]) -> Seen:
    """Wait for the scenarios of all pages; of a page that does not come to its end, take what there is."""
    driver = chromium.driver
    # Selenium waits no longer than two minutes for one answer.
    driver.set_script_timeout(20)
    end = time.monotonic() + TIMEOUT
    seen: dict[str, Any] = {}
    for window in windows:
        driver.switch_to.window(window)
        while True:
            try:
                seen.update(driver.execute_async_script("finished.then(arguments[0])"))
                break
            except TimeoutException:
                if time.monotonic() > end:
                    seen.update(driver.execute_script("return results"))
                    break
    return seen


def unexpected(complaints: list[str], *expected: str) -> list[str]:
    """Return the errors of pages that are neither the client's own nor match one of these patterns."""
    patterns = [*CLIENT_RACES, *expected]
    return [text for text in complaints if not any(re.search(pattern, text) for pattern in patterns)]


@each_case
@pytest.mark.parametrize("scenario", EXCHANGES)
def test_messages_come_back_in_order_and_intact(run: Run, origin: str, transport: str, scenario: str) -> None:
    check_exchange(run.seen, f"{origin} {transport}", scenario, transport)


@each_case
def test_a_close_arrives_with_its_code_and_reason(run: Run, origin: str, transport: str) -> None:
    check_close(run.seen, f"{origin} {transport}", transport)


@each_case
def test_an_idle_connection_is_kept_open_by_heartbeats(run: Run, origin: str, transport: str) -> None:
    check_idle(run.seen, f"{origin} {transport}", transport)


@each_case
def test_the_server_notices_once_that_a_client_has_left(run: Run, origin: str, transport: str) -> None:
    check_leave(run.seen, f"{origin} {transport}", transport)


@pytest.mark.parametrize("origin", ["same", "cross"])
@pytest.mark.parametrize("scenario", CHOICES)
def test_the_client_falls_back_to_the_best_transport(run: Run, origin: str, scenario: str) -> None:
    check_choice(run.seen, f"{origin} any", scenario)


def test_htmlfile_is_for_pages_of_the_same_origin(run: Run) -> None:
    found = facts(run.seen, "cross htmlfile close")
    assert found["closed"] == [2000, "All transports failed", False]
    assert found["opened"] == 0


def test_the_client_is_the_version_that_the_iframe_page_loads_by_default(run: Run) -> None:
    assert run.version == "1.6.1"


def test_no_page_has_an_error(run: Run) -> None:
    # The proxy of the test, which does not let websockets pass.
    blocked = r"WebSocket connection to 'ws://127\.0\.0\.1:\d+/blocked/\S+/websocket' failed"
    assert unexpected(run.complaints, blocked) == []


def test_an_error_in_a_page_or_its_iframe_would_be_noticed(run: Run, chromium: Chromium) -> None:
    server = ServerProgram("tests/browser/server.py")
    try:
        (port,) = server.ports
        window = chromium.open(f"http://localhost:{port}/pages/faulty.html")
        chromium.watch.until(f"fault of http://localhost:{port}")
        chromium.driver.execute_script(
            "document.body.append(Object.assign(document.createElement('iframe'), {src: arguments[0]}))",
            f"http://127.0.0.1:{port}/pages/faulty.html",
        )
        chromium.watch.until(f"fault of http://127.0.0.1:{port}")
        chromium.complaints()
        chromium.close_windows([window])
    finally:
        server.stop()


def test_the_server_exits_without_output(run: Run) -> None:
    assert run.server.stop() == Ended(status=0, output="", errors="")
