"""OctoPrint 1.11, which sends to its page from many threads.

``make test`` installs it in a directory of its own, where nothing else finds it.
"""

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from client import Connect, Join, Peer
from free_ports import free_port
from programs import ROOT, ServerProgram
from tornado.httpclient import AsyncHTTPClient

PACKAGES = ROOT / ".applications/octoprint"
PLUGINS = ROOT / "tests/applications/octoprint_plugins"

#: An API key of the user "ann".
KEY = "0123456789ABCDEF0123456789ABCDEF"

# Plug-ins that would use the network, or slow down the start.
DISABLED = ["announcements", "backup", "discovery", "errortracking", "health_check", "pluginmanager"]
DISABLED += ["softwareupdate", "tracking"]

CONFIGURATION = {
    "server": {"firstRun": False, "onlineCheck": {"enabled": False}, "pluginBlacklist": {"enabled": False}},
    "folder": {"plugins": str(PLUGINS)},
    "plugins": {"_disabled": DISABLED, "virtual_printer": {"enabled": True}},
}
USER = {"password": "", "active": True, "groups": ["admins", "users"], "apikey": KEY}


#: What OctoPrint logs, apart from a socket that it leaves to the garbage collector, and what other origins get.
FAULT = re.compile(
    r" - (?:WARNING|ERROR|CRITICAL) - "
    r"(?!.*/octoprint/util/net\.py:\d+: ResourceWarning|40[34] GET /sockjs/i|Rejected a page of 'http://other\.example)"
)


@pytest.fixture(scope="module")
def octoprint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Run OctoPrint; afterwards, check that it has logged no fault."""
    folder = tmp_path_factory.mktemp("octoprint")
    # In YAML, of which JSON is a part.
    (folder / "config.yaml").write_text(json.dumps(CONFIGURATION))
    (folder / "users.yaml").write_text(json.dumps({"_version": 2, "ann": USER}))
    program = ServerProgram("tests/applications/run_octoprint.py", str(free_port()), str(folder), packages=[PACKAGES])
    yield SimpleNamespace(port=program.ports[0])
    status, output, log = program.stop()
    assert (status, output) == (0, "All changes applied\n")
    assert [line for line in log.splitlines() if FAULT.search(line) or "Traceback" in line] == []


async def call(octoprint: Any, path: str, command: dict[str, Any]) -> Any:
    """Call OctoPrint's REST interface."""
    headers = {"X-Api-Key": KEY, "Content-Type": "application/json"}
    # Not with the tests' own client: OctoPrint's responses with status 204 have a length.
    response = await AsyncHTTPClient().fetch(
        f"http://127.0.0.1:{octoprint.port}{path}", method="POST", headers=headers, body=json.dumps(command)
    )
    return json.loads(response.body or "null")


async def log_in(octoprint: Any, peer: Peer) -> None:
    """Open a session, and log in over HTTP and in the session, as OctoPrint's page does."""
    assert await peer.frame() == "o"
    assert (await peer.message())["connected"]["version"].startswith("1.11.")
    user = await call(octoprint, "/api/login", {"passive": True})
    await peer.send(json.dumps({"auth": f"{user['name']}:{user['session']}"}))


async def event(peer: Peer, kind: str) -> Any:
    """Return the payload of the next event of a kind."""
    while True:
        match await peer.message():
            case {"event": {"type": str(found), "payload": payload}} if found == kind:
                return payload


@pytest.mark.parametrize("transport", ["websocket", "xhr_streaming", "xhr"])
async def test_no_message_of_a_plug_in_is_lost(octoprint: Any, join: Join, transport: str) -> None:
    peer = join(octoprint, transport, prefix="/sockjs")
    await log_in(octoprint, peer)
    # The plug-in sends from four threads when a client has logged in.
    numbers: list[list[int]] = [[], [], [], []]
    while sum(map(len, numbers)) < 1000:
        match await peer.message():
            case {"plugin": {"plugin": "numbers_sender", "data": data}}:
                assert data["bytes"] == "text"
                numbers[data["author"]].append(data["number"])
    assert numbers == [list(range(250))] * 4


@pytest.mark.parametrize("transport", ["websocket", "xhr_streaming", "xhr"])
async def test_a_page_follows_the_printer(octoprint: Any, join: Join, transport: str) -> None:
    peer = join(octoprint, transport, prefix="/sockjs")
    await log_in(octoprint, peer)
    await call(octoprint, "/api/connection", {"command": "connect", "port": "VIRTUAL"})
    assert (await event(peer, "Connected"))["port"] == "VIRTUAL"
    # From then on, the printer reports its temperatures.
    while True:
        match await peer.message():
            case {"current": {"state": {"text": "Operational"}, "temps": [{"tool0": tool}, *_]}}:
                break
    assert tool.keys() == {"actual", "target"}
    await call(octoprint, "/api/connection", {"command": "disconnect"})
    await event(peer, "Disconnected")


async def test_a_page_learns_that_another_one_was_closed(octoprint: Any, join: Join) -> None:
    pages = [join(octoprint, "websocket", prefix="/sockjs") for _ in range(2)]
    for page in pages:
        await log_in(octoprint, page)
    pages[1].vanish()
    assert await event(pages[0], "ClientClosed") == {"remoteAddress": "127.0.0.1"}


async def test_only_pages_of_the_same_origin_may_connect(octoprint: Any, connect: Connect) -> None:
    client = await connect(octoprint)
    origins = ["http://localhost", "http://other.example"]
    responses = [await client.ask("GET", "/sockjs/info", f"Origin: {origin}") for origin in origins]
    assert [response.status for response in responses] == [200, 403]
    # The page of an iframe connects for pages of every origin.
    assert (await client.ask("GET", "/sockjs/iframe.html")).status == 404
