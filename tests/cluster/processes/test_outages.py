"""Redis is killed and restarted without its data, under load."""

import asyncio
import itertools
import json
import time
from pathlib import Path

from client import FRAMED, new_session, until
from deployment.conftest import Visit
from deployment.visitor import Visitor, exchange

from ..redis_server import RedisServer
from .clients import Guest, guest, member
from .nodes import Circle, NodeProcess, nodes

ROOM = "the room ☃"

#: Seconds in which messages flow again when Redis has come back, however busy the machine is.
SOON = 15

#: What nodes have to say of it.
COMPLAINTS = ("Redis", "redis")


class Member:
    """A member of the room that records all messages.

    Attributes:
        heard: The messages.
    """

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.heard: list[str] = []
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while True:
            self.heard.append(await self.visitor.message())


async def publish(visitors: list[Visitor], numbers: "itertools.count[int]") -> None:
    """Publish continuously, on each node in turn."""
    for visitor in itertools.cycle(visitors):
        text = f"{visitors.index(visitor)} {next(numbers)}"
        await visitor.send(json.dumps({"publish": ROOM, "message": text}))
        await asyncio.sleep(0.01)


async def all_hear_all(members: list[Member], numbers: "itertools.count[int]") -> None:
    """Wait until every member has received new messages of every node."""
    since = next(numbers)
    wanted = {str(index) for index in range(len(members))}

    async def have_heard() -> bool:
        new = [{text.split()[0] for text in member.heard if int(text.split()[1]) > since} for member in members]
        return all(heard == wanted for heard in new)

    await until(have_heard)


async def outage(redis: RedisServer, members: list[Member], polling: Guest, messages: int) -> None:
    """Stop Redis until each member has received as many messages of its own node; relayed sessions continue."""
    redis.kill()
    wanted = [len(member.heard) + messages for member in members]
    while any(len(member.heard) < number for member, number in zip(members, wanted, strict=True)):
        for visitor in (polling.relayed, polling.owner):
            assert await exchange(visitor, "Redis is away") == "Redis is away"
    await asyncio.to_thread(redis.start)


async def test_rooms_work_again_and_every_gap_is_reported(secret: Path, tmp_path: Path, visit: Visit) -> None:
    with RedisServer(tmp_path) as redis:
        async with nodes(Circle(redis.url, secret), complaints=COMPLAINTS) as servers:
            members = [Member(await member(visit, "websocket", node, ROOM)) for node in servers]
            echo = await visit("websocket", servers[0].port, prefix="/echo", session=new_session()).open()
            polling = await guest(visit, "xhr", servers[1], servers[2])
            speakers = [
                await visit("websocket", node.port, prefix="/rooms", session=new_session()).open() for node in servers
            ]
            assert await exchange(polling.relayed, "from elsewhere") == "from elsewhere"
            numbers = itertools.count()
            publishing = asyncio.create_task(publish(speakers, numbers))
            try:
                await all_hear_all(members, numbers)
                # About 1 s and 3 s on a machine that is not busy.
                for outages, messages in enumerate((30, 100), 1):
                    await outage(redis, members, polling, messages)
                    returned = time.monotonic()
                    async with asyncio.timeout(SOON):
                        await all_hear_all(members, numbers)
                    print(f"after {messages} messages: rooms flow again after {time.monotonic() - returned:.2f} s")
                    for node in servers:

                        async def all_told(node: NodeProcess = node, outages: int = outages) -> bool:
                            return len((await node.report())["gaps"]) >= outages

                        await until(all_told)
                        assert (await node.report())["gaps"] == [[ROOM]] * outages
                    # Sessions are not affected, and their owners have claimed them again.
                    for visitor in (echo, polling.owner, polling.relayed):
                        assert await exchange(visitor, "still here") == "still here"
                assert not publishing.done()
                assert not any(one.listening.done() for one in members)
                for one in members:
                    # The messages of each node are in order and not repeated.
                    for index in range(len(members)):
                        said = [int(text.split()[1]) for text in one.heard if text.startswith(f"{index} ")]
                        assert said == sorted(set(said))
            finally:
                publishing.cancel()
                for one in members:
                    one.listening.cancel()
                await asyncio.wait([publishing, *(one.listening for one in members)])


async def test_rooms_reach_all_nodes_and_every_transport(three: list[NodeProcess], visit: Visit) -> None:
    inside = [await member(visit, transport, node, "open house") for node in three for transport in FRAMED]
    for speaker in inside[:: len(FRAMED) + 1]:
        await speaker.send(json.dumps({"publish": "open house", "message": speaker.session}))
        for visitor in inside:
            assert await visitor.message() == speaker.session
