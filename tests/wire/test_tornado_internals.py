"""The parts of Tornado's classes that are not documented: each is there, and does what this package relies on."""

import ast
import asyncio
import gc
import gzip
import inspect
import logging
import weakref
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from application import Echo, Serve, TornadoServer
from client import within
from tornado.http1connection import HTTP1Connection
from tornado.httpclient import HTTPRequest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.iostream import IOStream
from tornado.tcpclient import TCPClient
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler, stream_request_body

from sockjs_tornado import SockJSRouter
from sockjs_tornado.http.body_limit import StreamedBodyHandler
from sockjs_tornado.http.handlers import SockJSHandler
from sockjs_tornado.server.connection_limits import LimitedServer
from sockjs_tornado.wire.tornado_internals import (
    LoggedHandler,
    accepting_server,
    body_timeout,
    client_port,
    connection_stream,
    decompresses_body,
    is_buffer_empty,
    is_last_request,
    open_connections,
    open_websocket,
)

#: Returns the response to a request, from a server with one handler and the options for HTTPServer.
Ask = Callable[..., Awaitable[bytes]]


HEAD = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


class Handler(LoggedHandler):
    """Calls ``look`` while Tornado calls the handler, then responds."""

    def initialize(self) -> None:
        """Look at the request."""
        self.look()

    def look(self) -> None:
        """Called when Tornado has read the request."""

    def get(self, session_id: str) -> None:
        self.write("body")

    def summary(self) -> str:
        return "a summary"


class NotingServer(TornadoServer):  # type: ignore[misc]
    """Notes the stream of the connection that has ended."""

    closed: asyncio.Future[IOStream]

    def on_close(self, server_conn: Any) -> None:
        self.closed.set_result(connection_stream(server_conn))
        super().on_close(server_conn)


@pytest.fixture
async def ask() -> Any:
    """Return a function that asks a server with one handler."""
    servers: list[Any] = []

    async def ask(handler: type[RequestHandler], *, head: bytes = HEAD, body: bytes = b"", **options: Any) -> bytes:
        server = NotingServer(Application([("/(?P<session_id>.*)", handler)]), **options)
        server.closed = asyncio.get_running_loop().create_future()
        servers.append(server)
        sock, port = bind_unused_port()
        server.add_socket(sock)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + body)
        response = await reader.readuntil(b"\r\n\r\n")
        length = response.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
        response += await reader.readexactly(int(length or b"0"))
        writer.close()
        assert (await within(server.closed)).closed()
        return response

    yield ask
    for server in servers:
        server.stop()
        await server.close_all_connections()


