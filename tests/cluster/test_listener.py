"""The private listener: the addresses it may listen on, and the requests it accepts."""

import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from application import Echo
from client import Client, Response, within
from free_ports import free_port

from sockjs_tornado import SockJSRouter
from sockjs_tornado.cluster.listener import RPC_PATH, Listener, is_private, open_sockets, split_address
from sockjs_tornado.cluster.ownership import Location
from sockjs_tornado.cluster.signing import RELAY_HEADER, RelayedClient, Signer
from sockjs_tornado.exceptions import ClusterError, ConfigurationError

SECRET = b"a secret of 16 bytes"
CALLER = RelayedClient("192.0.2.1", 5, True)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://10.0.0.5:9001", "10.0.0.5", 9001),
        ("http://10.0.0.5:9001/", "10.0.0.5", 9001),
        ("10.0.0.5:9001", "10.0.0.5", 9001),
        ("[::1]:9001", "::1", 9001),
        ("http://Node-1.internal:65535", "node-1.internal", 65535),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert split_address("listen", text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        *("", "http://", "10.0.0.5", "http://10.0.0.5", "http://10.0.0.5:0", "http://10.0.0.5:70000", ":9001"),
        *("https://10.0.0.5:9001", "http://10.0.0.5:9001/x", "http://a:b@10.0.0.5:9001", "http://10.0.0.5:9001?x"),
        *("http://10.0.0.5:9001#x", "http://[::1:9001", "http://10.0.0.5:port", "http://:p@10.0.0.5:9001", None, 9001),
    ],
)
def test_invalid_addresses(text: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^advertise: got .* expected a host and a port"):
        split_address("advertise", text)


@pytest.mark.parametrize(
    "ip", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "::1", "fd00::1", "fe80::1%eth0"]
)
def test_private_addresses(ip: str) -> None:
    assert is_private(ip)


@pytest.mark.parametrize("ip", ["0.0.0.0", "::", "8.8.8.8", "2001:4860:4860::8888", "172.32.0.1"])
def test_public_addresses(ip: str) -> None:
    assert not is_private(ip)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.3.4.5"])
def test_listening(host: str) -> None:
    sockets = open_sockets(host, free_port(), False)
    for sock in sockets:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        sock.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_public_address_must_be_allowed(host: str) -> None:
    port = free_port()
    with pytest.raises(ConfigurationError, match=r"^listen: .* set allow_public_listener=True"):
        open_sockets(host, port, False)
    # The sockets were closed.
    for sock in open_sockets(host, port, True):
        sock.close()


