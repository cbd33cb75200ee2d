"""Sessions that are selected by room, tag or id: which ones, what is done with them, and what is malformed."""

import asyncio
import json
import threading
from typing import Any

import pytest
from application import LogWatch, Noted, Serve
from client import Connect, Join, until, within
from hypothesis import given, settings
from hypothesis import strategies as st

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.multiplex import MultiplexConnection
from sockjs_tornado.session import control
from sockjs_tornado.session.control import Command, Target, decode_command, encode_command
from sockjs_tornado.session.rooms import Rooms

from .test_rooms import House

#: Lone surrogates included.
TEXT = st.text(st.characters(exclude_categories=()))


@pytest.fixture
def house(serve: Serve, connect: Connect, join: Join) -> House:
    return House(serve, connect, join)


async def test_a_user_is_disconnected_on_all_devices_after_the_messages_sent_before(house: House) -> None:
    (phone, a), (laptop, b), (tablet, c) = [await house.enter(kind) for kind in ("websocket", "xhr", "websocket")]
    stranger, _ = await house.enter("websocket", "user:42")
    for connection in (a, b, c):
        connection.tag("user:42")
        connection.send("bye")
    selection = house.router.select(tag="user:42", exclude=c)
    assert repr(selection) == "<Selection tag='user:42'>"
    with pytest.raises(
        TypeError, match=r"^<Selection tag='user:42'> is neither true nor false, since it holds no conn"
    ):
        bool(selection)
    await selection.disconnect(4001, "Logged out")
    for peer, connection in ((phone, a), (laptop, b)):
        assert await peer.message() == "bye"
        assert await peer.frame() == 'c[4001,"Logged out"]'
        assert await connection.closed() == (4001, "Logged out")
    # A room of the same name is another thing, and the excluded device stays.
    await house.router.select(tag="user:42").send({"still": "here"})
    assert [await tablet.message(), await tablet.message()] == ["bye", {"still": "here"}]
    house.router.select(room="user:42").send("room")
    assert await stranger.message() == "room"


async def test_selected_connections_join_and_leave_rooms(house: House) -> None:
    (peer, a), (other, b) = await house.enter("websocket", "lobby"), await house.enter("websocket", "lobby")
    a.tag("vip")
    house.router.select(tag="vip").join("backstage")
    house.router.select(room="lobby").join("hall")
    await house.router.select(id=b.global_id).leave("lobby")
    assert a.rooms == {"lobby", "backstage", "hall"}
    assert b.rooms == {"hall"}
    house.router.select(id=a.global_id).send("to you")
    house.router.publish("hall", "to all")
    assert [await peer.message(), await peer.message(), await other.message()] == ["to you", "to all", "to all"]
    # Nobody is selected.
    for selection in (
        house.router.select(tag="lobby"),
        house.router.select(id=f"0000:{a.id}"),
        house.router.select(id="tag:vip"),
        house.router.select(room="empty"),
    ):
        await selection.disconnect()
    assert len(house.router.connections) == 2


async def test_a_selection_without_a_method_causes_a_warning(house: House) -> None:
    with pytest.warns(RuntimeWarning, match=r"<Selection room='lobby'> does nothing by itself: call its disconnect"):
        house.router.select(room="lobby")
    # These have been told by an error. In tests, warnings are errors.
    with pytest.raises(ValueError, match="code"):
        house.router.select(room="lobby").disconnect(70000)
    with pytest.raises(TypeError, match="room"):
        house.router.select(room="lobby").join(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="room"):
        house.router.select(room="lobby").leave(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="object"):
        house.router.select(room="lobby").send(object())


async def test_the_presence_is_given_by_keyword(house: House) -> None:
    _, a = await house.enter()
    for arguments in (("lobby", "kitchen"), ("lobby", {"name": "Ann"})):
        with pytest.raises(TypeError, match="join"):
            a.join(*arguments)
    assert a.rooms == frozenset()


