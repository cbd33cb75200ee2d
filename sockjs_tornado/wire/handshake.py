"""The server side of the WebSocket opening handshake (RFC 6455, section 4.2), working on header values only.

The value of a missing header is ``""``.
"""

import hashlib
from binascii import a2b_base64, b2a_base64

from ..exceptions import HandshakeError
from .fields import TOKEN, elements, has_token

#: Maximum length of a subprotocol's name. The session keeps the name as long as the connection is open.
MAX_SUBPROTOCOL = 256

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Versions 7 and 8 are drafts that browsers used in 2011. After the handshake they do not differ from version 13.
_VERSIONS = ("13", "8", "7")

_UPGRADE, _CONNECTION = ("Upgrade", "websocket"), ("Connection", "Upgrade")


def handshake_fields(accept: str) -> list[tuple[str, str]]:
    """Return the header fields of the 101 response, given the value of Sec-WebSocket-Accept."""
    return [_UPGRADE, _CONNECTION, ("Sec-WebSocket-Accept", accept)]


def accept_handshake(upgrade: str, connection: str, version: str, key: str) -> list[tuple[str, str]]:
    """Check a client's handshake, given as values of headers, and return the header fields of the 101 response.

    Raises:
        HandshakeError: The handshake is invalid. Its status is 400, or 426 with the list of supported versions.
    """
    if upgrade.strip().lower() != "websocket":
        raise HandshakeError(400, 'Can "Upgrade" only to "WebSocket".')
    if not has_token(connection, "upgrade"):
        raise HandshakeError(400, '"Connection" must be "Upgrade".')
    if version.strip() not in _VERSIONS:
        # RFC 9110, section 15.5.22, and RFC 6455, section 4.4.
        headers = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", ", ".join(_VERSIONS)))
        raise HandshakeError(426, "Unsupported WebSocket version.", headers)
    key = key.strip()
    try:
        nonce = a2b_base64(key, strict_mode=True)
    except ValueError:
        nonce = b""
    if len(nonce) != 16:
        raise HandshakeError(400, "Invalid Sec-WebSocket-Key.")
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return handshake_fields(b2a_base64(digest, newline=False).decode())


def offered_subprotocols(value: str) -> list[str]:
    """Return the subprotocols in a Sec-WebSocket-Protocol header, in order of preference (RFC 6455, section 11.3.4).

    Raises:
        HandshakeError: An element is not a token, is longer than :data:`MAX_SUBPROTOCOL`, or is repeated (status 400).
    """
    if not value:
        return []
    offered = elements(value)
    if len(set(offered)) < len(offered) or not all(
        len(name) <= MAX_SUBPROTOCOL and TOKEN.fullmatch(name) for name in offered
    ):
        raise HandshakeError(400, "Invalid Sec-WebSocket-Protocol.")
    return offered
