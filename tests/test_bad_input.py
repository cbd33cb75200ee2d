"""Invalid input on all transports: each gets one response, nothing is logged, and other clients are served."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from application import Journal, LogWatch, Noted, RunningServer, Serve, congest, exception_of
from bystanders import KINDS, WEBSOCKETS, Echoing, bystanders, remains
from client import (
    BINARY,
    CLOSE,
    FORM,
    FRAMED,
    HANDSHAKE,
    POLLING,
    RECEIVING,
    STREAMING,
    TEXT,
    Client,
    Connect,
    Join,
    Peer,
    RawPeer,
    Url,
    WebSocket,
    WebSocketPeer,
    asking,
    closing,
    first_frame,
    frame,
    path_of,
    request,
    settle,
    until,
    within,
)

from sockjs_tornado import SockJSRouter

STILL_OPEN = 'c[2010,"Another connection still open"]'
EVERYWHERE = (*FRAMED, "rawwebsocket")
ENDS = pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])


class FramedRawPeer(RawPeer):
    """A client of the raw websocket that returns what it reads as SockJS frames."""

    async def frame(self) -> str:
        if self.websocket is None:
            self.websocket = await WebSocket.open(await self.connect(), "/echo/websocket")
            return "o"
        got = await self.websocket.frame()
        if got.opcode != CLOSE:
            return f"a{json.dumps([got.payload.decode()])}"
        self.websocket.write(frame(CLOSE, got.payload[:2]))
        assert await self.websocket.client.rest() == b""
        return (
            f"c{json.dumps([int.from_bytes(got.payload[:2], 'big'), got.payload[2:].decode()], separators=(',', ':'))}"
        )


def expire_sessions(router: SockJSRouter) -> None:
    """Let the time pass that the sessions without a client have left."""
    for session in list(router.container):
        if not session.is_attached:
            session.check(session.due)


async def all_end_once(router: SockJSRouter, journal: Journal) -> None:
    """See that every connection that was opened is told of its end, and once."""
    opened = []
    while not journal.opened.empty():
        opened.append(journal.opened.get_nowait())
    closing = asyncio.ensure_future(router.close())

    def is_closed() -> bool:
        expire_sessions(router)
        return closing.done()

    await until(is_closed)
    await closing
    assert len(router.container) == 0
    for connection in opened:
        assert len(connection.closes) == 1


# Websockets that break the rules.


@pytest.mark.parametrize("target", WEBSOCKETS)
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 1002),
        (b"\xff" * 1000, 1002),
        (b"\0" * 1000, 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b'"\xf0\x9f', fin=False) + frame(0, b"\x98", fin=False) + frame(0, b'"'), 1007),
        (frame(TEXT, "x" * 1001), 1009),
        (frame(BINARY, "x" * 500, fin=False) + frame(0, "x" * 501, fin=False), 1009),
        (frame(0), 1002),
        (closing(1016), 1002),
        (frame(CLOSE, b"\x03\xe8\xed\xa0\x80"), 1007),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_a_violation_may_come_with_the_handshake_or_byte_by_byte(
    serve: Serve,
    connect: Connect,
    join: Join,
    target: str,
    data: bytes,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # In these two the server cannot find the client's answer, so it waits for the end of the connection.
    is_endless = data.startswith((b"GET", b"\xff"))
    # The client ends it, not the deadline: a server that closes while the client still sends resets the connection,
    # and the close frame is lost with it.
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal(Echoing)
    server = await serve(SockJSRouter(journal, "/echo", {"max_message_size": 1000}))
    async with bystanders(server, join, journal):
        for at_once in (True, False):
            websocket = await WebSocket.open(await connect(server), target, first=data if at_once else b"")
            if target != "/echo/websocket":
                assert await websocket.text() == "o"
            if not at_once:
                for byte in data:
                    websocket.write(bytes([byte]))
                    await asyncio.sleep(0)
            got, reason = await websocket.closed(answer=data[0] & 15 != CLOSE and not is_endless, shut=is_endless)
            assert got == code
            assert await (await journal.connection()).closed() == (code, reason)


@pytest.mark.parametrize("target", WEBSOCKETS)
@pytest.mark.parametrize(
    "body",
    ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
    ids=["whole", "chunked"],
)
async def test_the_body_of_a_handshake_is_no_frame(serve: Serve, connect: Connect, target: str, body: str) -> None:
    journal = Journal(Echoing)
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    client.write(request("GET", target, *HANDSHAKE).removesuffix(b"\r\n") + body.encode() + frame(TEXT, '["x"]'))
    assert (await client.response()).status == 101
    assert await (await journal.connection()).message() in ("x", '["x"]')


# What is no array of strings.


def sent_as(name: str, payload: bytes) -> bytes:
    """Return what brings a payload to the server."""
    if name == "websocket":
        return frame(TEXT, payload)
    if name == "form":
        return request("POST", "/echo/000/abc/jsonp_send", FORM, body=b"d=" + quote(payload).encode())
    return request("POST", f"/echo/000/abc/{name}", "Content-Type: text/plain", body=payload)


SENDING = pytest.mark.parametrize("name", ["xhr_send", "jsonp_send", "form", "websocket"])


@SENDING
@pytest.mark.parametrize(
    "payload",
    [
        # More of them are in test_payloads.py: here one of each kind.
        b"x",
        b"\0",
        b"\xef\xbb\xbf[]",
        b'{"0": "x"}',
        b'["x", 1]',
        b"[1e999999]",
        b'["\\ud800',
        b'["x",' * 100_000 + b'"x"' + b"]" * 100_000,
    ],
    ids=lambda value: repr(value)[:20] + f" {len(value)}",
)
async def test_a_payload_that_is_no_array_of_strings_is_not_delivered(
    serve: Serve, connect: Connect, join: Join, name: str, payload: bytes
) -> None:
    journal = Journal(Echoing)
    server = await serve(SockJSRouter(journal, "/echo"))
    async with bystanders(server, join, journal):
        client = await connect(server)
        if name == "websocket":
            websocket = await WebSocket.open(client, WEBSOCKETS[0])
            assert await websocket.text() == "o"
            websocket.write(sent_as(name, payload))
            assert await client.rest() == b""
            connection = await journal.connection()
            assert (await connection.closed())[0] == 1007
        else:
            client.write(asking("xhr", "/echo/000/abc"))
            assert await first_frame(client, "xhr") == "o"
            connection = await journal.connection()
            client.write(sent_as(name, payload))
            response = await client.response()
            assert (response.status, response.body) == (500, b"Broken JSON encoding.")
            assert connection.closes == []
        assert connection._messages.empty()


@SENDING
@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (rb'["\ud800"]', "\ud800"),
        (rb'["\uDFFF\uD800"]', "\udfff\ud800"),
        (rb'["\u0000"]', "\0"),
        (rb'["\ud83d\ude00"]', "😀"),
        (rb'["\uffff\u2028"]', "\uffff\u2028"),
    ],
)
async def test_strings_that_few_mean_are_strings(
    serve: Serve, connect: Connect, join: Join, name: str, payload: bytes, message: str
) -> None:
    journal = Journal(Echoing)
    server = await serve(SockJSRouter(journal, "/echo"))
    peer = join(server, "websocket" if name == "websocket" else "xhr", session="abc")
    assert await peer.frame() == "o"
    client = peer.websocket.client if isinstance(peer, WebSocketPeer) and peer.websocket else await connect(server)
    client.write(sent_as(name, payload))
    assert await (await journal.connection()).message() == message
    assert await peer.message() == message


# Sends that nobody waits for.


@pytest.mark.parametrize("name", ["xhr_send", "jsonp_send"])
async def test_a_session_that_is_over_is_sent_to_in_vain(serve: Serve, connect: Connect, join: Join, name: str) -> None:
    journal = Journal(Echoing)
    router = SockJSRouter(journal, "/echo", {"disconnect_delay": 600, "max_message_size": 100})
    server = await serve(router)
    async with bystanders(server, join, journal):
        client = await connect(server)
        assert (await client.ask("POST", f"/echo/000/abc/{name}", body=b'["x"]')).status == 404
        await client.ask("POST", "/echo/000/abc/xhr", body=b"")
        connection = await journal.connection()
        connection.close()
        assert (await client.ask("POST", f"/echo/000/abc/{name}", body=b'["x"]')).status in (200, 204)
        expire_sessions(router)
        assert router.container.get("abc") is None
        assert (await client.ask("POST", f"/echo/000/abc/{name}", body=b'["x"]')).status == 404
        assert connection._messages.empty()


# Clients that leave.


@ENDS
@pytest.mark.parametrize("stage", ["asked", "listening", "again", "congested", "closed"])
@pytest.mark.parametrize("transport", RECEIVING)
async def test_a_client_may_leave_at_any_stage_of_receiving(
    serve: Serve, connect: Connect, join: Join, transport: str, stage: str, reset: bool
) -> None:
    journal = Journal(Echoing)
    router = SockJSRouter(journal, "/echo", {"disconnect_delay": 600, "response_limit": 1 << 30})
    server = await serve(router)
    async with bystanders(server, join, journal):
        client = await connect(server)
        client.write(asking(transport, "/echo/000/abc"))
        if stage != "asked":
            assert await first_frame(client, transport) == "o"
            connection = await journal.connection()
            journal.opened.put_nowait(connection)
            if transport in POLLING and stage != "listening":
                client.write(asking(transport, "/echo/000/abc"))
                await settle(connect, server)
            if stage == "congested":
                if transport in STREAMING:
                    await congest(connection)
                else:
                    connection.send("x" * 20_000_000)
            elif stage == "closed":
                connection.close()
            elif stage == "again":
                await (await connect(server)).ask("POST", "/echo/000/abc/xhr_send", body=b'["x"]')
        if reset:
            client.reset()
        await client.leave()
        await settle(connect, server)
    await all_end_once(router, journal)


UPGRADE = {target: request("GET", target, *HANDSHAKE) for target in WEBSOCKETS}


#: What a client may have sent of its frames when it leaves.
FRAGMENTS = (
    b"",
    frame(TEXT, '"x"')[:1],
    frame(TEXT, '"x"')[:4],
    frame(TEXT, '"x"')[:-1],
    frame(TEXT, '"x', fin=False),
    frame(TEXT, '"x', fin=False) + frame(0, "y")[:3],
    frame(TEXT, '"' + "x" * 100_000)[:50_000],
    frame(TEXT, '"x"') * 1000,
    closing(1000)[:-1],
    closing(1000),
    frame(3),
)


@ENDS
@pytest.mark.parametrize("stage", ["asked", "answered", "open"])
@pytest.mark.parametrize("target", WEBSOCKETS)
async def test_a_client_may_leave_at_any_stage_of_a_websocket(
    serve: Serve, connect: Connect, join: Join, target: str, stage: str, reset: bool
) -> None:
    journal = Journal(Echoing)
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    connections = []
    async with bystanders(server, join, journal):
        for data in FRAGMENTS:
            client = await connect(server)
            if stage == "open":
                await WebSocket.open(client, target)
                client.write(data)
            else:
                client.write(UPGRADE[target] + data)
                if stage == "answered":
                    await client.head()
            if reset:
                client.reset()
            await client.leave()
            if stage != "asked":
                connection = await journal.connection()
                await connection.closed()
                connections.append(connection)
            await settle(connect, server)
    for connection in connections:
        journal.opened.put_nowait(connection)
    await all_end_once(router, journal)


@ENDS
@pytest.mark.parametrize("target", WEBSOCKETS)
async def test_a_client_may_leave_in_the_middle_of_what_it_is_sent(
    serve: Serve, connect: Connect, join: Join, target: str, reset: bool
) -> None:
    journal = Journal(Echoing)
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    async with bystanders(server, join, journal):
        ended = []
        for closes in (False, True):
            client = await connect(server)
            await WebSocket.open(client, target)
            connection = await journal.connection()
            await congest(connection)
            if closes:
                connection.close()
            if reset:
                client.reset()
            await client.leave()
            assert await connection.closed() == ((3000, "Go away!") if closes else (1006, "Connection lost"))
            ended.append(connection)
        for connection in ended:
            journal.opened.put_nowait(connection)
        await settle(connect, server)
    await all_end_once(router, journal)


def pieces(url: Url) -> list[bytes]:
    """Return requests that are cut: in the request line, the headers, the body, and a body in chunks."""
    fields = HANDSHAKE if url.path.endswith("websocket") else ()
    head = request(url.method, f"/echo{url.path}", *fields).removesuffix(b"\r\n")
    whole = head + b"Content-Length: 8\r\n\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    return [
        b"",
        b"\r\n",
        head[:3],
        head[:9],
        head[: head.index(b"\r\n")],
        head[: head.index(b"\r\n") + 2],
        head[:-10],
        head,
        head + b"\r",
        head + b"Content-Length: 8",
        whole,
        whole + b'["x"',
        chunked,
        chunked + b"5",
        chunked + b"5\r\n",
        chunked + b'5\r\n["x',
        chunked + b'5\r\n["x"]',
        chunked + b'5\r\n["x"]\r\n',
        chunked + b'5\r\n["x"]\r\n0\r\n',
    ]


@pytest.mark.parametrize("end", ["closed", "reset", "half closed"])
@pytest.mark.parametrize("url", KINDS, ids=path_of)
async def test_a_request_that_is_cut_is_as_good_as_none(
    serve: Serve, connect: Connect, join: Join, url: Url, end: str
) -> None:
    journal = Journal(Echoing)
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    async with bystanders(server, join, journal):
        # Every other piece follows a complete request: a piece that is reset does if it does not with other ends.
        for number, data in enumerate(pieces(url), end == "reset"):
            client = await connect(server)
            if number % 2:
                client.write(request("GET", "/echo"))
                assert (await client.response()).status == 200
            client.write(data)
            await settle(connect, server)
            if end == "half closed":
                client.writer.write_eof()
                assert await remains(client) == b""
            elif end == "reset":
                client.reset()
            await client.leave()
        await settle(connect, server)
        assert journal.opened.empty()
        assert len(router.container) == 1


# Two at once.


@pytest.mark.parametrize("second", RECEIVING)
@pytest.mark.parametrize("first", RECEIVING)
async def test_of_receivers_in_one_iteration_one_wins(
    serve: Serve, connect: Connect, join: Join, first: str, second: str
) -> None:
    journal = Journal(Echoing)
    server = await serve(SockJSRouter(journal, "/echo"))
    async with bystanders(server, join, journal):
        opening = await connect(server)
        opening.write(asking("xhr", "/echo/000/abc"))
        assert await first_frame(opening, "xhr") == "o"
        connection = await journal.connection()
        clients = [(await connect(server), transport) for transport in (first, second, first)]
        for client, _ in clients:
            await client.ask("GET", "/echo")
        for client, transport in clients:
            client.write(asking(transport, "/echo/000/abc"))
        frames = [asyncio.ensure_future(first_frame(client, transport)) for client, transport in clients]
        waiting = set(frames)
        while len(waiting) > 1:
            _, waiting = await within(asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED))
        connection.send("for the winner")
        assert sorted([await frame for frame in frames]) == ['a["for the winner"]', *[STILL_OPEN] * 2]
        assert connection.closes == []


@pytest.mark.parametrize("second", STREAMING)
@pytest.mark.parametrize("first", STREAMING)
async def test_of_streams_that_open_in_one_iteration_one_wins(
    serve: Serve, connect: Connect, join: Join, first: str, second: str
) -> None:
    journal = Journal(Echoing)
    router = SockJSRouter(journal, "/echo")
    server = await serve(router)
    async with bystanders(server, join, journal):
        clients = [(await connect(server), transport) for transport in (first, second, first)]
        for client, _ in clients:
            await client.ask("GET", "/echo")
        for client, transport in clients:
            client.write(asking(transport, "/echo/000/abc"))
        frames = [await first_frame(client, transport) for client, transport in clients]
        assert sorted(frames) == [*[STILL_OPEN] * 2, "o"]
        assert len(router.container) == 2
        await journal.connection()
        assert journal.opened.empty()


# The ends that applications make.


def act(connection: Noted, how: str) -> Any:
    """End a connection in a callback, or fail in it, before or behind its first await."""

    def now() -> None:
        if how.startswith("close"):
            connection.close(3001, "done")
            connection.close(3002, "twice")
            connection.send("too late")
        else:
            raise LookupError("the application's own fault")

    async def later() -> None:
        await asyncio.sleep(0)
        now()

    return later() if how.endswith("async") else now()


def acting(name: str, how: str) -> type[Echoing]:
    """Return a connection that acts in one callback, unless it was made before ``active`` was set."""

    class Acting(Echoing):
        active = False

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.acts = self.active

        def _then(self, callback: str) -> Any:
            return act(self, how) if self.acts and callback == name else None

        def on_open(self, info: Any) -> Any:
            super().on_open(info)
            return self._then("on_open")

        def on_message(self, message: Any) -> Any:
            if self.acts:
                return self._then("on_message")
            return super().on_message(message)

        def on_close(self) -> Any:
            super().on_close()
            return self._then("on_close")

    return Acting


async def seen_end(peer: Peer, journal: Journal, name: str) -> tuple[str, Noted]:
    """Have a callback run, and return the close frame that its client sees."""
    assert await peer.frame() == "o"
    connection = await journal.connection()
    if name == "on_message":
        await peer.send("x", "y")
    elif name == "on_close":
        connection.close()
    end = await peer.frame()
    await connection.closed()
    return end, connection


CALLBACKS = pytest.mark.parametrize("name", ["on_open", "on_message", "on_close"])
WAYS = pytest.mark.parametrize("way", ["plain", "async"])
ALL = pytest.mark.parametrize("transport", EVERYWHERE)


def visitor(join: Join, server: RunningServer, connect: Connect, transport: str) -> Peer:
    """Make a client of any transport."""
    if transport == "rawwebsocket":

        async def new() -> Client:
            return await connect(server)

        return FramedRawPeer(transport, new)
    return join(server, transport)


@WAYS
@CALLBACKS
@ALL
async def test_a_callback_may_close_and_what_is_sent_then_goes_nowhere(
    serve: Serve, connect: Connect, join: Join, transport: str, name: str, way: str
) -> None:
    kind: Any = acting(name, f"close {way}")
    journal = Journal(kind)
    server = await serve(SockJSRouter(journal, "/echo"))
    async with bystanders(server, join, journal):
        kind.active = True
        end, connection = await seen_end(visitor(join, server, connect, transport), journal, name)
        why = (3000, "Go away!") if name == "on_close" else (3001, "done")
        assert end == f'c[{why[0]},"{why[1]}"]'
        connection.send("too late")
        connection.close(3003, "thrice")
        await settle(connect, server)
        assert connection.closes == [why]
        kind.active = False


@WAYS
@CALLBACKS
@ALL
async def test_a_callback_that_raises_ends_its_own_session_and_is_logged_once(
    serve: Serve, connect: Connect, join: Join, transport: str, name: str, way: str, logged: LogWatch
) -> None:
    kind: Any = acting(name, f"raise {way}")
    journal = Journal(kind)
    server = await serve(SockJSRouter(journal, "/echo"))
    async with bystanders(server, join, journal):
        kind.active = True
        end, connection = await seen_end(visitor(join, server, connect, transport), journal, name)
        why = (3000, "Go away!") if name == "on_close" else (1011, "Internal error")
        assert end == f'c[{why[0]},"{why[1]}"]'
        await settle(connect, server)
        assert connection.closes == [why]
        record = logged.take(f"{name} of <Session ")
        assert record.name.startswith("sockjs_tornado")
        assert record.levelname == "ERROR"
        assert type(exception_of(record)) is LookupError
        assert logged.records == []
        kind.active = False


@ALL
@pytest.mark.parametrize("factory", [False, True], ids=["constructor", "factory"])
async def test_a_connection_that_cannot_be_made_affects_no_other(
    serve: Serve, connect: Connect, join: Join, transport: str, factory: bool, logged: LogWatch
) -> None:
    broken: list[bool] = []

    class Faulty(Echoing):
        def __init__(self, *args: Any) -> None:
            if broken and not factory:
                raise LookupError
            super().__init__(*args)

    journal = Journal(Faulty)

    def make(session: Any) -> Noted:
        if broken and factory:
            raise LookupError
        return journal(session)

    router = SockJSRouter(make, "/echo")
    server = await serve(router)
    async with bystanders(server, join, journal):
        broken.append(True)
        client = await connect(server)
        target = "/echo/websocket" if transport == "rawwebsocket" else WEBSOCKETS[0]
        client.write(UPGRADE[target] if "websocket" in transport else asking(transport, "/echo/000/abc"))
        assert (await client.response()).status == 500
        logged.take("Uncaught exception")
        assert logged.records == []
        assert len(router.container) == 1
        broken.clear()
