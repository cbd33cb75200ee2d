"""How long to wait between attempts to connect again. Pure."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from ..exceptions import ConfigurationError

__all__ = ["Backoff"]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """Growing, random pauses between attempts to connect again.

    The pauses begin anew once a session has lasted longer than the pause before it: a server that lets clients in and
    drops them at once is asked ever more slowly.

    Attributes:
        initial: Seconds of the first pause, above 0. Default 0.5.
        factor: By what each pause is longer than the one before it, at least 1. Default 2.
        maximum: Seconds that no pause exceeds. Default 30.
        jitter: Share of a pause that is random, from 0 to 1: a pause lasts from ``(1 - jitter)`` times its length to
            its length. Default 0.5, so that clients that a server lost together do not come back together.
        attempts: Attempts in a row after which the connection is given up; None, the default, for any number.

    Raises:
        ConfigurationError: A value is not acceptable.
    """

    initial: float = 0.5
    factor: float = 2
    maximum: float = 30
    jitter: float = 0.5
    attempts: int | None = None

    def __post_init__(self) -> None:
        for name, takes, fits in (
            ("initial", "a number of seconds above 0", _is_number(self.initial) and self.initial > 0),
            ("factor", "a number, 1 or more", _is_number(self.factor) and self.factor >= 1),
            ("maximum", "a number of seconds above 0", _is_number(self.maximum) and self.maximum > 0),
            ("jitter", "a number from 0 to 1", _is_number(self.jitter) and 0 <= self.jitter <= 1),
            ("attempts", "a number above 0, or None", self.attempts is None or self._is_count(self.attempts)),
        ):
            if not fits:
                raise ConfigurationError(f"{name}: got {getattr(self, name)!r}, takes {takes}")

    @staticmethod
    def _is_count(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    def delays(self) -> Iterator[float]:
        """Yield the pauses before each attempt in a row, in seconds; no more of them than there are attempts."""
        length = min(self.initial, self.maximum)
        made = 0
        while self.attempts is None or made < self.attempts:
            made += 1
            yield length * (1 - self.jitter * random.random())  # noqa: S311 - no secret
            length = min(length * self.factor, self.maximum)
