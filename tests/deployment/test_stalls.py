"""A server whose event loop stalled: data that arrived meanwhile is read before a client counts as late."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
from client import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Client,
    Connect,
    WebSocket,
    asking,
    frame,
    messages_of,
    new_session,
    sending,
    unframe,
    within,
)

from .conftest import Ended, Remember
from .proxies import server

BASE = "/sockjs/echo"

#: The delays of the server: shorter than its event loop stands still, but far longer than the clients take on a busy
#: machine.
SETTINGS = {
    "disconnect_delay": 1.5,
    "websocket_ping_interval": 1.5,
    "callback_timeout": 1.5,
    "max_inbound_rate": [10, 15],
}
STALL = "stand still: 2"

#: How many clients there are of each kind. They share the time of one process.
COUNT = 4


class Poller:
    """A client that polls without a pause, and answers nothing else.

    Args:
        transport: ``xhr`` or ``jsonp``.
        connect: Makes a connection.
        keeps: Whether one connection carries all polls, or each has a new one.
    """

    def __init__(self, transport: str, connect: Connect, keeps: bool) -> None:
        self.transport = transport
        self.base = f"{BASE}/000/{new_session()}"
        self.frames: asyncio.Queue[str] = asyncio.Queue()
        self._connect = connect
        self._keeps = keeps

    async def run(self) -> None:
        """Poll until cancelled."""
        client: Client | None = None
        while True:
            if client is None or not self._keeps:
                client = await self._connect()
            client.write(asking(self.transport, self.base))
            response = await client.response()
            assert response.status == 200, response
            if not self._keeps:
                client.writer.close()
            self.frames.put_nowait(unframe(self.transport, response.body))


class Listener:
    """A client on a websocket, which answers pings."""

    def __init__(self, connect: Connect) -> None:
        self.frames: asyncio.Queue[str] = asyncio.Queue()
        self.websocket: WebSocket | None = None
        self._connect = connect

    async def run(self) -> None:
        """Listen until cancelled."""
        self.websocket = await WebSocket.open(await self._connect(), f"{BASE}/000/{new_session()}/websocket")
        while True:
            opcode, payload, _, _ = await self.websocket.frame()
            if opcode == PING:
                self.websocket.write(frame(PONG, payload))
            elif opcode == CLOSE:
                self.frames.put_nowait(f"closed: {payload!r}")
            else:
                self.frames.put_nowait(payload.decode())

    def send(self, *messages: str) -> None:
        """Send messages, each in a frame of its own."""
        assert self.websocket is not None
        self.websocket.write(b"".join(frame(TEXT, json.dumps(message)) for message in messages))


@pytest.fixture(params=["asyncio", "uvloop"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server with short delays."""
    with server("--loop", request.param, "--settings", json.dumps(SETTINGS)) as program:
        yield program.ports[0]


@pytest.fixture
async def clients(port: int, remember: Remember) -> AsyncIterator[list[Any]]:
    """Pollers of each kind and clients on websockets, who all have their open frame."""
    connect = remember(partial(Client.connect, port))
    clients: list[Any] = [
        Poller(transport, connect, keeps)
        for transport in ("xhr", "jsonp")
        for keeps in (False, True)
        for _ in range(COUNT)
    ]
    clients += [Listener(connect) for _ in range(COUNT)]
    running = [asyncio.create_task(client.run()) for client in clients]
    for client in clients:
        assert await within(client.frames.get()) == "o"
    yield clients
    for task in running:
        task.cancel()
    results = await asyncio.gather(*running, return_exceptions=True)
    await remember.leave()
    assert [result for result in results if not isinstance(result, asyncio.CancelledError)] == []


async def test_a_loop_that_stood_still_ends_no_session(clients: list[Any]) -> None:
    speaker = clients[-1]
    # During the grace period that follows, the loop stands still once more.
    for _ in range(2):
        speaker.send(STALL)
        for client in clients:
            assert messages_of(await within(client.frames.get())) == [STALL]
        speaker.send("everybody: hello")
        for client in clients:
            assert messages_of(await within(client.frames.get())) == ["everybody: hello"]
    speaker.send("counts?")
    (counts,) = messages_of(await within(speaker.frames.get()))
    assert json.loads(counts) == [len(clients), 0]


async def test_messages_that_arrived_during_a_stall_are_within_the_rate(clients: list[Any]) -> None:
    speaker, *others = clients[-COUNT:]
    speaker.send(STALL)
    # Polls are answered when it begins.
    assert messages_of(await within(clients[0].frames.get())) == [STALL]
    for other in others:
        # More than the burst, and less than that and ten for each second of the stall.
        other.send(*map(str, range(20)))
    for other in others:
        heard: list[Any] = []
        while len(heard) < 21:
            heard += messages_of(await within(other.frames.get()))
        assert heard == [STALL, *map(str, range(20))]


async def test_a_client_that_left_expires_after_the_grace_period(
    port: int, clients: list[Any], remember: Remember, ended: Ended
) -> None:
    connect = remember(partial(Client.connect, port))
    client, sender = await connect(), await connect()
    base, name = f"{BASE}/000/{new_session()}", new_session()
    # The second poll follows at once, so that the session waits for the name, however late it is.
    client.write(asking("xhr", base) * 2)
    assert unframe("xhr", (await client.response()).body) == "o"
    sender.write(sending("xhr", base, json.dumps([f"my name is {name}"])))
    assert messages_of(unframe("xhr", (await client.response()).body)) == [f"my name is {name}"]
    clients[-1].send(STALL)
    assert await within(ended(connect, name)) == [[1006, "Session timed out"]]
    for other in clients:
        assert messages_of(await within(other.frames.get())) == [STALL]
