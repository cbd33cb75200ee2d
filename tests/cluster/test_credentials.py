"""Credentials that a function returns: before each connect, and again before they expire."""

import asyncio
import functools
import time
import traceback
from typing import Any

import pytest
from application import LogWatch
from client import until, within

from sockjs_tornado.cluster import AsyncPublisher, Credentials, Publisher, RedisCluster
from sockjs_tornado.cluster.credentials import request_credentials
from sockjs_tornado.exceptions import ClusterError, ConfigurationError

from .conftest import StartNode
from .redis_server import RedisServer

ROOM = "lobby"


class Tokens:
    """A function that returns another user and token each time, which Redis accepts; a context for :meth:`calls`.

    Args:
        server: The server.
        lifetime: Seconds until they expire, or None, an attribute, too.
    """

    def __init__(self, server: RedisServer, lifetime: float | None) -> None:
        self.calls = 0
        self.is_valid = True
        self._server = server
        self.lifetime = lifetime

    async def __call__(self) -> Credentials:
        self.calls += 1
        name = f"user{self.calls}"
        self._server.command("ACL", "SETUSER", name, "on", f">token{self.calls}", "~*", "&*", "+@all")
        expires_at = None if self.lifetime is None else time.time() + self.lifetime
        return Credentials(name, f"token{self.calls}" if self.is_valid else "s3crq", expires_at)

    def clients(self) -> dict[bytes, int]:
        """Return the number of the user of each connection, by the connection's id."""
        lines = self._server.command("CLIENT", "LIST").splitlines()
        fields = [dict(part.partition(b"=")[::2] for part in line.split()) for line in lines]
        return {client[b"id"]: int(client[b"user"][4:]) for client in fields if client[b"user"].startswith(b"user")}


@pytest.fixture
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Authenticate again after tenths of a second."""
    monkeypatch.setattr("sockjs_tornado.cluster.credentials.RETRY_INTERVAL", 0.1)
    monkeypatch.setattr("sockjs_tornado.cluster.reconnecting.RETRY_INTERVAL", 0.1)


@pytest.mark.usefixtures("short_intervals")
async def test_connections_authenticate_again_before_the_credentials_expire(
    node: StartNode, redis_server: RedisServer, logged: LogWatch
) -> None:
    tokens = Tokens(redis_server, 0.1)
    here = await node(credentials=tokens)
    # The other room has no history, so that a gap is told.
    peer, _ = await here.enter(ROOM, "other")
    first = tokens.clients()
    assert len(first) == 2
    await until(lambda: all(tokens.clients()[key] > first[key] + 1 for key in first))
    # The connections are still the same, and so are the subscriptions.
    assert tokens.clients().keys() == first.keys()
    await within(here.router.publish(ROOM, "a", history=1))
    assert await peer.message() == "a"
    # If Redis rejects them, the connections remain, and try again.
    tokens.is_valid = False
    await until(lambda: any("rejects the new credentials" in record.getMessage() for record in logged.records))
    await until(lambda: any("rejects commands of this node" in record.getMessage() for record in logged.records))
    # The last ones do not expire.
    tokens.is_valid, tokens.lifetime = True, None
    before = tokens.clients()
    assert before.keys() == first.keys()
    await until(lambda: all(tokens.clients()[key] > before[key] for key in before))
    await within(here.router.publish(ROOM, "b", history=1))
    assert await peer.message() == "b"
    assert not here.gaps
    texts = [record.getMessage() for record in logged.records]
    logged.records.clear()
    assert all("WRONGPASS" in text and "s3crq" not in text for text in texts)
    # They are requested for each connect, too.
    redis_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: here.gaps)
    assert tokens.clients().keys().isdisjoint(first)
    logged.take("reconnecting")


@pytest.mark.usefixtures("short_intervals")
@pytest.mark.parametrize("lifetime", [0.1, None])
async def test_publishers(node: StartNode, redis_server: RedisServer, lifetime: float | None) -> None:
    here = await node()
    peer, _ = await here.enter(ROOM)
    tokens = Tokens(redis_server, lifetime)
    async with AsyncPublisher(redis_server.url, credentials=tokens) as publisher:
        await within(publisher.publish(ROOM, "a"))
    first = tokens.calls
    with Publisher(redis_server.unix_url if lifetime else redis_server.url, credentials=tokens) as blocking:
        # In this thread, which runs an event loop.
        blocking.publish(ROOM, "b")
        assert tokens.calls == first + 1
        deadline = time.monotonic() + 0.1
        await until(lambda: time.monotonic() > deadline)
        blocking.publish(ROOM, "c")
        assert tokens.calls == first + (2 if lifetime else 1)
    assert [await peer.message() for _ in range(3)] == ["a", "b", "c"]


async def async_pair(*args: str) -> tuple[str, ...]:
    """Return credentials as redis-py's providers do."""
    return args


