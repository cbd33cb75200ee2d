"""A node's private listener: the requests it accepts."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from application import Echo
from client import Client, Response, request, within
from free_ports import free_port

from sockjs_tornado import SockJSRouter
from sockjs_tornado.cluster.membership import open_sockets
from sockjs_tornado.cluster.node import RPC_PATH, Node
from sockjs_tornado.cluster.ownership import Location, Owner, Ownership
from sockjs_tornado.cluster.secret import Secrets
from sockjs_tornado.cluster.signing import RELAY_HEADER, RelayedClient, Signer

SECRET = Secrets(b"a secret of 16 bytes")
CALLER = RelayedClient("192.0.2.1", 5, True)


class Here(Ownership):
    """All sessions are on this node."""

    opens_relayed_sessions = True

    def owns(self, key: str) -> bool:
        return True

    async def locate(self, key: str) -> Owner | Location:
        raise AssertionError


class Running:
    """A running node."""

    def __init__(self) -> None:
        self.stats: Counter[str] = Counter()
        self.node = Node(Owner("b", ""), SECRET, Here(), self.stats, False)
        self.router = SockJSRouter(Echo, "/echo", {"max_message_size": 1000})
        self.other = SockJSRouter(Echo, "/other")
        cookie: Any = lambda request: f"client={request.protocol}:{request.remote_ip}"  # noqa: E731
        self.third = SockJSRouter(Echo, "/third", {"jsessionid": cookie})
        self.signer = Signer(SECRET, "a")
        self.port = 0

    async def start(self) -> None:
        """Start listening."""
        for router in (self.router, self.other, self.third):
            self.node.add(router)
        sockets = open_sockets("127.0.0.1", free_port(), False)
        self.port = sockets[0].getsockname()[1]
        await self.node.start(sockets)

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
    """Return a running node."""
    made = Running()
    await made.start()
    yield made
    await within(made.node.close())
    for router in (made.router, made.other, made.third):
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
        f"{RELAY_HEADER}: {Signer(Secrets(b'another secret here'), 'a').sign('b', 'POST', SESSION, b'', CALLER)}",
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


async def test_a_repeated_signature_is_rejected_on_the_same_connection(running: Running) -> None:
    """Elsewhere, C serves requests that repeat a head."""
    uri = "/echo/000/abc/xhr_send"
    await running.ask("POST", SESSION, running.sign("POST", SESSION), body=b"")
    client = await Client.connect(running.port)
    try:
        fields = [running.sign("POST", uri, b'["a"]') for _ in range(3)]
        found = [(await client.ask("POST", uri, field, body=b'["a"]')).status for field in [*fields, fields[1]]]
        assert found == [204, 204, 204, 403]
        assert (await client.ask("POST", uri, fields[2], body=b'["b"]')).status == 403
        assert running.stats == {"relay_replayed": 1, "relay_forged": 1}
    finally:
        client.writer.transport.abort()


async def test_a_body_may_follow_its_head(running: Running) -> None:
    fields = ("Expect: 100-continue", running.sign("POST", SESSION, b"body"))
    client = await Client.connect(running.port)
    try:
        client.write(request("POST", SESSION, *fields, body=b"body").removesuffix(b"body"))
        assert (await client.head()).status == 100
        client.write(b"body")
        assert (await client.response()).body == b"o\n"
    finally:
        client.writer.transport.abort()


async def test_the_application_sees_the_client(running: Running) -> None:
    """It chooses the cookie by a request of Tornado."""
    uri = "/third/000/abc/xhr"
    response = await running.ask("POST", uri, running.sign("POST", uri), body=b"")
    assert response["Set-Cookie"] == "client=https:192.0.2.1"


async def test_a_request_for_another_node_is_rejected(running: Running) -> None:
    response = await running.ask("POST", SESSION, running.sign("POST", SESSION, to="c"), body=b"")
    assert (response.status, response[RELAY_HEADER]) == (421, "misdirected")


async def test_remote_calls(running: Running) -> None:
    running.node.rpcs["upper"] = bytes.upper
    for name, body, answer in [("upper", b"x", (200, b"X")), ("upper", b"", (200, b"")), ("lower", b"x", (404, b""))]:
        response = await running.ask("POST", RPC_PATH + name, running.sign("POST", RPC_PATH + name, body), body=body)
        assert (response.status, response.body) == answer
        assert response.all(RELAY_HEADER) == ["b"]


@pytest.mark.parametrize("uri", ["/", "/echo", "/echo/info", "/echo/websocket", "/echo/000/abc/websocket", "/x"])
async def test_only_sessions_are_served(running: Running, uri: str) -> None:
    assert (await running.ask("GET", uri, running.sign("GET", uri))).status == 421


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
    await within(running.node.close())
    with pytest.raises(ConnectionRefusedError):
        await Client.connect(running.port)
    await within(running.node.close())
    await within(Node(Owner("c", ""), SECRET, Here(), running.stats, False).close())
