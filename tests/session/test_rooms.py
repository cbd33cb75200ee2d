"""Rooms in one process: their members, and the delivery of published messages."""

import asyncio
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from application import Echo, Journal, Noted, Serve
from client import FRAMED, Connect, Join, Peer, settle, within

from sockjs_tornado import ConfigurationError, SockJSConnection, SockJSRouter
from sockjs_tornado.multiplex import MultiplexConnection

ROOM = "lobby"


class House:
    """A router with people in it."""

    def __init__(self, serve: Serve, connect: Connect, join: Join) -> None:
        self.journal = Journal()
        self.router = SockJSRouter(self.journal, "/echo", {"disconnect_delay": 60})
        self._serve, self._connect, self._join = serve, connect, join
        self.server: Any = None

    async def enter(self, transport: str = "websocket", *rooms: str) -> tuple[Peer, Noted]:
        """Have somebody come, and enter rooms."""
        self.server = self.server or await self._serve(self.router)
        peer = self._join(self.server, transport)
        assert await peer.frame() == "o"
        connection = await self.journal.connection()
        for room in rooms:
            connection.join(room)
        return peer, connection

    async def settle(self) -> None:
        """Wait until the server has seen what was sent to it."""
        await settle(self._connect, self.server)


@pytest.fixture
def house(serve: Serve, connect: Connect, join: Join) -> House:
    return House(serve, connect, join)


@pytest.mark.parametrize("transport", FRAMED)
async def test_all_members_of_a_room_receive_its_messages(house: House, transport: str) -> None:
    inside = [(await house.enter(kind, ROOM))[0] for kind in (transport, "websocket")]
    outside, stranger = await house.enter(transport, "another room")
    await house.router.publish(ROOM, "hello")
    house.router.publish(ROOM, {"a": [1]})
    for peer in inside:
        assert [await peer.message(), await peer.message()] == ["hello", {"a": [1]}]
    stranger.send("first of all")
    assert await outside.message() == "first of all"


@pytest.mark.parametrize("several", [False, True])
async def test_some_may_be_left_out(house: House, several: bool) -> None:
    (a, said), (b, also), (c, _) = [await house.enter("websocket", ROOM) for _ in range(3)]
    house.router.publish(ROOM, "x", exclude=[said, also] if several else said)
    assert await c.message() == "x"
    house.router.publish(ROOM, "y")
    assert await a.message() == "y"
    assert await b.message() == ("y" if several else "x")


async def test_one_message_can_be_published_in_many_rooms(house: House) -> None:
    (both, _), (one, _) = await house.enter("websocket", "a", "b"), await house.enter("xhr", "b")
    left_out, author = await house.enter("websocket", "a")
    await house.router.publish_many(iter(("a", "b", "empty")), {"n": 1}, exclude=author)
    house.router.publish_many(["b", "a"], "last", exclude=[])
    assert [await both.message() for _ in range(4)] == [{"n": 1}, {"n": 1}, "last", "last"]
    assert [await one.message() for _ in range(2)] == [{"n": 1}, "last"]
    assert await left_out.message() == "last"
    for wrong in ("a", None, ["a", 5]):
        with pytest.raises(TypeError, match=r"rooms must be|name of a room"):
            house.router.publish_many(wrong, "x")  # type: ignore[arg-type]


async def test_a_session_that_left_a_room_receives_no_more(house: House) -> None:
    peer, connection = await house.enter("websocket", ROOM, "b")
    assert connection.rooms == {ROOM, "b"}
    connection.leave(ROOM)
    connection.leave(ROOM)
    connection.leave("never entered")
    assert connection.rooms == {"b"}
    house.router.publish(ROOM, "lost")
    house.router.publish("b", "heard")
    assert await peer.message() == "heard"


async def test_to_enter_twice_is_to_be_there_once(house: House) -> None:
    peer, connection = await house.enter("websocket", ROOM, ROOM)
    house.router.publish(ROOM, "x")
    house.router.publish(ROOM, "y")
    assert [await peer.message(), await peer.message()] == ["x", "y"]
    connection.leave(ROOM)
    assert connection.rooms == frozenset()


@pytest.mark.parametrize("room", ["", "a b", "☃", "\ud800", "x" * 100_000, "__proto__", "a\nb"])
async def test_any_text_is_a_name(house: House, room: str) -> None:
    peer, connection = await house.enter("websocket", room)
    assert connection.rooms == {room}
    house.router.publish(room, "x")
    assert await peer.message() == "x"


