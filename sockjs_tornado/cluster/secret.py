"""The secret of a cluster, with which its nodes and publishers prove to each other that they belong to it.

It may be several secrets, so that it can be replaced while the cluster is running: the first one signs, and the
signatures of all are accepted.
"""

import hmac
from collections.abc import Sequence
from typing import Final

from ..exceptions import ConfigurationError

#: What users pass as ``secret``.
SecretOption = str | bytes | Sequence[str | bytes]

#: The smallest length of a secret in bytes.
MIN_SIZE: Final = 16

_EXPECTED: Final = (
    f"str or bytes of at least {MIN_SIZE} bytes, the same on all nodes, or a list of them, of which the first one signs"
)
_EXPECTED_TEXT: Final = (
    f"at least {MIN_SIZE} bytes, the same on all nodes, or several secrets, separated by commas, of which the first "
    "one signs"
)


class Secrets:
    """Sign with the first of some secrets, and accept the signatures (HMAC-SHA256, RFC 2104) of all of them.

    Attributes:
        keys: The secrets, at least one.
    """

    def __init__(self, *keys: bytes) -> None:
        self.keys = keys

    def sign(self, text: bytes) -> str:
        """Return the signature of a text in hexadecimal."""
        return _sign(self.keys[0], text)

    def is_signed(self, text: bytes, code: str) -> bool:
        """Return whether a signature is that of a text."""
        given = code.encode("utf-8", "surrogatepass")
        return any(hmac.compare_digest(_sign(key, text).encode(), given) for key in self.keys)


def _sign(key: bytes, text: bytes) -> str:
    return hmac.digest(key, text, "sha256").hex()


def check_secret(secret: object, expected: str = _EXPECTED) -> Secrets:
    """Return the secrets of a ``secret`` argument: one str or bytes, or a list or tuple of them.

    Args:
        secret: The argument.
        expected: What the error says that was expected.

    Raises:
        ConfigurationError: There is none, or one has another type or is too short.
    """
    several = secret if isinstance(secret, list | tuple) else [secret]
    return Secrets(*(_check(one, expected) for one in several or [None]))


def _check(secret: object, expected: str) -> bytes:
    key = secret.encode() if isinstance(secret, str) else secret
    if not isinstance(key, bytes) or len(key) < MIN_SIZE:
        # The text must not have the value: it may be the beginning of a real secret.
        got = f"{len(key)} bytes" if isinstance(key, bytes) else type(secret).__name__ if secret is not None else "none"
        raise ConfigurationError(
            f"secret: got {got}, expected {expected}; create one with "
            "python -c 'import secrets; print(secrets.token_hex())'"
        )
    return key


def read_secret(value: str | None, *, is_required: bool = False) -> list[str] | None:
    """Return the secrets in the value of an environment variable, separated by commas, or None if it is not set.

    Raises:
        ConfigurationError: There is none although one is required, or one is too short.
    """
    secrets = None if value is None else [secret.strip() for secret in value.split(",")]
    if secrets is not None or is_required:
        check_secret(secrets, _EXPECTED_TEXT)
    return secrets
