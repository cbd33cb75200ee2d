"""The page of the recovery example: it recovers missed messages, reports gaps, and fits on a phone."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.redis_server import RedisServer
from programs import Ended, ServerProgram
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from sockjs_tornado.cluster import Publisher

from .conftest import Chromium

pytestmark = pytest.mark.browser

COLOURS = "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"

#: Messages that Redis keeps.
HISTORY = 5


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def publisher(redis_server: RedisServer) -> Iterator[Publisher]:
    with Publisher(redis_server.url) as publisher:
        yield publisher


@pytest.fixture
def page(redis_server: RedisServer) -> Iterator[str]:
    """The address of the example's page, where nothing ticks but what a test publishes."""
    program = ServerProgram("examples/recovery/server.py", "--port", "0", "--redis", redis_server.url, "--every", "0")
    yield f"http://localhost:{program.ports[0]}/recovery/"
    assert program.stop() == Ended(status=0, output="", errors="")


# Follows the room, ends that, and follows it again from the first message on, over one connection.
SEVERAL_ROOMS = """
const done = arguments[0], seen = [];
const { RecoverySocket } = await import("/recovery/sockjs/recovery.js");
const socket = new RecoverySocket("/recovery/sockjs", { message: (data) => note(`other ${data.type}`) });
const first = socket.follow("ticks", {
  message(data, offset, source) {
    note(`first ${data.tick} ${source}`);
    if (data.tick !== 2) return;
    first.unfollow();
    socket.send("something else");
    const position = { offset: 1, epoch: first.position.epoch };
    const second = socket.follow("ticks", {
      position,
      message: (data, offset, source) => note(`second ${data.tick} ${source} ${second.position.offset}`),
    });
    try {
      socket.follow("ticks");
    } catch (error) {
      note("already");
    }
  },
});
socket.follow("secret", { refused: () => note("refused"), message: () => note("secret") });
function note(text) {
  seen.push(text);
  if (seen.length < 6) return;
  socket.close();
  done(seen);
}
"""

# Handlers that unfollow their room, close the socket or connect again, and those of a state that close it. A class of
# the page stands for the connections; returns what each of them has sent, and messages that arrive nevertheless.
HANDLERS_THAT_CLOSE = """
const { RecoverySocket } = await import("/recovery/sockjs/recovery.js");
const seen = [];
class SockJS {
  readyState = 1;
  sent = [];
  constructor() { seen.push(this.sent); SockJS.last = this; }
  send(text) { this.sent.push(JSON.parse(text).type); }
  close() { this.readyState = 3; }
  receive(data) { this.onmessage({ data: { room: "ticks", ...data } }); }
}
const actions = [(socket, room) => room.unfollow(), (socket) => socket.close(), (socket) => socket.connect()];
for (const act of actions) {
  const socket = new RecoverySocket("/", { SockJS });
  const connection = SockJS.last;
  const room = socket.follow("ticks", { message: (data) => data === "first" ? act(socket, room) : seen.push(data) });
  // A message is missing between this one and the response.
  connection.receive({ type: "message", offset: 5, epoch: "e", continues: "e", data: "later" });
  const messages = [[1, "first"], [2, "second"]];
  connection.receive({ type: "caught up", id: 1, messages, lost: false, offset: 2, epoch: "e" });
  socket.close();
}
for (const closing of ["connecting", "waiting"]) {
  let socket = null;
  socket = new RecoverySocket("/", { SockJS, state: (state) => state === closing && socket?.close() });
  socket.reconnect("test", 0);
  if (closing === "connecting") socket.connect();
}
await new Promise((resolve) => setTimeout(resolve, 10));
return seen;
"""


def tick(publisher: Publisher, *numbers: int) -> None:
    """Publish ticks."""
    for number in numbers:
        publisher.publish("ticks", {"tick": number}, history=HISTORY)


def lines(chromium: Chromium) -> list[str]:
    """Return what the page lists."""
    found = chromium.driver.find_elements(By.CSS_SELECTOR, "#log p")
    return [re.sub(r"\s+", " ", line.text) for line in found]


def cut(chromium: Chromium) -> None:
    """Press the button. The page is away for longer than the test runs, or until :func:`go_online`."""
    Select(chromium.driver.find_element(By.ID, "pause")).select_by_visible_text("2 min")
    chromium.driver.find_element(By.ID, "cut").click()


def go_online(chromium: Chromium) -> None:
    """Tell the page that the network is back, so that it reconnects at once."""
    chromium.driver.execute_script("dispatchEvent(new Event('online'))")


