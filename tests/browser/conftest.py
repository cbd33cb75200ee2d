"""Fixtures: a Chromium that modules of tests share, and checks for errors in its pages."""

import contextlib
import http.client
import itertools
import json
import queue
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from free_ports import free_port
from programs import TIMEOUT, check_sockjs_client, find_program
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--no-proxy-server",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Certificates of tests are signed by nobody.
    "--ignore-certificate-errors",
    # Several pages work at once, and none of them is a background page.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
]

# Waits for the page to change, and calls back once it shows the text.
SHOWS = """
const [text, done] = arguments;
const observer = new MutationObserver(look);
function look() {
  if (!document.body.innerText.includes(text)) return;
  observer.disconnect();
  done();
}
observer.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
look();
"""


FITS = "const root = document.documentElement; return [innerWidth, root.scrollWidth <= root.clientWidth]"


class Watch:
    """Hears of every error in every page and iframe, by the DevTools protocol: WebDriver leaves out iframes that have a
    process of their own.

    Args:
        connection: To Chromium's DevTools; it ends with it.
    """

    END = "end of the complaints"

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        threading.Thread(target=self._listen).start()
        self._attach({})

    def next(self) -> str:
        """Return the next complaint, as soon as there is one."""
        return self._heard.get(timeout=TIMEOUT)

    def until(self, text: str) -> None:
        """Wait for a complaint that contains this text, and forget those before it."""
        while text not in self.next():
            pass

    def _attach(self, target: dict[str, str]) -> None:
        """Watch a page or an iframe; to begin with, the browser itself."""
        follow = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": True}
        self._send("Target.setAutoAttach", target, follow)
        if target:
            self._send("Runtime.enable", target)
            self._send("Log.enable", target)

    def _send(self, method: str, target: dict[str, str], params: dict[str, Any] | None = None) -> None:
        self._connection.send(
            json.dumps({"id": next(self._numbers), "method": method, "params": params or {}, **target})
        )

    def _listen(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            for text in self._connection:
                message = json.loads(text)
                self._take(message.get("method"), message.get("params"))

    def _take(self, method: str, params: Any) -> None:
        match method, params:
            case "Target.attachedToTarget", {"sessionId": session}:
                self._attach({"sessionId": session})
            case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                what = details.get("exception", {}).get("description", details["text"])
                self._heard.put(f"{details.get('url')}: {what}")
            case "Runtime.consoleAPICalled", {"type": "error" | "warning" | "assert", "args": args}:
                self._heard.put(" ".join(str(arg.get("value", arg.get("description"))) for arg in args))
            case "Log.entryAdded", {"entry": {"level": "error"} as entry}:
                self._heard.put(f"{entry.get('url')}: {entry['text']}")


class Chromium:
    """A running Chromium.

    Args:
        driver: It.
        watch: What goes wrong in its pages.

    Attributes:
        driver: The same.
        watch: The same.
    """

    def __init__(self, driver: webdriver.Chrome, watch: Watch) -> None:
        self.driver = driver
        self.watch = watch

    def open(self, url: str) -> str:
        """Open a page in a window of its own, and return the window."""
        self.driver.switch_to.new_window("window")
        self.driver.get(url)
        return self.driver.current_window_handle

    def sees(self, text: str) -> None:
        """Wait until the page of the current window shows this text."""
        self.driver.set_script_timeout(TIMEOUT)
        self.driver.execute_async_script(SHOWS, text)

    def show_on_phone(self, scheme: str) -> None:
        """Let the current window have the width of a phone, and a light or dark colour scheme."""
        narrow = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def check_fits_phone(self) -> None:
        """Check that the page is no wider than the window, beside a scroll bar."""
        assert self.driver.execute_script(FITS) == [400, True]

    def close_windows(self, windows: list[str]) -> None:
        """Close windows and turn to one that is left."""
        for window in windows:
            self.driver.switch_to.window(window)
            self.driver.close()
        self.driver.switch_to.window(self.driver.window_handles[0])

    def complaints(self) -> list[str]:
        """Return what went wrong in pages and iframes since the last time."""
        # What happened before this has been heard of when this has.
        self.driver.execute_script("console.error(arguments[0])", Watch.END)
        return list(iter(self.watch.next, Watch.END))


@pytest.fixture(scope="module")
def chromium(browser: Chromium) -> Iterator[Chromium]:
    """Return Chromium; after the module's tests, close their windows, and forget cookies and errors."""
    yield browser
    browser.close_windows(browser.driver.window_handles[1:])
    browser.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    browser.complaints()


@pytest.fixture(scope="package")
def browser() -> Iterator[Chromium]:
    """Start Chromium with a fresh profile."""
    check_sockjs_client()
    options = webdriver.ChromeOptions()
    options.binary_location = find_program("Chromium", "chromium", "chromium-browser", "google-chrome")
    service = Service(find_program("Chromium's driver", "chromedriver"), port=free_port())
    with (
        tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("no_proxy", "localhost,127.0.0.1")
        for flag in [*FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=service)
        try:
            with connect(
                devtools(driver), proxy=None, compression=None, max_size=None, ping_interval=None
            ) as connection:
                yield Chromium(driver, Watch(connection))
        finally:
            driver.quit()


def devtools(driver: webdriver.Chrome) -> str:
    """Return the address of the browser's DevTools."""
    front = http.client.HTTPConnection(driver.capabilities["goog:chromeOptions"]["debuggerAddress"], timeout=TIMEOUT)
    front.request("GET", "/json/version")
    url: str = json.load(front.getresponse())["webSocketDebuggerUrl"]
    front.close()
    return url
