"""Channels over one connection: on the wire, under pressure, and with the page script of websocket-multiplex."""

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from application import Journal, Noted, Serve, congest, exception_of
from client import POLLING, TEXT, TIMEOUT, Connect, Join, Peer, WebSocket, frame, settle, until, within
from doubles import FakeContainer, Receiver, make_session
from programs import ROOT, Ended, ServerProgram, check_sockjs_client, find_program
from tornado.web import HTTPError

from sockjs_tornado import ConfigurationError, ConnectionClosed, ConnectionInfo, SockJSConnection, SockJSRouter
from sockjs_tornado.multiplex import MultiplexConnection, _escape

each_transport = pytest.mark.parametrize("transport", ["websocket", "xhr"])

Enter = Callable[..., Awaitable[Peer]]


@pytest.fixture
def enter(serve: Serve, join: Join) -> Enter:
    """Return a function that serves channels and connects: ``peer = await enter("xhr", news=News)``."""

    async def enter_channels(transport: str, settings: Any = None, **channels: Any) -> Peer:
        server = await serve(SockJSRouter(MultiplexConnection.get(**channels), "/chat", settings))
        peer = join(server, transport, prefix="/chat")
        assert await peer.frame() == "o"
        return peer

    return enter_channels


class Echo(SockJSConnection):
    """Sends every message back."""

    def on_message(self, message: str) -> None:
        self.send(message)


#: What the log says of messages that are ignored.
EARLY, FOREIGN = "for a channel that it has not opened", "that is not of the protocol"


# The wire.


@each_transport
async def test_a_channel_is_opened_used_and_closed(enter: Enter, transport: str) -> None:
    news = Journal()
    peer = await enter(transport, news=news)
    await peer.send("sub,news")
    connection = await news.connection()
    assert connection.info.ip == "127.0.0.1"
    assert connection.info.transport == transport
    connection.send("hello")
    assert await peer.message() == "msg,news,hello"
    await peer.send("msg,news,hi")
    assert await connection.message() == "hi"
    await peer.send("uns,news")
    assert await connection.closed() == (1000, "Channel closed")
    assert connection.is_closed


async def test_the_carrier_selects_the_subprotocol_of_its_channels(serve: Serve, connect: Connect) -> None:
    class Carrier(MultiplexConnection):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            return subprotocols[0]

    class News(Noted):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            raise AssertionError("a channel is asked")

    news = Journal(News)
    server = await serve(SockJSRouter(Carrier.get(news=news), "/chat"))
    fields = ["Sec-WebSocket-Protocol: v12.stomp, v11.stomp"]
    websocket = await WebSocket.open(await connect(server), "/chat/websocket", *fields)
    assert websocket.response["Sec-WebSocket-Protocol"] == "v12.stomp"
    websocket.write(frame(TEXT, "sub,news"))
    assert (await news.connection()).info.subprotocol == "v12.stomp"


@each_transport
@pytest.mark.parametrize("payload", ["", ",", "a,b,,c", "line\nline,\r\n", "sub,news", "ключ \u2028 😀", '{"a":[1,2]}'])
async def test_a_payload_may_be_any_text(enter: Enter, transport: str, payload: str) -> None:
    peer = await enter(transport, news=Echo)
    await peer.send("sub,news", f"msg,news,{payload}")
    assert await peer.message() == f"msg,news,{payload}"


@each_transport
async def test_a_message_may_go_without_a_payload(enter: Enter, transport: str) -> None:
    peer = await enter(transport, news=Echo)
    await peer.send("sub,news", "msg,news")
    assert await peer.message() == "msg,news,"


@each_transport
async def test_a_dict_is_sent_as_json(enter: Enter, transport: str) -> None:
    news = Journal()
    peer = await enter(transport, news=news)
    await peer.send("sub,news")
    (await news.connection()).send({"a": [1, "ü"]})
    assert await peer.message() == 'msg,news,{"a":[1,"ü"]}'


