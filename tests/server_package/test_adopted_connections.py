"""Adopted connections keep the options of the server that accepted them, end with it, and leave nothing behind."""

import asyncio
import contextlib
import gc
import gzip
from collections import Counter
from typing import Any

import pytest
import tornado.netutil
from application import Echo, Journal, LogWatch
from client import Client, WebSocket, asking, new_session, request, until, within
from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler

from sockjs_tornado import SockJSRouter
from sockjs_tornado.http.handlers import SockJSHandler
from sockjs_tornado.server.adoption import AdoptedConnection
from sockjs_tornado.server.exchange import NativeExchange
from sockjs_tornado.serving import http_server

from .adopting import POLL, SEND, XHR, adopt, application_of, connections, is_adopted
from .conftest import Listen, Routers

pytestmark = pytest.mark.parametrize("server_class", ["tornado"], indirect=True)

# The options of the server.


async def test_many_clients_may_share_a_connection_behind_a_proxy(listen: Listen, routers: Routers) -> None:
    journal = Journal()
    options = {"xheaders": True, "trusted_downstream": ["10.0.0.1"]}
    site = await listen(application_of(routers(journal)), **options)
    client = await site.connect()
    for number in range(1, 5):
        fields = [f"X-Forwarded-For: 192.0.2.{number}, 10.0.0.1", "X-Forwarded-Proto: https"]
        client.write(request("POST", f"/echo/000/s{number}/xhr", *fields, body=b""))
        response = await client.response()
        assert (response.body, "; Secure" in response["Set-Cookie"]) == (b"o\n", True)
        assert (await journal.connection()).info.ip == f"192.0.2.{number}"
        assert is_adopted(site)
    # The session of another client.
    client.write(request("POST", "/echo/000/s1/xhr_send", *fields, body=b'["x"]'))
    assert (await client.response()).status == 404
    client.write(request("GET", "/plain", *fields))
    assert (await client.response()).text == "HTTP1Connection 192.0.2.4 https"
    client.write(request("GET", "/plain"))
    assert (await client.response()).text == "HTTP1Connection 127.0.0.1 http"


async def test_without_xheaders_they_are_ignored(listen: Listen, routers: Routers) -> None:
    journal = Journal()
    site = await listen(application_of(routers(journal)), protocol="https")
    client = await site.connect()
    client.write(request("POST", XHR, "X-Real-IP: 192.0.2.1", "X-Scheme: http", body=b""))
    assert "; Secure" in (await client.response())["Set-Cookie"]
    assert (await journal.connection()).info.ip == "127.0.0.1"


@pytest.mark.parametrize("start", [b"", b"POST /ec", POLL[:-3]], ids=["nothing", "a line", "a head"])
async def test_an_idle_connection_is_closed(listen: Listen, routers: Routers, start: bytes) -> None:
    site = await listen(application_of(routers()), idle_connection_timeout=0.1)
    client = await adopt(site)
    client.write(start)
    assert await client.rest() == b""
    await until(lambda: not connections(site))


async def test_a_body_that_does_not_arrive_ends_the_connection(listen: Listen, routers: Routers) -> None:
    site = await listen(application_of(routers()), body_timeout=0.1)
    client = await adopt(site)
    client.write(request("POST", SEND, "Content-Length: 10"))
    assert await client.rest() == b""


async def test_by_default_a_body_may_take_any_time(listen: Listen, routers: Routers) -> None:
    site = await listen(application_of(routers()))
    client = await adopt(site)
    client.write(request("POST", SEND, "Content-Length: 5"))
    (adopted,) = [thing for thing in gc.get_objects() if isinstance(thing, AdoptedConnection)]
    await until(lambda: adopted._request is not None)
    assert adopted.due == float("inf")
    client.write(b'["x"]')
    assert (await client.response()).status == 204


async def test_a_server_without_keepalive_closes_after_the_response(listen: Listen, routers: Routers) -> None:
    site = await listen(application_of(routers()), no_keep_alive=True)
    client = await site.connect()
    client.write(POLL)
    assert (await client.response())["Connection"] == "close"
    assert await client.rest() == b""


@pytest.mark.parametrize("repeats", [0, 3])
async def test_the_maximum_size_of_a_body_holds(listen: Listen, routers: Routers, repeats: int) -> None:
    site = await listen(application_of(routers()), max_body_size=10)
    client = await adopt(site)
    for _ in range(repeats):
        # C serves some of them.
        client.write(request("POST", SEND, body=b'["0123"]'))
        assert (await client.response()).status == 204
    client.write(request("POST", SEND, body=b'["01234567"]'))
    assert (await client.head()).status == 400
    assert await client.rest() == b""


