"""Credentials for Redis that a function returns, such as tokens that expire.

::

    def credentials():
        return Credentials("app", create_token(), expires_at=time.time() + 900)


    cluster = RedisCluster("rediss://cache.example.com:6379", credentials=credentials)
"""

import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ..exceptions import ClusterError, ConfigurationError

#: Seconds that the application's function may take.
TIMEOUT: Final = 10.0

#: The shortest time in seconds between two calls for one connection, and the delay after a failure.
RETRY_INTERVAL: Final = 5.0

# The part of the lifetime after which a connection authenticates again. It is random, so that the connections of many
# nodes, which all began at the same time, do not ask for tokens at the same time.
_RENEW_AFTER: Final = (0.7, 0.8)

_EXPECTED: Final = "expected Credentials(username, password, expires_at), or a tuple of username and password"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of a user of Redis.

    Attributes:
        username: The name of the user; ``""`` or ``"default"`` for the default user.
        password: The password or token.
        expires_at: The Unix time at which they expire, as in ``time.time()``, or None if they do not expire.
    """

    username: str
    password: str = field(repr=False)
    expires_at: float | None = None

    @property
    def args(self) -> tuple[str, ...]:
        """The arguments of AUTH."""
        return (self.username, self.password) if self.username else (self.password,)

    @property
    def renewal_delay(self) -> float | None:
        """Seconds after which a connection has to authenticate again, or None if the credentials do not expire."""
        if self.expires_at is None:
            return None
        share = random.uniform(*_RENEW_AFTER)  # noqa: S311 - no secret
        return max(share * (self.expires_at - time.time()), RETRY_INTERVAL)


#: Returns the current credentials. It may be ``async def``.
CredentialsFunction = Callable[[], Credentials | tuple[str, ...] | Awaitable[Credentials | tuple[str, ...]]]


async def request_credentials(function: CredentialsFunction) -> Credentials:
    """Call the application's function, a plain one in a thread, because it may wait for a network.

    Raises:
        ClusterError: The function has failed, or took longer than :data:`TIMEOUT`. The text does not contain that of
            its exception, which may have a secret; it is the cause.
        ConfigurationError: The function has returned something else.
    """
    called: Any = function
    is_async = inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(type(called).__call__)
    try:
        async with asyncio.timeout(TIMEOUT):
            result = called() if is_async else await asyncio.to_thread(called)
            result = await result if inspect.isawaitable(result) else result
    except (Exception, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        # If this task was not cancelled, something was that the function has awaited. As CancelledError, it would end
        # the task that reconnects.
        reason = f"raised {type(error).__name__}"
        if isinstance(error, TimeoutError):
            reason += f"; it may take {TIMEOUT:g} s"
        raise ClusterError(f"credentials: the function {reason}; Redis cannot be used without them") from error
    return _check(result)


def _check(result: Any) -> Credentials:
    if isinstance(result, tuple) and 1 <= len(result) <= 2:
        # redis-py's CredentialProvider.get_credentials() omits an empty name of a user.
        result = Credentials(*("", *result)[-2:])
    if not isinstance(result, Credentials):
        raise ConfigurationError(f"credentials: the function returned {type(result).__name__}, {_EXPECTED}")
    texts: tuple[Any, ...] = (result.username, result.password)
    expires_at: Any = result.expires_at
    if not all(isinstance(text, str) for text in texts) or not (
        expires_at is None or (isinstance(expires_at, int | float) and not isinstance(expires_at, bool))
    ):
        kinds = ", ".join(type(value).__name__ for value in (*texts, expires_at))
        raise ConfigurationError(f"credentials: the function returned values of the types {kinds}, {_EXPECTED}")
    return result
