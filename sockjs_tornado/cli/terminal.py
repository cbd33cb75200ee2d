"""Safe output of untrusted text to a terminal."""

import sys

__all__ = ["note", "printable"]


def printable(text: str) -> str:
    """Escape control characters and everything else that a terminal would interpret or cannot show."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def note(text: str) -> None:
    """Print a status message to standard error; standard output is for messages."""
    print(printable(text), file=sys.stderr, flush=True)
