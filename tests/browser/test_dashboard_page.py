"""The page of the dashboard: it updates, disconnects sessions, fits on a phone, and reconnects after a restart."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment.proxies import Node, proxy
from free_ports import free_port
from programs import ROOT, TIMEOUT, Ended, ServerProgram
from selenium.webdriver.common.alert import Alert
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.ui import WebDriverWait
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from .conftest import Chromium

pytestmark = pytest.mark.browser

SILENT = Ended(status=0, output="", errors="")

# A canvas that nothing was drawn on is all transparent black.
IS_DRAWN = """
const canvas = arguments[0];
const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
return data.some(Boolean);
"""


class Restartable:
    """The example, as it is run by hand, on one port all the time."""

    def __init__(self) -> None:
        # Not a port that the system gives away while the program is not running.
        self.port = free_port()
        self.start()

    @property
    def page(self) -> str:
        return f"http://localhost:{self.port}/dashboard/"

    def start(self) -> None:
        self.program = ServerProgram("examples/dashboard/server.py", "--port", str(self.port))


def enter(chromium: Chromium, password: str) -> None:
    """Enter a password."""
    chromium.sees("This dashboard requires a password")
    field = chromium.driver.find_element(By.ID, "password")
    field.send_keys(password)
    field.submit()


def press_disconnect(chromium: Chromium) -> Alert:
    """Press the first button, and return the question that follows."""
    # In a script, since the page may replace the button at any moment.
    chromium.driver.execute_script("setTimeout(() => document.querySelector('#open button').click())")
    return WebDriverWait(chromium.driver, TIMEOUT).until(expected_conditions.alert_is_present())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Restartable]:
    if not (ROOT / "sockjs_tornado/static/uPlot.iife.min.js").is_file():
        pytest.fail("uPlot is missing: run `npm ci` and `scripts/browser-files`.")
    monkeypatch.delenv("DASHBOARD_PASSWORD", raising=False)
    server = Restartable()
    yield server
    server.program.stop()


def test_the_numbers_move_and_survive_a_restart(chromium: Chromium, server: Restartable) -> None:
    window = chromium.open(server.page)
    chromium.sees("Live over websocket")
    chromium.sees("0 total")
    with connect(f"ws://127.0.0.1:{server.port}/echo/websocket", proxy=None) as echo:
        chromium.sees("rawwebsocket 1")
        for _ in range(21):
            echo.send("hello")
            assert echo.recv() == "hello"
        chromium.sees("21 total")
    chromium.sees("1000 closed by the client")
    charts = chromium.driver.find_elements(By.TAG_NAME, "canvas")
    assert [chromium.driver.execute_script(IS_DRAWN, chart) for chart in charts] == [True] * 6
    assert chromium.complaints() == []

    # The page may have come back, and got 503, before the server was gone.
    assert server.program.stop().status == 0
    chromium.sees("Connection lost. Last update:")
    server.start()
    chromium.sees("Live over websocket")
    # The counters have begun anew, and the charts have not.
    chromium.sees("0 total")
    chromium.sees("rawwebsocket 0")
    assert "NaN" not in chromium.driver.find_element(By.TAG_NAME, "main").text
    chromium.close_windows([window])
    # The page has tried to come back before the server was there.
    chromium.complaints()
    assert server.program.stop() == SILENT


def test_one_of_several_routers_can_be_chosen(chromium: Chromium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DASHBOARD_PASSWORD", raising=False)
    program = ServerProgram("examples/demo.py", "--port", "0")
    try:
        window = chromium.open(f"http://localhost:{program.ports[0]}/")
        chromium.driver.find_element(By.PARTIAL_LINK_TEXT, "Dashboard").click()
        with connect(f"ws://127.0.0.1:{program.ports[0]}/echo/sockjs/websocket", proxy=None) as echo:
            echo.send("hello")
            chromium.sees("1 total")
            choice = Select(chromium.driver.find_element(By.ID, "router"))
            assert [option.text for option in choice.options] == ["all", "chat", "echo", "multiplex", "token_auth"]
            choice.select_by_visible_text("chat")
            chromium.sees("0 total")
            choice.select_by_visible_text("echo")
            chromium.sees("1 total")
        assert chromium.complaints() == []
        chromium.close_windows([window])
    finally:
        ended = program.stop()
    assert ended == SILENT


def test_behind_a_proxy_that_gathers_answers_it_says_what_is_wrong(
    chromium: Chromium, server: Restartable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a password, nobody behind a proxy has access.
    server.program.stop()
    monkeypatch.setenv("DASHBOARD_PASSWORD", "open sesame")
    server.start()
    changes = [
        ("location /sockjs/ {", "location / {"),
        # HTTP/1.0 keeps no connections, and Tornado says nothing of it.
        ("keepalive 64;", ""),
        ("proxy_buffering off;", "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"),
        ("proxy_http_version 1.1;", "proxy_http_version 1.0;"),
    ]
    nodes = [Node(name, server.port, f"127.0.0.1:{server.port}") for name in ("node8081", "node8082")]
    # Of larger files.
    complaints = ["buffered to a temporary file"]
    with proxy("nginx", "path", nodes, tmp_path, changes=changes, complaints=complaints) as port:
        window = chromium.open(f"http://localhost:{port}/dashboard/")
        enter(chromium, "open sesame")
        chromium.sees("Live over xhr-polling")
        chromium.sees("Neither websockets nor streaming work for this page")
        chromium.sees(f"python -m sockjs_tornado info http://localhost:{port}/dashboard/sockjs")
        with connect(f"ws://127.0.0.1:{server.port}/echo/websocket", proxy=None) as echo:
            echo.send("hello")
            chromium.sees("1 total")
        chromium.close_windows([window])
    # What it has tried in vain.
    chromium.complaints()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_on_a_phone(chromium: Chromium, server: Restartable, scheme: str) -> None:
    window = chromium.open(server.page)
    chromium.show_on_phone(scheme)
    chromium.sees("Live over websocket")
    chromium.sees("0 total")
    chromium.check_fits_phone()
    assert chromium.complaints() == []
    chromium.close_windows([window])


def test_the_password_is_asked_for(chromium: Chromium, server: Restartable, monkeypatch: pytest.MonkeyPatch) -> None:
    server.program.stop()
    monkeypatch.setenv("DASHBOARD_PASSWORD", "open sesame")
    server.start()
    window = chromium.open(server.page)
    chromium.sees("This dashboard requires a password")
    enter(chromium, "open wheat")
    chromium.sees("Wrong password")
    chromium.driver.find_element(By.ID, "password").clear()
    enter(chromium, "open sesame")
    chromium.sees("Live over websocket")
    assert chromium.complaints() == []
    chromium.close_windows([window])


def test_a_session_is_found_and_disconnected(chromium: Chromium, server: Restartable) -> None:
    with (
        connect(f"ws://127.0.0.1:{server.port}/echo/websocket", proxy=None) as echo,
        connect(f"ws://127.0.0.1:{server.port}/echo/000/a/websocket", proxy=None) as other,
    ):
        assert other.recv() == "o"
        window = chromium.open(server.page)
        chromium.sees("2 in total")
        chromium.sees("rawwebsocket from 127.0.0.1")
        field = chromium.driver.find_element(By.ID, "term")
        field.send_keys("rawwebsocket")
        field.submit()
        chromium.sees("1 shown, 2 in total")
        question = press_disconnect(chromium)
        assert question.text.startswith("Disconnect session 1 of echo")
        question.dismiss()
        press_disconnect(chromium).accept()
        with pytest.raises(ConnectionClosed) as caught:
            echo.recv(timeout=TIMEOUT)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (3000, "Closed by the operator")
        chromium.sees("Session 1 of echo was disconnected.")
        chromium.sees("0 shown, 1 in total")
        other.send('["hello"]')
        assert other.recv(timeout=TIMEOUT) == 'a["hello"]'
        assert chromium.complaints() == []
        chromium.close_windows([window])
