"""Tornado's interface for servers: applications that use it wrongly, and those that use it to the full."""

import asyncio
import contextlib
from typing import Any

import pytest
from application import Echo, LogWatch, exception_of
from client import request, until, within
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPOutputError,
    HTTPServerConnectionDelegate,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler, stream_request_body

from sockjs_tornado import SockJSRouter
from sockjs_tornado.wire.tls import TLSChannel

from .conftest import KINDS, NATIVE, Listen
from .test_bodies import FLOOD
from .test_connections import Hello, check_closed, check_kept

OK = ResponseStartLine("HTTP/1.1", 200, "OK")


async def test_a_function_gets_the_whole_body(listen: Listen) -> None:
    served: list[bytes] = []

    def serve(request: Any) -> None:
        served.append(request.body)
        fields = HTTPHeaders({"Content-Length": str(len(request.body))})
        request.connection.write_headers(OK, fields, request.body)
        request.connection.finish()

    site = await listen(serve, chunk_size=1000)
    client = await site.connect()
    body = b"0123456789" * 1000
    for _ in range(2):
        assert (await client.ask("POST", "/", body=body)).body == body
    # One that leaves before the end of its body is not served.
    client.write(request("POST", "/", "Content-Length: 2000") + b"x" * 1500)
    client.writer.close()
    assert (await (await site.connect()).ask("POST", "/", body=b"last")).text == "last"
    assert served == [body, body, b"last"]


@pytest.mark.parametrize(
    ("reason", "length", "body", "expected"),
    [
        ("OK", "many", b"", ValueError),
        ("O\rK", "0", b"", ValueError),
        ("OK", "2", b"four", HTTPOutputError),
        ("OK", "2", b"1", HTTPOutputError),
    ],
    ids=["no number", "a line break", "too much", "too little"],
)
async def test_a_wrong_response_is_an_error_of_the_application(
    listen: Listen, reason: str, length: str, body: bytes, expected: type[Exception]
) -> None:
    errors: list[type[Exception]] = []

    def serve(request: Any) -> None:
        try:
            head = ResponseStartLine("HTTP/1.1", 200, reason)
            request.connection.write_headers(head, HTTPHeaders({"Content-Length": length}), body)
            request.connection.finish()
        except Exception as error:
            errors.append(type(error))
            request.connection.stream.close() if request.connection.stream is not None else None

    client = await (await listen(serve)).connect()
    client.write(request("GET", "/"))
    assert b"four" not in await client.rest()
    assert errors == [expected]


class Faulty(HTTPServerConnectionDelegate, HTTPMessageDelegate):
    """Raises an error: at the head of a request, at its body, or when it has responded already."""

    def __init__(self, error: Exception, when: str) -> None:
        self.error = error
        self.when = when
        self.closed = 0

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        self.connection = request_conn
        return self

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        if self.when == "head":
            raise self.error

    def data_received(self, chunk: bytes) -> None:
        if self.when == "response":
            self.connection.write_headers(OK, HTTPHeaders({"Content-Length": "4"}), b"late")
        raise self.error

    def on_connection_close(self) -> None:
        self.closed += 1


@NATIVE
@pytest.mark.parametrize("when", ["head", "body", "response"])
async def test_a_delegate_may_refuse_a_request(listen: Listen, when: str) -> None:
    faulty = Faulty(HTTPInputError("not this"), when)
    client = await (await listen(faulty)).connect()
    client.write(request("POST", "/", body=b"x"))
    response = await client.response()
    assert response.status == (200 if when == "response" else 400)
    await check_closed(client)
    assert faulty.closed == 1


@NATIVE
@pytest.mark.parametrize("when", ["head", "body", "response"])
async def test_an_error_of_a_delegate_ends_its_connection(listen: Listen, when: str, logged: LogWatch) -> None:
    faulty = Faulty(ZeroDivisionError(), when)
    client = await (await listen(faulty)).connect()
    client.write(request("POST", "/", body=b"x"))
    assert (await client.rest()).endswith(b"late" if when == "response" else b"")
    assert faulty.closed == 1
    logged.take("Uncaught exception")


