"""The syntax of the URLs of Redis. redis-py parses user, password and the options of TLS."""

import re
import ssl
import urllib.parse
from typing import Any, Final

import redis
from redis.asyncio import ConnectionPool

from ..exceptions import ConfigurationError
from ..validation import ESCAPE_CREDENTIALS

#: Where a server listens: a host and a port, or the path of a Unix socket.
Address = tuple[str, int] | str

EXPECTED_URL: Final = (
    'expected "redis://host:port/number", "rediss://..." (TLS), "unix:///path", '
    '"sentinel://host:port,host:port/master" or "cluster://host:port,host:port" (with TLS "sentinels://" and '
    '"clusters://"), with "user:password@" before the host if Redis requires it; the supported options are db, '
    "client_name, with TLS those of TLS (ssl_...), and for sentinels sentinel_username and sentinel_password"
)

# What stands for a port must be digits: without a host, it is the password.
_UNAMBIGUOUS_URL: Final = re.compile(r"([a-z]+://)([^/?#@]*@)?((?:\[[^/?#@]*|[^:/?#@]*)(?::[0-9]*)?(?:/[^?#@]*)?)")
_INVALID_OPTION: Final = "an option behind the question mark is unknown or has an invalid value"

# The scheme with which one server of each kind is connected to.
_SERVER_SCHEMES: Final = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "sentinel": "redis",
    "sentinels": "rediss",
    "cluster": "redis",
    "clusters": "rediss",
}

_SENTINEL_PORT: Final = 26379
_REDIS_PORT: Final = 6379

#: A name that CLIENT SETNAME accepts: no spaces, and ASCII only.
CLIENT_NAME: Final = re.compile(r"[!-~]+")


class ParsedURL:
    """A URL of Redis.

    Args:
        url: The URL.

    Raises:
        ConfigurationError: The URL is not valid.

    Attributes:
        addresses: The servers, the sentinels, or the known servers of Redis Cluster.
        master: The name by which the sentinels know the server, or ``""`` without sentinels.
        is_cluster: Whether the servers are those of Redis Cluster.
        uses_tls: Whether to connect with TLS.
        username: The user, or ``""``.
        password: The password, or ``""``.
        sentinel_login: The arguments of AUTH for the sentinels, if any.
        database: The number of the database.
        client_name: The name of connections, or ``""``.
        server_url: The URL of the first of ``addresses`` for redis-py.
    """

    def __init__(self, url: str) -> None:
        hosts = _check_url(url)
        parts = urllib.parse.urlsplit(url)
        self.is_cluster = parts.scheme.startswith("cluster")
        self.uses_tls = parts.scheme in ("rediss", "sentinels", "clusters")
        self.master, database = _split_path(parts)
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        login = (query.pop("sentinel_username", ""), query.pop("sentinel_password", ""))
        self.sentinel_login = tuple(part for part in login if part) if login[1] else ()
        if self.master or self.is_cluster:
            userinfo, at, _ = parts.netloc.rpartition("@")
            path = f"/{database}" if database else ""
            scheme = _SERVER_SCHEMES[parts.scheme]
            url = f"{scheme}://{userinfo}{at}{hosts[0]}{path}?{urllib.parse.urlencode(query)}"
        self.server_url = url
        try:
            self._pool = ConnectionPool.from_url(url)
            # Check the options; the files of certificates are read for each connection.
            self._pool.make_connection()  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, redis.RedisError):
            raise ConfigurationError(f"url: {_INVALID_OPTION}; {EXPECTED_URL}") from None
        options: dict[str, Any] = self._pool.connection_kwargs
        self.username: str = options.get("username") or ""
        self.password: str = options.get("password") or ""
        self.client_name: str = options.get("client_name") or ""
        self.database = int(options.get("db") or 0)
        self.addresses: list[Address]
        if "path" in options:
            self.addresses = [options["path"]]
        elif self.master or self.is_cluster:
            self.addresses = [_split_host(host, _SENTINEL_PORT if self.master else _REDIS_PORT) for host in hosts]
        else:
            self.addresses = [(options.get("host", "localhost"), options.get("port", _REDIS_PORT))]

    def tls_context(self) -> ssl.SSLContext | None:
        """Return a new context for a connection with TLS, otherwise None.

        It is a new object each time, so that a reconnect reads the files of certificates again.

        Raises:
            ConfigurationError: An option is not valid, or a file cannot be read.
        """
        if not self.uses_tls:
            return None
        try:
            connection: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]
            context: ssl.SSLContext = connection.ssl_context.get()
        except (TypeError, ValueError, redis.RedisError, ssl.SSLError):
            raise ConfigurationError(f"url: {_INVALID_OPTION}; {EXPECTED_URL}") from None
        except OSError as error:
            raise ConfigurationError(
                "url: cannot read a file of certificates; check that the paths in the options ssl_ca_certs, "
                f"ssl_certfile and ssl_keyfile exist, and that this user may read them: {error.strerror}"
            ) from None
        return context


