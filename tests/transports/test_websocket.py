"""websocket and the raw websocket: handshake, frames, ends, liveness and compression."""

import asyncio
import enum
import itertools
import json
import socket
import sys
import zlib
from typing import Any

import pytest
import websockets
import wsproto
import wsproto.events as events
from application import Echo, Journal, LogWatch, Noted, Serve, congest
from client import (
    BINARY,
    CLOSE,
    COMMON_FIELDS,
    FRAMED,
    HANDSHAKE,
    KEY,
    PING,
    PONG,
    TEXT,
    WAIT,
    Client,
    Connect,
    Join,
    WebSocket,
    closing,
    frame,
    request,
    settle,
    unframe,
    within,
)
from tornado.web import HTTPError
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason

from sockjs_tornado import Compression, ConnectionClosed, SockJSConnection, SockJSRouter
from sockjs_tornado.wire.connection import READ_SIZE
from sockjs_tornado.wire.deflate import Deflater

SOCKJS = "/echo/000/abc/websocket"
RAW = "/echo/websocket"
BOTH = pytest.mark.parametrize("target", [SOCKJS, RAW], ids=["sockjs", "raw"])


async def opened(client: Client, target: str, *fields: str) -> WebSocket:
    """Open a websocket and take its open frame, where it has one."""
    websocket = await WebSocket.open(client, target, *fields)
    if target != RAW:
        assert await websocket.text() == "o"
    return websocket


def text(message: str, target: str) -> bytes:
    """Return the frame that carries a message to the server."""
    return frame(TEXT, message if target == RAW else json.dumps(message))


# The opening handshake.


