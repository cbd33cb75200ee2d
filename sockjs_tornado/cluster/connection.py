"""Connections to Redis: made from a URL, watched, and made again when they are lost.

redis-py's own pub/sub reader gives up after seconds of outage, and its pools open connections as they please, which
does not keep commands in order. Here each part has one connection, and one task that keeps it.
"""

import asyncio
import logging
import random
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, NoReturn

import redis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ..exceptions import ClusterError, ClusterUnavailable, ConfigurationError
from ..observe.logs import ThrottledLog
from ..session.grace import timeout

__all__ = [
    "TIMEOUT",
    "Line",
    "check_server",
    "check_url",
    "connect",
    "database_of",
    "explain",
    "keep_connected",
    "make_client",
    "pack",
    "where_is",
]

logger = logging.getLogger(__name__)

#: Seconds for a connection to be made. One that says nothing for as long is asked for a sign of life, which it has as
#: long again to give: a half-open connection is found within twice that.
TIMEOUT: Final = 2.0

#: Seconds between two attempts to connect, at the least and at the most.
BACKOFF: Final = (0.05, 1.0)

#: Seconds after which a connection counts as one that lasts, so that the next pauses are short again.
_LASTING: Final = 5.0

_OLDEST: Final = (7, 0)
_TAKES: Final = (
    'takes "redis://host:port/number", "rediss://..." (TLS) or "unix:///path", with "user:password@" before the host '
    "where Redis wants that; of options, db and those of TLS (ssl_...)"
)

#: What Redis says in place of a reply where it takes no writes (any more).
_DEMOTED: Final = (redis.ReadOnlyError, redis.exceptions.MasterDownError, redis.BusyLoadingError)

#: What goes wrong with a connection. ``TimeoutError`` is an ``OSError``.
FAILURES: Final = (redis.RedisError, OSError, ClusterError)


def check_url(url: object) -> str:
    """Return a URL of a Redis.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"url: got {url!r} ({type(url).__name__}), {_TAKES}")
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
        options = urllib.parse.parse_qs(parts.query)
    except ValueError as error:
        raise ConfigurationError(f"url: {error}, {_TAKES}") from None
    number = parts.path.strip("/")
    if (
        parts.scheme not in ("redis", "rediss", "unix")
        or (parts.scheme == "unix" and not number)
        or (parts.scheme != "unix" and number and not number.isdecimal())
        # Others would change what the code here relies on.
        or not all(name == "db" or name.startswith("ssl_") for name in options)
    ):
        # A password is nobody's business.
        raise ConfigurationError(f"url: got {_shown(parts)!r}, {_TAKES}")
    return url


def _shown(parts: urllib.parse.SplitResult) -> str:
    _, at, host = parts.netloc.rpartition("@")
    return urllib.parse.urlunsplit(parts._replace(netloc=f"***@{host}" if at else host))


def make_client(url: str) -> "Redis":
    """Return a client for :func:`connect`; nothing is connected yet.

    Raises:
        ConfigurationError: The URL is none of a Redis.
    """
    check_url(url)
    # RESP2 keeps replies and what is published apart. Timeouts are kept here: redis-py's would be one for each reply.
    try:
        return Redis.from_url(
            url, protocol=2, socket_timeout=None, socket_connect_timeout=TIMEOUT, retry=Retry(NoBackoff(), 0)
        )
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"url: {error}, {_TAKES}") from None


def database_of(client: "Redis | redis.Redis") -> int:
    """Return the number of a client's database."""
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def pack(args: Sequence[str | bytes | int]) -> bytes:
    """Return a command as Redis reads it; text may have lone surrogates."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        if isinstance(arg, int):
            arg = b"%d" % arg
        elif isinstance(arg, str):
            arg = arg.encode("utf-8", "surrogatepass")
        parts.append(b"$%d\r\n%b\r\n" % (len(arg), arg))
    return b"".join(parts)


def explain(error: Exception, where: str) -> ClusterError:
    """Return one of our exceptions for what redis-py raised.

    Args:
        error: What was raised.
        where: Which Redis it is about.
    """
    if isinstance(error, ClusterError):
        return error
    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError) or "NOAUTH" in str(error):
        return ClusterError(f"Redis at {where} wants another user or password: {error}")
    if isinstance(error, redis.ResponseError):
        return ClusterError(f"Redis at {where} cannot be used: {error}")
    return ClusterUnavailable(f"Redis at {where} does not answer: {str(error) or type(error).__name__}")


class Line:
    """One connection to Redis.

    Args:
        connection: Of redis-py, connected.

    Attributes:
        heard: How many bytes have come. A long reply is no silence while it comes.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self.heard = 0

    async def connect(self) -> None:
        """Connect."""
        await self._connection.connect()  # type: ignore[no-untyped-call]
        reader = self._connection._reader
        assert reader is not None
        feed = reader.feed_data

        def count(data: Any) -> None:
            self.heard += len(data)
            feed(data)

        # redis-py tells of whole replies alone.
        reader.feed_data = count  # type: ignore[method-assign]

    async def send(self, commands: bytes) -> None:
        """Send packed commands."""
        await self._connection.send_packed_command(commands, check_health=False)

    async def receive(self) -> Any:
        """Return the next reply, or what was published; an error that Redis replies is an exception, returned.

        Raises:
            ClusterUnavailable: Redis takes no writes any more.
        """
        try:
            return await self._connection.read_response()
        except _DEMOTED as error:
            raise ClusterUnavailable(f"Redis takes no writes any more: {error}") from None
        except redis.ResponseError as error:
            return error

    async def watch(self, ping: Callable[[], object], patience: float) -> NoReturn:
        """Wait until Redis has fallen silent.

        Args:
            ping: Has Redis say something.
            patience: Seconds between two such questions. After as many of silence, it may be silent as long again.

        Raises:
            TimeoutError: It is silent.
        """
        while True:
            heard = self.heard
            await asyncio.sleep(patience)
            ping()
            if self.heard == heard:
                # In two parts: where a callback has kept the loop busy, what came meanwhile is read between them.
                await asyncio.sleep(patience / 2)
                await asyncio.sleep(patience / 2)
                if self.heard == heard:
                    raise TimeoutError(f"silent for {2 * patience:g} s")

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)