END: dict[str, Callable[[Peer, Noted], None]] = {
    "the client leaves": lambda peer, connection: peer.vanish(),
    "the server closes": lambda peer, connection: connection.close(),
}


@pytest.mark.parametrize("end", END)
async def test_a_connection_leaves_its_rooms_when_it_closes(house: House, end: str) -> None:
    peer, connection = await house.enter("websocket", ROOM, "b")
    at_close = []
    connection.on_close = lambda: at_close.append(connection.rooms)  # type: ignore[method-assign]
    END[end](peer, connection)
    await house.settle()
    rooms = house.router.container.rooms
    # It may still say goodbye there.
    assert at_close == [{ROOM, "b"}]
    assert len(rooms) == 0
    connection.join(ROOM)
    assert len(rooms) == 0
    house.router.publish(ROOM, "lost")


async def test_no_message_is_delivered_after_the_close_while_on_close_runs(house: House) -> None:
    _, connection = await house.enter("websocket", ROOM)
    gone = asyncio.Event()

    async def on_close() -> None:
        await gone.wait()

    connection.on_close = on_close  # type: ignore[method-assign]
    connection.close()
    assert connection.rooms == {ROOM}
    assert len(house.router.container.rooms) == 0
    house.router.publish(ROOM, "lost")
    gone.set()


async def test_a_session_that_is_never_opened_leaves_its_rooms_too(house: House) -> None:
    connection = house.router.create_session("abc").conn
    connection.join(ROOM)
    connection.close()
    assert connection.rooms == frozenset()
    assert len(house.router.container.rooms) == 0


async def test_a_callback_may_publish_and_others_may_leave_meanwhile(serve: Serve, join: Join) -> None:
    """Who leaves because of what it hears hears no more of it; the others do."""

    class Leaving(SockJSConnection):
        def on_open(self, info: object) -> None:
            self.join(ROOM)

        def on_message(self, message: str) -> None:
            for connection in self.router.connections:
                if connection is not self:
                    connection.leave(ROOM)
            self.publish(ROOM, message)

    server = await serve(SockJSRouter(Leaving, "/echo"))
    peers = [join(server, "websocket") for _ in range(3)]
    for peer in peers:
        assert await peer.frame() == "o"
    await peers[1].send("x")
    assert await peers[1].message() == "x"


async def test_a_connection_publishes_as_its_router_does(house: House) -> None:
    (a, author), (b, _) = [await house.enter("websocket", ROOM) for _ in range(2)]
    assert author.router is author.session.server is house.router
    await author.publish(ROOM, {"to": "all"})
    await author.publish(ROOM, "to the others", exclude=author)
    with pytest.raises(ConfigurationError, match="history, ttl and idempotency_key require a RedisCluster: create"):
        author.publish(ROOM, "x", history=1)
    with pytest.raises(ConfigurationError, match="history, ttl and idempotency_key require a RedisCluster: create"):
        author.publish(ROOM, "x", ttl=1)
    author.router = "the application's own"
    author.close()
    author.publish(ROOM, "from a closed connection")
    assert await a.frame() == 'a[{"to":"all"}]'
    assert await a.frame() == 'c[3000,"Go away!"]'
    expected = [{"to": "all"}, "to the others", "from a closed connection"]
    assert [await b.message() for _ in expected] == expected


async def test_channels_have_rooms_of_their_own(serve: Serve, join: Join) -> None:
    class Member(Echo):
        def on_open(self, info: object) -> None:
            self.join(ROOM)

    router = SockJSRouter(MultiplexConnection.get(a=Member, b=Member, c=Echo), "/echo")
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    await peer.send("sub,a", "sub,b", "sub,c", "msg,c,ready")
    assert await peer.message() == "msg,c,ready"
    router.publish(ROOM, "x")
    assert [await peer.message(), await peer.message()] == ["msg,a,x", "msg,b,x"]
    await peer.send("uns,a", "msg,c,ready")
    assert await peer.message() == "msg,c,ready"
    router.publish(ROOM, "y")
    assert await peer.message() == "msg,b,y"


