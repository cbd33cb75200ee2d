"""What is printed of what comes from elsewhere."""

import sys

__all__ = ["note", "printable"]


def printable(text: str) -> str:
    """Return a text with all escaped that a terminal would obey, or cannot show."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def note(text: str) -> None:
    """Say something of a connection, apart from what comes over it."""
    print(printable(text), file=sys.stderr, flush=True)
