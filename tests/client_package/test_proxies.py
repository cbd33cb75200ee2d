"""Proxies: of the environment, by CONNECT, with credentials, and what is said if they do not work."""

import asyncio
import base64
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from application import Echo, Serve
from client import within
from free_ports import free_port
from http_proxies import HttpProxy
from programs import TIMEOUT

from sockjs_tornado import SockJSRouter
from sockjs_tornado.client import TRANSPORTS, ConfigurationError, ConnectError, connect
from sockjs_tornado.client.proxies import Proxy, find_proxy
from sockjs_tornado.client.service_url import ServiceURL
from sockjs_tornado.client.tunnel import TunnelClient, TunnelError

from .conftest import Dial, Stub, status
from .test_fallback import works

each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


@each_transport
async def test_all_transports_go_through_a_proxy(
    serve: Serve, http_proxy: HttpProxy, dial: Dial, transport: str
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    client = await dial(server, transport, proxy=http_proxy.url)
    await works(client)
    base = f"http://127.0.0.1:{server.port}/echo"
    assert http_proxy.targets[0] == f"GET {base}/info"
    if transport == "websocket":
        assert http_proxy.targets[1:] == [f"CONNECT 127.0.0.1:{server.port}"]
    else:
        assert all(target.partition(" ")[2].startswith(f"{base}/") for target in http_proxy.targets)


@each_transport
async def test_tls_goes_through_a_tunnel(
    serve: Serve,
    http_proxy: HttpProxy,
    dial: Dial,
    certificate: tuple[Path, Path],
    server_tls: ssl.SSLContext,
    transport: str,
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"), ssl_options=server_tls)
    options: dict[str, Any] = {"ca_file": certificate[0], "proxy": http_proxy.url, "scheme": "https"}
    await works(await dial(server, transport, host="localhost", **options))
    assert set(http_proxy.targets) == {f"CONNECT localhost:{server.port}"}
    # The proxy cannot replace the server: its name is verified.
    with pytest.raises(ConnectError):
        await dial(server, transport, host="127.0.0.1", **options)


@each_transport
async def test_credentials_are_sent_to_the_proxy_alone(
    serve: Serve, http_proxy: HttpProxy, dial: Dial, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = await serve(SockJSRouter(Echo, "/echo"))
    url = http_proxy.url.replace("://", "://us%40er:pass%3Aphrase@")
    client = await dial(server, transport, proxy=url)
    await works(client)
    expected = "Basic " + base64.b64encode(b"us@er:pass:phrase").decode()
    assert set(http_proxy.authorizations) == {expected}
    # Neither in the log nor in what a traceback with variables would show.
    connector = connect("http://user:pass%3Aphrase@127.0.0.1/", proxy=url)
    shown = caplog.text + repr(client) + repr((connector.options, connector.options.proxy, connector.service))
    assert "phrase" not in shown
    assert expected.partition(" ")[2] not in shown


@each_transport
async def test_the_environment_names_a_proxy(
    serve: Serve, http_proxy: HttpProxy, dial: Dial, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    monkeypatch.setenv("http_proxy", http_proxy.url)
    client = await dial(server, transport)
    await works(client)
    await within(client.close())
    count = len(http_proxy.targets)
    assert count >= 2
    await works(await dial(server, transport, proxy=None))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    await works(await dial(server, transport))
    assert len(http_proxy.targets) == count
    # A proxy that is given is used for all hosts.
    await works(await dial(server, transport, proxy=http_proxy.url))
    assert len(http_proxy.targets) > count


async def test_a_proxy_without_tunnels_leaves_http(serve: Serve, http_proxy: HttpProxy, dial: Dial) -> None:
    http_proxy.refusal = 403
    server = await serve(SockJSRouter(Echo, "/echo"))
    client = await dial(server, proxy=http_proxy.url)
    assert client.transport == "xhr_streaming"
    reason = f"the proxy refuses a tunnel to port {server.port} (status 403)"
    assert client.failures == {"websocket": reason}
    await works(client)
    http_proxy.refusal = 407
    with pytest.raises(ConnectError, match=r'\(status 407\)\. The proxy requires other credentials: proxy="http:'):
        await dial(server, "websocket", proxy=http_proxy.url)
    # A request for a service with TLS is refused, too.
    with pytest.raises(ConnectError, match=r'response 407\. The proxy requires other credentials: proxy="http:'):
        await dial(server, scheme="https", proxy=http_proxy.url)


async def test_a_proxy_may_require_other_credentials_for_http(
    stub: Callable[..., Awaitable[Stub]], http_proxy: HttpProxy, dial: Dial
) -> None:
    server = await stub(status(407))  # the proxy forwards it as its own
    with pytest.raises(ConnectError, match=r"/info: status 407\. The proxy requires other credentials: "):
        await dial(server, "xhr", proxy=http_proxy.url)


async def test_an_https_proxy_is_trusted_as_python_trusts(
    serve: Serve,
    http_proxy: HttpProxy,
    dial: Dial,
    certificate: tuple[Path, Path],
    server_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also by a file alone, without a directory."""
    server = await serve(SockJSRouter(Echo, "/echo"))
    paths = ssl.get_default_verify_paths()._replace(cafile=str(certificate[0]), capath=None)  # type: ignore[arg-type]
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    tls = await asyncio.start_server(http_proxy.serve, "127.0.0.1", 0, ssl=server_tls)
    try:
        port = tls.sockets[0].getsockname()[1]
        client = await dial(server, "xhr", proxy=f"https://localhost:{port}")
        await works(client)
        await within(client.close())
    finally:
        tls.close()
    assert http_proxy.targets[0] == f"GET http://127.0.0.1:{server.port}/echo/info"


async def test_a_proxy_that_does_not_respond_is_left(serve: Serve, http_proxy: HttpProxy, dial: Dial) -> None:
    http_proxy.refusal = 0
    server = await serve(SockJSRouter(Echo, "/echo"))
    client = await dial(server, "websocket", "xhr", proxy=http_proxy.url, transport_timeout=1)
    assert client.transport == "xhr"
    assert client.failures["websocket"].startswith("not open within ")
    await within(http_proxy.was_left.wait())


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
async def test_a_proxy_that_is_not_there(serve: Serve, dial: Dial, scheme: str) -> None:
    server = await serve(SockJSRouter(Echo, "/echo"))
    with pytest.raises(ConnectError, match=r"/info: .*connect"):
        await dial(server, "websocket", proxy=f"{scheme}://user:hidden@127.0.0.1:{free_port()}")


async def test_the_variable_of_the_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("all_proxy", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ConnectError) as caught:
        await connect("http://127.0.0.1:1/echo")
    assert "check the variable all_proxy, and whether" in caught.value.advice


@pytest.mark.parametrize(
    ("scheme", "response", "advice"),
    [
        (
            "http",
            None,
            "The proxy {url} does not respond as expected, or it cannot reach the server: check the argument",
        ),
        ("http", b"", "The proxy {url} does not respond as expected"),
        ("https", b"HTTP/1.1 400 Bad Request\r\n\r\n", "The proxy {url} does not respond as expected"),
        ("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n", "The proxy does not respond with SOCKS"),
    ],
)
async def test_a_proxy_that_is_no_such_proxy_is_suspected(scheme: str, response: bytes | None, advice: str) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(3)
        writer.write(response or b"")
        writer.close()

    listener = socket.create_server(("127.0.0.1", 0))
    # Without a server, connections are accepted by the kernel, and there is no response.
    server = None if response is None else await asyncio.start_server(respond, sock=listener)
    url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with pytest.raises(ConnectError) as caught:
            await connect("http://127.0.0.1:1/echo", proxy=url, open_timeout=0.2 if server is None else TIMEOUT)
    finally:
        if server is None:
            listener.close()
        else:
            server.close()
    assert caught.value.advice.startswith(advice.format(url=url))
    assert ".. " not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("http://proxy:3128", ("http://proxy:3128", "http", "proxy", 3128, None, None, "")),
        ("proxy", ("http://proxy:1080", "http", "proxy", 1080, None, None, "")),
        ("proxy:3128/", ("http://proxy:3128", "http", "proxy", 3128, None, None, "")),
        ("us%3Aer:p%40ss@[::1]:1", ("http://[::1]:1", "http", "::1", 1, "us:er", "p@ss", "")),
        ("https://a@proxy", ("https://proxy:443", "https", "proxy", 443, "a", None, "")),
        ("socks5h://proxy", ("socks5h://proxy:1080", "socks5h", "proxy", 1080, None, None, "")),
    ],
)
def test_the_url_of_a_proxy_is_parsed(url: str, parsed: Any) -> None:
    assert Proxy.parse(url) == parsed


@pytest.mark.parametrize(
    ("scheme", "environment", "found"),
    [
        ("http", {}, None),
        ("http", {"http_proxy": "a"}, "http_proxy"),
        ("http", {"http_proxy": "", "all_proxy": "a"}, "all_proxy"),
        # A client of a CGI program sets this one, by the header field Proxy.
        ("http", {"HTTP_PROXY": "a"}, None),
        ("http", {"https_proxy": "a"}, None),
        ("https", {"http_proxy": "a"}, None),
        ("https", {"https_proxy": "a", "ALL_PROXY": "b"}, "https_proxy"),
        ("https", {"HTTPS_PROXY": "a"}, "HTTPS_PROXY"),
        ("https", {"ALL_PROXY": "a"}, "ALL_PROXY"),
    ],
)
def test_the_environment_s_variables(scheme: str, environment: dict[str, str], found: str | None) -> None:
    proxy = find_proxy(scheme, "host", environment)
    assert (proxy and proxy.variable) == found


@pytest.mark.parametrize(
    ("host", "no_proxy", "excluded"),
    [
        ("a.example", "a.example", True),
        ("A.Example.", "a.example", True),
        ("b.a.example", ".a.example , other", True),
        ("a.example", ".a.example", True),
        ("ba.example", "a.example", False),
        ("a.example", "*", True),
        ("a.example", "other a.example", True),
        ("a.example", "", False),
        ("a.example", ".", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8,11.1.2.4", False),
        ("10.1.2.3", "2.3,10.1.2.3", True),
        ("10.1.2.3", "2.3,a.example", False),
        ("::1", "[::1]", True),
        ("fd00::5", "fd00::/8", True),
    ],
)
def test_hosts_without_a_proxy(host: str, no_proxy: str, excluded: bool) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        proxy = find_proxy("http", host, {"http_proxy": "proxy", name: no_proxy})
        assert (proxy is None) == excluded


def test_an_invalid_variable_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:hidden@proxy:x")
    with pytest.raises(ConfigurationError, match=r"^https_proxy: expected a URL such as") as caught:
        connect("https://host/")
    assert "hidden" not in str(caught.value)
    connect("http://host/")
    assert repr(ServiceURL.parse("http://user:hidden@host/?hidden")) == "<ServiceURL http://host>"


async def test_websockets_need_an_http_proxy(serve: Serve, http_proxy: HttpProxy, dial: Dial) -> None:
    with pytest.raises(TunnelError, match="not supported through a proxy with socks5h://"):
        await within(TunnelClient(Proxy.parse("socks5h://127.0.0.1:1")).connect("127.0.0.1", 1))
    port = free_port()
    with pytest.raises(TunnelError, match=f"cannot connect to the proxy http://127.0.0.1:{port}: .*refused"):
        await within(TunnelClient(Proxy.parse(f"127.0.0.1:{port}")).connect("127.0.0.1", 1))


@pytest.mark.parametrize("has_context", [False, True])
async def test_a_tls_handshake_in_a_tunnel_can_be_cancelled(has_context: bool) -> None:
    is_waiting = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        # The first byte of the handshake.
        await reader.read(1)
        is_waiting.set()
        await reader.read()
        was_left.set()
        writer.close()

    was_left = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    context = ssl.create_default_context()
    client = TunnelClient(Proxy.parse(url))
    connecting: asyncio.Future[object]
    if has_context:
        connecting = asyncio.ensure_future(connect("https://localhost:1/", ssl_context=context, proxy=url))
    else:
        connecting = asyncio.ensure_future(client.connect("localhost", 1, ssl_options=context))
    await within(is_waiting.wait())
    if has_context:
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(connecting)
    else:
        client.abort()
        with pytest.raises(OSError, match="EOF"):
            await within(connecting)
    await within(was_left.wait())
    server.close()