@BOTH
async def test_the_handshake_is_answered_by_just_what_it_takes(serve: Serve, connect: Connect, target: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    offer = "Sec-WebSocket-Extensions: permessage-deflate"
    client.write(request("GET", target, *HANDSHAKE, offer, "Sec-WebSocket-Protocol: chat"))
    response = await client.head()
    assert (response.status, response.reason) == (101, "Switching Protocols")
    names = [*COMMON_FIELDS, "Upgrade", "Connection", "Sec-WebSocket-Accept"]
    assert [name for name, _ in response.fields] == (names if target == RAW else [*names, "Set-Cookie"])
    assert response["Connection"] == "Upgrade"
    assert response["Upgrade"] == "websocket"
    # The example of RFC 6455, section 1.3.
    assert response["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@BOTH
@pytest.mark.parametrize(
    "replacing",
    [
        {"Sec-WebSocket-Version": "8"},
        {"Sec-WebSocket-Version": "7"},
        {"Sec-WebSocket-Version": " 13 "},
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "upgrade"},
        {"Connection": "UPGRADE,x"},
        {"Upgrade": "WebSocket"},
        {"Upgrade": "WEBSOCKET"},
        {"Sec-WebSocket-Extensions": "rubbish; ; =,"},
        {"Content-Length": "0"},
    ],
    ids=str,
)
async def test_a_handshake_may_be_spelled_in_many_ways(
    serve: Serve, connect: Connect, target: str, replacing: dict[str, str]
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    response = await client.ask("GET", target, *handshake(replacing))
    assert response.status == 101
    assert response["Connection"] == "Upgrade"


def handshake(replacing: dict[str, str | None]) -> list[str]:
    """Return the header fields of a handshake with some replaced, or left out."""
    fields: dict[str, str | None] = dict(field.split(": ") for field in HANDSHAKE) | replacing
    return [f"{name}: {value}" for name, value in fields.items() if value is not None]


@BOTH
@pytest.mark.parametrize(
    ("replacing", "status", "text"),
    [
        (dict.fromkeys(field.split(": ")[0] for field in HANDSHAKE), 400, 'Can "Upgrade" only to "WebSocket".'),
        ({"Upgrade": None}, 400, 'Can "Upgrade" only to "WebSocket".'),
        ({"Upgrade": "h2c"}, 400, 'Can "Upgrade" only to "WebSocket".'),
        ({"Connection": None}, 400, '"Connection" must be "Upgrade".'),
        ({"Connection": "close"}, 400, '"Connection" must be "Upgrade".'),
        ({"Connection": "keep-alive, Upgraded"}, 400, '"Connection" must be "Upgrade".'),
        ({"Sec-WebSocket-Version": None}, 426, "Unsupported WebSocket version."),
        ({"Sec-WebSocket-Version": ""}, 426, "Unsupported WebSocket version."),
        ({"Sec-WebSocket-Version": "6"}, 426, "Unsupported WebSocket version."),
        ({"Sec-WebSocket-Version": "14"}, 426, "Unsupported WebSocket version."),
        ({"Sec-WebSocket-Version": "13, 8"}, 426, "Unsupported WebSocket version."),
        ({"Sec-WebSocket-Version": "x"}, 426, "Unsupported WebSocket version."),
        ({"Sec-WebSocket-Key": None}, 400, "Invalid Sec-WebSocket-Key."),
        ({"Sec-WebSocket-Key": ""}, 400, "Invalid Sec-WebSocket-Key."),
        ({"Sec-WebSocket-Key": "dG9vIHNob3J0"}, 400, "Invalid Sec-WebSocket-Key."),
        ({"Sec-WebSocket-Key": KEY + "AAAA"}, 400, "Invalid Sec-WebSocket-Key."),
        ({"Sec-WebSocket-Key": "\xe4" * 24}, 400, "Invalid Sec-WebSocket-Key."),
        ({"Sec-WebSocket-Key": "!" * 24}, 400, "Invalid Sec-WebSocket-Key."),
        ({"Sec-WebSocket-Key": f"{KEY},{KEY}"}, 400, "Invalid Sec-WebSocket-Key."),
    ],
    ids=str,
)
async def test_what_is_no_handshake_is_refused(
    serve: Serve, connect: Connect, target: str, replacing: dict[str, str | None], status: int, text: str
) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    response = await client.ask("GET", target, *handshake(replacing))
    assert response.status == status
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert response.text == f"{text}\n"
    assert response.all("Sec-WebSocket-Version") == (["13, 8, 7"] if status == 426 else [])
    assert len(router.container) == 0
    if response.all("Connection") != ["close"]:
        # The connection is as good as before.
        await opened(client, target)


@BOTH
async def test_http_1_0_has_no_websockets(serve: Serve, connect: Connect, target: str) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    response = await client.ask("GET", target, *HANDSHAKE, version="HTTP/1.0")
    assert (response.status, response.text) == (400, "A websocket needs HTTP/1.1.\n")
    assert await client.rest() == b""
    assert len(router.container) == 0


@BOTH
async def test_a_websocket_may_follow_other_requests_on_its_connection(
    serve: Serve, connect: Connect, target: str
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    await client.ask("GET", "/echo")
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    await opened(client, target)


# Subprotocols.


class Choosing(Noted):
    """Speaks a few subprotocols, in its own order."""

    speaks = ("v12.stomp", "v11.stomp", "wamp")

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        self.offered = list(subprotocols)
        subprotocols.clear()
        return next((name for name in self.speaks if name in self.offered), None)


@BOTH
@pytest.mark.parametrize(
    ("lines", "offered", "selected"),
    [
        (["v12.stomp"], ["v12.stomp"], "v12.stomp"),
        (["v10.stomp, v11.stomp,v12.stomp"], ["v10.stomp", "v11.stomp", "v12.stomp"], "v12.stomp"),
        (["wamp", "v11.stomp, x"], ["wamp", "v11.stomp", "x"], "v11.stomp"),
        ([",wamp,,\t,"], ["wamp"], "wamp"),
        (["V12.STOMP"], ["V12.STOMP"], None),
        (["x" * 256], ["x" * 256], None),
        (["!#$%&'*+-.^_`|~"], ["!#$%&'*+-.^_`|~"], None),
    ],
    ids=str,
)
async def test_the_application_selects_a_subprotocol(
    serve: Serve, connect: Connect, target: str, lines: list[str], offered: list[str], selected: str | None
) -> None:
    journal = Journal(Choosing)
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, target, *(f"Sec-WebSocket-Protocol: {line}" for line in lines))
    assert websocket.response.all("Sec-WebSocket-Protocol") == ([selected] if selected else [])
    connection: Any = await journal.connection()
    assert connection.offered == offered
    assert connection.info.subprotocol == connection.session.conn_info.subprotocol == selected


@BOTH
@pytest.mark.parametrize("lines", [[], [""], [" , ,"]], ids=str)
async def test_who_offers_no_subprotocol_is_not_asked(
    serve: Serve, connect: Connect, target: str, lines: list[str]
) -> None:
    journal = Journal(Choosing)
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, target, *(f"Sec-WebSocket-Protocol: {line}" for line in lines))
    assert "Sec-WebSocket-Protocol" not in websocket.response
    connection = await journal.connection()
    assert not hasattr(connection, "offered")
    assert connection.info.subprotocol is None


class Bare:
    """A connection that has nothing but what every session calls."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def on_open(self, info: Any) -> None:
        self.session.send(f"{info.subprotocol}")

    def on_message(self, message: str) -> None:
        pass

    def on_close(self) -> None:
        pass


@BOTH
@pytest.mark.parametrize("kind", [Echo, Bare])
async def test_a_connection_that_knows_of_no_subprotocol_uses_none(
    serve: Serve, connect: Connect, target: str, kind: Any
) -> None:
    client = await connect(await serve(SockJSRouter(kind, "/echo")))
    websocket = await opened(client, target, "Sec-WebSocket-Protocol: v12.stomp")
    assert "Sec-WebSocket-Protocol" not in websocket.response
    if kind is Bare:
        assert await websocket.text() == ("None" if target == RAW else 'a["None"]')


@BOTH
@pytest.mark.parametrize(
    "lines",
    [
        ["v12.stomp, v12.stomp"],
        ["v12.stomp", "v12.stomp"],
        ["v12 stomp"],
        ["v12/stomp"],
        ['"v12.stomp"'],
        ["v12.stomp; q=1"],
        ["v12=stomp"],
        ["st\xf6mp"],
        ["x" * 257],
    ],
    ids=lambda lines: str(lines)[:30],
)
async def test_what_offers_no_subprotocols_is_refused(
    serve: Serve, connect: Connect, target: str, lines: list[str]
) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    fields = [f"Sec-WebSocket-Protocol: {line}" for line in lines]
    response = await client.ask("GET", target, *HANDSHAKE, *fields)
    assert (response.status, response.text) == (400, "Invalid Sec-WebSocket-Protocol.\n")
    assert len(router.container) == 0
    await opened(client, target)


@BOTH
@pytest.mark.parametrize("selected", ["v11.stomp", "", "V12.STOMP", "x\r\nX-Evil: 1", b"v12.stomp", True])
async def test_a_subprotocol_that_was_not_offered_is_an_error_of_the_application(
    serve: Serve, connect: Connect, logged: LogWatch, target: str, selected: Any
) -> None:
    class Wrong(Noted):
        def select_subprotocol(self, subprotocols: list[str]) -> Any:
            return selected

    journal = Journal(Wrong)
    router = SockJSRouter(journal, "/echo")
    client = await connect(await serve(router))
    client.write(request("GET", target, *HANDSHAKE, "Sec-WebSocket-Protocol: v12.stomp, secret"))
    response = await client.response()
    assert (response.status, response.body) == (500, b"")
    record = logged.take("Uncaught exception")
    assert record.exc_info
    assert f"select_subprotocol returned {selected!r}, expected" in str(record.exc_info[1])
    assert "secret" not in str(record.exc_info[1])
    assert len(router.container) == 0
    assert journal.opened.empty()


@BOTH
@pytest.mark.parametrize(("error", "status"), [(ZeroDivisionError(), 500), (HTTPError(403), 403)], ids=repr)
async def test_a_client_is_refused_if_the_selection_raises(
    serve: Serve, connect: Connect, logged: LogWatch, target: str, error: Exception, status: int
) -> None:
    class Faulty(Noted):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            raise error

    journal = Journal(Faulty)
    router = SockJSRouter(journal, "/echo", {"max_unopened_sessions": 1})
    server = await serve(router)
    for _ in range(3):
        client = await connect(server)
        client.write(request("GET", target, *HANDSHAKE, "Sec-WebSocket-Protocol: v12.stomp"))
        response = await client.response()
        assert (response.status, response.body) == (status, b"")
        assert len(router.container) == 0
    if status == 500:
        # Once for all of them.
        logged.take("Uncaught exception")
    assert logged.records == []
    # Of what was refused, nothing is left that would count.
    await opened(await connect(server), target)
    assert (await journal.connection()).closes == []


@BOTH
async def test_a_client_may_be_closed_while_its_subprotocol_is_selected(
    serve: Serve, connect: Connect, target: str
) -> None:
    class Closing(Noted):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            self.close(4001, "not you")
            return subprotocols[0]

    router = SockJSRouter(Journal(Closing), "/echo")
    websocket = await WebSocket.open(await connect(await serve(router)), target, "Sec-WebSocket-Protocol: v12.stomp")
    if target == RAW:
        assert await websocket.closed() == (4001, "not you")
    else:
        assert await websocket.text() == 'c[4001,"not you"]'
        assert (await websocket.closed())[0] == 1000
    assert len(router.container) == 0


@BOTH
async def test_the_member_of_an_enumeration_is_written_as_its_value(
    serve: Serve, connect: Connect, target: str
) -> None:
    class Stomp(str, enum.Enum):  # noqa: UP042 - of a StrEnum the text is the value anyway
        V12 = "v12.stomp"

    class Choosing(Noted):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            return Stomp.V12

    journal = Journal(Choosing)
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, target, "Sec-WebSocket-Protocol: v12.stomp")
    assert websocket.response["Sec-WebSocket-Protocol"] == "v12.stomp"
    assert type((await journal.connection()).info.subprotocol) is str


@BOTH
async def test_another_implementation_agrees_on_a_subprotocol(serve: Serve, target: str) -> None:
    server = await serve(SockJSRouter(Journal(Choosing), "/echo"))
    offers: Any = ["v10.stomp", "v11.stomp"]
    async with websockets.connect(f"ws://127.0.0.1:{server.port}{target}", subprotocols=offers, proxy=None) as client:
        assert client.subprotocol == "v11.stomp"


# What arrives with the handshake.


@BOTH
@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (1000, 5), (1, 65_535), (1, 65_536), (5, 30_000), (1, 3_000_000)], ids=str
)
async def test_frames_in_the_packet_of_the_handshake_are_not_lost(
    serve: Serve, connect: Connect, target: str, count: int, size: int
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    messages = [str(number).ljust(size, "x") for number in range(count)]
    await WebSocket.open(client, target, first=b"".join(text(message, target) for message in messages))
    connection = await journal.connection()
    assert [await connection.message() for _ in messages] == messages


@BOTH
@pytest.mark.parametrize("split", [1, 2, 5, 6, 7])
async def test_half_a_frame_in_the_packet_of_the_handshake_is_not_lost(
    serve: Serve, connect: Connect, target: str, split: int
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    data = text("message", target)
    websocket = await WebSocket.open(client, target, first=data[:split])
    websocket.write(data[split:])
    assert await (await journal.connection()).message() == "message"


@BOTH
async def test_frames_that_arrive_while_the_application_makes_its_connection_are_not_lost(
    serve: Serve, connect: Connect, target: str
) -> None:
    class Slow(Noted):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            client.write(text("meanwhile", target))

    journal = Journal(Slow)
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await WebSocket.open(client, target, first=text("first", target))
    connection = await journal.connection()
    assert [await connection.message() for _ in range(2)] == ["first", "meanwhile"]


@BOTH
@pytest.mark.parametrize("before", [b"", frame(PING, b"x")], ids=["nothing", "a frame"])
async def test_a_client_that_leaves_while_the_application_makes_its_connection_is_no_error(
    serve: Serve, connect: Connect, target: str, before: bytes
) -> None:
    class Slow(Echo):
        def __init__(self, session: Any) -> None:
            super().__init__(session)
            client.write(before)
            client.writer.write_eof()

    client = await connect(await serve(SockJSRouter(Slow, "/echo")))
    client.write(request("GET", target, *HANDSHAKE))
    answer = await client.rest()
    assert not answer or answer.startswith(b"HTTP/1.1 101 ")


# Messages.


@pytest.mark.parametrize(
    ("payload", "messages"),
    [
        ('"x"', ["x"]),
        ('["x"]', ["x"]),
        ('["x","y"]', ["x", "y"]),
        (' ["x" , "y"]\r\n', ["x", "y"]),
        (' "x" ', ["x"]),
        ('""', [""]),
        ('["",""]', ["", ""]),
        ("", []),
        ("[]", []),
        (" [ ] ", []),
        (r'"\u0041\ud83d\ude00\uDEAD\/"', ["A😀\udead/"]),
        ('["ä€😀\u2028"]', ["ä€😀\u2028"]),
    ],
)
async def test_a_frame_holds_an_array_or_one_string_or_nothing(
    serve: Serve, connect: Connect, payload: str, messages: list[str]
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, SOCKJS)
    websocket.write(frame(TEXT, payload) + text("the next", SOCKJS))
    connection = await journal.connection()
    assert [await connection.message() for _ in range(len(messages) + 1)] == [*messages, "the next"]


@pytest.mark.parametrize(
    "bad",
    [
        frame(TEXT, "x"),
        frame(TEXT, '"x'),
        frame(TEXT, '["x'),
        frame(TEXT, "["),
        frame(TEXT, "{}"),
        frame(TEXT, "1"),
        frame(TEXT, "[1]"),
        frame(TEXT, '["x", null]'),
        frame(TEXT, "null"),
        frame(TEXT, " "),
        frame(TEXT, '"x""y"'),
        frame(TEXT, "[" * 100_000),
        frame(BINARY, '["x"]'),
        frame(BINARY),
    ],
    ids=lambda bad: repr(bad)[:30],
)
async def test_bad_json_ends_the_connection_at_once(serve: Serve, connect: Connect, bad: bytes) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, SOCKJS)
    websocket.write(text("before", SOCKJS) + bad + text("behind", SOCKJS))
    assert await client.rest() == b""
    connection = await journal.connection()
    assert await connection.message() == "before"
    code, _ = await connection.closed()
    assert code == 1007


async def test_answers_to_what_came_before_bad_json_are_not_lost(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    websocket = await opened(client, SOCKJS)
    websocket.write(text("before", SOCKJS) + frame(TEXT, "{"))
    assert await websocket.text() == 'a["before"]'
    assert await client.rest() == b""


async def test_messages_are_sent_in_one_frame_for_one_turn(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    websocket = await opened(client, SOCKJS)
    websocket.write(b"".join(text(str(number), SOCKJS) for number in range(100)))
    assert await websocket.text() == "a" + json.dumps([str(number) for number in range(100)], separators=(",", ":"))


async def test_what_is_sent_between_turns_is_a_frame_each(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, SOCKJS)
    connection = await journal.connection()
    connection.send("a")
    connection.send("\u2028\x00\udead\ud83d\ude00😀")
    assert [await websocket.text(), await websocket.text()] == ['a["a"]', r'a["\u2028\u0000\udead\ud83d\ude00😀"]']


async def test_heartbeats_are_frames_of_sockjs(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"heartbeat_delay": 0.02})))
    websocket = await WebSocket.open(client, SOCKJS)
    assert [await websocket.text() for _ in range(3)] == ["o", "h", "h"]


@BOTH
async def test_a_fragmented_message_is_one_message(serve: Serve, connect: Connect, target: str) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, target)
    # Fragments end within characters, are empty, and have control frames between them.
    parts = [bytes([byte]) for byte in '"ä€😀"'.encode()]
    websocket.write(frame(TEXT, fin=False))
    for number, part in enumerate(parts):
        websocket.write(frame(0, part, fin=False) + frame(PING, str(number)))
        assert await websocket.frame() == (PONG, str(number).encode(), True, 0)
    websocket.write(frame(0))
    assert await (await journal.connection()).message() == ('"ä€😀"' if target == RAW else "ä€😀")


async def test_each_websocket_is_a_session_of_its_own(serve: Serve, join: Join) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    peers = [join(server, "websocket", session="abc") for _ in range(3)]
    connections = []
    for peer in peers:
        assert await peer.frame() == "o"
        connections.append(await journal.connection())
    connections[1].close()
    assert await peers[1].frame() == 'c[3000,"Go away!"]'
    for peer, connection in zip(peers[::2], connections[::2], strict=True):
        connection.send(f"for {id(peer)}")
        assert await peer.frame() == f'a["for {id(peer)}"]'


async def test_a_websocket_has_nothing_to_do_with_a_session_of_the_same_id(
    serve: Serve, connect: Connect, join: Join
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    peers = [join(server, transport, session="abc") for transport in ("websocket", "xhr_streaming", "websocket")]
    for peer in peers:
        assert await peer.frame() == "o"
    assert await join(server, "eventsource", session="abc").frame() == 'c[2010,"Another connection still open"]'
    assert [(await journal.connection()).info.transport for _ in peers] == ["websocket", "xhr_streaming", "websocket"]
    await peers[1].send("to the stream")
    session = router.container.get("abc")
    assert session is not None
    assert await session.conn.message() == "to the stream"  # type: ignore[attr-defined]


# What comes with one read: ordinary messages, and what is out of the ordinary.


def read(connection: Noted, *frames: bytes) -> None:
    """Have a connection's receiver read bytes, all at once."""
    receiver: Any = connection.session._receiver
    data = b"".join(frames)
    memory = receiver.get_buffer(-1)
    memory[: len(data)] = data
    # What was read before is still behind it.
    memory[len(data) : len(data) + 11] = frame(TEXT, '["stale"]')
    receiver.buffer_updated(len(data))


def heard(connection: Noted) -> list[Any]:
    """Return the messages that the application has had since the last time."""
    messages = []
    while not connection._messages.empty():
        messages.append(connection._messages.get_nowait())
    return messages


#: Ordinary messages, and others between them, each with what the application gets.
MIXTURE = [
    (frame(TEXT, '["a"]'), ["a"]),
    (frame(TEXT, r'["b\n\"","ä",""]'), ['b\n"', "ä", ""]),
    (frame(TEXT, r'["\u0063"]'), ["c"]),
    (frame(TEXT, ' [ "d" ] '), ["d"]),
    (frame(TEXT, '["e"]'), ["e"]),
    (frame(PING, b"p"), []),
    (frame(TEXT, '["f","g"]'), ["f", "g"]),
    (frame(TEXT, '["h', fin=False) + frame(PONG) + frame(0, '"]'), ["h"]),
    (frame(TEXT, '"i"'), ["i"]),
    (frame(TEXT) + frame(TEXT, "[]"), []),
    (frame(TEXT, '["j"]') * 2, ["j", "j"]),
    (frame(TEXT, f'["{"k" * 130}"]'), ["k" * 130]),
    (frame(TEXT, '["l"]'), ["l"]),
]


async def test_a_stream_may_be_cut_between_two_reads_anywhere(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    websocket = await opened(await connect(await serve(router)), SOCKJS)
    connection = await journal.connection()
    stream = b"".join(data for data, _ in MIXTURE)
    expected = [message for _, messages in MIXTURE for message in messages]
    counted = router.stats.bytes_received
    for cut in range(1, len(stream)):
        read(connection, stream[:cut])
        early = heard(connection)
        assert early == expected[: len(early)]
        read(connection, stream[cut:])
        assert early + heard(connection) == expected, cut
    for byte in stream:
        read(connection, bytes([byte]))
    assert heard(connection) == expected
    read(connection, stream)
    assert heard(connection) == expected
    assert router.stats.bytes_received - counted == (len(stream) + 1) * len(stream)
    for _ in range(len(stream) + 1):
        assert await websocket.frame() == (PONG, b"p", True, 0)


async def test_a_ping_between_messages_is_answered_and_they_keep_their_order(serve: Serve, connect: Connect) -> None:
    websocket = await opened(await connect(await serve(SockJSRouter(Echo, "/echo"))), SOCKJS)
    websocket.write(frame(TEXT, '["a","b"]') + frame(PING, b"1") + frame(TEXT, '["c"]') + frame(PING, b"2"))
    assert await websocket.text() == 'a["a","b","c"]'
    assert [await websocket.frame() for _ in range(2)] == [(PONG, b"1", True, 0), (PONG, b"2", True, 0)]


async def test_messages_before_a_close_frame_are_heard_first(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    websocket = await opened(await connect(await serve(SockJSRouter(journal, "/echo"))), SOCKJS)
    connection = await journal.connection()
    read(connection, frame(TEXT, '["a"]'), frame(TEXT, '["b"]'), closing(3001, "bye"), frame(TEXT, '["never"]'))
    assert heard(connection) == ["a", "b"]
    assert connection.closes == [(3001, "bye")]
    assert await websocket.closed(answer=False) == (3001, "")


@pytest.mark.parametrize(
    "bad", [frame(TEXT, "{}"), frame(TEXT, '["x",1]'), frame(TEXT, '["x"'), frame(BINARY, '["x"]')], ids=repr
)
async def test_messages_before_a_bad_one_are_heard_and_none_behind_it(
    serve: Serve, connect: Connect, bad: bytes
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await opened(client, SOCKJS)
    connection = await journal.connection()
    good = frame(TEXT, '["a"]')
    read(connection, good, frame(TEXT, r'["b","\u0063"]'), good, bad, good)
    assert heard(connection) == ["a", "b", "c", "a"]
    assert connection.closes[0][0] == 1007
    assert await client.rest() == b""


@pytest.mark.parametrize(
    ("payloads", "is_allowed"),
    [
        (['["1","2","3"]', '["4","5"]', '["6"]'], True),
        (['["1"]'] * 10, True),
        # Ordinary, and then out of the ordinary.
        (['["1","2"]', '["3", "4"]'], True),
        (['["1","2"]', '"3"', '["4","5"]'], True),
        (['["1","2","3","4"]'], False),
        (['["1"]', '["2","3","4","5"]'], False),
        (['["1"]', '["2","3","4","5"]', '["6"]'], False),
        (['["1"]', '["2", "3","4","5"]'], False),
        (['["1","2"]', r'["\u0033"]', '["4","5","6","7"]'], False),
        (['["1","2","3","4"]', '["5", "6"]'], False),
    ],
)
async def test_many_messages_of_one_read_are_many_only_where_one_frame_has_them(
    serve: Serve, connect: Connect, payloads: list[str], is_allowed: bool
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"max_messages_per_request": 3})
    websocket = await opened(await connect(await serve(router)), SOCKJS)
    connection = await journal.connection()
    counted = router.stats.bytes_received
    frames = [frame(TEXT, payload) for payload in payloads]
    read(connection, *frames)
    assert router.stats.bytes_received - counted == sum(map(len, frames))
    if is_allowed:
        messages = [json.loads(payload) for payload in payloads]
        expected = [item for part in messages for item in (part if isinstance(part, list) else [part])]
        assert heard(connection) == expected
        assert connection.closes == []
        assert router.stats.rejected == {}
    else:
        assert heard(connection) == []
        assert connection.closes == [(1009, "too many messages")]
        assert router.stats.rejected == {"max_messages_per_request": 1}
        assert await websocket.closed() == (1009, "too many messages")


@pytest.mark.parametrize("last", ['["5"]', '["5","6"]', r'["\u0035"]', "[]"])
async def test_messages_of_one_read_count_for_the_rate(serve: Serve, connect: Connect, last: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"max_inbound_rate": (0.001, 4)})
    websocket = await opened(await connect(await serve(router)), SOCKJS)
    connection = await journal.connection()
    counted = router.stats.bytes_received
    frames = [frame(TEXT, '["1"]') + frame(TEXT, '["2","3"]'), frame(TEXT, '["4"]')]
    for some in frames:
        read(connection, some)
    assert router.stats.bytes_received - counted == sum(map(len, frames))
    assert heard(connection) == ["1", "2", "3", "4"]
    read(connection, frame(TEXT, last))
    assert heard(connection) == []
    assert connection.closes == [(3013, "Too many messages")]
    assert await websocket.text() == 'c[3013,"Too many messages"]'
    assert router.stats.rejected == {"max_inbound_rate": 1}


@pytest.mark.parametrize("path", [SOCKJS, RAW])
@pytest.mark.parametrize(
    "idle",
    [
        [frame(TEXT, "")] * 5,
        [frame(PING, "x")] * 5,
        [frame(PONG, "")] * 5,
        [frame(TEXT, "", fin=False), *[frame(0, "", fin=False)] * 4],
        [frame(TEXT, "[", fin=False), *[frame(0, " ", fin=False)] * 4],
    ],
    ids=["empty", "ping", "pong", "empty fragments", "short fragments"],
)
async def test_frames_without_a_message_count_for_the_rate(
    serve: Serve, connect: Connect, path: str, idle: list[bytes]
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"max_inbound_rate": (0.001, 4)})
    await opened(await connect(await serve(router)), path)
    connection = await journal.connection()
    for some in idle[:4]:
        read(connection, some)
    assert connection.closes == []
    read(connection, idle[4])
    assert connection.closes == [(3013, "Too many messages")]
    assert router.stats.rejected == {"max_inbound_rate": 1}


@BOTH
async def test_a_close_frame_counts_for_nothing(serve: Serve, connect: Connect, target: str) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"max_inbound_rate": (0.001, 1)})
    websocket = await opened(await connect(await serve(router)), target)
    connection = await journal.connection()
    websocket.write(text("last", target) + closing(1000))
    assert await connection.message() == "last"
    assert await connection.closed() == (1000, "")