async def test_an_application_s_own_rooms_are_its_own(serve: Serve, join: Join) -> None:
    """As many have them that were written for sockjs-tornado 1.0."""

    class Own(SockJSConnection):
        def on_open(self, info: object) -> None:
            if type(self) is Own and not caught:
                with pytest.warns(
                    UserWarning, match=r"^Own\.rooms was set, which joins no room: call join\(r"
                ) as found:
                    self.rooms = ["mine"]  # type: ignore[assignment]
                caught.append(found[0].filename)
            else:
                self.rooms = ["mine"]  # type: ignore[assignment]

        def on_message(self, message: str) -> None:
            self.rooms.append(message)  # type: ignore[attr-defined]
            self.send(self.rooms)

    class Named(Own):
        rooms: Any = None

    # Once for a class, unless the class has the attribute, too.
    caught: list[str] = []
    for kind in (Named, Own, Own):
        peer = join(await serve(SockJSRouter(kind, "/echo")), "websocket")
        assert await peer.frame() == "o"
        await peer.send("x")
        assert await peer.message() == ["mine", "x"]
    assert caught == [__file__]


@pytest.mark.parametrize("room", [None, 1, b"x", ["x"]])
async def test_a_name_that_is_no_text_is_rejected(house: House, room: Any) -> None:
    _, connection = await house.enter()
    hint = "; call it for each room" if isinstance(room, list) else ""
    for call in (connection.join, connection.leave, lambda name: house.router.publish(name, "x")):
        with pytest.raises(TypeError, match=rf"^the name of a room must be str, not \w+{hint}$"):
            call(room)
    assert connection.rooms == frozenset()


@pytest.mark.parametrize(("presence", "error"), [(object(), TypeError), (float("nan"), ValueError)])
async def test_a_presence_that_is_no_json_is_named(house: House, presence: Any, error: type[Exception]) -> None:
    _, connection = await house.enter()
    with pytest.raises(error, match=r"^presence: "):
        connection.join(ROOM, presence=presence)
    assert connection.rooms == frozenset()


@pytest.mark.parametrize("exclude", ["1", "", 1, None, ["1"], {"id": 1}, SockJSRouter(SockJSConnection, "/a")])
async def test_what_is_no_connection_cannot_be_left_out(house: House, exclude: Any) -> None:
    peer, connection = await house.enter("websocket", ROOM)
    wrong = next(iter(exclude)) if isinstance(exclude, list | dict) else exclude
    given = re.escape(f"{wrong!r} ({type(wrong).__name__})")
    expected = rf"^exclude: expected a connection .*, got {given}; pass the connection"
    with pytest.raises(TypeError, match=expected):
        connection.publish(ROOM, "x", exclude=exclude)
    with pytest.raises(TypeError, match=expected):
        house.router.publish_many([ROOM], "x", exclude=exclude)
    connection.send("last")
    assert await peer.message() == "last"


async def test_a_message_that_is_none_is_rejected(house: House) -> None:
    await house.enter("websocket", ROOM)
    with pytest.raises(TypeError):
        house.router.publish(ROOM, 5)


async def test_another_thread_may_not(house: House) -> None:
    _, connection = await house.enter("websocket", ROOM)
    raised = []

    def attempt() -> None:
        for call in (
            lambda: connection.join("x"),
            lambda: connection.leave(ROOM),
            lambda: house.router.publish(ROOM, "x"),
        ):
            try:
                call()
            except RuntimeError as error:
                raised.append(str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert len(raised) == 3
    assert connection.rooms == {ROOM}


async def test_presence_lasts_from_join_to_leave(house: House) -> None:
    connections = [(await house.enter())[1] for _ in range(3)]
    first, second, third = connections
    first.join(ROOM, presence={"name": "Ann"})
    second.join(ROOM, presence=["Bob"])
    third.join(ROOM)
    labels = [f"local:{connection.session.label}" for connection in connections]
    assert await house.router.presence(ROOM) == {labels[0]: {"name": "Ann"}, labels[1]: ["Bob"]}
    first.join(ROOM, presence=1)
    second.leave(ROOM)
    assert await house.router.presence(ROOM) == {labels[0]: 1}
    first.close()
    assert await house.router.presence(ROOM) == {}
    assert await house.router.presence("another") == {}
    with pytest.raises(TypeError):
        await house.router.presence(5)  # type: ignore[arg-type]


async def test_leaving_a_room_in_on_close_is_too_late(serve: Serve, join: Join) -> None:
    closed = asyncio.Event()

    class Leaving(SockJSConnection):
        def on_close(self) -> None:
            assert self.rooms == {ROOM}
            self.leave(ROOM)
            closed.set()

        def on_open(self, info: Any) -> None:
            self.join(ROOM)

    router = SockJSRouter(Leaving, "/echo")
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    for connection in router.connections:
        connection.close()
    await within(closed.wait())
    assert not router.container.rooms.members(ROOM)
