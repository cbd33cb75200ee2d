"""Limits on the number, size, rate and duration of sessions, messages and requests."""

import asyncio
import gzip
import json
import logging
import socket
import time
import traceback
from typing import Any

import pytest
from application import NATIVE, Busy, Echo, Journal, LogWatch, Noted, Serve, congest, exception_of
from client import (
    FRAMED,
    HANDSHAKE,
    TEXT,
    TIMEOUT,
    Client,
    Connect,
    Join,
    WebSocket,
    asking,
    frame,
    request,
    settle,
    within,
)
from tornado.web import Application

from sockjs_tornado import ConnectionInfo, SockJSConnection, SockJSRouter
from sockjs_tornado.serving import bind_sockets, http_server
from sockjs_tornado.session.inbox import MAX_INBOX_WAITERS
from sockjs_tornado.wire.sockets import bytes_acked

#: The logger of exceeded limits.
LIMITS = "sockjs_tornado.session.limit_log"

SENDING = pytest.mark.parametrize("name", ["xhr_send", "jsonp_send"])


async def visit_twice(connect: Connect, server: Any) -> None:
    """Open two websockets one after the other, and disconnect each."""
    for session in ("a", "b"):
        client = await connect(server)
        client.write(ask_for("websocket", f"/echo/000/{session}"))
        assert (await client.head()).status == 101
        await client.leave()
        await settle(connect, server)


async def opening(connect: Connect, server: Any, transport: str, session: str, source: str = "127.0.0.1") -> Any:
    """Ask for a session and return the response's head."""
    client = await connect(server, source=source)
    client.write(ask_for(transport, f"/echo/000/{session}"))
    return await client.head()


def ask_for(transport: str, base: str) -> bytes:
    """Return the request that opens a session."""
    if transport == "rawwebsocket":
        return request("GET", "/echo/websocket", *HANDSHAKE)
    return asking(transport, base, *(HANDSHAKE if transport == "websocket" else ()))


def is_refused(response: Any) -> bool:
    """Tell whether there was no room."""
    if response.status != 503:
        return False
    assert 1 <= int(response["Retry-After"]) <= 10
    assert response["Cache-Control"].startswith("no-store")
    return True


# How many.


@pytest.mark.parametrize("transport", [*FRAMED, "rawwebsocket"])
async def test_no_more_sessions_than_the_limit(
    serve: Serve, connect: Connect, join: Join, logged: LogWatch, transport: str
) -> None:
    router = SockJSRouter(Echo, "/echo", {"max_sessions": 2, "disconnect_delay": 0.1})
    server = await serve(router)
    peers = [join(server, "websocket") for _ in range(2)]
    for peer in peers:
        assert await peer.frame() == "o"
    # Who looks after the server hears of it, and not each time.
    for _ in range(2):
        assert is_refused(await opening(connect, server, transport, "refused"))
    assert router.stats.rejected == {"max_sessions": 2}
    assert logged.take("max_sessions").getMessage() == "max_sessions is reached: new clients get 503"
    # Those who are there stay, and make room when they leave.
    await peers[0].send("x")
    assert await peers[0].message() == "x"
    peers[1].vanish()
    await settle(connect, server)
    newcomer = join(server, "websocket")
    assert await newcomer.frame() == "o"


async def test_a_poll_of_a_session_that_is_there_is_no_new_one(
    serve: Serve, connect: Connect, logged: LogWatch
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"max_sessions": 1}))
    client = await connect(server)
    assert (await client.ask("POST", "/echo/000/a/xhr", body=b"")).body == b"o\n"
    assert (await client.ask("POST", "/echo/000/a/xhr_send", body=b'["x"]')).status == 204
    assert (await client.ask("POST", "/echo/000/a/xhr", body=b"")).body == b'a["x"]\n'
    assert is_refused(await opening(connect, server, "xhr", "b"))
    logged.take("max_sessions is reached")


