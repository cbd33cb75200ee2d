"""The URL of a SockJS service, as a client gets it."""

import re
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from ..exceptions import ConfigurationError
from ..validation import ESCAPE_CREDENTIALS
from .proxies import basic_auth, check_url_text

_PORTS = {"http": 80, "https": 443}


class ServiceURL(NamedTuple):
    """The URL of a SockJS service, parsed.

    Attributes:
        url: The URL without credentials, without a query and without a trailing slash.
        origin: Scheme, host and port.
        authorization: Value of the Authorization field if the URL contained credentials, otherwise empty.
        query: The query, which every request has, or empty. It may be secret.
    """

    url: str
    origin: tuple[str, str, int]
    authorization: str = ""
    query: str = ""

    def at(self, path: str) -> str:
        """Return the URL of a path below the service's, with the query."""
        if not self.query:
            return self.url + path
        return f"{self.url}{path}{'&' if '?' in path else '?'}{self.query}"

    @classmethod
    def parse(cls, url: object) -> "ServiceURL":
        """Parse a URL, or raise ConfigurationError, whose message never contains credentials."""
        if not isinstance(url, str):
            raise ConfigurationError(f"url: expected a str, such as 'http://host/echo', got {type(url).__name__}")
        check_url_text("url", url, "http://host/echo")
        # Any part of a URL with credentials may belong to the password, if that has an unescaped "/", "?" or "#".
        given = "" if "@" in url else f", got {re.split('[?#]', url)[0]!r}"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # Raised below: Python's own error, which may contain the password, must not be its context.
            parts = None
        escape = f"; {ESCAPE_CREDENTIALS}" if "@" in url else ""
        if parts is None:
            raise ConfigurationError(
                f"url: the host or the port is invalid{given}; put an IPv6 address in brackets{escape}"
            )
        if parts.scheme not in _PORTS or not parts.hostname:
            hint = "; give the URL of the service, not that of a websocket" if parts.scheme in ("ws", "wss") else ""
            raise ConfigurationError(f"url: expected http:// or https:// and a host{given}{hint}")
        if parts.fragment:
            raise ConfigurationError(f"url: expected no fragment{given}{escape}")
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        origin = (parts.scheme, parts.hostname, _PORTS[parts.scheme] if port is None else port)
        return cls(bare._replace(query="").geturl().rstrip("/?#"), origin, _url_auth(parts), parts.query)

    def __repr__(self) -> str:
        # Credentials and the query may be secret.
        return f"<{type(self).__name__} {self.url}>"


def _url_auth(parts: SplitResult) -> str:
    return "" if parts.username is None else basic_auth(unquote(parts.username), unquote(parts.password or ""))
