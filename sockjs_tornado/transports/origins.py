"""The one origin policy that every URL asks.

A browser says with the Origin header which site's page makes a request; a page cannot forge it. Browsers leave it out
of plain GETs, those of an image in another site's page included; Sec-Fetch-Site tells these apart (W3C Fetch Metadata).
A request with neither comes from no browser, or from a very old one, and is let in.
"""

import re

from ..settings import Settings

__all__ = ["OriginPolicy"]

_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


class OriginPolicy:
    """Decides which pages may talk to a router.

    Args:
        settings: ``allowed_origins`` is what counts.

    Attributes:
        restricted: Whether the policy refuses anybody at all.
    """

    def __init__(self, settings: Settings) -> None:
        allowed = settings.allowed_origins
        self.restricted = allowed != "*"
        names = (allowed,) if isinstance(allowed, str) else allowed
        self._same_origin = "same-origin" in names
        self._exact = frozenset(
            _normal(name) for name in names if name == "null" or ("://" in name and "*" not in name)
        )
        self._patterns = [_pattern(_normal(name)) for name in names if "*." in name]

    def allows(self, origin: str, host: str, fetch_site: str = "") -> bool:
        """Tell whether a request may be served.

        Args:
            origin: The Origin header, ``""`` where there is none.
            host: The Host header, for ``"same-origin"``.
            fetch_site: The Sec-Fetch-Site header, ``""`` where there is none.
        """
        if not self.restricted:
            return True
        if not origin:
            return fetch_site not in ("cross-site", "same-site")
        origin = _normal(origin)
        if origin in self._exact or any(pattern.fullmatch(origin) for pattern in self._patterns):
            return True
        # The scheme is not compared: behind a proxy that ends TLS the server does not know its own. An origin without a
        # host, such as "file://", is that of no server.
        scheme, _, netloc = origin.partition("://")
        return self._same_origin and bool(netloc) and origin == _normal(f"{scheme}://{host}")

    def allows_credentials(self, origin: str) -> bool:
        """Return whether the application may see the cookies of a request with this Origin header.

        Without a list of origins, any site's page may make requests with its visitors' cookies. So it may where the
        list has ``"null"``: any site can make a sandboxed frame, which has this origin.
        """
        return self.restricted and _normal(origin) != "null"


def _normal(origin: str) -> str:
    """Return an origin in lower case and without its scheme's default port (RFC 6454, section 6)."""
    origin = origin.strip().lower()
    scheme, _, netloc = origin.partition("://")
    host, _, port = netloc.rpartition(":")
    # No second port is taken off behind a first one; what has two is nobody's origin.
    is_host = ":" not in host or host.endswith("]")
    return f"{scheme}://{host}" if host and is_host and port == _DEFAULT_PORTS.get(scheme) else origin


def _pattern(origin: str) -> re.Pattern[str]:
    # "*." stands for one or more labels of a host name, never for anything beyond the host.
    return re.compile(re.escape(origin).replace(r"\*\.", r"(?:[a-z0-9_-]+\.)+"))
