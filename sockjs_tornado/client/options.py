"""The options of a client, the delays between its reconnect attempts and the URL of its service, validated."""

import random
import re
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict
from urllib.parse import SplitResult, unquote, urlsplit

from ..exceptions import ConfigurationError
from ..function_checks import check_callback
from ..validation import (
    ESCAPE_CREDENTIALS,
    SECONDS,
    Validated,
    is_count,
    is_flag,
    is_number,
    is_origin,
    is_positive,
    named_fields,
    option,
    or_none,
    safe_repr,
)
from ..wire.fields import TOKEN
from .proxies import Proxy, basic_auth, check_url_text, find_proxy

#: The application's callbacks, each with its parameters.
HOOK_PARAMETERS = {"on_reconnect": ("client",), "on_disconnect": ("client", "code", "reason")}

#: Names of the transports, in the order in which they are tried.
TRANSPORTS = ("websocket", "xhr_streaming", "eventsource", "xhr")

_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# Header fields that the transports set.
_RESERVED = re.compile(
    r"connection|content-length|content-type|expect|host|origin|transfer-encoding|upgrade|sec-websocket-.*",
    re.IGNORECASE,
)
_PORTS = {"http": 80, "https": 443}


class ServiceURL(NamedTuple):
    """The URL of a SockJS service, parsed.

    Attributes:
        url: The URL without credentials, without a query and without a trailing slash.
        origin: Scheme, host and port.
        authorization: Value of the Authorization field if the URL contained credentials, otherwise empty.
        query: The query, which every request has, or empty. It may be secret.
    """

    url: str
    origin: tuple[str, str, int]
    authorization: str = ""
    query: str = ""

    def at(self, path: str) -> str:
        """Return the URL of a path below the service's, with the query."""
        if not self.query:
            return self.url + path
        return f"{self.url}{path}{'&' if '?' in path else '?'}{self.query}"

    @classmethod
    def parse(cls, url: object) -> "ServiceURL":
        """Parse a URL, or raise ConfigurationError, whose message never contains credentials."""
        if not isinstance(url, str):
            raise ConfigurationError(f"url: expected a str, such as 'http://host/echo', got {type(url).__name__}")
        check_url_text("url", url, "http://host/echo")
        # Any part of a URL with credentials may belong to the password, if that has an unescaped "/", "?" or "#".
        given = "" if "@" in url else f", got {re.split('[?#]', url)[0]!r}"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # Raised below: Python's own error, which may contain the password, must not be its context.
            parts = None
        if parts is None:
            raise ConfigurationError(
                f"url: the host or the port is invalid{given}; put an IPv6 address in brackets, and "
                f"{ESCAPE_CREDENTIALS}"
            )
        if parts.scheme not in _PORTS or not parts.hostname:
            hint = "; give the URL of the service, not that of a websocket" if parts.scheme in ("ws", "wss") else ""
            raise ConfigurationError(f"url: expected http:// or https:// and a host{given}{hint}")
        if parts.fragment:
            raise ConfigurationError(f"url: expected no fragment; {ESCAPE_CREDENTIALS}")
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        origin = (parts.scheme, parts.hostname, _PORTS[parts.scheme] if port is None else port)
        return cls(bare._replace(query="").geturl().rstrip("/?#"), origin, _url_auth(parts), parts.query)

    def __repr__(self) -> str:
        # Credentials and the query may be secret.
        return f"<{type(self).__name__} {self.url}>"


def _url_auth(parts: SplitResult) -> str:
    return "" if parts.username is None else basic_auth(unquote(parts.username), unquote(parts.password or ""))


