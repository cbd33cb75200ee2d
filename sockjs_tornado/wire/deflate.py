"""The permessage-deflate extension (RFC 7692): negotiation, compression and decompression."""

import re
import sys
import zlib
from typing import NamedTuple

from ..exceptions import WebSocketError
from .fields import TOKEN
from .frames import INVALID_DATA, TOO_BIG

# RFC 7692, section 7.2.1: a message ends with an empty stored block whose last four bytes are removed.
_TAIL = b"\x00\x00\xff\xff"
_MAX_WINDOW = 15
# zlib does not support raw streams with a window of 2^8 bytes.
_MIN_WINDOW = 9

_BITS = re.compile(r'("?)([89]|1[0-5])\1')


class Parameters(NamedTuple):
    """The negotiated parameters (RFC 7692, section 7.1). A window size is None if it was not negotiated."""

    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int | None
    client_max_window_bits: int | None

    @property
    def server_window(self) -> int:
        """Window size of the server's compressor, in bits."""
        return self.server_max_window_bits or _MAX_WINDOW

    @property
    def response(self) -> str:
        """The Sec-WebSocket-Extensions header of the response."""
        chosen = {name: value for name, value in self._asdict().items() if value}
        return "; ".join(
            ["permessage-deflate", *(name if value is True else f"{name}={value}" for name, value in chosen.items())]
        )


def negotiate(header: str, *, context_takeover: bool) -> Parameters | None:
    """Choose the first acceptable permessage-deflate offer of a Sec-WebSocket-Extensions header.

    Without context takeover, the server uses only two window sizes, so that a broadcast message is compressed at most
    twice: the full window, or the smallest one if the client limits it.

    Args:
        header: The client's header, which may contain several offers and other extensions. Invalid parts are ignored.
        context_takeover: Whether both sides may keep the compression context between messages.

    Returns:
        The negotiated parameters, or None if no offer is acceptable (RFC 7692, section 7).
    """
    for offer in header.split(","):
        name, *items = (item.strip() for item in offer.split(";"))
        if name.lower() == "permessage-deflate":
            parameters = _accept(items, context_takeover)
            if parameters is not None:
                return parameters
    return None


def _accept(items: list[str], context_takeover: bool) -> Parameters | None:
    flags = dict.fromkeys(("server_no_context_takeover", "client_no_context_takeover"), not context_takeover)
    server_bits = client_bits = None
    seen = set()
    for item in items:
        name, has_value, value = (part.strip() for part in item.partition("="))
        if name in seen or not TOKEN.fullmatch(name):
            return None
        seen.add(name)
        if name in flags:
            if has_value:
                return None
            flags[name] = True
        elif name == "server_max_window_bits":
            # To accept an offer with this parameter, the response must include it (section 7.1.2.1).
            server_bits = _window_bits(value)
            if server_bits is None or server_bits < _MIN_WINDOW:
                return None
        elif name == "client_max_window_bits":
            # Without a value, the client only declares that it supports the parameter (section 7.1.2.2).
            if has_value:
                client_bits = _window_bits(value)
                if client_bits is None:
                    return None
        else:
            return None
    if flags["server_no_context_takeover"] and server_bits is not None and server_bits < _MAX_WINDOW:
        # Section 7.1.2.1 allows the client's value or a smaller one. Measured against the full window, a message of
        # 600 bytes grows by 1 %, one of 2 KB by 7 %, and 20 KB of prose by 26 %.
        server_bits = _MIN_WINDOW
    return Parameters(**flags, server_max_window_bits=server_bits, client_max_window_bits=client_bits)


def _window_bits(value: str) -> int | None:
    match = _BITS.fullmatch(value)
    return int(match[2]) if match else None


class RawInflater:
    """Decompresses the messages of one client."""

    __slots__ = ("_decompressor", "_takeover", "_window")

    def __init__(self, parameters: Parameters) -> None:
        self._takeover = not parameters.client_no_context_takeover
        # A window larger than the compressor's is allowed, and zlib has none of 8 bits.
        self._window = -max(parameters.client_max_window_bits or _MAX_WINDOW, _MIN_WINDOW)
        # Created on demand, so that an idle connection without context takeover needs no memory for it.
        self._decompressor: zlib._Decompress | None = None

    def inflate(self, data: bytes, *, final: bool, limit: int) -> bytes:
        """Return the decompressed next part of a message, at most ``limit`` bytes.

        Raises:
            WebSocketError: The data is invalid, or continues after the end of the deflate stream: 1007. The result
                would have more than ``limit`` bytes: 1009.
        """
        if final:
            data += _TAIL
        if self._decompressor is None:
            self._decompressor = zlib.decompressobj(self._window)
        try:
            # One byte above the limit is enough to detect a message that is too big, such as a zip bomb.
            out = self._decompressor.decompress(data, min(limit + 1, sys.maxsize))
        except zlib.error as error:
            raise WebSocketError(INVALID_DATA, "invalid compressed data") from error
        if len(out) > limit:
            raise WebSocketError(TOO_BIG, "message too big")
        if self._decompressor.eof:
            # The client marked a block as the last one (section 7.2.3.4). Data after it is not decompressed, but is in
            # `unused_data`. Only a zero byte may follow, which with the tail is an empty block.
            rest = self._decompressor.unused_data
            if (rest[: -len(_TAIL)] if final else rest) not in (b"", b"\x00"):
                raise WebSocketError(INVALID_DATA, "invalid compressed data")
        if final and (not self._takeover or self._decompressor.eof):
            self._decompressor = None
        return out


class Deflater:
    """Compresses messages for one client, or for many clients if there is no context takeover."""

    __slots__ = ("_compressor", "_level", "_takeover", "_window")

    def __init__(self, parameters: Parameters, level: int) -> None:
        self._takeover = not parameters.server_no_context_takeover
        self._window = -parameters.server_window
        self._level = level
        self._compressor = zlib.compressobj(level, zlib.DEFLATED, self._window) if self._takeover else None

    def deflate(self, data: bytes) -> bytes:
        """Return the compressed payload of one message."""
        compressor = self._compressor or zlib.compressobj(self._level, zlib.DEFLATED, self._window)
        return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_TAIL)
