"""Endpoints without a session: the greeting, /info, the iframe page and sockjs-client."""

import base64
import hashlib
import json
import logging
import secrets
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ..browser_files import SOCKJS_CLIENT, find
from ..wire.fields import has_token
from .endpoint import NO_CACHE, PLAIN_TEXT, Endpoint, cache_headers
from .exchange import Exchange, Headers, Router

logger = logging.getLogger(__name__)

_IFRAME = """\
<!DOCTYPE html>
<html>
<head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
  <script src="SOCKJS_URL"></script>
  <script>SCRIPT</script>
</head>
<body>
  <h2>Don't panic!</h2>
  <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>
</body>
</html>
"""


_SCRIPT = """
    document.domain = document.domain;
    SockJS.bootstrap_iframe();
  """

#: What to do if the address of the client is that of a proxy, by the reason.
_PROXY_ADVICE: Final = {
    "xheaders": "If the proxy is yours and overwrites X-Real-IP, and if clients cannot connect without it, pass "
    "xheaders=True to the HTTP server, or trusted_proxies to serve() (--xheaders or --proxy-trust of the command)",
    "trusted_proxies": "If the proxy is yours and overwrites X-Real-IP, add its address to trusted_proxies "
    "(--proxy-trust)",
    "missing": "Let the proxy set X-Real-IP to the address of its client",
    "contradictory": "Let the proxy set X-Real-IP to the address of its client",
    "invalid": "The field is not an IP address: let the proxy set X-Real-IP to the address alone, without a port",
}

_SCRIPT_TYPE = ("Content-Type", "text/javascript; charset=UTF-8")  # RFC 9239
_SCRIPT_HEADERS = [
    # Not longer: the page and its iframe, whose copies browsers cache separately, must soon have the same version after
    # an update of sockjs-client.
    ("Cache-Control", "public, max-age=86400"),
    # For pages of every origin, also those that have an `integrity` or a Cross-Origin-Embedder-Policy.
    ("Access-Control-Allow-Origin", "*"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
]


def _policy(sockjs_url: str) -> str:
    """Return the Content-Security-Policy of the iframe page (CSP level 3).

    The page may run sockjs-client and its own inline script, connect to its own server, and contain frames from it
    (htmlfile). Every site may embed the page, since that is its purpose.
    """
    path = sockjs_url.partition("?")[0].partition("#")[0]
    # ";" and "," separate the parts of a policy.
    path = quote(path, safe="%/:?#[]@!$&()*+=~")
    # A source expression with a path needs a host.
    has_host = path.startswith(("//", "http://", "https://"))
    source = path.removeprefix("//") if has_host else "'self'"
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src {source} 'sha256-{digest}'; connect-src 'self'; frame-src 'self'; "
        "base-uri 'none'; form-action 'none'"
    )


def _beside(uri: str) -> str:
    """Return the path of sockjs-client beside a page. The protocol requires a path with a leading slash, or a URL."""
    folder = uri.partition("?")[0].rpartition("/")[0]
    if uri.startswith("//") or not uri.startswith("/"):
        # It would be a host, or it is none of a browser.
        return SOCKJS_CLIENT
    # A backslash, too, would begin a host.
    return f"{quote(folder, safe='%/:@!$&()*+,;=~')}/{SOCKJS_CLIENT}"


class Page(Endpoint):
    """Base class of endpoints without a session."""

    supports_head = True
    has_cookie = False


class Greeting(Page):
    """``GET`` of the prefix itself."""

    def serve(self, exchange: Exchange) -> None:
        if has_token(exchange.header("Upgrade"), "websocket"):
            self._reject_websocket(exchange)
        else:
            exchange.respond(200, [PLAIN_TEXT], b"Welcome to SockJS!\n")

    def _reject_websocket(self, exchange: Exchange) -> None:
        """Respond to a client that does not speak SockJS, which would take a greeting for a failure of the server."""
        server = self.server
        if server.settings.is_enabled("rawwebsocket"):
            advice = "Use a SockJS client, or, for a WebSocket without SockJS, the URL with /websocket after the prefix"
        else:
            advice = "Use a SockJS client; the transport rawwebsocket, for a WebSocket without SockJS, is disabled"
        message = "Rejected a websocket at the prefix %r itself with status 404. %s"
        server.container.log.write(logger, logging.INFO, "websocket at prefix", message, server.prefix, advice)
        exchange.respond(404, [PLAIN_TEXT], f"This is the prefix of a SockJS service. {advice}.\n".encode())