@pytest.mark.parametrize("path", [XHR, SEND])
async def test_a_body_above_both_limits_is_rejected_once(listen: Listen, routers: Routers, path: str) -> None:
    # Tornado calls the handler before it compares the length with its own limit.
    site = await listen(application_of(routers(max_message_size=10)), max_body_size=20)
    client = await adopt(site)
    client.write(request("POST", path, "Content-Length: 30"))
    assert (await client.head()).status == 413
    assert await client.rest() == b"Payload too large."


async def test_a_head_that_would_be_too_long_after_the_move_is_not_moved(listen: Listen, routers: Routers) -> None:
    site = await listen(application_of(routers()), max_header_size=1000)
    client = await site.connect()
    # Without the space after the colon, which the moved head has.
    line = "X:"
    length = 1000 - len(request("POST", XHR, line, body=b""))
    client.write(request("POST", XHR, line + "x" * length, body=b""))
    assert (await client.response()).body == b"o\n"
    assert connections(site) == ["HTTP1ServerConnection"]


async def test_the_maximum_size_of_a_head_holds(listen: Listen, routers: Routers) -> None:
    site = await listen(application_of(routers()), max_header_size=1000)
    client = await adopt(site)
    client.write(request("POST", SEND, "X: " + "x" * 500, body=b'["x"]'))
    assert (await client.response()).status == 204
    client.write(request("POST", SEND, "X: " + "x" * 1000, body=b'["x"]'))
    assert await client.rest() == b""


@pytest.mark.parametrize("size", [65_600, 100_000])
async def test_a_head_that_arrives_with_the_request_before_it_may_not_be_longer(
    listen: Listen, routers: Routers, size: int
) -> None:
    site = await listen(application_of(routers()))
    client = await site.connect()
    # Tornado reads 64 KiB at a time, which is also the maximum size of a head.
    client.write(POLL + request("POST", SEND, "X: " + "x" * size, body=b'["x"]'))
    assert (await client.response()).body == b"o\n"
    # The connection may be reset, since the server has not read everything.
    with contextlib.suppress(ConnectionResetError):
        assert await client.rest() == b""
    await until(lambda: not connections(site))


async def test_a_compressed_body_is_decompressed_if_the_server_does_so(listen: Listen, routers: Routers) -> None:
    journal = Journal()
    site = await listen(application_of(routers(journal)), decompress_request=True)
    client = await adopt(site)
    client.write(request("POST", SEND, "Content-Encoding: gzip", body=gzip.compress(b'["x"]')))
    assert (await client.response()).status == 204
    assert await (await journal.connection()).message() == "x"


# The access log.


class Logging(Application):
    """Logs requests itself."""

    def log_request(self, handler: RequestHandler) -> None:
        self.settings["log_function"](handler)


@pytest.mark.parametrize("kind", [Application, Logging])
async def test_the_access_log_gets_handlers(listen: Listen, routers: Routers, kind: type[Application]) -> None:
    logged: list[Any] = []

    def note(handler: Any) -> None:
        request = handler.request
        assert isinstance(handler, RequestHandler)
        assert handler.application.settings is handler.settings
        assert handler.current_user is None
        assert request.request_time() >= 0
        logged.append((handler.get_status(), request.method, request.path, handler._request_summary()))

    site = await listen(kind(routers().urls, log_function=note))
    client = await adopt(site)
    for _ in range(3):
        client.write(request("POST", SEND, body=b'["x"]') + POLL)
        await client.response()
        await client.response()
    assert is_adopted(site)
    summary = "POST /echo/000/***/xhr (127.0.0.1)"
    poll, post = (200, "POST", XHR, summary), (204, "POST", SEND, summary.replace("xhr", "xhr_send"))
    assert logged == [poll, post, poll, post, poll, post, poll]


# The end of the server.


@pytest.mark.parametrize("data", [b"", POLL, POLL[:20], request("POST", SEND, "Content-Length: 5")], ids=range(4))
async def test_the_server_closes_its_adopted_connections(listen: Listen, routers: Routers, data: bytes) -> None:
    journal = Journal()
    site = await listen(application_of(routers(journal)))
    client = await adopt(site)
    connection = await journal.connection()
    client.write(data)
    if data == POLL:
        await until(lambda: connection.session._receiver is not None)
    site.http.stop()
    await within(site.http.close_all_connections())
    assert connections(site) == []
    # With data that the server has not read, its end is a reset.
    with contextlib.suppress(ConnectionResetError):
        assert await client.rest() == b""
    if data == POLL:
        assert await connection.closed() == (1002, "Connection interrupted")


