"""Values of header fields (RFC 9110, section 5.6). Pure."""

__all__ = ["elements", "has_token"]


def elements(value: str) -> list[str]:
    """Return the elements of a list; empty ones are passed over (RFC 9110, section 5.6.1.2)."""
    return [element for element in (part.strip(" \t") for part in value.split(",")) if element]


def has_token(value: str, token: str) -> bool:
    """Return whether a list of tokens, such as Connection, has ``token``, which is given in lower case."""
    # Most values are nothing but one token, or nothing.
    lower = value.lower()
    return lower == token or (token in lower and token in elements(lower))