async def test_no_more_sessions_of_an_address_than_the_limit(serve: Serve, connect: Connect, logged: LogWatch) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"max_sessions_per_ip": 1}))
    assert (await opening(connect, server, "xhr_streaming", "a", "127.0.0.2")).status == 200
    assert is_refused(await opening(connect, server, "xhr_streaming", "b", "127.0.0.2"))
    assert (await opening(connect, server, "xhr_streaming", "c", "127.0.0.3")).status == 200
    text = logged.take("max_sessions_per_ip").getMessage()
    assert text == "max_sessions_per_ip is reached: new clients from 127.0.0.2 get 503"


async def test_no_more_sessions_that_wait_for_on_open_than_the_limit(
    serve: Serve, connect: Connect, logged: LogWatch
) -> None:
    class Doorman(SockJSConnection):
        may_open: asyncio.Event

        async def on_open(self, info: Any) -> bool:
            await self.may_open.wait()
            return "no" not in info.uri

    Doorman.may_open = asyncio.Event()
    router = SockJSRouter(Doorman, "/echo", {"max_unopened_sessions": 2, "disconnect_delay": 60})
    server = await serve(router)
    for session in ("a", "no"):
        assert (await opening(connect, server, "xhr_streaming", session)).status == 200
    assert is_refused(await opening(connect, server, "xhr_streaming", "b"))
    logged.take("max_unopened_sessions is reached")
    Doorman.may_open.set()
    await settle(connect, server)
    assert (await opening(connect, server, "xhr_streaming", "c")).status == 200
    await settle(connect, server)
    assert not router.container.limit_reached("127.0.0.1")


async def test_a_session_that_closes_while_on_open_runs_is_still_counted(
    serve: Serve, connect: Connect, logged: LogWatch
) -> None:
    class Doorman(SockJSConnection):
        may_open: asyncio.Event

        async def on_open(self, info: Any) -> None:
            await self.may_open.wait()

    Doorman.may_open = asyncio.Event()
    router = SockJSRouter(Doorman, "/echo", {"max_unopened_sessions": 2})
    server = await serve(router)
    await visit_twice(connect, server)
    assert len(router.container) == 0
    assert is_refused(await opening(connect, server, "websocket", "c"))
    logged.take("max_unopened_sessions is reached")
    Doorman.may_open.set()
    await settle(connect, server)
    assert (await opening(connect, server, "websocket", "c")).status == 101


@pytest.mark.parametrize("limit", ["max_sessions", "max_sessions_per_ip"])
async def test_a_closed_session_is_counted_while_on_close_runs(
    serve: Serve, connect: Connect, logged: LogWatch, limit: str
) -> None:
    may_close = asyncio.Event()

    class Slow(SockJSConnection):
        async def on_close(self) -> None:
            await may_close.wait()

    router = SockJSRouter(Slow, "/echo", {limit: 2})
    server = await serve(router)
    await visit_twice(connect, server)
    assert len(router.container) == 0
    assert is_refused(await opening(connect, server, "websocket", "c"))
    logged.take(f"{limit} is reached")
    may_close.set()
    await settle(connect, server)
    assert (await opening(connect, server, "websocket", "c")).status == 101


async def test_a_host_s_ipv6_addresses_count_as_one() -> None:
    router = SockJSRouter(Echo, "/echo", {"max_sessions_per_ip": 1, "disconnect_delay": 0.01})
    info = ConnectionInfo(ip="2001:db8::1", uri="", prefix="", transport="xhr", headers={}, cookies=None)
    router.create_session("a", True, info)
    assert router.container.limit_reached("2001:db8::ffff:1") == "max_sessions_per_ip"
    assert router.container.limit_reached("2001:db8:0:1::1") is None
    # IPv4 clients of a dual-stack socket are not one client, and each is the same one over both.
    info = ConnectionInfo(ip="::ffff:192.0.2.1", uri="", prefix="", transport="xhr", headers={}, cookies=None)
    router.create_session("b", True, info)
    assert router.container.limit_reached("192.0.2.1") == "max_sessions_per_ip"
    assert router.container.limit_reached("::ffff:192.0.2.2") is None
    await within(router.close())


