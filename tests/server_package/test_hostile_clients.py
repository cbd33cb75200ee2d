"""Clients that send or read too slowly, send too much, or leave at the worst time."""

import asyncio
import contextlib
import gzip
from math import inf
from typing import Any

import pytest
from application import Echo, Journal, LogWatch, close_router
from client import TIMEOUT, Client, new_session, request, until, within
from tornado.iostream import StreamClosedError
from tornado.web import Application, HTTPError, RequestHandler

from sockjs_tornado import HTTPServer, SockJSRouter
from sockjs_tornado.server import connection_io
from sockjs_tornado.server.connection import HTTPConnection
from sockjs_tornado.server.http_server import READ_SIZE
from sockjs_tornado.transports.limited_body import LimitedBody

from .conftest import NATIVE, Listen, Site
from .test_bodies import FLOOD, KERNEL_BUFFER, settle
from .test_connections import Hello

pytestmark = NATIVE


class Routed:
    """A router and a site that serves it, with other handlers before it."""

    def __init__(self, router: SockJSRouter, site: Site) -> None:
        self.router = router
        self.site = site


async def route(
    listen: Listen,
    connection: Any = Echo,
    handlers: dict[str, Any] | None = None,
    *,
    options: Any = None,
    **settings: Any,
) -> Routed:
    """Start a server with a router at ``/echo``; ``options`` are the server's, the others the router's."""
    router = SockJSRouter(connection, "/echo", settings)
    urls: Any = [*(handlers or {}).items(), *router.urls]
    application = Application(urls, log_function=lambda handler: None)
    return Routed(router, await listen(application, **(options or {})))


async def check_closed_by_server(client: Client) -> None:
    """Wait until the server has closed the connection."""
    # What the client sends in the meantime may reset the connection.
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(TIMEOUT):
            while await client.reader.read(1 << 16):
                pass


# Deadlines.


async def test_a_poll_may_take_longer_than_its_body(listen: Listen) -> None:
    routed = await route(listen, options={"body_timeout": 0.05}, heartbeat_delay=0.4)
    client = await routed.site.connect()
    base = f"/echo/000/{new_session()}"
    assert (await client.ask("POST", f"{base}/xhr", body=b"")).text == "o\n"
    data = request("POST", f"{base}/xhr", body=b"[]")
    client.write(data[:-2])
    (connection,) = routed.site.http.connections
    await until(lambda: connection._body_due < inf)
    client.write(data[-2:])
    assert (await client.response()).text == "h\n"
    await close_router(routed.router)


async def test_a_handler_may_take_longer_than_its_body_timeout(listen: Listen) -> None:
    class Slow(RequestHandler):
        async def post(self) -> None:
            self.request.connection.set_body_timeout(0.05)  # type: ignore[union-attr]
            await asyncio.sleep(0.4)
            self.write("hello")

    client = await (await listen({"/": Slow})).connect()
    assert (await client.ask("POST", "/", body=b"x" * 100_000)).text == "hello"


