"""What a client is told to do: its options, and the address of the service."""

import base64
import re
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from ..exceptions import ConfigurationError
from .backoff import Backoff

__all__ = ["TRANSPORTS", "Options", "Place"]

#: Names of the transports, in the order in which they are tried.
TRANSPORTS = ("websocket", "xhr_streaming", "eventsource", "xhr")

Headers = Mapping[str, str] | Iterable[tuple[str, str]]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_URL = re.compile(r"[\x21-\x7e]+")
# What the transports write themselves.
_RESERVED = re.compile(
    r"connection|content-length|content-type|expect|host|origin|transfer-encoding|upgrade|sec-websocket-.*",
    re.IGNORECASE,
)
_PORTS = {"http": 80, "https": 443}


class Place(NamedTuple):
    """The address of a SockJS service.

    Attributes:
        url: Where it is, without credentials and without a slash at the end.
        origin: Scheme, host and port.
        authorization: What an Authorization field says where the address held credentials; empty where not.
    """

    url: str
    origin: tuple[str, str, int]
    authorization: str = ""

    @classmethod
    def parse(cls, url: object) -> "Place":
        """Take an address apart.

        Raises:
            ConfigurationError: It is none that a SockJS service can have. The text holds no credentials.
        """
        if not isinstance(url, str) or not _URL.fullmatch(url):
            raise ConfigurationError("url: takes text of ASCII characters without spaces, such as 'http://host/echo'")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            # Python's own text may repeat a password.
            raise ConfigurationError("url: its host or its port is not possible") from error
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ConfigurationError(f"url: got {bare.geturl()!r}, takes one with http:// or https:// and a host")
        if parts.query or parts.fragment:
            raise ConfigurationError(f"url: got {bare.geturl()!r}, takes one without a query and a fragment")
        origin = (parts.scheme, parts.hostname, _PORTS[parts.scheme] if port is None else port)
        return cls(bare.geturl().rstrip("/?#"), origin, _basic(parts))


def _basic(parts: SplitResult) -> str:
    if parts.username is None:
        return ""
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _path(value: Any) -> bool:
    return isinstance(value, str | Path)


def _iterable(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)


def _pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_path, value))


def _url(value: Any) -> bool:
    return isinstance(value, str) and _URL.fullmatch(value) is not None


def _field(value: Any) -> bool:
    return isinstance(value, str) and _VALUE.fullmatch(value) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of a client, as :func:`sockjs_tornado.client.connect` describes them.

    Raises:
        ConfigurationError: A value is not acceptable.
    """

    transports: Sequence[str]
    headers: Headers
    origin: str | None
    ca_file: str | Path | None
    client_cert: str | Path | tuple[str | Path, str | Path] | None
    verify: bool
    proxy: str | None
    open_timeout: float
    transport_timeout: float
    heartbeat_timeout: float | None
    close_timeout: float
    max_message_size: int
    max_queue_bytes: int
    reconnect: bool | Backoff
    final_codes: Collection[int]
    on_reconnect: Callable[[Any], Awaitable[object] | None] | None

    def __post_init__(self) -> None:
        seconds = "a number of seconds above 0"
        certificate = self.client_cert
        for name, takes, fits in (
            ("ca_file", "the path of a file, or None", self.ca_file is None or _path(self.ca_file)),
            (
                "client_cert",
                "the path of a file, a pair of those of certificate and key, or None",
                certificate is None or _path(certificate) or _pair(certificate),
            ),
            ("verify", "True or False", isinstance(self.verify, bool)),
            ("origin", "text such as 'https://example.com', or None", self.origin is None or _field(self.origin)),
            ("proxy", "a URL, or None", self.proxy is None or _url(self.proxy)),
            ("open_timeout", seconds, _number(self.open_timeout)),
            ("transport_timeout", seconds, _number(self.transport_timeout)),
            ("close_timeout", seconds, _number(self.close_timeout)),
            (
                "heartbeat_timeout",
                f"{seconds}, or None",
                self.heartbeat_timeout is None or _number(self.heartbeat_timeout),
            ),
            ("max_message_size", "a number of bytes above 0", _count(self.max_message_size)),
            ("max_queue_bytes", "a number of bytes above 0", _count(self.max_queue_bytes)),
            ("reconnect", "True, False or a Backoff", isinstance(self.reconnect, bool | Backoff)),
            ("headers", "a mapping, or pairs", _iterable(self.headers)),
            ("final_codes", "a list of close codes", self._are_codes(self.final_codes)),
            ("on_reconnect", "a callable, or None", self.on_reconnect is None or callable(self.on_reconnect)),
        ):
            if not fits:
                value = getattr(self, name)
                # Others may hold secrets.
                shown = repr(value) if isinstance(value, bool | int | float) else type(value).__name__
                raise ConfigurationError(f"{name}: got {shown}, takes {takes}")
        self._check_transports()
        object.__setattr__(self, "final_codes", frozenset(self.final_codes))
        self._check_headers()

    @staticmethod
    def _are_codes(value: Any) -> bool:
        return isinstance(value, Collection) and all(isinstance(code, int) for code in value)

    def _check_transports(self) -> None:
        names: Any = self.transports
        if isinstance(names, str) or not isinstance(names, Sequence) or not names:
            raise ConfigurationError(f"transports: takes a list of names, of {', '.join(TRANSPORTS)}")
        for name in names:
            if name not in TRANSPORTS:
                raise ConfigurationError(f"transports: there is no {name!r}, but {', '.join(TRANSPORTS)}")
        object.__setattr__(self, "transports", tuple(dict.fromkeys(names)))

    def _check_headers(self) -> None:
        given: Any = self.headers
        pairs: list[Any] = list(given.items() if isinstance(given, Mapping) else given)
        for pair in pairs:
            match pair:
                # Values may be secret: no error shows one.
                case (str(name), str(value)) if _TOKEN.fullmatch(name):
                    if _RESERVED.fullmatch(name):
                        raise ConfigurationError(f"headers: {name} is written by the client itself")
                    if not _VALUE.fullmatch(value):
                        raise ConfigurationError(f"headers: the value of {name} is not Latin-1 text on one line")
                case _:
                    raise ConfigurationError("headers: takes names of header fields, each with its value")
        object.__setattr__(self, "headers", tuple(map(tuple, pairs)))

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields as pairs."""
        assert isinstance(self.headers, tuple)
        return self.headers

    @property
    def backoff(self) -> Backoff | None:
        """How to connect again; None for not at all."""
        if isinstance(self.reconnect, Backoff):
            return self.reconnect
        return Backoff() if self.reconnect else None

    def tls(self) -> ssl.SSLContext:
        """Return what Python's own TLS needs.

        Raises:
            OSError: A file cannot be read, or holds no certificate.
        """
        context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_cert is not None:
            pair = self.client_cert if isinstance(self.client_cert, tuple) else (self.client_cert, None)
            context.load_cert_chain(*pair)
        return context