# How much.


@SENDING
async def test_a_body_that_is_said_to_be_too_long_is_not_read(serve: Serve, connect: Connect, name: str) -> None:
    router = SockJSRouter(Echo, "/echo", {"max_message_size": 1000})
    client = await connect(await serve(router))
    # Not a byte of it has come, and a Tornado that reads it first would wait.
    client.write(request("POST", f"/echo/000/abc/{name}", "Content-Length: 1001", "Origin: http://a.example"))
    response = await client.response()
    assert (response.status, response.text) == (413, "Payload too large.")
    assert response["Connection"] == "close"
    assert ("Access-Control-Allow-Origin" in response) == (name == "xhr_send")
    # What comes of it all the same is passed over.
    client.write(b"x" * 1001)
    assert await client.rest() == b""
    assert router.stats.rejected == {"max_message_size": 1}


@pytest.mark.parametrize("length", ["1001", "9" * 40])
@pytest.mark.parametrize(("method", "path"), [("POST", "/xhr"), ("GET", "/websocket"), ("POST", "/xhr_streaming")])
async def test_no_url_takes_a_long_body(serve: Serve, connect: Connect, method: str, path: str, length: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"max_message_size": 1000})))
    client.write(request(method, f"/echo/000/abc{path}", f"Content-Length: {length}"))
    # The native server takes a number of 40 digits for none.
    assert (await client.response()).status == (400 if NATIVE and len(length) == 40 else 413)
    assert await client.rest() == b""


@SENDING
async def test_a_body_in_chunks_is_counted(serve: Serve, connect: Connect, name: str) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"max_message_size": 1000}))
    client = await connect(server)
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")

    def chunked(*chunks: bytes) -> bytes:
        head = request("POST", f"/echo/000/abc/{name}", "Transfer-Encoding: chunked")
        return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)

    client.write(chunked(b'["', b"x" * 996, b'"]') + b"0\r\n\r\n")
    assert (await client.response()).status in (200, 204)
    # It is refused where the limit is reached, before its end has come.
    client.write(chunked(b'["', b"x" * 996, b'"', b"]]"))
    response = await client.response()
    assert (response.status, response.text) == (413, "Payload too large.")
    other = await connect(server)
    assert (await other.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b'a["' + b"x" * 996 + b'"]\n'


@pytest.mark.parametrize("size", [2, 2000], ids=["little", "too much"])
async def test_a_client_may_leave_within_a_body_in_chunks(serve: Serve, connect: Connect, size: int) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"max_message_size": 1000}))
    client = await connect(server)
    await settle(connect, server)
    before = asyncio.all_tasks()
    client.write(request("POST", "/echo/000/abc/xhr_send", "Transfer-Encoding: chunked") + b"%x\r\n" % 5000)
    client.write(b"x" * size)
    await settle(connect, server)
    await client.leave()
    await settle(connect, server)
    assert {task for task in asyncio.all_tasks() - before if "Handler" in repr(task)} == set()