async def test_a_connection_may_be_closed_while_it_is_adopted(
    listen: Listen, routers: Routers, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing: list[asyncio.Future[None]] = []

    async def close() -> None:
        # Two at the same time.
        await asyncio.gather(site.http.close_all_connections(), site.http.close_all_connections())

    site = await listen(application_of(routers()))
    init = AdoptedConnection.__init__

    def note(self: AdoptedConnection, *arguments: Any) -> None:
        init(self, *arguments)
        closing.append(asyncio.ensure_future(close()))

    monkeypatch.setattr(AdoptedConnection, "__init__", note)
    client = await site.connect()
    client.write(POLL)
    await client.rest()
    await within(closing[0])
    assert connections(site) == []


async def test_after_stop_the_server_serves_its_connections(listen: Listen, routers: Routers) -> None:
    site = await listen(application_of(routers()))
    client = await adopt(site)
    site.http.stop()
    client.write(request("POST", SEND, body=b'["x"]') + POLL + request("GET", "/plain"))
    response = await client.response()
    assert (response.status, "Connection" in response) == (204, False)
    assert (await client.response()).body == b'a["x"]\n'
    assert (await client.response()).status == 200


@pytest.mark.usefixtures("server_class")
async def test_a_connection_counts_once_until_it_is_closed(routers: Routers, logged: LogWatch) -> None:
    router = routers()
    (sock,) = tornado.netutil.bind_sockets(0, "127.0.0.1")
    port = sock.getsockname()[1]
    options: dict[str, Any] = {"server": "tornado", "max_connections_per_ip": 2}
    async with http_server(application_of(router), [sock], **options) as http:
        counted = http.admission._connections  # type: ignore[attr-defined]
        first, second = [await Client.connect(port) for _ in range(2)]
        for client in (first, second):
            client.write(request("POST", f"/echo/000/{new_session()}/xhr", body=b""))
            assert (await client.response()).body == b"o\n"
        for data in (request("GET", "/plain"), request("POST", SEND, body=b'["x"]') * 20, request("GET", "/plain")):
            for client in (first, second):
                client.write(data)
                for _ in range(data.count(b"HTTP/1.1")):
                    await client.response()
                assert counted.total() == 2
        third = await Client.connect(port)
        assert await third.rest() == b""
        third.writer.close()
        logged.take("max_connections_per_ip")
        websocket = await WebSocket.open(first, "/echo/000/def/websocket")
        assert await websocket.text() == "o"
        second.write(asking("xhr_streaming", "/echo/000/ghi"))
        await second.head()
        assert counted.total() == 2
        for client in (first, second):
            await client.leave()
        await until(lambda: not counted)


# Clients that leave.

STAGES = {
    "idle": b"",
    "a part of a head": POLL[:-3],
    "a part of a body": request("POST", SEND, "Content-Length: 50") + b'["x"',
    "a chunk": request("POST", SEND, "Transfer-Encoding: chunked") + b"ffff\r\n[",
    "a held poll": POLL,
    "polls": POLL * 50,
    "a poll and others": POLL + request("GET", "/plain") * 50,
    "posts": request("POST", SEND, body=b'["x"]') * 50,
    "others": request("GET", "/plain") * 50,
    "a part of another request": request("GET", "/plain")[:-3],
    "another body": request("POST", "/plain", "Content-Length: 50") + b"x",
    "a bad request": b"GET\r\n\r\n",
    "a stream": asking("xhr_streaming", "/echo/000/def"),
    "a websocket": request("GET", "/echo/websocket", "Connection: Upgrade", "Upgrade: websocket",
                           "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
}  # fmt: skip

#: What a connection consists of.
COUNTED = (AdoptedConnection, NativeExchange, SockJSHandler)
TORNADOS = (HTTP1Connection, IOStream)

#: Stages at which Tornado has the connection. Its own exceptions refer to their frames, and those to them.
AT_TORNADO = ("others", "a poll and others", "a part of another request", "another body", "a bad request")


def instances(stage: str) -> Counter[str]:
    """Return the number of objects by class."""
    kinds = COUNTED if stage in AT_TORNADO else COUNTED + TORNADOS
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, kinds))


@pytest.mark.usefixtures("_no_collections")
@pytest.mark.parametrize("way", ["fin", "eof", "reset", "late reset"])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_client_that_leaves_leaves_nothing(listen: Listen, stage: str, way: str) -> None:
    router = SockJSRouter(Echo, "/echo", {"disconnect_delay": 0.05, "heartbeat_delay": 0.1})
    site = await listen(application_of(router))
    before = instances(stage)
    client = await adopt(site)
    client.write(STAGES[stage])
    if "reset" in way:
        if way == "late reset":
            await asyncio.sleep(0)
        client.reset()
        await client.leave()
    elif way == "eof":
        client.writer.write_eof()
        await client.rest()
        client.writer.close()
    else:
        client.writer.close()
    await until(lambda: not connections(site))
    await within(router.close())
    await until(lambda: instances(stage) == before)