@pytest.mark.parametrize("cut", [1, 30, -20])
async def test_a_head_has_a_deadline(listen: Listen, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    monkeypatch.setattr(HTTPServer, "head_timeout", 0.3)
    site = await listen({"/": Hello.counting()}, idle_connection_timeout=2)
    client = await site.connect()
    assert (await client.ask("GET", "/")).status == 200
    data = request("GET", "/", *(f"X{n}: {n}" for n in range(20)))
    client.write(data[:cut])

    async def drip() -> None:
        for position in range(cut % len(data), len(data)):
            await asyncio.sleep(0.05)
            client.write(data[position : position + 1])

    dripping = asyncio.create_task(drip())
    await check_closed_by_server(client)
    assert dripping.cancel(), "the client has sent everything"


@pytest.mark.parametrize("target", ["/", "/echo/000/abc/xhr_send"])
@pytest.mark.parametrize("fields", ["Content-Length: 500", "Transfer-Encoding: chunked"])
async def test_a_body_has_a_deadline(listen: Listen, target: str, fields: str) -> None:
    routed = await route(listen, handlers={"/": Hello.counting()}, options={"body_timeout": 0.3})
    client = await routed.site.connect()
    client.write(request("POST", target, fields))
    data = b"1\r\na\r\n" * 100 if "chunked" in fields else b"a" * 500

    async def drip() -> None:
        for position in range(len(data)):
            await asyncio.sleep(0.05)
            client.write(data[position : position + 1])

    dripping = asyncio.create_task(drip())
    await check_closed_by_server(client)
    assert dripping.cancel(), "the client has sent everything"


class Large(RequestHandler):
    """Responds with many bytes at once."""

    def get(self) -> None:
        self.write(b"0123456789abcdef" * (FLOOD // 16))


class Streaming(RequestHandler):
    """Responds with many bytes, and waits for the client."""

    closed: asyncio.Event

    @classmethod
    def new(cls) -> "type[Streaming]":
        """Return a class with an event of its own."""
        return type("Streaming", (cls,), {"closed": asyncio.Event()})

    async def get(self) -> None:
        with contextlib.suppress(StreamClosedError):
            for _ in range(100):
                self.write(b"0123456789abcdef" * (FLOOD // 16 // 10))
                await self.flush()

    def on_connection_close(self) -> None:
        type(self).closed.set()


async def until_no_connections(site: Site) -> None:
    await until(lambda: not site.http.connections)


async def until_congested(site: Site) -> None:
    """Wait until a response has filled the buffers."""
    await until(lambda: any(connection._is_congested for connection in site.http.connections))


async def test_a_client_that_reads_no_response_has_a_deadline(listen: Listen) -> None:
    site = await listen({"/": Large}, idle_connection_timeout=0.2)
    client = await site.connect(receive_buffer=KERNEL_BUFFER)
    client.pause_reading()
    client.write(request("GET", "/"))
    await until_congested(site)
    async with asyncio.timeout(TIMEOUT):
        await until_no_connections(site)


async def test_a_client_that_does_not_read_a_streamed_response_has_a_deadline(listen: Listen) -> None:
    handler = Streaming.new()
    site = await listen({"/": handler}, idle_connection_timeout=0.2)
    client = await site.connect(receive_buffer=KERNEL_BUFFER)
    client.pause_reading()
    client.write(request("GET", "/"))
    async with asyncio.timeout(TIMEOUT):
        await handler.closed.wait()
        await until_no_connections(site)


async def test_a_client_that_shuts_down_and_reads_nothing_has_a_deadline(listen: Listen, monkeypatch: Any) -> None:
    monkeypatch.setattr(connection_io, "CLOSE_TIMEOUT", 0.1)
    handler = Streaming.new()
    site = await listen({"/": handler})
    client = await site.connect(receive_buffer=KERNEL_BUFFER)
    client.pause_reading()
    client.write(request("GET", "/"))
    await until_congested(site)
    client.writer.write_eof()
    async with asyncio.timeout(TIMEOUT):
        await handler.closed.wait()
        await until_no_connections(site)


async def test_a_slow_client_may_read_longer_than_the_idle_timeout(listen: Listen) -> None:
    site = await listen({"/": Large}, idle_connection_timeout=0.3)
    client = await site.connect(receive_buffer=KERNEL_BUFFER)
    client.pause_reading()
    client.write(request("GET", "/"))
    got = 0
    started = asyncio.get_running_loop().time()
    while got < FLOOD:
        if asyncio.get_running_loop().time() - started < 0.45:
            await asyncio.sleep(0.01)
        client.resume_reading()
        data = await within(client.reader.read(FLOOD // 60))
        client.pause_reading()
        if not data:
            break
        got += len(data)
    assert got >= FLOOD
    assert asyncio.get_running_loop().time() - started > 0.4


# Memory.


@pytest.mark.parametrize("target", ["/", "/echo/info", "/echo/iframe.html", "/echo/000/abc/xhr"])
async def test_a_client_that_reads_no_responses_is_not_served_further(listen: Listen, target: str) -> None:
    hello = Hello.counting()
    routed = await route(listen, handlers={"/": hello})
    client = await routed.site.connect(receive_buffer=KERNEL_BUFFER)
    client.pause_reading()
    method = "OPTIONS" if target.endswith("xhr") else "GET"
    data = request(method, target) * 1000
    for _ in range(100):
        client.write(data)
        await asyncio.sleep(0)
    (connection,) = routed.site.http.connections
    largest = 0
    for _ in range(40):
        largest = max(largest, connection.unsent)
        await settle(routed.site)
    assert largest < 300_000
    client.resume_reading()
    for _ in range(1000):
        assert (await client.response()).status in (200, 204)


async def test_one_client_does_not_delay_others(listen: Listen) -> None:
    router = SockJSRouter(Echo, "/echo")
    served = most = 0

    def count(handler: Any) -> None:
        nonlocal served
        served += 1

    site = await listen(Application(router.urls, log_function=count))
    client = await site.connect()
    client.write(request("GET", "/echo/info") * 3000)
    left = 3000

    async def read() -> None:
        nonlocal left
        while left:
            left -= 1
            assert (await client.response()).status == 200

    reading = asyncio.create_task(read())
    while left:
        served = 0
        await asyncio.sleep(0)
        most = max(most, served)
    await reading
    assert 1 < most < 50


async def test_encrypted_requests_are_read_as_fast_as_they_are_served(listen: Listen) -> None:
    routed = await route(listen, options={"kind": "tls"})
    client = await routed.site.connect()
    left, largest = 3000, 0
    client.write(request("GET", "/echo/info", "X: " + "a" * 200) * left)
    await until(lambda: routed.site.http.connections, interval=0)
    (connection,) = routed.site.http.connections
    incoming = connection.transport.channel.incoming

    async def read() -> None:
        nonlocal left
        while left:
            assert (await client.response()).status == 200
            left -= 1

    reading = asyncio.create_task(read())
    while not reading.done():
        largest = max(largest, incoming.pending)
        await asyncio.sleep(0)
    await reading
    # One read, and the rest of a record whose beginning came with the read before.
    assert 0 < largest < READ_SIZE + 20 * 1024


# Pipelines.


async def test_requests_behind_a_stream_that_ends_at_once(listen: Listen) -> None:
    routed = await route(listen, response_limit=1)
    client = await routed.site.connect()
    client.write(request("POST", f"/echo/000/{new_session()}/xhr_streaming", body=b"") + request("GET", "/echo/info"))
    assert (await client.response()).text.endswith("o\n")
    assert (await client.response()).status == 200
    await close_router(routed.router)


async def test_many_requests_behind_a_stream(listen: Listen) -> None:
    routed = await route(listen, heartbeat_delay=0.2, response_limit=3)
    client = await routed.site.connect()
    client.write(request("POST", f"/echo/000/{new_session()}/xhr_streaming", body=b""))
    await client.head()
    await client.chunk()
    assert await client.chunk() == b"o\n"
    data = request("GET", "/echo/info", "X: " + "a" * 1000)
    for _ in range(200):
        client.write(data)
        await asyncio.sleep(0)
    assert await client.chunk() == b"h\n"
    assert await client.chunk() == b""
    for _ in range(200):
        assert (await client.response()).status == 200
    await close_router(routed.router)


async def test_many_requests_behind_a_poll(listen: Listen) -> None:
    routed = await route(listen, heartbeat_delay=0.2)
    client = await routed.site.connect()
    poll = request("POST", f"/echo/000/{new_session()}/xhr", body=b"")
    client.write(poll)
    assert (await client.response()).text == "o\n"
    client.write(poll)
    data = request("GET", "/echo/info", "X: " + "a" * 1000)
    for _ in range(200):
        client.write(data)
        await asyncio.sleep(0)
    assert (await client.response()).text == "h\n"
    for _ in range(200):
        assert (await client.response()).status == 200
    await close_router(routed.router)


async def fill_pipeline(client: Client, site: Site) -> None:
    """Send requests until the server does not read any more; the rest is in the server's kernel."""
    (connection,) = site.http.connections
    # More than the server's limit and its next read, and not more than a socket receives at first.
    client.write(request("GET", "/echo/info", "X: " + "a" * 1000) * 150)
    await until(lambda: not connection.transport.is_reading())
    await within(client.writer.drain())


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_client_that_leaves_behind_many_requests_is_noticed(listen: Listen, reset: bool) -> None:
    journal = Journal()
    routed = await route(listen, journal, heartbeat_delay=1000)
    client = await routed.site.connect()
    poll = request("POST", f"/echo/000/{new_session()}/xhr", body=b"")
    client.write(poll)
    assert (await client.response()).text == "o\n"
    client.write(poll)
    await fill_pipeline(client, routed.site)
    if reset:
        client.reset()
    client.writer.transport.abort()
    assert await (await journal.connection()).closed() == (1002, "Connection interrupted")
    await until(lambda: not routed.site.http.connections)
    await close_router(routed.router)


async def test_a_handler_is_told_that_a_client_left_behind_many_requests(listen: Listen) -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    class Waiting(RequestHandler):
        async def get(self) -> None:
            begun.set()
            await closed.wait()

        def on_connection_close(self) -> None:
            closed.set()

    routed = await route(listen, handlers={"/": Waiting})
    client = await routed.site.connect()
    client.write(request("GET", "/"))
    await within(begun.wait())
    await fill_pipeline(client, routed.site)
    client.writer.transport.abort()
    await within(closed.wait())
    await until(lambda: not routed.site.http.connections)


async def test_a_response_arrives_whole_after_the_client_has_shut_down(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test is the clock.
    monkeypatch.setattr(connection_io, "CLOSE_TIMEOUT", 1000)
    journal = Journal()
    routed = await route(listen, journal, disconnect_delay=60)
    client = await routed.site.connect(receive_buffer=KERNEL_BUFFER)
    poll = request("POST", f"/echo/000/{new_session()}/xhr", body=b"")
    client.write(poll)
    assert (await client.response()).text == "o\n"
    client.pause_reading()
    client.write(poll)
    connection = await journal.connection()
    session = connection.session
    await until(lambda: session._receiver is not None)
    connection.send("x" * FLOOD)
    assert session._unsent_response is not None
    assert session._unsent_response.unsent > 1_000_000
    client.writer.write_eof()
    await settle(routed.site)
    client.resume_reading()
    assert (await client.rest()).count(b"x") >= FLOOD
    connection.send("behind it")
    client = await routed.site.connect()
    client.write(poll)
    assert (await client.response()).text == 'a["behind it"]\n'
    await close_router(routed.router)


async def test_a_body_is_decompressed_in_several_iterations(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    turn = 0
    sizes: dict[int, int] = {}

    def append(body: LimitedBody, data: bytes) -> None:
        sizes[turn] = sizes.get(turn, 0) + len(data)
        original(body, data)

    original = LimitedBody._append
    monkeypatch.setattr(LimitedBody, "_append", append)
    size = 4 * 1024 * 1024
    settings: Any = {"max_message_size": size, "max_buffered_body_bytes": 2 * size}
    journal = Journal()
    routed = await route(listen, journal, options={"decompress_request": True}, **settings)
    client = await routed.site.connect()
    base = f"/echo/000/{new_session()}"
    assert (await client.ask("POST", f"{base}/xhr")).text == "o\n"
    body = gzip.compress(b'["%b"]' % (b"x" * (size - 4)))
    # What follows arrives while the body is decompressed.
    client.write(request("POST", f"{base}/xhr_send", "Content-Encoding: gzip", body=body) * 2)
    for _ in range(2):
        answer = asyncio.ensure_future(client.response())
        while not answer.done():
            turn += 1
            await asyncio.sleep(0)
        assert (await answer).status == 204
    connection = await journal.connection()
    for _ in range(2):
        assert len(await connection.message()) == size - 4
    assert sum(sizes.values()) == 2 * size
    assert max(sizes.values()) < 1_000_000
    assert (await client.ask("GET", "/echo/info")).status == 200
    await close_router(routed.router)


async def test_a_client_that_leaves_while_its_body_is_decompressed(listen: Listen) -> None:
    settings: Any = {"max_message_size": FLOOD, "max_buffered_body_bytes": FLOOD}
    routed = await route(listen, options={"decompress_request": True}, **settings)
    client = await routed.site.connect()
    body = gzip.compress(b"x" * FLOOD)
    client.write(request("POST", f"/echo/000/{new_session()}/xhr_send", "Content-Encoding: gzip", body=body))
    await until(lambda: routed.router.body_budget.used, interval=0)
    await routed.site.http.close_all_connections()
    assert routed.router.body_budget.used == 0


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest.mark.parametrize("target", ["/", "/echo/000/abc/xhr_send"])
async def test_data_that_has_already_arrived_is_read_in_several_iterations(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, kind: str, target: str
) -> None:
    class Size(RequestHandler):
        def post(self) -> None:
            self.write(str(len(self.request.body)))

    turn = 0
    sizes: dict[int, int] = {}

    def process(self: HTTPConnection, nbytes: int) -> None:
        sizes[turn] = sizes.get(turn, 0) + nbytes
        original(self, nbytes)

    original = HTTPConnection._process_data
    monkeypatch.setattr(HTTPConnection, "_process_data", process)
    routed = await route(listen, handlers={"/": Size}, options={"kind": kind})
    client = await routed.site.connect()
    size = 3_000_000
    client.write(request("POST", target, body=b"x" * size))
    answer = asyncio.ensure_future(client.response())
    while not answer.done():
        turn += 1
        await asyncio.sleep(0)
    response = await answer
    assert response.text == (str(size) if target == "/" else "")
    assert sum(sizes.values()) > size
    # Over TLS, also the rest of a record whose beginning came with the read before.
    assert max(sizes.values()) < READ_SIZE + 16 * 1024


@pytest.mark.parametrize("target", ["/", "/echo/000/abc/xhr", "/echo/000/abc/xhr_send"])
@pytest.mark.parametrize("size", [70_000, 300_000, 3_000_000])
async def test_a_refused_body_does_not_hide_the_response(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, target: str, size: int
) -> None:
    # The end of the client's data closes the connection, not the time limit.
    monkeypatch.setattr(connection_io, "CLOSE_TIMEOUT", 1000)
    routed = await route(
        listen, handlers={"/": Hello.counting()}, options={"max_body_size": 1000}, max_message_size=1000
    )
    client = await routed.site.connect()
    client.write(request("POST", target, body=b"a" * size))
    await within(client.writer.drain())
    assert (await client.response()).status == 413
    client.writer.write_eof()
    await check_closed_by_server(client)


# Errors of the application.


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("wrong"), 500), (HTTPError(403), 403), (HTTPError(499), 499)]
)
@pytest.mark.parametrize(
    "data",
    [
        request("GET", "/echo/info"),
        request("POST", "/echo/000/abc/xhr", body=b""),
        request("POST", "/echo/000/abc/xhr_send", body=b"a" * 2000),
        request("POST", "/echo/000/abc/xhr_send", "Expect: 100-continue", "Content-Length: 2000"),
        request("POST", "/echo/000/abc/xhr_send", "Transfer-Encoding: chunked") + b"xyz\r\n",
    ],
)
async def test_errors_of_the_jsessionid_setting(
    listen: Listen, logged: LogWatch, data: bytes, error: Exception, status: int
) -> None:
    def fail(asked: Any) -> str:
        raise error

    routed = await route(listen, jsessionid=fail, max_message_size=1000)
    client = await routed.site.connect()
    client.write(data)
    response = await client.response()
    expected = {request("GET", "/echo/info"): 200, request("POST", "/echo/000/abc/xhr", body=b""): status}
    assert response.status == expected.get(data, 400 if b"chunked" in data else 413)
    if status == 500 and response.status != 200:
        logged.take("Uncaught exception in ")
