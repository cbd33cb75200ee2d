"""The presence of a room's members, on all nodes."""

import asyncio
import json
import operator
from collections.abc import Callable
from typing import Any

import pytest
from application import Journal, LogWatch, Serve
from client import Join, until, within

from sockjs_tornado import SockJSRouter
from sockjs_tornado.cluster import base, presence
from sockjs_tornado.exceptions import ClusterUnavailable

from .conftest import SILENCE, StartNode
from .node import Node
from .redis_server import RedisServer
from .turns import count_calls

ROOM = "lobby"


async def present(node: Node, room: str = ROOM) -> list[Any]:
    """Return the values of all present members."""
    return list((await within(node.router.presence(room))).values())


async def becomes(node: Node, expected: list[Any], room: str = ROOM, key: Callable[..., Any] = list) -> None:
    """Wait until exactly these members are present."""

    async def is_expected() -> bool:
        return key(await present(node, room)) == expected  # type: ignore[no-any-return]

    await until(is_expected)


@pytest.mark.parametrize(
    ("room", "value"),
    [
        *((ROOM, value) for value in ("Ann", "", 0, False, {"name": "\ud800 ☃"}, [None, 1.5])),
        *((room, "Ann") for room in ("", "\ud800", "a:b")),
    ],
)
async def test_all_nodes_see_a_member(node: StartNode, room: str, value: Any) -> None:
    here, there = await node(), await node()
    _, ann = await here.enter(room, presence=value)
    await here.enter(room)
    expected = {f"{here.cluster.node_id}:{ann.id}": value}
    for made in (here, there):
        assert await within(made.router.presence(room)) == expected
        assert await within(made.router.presence("another room")) == {}


async def test_a_member_that_leaves_disappears_immediately(node: StartNode) -> None:
    here, there = await node(), await node()
    (ann, _), (_, bob), (_, eve) = [await here.enter(ROOM, presence=name) for name in ("Ann", "Bob", "Eve")]
    await there.enter(ROOM, presence="Zoe")
    assert sorted(await present(there)) == ["Ann", "Bob", "Eve", "Zoe"]
    assert [await within(made.router.presence_count(ROOM)) for made in (here, there)] == [4, 4]
    bob.leave(ROOM)
    assert sorted(await present(here)) == sorted(await present(there)) == ["Ann", "Eve", "Zoe"]
    eve.close()
    ann.vanish()
    await becomes(there, ["Zoe"])
    assert await present(here) == ["Zoe"]


async def test_joining_again_can_change_the_value(node: StartNode) -> None:
    here, there = await node(), await node()
    _, ann = await here.enter(ROOM, presence="Ann")
    await within(ann.join(ROOM))
    assert await present(there) == ["Ann"]
    await within(ann.join(ROOM, presence="Anna"))
    assert await present(there) == await present(here) == ["Anna"]


@pytest.mark.parametrize(("value", "error"), [({1, 2}, TypeError), (b"x", TypeError), (float("nan"), ValueError)])
async def test_values_that_json_cannot_encode_are_rejected(node: StartNode, value: Any, error: type[Exception]) -> None:
    here = await node()
    _, ann = await here.enter()
    with pytest.raises(error):
        ann.join(ROOM, presence=value)
    assert ann.rooms == frozenset()


async def test_the_members_of_a_dead_node_expire(node: StartNode, redis_server: RedisServer) -> None:
    here, there = await node(presence_lifetime=3), await node(presence_lifetime=3)
    await here.enter(ROOM, presence="Ann")
    await there.enter(ROOM, presence="Zoe")
    room, *alive = f"sockjs:presence:{ROOM}", *(f"sockjs:alive:{each.cluster.node_id}" for each in (here, there))
    # The first node stops refreshing, and its key expires: immediately, for the test.
    here.cluster._node.presence._task.cancel()
    assert 0 < int(redis_server.command("PTTL", alive[0])) <= 3000
    redis_server.command("PEXPIRE", alive[0], 1)
    await becomes(there, ["Zoe"])
    assert await within(there.router.presence_count(ROOM)) == 1
    await until(lambda: redis_server.command("HLEN", room) == 1)
    # The members of a live node stay.
    for key in (room, alive[1]):
        before = redis_server.command("PEXPIRETIME", key)
        await until(lambda key, before: redis_server.command("PEXPIRETIME", key) > before, key, before)
    assert await present(there) == ["Zoe"]


