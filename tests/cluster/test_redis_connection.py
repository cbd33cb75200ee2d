"""Connections to Redis: URLs, logins, TLS, servers that cannot be used and replies."""

import asyncio
import contextlib
import itertools
import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import redis
from application import LogWatch
from client import until, within
from free_ports import free_port, reserve_port
from programs import create_certificate

from sockjs_tornado.cluster import AsyncPublisher, Publisher, RedisCluster
from sockjs_tornado.cluster.commands import Commands
from sockjs_tornado.cluster.redis_connection import RedisConnection, RedisURL, pack_command
from sockjs_tornado.exceptions import ClusterError, ClusterUnavailable, ConfigurationError

from .redis_groups import running_sentinel
from .redis_server import RedisServer

URLS = [
    "",
    "localhost",
    "http://localhost",
    "redis://localhost:port",
    "redis://localhost:99999",
    "redis://localhost/zero",
    "redis://[::1",
    "redis://a..b/0",
    "unix://",
    "redis://localhost?protocol=3",
    "redis://localhost?decode_responses=1",
    "redis://localhost?client_name=a%20b",
    "redis://localhost?sentinel_password=a",
    "redis://a:1,b:2/0",
    "sentinel://a:1,b:2",
    "sentinel://a:1,b:2/main/zero",
    "sentinel://a:1,,b:2/main",
    "sentinel://a:1,b:port/main",
    "sentinel://a:1/main?ssl_certfile=x",
    "cluster://a:1,b:2/1",
    "cluster://a:1?db=1",
    "sentinelx://a:1/main",
    None,
    b"redis://localhost",
]


