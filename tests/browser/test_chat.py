"""The chat example: two people in two windows, each over another transport."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.redis_server import RedisServer
from programs import Ended, ServerProgram
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from .conftest import Chromium

pytestmark = pytest.mark.browser


class Person:
    """Somebody at a window of the chat."""

    def __init__(self, chromium: Chromium, address: str, name: str, transport: str) -> None:
        self.chromium = chromium
        self.driver = chromium.driver
        self.window = chromium.open(address)
        # As a keyboard does: `send_keys` of an element appends to what is selected.
        ActionChains(self.driver).send_keys(name).perform()
        Select(self.driver.find_element(By.ID, "transport")).select_by_visible_text(transport)
        self.type("name", "")

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
    bob.sees("You are Bob.")  # the name that the other window has stored is replaced
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


def test_two_people_talk_by_way_of_two_nodes(chromium: Chromium, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis:
        programs = [ServerProgram("examples/chat/server.py", "--port", "0", "--redis", redis.url) for _ in range(2)]
        try:
            one, two = (f"http://localhost:{program.ports[0]}/chat/" for program in programs)
            ann = Person(chromium, one, "Ann", "websocket")
            ann.sees("Connected over websocket")
            bob = Person(chromium, two, "Ann", "xhr-streaming")
            bob.sees("“Ann” is taken, so you are “Ann 2”.")
            bob.sees("Online (2)")
            ann.sees("Ann 2 came in.")
            ann.sees("Online (2)")
            bob.says("Hello from the other one!")
            ann.sees("Ann 2 Hello from the other one!")
            ann.says("Hello there!")
            bob.sees("Ann Hello there!")
            bob.click("leave")
            ann.sees("Ann 2 left.")
            ann.sees("Online (1)")
            assert chromium.complaints() == []
            chromium.close_windows([ann.window, bob.window])
        finally:
            ends = [program.stop() for program in programs]
        assert ends == [Ended(status=0, output="", errors="")] * 2
