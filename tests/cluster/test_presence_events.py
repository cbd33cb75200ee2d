"""Events of presence: on Redis, on Unix sockets, and in one process."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from application import LogWatch
from client import until, within

from sockjs_tornado import ConfigurationError
from sockjs_tornado.cluster import LocalCluster, RedisCluster, UnixCluster
from sockjs_tornado.cluster.presence_events import PresenceWatcher
from sockjs_tornado.session.rooms import Rooms

from .conftest import StartNode
from .redis_server import RedisServer

ROOM = "\ud800 ☃"


class Person:
    """A session, as far as rooms need one."""

    def __init__(self, label: str) -> None:
        self.label = label


class Watcher:
    """Notes the events of a room."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def note(self, event: str, member: str, presence: Any) -> None:
        """Note an event."""
        self.events.append((event, member, presence))

    def gap(self) -> None:
        """Note a gap."""
        self.events.append("gap")


def test_events_that_a_later_version_may_send_are_ignored() -> None:
    watcher = Watcher()
    for message in (["move", "1", None], ["join", 1, None], ["leave"], "join", None):
        assert PresenceWatcher(watcher.note)(message) is None
    assert watcher.events == []


async def test_watchers_in_all_processes_get_the_changes_in_order(make_clusters: tuple[Any, Any]) -> None:
    here, there = make_clusters
    near, far, other = Watcher(), Watcher(), Watcher()
    there.watch_presence(ROOM, far.note)
    for cluster in {here, there}:
        await within(cluster.start())
    await within(here.watch_presence(ROOM, near.note))
    await within(here.watch_presence("other", other.note))
    ann, bob, guest = (Person(label) for label in "123")
    here.rooms.join(ann, ROOM, {"name": "Ann"})
    here.rooms.join(bob, ROOM, "Bob")
    here.rooms.join(guest, ROOM)
    # Not inside of join().
    assert near.events == []
    here.rooms.join(ann, ROOM)
    here.rooms.join(ann, ROOM, ["Ann", "\ud800 ☃"])
    here.rooms.leave(guest, ROOM)
    here.rooms.leave(ann, ROOM)
    here.rooms.leave(ann, ROOM)
    here.rooms.join(bob, "other", 0)
    here.rooms.leave_all(bob)
    for read in (here.presence, here.presence_count):
        with pytest.raises(TypeError, match="the name of a room must be str, not list; call it for each room"):
            await read([ROOM])
    node = here._node_name
    expected = [
        ("join", f"{node}:1", {"name": "Ann"}),
        ("join", f"{node}:2", "Bob"),
        ("update", f"{node}:1", ["Ann", "\ud800 ☃"]),
        ("leave", f"{node}:1", ["Ann", "\ud800 ☃"]),
        ("leave", f"{node}:2", "Bob"),
    ]
    await until(lambda: len(far.events) >= len(expected) and len(other.events) == 2)
    assert near.events == far.events == expected
    assert other.events == [("join", f"{node}:2", 0), ("leave", f"{node}:2", 0)]
    there.unwatch_presence(ROOM, far.note)
    there.unwatch_presence(ROOM, far.note)
    here.rooms.join(bob, ROOM, "again")
    await until(lambda: near.events[-1] == ("join", f"{node}:2", "again"))
    await within(here.watch_presence("end", near.note))
    await within(there.watch_presence("end", far.note))
    here.rooms.join(bob, "end", "end")
    await until(lambda: far.events[-1] == near.events[-1] == ("join", f"{node}:2", "end"))
    assert far.events[:-1] == expected


async def test_the_presence_is_that_after_the_event(node: StartNode) -> None:
    here, there = await node(presence_events=True), await node(presence_events=True)
    present: list[Any] = []

    async def look(event: str, member: str, value: Any) -> None:
        present.append((event, await there.router.presence(ROOM)))

    await within(there.cluster.watch_presence(ROOM, look))
    peer, ann = await here.enter(ROOM, presence="Ann")
    await until(lambda: present)
    # The session closes because its client has gone.
    peer.vanish()
    await until(lambda: len(present) == 2)
    assert present == [("join", {f"{here.cluster.node_id}:{ann.id}": "Ann"}), ("leave", {})]