@named_fields
@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff(Validated):
    """Exponential backoff with jitter between reconnect attempts.

    The delays start over if a session lasted longer than the delay before it. If a server accepts clients and drops
    them at once, they keep growing.

    Attributes:
        initial: First delay in seconds, above 0. Default 0.5.
        factor: Factor by which each delay grows, at least 1. Default 2.
        maximum: Upper limit of a delay in seconds. Default 30.
        jitter: Random share of a delay, from 0 to 1: the actual delay is between ``(1 - jitter)`` times the delay and
            the full delay. Default 0.5, so that clients that were disconnected together do not reconnect together.
        attempts: Number of consecutive attempts after which the client stops reconnecting. Default None, no limit.

    Raises:
        ConfigurationError: A value is invalid.
    """

    initial: float = option(SECONDS, is_positive, 0.5)
    factor: float = option("a number, 1 or more", lambda value: is_number(value) and value >= 1, 2)
    maximum: float = option(SECONDS, is_positive, 30)
    jitter: float = option("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1, 0.5)
    attempts: int | None = option("an integer above 0 or None", or_none(is_count), None)

    def delays(self) -> Iterator[float]:
        """Yield the delay in seconds before each consecutive attempt, at most ``attempts`` of them."""
        delay = min(self.initial, self.maximum)
        count = 0
        while self.attempts is None or count < self.attempts:
            count += 1
            yield delay * (1 - self.jitter * random.random())  # noqa: S311 - not a secret
            delay = min(delay * self.factor, self.maximum)


def _is_path(value: Any) -> bool:
    return isinstance(value, str | Path)


def _is_certificate(value: Any) -> bool:
    return _is_path(value) or (isinstance(value, tuple) and len(value) == 2 and all(map(_is_path, value)))


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _are_close_codes(value: Any) -> bool:
    return isinstance(value, Collection) and all(isinstance(code, int) for code in value)


def parse_transports(names: Any) -> tuple[str, ...]:
    """Return the names of transports without duplicates, or raise ConfigurationError."""
    is_list = isinstance(names, Sequence) and not isinstance(names, str)
    if not is_list or not names or any(name not in TRANSPORTS for name in names):
        raise ConfigurationError(
            f"transports: expected a list of names out of {', '.join(TRANSPORTS)}, got {safe_repr(names)}"
        )
    return tuple(dict.fromkeys(names))


def parse_headers(headers: object) -> tuple[tuple[str, str], ...]:
    """Return header fields, a mapping or pairs, as pairs, or raise ConfigurationError, which contains no secrets."""
    if not isinstance(headers, Iterable) or isinstance(headers, str):
        raise ConfigurationError(f"headers: expected a mapping or pairs, got {Options._describe(headers)}")
    pairs = []
    for pair in headers.items() if isinstance(headers, Mapping) else headers:
        match pair:
            case (str(name), str(value)) if TOKEN.fullmatch(name):
                if _RESERVED.fullmatch(name):
                    raise ConfigurationError(f"headers: {name} is set by the client itself")
                if not _VALUE.fullmatch(value):
                    raise ConfigurationError(f"headers: the value of {name} is not Latin-1 text on one line")
                pairs.append((name, value))
            case _:
                raise ConfigurationError("headers: expected pairs of a valid field name and a value, both of type str")
    return tuple(pairs)


def parse_proxy(proxy: object) -> Proxy | bool | None:
    """Return the option ``proxy`` with its URL parsed, or raise ConfigurationError, which contains no credentials."""
    if proxy is None or proxy is True:
        return proxy
    if not isinstance(proxy, str):
        raise ConfigurationError(
            "proxy: expected True for the environment's proxies, a URL, or None for no proxy, got "
            f"{Options._describe(proxy)}"
        )
    check_url_text("proxy", proxy, "http://proxy.example:3128")
    return Proxy.parse(proxy)


class ConnectOptions(TypedDict, total=False):
    """The options of :func:`sockjs_tornado.client.connect` that its synchronous twin takes, too, as they are given."""

    transports: Sequence[str]
    headers: Mapping[str, str] | Iterable[tuple[str, str]]
    origin: str | None
    ca_file: str | Path | None
    client_cert: str | Path | tuple[str | Path, str | Path] | None
    verify: bool
    ssl_context: ssl.SSLContext | None
    proxy: str | bool | None
    open_timeout: float
    transport_timeout: float
    heartbeat_timeout: float | None
    close_timeout: float
    max_message_size: int
    max_queue_bytes: int
    reconnect: bool | Backoff
    final_codes: Collection[int]


_BYTES = "a number of bytes above 0"


# Without a repr: header fields may be secret.
@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Options(Validated):
    """The options of a client, as :func:`sockjs_tornado.client.connect` describes them."""

    transports: tuple[str, ...] = option("parsed names", lambda value: isinstance(value, tuple))
    headers: tuple[tuple[str, str], ...] = option("parsed pairs", lambda value: isinstance(value, tuple))
    origin: str | None = option(
        "an origin such as 'https://example.com', without a trailing slash, or None",
        or_none(is_origin),
        hint=lambda value: f" {value!r}" if isinstance(value, str) else "",
    )
    ca_file: str | Path | None = option("a path or None", or_none(_is_path))
    client_cert: str | Path | tuple[str | Path, str | Path] | None = option(
        "a path, a pair of paths (certificate and key), or None", or_none(_is_certificate)
    )
    verify: bool = option("True or False", is_flag)
    ssl_context: ssl.SSLContext | None = option(
        "an ssl.SSLContext or None", or_none(lambda value: isinstance(value, ssl.SSLContext))
    )
    proxy: Proxy | bool | None = option("parsed", lambda value: not isinstance(value, str))
    open_timeout: float = option(SECONDS, is_positive)
    transport_timeout: float = option(SECONDS, is_positive)
    heartbeat_timeout: float | None = option(f"{SECONDS} or None", or_none(is_positive))
    close_timeout: float = option(SECONDS, is_positive)
    max_message_size: int = option(_BYTES, is_count)
    max_queue_bytes: int = option(_BYTES, is_count)
    reconnect: bool | Backoff = option("True, False or a Backoff", lambda value: isinstance(value, bool | Backoff))
    final_codes: Collection[int] = option("a list of close codes", _are_close_codes)
    on_reconnect: Callable[[Any], Awaitable[object] | None] | None = option("a callable or None", or_none(callable))
    on_disconnect: Callable[[Any, int, str], Awaitable[object] | None] | None = option(
        "a callable or None", or_none(callable)
    )

    @staticmethod
    def _describe(value: Any) -> str:
        # Other values may be secret.
        return repr(value) if isinstance(value, bool | int | float) else type(value).__name__

    @property
    def backoff(self) -> Backoff | None:
        """The delays between reconnect attempts, or None if the client does not reconnect."""
        if isinstance(self.reconnect, Backoff):
            return self.reconnect
        return Backoff() if self.reconnect else None

    def find_proxy(self, service: ServiceURL) -> Proxy | None:
        """Return the proxy for the requests to a service; raise ConfigurationError if the environment's is invalid."""
        if self.proxy is True:
            return find_proxy(*service.origin[:2])
        return self.proxy or None

    @property
    def certificate_files(self) -> tuple[str, ...]:
        """The file with the client's certificate, and the file with its key if that is another one."""
        if self.client_cert is None:
            return ()
        return tuple(map(str, self.client_cert if isinstance(self.client_cert, tuple) else (self.client_cert,)))

    def check(self, service: ServiceURL) -> None:
        """Raise ConfigurationError if an option has no effect, or a file with certificates is not usable."""
        if self.ssl_context is not None:
            if service.origin[0] != "https":
                raise ConfigurationError("ssl_context: the URL begins with http://, so that no TLS would be used")
            if "websocket" not in self.transports:
                raise ConfigurationError("ssl_context: only the transport websocket can use it")
            for name, is_given in (
                ("ca_file", self.ca_file is not None),
                ("client_cert", self.client_cert is not None),
                ("verify", not self.verify),
            ):
                if is_given:
                    raise ConfigurationError(f"{name}: cannot be combined with ssl_context, set it in the context")
        elif self.ca_file is not None and not self.verify:
            raise ConfigurationError("ca_file: without verification of certificates, it would have no effect")
        for name, parameters in HOOK_PARAMETERS.items():
            callback = getattr(self, name)
            if callback is not None:
                if self.backoff is None:
                    raise ConfigurationError(f"{name}: it is never called without reconnect=True or a Backoff")
                check_callback(name, callback, parameters)
        for name, files in (("ca_file", self.ca_file), ("client_cert", self.client_cert)):
            if files is not None:
                only: dict[str, Any] = {"ca_file": None, "client_cert": None, name: files}
                try:
                    replace(self, **only).create_ssl_context()
                except OSError as error:  # an ssl.SSLError, too
                    raise ConfigurationError(f"{name}: {files} cannot be used: {error}") from error

    def create_ssl_context(self) -> ssl.SSLContext:
        """Return the SSL context for websockets; raise OSError if a file is not usable."""
        if self.ssl_context is not None:
            return self.ssl_context
        context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate_files:
            context.load_cert_chain(*self.certificate_files)
        return context
