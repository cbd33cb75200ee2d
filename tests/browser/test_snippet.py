"""The page of the README talks to the server of the README."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import ROOT, ServerProgram
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from .conftest import Chromium

pytestmark = pytest.mark.browser

README = (ROOT / "README.md").read_text()


def block(language: str) -> str:
    """Return the README's first code block in a language."""
    found, *_ = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProgram]:
    """The server, on a free port."""
    script = tmp_path / "server.py"
    script.write_text(block("python"))
    program = ServerProgram("tests/run_script.py", str(script))
    yield program
    program.stop()


@pytest.fixture
def page(server: ServerProgram, tmp_path: Path) -> str:
    """The URL of the page's file."""
    page, addresses = re.subn("localhost:8080", f"127.0.0.1:{server.ports[0]}", block("html"))
    assert addresses == 2  # of the script, and of the service
    (tmp_path / "chat.html").write_text(page)
    return (tmp_path / "chat.html").as_uri()


def test_two_windows_talk(chromium: Chromium, page: str, server: ServerProgram) -> None:
    first = chromium.open(page)
    chromium.sees("Connected")
    second = chromium.open(page)
    chromium.sees("Connected")
    chromium.driver.switch_to.active_element.send_keys("Hello, <b>room</b>!", Keys.ENTER)
    for window in (first, second):
        chromium.driver.switch_to.window(window)
        chromium.sees("Hello, <b>room</b>!")
    assert chromium.driver.find_element(By.TAG_NAME, "input").get_attribute("value") == ""
    server.stop()
    chromium.sees("Disconnected: 1012 Service restart")
    assert chromium.complaints() == []
    chromium.close_windows([first, second])


def test_the_page_says_that_sockjs_client_did_not_load(chromium: Chromium, page: str, server: ServerProgram) -> None:
    server.stop()
    window = chromium.open(page)
    alert = chromium.driver.switch_to.alert
    assert alert.text == "sockjs.min.js did not load"
    alert.accept()
    chromium.close_windows([window])
    chromium.complaints()
