"""Connections to Redis, opened from a URL. redis-py parses the URL and its options of TLS, hiredis the replies."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import hiredis
import redis

from ..exceptions import ClusterError, ClusterUnavailable, ConfigurationError
from ..session.grace import timeout
from .credentials import Credentials, CredentialsFunction, request_credentials
from .envelope import RedisKeys
from .redis_errors import CONNECTION_ERRORS, TOO_MANY_CLIENTS, login_hint, mask_user, scheme_hint, translate_error
from .redis_url import CLIENT_NAME, Address, ParsedURL, describe
from .sentinel import find_masters
from .server_check import check_cluster_mode, check_server
from .slot_routing import SlotMoved, servers_of

#: Seconds to wait for a connection, and the default keepalive interval: after as long without data Redis is pinged, and
#: has as long again to reply. A half-open connection is detected within twice this time.
TIMEOUT: Final = 2.0

#: A command and its arguments. Text is encoded as UTF-8.
Args = tuple[str | bytes | int, ...]

#: The largest number of bytes to read at once.
_READ_SIZE: Final = 64 * 1024

# The beginnings of error replies: a server that does not accept writes, or no longer does, and one that closes the
# connection immediately.
_NOT_WRITABLE_ERRORS: Final = ("CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY")

# The beginning of the reply to a command that the server does not have, in lower case.
_UNKNOWN_COMMAND: Final = "err unknown command"

# A server of Redis Cluster that was just replaced may name another one that does not know it yet either.
_MAX_REDIRECTS: Final = 5


class RedisURL:
    """The URL of Redis: of a server, of sentinels that know the server, or of Redis Cluster.

    Args:
        url: The URL.
        namespace: The prefix of all keys and channels. With Redis Cluster, it determines the server.
        credentials: Returns the credentials; it is called before each connect. None to use those of the URL.
        client_name: The name of connections, which CLIENT LIST shows, unless the URL has another one.

    Raises:
        ConfigurationError: An argument is not valid.

    Attributes:
        address: The address in the URL, for messages.
        keys: The names of keys and channels.
        client_name: The name of connections, or None.
    """

    def __init__(
        self,
        url: str,
        namespace: str = "sockjs",
        *,
        credentials: CredentialsFunction | None = None,
        client_name: str | None = None,
    ) -> None:
        self.parsed = ParsedURL(url)
        if credentials is not None and not callable(credentials):
            raise ConfigurationError(f"credentials: got {type(credentials).__name__}, expected a function")
        if credentials is not None and (self.parsed.username or self.parsed.password):
            raise ConfigurationError("credentials: expected a URL without user and password, because both are given")
        name: Any = client_name
        if name is not None and not (isinstance(name, str) and CLIENT_NAME.fullmatch(name)):
            raise ConfigurationError(f"client_name: got {client_name!r}, expected ASCII characters without spaces")
        self.address = ",".join(map(describe, self.parsed.addresses))
        self.keys = RedisKeys(namespace, self.parsed.database, hash_tag=self.parsed.is_cluster)
        self._credentials = credentials
        self.client_name = self.parsed.client_name or client_name
        # The servers of Redis Cluster that are known, beginning with that of the last connection.
        self._known: list[Address] = self.parsed.addresses

    @property
    def database(self) -> int:
        """The number of the database."""
        return self.parsed.database

    @property
    def finds_servers(self) -> bool:
        """Whether sentinels or other servers of Redis Cluster name the server to connect to."""
        return bool(self.parsed.master) or self.parsed.is_cluster

    @property
    def has_credentials_function(self) -> bool:
        """Whether the application's function returns the credentials, which may expire."""
        return self._credentials is not None

    async def request_credentials(self) -> Credentials:
        """Return the current credentials.

        Raises:
            ClusterError: The application's function has failed.
            ConfigurationError: It has returned something else.
        """
        if self._credentials is None:
            return Credentials(self.parsed.username, self.parsed.password)
        return await request_credentials(self._credentials)

    async def connect(self, probes: Sequence[Args] = (), rules: str = "", protocol: int = 2) -> "RedisConnection":
        """Open a connection to the server, log in, and check the server's version and role.

        Args:
            probes: Commands that Redis must permit as well. Other errors than those of permissions do not matter.
            rules: The rules that permit them, for the error message.
            protocol: The version of the protocol. With 2, a connection with subscriptions cannot authenticate again.

        Raises:
            ClusterUnavailable: The server does not respond, or no server can be used at the moment.
            ClusterError: The server requires a password, is too old, or does not accept writes.
            ConfigurationError: An option in the URL is not valid.
        """
        credentials = await self.request_credentials()
        log_in = partial(self._log_in, credentials=credentials, probes=probes, rules=rules, protocol=protocol)
        if self.parsed.master:
            return await self._open_master(log_in)
        candidates = deque(self._known)
        failure: ClusterUnavailable | None = None
        redirects = 0
        while candidates:
            address = candidates.popleft()
            try:
                return await self._open(address, log_in)
            except SlotMoved as moved:
                failure = moved
                if redirects < _MAX_REDIRECTS:
                    candidates.appendleft(moved.address(address))
                redirects += 1
            except ClusterUnavailable as error:
                # Of a server that another one has named, this is the cause.
                failure = error if isinstance(failure, SlotMoved) else failure or error
                if address in self._known:
                    # The next connect tries the others first.
                    self._known = [*(known for known in self._known if known != address), address]
        assert failure is not None
        raise failure

    async def _open_master(self, log_in: "Callable[[RedisConnection], Awaitable[object]]") -> "RedisConnection":
        """Open a connection to the first server that sentinels name and that is a master; see :meth:`_open`."""
        failure: ClusterUnavailable | None = None
        async with contextlib.aclosing(find_masters(self.parsed.addresses, self._ask_sentinel)) as masters:
            async for address in masters:
                try:
                    return await self._open(address, log_in)
                except ClusterUnavailable as error:
                    failure = failure or error
        assert failure is not None
        raise failure

    async def _open(
        self, address: Address, log_in: "Callable[[RedisConnection], Awaitable[object]]"
    ) -> "RedisConnection":
        """Open a connection, and call ``log_in`` with it."""
        connection = None
        try:
            async with timeout(TIMEOUT):
                if isinstance(address, str):
                    streams = await asyncio.open_unix_connection(address)
                else:
                    streams = await asyncio.open_connection(*address, ssl=self.parsed.tls_context())
                connection = RedisConnection(*streams, address)
                await log_in(connection)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, CONNECTION_ERRORS):
                # The event loop closes the socket in its next iteration.
                await asyncio.sleep(0)
                is_silent = connection is not None and not connection.bytes_received
                hint = scheme_hint(
                    self.parsed,
                    connect_timed_out=isinstance(error, TimeoutError) and connection is None,
                    closed_without_reply=isinstance(error, ConnectionError) and is_silent,
                )
                translated = translate_error(error, describe(address), hint, login_hint(self.parsed))
                if translated is not error:
                    raise translated from error
            raise
        return connection

    async def _ask_sentinel(self, address: Address) -> Address | None:
        """Return the address of the master as a sentinel names it, or None if it does not know its name."""
        found = None

        async def ask(connection: RedisConnection) -> None:
            nonlocal found
            login: list[Args] = [("AUTH", *self.parsed.sentinel_login)] if self.parsed.sentinel_login else []
            commands: list[Args] = [*login, ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.parsed.master)]
            await connection.send(b"".join(map(pack_command, commands)))
            for _ in commands:
                found = await connection.receive()
                if str(found).lower().startswith(_UNKNOWN_COMMAND):
                    raise ClusterError(
                        f"Redis at {describe(address)} is not a sentinel; the URL of a single server is "
                        '"redis://host:port/number", and sentinels usually have port 26379'
                    )
                if isinstance(found, redis.ResponseError):
                    raise found

        connection = await self._open(address, ask)
        connection.close()
        await asyncio.sleep(0)
        if isinstance(found, list):
            host, port = found
            return host.decode(), int(port)
        return None

    async def _log_in(
        self,
        connection: "RedisConnection",
        credentials: Credentials,
        probes: Sequence[Args],
        rules: str,
        protocol: int,
    ) -> None:
        """Send the credentials, select the database, and check the server and the user's permissions."""
        commands: list[Args] = []
        if credentials.username or credentials.password:
            commands.append(("AUTH", *credentials.args))
        if self.database:
            commands.append(("SELECT", self.database))
        # RESP2 separates replies from published messages. SETNAME is an option of HELLO, which every user may run.
        set_name = ("SETNAME", self.client_name) if self.client_name else ()
        commands.append(("HELLO", protocol, *set_name))
        if self.parsed.is_cluster:
            # The reply is an error that names the server if the slot is not here.
            commands += [("EXISTS", self.keys.alive("")), ("CLUSTER", "SLOTS")]
        await connection.send(b"".join(map(pack_command, [*commands, *probes])))
        hello: Any = None
        for name, *_ in commands:
            reply = await connection.receive()
            if name == "HELLO":
                hello = reply
                check_server(reply, connection.address, self.parsed, must_be_master=not self.parsed.is_cluster)
            elif name == "CLUSTER":
                check_cluster_mode(hello, reply, connection.address)
                found = [connection.address, *self.parsed.addresses, *servers_of(reply)]
                self._known = list(dict.fromkeys(found))
            elif isinstance(reply, redis.ResponseError):
                raise reply
        connection.credentials = credentials
        missing: list[str] = []
        refused: list[str] = []
        unknown: list[str] = []
        for name, *_ in probes:
            reply = await connection.receive()
            if not isinstance(reply, redis.ResponseError):
                continue
            if str(reply).lower().startswith(_UNKNOWN_COMMAND):
                unknown.append(str(name))
            elif str(reply).startswith("NOPERM"):
                refused.append(mask_user(str(reply)))
                missing.append(str(name).lower())
        if unknown:
            raise ClusterError(
                f"Redis at {describe(connection.address)} does not know the commands that the cluster uses: "
                f"{', '.join(dict.fromkeys(unknown))}. They are disabled in its configuration (rename-command), or it "
                "is another program that is not compatible with Redis 7.0"
            )
        if missing:
            user = "<user>" if credentials.username else "default"
            raise ClusterError(
                f"Redis at {describe(connection.address)} accepts the user, but does not permit all commands: "
                f"{refused[0]}. The user must be permitted to run {', '.join(dict.fromkeys(missing))} on the cluster's "
                "keys and channels. "
                f"Permit what the cluster uses: ACL SETUSER {user} {rules}"
            )


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


class RedisConnection:
    """One connection to Redis.

    Attributes:
        address: The server's address.
        credentials: The credentials of the last login.
        bytes_received: The number of bytes received. It grows while a long reply arrives.
        received_at: The monotonic time at which data has last arrived, or at which the connection was opened.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: Address) -> None:
        self.address = address
        self.credentials = Credentials("", "")
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
            ClusterUnavailable: Redis no longer accepts writes, or no longer has the namespace.
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
            if str(reply).startswith("MOVED "):
                raise SlotMoved(str(reply))
            if str(reply).startswith(_NOT_WRITABLE_ERRORS):
                raise ClusterUnavailable(f"Redis does not accept writes: {reply}")
            if TOO_MANY_CLIENTS in str(reply):
                raise ConnectionRefusedError(str(reply))
        return reply

    def close(self) -> None:
        """Close the connection immediately."""
        self._writer.transport.abort()
