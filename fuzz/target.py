"""What a target is, and where its seeds and its dictionary are."""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

__all__ = ["TARGETS", "Target", "dictionary", "lines", "load", "replaced", "seeds", "text_of", "whole_characters"]

#: Names of the targets: each is a module of :mod:`fuzz.targets`, and a directory below ``corpus``.
TARGETS = ("forms", "frames", "handshakes", "origins", "payloads", "quoting", "requests", "settings")

_HERE = Path(__file__).resolve().parent


class Target(Protocol):
    """Takes an input; its docstring is the contract that it holds the package to."""

    def __call__(self, data: bytes) -> None:
        """Try one input. Whatever is raised is a finding; nothing of the input is left afterwards."""


def load(name: str) -> Target:
    """Return a target, ready for its first input."""
    target: Target = importlib.import_module(f"{__package__}.targets.{name}").Target()
    return target


def seeds(name: str) -> Path:
    """Return the directory of a target's seeds."""
    return _HERE / "corpus" / name


def dictionary(name: str) -> Path:
    """Return the file with the words that matter to a target; there may be none."""
    return _HERE / "dictionaries" / f"{name}.dict"


def text_of(data: bytes) -> str:
    """Return any bytes as text: UTF-8, lone surrogates included, where they are that."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def whole_characters(text: str) -> str:
    """Return text in which no two surrogates make up one character: JSON does not tell these from that character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def lines(data: bytes, count: int) -> list[str]:
    """Return so many lines, as header values arrive: decoded as Latin-1. Those that are missing are empty."""
    found = data.decode("latin-1").split("\n", count - 1)
    return found + [""] * (count - len(found))


@contextlib.contextmanager
def replaced(module: Any, **values: Any) -> Iterator[None]:
    """Give other values to names of a module for a while."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