async def test_no_data_is_left_in_redis(node: StartNode, redis_server: RedisServer) -> None:
    here = await node(presence_lifetime=0.3)
    _, ann = await here.enter(ROOM, "b", presence="Ann")
    await here.enter("c", presence="Bob")
    ann.close()
    await within(here.cluster.close())
    assert redis_server.command("KEYS", "sockjs:alive:*") == []
    await until(lambda: redis_server.command("KEYS", "*") == [])


@pytest.mark.parametrize("loss", ["everything", "a room", "the node"])
async def test_lost_entries_are_written_again(node: StartNode, redis_server: RedisServer, loss: str) -> None:
    here, there = await node(presence_lifetime=0.3), await node(presence_lifetime=0.3)
    await here.enter(ROOM, presence="Ann")
    forget = {
        "everything": ["FLUSHALL"],
        "a room": ["DEL", f"sockjs:presence:{ROOM}"],
        "the node": ["DEL", f"sockjs:alive:{here.cluster.node_id}"],
    }[loss]
    # The key may have expired because the node is late. It may be written again before this is observed.
    await until(lambda: redis_server.command(*forget))
    await becomes(there, ["Ann"])


async def test_entries_are_written_again_when_redis_is_back(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here, there = await node(), await node()
    _, ann = await here.enter(ROOM, presence="Ann")
    _, bob = await here.enter(ROOM, presence="Bob")
    redis_server.kill()
    await until(lambda: not here.cluster.commands.available and not there.cluster.commands.available)
    with pytest.raises(ClusterUnavailable):
        await here.router.presence(ROOM)
    bob.leave(ROOM)
    ann.join(ROOM, presence="Anna")
    redis_server.start()
    await within(here.cluster.commands.wait_available())
    await within(there.cluster.commands.wait_available())
    await becomes(there, ["Anna"])
    for _ in range(2):
        logged.take("reconnecting")


async def test_members_that_left_during_an_outage_disappear_after_it(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here, there = await node(timeout=SILENCE), await node()
    _, ann = await here.enter(ROOM, presence="Ann")
    _, bob = await here.enter(ROOM, presence="Bob")
    redis_server.freeze()
    await until(lambda: not here.cluster.commands.available)
    bob.leave(ROOM)
    ann.leave(ROOM)
    ann.join(ROOM, presence="Ann")
    redis_server.thaw()
    await within(here.cluster.commands.wait_available())
    await becomes(there, ["Ann"])
    logged.take("reconnecting")


async def test_many_rooms_are_refreshed(node: StartNode, redis_server: RedisServer) -> None:
    here = await node(presence_lifetime=2)
    _, ann = await here.enter()
    rooms = [f"room {number}" for number in range(1200)]
    for room in rooms:
        ann.join(room, presence=room)
    keys = [f"sockjs:presence:{room}" for room in rooms[::100]]

    def expire_times() -> list[Any]:
        return [redis_server.command("PEXPIRETIME", key) for key in keys]

    # The first refreshes may come before the rooms are in Redis.
    await until(lambda: all(redis_server.command("HLEN", key) == 1 for key in keys))
    before = expire_times()
    await until(lambda: all(map(operator.gt, expire_times(), before)))
    for room in rooms[::100]:
        assert await present(here, room) == [room]


async def test_without_a_cluster_presence_is_of_this_process(serve: Serve, join: Join) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    ann = await journal.connection()
    await ann.join(ROOM, presence={"name": "Ann"})
    assert await router.presence(ROOM) == {f"local:{ann.id}": {"name": "Ann"}}
    assert await router.presence_count(ROOM) == 1
    ann.leave(ROOM)
    assert await router.presence(ROOM) == {}
    for call in (router.presence, router.presence_count):
        with pytest.raises(TypeError, match="the name of a room must be str"):
            await call(5)  # type: ignore[arg-type]


async def test_failed_writes_are_repeated(node: StartNode, redis_server: RedisServer) -> None:
    here, there = await node(presence_lifetime=0.3), await node(presence_lifetime=0.3)
    _, bob = await here.enter()
    redis_server.command("SET", f"sockjs:presence:{ROOM}", "of another type")
    with pytest.raises(ClusterUnavailable, match="WRONGTYPE"):
        await within(bob.join(ROOM, presence="Bob"))
    redis_server.command("DEL", f"sockjs:presence:{ROOM}")
    await becomes(there, ["Bob"])


async def test_nothing_is_written_of_members_that_have_left_meanwhile(
    node: StartNode, redis_server: RedisServer
) -> None:
    here = await node()
    await within(here.cluster._node.presence._write_entries([ROOM]))
    assert redis_server.command("KEYS", "*presence*") == []
    people = enter_many(here, ROOM, 1000, base.SLICE + 2)
    writing = asyncio.create_task(here.cluster._node.presence._write_entries([ROOM]))
    await asyncio.sleep(0)
    # It is in the second slice.
    here.cluster.rooms.leave(people[-1], ROOM)
    await within(writing)
    assert await here.cluster.presence_count(ROOM) == base.SLICE + 1


async def test_a_member_that_joins_while_the_queue_of_commands_is_full_appears_later(
    node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await node(), await node()
    _, ann = await here.enter()
    commands = here.cluster._node.presence._commands
    gate = asyncio.get_running_loop().create_future()
    commands.submit("PING", after=gate)
    monkeypatch.setattr("sockjs_tornado.cluster.commands.MAX_QUEUED_BYTES", 1)
    joining = asyncio.ensure_future(ann.join(ROOM, presence="Ann"))
    await until(lambda: commands._deferred)
    assert await present(there) == []
    gate.set_result(None)
    await within(joining)
    assert await present(there) == ["Ann"]


class Person:
    """A session, as far as rooms need one."""

    def __init__(self, number: int) -> None:
        self.label = str(number)


def enter_many(node: Node, room: str, first: int, count: int) -> list[Any]:
    """Add sessions to a room, with their numbers as presence."""
    people: list[Any] = [Person(number) for number in range(first, first + count)]
    for person in people:
        node.cluster.rooms.join(person, room, int(person.label))
    return people


@pytest.mark.parametrize("is_short", [True, False])
async def test_a_mass_departure_during_an_outage_is_bounded_and_written_in_slices(
    node: StartNode, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, logged: LogWatch, is_short: bool
) -> None:
    monkeypatch.setattr(presence, "MAX_UNWRITTEN", 1500 if is_short else 1000)
    here, there = await node(timeout=SILENCE), await node()
    gone = enter_many(here, ROOM, 1000, 1200)
    enter_many(here, ROOM, 5000, 700)
    await here.cluster.commands.wait_idle()
    assert len(await present(there)) == 1900
    redis_server.freeze()
    await until(lambda: not here.cluster.commands.available)
    for person in gone:
        here.cluster.rooms.leave_all(person)
    assert len(here.cluster._node.presence._removals) == (1200 if is_short else 0)
    newcomers = enter_many(here, ROOM, 7000, 700)
    # One that leaves and joins again is present.
    here.cluster.rooms.leave(newcomers[0], ROOM)
    here.cluster.rooms.join(newcomers[0], ROOM, 7000)
    fields = count_calls(monkeypatch, json, "loads")
    commands = count_calls(monkeypatch, here.cluster.commands, "_append")
    redis_server.thaw()
    await within(here.cluster.commands.wait_available())
    expected = [*range(5000, 5700), *range(7000, 7700)]
    await becomes(there, expected, key=sorted)
    name = f"sockjs:alive:{here.cluster.node_id}"
    assert redis_server.command("EXISTS", name, f"{name}.2") == 1
    assert redis_server.command("EXISTS", name) == is_short
    # Those that are there now, under the present name.
    assert redis_server.command("HLEN", f"sockjs:presence:{ROOM}") == 1400
    # Redis got no more than a slice in one turn, and what belongs to it.
    assert max(commands) < base.SLICE + 20
    assert max(fields) == base.SLICE
    assert sorted(await present(here)) == expected
    # From then on as before.
    here.cluster.rooms.leave(newcomers[0], ROOM)
    await within(here.cluster.commands.wait_idle())
    assert len(await present(there)) == 1399
    logged.take("reconnecting")


async def test_entries_written_after_a_mass_departure_replace_the_former_ones(
    node: StartNode, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, logged: LogWatch
) -> None:
    here, there = await node(presence_lifetime=1), await node()
    _, ann = await here.enter(ROOM, presence="Ann")
    await here.enter(ROOM, presence="Bob")
    presences = here.cluster._node.presence
    # While the memory of Redis is full, a new generation cannot begin, but the entries remain.
    redis_server.command("CONFIG", "SET", "maxmemory", 1)
    presences._generation_ended = True
    before = redis_server.command("PEXPIRETIME", f"sockjs:presence:{ROOM}")
    await until(lambda: redis_server.command("PEXPIRETIME", f"sockjs:presence:{ROOM}") > before)
    assert await present(there) == ["Ann", "Bob"]
    # Meanwhile the members change: until the former entries are invalid, both have to be right.
    release = asyncio.Event()
    write = presences._write_entries

    async def write_later(rooms: Any) -> None:
        await release.wait()
        await write(rooms)

    monkeypatch.setattr(presences, "_write_entries", write_later)
    redis_server.command("CONFIG", "SET", "maxmemory", 0)
    await until(lambda: presences._former_names)
    await within(ann.join(ROOM, presence="Anna"))
    assert sorted(await present(there)) == ["Anna", "Bob"]
    assert await within(there.router.presence_count(ROOM)) == 2
    ann.leave(ROOM)
    assert await present(here) == await present(there) == ["Bob"]
    release.set()
    await until(lambda: not presences._former_names)
    assert await present(there) == ["Bob"]
    logged.take("rejects commands")


async def test_failed_removals_are_repeated(node: StartNode, redis_server: RedisServer) -> None:
    here, there = await node(presence_lifetime=0.3), await node()
    _, ann = await here.enter()
    _, bob = await here.enter()
    redis_server.command("SET", f"sockjs:presence:{ROOM}", "of another type")
    for connection, name in ((ann, "Ann"), (bob, "Bob")):
        with pytest.raises(ClusterUnavailable, match="WRONGTYPE"):
            await within(connection.join(ROOM, presence=name))
        connection.leave(ROOM)
    ann.join(ROOM, presence="Anna")
    # In the time in which the removals have failed, the entries were written by another way.
    fields = [f"{here.cluster.node_id}:{connection.id}" for connection in (ann, bob)]
    await within(here.cluster.commands.wait_idle())
    redis_server.command("DEL", f"sockjs:presence:{ROOM}")
    redis_server.command("HSET", f"sockjs:presence:{ROOM}", fields[0], '"Ann"', fields[1], '"Bob"')
    await becomes(there, ["Anna"])


async def test_what_was_not_written_has_a_bound(
    node: StartNode, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "MAX_UNWRITTEN", 10)
    here, there = await node(presence_lifetime=0.3), await node()
    _, ann = await here.enter()
    rooms = [f"room {number}" for number in range(20)]
    for room in rooms:
        redis_server.command("SET", f"sockjs:presence:{room}", "of another type")
        with pytest.raises(ClusterUnavailable, match="WRONGTYPE"):
            await within(ann.join(room, presence="Ann"))
        assert len(here.cluster._node.presence._unwritten_rooms) <= 10
    for room in rooms:
        redis_server.command("DEL", f"sockjs:presence:{room}")
    for room in rooms:
        await becomes(there, ["Ann"], room)
    # A removal waits for the queue of commands, without a task or a future of its own.
    monkeypatch.setattr("sockjs_tornado.cluster.commands.MAX_QUEUED_BYTES", 0)
    ann.leave(rooms[0])
    assert here.cluster._node.presence._removals == {(rooms[0], ann.id)}
    monkeypatch.undo()
    await becomes(there, [], rooms[0])
