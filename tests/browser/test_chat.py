"""The chat example: two people in two windows, each over another transport."""

from collections.abc import Iterator

import pytest
from conftest import Chromium
from programs import Ended, ServerProgram
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

pytestmark = pytest.mark.browser


class Person:
    """Somebody at a window of the chat."""

    def __init__(self, chromium: Chromium, address: str, name: str, transport: str) -> None:
        self.chromium = chromium
        self.driver = chromium.driver
        self.window = chromium.open(address)
        Select(self.driver.find_element(By.ID, "transport")).select_by_visible_text(transport)
        self.type("name", name)

    def type(self, field: str, text: str) -> None:
        """Fill in a field and send its form."""
        self.driver.switch_to.window(self.window)
        element = self.driver.find_element(By.ID, field)
        element.send_keys(text)
        element.submit()

    def click(self, button: str) -> None:
        """Press a button."""
        self.driver.switch_to.window(self.window)
        self.driver.find_element(By.ID, button).click()

    def sees(self, text: str) -> None:
        """Wait until the page shows this text."""
        self.driver.switch_to.window(self.window)
        self.chromium.sees(text)

    def says(self, text: str) -> None:
        """Say it."""
        self.type("text", text)


@pytest.fixture
def server() -> Iterator[ServerProgram]:
    """The example, as it is run by hand."""
    program = ServerProgram("examples/chat/server.py", "--port", "0")
    yield program
    program.stop()


@pytest.mark.parametrize(
    ("first", "second"),
    [("websocket", "xhr-polling"), ("iframe-eventsource", "xhr-streaming")],
    ids=["websocket", "iframe-eventsource"],
)
def test_two_people_talk_over_two_transports(
    chromium: Chromium, server: ServerProgram, first: str, second: str
) -> None:
    address = f"http://localhost:{server.ports[0]}/chat/"
    ann = Person(chromium, address, "Ann", first)
    ann.sees(f"Connected over {first}")
    bob = Person(chromium, address, "Bob", second)
    bob.sees(f"Connected over {second}")
    ann.sees("Bob came in.")
    ann.sees("Online (2)")

    bob.says("Hello <b>Ann</b> & all, 100% ☃ </script>")
    ann.sees("Bob Hello <b>Ann</b> & all, 100% ☃ </script>")
    bob.sees("Bob Hello <b>Ann</b> & all, 100% ☃ </script>")
    ann.says("Hello Bob!")
    bob.sees("Ann Hello Bob!")

    bob.click("leave")
    ann.sees("Bob left.")
    ann.sees("Online (1)")
    assert chromium.complaints() == []

    ended = server.stop()
    ann.sees("Connection lost (1001 The server is going away).")
    chromium.close_windows([ann.window, bob.window])
    # Ann's page may have tried to come back.
    chromium.complaints()
    assert ended == Ended(status=0, output="", errors="")
