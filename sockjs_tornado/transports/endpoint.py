"""What all URLs of a router have in common: methods, the origin policy, CORS, caching and the JSESSIONID cookie."""

import logging
import re
import secrets
import time
from collections.abc import Awaitable
from email.utils import formatdate

from ..exceptions import RequestTooLargeError
from ..session.session import Session
from .exchange import Exchange, Headers, Router

__all__ = [
    "JAVASCRIPT",
    "NO_CACHE",
    "ORIGIN_REFUSED",
    "PLAIN_TEXT",
    "TRY_AGAIN",
    "Endpoint",
    "SessionEndpoint",
    "cache_headers",
    "request_origin",
    "session_origin",
]

logger = logging.getLogger(__name__)

YEAR = 31_536_000

#: Seconds after which, at the latest, a client that was sent away may come again.
RETRY_AFTER = 10

#: The body of a response that sends a client away.
TRY_AGAIN = b"Try again later.\n"

#: The body of a response to a page that may not use the server.
ORIGIN_REFUSED = b"Origin not allowed.\n"

#: Bytes that a body may have that nobody needs: clients send none where they receive, some send a few.
MAX_UNUSED_BODY = 1024

PLAIN_TEXT = ("Content-Type", "text/plain; charset=UTF-8")
JAVASCRIPT = ("Content-Type", "application/javascript; charset=UTF-8")
# no-transform, so that no proxy on the way gathers a stream in order to compress it.
NO_CACHE = ("Cache-Control", "no-store, no-cache, no-transform, must-revalidate, max-age=0")

# What the answer to a preflight depends on.
_VARY = ("Vary", "Origin, Access-Control-Request-Headers")

_HEADER_VALUE = re.compile(r"[\x20-\x7e]+")
# What a client names and an answer repeats: a held request keeps it.
_REPEATED_VALUE = re.compile(r"[\x20-\x7e]{1,1024}")
# Browsers keep cookies of 4096 bytes (RFC 6265, section 6.1).
_COOKIE_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{1,4096}")


def cache_headers() -> Headers:
    """Return the header fields that let an answer be kept for a year."""
    return [
        ("Cache-Control", f"public, max-age={YEAR}"),
        ("Expires", formatdate(time.time() + YEAR, usegmt=True)),
    ]


class Endpoint:
    """One URL of a router: decides who may ask and how, and leaves the answer to its subclasses.

    Args:
        server: The router.

    Attributes:
        server: The router.
        method: The method it is for.
        suffix: How many segments of its path follow the router's prefix. Of three, the second one is a session's id.
        answers_head: Whether it answers HEAD as well, as GET without a body.
        cors: Whether pages of other origins read its answers, and may ask by OPTIONS first.
        has_cookie: Whether it sets the JSESSIONID cookie, as all session URLs do.
    """

    method = "GET"
    suffix = 0
    answers_head = False
    cors = False
    has_cookie = True

    def __init__(self, server: Router) -> None:
        self.server = server
        # Over plain HTTP, and over TLS.
        self._attributes = tuple(server.settings.session_cookie.attributes(secure) for secure in (False, True))

    def handle(self, exchange: Exchange) -> Awaitable[None] | None:
        """Answer a request, or see that it gets answered; what is returned has to be awaited."""
        if self.server.closed or (self.server.container.closing and not self.serves_while_closing(exchange)):
            if self.server.container.draining:
                self.respond_unavailable(exchange, "draining")
            else:
                exchange.respond(404, [])
        elif not self.is_origin_allowed(exchange):
            self.server.stats.rejected["allowed_origins"] += 1
            exchange.respond(403, [PLAIN_TEXT], ORIGIN_REFUSED)
        elif exchange.method == self.method or (self.answers_head and exchange.method == "HEAD"):
            return self.serve(exchange)
        elif exchange.method == "OPTIONS" and self.cors:
            self._preflight(exchange)
        else:
            exchange.respond(405, [self.allow])
        return None

    def max_body(self, method: str) -> int:
        """Return how many bytes the body of a request may have."""
        return min(MAX_UNUSED_BODY, self.server.settings.max_message_size)

    def serve(self, exchange: Exchange) -> Awaitable[None] | None:
        """Answer a request of the right method from an allowed origin."""
        raise NotImplementedError

    def reject_if_full(self, exchange: Exchange) -> bool:
        """Answer 503 where there is no room for a new session, and say so."""
        limit = self.server.container.limit_reached(exchange.remote_ip)
        if limit is not None:
            if limit != "draining":
                message = "%s is reached: new clients get 503"
                self.server.container.log.write(logger, logging.WARNING, limit, message, limit)
            self.respond_unavailable(exchange, limit)
        return limit is not None

    def respond_too_large(self, exchange: Exchange, error: RequestTooLargeError) -> None:
        """Answer a request that names more than a session keeps, and say so."""
        self.server.stats.rejected[error.limit] += 1
        message = "refused a client with status %d: %s"
        self.server.container.log.write(logger, logging.INFO, error.limit, message, error.status, error)
        exchange.respond(error.status, self.headers(exchange, PLAIN_TEXT, NO_CACHE), f"{error}\n".encode())

    def respond_unavailable(self, exchange: Exchange, why: str) -> None:
        """Answer 503."""
        self.server.stats.rejected[why] += 1
        exchange.respond(503, self.retry_headers(exchange), TRY_AGAIN)

    def retry_headers(self, exchange: Exchange) -> Headers:
        """Return the header fields of a 503, with a time to come again that is not the same for all."""
        again = ("Retry-After", str(1 + secrets.randbelow(RETRY_AFTER)))
        return self.headers(exchange, PLAIN_TEXT, NO_CACHE, again)

    def is_origin_allowed(self, exchange: Exchange) -> bool:
        """Return whether the origin policy lets the request in."""
        if not self.server.origins.restricted:
            return True
        host, fetch_site = exchange.header("Host"), exchange.header("Sec-Fetch-Site")
        return self.server.origins.allows(request_origin(exchange), host, fetch_site)

    def serves_while_closing(self, exchange: Exchange) -> bool:
        """Return whether requests are answered while the router closes."""
        return False

    def headers(self, exchange: Exchange, *fields: tuple[str, str]) -> Headers:
        """Return ``fields``, followed by the CORS header fields and the cookie that belong to this URL."""
        headers = list(fields)
        if self.cors:
            headers += _cors_headers(exchange)
        if self.has_cookie and self.server.cookie_needed:
            headers += self._cookie_headers(exchange)
        return headers

    def _cookie_headers(self, exchange: Exchange) -> Headers:
        wanted = exchange.jsessionid_setting()
        if wanted is True:
            value = exchange.cookie("JSESSIONID")
            if value is None or not _COOKIE_VALUE.fullmatch(value):
                value = "dummy"
            return [("Set-Cookie", f"JSESSIONID={value}; path=/{self._attributes[exchange.secure]}")]
        return [("Set-Cookie", wanted)] if wanted and _HEADER_VALUE.fullmatch(wanted) else []

    @property
    def allowed(self) -> str:
        """The methods that pages of other origins may use, as the protocol lists them; HEAD needs no permission."""
        return f"OPTIONS, {self.method}" if self.cors else self.method

    @property
    def allow(self) -> tuple[str, str]:
        """The Allow header field."""
        return "Allow", f"{self.allowed}, HEAD" if self.answers_head else self.allowed

    def _preflight(self, exchange: Exchange) -> None:
        # The request's Access-Control-Request-Method is not judged: the answer is the same for all, and cached. It sets
        # no cookie, which browsers would ignore.
        headers = [*cache_headers(), *(field for field in _cors_headers(exchange) if field[0] != "Vary")]
        headers += [("Access-Control-Max-Age", str(YEAR)), ("Access-Control-Allow-Methods", self.allowed), _VARY]
        exchange.respond(204, headers)


