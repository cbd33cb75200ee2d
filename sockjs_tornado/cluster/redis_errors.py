"""The errors of connections to Redis, as the exceptions of this package, and hints for the operator."""

import re
import ssl
from typing import Final

import redis

from ..exceptions import ClusterError, ClusterUnavailable
from .redis_url import ParsedURL

#: The errors of a connection. ``TimeoutError`` is a subclass of ``OSError``.
CONNECTION_ERRORS: Final = (redis.RedisError, OSError, ClusterError)

# What redis-py adds to an error of a pipeline: the beginning of the command, which may have a message.
_PIPELINE_PREFIX: Final = re.compile(r"^Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
# redis-py omits the code in some of its exceptions.
_USER_IN_REPLY: Final = re.compile("^(NOPERM )?User .* has no", re.DOTALL)

# The beginnings of error replies to wrong credentials.
_CREDENTIALS_ERRORS: Final = ("ERR AUTH", "NOAUTH", "WRONGPASS")

#: A part of the error reply to a connection that exceeds ``maxclients``; redis-py omits its code.
TOO_MANY_CLIENTS: Final = "max number of clients"

# A part of the reply to AUTH if the default user has no password.
_UNNEEDED_LOGIN: Final = "called without any password configured"


def scheme_hint(parsed: ParsedURL, *, connect_timed_out: bool, closed_without_reply: bool) -> str:
    """Return what to check in the URL, if perhaps only one side uses TLS."""
    # Redis without TLS takes the handshake for the beginning of a command, and waits for the rest.
    if connect_timed_out and parsed.uses_tls:
        return ". If Redis does not use TLS at this port, the URL begins with redis, sentinel or cluster"
    is_unix = isinstance(parsed.addresses[0], str)
    if closed_without_reply and not parsed.uses_tls and not is_unix:
        return ". If Redis uses TLS at this port, the URL begins with rediss, sentinels or clusters"
    return ""


def login_hint(parsed: ParsedURL) -> str:
    """Return what to check in the URL, if Redis rejects its credentials."""
    if parsed.username and not parsed.password:
        return (
            ". The URL has a user without a password; a password without a user follows a colon: redis://:password@host"
        )
    return ""


def mask_user(reply: str) -> str:
    """Return an error reply without the name of the user, which Redis repeats, and without the command."""
    return _USER_IN_REPLY.sub(r"\1User *** has no", _PIPELINE_PREFIX.sub("", reply))


def translate_error(error: Exception, address: str, hint: str = "", login: str = "") -> ClusterError:
    """Return the exception of this package for an error.

    Args:
        error: The error.
        address: The server's address.
        hint: What to check if the server does not respond.
        login: What to check if it rejects the credentials.
    """
    if isinstance(error, ClusterError):
        return error
    if _UNNEEDED_LOGIN in str(error):
        return ClusterError(
            f"Redis at {address} requires no password, but the URL has one, or the function credentials returns one; "
            "omit it, or configure it in Redis"
        )
    if isinstance(error, redis.exceptions.NoPermissionError) or str(error).startswith("NOPERM"):
        return ClusterError(
            f"Redis at {address} accepts the user, but does not permit a command: {mask_user(str(error))}. Grant the "
            "permissions that docs/scaling.md lists (ACL SETUSER)"
        )
    if isinstance(error, redis.AuthenticationError) or str(error).startswith(_CREDENTIALS_ERRORS):
        return ClusterError(f"Redis at {address} requires another user or password: {mask_user(str(error))}{login}")
    if isinstance(error, redis.ResponseError):
        return ClusterError(f"Redis at {address} cannot be used: {error}")
    if isinstance(error, redis.InvalidResponse):
        return ClusterUnavailable(
            f"The response of {address} is not one of Redis: {error}. Check the host and the port; if Redis uses TLS "
            "there, the URL begins with rediss, sentinels or clusters"
        )
    if isinstance(error, ssl.SSLError):
        return ClusterUnavailable(
            f"The TLS connection to Redis at {address} failed: {error}. Check that Redis uses TLS at this port, and "
            "check the certificates of both sides"
        )
    if TOO_MANY_CLIENTS in str(error):
        return ClusterUnavailable(
            f"Redis at {address} accepts no more connections: {error}. Raise maxclients in its configuration, or find "
            "the clients that have too many (CLIENT LIST)"
        )
    return ClusterUnavailable(f"Redis at {address} does not respond: {str(error) or type(error).__name__}{hint}")
