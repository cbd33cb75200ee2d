"""By which names a page may be asked for.

The page of another site can have its own name lead to your computer (DNS rebinding): your browser then takes the
dashboard for a part of that site, and lets the site read it. It says so in the request, though: `Host` has the site's
name. An address in its place, and `localhost`, cannot lead anywhere else.
"""

import ipaddress
from collections.abc import Iterable
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher
from tornado.web import RequestHandler


def is_own(host: str, names: Iterable[str]) -> bool:
    """Tell whether a host is an address, this computer's `localhost`, or one of these names; `*` is any name."""
    host = host.lower().rstrip(".")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host == "localhost" or host.endswith(".localhost") or not {"*", host}.isdisjoint(names)
    return True


class OtherHosts(Matcher):
    """Matches requests below a prefix that come by a name which is none of those given."""

    def __init__(self, prefix: str, names: Iterable[str]) -> None:
        self.prefix = prefix
        self.names = frozenset(name.lower() for name in names)

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        below = f"{request.path}/".startswith(f"{self.prefix}/")
        return {} if below and not is_own(request.host_name, self.names) else None


class Refused(RequestHandler):
    """Says what is wrong with the name."""

    def prepare(self) -> None:
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(
            "This dashboard is not served by that name. Ask for it by an address or as localhost, or give the name to "
            "Dashboard(hosts=[...]).\n"
        )
