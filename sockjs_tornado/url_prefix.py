"""The check of a router's prefix."""

import re
from urllib.parse import quote

from .exceptions import ConfigurationError
from .validation import warn_application


def check_prefix(prefix: str) -> str:
    """Return a prefix without its trailing slash, or raise ConfigurationError."""
    expected = 'expected "" or a path such as "/chat", which may be a regular expression without capturing groups'
    if not isinstance(prefix, str):
        raise ConfigurationError(f"prefix: got {prefix!r} ({type(prefix).__name__}), {expected}")
    try:
        groups = re.compile(prefix).groups
    except re.error as error:
        raise ConfigurationError(f"prefix: got {prefix!r} ({error}), {expected}") from None
    if groups or prefix[:1].isalnum():
        raise ConfigurationError(f"prefix: got {prefix!r}, {expected}")
    if re.search(r"[^!-~]", prefix):
        written = re.sub(r"[^!-~]+", lambda found: quote(found[0], errors="replace"), prefix)
        raise ConfigurationError(
            f"prefix: got {prefix!r}, which no request matches, since paths are percent-encoded: use {written!r}"
        )
    if re.search(r"(?<!\\)(?:\\\\)*\$$", prefix):
        raise ConfigurationError(f"prefix: got {prefix!r}, which no request matches, since more follows: omit the `$`")
    if re.search(r"(?<!\\)\{[a-z_]|(?<!\?P)<\w+>", prefix, re.IGNORECASE):
        raise ConfigurationError(
            f"prefix: got {prefix!r}, which no request matches, since it is a regular expression: use `[^/]+` for a "
            "part that varies, and read it in `info.prefix`"
        )
    if re.search(r"\?\w+=", prefix):
        raise ConfigurationError(f"prefix: got {prefix!r}, which no request matches, since it has a query: omit that")
    if prefix.endswith(("/.*", "/.+")):
        warn_application(
            f"prefix: got {prefix!r}, which also matches {prefix[:-2]}info: use {prefix[:-3]!r}, or "
            f"{prefix[:-2] + '[^/]+'!r} for one part that varies"
        )
    return prefix.rstrip("/")