@each_transport
async def test_channels_do_not_meet(enter: Enter, transport: str) -> None:
    news, chat = Journal(), Journal()
    peer = await enter(transport, news=news, chat=chat)
    await peer.send("sub,news", "sub,chat", "msg,chat,1", "msg,news,2", "msg,chat,3")
    in_news, in_chat = await news.connection(), await chat.connection()
    assert [await in_chat.message(), await in_chat.message(), await in_news.message()] == ["1", "3", "2"]
    in_news.send("4")
    assert await peer.message() == "msg,news,4"
    in_chat.send("5")
    assert await peer.message() == "msg,chat,5"
    await peer.send("uns,news")
    await in_news.closed()
    await peer.send("msg,chat,6")
    assert await in_chat.message() == "6"
    assert in_chat.closes == []


@each_transport
@pytest.mark.parametrize(
    ("nonsense", "reported"),
    [
        *((text, EARLY) for text in ("msg,other,a", "msg,chat,before it is open")),
        *((text, FOREIGN) for text in ("sub", "sub,", "msg", ",", "", "news", "SUB,chat", "new,news", "close,news,a")),
        *((text, None) for text in ("uns,other", "uns,chat", "sub,news", "sub,news,again")),
    ],
)
async def test_malformed_messages_are_ignored(
    enter: Enter, logged: Any, transport: str, nonsense: str, reported: str | None
) -> None:
    news, chat = Journal(), Journal()
    peer = await enter(transport, news=news, chat=chat)
    await peer.send("sub,news", nonsense, "msg,news,hello")
    connection = await news.connection()
    assert await connection.message() == "hello"
    assert connection.closes == []
    assert news.opened.empty()
    assert chat.opened.empty()
    connection.send("hi")
    assert await peer.message() == "msg,news,hi"
    if reported is not None:
        logged.take(f"Ignored a message {reported} of a client: send messages in the page with new WebSocketMultiplex")


@each_transport
async def test_a_channel_that_does_not_exist_is_closed_for_the_page(enter: Enter, transport: str, logged: Any) -> None:
    news = Journal()
    peer = await enter(transport, news=news, chat=Echo)
    for name in ("News", "chat ", "a\x1b" * 100):
        await peer.send(f"sub,{name}", f"msg,{name},lost", f"uns,{name}")
        assert await peer.message() == f"uns,{name}"
    text = logged.take("has subscribed to the channel ").getMessage()
    assert text.endswith("the channel 'News', but there is only: news, chat. Check the name in the page")
    # A known channel is not affected.
    await peer.send("sub,chat", "msg,chat,x")
    assert await peer.message() == "msg,chat,x"
    assert news.opened.empty()


async def test_bytes_make_no_sense_either(serve: Serve, connect: Connect, logged: Any) -> None:
    server = await serve(SockJSRouter(MultiplexConnection.get(news=Echo), "/chat"))
    websocket = await WebSocket.open(await connect(server), "/chat/websocket")
    websocket.write(frame(TEXT, "sub,news") + frame(2, b"msg,news,a") + frame(TEXT, "msg,news,b"))
    assert await websocket.text() == "msg,news,b"
    logged.take(f"Ignored a message {FOREIGN} of a client")


@each_transport
async def test_a_channel_may_be_opened_again(enter: Enter, transport: str) -> None:
    news = Journal()
    peer = await enter(transport, news=news)
    for _ in range(2):
        await peer.send("sub,news")
        connection = await news.connection()
        await peer.send("uns,news")
        assert await connection.closed() == (1000, "Channel closed")
    assert news.opened.empty()


@each_transport
async def test_the_server_closes_a_channel(enter: Enter, transport: str) -> None:
    news, chat = Journal(), Journal()
    peer = await enter(transport, news=news, chat=chat)
    await peer.send("sub,news", "sub,chat")
    in_news, in_chat = await news.connection(), await chat.connection()
    in_news.send("last")
    in_news.close(4000, "Enough")
    in_news.close()
    in_news.send("too late")
    assert [await peer.message(), await peer.message()] == ["msg,news,last", "uns,news"]
    assert await in_news.closed() == (4000, "Enough")
    await peer.send("msg,news,too late", "msg,chat,there")
    assert await in_chat.message() == "there"
    assert in_news._messages.empty()
    in_chat.send("hi")
    assert await peer.message() == "msg,chat,hi"