async def test_tags_and_ids_end_with_the_connection(house: House) -> None:
    peer, a = await house.enter()
    assert a.tags == frozenset()
    a.tag("user:42")
    a.tag("user:42")
    a.tag("admin")
    a.untag("admin")
    a.untag("never set")
    found = a.global_id
    assert a.tags == {"user:42"}
    assert a.global_id == found
    at_close: list[Any] = []
    a.on_close = lambda: at_close.append((a.tags, a.global_id))  # type: ignore[method-assign]
    peer.vanish()
    await house.settle()
    assert at_close == [({"user:42"}, found)]
    tags = house.router.container.rooms.tags
    assert tags is not None
    a.tag("late")
    assert (len(tags), tags._names, a.tags) == (0, {}, frozenset())


async def test_without_tags_rooms_keep_nothing_for_them(house: House) -> None:
    _, a = await house.enter("websocket", "lobby")
    a.untag("x")
    assert a.tags == frozenset()
    house.router.select(tag="user:42").disconnect()
    a.close()
    await house.settle()
    assert (house.router.container.rooms.tags, house.router.container.rooms.process_id) == (None, "")


async def test_many_sessions_are_disconnected_in_batches(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "BATCH_SIZE", 2)
    peers = [(await house.enter("websocket", "lobby"))[0] for _ in range(5)]
    house.router.select(room="lobby").disconnect(4000, "Closed")
    assert len(house.router.connections) == 3
    for peer in peers:
        assert await peer.frame() == 'c[4000,"Closed"]'


async def test_a_session_whose_close_fails_keeps_no_other_connected(
    house: House, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, broken), (peer, _) = await house.enter("websocket", "lobby"), await house.enter("websocket", "lobby")

    def close(self: Any, code: int, reason: str, **more: Any) -> None:
        monkeypatch.undo()
        raise ValueError("cannot close")

    monkeypatch.setattr(type(broken.session), "close", close)
    await house.router.select(room="lobby").disconnect(4000, "Closed")
    assert await peer.frame() == 'c[4000,"Closed"]'
    logged.take("Failed to close a session")


async def test_a_client_is_disconnected_while_on_open_runs(house: House) -> None:
    """An application tags the connection, and then checks the user: a logout in between is not missed."""
    tagged, may_go_on = asyncio.Event(), asyncio.Event()

    async def on_open(self: Noted, info: Any) -> None:
        self.tag("user:42")
        tagged.set()
        await may_go_on.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Noted, "on_open", on_open)
        house.server = await house._serve(house.router)
        peer = house._join(house.server, "websocket")
        assert await peer.frame() == "o"
        await within(tagged.wait())
        house.router.select(tag="user:42").disconnect(4001, "Logged out")
        assert await peer.frame() == 'c[4001,"Logged out"]'
        may_go_on.set()


async def test_mistakes_are_errors_that_name_what_was_expected(house: House) -> None:
    _, a = await house.enter("websocket", "lobby")
    router: Any = house.router
    for wrong in ({}, {"room": "a", "tag": "b"}):
        with pytest.raises(TypeError, match=r"expected one of room=, tag= and id="):
            router.select(**wrong)
    with pytest.raises(TypeError, match=r"select\(tag=\.\.\.\) .* got 'user:42' without one"):
        router.select("user:42")
    with pytest.raises(TypeError, match=r"id must be str, not Noted; for this connection, use connection.global_id"):
        router.select(id=a)
    with pytest.raises(ValueError, match=r"id: expected the global_id of a connection, got '[0-9]+'; "):
        router.select(id=a.id)
    with pytest.raises(TypeError, match="exclude: expected a connection or an iterable of connections, got '1'"):
        router.select(room="lobby", exclude="1")
    wrong_tags: list[tuple[Any, type[Exception]]] = [(42, TypeError), ("", ValueError), ("x" * 1001, ValueError)]
    for tag, error in wrong_tags:
        for call in (a.tag, a.untag, lambda tag: router.select(tag=tag)):
            with pytest.raises(error):
                call(tag)
    lobby: Any = router.select(room="lobby")
    with pytest.raises(TypeError, match="close code must be int"):
        lobby.disconnect("4001")
    with pytest.raises(ValueError, match="0-65535"):
        lobby.disconnect(70000)
    with pytest.raises(TypeError, match="room must be"):
        lobby.join(5)
    with pytest.raises(TypeError, match="room must be"):
        lobby.leave(["a"])
    with pytest.raises(TypeError, match="a message must be"):
        lobby.send(b"x")
    for tag, error, text in (
        (42, TypeError, "a tag must be str, not int"),
        ("", ValueError, "a tag must not be empty"),
        ("x" * 1001, ValueError, "at most 1000 characters, got 1001"),
    ):
        with pytest.raises(error, match=text):
            a.tag(tag)  # type: ignore[arg-type]
    for number in range(100):
        a.tag(str(number))
    a.tag("99")
    with pytest.raises(ValueError, match=r"at most 100 tags"):
        a.tag("100")
    assert house.router.connections == [a]
    raised: list[BaseException] = []

    def elsewhere() -> None:
        for function in (lobby.disconnect, lambda: a.tag("x"), lambda: a.untag("x")):
            try:
                function()
            except RuntimeError as error:
                raised.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(raised) == 3


