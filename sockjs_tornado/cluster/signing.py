"""Signed requests between nodes.

A request has one header field with the sender, the receiver, the time and the client's address, and an HMAC-SHA256
(RFC 2104, RFC 6234) of these, the method, the path and the body. The receiver accepts it once, within :data:`MAX_AGE`.
"""

import itertools
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from .secret import Secrets

#: The header field. Requests have the signature in it, responses the reason of a rejection, or a node's id.
RELAY_HEADER: Final = "X-Sockjs-Relay"

#: The largest difference in seconds between a request's timestamp and the receiver's clock.
MAX_AGE: Final = 15

#: The reason if the difference is larger. The request was not processed; it may be signed and sent again.
STALE: Final = "stale"

_VERSION: Final = "1"

# Stands for an empty value: no particular receiver, or no address, as for a client on a Unix socket.
_EMPTY: Final = "-"


class RelayedClient(NamedTuple):
    """The client whose request a node relays. Its port is 0 if it is unknown."""

    ip: str
    port: int
    secure: bool


class Rejected(Exception):
    """The request must not be processed.

    Attributes:
        reason: "forged", "stale", "replayed", or "misdirected" if the signature is valid but for another node.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Signer:
    """Sign requests to other nodes, and verify theirs.

    Args:
        secrets: The secrets that all nodes share.
        node: This node's id, different for each node and for each start of a node.
        now: The clock for timestamps, which other nodes compare with theirs.
        ticks: The clock for the memory of accepted signatures.
    """

    def __init__(
        self,
        secrets: Secrets,
        node: str,
        now: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._secrets = secrets
        self._node = node
        self._now = now
        self._ticks = ticks
        self._count = itertools.count()
        # The accepted signatures, in two generations that together span 2 to 4 times MAX_AGE. An older copy is stale.
        self._seen: set[bytes] = set()
        self._seen_before: set[bytes] = set()
        self._rotated_at = ticks()

    def sign(self, to: str, method: str, uri: str, body: bytes | bytearray, client: RelayedClient) -> str:
        """Return the header field's value for a request to the node ``to``, or to any node if that is ``""``."""
        scheme = "https" if client.secure else "http"
        claims = (
            f"{_VERSION} {self._now():.6f} {self._node} {next(self._count)} {to or _EMPTY} "
            f"{client.ip or _EMPTY} {client.port} {scheme}"
        )
        return f"{claims} {self._secrets.sign(_signed_text(claims, method, uri, body))}"

    def verify(self, value: str, method: str, uri: str, body: bytes | bytearray) -> RelayedClient:
        """Return the client of a request with a header field's value.

        Raises:
            Rejected: The signature is not valid, not for this node, too old, or was used before.
        """
        claims, _, code = value.rpartition(" ")
        if not self._secrets.is_signed(_signed_text(claims, method, uri, body), code):
            raise Rejected("forged")
        try:
            version, at, _, _, to, ip, port, scheme = claims.split(" ")
            sent, client = float(at), RelayedClient("" if ip == _EMPTY else ip, int(port), scheme == "https")
        except ValueError:
            raise Rejected("forged") from None
        if version != _VERSION:
            # Signed by a node with another version of this package.
            raise Rejected("forged")
        # Comparisons with NaN are false, so "nan" is rejected.
        if not abs(self._now() - sent) <= MAX_AGE:
            raise Rejected(STALE)
        self._check_replay(bytes.fromhex(code))
        if to not in (self._node, _EMPTY):
            raise Rejected("misdirected")
        return client

    def _check_replay(self, mac: bytes) -> None:
        now = self._ticks()
        # A timestamp that is MAX_AGE ahead of this clock becomes stale after twice MAX_AGE.
        if now - self._rotated_at > 2 * MAX_AGE:
            self._seen_before = self._seen
            self._seen = set()
            self._rotated_at = now
        if mac in self._seen or mac in self._seen_before:
            raise Rejected("replayed")
        self._seen.add(mac)


def _signed_text(claims: str, method: str, uri: str, body: bytes | bytearray) -> bytes:
    # The claims and the method contain no newline, and the path has a length, so no two requests have the same text.
    return f"{claims}\n{method}\n{len(uri)}\n{uri}".encode("utf-8", "surrogatepass") + body