@BOTH
async def test_the_answer_to_a_ping_counts_for_nothing(serve: Serve, connect: Connect, target: str) -> None:
    journal = Journal()
    settings = {"max_inbound_rate": (0.001, 1), "websocket_ping_interval": 1000}
    router = SockJSRouter(journal, "/echo", settings)
    websocket = await opened(await connect(await serve(router)), target)
    connection = await journal.connection()
    connection.session._receiver.check(0.0)
    assert (await websocket.frame()).opcode == PING
    read(connection, frame(PONG), text("a", target))
    assert heard(connection) == ["a"]
    assert connection.closes == []
    # One for each ping.
    read(connection, frame(PONG))
    assert connection.closes == [(3013, "Too many messages")]


async def test_ordinary_messages_need_no_parser_for_the_rate(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"max_inbound_rate": (0.001, 5)})
    await opened(await connect(await serve(router)), SOCKJS)
    connection = await journal.connection()
    receiver: Any = connection.session._receiver
    read(connection, frame(TEXT, '["a","b"]'), frame(TEXT, '["c"]'))
    assert heard(connection) == ["a", "b", "c"]
    if sys.modules.get("sockjs_tornado._speedups") is not None:
        assert receiver._parser is None
    # Three messages, an empty array and one more, in one read.
    read(connection, frame(TEXT, '["d"]'), frame(TEXT, "[]"), frame(TEXT, '["e"]'))
    assert connection.closes == [(3013, "Too many messages")]


