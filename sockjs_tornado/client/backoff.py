"""Delays between reconnect attempts. Pure."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from ..validation import SECONDS, Validated, is_count, is_number, is_positive, option, or_none

__all__ = ["Backoff"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff(Validated):
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

    initial: float = option(SECONDS, is_positive, 0.5)
    factor: float = option("a number, 1 or more", lambda value: is_number(value) and value >= 1, 2)
    maximum: float = option(SECONDS, is_positive, 30)
    jitter: float = option("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1, 0.5)
    attempts: int | None = option("an integer above 0 or None", or_none(is_count), None)

    def delays(self) -> Iterator[float]:
        """Yield the delay in seconds before each consecutive attempt, at most ``attempts`` of them."""
        delay = min(self.initial, self.maximum)
        count = 0
        while self.attempts is None or count < self.attempts:
            count += 1
            yield delay * (1 - self.jitter * random.random())  # noqa: S311 - not a secret
            delay = min(delay * self.factor, self.maximum)
