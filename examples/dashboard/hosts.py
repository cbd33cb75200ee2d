"""Protection against DNS rebinding: a check of the Host header.

Another site can point its own host name at your computer (DNS rebinding). Your browser then considers the dashboard
part of that site and lets the site's scripts read it. But the `Host` header of the request has the site's name. IP
addresses and `localhost` cannot be abused like that, so they are allowed.
"""

import ipaddress
from collections.abc import Iterable
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher
from tornado.web import RequestHandler


def is_allowed_host(host: str, names: Iterable[str]) -> bool:
    """Return whether a host is an IP address, `localhost`, or one of the names; `*` allows any name."""
    host = host.lower().rstrip(".")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host == "localhost" or host.endswith(".localhost") or not {"*", host}.isdisjoint(names)
    return True


class ForeignHostMatcher(Matcher):
    """Matches requests below a prefix whose host is not allowed."""

    def __init__(self, prefix: str, names: Iterable[str]) -> None:
        self.prefix = prefix
        self.names = frozenset(name.lower() for name in names)

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        below = f"{request.path}/".startswith(f"{self.prefix}/")
        return {} if below and not is_allowed_host(request.host_name, self.names) else None


class ForeignHostHandler(RequestHandler):
    """Responds with an error about the host name."""

    def prepare(self) -> None:
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(
            "This dashboard is not available under this host name. Use an IP address or localhost, or add the name to "
            "Dashboard(hosts=[...]).\n"
        )
