"""The base classes of all endpoints: methods, origin policy, CORS, caching and the JSESSIONID cookie."""

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate

from ..exceptions import RequestTooLargeError
from ..session.session import Session
from ..session.states import RouterState
from .exchange import Exchange, Headers, Router

logger = logging.getLogger(__name__)

CLOSING, CLOSED = RouterState.CLOSING, RouterState.CLOSED

YEAR = 31_536_000

#: Maximum of the Retry-After header, in seconds.
RETRY_AFTER = 10

#: Body of a 503 response.
TRY_AGAIN = b"Try again later.\n"

#: Body of a 413 response.
TOO_LARGE = b"Payload too large."

#: Body of a 403 response to a page whose origin is not allowed.
ORIGIN_REFUSED = b"Origin not allowed.\n"

#: Maximum size of a body that is ignored. Receiving requests have no body, but some clients send a few bytes.
MAX_UNUSED_BODY = 1024

PLAIN_TEXT = ("Content-Type", "text/plain; charset=UTF-8")
JAVASCRIPT = ("Content-Type", "application/javascript; charset=UTF-8")
# no-transform keeps proxies from buffering a stream in order to compress it.
NO_CACHE = ("Cache-Control", "no-store, no-cache, no-transform, must-revalidate, max-age=0")

# Request headers that a preflight response depends on.
_VARY = ("Vary", "Origin, Access-Control-Request-Headers")

_HEADER_VALUE = re.compile(r"[\x20-\x7e]+")
# Request header values that the response repeats. They are limited because a waiting request keeps them in memory.
_REPEATED_VALUE = re.compile(r"[\x20-\x7e]{1,1024}")
# Browsers support cookies of up to 4096 bytes (RFC 6265, section 6.1).
_COOKIE_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{1,4096}")


def cache_headers() -> Headers:
    """Return header fields that make a response cacheable for a year."""
    return [
        ("Cache-Control", f"public, max-age={YEAR}"),
        ("Expires", formatdate(time.time() + YEAR, usegmt=True)),
    ]


def retry_after() -> tuple[str, str]:
    """Return the Retry-After field of a 503 response, with a random delay to spread the clients."""
    return "Retry-After", str(1 + secrets.randbelow(RETRY_AFTER))