@each_transport
async def test_the_client_leaves_with_all_its_channels(serve: Serve, join: Join, transport: str) -> None:
    news, chat, gone = Journal(), Journal(), Journal()
    channels = MultiplexConnection.get(news=news, chat=chat, gone=gone)
    router = SockJSRouter(channels, "/chat", {"disconnect_delay": 600})
    peer = join(await serve(router), transport, prefix="/chat")
    assert await peer.frame() == "o"
    await peer.send("sub,news", "sub,chat", "sub,gone", "uns,gone")
    connections = [await journal.connection() for journal in (news, chat)]
    (carrier,) = router.connections
    peer.vanish()
    if transport in POLLING:
        # The test sets the time.
        carrier.session.check(carrier.session.due)
    for connection in connections:
        code, _ = await connection.closed()
        assert code == 1006
    assert await (await gone.connection()).closed() == (1000, "Channel closed")


@each_transport
async def test_the_server_closes_the_connection_with_all_its_channels(serve: Serve, join: Join, transport: str) -> None:
    news, chat = Journal(), Journal()
    router = SockJSRouter(MultiplexConnection.get(news=news, chat=chat), "/chat")
    peer = join(await serve(router), transport, prefix="/chat")
    assert await peer.frame() == "o"
    await peer.send("sub,news", "sub,chat")
    connections = [await news.connection(), await chat.connection()]
    (carrier,) = router.connections
    carrier.close(4001, "All of you")
    assert await peer.frame() == 'c[4001,"All of you"]'
    assert [await connection.closed() for connection in connections] == [(4001, "All of you")] * 2
    connections[0].send("too late")
    connections[1].close()
    assert [len(connection.closes) for connection in connections] == [1, 1]


def test_a_channel_may_close_another_as_the_client_leaves() -> None:
    closed: list[tuple[str, Any]] = []
    chats: list[SockJSConnection] = []

    class Chat(SockJSConnection):
        def on_open(self, info: ConnectionInfo) -> None:
            chats.append(self)

        def on_close(self) -> None:
            closed.append(("chat", self.session.close_code))

    class News(SockJSConnection):
        def on_close(self) -> None:
            closed.append(("news", self.session.close_code))
            chats[0].close(4002, "No news")

    carrier = make_session(FakeContainer(), None, kind=MultiplexConnection.get(news=News, chat=Chat))
    Receiver(carrier).attach()
    carrier._receive(["sub,news", "sub,chat"])
    carrier.close(4001, "All of you")
    assert closed == [("news", 4001), ("chat", 4002)]


async def test_channels_get_the_close_code_if_the_carrier_has_its_own_attribute(serve: Serve, join: Join) -> None:
    news = Journal()
    router = SockJSRouter(MultiplexConnection.get(news=news), "/chat")
    peer = join(await serve(router), "websocket", prefix="/chat")
    assert await peer.frame() == "o"
    await peer.send("sub,news")
    connection = await news.connection()
    carrier: Any = router.connections[0]
    carrier.close_code, carrier.close_reason = "mine", 5
    carrier.close(4001, "All of you")
    assert await connection.closed() == (4001, "All of you")


async def test_channels_get_the_close_code_0(serve: Serve, join: Join) -> None:
    news = Journal()
    router = SockJSRouter(MultiplexConnection.get(news=news), "/chat")
    peer = join(await serve(router), "websocket", prefix="/chat")
    assert await peer.frame() == "o"
    await peer.send("sub,news")
    connection = await news.connection()
    (carrier,) = router.connections
    carrier.close(0, "Zero")
    assert await connection.closed() == (0, "Zero")


async def test_the_end_of_a_router_is_the_end_of_its_channels(serve: Serve, join: Join) -> None:
    news = Journal()
    router = SockJSRouter(MultiplexConnection.get(news=news), "/chat")
    peer = join(await serve(router), "websocket", prefix="/chat")
    assert await peer.frame() == "o"
    await peer.send("sub,news")
    connection = await news.connection()
    closing = asyncio.ensure_future(router.close(1001, "Bye"))
    assert await peer.frame() == 'c[1001,"Bye"]'
    peer.vanish()
    await within(closing)
    assert await connection.closed() == (1001, "Bye")


# Accepted and rejected channels, and errors.


