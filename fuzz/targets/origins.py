"""The origin policy."""

import re
from typing import NamedTuple

from sockjs_tornado import ConfigurationError, Settings
from sockjs_tornado.transports.origins import OriginPolicy

from ..target import lines

PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


class Target:
    """``OriginPolicy``, given a line each: what is allowed (names with a space between), Origin, Host, Sec-Fetch-Site.

    - Where the settings take the names, the policy says yes or no to any request, and never raises.
    - It says yes exactly where an origin has scheme, host and port of an allowed one, where labels and a dot stand
      before the host of a pattern, or where it is the server's own.
    - One name more refuses nobody who was welcome, and how the origin is spelled changes nothing.
    """

    def __call__(self, data: bytes) -> None:
        """Ask the policy about one request."""
        names, origin, host, fetch_site = lines(data, 4)
        allowed = names if names in ("*", "same-origin") else names.split(" ")
        try:
            settings = Settings.from_mapping({"allowed_origins": allowed})
        except ConfigurationError:
            return
        policy = OriginPolicy(settings)
        welcome = policy.allows(origin, host, fetch_site)
        assert policy.restricted == (allowed != "*")
        if not policy.restricted:
            assert welcome is True
        elif not origin:
            assert welcome is (fetch_site not in ("cross-site", "same-site"))
        else:
            listed = [allowed] if isinstance(allowed, str) else allowed
            assert welcome is any(is_meant(name, origin, host) for name in listed)
            assert policy.allows(shouted(origin), shouted(host), fetch_site) is welcome
            if welcome:
                more = OriginPolicy(Settings(allowed_origins=[*listed, "https://other.example"]))
                assert more.allows(origin, host, fetch_site)


def shouted(text: str) -> str:
    """Return text with ASCII's letters in upper case; for Python, that of the German sharp s is two letters."""
    return text.encode("latin-1").upper().decode("latin-1")


class Origin(NamedTuple):
    """An origin in its parts."""

    scheme: str
    host: str
    port: str


def parts(origin: str) -> Origin:
    """Take an origin apart."""
    scheme, _, rest = origin.strip().lower().partition("://")
    host, port = rest, ""
    match = re.fullmatch(r"([^:]+|.*\]):([0-9]+)", rest, re.DOTALL)
    if match:
        host, port = match[1], match[2]
    return Origin(scheme, host, "" if port == PORTS.get(scheme) else port)


def is_meant(name: str, origin: str, host: str) -> bool:
    """Tell whether an origin is one that a name in the settings means."""
    asking = parts(origin)
    if name == "null":
        return origin.strip().lower() == "null"
    if "://" not in origin:
        return False
    if name == "same-origin":
        return asking.host != "" and asking == parts(f"{asking.scheme}://{host}")
    wanted = parts(name)
    if wanted.host.startswith("*."):
        suffix = wanted.host[1:]
        labels = asking.host.removesuffix(suffix)
        return (
            (asking.scheme, asking.port) == (wanted.scheme, wanted.port)
            and asking.host.endswith(suffix)
            and all(label and re.fullmatch("[a-z0-9_-]+", label, re.ASCII) for label in labels.split("."))
        )
    return asking == wanted
