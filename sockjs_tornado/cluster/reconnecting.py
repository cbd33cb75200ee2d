"""Connections to Redis that are monitored, and reopened when they are lost.

redis-py's own pub/sub reader gives up after an outage of some seconds, its pools open connections as needed, which does
not keep commands in order, and it reports only complete replies. Therefore commands and subscriptions have one
connection each, with one task that reconnects.
"""

import asyncio
import logging
import random
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from typing import Any, Final, NoReturn

from ..exceptions import ClusterError, ClusterUnavailable, ConfigurationError
from ..observe.logs import ThrottledLog
from .base import cancel
from .credentials import RETRY_INTERVAL, Credentials
from .redis_connection import Args, RedisConnection, RedisURL
from .redis_errors import CONNECTION_ERRORS, translate_error
from .redis_url import describe

logger = logging.getLogger(__name__)

#: The shortest and the longest delay in seconds before a reconnect.
BACKOFF: Final = (0.05, 1.0)

#: The longest delay if other servers name the one to connect to, so that a new master is found soon.
_LONGEST_LOOKUP_DELAY: Final = 0.5

#: Seconds after which a connection is considered stable, so that the backoff starts again with short delays.
_STABLE_AFTER: Final = 5.0


#: Seconds of an outage after which its reason is logged again and again: a restart of Redis takes less.
_LONG_OUTAGE: Final = 5.0