@each_transport
@pytest.mark.parametrize("way", ["false", "http error", "close", "later"])
async def test_a_channel_may_reject(enter: Enter, transport: str, way: str) -> None:
    closes = []

    class Refusing(SockJSConnection):
        def on_open(self, info: ConnectionInfo) -> Any:
            if way == "http error":
                raise HTTPError(403)
            if way == "close":
                self.close()
            return self.later() if way == "later" else way == "close"

        async def later(self) -> bool:
            await asyncio.sleep(0)
            return False

        def on_message(self, message: str) -> None:
            raise AssertionError("it was not let in")

        def on_close(self) -> None:
            closes.append((self.close_code, self.close_reason))

    chat = Journal()
    peer = await enter(transport, news=Refusing, chat=chat)
    await peer.send("sub,news", "msg,news,a", "sub,chat", "msg,chat,b")
    assert await peer.message() == "uns,news"
    assert await (await chat.connection()).message() == "b"
    assert closes == [(3000, "Go away!")]


@each_transport
async def test_a_channel_that_fails_is_closed_alone(enter: Enter, logged: Any, transport: str) -> None:
    class Failing(SockJSConnection):
        def on_message(self, message: str) -> None:
            raise ValueError(message)

    peer = await enter(transport, news=Failing, chat=Echo)
    await peer.send("sub,news", "sub,chat", "msg,news,a", "msg,chat,b")
    assert [await peer.message(), await peer.message()] == ["uns,news", "msg,chat,b"]
    assert type(exception_of(logged.take("on_message"))) is ValueError


@each_transport
async def test_a_connection_may_be_closed_as_it_is_made(enter: Enter, transport: str) -> None:
    class Stillborn(Echo):
        def __init__(self, session: Any) -> None:
            super().__init__(session)
            self.session.close()

    peer = await enter(transport, news=Stillborn, chat=Echo)
    await peer.send("sub,news", "sub,chat", "msg,chat,b")
    assert [await peer.message(), await peer.message()] == ["uns,news", "msg,chat,b"]


async def test_one_message_goes_to_the_channels_of_many(serve: Serve, join: Join) -> None:
    news = Journal()
    server = await serve(SockJSRouter(MultiplexConnection.get(news=news, chat=news), "/chat"))
    peers = [join(server, transport, prefix="/chat") for transport in ("websocket", "xhr", "websocket")]
    connections = []
    for peer, channel in zip(peers, ("news", "chat", "news"), strict=True):
        assert await peer.frame() == "o"
        await peer.send(f"sub,{channel}")
        connections.append(await news.connection())
    connections[2].close()
    assert await peers[2].message() == "uns,news"
    connections[0].broadcast(connections, {"to": "all"})
    assert await peers[0].message() == 'msg,news,{"to":"all"}'
    assert await peers[1].message() == 'msg,chat,{"to":"all"}'
    await peers[2].send("sub,chat")
    (await news.connection()).send("again")
    assert await peers[2].message() == "msg,chat,again"


async def test_a_channel_is_not_renewed_by_itself(enter: Enter) -> None:
    news = Journal()
    peer = await enter("xhr_streaming", news=news)
    await peer.send("sub,news")
    connection = await news.connection()
    connection.session._recycle()
    connection.send("x")
    assert await peer.message() == "msg,news,x"


# Pressure.


async def test_a_slow_client_holds_up_the_channels_that_write_to_it(enter: Enter) -> None:
    news, chat = Journal(), Journal()
    peer = await enter("websocket", news=news, chat=chat)
    await peer.send("sub,news", "sub,chat")
    in_news, in_chat = await news.connection(), await chat.connection()
    sent = await congest(in_news)

    async def last() -> None:
        await in_news.send("last")

    waiting = asyncio.ensure_future(last())
    # After this, `last` is waiting.
    await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(sent):
        assert await peer.message() == "msg,news," + "x" * 100_000
    assert await peer.message() == "msg,news,last"
    await within(waiting)
    in_chat.send("hi")
    assert await peer.message() == "msg,chat,hi"


