"""`sockjs_tornado.recovery`: what a client receives that follows rooms, and the script that the router serves."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from application import LogWatch, Serve, exception_of
from client import Connect, until, within

from sockjs_tornado import ConfigurationError, SockJSConnection, SockJSRouter
from sockjs_tornado.cluster import RedisCluster
from sockjs_tornado.recovery import RecoveryConnection
from sockjs_tornado.testing import MemoryClient
from sockjs_tornado.testing import connect as connect_in_memory

from .redis_server import RedisServer

ROOM = "news"


class Feed(RecoveryConnection):
    recovery_limit = 3
    max_followed_rooms = 2

    async def may_follow(self, room: str) -> bool:
        return room.startswith(ROOM)

    def on_other_message(self, message: Any) -> None:
        self.send(["other", message])


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("may_folow", r"^Chat\.may_folow is never called: rename it to may_follow"),
        ("on_other_mesage", r"^Chat\.on_other_mesage is never called: rename it to on_other_message"),
        ("on_message", r"^Chat\.on_message replaces that of RecoveryConnection, .* rename it to on_other_message"),
    ],
)
def test_a_mistake_that_stops_recovery_causes_a_warning(name: str, warning: str) -> None:
    def method(self: RecoveryConnection, argument: Any) -> None:
        pass

    method.__qualname__ = f"Chat.{name}"
    with pytest.warns(UserWarning, match=warning) as caught:
        type("Chat", (RecoveryConnection,), {name: method})
    assert [caught[0].filename, len(caught)] == [__file__, 1]


def test_a_callback_that_calls_the_one_of_its_base_class_causes_no_warning() -> None:
    class Logging(Feed):
        def on_message(self, message: Any) -> Awaitable[object] | object:
            return super().on_message(message)

        def may_follow_room(self, room: str) -> bool:
            return False

    assert Logging.on_message is not Feed.on_message


#: What the fixture ``router`` is.
MakeRouter = Callable[..., Awaitable[SockJSRouter]]


@pytest.fixture
async def router(redis_server: RedisServer) -> AsyncIterator[MakeRouter]:
    """Return a function that creates the router of a new node."""
    made: list[SockJSRouter] = []

    async def make(
        kind: type[SockJSConnection] = Feed, settings: dict[str, Any] | None = None, **options: Any
    ) -> SockJSRouter:
        cluster = RedisCluster(redis_server.url, **{"recovery": True, **options})
        await cluster.start()
        made.append(SockJSRouter(kind, "/feed", settings, cluster=cluster))
        return made[-1]

    yield make
    for router in made:
        await within(router.close())
        await within(router.cluster.close())  # type: ignore[union-attr]


async def follow(client: MemoryClient, number: int, *position: Any, room: str = ROOM) -> Any:
    """Follow a room, and return the response without its room and id."""
    request = {"type": "follow", "room": room, "id": number}
    if position:
        request |= dict(zip(("offset", "epoch"), position, strict=True))
    await client.send_json(request)
    response = await client.recv()
    assert (response.pop("room"), response.pop("id")) == (room, number)
    return response


async def test_a_client_that_may_follow_a_room_no_longer_leaves_it(router: MakeRouter) -> None:
    class Revoked(Feed):
        permitted = True

        async def may_follow(self, room: str) -> bool:
            return self.permitted

    feed = await router(Revoked)
    async with connect_in_memory(feed) as client:
        assert (await follow(client, 1))["type"] == "caught up"
        Revoked.permitted = False
        assert await follow(client, 2) == {"type": "refused"}
        await within(feed.publish(ROOM, "secret", history=5))
        await client.send_json("hello")
        assert await client.recv() == ["other", json.dumps("hello")]
    assert not feed.container.rooms.members(ROOM)


async def test_a_check_that_may_follow_returns_without_awaiting_it_decides(router: MakeRouter) -> None:
    class Forgetful(Feed):
        async def may_follow(self, room: str) -> bool:
            return super().may_follow(room)  # type: ignore[return-value]

    async with connect_in_memory(await router(Forgetful)) as client:
        assert await follow(client, 1, room="secret") == {"type": "refused"}
        assert (await follow(client, 2))["type"] == "caught up"


async def test_a_generator_permits_no_room(router: MakeRouter, logged: LogWatch) -> None:
    class Yielding(Feed):
        def may_follow(self, room: str) -> Any:
            yield False

    async with connect_in_memory(await router(Yielding), raise_exceptions=False) as client:
        await client.send_json({"type": "follow", "room": ROOM, "id": 1})
        await client.wait_closed()
        assert client.close_code == 1011
    assert "Yielding.may_follow contains `yield`" in str(exception_of(logged.take("Yielding.on_message of ")))


async def test_a_client_may_leave_a_room_whose_history_is_being_read(
    router: MakeRouter, redis_server: RedisServer
) -> None:
    feed = await router(settings={"max_concurrent_callbacks": 2})
    async with connect_in_memory(feed) as client:
        redis_server.command("CLIENT", "PAUSE", 60000, "WRITE")
        await client.send_json({"type": "follow", "room": ROOM, "id": 1})
        await until(lambda: client.connection.rooms == {ROOM})
        await client.send_json({"type": "unfollow", "room": ROOM})
        assert client.connection.rooms == frozenset()
        redis_server.command("CLIENT", "UNPAUSE")
        assert await client.recv_all() == []


async def test_a_client_receives_what_it_has_missed_and_what_is_published_later(router: MakeRouter) -> None:
    feed = await router()
    first: Any = await within(feed.publish(ROOM, "1", history=5))
    epoch = first.epoch
    async with connect_in_memory(feed) as client:
        response = {"type": "caught up", "lost": False, "messages": [[1, "1"]], "offset": 1, "epoch": epoch}
        assert await follow(client, 1) == response
        message = {"type": "message", "room": ROOM, "offset": 2, "epoch": epoch, "data": {"é": [2]}}
        await within(feed.publish(ROOM, {"é": [2]}, history=5))
        assert await client.recv() == message
        for text in "345":
            await within(feed.publish(ROOM, text, history=5))
            assert (await client.recv())["data"] == text
        response = {"type": "caught up", "lost": False, "messages": [[5, "5"]], "offset": 5, "epoch": epoch}
        assert await follow(client, 2, 4, epoch) == response
        # Of four messages, it receives the last three, and learns that others are missing.
        last = [[3, "3"], [4, "4"], [5, "5"]]
        assert await follow(client, 3, 1, epoch) == response | {"messages": last, "lost": True}
        assert await follow(client, 4, 5, "another") == response | {"messages": last, "lost": True}
        await client.send_json({"type": "unfollow", "room": ROOM})
        await within(feed.publish(ROOM, "6", history=5))
        assert await client.recv_all() == []
        assert client.connection.rooms == frozenset()


async def test_other_rooms_are_refused_and_other_messages_are_passed_on(router: MakeRouter, logged: LogWatch) -> None:
    feed = await router()
    async with connect_in_memory(feed) as client:
        assert await follow(client, 1, room="secret") == {"type": "refused"}
        for number in range(3):
            response = await follow(client, 1, room=f"{ROOM} {number}")
            assert response["type"] == ("caught up" if number < 2 else "refused")
        await client.send_json({"type": "unfollow", "room": "secret"})
        await client.send_json({"type": "unfollow", "room": f"{ROOM} 0"})
        assert (await follow(client, 1, room=f"{ROOM} 2"))["type"] == "caught up"
        for text in (
            "hello",
            "follow",
            "[" * 100_000 + "follow",
            '{"type": "follow", "room": 1, "id": 1}',
            '{"type": "follow", "room": "news"}',
            '{"type": "follow", "room": "news", "id": 1, "offset": 1}',
            '{"type": "follow", "room": "news", "id": 1, "offset": true, "epoch": ""}',
        ):
            await client.send(text)
            assert await client.recv() == ["other", text]

    class Default(RecoveryConnection):
        pass

    with pytest.warns(UserWarning, match=r"^Default has no may_follow"):
        refusing = await router(Default)
    async with connect_in_memory(refusing) as client:
        assert await follow(client, 1) == {"type": "refused"}
        await client.send("x")
        await client.send_json({"type": "follow", "rom": ROOM})
        assert await client.recv_all() == []
    logged.take("a client has sent a message that is not a request of recovery.js, but Default has no on_other_message")


async def test_members_continue_after_a_restart_of_redis_or_are_told_of_the_loss(
    router: MakeRouter, redis_server: RedisServer, logged: LogWatch
) -> None:
    gaps: list[frozenset[str]] = []
    feed = await router(on_gap=gaps.append)
    cluster: Any = feed.cluster
    first: Any = await within(feed.publish(ROOM, "1", history=5))
    async with connect_in_memory(feed) as client, connect_in_memory(feed) as other:
        for member in (client, other):
            await follow(member, 1)
        await within(feed.publish(ROOM, "2", history=5))
        assert [(await member.recv())["data"] for member in (client, other)] == ["2", "2"]
        redis_server.command("SAVE")
        redis_server.kill()
        await until(lambda: not cluster.commands.available and not cluster._node.bus.available)
        assert await follow(client, 2, 1, first.epoch) == {"type": "unavailable"}
        redis_server.start()
        (redis_server._directory / "dump.rdb").unlink()
        await until(lambda: cluster.commands.available)
        last: Any = await within(feed.publish(ROOM, "3", history=5))
        expected = {"type": "message", "room": ROOM, "offset": 3, "epoch": last.epoch, "data": "3"}
        assert await client.recv() == await other.recv() == expected | {"continues": first.epoch}
        await within(feed.publish(ROOM, "4", history=5))
        assert await client.recv() == await other.recv() == expected | {"offset": 4, "data": "4"}
        assert gaps == []

        # Another history has begun: no message of it continues the last one.
        cluster._node.bus.reconnect()
        await until(lambda: not cluster._node.bus.available)
        redis_server.command("DEL", f"sockjs:history:{ROOM}")
        await until(lambda: gaps)
        assert await client.recv() == await other.recv() == {"type": "gap", "room": ROOM, "within": 0.002}
        await within(feed.publish(ROOM, "1", history=5))
        message = await client.recv()
        assert (message["offset"], message["data"], "continues" in message) == (1, "1", False)
        assert gaps == [{ROOM}]
    logged.take("reconnecting")
    logged.records.clear()


async def test_a_herd_of_clients_is_one_command(router: MakeRouter, redis_server: RedisServer) -> None:
    feed = await router()
    first: Any = await within(feed.publish(ROOM, "1", history=5))
    await within(feed.publish(ROOM, "2", history=5))
    encoded = set()
    async with connect_in_memory(feed) as client:
        await follow(client, 1)
        before = redis_server.command("INFO", "commandstats")["cmdstat_eval"]["calls"]
        connection: Any = client.connection
        connection.send = lambda message: encoded.add(id(message))
        request = json.dumps({"type": "follow", "room": ROOM, "id": 1, "offset": 1, "epoch": first.epoch})
        await within(asyncio.gather(*(connection.on_message(request) for _ in range(500))))
        assert redis_server.command("INFO", "commandstats")["cmdstat_eval"]["calls"] == before + 1
        assert len(encoded) == 1


@pytest.mark.parametrize("cluster", [None, RedisCluster("redis://localhost")])
async def test_a_router_without_recovery_is_an_error(cluster: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^Feed requires .*RedisCluster\(url, recovery=True\)"):
        SockJSRouter(Feed, cluster=cluster)
    # What a callable returns is not known before.
    with pytest.raises(ConfigurationError, match=r"^Feed requires .*RedisCluster\(url, recovery=True\)"):
        async with connect_in_memory(SockJSRouter(lambda session: Feed(session), cluster=cluster)):
            pass


@pytest.mark.parametrize("name", ["may_follow", "on_other_message"])
def test_a_method_with_other_parameters_is_an_error(name: str) -> None:
    kind = type("Chat", (Feed,), {name: lambda self: True})
    with pytest.raises(ConfigurationError, match=rf"^{name}: expected a function that can be called as {name}\(self, "):
        SockJSRouter(kind, cluster=RedisCluster("redis://localhost", recovery=True))


@pytest.mark.parametrize(
    ("name", "hint"), [("can_follow", ": rename can_follow to may_follow$"), ("on_other_message", "a room$")]
)
def test_a_class_whose_clients_may_follow_no_room_causes_a_warning(name: str, hint: str) -> None:
    kind = type("Chat", (RecoveryConnection,), {name: lambda self, argument: True})
    with pytest.warns(
        UserWarning, match=rf"^Chat has no may_follow, so that each client is refused .*{hint}"
    ) as caught:
        SockJSRouter(kind, cluster=RedisCluster("redis://localhost", recovery=True))
    assert [warning.filename for warning in caught] == [__file__]


def test_options_that_exclude_each_other_are_an_error() -> None:
    for options in ({"recovery": True, "transform_message": print}, {"recovery": "yes"}):
        with pytest.raises(ConfigurationError, match=r"^recovery"):
            RedisCluster("redis://localhost", **options)


async def test_the_router_serves_the_script(router: MakeRouter, serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(await router()))
    client.write(b"GET /feed/recovery.js HTTP/1.1\r\nHost: a\r\n\r\n")
    response = await client.response()
    assert (response.status, response.body) == (200, Feed.page_scripts["recovery.js"].read_bytes())
    assert response["Content-Type"] == "text/javascript; charset=UTF-8"
