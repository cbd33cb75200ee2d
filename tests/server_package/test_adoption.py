"""Connections of Tornado's server that requests of sessions move to the native one, and that return."""

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import tornado.netutil
from application import Journal, LogWatch, TornadoServer, exception_of
from client import STREAMING, Client, WebSocket, asking, request, sending, until, within
from tornado.routing import HostMatches, Rule, RuleRouter
from tornado.web import Application, HTTPError

from sockjs_tornado import SockJSRouter
from sockjs_tornado.http.body_limit import StreamedBodyHandler
from sockjs_tornado.http.handlers import SockJSHandler
from sockjs_tornado.server import adoption
from sockjs_tornado.server.adoption import AdoptedConnection
from sockjs_tornado.server.streams import DetachedStream
from sockjs_tornado.wire.tornado_internals import open_connections

from .adopting import POLL, SEND, XHR, adopt, application_of, connections, is_adopted
from .conftest import Listen, Routers, Site

pytestmark = pytest.mark.parametrize("server_class", ["tornado"], indirect=True)

# What is adopted.


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_request_of_a_session_moves_its_connection(listen: Listen, routers: Routers, kind: str) -> None:
    journal = Journal()
    site = await listen(application_of(routers(journal)), kind=kind)
    client = await adopt(site)
    connection = await journal.connection()
    assert connection.info.ip == ("127.0.0.1" if kind == "tcp" else "0.0.0.0")
    for text in ("x", "y"):
        client.write(request("POST", SEND, body=f'["{text}"]'.encode()))
        assert (await client.response()).status == 204
        assert await connection.message() == text
        connection.send(text)
        client.write(POLL)
        assert (await client.response()).body == f'a["{text}"]\n'.encode()
        assert is_adopted(site)


@pytest.mark.parametrize(
    "data",
    [
        request("GET", "/echo"),
        request("GET", "/echo/info"),
        request("GET", "/plain"),
        request("POST", XHR, "Connection: close", body=b""),
        request("POST", XHR, "Connection: x, Close", body=b""),
        request("POST", XHR, version="HTTP/1.0", body=b""),
        request("POST", XHR, "Connection: keep-alive", version="HTTP/1.0", body=b""),
        request("POST", XHR, "Upgrade: x", body=b""),
        request("POST", XHR, "X: \xff", "X : 1", body=b""),
    ],
    ids=["greeting", "info", "other", "close", "close in a list", "old", "old, kept", "upgrade", "refused"],
)
async def test_other_requests_do_not(listen: Listen, routers: Routers, data: bytes, monkeypatch: Any) -> None:
    monkeypatch.setattr(adoption.Adopter, "adopt", None)
    site = await listen(application_of(routers()))
    client = await site.connect()
    client.write(data)
    assert (await client.response()).status in (200, 400)


async def test_the_setting_turns_it_off(listen: Listen, routers: Routers) -> None:
    site = await listen(application_of(routers(adopt_connections=False)))
    client = await site.connect()
    client.write(POLL)
    assert (await client.response()).body == b"o\n"
    assert connections(site) == ["HTTP1ServerConnection"]


class OwnApplication(Application):
    """May treat requests in another way."""

    def start_request(self, server_conn: object, request_conn: Any) -> Any:
        return super().start_request(server_conn, request_conn)


class OwnServer(TornadoServer):  # type: ignore[misc]
    """May treat connections in another way."""


def own_class(router: SockJSRouter) -> Application:
    return OwnApplication(router.urls)


def own_handler(router: SockJSRouter) -> Application:
    class Own(SockJSHandler):
        pass

    rules: list[Any] = [(url.regex.pattern, Own, url.kwargs) for url in router.urls]
    return Application(rules)


def by_host(router: SockJSRouter) -> Application:
    application = Application()
    application.add_handlers("localhost", router.urls)
    return application


def nested(router: SockJSRouter) -> Any:
    return RuleRouter([Rule(HostMatches(".*"), Application(router.urls))])


@pytest.mark.parametrize("build", [own_class, own_handler, by_host, nested])
async def test_an_application_that_decides_more_itself_keeps_its_connections(
    listen: Listen, routers: Routers, build: Callable[[SockJSRouter], Any]
) -> None:
    site = await listen(build(routers()))
    client = await site.connect()
    client.write(POLL)
    assert (await client.response()).body == b"o\n"
    assert connections(site) == ["HTTP1ServerConnection"]


