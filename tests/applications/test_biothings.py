"""The hub of biothings on Tornado 6.5.3, which it requires: its page follows the log and the database."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from client import Connect, Join, Peer
from free_ports import free_port
from programs import ROOT, ServerProgram

each_transport = pytest.mark.parametrize("transport", ["websocket", "xhr_streaming", "xhr"])


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Run the hub."""
    folder = tmp_path_factory.mktemp("biothings")
    packages = [ROOT / ".compatibility/tornado-6.5.3", ROOT / ".applications/others"]
    program = ServerProgram("tests/applications/run_biothings.py", str(free_port()), str(folder), packages=packages)
    yield SimpleNamespace(port=program.ports[0])
    status, _, log = program.stop()
    assert status == 0
    # Only those of test_an_invalid_message_closes_the_connection.
    assert log.count("Traceback") == log.count("malformed json message: nonsense")


async def opened(join: Join, hub: Any, transport: str) -> Peer:
    peer = join(hub, transport, prefix="/ws")
    assert await peer.frame() == "o"
    await peer.send(json.dumps({"op": "ping"}))
    assert await until_operation(peer, "pong") == {"op": "pong"}
    return peer


async def until_operation(peer: Peer, operation: str) -> Any:
    """Return the next message of an operation. Texts, and what else is logged, may come before."""
    while True:
        message = await peer.message()
        if isinstance(message, dict) and message.get("op") == operation:
            return message


async def test_the_hub_runs_on_the_release_that_it_requires(hub: Any, connect: Connect) -> None:
    assert (await (await connect(hub)).ask("GET", "/not-there"))["Server"] == "TornadoServer/6.5.3"


@each_transport
async def test_pages_get_what_another_thread_logs(hub: Any, connect: Connect, join: Join, transport: str) -> None:
    pages = [await opened(join, hub, transport) for _ in range(2)]
    await (await connect(hub)).ask("GET", "/log")
    for page in pages:
        while (record := await until_operation(page, "log"))["logger"] != "job":
            pass
        assert (record["level"], record["msg"]) == ("WARNING", "from a thread")


@each_transport
async def test_pages_get_changes_of_the_database(hub: Any, connect: Connect, join: Join, transport: str) -> None:
    page = await opened(join, hub, transport)
    await (await connect(hub)).ask("GET", "/change")
    assert await until_operation(page, "update") == {"_id": "src", "obj": "source", "op": "update"}


@each_transport
async def test_an_invalid_message_closes_the_connection(hub: Any, join: Join, transport: str) -> None:
    page = await opened(join, hub, transport)
    await page.send("nonsense")
    frames = [await page.frame()]
    while frames[-1][0] != "c":
        frames.append(await page.frame())
    assert '{"error":"malformed json message: nonsense"}' in frames[0]
    assert frames[-1].startswith("c[1011,")