@SENDING
@pytest.mark.parametrize("field", ["2000, 2000", "2000\r\nContent-Length: 2000"], ids=["a list", "two fields"])
async def test_a_length_that_is_said_twice_is_not_overlooked(
    serve: Serve, connect: Connect, name: str, field: str
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo", {"max_message_size": 1000}))
    client = await connect(server)
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    client.write(request("POST", f"/echo/000/abc/{name}", f"Content-Length: {field}") + b'["' + b"x" * 1996 + b'"]')
    assert (await client.response()).status == 413
    assert await client.rest() == b""


@SENDING
async def test_a_body_that_tornado_decompresses_is_measured(serve: Serve, connect: Connect, name: str) -> None:
    router = SockJSRouter(Echo, "/echo", {"max_message_size": 1000})
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    application = Application(router.urls, log_function=lambda handler: None)
    async with http_server(application, sockets, decompress_request=True):
        client = await Client.connect(port)
        await client.ask("POST", "/echo/000/abc/xhr", body=b"")
        packed = gzip.compress(b'["x"]')
        response = await client.ask("POST", f"/echo/000/abc/{name}", "Content-Encoding: gzip", body=packed)
        assert response.status in (200, 204)
        assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b'a["x"]\n'
        packed = gzip.compress(b'["' + b"x" * 100_000 + b'"]')
        assert len(packed) < 1000
        response = await client.ask("POST", f"/echo/000/abc/{name}", "Content-Encoding: gzip", body=packed)
        assert response.status == 413
        await client.leave()
        session = router.get_session("abc")
        assert session is not None
        session.check(session.due)
        await within(router.close())


@SENDING
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate", "identity, gzip", "x"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_a_compressed_body_is_rejected_if_it_is_not_decompressed(
    serve: Serve, connect: Connect, name: str, encoding: str, chunked: bool
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    client = await connect(server)
    await client.ask("POST", "/echo/000/abc/xhr", "Origin: http://a.example", body=b"")
    packed = gzip.compress(b'["x"]')
    fields = [f"Content-Encoding: {encoding}", "Origin: http://a.example"]
    target = f"/echo/000/abc/{name}"
    if chunked:
        client.write(request("POST", target, *fields, "Transfer-Encoding: chunked"))
        client.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed))
        response = await client.response()
    else:
        response = await client.ask("POST", target, *fields, body=packed)
    assert (response.status, response.reason) == (415, "Unsupported Media Type")
    assert response["Content-Type"] == "text/plain; charset=UTF-8"
    assert "Content-Encoding" in response.text
    assert response["Accept-Encoding"] == "identity"
    if name == "xhr_send":
        assert response["Access-Control-Allow-Origin"] == "http://a.example"
    # The session lives on.
    for field in ("Content-Encoding: identity", "Content-Encoding:", "X: y"):
        assert (await client.ask("POST", target, field, body=b'["x"]')).status in (200, 204)
    assert (await client.ask("POST", target, "Content-Encoding: identity", body=b"[")).status == 500


async def test_much_too_much_in_chunks_gets_its_answer_too(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"max_message_size": 1000})))
    client.write(request("POST", "/echo/000/abc/xhr_send", "Transfer-Encoding: chunked"))
    for _ in range(50):
        client.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    client.write(b"0\r\n\r\n")
    assert (await client.response()).status == 413
    assert await client.rest() == b""


async def test_chunks_are_not_for_http_1_0(serve: Serve, connect: Connect) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"max_message_size": 1000})))
    head = request("POST", "/echo/000/abc/xhr_send", "Transfer-Encoding: chunked", version="HTTP/1.0")
    client.write(head + b"fff\r\n" + b"x" * 0xFFF)
    assert (await client.response()).status == 400
    assert await client.rest() == b""


async def test_rejected_clients_do_not_keep_a_router_open(serve: Serve, connect: Connect) -> None:
    router = SockJSRouter(Echo, "/echo")
    server = await serve(router)
    closing = asyncio.ensure_future(router.close())
    await asyncio.sleep(0)
    client = await connect(server)
    client.write(request("POST", "/echo/000/abc/xhr_send", "Content-Length: 99999999"))
    assert (await client.response()).status == 413
    await within(closing)


@SENDING
async def test_only_so_many_posts_wait(serve: Serve, connect: Connect, name: str) -> None:
    journal = Journal(Busy)
    router = SockJSRouter(journal, "/echo", {"max_queue_bytes": 1000, "disconnect_delay": 60})
    server = await serve(router)
    client = await connect(server)
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    connection: Any = await journal.connection()
    first = await connect(server)
    first.write(request("POST", f"/echo/000/abc/{name}", body=json.dumps(["x", "y" * 500]).encode()))
    for round_ in range(2):
        held = [await connect(server) for _ in range(2 * MAX_INBOX_WAITERS)]
        for sender in held:
            sender.write(request("POST", f"/echo/000/abc/{name}", body=b"[]"))
        await settle(connect, server)
        assert len(connection.session._inbox_waiters or ()) == MAX_INBOX_WAITERS, round_
        # Who leaves makes room, and leaves nothing behind.
        for sender in held:
            await sender.leave()
        await settle(connect, server)
        assert len(connection.session._inbox_waiters or ()) <= 1
    connection.may_go_on.set()
    assert (await first.response()).status in (200, 204)


