"""The URLs that belong to no session: the greeting, /info, and the iframe page."""

import base64
import hashlib
import json
import secrets
from urllib.parse import quote

from .endpoint import NO_CACHE, PLAIN_TEXT, Endpoint, cache_headers
from .exchange import Exchange, Router

__all__ = ["Greeting", "Iframe", "Info"]

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

    It runs sockjs-client and its own three lines, talks to its own server, and may frame it (htmlfile). Any site may
    frame it, as this is what it is for.
    """
    path = sockjs_url.partition("?")[0].partition("#")[0]
    # In a policy, ";" and "," stand between its parts.
    path = quote(path, safe="%/:?#[]@!$&()*+=~")
    # A source has no path of its own without a host.
    source = "'self'" if path.startswith("/") and not path.startswith("//") else path.removeprefix("//")
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src {source} 'sha256-{digest}'; connect-src 'self'; frame-src 'self'; "
        "base-uri 'none'; form-action 'none'"
    )


class Page(Endpoint):
    """A URL that belongs to no session."""

    answers_head = True
    has_cookie = False


class Greeting(Page):
    """``GET`` of the prefix itself."""

    def serve(self, exchange: Exchange) -> None:
        """Say hello."""
        exchange.respond(200, [PLAIN_TEXT], b"Welcome to SockJS!\n")


class Info(Page):
    """``GET …/info``: what a client asks first."""

    cors = True

    def serve(self, exchange: Exchange) -> None:
        """Say what this server offers."""
        if self.server.container.draining:
            self.respond_unavailable(exchange, "draining")
            return
        settings = self.server.settings
        info: dict[str, object] = {
            "websocket": self.server.websockets_enabled,
            # Never looked at by any client; the reference server's value.
            "origins": ["*:*"],
            "cookie_needed": self.server.cookie_needed,
            "entropy": secrets.randbits(32),
        }
        if settings.base_url is not None:
            info["base_url"] = settings.base_url
        headers = self.headers(exchange, ("Content-Type", "application/json; charset=UTF-8"), NO_CACHE)
        exchange.respond(200, headers, json.dumps(info).encode())


class Iframe(Page):
    """``GET …/iframe*.html``: the page in which a client of another origin works."""

    def __init__(self, server: Router) -> None:
        super().__init__(server)
        # The setting cannot hold a quote or an angle bracket; "&" alone could mean something else in an attribute.
        url = server.settings.sockjs_url.replace("&", "&amp;")
        self._body = _IFRAME.replace("SCRIPT", _SCRIPT).replace("SOCKJS_URL", url).encode()
        self._policy = ("Content-Security-Policy", _policy(server.settings.sockjs_url))
        # Copies that were kept under another policy are not as good.
        self._etag = f'"{hashlib.sha256(self._body + self._policy[1].encode()).hexdigest()[:32]}"'

    def serve(self, exchange: Exchange) -> None:
        """Send the page, or say that the client has it."""
        headers = [self._policy, *cache_headers(), ("ETag", self._etag)]
        known = exchange.header("If-None-Match")
        if known.strip() == "*" or self._etag in known:
            exchange.respond(304, headers)
        else:
            content_type = ("Content-Type", "text/html; charset=UTF-8")
            exchange.respond(200, [content_type, *headers], self._body)
