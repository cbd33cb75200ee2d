"""Faulty servers: the client never hangs, and raises only documented exceptions."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import tornado.httpserver
import tornado.iostream
import tornado.netutil
import tornado.web
import tornado.websocket
from client import until

from sockjs_tornado.client import ConnectError

from .conftest import Dial, Stub, end_of, hang, line, status

MakeStub = Callable[..., Awaitable[Stub]]


NO_FRAME = "the server sent an invalid frame"


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming"])
@pytest.mark.parametrize(
    ("frames", "why"),
    [
        (["garbage"], NO_FRAME),
        (["a"], NO_FRAME),
        (["a{}"], NO_FRAME),
        (['a["x"'], NO_FRAME),
        ([f"a{'[' * 100_000}"], NO_FRAME),
        (["c[]"], NO_FRAME),
        (["c[1]"], NO_FRAME),
        (['c["1","x"]'], NO_FRAME),
        (
            ["o"],
            "the server sent a second open frame; perhaps a proxy sends requests of one session to different processes",
        ),
    ],
)
async def test_an_invalid_frame_closes_the_session(
    stub: MakeStub, dial: Dial, transport: str, frames: list[str], why: str
) -> None:
    server = await stub(**{transport: [line("o"), line(*frames)]})
    assert await end_of(await dial(server, transport)) == (1006, why)


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming", "eventsource"])
async def test_a_later_status_ends_the_session(stub: MakeStub, dial: Dial, transport: str) -> None:
    def opens(handler: tornado.web.RequestHandler) -> None:
        handler.write("data: o\r\n\r\n" if transport == "eventsource" else "o\n")

    server = await stub(**{transport: [opens, status(500)]})
    assert await end_of(await dial(server, transport)) == (1006, "status 500")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("", "the response contained no frame"),
        ("\n\n", "the response contained no frame"),
        ('a["x"]', "the response ended in the middle of a frame"),
        ("\xff\n", None),
    ],
)
async def test_a_response_without_a_whole_frame_ends_the_session(
    stub: MakeStub, dial: Dial, body: str, why: str | None
) -> None:
    def answer(handler: tornado.web.RequestHandler) -> None:
        handler.write(body.encode("latin-1"))

    server = await stub(xhr=[line("o"), answer])
    assert await end_of(await dial(server, "xhr")) == (1006, why or NO_FRAME)


async def test_the_first_frame_must_be_an_open_frame(stub: MakeStub, dial: Dial) -> None:
    server = await stub(xhr=line('a["x"]'))
    with pytest.raises(ConnectError, match="xhr: the server's first frame was not an open frame"):
        await dial(server, "xhr")


@pytest.mark.parametrize("code", [404, 413, 429, 500, 302])
async def test_a_rejected_post_closes_the_session(stub: MakeStub, dial: Dial, code: int) -> None:
    server = await stub(xhr=[line("o")], xhr_send=status(code))
    client = await dial(server, "xhr")
    await client.send("x")
    more = {
        404: "; perhaps a proxy sends requests of one session to different processes",
        413: ", too large for the server or a proxy",
    }.get(code, "")
    assert await end_of(client) == (1006, f"xhr_send: status {code}{more}")
    assert server.requests.count("xhr_send") == 1


async def test_a_line_without_an_end_is_too_long(stub: MakeStub, dial: Dial) -> None:
    async def endless(handler: tornado.web.RequestHandler) -> None:
        handler.write("o\n")
        with contextlib.suppress(tornado.iostream.StreamClosedError):
            while True:
                handler.write("x" * 10_000)
                await handler.flush()

    server = await stub(xhr_streaming=endless)
    client = await dial(server, "xhr_streaming", max_message_size=100_000)
    assert await end_of(client) == (1009, "the server sent a frame of more than 100000 bytes (max_message_size)")


async def test_a_request_is_never_sent_twice(dial: Dial) -> None:
    """libcurl would retry if a reused connection is closed without a response."""
    posted = asyncio.Queue[bytes]()
    polls = 0

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.transport.abort()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal polls
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = b"{}" if b"/info" in head else b"o\n"
            if b"/xhr_send" in head:
                posted.put_nowait(await reader.readexactly(5))
                if posted.qsize() > 1:
                    break  # on a reused connection
                body = b""
            elif b"/xhr " in head:
                polls += 1
                if polls > 1:
                    await asyncio.Event().wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    tasks: list[Any] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        tasks.append(asyncio.create_task(meet(reader, writer)))

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        client = await dial(type("Server", (), {"port": port}), "xhr")
        await client.send("1")
        session: Any = client._runner.session
        await until(lambda: not posted.empty() and session._sender not in session._multi._running)
        await client.send("2")
        code, why = await end_of(client)
        assert code == 1006
        assert why.startswith("xhr_send: ")
        # libcurl opens a connection before it calls the function that forbids the retry.
        await until(lambda: len(tasks) == 3)
        assert [posted.get_nowait() for _ in range(posted.qsize())] == [b'["1"]', b'["2"]']
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # the sockets are closed in the next iteration of the event loop


# Websockets.


@pytest.fixture
async def websocket_server(stub: MakeStub) -> Any:
    """Return a function that starts a server whose websockets send messages and close: ``await start("o", b"x")``."""
    servers = []

    async def start(*messages: str | bytes, code: int | None = None, reason: str | None = None) -> Any:
        class Info(tornado.web.RequestHandler):
            def get(self) -> None:
                self.write({})

        class Socket(tornado.websocket.WebSocketHandler):
            async def open(self) -> None:
                for message in messages:
                    await self.write_message(message, binary=isinstance(message, bytes))
                if reason is not None or code is not None:
                    self.close(code, reason)

        application = tornado.web.Application(
            [("/echo/info", Info), ("/echo/.*/websocket", Socket)], log_function=lambda handler: None
        )
        http = tornado.httpserver.HTTPServer(application)
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        http.add_sockets(sockets)
        servers.append(http)
        return type("Server", (), {"port": sockets[0].getsockname()[1]})

    yield start
    for http in servers:
        http.stop()
        await http.close_all_connections()


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        (["garbage"], NO_FRAME),
        ([""], NO_FRAME),
        (["o"], "the server sent a second open frame"),
        ([b"o"], "the server sent a binary message"),
    ],
)
async def test_a_wrong_websocket_message_ends_the_session(
    websocket_server: Any, dial: Dial, messages: list[Any], why: str
) -> None:
    client = await dial(await websocket_server("o", *messages), "websocket")
    assert await end_of(client) == (1006, why)


@pytest.mark.parametrize(
    ("code", "reason", "seen"),
    [(4321, "bye", (4321, "bye")), (1001, "", (1001, "")), (2010, "x", (1006, "the connection was lost"))],
)
async def test_a_websocket_s_own_close_is_the_session_s(
    websocket_server: Any, dial: Dial, code: int, reason: str, seen: tuple[int, str]
) -> None:
    client = await dial(await websocket_server("o", code=code, reason=reason), "websocket")
    assert await end_of(client) == seen


async def test_a_websocket_that_closes_before_it_opens(websocket_server: Any, dial: Dial) -> None:
    for messages, why in [
        ((), "closed by the server: 1011 no"),
        (('a["x"]',), "the server's first frame was not an open frame"),
        (('c[1008,"No."]',), "closed by the server: 1008 No."),
    ]:
        server = await websocket_server(*messages, code=1011, reason="no")
        with pytest.raises(ConnectError) as caught:
            await dial(server, "websocket")
        assert caught.value.failures == {"websocket": why}


async def test_an_answer_to_the_handshake_that_makes_no_sense(dial: Dial) -> None:
    """Tornado itself would log an error, and say only that the connection is closed."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/info" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        else:
            writer.write(b"HTTP/1.1 101 Go\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    try:
        with pytest.raises(ConnectError, match="websocket: the response to the handshake is not valid"):
            await dial(type("Server", (), {"port": server.sockets[0].getsockname()[1]}), "websocket")
    finally:
        server.close()


async def test_a_cancelled_attempt_leaves_nothing_behind(stub: MakeStub, dial: Dial) -> None:
    server = await stub(websocket=hang)
    connecting = asyncio.ensure_future(dial(server, "websocket", transport_timeout=20))
    await until(lambda: "websocket" in server.requests)
    connecting.cancel()
    await asyncio.wait((connecting,))
    assert connecting.cancelled()
