"""Clients whose session one node holds, while they come to others."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from deployment.conftest import Visit
from deployment.visitor import Visitor

from ..nodes import Node, until

INTERRUPTED = (1002, "Connection interrupted")


class Guest(NamedTuple):
    """A client of one node, and the same client as it comes to another.

    Attributes:
        owner: Opened the session, on the node that holds it.
        relayed: Has the same session, on another node.
        session: Its id.
    """

    owner: Visitor
    relayed: Visitor
    session: str


async def guest(
    visit: Visit, transport: str, owner: Node, other: Node, prefix: str = "/echo", fields: tuple[str, ...] = ()
) -> Guest:
    """Open a session by polling, on the node that is to hold it, with header fields of the client's own."""
    opened = await visit("xhr", owner.port, prefix=prefix, fields=fields).open()
    return Guest(opened, visit(transport, other.port, prefix=prefix, session=opened.session), opened.session)


@contextlib.asynccontextmanager
async def listening(client: Guest, owner: Node) -> "AsyncIterator[asyncio.Future[str]]":
    """Have a client wait for a frame, by way of the other node; the owner knows of it."""
    waiting = asyncio.ensure_future(client.relayed.frame())
    try:
        await attached(owner, client.session)
        yield waiting
    finally:
        client.relayed.vanish()
        # Nothing is left of it, whatever came.
        await asyncio.wait([waiting])
        waiting.exception()


async def attached(node: Node, session: str) -> None:
    """Wait until the client of a session listens, as the node that holds it sees it."""

    async def is_attached() -> bool:
        return session in (await node.report())["attached"]

    await until(is_attached)


async def member(visit: Visit, transport: str, node: Node, room: str) -> Visitor:
    """Have a client enter a room."""
    visitor: Any = await visit(transport, node.port, prefix="/rooms").open()
    await visitor.send(json.dumps({"join": room}))
    assert await visitor.message() == {"joined": room}
    return visitor