class Endpoint:
    """Base class of endpoints. An endpoint handles the requests for one URL pattern of a router.

    This class checks the state of the router, the origin and the method. Subclasses override :meth:`serve`.

    Attributes:
        server: The router.
        method: The supported method, besides HEAD and OPTIONS.
        suffix: Number of path segments after the router's prefix. If it is 3, the second segment is the session id.
        reads_body: Whether requests with this method have a body. All other bodies are ignored.
        supports_head: Whether HEAD is supported, as GET without a body.
        cors: Whether responses have CORS headers and OPTIONS is supported for preflights.
        has_cookie: Whether responses set the JSESSIONID cookie, as all session URLs do.
    """

    method = "GET"
    suffix = 0
    reads_body = False
    supports_head = False
    cors = False
    has_cookie = True

    def __init__(self, server: Router) -> None:
        self.server = server
        # The cookie's attributes for plain HTTP and for HTTPS.
        self._attributes = tuple(server.settings.session_cookie.attributes(secure) for secure in (False, True))
        # The field for requests without cookies.
        self._dummy_cookies = tuple([_session_cookie("dummy", attributes)] for attributes in self._attributes)

    def handle(self, exchange: Exchange) -> Awaitable[None] | None:
        """Handle a request. If an awaitable is returned, the caller must await it."""
        state = self.server.container.state
        if state is CLOSED or (state is CLOSING and not self.serves_while_closing(exchange)):
            if self.server.container.restarting:
                self.respond_unavailable(exchange, "draining")
            else:
                exchange.respond(404, [])
        elif self.server.origins.restricted and not self.is_origin_allowed(exchange):
            self.server.stats.rejected["allowed_origins"] += 1
            self.log_rejected_origin(exchange)
            exchange.respond(403, [PLAIN_TEXT], ORIGIN_REFUSED)
        elif exchange.method == self.method or (self.supports_head and exchange.method == "HEAD"):
            return self.serve(exchange)
        elif exchange.method == "OPTIONS" and self.cors:
            self._preflight(exchange)
        else:
            exchange.respond(405, [self.allow_header])
        return None

    def body_limit(self, method: str) -> tuple[int, str]:
        """Return the maximum size of a request body in bytes, and the name under which larger ones are counted."""
        limit = self.server.settings.max_message_size
        if limit <= MAX_UNUSED_BODY or (self.reads_body and method == self.method):
            return limit, "max_message_size"
        return MAX_UNUSED_BODY, "unexpected_body"

    def serve(self, exchange: Exchange) -> Awaitable[None] | None:
        """Respond to a request with the right method and an allowed origin."""
        raise NotImplementedError

    def reject_if_full(self, exchange: Exchange) -> bool:
        """Respond with 503 if a limit allows no new session, and return whether it did."""
        limit = self.server.container.limit_reached(exchange.remote_ip)
        if limit is not None:
            if limit != "draining":
                # The address may be that of a proxy.
                by_ip = limit == "max_sessions_per_ip"
                clients = f"new clients from {exchange.remote_ip or 'a Unix socket'}" if by_ip else "new clients"
                message = "%s is reached: %s get 503"
                self.server.container.log.write(logger, logging.WARNING, limit, message, limit, clients)
            self.respond_unavailable(exchange, limit)
        return limit is not None

    def respond_too_large(self, exchange: Exchange, error: RequestTooLargeError) -> None:
        """Respond to a request with more data than a session keeps, such as a long URI."""
        message = "Rejected a client with status %d: %s"
        self.server.container.log.write(logger, logging.INFO, error.limit, message, error.status, error)
        self.reject(exchange, error.status, f"{error}\n".encode(), error.limit)

    def reject(self, exchange: Exchange, status: int, body: bytes, reason: str, *fields: tuple[str, str]) -> None:
        """Respond with an error that says why, and count it under ``reason``."""
        self.server.stats.rejected[reason] += 1
        exchange.respond(status, self.headers(exchange, PLAIN_TEXT, NO_CACHE, *fields), body)

    def respond_unavailable(self, exchange: Exchange, reason: str) -> None:
        """Respond with 503, and count it under ``reason``."""
        self.reject(exchange, 503, TRY_AGAIN, reason, retry_after())

    def is_origin_allowed(self, exchange: Exchange) -> bool:
        """Return whether the origin policy allows the request."""
        if not self.server.origins.restricted:
            return True
        host, fetch_site = exchange.header("Host"), exchange.header("Sec-Fetch-Site")
        return self.server.origins.allows(request_origin(exchange.header), host, fetch_site)

    def log_rejected_origin(self, exchange: Exchange) -> None:
        """Log a request that the origin policy rejects."""
        server = self.server
        origin = request_origin(exchange.header)
        # A client chooses its origin: do not show all of a long one, or characters that control a terminal.
        page = f"a page of {origin!a:.200}" if origin else "a page of another site, which the browser does not name,"
        message = (
            "Rejected %s at the prefix %r with status 403: the setting allowed_origins does not allow it; if the page "
            "is yours, add its origin (--origins of the command serve)"
        )
        if "same-origin" in server.settings.allowed_origins:
            message += (
                ', or for "same-origin", let the proxy keep the field Host (nginx: proxy_set_header Host $http_host)'
            )
        log = server.container.log
        if not log.write_once(logger, logging.WARNING, "rejected origin", message, page, server.prefix):
            # At INFO, since any site may cause it.
            log.write(logger, logging.INFO, "rejected origin", message, page, server.prefix)

    def serves_while_closing(self, exchange: Exchange) -> bool:
        """Return whether the request is served although the router is closing."""
        return False

    def headers(self, exchange: Exchange, *fields: tuple[str, str]) -> Headers:
        """Return ``fields``, followed by this endpoint's CORS headers and cookie."""
        headers = list(fields)
        if self.cors:
            headers += _cors_headers(exchange)
        if self.has_cookie and self.server.cookie_needed:
            headers += self._cookie_headers(exchange)
        return headers

    def _cookie_headers(self, exchange: Exchange) -> Headers:
        setting: str | bool = self.server.settings.jsessionid is True or exchange.jsessionid_setting()
        if setting is True:
            if not exchange.header("Cookie"):
                return self._dummy_cookies[exchange.secure]
            value = exchange.cookie("JSESSIONID")
            if value is None or not _COOKIE_VALUE.fullmatch(value):
                value = "dummy"
            return [_session_cookie(value, self._attributes[exchange.secure])]
        return [("Set-Cookie", setting)] if setting and _HEADER_VALUE.fullmatch(setting) else []

    @property
    def allowed_methods(self) -> str:
        """Value of Access-Control-Allow-Methods. As in the SockJS protocol, HEAD is missing; it needs no permission."""
        return f"OPTIONS, {self.method}" if self.cors else self.method

    @property
    def allow_header(self) -> tuple[str, str]:
        return "Allow", f"{self.allowed_methods}, HEAD" if self.supports_head else self.allowed_methods

    def _preflight(self, exchange: Exchange) -> None:
        # The response does not depend on Access-Control-Request-Method, and is cacheable. It sets no cookie, because
        # browsers ignore cookies of preflight responses.
        headers = [*cache_headers(), *(field for field in _cors_headers(exchange) if field[0] != "Vary")]
        headers += [
            ("Access-Control-Max-Age", str(YEAR)),
            ("Access-Control-Allow-Methods", self.allowed_methods),
            _VARY,
        ]
        exchange.respond(204, headers)