async def test_a_channel_without_a_peer_is_closed(enter: Enter) -> None:
    news = Journal()
    peer = await enter("websocket", {"max_queue_bytes": 300_000}, news=news)
    await peer.send("sub,news")
    connection = await news.connection()
    await congest(connection)
    drained = connection.send("y" * 200_000)
    connection.send("y" * 200_000)
    assert await connection.closed() == (3008, "Slow consumer")
    with pytest.raises(ConnectionClosed):
        await drained


@each_transport
async def test_a_channel_that_falls_behind_holds_up_its_client(
    serve: Serve, join: Join, connect: Connect, transport: str
) -> None:
    gate = asyncio.Event()
    behind: list[str] = []

    class Slow(SockJSConnection):
        async def on_message(self, message: str) -> None:
            await gate.wait()
            behind.append(message[:1])

    chat = Journal()
    server = await serve(SockJSRouter(MultiplexConnection.get(news=Slow, chat=chat), "/chat"))
    peer = join(server, transport, prefix="/chat")
    assert await peer.frame() == "o"
    await peer.send(
        "sub,news", "sub,chat", "msg,chat,1", "msg,news,a", "msg,chat,2", "msg,news,b" + "x" * 70_000, "msg,chat,3"
    )
    connection = await chat.connection()
    assert [await connection.message(), await connection.message()] == ["1", "2"]
    await settle(connect, server)
    assert connection._messages.empty()
    gate.set()
    assert await connection.message() == "3"
    assert behind == ["a", "b"]


@each_transport
async def test_a_slow_channel_that_closes_does_not_delay_others(enter: Enter, transport: str) -> None:
    slow: asyncio.Queue[SockJSConnection] = asyncio.Queue()
    gate = asyncio.Event()

    class Slow(SockJSConnection):
        async def on_message(self, message: str) -> None:
            slow.put_nowait(self)
            await gate.wait()

    chat = Journal()
    peer = await enter(transport, news=Slow, chat=chat)
    await peer.send("sub,news", "sub,chat", "msg,news,a", "msg,news,b" + "x" * 70_000, "msg,chat,1")
    connection = await chat.connection()
    stuck = await within(slow.get())
    stuck.close()
    assert await connection.message() == "1"
    gate.set()


@each_transport
async def test_a_channel_is_opened_again_once_its_callbacks_have_ended(
    serve: Serve, join: Join, connect: Connect, transport: str
) -> None:
    gate = asyncio.Event()
    made: list[SockJSConnection] = []

    class Slow(SockJSConnection):
        async def on_open(self, info: ConnectionInfo) -> None:
            made.append(self)
            await gate.wait()

        def on_message(self, message: str) -> None:
            self.send(message)

    server = await serve(SockJSRouter(MultiplexConnection.get(news=Slow), "/chat"))
    peer = join(server, transport, prefix="/chat")
    assert await peer.frame() == "o"
    before = len(asyncio.all_tasks())
    await peer.send(*["sub,news", "uns,news"] * 100, "sub,news", "msg,news,hello")
    await settle(connect, server)
    assert len(made) == 1
    assert len(asyncio.all_tasks()) - before < 10
    gate.set()
    assert await peer.message() == "msg,news,hello"
    assert len(made) == 101


async def test_a_channel_is_not_opened_again_for_a_client_that_has_left(
    serve: Serve, join: Join, connect: Connect
) -> None:
    gate = asyncio.Event()
    made: list[SockJSConnection] = []

    class Slow(SockJSConnection):
        async def on_open(self, info: ConnectionInfo) -> None:
            made.append(self)
            await gate.wait()

    router = SockJSRouter(MultiplexConnection.get(news=Slow), "/chat")
    server = await serve(router)
    peer = join(server, "websocket", prefix="/chat")
    assert await peer.frame() == "o"
    (session,) = router.container
    # The second one waits for the end of the first one's callback.
    await peer.send("sub,news", "uns,news", "sub,news")
    await settle(connect, server)
    peer.vanish()
    await until(lambda: session.is_closed)
    gate.set()
    await until(lambda: session.conn is None)
    assert len(made) == 1


