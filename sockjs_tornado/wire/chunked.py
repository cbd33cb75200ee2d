"""Decoding of chunked request bodies (RFC 9112, section 7.1), without I/O."""

import re
from typing import Final

from ..exceptions import BadRequest

#: Number of chunks of any size that a body may have, and the minimum average size of further ones. Clients and proxies
#: send a chunk per buffer (thousands of bytes) or per message. Each chunk costs time, however small it is.
FREE_CHUNKS: Final = 256
MIN_CHUNK_SIZE: Final = 512

# The bytes before the data of the first chunk, before that of the others, and at the end.
_FIRST = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
_NEXT = re.compile(rb"\r\n([0-9A-Fa-f]{1,16})\r\n")
_END = re.compile(rb"\r\n()")

# Incomplete forms of these.
_INCOMPLETE: Final = {
    _FIRST: re.compile(rb"(?:[0-9A-Fa-f]{1,16}\r?)?"),
    _NEXT: re.compile(rb"\r?|\r\n(?:[0-9A-Fa-f]{1,16}\r?)?"),
    _END: re.compile(rb"\r?"),
}


class ChunkedDecoder:
    """Incremental decoder of a chunked body.

    It accepts nothing that another parser could understand differently, like Tornado's. Chunk extensions are refused,
    although a recipient should ignore them (RFC 9112, section 7.1.1): no client or proxy sends them, and parsers
    disagree about where a malformed one ends, which hides a second request from one of them. Trailers are refused, too:
    a request has no use for them, and they could replace header fields that were already checked.

    The decoder does not limit the size of the body. The caller compares :attr:`size` with its limit after each feed,
    which finds a chunk that is too large before its data arrives.

    Attributes:
        size: Sum of the sizes of the chunks so far, including the missing part of the last one.
        finished: Whether the whole body has arrived.
        unread: The data after the body, which belongs to the next request. Empty until the body is finished.
        left: Missing bytes of the current chunk.
    """

    __slots__ = ("_chunks", "_expected", "_line", "finished", "left", "size", "unread")

    def __init__(self) -> None:
        self.size = 0
        self.finished = False
        self.unread = b""
        self._expected = _FIRST
        self._chunks = 0
        self.left = 0
        # An incomplete size line: at most 19 bytes.
        self._line = b""

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """Decode the next bytes and return the data of the body in them.

        After an error, or when the body is finished, the decoder must not be used again.

        Raises:
            BadRequest: The encoding is invalid, or the average size of the chunks is below the minimum. The data before
                the fault is lost.
        """
        data = self._line + data
        end = len(data)
        pieces = []
        position = 0
        while True:
            if self.left:
                piece = data[position : position + self.left]
                pieces.append(piece)
                position += len(piece)
                self.left -= len(piece)
                if self.left:
                    break
            line = self._expected.match(data, position)
            if line is None:
                if not _INCOMPLETE[self._expected].fullmatch(data, position):
                    raise BadRequest(400, "Invalid chunked encoding.")
                break
            position = line.end()
            if self._expected is _END:
                self.finished = True
                self.unread = data[position:]
                break
            self._begin(int(line[1], 16))
        self._line = b"" if self.finished else data[position:end]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _begin(self, size: int) -> None:
        """Begin a chunk; the last one has the size 0."""
        if not size:
            self._expected = _END
            return
        self._expected = _NEXT
        self.left = size
        self._chunks += 1
        self.size += size
        if self._chunks > FREE_CHUNKS and self.size < (self._chunks - FREE_CHUNKS) * MIN_CHUNK_SIZE:
            raise BadRequest(400, "Chunks too small.", "chunk_size")
