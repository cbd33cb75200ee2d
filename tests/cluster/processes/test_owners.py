"""Sessions whose clients, owners or claims are lost."""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import pytest
from client import POLLING, RECEIVING, STREAMING, asking, sending, until
from deployment.conftest import Visit
from deployment.visitor import Visitor, exchange

from sockjs_tornado.cluster.claim_format import encode_claim
from sockjs_tornado.cluster.ownership import Owner
from sockjs_tornado.cluster.secret import Secrets

from ..redis_server import RedisServer
from .clients import INTERRUPTED, Guest, guest, listening
from .nodes import Circle, NodeProcess, front, nodes
from .wires import wire

T = TypeVar("T")

RESTARTED = 'c[1012,"Service restart"]'

#: The last that clients hear of a session that was lost.
TOLD = {
    "xhr": b'c[1002,"Connection interrupted"]\n',
    "xhr_streaming": b'\nc[1002,"Connection interrupted"]\n',
    "jsonp": b'/**/cb("c[1002,\\"Connection interrupted\\"]");\r\n',
    "eventsource": b'\r\ndata: c[1002,"Connection interrupted"]\r\n\r\n',
    "htmlfile": b'\n<script>\np("c[1002,\\"Connection interrupted\\"]");\n</script>\r\n',
}

#: Seconds in which everybody has an answer when a node has died.
SOON = 2


async def soon(awaitable: Awaitable[T]) -> T:
    """Await an awaitable that must not hang."""
    async with asyncio.timeout(SOON):
        return await awaitable


async def status_of_sending(visitor: Visitor, message: str) -> int:
    """Send a message, and return the status of the response."""
    client = await visitor.connect()
    client.write(sending(visitor.transport, visitor.base, json.dumps([message])))
    return (await client.response()).status


async def whole_answer(visitor: Visitor) -> bytes:
    """Poll for frames, and return the complete response."""
    client = await visitor.connect()
    client.write(asking(visitor.transport, visitor.base))
    response = await client.response()
    assert response.status == 200
    return response.body


@pytest.mark.parametrize("transport", RECEIVING)
async def test_the_owner_notices_that_a_client_of_another_node_has_disconnected(
    three: list[NodeProcess], visit: Visit, transport: str
) -> None:
    owner, other, _ = three
    client = await guest(visit, transport, owner, other)
    async with listening(client, owner):
        left = time.monotonic()
        client.relayed.vanish()
        ended = await owner.ended(client.session)
    print(f"{transport}: heard after {(ended['at'] - left) * 1000:.1f} ms")
    assert (ended["code"], ended["reason"]) == INTERRUPTED


async def test_clients_of_a_killed_owner_reconnect_to_other_nodes(circle: Circle, tmp_path: Path, visit: Visit) -> None:
    async with nodes(circle) as servers, contextlib.AsyncExitStack() as life:
        owner, other, third = servers
        proxy = life.enter_context(front(servers, tmp_path))
        held = {transport: await guest(visit, transport, owner, other) for transport in RECEIVING}
        idle = [await guest(visit, transport, owner, other) for transport in RECEIVING]
        waiting = {name: await life.enter_async_context(listening(client, owner)) for name, client in held.items()}
        owner.kill()
        for transport, answer in waiting.items():
            if transport in POLLING:
                assert await soon(answer) == 'c[1002,"Connection interrupted"]'
            else:
                # The client is either told, or reconnects.
                await soon(asyncio.wait([answer]))
        clients = [*idle, *(client for name, client in held.items() if name in STREAMING)]
        for client in clients:
            transport = client.relayed.transport
            assert await soon(status_of_sending(client.relayed, "lost")) == 404
            for node in (third, other):
                again = visit(transport, node.port, prefix="/echo", session=client.session)
                assert (await soon(whole_answer(again))).endswith(TOLD[transport])
        for transport in RECEIVING * 2:
            # Every third connection attempt reaches the dead node, and is retried on another.
            visitor = visit(transport, proxy.port, prefix="/echo")
            assert await soon(visitor.frame()) == "o"
            assert await soon(exchange(visitor, "again")) == "again"


