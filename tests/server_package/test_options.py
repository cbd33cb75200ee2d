"""What the options of a server change, and what a handler can learn about its connection."""

import asyncio
import contextlib
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from application import LogWatch
from client import BINARY, CLOSE, PING, PONG, TEXT, Client, WebSocket, closing, frame, request, until, within
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    ResponseStartLine,
)
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler

import sockjs_tornado

from .conftest import KINDS, NATIVE, Listen


class About(RequestHandler):
    """Returns what the server says about the request."""

    def get(self) -> None:
        request: HTTPServerRequest = self.request
        self.write(
            {
                "remote_ip": request.remote_ip,
                "protocol": request.protocol,
                "host": request.host,
                "version": request.version,
                "uri": request.uri,
                "full_url": request.full_url(),
                "fields": sorted(request.headers.get_all()),
            }
        )


async def about(client: Client, *fields: str) -> Any:
    """Return what the server says about a request."""
    return json.loads((await client.ask("GET", "/?a=b", *fields)).body)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_request_says(listen: Listen, kind: str) -> None:
    client = await (await listen({"/": About}, kind)).connect()
    scheme = "https" if kind == "tls" else "http"
    assert await about(client, "X-A: 1", "x-a: 2", "X-B:", "X-C: \t c \t") == {
        "remote_ip": "0.0.0.0" if kind == "unix" else "127.0.0.1",
        "protocol": scheme,
        "host": "localhost",
        "version": "HTTP/1.1",
        "uri": "/?a=b",
        "full_url": f"{scheme}://localhost/?a=b",
        "fields": [["Host", "localhost"], ["X-A", "1"], ["X-A", "2"], ["X-B", ""], ["X-C", "c"]],
    }


async def test_the_address_of_the_client(listen: Listen) -> None:
    site = await listen({"/": About})
    assert (await about(await site.connect(source="127.0.0.3")))["remote_ip"] == "127.0.0.3"


async def test_a_protocol_may_be_given(listen: Listen) -> None:
    client = await (await listen({"/": About}, protocol="https")).connect()
    assert (await about(client))["protocol"] == "https"


FORWARDED = ("X-Forwarded-For: 10.0.0.1, 10.0.0.2, 127.0.0.1", "X-Forwarded-Proto: http, https")


async def test_without_xheaders_a_client_cannot_say_where_it_is(listen: Listen) -> None:
    client = await (await listen({"/": About})).connect()
    got = await about(client, *FORWARDED, "X-Real-Ip: 10.0.0.9", "X-Scheme: https")
    assert (got["remote_ip"], got["protocol"]) == ("127.0.0.1", "http")


@pytest.mark.parametrize(
    ("fields", "trusted", "remote_ip", "protocol"),
    [
        (FORWARDED, None, "127.0.0.1", "https"),
        (FORWARDED, ["127.0.0.1"], "10.0.0.2", "https"),
        (FORWARDED, ["127.0.0.1", "10.0.0.2"], "10.0.0.1", "https"),
        (("X-Real-Ip: 10.0.0.9", "X-Scheme: https"), None, "10.0.0.9", "https"),
        (("X-Real-Ip: 10.0.0.9", *FORWARDED), None, "10.0.0.9", "https"),
        (("X-Real-Ip: ::1",), None, "::1", "http"),
        (("X-Real-Ip: somewhere", "X-Scheme: ftp"), None, "127.0.0.1", "http"),
        (("X-Forwarded-For: 10.0.0.2",), ["127.0.0.1", "10.0.0.2"], "10.0.0.2", "http"),
        ((), None, "127.0.0.1", "http"),
    ],
)
async def test_xheaders(
    listen: Listen, fields: tuple[str, ...], trusted: list[str] | None, remote_ip: str, protocol: str
) -> None:
    client = await (await listen({"/": About}, xheaders=True, trusted_downstream=trusted)).connect()
    got = await about(client, *fields)
    assert (got["remote_ip"], got["protocol"]) == (remote_ip, protocol)
    # They are those of one request.
    got = await about(client)
    assert (got["remote_ip"], got["protocol"]) == ("127.0.0.1", "http")


