"""Several processes on one port: with SO_REUSEPORT, and forked after everything was made."""

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from client import TEXT, Client, WebSocket, asking, frame, messages_of, new_session, sending, unframe
from free_ports import reserved_port

from .conftest import Remember
from .proxies import server

BASE = "/sockjs/echo"
PREFORKED = [("start", "asyncio"), ("fork_processes", "asyncio"), ("fork_processes", "uvloop")]


async def poll(client: Client, base: str) -> str:
    """Poll on a connection, and return the frame."""
    client.write(asking("xhr", base))
    response = await client.response()
    assert response.status == 200
    return unframe("xhr", response.body)


async def send(client: Client, base: str, *messages: str) -> int:
    """Send messages on a connection, and return the answer's status."""
    client.write(sending("xhr", base, json.dumps(messages)))
    return (await client.response()).status


async def polled_facts(client: Client, base: str) -> dict[str, Any]:
    """Open a session on a connection, and ask what serves it."""
    assert await poll(client, base) == "o"
    assert await send(client, base, "where?") == 204
    (answer,) = messages_of(await poll(client, base))
    facts: dict[str, Any] = json.loads(answer)
    return facts


async def check_both(clients: dict[int, Client]) -> None:
    """See that polling and a websocket work on connections to two processes, and stay in them.

    Args:
        clients: A connection to each process, by its id.
    """
    assert len(clients) == 2
    base = f"{BASE}/000/{new_session()}"
    for pid, client in clients.items():
        # Each has a session of its own under the same name.
        assert (await polled_facts(client, base))["pid"] == pid
    for number in range(50):
        for client in clients.values():
            assert await send(client, base, str(number)) == 204
            assert messages_of(await poll(client, base)) == [str(number)]
    one, two = clients.values()
    base = f"{BASE}/000/{new_session()}"
    assert await poll(one, base) == "o"
    assert await send(two, base, "who is that?") == 404
    assert await send(one, base, "it is me") == 204
    for pid, client in clients.items():
        # Here, too, the connection stays where it is.
        websocket = await WebSocket.open(client, f"{BASE}/000/{new_session()}/websocket")
        assert await websocket.text() == "o"
        websocket.write(frame(TEXT, '"where?"'))
        (answer,) = messages_of(await websocket.text())
        assert json.loads(answer)["pid"] == pid
        for number in range(50):
            websocket.write(frame(TEXT, f'"{number}"'))
            assert messages_of(await websocket.text()) == [str(number)]


async def pid_of(client: Client) -> int:
    """Ask a connection's process for its id."""
    return int((await client.ask("GET", "/pid")).body)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_two_servers_share_a_port(remember: Remember, loop: str) -> None:
    with server("--reuse-port", "--loop", loop) as one:
        (port,) = one.ports
        connect = remember(partial(Client.connect, port))
        with server("--reuse-port", "--port", str(port), "--loop", loop):
            clients: dict[int, Client] = {}
            for _ in range(500):
                # The kernel throws dice.
                client = await connect()
                clients.setdefault(await pid_of(client), client)
                if len(clients) == 2:
                    break
            await check_both(clients)
            await remember.leave()


@pytest.fixture(params=PREFORKED, ids="-".join)
def forked_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server that was made, with its router, before it forked."""
    how, loop = request.param
    with (
        reserved_port() as port,
        server(
            *(how, "--loop", loop, "--port", str(port)),
            script="tests/deployment/serve_forked.py",
            complaints=["has no cluster, but its process is one of several that Tornado has forked"],
        ),
    ):
        yield port


async def test_a_router_made_before_the_fork_works_in_each_process(forked_port: int, remember: Remember) -> None:
    connect = remember(partial(Client.connect, forked_port))
    first = await connect()
    pid = await pid_of(first)
    # While one process is stopped, the other one has to take the connection.
    os.kill(pid, signal.SIGSTOP)
    try:
        second = await connect()
        clients = {pid: first, await pid_of(second): second}
    finally:
        os.kill(pid, signal.SIGCONT)
    await check_both(clients)
