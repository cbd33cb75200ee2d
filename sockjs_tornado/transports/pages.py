"""Endpoints without a session: the greeting, /info and the iframe page."""

import base64
import hashlib
import json
import secrets
from urllib.parse import quote

from .endpoint import NO_CACHE, PLAIN_TEXT, Endpoint, cache_headers
from .exchange import Exchange, Router

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


class Page(Endpoint):
    """Base class of endpoints without a session."""

    supports_head = True
    has_cookie = False


class Greeting(Page):
    """``GET`` of the prefix itself."""

    def serve(self, exchange: Exchange) -> None:
        exchange.respond(200, [PLAIN_TEXT], b"Welcome to SockJS!\n")


class Info(Page):
    """``GET …/info``: the first request of a client."""

    cors = True

    def serve(self, exchange: Exchange) -> None:
        if self.server.container.restarting:
            self.respond_unavailable(exchange, "draining")
            return
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


class Iframe(Page):
    """``GET …/iframe*.html``: the page through which a client of another origin connects."""

    def __init__(self, server: Router) -> None:
        super().__init__(server)
        # The setting cannot contain quotes or angle brackets, so that only "&" needs to be escaped in the attribute.
        url = server.settings.sockjs_url.replace("&", "&amp;")
        self._body = _IFRAME.replace("SCRIPT", _SCRIPT).replace("SOCKJS_URL", url).encode()
        self._policy = ("Content-Security-Policy", _policy(server.settings.sockjs_url))
        # The ETag includes the policy, so that a changed policy invalidates cached copies.
        self._etag = f'"{hashlib.sha256(self._body + self._policy[1].encode()).hexdigest()[:32]}"'

    def serve(self, exchange: Exchange) -> None:
        """Respond with the page, or with 304 if the client has the current version."""
        headers = [self._policy, *cache_headers(), ("ETag", self._etag)]
        known = exchange.header("If-None-Match")
        if known.strip() == "*" or self._etag in known:
            exchange.respond(304, headers)
        else:
            content_type = ("Content-Type", "text/html; charset=UTF-8")
            exchange.respond(200, [content_type, *headers], self._body)
