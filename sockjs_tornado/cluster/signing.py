"""Signed requests from node to node.

A request carries one header field that says who asks whom, when, and for which client, with an HMAC-SHA256 (RFC 2104,
RFC 6234) over these, the method, the path and the body. It is taken once, by the node it is meant for, and soon.
"""

import hashlib
import hmac
import itertools
import time
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["FIELD", "MAX_AGE", "STALE", "Caller", "Rejected", "Signer"]

#: The header field.
FIELD: Final = "X-Sockjs-Relay"

#: Seconds by which a request, or the clock of its sender, may be off.
MAX_AGE: Final = 15

#: Why a request that is older than that is rejected. It was not carried out, and may be sent again, signed anew.
STALE: Final = "stale"

_VERSION: Final = "1"

# Of what a client may be without: the address, over a Unix socket.
_NOTHING: Final = "-"


class Caller(NamedTuple):
    """The client for which a node asks.

    Attributes:
        ip: Its address.
        port: Its port, 0 where there is none.
        secure: Whether it came over TLS.
    """

    ip: str
    port: int
    secure: bool


class Rejected(Exception):
    """A request is not to be answered.

    Attributes:
        reason: "forged", "stale", "replayed" or "misdirected": signed well, for another node.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Signer:
    """Signs what a node asks, and looks at what it is asked.

    Args:
        secret: What all nodes share.
        node: The node's id; no two nodes, nor two runs of one, have the same.
        now: Returns seconds that mean the same on all nodes.
        ticks: Returns seconds that always go on.
    """

    def __init__(
        self,
        secret: bytes,
        node: str,
        now: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._secret = secret
        self._node = node
        self._now = now
        self._ticks = ticks
        self._count = itertools.count()
        # What was taken in the last two to four times of MAX_AGE: beyond that, a copy is stale.
        self._seen: set[bytes] = set()
        self._seen_before: set[bytes] = set()
        self._turn = ticks()

    def sign(self, to: str, method: str, uri: str, body: bytes | bytearray, caller: Caller) -> str:
        """Return the header field's value.

        Args:
            to: Id of the node that shall take the request, ``""`` for whoever it is.
            method: Of the request.
            uri: Path and query.
            body: The body.
            caller: For whom the node asks.
        """
        scheme = "https" if caller.secure else "http"
        said = (
            f"{_VERSION} {self._now():.6f} {self._node} {next(self._count)} {to or _NOTHING} "
            f"{caller.ip or _NOTHING} {caller.port} {scheme}"
        )
        return f"{said} {self._mac(said, method, uri, body).hex()}"

    def verify(self, value: str, method: str, uri: str, body: bytes) -> Caller:
        """Return for whom another node asks.

        Args:
            value: The header field.
            method: Of the request.
            uri: Path and query.
            body: The body.

        Raises:
            Rejected: The request is not signed, not for this node, too old, or was there before.
        """
        said, _, code = value.rpartition(" ")
        mac = self._mac(said, method, uri, body)
        if not hmac.compare_digest(mac.hex().encode(), code.encode("utf-8", "surrogatepass")):
            raise Rejected("forged")
        try:
            version, at, _, _, to, ip, port, scheme = said.split(" ")
            sent, caller = float(at), Caller("" if ip == _NOTHING else ip, int(port), scheme == "https")
        except ValueError:
            raise Rejected("forged") from None
        if version != _VERSION:
            # Signed by a node with another version of this package.
            raise Rejected("forged")
        # Whatever is no number compares false.
        if not abs(self._now() - sent) <= MAX_AGE:
            raise Rejected(STALE)
        self._remember(mac)
        if to not in (self._node, _NOTHING):
            raise Rejected("misdirected")
        return caller

    def _remember(self, mac: bytes) -> None:
        now = self._ticks()
        # A request that is as far ahead of this clock as may be is stale after twice MAX_AGE.
        if now - self._turn > 2 * MAX_AGE:
            self._seen_before = self._seen
            self._seen = set()
            self._turn = now
        if mac in self._seen or mac in self._seen_before:
            raise Rejected("replayed")
        self._seen.add(mac)

    def _mac(self, said: str, method: str, uri: str, body: bytes | bytearray) -> bytes:
        # None of these but the path can hold a line's end, and that one is last.
        text = f"{said}\n{hashlib.sha256(body).hexdigest()}\n{method}\n{uri}"
        return hmac.digest(self._secret, text.encode("utf-8", "surrogatepass"), "sha256")