@pytest.mark.parametrize(("error", "status"), [(HTTPError(401), 401), (ZeroDivisionError(), 500)], ids=["401", "500"])
async def test_a_handler_of_the_application_may_refuse_a_message(
    listen: Listen, routers: Routers, logged: LogWatch, error: Exception, status: int
) -> None:
    class Own(StreamedBodyHandler):
        async def prepare(self) -> None:
            waiting = super().prepare()
            assert waiting is not None
            # It reads the body.
            await waiting
            if self.request.path == SEND:
                raise error

    journal = Journal()
    router = routers(journal)
    rules: list[Any] = [(url.regex.pattern, Own, url.kwargs) for url in router.urls]
    client = await (await listen(Application(rules, log_function=lambda handler: None))).connect()
    client.write(POLL)
    assert (await client.response()).body == b"o\n"
    client.write(request("POST", SEND, body=b'["x"]'))
    response = await client.response()
    assert (response.status, response.body) == (status, b"")
    if status == 500:
        assert exception_of(logged.take("Uncaught exception")) is error
    connection: Any = await journal.connection()
    assert connection._messages.empty()


@pytest.mark.usefixtures("server_class")
async def test_a_server_class_of_the_application_keeps_its_connections(routers: Routers) -> None:
    server = OwnServer(application_of(routers()))
    (sock,) = tornado.netutil.bind_sockets(0, "127.0.0.1")
    server.add_socket(sock)
    client = await Client.connect(sock.getsockname()[1])
    client.write(POLL)
    assert (await client.response()).body == b"o\n"
    assert [type(known).__name__ for known in open_connections(server)] == ["HTTP1ServerConnection"]
    client.writer.close()
    server.stop()
    await within(server.close_all_connections())


@pytest.mark.usefixtures("server_class")
async def test_small_responses_are_not_delayed_whoever_made_the_socket(routers: Routers) -> None:
    """asyncio sets the option only on sockets that were made with the number of the protocol."""
    site = Site(TornadoServer(application_of(routers())), 0, None)
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    site.connect_to = sock.getsockname()[1]
    site.http.add_socket(sock)
    await adopt(site)
    (registration,) = open_connections(site.http)
    assert registration._connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await site.stop()


