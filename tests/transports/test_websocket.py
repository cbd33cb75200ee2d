"""Websockets of both kinds: messages, control frames and violations of the protocol."""

import asyncio
import json
import sys
import zlib
from typing import Any

import pytest
import wsproto
import wsproto.events as events
from application import Echo, Journal, Serve, congest
from client import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Connect,
    Join,
    WebSocket,
    closing,
    frame,
    settle,
    unframe,
    until,
    within,
)

from sockjs_tornado import SockJSConnection, SockJSRouter
from sockjs_tornado.wire.connection import READ_SIZE
from sockjs_tornado.wire.time_budget import TimeBudget

from .targets import BOTH, RAW, SOCKJS, feed, messages_of, opened, text

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


async def test_messages_of_one_iteration_are_sent_in_one_frame(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    websocket = await opened(client, SOCKJS)
    websocket.write(b"".join(text(str(number), SOCKJS) for number in range(100)))
    assert await websocket.text() == "a" + json.dumps([str(number) for number in range(100)], separators=(",", ":"))


async def test_messages_of_different_iterations_are_sent_in_different_frames(serve: Serve, connect: Connect) -> None:
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
    assert await session.conn.message() == "to the stream"


# What comes with one read: ordinary messages, and what is out of the ordinary.


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
        feed(connection, stream[:cut])
        early = messages_of(connection)
        assert early == expected[: len(early)]
        feed(connection, stream[cut:])
        assert early + messages_of(connection) == expected, cut
    for byte in stream:
        feed(connection, bytes([byte]))
    assert messages_of(connection) == expected
    feed(connection, stream)
    assert messages_of(connection) == expected
    assert router.stats.bytes_received - counted == (len(stream) + 1) * len(stream)
    for _ in range(len(stream) + 1):
        assert await websocket.frame() == (PONG, b"p", True, 0)


async def test_a_ping_between_messages_is_answered_and_they_keep_their_order(serve: Serve, connect: Connect) -> None:
    websocket = await opened(await connect(await serve(SockJSRouter(Echo, "/echo"))), SOCKJS)
    websocket.write(frame(TEXT, '["a","b"]') + frame(PING, b"1") + frame(TEXT, '["c"]') + frame(PING, b"2"))
    assert await websocket.text() == 'a["a","b","c"]'
    assert [await websocket.frame() for _ in range(2)] == [(PONG, b"1", True, 0), (PONG, b"2", True, 0)]


async def test_messages_before_a_close_frame_are_delivered_first(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    websocket = await opened(await connect(await serve(SockJSRouter(journal, "/echo"))), SOCKJS)
    connection = await journal.connection()
    feed(connection, frame(TEXT, '["a"]'), frame(TEXT, '["b"]'), closing(3001, "bye"), frame(TEXT, '["never"]'))
    assert messages_of(connection) == ["a", "b"]
    assert connection.closes == [(3001, "bye")]
    assert await websocket.closed(answer=False) == (3001, "")


@pytest.mark.parametrize(
    "bad", [frame(TEXT, "{}"), frame(TEXT, '["x",1]'), frame(TEXT, '["x"'), frame(BINARY, '["x"]')], ids=repr
)
async def test_messages_before_a_bad_one_are_delivered_and_none_after_it(
    serve: Serve, connect: Connect, bad: bytes
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await opened(client, SOCKJS)
    connection = await journal.connection()
    good = frame(TEXT, '["a"]')
    feed(connection, good, frame(TEXT, r'["b","\u0063"]'), good, bad, good)
    assert messages_of(connection) == ["a", "b", "c", "a"]
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
async def test_many_messages_of_one_read_count_as_many_only_if_one_frame_has_them(
    serve: Serve, connect: Connect, payloads: list[str], is_allowed: bool
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"max_messages_per_request": 3})
    websocket = await opened(await connect(await serve(router)), SOCKJS)
    connection = await journal.connection()
    counted = router.stats.bytes_received
    frames = [frame(TEXT, payload) for payload in payloads]
    feed(connection, *frames)
    assert router.stats.bytes_received - counted == sum(map(len, frames))
    if is_allowed:
        messages = [json.loads(payload) for payload in payloads]
        expected = [item for part in messages for item in (part if isinstance(part, list) else [part])]
        assert messages_of(connection) == expected
        assert connection.closes == []
        assert router.stats.rejected == {}
    else:
        assert messages_of(connection) == []
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
        feed(connection, some)
    assert router.stats.bytes_received - counted == sum(map(len, frames))
    assert messages_of(connection) == ["1", "2", "3", "4"]
    feed(connection, frame(TEXT, last))
    assert messages_of(connection) == []
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
        feed(connection, some)
    assert connection.closes == []
    feed(connection, idle[4])
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
    connection: Any = await journal.connection()
    connection.session._receiver.check(0.0)
    assert (await websocket.frame()).opcode == PING
    feed(connection, frame(PONG), text("a", target))
    assert messages_of(connection) == ["a"]
    assert connection.closes == []
    # One for each ping.
    feed(connection, frame(PONG))
    assert connection.closes == [(3013, "Too many messages")]


async def test_ordinary_messages_need_no_parser_for_the_rate(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"max_inbound_rate": (0.001, 5)})
    await opened(await connect(await serve(router)), SOCKJS)
    connection = await journal.connection()
    receiver: Any = connection.session._receiver
    feed(connection, frame(TEXT, '["a","b"]'), frame(TEXT, '["c"]'))
    assert messages_of(connection) == ["a", "b", "c"]
    if sys.modules.get("sockjs_tornado._speedups") is not None:
        assert receiver._parser is None
    # Three messages, an empty array and one more, in one read.
    feed(connection, frame(TEXT, '["d"]'), frame(TEXT, "[]"), frame(TEXT, '["e"]'))
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
    feed(connection, frame(TEXT, '["a', fin=False))
    feed(connection, frame(0, '"]'))
    assert messages_of(connection) == ["a"]
    feed(connection, frame(TEXT, '["b"]'))
    assert messages_of(connection) == ["b"]
    # Within a message no other one may begin, however ordinary it is.
    feed(connection, frame(TEXT, '["c', fin=False))
    feed(connection, frame(TEXT, '["d"]'))
    assert messages_of(connection) == []
    assert (await websocket.closed())[0] == 1002
    assert connection.closes[0][0] == 1002


async def test_after_a_violation_nothing_is_read(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    websocket = await opened(await connect(await serve(SockJSRouter(journal, "/echo"))), SOCKJS)
    connection = await journal.connection()
    receiver: Any = connection.session._receiver
    feed(connection, frame(TEXT, '["a"]'), frame(3))
    assert messages_of(connection) == ["a"]
    receiver.get_buffer(-1)[:11] = frame(TEXT, '["b"]')
    receiver.buffer_updated(11)
    assert messages_of(connection) == []
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
        (frame(TEXT, '"x"', reserved=4), 1002),
        (frame(TEXT, '"x"', reserved=2), 1002),
        (frame(TEXT, '"x"', reserved=1), 1002),
        (frame(PING, reserved=4), 1002),
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
        "compressed": frame(TEXT, deflated(payload.encode() + b" " * 450_000), reserved=4) * 2,
    }[kind]


@BOTH
@pytest.mark.parametrize("kind", ["messages", "pings", "pongs", "fragments", "compressed"])
async def test_others_are_served_while_data_of_one_client_is_decoded(
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
    router.container.read_budget = TimeBudget(0.0)
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


async def test_a_client_that_disconnects_leaves_no_more_than_its_inbox_may_have(serve: Serve, connect: Connect) -> None:
    sessions: list[Any] = []
    begun, closed = asyncio.Event(), asyncio.Event()

    class Busy(SockJSConnection):
        async def on_message(self, message: str) -> None:
            sessions.append(self.session)
            begun.set()
            await closed.wait()

        def on_close(self) -> None:
            """Wait for nothing."""

    server = await serve(SockJSRouter(Busy, "/echo", {"websocket_compression": True}))
    client = await opened(await connect(server), SOCKJS, "Sec-WebSocket-Extensions: permessage-deflate")
    data = frame(TEXT, deflated(json.dumps(["x" * 64] * 1000).encode()), reserved=4) * 60
    assert len(data) < READ_SIZE
    client.write(data)
    await within(begun.wait())
    session = sessions[0]
    session._receiver.transport.abort()
    await until(lambda: session.is_closed)
    assert 1_000_000 < session.backlog < 1_300_000
    closed.set()


async def test_few_bytes_that_decompress_to_many_messages_do_not_fill_the_inbox(serve: Serve, connect: Connect) -> None:
    heard: list[str] = []
    sessions: list[Any] = []
    begun, released, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Busy(SockJSConnection):
        async def on_message(self, message: str) -> None:
            sessions.append(self.session)
            begun.set()
            await released.wait()
            heard.append(message)
            if len(heard) == 20_000:
                done.set()

    server = await serve(SockJSRouter(Busy, "/echo", {"websocket_compression": True}))
    client = await opened(await connect(server), SOCKJS, "Sec-WebSocket-Extensions: permessage-deflate")
    messages = ["x" * 64] * 1000
    data = frame(TEXT, deflated(json.dumps(messages).encode()), reserved=4) * 20
    assert len(data) < 16_384
    client.write(data)
    await within(begun.wait())
    # That of one of the twenty.
    assert sessions[0].backlog <= 128_000
    released.set()
    await within(done.wait())
    assert heard == messages * 20


def test_the_helpers_agree_with_wsproto_on_frames() -> None:
    server = wsproto.connection.Connection(wsproto.ConnectionType.SERVER)
    server.receive_data(frame(TEXT, "ä") + frame(BINARY, b"x" * 70_000) + frame(PING, b"p") + closing(3000, "why"))
    got = list(server.events())
    assert [event for event in got if isinstance(event, events.TextMessage)] == [events.TextMessage("ä")]
    assert [event for event in got if isinstance(event, events.Ping)] == [events.Ping(b"p")]
    assert got[-1] == events.CloseConnection(3000, "why")
    assert unframe("xhr", b"o\n") == "o"
