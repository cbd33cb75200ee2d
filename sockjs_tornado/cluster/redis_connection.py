"""Connections to Redis, opened from a URL. redis-py parses the URL and its options of TLS, hiredis the replies."""

import asyncio
import re
import ssl
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any, Final

import hiredis
import redis
from redis.asyncio import ConnectionPool

from ..exceptions import ClusterError, ClusterUnavailable, ConfigurationError
from ..session.grace import timeout

#: Seconds to wait for a connection, and the default keepalive interval: after as long without data Redis is pinged, and
#: has as long again to reply. A half-open connection is detected within twice this time.
TIMEOUT: Final = 2.0

#: A command and its arguments. Text is encoded as UTF-8.
Args = tuple[str | bytes | int, ...]

_MIN_VERSION: Final = (7, 0)
_EXPECTED_URL: Final = (
    'expected "redis://host:port/number", "rediss://..." (TLS) or "unix:///path", with "user:password@" before the '
    "host if Redis requires it; the supported options are db and, for rediss, those of TLS (ssl_...)"
)

_ESCAPE: Final = 'percent-encode special characters in the user and the password, such as "/" as %2F and "#" as %23'
# What stands for a port must be digits: without a host, it is the password.
_UNAMBIGUOUS_URL: Final = re.compile(r"([a-z]+://)([^/?#@]*@)?((?:\[[^/?#@]*|[^:/?#@]*)(?::[0-9]*)?(?:/[^?#@]*)?)")
# redis-py omits the code in some of its exceptions.
_USER_IN_REPLY: Final = re.compile("^(NOPERM )?User .* has no", re.DOTALL)
_INVALID_OPTION: Final = "an option behind the question mark is unknown or has an invalid value"

#: The largest number of bytes to read at once.
_READ_SIZE: Final = 64 * 1024

# The beginnings of error replies: wrong credentials, a server that does not accept writes, or no longer does, and one
# that closes the connection immediately.
_CREDENTIALS_ERRORS: Final = ("ERR AUTH", "NOAUTH", "NOPERM", "WRONGPASS")
_NOT_WRITABLE_ERRORS: Final = ("LOADING", "MASTERDOWN", "READONLY")
_NOT_PERMITTED: Final = ("NOPERM", "ERR unknown command")
_REFUSED_ERROR: Final = "ERR max number of clients"

#: The errors of a connection. ``TimeoutError`` is a subclass of ``OSError``.
CONNECTION_ERRORS: Final = (redis.RedisError, OSError, ClusterError)


class RedisURL:
    """The URL of a Redis server.

    Args:
        url: The URL.

    Raises:
        ConfigurationError: The URL is not valid.

    Attributes:
        address: The server's address, for messages.
        database: The number of the database.
    """

    def __init__(self, url: str) -> None:
        _check_url(url)
        try:
            self._pool = ConnectionPool.from_url(url)
            # Check the options; the files of certificates are read for each connection.
            self._pool.make_connection()  # type: ignore[no-untyped-call]
            self._options = self._pool.connection_kwargs
        except (ValueError, TypeError, redis.RedisError):
            raise ConfigurationError(f"url: {_INVALID_OPTION}; {_EXPECTED_URL}") from None
        self._host, self._port = self._options.get("host", "localhost"), self._options.get("port", 6379)
        self.address: str = self._options.get("path") or f"{self._host}:{self._port}"
        self._uses_tls = url.startswith("rediss:")
        self.database = int(self._options.get("db") or 0)

    async def connect(self, probes: Sequence[Args] = (), rules: str = "") -> "RedisConnection":
        """Open a connection, log in, and check the server's version and role.

        Args:
            probes: Commands that Redis must permit as well. Other errors than those of permissions do not matter.
            rules: The rules that permit them, for the error message.

        Raises:
            ClusterUnavailable: The server does not respond.
            ClusterError: The server requires a password, is too old, or does not accept writes.
            ConfigurationError: An option in the URL is not valid.
        """
        connection = None
        try:
            async with timeout(TIMEOUT):
                if path := self._options.get("path"):
                    streams = await asyncio.open_unix_connection(path)
                else:
                    streams = await asyncio.open_connection(self._host, self._port, ssl=self._tls_context())
                connection = RedisConnection(*streams)
                await self._log_in(connection, probes, rules)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, CONNECTION_ERRORS):
                # The event loop closes the socket in its next turn.
                await asyncio.sleep(0)
                raise translate_error(error, self.address) from error
            raise
        return connection

    def _tls_context(self) -> ssl.SSLContext | None:
        if not self._uses_tls:
            return None
        try:
            # A new object each time, so that a reconnect reads the files of certificates again.
            connection: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]
            context: ssl.SSLContext = connection.ssl_context.get()
        except (TypeError, ValueError, redis.RedisError, ssl.SSLError):
            raise ConfigurationError(f"url: {_INVALID_OPTION}; {_EXPECTED_URL}") from None
        return context

    async def _log_in(self, connection: "RedisConnection", probes: Sequence[Args], rules: str) -> None:
        """Send the credentials, select the database, and check the server and the user's permissions."""
        commands: list[Args] = []
        username, password = self._options.get("username"), self._options.get("password")
        if username or password:
            commands.append(("AUTH", *([username] if username else []), password or ""))
        if self.database:
            commands.append(("SELECT", self.database))
        # RESP2, which separates replies from published messages.
        commands.append(("HELLO", 2))
        await connection.send(b"".join(map(pack_command, [*commands, *probes])))
        for name, *_ in commands:
            reply = await connection.receive()
            if name == "HELLO":
                check_server(reply, self.address)
            elif isinstance(reply, redis.ResponseError):
                raise reply
        missing: list[str] = []
        refused: list[str] = []
        for name, *_ in probes:
            reply = await connection.receive()
            if str(reply).startswith(_NOT_PERMITTED) and isinstance(reply, redis.ResponseError):
                refused.append(mask_user(str(reply)))
                missing.append(str(name).lower())
        if missing:
            user = "<user>" if username else "default"
            raise ClusterError(
                f"Redis at {self.address} requires another user or password: {refused[0]}. The user must be permitted "
                f"to run {', '.join(dict.fromkeys(missing))} on the cluster's keys and channels. Permit what the "
                f"cluster uses: ACL SETUSER {user} {rules}"
            )


