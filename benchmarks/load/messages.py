"""Messages with checksums, and their frames."""

import binascii
import json
import struct
import zlib
from typing import NamedTuple

_HEAD = struct.Struct(">IIQ")
# With one byte of padding, which is 0, the base64 encoding has no "=".
_CHECKED = struct.Struct(">16sIB")
_HEAD_SIZE = 28

#: Minimum size of a message in bytes.
MIN_SIZE = _HEAD_SIZE


class Content(NamedTuple):
    """The content of a valid message."""

    sender: int
    sequence: int
    due: int


class MessageCodec:
    """Encodes and decodes the messages of one run: sender, sequence number, time and padding, in ASCII.

    No character of a message is escaped in JSON or in an event stream, so that frames can be encoded and decoded
    without a parser.

    Args:
        run: Random number that identifies the run.
        size: Size of a message in bytes, at least :data:`MIN_SIZE`.
    """

    def __init__(self, run: int, size: int) -> None:
        self._run = run
        self._padding = b"x" * (size - _HEAD_SIZE)

    def encode(self, sender: int, sequence: int, due: int) -> bytes:
        """Encode a message that was due at a time of `time.monotonic_ns`."""
        head = _HEAD.pack(sender, sequence, due)
        return binascii.b2a_base64(_CHECKED.pack(head, zlib.crc32(head, self._run), 0), newline=False) + self._padding

    def decode(self, message: bytes) -> Content | None:
        """Decode a message, or return None if it is corrupt."""
        if message[_HEAD_SIZE:] != self._padding:
            return None
        try:
            head, checksum, zero = _CHECKED.unpack(binascii.a2b_base64(message[:_HEAD_SIZE]))
        except (binascii.Error, struct.error, ValueError):
            return None
        if zlib.crc32(head, self._run) != checksum or zero:
            return None
        return Content._make(_HEAD.unpack(head))


def decode_frame(frame: bytes) -> list[bytes] | None:
    """Return the messages of an `a[...]` frame, or None if it is invalid."""
    if frame.startswith(b'a["') and frame.endswith(b'"]') and b"\\" not in frame:
        messages = frame[3:-2].split(b'","')
        # If the count differs, the server may add spaces after commas: use the JSON parser.
        if frame.count(b'"') == 2 * len(messages):
            return messages
    try:
        decoded = json.loads(frame.removeprefix(b"a"))
    except ValueError:
        return None
    if not frame.startswith(b"a") or not isinstance(decoded, list):
        return None
    return [item.encode("utf-8", "surrogatepass") if isinstance(item, str) else repr(item).encode() for item in decoded]


def encode_array(messages: list[bytes]) -> bytes:
    """Encode messages of a :class:`MessageCodec` as a JSON array."""
    return b'["' + b'","'.join(messages) + b'"]'
