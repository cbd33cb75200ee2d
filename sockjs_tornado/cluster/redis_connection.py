"""Connections to Redis: opened from a URL, monitored, and reopened when they are lost.

redis-py's own pub/sub reader gives up after an outage of some seconds, and its pools open connections as needed, which
does not keep commands in order. Therefore commands and subscriptions have one connection each, with one task that
reconnects.
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
    "CONNECTION_ERRORS",
    "TIMEOUT",
    "RedisConnection",
    "address_of",
    "check_server",
    "check_url",
    "connect",
    "database_of",
    "keep_connected",
    "make_client",
    "pack_command",
    "run_until_first",
    "translate_error",
]

logger = logging.getLogger(__name__)

#: Seconds to wait for a connection, and the default keepalive interval: after as long without data Redis is pinged, and
#: has as long again to reply. A half-open connection is detected within twice this time.
TIMEOUT: Final = 2.0

#: The shortest and the longest delay in seconds before a reconnect.
BACKOFF: Final = (0.05, 1.0)

#: Seconds after which a connection is considered stable, so that the backoff starts again with short delays.
_STABLE_AFTER: Final = 5.0

_MIN_VERSION: Final = (7, 0)
_EXPECTED_URL: Final = (
    'expected "redis://host:port/number", "rediss://..." (TLS) or "unix:///path", with "user:password@" before the '
    "host if Redis requires it; the supported options are db and those of TLS (ssl_...)"
)

#: Errors with which Redis replies if it does not accept writes, or no longer does.
_NOT_WRITABLE_ERRORS: Final = (redis.ReadOnlyError, redis.exceptions.MasterDownError, redis.BusyLoadingError)

#: The errors of a connection. ``TimeoutError`` is a subclass of ``OSError``.
CONNECTION_ERRORS: Final = (redis.RedisError, OSError, ClusterError)


def check_url(url: object) -> str:
    """Return the URL of a Redis server if it is valid.

    Raises:
        ConfigurationError: The URL is not valid.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"url: got {url!r} ({type(url).__name__}), {_EXPECTED_URL}")
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
        options = urllib.parse.parse_qs(parts.query)
    except ValueError as error:
        raise ConfigurationError(f"url: {error}, {_EXPECTED_URL}") from None
    number = parts.path.strip("/")
    if (
        parts.scheme not in ("redis", "rediss", "unix")
        or (parts.scheme == "unix" and not number)
        or (parts.scheme != "unix" and number and not number.isdecimal())
        # Other options would change behaviour that this package relies on.
        or not all(name == "db" or name.startswith("ssl_") for name in options)
    ):
        raise ConfigurationError(f"url: got {_without_credentials(parts)!r}, {_EXPECTED_URL}")
    return url


def _without_credentials(parts: urllib.parse.SplitResult) -> str:
    _, at, host = parts.netloc.rpartition("@")
    return urllib.parse.urlunsplit(parts._replace(netloc=f"***@{host}" if at else host))


def make_client(url: str) -> "Redis":
    """Return a client for :func:`connect`, without connecting.

    Raises:
        ConfigurationError: The URL is not valid.
    """
    check_url(url)
    # RESP2 separates replies from published messages. No socket timeout: redis-py would apply it to each reply, while
    # this module has its own keepalive.
    try:
        return Redis.from_url(
            url, protocol=2, socket_timeout=None, socket_connect_timeout=TIMEOUT, retry=Retry(NoBackoff(), 0)
        )
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"url: {error}, {_EXPECTED_URL}") from None


def database_of(client: "Redis | redis.Redis") -> int:
    """Return the number of a client's database."""
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def pack_command(args: Sequence[str | bytes | int]) -> bytes:
    """Encode a command for Redis. Text may contain lone surrogates."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        if isinstance(arg, int):
            arg = b"%d" % arg
        elif isinstance(arg, str):
            arg = arg.encode("utf-8", "surrogatepass")
        parts.append(b"$%d\r\n%b\r\n" % (len(arg), arg))
    return b"".join(parts)


def translate_error(error: Exception, address: str) -> ClusterError:
    """Return the exception of this package for an error of redis-py.

    Args:
        error: The error.
        address: The address of the Redis server, for the message.
    """
    if isinstance(error, ClusterError):
        return error
    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError) or "NOAUTH" in str(error):
        return ClusterError(f"Redis at {address} requires another user or password: {error}")
    if isinstance(error, redis.ResponseError):
        return ClusterError(f"Redis at {address} cannot be used: {error}")
    return ClusterUnavailable(f"Redis at {address} does not respond: {str(error) or type(error).__name__}")


class RedisConnection:
    """One connection to Redis.

    Args:
        connection: The connection of redis-py, not connected yet.

    Attributes:
        bytes_received: The number of bytes received. It grows while a long reply arrives, so that :meth:`watch` does
            not mistake that for silence.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self.bytes_received = 0

    async def connect(self) -> None:
        """Connect."""
        await self._connection.connect()  # type: ignore[no-untyped-call]
        reader = self._connection._reader
        assert reader is not None
        feed = reader.feed_data

        def count(data: Any) -> None:
            self.bytes_received += len(data)
            feed(data)

        # redis-py reports only complete replies.
        reader.feed_data = count  # type: ignore[method-assign]

    async def send(self, commands: bytes) -> None:
        """Send encoded commands."""
        await self._connection.send_packed_command(commands, check_health=False)

    async def receive(self) -> Any:
        """Return the next reply or published message. An error reply is returned as an exception, not raised.

        Raises:
            ClusterUnavailable: Redis no longer accepts writes.
        """
        try:
            return await self._connection.read_response()
        except _NOT_WRITABLE_ERRORS as error:
            raise ClusterUnavailable(f"Redis does not accept writes: {error}") from None
        except redis.ResponseError as error:
            return error

    async def watch(self, ping: Callable[[], object], interval: float) -> NoReturn:
        """Send keepalive pings until Redis stops responding.

        Args:
            ping: Called to send a ping.
            interval: Seconds between two pings, and seconds to wait for data after a ping.

        Raises:
            TimeoutError: No data has arrived for twice the interval.
        """
        while True:
            before = self.bytes_received
            await asyncio.sleep(interval)
            ping()
            if self.bytes_received == before:
                # Sleep twice: if a callback has blocked the loop meanwhile, the data that has arrived is read in
                # between.
                await asyncio.sleep(interval / 2)
                await asyncio.sleep(interval / 2)
                if self.bytes_received == before:
                    raise TimeoutError(f"no data for {2 * interval:g} s")

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)


