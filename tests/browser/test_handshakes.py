"""The headers of Chromium's websocket handshake, and the responses that it accepts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import TIMEOUT, ServerProgram

from .conftest import Chromium

pytestmark = pytest.mark.browser

# Opens a websocket, and tells what came of it: the subprotocol and the first message, or the close code.
TALK = """
const [url, protocols, done] = arguments;
const socket = new WebSocket(url, protocols);
socket.onopen = () => socket.send("hello");
socket.onmessage = (event) => done([socket.protocol, event.data]);
socket.onclose = (event) => done([event.code]);
"""

# Asks for the open frame by a websocket and by a poll, and tells what came of them.
OPEN = """
const [url, done] = arguments;
const id = Math.random().toString(36).slice(2);
const socket = new WebSocket(`ws${url.slice(4)}/000/${id}/websocket`);
const opened = new Promise((settle) => {
  socket.onmessage = (event) => settle(event.data);
  socket.onclose = (event) => settle(event.code);
});
const polled = fetch(`${url}/000/${id}/xhr`, { method: "POST", credentials: "include" }).then(
  (response) => response.text(),
  () => "refused",
);
Promise.all([opened, polled]).then(done);
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProgram]:
    """Serve what the tests below talk to."""
    program = ServerProgram("tests/browser/server.py")
    yield program
    program.stop()


@pytest.fixture
def window(chromium: Chromium, server: ServerProgram) -> Iterator[str]:
    """Open a page of the server."""
    chromium.driver.set_script_timeout(TIMEOUT)
    window = chromium.open(f"http://127.0.0.1:{server.ports[0]}/pages/scenarios.html")
    yield window
    chromium.complaints()
    chromium.close_windows([window])


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize("path", ["/stomp/websocket", "/stomp/000/abc/websocket"], ids=["raw", "sockjs"])
@pytest.mark.parametrize(
    ("offered", "selected"),
    [(["v12.stomp"], "v12.stomp"), (["v10.stomp", "v11.stomp", "v12.stomp"], "v11.stomp"), ("v12.stomp", "v12.stomp")],
    ids=str,
)
def test_a_subprotocol_is_agreed_on(
    chromium: Chromium, server: ServerProgram, path: str, offered: Any, selected: str
) -> None:
    url = f"ws://127.0.0.1:{server.ports[0]}{path}"
    first = "hello" if path == "/stomp/websocket" else "o"
    assert chromium.driver.execute_async_script(TALK, url, offered) == [selected, first]
    assert chromium.complaints() == []


@pytest.mark.usefixtures("window")
def test_a_browser_ends_a_websocket_for_which_no_subprotocol_is_selected(
    chromium: Chromium, server: ServerProgram
) -> None:
    url = f"ws://127.0.0.1:{server.ports[0]}/stomp/websocket"
    assert chromium.driver.execute_async_script(TALK, url, ["v10.stomp"]) == [1006]
    assert chromium.driver.execute_async_script(TALK, url, []) == ["", "hello"]


@pytest.mark.parametrize("kind", ["sandbox", "file"])
def test_pages_without_an_origin_come_in_if_they_are_listed(
    chromium: Chromium, server: ServerProgram, tmp_path: Path, kind: str
) -> None:
    url = f"http://127.0.0.1:{server.ports[0]}"
    (tmp_path / "page.html").write_text("<!doctype html>")
    chromium.driver.set_script_timeout(TIMEOUT)
    window = chromium.open((tmp_path / "page.html").as_uri() if kind == "file" else f"{url}/pages/scenarios.html")
    if kind == "sandbox":
        chromium.driver.execute_script(
            'document.body.innerHTML = \'<iframe sandbox="allow-scripts" srcdoc="<!doctype html>"></iframe>\''
        )
        chromium.driver.switch_to.frame(0)
    assert chromium.driver.execute_async_script(OPEN, f"{url}/opaque") == ["o", "o\n"]
    assert chromium.driver.execute_async_script(OPEN, f"{url}/listed") == [1006, "refused"]
    chromium.driver.switch_to.default_content()
    chromium.complaints()
    chromium.close_windows([window])
