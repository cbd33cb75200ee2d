"""Delays between reconnect attempts."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockjs_tornado.client import Backoff, ConfigurationError


def test_delays_grow_up_to_the_maximum() -> None:
    backoff = Backoff(initial=1, factor=3, maximum=20, jitter=0)
    assert list(itertools.islice(backoff.delays(), 5)) == [1, 3, 9, 20, 20]


def test_attempts_limit_the_number_of_delays() -> None:
    assert list(Backoff(initial=1, factor=1, jitter=0, attempts=3).delays()) == [1, 1, 1]


@given(st.floats(0.001, 100), st.floats(1, 1e300), st.floats(0.001, 100), st.floats(0, 1))
def test_delays_are_within_their_bounds(initial: float, factor: float, maximum: float, jitter: float) -> None:
    backoff = Backoff(initial=initial, factor=factor, maximum=maximum, jitter=jitter, attempts=20)
    length = min(initial, maximum)
    for delay in backoff.delays():
        assert length * (1 - jitter) * 0.999 <= delay <= length <= maximum
        length = min(length * factor, maximum)


def test_jitter_is_random() -> None:
    backoff = Backoff(initial=1, factor=1, attempts=50)
    assert len(set(backoff.delays())) > 40


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("initial", -1),
        ("initial", 0),
        ("maximum", 0),
        ("initial", "1"),
        ("factor", 0.5),
        ("factor", True),
        ("maximum", float("inf")),
        ("maximum", float("nan")),
        ("jitter", 1.1),
        ("jitter", -0.1),
        ("attempts", 0),
        ("attempts", 1.5),
        ("attempts", True),
    ],
)
def test_invalid_values_are_rejected(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}: expected "):
        Backoff(**{name: value})