class SessionEndpoint(Endpoint):
    """A URL that names a session.

    Attributes:
        opens_sessions: Whether a request for a session that nobody has opens it.
    """

    suffix = 3
    opens_sessions = False

    def serve(self, exchange: Exchange) -> Awaitable[None] | None:
        """Answer from the session, or see that whoever has it does."""
        session = self.server.container.get(exchange.session_id)
        if session is None:
            relay = self.server.relay
            if relay is not None and not relay.owns(exchange.session_id):
                return relay.serve(self, exchange)
        return self.serve_session(exchange, session)

    def serves_while_closing(self, exchange: Exchange) -> bool:
        """Return whether the session is another process's, or one whose client may not know of its end yet."""
        relay = self.server.relay
        container = self.server.container
        if container.draining and relay is not None and not relay.owns(exchange.session_id):
            return True
        return container.get(exchange.session_id) is not None or container.ended(exchange.session_id) is not None

    def serve_session(self, exchange: Exchange, session: Session | None) -> Awaitable[None] | None:
        """Answer from a session of this process, or where there is none anywhere."""
        raise NotImplementedError

    def respond_session_gone(self, exchange: Exchange) -> None:
        """Answer where the session was in a process that is no more."""
        raise NotImplementedError

    def respond_disconnected(self, exchange: Exchange) -> None:
        """Answer a client that has left.

        Clients abort requests when they end, so the access log, the only reader of the answer, shows nothing wrong.
        """
        exchange.respond(204, self.headers(exchange, NO_CACHE))


def request_origin(exchange: Exchange) -> str:
    """Return the origin of the page that makes a request, ``""`` if it names none."""
    # The websockets of before 2011 (versions 7 and 8) name it in a header of their own.
    return exchange.header("Origin") or exchange.header("Sec-WebSocket-Origin")


def session_origin(exchange: Exchange) -> str | None:
    """Return the origin that a request for a session names.

    ``""`` is a GET without one: any page may have its browser send that, by a script element for one. None is a POST
    without one: browsers name the origin of every POST across origins, so that it comes from no page of another origin.
    """
    origin = exchange.header("Origin")
    if origin or exchange.method != "POST":
        return origin
    # Something on the way may have removed it.
    return "" if exchange.header("Sec-Fetch-Site") in ("cross-site", "same-site") else None


def _cors_headers(exchange: Exchange) -> Headers:
    origin = exchange.header("Origin")
    if not origin:
        headers = [("Access-Control-Allow-Origin", "*")]
    elif _REPEATED_VALUE.fullmatch(origin):
        # With credentials, "*" would be refused by the browser; "null" (a sandboxed page) is an origin like others.
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
