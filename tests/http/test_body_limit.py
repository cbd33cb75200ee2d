"""Request bodies that are read piece by piece: limits on their size and duration, and their memory."""

import asyncio
import contextlib
import gc
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from application import NATIVE, Echo, Journal, LogWatch, Noted, Serve
from client import (
    HANDSHAKE,
    TEXT,
    TIMEOUT,
    URLS,
    Client,
    Connect,
    Url,
    WebSocket,
    asking,
    frame,
    path_of,
    request,
    settle,
    within,
)
from memory import traced_memory
from tornado.web import Application

from sockjs_tornado import SockJSRouter
from sockjs_tornado.http import body_limit
from sockjs_tornado.http.body_limit import READ_SIZE, WORK_PER_TURN, StreamedBodyHandler
from sockjs_tornado.http.handlers import SockJSHandler
from sockjs_tornado.server.exchange import NativeExchange
from sockjs_tornado.serving import bind_sockets, http_server
from sockjs_tornado.transports.endpoint import MAX_UNUSED_BODY
from sockjs_tornado.transports.exchange import Exchange
from sockjs_tornado.transports.limited_body import LimitedBody
from sockjs_tornado.wire.budget import UNCOUNTED_BYTES, BudgetShare
from sockjs_tornado.wire.chunked import FREE_CHUNKS, MIN_CHUNK_SIZE

SEND = "/echo/000/abc/xhr_send"
#: More than is not counted.
LONG = 3 * UNCOUNTED_BYTES


def chunk(data: bytes) -> bytes:
    """Return one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(*chunks: bytes, path: str = SEND, method: str = "POST", end: bool = True) -> bytes:
    """Return a request whose body comes in chunks, without its end or whole."""
    head = request(method, path, "Transfer-Encoding: chunked")
    return head + b"".join(map(chunk, chunks)) + (b"0\r\n\r\n" if end else b"")


def begun(size: int, sent: int, path: str = SEND) -> bytes:
    """Return the beginning of a request with a body of ``size`` bytes."""
    return request("POST", path, f"Content-Length: {size}") + b"x" * sent


async def used(router: SockJSRouter, size: int, client: Client) -> None:
    """Return once so many bytes count; ``client`` asks for something meanwhile."""
    async with asyncio.timeout(TIMEOUT):
        while router.body_budget.used != size:
            await client.ask("GET", "/echo")


@contextlib.asynccontextmanager
async def unpacking(router: SockJSRouter, **options: Any) -> AsyncIterator[int]:
    """Serve a router by Tornado's server with options, such as the one to unpack bodies; give its port."""
    sockets = bind_sockets(0, "127.0.0.1")
    port: int = sockets[0].getsockname()[1]
    application = Application(router.urls, log_function=lambda handler: None)
    async with http_server(application, sockets, server="native" if NATIVE else "tornado", **options):
        yield port
        closing = asyncio.ensure_future(router.close())
        await asyncio.sleep(0)
        for session in router.container:
            session.check(session.due)
        await within(closing)


# What a long body is: a body.