@each_transport
async def test_channels_count_among_the_sessions_whose_on_open_still_runs(
    serve: Serve, join: Join, connect: Connect, logged: Any, transport: str
) -> None:
    gate = asyncio.Event()
    opened: asyncio.Queue[SockJSConnection] = asyncio.Queue()

    class Slow(SockJSConnection):
        async def on_open(self, info: ConnectionInfo) -> None:
            opened.put_nowait(self)
            await gate.wait()
            self.send("there")

    channels = MultiplexConnection.get(a=Slow, b=Slow, c=Slow)
    router = SockJSRouter(channels, "/chat", {"max_unopened_sessions": 2, "disconnect_delay": 60})
    server = await serve(router)
    peer = join(server, transport, prefix="/chat")
    assert await peer.frame() == "o"
    await peer.send("sub,a", "sub,b", "sub,c")
    assert await peer.message() == "uns,c"
    assert (await within(opened.get()), await within(opened.get()), opened.empty())[2]
    assert router.stats.rejected == {"max_unopened_sessions": 1}
    # Other clients are rejected too, and closed channels still count.
    await peer.send("uns,a", "uns,b")
    await settle(connect, server)
    response = await (await connect(server)).ask("POST", "/chat/000/other/xhr")
    assert response.status == 503
    logged.take("max_unopened_sessions is reached")
    gate.set()
    await settle(connect, server)
    await peer.send("sub,c")
    assert await peer.message() == "msg,c,there"


@each_transport
async def test_channels_of_clients_that_have_left_are_counted_while_on_close_runs(
    serve: Serve, join: Join, connect: Connect, transport: str
) -> None:
    gate = asyncio.Event()

    class Slow(SockJSConnection):
        async def on_close(self) -> None:
            await gate.wait()

    router = SockJSRouter(MultiplexConnection.get(a=Slow, b=Slow), "/chat", {"max_sessions": 2})
    server = await serve(router)
    peer = join(server, transport, prefix="/chat")
    assert await peer.frame() == "o"
    await peer.send("sub,a", "sub,b", "uns,a", "uns,b")
    await settle(connect, server)
    assert router.container.limit_reached("192.0.2.1") == "max_sessions"
    gate.set()
    await settle(connect, server)
    assert router.container.limit_reached("192.0.2.1") is None


@each_transport
async def test_a_client_that_leaves_waits_for_no_channel(
    serve: Serve, join: Join, connect: Connect, transport: str
) -> None:
    gate = asyncio.Event()
    chat = Journal()

    class Slow(SockJSConnection):
        async def on_open(self, info: ConnectionInfo) -> None:
            await gate.wait()

    server = await serve(SockJSRouter(MultiplexConnection.get(news=Slow, chat=chat), "/chat"))
    peer = join(server, transport, prefix="/chat")
    assert await peer.frame() == "o"
    await peer.send("sub,chat", "sub,news", "uns,news", "sub,news")
    connection = await chat.connection()
    await settle(connect, server)
    connection.session.server.connections[0].close()
    await connection.closed()
    gate.set()


# Names.


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("", ""),
        ("news", "news"),
        ("AZaz09@*_+-./", "AZaz09@*_+-./"),
        ("a b", "a%20b"),
        ("a,b", "a%2Cb"),
        ("%", "%25"),
        ("\0\n~\x7f", "%00%0A%7E%7F"),
        ("ü\xa0ÿ", "%FC%A0%FF"),
        ("Ā€\uffff", "%u0100%u20AC%uFFFF"),
        ("😀", "%uD83D%uDE00"),
        ("\ud83d", "%uD83D"),
    ],
)
def test_names_are_written_as_javascript_escapes_them(name: str, escaped: str) -> None:
    assert _escape(name) == escaped


@each_transport
async def test_a_channel_is_known_by_its_escaped_name(enter: Enter, transport: str, logged: Any) -> None:
    peer = await enter(transport, **{"a b,€": Echo})
    await peer.send("sub,a b,€")
    assert await peer.message() == "uns,a b"
    logged.take("the channel 'a b', but there is only: a%20b%2C%u20AC.")
    await peer.send("sub,a%20b%2C%u20AC", "msg,a%20b%2C%u20AC,a,b")
    assert await peer.message() == "msg,a%20b%2C%u20AC,a,b"