async def test_long_fragments_count_as_one_message(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"max_inbound_rate": (0.001, 1)})
    websocket = await opened(await connect(await serve(router)), RAW)
    connection = await journal.connection()
    part = "x" * 1024
    websocket.write(frame(TEXT, part, fin=False) + frame(0, part, fin=False) + frame(0, part))
    assert await connection.message() == 3 * part


@pytest.mark.parametrize("limit", [2**63 - 1, 2**63, 2**70])
async def test_the_limit_of_a_message_may_be_any_number(serve: Serve, connect: Connect, limit: int) -> None:
    websocket = await opened(
        await connect(await serve(SockJSRouter(Echo, "/echo", {"max_message_size": limit}))), SOCKJS
    )
    websocket.write(frame(TEXT, '["a"]') + frame(TEXT, '"b"'))
    assert await websocket.text() == 'a["a","b"]'


async def test_messages_are_read_once_a_fragmented_one_has_ended_and_not_within_it(
    serve: Serve, connect: Connect
) -> None:
    journal = Journal()
    websocket = await opened(await connect(await serve(SockJSRouter(journal, "/echo"))), SOCKJS)
    connection = await journal.connection()
    read(connection, frame(TEXT, '["a', fin=False))
    read(connection, frame(0, '"]'))
    assert heard(connection) == ["a"]
    read(connection, frame(TEXT, '["b"]'))
    assert heard(connection) == ["b"]
    # Within a message no other one may begin, however ordinary it is.
    read(connection, frame(TEXT, '["c', fin=False))
    read(connection, frame(TEXT, '["d"]'))
    assert heard(connection) == []
    assert (await websocket.closed())[0] == 1002
    assert connection.closes[0][0] == 1002


async def test_after_a_violation_nothing_is_read(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    websocket = await opened(await connect(await serve(SockJSRouter(journal, "/echo"))), SOCKJS)
    connection = await journal.connection()
    receiver: Any = connection.session._receiver
    read(connection, frame(TEXT, '["a"]'), frame(3))
    assert heard(connection) == ["a"]
    receiver.get_buffer(-1)[:11] = frame(TEXT, '["b"]')
    receiver.buffer_updated(11)
    assert heard(connection) == []
    assert (await websocket.closed())[0] == 1002


# Control frames and violations.


@BOTH
@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(125))], ids=len)
async def test_a_ping_is_answered_with_its_payload(serve: Serve, connect: Connect, target: str, payload: bytes) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    websocket = await opened(client, target)
    websocket.write(frame(PING, payload) + frame(PONG, b"nobody asked"))
    assert await websocket.frame() == (PONG, payload, True, 0)
    # Together they are still one for one.
    websocket.write(b"".join(frame(PING, str(number)) for number in range(100)))
    for number in range(100):
        assert await websocket.frame() == (PONG, str(number).encode(), True, 0)


@BOTH
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, '"x"', mask=None), 1002),
        (frame(PING, mask=None), 1002),
        (frame(TEXT, '"x"', rsv=4), 1002),
        (frame(TEXT, '"x"', rsv=2), 1002),
        (frame(TEXT, '"x"', rsv=1), 1002),
        (frame(PING, rsv=4), 1002),
        (frame(3), 1002),
        (frame(7), 1002),
        (frame(11), 1002),
        (frame(15), 1002),
        (frame(PING, fin=False), 1002),
        (frame(CLOSE, fin=False), 1002),
        (frame(PING, bytes(126)), 1002),
        (frame(0, '"x"'), 1002),
        (frame(TEXT, '"', fin=False) + frame(TEXT, 'x"'), 1002),
        (frame(TEXT, '"', fin=False) + frame(BINARY, 'x"'), 1002),
        (b"\x81\xfe\x00\x03\0\0\0\0" + b'"x"', 1002),
        (b"\x81\xff\0\0\0\0\0\0\x00\x03\0\0\0\0" + b'"x"', 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (closing(0), 1002),
        (closing(999), 1002),
        (closing(1004), 1002),
        (closing(1005), 1002),
        (closing(1006), 1002),
        (closing(1015), 1002),
        (closing(1016), 1002),
        (closing(2999), 1002),
        (closing(5000), 1002),
        (closing(65535), 1002),
        (frame(TEXT, b'"\xff"'), 1007),
        (frame(TEXT, b'"\xed\xa0\x80"'), 1007),
        (frame(TEXT, b'"\xc3', fin=False) + frame(0, b'"'), 1007),
        (frame(TEXT, b'"\xff', fin=False), 1007),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(TEXT, b'"' + b"x" * 999 + b'"'), 1009),
        (frame(TEXT, b'"' + b"x" * 500, fin=False) + frame(0, b"x" * 500), 1009),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_a_violation_is_answered_by_its_close_code(
    serve: Serve, connect: Connect, target: str, data: bytes, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client's answer ends it, not the deadline.
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", {"max_message_size": 1000})))
    websocket = await opened(client, target)
    websocket.write(text("before", target) + data + text("behind", target))
    # Of a close frame that is wrong, the server knows that no other one follows.
    got, reason = await websocket.closed(answer=data[0] & 15 != CLOSE)
    assert got == code
    assert reason
    connection = await journal.connection()
    assert await connection.message() == "before"
    assert await connection.closed() == (code, reason)


@BOTH
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\xff\x80\0\0\0\0\0\0\x03\0\0\0\0" + b'"x"', 1002),
        (b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1009),
        (b"\x03\xff\xff", 1002),
    ],
    ids=["wrong length", "greatest length", "half a header"],
)
async def test_a_violation_whose_end_does_not_come_ends_at_the_deadline(
    serve: Serve, connect: Connect, target: str, data: bytes, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test is the clock: at a real deadline the server may not have read the answer, and would reset.
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"max_message_size": 1000})
    server = await serve(router)
    websocket = await opened(await connect(server), target)
    receiver: Any = (await journal.connection()).session._receiver
    websocket.write(data)
    got = await websocket.frame()
    assert (got.opcode, int.from_bytes(got.payload[:2], "big")) == (CLOSE, code)
    websocket.write(frame(CLOSE, got.payload[:2]))
    await settle(connect, server)
    # The answer was read as a part of the violation, and the session is over before the connection.
    assert not receiver.transport.is_closing()
    assert len(router.container) == 0
    receiver.check(receiver.due)
    assert await websocket.client.rest() == b""