@NATIVE
async def test_header_fields_of_other_peers_are_ignored(listen: Listen) -> None:
    site = await listen({"/": About}, xheaders=True)
    site.http.trusted_peers = ["127.0.0.2"]
    for source, remote_ip, protocol in (("127.0.0.2", "10.0.0.9", "https"), ("127.0.0.3", "127.0.0.3", "http")):
        got = await about(await site.connect(source=source), "X-Real-Ip: 10.0.0.9", "X-Scheme: https")
        assert (got["remote_ip"], got["protocol"]) == (remote_ip, protocol)


async def test_the_certificate_of_the_client(listen: Listen, certificate: tuple[Path, Path]) -> None:
    class Certificate(RequestHandler):
        def get(self) -> None:
            found = self.request.get_ssl_certificate()
            assert isinstance(found, dict)
            self.write({"subject": found["subject"]})

    options = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    options.load_cert_chain(*certificate)
    options.load_verify_locations(certificate[0])
    options.verify_mode = ssl.CERT_REQUIRED
    site = await listen({"/": Certificate}, "tls", ssl_options=options)
    assert site.tls
    site.tls.load_cert_chain(*certificate)
    response = await (await site.connect()).ask("GET", "/")
    assert json.loads(response.body) == {"subject": [[["commonName", "localhost"]]]}


async def test_ssl_options_may_be_a_dict(listen: Listen, certificate: tuple[Path, Path]) -> None:
    options = {"certfile": str(certificate[0]), "keyfile": str(certificate[1])}
    client = await (await listen({"/": About}, "tls", ssl_options=options)).connect()
    assert (await about(client))["protocol"] == "https"


async def test_a_client_without_tls_is_disconnected(listen: Listen, logged: LogWatch) -> None:
    site = await listen({"/": About}, "tls")
    tls, site.tls = site.tls, None
    client = await site.connect()
    client.write(request("GET", "/"))
    with contextlib.suppress(ConnectionResetError):
        assert b"HTTP" not in await client.rest()
    if not isinstance(site.http, sockjs_tornado.HTTPServer):
        logged.take("SSL Error")
    site.tls = tls
    assert (await about(await site.connect()))["protocol"] == "https"


async def test_a_client_may_leave_within_the_handshake(listen: Listen) -> None:
    site = await listen({"/": About}, "tls")
    tls, site.tls = site.tls, None
    for data in (b"", b"\x16\x03\x01\x02\x00"):
        client = await site.connect()
        client.write(data)
        client.writer.close()
    site.tls = tls
    assert (await about(await site.connect()))["protocol"] == "https"


async def test_max_header_size(listen: Listen) -> None:
    site = await listen({"/": About}, max_header_size=1000)
    got = await about(await site.connect(), f"X-A: {'a' * 800}")
    assert len(dict(got["fields"])["X-A"]) == 800
    client = await site.connect()
    client.write(request("GET", "/", f"X-A: {'a' * 2000}"))
    # Tornado closes without a response.
    assert (await client.rest()).partition(b"\r\n")[0] in (b"", b"HTTP/1.1 431 Request Header Fields Too Large")


class EchoSocket(WebSocketHandler):
    """A websocket of Tornado that returns each message, and closes if it is asked to."""

    closed: "asyncio.Queue[tuple[int | None, str | None]]"

    @classmethod
    def new(cls) -> "type[EchoSocket]":
        """Return a class with a queue of its own."""
        return type("EchoSocket", (cls,), {"closed": asyncio.Queue()})

    async def on_message(self, message: str | bytes) -> None:
        if message == "close":
            self.close(4000, "asked")
        else:
            await self.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        self.closed.put_nowait((self.close_code, self.close_reason))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_websocket_of_tornado(listen: Listen, kind: str) -> None:
    echo = EchoSocket.new()
    client = await (await listen({"/ws": echo, "/": About}, kind)).connect()
    # It need not be the connection's first request.
    await about(client)
    websocket = await WebSocket.open(client, "/ws", first=frame(TEXT, "first") + frame(TEXT, "second"))
    assert [await websocket.text(), await websocket.text()] == ["first", "second"]
    websocket.write(frame(PING, "p"))
    assert (await websocket.frame())[:2] == (PONG, b"p")
    for size in (0, 1000, 100_000, 1_000_000):
        websocket.write(frame(BINARY, b"x" * size))
        assert (await websocket.frame())[:2] == (BINARY, b"x" * size)
    websocket.write(closing(1001, "bye"))
    assert (await websocket.frame())[:2] == (CLOSE, closing_payload(1001))
    assert await client.rest() == b""
    assert await within(echo.closed.get()) == (1001, "bye")


