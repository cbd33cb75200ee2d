"""The part of the exchange port that does not depend on the HTTP server."""

import contextlib
import ipaddress
import logging
from collections.abc import Callable, Mapping
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import parse_qs

from tornado.httputil import HTTPServerRequest, parse_cookie
from tornado.netutil import is_valid_ip
from tornado.web import Application, HTTPError

from ..session.connection_info import ConnectionInfo, select_fields
from ..transports.endpoint import Endpoint, request_origin
from ..transports.exchange import Headers
from ..wire.handshake import accept_handshake, offered_subprotocols

# At run time, a class that derives from a Protocol would have no slots, and checks of its instances would be slow.
if TYPE_CHECKING:
    from ..transports.exchange import Exchange as Port
else:
    Port = object

#: Maximum number of header fields. Each takes some hundred bytes as long as the request waits for its response.
MAX_FIELDS: Final = 100

#: Header fields in which proxies report the client.
_PROXY_FIELDS: Final = ("X-Forwarded-For", "X-Real-Ip", "Forwarded")


def parse_cookies(text: str) -> dict[str, str]:
    """Parse a Cookie header in the same way as Tornado's ``request.cookies``."""
    jar = SimpleCookie()
    for name, value in parse_cookie(text).items():
        with contextlib.suppress(CookieError):
            jar[name] = value
    return {name: morsel.value for name, morsel in jar.items()}


def _is_public(ip: str) -> bool:
    """Return whether an address is not one of the same computer, of a private network or of a Unix socket."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(ip.partition("%")[0])
        return (getattr(address, "ipv4_mapped", None) or address).is_global
    return False


class BaseExchange(Port):
    """Base class of the implementations of :class:`~sockjs_tornado.transports.exchange.Exchange`.

    Attributes:
        logger: The log of errors.
        endpoint: The endpoint that serves the request.
    """

    __slots__ = ()

    relayed = False

    logger: ClassVar[logging.Logger]
    endpoint: Endpoint

    def tornado_request(self) -> HTTPServerRequest:
        """Return the request as Tornado's handlers know it."""
        raise NotImplementedError

    def handshake(self) -> tuple[Headers, list[str]]:
        names = ("Upgrade", "Connection", "Sec-WebSocket-Version", "Sec-WebSocket-Key")
        fields = accept_handshake(*map(self.header, names))
        return fields, offered_subprotocols(self.header("Sec-WebSocket-Protocol"))

    def cookie(self, name: str) -> str | None:
        cookies = self.header("Cookie")
        return parse_cookies(cookies).get(name) if name in cookies else None

    def argument(self, name: str) -> str | None:
        values = parse_qs(self.uri.partition("?")[2]).get(name)
        return values[0] if values else None

    def ignored_proxy_fields(self) -> tuple[str, list[str]]:
        fields = {name: value for name in _PROXY_FIELDS if (value := self.header(name))}
        if not fields:
            # Other programs may be health checks, or run by an operator beside the server.
            is_browser = self.is_from_trusted_proxy() and self.header("User-Agent").startswith("Mozilla/")
            return "missing" if is_browser and not _is_public(self.remote_ip) else "", []
        reason = self.ignores_proxies()
        real, forwarded = fields.get("X-Real-Ip", ""), fields.get("X-Forwarded-For", "")
        # A proxy that sets both appends the address to those that are there.
        if not reason and forwarded and is_valid_ip(real) and real not in map(str.strip, forwarded.split(",")):
            return "contradictory", ["X-Forwarded-For"]
        if _is_public(self.remote_ip):
            return "", []
        if reason:
            return reason, list(fields)
        # X-Real-Ip takes precedence.
        for name, value in (("X-Real-Ip", real), ("X-Forwarded-For", forwarded)):
            if value:
                return ("", []) if is_valid_ip(value.rpartition(",")[2].strip()) else ("invalid", [name])
        return "", []

    def ignores_proxies(self) -> str:
        """Return which option makes the HTTP server ignore the header fields of proxies, as a reason."""
        return ""

    def is_from_trusted_proxy(self) -> bool:
        """Return whether the address of the connection is one of ``trusted_proxies``."""
        return False

    def jsessionid_setting(self) -> str | bool:
        setting = self.endpoint.server.settings.jsessionid
        value = setting(self.tornado_request()) if callable(setting) else setting
        return value if isinstance(value, str) else bool(value)

    def info(self, transport: str, suffix: int) -> ConnectionInfo:
        server = self.endpoint.server
        origins = server.origins
        trusted = origins.restricted and origins.allows_credentials(request_origin(self.header))
        cookies = self.header("Cookie") if trusted else None
        return ConnectionInfo(
            ip=self.remote_ip,
            port=self.remote_port,
            uri=self.uri,
            prefix=suffix,
            transport=transport,
            headers=self.selected_fields(cookies),
            # Parsed on demand: unparsed, even many small cookies take little memory.
            cookies=None if cookies is None else partial(parse_cookies, cookies),
            router=server,
        )

    def selected_fields(self, cookies: str | None) -> Mapping[str, str] | Callable[[], Mapping[str, str]]:
        """Return the header fields that a session keeps, or a function that returns them.

        Args:
            cookies: The Cookie field if the origin is trusted with credentials, else None.

        Raises:
            RequestTooLargeError: They are larger than a session may keep.
        """
        trusted = self.endpoint.server.settings.trusted_headers
        return select_fields(self.fields(), cookies=cookies, trusted=trusted)

    def rejection_fields(self, *fields: tuple[str, str]) -> Headers:
        """Return ``fields``, followed by the endpoint's, unless the application fails to choose the cookie."""
        try:
            return self.endpoint.headers(self, *fields)
        except Exception as error:
            if not isinstance(error, HTTPError):
                self.log_error(error)
            return list(fields)

    def summary(self) -> str:
        """Return the request line for the log, without the session id, which is the client's secret."""
        path, separator, query = self.uri.partition("?")
        if self.endpoint.suffix == 3:
            # The path ends with SERVER/SESSION/TRANSPORT and an optional slash.
            segments = path.split("/")
            segments[-3 if path.endswith("/") else -2] = "***"
            path = "/".join(segments)
        uri = f"{path}{separator}{query}"
        # It may have bytes that terminals take for control characters.
        return f"{self.method} {uri if uri.isprintable() else ascii(uri)[1:-1]} ({self.remote_ip})"

    def log_error(self, error: BaseException) -> None:
        """Log an error of the server. Tornado's own log would contain the session id."""
        log = self.endpoint.server.container.log
        log.write(self.logger, logging.ERROR, "request", "Uncaught exception in %s", self.summary(), error=error)

    def fail(self, error: Exception) -> None:
        """Respond to a request whose endpoint has raised an exception."""
        status = 500
        if isinstance(error, HTTPError):
            # An application's callback may choose the status.
            status = error.status_code
        else:
            self.log_error(error)
        if not self.responded:
            self.respond(status, [])

    def log_request(self, application: Application, handler: Any) -> None:
        """Write the access log of the application, which knows the request as a handler."""
        try:
            application.log_request(handler)
        except Exception as error:
            # The application may have replaced the access log. Its error must not reach the session or the caller.
            log = self.endpoint.server.container.log
            log.write(self.logger, logging.ERROR, "access log", "the access log failed", error=error)
