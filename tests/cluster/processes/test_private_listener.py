"""Requests to the private listener that are not from other nodes."""

import contextlib
import operator
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import NamedTuple

import pytest
from client import Client, request
from deployment.conftest import Visit
from deployment.visitor import Visitor, where
from free_ports import reserved_port

from sockjs_tornado.cluster.secret import Secrets
from sockjs_tornado.cluster.signing import RelayedClient, Signer

from .clients import Guest, guest
from .nodes import SECRET, Circle, NodeProcess, nodes
from .wires import Wire, wire

RELAY_HEADER = "X-Sockjs-Relay"


class Tapped(NamedTuple):
    """Two nodes, and a tap on the connections between them.

    Attributes:
        owner: The node that receives requests.
        other: The node that relays requests.
        port: The port of the owner's private listener.
        client: A client that has a session on the owner, and uses it through the other node.
        captured: A relayed request that was answered.
    """

    owner: NodeProcess
    other: NodeProcess
    port: int
    client: Guest
    captured: bytes

    @property
    def field(self) -> str:
        """The header field of the captured request."""
        head = self.captured.partition(b"\r\n\r\n")[0].decode()
        (field,) = [line for line in head.split("\r\n") if line.lower().startswith(RELAY_HEADER.lower())]
        return field

    async def tell(self, data: bytes) -> int:
        """Send a request to the private listener, and return the status of the response."""
        client = await Client.connect(self.port)
        try:
            client.write(data)
            return (await client.response()).status
        finally:
            client.writer.transport.abort()

    async def refused(self, reason: str) -> int:
        """Return the number of requests that the owner has rejected for a reason."""
        return int((await self.owner.report())["stats"].get(f"relay_{reason}", 0))


@pytest.fixture
async def tapped(circle: Circle, visit: Visit) -> AsyncIterator[Tapped]:
    """Return two nodes with a tap between them."""
    async with taps(circle) as (owner, other, port, line):
        client = await guest(visit, "xhr", owner, other)
        await client.relayed.send("captured")
        (captured,) = [bytes(record) for record in line.recorded if b"captured" in record]
        assert await client.owner.message() == "captured"
        # The connection had no other requests.
        yield Tapped(owner, other, port, client, captured[captured.rindex(b"POST ") :])


@contextlib.asynccontextmanager
async def taps(circle: Circle) -> AsyncIterator[tuple[NodeProcess, NodeProcess, int, Wire]]:
    """Run a node that other nodes reach through a wire, and another node."""
    with reserved_port() as port:
        async with wire(port) as line:
            told = ["--advertise", f"http://127.0.0.1:{line.port}", "--listen", f"127.0.0.1:{port}"]
            async with nodes(circle, 2, first=told) as (owner, other):
                yield owner, other, port, line


async def test_forged_replayed_and_stale_requests_are_rejected_and_counted(tapped: Tapped) -> None:
    body = tapped.captured.partition(b"\r\n\r\n")[2]
    base = tapped.client.relayed.base
    target = f"{base}/xhr_send"
    assert await tapped.tell(tapped.captured) == 403
    assert await tapped.refused("replayed") == 1
    name, _, value = tapped.field.partition(": ")
    forged = [
        request("POST", target, body=body),
        request("POST", target, f"{name}: ", body=body),
        request("POST", target, f"{name}: {value.replace('127.0.0.1', '127.0.0.9')}", body=body),
        request("POST", target, tapped.field, body=body.replace(b"captured", b"replaced")),
        request("POST", target.replace("echo", "rooms"), tapped.field, body=body),
        request("GET", target, tapped.field),
        request("POST", f"{target}?a", tapped.field, body=body),
    ]
    for data in forged:
        assert await tapped.tell(data) == 403
    assert await tapped.refused("forged") == len(forged)
    # With a valid signature, at another time.
    said = value.split(" ")
    for seconds in (-3600, -60, 60):
        signer = Signer(Secrets(SECRET.encode()), said[2], now=partial(operator.add, time.time(), seconds))
        stale = signer.sign(said[4], "POST", target, body, RelayedClient("127.0.0.1", 1, False))
        assert await tapped.tell(request("POST", target, f"{name}: {stale}", body=body)) == 403
    assert await tapped.refused("stale") == 3
    # None of them has reached the session.
    await tapped.client.relayed.send("last")
    assert await tapped.client.owner.message() == "last"


async def test_a_client_cannot_use_the_signature_field(tapped: Tapped, visit: Visit) -> None:
    for node in (tapped.owner, tapped.other):
        forged = tapped.field.replace("127.0.0.1", "10.9.9.9")
        for field in (tapped.field, forged, f"{RELAY_HEADER}: anything"):
            visitor: Visitor = await visit("xhr", node.port, prefix="/echo", fields=(field,)).open()
            facts = await where(visitor)
            assert (facts["pid"], facts["ip"]) == (node.pid, "127.0.0.1")
            stolen = {"session": tapped.client.session, "fields": (field,)}
            thief = visit("xhr", node.port, prefix="/echo", address="127.0.0.8", **stolen)
            assert await thief.closed() == (1008, "Session was opened from another address")
    for reason in ("forged", "replayed", "stale"):
        assert await tapped.refused(reason) == 0


async def test_only_sessions_are_served(tapped: Tapped) -> None:
    for path in ("/control", "/echo", "/echo/info", "/echo/websocket", "/"):
        assert await tapped.tell(request("GET", path)) in (403, 404, 421)