def test_missed_messages_are_recovered_or_reported_as_lost(chromium: Chromium, page: str, publisher: Publisher) -> None:
    tick(publisher, 1, 2)
    window = chromium.open(page)
    chromium.sees("Connected over websocket")
    tick(publisher, 3)
    chromium.sees("Tick 3")
    assert lines(chromium) == ["#1 Tick 1 history", "#2 Tick 2 history", "#3 Tick 3"]

    cut(chromium)
    chromium.sees("Not connected (cut), reconnecting in 120 s")
    tick(publisher, 4, 5)
    go_online(chromium)
    chromium.sees("Tick 5")
    tick(publisher, 6)
    chromium.sees("Tick 6")
    missed = ["The connection was cut here.", "#4 Tick 4 recovered", "#5 Tick 5 recovered", "#6 Tick 6"]
    assert lines(chromium)[3:] == missed
    chromium.sees("Recovered\n2")
    chromium.sees("Losses\n0")

    cut(chromium)
    tick(publisher, *range(7, 14))
    go_online(chromium)
    chromium.sees("Tick 13")
    kept = [f"#{number} Tick {number} recovered" for number in range(9, 14)]
    lost = "Some ticks are lost: the server no longer has them."
    assert lines(chromium)[7:] == ["The connection was cut here.", lost, *kept]
    chromium.sees("Losses\n1")
    assert chromium.complaints() == []
    chromium.close_windows([window])


def test_a_page_follows_several_rooms_over_one_connection(chromium: Chromium, page: str, publisher: Publisher) -> None:
    tick(publisher, 1, 2)
    window = chromium.open(page)
    chromium.sees("Connected over websocket")
    seen = chromium.driver.execute_async_script(f"(async () => {{{SEVERAL_ROOMS}}}).apply(null, arguments)")
    seen.remove("refused")
    assert seen == ["first 1 history", "first 2 history", "already", "other error", "second 2 recovered 2"]
    seen = chromium.driver.execute_script(f"return (async () => {{{HANDLERS_THAT_CLOSE}}})()")
    # The connection that was opened again receives what it has missed.
    assert seen == [["follow", "unfollow"], ["follow"], ["follow"], [], "second", [], []]
    assert chromium.complaints() == []
    chromium.close_windows([window])


def test_when_redis_restarts_empty_the_page_reports_it_and_continues(
    chromium: Chromium, redis_server: RedisServer, publisher: Publisher
) -> None:
    program = ServerProgram("examples/recovery/server.py", "--port", "0", "--redis", redis_server.url, "--every", "0")
    try:
        tick(publisher, 1)
        window = chromium.open(f"http://localhost:{program.ports[0]}/recovery/")
        chromium.sees("Tick 1")
        redis_server.kill()
        redis_server.start()
        chromium.sees("Losses\n1")
        publisher.close()
        tick(publisher, 2)
        chromium.sees("Tick 2")
        assert lines(chromium)[2:] == ["#1 Tick 2"]
        assert chromium.complaints() == []
        chromium.close_windows([window])
    finally:
        ended = program.stop()
    assert (ended.status, ended.output) == (0, "")
    assert "reconnecting" in ended.errors


def test_when_redis_restarts_with_its_data_the_page_continues_without_a_request(
    chromium: Chromium, redis_server: RedisServer, publisher: Publisher
) -> None:
    program = ServerProgram("examples/recovery/server.py", "--port", "0", "--redis", redis_server.url, "--every", "0")
    try:
        tick(publisher, 1)
        window = chromium.open(f"http://localhost:{program.ports[0]}/recovery/")
        chromium.sees("Connected over websocket")
        tick(publisher, 2)
        chromium.sees("Tick 2")
        redis_server.command("SAVE")
        redis_server.kill()
        redis_server.start()
        publisher.close()
        tick(publisher, 3, 4)
        chromium.sees("Tick 4")
        # What it requests is "recovered".
        assert lines(chromium) == ["#1 Tick 1 history", "#2 Tick 2", "#3 Tick 3", "#4 Tick 4"]
        chromium.sees("Losses\n0")
        assert chromium.complaints() == []
        chromium.close_windows([window])
    finally:
        ended = program.stop()
    assert (ended.status, ended.output) == (0, "")
    assert "reconnecting" in ended.errors


def test_it_fits_on_a_phone_in_light_and_dark_colours(chromium: Chromium, page: str, publisher: Publisher) -> None:
    tick(publisher, 1)
    window = chromium.open(page)
    chromium.sees("Connected over websocket")
    chromium.sees("Tick 1")
    for scheme in ("light", "dark"):
        chromium.show_on_phone(scheme)
        chromium.check_fits_phone()
        ink, paper = chromium.driver.execute_script(COLOURS)
        assert (brightness(ink) > brightness(paper)) == (scheme == "dark")
    assert chromium.complaints() == []
    chromium.close_windows([window])


def brightness(colour: str) -> int:
    """Return how bright a colour of CSS is, more or less."""
    return sum(map(int, re.findall(r"\d+", colour)[:3]))