def test_names_of_applications_win() -> None:
    class Tagged(SockJSConnection):
        def __init__(self, session: Any) -> None:
            super().__init__(session)
            self.tags = {"own"}  # type: ignore[assignment]

    session: Any = None
    with pytest.warns(UserWarning, match=r"^Tagged\.tags was set, which sets no tag: call tag\(name\)\. If it is "):
        assert Tagged(session).tags == {"own"}
    tagged = Tagged(session)
    assert tagged.tags == {"own"}
    vars(tagged)["rooms"] = "own"
    assert tagged.rooms == "own"  # type: ignore[comparison-overlap]


@settings(max_examples=25)
@given(name=TEXT, arguments=st.tuples(st.integers(0, 65535), TEXT), kind=st.sampled_from(["room", "tag", "id"]))
def test_encoded_commands_can_be_decoded(name: str, arguments: tuple[int, str], kind: str) -> None:
    for action, values in (
        ("disconnect", arguments),
        ("join", arguments[1:]),
        ("leave", arguments[1:]),
        ("send", ("t", arguments[1])),
        ("send", ("j", json.dumps(arguments[1:]))),
    ):
        command = Command(action, Target(kind, name), values)
        assert decode_command(encode_command(command)) == command


@pytest.mark.parametrize(
    "rubbish",
    [
        "",
        "{}",
        "null",
        "[]",
        '["disconnect"]',
        '["disconnect","tag","a"]',
        '["disconnect","tag","a",true,"x"]',
        '["disconnect","tag","a",-1,"x"]',
        '["disconnect","tag","a",65536,"x"]',
        '["disconnect","tag","a",1.0,"x"]',
        '["disconnect","tag","a",1000,null]',
        '["disconnect","tag","a",1000,"x",1]',
        '["disconnect","session","a",1000,"x"]',
        '["disconnect",["tag"],"a",1000,"x"]',
        '["disconnect","tag",5,1000,"x"]',
        '["join","tag","a"]',
        '["join","tag","a",5]',
        '["leave","tag","a","b","c"]',
        '["send","tag","a","x"]',
        '["send","tag","a","b","x"]',
        '["send","tag","a","j",[1]]',
        '["evict","tag","a"]',
        '[5,"tag","a"]',
        "[" * 100_000,
    ],
)
def test_malformed_commands_are_rejected(rubbish: str) -> None:
    with pytest.raises(ValueError, match=r"command|JSON|Expecting|nested|message"):
        decode_command(rubbish)


def test_ids_of_two_processes_differ() -> None:
    first, second = Rooms(), Rooms()
    first.create_tags()
    second.create_tags()
    assert len({first.process_id, second.process_id, ""}) == 3


async def test_channels_of_one_connection_are_tagged_separately(serve: Serve, join: Join) -> None:
    class Tagged(SockJSConnection):
        def on_open(self, info: object) -> None:
            self.tag(type(self).__name__)

    class Other(Tagged):
        pass

    router = SockJSRouter(MultiplexConnection.get(a=Tagged, b=Other), "/echo")
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    await peer.send("sub,a", "sub,b")
    await until(lambda: len(router.container.rooms.tags or ()) == 2)
    router.select(tag="Tagged").disconnect()
    router.select(tag="Other").send("x")
    assert [await peer.message(), await peer.message()] == ["uns,a", "msg,b,x"]
