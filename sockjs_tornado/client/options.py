"""The options of a client, and the delays between its reconnect attempts, validated."""

import random
import re
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypedDict

from ..exceptions import ConfigurationError
from ..function_checks import check_callback
from ..validation import (
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
from .proxies import Proxy, check_url_text, find_proxy
from .service_url import ServiceURL

#: The application's callbacks, each with its parameters.
HOOK_PARAMETERS = {"on_reconnect": ("client",), "on_disconnect": ("client", "code", "reason")}

#: Names of the transports, in the order in which they are tried.
TRANSPORTS = ("websocket", "xhr_streaming", "eventsource", "xhr")

#: Default close codes after which a client does not reconnect.
FINAL_CODES = (1000, 1008, 3000)

_CLOSE_HINT = "when the connection has ended, recv() and iteration raise ConnectionClosed; see also on_disconnect"
_OPEN_HINT = "connect returns when the connection is open; on_reconnect is called in each later session"
_CERTIFICATE_HINT = "use client_cert for the client's certificate, and ca_file for the authorities that it trusts"
_PING_HINT = "the server sends heartbeats, and heartbeat_timeout says for how long they may be missing"
_QUERY_HINT = "append it to the URL: http://host/echo?name=value"

#: Arguments that other libraries have, each with what to do instead.
MISPLACED = {
    "auth": "use a URL with credentials, or headers={'Authorization': '...'}",
    "cert": _CERTIFICATE_HINT,
    "certfile": _CERTIFICATE_HINT,
    "cookies": "use headers={'Cookie': 'name=value'}",
    "on_close": _CLOSE_HINT,
    "on_connect": _OPEN_HINT,
    "on_error": _CLOSE_HINT,
    "on_message": "read messages with recv(), or iterate over the client",
    "on_open": _OPEN_HINT,
    "params": _QUERY_HINT,
    "ping_interval": _PING_HINT,
    "ping_timeout": _PING_HINT,
    "query": _QUERY_HINT,
    "ssl": "use ssl_context, or ca_file, client_cert and verify",
    "token": "use headers={'Authorization': '...'}",
}

_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# Header fields that the transports set.
_RESERVED = re.compile(
    r"connection|content-length|content-type|expect|host|origin|transfer-encoding|upgrade|sec-websocket-.*",
    re.IGNORECASE,
)
_NO_TLS = "the URL begins with http://, so that no TLS would be used"


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
    return isinstance(value, str | Path) and not _hint_at_pem(value)


def _is_certificate(value: Any) -> bool:
    return _is_path(value) or (isinstance(value, tuple) and len(value) == 2 and all(map(_is_path, value)))


def _hint_at_pem(value: Any) -> str:
    return " that has the text of a PEM file: write it to a file" if "-----BEGIN" in str(value) else ""


def _is_client_context(value: Any) -> bool:
    return isinstance(value, ssl.SSLContext) and value.protocol != ssl.PROTOCOL_TLS_SERVER


def _reject_encrypted_key() -> NoReturn:
    # Without this, OpenSSL would ask for the password in the terminal.
    raise OSError("the key is encrypted; decrypt it, or load it with its password into an ssl_context")


def _are_close_codes(value: Any) -> bool:
    return isinstance(value, Collection) and all(isinstance(code, int) and 0 <= code <= 65535 for code in value)


def _show_codes(value: Any) -> str:
    return f" {safe_repr(value)}" if isinstance(value, Collection) else ""


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
                if name.lower() == "origin":
                    raise ConfigurationError("headers: Origin is set by the option origin")
                if _RESERVED.fullmatch(name):
                    raise ConfigurationError(f"headers: {name} is set by the client itself")
                if not _VALUE.fullmatch(value):
                    raise ConfigurationError(f"headers: the value of {name} is not Latin-1 text on one line")
                pairs.append((name, value))
            case (str(name), value) if TOKEN.fullmatch(name) and not isinstance(value, str):
                raise ConfigurationError(f"headers: expected a str as the value of {name}, got {type(value).__name__}")
            case _:
                types = ", ".join(type(part).__name__ for part in pair) if isinstance(pair, tuple) else ""
                raise ConfigurationError(
                    "headers: expected pairs of a field name, which has no colon and no space, and a value, both of "
                    f"type str, got {f'({types})' if types else type(pair).__name__}"
                )
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
    ca_file: str | Path | None = option("a path or None", or_none(_is_path), hint=_hint_at_pem)
    client_cert: str | Path | tuple[str | Path, str | Path] | None = option(
        "a path, a pair of paths (certificate and key), or None", or_none(_is_certificate), hint=_hint_at_pem
    )
    verify: bool = option("True or False", is_flag)
    ssl_context: ssl.SSLContext | None = option(
        "an ssl.SSLContext for clients or None",
        or_none(_is_client_context),
        hint=lambda value: " for servers" if isinstance(value, ssl.SSLContext) else "",
    )
    proxy: Proxy | bool | None = option("parsed", lambda value: not isinstance(value, str))
    open_timeout: float = option(SECONDS, is_positive)
    transport_timeout: float = option(SECONDS, is_positive)
    heartbeat_timeout: float | None = option(f"{SECONDS} or None", or_none(is_positive))
    close_timeout: float = option(SECONDS, is_positive)
    max_message_size: int = option(_BYTES, is_count)
    max_queue_bytes: int = option(_BYTES, is_count)
    reconnect: bool | Backoff = option("True, False or a Backoff", lambda value: isinstance(value, bool | Backoff))
    final_codes: Collection[int] = option(
        "a list of close codes, which are integers of 0-65535", _are_close_codes, hint=_show_codes
    )
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
                raise ConfigurationError(f"ssl_context: {_NO_TLS}")
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
        if self.backoff is None and set(self.final_codes) != set(FINAL_CODES):
            raise ConfigurationError("final_codes: without reconnect=True or a Backoff, it would have no effect")
        for name, parameters in HOOK_PARAMETERS.items():
            callback = getattr(self, name)
            if callback is not None:
                if self.backoff is None:
                    raise ConfigurationError(f"{name}: it is never called without reconnect=True or a Backoff")
                check_callback(name, callback, parameters)
        for name, files in (("ca_file", self.ca_file), ("client_cert", self.client_cert)):
            if files is not None:
                if service.origin[0] != "https":
                    raise ConfigurationError(f"{name}: {_NO_TLS}")
                only: dict[str, Any] = {"ca_file": None, "client_cert": None, name: files}
                try:
                    replace(self, **only).create_ssl_context()
                except OSError as error:  # an ssl.SSLError, too
                    hint = "; expected a certificate and its key, in this order" if "PEM lib" in str(error) else ""
                    raise ConfigurationError(f"{name}: {files} cannot be used: {error}{hint}") from error

    def create_ssl_context(self) -> ssl.SSLContext:
        """Return the SSL context for websockets; raise OSError if a file is not usable."""
        if self.ssl_context is not None:
            return self.ssl_context
        context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        # As libcurl, and Python since 3.13: the file may have the server's own certificate, whoever has issued it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate_files:
            context.load_cert_chain(self.certificate_files[0], self.certificate_files[-1], _reject_encrypted_key)
        return context
