"""Whether every message came, once, intact and in order."""


class Tracker:
    """Follows what one session receives.

    Attributes:
        duplicated: Messages that came once more.
        reordered: Messages that came after one that was sent later.
        corrupt: Messages that were not what was sent.
        received: Messages that came, duplicates not counted.
    """

    __slots__ = ("_missing", "_next", "corrupt", "duplicated", "received", "reordered")

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self._missing: dict[int, set[int]] = {}
        self.duplicated = 0
        self.reordered = 0
        self.corrupt = 0
        self.received = 0

    def note(self, sender: int, sequence: int) -> bool:
        """Take a message; False where it has come before. Sequence numbers of a sender begin with 0."""
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
        """Return how many of so many messages never came. A corrupt one did come."""
        return max(0, sent - self.received - self.corrupt)