async def connect(client: "Redis") -> Line:
    """Make a connection, and see that it is to a Redis of ours.

    Raises:
        ClusterUnavailable: Nobody answers there.
        ClusterError: It wants a password, is too old, or takes no writes.
        ConfigurationError: Options in the URL make no sense.
    """
    try:
        connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError) as error:
        # An option that TLS does not know, or cannot take.
        raise ConfigurationError(f"url: {error}, {_TAKES}") from None
    where = where_is(client)
    line = Line(connection)
    try:
        async with timeout(TIMEOUT):
            await line.connect()
            await line.send(pack(("HELLO", 2)))
            hello = await line.receive()
        if isinstance(hello, redis.ResponseError) and not str(hello).lower().startswith("unknown command"):
            raise hello
        check_server(hello, where)
    except BaseException as error:
        await line.close()
        if isinstance(error, FAILURES):
            raise explain(error, where) from error
        raise
    return line


def check_server(hello: Any, where: str) -> None:
    """Raise ClusterError where what Redis replies to HELLO, which none before 6.0 knows, says that it will not do."""
    version = "5 or older"
    if isinstance(hello, list):
        texts = [text.decode(errors="replace") if isinstance(text, bytes) else "" for text in hello]
        fields = dict(zip(texts[::2], texts[1::2], strict=False))
        version = fields.get("version", "?")
        mode, role = fields.get("mode"), fields.get("role")
        if mode in ("cluster", "sentinel") or role in ("replica", "slave"):
            found = f"in {mode} mode" if mode in ("cluster", "sentinel") else "a replica"
            raise ClusterError(f"Redis at {where} is {found}; it must be one server that takes writes")
        numbers = version.split(".")[:2]
        if all(map(str.isdecimal, numbers)) and tuple(map(int, numbers)) >= _OLDEST:
            return
    raise ClusterError(f"Redis at {where} is version {version}; it must be {'.'.join(map(str, _OLDEST))} or newer")


def where_is(client: "Redis") -> str:
    """Return what to call the Redis of a client."""
    options = client.connection_pool.connection_kwargs
    return options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"


async def keep_connected(
    client: "Redis", line: Line, use: Callable[[Line], Awaitable[object]], lost: Callable[[], object], log: ThrottledLog
) -> NoReturn:
    """Use a connection, and another one whenever it is lost.

    Args:
        client: What makes connections.
        line: The first one.
        use: Uses one; it raises when that is lost.
        lost: Called each time one is lost, before the next is made.
        log: Hears of it.
    """
    pause, _ = BACKOFF
    while True:
        began = time.monotonic()
        try:
            await use(line)
        except FAILURES as error:
            # One record for both connections of a cluster.
            log.write(logger, logging.WARNING, "lost", "%s; connecting again", explain(error, where_is(client)))
        except Exception as error:
            # A mistake here, or in what is called: without this the node would be deaf from now on.
            log.write(logger, logging.ERROR, "lost", "gave up a connection; connecting again", error=error)
        finally:
            await line.close()
            lost()
        if time.monotonic() - began > _LASTING:
            pause, _ = BACKOFF
        line, pause = await _reconnect(client, pause)
        logger.info("connected to Redis at %s again", where_is(client))


async def _reconnect(client: "Redis", pause: float) -> tuple[Line, float]:
    """Return a connection, and how long the pause has become."""
    shortest, longest = BACKOFF
    while True:
        pause = min(2 * pause, longest)
        await asyncio.sleep(random.uniform(shortest, pause))  # noqa: S311 - no secret
        try:
            return await connect(client), pause
        except ClusterError as error:
            logger.debug("%s", error)


async def together(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Run coroutines until the first one ends, or fails; the others are cancelled, and what it raised is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