class Info(Page):
    """``GET …/info``: the first request of a client."""

    cors = True

    def __init__(self, server: Router) -> None:
        super().__init__(server)
        self._looks_for_proxy = server.settings.warn_without_xheaders

    def serve(self, exchange: Exchange) -> None:
        if self.server.container.restarting:
            self.respond_unavailable(exchange, "draining")
            return
        # Here, and not where sessions are opened, since this is less frequent.
        if self._looks_for_proxy:
            reason, fields = exchange.ignored_proxy_fields()
            if reason:
                self._warn_about_proxy(reason, exchange.remote_ip, fields)
        settings = self.server.settings
        info: dict[str, object] = {
            "websocket": self.server.websockets_enabled,
            # No client uses this. It is the value of the reference server.
            "origins": ["*:*"],
            "cookie_needed": self.server.cookie_needed,
            "entropy": secrets.randbits(32),
        }
        if settings.base_url is not None:
            info["base_url"] = settings.base_url
        headers = self.headers(exchange, ("Content-Type", "application/json; charset=UTF-8"), NO_CACHE)
        exchange.respond(200, headers, json.dumps(info).encode())

    def _warn_about_proxy(self, reason: str, ip: str, fields: list[str]) -> None:
        """Warn once that all clients seem to have the address of a proxy."""
        self._looks_for_proxy = False
        if reason == "contradictory":
            problem = (
                "names %s in X-Real-Ip, but another address in %s: unless the proxy overwrites X-Real-Ip, clients "
                "choose the address that info.ip, verify_ip and max_sessions_per_ip use"
            )
        else:
            problem = (
                "came through a proxy at %s (it has %s), which the server takes for the client: info.ip, verify_ip and "
                "max_sessions_per_ip use the address of the proxy"
            )
        message = (
            f"A request at the prefix %r {problem}. {_PROXY_ADVICE[reason]}; otherwise set warn_without_xheaders=False"
        )
        arguments = self.server.prefix, ip or "a Unix socket", ", ".join(fields) or "neither X-Real-Ip nor other fields"
        self.server.container.log.write(logger, logging.WARNING, "no xheaders", message, *arguments)


class Iframe(Page):
    """``GET …/iframe*.html``: the page through which a client of another origin connects."""

    def __init__(self, server: Router) -> None:
        super().__init__(server)
        self._url = server.settings.sockjs_url
        self._page = _IFRAME.replace("SCRIPT", _SCRIPT)
        self._policy = ("Content-Security-Policy", _policy(self._url))

    def serve(self, exchange: Exchange) -> None:
        """Respond with the page, or with 304 if the client has the current version."""
        url = _beside(exchange.uri) if self._url == SOCKJS_CLIENT else self._url
        # A URL cannot contain quotes or angle brackets, so that only "&" needs to be escaped in the attribute.
        body = self._page.replace("SOCKJS_URL", url.replace("&", "&amp;")).encode()
        # The ETag includes the policy, so that a changed policy invalidates cached copies.
        etag = f'"{hashlib.sha256(body + self._policy[1].encode()).hexdigest()[:32]}"'
        content_type = ("Content-Type", "text/html; charset=UTF-8")
        _respond_cached(exchange, etag, content_type, [self._policy, *cache_headers()], body)


class Script(Page):
    """A public script, which the package contains.

    Args:
        server: The router.
        path: The path of the file, or None if the package was built without it.
    """

    def __init__(self, server: Router, path: Path | None) -> None:
        super().__init__(server)
        self._body = None if path is None else path.read_bytes()
        self._etag = "" if self._body is None else f'"{hashlib.sha256(self._body).hexdigest()[:32]}"'

    def is_origin_allowed(self, exchange: Exchange) -> bool:
        """Return True: a script is requested without an origin, and this one is public."""
        return True

    def serves_while_closing(self, exchange: Exchange) -> bool:
        """Return True: a page that is loaded during a restart has the script when it reconnects."""
        return True

    def serve(self, exchange: Exchange) -> None:
        """Respond with the script, or with 304 if the client has it."""
        if self._body is not None:
            _respond_cached(exchange, self._etag, _SCRIPT_TYPE, _SCRIPT_HEADERS, self._body)
        else:
            self.respond_missing(exchange)

    def respond_missing(self, exchange: Exchange) -> None:
        """Respond if the package was built without the script."""
        raise NotImplementedError


class ClientScript(Script):
    """``GET …/sockjs.min.js``: sockjs-client, as the package contains it, or a redirect to ``sockjs_url``."""

    def __init__(self, server: Router) -> None:
        super().__init__(server, find(SOCKJS_CLIENT))

    def respond_missing(self, exchange: Exchange) -> None:
        """Redirect to ``sockjs_url``."""
        url = self.server.settings.sockjs_url
        if url.removeprefix("./") == SOCKJS_CLIENT:
            message = f"This installation does not contain {SOCKJS_CLIENT}: set sockjs_url.\n"
            exchange.respond(404, [PLAIN_TEXT, NO_CACHE], message.encode())
        else:
            location = quote(url, safe="%/:?#[]@!$&'()*+,;=~")
            exchange.respond(302, [("Location", location), NO_CACHE])


def _respond_cached(exchange: Exchange, etag: str, content_type: tuple[str, str], fields: Headers, body: bytes) -> None:
    """Respond with a body, or with 304 if the client has the version with this ETag."""
    headers = [*fields, ("ETag", etag)]
    known = exchange.header("If-None-Match")
    if known.strip() == "*" or etag in known:
        exchange.respond(304, headers)
    else:
        exchange.respond(200, [content_type, *headers], body)