class ReconnectingConnection(ABC):
    """A connection to Redis that is reopened whenever it is lost.

    Args:
        url: The URL of the server.
        timeout: Seconds without data after which Redis is pinged.
        log: The log.
        probes: Commands that Redis must permit when the connection is opened for the first time.
        rules: The rules that permit them.
        protocol: The version of the protocol; see :meth:`RedisURL.connect`.
    """

    def __init__(
        self,
        url: RedisURL,
        timeout: float,
        log: ThrottledLog,
        probes: Sequence[Args] = (),
        rules: str = "",
        protocol: int = 2,
    ) -> None:
        self._url = url
        self._protocol = protocol
        self._probes = probes
        self._rules = rules
        self._timeout = timeout
        self._log = log
        # Set while Redis is connected.
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # The current or last connection.
        self._connection: RedisConnection | None = None

    @property
    def silence(self) -> float:
        """Seconds since Redis has last sent something, also on an earlier connection; 0 before :meth:`start`."""
        return 0.0 if self._connection is None else time.monotonic() - self._connection.received_at

    @property
    def available(self) -> bool:
        """Whether Redis is connected."""
        return self._connected.is_set()

    async def wait_available(self) -> None:
        """Wait until Redis is connected."""
        await self._connected.wait()

    async def start(self) -> None:
        """Connect to Redis; see :meth:`RedisURL.connect` for the errors."""
        connection = await self._url.connect(self._probes, self._rules, self._protocol)
        self._create_events()
        self._connected.set()
        self._task = asyncio.create_task(self._keep_connected(connection))

    async def close(self) -> None:
        """Close the connection."""
        task, self._task = self._task, None
        await cancel(task)

    def abort(self) -> None:
        """Close the connection soon, without waiting for anything."""
        if self._task is not None:
            self._task.cancel()

    def _create_events(self) -> None:
        """Create the events: each belongs to the event loop that uses it first, and this may be another one."""
        self._connected = asyncio.Event()

    @abstractmethod
    def _on_connect(self, is_reconnect: bool) -> None:
        """Called before a connection is used."""

    @abstractmethod
    async def _on_disconnect(self) -> None:
        """Called after each disconnect, before the reconnect."""

    @abstractmethod
    def _ping(self) -> None:
        """Make :meth:`_write` send a command that Redis responds to."""

    @abstractmethod
    async def _authenticate(self, credentials: Credentials) -> None:
        """Send AUTH with new credentials. A rejection is logged or raised as ClusterError."""

    @abstractmethod
    async def _read(self, connection: RedisConnection) -> NoReturn:
        """Process everything that Redis sends."""

    @abstractmethod
    async def _write(self, connection: RedisConnection) -> NoReturn:
        """Send commands."""

    async def _use(self, connection: RedisConnection) -> None:
        """Use a connection until it raises an error."""
        is_reconnect = not self._connected.is_set()
        self._connection = connection
        self._connected.set()
        self._on_connect(is_reconnect)
        # The reader always runs, even if no reply is expected: only it notices that the connection was closed.
        tasks = [self._write(connection), self._read(connection), self._watch(connection)]
        if connection.credentials.expires_at is not None:
            tasks.append(self._renew_credentials(connection.credentials))
        await _run_until_first(*tasks)

    async def _renew_credentials(self, credentials: Credentials) -> NoReturn:
        """Authenticate again before the credentials of the connection expire, because Redis then closes it."""
        delay = credentials.renewal_delay
        while delay is not None:
            await asyncio.sleep(delay)
            try:
                credentials = await self._url.request_credentials()
                await self._authenticate(credentials)
                delay = credentials.renewal_delay
            except (ClusterError, ConfigurationError) as error:
                # The connection remains until the old credentials expire.
                self._log.write(logger, logging.WARNING, "credentials", "Cannot authenticate again: %s", error)
                delay = RETRY_INTERVAL
        # The new credentials do not expire.
        while True:
            await asyncio.Event().wait()

    async def _watch(self, connection: RedisConnection) -> NoReturn:
        """Ping until no data has arrived for twice the timeout."""
        while True:
            before = connection.bytes_received
            await asyncio.sleep(self._timeout)
            self._ping()
            if connection.bytes_received == before:
                # Sleep twice: if a callback has blocked the loop meanwhile, the data that has arrived is read in
                # between.
                await asyncio.sleep(self._timeout / 2)
                await asyncio.sleep(self._timeout / 2)
                if connection.bytes_received == before:
                    raise TimeoutError(f"no data for {2 * self._timeout:g} s")

    async def _keep_connected(self, connection: RedisConnection) -> NoReturn:
        delay, _ = BACKOFF
        # If Redis rejects the subscriptions, it closes each connection soon, so that there are many reconnects.
        reconnected = "reconnected", type(self).__name__
        while True:
            address = describe(connection.address)
            began = time.monotonic()
            try:
                await self._use(connection)
            except Exception as error:
                if time.monotonic() - began > _STABLE_AFTER:
                    delay, _ = BACKOFF
                    # It is another outage, unless the other connection has just logged it.
                    self._log.allow("lost", began)
                    self._log.allow(reconnected, began)
                self._log_disconnect(error, address)
            finally:
                connection.close()
                self._connected.clear()
                await self._on_disconnect()
            connection, delay = await self._reconnect(delay)
            self._log.write(
                logger, logging.INFO, reconnected, "Reconnected to Redis at %s", describe(connection.address)
            )

    def _log_disconnect(self, error: Exception, address: str) -> None:
        # The same key for both connections of a cluster, so that an outage is logged once.
        if isinstance(error, CONNECTION_ERRORS):
            hint = ""
            if isinstance(error, ConnectionError):
                hint = ". If Redis was not restarted, its log has the reason, such as client-output-buffer-limit"
            self._log.write(
                logger, logging.WARNING, "lost", "%s; reconnecting%s", translate_error(error, address), hint
            )
        else:
            # A bug here or in a callback: without this handler the node would never reconnect.
            self._log.write(logger, logging.ERROR, "lost", "Error on a Redis connection; reconnecting", error=error)

    async def _reconnect(self, delay: float) -> tuple[RedisConnection, float]:
        """Return a new connection, and the last delay."""
        shortest, longest = BACKOFF
        if self._url.finds_servers:
            longest = _LONGEST_LOOKUP_DELAY
        began = time.monotonic()
        while True:
            delay = min(2 * delay, longest)
            await asyncio.sleep(random.uniform(shortest, delay))  # noqa: S311 - no secret
            try:
                return await self._url.connect(protocol=self._protocol), delay
            except ClusterUnavailable as error:
                # An operator must act if a certificate has expired or was replaced by another one, and if this takes
                # longer than a restart of Redis.
                if isinstance(error.__cause__, ssl.SSLError) or time.monotonic() - began >= _LONG_OUTAGE:
                    self._log.write(logger, logging.WARNING, "refused", "Cannot reconnect to Redis: %s", error)
                else:
                    logger.debug("Cannot reconnect: %s", error)
            except (ClusterError, ConfigurationError) as error:
                # An operator must act: the password was changed, the user was revoked, or the server was replaced by
                # one that cannot be used. ConfigurationError: the files of certificates are missing, for example.
                self._log.write(logger, logging.WARNING, "refused", "Cannot reconnect to Redis: %s", error)
            except Exception as error:
                # Such as a UnicodeError of the hostname that a sentinel names. Another attempt may succeed.
                self._log.write(logger, logging.ERROR, "refused", "Error while reconnecting to Redis", error=error)


async def _run_until_first(*coroutines: Coroutine[Any, Any, object]) -> None:
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
