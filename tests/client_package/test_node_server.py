"""The client against the reference server, ``sockjs`` for Node.js, on all transports."""

import re
import select
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from client import until, within
from programs import ROOT, TIMEOUT, find_program

from sockjs_tornado.client import TRANSPORTS, ConnectionClosed

from .conftest import Dial
from .test_transports import ODD

each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture(scope="module")
def node_server() -> Iterator[Any]:
    """Start the server."""
    node = find_program("Node.js", "node", "nodejs")
    process = subprocess.Popen(
        [node, "tests/node/sockjs_server.js"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], TIMEOUT)
            said = process.stdout.readline() if ready else "nothing"
            port = re.search(r"http://127.0.0.1:(\d+)", said)
            assert port, f"the server did not start (`npm ci` installs what it needs): {said}"
            yield SimpleNamespace(port=int(port[1]))
        finally:
            process.kill()


@each_transport
async def test_messages_come_back_in_order(node_server: Any, dial: Dial, transport: str) -> None:
    client = await dial(node_server, transport)
    messages = [f"message {number}" for number in range(1000)]
    for message in messages:
        await client.send(message)
    assert [await within(client.recv()) for _ in messages] == messages


@each_transport
async def test_messages_come_back_intact(node_server: Any, dial: Dial, transport: str) -> None:
    client = await dial(node_server, transport)
    for message in ODD:
        await client.send(message)
        assert await within(client.recv()) == message


@each_transport
async def test_a_big_message_comes_back(node_server: Any, dial: Dial, transport: str) -> None:
    client = await dial(node_server, transport)
    message = "long \x00 é" * 100_000
    await client.send(message)
    assert await within(client.recv()) == message


@each_transport
async def test_a_close_arrives_with_its_code_and_reason(node_server: Any, dial: Dial, transport: str) -> None:
    client = await dial(node_server, transport)
    await client.send("close")
    with pytest.raises(ConnectionClosed) as caught:
        await within(client.recv())
    assert (caught.value.code, caught.value.reason) == (4001, "as you wish")


@each_transport
async def test_a_server_that_closes_at_once_is_no_error(node_server: Any, dial: Dial, transport: str) -> None:
    client = await dial(node_server, transport, prefix="/close")
    assert [message async for message in client] == []
    assert (client.close_code, client.close_reason) == (3000, "Go away!")


@each_transport
async def test_heartbeats_are_received(node_server: Any, dial: Dial, transport: str) -> None:
    client = await dial(node_server, transport, heartbeat_timeout=2)
    session: Any = client._runner.session
    first = session._last_activity
    await until(lambda: session._last_activity > first)
    assert not client.is_closed


async def test_fallback_with_a_server_without_websockets(node_server: Any, dial: Dial) -> None:
    client = await dial(node_server, prefix="/no_websocket")
    assert client.transport == "xhr_streaming"
    await client.send("x")
    assert await within(client.recv()) == "x"
