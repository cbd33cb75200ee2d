"""The opening handshake of a websocket, and the negotiation of compression and subprotocols."""

import base64
import binascii
import hashlib
import re

from sockjs_tornado.exceptions import HandshakeError
from sockjs_tornado.wire.deflate import Deflater, Parameters, RawInflater, negotiate
from sockjs_tornado.wire.handshake import MAX_SUBPROTOCOL, accept_handshake, offered_subprotocols

from ..target import lines

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PRINTABLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
# RFC 9110, section 5.6.2.
TOKEN = re.compile(r"[!#-'*+.^-z|~0-9A-Z-]+")
MESSAGE = b"Hello, hello, hello! " * 20


class Target:
    """``accept_handshake``, ``negotiate`` and ``offered_subprotocols``, with any header values, one per line: Upgrade,
    Connection, Sec-WebSocket-Version, Sec-WebSocket-Key, Sec-WebSocket-Extensions, Sec-WebSocket-Protocol.

    - A handshake is accepted if and only if RFC 6455, section 4.2.1, allows it; otherwise HandshakeError is raised with
      status 400 or 426. Sec-WebSocket-Accept in the response is correct, and no header field can be injected.
    - ``negotiate`` returns None or parameters that the client offered: each window size is one that it offered, or a
      smaller one for the server. The response, parsed as an offer, gives the same parameters, and a client can inflate
      the server's output. Without context takeover, the server has one of two window sizes.
    - ``offered_subprotocols`` returns distinct names that are valid in the response, or raises HandshakeError.
    """

    def __call__(self, data: bytes) -> None:
        """Check one handshake."""
        upgrade, connection, version, key, extensions, subprotocols = lines(data, 6)
        try:
            fields = accept_handshake(upgrade, connection, version, key)
        except HandshakeError as error:
            assert error.status in (400, 426)
            assert PRINTABLE.fullmatch(error.reason)
            assert not is_acceptable(upgrade, connection, version, key)
            fields = list(error.headers)
        else:
            assert is_acceptable(upgrade, connection, version, key)
            digest = hashlib.sha1(key.strip().encode() + GUID).digest()
            assert dict(fields)["Sec-WebSocket-Accept"] == base64.b64encode(digest).decode()
        assert all(PRINTABLE.fullmatch(text) for field in fields for text in field)
        try:
            offered = offered_subprotocols(subprotocols)
        except HandshakeError as error:
            assert error.status == 400
        else:
            assert len(set(offered)) == len(offered)
            assert all(len(name) <= MAX_SUBPROTOCOL and TOKEN.fullmatch(name) for name in offered)
            assert re.sub(r"[\s,]+", ",", subprotocols).strip(",") == ",".join(offered)
        for takeover in (False, True):
            parameters = negotiate(extensions, context_takeover=takeover)
            if parameters is not None:
                check_parameters(parameters, extensions, takeover)


def is_acceptable(upgrade: str, connection: str, version: str, key: str) -> bool:
    """Return whether the values are those of a valid opening handshake."""
    try:
        nonce = base64.b64decode(key.strip().encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return False
    return (
        upgrade.strip().lower() == "websocket"
        and re.search(r"(?:^|,)[ \t]*upgrade[ \t]*(?:,|$)", connection, re.IGNORECASE) is not None
        and version.strip() in ("7", "8", "13")
        and len(nonce) == 16
    )


def check_parameters(parameters: Parameters, offers: str, takeover: bool) -> None:
    """Check that the parameters were offered, and that they work."""
    assert PRINTABLE.fullmatch(parameters.response)
    assert negotiate(parameters.response, context_takeover=takeover) == parameters
    for name, bits in (
        ("server_max_window_bits", parameters.server_max_window_bits),
        ("client_max_window_bits", parameters.client_max_window_bits),
    ):
        assert bits is None or 8 <= bits <= 15
        offered = [int(found) for found in re.findall(rf'{name}\s*=\s*"?([0-9]+)', offers)]
        assert bits is None or bits in offered or (name.startswith("server") and bits < max(offered))
    if parameters.server_no_context_takeover:
        assert parameters.server_window in (9, 15)
    if not takeover:
        assert parameters.server_no_context_takeover
        assert parameters.client_no_context_takeover
    # A client with the same parameters must be able to inflate the server's output.
    deflater = Deflater(parameters, 6)
    mirrored = Parameters(
        parameters.client_no_context_takeover,
        parameters.server_no_context_takeover,
        parameters.client_max_window_bits,
        parameters.server_max_window_bits,
    )
    inflater = RawInflater(mirrored)
    for _ in range(2):
        assert inflater.inflate(deflater.deflate(MESSAGE), final=True, limit=len(MESSAGE)) == MESSAGE
