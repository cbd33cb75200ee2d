"""The option ``ssl_context``: it is used for each connection, or its use is refused."""

import asyncio
import logging
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from application import Echo, Serve
from client import until, within
from http_proxies import HttpProxy

from sockjs_tornado import SockJSRouter
from sockjs_tornado.client import ConnectError, connect

from .conftest import Dial
from .test_fallback import works


@pytest.fixture
def context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """Return the context of a client that trusts the server."""
    return ssl.create_default_context(cafile=str(certificate[0]))


@pytest.mark.parametrize("has_proxy", [False, True])
async def test_the_context_is_used(
    serve: Serve,
    http_proxy: HttpProxy,
    dial: Dial,
    context: ssl.SSLContext,
    server_tls: ssl.SSLContext,
    certificate: tuple[Path, Path],
    has_proxy: bool,
) -> None:
    """For /info and the websocket, with its client certificate."""
    server_tls.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*certificate)
    server = await serve(SockJSRouter(Echo, "/echo"), ssl_options=server_tls)
    more: dict[str, Any] = {"proxy": http_proxy.url} if has_proxy else {}
    client = await dial(server, host="localhost", scheme="https", ssl_context=context, **more)
    assert client.transport == "websocket"
    await works(client)
    assert http_proxy.targets == [f"CONNECT localhost:{server.port}"] * 2 * has_proxy


async def test_the_context_decides_what_is_trusted(
    monkeypatch: pytest.MonkeyPatch, serve: Serve, dial: Dial, context: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    # Both sides log that a handshake has failed, the server perhaps after the test.
    monkeypatch.setattr(logging.getLogger("tornado.general"), "disabled", True)
    server = await serve(SockJSRouter(Echo, "/echo"), ssl_options=server_tls)
    with pytest.raises(
        ConnectError,
        match=r"/info: .*CERTIFICATE_VERIFY_FAILED.*self-signed certificate.* with ssl_context\.load_verify",
    ):
        await dial(server, host="localhost", scheme="https", ssl_context=ssl.create_default_context())
    with pytest.raises(ConnectError, match=r"/info: .*IP address mismatch"):
        await dial(server, scheme="https", ssl_context=context)
    context.check_hostname = False
    await works(await dial(server, scheme="https", ssl_context=context))


async def test_http_transports_say_that_they_cannot_use_it(
    serve: Serve, dial: Dial, context: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    router = SockJSRouter(Echo, "/echo", transports=["xhr", "xhr_streaming"])
    server = await serve(router, ssl_options=server_tls)
    with pytest.raises(ConnectError) as caught:
        await dial(server, "websocket", "xhr", host="localhost", scheme="https", ssl_context=context)
    reason = "not possible with ssl_context, only websocket is"
    assert caught.value.failures == {"websocket": "the server has websockets disabled", "xhr": reason}


async def test_a_proxy_must_leave_the_tunnel_to_tls(
    serve: Serve, http_proxy: HttpProxy, dial: Dial, context: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    http_proxy.extra = b"not TLS"
    server = await serve(SockJSRouter(Echo, "/echo"), ssl_options=server_tls)
    with pytest.raises(
        ConnectError,
        match=r"/info: the proxy has sent data through the tunnel before TLS has begun\. The proxy does not",
    ):
        await dial(server, host="localhost", scheme="https", ssl_context=context, proxy=http_proxy.url)


async def test_a_proxy_that_does_not_respond_is_left(http_proxy: HttpProxy, context: ssl.SSLContext) -> None:
    http_proxy.refusal = 0
    connecting = asyncio.ensure_future(connect("https://localhost:1/echo", ssl_context=context, proxy=http_proxy.url))
    await until(lambda: http_proxy.targets)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    await within(http_proxy.was_left.wait())


@pytest.mark.parametrize("proxy", [None, f"http://{'b' * 70}.example"])
async def test_a_host_that_is_no_name_is_reported(context: ssl.SSLContext, proxy: str | None) -> None:
    with pytest.raises(ConnectError, match=r"/info: .*too long"):
        await within(connect(f"https://{'a' * 70}.example/echo", ssl_context=context, proxy=proxy))


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("response", "failures"),
    [
        (b"", {"info": "the response is not valid HTTP (RemoteDisconnected)"}),
        (b"SSH-2.0\r\n", {"info": "the response is not valid HTTP (BadStatusLine)"}),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", {"info": "status 404"}),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 65537, {"info": "the response is larger than 65536 bytes"}),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 200_000, {"info": "the response is larger than 65536 bytes"}),
        # This is a response; the next connection is for the websocket.
        (CHUNKED, None),
    ],
)
async def test_the_response_to_info_is_read(
    context: ssl.SSLContext, server_tls: ssl.SSLContext, response: bytes, failures: Any
) -> None:
    heads: list[bytes] = []

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response)
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0, ssl=server_tls)
    url = f"https://user:password@localhost:{server.sockets[0].getsockname()[1]}/echo?a=b"
    try:
        with pytest.raises(ConnectError) as caught:
            await within(connect(url, ssl_context=context, headers={"X": "y"}, transport_timeout=20))
    finally:
        server.close()
    if failures is None:
        assert "info" not in caught.value.failures
    else:
        assert caught.value.failures == failures
    head = heads[0].decode().split("\r\n")
    assert head[0] == "GET /echo/info?a=b HTTP/1.1"
    assert {"X: y", "Authorization: Basic dXNlcjpwYXNzd29yZA==", "Connection: close"} <= set(head)


async def test_a_response_to_info_without_tls_is_refused(
    context: ssl.SSLContext, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection has been taken over after the handshake."""
    monkeypatch.setattr(logging.getLogger("tornado.general"), "disabled", True)

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        os.write(writer.get_extra_info("socket").fileno(), b"HTTP/1.1 200 OK\r\n\r\n{}")
        writer.transport.abort()

    server = await asyncio.start_server(respond, "127.0.0.1", 0, ssl=server_tls)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}/echo"
    try:
        with pytest.raises(ConnectError, match=r"/info: \[SSL"):
            await within(connect(url, ssl_context=context))
    finally:
        server.close()