@pytest.mark.parametrize("host", ["name.invalid", "8.8.8.8", "203.0.113.1"])
def test_an_address_of_another_host(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^listen: (cannot resolve|.* is not an address)"):
        open_sockets(host, free_port(), True)


def test_a_port_in_use() -> None:
    (taken,) = open_sockets("127.0.0.1", free_port(), False)
    port = taken.getsockname()[1]
    with taken, pytest.raises(ClusterError, match=f"cannot listen on 127.0.0.1:{port} for other nodes: "):
        open_sockets("127.0.0.1", port, False)


class Here:
    """A relay without other nodes."""

    def owns(self, session_id: str) -> bool:
        return True

    def serve(self, endpoint: Any, exchange: Any) -> Any:
        raise AssertionError(Location.HERE)

    async def handoff_clients(self) -> None:
        pass


class Running:
    """A running listener."""

    def __init__(self) -> None:
        self.stats: Counter[str] = Counter()
        self.listener = Listener("b", Signer(SECRET, "b"), self.stats)
        self.router = SockJSRouter(Echo, "/echo", {"max_message_size": 1000})
        self.router.relay = Here()
        self.other = SockJSRouter(Echo, "/other")
        self.signer = Signer(SECRET, "a")
        self.port = 0

    async def start(self) -> None:
        """Start listening."""
        for router in (self.router, self.other):
            self.listener.add(router.endpoints)
        sockets = open_sockets("127.0.0.1", free_port(), False)
        self.port = sockets[0].getsockname()[1]
        await self.listener.start(sockets, 1001)

    async def ask(self, method: str, uri: str, *fields: str, body: bytes | None = None, **more: Any) -> Response:
        """Send a request on a new connection."""
        client = await Client.connect(self.port)
        try:
            return await client.ask(method, uri, *fields, body=body, **more)
        finally:
            client.writer.transport.abort()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()

    def sign(self, method: str, uri: str, body: bytes = b"", to: str = "b") -> str:
        """Return a header field."""
        return f"{RELAY_HEADER}: {self.signer.sign(to, method, uri, body, CALLER)}"


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """Return a running listener."""
    made = Running()
    await made.start()
    yield made
    await within(made.listener.close())
    for router in (made.router, made.other):
        for session in router.container:
            session.check(session.due)
        closing = router.close()
        await within(closing)


SESSION = "/echo/000/abc/xhr"


async def test_a_signed_request_is_served(running: Running) -> None:
    response = await running.ask("POST", SESSION, running.sign("POST", SESSION), body=b"")
    assert (response.status, response.body) == (200, b"o\n")
    (session,) = running.router.container
    info = session.conn_info
    assert (info.ip, info.port) == ("192.0.2.1", 5)
    # The request says that the client uses TLS.
    assert "secure" in response["Set-Cookie"].lower()
    uri = SESSION.replace("xhr", "xhr_send")
    response = await running.ask("POST", uri, running.sign("POST", uri, b"[]"), body=b"[]")
    assert response.status == 204
    assert not running.stats
    # The application is that of the clients.
    assert running.router.application is None


@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS", "HEAD", "PUT", "FOO"])
@pytest.mark.parametrize("uri", [SESSION, "/echo/000/abc/xhr_send", "/echo/000/abc/jsonp?c=cb", f"{RPC_PATH}upper"])
async def test_an_unsigned_request_is_rejected(running: Running, method: str, uri: str) -> None:
    response = await running.ask(method, uri, body=b"")
    if uri.startswith("/-/") and method == "FOO":
        assert response.status == 405
    else:
        assert (response.status, response[RELAY_HEADER]) == (403, "forged")
        assert running.stats == {"relay_forged": 1}
    assert len(running.router.container) == 0


@pytest.mark.parametrize(
    "field",
    [
        f"{RELAY_HEADER}: 1 2 3",
        f"{RELAY_HEADER}:",
        f"{RELAY_HEADER}: \xff\xe9",
        f"{RELAY_HEADER}: {'x ' * 5000}",
        f"{RELAY_HEADER}: {Signer(b'another secret here', 'a').sign('b', 'POST', SESSION, b'', CALLER)}",
        f"{RELAY_HEADER}: {Signer(SECRET, 'a').sign('b', 'POST', SESSION, b'x', CALLER)}",
        f"{RELAY_HEADER}: {Signer(SECRET, 'a').sign('b', 'POST', SESSION + '?', b'', CALLER)}",
    ],
)
async def test_an_invalid_signature_is_rejected(running: Running, field: str) -> None:
    response = await running.ask("POST", SESSION, field, body=b"")
    assert (response.status, response[RELAY_HEADER], response.body) == (403, "forged", b"")
    assert running.stats == {"relay_forged": 1}


async def test_a_replayed_signature_is_rejected(running: Running) -> None:
    field = running.sign("POST", SESSION)
    assert (await running.ask("POST", SESSION, field, field, body=b"")).status == 403
    assert (await running.ask("POST", SESSION, field, body=b"")).status == 200
    response = await running.ask("POST", SESSION, field, body=b"")
    assert (response.status, response[RELAY_HEADER]) == (403, "replayed")
    running.signer._now = lambda: 5.0
    assert (await running.ask("POST", SESSION, running.sign("POST", SESSION), body=b""))[RELAY_HEADER] == "stale"
    assert running.stats == {"relay_forged": 1, "relay_replayed": 1, "relay_stale": 1}


async def test_a_request_for_another_node_is_rejected(running: Running) -> None:
    response = await running.ask("POST", SESSION, running.sign("POST", SESSION, to="c"), body=b"")
    assert (response.status, response[RELAY_HEADER]) == (421, "misdirected")


async def test_remote_calls(running: Running) -> None:
    running.listener.rpcs["upper"] = bytes.upper
    for name, body, answer in [("upper", b"x", (200, b"X")), ("upper", b"", (200, b"")), ("lower", b"x", (404, b""))]:
        response = await running.ask("POST", RPC_PATH + name, running.sign("POST", RPC_PATH + name, body), body=body)
        assert (response.status, response.body) == answer
        assert response.all(RELAY_HEADER) == (["b"] if response.status == 200 else [])


@pytest.mark.parametrize("uri", ["/", "/echo", "/echo/info", "/echo/websocket", "/echo/000/abc/websocket", "/x"])
async def test_only_sessions_are_served(running: Running, uri: str) -> None:
    assert (await running.ask("GET", uri, running.sign("GET", uri))).status == 404


async def test_several_routers(running: Running) -> None:
    for prefix in ("/echo", "/other"):
        uri = f"{prefix}/000/abc/xhr"
        response = await running.ask("POST", uri, running.sign("POST", uri), body=b"", host="any.example:8080")
        assert response.body == b"o\n"


async def test_an_http_1_0_client(running: Running) -> None:
    field = running.sign("POST", SESSION)
    response = await running.ask("POST", SESSION, field, body=b"", version="HTTP/1.0")
    assert (response.status, response["Connection"]) == (200, "close")


async def test_closing_twice(running: Running) -> None:
    await within(running.listener.close())
    with pytest.raises(ConnectionRefusedError):
        await Client.connect(running.port)
    await within(Listener("c", running.signer, running.stats).close())