def describe(address: Address) -> str:
    """Return the text of an address, for messages."""
    return address if isinstance(address, str) else f"{address[0]}:{address[1]}"


def _split_host(host: str, default: int) -> Address:
    parts = urllib.parse.urlsplit(f"//{host}")
    return parts.hostname or "localhost", parts.port or default


def _split_path(parts: urllib.parse.SplitResult) -> tuple[str, str]:
    """Return the name of the sentinels' master and the number of the database."""
    path = parts.path.strip("/")
    if not parts.scheme.startswith("sentinel"):
        return "", path
    master, _, database = path.partition("/")
    return urllib.parse.unquote(master), database


def _check_url(url: object) -> list[str]:
    """Return the hosts of a URL, or raise ConfigurationError, without any credentials or options, if it is invalid."""
    if not isinstance(url, str):
        raise ConfigurationError(f"url: got {type(url).__name__}, {EXPECTED_URL}")
    parts = None
    hosts: list[str] = []
    try:
        parts = urllib.parse.urlsplit(url)
        hosts = [parts.netloc.rpartition("@")[2]]
        if parts.scheme in ("sentinel", "sentinels", "cluster", "clusters"):
            hosts = hosts[0].split(",")
        for host in hosts:
            name = urllib.parse.urlsplit(f"//{host}")
            _ = name.port
            (name.hostname or "").encode("idna")
    except ValueError:
        fault: str | None = f"the host or the port is not valid ({ESCAPE_CREDENTIALS})"
    else:
        fault = _find_fault(parts, hosts)
    if fault is not None:
        # If a password contains an unescaped "/", "?", "#" or "@", any part of the URL may belong to it.
        shown = _UNAMBIGUOUS_URL.fullmatch(url)
        got = f"got {shown[1]}{'***@' if shown[2] else ''}{shown[3]}, " if shown else ""
        raise ConfigurationError(f"url: {got}{fault}; {EXPECTED_URL}")
    return hosts


def _find_fault(parts: urllib.parse.SplitResult, hosts: list[str]) -> str | None:
    # Options without a value as well.
    options = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    is_unix = parts.scheme == "unix"
    is_sentinel = parts.scheme.startswith("sentinel")
    master, number = _split_path(parts)
    if parts.scheme not in _SERVER_SCHEMES:
        return "the scheme is not redis, rediss, unix, sentinel, sentinels, cluster or clusters"
    if "@" in f"{parts.path}{parts.query}" or parts.fragment:
        return f'there is an "@" or "#" behind the host ({ESCAPE_CREDENTIALS})'
    if is_unix and (not number or hosts[0]):
        return f"a socket's path must be absolute, with three slashes before it ({ESCAPE_CREDENTIALS})"
    if not is_unix and number and not number.isdecimal():
        return f"the path is not the number of a database ({ESCAPE_CREDENTIALS})"
    if is_sentinel and not master:
        return "the name of the master that the sentinels monitor is missing behind the hosts"
    if parts.scheme.startswith("cluster") and (number.strip("0") or options.get("db", "0").strip("0")):
        return "Redis Cluster has the database 0 only"
    if not CLIENT_NAME.fullmatch(options.get("client_name", "a")):
        return "the client_name has other characters than ASCII without spaces"
    if len(hosts) > 1 and not all(hosts):
        return "a host is empty"
    allowed = {"db", "client_name", *(("sentinel_username", "sentinel_password") if is_sentinel else ())}
    # Other options would change behaviour that this package relies on.
    is_tls = _SERVER_SCHEMES[parts.scheme] == "rediss"
    if not all(name in allowed or (name.startswith("ssl_") and is_tls) for name in options):
        return "an option behind the question mark is not supported; user and password belong before the host"
    return None
