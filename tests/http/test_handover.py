"""Requests that Tornado holds, and connections that it hands over, with and without TLS."""

import asyncio
import functools
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from application import NATIVE, Echo, Journal, Noted, Serve
from client import (
    FORM,
    FRAMED,
    POLLING,
    RECEIVING,
    STREAMING,
    TEXT,
    URLS,
    Connect,
    Join,
    WebSocket,
    asking,
    closing,
    first_frame,
    frame,
    request,
    settle,
    unframe,
    within,
)

from sockjs_tornado import SockJSRouter

# Responses that are not taken.


async def test_a_client_that_left_before_its_answer_does_no_harm(serve: Serve, connect: Connect) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    for version in ("HTTP/1.0", "HTTP/1.1"):
        for url in URLS:
            if url.path.endswith("websocket"):
                continue
            client = await connect(server)
            await client.ask("GET", "/echo")
            client.reset()
            client.write(request(url.method, f"/echo{url.path}", body=b'["x"]', version=version))
            await client.leave()
    await settle(connect, server)


async def test_an_answer_that_a_socket_does_not_take_at_once_is_whole(serve: Serve, connect: Connect) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"max_queue_bytes": 1 << 30}))
    client = await connect(server)
    poll = request("POST", "/echo/000/abc/xhr", body=b"")
    client.write(poll)
    assert (await client.response()).body == b"o\n"
    text = "".join(map(str, range(3_000_000)))
    (await journal.connection()).send(text)
    client.write(poll + request("GET", "/echo"))
    assert (await client.response()).body == f'a["{text}"]\n'.encode()
    assert (await client.response()).body == b"Welcome to SockJS!\n"


# Requests that are held.


@pytest.mark.parametrize("transport", POLLING)
async def test_nothing_is_left_of_a_poll_whose_client_has_left(serve: Serve, connect: Connect, transport: str) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"))
    client = await connect(server)
    client.write(asking(transport, "/echo/000/abc"))
    await first_frame(client, transport)
    client.write(asking(transport, "/echo/000/abc"))
    await settle(connect, server)
    await client.leave()
    connection = await journal.connection()
    assert await connection.closed() == (1002, "Connection interrupted")
    connection.send("to nobody")
    connection.close()
    await settle(connect, server)
    assert connection.closes == [(1002, "Connection interrupted")]


# Connections that are taken over.


@pytest.mark.parametrize("disable_nagle", [True, False])
@pytest.mark.parametrize("transport", [*STREAMING, "websocket"])
async def test_disable_nagle_sets_tcp_nodelay(
    serve: Serve, connect: Connect, join: Join, transport: str, disable_nagle: bool
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"disable_nagle": disable_nagle}))
    assert await join(server, transport).frame() == "o"
    receiver: Any = (await journal.connection()).session._receiver
    # The option is set behind the first bytes.
    await settle(connect, server)
    sock = receiver.transport.get_extra_info("socket")
    assert bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) is disable_nagle