def test_an_event_follows_the_change_that_it_reports() -> None:
    """So that the commands for Redis are sent in this order, too."""
    calls: list[Any] = []

    class NotedRooms(Rooms):
        def presence_set(self, room: str, label: str, text: str) -> None:
            calls.append("set")

        def presence_removed(self, room: str, label: str) -> None:
            calls.append("removed")

    rooms = NotedRooms()
    rooms.on_presence_change = lambda event, *_: calls.append((event, rooms.presence(ROOM)))
    ann: Any = Person("1")
    rooms.join(ann, ROOM, "Ann")
    rooms.leave(ann, ROOM)
    assert calls == ["set", ("join", {"1": "Ann"}), "removed", ("leave", {})]


async def test_a_callback_may_change_the_room() -> None:
    async with LocalCluster() as cluster:
        ann: Any = Person("1")
        bob: Any = Person("2")
        late: Any = Person("3")
        events: list[Any] = []

        def change(event: str, member: str, presence: Any) -> None:
            events.append((event, member))
            if event == "leave" and member == "local:1":
                cluster.rooms.leave_all(bob)
                cluster.rooms.join(ann, ROOM, "back")

        cluster.watch_presence(ROOM, change)
        for person in (ann, bob):
            cluster.rooms.join(person, ROOM, "x")
        cluster.rooms.leave_all(ann)
        await until(lambda: len(events) == 5)
        assert events[2:] == [("leave", "local:1"), ("leave", "local:2"), ("join", "local:1")]
        assert await cluster.presence(ROOM) == {"local:1": "back"}
        # What has not been delivered when the cluster closes is not delivered afterwards.
        cluster.rooms.leave_all(ann)
        cluster.rooms.join(late, "other", "x")
    # As that of a session that closes after the cluster.
    cluster.rooms.leave_all(late)
    await asyncio.sleep(0)
    async with cluster:
        cluster.rooms.join(bob, ROOM, "x")
        await until(lambda: len(events) > 5)
    assert events[5:] == [("join", "local:2")]


async def test_after_an_outage_watchers_are_told_and_get_events_again(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    here, there = await node(presence_events=True), await node(presence_events=True)
    watcher = Watcher()
    await within(there.cluster.watch_presence(ROOM, watcher.note, on_gap=watcher.gap))
    _, ann = await here.enter(ROOM, presence="Ann")
    _, bob = await here.enter(ROOM, presence="Bob")
    await until(lambda: len(watcher.events) == 2)
    redis_server.kill()
    await until(lambda: not here.cluster.commands.available and not there.cluster.available)
    ann.leave(ROOM)
    redis_server.start()
    await until(lambda: watcher.events[2:] == ["gap"])
    await within(here.cluster.commands.wait_available())
    bob.leave(ROOM)
    await until(lambda: watcher.events[3:] == [("leave", f"{here.cluster.node_id}:{bob.id}", "Bob")])
    logged.take("A message did not reach other nodes")
    for _ in range(2):
        logged.take("reconnecting")


async def test_events_are_opt_in(redis_server: RedisServer, tmp_path: Path) -> None:
    async with RedisCluster(redis_server.url) as cluster:
        with pytest.raises(ConfigurationError, match="watch_presence requires presence_events=True"):
            cluster.watch_presence(ROOM, print)
        ann: Any = Person("1")
        await within(cluster.rooms.join(ann, ROOM, "Ann"))
        cluster.rooms.leave(ann, ROOM)
        assert cluster.stats.published == 0
    wrong: Any = "yes"
    with pytest.raises(ConfigurationError, match="presence_events: expected True or False, got 'yes'"):
        RedisCluster(redis_server.url, presence_events=wrong)
    with pytest.raises(ConfigurationError, match="presence_events: expected True or False, got 'yes'"):
        UnixCluster(tmp_path / "workers", 1, 0, presence_events=wrong)


async def test_mistakes_are_errors_that_name_what_was_expected() -> None:
    async with LocalCluster() as cluster:
        wrong: Any = cluster
        for call in (wrong.watch_presence, wrong.unwatch_presence):
            with pytest.raises(TypeError, match="the name of a room must be str, not int"):
                call(5, print)
        with pytest.raises(TypeError, match=r"callback: expected a function, got 'x' \(str\)"):
            wrong.watch_presence(ROOM, "x")
        with pytest.raises(TypeError, match="on_gap: expected a function"):
            wrong.watch_presence(ROOM, print, on_gap=5)
        with pytest.raises(ConfigurationError, match=r"can be called as callback\(event, member, presence\)"):
            wrong.watch_presence(ROOM, lambda member: None)
        for name in ("subscribe", "unsubscribe", "publish_topic"):
            with pytest.raises(ValueError, match=r"must not begin with 'sockjs\.presence:'; use watch_presence"):
                getattr(wrong, name)("sockjs.presence:lobby", print)
