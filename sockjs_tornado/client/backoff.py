"""Delays between reconnect attempts. Pure."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..exceptions import ConfigurationError

__all__ = ["Backoff", "is_number", "is_positive_integer", "is_positive_number"]


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def is_positive_number(value: Any) -> bool:
    """Return whether a value is a finite number above 0."""
    return is_number(value) and value > 0


def is_positive_integer(value: Any) -> bool:
    """Return whether a value is an integer above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """Exponential backoff with jitter between reconnect attempts.

    The delays start over if a session lasted longer than the delay before it. If a server accepts clients and drops
    them at once, they keep growing.

    Attributes:
        initial: First delay in seconds, above 0. Default 0.5.
        factor: Factor by which each delay grows, at least 1. Default 2.
        maximum: Upper limit of a delay in seconds. Default 30.
        jitter: Random share of a delay, from 0 to 1: the actual delay is between ``(1 - jitter)`` times the delay and
            the full delay. Default 0.5, so that clients that were disconnected together do not reconnect together.
        attempts: Number of consecutive attempts after which the client stops reconnecting. Default None, no limit.

    Raises:
        ConfigurationError: A value is invalid.
    """

    initial: float = 0.5
    factor: float = 2
    maximum: float = 30
    jitter: float = 0.5
    attempts: int | None = None

    def __post_init__(self) -> None:
        for name, expected, is_valid in (
            ("initial", "a number of seconds above 0", is_positive_number(self.initial)),
            ("factor", "a number, 1 or more", is_number(self.factor) and self.factor >= 1),
            ("maximum", "a number of seconds above 0", is_positive_number(self.maximum)),
            ("jitter", "a number from 0 to 1", is_number(self.jitter) and 0 <= self.jitter <= 1),
            ("attempts", "an integer above 0 or None", self.attempts is None or is_positive_integer(self.attempts)),
        ):
            if not is_valid:
                raise ConfigurationError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    def delays(self) -> Iterator[float]:
        """Yield the delay in seconds before each consecutive attempt, at most ``attempts`` of them."""
        delay = min(self.initial, self.maximum)
        count = 0
        while self.attempts is None or count < self.attempts:
            count += 1
            yield delay * (1 - self.jitter * random.random())  # noqa: S311 - not a secret
            delay = min(delay * self.factor, self.maximum)