async def test_clients_of_a_restarted_owner_are_told_by_other_nodes(circle: Circle, visit: Visit) -> None:
    async with nodes(circle, 2) as (owner, other), contextlib.AsyncExitStack() as life:
        listeners = [await guest(visit, transport, owner, other) for transport in RECEIVING]
        idle = [await guest(visit, transport, owner, other) for transport in RECEIVING]
        waiting = [await life.enter_async_context(listening(client, owner)) for client in listeners]
        stopping = asyncio.create_task(asyncio.to_thread(owner.stop))
        assert await asyncio.gather(*waiting) == [RESTARTED] * len(waiting)
        for client in idle:
            # A client without a receiver has some time to reconnect, and its sends are rejected.
            assert await status_of_sending(client.relayed, "lost") == 404
            assert await client.relayed.frame() == RESTARTED
        assert await stopping == []


async def test_clients_of_a_suspended_owner_reconnect(circle: Circle, redis: RedisServer, visit: Visit) -> None:
    async with (
        nodes(circle, 2, ["does not respond", "has claimed it"]) as (owner, other),
        contextlib.AsyncExitStack() as life,
    ):
        held = {transport: await guest(visit, transport, owner, other) for transport in RECEIVING}
        waiting = {name: await life.enter_async_context(listening(client, owner)) for name, client in held.items()}
        sender = await guest(visit, "xhr", owner, other)
        bystander = await visit("xhr", other.port, prefix="/echo").open()
        owner.pause()
        posting = asyncio.ensure_future(status_of_sending(sender.relayed, "lost"))
        assert await exchange(bystander, "I do not wait") == "I do not wait"
        for transport, answer in waiting.items():
            if transport in POLLING:
                assert await answer == 'c[1002,"Connection interrupted"]'
            else:
                await asyncio.wait([answer])
        assert await posting == 404
        for client in (sender, *held.values()):
            assert (await whole_answer(client.relayed)).endswith(TOLD[client.relayed.transport])
            # A tombstone, which has no address; the response does not wait until Redis has it.
            await until(lambda client=client: b" - " in redis.command("GET", claim_of(client)))
        owner.resume()
        for client in held.values():
            ended = await owner.ended(client.session)
            assert (ended["code"], ended["reason"]) == INTERRUPTED

        async def is_used_again() -> bool:
            # Until then, a session is lost with its first relayed request.
            again = await guest(visit, "xhr", owner, other)
            return await status_of_sending(again.relayed, "again") == 204

        await until(is_used_again)


def claim_of(client: Guest) -> str:
    """Return the key of a session's claim."""
    return f"sockjs:session:/echo:{client.session}"


async def test_a_node_closes_sessions_that_another_node_has_claimed(
    circle: Circle, redis: RedisServer, visit: Visit
) -> None:
    async with wire(redis.port) as line:
        alone = f"redis://127.0.0.1:{line.port}/0"
        async with nodes(circle, 2, ["has claimed it", "Redis"], first=["--redis", alone]) as (
            owner,
            other,
        ):
            taken, expired, kept = [await guest(visit, "xhr", owner, other) for _ in range(3)]
            assert await exchange(kept.relayed, "well") == "well"
            line.cut()
            # What would happen by itself after half a minute.
            assert redis.command("DEL", claim_of(expired)) == 1
            assert await expired.relayed.frame() == "o"
            somebody = Owner("somebody", "http://127.0.0.1:9")
            claim = encode_claim(Secrets(circle.secret.read_bytes()), f"/echo:{taken.session}", somebody)
            assert redis.command("SET", claim_of(taken), claim, "XX", "KEEPTTL")
            await line.mend()
            for client in (taken, expired):
                ended = await owner.ended(client.session)
                assert (ended["code"], ended["reason"]) == INTERRUPTED
            assert await exchange(expired.relayed, "mine") == "mine"
            assert await exchange(kept.relayed, "as before") == "as before"
