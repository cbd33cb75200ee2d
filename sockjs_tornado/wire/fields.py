"""Parsing of header field values (RFC 9110, section 5.6). Pure."""

import re

#: A token (RFC 9110, section 5.6.2).
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def elements(value: str) -> list[str]:
    """Return the non-empty elements of a comma-separated list (RFC 9110, section 5.6.1.2)."""
    return [element for element in (part.strip(" \t") for part in value.split(",")) if element]


def has_token(value: str, token: str) -> bool:
    """Return whether a list of tokens, such as the Connection header, contains ``token`` (lower case)."""
    # Most values are a single token or empty.
    lower = value.lower()
    return lower == token or (token in lower and token in elements(lower))