def _check_url(url: object) -> None:
    """Raise ConfigurationError, without any credentials or options, unless a URL is valid."""
    if not isinstance(url, str):
        raise ConfigurationError(f"url: got {type(url).__name__}, {_EXPECTED_URL}")
    fault = _find_fault(url)
    if fault is not None:
        # If a password contains an unescaped "/", "?", "#" or "@", any part of the URL may belong to it.
        shown = _UNAMBIGUOUS_URL.fullmatch(url)
        got = f"got {shown[1]}{'***@' if shown[2] else ''}{shown[3]}, " if shown else ""
        raise ConfigurationError(f"url: {got}{fault}; {_EXPECTED_URL}")


def _find_fault(url: str) -> str | None:
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
        # Options without a value as well.
        options = urllib.parse.parse_qs(parts.query, keep_blank_values=True)
        (parts.hostname or "").encode("idna")
    except ValueError:
        return f"the host or the port is not valid ({_ESCAPE})"
    is_unix = parts.scheme == "unix"
    number = parts.path.strip("/")
    if parts.scheme not in ("redis", "rediss", "unix"):
        return "the scheme is not redis, rediss or unix"
    if "@" in f"{parts.path}{parts.query}" or parts.fragment:
        return f'there is an "@" or "#" behind the host ({_ESCAPE})'
    if is_unix and (not number or parts.netloc.rpartition("@")[2]):
        return f"a socket's path must be absolute, with three slashes before it ({_ESCAPE})"
    if not is_unix and number and not number.isdecimal():
        return f"the path is not the number of a database ({_ESCAPE})"
    # Other options would change behaviour that this package relies on.
    if not all(name == "db" or (name.startswith("ssl_") and parts.scheme == "rediss") for name in options):
        return "an option behind the question mark is not supported; user and password belong before the host"
    return None


def pack_command(args: Args) -> bytes:
    """Encode a command for Redis. Text may contain lone surrogates."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        if isinstance(arg, int):
            arg = b"%d" % arg
        elif isinstance(arg, str):
            arg = arg.encode("utf-8", "surrogatepass")
        parts.append(b"$%d\r\n%b\r\n" % (len(arg), arg))
    return b"".join(parts)


def mask_user(reply: str) -> str:
    """Return an error reply without the name of the user, which Redis repeats."""
    return _USER_IN_REPLY.sub(r"\1User *** has no", reply)


def translate_error(error: Exception, address: str) -> ClusterError:
    """Return the exception of this package for an error of a connection to Redis."""
    if isinstance(error, ClusterError):
        return error
    is_refused = isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError)
    if is_refused or str(error).startswith(_CREDENTIALS_ERRORS):
        return ClusterError(f"Redis at {address} requires another user or password: {mask_user(str(error))}")
    if isinstance(error, redis.ResponseError):
        return ClusterError(f"Redis at {address} cannot be used: {error}")
    return ClusterUnavailable(f"Redis at {address} does not respond: {str(error) or type(error).__name__}")


class RedisConnection:
    """One connection to Redis.

    Attributes:
        bytes_received: The number of bytes received. It grows while a long reply arrives.
        received_at: The monotonic time at which data has last arrived, or at which the connection was opened.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = hiredis.Reader(protocolError=redis.InvalidResponse, replyError=redis.ResponseError)
        self.bytes_received = 0
        self.received_at = time.monotonic()

    async def send(self, commands: bytes) -> None:
        """Send encoded commands."""
        self._writer.write(commands)
        await self._writer.drain()

    async def receive(self) -> Any:
        """Return the next reply or published message. An error reply is returned as an exception, not raised.

        Raises:
            OSError: The connection was closed, or Redis has too many.
            ClusterUnavailable: Redis no longer accepts writes.
        """
        # False means that the reply is not complete; RESP2 has no booleans.
        while (reply := self._parser.gets()) is False:
            data = await self._reader.read(_READ_SIZE)
            if not data:
                raise ConnectionResetError("the connection was closed")
            self.bytes_received += len(data)
            self.received_at = time.monotonic()
            self._parser.feed(data)
        if isinstance(reply, redis.ResponseError):
            if str(reply).startswith(_NOT_WRITABLE_ERRORS):
                raise ClusterUnavailable(f"Redis does not accept writes: {reply}")
            if str(reply).startswith(_REFUSED_ERROR):
                raise ConnectionRefusedError(str(reply))
        return reply

    def close(self) -> None:
        """Close the connection immediately."""
        self._writer.transport.abort()


def check_server(hello: Any, address: str) -> None:
    """Check the version and role of a server by its reply to HELLO, which servers before 6.0 do not know.

    Raises:
        ClusterError: The server cannot be used.
        ResponseError: The reply is another error.
    """
    version = "5 or older"
    if isinstance(hello, redis.ResponseError) and "unknown command" not in str(hello).lower():
        raise hello
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
