"""Detection of lost, duplicated, reordered and corrupt messages."""


class Tracker:
    """Tracks the messages that a session receives.

    Attributes:
        duplicated: Number of messages received more than once.
        reordered: Number of messages received after a later one.
        corrupt: Number of corrupt messages.
        received: Number of received messages without duplicates.
    """

    __slots__ = ("_missing", "_next", "corrupt", "duplicated", "received", "reordered")

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self._missing: dict[int, set[int]] = {}
        self.duplicated = 0
        self.reordered = 0
        self.corrupt = 0
        self.received = 0

    def add(self, sender: int, sequence: int) -> bool:
        """Add a message; return False if it is a duplicate. Sequence numbers of a sender start at 0."""
        expected = self._next.get(sender, 0)
        if sequence >= expected:
            self._next[sender] = sequence + 1
            if sequence > expected:
                self._missing.setdefault(sender, set()).update(range(expected, sequence))
        else:
            missing = self._missing.get(sender)
            if missing is None or sequence not in missing:
                self.duplicated += 1
                return False
            missing.remove(sequence)
            self.reordered += 1
        self.received += 1
        return True

    def lost(self, sent: int) -> int:
        """Return how many of the sent messages were not received; corrupt ones were received."""
        return max(0, sent - self.received - self.corrupt)
