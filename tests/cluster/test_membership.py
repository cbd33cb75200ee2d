"""The membership of a node: its address, its listener, and the keys it keeps in Redis."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from application import LogWatch
from client import until, within
from free_ports import free_port

from sockjs_tornado.cluster import membership as module
from sockjs_tornado.cluster import node as node_module
from sockjs_tornado.cluster.membership import is_private, open_sockets, split_address
from sockjs_tornado.exceptions import ClusterError, ClusterUnavailable, ConfigurationError
from sockjs_tornado.session.ended import ENDED_TIME

from .node import SECRET, Member
from .redis_server import RedisServer


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://10.0.0.5:9001", "10.0.0.5", 9001),
        ("http://10.0.0.5:9001/", "10.0.0.5", 9001),
        ("https://10.0.0.5:9001", "10.0.0.5", 9001),
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
        *("ftp://10.0.0.5:9001", "http://10.0.0.5:9001/x", "http://a:b@10.0.0.5:9001", "http://10.0.0.5:9001?x"),
        *("http://10.0.0.5:9001#x", "http://[::1:9001", "http://10.0.0.5:port", "http://:p@10.0.0.5:9001", None, 9001),
        *("http://a..b:9001", f"{'a' * 64}.b:9001"),
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
    with pytest.raises(ConfigurationError, match=r"^listen: .* or RedisCluster\(allow_public_listener=True\)$"):
        open_sockets(host, port, False)
    # The sockets were closed.
    for sock in open_sockets(host, port, True):
        sock.close()


@pytest.mark.parametrize("host", ["name.invalid", "8.8.8.8", "203.0.113.1"])
def test_an_address_of_another_host(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^listen: (cannot resolve|.* is not an address)"):
        open_sockets(host, free_port(), True)


def test_a_port_that_another_socket_uses() -> None:
    (taken,) = open_sockets("127.0.0.1", free_port(), False)
    port = taken.getsockname()[1]
    with taken, pytest.raises(ClusterError, match=f"cannot listen on 127.0.0.1:{port} for other nodes: "):
        open_sockets("127.0.0.1", port, False)


Make = Callable[..., Member]


@pytest.fixture
async def make(redis_server: RedisServer) -> AsyncIterator[Make]:
    """Return a function that creates members, which are closed after the test."""
    members = []

    def make_member(name: str, url: str = "", **options: Any) -> Member:
        members.append(member := Member(url or redis_server.url, name, **options))
        return member

    yield make_member
    for member in members:
        await within(member.close())


@pytest.mark.parametrize(
    ("address", "text"),
    [("203.0.113.1", "is not an address of this host"), ("8.8.8.8", "is a public address")],
)
async def test_an_error_names_the_argument_that_has_the_address_of_the_listener(
    make: Make, address: str, text: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^advertise: {address} {text}"):
        await within(make("a", advertise=f"http://{address}:9001").start())
    with pytest.raises(ConfigurationError, match=f"^listen: {address} {text}"):
        await within(make("b", listen=f"{address}:9001").start())


async def test_a_node_registers_its_address(make: Make, redis_server: RedisServer) -> None:
    a, b = make("a"), make("b")
    for member in (a, b):
        await within(member.start())
    key = f"test:address:{a.advertise}"
    assert redis_server.command("GET", key) == b"a"
    assert 25 < redis_server.command("TTL", key) <= 30
    await within(a.claims.claim("/chat:s", lambda: None))
    # With the key for nodes without an address.
    await until(lambda: redis_server.command("DBSIZE") == 4)
    assert 25 < redis_server.command("TTL", "test:address:") <= 30
    await within(a.close())
    # Its claims remain for a while, so that no other node opens its sessions.
    left = {f"test:address:{b.advertise}".encode(), b"test:address:", b"test:session:/chat:s"}
    await until(lambda: set(redis_server.command("KEYS", "*")) == left)
    assert 0 < redis_server.command("TTL", "test:session:/chat:s") <= ENDED_TIME
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(a.advertise.rpartition(":")[2]))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"advertise": "10.0.0.5"}, "advertise"),
        ({"advertise": "https://127.0.0.1:1"}, "advertise"),
        ({"advertise": "http://nöde:9001"}, "advertise"),
        ({"listen": "x:y"}, "listen"),
        ({"secret": None}, "secret"),
        ({"secret": "short"}, "secret"),
        ({"secret": "é" * 7}, "secret"),
        ({"secret": 12345678901234567890}, "secret"),
    ],
)
async def test_invalid_arguments(redis_server: RedisServer, options: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}: "):
        Member(redis_server.url, "a", **options)


@pytest.mark.parametrize("secret", ["é" * 8, b"x" * 16])
async def test_secrets(make: Make, secret: Any) -> None:
    await within(make("a", secret=secret).start())


async def test_ipv6(make: Make) -> None:
    port = free_port()
    a = make("a", advertise=f"http://[::1]:{port}")
    await within(a.start())
    assert a.claims._value("s").startswith(f"1 a http://[::1]:{port} ".encode())


async def test_a_public_listener(make: Make) -> None:
    port = free_port()
    with pytest.raises(ConfigurationError, match="allow_public_listener"):
        await within(make("a", port=port, listen=f"0.0.0.0:{port}").start())
    await within(make("a", port=port, listen=f"0.0.0.0:{port}", allow_public_listener=True).start())


async def test_a_port_in_use(make: Make, redis_server: RedisServer) -> None:
    a = make("a")
    await within(a.start())
    with pytest.raises(ClusterError, match="cannot listen on"):
        await within(make("b", advertise=a.advertise).start())
    assert redis_server.command("GET", f"test:address:{a.advertise}") == b"a"


async def test_two_nodes_with_one_address(make: Make, redis_server: RedisServer) -> None:
    a = make("a")
    await within(a.start())
    # It listens on another address, but finds the other node at the advertised one.
    listen = f"127.0.0.1:{free_port()}"
    with pytest.raises(ClusterError, match=f"Another node already advertises {a.advertise};"):
        await within(make("b", advertise=a.advertise, listen=listen).start())
    assert redis_server.command("KEYS", "test:address:http*") == [f"test:address:{a.advertise}".encode()]
    host, _, port = listen.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))


async def test_a_failed_start_can_be_repeated(make: Make, redis_server: RedisServer) -> None:
    a = make("a")
    await within(a.start())
    b = make("b", advertise=a.advertise, listen=f"127.0.0.1:{free_port()}")
    with pytest.raises(ClusterError, match="Another node"):
        await within(b.start())
    await within(a.close())
    port = int(a.advertise.rpartition(":")[2])
    b.membership._listen = ("127.0.0.1", port)
    await within(b.start())
    assert redis_server.command("GET", f"test:address:{a.advertise}") == b"b"


async def test_two_nodes_with_one_address_that_cannot_reach_each_other(
    make: Make, redis_server: RedisServer, logged: LogWatch
) -> None:
    """For example, because each host has that address itself."""
    a = make("a")
    await within(a.start())
    key = f"test:address:{a.advertise}"
    redis_server.command("SET", key, "b")
    a.membership.refresh()
    await until(lambda: logged.records)
    assert (
        logged.take("advertises").getMessage()
        == f"Another node (b) also advertises {a.advertise}. Give every node its own address."
    )
    # It does not delete the other node's registration.
    redis_server.command("SET", key, "b")
    await within(a.close())
    assert redis_server.command("GET", key) == b"b"


async def test_another_secret(make: Make) -> None:
    a = make("a")
    await within(a.start())
    options = {"advertise": a.advertise, "listen": f"127.0.0.1:{free_port()}", "secret": SECRET + "!"}
    with pytest.raises(ClusterError, match="is not a node of this cluster, or its secret differs"):
        await within(make("b", **options).start())
    assert a.stats == {"relay_forged": 1}


@pytest.mark.parametrize(
    "answer", [None, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nstream", b"no\r\n\r\n"]
)
async def test_another_server_at_the_address(make: Make, monkeypatch: pytest.MonkeyPatch, answer: bytes | None) -> None:
    monkeypatch.setattr(node_module, "CONNECT_TIMEOUT", 0.3)

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer:
            writer.write(answer)
        await reader.read(-1)
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    member = make("b", port=port, listen=f"127.0.0.1:{free_port()}")
    with pytest.raises(ClusterError, match="is not a node of this cluster"):
        await within(member.start())
    server.close()


async def test_the_address_of_a_dead_node(make: Make, redis_server: RedisServer) -> None:
    a = make("a")
    await within(a.start())
    await within(a.vanish())
    key = f"test:address:{a.advertise}"
    redis_server.command("SET", key, "a", "PX", 30_000)
    # A node that reaches itself there registers immediately.
    b = make("b", advertise=a.advertise)
    await within(b.start())
    assert redis_server.command("GET", key) == b"b"


async def test_the_address_of_a_dead_node_that_cannot_be_reached_from_here(
    make: Make, redis_server: RedisServer, logged: LogWatch
) -> None:
    advertise = f"http://127.0.0.1:{free_port()}"
    key = f"test:address:{advertise}"
    redis_server.command("SET", key, "a", "PX", 700)
    await within(make("b", advertise=advertise, listen=f"127.0.0.1:{free_port()}").start())
    assert redis_server.command("GET", key) == b"b"
    assert (
        logged.take("own advertise address")
        .getMessage()
        .startswith(f"Cannot connect to this node's own advertise address {advertise};")
    )


async def test_an_address_that_another_node_keeps(
    make: Make, redis_server: RedisServer, logged: LogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_INTERVAL", 0.05)
    advertise = f"http://127.0.0.1:{free_port()}"
    redis_server.command("SET", f"test:address:{advertise}", "a")
    monkeypatch.setattr(module, "CLAIM_TIME", 1)
    with pytest.raises(ClusterError, match=r"Another node \(a\) already advertises"):
        await within(make("b", advertise=advertise, listen=f"127.0.0.1:{free_port()}").start())
    logged.take("own advertise address")


async def test_without_redis(make: Make) -> None:
    member = make("a", url=f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(ClusterUnavailable):
        await within(member.start())
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(member.advertise.rpartition(":")[2]))


async def test_redis_is_lost_before_the_address_is_registered(
    make: Make, redis_server: RedisServer, logged: LogWatch
) -> None:
    member = make("a")
    await within(member.commands.start())
    redis_server.kill()
    await until(lambda: not member.commands.available)
    with pytest.raises(ClusterUnavailable):
        await within(member.membership.start())
    redis_server.start()
    logged.take("reconnecting")


async def test_the_keys_are_refreshed(make: Make, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFRESH_INTERVAL", 0.05)
    a = make("a")
    await within(a.start())
    await within(a.claims.claim("/chat:s", lambda: None))
    for _ in range(2):
        redis_server.command("FLUSHALL")
        await until(lambda: redis_server.command("DBSIZE") == 3)
    redis_server.command("PEXPIRE", "test:session:/chat:s", 900)
    await until(lambda: redis_server.command("TTL", "test:session:/chat:s") > 20)


async def test_redis_is_back(make: Make, redis_server: RedisServer, logged: LogWatch) -> None:
    """The claims are set again long before the next refresh."""
    a = make("a")
    await within(a.start())
    await within(a.claims.claim("/chat:s", lambda: None))
    redis_server.kill()
    # One refresh fails.
    a.membership.refresh()
    await until(lambda: not a.commands.available)
    redis_server.start()
    await until(lambda: redis_server.command("DBSIZE") == 3)
    assert redis_server.command("GET", f"test:address:{a.advertise}") == b"a"
    logged.take("reconnecting")


async def test_closing(make: Make) -> None:
    a = make("a")
    await within(a.start())
    for _ in range(2):
        await within(a.close())
    await within(make("b").close())


async def test_a_cancelled_start(make: Make) -> None:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        member = make("a", port=sock.getsockname()[1], listen=f"127.0.0.1:{(port := free_port())}")
        starting = asyncio.ensure_future(member.start())
        await until(lambda: len(member.membership.node.upstreams.all) == 1)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(starting)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