def closing_payload(code: int) -> bytes:
    """Return the payload of a close frame without a reason."""
    return code.to_bytes(2, "big")


async def test_a_websocket_that_the_server_closes(listen: Listen) -> None:
    echo = EchoSocket.new()
    websocket = await WebSocket.open(await (await listen({"/ws": echo})).connect(), "/ws")
    websocket.write(frame(TEXT, "close"))
    assert await websocket.closed() == (4000, "asked")
    await within(echo.closed.get())


async def test_a_websocket_whose_client_leaves(listen: Listen) -> None:
    echo = EchoSocket.new()
    websocket = await WebSocket.open(await (await listen({"/ws": echo})).connect(), "/ws")
    websocket.client.writer.close()
    assert await within(echo.closed.get()) == (None, None)


async def test_a_handler_may_take_the_stream(listen: Listen) -> None:
    class Taking(RequestHandler):
        async def get(self) -> None:
            stream = self.detach()
            await stream.write(b"HTTP/1.1 200 OK\r\n\r\n")
            data = await stream.read_until(b"!")
            await stream.write(data.upper())
            stream.close()

    client = await (await listen({"/": Taking})).connect()
    client.write(request("GET", "/") + b"hello")
    assert (await client.head()).status == 200
    client.write(b" world!")
    assert await client.rest() == b"HELLO WORLD!"


class Recorder(HTTPServerConnectionDelegate, HTTPMessageDelegate):
    """Serves by itself: writes down what it hears, and responds with that."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        self.connection = request_conn
        self.heard.append("start")
        return self

    async def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        await asyncio.sleep(0)
        self.heard.append(f"{start_line.method} {start_line.path} {start_line.version} {headers['x-a']}")

    async def data_received(self, chunk: bytes) -> None:
        await asyncio.sleep(0)
        self.heard.append(chunk.decode())

    def finish(self) -> None:
        body = ";".join(self.heard).encode()
        self.heard.clear()
        fields = HTTPHeaders({"Content-Length": str(len(body))})
        self.connection.write_headers(ResponseStartLine("HTTP/1.1", 299, "Fine"), fields, body)
        self.connection.finish()

    def on_connection_close(self) -> None:
        self.heard.append("closed")


async def test_a_delegate_of_connections(listen: Listen) -> None:
    recorder = Recorder()
    client = await (await listen(recorder)).connect()
    client.write(request("PUT", "/a?b", "X-A: 1", body=b"body") + request("GET", "//c", "x-a: 2"))
    for expected in ("start;PUT /a?b HTTP/1.1 1;body", "start;GET //c HTTP/1.1 2"):
        response = await client.response()
        assert (response.status, response.reason, response.text) == (299, "Fine", expected)
    client.write(request("PUT", "/", "X-A: 3", "Content-Length: 10") + b"cut")
    await until(lambda: "cut" in recorder.heard)
    client.writer.close()
    await until(lambda: "closed" in recorder.heard)
    assert recorder.heard == ["start", "PUT / HTTP/1.1 3", "cut", "closed"]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (sockjs_tornado.SockJSRouter(sockjs_tornado.SockJSConnection), r".*; pass Application\(router\.urls\)"),
        (sockjs_tornado.SockJSRouter(sockjs_tornado.SockJSConnection).urls, r"list; pass Application\(router\.urls\)"),
        (5, "5"),
    ],
    ids=["a router", "its URLs", "a number"],
)
def test_what_cannot_be_served_is_rejected_at_once(target: Any, text: str) -> None:
    with pytest.raises(TypeError, match=rf"^HTTPServer: expected an Application, got {text}$"):
        sockjs_tornado.HTTPServer(target)


def test_ssl_options_of_another_type_are_rejected() -> None:
    with pytest.raises(TypeError, match=r"^ssl_options: expected an SSLContext or a dict .*, got str$"):
        sockjs_tornado.HTTPServer(print, ssl_options="cert.pem")


def test_a_tls_context_for_clients_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^ssl_options: expected a context for servers, .*, got one for clients$"):
        sockjs_tornado.HTTPServer(print, ssl_options=ssl.create_default_context())