@pytest.mark.parametrize("size", [UNCOUNTED_BYTES - 4, UNCOUNTED_BYTES - 3, LONG, 10 * 1024 * 1024 - 4])
@pytest.mark.parametrize("in_chunks", [False, True], ids=["length", "chunks"])
async def test_a_long_body_arrives_and_the_connection_goes_on(
    serve: Serve, connect: Connect, size: int, in_chunks: bool
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    client = await connect(await serve(router))
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    body = b'["' + b"x" * size + b'"]'
    pieces = [body[start : start + 100_000] for start in range(0, len(body), 100_000)]
    for _ in range(2):
        client.write(chunked(*pieces) if in_chunks else request("POST", SEND, body=body))
        response = await client.response()
        assert response.status == 204
        assert "Connection" not in response
        assert len(await (await connection_of(journal)).message()) == size
    assert router.body_budget.used == 0
    assert router.stats.bytes_received == 2 * len(body)


async def connection_of(journal: Journal) -> Noted:
    """Return the one connection that a journal has."""
    connection = await journal.connection()
    journal.opened.put_nowait(connection)
    return connection


async def test_a_long_body_arrives_over_tls(serve: Serve, connect: Connect, certificate: Any) -> None:
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(*certificate)
    client_side = ssl.create_default_context(cafile=str(certificate[0]))
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router, ssl_options=server_side), tls=client_side)
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    client.write(chunked(b'["', b"x" * LONG, b'"]'))
    assert (await client.response()).status == 204
    response = await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    assert response.body == b'a["' + b"x" * LONG + b'"]\n'
    client.write(begun(2**40, 0))
    assert (await client.response()).status == 413


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
async def test_a_client_that_asks_first_may_go_on_or_not(serve: Serve, connect: Connect, expect: str) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    client = await connect(server)
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    body = b'["' + b"x" * LONG + b'"]'
    for head, data in (
        (request("POST", SEND, f"Content-Length: {len(body)}", f"Expect: {expect}"), body),
        (request("POST", SEND, "Transfer-Encoding: chunked", f"Expect: {expect}"), chunk(body) + b"0\r\n\r\n"),
    ):
        client.write(head)
        assert (await client.head()).status == 100
        client.write(data)
        assert (await client.head()).status == 204
    client.write(request("POST", SEND, f"Content-Length: {2**40}", f"Expect: {expect}"))
    assert (await client.response()).status == 413


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"-1\r\n",
        b"0x1\r\n",
        b"\r\n",
        b"1;x=y\r\n",
        b" 1\r\n",
        b"1 \r\nx\r\n",
        b"+1\r\n",
        b"1_0\r\n",
        b"\xb2\r\n",
        b"1\r\nxx\r\n",
        b"1\r\nx\n\n",
        b"1\r\nx\r\n0\r\nX: y\r\n\r\n",
        b"0" * 20 + b"1\r\n",
    ],
    ids=ascii,
)
async def test_chunks_that_are_none_are_rejected(serve: Serve, connect: Connect, body: bytes) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    client.write(chunked(end=False) + body)
    assert (await client.response()).status == 400
    assert await client.rest() == b""
    assert router.body_budget.used == 0


