"""How a response over HTTP becomes frames: the two framings, fed with bytes as they come. Pure."""

from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from ..exceptions import PayloadError

__all__ = ["EventFraming", "FrameTooLong", "LineFraming"]


class FrameTooLong(Exception):
    """A frame has more bytes than the client takes."""


class LineFraming:
    """Frames that end with a line feed, as xhr and xhr_streaming have them.

    Args:
        limit: Bytes that a line may have.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()

    @property
    def is_within(self) -> bool:
        """Whether what came last was not the end of a frame."""
        return bool(self._rest)

    def reset(self) -> None:
        """Begin with a new response."""
        self._rest.clear()

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Take bytes and yield the frames that they complete.

        Raises:
            FrameTooLong: A line is longer than the limit.
            PayloadError: A line is not UTF-8.
        """
        for line in self._lines(chunk):
            # Many of the letter h are the prelude of a stream, which makes browsers begin to show it.
            if line and (len(line) == 1 or line.strip(b"h")):
                yield self._text(line)

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            if self._rest:
                self._rest += line
                line = bytes(self._rest)
                self._rest.clear()
            self._check(line)
            yield line.removesuffix(b"\r")
        self._rest += rest
        self._check(self._rest)

    def _check(self, line: bytes | bytearray) -> None:
        if len(line) > self._limit and line.strip(b"h\r"):
            raise FrameTooLong
        if len(line) > max(self._limit, 1 << 16):
            raise FrameTooLong  # nor may a prelude go on for ever

    @staticmethod
    def _text(data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise PayloadError("Broken UTF-8.") from None


class EventFraming(LineFraming):
    """Frames that are the data of server-sent events."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._data: list[bytes] = []
        self._size = 0

    @property
    def is_within(self) -> bool:
        """Whether what came last was not the end of an event."""
        return bool(self._rest or self._data)

    def reset(self) -> None:
        """Begin with a new response."""
        super().reset()
        self._data.clear()
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Take bytes and yield the frames that they complete.

        Raises:
            FrameTooLong: A line, or an event, is longer than the limit.
            PayloadError: An event is not UTF-8.
        """
        for line in self._lines(chunk):
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
                self._size += len(value) + 1
                if self._size > self._limit + 2:
                    raise FrameTooLong
            elif not line and self._data:
                data = b"\n".join(self._data)
                self._data.clear()
                self._size = 0
                # The server escapes what would end a line, and the sign that it escapes with.
                yield self._text(unquote_to_bytes(data))