@BOTH
async def test_a_message_of_the_full_size_is_taken(serve: Serve, connect: Connect, target: str) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", {"max_message_size": 1000})))
    websocket = await opened(client, target)
    message = "x" * (1000 if target == RAW else 998)
    payload = message if target == RAW else f'"{message}"'
    websocket.write(frame(TEXT, payload))
    websocket.write(frame(TEXT, payload[:500], fin=False) + frame(0, payload[500:]))
    connection = await journal.connection()
    assert [await connection.message() for _ in range(2)] == [message] * 2


@BOTH
async def test_a_client_that_reads_nothing_gets_no_pongs(serve: Serve, connect: Connect, target: str) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, target)
    connection = await journal.connection()
    sent = await congest(connection)
    websocket.write(frame(PING, b"not answered") + text("seen", target))
    assert await connection.message() == "seen"
    size = 0
    while size < sent * 100_000:
        size += (await websocket.text()).count("x")
    websocket.write(frame(PING, b"answered"))
    assert await websocket.frame() == (PONG, b"answered", True, 0)


# The end.


@pytest.mark.parametrize(
    ("code", "reason"), [(3000, "Go away!"), (1000, ""), (4999, 'ä"\u2028'), (1011, "x" * 200)], ids=str
)
async def test_the_server_closes_with_both_close_frames_and_then_the_socket(
    serve: Serve, connect: Connect, code: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client's close frame ends it, not the deadline.
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    websocket = await opened(await connect(await serve(router)), SOCKJS)
    connection = await journal.connection()
    connection.close(code, reason)
    connection.close(4000, "twice")
    connection.send("too late")
    close_frame = await websocket.text()
    assert close_frame[0] == "c"
    assert json.loads(close_frame[1:]) == [code, reason]
    assert await websocket.closed() == (1000, "")
    assert connection.closes == [(code, reason)]


@pytest.mark.parametrize(
    ("code", "reason", "heard"),
    [
        (3000, "Go away!", "Go away!"),
        (1000, "", ""),
        (4999, "ä\u2028", "ä\u2028"),
        (1011, "x" * 200, "x" * 123),
        (3000, "x" * 122 + "ä", "x" * 122),
        (3000, "\ud800", "\ufffd"),
    ],
)
async def test_a_raw_websocket_is_closed_with_the_code_and_reason_themselves(
    serve: Serve, connect: Connect, code: int, reason: str, heard: str
) -> None:
    journal = Journal()
    websocket = await opened(await connect(await serve(SockJSRouter(journal, "/echo"))), RAW)
    connection = await journal.connection()
    connection.close(code, reason)
    assert await websocket.closed() == (code, heard)
    assert connection.closes == [(code, reason)]


@BOTH
async def test_a_raw_or_framed_connection_goes_away_by_default(serve: Serve, connect: Connect, target: str) -> None:
    journal = Journal()
    websocket = await opened(await connect(await serve(SockJSRouter(journal, "/echo"))), target)
    (await journal.connection()).close()
    if target != RAW:
        assert await websocket.text() == 'c[3000,"Go away!"]'
    assert await websocket.closed() == ((3000, "Go away!") if target == RAW else (1000, ""))


@BOTH
@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (closing(1000), 1000, ""),
        (closing(1001, "leaving"), 1001, "leaving"),
        (closing(3000, "ä" * 61 + "x"), 3000, "ä" * 61 + "x"),
        (closing(4999, "bye"), 4999, "bye"),
        (frame(CLOSE), 1005, ""),
    ],
    ids=["1000", "1001", "3000", "4999", "none"],
)
async def test_the_client_closes_and_the_application_hears_why(
    serve: Serve, connect: Connect, target: str, data: bytes, code: int, reason: str
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    websocket = await opened(await connect(await serve(router)), target)
    websocket.write(text("last words", target) + data + text("never", target))
    # The answer repeats the code.
    assert await websocket.closed(answer=False) == (0 if code == 1005 else code, "")
    connection = await journal.connection()
    assert await connection.closed() == (code, reason)
    assert await connection.message() == "last words"
    assert connection._messages.empty()
    assert len(router.container) == 0


@BOTH
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_client_that_leaves_without_a_word_is_noticed(
    serve: Serve, connect: Connect, target: str, reset: bool
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    client = await connect(await serve(router))
    await opened(client, target)
    if reset:
        client.reset()
    await client.leave()
    connection = await journal.connection()
    assert await connection.closed() == (1006, "Connection lost")
    assert len(router.container) == 0


@BOTH
async def test_a_client_that_ends_its_side_ends_the_connection(serve: Serve, connect: Connect, target: str) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await opened(client, target)
    client.writer.write_eof()
    assert await client.rest() == b""
    assert await (await journal.connection()).closed() == (1006, "Connection lost")


@BOTH
async def test_a_client_in_the_middle_of_sending_still_hears_the_end(
    serve: Serve, connect: Connect, target: str
) -> None:
    class Closing(Noted):
        def on_message(self, message: str) -> None:
            self.close(3001, "enough")

    journal = Journal(Closing)
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, target)
    websocket.write(text("x" * 1000, target) * 1000)
    if target != RAW:
        assert await websocket.text() == 'c[3001,"enough"]'
    websocket.write(text("x" * 1000, target) * 1000)
    assert await websocket.closed() == ((3001, "enough") if target == RAW else (1000, ""))
    assert await (await journal.connection()).closed() == (3001, "enough")


@BOTH
@pytest.mark.parametrize(
    "answer",
    [
        closing(1000),
        closing(1000) + frame(PING),
        frame(3) + closing(1000),
        frame(TEXT, "{") + closing(1000),
        frame(TEXT, "x" * 2000) + closing(1000),
        frame(CLOSE, mask=None),
    ],
    ids=["close", "close and more", "violation", "no JSON", "too much", "wrong"],
)
async def test_the_session_is_forgotten_once_the_client_has_answered_the_close_frame(
    serve: Serve, connect: Connect, target: str, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"max_message_size": 1000})
    client = await connect(await serve(router))
    websocket = await opened(client, target)
    connection = await journal.connection()
    connection.close()
    # A ping is no answer, nor is it answered.
    websocket.write(frame(PING) + text("x", target) + answer)
    assert (await client.rest()).count(b"\x8a") == 0
    assert connection._messages.empty()
    async with asyncio.timeout(WAIT):
        await router.close()
    assert len(router.container) == 0
    assert connection.closes == [(3000, "Go away!")]