def test_each_class_has_its_own_channels() -> None:
    class Mine(MultiplexConnection):
        pass

    one, other = Mine.get(news=Echo), Mine.get(chat=Echo)
    assert (one.channels, other.channels, Mine.channels) == ({"news": Echo}, {"chat": Echo}, {})
    assert issubclass(one, Mine)
    assert one.__name__ == "Mine"


# The page script.

TRANSPORTS = ["websocket", "xhr-streaming", "eventsource", "xhr-polling"]


def command(url: str, names: list[str], payload: str) -> list[str]:
    """Return the command that runs the page script."""
    check_sockjs_client()
    if not (ROOT / "node_modules/websocket-multiplex/multiplex_client.js").is_file():
        pytest.fail("websocket-multiplex is missing. `npm ci` installs it.")
    node = find_program("Node.js", "node", "nodejs")
    return [node, "tests/node/multiplex.js", json.dumps([url, TRANSPORTS, names, payload])]


PAYLOAD = "one, two,\nthree 😀"


def test_the_page_script_talks_to_the_example() -> None:
    example = ServerProgram("examples/multiplex/server.py", "--port", "0")
    try:
        (port,) = example.ports
        run = command(f"http://127.0.0.1:{port}/multiplex/sockjs", ["ann", "bob"], PAYLOAD)
        ended = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    finally:
        stopped = example.stop()
    assert (ended.returncode, ended.stderr) == (0, "")
    alone = ["Somebody came in.", "Somebody came in.", PAYLOAD]
    for transport, heard in json.loads(ended.stdout).items():
        assert heard["first"] == [
            ["Ann says: Welcome!", *alone, "closed"],
            ["Bob says: Welcome!", *alone, "still here"],
        ]
        assert heard["second"] == [
            ["Ann says: Welcome!", "Somebody came in.", PAYLOAD, "Somebody left."],
            ["Bob says: Welcome!", "Somebody came in.", PAYLOAD, "still here", "Somebody left."],
        ]
        assert heard["transports"] == [transport, transport]
    assert set(json.loads(ended.stdout)) == set(TRANSPORTS)
    assert stopped == Ended(status=0, output="", errors="")


def test_channels_that_were_left_wait_for_nothing() -> None:
    class Chatty(SockJSConnection):
        def on_open(self, info: Any) -> None:
            self.send("x" * 100)

    carrier = make_session(FakeContainer(), None, kind=MultiplexConnection.get(a=Chatty), slow_consumer="drop_oldest")
    receiver = Receiver(carrier).attach()
    carrier._pause_sending(receiver)
    for _ in range(50):
        carrier._receive(["sub,a", "uns,a"])
    assert not carrier._outbox_waiters


async def test_a_limit_on_the_rate_counts_what_the_connection_carries_once(enter: Enter) -> None:
    class Slow(Noted):
        may_go_on = asyncio.Event()

        async def on_message(self, message: str) -> None:
            await self.may_go_on.wait()
            super().on_message(message)

    journal = Journal(Slow)
    peer = await enter("xhr", {"max_inbound_rate": (0.001, 12)}, a=journal)
    await peer.send("sub,a")
    connection = await journal.connection()
    for number in range(10):
        await peer.send(f"msg,a,{number}")
    Slow.may_go_on.set()
    assert [await connection.message() for _ in range(10)] == list("0123456789")


@pytest.mark.parametrize("channel", ["News", None, 1, SockJSRouter(SockJSConnection, "/news")])
def test_a_channel_without_a_class_is_rejected_at_once(channel: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^channel 'news': expected a subclass of SockJSConnection, got "):
        MultiplexConnection.get(news=channel)
    with pytest.raises(ConfigurationError, match=r"^channels: expected at least one"):
        MultiplexConnection.get()
    wrong: Any = {"news": SockJSConnection}
    with pytest.raises(
        TypeError, match=r"^get: expected channels as keywords, such as get\(ann=AnnConnection\), got \{"
    ):
        MultiplexConnection.get(wrong)


def test_the_callbacks_of_a_channel_are_checked() -> None:
    class News(SockJSConnection):
        def on_message(self) -> None:  # type: ignore[override]
            """Do nothing."""

    with pytest.raises(ConfigurationError, match=r"^connection: expected on_message\(self, message\), got News\."):
        MultiplexConnection.get(news=News)
