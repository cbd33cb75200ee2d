"""Proxies: their URLs, and the proxies of the environment."""

import base64
import contextlib
import os
import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ..exceptions import ConfigurationError
from ..validation import ESCAPE_CREDENTIALS

#: Default ports, as in curl.
_PORTS = {"http": 1080, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}


_URL = re.compile(r"[\x21-\x7e]+")


def check_url_text(name: str, url: str, example: str) -> None:
    """Raise ConfigurationError, which does not contain the text, if it cannot be a URL."""
    if not _URL.fullmatch(url):
        found = "" if url else ", got an empty text"
        raise ConfigurationError(f"{name}: expected ASCII text without spaces, such as {example!r}{found}")


def basic_auth(username: str, password: str) -> str:
    """Return the value of an Authorization field."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


class Proxy(NamedTuple):
    """A proxy.

    Attributes:
        url: Its URL without credentials, with the port.
        scheme: ``"http"``, or another one that libcurl has.
        host: Its host name or address.
        port: Its port.
        username: User name, or None.
        password: Password, or None.
        variable: The variable of the environment that has named it, or empty.
    """

    url: str
    scheme: str
    host: str
    port: int
    username: str | None
    password: str | None
    variable: str

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    @property
    def authorization(self) -> str:
        """Value of the Proxy-Authorization field, or empty."""
        return "" if self.username is None else basic_auth(self.username, self.password or "")

    @classmethod
    def parse(cls, url: str, variable: str = "") -> "Proxy":
        """Parse a URL, whose scheme may be missing, or raise ConfigurationError, which contains no credentials."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or parts.scheme not in _PORTS or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ConfigurationError(
                f"{variable or 'proxy'}: expected a URL such as 'http://proxy.example:3128', without a path, and with "
                f"one of the schemes {', '.join(_PORTS)}{f'; {ESCAPE_CREDENTIALS}' if '@' in url else ''}"
            )
        port = port or _PORTS[parts.scheme]
        bare = f"[{host}]" if ":" in host else host
        username, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
        return cls(f"{parts.scheme}://{bare}:{port}", parts.scheme, host, port, username, password, variable)


def find_proxy(scheme: str, host: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """Return the proxy of the environment for a service, by the same variables and rules as curl."""
    no_proxy = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    if _is_excluded(host, no_proxy):
        return None
    # CGI programs have a client's header field Proxy in HTTP_PROXY.
    names = ("http_proxy",) if scheme == "http" else ("https_proxy", "HTTPS_PROXY")
    for name in (*names, "all_proxy", "ALL_PROXY"):
        if environment.get(name):
            return Proxy.parse(environment[name], name)
    return None


def _is_excluded(host: str, no_proxy: str) -> bool:
    """Return whether ``no_proxy`` has a host: by its name, a domain, an address or a network."""
    names = [name.strip("[]").lower() for name in re.split(r"[\s,]+", no_proxy) if name]
    host = host.rstrip(".").lower()
    if "*" in names:
        return True
    try:
        address = ip_address(host)
    except ValueError:
        domains = [name.strip(".") for name in names]
        return any(domain and (host == domain or host.endswith(f".{domain}")) for domain in domains)
    for name in names:
        with contextlib.suppress(ValueError):
            if address in ip_network(name, strict=False):
                return True
    return False
