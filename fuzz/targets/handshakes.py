"""The opening handshake of a websocket, and what is agreed on compression and subprotocols."""

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
    """``accept_handshake``, ``negotiate`` and ``offered_subprotocols``, given any header values, a line each: Upgrade,
    Connection, Sec-WebSocket-Version, Sec-WebSocket-Key, Sec-WebSocket-Extensions, Sec-WebSocket-Protocol.

    - A handshake is accepted exactly where RFC 6455, section 4.2.1, does it; any other is a HandshakeError with 400 or
      426. The answer's Sec-WebSocket-Accept is right, and no header field can be injected.
    - ``negotiate`` returns None or an agreement that the client offered: no window that it did not name, or a smaller
      one for the server. The answer, read as an offer, gives the same agreement, and what the server compresses is what
      a client inflates. Without a context there are two windows for the server, whatever is offered.
    - ``offered_subprotocols`` returns names that may stand in the answer, each of them once, or raises HandshakeError.
    """

    def __call__(self, data: bytes) -> None:
        """Judge one handshake."""
        upgrade, connection, version, key, extensions, subprotocols = lines(data, 6)
        try:
            fields = accept_handshake(upgrade, connection, version, key)
        except HandshakeError as error:
            assert error.status in (400, 426)
            assert PRINTABLE.fullmatch(error.reason)
            assert not acceptable(upgrade, connection, version, key)
            fields = list(error.headers)
        else:
            assert acceptable(upgrade, connection, version, key)
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
                check_agreement(parameters, extensions, takeover)


def acceptable(upgrade: str, connection: str, version: str, key: str) -> bool:
    """Tell whether the values are those of an opening handshake."""
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


def check_agreement(parameters: Parameters, offers: str, takeover: bool) -> None:
    """See that an agreement is what was offered, and that it works."""
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
    # What the server compresses is what a client with the same parameters inflates.
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