@BOTH
async def test_no_side_is_closed_before_the_client_has_answered(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that sees one side closed resets the other, under a client that is sending."""
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    client = await connect(server)
    websocket = await opened(client, target)
    connection = await journal.connection()
    connection.close()
    if target != RAW:
        assert await websocket.text() == 'c[3000,"Go away!"]'
    assert (await websocket.frame()).opcode == CLOSE
    received = router.stats.messages_received
    stream = text("x" * 1000, target) * 200
    for start in range(0, len(stream), 9999):
        websocket.write(stream[start : start + 9999])
        await settle(connect, server)
        assert not client.reader.at_eof()
    assert (heard(connection), router.stats.messages_received) == ([], received)
    websocket.write(closing(1000))
    assert await client.rest() == b""


@BOTH
async def test_a_client_that_was_not_read_is_read_to_its_close_frame(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal(Busy)
    server = await serve(SockJSRouter(journal, "/echo"))
    client = await connect(server)
    websocket = await opened(client, target)
    connection: Any = await journal.connection()
    websocket.write(text("x" * 50_000, target) * 400)
    transport = connection.session._receiver.transport
    async with asyncio.timeout(WAIT):
        while transport.is_reading():
            await settle(connect, server)
    assert client.writer.transport.get_write_buffer_size() > 0
    connection.close()
    if target != RAW:
        assert await websocket.text() == 'c[3000,"Go away!"]'
    assert await websocket.closed() == ((3000, "Go away!") if target == RAW else (1000, ""))
    connection.may_go_on.set()
    assert await connection.closed() == (3000, "Go away!")
    assert heard(connection) == ["x" * 50_000]


@BOTH
async def test_what_comes_after_the_close_frame_is_neither_inflated_nor_decoded(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise AssertionError("for nobody")

    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"websocket_compression": True}))
    client = await connect(server)
    websocket = await opened(client, target, "Sec-WebSocket-Extensions: permessage-deflate")
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(b'"' + b"x" * 100_000 + b'"') + packer.flush(zlib.Z_SYNC_FLUSH)
    message = frame(TEXT, packed[:-4], rsv=4)
    # The server closes within the message.
    websocket.write(message + message[:20])
    connection = await journal.connection()
    assert await connection.message() == ("x" * 100_000 if target != RAW else '"' + "x" * 100_000 + '"')
    await settle(connect, server)
    receiver: Any = connection.session._receiver
    monkeypatch.setattr(type(receiver), "_decode_payload", fail)
    monkeypatch.setattr("sockjs_tornado.wire.deflate.RawInflater.inflate", fail)
    connection.close()
    websocket.write(message[20:] + message * 100 + frame(PING) + text("plain", target))
    websocket.write(closing(1000))
    data = await client.rest()
    # A pong would come behind the close frame.
    assert data.endswith(b"\x88\x0a\x0b\xb8Go away!" if target == RAW else b"\x88\x02\x03\xe8")
    assert heard(connection) == []


@BOTH
async def test_the_rest_of_a_message_that_is_too_big_is_skipped(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    server = await serve(SockJSRouter(Echo, "/echo", {"max_message_size": 1000}))
    client = await connect(server)
    websocket = await opened(client, target)
    # Its payload looks like close frames as it is sent.
    too_big = frame(TEXT, closing(1009) * 1000, mask=bytes(4))
    websocket.write(too_big[:500])
    assert (await websocket.frame()).payload == (1009).to_bytes(2, "big") + b"message too big"
    for start in range(500, len(too_big), 1500):
        websocket.write(too_big[start : start + 1500])
        await settle(connect, server)
        assert not client.reader.at_eof()
    websocket.write(closing(1009))
    assert await client.rest() == b""


@BOTH
@pytest.mark.parametrize("behind", [frame(TEXT, "{"), frame(3), frame(CLOSE, "x"), closing(1001)], ids=repr)
async def test_a_callback_may_close_before_the_rest_of_a_read(
    serve: Serve, connect: Connect, target: str, behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closing(Noted):
        def on_message(self, message: str) -> None:
            self.close(3001, "enough")

    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal(Closing)
    websocket = await opened(await connect(await serve(SockJSRouter(journal, "/echo"))), target)
    websocket.write(text("x", target) + behind)
    if target != RAW:
        assert await websocket.text() == 'c[3001,"enough"]'
    expected = (3001, "enough") if target == RAW else (1000, "")
    # A close frame that came with the message is the answer, since no other one can follow it.
    assert await websocket.closed(answer=behind[0] & 15 != CLOSE) == expected
    assert await (await journal.connection()).closed() == (3001, "enough")


@BOTH
async def test_a_client_may_close_the_socket_in_place_of_an_answer(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    client = await connect(await serve(router))
    await opened(client, target)
    (await journal.connection()).close()
    closing_all = asyncio.ensure_future(router.close())
    await asyncio.sleep(0)
    client.writer.write_eof()
    await client.rest()
    await within(closing_all)


@BOTH
async def test_a_client_that_does_not_answer_the_close_frame_is_dropped(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 0.05)
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    client = await connect(await serve(router))
    await opened(client, target)
    connection = await journal.connection()
    connection.close()
    async with asyncio.timeout(WAIT):
        await router.close()
    assert connection.closes == [(3000, "Go away!")]
    await client.rest()


@BOTH
async def test_a_client_that_reads_slowly_gets_all_that_was_sent_before_the_end(
    serve: Serve, connect: Connect, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test is the clock.
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await opened(client, target)
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    connection = await journal.connection()
    receiver: Any = connection.session._receiver
    connection.send("x" * 20_000_000)
    connection.close()
    data = bytearray()
    while unsent := receiver.transport.get_write_buffer_size():
        assert not receiver.transport.is_closing()
        while receiver.transport.get_write_buffer_size() > max(unsent - 3_000_000, 0):
            data += await client.exactly(100_000)
        receiver.check(receiver.due)
    # It has all, and has not answered the close frame yet: the last chance to do so.
    assert not receiver.transport.is_closing()
    receiver.check(receiver.due)
    assert receiver.transport.is_closing()
    data += await client.rest()
    assert data.count(b"x") == 20_000_000


@BOTH
async def test_a_client_may_be_rejected(serve: Serve, connect: Connect, target: str) -> None:
    class Rejecting(Noted):
        def on_open(self, info: object) -> Any:
            super().on_open(info)  # type: ignore[arg-type]
            return False

    journal = Journal(Rejecting)
    websocket = await WebSocket.open(await connect(await serve(SockJSRouter(journal, "/echo"))), target)
    if target != RAW:
        assert [await websocket.text(), await websocket.text()] == ["o", 'c[3000,"Go away!"]']
    assert await websocket.closed() == ((3000, "Go away!") if target == RAW else (1000, ""))
    assert await (await journal.connection()).closed() == (3000, "Go away!")


# Waiting for the client.


@BOTH
async def test_an_awaited_send_waits_for_a_client_that_does_not_read(
    serve: Serve, connect: Connect, target: str
) -> None:
    journal = Journal()
    websocket = await opened(await connect(await serve(SockJSRouter(journal, "/echo"))), target)
    connection = await journal.connection()
    sent = await congest(connection)
    waiting = asyncio.ensure_future(connection.send("the last one"))
    size = 0
    while size < sent * 100_000:
        size += (await websocket.text()).count("x")
    assert "the last one" in await websocket.text()
    await within(waiting)


@BOTH
async def test_an_awaited_send_ends_with_the_client(serve: Serve, connect: Connect, target: str) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await opened(client, target)
    connection = await journal.connection()
    await congest(connection)
    waiting = [asyncio.ensure_future(connection.send("x")) for _ in range(3)]
    await client.leave()
    for send in waiting:
        with pytest.raises(ConnectionClosed) as caught:
            await within(send)
        assert caught.value.code == 1006
    assert await connection.closed() == (1006, "Connection lost")


@BOTH
async def test_a_client_that_lets_messages_pile_up_is_closed(serve: Serve, connect: Connect, target: str) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    websocket = await opened(client, target)
    connection = await journal.connection()
    sent = await congest(connection)
    while not connection.is_closed:
        connection.send("y" * 100_000)
    assert await connection.closed() == (3008, "Slow consumer")
    size = 0
    while size < sent * 100_000:
        size += (await websocket.text()).count("x")
    # What had piled up is lost.
    if target != RAW:
        assert await websocket.text() == 'c[3008,"Slow consumer"]'
    assert await websocket.closed() == ((3008, "Slow consumer") if target == RAW else (1000, ""))


# An application that does not keep up.


class Busy(Noted):
    """Works on each message until it is told to go on."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.may_go_on = asyncio.Event()

    async def on_message(self, message: Any) -> None:
        super().on_message(message)
        await self.may_go_on.wait()


@BOTH
async def test_a_client_is_not_read_while_the_application_does_not_keep_up(
    serve: Serve, connect: Connect, target: str
) -> None:
    journal = Journal(Busy)
    server = await serve(SockJSRouter(journal, "/echo"))
    client = await connect(server)
    websocket = await opened(client, target)
    connection: Any = await journal.connection()
    messages = [str(number) + "x" * 50_000 for number in range(400)]
    for message in messages:
        websocket.write(text(message, target))
    transport = connection.session._receiver.transport
    assert await connection.message() == messages[0]
    async with asyncio.timeout(WAIT):
        while transport.is_reading():
            await settle(connect, server)
    # Much is still with the client, whose own buffers are full.
    assert client.writer.transport.get_write_buffer_size() > 0
    connection.may_go_on.set()
    for message in messages[1:]:
        assert await connection.message() == message
    websocket.write(text("the end", target))
    assert await connection.message() == "the end"


@BOTH
async def test_a_client_that_is_not_read_is_not_taken_for_mute(serve: Serve, connect: Connect, target: str) -> None:
    journal = Journal(Busy)
    server = await serve(SockJSRouter(journal, "/echo", {"websocket_ping_interval": 1000}))
    websocket = await opened(await connect(server), target)
    connection: Any = await journal.connection()
    for _ in range(2):
        websocket.write(text("x" * 100_000, target))
    assert await connection.message() == "x" * 100_000
    receiver = connection.session._receiver
    async with asyncio.timeout(WAIT):
        while receiver.transport.is_reading():
            await settle(connect, server)
    for _ in range(3):
        receiver.check(receiver.due)
        assert (await websocket.frame()).opcode == PING
    assert connection.closes == []
    connection.may_go_on.set()
    assert await connection.message() == "x" * 100_000


# Liveness.


@BOTH
@pytest.mark.parametrize("patience", [0, 0.02], ids=["interval", "shorter"])
async def test_a_mute_client_is_dropped(serve: Serve, connect: Connect, target: str, patience: float) -> None:
    settings = {"websocket_ping_interval": 0.05, "websocket_ping_timeout": patience}
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo", settings)))
    websocket = await opened(client, target)
    assert await websocket.frame() == (PING, b"", True, 0)
    assert await client.rest() == b""
    assert await (await journal.connection()).closed() == (1006, "Ping timeout")


@BOTH
@pytest.mark.parametrize("patience", [0, 500], ids=["interval", "shorter"])
@pytest.mark.parametrize(
    "answers",
    [[frame(PONG)] * 3, [frame(PING)] * 3, [bytes([byte]) for byte in frame(PONG)[:3]]],
    ids=["pongs", "pings", "bytes"],
)
async def test_a_client_that_answers_pings_with_anything_lives(
    serve: Serve, connect: Connect, target: str, patience: float, answers: list[bytes]
) -> None:
    journal = Journal()
    settings = {"websocket_ping_interval": 1000, "websocket_ping_timeout": patience}
    server = await serve(SockJSRouter(journal, "/echo", settings))
    websocket = await opened(await connect(server), target)
    connection = await journal.connection()
    receiver: Any = connection.session._receiver
    for answer in answers:
        # The test is the clock.
        receiver.check(receiver.due)
        while (await websocket.frame()).opcode != PING:
            pass
        websocket.write(answer)
        await settle(connect, server)
        if patience:
            receiver.check(receiver.due)
    receiver.check(receiver.due)
    while (await websocket.frame()).opcode != PING:
        pass
    assert connection.closes == []
    receiver.check(receiver.due)
    assert connection.closes == [(1006, "Ping timeout")]


@BOTH
async def test_there_are_no_pings_by_default(serve: Serve, connect: Connect, target: str) -> None:
    router = SockJSRouter(Echo, "/echo", {"heartbeat_delay": 0.02})
    client = await connect(await serve(router))
    websocket = await opened(client, target)
    if target != RAW:
        assert [await websocket.text() for _ in range(3)] == ["h"] * 3
    else:
        # Nor heartbeats on a raw websocket: those of another session tell the time.
        other = await opened(await connect(await serve(SockJSRouter(Echo, "/echo", {"heartbeat_delay": 0.02}))), SOCKJS)
        assert [await other.text() for _ in range(3)] == ["h"] * 3
        websocket.write(frame(TEXT, "first"))
        assert await websocket.text() == "first"


# The raw websocket.


@pytest.mark.parametrize(
    ("opcode", "payload", "message"),
    [
        (TEXT, "plain", "plain"),
        (TEXT, "", ""),
        (TEXT, '["x"]', '["x"]'),
        (TEXT, "ä€😀\u2028\x00", "ä€😀\u2028\x00"),
        (BINARY, bytes(range(256)), bytes(range(256))),
        (BINARY, b"", b""),
        (BINARY, b"x" * 70_000, b"x" * 70_000),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_text_and_binary_messages_pass_through(
    serve: Serve, connect: Connect, opcode: int, payload: str | bytes, message: str | bytes
) -> None:
    heard = []

    class Listening(Echo):
        def on_message(self, message: str | bytes) -> None:
            heard.append(message)
            super().on_message(message)

    websocket = await WebSocket.open(await connect(await serve(SockJSRouter(Listening, "/echo"))), RAW)
    websocket.write(frame(opcode, payload))
    raw = payload.encode() if isinstance(payload, str) else payload
    assert await websocket.frame() == (opcode, raw, True, 0)
    assert heard == [message]


async def test_a_raw_websocket_sends_each_message_as_what_it_is(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    websocket = await WebSocket.open(await connect(await serve(SockJSRouter(journal, "/echo"))), RAW)
    connection = await journal.connection()
    connection.send("text")
    connection.send(b"bytes")
    connection.send(bytearray(b"more"))
    connection.send(memoryview(b"yet more"))
    connection.send("as binary ä", binary=True)
    connection.send({"a": [1]})
    connection.send("lone \udead and pair \ud83d\ude00")
    assert [await websocket.frame() for _ in range(7)] == [
        (TEXT, b"text", True, 0),
        (BINARY, b"bytes", True, 0),
        (BINARY, b"more", True, 0),
        (BINARY, b"yet more", True, 0),
        (BINARY, "as binary ä".encode(), True, 0),
        (TEXT, b'{"a":[1]}', True, 0),
        (TEXT, "lone \ufffd and pair 😀".encode(), True, 0),
    ]


async def test_the_answers_of_a_raw_websocket_keep_their_order(serve: Serve, connect: Connect) -> None:
    websocket = await WebSocket.open(await connect(await serve(SockJSRouter(Echo, "/echo"))), RAW)
    websocket.write(frame(TEXT, "a") + frame(BINARY, b"b") + frame(TEXT, "c"))
    assert [await websocket.frame() for _ in range(3)] == [
        (TEXT, b"a", True, 0),
        (BINARY, b"b", True, 0),
        (TEXT, b"c", True, 0),
    ]


@pytest.mark.parametrize("transport", FRAMED)
async def test_bytes_are_a_type_error_on_transports_that_carry_text(serve: Serve, join: Join, transport: str) -> None:
    journal = Journal()
    peer = join(await serve(SockJSRouter(journal, "/echo")), transport)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    for message in (b"x", bytearray(b"x"), memoryview(b"x")):
        with pytest.raises(TypeError):
            connection.send(message)
    for message in (None, 1, object()):
        with pytest.raises(TypeError):
            connection.send(message)
    connection.send("text, though it was to be ä binary one", binary=True)
    assert await peer.frame() == 'a["text, though it was to be ä binary one"]'


async def test_the_application_is_told_of_the_raw_websocket(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    await WebSocket.open(await connect(await serve(SockJSRouter(journal, "/echo"))), f"{RAW}?room=1")
    connection = await journal.connection()
    assert connection.info.transport == "rawwebsocket"
    assert connection.info.prefix == "/echo"
    assert connection.info.get_argument("room") == "1"


# Turns of the event loop.


def deflated(data: bytes) -> bytes:
    """Return the payload of a compressed message."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def flood(kind: str, number: int, target: str) -> bytes:
    """Return a message with a number in it, and what is to be decoded before it: a thirtieth of a full read."""
    message = text(str(number), target)
    payload = str(number) if target == RAW else json.dumps(str(number))
    return {
        "messages": message * (1000 // len(message)),
        "pings": frame(PING) * 160 + message,
        "pongs": frame(PONG) * 160 + message,
        "fragments": b"".join([frame(TEXT, fin=False), frame(0, fin=False) * 160, frame(0, payload)]),
        # Spaces stand for nothing before and behind JSON.
        "compressed": frame(TEXT, deflated(payload.encode() + b" " * 450_000), rsv=4) * 2,
    }[kind]


@BOTH
@pytest.mark.parametrize("kind", ["messages", "pings", "pongs", "fragments", "compressed"])
async def test_others_are_heard_while_what_one_client_sends_is_decoded(
    serve: Serve, connect: Connect, target: str, kind: str
) -> None:
    """As if to decode a piece took longer than it may in one turn."""
    heard: list[str] = []
    begun, done = asyncio.Event(), asyncio.Event()
    last = str(29)

    class Noting(SockJSConnection):
        def on_message(self, message: Any) -> None:
            message = str(message).strip()
            heard.append(message)
            begun.set()
            if message == last:
                done.set()

    router = SockJSRouter(Noting, "/echo", {"websocket_compression": True})
    router.container.read_budget = 0.0
    server = await serve(router)
    fields = ["Sec-WebSocket-Extensions: permessage-deflate"] if kind == "compressed" else []
    flooding = await opened(await connect(server), target, *fields)
    other = await opened(await connect(server), target)
    data = b"".join(flood(kind, number, target) for number in range(30))
    assert READ_SIZE * 3 // 4 < len(data) < READ_SIZE
    flooding.write(data)
    await within(begun.wait())
    other.write(text("other", target))
    await within(done.wait())
    numbers = [int(message) for message in heard if message != "other"]
    assert sorted(set(numbers)) == list(range(30))
    assert numbers == sorted(numbers)
    assert heard.index("other") < heard.index(last)


# Compression.


class WsProto:
    """A websocket whose client side is wsproto."""

    def __init__(self, client: Client, target: str, deflate: PerMessageDeflate) -> None:
        self.client = client
        self.connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.deflate = deflate
        self._events: list[Any] = []
        opening = events.Request(host="localhost", target=target, extensions=[deflate])
        client.write(self.connection.send(opening))

    async def event(self) -> Any:
        """Return the next event."""
        while not self._events:
            self.connection.receive_data(await within(self.client.reader.read(65_536)))
            self._events = list(self.connection.events())
        return self._events.pop(0)

    async def message(self) -> str:
        """Return the next text message."""
        text = ""
        while True:
            event = await self.event()
            assert isinstance(event, events.TextMessage), event
            text += event.data
            if event.message_finished:
                return text

    def send(self, data: str) -> None:
        """Send a text message."""
        self.client.write(self.connection.send(events.TextMessage(data)))


OFFERS = [
    PerMessageDeflate(),
    PerMessageDeflate(client_no_context_takeover=True),
    PerMessageDeflate(server_no_context_takeover=True),
    PerMessageDeflate(client_no_context_takeover=True, server_no_context_takeover=True),
    PerMessageDeflate(client_max_window_bits=9),
    PerMessageDeflate(server_max_window_bits=9, client_max_window_bits=12),
    PerMessageDeflate(server_max_window_bits=15),
]


@BOTH
@pytest.mark.parametrize("takeover", [False, True], ids=["without context", "with context"])
@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: str(offer.offer()))
async def test_compressed_messages_go_both_ways(
    serve: Serve, connect: Connect, target: str, takeover: bool, offer: PerMessageDeflate
) -> None:
    settings = {"websocket_compression": Compression(context_takeover=takeover)}
    client = await connect(await serve(SockJSRouter(Echo, "/echo", settings)))
    kind = PerMessageDeflate(
        client_no_context_takeover=offer.client_no_context_takeover,
        server_no_context_takeover=offer.server_no_context_takeover,
        client_max_window_bits=offer._client_max_window_bits,
        server_max_window_bits=offer._server_max_window_bits,
    )
    peer = WsProto(client, target, kind)
    assert isinstance(accepted := await peer.event(), events.AcceptConnection)
    assert accepted.extensions == [kind]
    assert kind.enabled()
    assert kind.client_no_context_takeover is (offer.client_no_context_takeover or not takeover)
    assert kind.server_no_context_takeover is (offer.server_no_context_takeover or not takeover)
    if target != RAW:
        assert await peer.message() == "o"
    for message in ("short", "long ä€😀 " * 1000, "long ä€😀 " * 1000, "", "\u2028" * 128, "x" * 300_000):
        peer.send(message if target == RAW else json.dumps([message]))
        answer = await peer.message()
        assert (answer if target == RAW else json.loads(answer[1:])[0]) == message


@BOTH
async def test_long_messages_are_compressed_and_short_ones_are_not(serve: Serve, connect: Connect, target: str) -> None:
    journal = Journal()
    settings = {"websocket_compression": {"threshold": 100, "level": 9}}
    client = await connect(await serve(SockJSRouter(journal, "/echo", settings)))
    websocket = await opened(client, target, "Sec-WebSocket-Extensions: permessage-deflate")
    assert websocket.response["Sec-WebSocket-Extensions"] == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    )
    connection = await journal.connection()
    connection.send("x" * (99 if target == RAW else 94))
    connection.send("x" * (100 if target == RAW else 95))
    short, long = await websocket.frame(), await websocket.frame()
    assert (short.opcode, short.rsv, len(short.payload)) == (TEXT, 0, 99)
    assert (long.opcode, long.rsv) == (TEXT, 4)
    assert len(long.payload) < 50


@pytest.mark.parametrize(
    ("takeover", "offer", "agreement"),
    [
        (True, "permessage-deflate", "permessage-deflate"),
        (True, "permessage-deflate; client_max_window_bits", "permessage-deflate"),
        (True, "x-webkit-deflate-frame, permessage-deflate", "permessage-deflate"),
        (True, "permessage-deflate; server_max_window_bits=8, permessage-deflate", "permessage-deflate"),
        (True, "permessage-deflate; rubbish, permessage-deflate; server_max_window_bits=10", None),
        (True, "permessage-deflate; server_max_window_bits=99", ""),
        (True, "permessage-bzip2", ""),
        (False, "permessage-deflate; client_no_context_takeover", None),
    ],
)
async def test_the_first_acceptable_offer_is_taken(
    serve: Serve, connect: Connect, takeover: bool, offer: str, agreement: str | None
) -> None:
    settings = {"websocket_compression": Compression(context_takeover=takeover)}
    client = await connect(await serve(SockJSRouter(Echo, "/echo", settings)))
    websocket = await opened(client, SOCKJS, f"Sec-WebSocket-Extensions: {offer}")
    if agreement is None:
        agreement = (
            "permessage-deflate; server_max_window_bits=10"
            if takeover
            else "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        )
    assert websocket.response.all("Sec-WebSocket-Extensions") == ([agreement] if agreement else [])
    websocket.write(text("x" * 1000, SOCKJS))
    assert (await websocket.frame()).rsv == (4 if agreement else 0)


@BOTH
async def test_a_context_makes_the_second_of_two_equal_messages_small(
    serve: Serve, connect: Connect, target: str
) -> None:
    journal = Journal()
    settings = {"websocket_compression": Compression(context_takeover=True)}
    client = await connect(await serve(SockJSRouter(journal, "/echo", settings)))
    websocket = await opened(client, target, "Sec-WebSocket-Extensions: permessage-deflate")
    connection = await journal.connection()
    message = "".join(chr(0x21 + number * number % 89 % 64) for number in range(2000))
    connection.send(message)
    connection.send(message)
    first, second = await websocket.frame(), await websocket.frame()
    assert len(second.payload) < len(first.payload) / 3


@BOTH
@pytest.mark.parametrize("takeover", [False, True], ids=["without context", "with context"])
async def test_a_broadcast_reaches_compressed_and_plain_clients(
    serve: Serve, connect: Connect, target: str, takeover: bool
) -> None:
    settings = {"websocket_compression": Compression(context_takeover=takeover)}
    router = SockJSRouter(Journal(), "/echo", settings)
    server = await serve(router)
    peers = [WsProto(await connect(server), target, PerMessageDeflate()) for _ in range(3)]
    for peer in peers:
        await peer.event()
        if target != RAW:
            assert await peer.message() == "o"
    plain = await opened(await connect(server), target)
    message = "to all: \u2028 ä" * 100
    for _ in range(2):
        router.broadcast(router.connections, message)
        for answer in [await peer.message() for peer in peers] + [await plain.text()]:
            assert (answer if target == RAW else json.loads(answer[1:])[0]) == message


@BOTH
@pytest.mark.parametrize("takeover", [False, True], ids=["without context", "client may choose"])
async def test_a_broadcast_is_compressed_at_most_twice_whatever_clients_offer(
    serve: Serve, connect: Connect, target: str, takeover: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed: list[bytes] = []

    class Counting(Deflater):
        def deflate(self, data: bytes) -> bytes:
            compressed.append(data)
            return super().deflate(data)

    monkeypatch.setattr("sockjs_tornado.transports.websocket.Deflater", Counting)
    settings = {"websocket_compression": Compression(context_takeover=takeover)}
    router = SockJSRouter(Journal(), "/echo", settings)
    server = await serve(router)
    windows = itertools.product((None, *range(9, 16)), (None, 9, 12, 15), (False, True))
    offers = [
        PerMessageDeflate(
            client_no_context_takeover=client_no,
            server_no_context_takeover=takeover,
            client_max_window_bits=client_bits,
            server_max_window_bits=server_bits,
        )
        for server_bits, client_bits, client_no in windows
    ]
    peers = [WsProto(await connect(server), target, offer) for offer in offers]
    for peer in peers:
        await peer.event()
        assert peer.deflate.enabled()
        if target != RAW:
            assert await peer.message() == "o"
    message = "".join(chr(0x21 + number * number % 89 % 64) for number in range(5000))
    router.broadcast(router.connections, message)
    for peer in peers:
        answer = await peer.message()
        assert (answer if target == RAW else json.loads(answer[1:])[0]) == message
    assert 1 <= len(compressed) <= 2


@BOTH
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"\xff\xff\xff", rsv=4), 1007),
        (frame(TEXT, bytes.fromhex("ca c4 60 14 84 30 06 00 00 00 ff ff"), rsv=2), 1002),
        (frame(TEXT, b"", fin=False, rsv=4) + frame(0, rsv=4), 1002),
        (frame(PING, rsv=4), 1002),
    ],
    ids=["no deflate", "another bit", "continuation", "ping"],
)
async def test_violations_of_the_compression_have_their_codes(
    serve: Serve, connect: Connect, target: str, data: bytes, code: int
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"websocket_compression": True})))
    websocket = await opened(client, target, "Sec-WebSocket-Extensions: permessage-deflate")
    websocket.write(data)
    got, _ = await websocket.closed()
    assert got == code


@BOTH
async def test_the_limit_holds_for_what_a_message_inflates_to(serve: Serve, connect: Connect, target: str) -> None:
    settings = {"websocket_compression": True, "max_message_size": 10_000}
    client = await connect(await serve(SockJSRouter(Echo, "/echo", settings)))
    peer = WsProto(client, target, PerMessageDeflate())
    await peer.event()
    if target != RAW:
        assert await peer.message() == "o"
    fits = "x" * (10_000 if target == RAW else 9998)
    peer.send(fits if target == RAW else f'"{fits}"')
    assert fits in await peer.message()
    peer.send("x" * 1_000_000)
    ended = await peer.event()
    assert isinstance(ended, events.CloseConnection)
    assert ended.code == CloseReason.MESSAGE_TOO_BIG


@pytest.mark.parametrize("takeover", [False, True], ids=["without context", "with context"])
async def test_a_client_need_not_compress_every_message(serve: Serve, connect: Connect, takeover: bool) -> None:
    journal = Journal()
    settings = {"websocket_compression": Compression(context_takeover=takeover)}
    server = await serve(SockJSRouter(journal, "/echo", settings))
    await opened(await connect(server), SOCKJS, "Sec-WebSocket-Extensions: permessage-deflate")
    connection = await journal.connection()
    deflater = zlib.compressobj(wbits=-15)
    expected = []
    stream = b""
    for number in range(60):
        message = f"{number} ä " * (number * 7 % 100)
        payload = json.dumps([message], ensure_ascii=False).encode()
        if number % 3 == 1:
            if not takeover:
                deflater = zlib.compressobj(wbits=-15)
            # RFC 7692, section 7.2.1.
            packed = (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")
            stream += frame(TEXT, packed, rsv=4)
        else:
            stream += frame(TEXT, payload)
        expected.append(message)
    # All in one read, in which more is compressed than is worked off at a time; then cut in two.
    assert 4096 < len(stream) < 32_768 - 11
    read(connection, stream)
    assert heard(connection) == expected
    if not takeover:
        for cut in range(0, len(stream), 97):
            read(connection, stream[:cut])
            read(connection, stream[cut:])
            assert heard(connection) == expected


@BOTH
async def test_nothing_is_compressed_unless_it_is_switched_on(serve: Serve, connect: Connect, target: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    peer = WsProto(client, target, deflate := PerMessageDeflate())
    assert isinstance(accepted := await peer.event(), events.AcceptConnection)
    assert accepted.extensions == []
    assert not deflate.enabled()
    if target != RAW:
        assert await peer.message() == "o"
    peer.send('["' + "x" * 1000 + '"]')
    assert "x" * 1000 in await peer.message()


def test_the_helpers_agree_with_wsproto_on_frames() -> None:
    server = wsproto.connection.Connection(wsproto.ConnectionType.SERVER)
    server.receive_data(frame(TEXT, "ä") + frame(BINARY, b"x" * 70_000) + frame(PING, b"p") + closing(3000, "why"))
    got = list(server.events())
    assert [event for event in got if isinstance(event, events.TextMessage)] == [events.TextMessage("ä")]
    assert [event for event in got if isinstance(event, events.Ping)] == [events.Ping(b"p")]
    assert got[-1] == events.CloseConnection(3000, "why")
    assert unframe("xhr", b"o\n") == "o"
