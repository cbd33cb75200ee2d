"""Messages that can be checked, and the frames they come in."""

import binascii
import json
import struct
import zlib
from typing import NamedTuple

_HEAD = struct.Struct(">IIQ")
# A byte more than the fields need makes the base64 of it end without "=". It is 0.
_CHECKED = struct.Struct(">16sIB")
_HEAD_SIZE = 28

#: The fewest bytes that a message can have.
LEAST_SIZE = _HEAD_SIZE


class Read(NamedTuple):
    """What an intact message says."""

    sender: int
    sequence: int
    due: int


class Mint:
    """Makes and checks the messages of one run: sender, sequence number, time and padding, all of it ASCII.

    No character of a message needs an escape in JSON or in an event stream, so that frames can be made and taken apart
    without a parser.

    Args:
        run: A number that tells this run's messages from those of any other.
        size: Bytes of a message, at least :data:`LEAST_SIZE`.
    """

    def __init__(self, run: int, size: int) -> None:
        self._run = run
        self._padding = b"x" * (size - _HEAD_SIZE)

    def make(self, sender: int, sequence: int, due: int) -> bytes:
        """Make a message that was due at a time of `time.monotonic_ns`."""
        head = _HEAD.pack(sender, sequence, due)
        return binascii.b2a_base64(_CHECKED.pack(head, zlib.crc32(head, self._run), 0), newline=False) + self._padding

    def read(self, message: bytes) -> Read | None:
        """Return what a message says; None where a single bit of it is wrong."""
        if message[_HEAD_SIZE:] != self._padding:
            return None
        try:
            head, checksum, zero = _CHECKED.unpack(binascii.a2b_base64(message[:_HEAD_SIZE]))
        except (binascii.Error, struct.error, ValueError):
            return None
        if zlib.crc32(head, self._run) != checksum or zero:
            return None
        return Read._make(_HEAD.unpack(head))


def decode_frame(frame: bytes) -> list[bytes] | None:
    """Return the messages of an `a[...]` frame; None where it is none."""
    if frame.startswith(b'a["') and frame.endswith(b'"]') and b"\\" not in frame:
        messages = frame[3:-2].split(b'","')
        # Other quotation marks are those of a server that puts a space after its commas.
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
    """Return the JSON array in which a client sends messages of a :class:`Mint`."""
    return b'["' + b'","'.join(messages) + b'"]'