class SessionEndpoint(Endpoint):
    """Base class of endpoints whose URL contains a session id.

    Attributes:
        opens_sessions: Whether a request with an unknown session id opens a session.
    """

    suffix = 3
    opens_sessions = False

    def serve(self, exchange: Exchange) -> Awaitable[None] | None:
        """Respond from the local session, or relay the request to the node that owns the session."""
        session = self.server.container.get(exchange.session_id)
        if session is None:
            relay = self.server.relay
            if relay is not None and not relay.owns(exchange.session_id):
                return relay.serve(self, exchange)
        return self.serve_session(exchange, session)

    def serves_while_closing(self, exchange: Exchange) -> bool:
        """Return whether another process owns the session, or whether its client may not know yet that it ended."""
        relay = self.server.relay
        container = self.server.container
        if container.restarting and relay is not None and not relay.owns(exchange.session_id):
            return True
        return container.get(exchange.session_id) is not None or container.ended(exchange.session_id) is not None

    def serve_session(self, exchange: Exchange, session: Session | None) -> Awaitable[None] | None:
        """Respond from a session of this process, or for None, a session that no process has."""
        raise NotImplementedError

    def respond_session_gone(self, exchange: Exchange) -> None:
        """Respond to a request for a session that was lost, because the process that owned it has ended."""
        raise NotImplementedError

    def respond_disconnected(self, exchange: Exchange) -> None:
        """Respond to a client that has disconnected.

        Only the access log sees the response. Clients abort requests when they close a session, so it is not an error.
        """
        exchange.respond(204, self.headers(exchange, NO_CACHE))


def request_origin(header: Callable[[str], str]) -> str:
    """Return the origin of the page that made a request, from its header fields, or ``""`` if it has none."""
    # Versions 7 and 8 of the WebSocket protocol (2011) have a header of their own.
    return header("Origin") or header("Sec-WebSocket-Origin")


def session_origin(exchange: Exchange) -> str | None:
    """Return the origin of a request for a session.

    If the request has no Origin header, return ``""`` if any page may have made it, such as a GET by a script element.
    Return None if no page of another origin can have made it, since browsers send Origin with each cross-origin POST.
    """
    origin = exchange.header("Origin")
    if origin or exchange.method != "POST":
        return origin
    # A proxy may have removed the Origin header.
    return "" if exchange.header("Sec-Fetch-Site") in ("cross-site", "same-site") else None


def _session_cookie(value: str, attributes: str) -> tuple[str, str]:
    return "Set-Cookie", f"JSESSIONID={value}; path=/{attributes}"


def _cors_headers(exchange: Exchange) -> Headers:
    origin = exchange.header("Origin")
    if not origin:
        headers = [("Access-Control-Allow-Origin", "*")]
    elif _REPEATED_VALUE.fullmatch(origin):
        # Browsers reject "*" with credentials. "null", the origin of sandboxed pages, is echoed like any other.
        headers = [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Credentials", "true"),
            ("Vary", "Origin"),
        ]
    else:
        return []
    requested = exchange.header("Access-Control-Request-Headers")
    if requested and _REPEATED_VALUE.fullmatch(requested):
        headers.append(("Access-Control-Allow-Headers", requested))
    return headers