async def test_a_connection_that_its_server_closes_while_it_moves_is_not_served(
    listen: Listen, routers: Routers, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection_made = AdoptedConnection.connection_made

    def close_first(connection: AdoptedConnection, transport: asyncio.BaseTransport) -> None:
        connection.close_by_server()
        connection_made(connection, transport)

    monkeypatch.setattr(AdoptedConnection, "connection_made", close_first)
    router = routers()
    site = await listen(application_of(router))
    client = await site.connect()
    client.write(POLL)
    with contextlib.suppress(ConnectionResetError):
        assert await client.rest() == b""
    await until(lambda: not connections(site))
    assert len(router.container) == 0


async def test_a_server_that_closes_a_connection_too_late_leaves_its_websocket_open(
    listen: Listen, routers: Routers
) -> None:
    site = await listen(application_of(routers()))
    client = await adopt(site)
    (registration,) = open_connections(site.http)
    websocket = await WebSocket.open(client, "/echo/000/def/websocket")
    assert await websocket.text() == "o"
    await within(registration.close())
    websocket.write(b"\x81\x83\0\0\0\0" + b'"x"')
    assert await websocket.text() == 'a["x"]'


async def test_connections_with_tls_stay(listen: Listen, routers: Routers) -> None:
    site = await listen(application_of(routers()), kind="tls")
    client = await site.connect()
    client.write(POLL)
    assert (await client.response()).body == b"o\n"
    assert connections(site) == ["HTTP1ServerConnection"]


async def test_without_a_free_descriptor_the_connection_stays(
    listen: Listen, routers: Routers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "duplicate", lambda sock: None)
    site = await listen(application_of(routers()))
    client = await site.connect()
    client.write(POLL)
    assert (await client.response()).body == b"o\n"
    assert connections(site) == ["HTTP1ServerConnection"]


@pytest.mark.usefixtures("server_class")
async def test_a_connection_stays_while_its_last_owner_has_something_to_send() -> None:
    here, there = socket.socketpair()
    transport = Mock(spec=asyncio.Transport)
    transport.get_write_buffer_size.return_value = 1
    stream = DetachedStream(here, transport, b"", None, None)
    # What a new owner would send would be before that.
    assert not adoption._is_movable(stream)
    transport.get_write_buffer_size.return_value = 0
    assert adoption._is_movable(stream)
    stream.close()
    there.close()


async def test_a_connection_serves_all_routers_of_the_application(listen: Listen, routers: Routers) -> None:
    site = await listen(application_of(routers(), routers(prefix="/other", adopt_connections=False)))
    client = await adopt(site)
    client.write(request("POST", "/other/000/def/xhr", body=b""))
    assert (await client.response()).body == b"o\n"
    assert is_adopted(site)


async def test_tuples_of_urls_do_the_same(listen: Listen, routers: Routers) -> None:
    urls: list[Any] = routers().urls
    site = await listen(Application([tuple(url) for url in urls]))
    client = await adopt(site)
    client.write(request("POST", SEND, body=b'["x"]') + POLL)
    assert (await client.response()).status == 204
    assert (await client.response()).body == b'a["x"]\n'


@pytest.mark.parametrize(
    "data",
    [
        request("POST", SEND, body=b'["%b"]' % (b"x" * 200_000)),
        request("POST", SEND, "Transfer-Encoding: chunked") + b'5\r\n["x"]\r\n0\r\n\r\n',
    ],
    ids=["long", "chunks"],
)
async def test_a_request_with_any_body_moves_its_connection(listen: Listen, routers: Routers, data: bytes) -> None:
    site = await listen(application_of(routers()))
    await adopt(site)
    client = await site.connect()
    client.write(data)
    client.write(POLL)
    assert (await client.response()).status == 204
    assert (await client.response()).body.startswith(b'a["x')
    assert connections(site) == ["_Registration"] * 2


# Other requests on an adopted connection.


async def test_another_request_returns_the_connection_to_tornado(listen: Listen, routers: Routers) -> None:
    site = await listen(application_of(routers()))
    client = await adopt(site)
    client.write(request("GET", "/plain"))
    assert (await client.response()).text == "HTTP1Connection 127.0.0.1 http"
    assert connections(site) == ["HTTP1ServerConnection"]
    client.write(request("POST", "/plain", body=b"x" * 1_000_000))
    assert (await client.response()).text == "1000000"
    client.write(request("POST", SEND, body=b'["x"]') + POLL)
    assert (await client.response()).status == 204
    assert (await client.response()).body == b'a["x"]\n'
    assert is_adopted(site)


@pytest.mark.parametrize("count", [1, 7, 200])
async def test_pipelined_requests_are_answered_in_order(listen: Listen, routers: Routers, count: int) -> None:
    site = await listen(application_of(routers()))
    client = await site.connect()
    parts = []
    for number in range(count):
        parts.append(request("POST", SEND, body=f'["{number}"]'.encode()))
        parts += [POLL] * (number % 3 == 2)
        parts += [request("POST", "/plain", body=b"x" * number), request("GET", "/echo")] * (number % 5 == 4)
    client.write(POLL + b"".join(parts))
    assert (await client.response()).body == b"o\n"
    pending: list[str] = []
    for number in range(count):
        assert (await client.response()).status == 204
        pending.append(str(number))
        if number % 3 == 2:
            texts = ",".join(f'"{text}"' for text in pending)
            assert (await client.response()).body == f"a[{texts}]\n".encode()
            pending.clear()
        if number % 5 == 4:
            assert (await client.response()).text == str(number)
            assert (await client.response()).text == "Welcome to SockJS!\n"


async def test_a_request_that_is_given_back_is_served_once(listen: Listen, routers: Routers) -> None:
    """It has arrived together with a request before, and is the last one."""
    site = await listen(application_of(routers()))
    client = await adopt(site)
    client.write(request("POST", SEND, body=b'["x"]') + request("POST", "/plain", body=b"12"))
    assert (await client.response()).status == 204
    assert (await client.response()).text == "2"
    client.write(request("GET", "/echo", "Connection: close"))
    assert (await client.response()).text == "Welcome to SockJS!\n"
    assert await client.rest() == b""


def has_read(connection: AdoptedConnection, data: bytes) -> bool:
    """Return whether a connection has read the start of a request."""
    return connection._data == data


@pytest.mark.parametrize(
    "data",
    [request("POST", "/plain", "X: y", body=b"12"), request("GET", "/plain", "Content-Length: 1", "X: y") + b"z"],
    ids=["post", "get"],
)
async def test_a_request_that_arrives_in_two_parts_returns_the_connection(
    listen: Listen, routers: Routers, data: bytes
) -> None:
    site = await listen(application_of(routers()))
    client = await adopt(site)
    for split in range(1, data.index(b"\r\n\r\n") + 4):
        client.write(request("POST", SEND, body=b'["x"]'))
        assert (await client.response()).status == 204
        (registration,) = open_connections(site.http)
        client.write(data[:split])
        await until(partial(has_read, registration._connection, data[:split]))
        client.write(data[split:])
        assert (await client.response()).text in ("2", "HTTP1Connection 127.0.0.1 http")


async def test_a_request_behind_a_held_poll_waits_for_it(listen: Listen, routers: Routers) -> None:
    journal = Journal()
    site = await listen(application_of(routers(journal)))
    client = await adopt(site)
    client.write(POLL + request("GET", "/plain") + POLL)
    connection = await journal.connection()
    await until(lambda: connection.session._receiver is not None)
    connection.send("x")
    assert (await client.response()).body == b'a["x"]\n'
    assert (await client.response()).text.startswith("HTTP1Connection")
    connection.send("y")
    assert (await client.response()).body == b'a["y"]\n'


async def test_without_a_free_descriptor_the_connection_cannot_return(
    listen: Listen, routers: Routers, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await listen(application_of(routers()))
    client = await adopt(site)

    def fail(sock: socket.socket) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket.socket, "dup", fail)
    client.write(request("GET", "/plain"))
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.response()
    await until(lambda: not connections(site))


@pytest.mark.parametrize("transport", [*STREAMING, "websocket"])
async def test_a_stream_or_a_websocket_may_follow(listen: Listen, routers: Routers, transport: str) -> None:
    site = await listen(application_of(routers()))
    client = await adopt(site)
    if transport == "websocket":
        websocket = await WebSocket.open(client, "/echo/000/def/websocket")
        assert await websocket.text() == "o"
    else:
        client.write(asking(transport, "/echo/000/def"))
        assert (await client.head())["Connection"] == "close"
    # As on Tornado's server, connections of sessions do not belong to it any more.
    assert connections(site) == []
    await within(site.http.close_all_connections())
    if transport == "websocket":
        websocket.write(b"\x81\x83\0\0\0\0" + b'"x"')
        assert await websocket.text() == 'a["x"]'


# One response on the wire, with adoption and without.

#: Requests after the session was opened.
CASES: dict[str, list[Any]] = {
    "posts and polls": [sending("xhr_send", "/echo/000/abc", '["x"]'), POLL] * 3,
    "methods": [request(method, XHR) for method in ("HEAD", "OPTIONS", "GET", "PUT", "DELETE", "PATCH")],
    "heads": [request("HEAD", path) for path in ("/echo", "/echo/info", "/echo/iframe.html", "/plain", SEND)],
    "an unknown method": [request("BREW", XHR)],
    "pages": [request("GET", path) for path in ("/echo", "/echo/info", "/echo/iframe.html", "/echo/nothing")],
    "an unknown session": [request("POST", "/echo/000/unknown/xhr_send", body=b"[]")],
    "bad JSON": [request("POST", SEND, body=b"x"), request("POST", SEND, body=b"")],
    "origins": [request("POST", XHR, "Origin: http://a", body=b""), request("POST", XHR, "Origin: null", body=b"")],
    "a preflight": [request("OPTIONS", XHR, "Origin: http://a", "Access-Control-Request-Headers: X")],
    "cookies": [request("POST", SEND, "Cookie: JSESSIONID=a", "Cookie: b=c", body=b'["x"]'), POLL],
    "close": [request("POST", SEND, "Connection: close", body=b'["x"]')],
    "close in a list": [request("POST", SEND, "Connection: x, close", body=b'["x"]')],
    "close, and more": [(request("POST", SEND, "Connection: close", body=b'["x"]'), POLL)],
    "an old client": [request("POST", SEND, version="HTTP/1.0", body=b'["x"]')],
    "an old client that stays": [request("POST", SEND, "Connection: keep-alive", version="HTTP/1.0", body=b'["x"]')],
    "a body in chunks": [request("POST", SEND, "Transfer-Encoding: chunked") + b"5\r\n[\"x\"]\r\n0\r\n\r\n", POLL],
    "a body in small chunks": [request("POST", SEND, "Transfer-Encoding: chunked") + b"1\r\n[\r\n1\r\n]\r\n0\r\n\r\n"],
    "a long body": [request("POST", SEND, body=b'["%b"]' % (b"x" * 300_000)), POLL],
    "a body that is too long": [request("POST", SEND, body=b"x" * 2_000_000)],
    "an unexpected body": [request("POST", XHR, body=b"x" * 10_000)],
    "a compressed body": [request("POST", SEND, "Content-Encoding: gzip", body=b"x")],
    "a form": [request("POST", "/echo/000/abc/jsonp_send", "Content-Type: application/x-www-form-urlencoded",
                       body=b"d=%5B%22x%22%5D"), request("GET", "/echo/000/abc/jsonp?c=cb")],
    "a websocket without an upgrade": [request("GET", "/echo/000/abc/websocket")],
    "a stream": [request("POST", "/echo/000/def/xhr_streaming?x", body=b"")],
    "an old client's stream": [request("POST", "/echo/000/def/xhr_streaming", version="HTTP/1.0", body=b"")],
    "an upgrade elsewhere": [request("POST", SEND, "Connection: Upgrade", "Upgrade: x", body=b'["x"]'), POLL],
    "bare line feeds": [request("POST", SEND, body=b'["x"]').replace(b"\r\n", b"\n"), POLL],
    "a folded line": [request("POST", SEND, "X: 1\r\n 2", body=b'["x"]')],
    "two lengths": [request("POST", SEND, "Content-Length: 4", body=b'["x"]')],
    "the same length twice": [request("POST", SEND, "Content-Length: 5", body=b'["x"]'), POLL],
    "both lengths": [request("POST", SEND, "Transfer-Encoding: chunked", body=b"0\r\n\r\n")],
    "another version": [request("POST", XHR, version="HTTP/2.0")],
    "no request": [b"x\r\n\r\n"],
    "many fields": [request("POST", SEND, *(f"X{n}: {n}" for n in range(200)), body=b'["x"]'), POLL],
    "a long head": [request("POST", SEND, "X: " + "x" * 70_000, body=b'["x"]')],
    "a long path": [request("POST", f"{XHR}?{'x' * 9000}", body=b"")],
    "an absolute URL": [request("POST", f"http://localhost{SEND}", body=b'["x"]')],
    "encoded": [request("POST", "/echo/000/%61bc/xhr_send", body=b'["x"]'), request("GET", "/ech%6f")],
    "another handler": [request("GET", "/plain?x"), POLL, request("GET", "/nowhere")],
    "a body for another handler": [request("POST", "/plain", "Expect: 100-continue", body=b"x" * 100)],
    "a limit of a handler": [request("POST", "/small", body=b"x" * 11)],
    "pipelined": [(sending("xhr_send", "/echo/000/abc", '["x"]'), POLL, request("GET", "/plain"), POLL)],
    "blank lines": [b"\r\n" + POLL, b"\r\n\r\n" + POLL, b"\r\n\r\n" + request("GET", "/plain")],
    "expectations": [request("POST", SEND, "Expect: 100-continue", body=b'["x"]'), POLL],
}  # fmt: skip

_VARIABLE = re.compile(rb"(?:Date|Expires|Retry-After): [^\r]*")
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")


async def answer(client: Client, method: bytes) -> tuple[bytes, bool]:
    """Return the bytes of a response, and whether they are the last ones of the connection."""
    try:
        head = await within(client.reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError as error:
        return error.partial, True
    if head.startswith(b"HTTP/1.1 100 "):
        return await answer(client, method)
    if b"\r\nConnection: close\r\n" in head or b"\r\nDate: " not in head.replace(b"\r\nServer: ", b"\r\nDate: "):
        return head + await client.rest(), True
    length = _LENGTH.search(head)
    return head + (await client.exactly(int(length[1])) if length and method != b"HEAD" else b""), False


async def transcript(listen: Listen, router: SockJSRouter, case: str) -> list[bytes]:
    """Return the responses to a client that opens a session, and then sends the requests of a case."""
    site = await listen(application_of(router))
    client = await site.connect()
    client.write(POLL)
    assert (await client.response()).body == b"o\n"
    assert is_adopted(site) == router.settings.adopt_connections
    responses: list[bytes] = []
    for item in CASES[case]:
        batch = item if isinstance(item, tuple) else (item,)
        client.write(b"".join(batch))
        for data in batch:
            response, is_last = await answer(client, data.split()[0])
            responses.append(_VARIABLE.sub(b"", response))
            if is_last:
                return responses
    client.write(request("GET", "/plain"))
    assert (await client.response()).text.startswith("HTTP1Connection")
    return responses


@pytest.mark.parametrize("case", CASES)
async def test_the_responses_are_the_same(
    listen: Listen, routers: Routers, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.randbits", lambda count: 1)
    settings = {"heartbeat_delay": 0.02, "max_message_size": 1_000_000, "response_limit": 1}
    on, off = [
        await transcript(listen, routers(adopt_connections=adopts, **settings), case) for adopts in (True, False)
    ]
    assert on == off