@SENDING
async def test_too_many_messages_in_a_request_are_rejected(serve: Serve, connect: Connect, name: str) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo", {"max_messages_per_request": 3})))
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    response = await client.ask("POST", f"/echo/000/abc/{name}", body=b'["1","2","3","4"]')
    assert (response.status, response.text) == (413, "Too many messages.")
    assert (await client.ask("POST", f"/echo/000/abc/{name}", body=b'["1","2","3"]')).status in (200, 204)
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b'a["1","2","3"]\n'


async def test_too_many_messages_in_a_websocket_message_end_it(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LIMITS)
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"max_messages_per_request": 3}))
    websocket = await WebSocket.open(await connect(server), "/echo/000/abc/websocket")
    assert await websocket.text() == "o"
    connection = await journal.connection()
    # Many that come with one read are not many in one.
    websocket.write(frame(TEXT, '["1","2","3"]') + frame(TEXT, '["4","5","6"]'))
    assert [await connection.message() for _ in range(6)] == list("123456")
    websocket.write(frame(TEXT, '["1","2","3","4"]'))
    assert await websocket.closed() == (1009, "too many messages")
    assert await connection.closed() == (1009, "too many messages")
    assert connection._messages.empty()
    expected = (
        "Closing a connection of Noted, from 127.0.0.1, with code 1009: it has exceeded max_messages_per_request (3)"
    )
    assert messages_of(caplog) == [expected]


async def test_messages_before_invalid_data_are_counted_too(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"max_messages_per_request": 3}))
    websocket = await WebSocket.open(await connect(server), "/echo/000/abc/websocket")
    connection = await journal.connection()
    websocket.write(frame(TEXT, '["1","2"]') + frame(TEXT, '["3","4"]') + frame(TEXT, "rubbish"))
    assert (await connection.closed())[0] == 1007
    assert [await connection.message() for _ in range(4)] == list("1234")