async def test_the_access_log_has_the_summary(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tornado.access"):
        await ask(Handler)
    assert "200 a summary " in caplog.text


@pytest.mark.parametrize("breaks", [False, True])
def test_a_handler_is_freed_at_once_if_its_cycle_is_broken(breaks: bool) -> None:
    connection: Any = SimpleNamespace(context=None, stream=None, set_close_callback=lambda callback: None)
    line = RequestStartLine("GET", "/", "HTTP/1.1")
    request = HTTPServerRequest(start_line=line, headers=HTTPHeaders({"Host": "a"}), connection=connection)
    handler = Handler(Application(), request)
    if breaks:
        handler.break_cycle()
    gc.disable()
    try:
        alive = weakref.ref(handler)
        del handler
        assert (alive() is None) == breaks
    finally:
        gc.enable()


@pytest.mark.parametrize("last", [False, True])
async def test_the_connection_has_a_stream_and_the_options_of_the_server(ask: Ask, last: bool) -> None:
    seen: list[Any] = []

    class Looking(Handler):
        def look(self) -> None:
            connection: Any = self.request.connection
            options = is_last_request(self.request), body_timeout(self.request)
            seen.append((type(connection), connection.stream, options))
            seen.append((client_port(self.request), connection.stream.socket.getpeername()[1]))

    await ask(Looking, no_keep_alive=last, body_timeout=5.0)
    (kind, stream, options), (port, real_port) = seen
    assert issubclass(kind, HTTP1Connection)
    assert isinstance(stream, IOStream)
    assert options == (last, 5.0)
    assert port == real_port


@pytest.mark.parametrize("field", [b"Content-Encoding: gzip\r\n", b""])
@pytest.mark.parametrize("decompress", [False, True])
async def test_a_compressed_body_is_known(ask: Ask, decompress: bool, field: bytes) -> None:
    seen: list[bool] = []

    class Looking(Handler):
        def look(self) -> None:
            seen.append(decompresses_body(self.request))

    body = gzip.compress(b"body")
    head = b"GET / HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n" % (field, len(body))
    await ask(Looking, head=head, body=body, decompress_request=decompress)
    assert seen == [decompress and bool(field)]


async def test_a_stream_knows_whether_it_has_read_ahead(ask: Ask) -> None:
    seen: list[bool] = []

    @stream_request_body
    class Reading(RequestHandler):
        async def prepare(self) -> None:
            stream: Any = self.detach()
            await stream.read_bytes(2)
            seen.append(is_buffer_empty(stream))
            await stream.read_bytes(2)
            seen.append(is_buffer_empty(stream))
            stream.write(b"HTTP/1.1 200 OK\r\n\r\n")
            stream.close()

    await ask(Reading, head=b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n", body=b"data")
    assert seen == [False, True]


async def test_the_server_of_a_request_and_its_connections_are_known(ask: Ask) -> None:
    seen: list[Any] = []
    handlers: list[weakref.ref[Any]] = []
    closed: list[bool] = []

    class Extra:
        async def close(self) -> None:
            closed.append(True)
            open_connections(seen[0]).discard(self)

    class Looking(Handler):
        def look(self) -> None:
            server = accepting_server()
            seen.extend([server, open_connections(server) == {self.request.server_connection}])
            open_connections(server).add(Extra())
            handlers.append(weakref.ref(self))

    gc.disable()
    try:
        await ask(Looking)
        # What the server's loop knows is not kept.
        assert [handler() for handler in handlers] == [None]
    finally:
        gc.enable()
    server, knows_connection = seen
    assert isinstance(server, NotingServer)
    assert knows_connection
    await server.close_all_connections()
    assert closed == [True]
    assert open_connections(server) == set()


async def test_elsewhere_the_server_is_unknown() -> None:
    assert accepting_server() is None


def private_names(kind: type) -> set[str]:
    """Return the private names of a class of Tornado and its bases, those of an instance included."""
    return set().union(*(names_of(base) for base in kind.__mro__ if base.__module__.startswith("tornado.")))


def names_of(kind: type) -> set[str]:
    """Return the private names that a class defines, or uses of itself."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(kind))))
    found = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    found |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"}
    found |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (SockJSHandler, RequestHandler),
        (StreamedBodyHandler, RequestHandler),
        (LimitedServer, TornadoServer),
    ],
)
def test_no_other_class_uses_a_private_name_of_its_base(kind: type, base: type) -> None:
    """Nor has it such a name by accident, also in Tornado's next release."""
    assert names_of(kind) & private_names(base) == set()
    assert names_of(LoggedHandler) & private_names(RequestHandler) == {"_request_summary"}


def test_a_handler_can_keep_its_requests_out_of_the_access_log() -> None:
    """``_log`` is called for every response, and calls the application's log function."""
    assert "_log" in vars(RequestHandler)
    assert "self._log()" in inspect.getsource(RequestHandler.finish)


async def test_a_websocket_is_opened_by_a_given_client(serve: Serve) -> None:
    """Tornado's own is closed."""
    server = await serve(SockJSRouter(Echo, "/echo"))
    connected: list[tuple[str, int]] = []

    class Client(TCPClient):
        async def connect(self, host: str, port: int, *rest: Any, **more: Any) -> IOStream:
            connected.append((host, port))
            return await super().connect("127.0.0.1", server.port, *rest, **more)

    request = HTTPRequest("ws://elsewhere:5/echo/websocket", headers={"X": "1"})
    socket = await within(open_websocket(Client(), request, 1000))
    assert connected == [("elsewhere", 5)]
    await socket.write_message("x")
    assert await within(socket.read_message()) == "x"
    socket.close()
    assert await within(socket.read_message()) is None
