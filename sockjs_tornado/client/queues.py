"""Bounded queues of a client: received messages and messages to send."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

#: Size that a message counts for besides its characters, so that a number of empty messages is bounded too.
_MESSAGE_OVERHEAD = 64
#: Limits of one frame or POST, in characters and messages. A single message may be longer.
_BATCH_SIZE = 256 * 1024
_BATCH_MESSAGES = 1000


class ReceiveQueue:
    """Received messages that the application has not read yet.

    Args:
        limit: Number of characters above which the queue is full.

    Attributes:
        readable: Set while the queue has messages, and when no more will arrive.
    """

    def __init__(self, limit: int) -> None:
        self.readable = asyncio.Event()
        self._limit = limit
        self._messages: deque[tuple[Any, int]] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_full(self) -> bool:
        """Whether the client must stop reading from the server."""
        return self._size > self._limit

    @property
    def below_low_water(self) -> bool:
        """Whether the client may resume reading from the server."""
        return self._size <= self._limit // 2

    def put(self, messages: Sequence[Any], size: int) -> None:
        """Add the messages of a frame of `size` characters."""
        each = size // len(messages) + _MESSAGE_OVERHEAD
        self._messages.extend((message, each) for message in messages)
        self._size += each * len(messages)
        self.readable.set()

    def get(self) -> Any:
        """Remove and return the first message."""
        message, size = self._messages.popleft()
        self._size -= size
        if not self._messages:
            self.readable.clear()
        return message


class SendQueue:
    """Messages that have not been passed to the transport yet.

    Args:
        limit: Number of characters at which the queue is full. A longer message is added if the queue is empty.

    Attributes:
        not_empty: Set while the queue has messages.
        not_full: Set while the queue is not full.
    """

    def __init__(self, limit: int) -> None:
        self.not_empty = asyncio.Event()
        self.not_full = asyncio.Event()
        self.not_full.set()
        self._limit = limit
        self._messages: deque[str] = deque()
        self._size = 0

    def put(self, message: str) -> None:
        """Add a message."""
        self._messages.append(message)
        self._size += len(message) + _MESSAGE_OVERHEAD
        self._update_events()

    def get_batch(self) -> list[str]:
        """Remove and return the messages for one frame or POST."""
        batch: list[str] = []
        size = 0
        while self._messages and len(batch) < _BATCH_MESSAGES:
            if batch and size + len(self._messages[0]) > _BATCH_SIZE:
                break
            size += len(self._messages[0])
            batch.append(self._messages.popleft())
        self._size -= size + _MESSAGE_OVERHEAD * len(batch)
        self._update_events()
        return batch

    def clear(self) -> None:
        """Remove all messages."""
        self._messages.clear()
        self._size = 0
        self._update_events()

    def _update_events(self) -> None:
        for event, is_set in ((self.not_empty, bool(self._messages)), (self.not_full, self._size < self._limit)):
            if is_set:
                event.set()
            else:
                event.clear()