async def connect(client: "Redis") -> RedisConnection:
    """Open a connection, and check the server's version and role.

    Raises:
        ClusterUnavailable: The server does not respond.
        ClusterError: The server requires a password, is too old, or does not accept writes.
        ConfigurationError: An option in the URL is not valid.
    """
    try:
        connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError) as error:
        # An unknown option of TLS, or an invalid value.
        raise ConfigurationError(f"url: {error}, {_EXPECTED_URL}") from None
    address = address_of(client)
    redis_connection = RedisConnection(connection)
    try:
        async with timeout(TIMEOUT):
            await redis_connection.connect()
            await redis_connection.send(pack_command(("HELLO", 2)))
            hello = await redis_connection.receive()
        if isinstance(hello, redis.ResponseError) and not str(hello).lower().startswith("unknown command"):
            raise hello
        check_server(hello, address)
    except BaseException as error:
        await redis_connection.close()
        if isinstance(error, CONNECTION_ERRORS):
            raise translate_error(error, address) from error
        raise
    return redis_connection


def check_server(hello: Any, address: str) -> None:
    """Check the version and role of a server by its reply to HELLO.

    Args:
        hello: The reply. A server before 6.0 does not know the command, and replies with an error.
        address: The server's address, for the message.

    Raises:
        ClusterError: The server cannot be used.
    """
    version = "5 or older"
    if isinstance(hello, list):
        texts = [text.decode(errors="replace") if isinstance(text, bytes) else "" for text in hello]
        fields = dict(zip(texts[::2], texts[1::2], strict=False))
        version = fields.get("version", "?")
        mode, role = fields.get("mode"), fields.get("role")
        if mode in ("cluster", "sentinel") or role in ("replica", "slave"):
            found = f"in {mode} mode" if mode in ("cluster", "sentinel") else "a replica"
            raise ClusterError(f"Redis at {address} is {found}; it must be a single server that accepts writes")
        numbers = version.split(".")[:2]
        if all(map(str.isdecimal, numbers)) and tuple(map(int, numbers)) >= _MIN_VERSION:
            return
    required = ".".join(map(str, _MIN_VERSION))
    raise ClusterError(f"Redis at {address} is version {version}; it must be {required} or newer")


def address_of(client: "Redis") -> str:
    """Return the address of a client's server, for messages."""
    options = client.connection_pool.connection_kwargs
    return options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"


async def keep_connected(
    client: "Redis",
    connection: RedisConnection,
    use: Callable[[RedisConnection], Awaitable[object]],
    on_disconnect: Callable[[], object],
    log: ThrottledLog,
) -> NoReturn:
    """Use a connection, and reconnect whenever it is lost.

    Args:
        client: The client that opens connections.
        connection: The first connection.
        use: Uses a connection until it raises an error.
        on_disconnect: Called after each disconnect, before the reconnect.
        log: The log for disconnects.
    """
    delay, _ = BACKOFF
    while True:
        began = time.monotonic()
        try:
            await use(connection)
        except CONNECTION_ERRORS as error:
            # The same key for both connections of a cluster, so that an outage is logged once.
            log.write(logger, logging.WARNING, "lost", "%s; reconnecting", translate_error(error, address_of(client)))
        except Exception as error:
            # A bug here or in a callback: without this handler the node would never reconnect.
            log.write(logger, logging.ERROR, "lost", "Error on a Redis connection; reconnecting", error=error)
        finally:
            await connection.close()
            on_disconnect()
        if time.monotonic() - began > _STABLE_AFTER:
            delay, _ = BACKOFF
        connection, delay = await _reconnect(client, delay)
        logger.info("Reconnected to Redis at %s", address_of(client))


async def _reconnect(client: "Redis", delay: float) -> tuple[RedisConnection, float]:
    """Return a new connection, and the last delay."""
    shortest, longest = BACKOFF
    while True:
        delay = min(2 * delay, longest)
        await asyncio.sleep(random.uniform(shortest, delay))  # noqa: S311 - no secret
        try:
            return await connect(client), delay
        except ClusterError as error:
            logger.debug("Cannot reconnect: %s", error)


async def run_until_first(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Run coroutines until the first one returns or raises, cancel the others, and re-raise its exception."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