def messages_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged of limits."""
    return [record.getMessage() for record in caplog.records if record.name == LIMITS]


# How fast.


@SENDING
async def test_a_client_that_posts_too_fast_gets_an_error(serve: Serve, connect: Connect, name: str) -> None:
    router = SockJSRouter(Echo, "/echo", {"max_inbound_rate": (0.001, 2)})
    client = await connect(await serve(router))
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    assert (await client.ask("POST", f"/echo/000/abc/{name}", body=b'["1","2"]')).status in (200, 204)
    response = await client.ask("POST", f"/echo/000/abc/{name}", body=b'["3"]')
    assert (response.status, response.text) == (429, "Too many messages a second.")
    assert router.stats.rejected == {"max_inbound_rate": 1}
    # The session lives on.
    assert (await client.ask("POST", "/echo/000/abc/xhr", body=b"")).body == b'a["1","2"]\n'


@pytest.mark.parametrize("path", ["/echo/000/abc/websocket", "/echo/websocket"])
async def test_a_websocket_that_is_too_fast_is_closed(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.INFO, LIMITS)
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"max_inbound_rate": (0.001, 2)}))
    websocket = await WebSocket.open(await connect(server), path)
    connection = await journal.connection()
    raw = path == "/echo/websocket"
    if not raw:
        assert await websocket.text() == "o"
    websocket.write(frame(TEXT, "x" if raw else '["x"]') * 2)
    await connection.message()
    websocket.write(frame(TEXT, "x" if raw else '["x"]'))
    if raw:
        assert await websocket.closed() == (3013, "Too many messages")
    else:
        assert await websocket.text() == 'c[3013,"Too many messages"]'
    assert await connection.closed() == (3013, "Too many messages")
    expected = (
        "Closing a connection of Noted, from 127.0.0.1, with code 3013: it has exceeded max_inbound_rate ((0.001, 2))"
    )
    assert messages_of(caplog) == [expected]


# How long.


async def test_a_callback_that_takes_too_long_is_cancelled(serve: Serve, join: Join, logged: LogWatch) -> None:
    class Endless(Noted):
        cancelled = False

        async def on_message(self, message: str) -> None:
            try:
                await self.query()
            finally:
                self.cancelled = True

        async def query(self) -> None:
            await asyncio.Event().wait()

    journal = Journal(Endless)
    server = await serve(SockJSRouter(journal, "/echo", {"callback_timeout": 0.05}))
    peer = join(server, "websocket")
    assert await peer.frame() == "o"
    connection = await journal.connection()
    await peer.send("x")
    assert await connection.closed() == (1011, "Internal error")
    assert await peer.frame() == 'c[1011,"Internal error"]'
    assert connection.cancelled  # type: ignore[attr-defined]
    error = exception_of(logged.take(".Endless.on_message of <Session 1 websocket "))
    assert "exceeded callback_timeout (0.05 s)" in str(error)
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["on_message", "query", "wait"]


async def test_a_callback_is_not_late_because_the_loop_stood_still(serve: Serve, join: Join) -> None:
    here, there = socket.socketpair()
    here.setblocking(False)

    class Asking(SockJSConnection):
        async def on_message(self, message: str) -> None:
            loop = asyncio.get_running_loop()
            loop.call_soon(self.stand_still)
            self.send((await loop.sock_recv(here, 100)).decode())

        def stand_still(self) -> None:
            time.sleep(0.5)
            there.send(b"the answer")

    with here, there:
        peer = join(await serve(SockJSRouter(Asking, "/echo", {"callback_timeout": 0.2})), "websocket")
        assert await peer.frame() == "o"
        await peer.send("x")
        assert await peer.message() == "the answer"


@pytest.mark.parametrize("name", ["on_open", "on_close"])
async def test_any_callback_may_be_too_slow(serve: Serve, join: Join, logged: LogWatch, name: str) -> None:
    async def for_ever(self: Any, *args: Any) -> None:
        await asyncio.Event().wait()

    slow = type("Slow", (SockJSConnection,), {name: for_ever})
    router = SockJSRouter(slow, "/echo", {"callback_timeout": 0.05})
    peer = join(await serve(router), "websocket")
    assert await peer.frame() == "o"
    closing = asyncio.ensure_future(router.close())
    assert await peer.frame() == 'c[3000,"Go away!"]'
    peer.vanish()
    await within(closing)
    logged.take(f"{name} of")


async def test_a_callback_that_will_not_be_cancelled_keeps_no_session_open(
    serve: Serve, join: Join, logged: LogWatch
) -> None:
    class Stubborn(Noted):
        may_end: asyncio.Event

        async def on_message(self, message: str) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await self.may_end.wait()

    Stubborn.may_end = asyncio.Event()
    journal = Journal(Stubborn)
    peer = join(await serve(SockJSRouter(journal, "/echo", {"callback_timeout": 0.05})), "websocket")
    assert await peer.frame() == "o"
    await peer.send("x")
    assert await peer.frame() == 'c[1011,"Internal error"]'
    logged.take("on_message of")
    connection = await journal.connection()
    assert connection.closes == []
    Stubborn.may_end.set()
    assert await connection.closed() == (1011, "Internal error")


async def test_a_callback_s_own_timeout_is_its_own_failure(serve: Serve, join: Join, logged: LogWatch) -> None:
    class Impatient(SockJSConnection):
        async def on_message(self, message: str) -> None:
            raise TimeoutError("the database")

    peer = join(await serve(SockJSRouter(Impatient, "/echo", {"callback_timeout": 60})), "websocket")
    assert await peer.frame() == "o"
    await peer.send("x")
    assert await peer.frame() == 'c[1011,"Internal error"]'
    assert str(exception_of(logged.take("on_message of"))) == "the database"


@SENDING
async def test_a_post_waits_no_longer_than_a_client_may_be_silent(serve: Serve, connect: Connect, name: str) -> None:
    journal = Journal(Busy)
    server = await serve(SockJSRouter(journal, "/echo", {"max_queue_bytes": 1000, "heartbeat_delay": 0.05}))
    client = await connect(server)
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    connection: Any = await journal.connection()
    body = json.dumps(["x", "y" * 500]).encode()
    assert (await client.ask("POST", f"/echo/000/abc/{name}", body=body)).status in (200, 204)
    connection.may_go_on.set()


@SENDING
async def test_a_client_may_leave_while_its_post_waits(serve: Serve, connect: Connect, name: str) -> None:
    journal = Journal(Busy)
    server = await serve(SockJSRouter(journal, "/echo", {"max_queue_bytes": 1000}))
    client = await connect(server)
    await client.ask("POST", "/echo/000/abc/xhr", body=b"")
    connection: Any = await journal.connection()
    sender = await connect(server)
    sender.write(request("POST", f"/echo/000/abc/{name}", body=json.dumps(["x", "y" * 500]).encode()))
    assert await connection.message() == "x"
    await sender.leave()
    await settle(connect, server)
    connection.may_go_on.set()
    assert await connection.message() == "y" * 500


# Peers that are not there any more.


@pytest.mark.parametrize("transport", ["websocket", "xhr_streaming"])
async def test_a_peer_that_acknowledges_nothing_is_disconnected(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    # The stream lasts longer than the test, and nothing else ends the session.
    settings = {"network_timeout": 0.2, "max_queue_bytes": 2**40, "response_limit": 2**40, "disconnect_delay": 1000}
    server = await serve(SockJSRouter(journal, "/echo", settings))
    client = await connect(server)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    client.write(ask_for(transport, "/echo/000/abc"))
    connection = await journal.connection()
    await congest(connection)
    assert (await connection.closed())[0] in (1002, 1006)


@pytest.mark.parametrize("seconds", [32_767, 32_768, 86_400, 3e6, 1e308])
async def test_a_peer_may_be_given_any_time(serve: Serve, connect: Connect, seconds: float) -> None:
    server = await serve(SockJSRouter(Journal(), "/echo", {"network_timeout": seconds}))
    websocket = await WebSocket.open(await connect(server), "/echo/000/abc/websocket")
    assert await websocket.text() == "o"


async def test_a_slow_line_is_not_called_dead(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    settings = {"websocket_ping_interval": 1000, "network_timeout": 0, "max_queue_bytes": 2**40}
    server = await serve(SockJSRouter(journal, "/echo", settings))
    client = await connect(server)
    await WebSocket.open(client, "/echo/000/abc/websocket")
    connection = await journal.connection()
    reading = client.reader._transport  # type: ignore[attr-defined]
    reading.pause_reading()
    receiver: Any = connection.session._receiver
    assert receiver is not None
    await congest(connection)
    receiver.check(0.0)
    sock = receiver.transport.get_extra_info("socket")
    for _ in range(3):
        # The ping stands behind much that the client has not taken; of that it takes a part before the deadline.
        before = bytes_acked(sock)
        reading.resume_reading()
        async with asyncio.timeout(TIMEOUT):
            while bytes_acked(sock) <= before:
                assert await client.reader.read(2**16)
                await asyncio.sleep(0)
        reading.pause_reading()
        await congest(connection)
        receiver.check(0.0)
        assert not connection.is_closed
    receiver.check(0.0)
    # Nothing was taken since the last ping.
    assert await connection.closed() == (1006, "Ping timeout")
