"""The interface of targets, and the locations of their seeds and dictionaries."""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

__all__ = ["TARGETS", "Target", "dictionary", "join_surrogates", "lines", "load", "replaced", "seeds", "text_of"]

#: Names of the targets: each is a module of :mod:`fuzz.targets`, and a directory below ``corpus``.
TARGETS = (
    "forms",
    "frames",
    "handshakes",
    "http",
    "origins",
    "payloads",
    "quoting",
    "redis_content",
    "requests",
    "settings",
)

_HERE = Path(__file__).resolve().parent


class Target(Protocol):
    """A fuzz target; its docstring lists the invariants that it checks."""

    def __call__(self, data: bytes) -> None:
        """Run one input. Any exception is a finding. No state is kept between inputs."""


def load(name: str) -> Target:
    """Return a target, ready for its first input."""
    target: Target = importlib.import_module(f"{__package__}.targets.{name}").Target()
    return target


def seeds(name: str) -> Path:
    """Return the directory of a target's seeds."""
    return _HERE / "corpus" / name


def dictionary(name: str) -> Path:
    """Return the path of a target's dictionary, which may not exist."""
    return _HERE / "dictionaries" / f"{name}.dict"


def text_of(data: bytes) -> str:
    """Decode any bytes: as UTF-8 with lone surrogates if possible, otherwise as Latin-1."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def join_surrogates(text: str) -> str:
    """Replace surrogate pairs by their characters: JSON does not distinguish them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def lines(data: bytes, count: int) -> list[str]:
    """Split data into a number of lines, decoded as Latin-1 like header values; missing lines are empty."""
    found = data.decode("latin-1").split("\n", count - 1)
    return found + [""] * (count - len(found))


@contextlib.contextmanager
def replaced(module: Any, **values: Any) -> Iterator[None]:
    """Temporarily replace attributes of a module."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