@pytest.fixture
def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """Return what the server needs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def client_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """Return what the client needs."""
    return ssl.create_default_context(cafile=str(certificate[0]))


@pytest.mark.parametrize("transport", FRAMED)
async def test_every_transport_works_over_tls(
    serve: Serve, join: Join, transport: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    journal = Journal()
    settings = {"response_limit": 10_000, "max_queue_bytes": 4_000_000, "disconnect_delay": 60}
    server = await serve(SockJSRouter(journal, "/echo", settings), ssl_options=server_tls)
    peer = join(server, transport, tls=client_tls)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    for message in ("x", "ä€😀" * 30_000, "y" * 2_000_000, "z"):
        await peer.send(message)
        assert await connection.message() == message
        connection.send(message)
        assert await peer.message() == message
    connection.close(3001, "enough")
    assert await peer.frame() == 'c[3001,"enough"]'
    assert await connection.closed() == (3001, "enough")


@pytest.mark.parametrize("transport", [*STREAMING, "websocket"])
async def test_an_awaited_send_waits_over_tls_too(
    serve: Serve, join: Join, transport: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"response_limit": 1 << 30}), ssl_options=server_tls)
    peer = join(server, transport, tls=client_tls)
    assert await peer.frame() == "o"
    connection = await journal.connection()

    async def send_all() -> None:
        for _ in range(200):
            await connection.send("x" * 100_000)

    sending_all = asyncio.ensure_future(send_all())
    for _ in range(200):
        assert await peer.message() == "x" * 100_000
    await within(sending_all)


@pytest.mark.parametrize("transport", STREAMING)
async def test_a_stream_that_is_read_slowly_arrives_whole_over_tls(
    serve: Serve,
    join: Join,
    transport: str,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The test is the clock.
    for module in ("wire.connection", "server.connection_io"):
        monkeypatch.setattr(f"sockjs_tornado.{module}.CLOSE_TIMEOUT", 1000)
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"response_limit": 100}), ssl_options=server_tls)
    peer: Any = join(server, transport, tls=client_tls)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    receiver: Any = connection.session._receiver
    connection.send("x" * 20_000_000)
    data = bytearray()
    steps = 0
    while unsent := receiver.transport.get_write_buffer_size():
        while receiver.transport.get_write_buffer_size() > max(unsent - 1_000_000, 0):
            data += await peer.client.exactly(100_000)
        # On the native server, the connection has returned to it.
        owner = receiver.transport.get_protocol() if NATIVE else receiver
        owner.check(owner.due)
        steps += 1
    assert steps > 3
    while not data.endswith(b"\r\n0\r\n\r\n"):
        data += await within(peer.client.reader.read(100_000))
    await peer.client.after_stream()
    assert data.count(b"x") >= 20_000_000


@pytest.mark.parametrize("transport", [*RECEIVING, "websocket"])
async def test_a_client_that_leaves_is_noticed_over_tls(
    serve: Serve, connect: Connect, join: Join, transport: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"), ssl_options=server_tls)
    peer: Any = join(server, transport, tls=client_tls)
    assert await peer.frame() == "o"
    connection = await journal.connection()
    if transport in POLLING:
        await peer.listen()
        client = await connect(server, tls=client_tls)
        client.write(request("GET", "/echo"))
        await client.response()
    peer.vanish()
    reason = (1006, "Connection lost") if transport == "websocket" else (1002, "Connection interrupted")
    assert await connection.closed() == reason


@pytest.mark.parametrize(
    ("data", "code"),
    [(frame(3), 1002), (frame(TEXT, b"\xff"), 1007), (frame(TEXT, "x" * 1001), 1009), (frame(TEXT, '"close!"'), 4001)],
    ids=["1002", "1007", "1009", "close"],
)
@pytest.mark.parametrize("target", ["/echo/000/abc/websocket", "/echo/websocket"], ids=["sockjs", "raw"])
async def test_a_websocket_ends_with_the_clients_close_frame_over_tls(
    serve: Serve,
    connect: Connect,
    target: str,
    data: bytes,
    code: int,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Closing(Noted):
        def on_message(self, message: str) -> None:
            self.close(4001, "Enough")

    # Not with the deadline.
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    journal = Journal(Closing)
    server = await serve(SockJSRouter(journal, "/echo", {"max_message_size": 1000}), ssl_options=server_tls)
    client = await connect(server, tls=client_tls)
    websocket = await WebSocket.open(client, target)
    is_framed = target != "/echo/websocket"
    if is_framed:
        assert await websocket.text() == "o"
    websocket.write(data)
    got = await websocket.frame()
    if is_framed and code == 4001:
        assert got.payload == b'c[4001,"Enough"]'
        got = await websocket.frame()
        assert got.payload == (1000).to_bytes(2, "big")
    else:
        assert got.payload[:2] == code.to_bytes(2, "big")
    for _ in range(20):
        websocket.write(frame(TEXT, "x" * 1000))
        await settle(functools.partial(connect, tls=client_tls), server)
        assert not client.reader.at_eof()
    websocket.write(closing(code))
    assert await client.rest() == b""
    assert (await (await journal.connection()).closed())[0] == code


@pytest.mark.parametrize("size", [0, 100, 3_000_000], ids=["nothing", "some of it", "all of it"])
async def test_a_body_that_is_too_long_is_rejected_at_once_over_tls(
    serve: Serve,
    connect: Connect,
    size: int,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The connection does not end with the deadline.
    monkeypatch.setattr("sockjs_tornado.wire.connection.CLOSE_TIMEOUT", 1000)
    router = SockJSRouter(Echo, "/echo", {"max_message_size": 1000})
    client = await connect(await serve(router, ssl_options=server_tls), tls=client_tls)
    client.write(request("POST", "/echo/000/abc/xhr_send", "Content-Length: 3000000") + b"x" * size)
    response = await client.response()
    assert (response.status, response.text, response["Connection"]) == (413, "Payload too large.", "close")
    assert await client.rest() == b""
    # With the client, the rest of the connection goes.
    await client.leave()
    await within(router.close())


@pytest.mark.parametrize("transport", POLLING)
async def test_a_half_closed_client_gets_a_response_over_tls(
    serve: Serve, connect: Connect, transport: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo"), ssl_options=server_tls)

    async def ask() -> str:
        client = await connect(server, tls=client_tls)
        # With a body that is there, Tornado does not look for the end of the connection before the request is served.
        client.write(request("POST" if transport == "xhr" else "GET", f"/echo/000/abc/{transport}?c=cb", body=b"[]"))
        client.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        assert (await client.head()).status == 100
        return unframe(transport, (await client.response()).body)

    assert await ask() == "o"
    connection = await journal.connection()
    connection.send("x")
    assert [await ask() for _ in range(2)] == ['a["x"]', 'c[1002,"Connection interrupted"]']
    assert await connection.closed() == (1002, "Connection interrupted")


@pytest.mark.parametrize("end", ["closed", "reset", "cut"])
@pytest.mark.parametrize("first", [b"", frame(TEXT, '"x"')[:5], frame(TEXT, '"x', fin=False)], ids=len)
@pytest.mark.parametrize("target", ["/echo/000/abc/websocket", "/echo/websocket"], ids=["sockjs", "raw"])
async def test_a_client_that_leaves_in_the_middle_of_a_frame_is_noticed_over_tls(
    serve: Serve,
    connect: Connect,
    target: str,
    first: bytes,
    end: str,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    journal = Journal()
    router = SockJSRouter(journal, "/echo")
    client = await connect(await serve(router, ssl_options=server_tls), tls=client_tls)
    await WebSocket.open(client, target, first=first)
    connection = await journal.connection()
    if end == "closed":
        client.writer.close()
    else:
        if end == "reset":
            client.reset()
        client.writer.transport.abort()
    assert await connection.closed() == (1006, "Connection lost")
    await within(router.close())
    assert connection.closes == [(1006, "Connection lost")]


@pytest.mark.parametrize("target", ["/echo/000/abc/websocket", "/echo/websocket"], ids=["sockjs", "raw"])
@pytest.mark.parametrize("count", [1, 1000, 20_000])
async def test_frames_in_the_packet_of_the_handshake_are_not_lost_over_tls(
    serve: Serve,
    connect: Connect,
    target: str,
    count: int,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    journal = Journal()
    client = await connect(await serve(SockJSRouter(journal, "/echo"), ssl_options=server_tls), tls=client_tls)
    messages = [f"message {number}" for number in range(count)]
    quote = (lambda message: message) if target == "/echo/websocket" else json.dumps
    first = b"".join(frame(TEXT, quote(message)) for message in messages)
    await WebSocket.open(client, target, first=first)
    connection = await journal.connection()
    assert [await connection.message() for _ in messages] == messages


@pytest.mark.parametrize("transport", STREAMING)
async def test_an_old_client_reads_a_stream_to_its_end_over_tls(
    serve: Serve, connect: Connect, transport: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    journal = Journal()
    server = await serve(SockJSRouter(journal, "/echo", {"response_limit": 1000}), ssl_options=server_tls)
    client = await connect(server, tls=client_tls)
    client.write(asking(transport, "/echo/000/abc", version="HTTP/1.0"))
    await client.head()
    (await journal.connection()).send("x" * 2_000_000)
    assert b"x" * 2_000_000 in await client.rest()


async def test_a_form_is_taken_over_tls(
    serve: Serve, connect: Connect, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    client = await connect(await serve(SockJSRouter(Echo, "/echo"), ssl_options=server_tls), tls=client_tls)
    await client.ask("GET", "/echo/000/abc/jsonp?c=cb")
    response = await client.ask("POST", "/echo/000/abc/jsonp_send", FORM, body=b"d=%5B%22x%22%5D")
    assert response.text == "ok"
    assert (await client.ask("GET", "/echo/000/abc/jsonp?c=cb")).body == b'/**/cb("a[\\"x\\"]");\r\n'