class Provider:
    """An object with a method like those of redis-py."""

    def get_credentials(self) -> tuple[str, ...]:
        """Return a password."""
        return ("b",)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda: Credentials("a", "b", 5), Credentials("a", "b", 5)),
        (lambda: ("a", "b"), Credentials("a", "b")),
        (Provider().get_credentials, Credentials("", "b")),
        (functools.partial(async_pair, "a", "b"), Credentials("a", "b")),
        (lambda: async_pair("b"), Credentials("", "b")),
    ],
)
async def test_functions(function: Any, expected: Credentials) -> None:
    found = await within(request_credentials(function))
    assert found == expected
    assert "'b'" not in repr(found)
    assert found.args == (("a", "b") if found.username else ("b",))


@pytest.mark.parametrize("result", [None, "s3crq", (), ("a", "s3crq", "c"), ("a", 5), Credentials("a", "s3crq", "c")])  # type: ignore[arg-type]
async def test_other_results_are_rejected(redis_server: RedisServer, result: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^credentials: the function returned .*expected Credentials"
    ) as caught:
        await within(RedisCluster(redis_server.url, credentials=lambda: result).start())
    assert "s3crq" not in str(caught.value)


async def test_a_function_that_fails(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise KeyError("s3crq")

    for cluster in (
        RedisCluster(redis_server.url, credentials=fail),
        AsyncPublisher(redis_server.url, credentials=fail),
    ):
        with pytest.raises(ClusterError, match=r"^credentials: the function raised KeyError") as caught:
            await within(cluster.start())
        assert "s3crq" not in str(caught.value)
        # The application's own exception, for its developers.
        assert "s3crq" in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ClusterError, match="the function raised KeyError"):
        Publisher(redis_server.url, credentials=fail).publish(ROOM, "x")
    monkeypatch.setattr("sockjs_tornado.cluster.credentials.TIMEOUT", 0.05)
    with pytest.raises(ClusterError, match=r"raised TimeoutError; it may take 0.05 s"):
        await within(RedisCluster(redis_server.url, credentials=asyncio.Event().wait).start())  # type: ignore[arg-type]


async def test_a_start_that_is_cancelled_cancels_the_function(redis_server: RedisServer) -> None:
    called: asyncio.Future[Credentials] = asyncio.get_running_loop().create_future()
    starting = asyncio.create_task(RedisCluster(redis_server.url, credentials=lambda: called).start())
    # Until it is awaited.
    await until(lambda: "cb=" in repr(called))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(starting)
    assert called.cancelled()


async def test_a_node_reconnects_after_any_error(node: StartNode, redis_server: RedisServer, logged: LogWatch) -> None:
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    is_failing = False

    async def credentials() -> Credentials:
        if is_failing:
            await cancelled
        return Credentials("", "")

    here = await node(credentials=credentials)
    url: Any = here.cluster._node.url
    # A label of a hostname has at most 63 characters; Python raises UnicodeError.
    known, url._known = url._known, [("a" * 64, 1)]
    redis_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: any("Error while reconnecting" in record.getMessage() for record in logged.records))
    is_failing, url._known = True, known
    await until(lambda: any("raised CancelledError" in record.getMessage() for record in logged.records))
    is_failing = False
    await until(lambda: here.cluster.available)
    for text in ("Error while reconnecting", "raised CancelledError", "; reconnecting"):
        logged.take(text)


def test_invalid_arguments() -> None:
    for kind in (RedisCluster, Publisher, AsyncPublisher):
        with pytest.raises(ConfigurationError, match=r"^credentials: got tuple, expected a function"):
            kind("redis://localhost", credentials=("a", "s3crq"))  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=r"^credentials: expected a URL without user and password"):
            kind("redis://:s3crq@localhost", credentials=lambda: ("a", "b"))
