"""The format of claims in Redis, and its authentication. Pure.

A claim is ``1 <node> <address> <code>``. The code is an HMAC-SHA256 (RFC 2104) with the secret of the nodes, of the
node, the address and the session's key, so that whoever can write to Redis can neither have a node call an address that
no node advertises, nor use the claim of one session for another.
"""

import re
from typing import Final

from .ownership import Owner
from .secret import Secrets

_VERSION: Final = "1"

NODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

#: The address of a node: a name or an address, in brackets for IPv6, and a port.
ADDRESS: Final = re.compile(
    r"http://(?:[A-Za-z0-9_.-]{1,255}|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,32})?\]):[1-9][0-9]{0,4}"
)

_CLAIM: Final = re.compile(rf"{_VERSION} ({NODE.pattern}) ({ADDRESS.pattern}) ([0-9a-f]{{64}})")


def claim_prefix(owner: Owner) -> bytes:
    """Return the beginning of the claims of an owner, whatever secret has signed them."""
    return f"{_VERSION} {owner.node} {owner.address} ".encode()


def encode_claim(secrets: Secrets, key: str, owner: Owner) -> bytes:
    """Return the claim of a session's key."""
    claim = f"{_VERSION} {owner.node} {owner.address}"
    return f"{claim} {secrets.sign(_signed_text(key, claim))}".encode()


def parse_claim(secrets: Secrets, key: str, value: bytes) -> Owner:
    """Return the owner in a claim, or raise ValueError if no node has written it for this key."""
    found = _CLAIM.fullmatch(value.decode("ascii"))
    if found is None:
        raise ValueError("the claim is malformed")
    node, address, code = found.groups()
    if not secrets.is_signed(_signed_text(key, f"{_VERSION} {node} {address}"), code):
        raise ValueError("the claim was not written by a node with this secret")
    return Owner(node, address)


def _signed_text(key: str, claim: str) -> bytes:
    # Claims have no newline, and the prefix separates these codes from those of requests between nodes.
    return f"claim\n{claim}\n{key}".encode("utf-8", "surrogateescape")
