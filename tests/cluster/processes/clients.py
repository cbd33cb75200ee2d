"""Clients whose sessions are owned by one node, while their requests reach others."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from client import until
from deployment.conftest import Visit
from deployment.visitor import Visitor

from .nodes import NodeProcess

INTERRUPTED = (1002, "Connection interrupted")


class Guest(NamedTuple):
    """A client of one node, and the same client on another node.

    Attributes:
        owner: The client on the node that owns the session.
        relayed: The same session on another node.
        session: The session id.
    """

    owner: Visitor
    relayed: Visitor
    session: str


async def guest(
    visit: Visit,
    transport: str,
    owner: NodeProcess,
    other: NodeProcess,
    prefix: str = "/echo",
    fields: tuple[str, ...] = (),
) -> Guest:
    """Open a session by polling on its owner, with additional header fields."""
    opened = await visit("xhr", owner.port, prefix=prefix, fields=fields).open()
    return Guest(opened, visit(transport, other.port, prefix=prefix, session=opened.session), opened.session)


@contextlib.asynccontextmanager
async def listening(client: Guest, owner: NodeProcess) -> "AsyncIterator[asyncio.Future[str]]":
    """Wait for a frame through the other node, when the owner has the receiver."""
    waiting = asyncio.ensure_future(client.relayed.frame())
    try:
        await attached(owner, client.session)
        yield waiting
    finally:
        client.relayed.vanish()
        # Reset the client, whatever the result was.
        await asyncio.wait([waiting])
        waiting.exception()


async def attached(node: NodeProcess, session: str) -> None:
    """Wait until the session has a receiver, according to its owner."""

    async def is_attached() -> bool:
        return session in (await node.report())["attached"]

    await until(is_attached)


async def member(visit: Visit, transport: str, node: NodeProcess, room: str) -> Visitor:
    """Make a client join a room."""
    visitor = await visit(transport, node.port, prefix="/rooms").open()
    await visitor.send(json.dumps({"join": room}))
    joined: Any = await visitor.message()
    assert joined == {"joined": room}
    return visitor
