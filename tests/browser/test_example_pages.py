"""The pages of the examples come back after a restart of the server, and say if sockjs-client did not load."""

from collections.abc import Iterator

import pytest
from cluster.redis_server import RedisServer
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
        chromium.sees(connected)
        if page == "multiplex":
            chromium.sees("Bob says: Welcome!")
        chromium.close_windows([window])
    finally:
        program.stop()
    # What it has tried while there was no server.
    chromium.complaints()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the demo, with all examples."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as redis:
        program = ServerProgram("examples/demo.py", "--port", "0", "--redis", redis.url)
        yield f"http://localhost:{program.ports[0]}"
        assert program.stop() == Ended(status=0, output="", errors="")


@pytest.mark.parametrize("page", ["chat", "echo", "multiplex", "token_auth", "recovery", "dashboard"])
def test_a_page_says_that_sockjs_client_did_not_load(chromium: Chromium, demo: str, page: str) -> None:
    window = chromium.open(demo)
    assert chromium.driver.find_elements(By.CSS_SELECTOR, f'a[href="/{page}/"]')
    chromium.driver.execute_cdp_cmd("Network.enable", {})
    chromium.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/sockjs.min.js"]})
    chromium.driver.get(f"{demo}/{page}/")
    chromium.sees("did not load, so this page cannot connect.")
    assert "Connecting" not in chromium.driver.find_element(By.TAG_NAME, "body").text
    chromium.close_windows([window])
    chromium.complaints()
