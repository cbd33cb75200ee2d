"""Numbers in settings and arguments."""

import math
import sys
from typing import Any

import pytest

from sockjs_tornado.client.sync import connect
from sockjs_tornado.cluster import AsyncPublisher, Publisher, RedisCluster, UnixCluster
from sockjs_tornado.exceptions import ConfigurationError
from sockjs_tornado.testing import connect as connect_in_memory
from sockjs_tornado.validation import check_seconds, is_count, is_number, is_positive, is_zero_or_more


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, True, "1", None, 1j])
def test_a_number_that_is_not_finite_is_rejected(value: Any) -> None:
    assert not is_number(value)
    assert not is_positive(value)
    assert not is_zero_or_more(value)
    with pytest.raises(ValueError, match="drain_time: expected a number of seconds, 0 or more, got"):
        check_seconds("drain_time", value)


@pytest.mark.parametrize(
    ("value", "positive", "not_negative"),
    [(1, True, True), (0.5, True, True), (sys.float_info.max, True, True), (0, False, True), (-1, False, False)],
)
def test_zero_is_not_positive(value: float, positive: bool, not_negative: bool) -> None:
    assert is_number(value)
    assert is_positive(value) == positive
    assert is_zero_or_more(value) == not_negative


@pytest.mark.parametrize(("value", "accepted"), [(1, True), (0, False), (-1, False), (1.0, False), (True, False)])
def test_an_integer_above_zero(value: Any, accepted: bool) -> None:
    assert is_count(value) == accepted


@pytest.mark.parametrize(
    ("call", "name", "nearest"),
    [
        (RedisCluster, "advertize", "advertise"),
        (UnixCluster, "presence_event", "presence_events"),
        (Publisher, "secert", "secret"),
        (AsyncPublisher, "name_space", "namespace"),
        (connect, "reconect", "reconnect"),
        (connect_in_memory, "cookie", "cookies"),
    ],
)
def test_an_unknown_argument_is_reported_without_its_value(call: Any, name: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        call("http://host/echo", **{name: "hidden"})
    assert str(caught.value) == f"{name}: unknown argument; the nearest is {nearest}"