@pytest.mark.parametrize("url", URLS)
def test_invalid_urls_are_rejected(url: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^url: .*expected "):
        RedisURL(url)


#: A user and two parts of a password, which occur in no error message.
USER, FIRST, SECOND = "ann7xq", "s3crq", "9pwdz"


def urls_with_secrets() -> Iterator[str]:
    """Yield URLs with credentials in every place, with each special character unescaped in them."""
    hosts = {"redis": "127.0.0.1:1", "rediss": "127.0.0.1:1", "unix": "", "http": "localhost", "": "localhost"}
    hosts |= {"sentinel": "127.0.0.1:1,127.0.0.1:2", "cluster": "127.0.0.1:1,127.0.0.1:2"}
    for scheme, host in hosts.items():
        start = f"{scheme}://" if scheme else ""
        path = {"unix": "/missing.sock", "sentinel": "/main/0"}.get(scheme, "/0")
        # The others are split into the same parts.
        specials = (*"/#?@:&[", "@/", "?@", "..", "%2F") if scheme in ("redis", "rediss") else (",", "/", "@", "#")
        for special in specials:
            for password in (f"{FIRST}{special}{SECOND}", f"{special}{SECOND}", f"123{special}{SECOND}"):
                for user in (USER, ""):
                    yield f"{start}{user}:{password}@{host}{path}"
                yield f"{start}{password}@{host}{path}"
                yield f"{start}{host}{path}?password={password}"
                yield f"{start}{host}{path}?username={USER}&password={password}"
                yield f"{start}{host}{path}?ssl_password={password}"
                yield f"{start}{host}{path}?ssl_min_version={password}&ssl_cert_reqs={password}"
                yield f"{start}{host}{path}?db={password}"
                yield f"{start}{host}{path}?{password}"
                yield f"{start}{host}{path}#{password}"
        yield f"{start}{host}{path}?sentinel_username={USER}&sentinel_password={FIRST}"
        yield f"{start}{host}{path}?client_name={FIRST}%20{SECOND}"
        yield f"{start}{USER}:{FIRST}@{host}/zero"
        yield f"{start}{USER}:{FIRST}@{host}:port/0"
        yield f"{start}{USER}:{FIRST}@a..b{path}"
        # Without the host.
        yield f"{start}{USER}:{FIRST}"


async def test_no_error_contains_a_part_of_the_credentials_or_options(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To read the authorities of the system takes longer than everything else.
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", Mock())
    # One of them for each URL.
    users = itertools.cycle((RedisCluster, Publisher, AsyncPublisher))

    async def errors(url: str) -> AsyncIterator[BaseException]:
        for make in (RedisURL, next(users)):
            try:
                made: Any = make(url)
                # Nothing listens there, so that neither the server nor the user gets the credentials.
                if make is RedisURL:
                    await within(made.connect())
                elif make is Publisher:
                    made.publish("lobby", "x")
            except (ClusterError, ConfigurationError) as error:
                yield error

    caplog.set_level("DEBUG")
    found = 0
    for url in urls_with_secrets():
        async for error in errors(url):
            found += 1
            # The chain of exceptions, without the lines of their source.
            text = "".join(traceback.format_exception(error, limit=0)) + repr(error)
            assert not any(part in text for part in (USER, FIRST, SECOND)), (url, text)
    assert found > 1000
    assert not any(part in caplog.text for part in (USER, FIRST, SECOND))


def test_errors_show_the_rest_of_the_url_if_it_is_certain() -> None:
    with pytest.raises(ConfigurationError, match=r"got redis://\*\*\*@localhost/zero, the path is not the number"):
        RedisURL(f"redis://{USER}:{FIRST}@localhost/zero")
    with pytest.raises(ConfigurationError, match=r"got http://example.com, the scheme is not redis"):
        RedisURL("http://example.com")


@pytest.mark.parametrize("url", [f"redis://{USER}:12#{SECOND}@localhost", f"unix://{USER}:/{SECOND}@/redis.sock"])
def test_a_password_that_must_be_escaped_is_explained(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"percent-encode .* %2F"):
        RedisURL(url)
    assert RedisURL(f"redis://{USER}:12%23%2F%40@localhost").address == "localhost:6379"


@pytest.mark.parametrize("url", [f"{FIRST}://localhost".encode(), [f"redis://:{FIRST}@localhost"]])
def test_a_url_of_another_type_is_not_shown(url: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"got {type(url).__name__}") as raised:
        RedisURL(url)
    assert FIRST not in str(raised.value)


async def test_the_addresses_of_several_servers() -> None:
    url = RedisURL(f"sentinels://{USER}:1%2F,@a:1,b,[::1]:3/ma%20in/2?sentinel_username=x&sentinel_password=a%26b")
    assert url.parsed.addresses == [("a", 1), ("b", 26379), ("::1", 3)]
    assert (url.parsed.master, url.database, url.parsed.uses_tls) == ("ma in", 2, True)
    assert (url.parsed.username, url.parsed.password, url.parsed.sentinel_login) == (USER, "1/,", ("x", "a&b"))
    assert RedisURL("sentinel://a/main?sentinel_password=x").parsed.sentinel_login == ("x",)
    assert RedisURL("cluster://a,b:2").parsed.addresses == [("a", 6379), ("b", 2)]


async def test_the_name_of_connections(redis_server: RedisServer) -> None:
    def names() -> set[bytes]:
        clients: bytes = redis_server.command("CLIENT", "LIST")
        return {field for field in clients.split() if field.startswith(b"name=")} - {b"name="}

    async with RedisCluster(redis_server.url) as cluster:
        assert names() == {f"name=sockjs-{cluster.node_id}".encode()}
    async with (
        RedisCluster(redis_server.url, client_name="web-1"),
        AsyncPublisher(f"{redis_server.url}?client_name=job", client_name="other"),
    ):
        with Publisher(redis_server.url, client_name="cron") as publisher:
            publisher.publish("lobby", "x")
            assert names() == {b"name=web-1", b"name=job", b"name=cron"}
        # It is closed.
        await until(lambda: b"name=cron" not in names())
    for name in ("a b", "", "\u00e9", b"a", 5):
        with pytest.raises(ConfigurationError, match=r"^client_name: got "):
            RedisCluster(redis_server.url, client_name=name)  # type: ignore[arg-type]


async def ping(url: str) -> None:
    """Connect, and wait for the reply to a PING."""
    connection = await within(RedisURL(url).connect())
    await connection.send(pack_command(("PING",)))
    assert await within(connection.receive()) == b"PONG"
    connection.close()


async def connecting(url: str) -> str:
    """Return the error with which a connection cannot be opened."""
    with pytest.raises(ClusterError) as raised:
        await within(RedisURL(url).connect())
    return f"{type(raised.value).__name__}: {raised.value}"


def publishing(url: str) -> str:
    """Return the error of the blocking publisher."""
    with Publisher(url) as publisher, pytest.raises(ClusterError) as raised:
        publisher.publish("room", "x")
    return f"{type(raised.value).__name__}: {raised.value}"


async def test_connecting_fails_if_nothing_listens(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        text = await connecting(f"redis://127.0.0.1:{port}")
    assert text.startswith(f"ClusterUnavailable: Redis at 127.0.0.1:{port} does not respond: ")
    text = await connecting(f"unix://{tmp_path}/missing.sock")
    assert text.startswith(f"ClusterUnavailable: Redis at {tmp_path}/missing.sock does not respond: ")


async def test_connecting_fails_if_redis_does_not_respond(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockjs_tornado.cluster.redis_connection.TIMEOUT", 0.1)
    redis_server.freeze()
    assert (await connecting(redis_server.url)).endswith("does not respond: TimeoutError")


async def test_a_required_password(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "secret") as server:
        for login in ("", ":wrong@"):
            text = await connecting(server.url.replace("//", f"//{login}"))
            assert text.startswith(
                f"ClusterError: Redis at 127.0.0.1:{server.port} requires another user or password: "
            )
        await ping(server.url.replace("//", "//:secret@"))
        # It is taken for the user.
        url = server.url.replace("//", "//secret@")
        for text in (await connecting(url), publishing(url)):
            assert text.endswith("a password without a user follows a colon: redis://:password@host")
            assert "secret" not in text


async def test_a_password_that_redis_does_not_require(redis_server: RedisServer) -> None:
    url = redis_server.url.replace("//", "//:secret@")
    for text in (await connecting(url), publishing(url)):
        assert text.startswith(
            f"ClusterError: Redis at 127.0.0.1:{redis_server.port} requires no password, but the URL has one"
        )


async def test_a_redis_with_too_many_clients_is_unavailable(redis_server: RedisServer) -> None:
    connection = await within(RedisURL(redis_server.url).connect())
    redis_server.command("CONFIG", "SET", "maxclients", 1)
    # Redis closes the connection at once, so that its reply may not be received.
    text = await connecting(redis_server.url)
    beginning = f"ClusterUnavailable: Redis at 127.0.0.1:{redis_server.port} "
    assert text.startswith((f"{beginning}accepts no more connections: ERR max", f"{beginning}does not respond: "))
    connection.close()


async def test_a_user_with_a_password(redis_server: RedisServer) -> None:
    redis_server.command("ACL", "SETUSER", "ann", "on", ">p@ss/word", "+ping", "+hello")
    await ping(redis_server.url.replace("//", "//ann:p%40ss%2Fword@"))
    text = await connecting(redis_server.url.replace("//", "//ann:wrong@"))
    assert text.startswith(f"ClusterError: Redis at 127.0.0.1:{redis_server.port} requires another user or password: ")
    # A database other than 0 is selected, which this user may not.
    text = await connecting(redis_server.url.replace("//", "//ann:p%40ss%2Fword@").replace("/0", "/1"))
    assert "accepts the user, but does not permit a command: NOPERM" in text


async def test_a_database_and_a_unix_socket(redis_server: RedisServer) -> None:
    for number, url in enumerate((redis_server.url.replace("/0", "/3"), f"{redis_server.unix_url}?db=4"), 3):
        connection = await within(RedisURL(url).connect())
        await connection.send(pack_command(("CLIENT", "INFO")))
        assert f" db={number} ".encode() in await within(connection.receive())
        connection.close()
    assert RedisURL(redis_server.unix_url).address == redis_server.unix_url.removeprefix("unix://")


@pytest.mark.redis_tls
@pytest.mark.parametrize("required", ["yes", "no"])
async def test_tls(tmp_path: Path, certificate: tuple[Path, Path], required: str) -> None:
    cert, key = map(str, certificate)
    with reserve_port() as reserved:
        port = reserved.getsockname()[1]
        files = ("--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert)
        with RedisServer(tmp_path, "--tls-port", str(port), *files, "--tls-auth-clients", required):
            login = f"&ssl_certfile={cert}&ssl_keyfile={key}" if required == "yes" else ""
            await ping(f"rediss://localhost:{port}/0?ssl_ca_certs={cert}{login}")
            url = f"rediss://localhost:{port}/0"
            for text in (await connecting(url), publishing(url)):
                assert text.startswith(f"ClusterUnavailable: The TLS connection to Redis at localhost:{port} failed: ")
                assert "certificate verify failed" in text
            url = f"redis://localhost:{port}"
            for text in (await connecting(url), publishing(url)):
                assert f"Redis at localhost:{port} does not respond: " in text
                assert text.endswith(
                    "If Redis uses TLS at this port, the URL begins with rediss, sentinels or clusters"
                )
            if required == "no":
                sentinel = free_port()
                lines = [
                    "port 0",
                    f"tls-port {sentinel}",
                    "bind 127.0.0.1",
                    "tls-replication yes",
                    "tls-auth-clients no",
                ]
                lines += [f"tls-cert-file {cert}", f"tls-key-file {key}", f"tls-ca-cert-file {cert}"]
                # The certificate is for the name.
                lines += ["sentinel resolve-hostnames yes", "sentinel announce-hostnames yes"]
                lines.append(f"sentinel monitor main localhost {port} 1")
                with running_sentinel(tmp_path / "sentinel.conf", lines):
                    await ping(f"sentinels://localhost:{sentinel}/main?ssl_ca_certs={cert}")


async def test_tls_to_a_port_without_tls(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("redis_connection", "publisher_connection"):
        monkeypatch.setattr(f"sockjs_tornado.cluster.{module}.TIMEOUT", 0.03)
    url = redis_server.url.replace("redis:", "rediss:")
    for text in (await connecting(url), publishing(url)):
        assert f"Redis at 127.0.0.1:{redis_server.port} does not respond: Timeout" in text
        assert ". If Redis does not use TLS at this port, the URL begins with redis, sentinel or cluster" in text


@pytest.mark.redis_tls
async def test_a_certificate_that_is_no_longer_accepted_is_logged(
    tmp_path: Path, certificate: tuple[Path, Path], logged: LogWatch
) -> None:
    cert, key = map(str, certificate)
    accepted = tmp_path / "accepted.pem"
    accepted.write_bytes(certificate[0].read_bytes())
    with reserve_port() as reserved:
        port = reserved.getsockname()[1]
        files = ("--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
        with RedisServer(tmp_path, "--tls-port", str(port), "--tls-ca-cert-file", cert, *files) as server:
            commands = Commands(RedisURL(f"rediss://localhost:{port}/0?ssl_ca_certs={accepted}"))
            await commands.start()
            # Another authority is accepted from now on.
            accepted.write_bytes(create_certificate(tmp_path)[0].read_bytes())
            server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await until(lambda: any("Cannot reconnect" in record.getMessage() for record in logged.records))
            text = logged.take("Cannot reconnect").getMessage()
            logged.take("reconnecting")
            assert text.startswith(
                f"Cannot reconnect to Redis: The TLS connection to Redis at localhost:{port} failed: "
            )
            assert "certificate verify failed" in text
            accepted.write_bytes(certificate[0].read_bytes())
            await within(commands.wait_available())
            await within(commands.close())


@pytest.mark.parametrize("received", [b"", b"$5\r\nab", b"?\r\n"])
async def test_a_connection_that_ends_or_has_other_data_raises_an_error(received: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(received)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        text = await connecting(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert ("is not one of Redis: Protocol error" if received == b"?\r\n" else " does not respond: ") in text


async def test_replies_are_received_in_any_pieces() -> None:
    reader, transport = asyncio.StreamReader(), Mock()
    connection = RedisConnection(reader, Mock(transport=transport), ("localhost", 1))
    replies = b"+OK\r\n$4\r\na\r\nb\r\n*3\r\n:1\r\n$-1\r\n*0\r\n-ERR no\r\n-READONLY it is a replica\r\n"
    asyncio.get_running_loop().call_soon(feed, reader, [replies[at : at + 1] for at in range(len(replies))])
    assert [await within(connection.receive()) for _ in range(3)] == [b"OK", b"a\r\nb", [1, None, []]]
    assert isinstance(await within(connection.receive()), redis.ResponseError)
    with pytest.raises(ClusterUnavailable, match="does not accept writes: READONLY"):
        await within(connection.receive())
    assert connection.bytes_received == len(replies)
    connection.close()
    transport.abort.assert_called_once_with()


def feed(reader: asyncio.StreamReader, pieces: list[bytes]) -> None:
    """Feed pieces in one turn of the event loop each."""
    reader.feed_data(pieces[0])
    if pieces[1:]:
        asyncio.get_running_loop().call_soon(feed, reader, pieces[1:])


async def test_a_database_that_does_not_exist(redis_server: RedisServer) -> None:
    text = await connecting(redis_server.url.replace("/0", "/99"))
    assert text.startswith(f"ClusterError: Redis at 127.0.0.1:{redis_server.port} cannot be used: ")


@contextlib.asynccontextmanager
async def old_redis(hello: bytes, exists: bytes = b"-ERR unknown command\r\n") -> AsyncIterator[int]:
    """Respond to one client like an older Redis, and yield the port."""
    left = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                words = []
                for _ in range(int((await reader.readuntil())[1:])):
                    size = int((await reader.readuntil())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                known = {b"HELLO": hello, b"SELECT": b"+OK\r\n", b"EXISTS": exists}
                writer.write(known.get(words[0], b"-ERR unknown command\r\n"))
        writer.close()
        left.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await within(left.wait())


@pytest.mark.parametrize(
    ("hello", "version"),
    [
        (b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n6.2.14\r\n", "6.2.14"),
        (b"*2\r\n$7\r\nversion\r\n$1\r\n?\r\n", "?"),
        (b"*2\r\n$7\r\nversion\r\n$3\r\n8.x\r\n", "8.x"),
        (b"*0\r\n", "?"),
        (b"-ERR unknown command `HELLO`\r\n", "5 or older"),
    ],
)
async def test_a_redis_that_is_too_old_is_rejected(hello: bytes, version: str) -> None:
    async with old_redis(hello) as port:
        text = f"ClusterError: Redis at 127.0.0.1:{port} is version {version}; it must be 7.0 or newer"
        assert await connecting(f"redis://127.0.0.1:{port}") == text
        assert await asyncio.to_thread(publishing, f"redis://127.0.0.1:{port}") == text


async def test_a_redirect_to_a_server_that_does_not_respond() -> None:
    hello = b"*4\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$4\r\nmode\r\n$7\r\ncluster\r\n"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        other = taken.getsockname()[1]
        async with old_redis(hello, b"-MOVED 3999 127.0.0.1:%d\r\n" % other) as port:
            text = await connecting(f"cluster://127.0.0.1:{port}")
    assert text.startswith(f"ClusterUnavailable: Redis at 127.0.0.1:{other} does not respond: ")


async def test_another_program_or_a_server_without_a_command_is_named(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    hello = b"*4\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n"
    async with old_redis(hello) as port:
        with pytest.raises(
            ClusterError, match=rf"127\.0\.0\.1:{port} does not know the commands .* uses: GETEX, SET\. "
        ):
            await within(RedisURL(f"redis://127.0.0.1:{port}").connect([("GETEX", "a"), ("SET", "a")]))
    async with old_redis(b"<html>\r\n") as port:
        text = await connecting(f"redis://127.0.0.1:{port}")
        assert text.startswith(f"ClusterUnavailable: The response of 127.0.0.1:{port} is not one of Redis: Protocol")
    text = await connecting(redis_server.url.replace("redis://", "sentinel://").replace("/0", "/main"))
    assert text.startswith(f"ClusterError: Redis at 127.0.0.1:{redis_server.port} is not a sentinel; the URL of a sin")


async def test_replicas_and_redis_cluster_are_rejected(redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with RedisServer(tmp_path / "other", "--replicaof", "127.0.0.1", str(redis_server.port)) as server:
        for text in (await connecting(server.url), publishing(server.url)):
            assert "is a replica; it must be a single server that accepts writes" in text
    for mode, url in ((b"cluster", "cluster://"), (b"sentinel", "sentinel://")):
        hello = b"*4\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$4\r\nmode\r\n$%d\r\n%b\r\n" % (len(mode), mode)
        async with old_redis(hello) as port:
            text = await connecting(f"redis://127.0.0.1:{port}")
            assert f"is in {mode.decode()} mode; " in text
            assert url in text


async def test_a_single_server_at_the_url_of_redis_cluster_is_rejected(redis_server: RedisServer) -> None:
    # It would have other keys than with the URL of a single server, so that nodes would not find each other.
    url = redis_server.url.replace("redis:", "cluster:")
    expected = f"ClusterError: Redis at 127.0.0.1:{redis_server.port} is a single server, not in cluster mode; its URL"
    redis_server.command("ACL", "SETUSER", "ann", "on", "nopass", "~*", "&*", "+@all", "-cluster")
    for given in (url, url.replace("//", "//ann:x@")):
        for text in (await connecting(given), publishing(given)):
            assert text.startswith(f'{expected} is "redis://host:port/number"')


@pytest.mark.parametrize("option", ["ssl_whatever=1", "ssl_min_version=1.3", "ssl_cert_reqs=x", "ssl_ciphers=x"])
async def test_unknown_options_of_tls_and_invalid_values_are_rejected(option: str) -> None:
    # Some versions of redis-py check the value when they parse the URL.
    with pytest.raises(ConfigurationError, match=r"^url: "):
        await RedisURL(f"rediss://localhost?{option}").connect()


async def test_a_missing_file_of_certificates(tmp_path: Path) -> None:
    url = f"rediss://localhost?ssl_ca_certs={tmp_path}/missing.pem"
    with pytest.raises(ConfigurationError, match=r"^url: cannot read a file of certificates; .*: No such file"):
        await RedisURL(url).connect()
    with (
        Publisher(url) as publisher,
        pytest.raises(ConfigurationError, match=r"^url: cannot read a file of certificates; .*: No such file"),
    ):
        publisher.publish("room", "x")
