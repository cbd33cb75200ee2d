"""The format of claims in Redis, and its authentication. Pure.

A claim is ``1 <node> <address> <code>``, and a tombstone, which says that the node was dead, ``1 <node> - <code>``. The
code is an HMAC-SHA256 (RFC 2104) with the secret of the nodes, of the fields before it and the session's key. So
whoever can write to Redis can neither have a node call an address that no node has advertised, nor declare a node dead,
nor use the claim or tombstone of one session for another.
"""

import re
from typing import Final, NamedTuple

from .ownership import Owner
from .secret import Secrets

_VERSION: Final = "1"

NODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

#: The address of a node: a name or an address, in brackets for IPv6, and a port.
ADDRESS: Final = re.compile(
    r"https?://(?:[A-Za-z0-9_.-]{1,255}|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,32})?\]):[1-9][0-9]{0,4}"
)

_CLAIM: Final = re.compile(rf"{_VERSION} ({NODE.pattern}) ({ADDRESS.pattern}|-) ([0-9a-f]{{64}})")


class DeadOwner(NamedTuple):
    """The owner of a session that was found to be dead, and the session with it."""

    node: str


def claim_prefix(owner: Owner) -> bytes:
    """Return the beginning of the claims of an owner, whatever secret has signed them."""
    return f"{_VERSION} {owner.node} {owner.address} ".encode()


def encode_claim(secrets: Secrets, key: str, owner: Owner) -> bytes:
    """Return the claim of a session's key."""
    return _encode(secrets, key, owner.node, owner.address)


def encode_tombstone(secrets: Secrets, key: str, node: str) -> bytes:
    """Return the tombstone of a session's key, whose owner was dead."""
    return _encode(secrets, key, node, "-")


def _encode(secrets: Secrets, key: str, node: str, address: str) -> bytes:
    claim = f"{_VERSION} {node} {address}"
    return f"{claim} {secrets.sign(_signed_text(key, claim))}".encode()


def parse_claim(secrets: Secrets, key: str, value: bytes) -> Owner | DeadOwner:
    """Return the owner in a claim or tombstone, or raise ValueError if no node has written it for this key."""
    found = _CLAIM.fullmatch(value.decode("ascii"))
    if found is None:
        raise ValueError("the claim is malformed")
    node, address, code = found.groups()
    if not secrets.is_signed(_signed_text(key, f"{_VERSION} {node} {address}"), code):
        raise ValueError("the claim was not written by a node with this secret")
    return DeadOwner(node) if address == "-" else Owner(node, address)


def _signed_text(key: str, claim: str) -> bytes:
    # Claims have no newline, and the prefix separates these codes from those of requests between nodes.
    return f"claim\n{claim}\n{key}".encode("utf-8", "surrogateescape")
