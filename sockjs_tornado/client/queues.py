"""What waits on its way in and out of a client: two queues with a bound."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

__all__ = ["Inbox", "Outbox"]

#: What a message counts for besides its characters, so that empty ones have a bound too.
_OVERHEAD = 64
#: What goes into one frame or POST: so many characters, where a message is not longer by itself, and messages.
_BATCH_SIZE = 256 * 1024
_BATCH_MESSAGES = 1000


class Inbox:
    """Messages that the application has not taken yet.

    Args:
        limit: Characters above which it is full.

    Attributes:
        changed: Set while there is something to take, or nothing more to wait for.
    """

    def __init__(self, limit: int) -> None:
        self.changed = asyncio.Event()
        self._limit = limit
        self._messages: deque[tuple[Any, int]] = deque()
        self._size = 0
        self._ended = False

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read."""
        return self._size > self._limit

    @property
    def is_low(self) -> bool:
        """Whether reading may go on after it was full."""
        return self._size <= self._limit // 2

    def put(self, messages: Sequence[Any], size: int) -> None:
        """Add messages whose frame has so many characters."""
        each = size // len(messages) + _OVERHEAD
        self._messages.extend((message, each) for message in messages)
        self._size += each * len(messages)
        self.changed.set()

    def take(self) -> Any:
        """Remove and return the first message."""
        message, size = self._messages.popleft()
        self._size -= size
        if not self._messages and not self._ended:
            self.changed.clear()
        return message

    def end(self) -> None:
        """Have nobody wait any more."""
        self._ended = True
        self.changed.set()


class Outbox:
    """Messages that the transport has not taken yet.

    Args:
        limit: Characters at which it is full. A message that is longer goes in where nothing else is.

    Attributes:
        filled: Set while something is in it.
        room: Set while it is not full.
    """

    def __init__(self, limit: int) -> None:
        self.filled = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()
        self._limit = limit
        self._messages: deque[str] = deque()
        self._size = 0

    def put(self, message: str) -> None:
        """Add a message."""
        self._messages.append(message)
        self._size += len(message) + _OVERHEAD
        self._note()

    def take(self) -> list[str]:
        """Remove and return what goes into one frame or POST."""
        batch: list[str] = []
        size = 0
        while self._messages and len(batch) < _BATCH_MESSAGES:
            if batch and size + len(self._messages[0]) > _BATCH_SIZE:
                break
            size += len(self._messages[0])
            batch.append(self._messages.popleft())
        self._size -= size + _OVERHEAD * len(batch)
        self._note()
        return batch

    def clear(self) -> None:
        """Forget all."""
        self._messages.clear()
        self._size = 0
        self._note()

    def _note(self) -> None:
        for event, is_so in ((self.filled, bool(self._messages)), (self.room, self._size < self._limit)):
            if is_so:
                event.set()
            else:
                event.clear()
