"""Who may use the dashboard: checks of the Host header and of the client's address, and rate limits.

Another site can point its own host name at this computer (DNS rebinding). The browser of somebody who visits it then
considers the dashboard part of that site and lets the site's scripts read it. But the `Host` header of the request has
the site's name. IP addresses and `localhost` cannot be abused like that, so they are allowed.
"""

import ipaddress
import time
from collections.abc import Iterable
from typing import Any, Final

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher
from tornado.web import RequestHandler

# Header fields that show that a proxy has passed the request on, and X-Forwarded-*. If its client is on the same
# computer, this is the proxy, and anybody may be behind it.
_FORWARDED = frozenset({"Forwarded", "Via", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Real-Ip", "X-Scheme"})

_FOREIGN_HOST = (
    "This dashboard is not available under this host name. Use an IP address or localhost, or add the name to "
    "Dashboard(hosts=[...]).\n"
)
_NOT_LOCAL = (
    "This dashboard is available on the server's own computer only, at http://localhost/... or http://127.0.0.1/..., "
    "and not through a proxy. For others, set Dashboard(password=...) in place of local_only.\n"
)


def is_allowed_host(host: str, names: Iterable[str]) -> bool:
    """Return whether a host is an IP address, `localhost`, or one of the names; `*` allows any name."""
    host = host.lower().rstrip(".")
    return _address(host) is not None or _is_localhost(host) or not {"*", host}.isdisjoint(names)


def is_local(request: HTTPServerRequest) -> bool:
    """Return whether a request comes from this computer, and not through a proxy, as far as the request shows it."""
    host = request.host_name.lower().rstrip(".")
    named, client = _address(host), _address(request.remote_ip or "")
    return (
        (_is_localhost(host) if named is None else named.is_loopback)
        # A Unix socket has no address, and usually a proxy in front of it.
        and client is not None
        and client.is_loopback
        # Browsers have no HTTP/1.0, but some proxies have, such as nginx without proxy_http_version.
        and request.version != "HTTP/1.0"
        and not any(field in _FORWARDED or field.startswith("X-Forwarded-") for field in request.headers)
    )


def _is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address of a client or host, or None if it is a name."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


class RefusedMatcher(Matcher):
    """Matches requests below a prefix that may not reach the dashboard.

    Args:
        prefix: The prefix of the dashboard.
        names: Allowed host names.
        local_only: Whether only this computer has access.
    """

    def __init__(self, prefix: str, names: Iterable[str], local_only: bool) -> None:
        self._prefix = prefix
        self._names = frozenset(name.lower() for name in names)
        self._local_only = local_only

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        if not f"{request.path}/".startswith(f"{self._prefix}/"):
            return None
        if not is_allowed_host(request.host_name, self._names):
            return {"target_kwargs": {"reason": _FOREIGN_HOST}}
        if self._local_only and not is_local(request):
            return {"target_kwargs": {"reason": _NOT_LOCAL}}
        return None


class RefusingHandler(RequestHandler):
    """Responds with 403 and a reason."""

    def initialize(self, reason: str) -> None:
        self._reason_text = reason

    def prepare(self) -> None:
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(self._reason_text)


#: Number of networks that a rate limit remembers. It forgets those first that it has counted longest ago.
MAX_NETWORKS: Final = 10_000


class RateLimit:
    """Limits how often something happens, per client network and in total.

    Args:
        network: Burst of one network, and the seconds after which it may have one more.
        total: The same for all of them together. Default None, for no limit.
    """

    def __init__(self, network: tuple[int, float], total: tuple[int, float] | None = None) -> None:
        self.network = network
        self.total = total
        # By network, the time at which the full burst is available again; the one that was counted last at the end.
        self._until: dict[str, float] = {}

    def allows(self, ip: str) -> bool:
        """Return whether it may happen now."""
        return self._next(ip) is not None

    def consume(self, ip: str) -> bool:
        """Return whether it may happen now; if so, count it."""
        following = self._next(ip)
        if following is None:
            return False
        for key, until in following.items():
            self._until.pop(key, None)
            self._until[key] = until
        while len(self._until) > MAX_NETWORKS:
            del self._until[next(iter(self._until))]
        return True

    def _next(self, ip: str) -> dict[str, float] | None:
        now = time.monotonic()
        limits = {_network(ip): self.network}
        if self.total is not None:
            limits["all"] = self.total
        following = {}
        for key, (burst, seconds) in limits.items():
            until = max(self._until.get(key, now), now)
            if until - now > (burst - 1) * seconds:
                return None
            following[key] = until + seconds
        return following


def _network(ip: str) -> str:
    """Return an IPv4 address, or the /64 network of an IPv6 address, which one client has for itself."""
    address = _address(ip)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return ip
