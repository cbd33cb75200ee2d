"""permessage-deflate on both websocket transports."""

import itertools
import json
import zlib
from typing import Any

import pytest
import wsproto
import wsproto.events as events
from application import Echo, Journal, Serve
from client import PING, TEXT, Client, Connect, frame, within
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason

from sockjs_tornado import Compression, SockJSRouter
from sockjs_tornado.wire.deflate import Deflater
from sockjs_tornado.wire.pacing import SMALL_PIECE
from sockjs_tornado.wire.websocket import MAX_INFLATED

from .targets import BOTH, RAW, SOCKJS, feed, messages_of, opened, text


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
        (frame(TEXT, b"\xff\xff\xff", reserved=4), 1007),
        (frame(TEXT, bytes.fromhex("ca c4 60 14 84 30 06 00 00 00 ff ff"), reserved=2), 1002),
        (frame(TEXT, b"", fin=False, reserved=4) + frame(0, reserved=4), 1002),
        (frame(PING, reserved=4), 1002),
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
            stream += frame(TEXT, packed, reserved=4)
        else:
            stream += frame(TEXT, payload)
        expected.append(message)
    # All in one read, in which more is compressed than is worked off at a time; then cut in two.
    assert 4096 < len(stream) < 32_768 - 11
    feed(connection, stream)
    assert messages_of(connection) == expected
    if not takeover:
        for cut in range(0, len(stream), 97):
            feed(connection, stream[:cut])
            feed(connection, stream[cut:])
            assert messages_of(connection) == expected


async def test_a_few_bytes_that_become_many_come_after_what_precedes_them(serve: Serve, connect: Connect) -> None:
    """A message that is not compressed, and behind it more than is inflated at a time."""
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"websocket_compression": True}))
    await opened(await connect(server), SOCKJS, "Sec-WebSocket-Extensions: permessage-deflate")
    connection = await journal.connection()
    expected = ["first", "x" * MAX_INFLATED, "last"]
    stream = frame(TEXT, '["first"]')
    for message in expected[1:]:
        deflater = zlib.compressobj(wbits=-15)
        packed = deflater.compress(json.dumps([message]).encode()) + deflater.flush(zlib.Z_SYNC_FLUSH)
        stream += frame(TEXT, packed.removesuffix(b"\0\0\xff\xff"), reserved=4)
    assert len(stream) < SMALL_PIECE
    feed(connection, stream)
    assert messages_of(connection) == expected


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
