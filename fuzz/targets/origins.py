"""The origin policy."""

import re
from typing import NamedTuple

from sockjs_tornado import ConfigurationError, Settings
from sockjs_tornado.transports.origins import OriginPolicy

from ..target import lines

PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


class Target:
    """``OriginPolicy``, with one line each: allowed origins (separated by spaces), Origin, Host, Sec-Fetch-Site.

    - If the settings are valid, the policy returns True or False for any request, and never raises.
    - It returns True if and only if the origin has the scheme, host and port of an allowed one, if its host is a
      subdomain of a pattern's host, or if it is the server's own.
    - With one more allowed origin, all allowed origins remain allowed, and the case of the origin makes no difference.
    """

    def __call__(self, data: bytes) -> None:
        """Check the policy with one request."""
        names, origin, host, fetch_site = lines(data, 4)
        allowed = names if names in ("*", "same-origin") else names.split(" ")
        try:
            settings = Settings.from_mapping({"allowed_origins": allowed})
        except ConfigurationError:
            return
        policy = OriginPolicy(settings)
        is_allowed = policy.allows(origin, host, fetch_site)
        assert policy.restricted == (allowed != "*")
        if not policy.restricted:
            assert is_allowed is True
        elif not origin:
            assert is_allowed is (fetch_site not in ("cross-site", "same-site"))
        else:
            listed = [allowed] if isinstance(allowed, str) else allowed
            assert is_allowed is any(matches(name, origin, host) for name in listed)
            assert policy.allows(upper_case(origin), upper_case(host), fetch_site) is is_allowed
            if is_allowed:
                more = OriginPolicy(Settings(allowed_origins=[*listed, "https://other.example"]))
                assert more.allows(origin, host, fetch_site)


def upper_case(text: str) -> str:
    """Convert ASCII letters to upper case; `str.upper` would turn a sharp s into two letters."""
    return text.encode("latin-1").upper().decode("latin-1")


class Origin(NamedTuple):
    """A parsed origin."""

    scheme: str
    host: str
    port: str


def parse(origin: str) -> Origin:
    """Parse an origin."""
    scheme, _, rest = origin.strip().lower().partition("://")
    host, port = rest, ""
    match = re.fullmatch(r"([^:]+|.*\]):([0-9]+)", rest, re.DOTALL)
    if match:
        host, port = match[1], match[2]
    return Origin(scheme, host, "" if port == PORTS.get(scheme) else port)


def matches(name: str, origin: str, host: str) -> bool:
    """Return whether an origin matches an entry of the settings."""
    requesting = parse(origin)
    if name == "null":
        return origin.strip().lower() == "null"
    if "://" not in origin:
        return False
    if name == "same-origin":
        return requesting.host != "" and requesting == parse(f"{requesting.scheme}://{host}")
    allowed = parse(name)
    if allowed.host.startswith("*."):
        suffix = allowed.host[1:]
        labels = requesting.host.removesuffix(suffix)
        return (
            (requesting.scheme, requesting.port) == (allowed.scheme, allowed.port)
            and requesting.host.endswith(suffix)
            and all(label and re.fullmatch("[a-z0-9_-]+", label, re.ASCII) for label in labels.split("."))
        )
    return requesting == allowed
