"""Parsers for the frames in an HTTP response: lines and server-sent events, fed in chunks. Pure."""

from collections.abc import Iterator
from urllib.parse import unquote_to_bytes


class FrameTooLong(Exception):
    """A frame is longer than ``max_message_size``."""


class LineFraming:
    """Parser for frames that end with a line feed, as in xhr and xhr_streaming; ``limit`` is in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    @property
    def is_incomplete(self) -> bool:
        """Whether the data so far ends in the middle of a frame."""
        return bool(self._buffer)

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Yield the frames that a chunk completes; raise FrameTooLong or UnicodeDecodeError."""
        for line in self._lines(chunk):
            # A line of many "h" is the prelude that makes browsers start to process a stream, not a heartbeat.
            if line and (len(line) == 1 or line.strip(b"h")):
                yield line.decode()

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            if self._buffer:
                self._buffer += line
                line = bytes(self._buffer)
                self._buffer.clear()
            self._check_length(line)
            yield line.removesuffix(b"\r")
        self._buffer += rest
        self._check_length(self._buffer)

    def _check_length(self, line: bytes | bytearray) -> None:
        # The prelude may exceed a low limit, but must be bounded too.
        if len(line) > self._limit and (len(line) > 1 << 16 or line.strip(b"h\r")):
            raise FrameTooLong


class EventFraming(LineFraming):
    """Parser for frames that are the data of server-sent events."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._data = bytearray()

    @property
    def is_incomplete(self) -> bool:
        return bool(self._buffer or self._data)

    def feed(self, chunk: bytes) -> Iterator[str]:
        for line in self._lines(chunk):
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data += b"\n" + value.removeprefix(b" ")
                if len(self._data) > self._limit + 1:
                    raise FrameTooLong
            elif not line and self._data:
                data = bytes(self._data[1:])
                self._data.clear()
                # The server percent-encodes line breaks and the percent sign.
                yield unquote_to_bytes(data).decode()