# Tornado's server does not close the connection.
@NATIVE
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_a_length_the_end_of_an_http_1_0_response_is_that_of_the_connection(
    listen: Listen, method: str
) -> None:
    class Written(RequestHandler):
        async def get(self) -> None:
            await self.flush()
            self.write("to the end")

        post = get

    client = await (await listen({"/": Written})).connect()
    head = f"{method} / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"
    client.write(head.encode())
    assert (await client.rest()).endswith(b"to the end")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_may_look_at_its_stream(listen: Listen, kind: str) -> None:
    class Looking(RequestHandler):
        async def get(self) -> None:
            stream: Any = self.request.connection.stream  # type: ignore[union-attr]
            stream.set_nodelay(True)
            assert not stream.closed()
            assert stream.socket.fileno() >= 0
            await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            stream.close()

    client = await (await listen({"/": Looking}, kind)).connect()
    client.write(request("GET", "/"))
    assert (await client.response()).text == "hello"
    await check_closed(client)


# As a TLS client, uvloop loses the last data.
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_what_was_written_arrives_though_the_stream_is_closed(listen: Listen, kind: str) -> None:
    size = 8_000_000

    class Taking(RequestHandler):
        def get(self) -> None:
            self.request.connection.write(b"x" * size)  # type: ignore[union-attr]
            stream = self.detach()
            stream.write(b"the end").add_done_callback(lambda written: stream.close())

    client = await (await listen({"/": Taking}, kind)).connect()
    client.write(request("GET", "/"))
    received = await client.rest()
    assert (len(received), received[-7:]) == (size + 7, b"the end")


@NATIVE
async def test_what_was_written_before_the_stream_was_taken_comes_first_over_tls(listen: Listen) -> None:
    size = 8_000_000

    class Taking(RequestHandler):
        def get(self) -> None:
            self.request.connection.write(b"x" * size)  # type: ignore[union-attr]
            stream = self.detach()
            stream.write(b"y" * size).add_done_callback(lambda written: stream.close())

    client = await (await listen({"/": Taking}, "tls")).connect()
    client.write(request("GET", "/"))
    assert await client.rest() == b"x" * size + b"y" * size


@NATIVE
async def test_a_stream_reads_until_the_client_has_left_over_tls(listen: Listen) -> None:
    read: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Taking(RequestHandler):
        async def get(self) -> None:
            stream = self.detach()
            await stream.write(b"ready")
            read.set_result(await stream.read_until_close())

    client = await (await listen({"/": Taking}, "tls")).connect()
    client.write(request("GET", "/"))
    assert await client.exactly(5) == b"ready"
    client.write(b"the last")
    # Without a close_notify.
    client.writer.transport.abort()
    assert await within(read) == b"the last"


@NATIVE
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", [True, False], ids=["pattern", "delimiter"])
async def test_a_line_that_is_too_long_closes_the_stream(listen: Listen, kind: str, pattern: bool) -> None:
    ended: asyncio.Future[type[Exception]] = asyncio.get_running_loop().create_future()

    class Taking(RequestHandler):
        async def get(self) -> None:
            stream = self.detach()
            read = stream.read_until_regex if pattern else stream.read_until
            try:
                await read(b"\n", max_bytes=10_000)
            except StreamClosedError as error:
                ended.set_result(type(error))

    # Tornado reads half of the maximum at a time.
    client = await (await listen({"/": Taking}, kind, max_buffer_size=20_000)).connect()
    client.write(request("GET", "/") + b"x" * 10_100)
    assert await within(ended) is StreamClosedError


