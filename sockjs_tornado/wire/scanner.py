"""Search for the peer's close frame after this side has sent its own (RFC 6455), without I/O."""

from typing import Final

from .frames import CLOSE, MASK

# Size of a whole frame by its second byte; 0 if an extended length follows.
_SPANS = [0 if second & 0x7F >= 126 else 2 + (second & 0x7F) + (4 if second & MASK else 0) for second in range(256)]


def _long_span(data: bytes, position: int, end: int) -> int:
    """Return the size of a frame with an extended length, or 0 if the length is incomplete."""
    second = data[position + 1]
    start = position + (4 if second & 0x7F == 126 else 10)
    if start > end:
        return 0
    return start - position + (4 if second & MASK else 0) + int.from_bytes(data[position + 2 : start], "big")


class CloseFrameScanner:
    """Incremental reader that skips all frames up to the peer's close frame.

    It is used after this side has sent a close frame (RFC 6455, section 7.1.1), also after a protocol violation. So
    frames may be masked or not and may break every rule that does not concern their length. The scanner buffers at most
    an incomplete length of nine bytes.

    Args:
        left: Bytes to skip before the first frame.

    Attributes:
        found: Whether the whole close frame has arrived. Everything after it is ignored.
    """

    __slots__ = ("_header", "_is_close", "_left", "found")

    #: No other parser may take over.
    at_boundary: Final = False

    def __init__(self, left: int = 0) -> None:
        self._header = b""
        self._left = left
        # Whether the frame that is currently skipped is the close frame.
        self._is_close = False
        self.found = False

    def feed(self, data: bytes) -> bool:
        """Skip the next bytes and return :attr:`found`."""
        if self.found:
            return True
        if self._header:
            data = self._header + data
        end = len(data)
        is_close = self._is_close
        # Start of the next frame; beyond the end if the current frame is incomplete.
        position = self._left
        while end - position >= 2 and not is_close:
            span = _SPANS[data[position + 1]]
            if not span:
                span = _long_span(data, position, end)
                if not span:
                    break
            is_close = data[position] & 0x0F == CLOSE
            position += span
        self._is_close = is_close
        self.found = is_close and position <= end
        self._left = max(position - end, 0)
        self._header = b"" if self.found else data[position:]
        return self.found
