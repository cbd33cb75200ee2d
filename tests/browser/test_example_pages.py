"""The pages of the examples come back after a restart of the server, and say if sockjs-client did not load."""

import pytest
from free_ports import free_port
from programs import Ended, ServerProgram
from selenium.webdriver.common.by import By

from .conftest import Chromium

pytestmark = pytest.mark.browser


def click(chromium: Chromium, selector: str) -> None:
    """Click an element of the page."""
    chromium.driver.find_element(By.CSS_SELECTOR, selector).click()


@pytest.mark.parametrize(
    ("page", "button", "connected", "lost"),
    [
        ("echo", "#connect", "Connected over websocket after", "Closed: 1001"),
        ("multiplex", None, "Ann says: Welcome!", "Reconnecting"),
        ("token_auth", "#good", "← Hello, guest!", "Closed: 1001"),
    ],
)
def test_a_page_reconnects(chromium: Chromium, page: str, button: str | None, connected: str, lost: str) -> None:
    # Not a port that the system gives away while the program is not running.
    port = free_port()
    program = ServerProgram("examples/demo.py", "--port", str(port))
    try:
        window = chromium.open(f"http://localhost:{port}/")
        click(chromium, f'a[href="/{page}/"]')
        if button:
            click(chromium, button)
        chromium.sees(connected)
        assert program.stop() == Ended(status=0, output="", errors="")
        chromium.sees(lost)
        # The log of the page is cleared, so that the text is that of the next connection.
        chromium.driver.execute_script("for (const log of document.querySelectorAll('[role=log]')) log.innerHTML = '';")
        program = ServerProgram("examples/demo.py", "--port", str(port))
        # A page whose token another process has signed is refused, for good.
        chromium.sees("Closed: 4001 Invalid token" if page == "token_auth" else connected)
        if page == "multiplex":
            chromium.sees("Bob says: Welcome!")
        chromium.close_windows([window])
    finally:
        program.stop()
    # What it has tried while there was no server.
    chromium.complaints()


@pytest.mark.parametrize("page", ["chat", "echo", "multiplex", "token_auth"])
def test_a_page_says_that_sockjs_client_did_not_load(chromium: Chromium, page: str) -> None:
    program = ServerProgram("examples/demo.py", "--port", "0")
    try:
        window = chromium.open("about:blank")
        chromium.driver.execute_cdp_cmd("Network.enable", {})
        chromium.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/sockjs.min.js"]})
        chromium.driver.get(f"http://localhost:{program.ports[0]}/{page}/")
        chromium.sees("sockjs.min.js did not load, so this page cannot connect.")
        assert "Connecting" not in chromium.driver.find_element(By.TAG_NAME, "body").text
        chromium.close_windows([window])
    finally:
        assert program.stop() == Ended(status=0, output="", errors="")
    chromium.complaints()