@NATIVE
async def test_a_stream_that_is_closed_within_a_record_ends_without_more_over_tls(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    notified: list[TLSChannel] = []
    monkeypatch.setattr(TLSChannel, "close", notified.append)

    class Taking(RequestHandler):
        def get(self) -> None:
            stream = self.detach()
            with contextlib.suppress(StreamClosedError):
                stream.write(b"x" * FLOOD)
            stream.close()

    client = await (await listen({"/": Taking}, "tls")).connect()
    client.write(request("GET", "/"))
    assert 0 < len(await client.rest()) < FLOOD
    assert notified == []


@NATIVE
async def test_a_client_that_does_not_read_is_disconnected_after_the_stream_was_closed(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.server.streams.CLOSE_TIMEOUT", 0)
    closed = asyncio.Event()

    class Taking(RequestHandler):
        def get(self) -> None:
            self.request.connection.write(b"x" * 50_000_000)  # type: ignore[union-attr]
            self.detach().close()
            closed.set()

    site = await listen({"/": Taking, "/hello": Hello.counting()})
    client = await site.connect(receive_buffer=4096)
    client.pause_reading()
    client.write(request("GET", "/"))
    await within(closed.wait())
    await check_kept(await site.connect(), "/hello")
    client.resume_reading()
    with contextlib.suppress(ConnectionResetError):
        assert len(await client.rest()) < 50_000_000


async def test_a_client_that_leaves_ends_the_wait_for_its_body(listen: Listen) -> None:
    @stream_request_body
    class Slow(RequestHandler):
        went_on = asyncio.Event()
        entered = asyncio.Event()
        left = asyncio.Event()

        async def data_received(self, chunk: bytes) -> None:
            self.entered.set()
            await self.went_on.wait()

        def on_connection_close(self) -> None:
            self.left.set()

    site = await listen({"/": Slow})
    client = await site.connect()
    client.write(request("POST", "/", "Content-Length: 10") + b"x")
    await within(Slow.entered.wait())
    client.writer.transport.abort()
    Slow.went_on.set()
    await within(Slow.left.wait())
    await until(lambda: not getattr(site.http, "connections", ()))


class Broken(HTTPServerConnectionDelegate, HTTPMessageDelegate):
    """Raises an error in one of its methods.

    Attributes:
        closes: Whether it closes the connection before that.
        ends: How often it was told that the connection was closed.
    """

    def __init__(self, method: str, error: Exception, *, closes: bool) -> None:
        self._method = method
        self._error = error
        self.closes = closes
        self.ends = 0

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        self.connection = request_conn
        return self

    def _called(self, method: str) -> None:
        if method == self._method:
            if self.closes:
                self.connection.close()
                # Once more does no harm.
                self.connection.close()
            raise self._error

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        self._called("headers_received")

    def finish(self) -> None:
        self._called("finish")

    def on_connection_close(self) -> None:
        self.ends += 1


@NATIVE
@pytest.mark.parametrize(
    ("method", "closes", "ends"), [("headers_received", False, 1), ("finish", False, 0), ("finish", True, 0)]
)
@pytest.mark.parametrize("error", [StreamClosedError(), RuntimeError("a bug")], ids=lambda error: type(error).__name__)
async def test_a_failure_of_the_application_closes_the_connection(
    listen: Listen, logged: LogWatch, method: str, closes: bool, ends: int, error: Exception
) -> None:
    """That a connection was closed is nothing to log."""
    delegate = Broken(method, error, closes=closes)
    client = await (await listen(delegate)).connect()
    client.write(request("GET", "/"))
    assert await client.rest() == b""
    assert delegate.ends == ends
    if isinstance(error, RuntimeError):
        assert exception_of(logged.take("Uncaught exception")) is error


@NATIVE
async def test_an_endpoint_is_not_served_on_a_connection_that_was_closed(listen: Listen) -> None:
    router = SockJSRouter(Echo, "/echo")

    class Late(RequestHandler):
        def get(self) -> None:
            connection: Any = self.request.connection
            connection.close()
            connection.serve_endpoint(router.endpoints[-1][1], "abc")
            assert connection.detach() is None

    client = await (await listen({"/": Late})).connect()
    client.write(request("GET", "/"))
    assert await client.rest() == b""
    assert router.stats.snapshot()["connections"] == 0


@NATIVE
async def test_an_application_that_answers_an_upgrade_at_once_gets_no_end_of_the_request(listen: Listen) -> None:
    class Upgrading(Broken):
        def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
            start = ResponseStartLine("HTTP/1.1", 101, "Switching Protocols")
            self.connection.write_headers(start, HTTPHeaders({"Upgrade": "x", "Connection": "upgrade"}))
            self.connection.finish()

    # It would raise an error in finish().
    delegate = Upgrading("finish", RuntimeError("called"), closes=False)
    client = await (await listen(delegate)).connect()
    client.write(request("GET", "/", "Upgrade: x", "Connection: upgrade"))
    assert (await client.response()).status == 101
    stream = delegate.connection.detach()
    await stream.write(b"hello")
    assert await client.exactly(5) == b"hello"
    stream.close()