@pytest.mark.parametrize("field", ["gzip", "chunked, chunked", "gzip, chunked", "identity", ""])
async def test_another_transfer_encoding_is_rejected(serve: Serve, connect: Connect, field: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    client.write(request("POST", SEND, f"Transfer-Encoding: {field}") + b"0\r\n\r\n")
    assert (await client.response()).status == (501 if NATIVE else 400)
    assert await client.rest() == b""


@pytest.mark.parametrize("length", ["x", "-1", "+1", "1.5", "1,2", "200000, 200001", "0x10", "1 1", "1e3"])
async def test_a_length_that_is_none_is_rejected(serve: Serve, connect: Connect, length: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    client.write(request("POST", SEND, f"Content-Length: {length}"))
    assert (await client.response()).status == 400
    assert await client.rest() == b""


# How much a body may take.


@pytest.mark.parametrize("url", [url for url in URLS if "_send" not in url.path], ids=path_of)
@pytest.mark.parametrize("in_chunks", [False, True], ids=["length", "chunks"])
async def test_a_body_is_rejected_on_urls_that_take_none(
    serve: Serve, connect: Connect, url: Url, in_chunks: bool
) -> None:
    router = SockJSRouter(Echo, "/echo")
    server = await serve(router)
    fields = HANDSHAKE if url.path.endswith("/websocket") else ()
    client = await connect(server)
    path = "/echo" + url.path
    # Not a byte of it has come, or one of its first chunk.
    if in_chunks:
        client.write(
            request(url.method, path, "Transfer-Encoding: chunked", *fields) + b"%x\r\nx" % (MAX_UNUSED_BODY + 1)
        )
    else:
        client.write(request(url.method, path, f"Content-Length: {MAX_UNUSED_BODY + 1}", *fields))
    response = await client.response()
    assert (response.status, response.text) == (413, "Payload too large.")
    assert response["Connection"] == "close"
    assert await client.rest() == b""
    assert router.stats.rejected == {"unexpected_body": 1}
    # A few bytes are passed over.
    client = await connect(server)
    body = b"x" * MAX_UNUSED_BODY
    if in_chunks:
        client.write(request(url.method, path, "Transfer-Encoding: chunked", *fields) + chunk(body) + b"0\r\n\r\n")
    else:
        client.write(request(url.method, path, *fields, body=body))
    assert (await client.head()).status in (101, 200)


@pytest.mark.parametrize("field", ["Content-Length: 101", "Transfer-Encoding: chunked"])
async def test_a_body_is_rejected_even_if_the_cookie_cannot_be_chosen(
    serve: Serve, connect: Connect, logged: LogWatch, field: str
) -> None:
    def jsessionid(request: object) -> bool:
        raise ZeroDivisionError

    router = SockJSRouter(Echo, "/echo", {"max_message_size": 100, "jsessionid": jsessionid})
    client = await connect(await serve(router))
    client.write(request("POST", SEND, field) + (b"" if "Length" in field else b"65\r\n"))
    response = await client.response()
    assert (response.status, response.text) == (413, "Payload too large.")
    assert await client.rest() == b""
    logged.take("Uncaught exception")


async def test_the_access_log_has_the_status_of_a_rejection_by_a_closing_router(serve: Serve, connect: Connect) -> None:
    router = SockJSRouter(Echo, "/echo", {"max_message_size": 100})
    server = await serve(router)
    statuses: list[int] = []
    server.application.settings["log_function"] = lambda handler: statuses.append(handler.get_status())
    await within(router.close())
    client = await connect(server)
    client.write(begun(101, 0))
    assert (await client.response()).status == 413
    assert statuses == [413]


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
async def test_only_a_post_has_messages(serve: Serve, connect: Connect, method: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo")))
    client.write(request(method, SEND, f"Content-Length: {MAX_UNUSED_BODY + 1}"))
    assert (await client.response()).status == 413


async def test_a_chunk_that_is_said_to_be_too_long_is_not_read(serve: Serve, connect: Connect) -> None:
    router = SockJSRouter(Echo, "/echo", {"max_message_size": LONG})
    client = await connect(await serve(router))
    client.write(chunked(b"x", end=False) + b"%x\r\n" % LONG)
    response = await client.response()
    assert (response.status, response.text) == (413, "Payload too large.")
    # What comes of it all the same is passed over.
    client.write(b"x" * LONG + b"\r\n0\r\n\r\n")
    assert await client.rest() == b""
    assert router.stats.rejected == {"max_message_size": 1}


async def test_bodies_on_their_way_share_a_budget(serve: Serve, connect: Connect, logged: LogWatch) -> None:
    limit = 2 * LONG
    router = SockJSRouter(Echo, "/echo", {"max_buffered_body_bytes": limit, "max_message_size": limit})
    server = await serve(router)
    small = await connect(server)
    await small.ask("POST", "/echo/000/abc/xhr", body=b"")
    slow = [await connect(server) for _ in range(2)]
    for client in slow:
        client.write(chunked(b"x" * UNCOUNTED_BYTES, b"x" * LONG, end=False))
    await used(router, limit, small)

    def check(response: Any) -> None:
        assert (response.status, response.body) == (503, b"Try again later.\n")
        assert 1 <= int(response["Retry-After"]) <= 10
        assert response["Connection"] == "close"
        assert response["Access-Control-Allow-Origin"] == "*"

    # Not a byte of it has come.
    refused = await connect(server)
    refused.write(request("POST", SEND, f"Content-Length: {UNCOUNTED_BYTES + 1}"))
    check(await refused.response())
    assert await refused.rest() == b""
    # Of one whose length is not known, what is too much is found out when it comes.
    refused = await connect(server)
    refused.write(chunked(b"x" * UNCOUNTED_BYTES, b"x", end=False))
    check(await refused.response())
    assert router.stats.rejected == {"max_buffered_body_bytes": 2}
    assert router.body_budget.used == limit
    message = "max_buffered_body_bytes is reached: long bodies get 503"
    assert logged.take("max_buffered_body_bytes").getMessage() == message
    # Nobody needs it for a little.
    body = b'["' + b"x" * (UNCOUNTED_BYTES - 4) + b'"]'
    assert (await small.ask("POST", SEND, body=body)).status == 204
    small.write(chunked(body))
    assert (await small.response()).status == 204
    # Who leaves makes room.
    await slow[0].leave()
    await used(router, LONG, small)
    assert (await small.ask("POST", SEND, body=b'["' + b"x" * LONG + b'"]')).status == 204


@pytest.mark.parametrize(
    ("limit", "size"),
    [(0, 2**70), (1, 10**6), (10**6, 10**6), (10**6 + 1, 10**6 + 1)],
    ids=["none", "least", "as much", "more"],
)
def test_there_is_room_for_one_body_at_least(limit: int, size: int) -> None:
    router = SockJSRouter(Echo, "/echo", {"max_message_size": 10**6, "max_buffered_body_bytes": limit})
    share = BudgetShare(router.body_budget)
    assert share.fits(UNCOUNTED_BYTES + size)
    assert share.fits(UNCOUNTED_BYTES + size + 1) == (limit == 0)


@pytest.mark.parametrize("raw", [False, True], ids=["websocket", "raw websocket"])
@pytest.mark.parametrize("in_frames", [False, True], ids=["a frame", "frames"])
async def test_unfinished_websocket_messages_share_the_budget(
    serve: Serve, connect: Connect, logged: LogWatch, raw: bool, in_frames: bool
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"max_buffered_body_bytes": LONG, "max_message_size": LONG})
    server = await serve(router)
    path = "/echo/websocket" if raw else "/echo/000/abc/websocket"

    async def sending(size: int) -> WebSocket:
        websocket = await WebSocket.open(await connect(server), path)
        if not raw:
            assert await websocket.text() == "o"
        text = b'["' + b"x" * (LONG - 4) + b'"]'
        websocket.write(frame(TEXT, text[:size], fin=False) if in_frames else frame(TEXT, text)[: size + 14])
        return websocket

    first = await sending(LONG - 10)
    connection = await journal.connection()
    other = await connect(server)
    await used(router, LONG - 10 - UNCOUNTED_BYTES, other)
    # A little is free.
    second = await sending(UNCOUNTED_BYTES)
    await settle(connect, server)
    third = await sending(LONG - 10)
    assert await third.closed() == (1013, "too many unfinished messages")
    assert router.stats.rejected == {"max_buffered_body_bytes": 1}
    logged.take("max_buffered_body_bytes is reached: closing websockets with incomplete messages (close code 1013)")
    other.write(request("POST", SEND, f"Content-Length: {LONG}"))
    assert (await other.response()).status == 503
    logged.take("max_buffered_body_bytes is reached: long bodies get 503")
    # What is complete counts no more.
    first.write(frame(0, b"x" * 8 + b'"]') if in_frames else frame(TEXT, b'["' + b"x" * (LONG - 4) + b'"]')[-10:])
    message = await connection.message()
    assert len(message) == (LONG if raw else LONG - 4)
    assert router.body_budget.used == 0
    # Nor does what will not become complete.
    await second.client.leave()
    await settle(connect, server)
    assert router.body_budget.used == 0


async def test_a_violation_within_a_message_releases_it(serve: Serve, connect: Connect) -> None:
    router = SockJSRouter(Echo, "/echo")
    server = await serve(router)
    websocket = await WebSocket.open(await connect(server), "/echo/000/abc/websocket")
    assert await websocket.text() == "o"
    websocket.write(frame(TEXT, b"x" * LONG, fin=False))
    await used(router, LONG - UNCOUNTED_BYTES, await connect(server))
    websocket.write(frame(TEXT, b"x"))
    assert await websocket.closed() == (1002, "wrong fragmentation")
    assert router.body_budget.used == 0


@pytest.mark.parametrize(
    "field", [f"Content-Length: {LONG}", "Content-Length: x", "Transfer-Encoding: chunked", "Transfer-Encoding: x"]
)
async def test_nothing_is_read_for_a_foreign_page(serve: Serve, connect: Connect, field: str) -> None:
    router = SockJSRouter(Echo, "/echo", {"allowed_origins": ["https://example.com"]})
    client = await connect(await serve(router))
    client.write(request("POST", SEND, field, "Origin: https://evil.example"))
    response = await client.response()
    malformed = NATIVE and field.endswith("x")
    if malformed:
        assert response.status in (400, 501)
    else:
        assert (response.status, response.text) == (403, "Origin not allowed.\n")
    assert "Access-Control-Allow-Origin" not in response
    assert await client.rest() == b""
    assert router.stats.rejected == ({} if malformed else {"allowed_origins": 1})


# How long a body is kept.


async def test_a_body_that_does_not_arrive_in_time_is_aborted(connect: Connect) -> None:
    cases: tuple[tuple[dict[str, Any], bytes], ...] = (
        ({}, begun(10**6, LONG)),
        ({}, chunked(b"x" * LONG, end=False)),
        ({}, chunked(b"x" * LONG, end=False) + b"1"),
    )
    for options, data in cases:
        router = SockJSRouter(Echo, "/echo", options)
        async with unpacking(router, body_timeout=0.05) as port:
            client = await Client.connect(port)
            client.write(data)
            with contextlib.suppress(ConnectionError):
                assert await client.rest() == b""
            await client.leave()
            assert router.body_budget.used == 0


async def test_a_body_that_came_while_the_loop_stood_still_is_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic = time.monotonic

    def stand_still() -> None:
        client.write(b"x")
        # For the event loop and for the timeout.
        for name in ("time.monotonic", "sockjs_tornado.session.grace.monotonic"):
            monkeypatch.setattr(name, lambda: monotonic() + TIMEOUT / 2)

    router = SockJSRouter(Echo, "/echo")
    async with unpacking(router, body_timeout=TIMEOUT / 3) as port:
        client, other = await Client.connect(port), await Client.connect(port)
        client.write(begun(LONG, LONG - 1))
        await used(router, LONG - 1 - UNCOUNTED_BYTES, other)
        asyncio.get_running_loop().call_soon(stand_still)
        assert (await client.response()).status == 404
        await client.leave()
        await other.leave()


async def stop_in_chunk(client: Client) -> None:
    client.write(chunked(end=False) + b"%x\r\n" % (2 * LONG) + b"x" * LONG)


async def stop_between_chunks(client: Client) -> None:
    client.write(chunked(b"x" * LONG, end=False))


async def stop_in_a_length(client: Client) -> None:
    client.write(chunked(b"x" * LONG, end=False) + b"1")


async def stop_in_a_long_body(client: Client) -> None:
    client.write(begun(2 * LONG, LONG))


async def stop_in_a_small_body(client: Client) -> None:
    client.write(begun(UNCOUNTED_BYTES, UNCOUNTED_BYTES - 1))


async def stop_after_a_refusal(client: Client) -> None:
    client.write(begun(2**30, LONG))


async def stop_in_a_refused_chunk(client: Client) -> None:
    client.write(chunked(end=False) + b"%x\r\n" % 2**30 + b"x" * LONG)


async def stop_in_a_frame(client: Client) -> None:
    websocket = await WebSocket.open(client, "/echo/000/abc/websocket")
    websocket.write(frame(TEXT, b"x" * LONG)[:-1])


async def stop_between_frames(client: Client) -> None:
    websocket = await WebSocket.open(client, "/echo/000/abc/websocket")
    websocket.write(frame(TEXT, b"x" * LONG, fin=False))


async def stop_polling(client: Client) -> None:
    path = f"/echo/000/{id(client)}/xhr"
    await client.ask("POST", path, body=b"")
    client.write(request("POST", path, body=b"x" * MAX_UNUSED_BODY))


async def stop_streaming(client: Client) -> None:
    client.write(asking("xhr_streaming", f"/echo/000/{id(client)}"))
    await client.head()


STOPS = [
    stop_in_chunk,
    stop_between_chunks,
    stop_in_a_length,
    stop_in_a_long_body,
    stop_in_a_small_body,
    stop_after_a_refusal,
    stop_in_a_refused_chunk,
    stop_in_a_frame,
    stop_between_frames,
    stop_polling,
    stop_streaming,
]


@pytest.mark.parametrize("stop", STOPS)
async def test_nothing_is_left_of_a_client_that_leaves_half_way(
    serve: Serve, connect: Connect, stop: Callable[[Client], Awaitable[None]]
) -> None:
    """The garbage collector is off: what is left would stay until it runs, and be as much again with each client."""
    router = SockJSRouter(Echo, "/echo")
    server = await serve(router)
    count = 8

    async def come_and_go() -> None:
        clients = [await Client.connect(server.port) for _ in range(count)]
        for client in clients:
            await stop(client)
        await settle(connect, server)
        for client in clients:
            await client.leave()
        await settle(connect, server)
        for session in list(router.container):
            session.close()
            session.check(session.due)

    await come_and_go()
    gc.collect()
    gc.disable()
    left = []
    try:
        for _ in range(2):
            with traced_memory() as traced:
                await come_and_go()
                await settle(connect, server)
                left.append(traced()[0])
    finally:
        gc.enable()
    assert router.body_budget.used == 0
    # In one of the rounds, a table of the interpreter may grow, such as that of interned strings: by 2 MB at once.
    # What a connection leaves on the client's side, and on asyncio's.
    assert min(left) / count < 20_000


async def test_a_held_request_keeps_nothing_of_its_body(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy(Noted):
        may_go_on: asyncio.Event

        async def on_message(self, message: str) -> None:
            await self.may_go_on.wait()

    Busy.may_go_on = asyncio.Event()
    router = SockJSRouter(Journal(Busy), "/echo", {"max_queue_bytes": 1000, "adopt_connections": False})
    server = await serve(router)
    held: asyncio.Queue[Exchange] = asyncio.Queue()
    kind: type[Any] = NativeExchange if NATIVE else SockJSHandler
    wait_for_response = kind.wait_for_response

    def note(self: Exchange, waiting: Any) -> Any:
        held.put_nowait(self)
        return wait_for_response(self, waiting)

    monkeypatch.setattr(kind, "wait_for_response", note)
    client = await connect(server)
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    client.write(request("POST", "/echo/000/abc/xhr", body=b"x" * MAX_UNUSED_BODY))
    assert (await within(held.get())).body() == b""
    # Both are answered when the application has caught up.
    senders = [await connect(server) for _ in range(2)]
    for sender, size in zip(senders, (LONG, 500), strict=True):
        sender.write(request("POST", SEND, body=b'["x","' + b"y" * size + b'"]'))
        handler = await within(held.get())
        assert handler.body() == b""
        if NATIVE or isinstance(handler, StreamedBodyHandler):
            assert router.body_budget.used == 0
        if size == LONG:
            Busy.may_go_on.set()
            assert (await sender.response()).status == 204
            Busy.may_go_on.clear()
    Busy.may_go_on.set()


# What chunks may cost.


async def test_a_body_of_tiny_chunks_is_rejected_before_its_end(serve: Serve, connect: Connect) -> None:
    router = SockJSRouter(Echo, "/echo")
    client = await connect(await serve(router))
    # The end does not come: a server that waits for it, or reads on, does not answer.
    client.write(chunked(*[b"x"] * (FREE_CHUNKS + 2), end=False))
    response = await client.response()
    assert (response.status, response.text) == (400, "Chunks too small.")
    client.write(chunk(b"x") * 1000)
    assert await client.rest() == b""
    assert router.stats.rejected == {"chunk_size": 1}
    assert router.body_budget.used == 0


@pytest.mark.parametrize(
    "sizes",
    [
        [1] * FREE_CHUNKS,
        [1] * FREE_CHUNKS + [MIN_CHUNK_SIZE],
        [MIN_CHUNK_SIZE] * 3 * FREE_CHUNKS,
        [100_000] + [1] * (FREE_CHUNKS + 100_000 // MIN_CHUNK_SIZE - 1),
    ],
    ids=["as many as are free", "a longer one behind them", "long enough on average", "a long one first"],
)
async def test_chunks_may_be_small_now_and_then(serve: Serve, connect: Connect, sizes: list[int]) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo")))
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    text = b'["' + b"x" * (sum(sizes) - 4) + b'"]'
    chunks = []
    for size in sizes:
        chunks.append(text[:size])
        text = text[size:]
    client.write(chunked(*chunks))
    assert (await client.response()).status == 204
    assert len(await (await journal.connection()).message()) == sum(sizes) - 4


async def test_a_body_that_has_already_arrived_is_read_in_several_iterations(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work is counted by turns of the event loop, in which everybody else is served."""
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"adopt_connections": False})))
    turn = 0
    work: dict[int, int] = {}
    keep = LimitedBody._append

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(next_turn)

    def noted(self: LimitedBody, data: bytes) -> None:
        work[turn] = work.get(turn, 0) + len(data) + body_limit.CHUNK_COST
        keep(self, data)

    monkeypatch.setattr(LimitedBody, "_append", noted)
    loop = asyncio.get_running_loop()
    loop.call_soon(next_turn)
    client.write(chunked(*[b"x" * MIN_CHUNK_SIZE] * 4000))
    assert (await client.response()).status == 404
    # A chunk that comes in two parts counts twice here.
    assert sum(work.values()) >= 4000 * (MIN_CHUNK_SIZE + body_limit.CHUNK_COST)
    assert max(work.values()) <= WORK_PER_TURN + READ_SIZE + 2 * body_limit.CHUNK_COST


# Compressed bodies, if the application wants Tornado to unpack them.


@pytest.mark.parametrize("in_chunks", [False, True], ids=["length", "chunks"])
async def test_a_compressed_body_is_unpacked_piece_by_piece(in_chunks: bool) -> None:
    limit = 10**6
    journal = Journal()
    router = SockJSRouter(journal, "/echo", {"max_message_size": limit})

    def packed(body: bytes) -> bytes:
        data = gzip.compress(body)
        if in_chunks:
            return (
                request("POST", SEND, "Content-Encoding: gzip", "Transfer-Encoding: chunked")
                + chunk(data)
                + b"0\r\n\r\n"
            )
        return request("POST", SEND, "Content-Encoding: gzip", body=data)

    async with unpacking(router, decompress_request=True) as port:
        client = await Client.connect(port)
        await client.ask("POST", "/echo/000/abc/xhr", body=b"")
        connection = await journal.connection()
        for size in (1, 1000, limit - 4):
            client.write(packed(b'["' + b"x" * size + b'"]'))
            assert (await client.response()).status == 204
            assert len(await connection.message()) == size
        # A few kilobytes that would become fifty times the limit.
        bomb = packed(b"x" * 50 * limit)
        peaks = []
        for _ in range(2):
            with traced_memory() as traced:
                client.write(bomb)
                assert (await client.response()).status == 413
                peaks.append(traced()[1])
            assert await client.rest() == b""
            await client.leave()
            client = await Client.connect(port)
        # In one of the rounds, a table of the interpreter may grow.
        assert min(peaks) < 2 * limit
        await client.leave()


@pytest.mark.parametrize(
    "data",
    [b"x", gzip.compress(b"[]")[:-1], gzip.compress(b"[]") + b"x", gzip.compress(b"[]") * 2, b"\x1f\x8b" + b"x" * 20],
    ids=["no gzip", "cut off", "something behind it", "two", "broken"],
)
@pytest.mark.parametrize("in_chunks", [False, True], ids=["length", "chunks"])
async def test_a_broken_compressed_body_is_rejected(data: bytes, in_chunks: bool) -> None:
    router = SockJSRouter(Echo, "/echo")
    async with unpacking(router, decompress_request=True) as port:
        client = await Client.connect(port)
        if in_chunks:
            client.write(request("POST", SEND, "Content-Encoding: gzip", "Transfer-Encoding: chunked"))
            client.write(chunk(data) + b"0\r\n\r\n")
        else:
            client.write(request("POST", SEND, "Content-Encoding: gzip", body=data))
        response = await client.response()
        assert (response.status, response.text) == (400, "Broken gzip encoding.")
        assert await client.rest() == b""
        await client.leave()
        assert router.body_budget.used == 0


async def test_compressed_bytes_that_become_none_are_bounded_and_are_work(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 4 * READ_SIZE
    # A block of no bytes takes five; a body can have any number of them.
    nothing = b"\x00\x00\x00\xff\xff" * (READ_SIZE // 5)
    work = 0
    note = StreamedBodyHandler._yield_after_work

    async def noted(self: StreamedBodyHandler, size: int) -> None:
        nonlocal work
        work += size
        await note(self, size)

    monkeypatch.setattr(StreamedBodyHandler, "_yield_after_work", noted)
    router = SockJSRouter(Echo, "/echo", {"max_message_size": limit})
    async with unpacking(router, decompress_request=True) as port:
        client = await Client.connect(port)
        client.write(request("POST", SEND, "Content-Encoding: gzip", "Transfer-Encoding: chunked"))
        client.write(chunk(gzip.compress(b"")[:10]) + chunk(nothing) * 5)
        response = await client.response()
        assert (response.status, response.text) == (413, "Payload too large.")
        await client.leave()
    assert work > 3 * len(nothing)


@pytest.mark.parametrize("unpacks", [False, True])
@pytest.mark.parametrize("in_chunks", [False, True], ids=["length", "chunks"])
async def test_a_client_cannot_say_that_a_body_was_unpacked(unpacks: bool, in_chunks: bool) -> None:
    """Tornado makes of Content-Encoding a field that anybody can send."""
    router = SockJSRouter(Echo, "/echo", {"adopt_connections": False})
    body = b'["' + b"x" * LONG + b'"]'
    field = "X-Consumed-Content-Encoding: gzip"
    async with unpacking(router, decompress_request=unpacks) as port:
        client = await Client.connect(port)
        await client.ask("POST", "/echo/000/abc/xhr", body=b"")
        if in_chunks:
            client.write(request("POST", SEND, field, "Transfer-Encoding: chunked") + chunk(body) + b"0\r\n\r\n")
        else:
            client.write(request("POST", SEND, field, body=body))
        # Of a server of Tornado's that unpacks, such a client gets what it asked for.
        assert (await client.response()).status == (400 if unpacks and not NATIVE else 204)
        await client.leave()
