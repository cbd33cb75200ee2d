"""The origin policy of all endpoints.

The Origin header contains the origin of the page that makes a request, and a page cannot forge it. Browsers omit it in
simple GET requests, even across sites, for example for images. In this case, Sec-Fetch-Site shows whether the request
comes from another site (W3C Fetch Metadata). A request with neither header does not come from a current browser, and is
allowed.
"""

import re

from ..settings import Settings

_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


class OriginPolicy:
    """Decides which origins may use a router, by the setting ``allowed_origins``.

    Attributes:
        restricted: Whether the policy rejects any origins.
    """

    def __init__(self, settings: Settings) -> None:
        allowed = settings.allowed_origins
        self.restricted = settings.restricts_origins
        names = (allowed,) if isinstance(allowed, str) else allowed
        self._same_origin = "same-origin" in names
        self._exact = frozenset(
            _normalize(name) for name in names if name == "null" or ("://" in name and "*" not in name)
        )
        # "*." matches one or more labels of a host name, and nothing outside of the host.
        wildcards = [re.escape(_normalize(name)) for name in names if "*." in name]
        self._patterns = [re.compile(name.replace(r"\*\.", r"(?:[a-z0-9_-]+\.)+")) for name in wildcards]

    def allows(self, origin: str, host: str, fetch_site: str = "") -> bool:
        """Return whether a request with these headers is allowed: Origin, Host and Sec-Fetch-Site."""
        if not self.restricted:
            return True
        if not origin:
            return fetch_site not in ("cross-site", "same-site")
        origin = _normalize(origin)
        if origin in self._exact or any(pattern.fullmatch(origin) for pattern in self._patterns):
            return True
        # Do not compare the scheme, which the server does not know behind a proxy that terminates TLS. An origin
        # without a host, such as "file://", is never the same origin.
        scheme, _, netloc = origin.partition("://")
        return self._same_origin and bool(netloc) and origin == _normalize(f"{scheme}://{host}")

    def allows_credentials(self, origin: str) -> bool:
        """Return whether the application may see the cookies of a request with this Origin header.

        Without a list of origins, every site could send requests with the cookies of its visitors. The same is true for
        ``"null"``, since every site can create a sandboxed frame, which has this origin.
        """
        return self.restricted and _normalize(origin) != "null"


def _normalize(origin: str) -> str:
    """Return an origin in lower case and without its scheme's default port (RFC 6454, section 6)."""
    origin = origin.strip().lower()
    scheme, _, netloc = origin.partition("://")
    host, _, port = netloc.rpartition(":")
    # Do not remove a second port: a string with two ports is not a valid origin.
    is_host = ":" not in host or host.endswith("]")
    return f"{scheme}://{host}" if host and is_host and port == _DEFAULT_PORTS.get(scheme) else origin
