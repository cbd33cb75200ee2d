"""Connections of the blocking publisher, with the errors of this package.

The server may have to be found first, and credentials may expire.
"""

import asyncio
import math
import ssl
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..exceptions import ClusterError
from .redis_connection import TIMEOUT, RedisConnection, RedisURL
from .redis_errors import login_hint, scheme_hint, translate_error
from .server_check import check_server


def create_client(url: RedisURL) -> "redis.Redis":
    """Return a client of redis-py for a URL. It connects with its first command."""
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": 2 * TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        # No retries: Redis may have executed the command the first time.
        "retry": Retry(NoBackoff(), 0),
    }
    if url.client_name is not None:
        options["client_name"] = url.client_name
    is_unix = isinstance(url.parsed.addresses[0], str)
    is_managed = url.finds_servers or url.has_credentials_function
    kinds = _MANAGED_KINDS if is_managed else _KINDS
    options["connection_class"] = kinds["unix" if is_unix else "tls" if url.parsed.uses_tls else "tcp"]
    if not is_managed:
        options["redis_connect_func"] = partial(_log_in, url)
    options["redis_url"] = url
    # Unlike the class itself, from_pool() makes the client close the pool.
    return redis.Redis.from_pool(redis.ConnectionPool.from_url(url.parsed.server_url, **options))


def _log_in(url: RedisURL, connection: Any) -> None:
    """Log in, and check the server: redis-py itself would publish in Redis Cluster, where no node receives it."""
    connection.on_connect()
    connection.send_command("HELLO", 2)
    try:
        hello = connection.read_response()
    except redis.ResponseError as error:
        hello = error
    try:
        check_server(hello, url.parsed.addresses[0], url.parsed)
    except ClusterError:
        # redis-py only does this after its own errors.
        connection.disconnect()
        raise


class _Translating:
    """A connection of redis-py whose failure to connect raises the error that a cluster raises."""

    def __init__(self, *, redis_url: RedisURL, **options: Any) -> None:
        super().__init__(**options)
        self._redis_url: Final = redis_url

    def connect(self) -> None:
        """Connect, unless it is connected. The pool calls this before each use."""
        try:
            super().connect()  # type: ignore[misc]
        except (redis.RedisError, OSError) as error:
            if self._redis_url.parsed.uses_tls:
                # Raises if a file of certificates cannot be read.
                self._redis_url.parsed.tls_context()
            # redis-py has classes of its own for errors of the socket.
            cause = error.__cause__ or error.__context__
            is_closed = not isinstance(cause, OSError) or isinstance(cause, ConnectionResetError | BrokenPipeError)
            hint = scheme_hint(
                self._redis_url.parsed,
                connect_timed_out=isinstance(error, redis.TimeoutError),
                closed_without_reply=type(error) is redis.ConnectionError and is_closed,
            )
            found = cause if isinstance(cause, ssl.SSLError) else error
            login = login_hint(self._redis_url.parsed)
            raise translate_error(found, self._redis_url.address, hint, login) from error


class _Managed(_Translating):
    """A connection that finds its server and its credentials before each connect."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._is_located = False
        self._renew_at = math.inf

    def connect(self) -> None:
        """Connect, unless it is connected. The pool calls this before each use."""
        if time.monotonic() >= self._renew_at:
            # Log in again, before the server closes the connection in the middle of a command.
            self.disconnect()
        if not self._is_located:
            # In a thread, because this one may run an event loop.
            found = _run_in_thread(self._locate())
            if not isinstance(found.address, str):
                self.host, self.port = found.address
            self.username, self.password = found.credentials.username, found.credentials.password
            delay = found.credentials.renewal_delay
            self._renew_at = math.inf if delay is None else time.monotonic() + delay
        super().connect()
        self._is_located = True

    async def _locate(self) -> RedisConnection:
        """Return a connection that was opened, which shows that the server can be used, and closed again."""
        connection = await self._redis_url.connect()
        connection.close()
        # The event loop closes the socket in its next iteration.
        await asyncio.sleep(0)
        return connection

    def disconnect(self, *args: Any) -> None:
        """Disconnect. redis-py calls this after each error of the connection."""
        self._is_located = False
        self._renew_at = math.inf
        super().disconnect(*args)  # type: ignore[misc]


class _Connection(_Translating, redis.Connection):
    pass


class _TLSConnection(_Translating, redis.SSLConnection):
    pass


class _UnixConnection(_Translating, redis.UnixDomainSocketConnection):
    pass


class _ManagedConnection(_Managed, redis.Connection):
    pass


class _ManagedTLSConnection(_Managed, redis.SSLConnection):
    pass


class _ManagedUnixConnection(_Managed, redis.UnixDomainSocketConnection):
    pass


_KINDS: Final = {"tcp": _Connection, "tls": _TLSConnection, "unix": _UnixConnection}
_MANAGED_KINDS: Final = {"tcp": _ManagedConnection, "tls": _ManagedTLSConnection, "unix": _ManagedUnixConnection}


def _run_in_thread(coroutine: Coroutine[Any, Any, Any]) -> Any:
    with ThreadPoolExecutor(1, "sockjs-publisher") as executor:
        return executor.submit(asyncio.run, coroutine).result()
