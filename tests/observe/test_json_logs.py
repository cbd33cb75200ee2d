"""Log records as JSON."""

import json
import logging
import math
import re
import sys
from typing import Any

import pytest

from sockjs_tornado.observe.json_logs import JSONFormatter
from sockjs_tornado.settings import TRANSPORTS


def formatted(message: object = "text", *args: object, error: bool = False, **extra: Any) -> dict[str, Any]:
    """Return the JSON of a record."""
    logger = logging.getLogger("some.logger")
    info = sys.exc_info() if error else None
    record = logger.makeRecord("some.logger", logging.WARNING, "a.py", 1, message, args, info, "function", extra)
    line = JSONFormatter().format(record)
    assert line.isascii()
    assert "\n" not in line

    def reject(name: str) -> None:
        raise AssertionError(name)

    entry: dict[str, Any] = json.loads(line, parse_constant=reject)
    return entry


def test_a_record_is_an_object_with_its_fields() -> None:
    entry = formatted("%s: %d\nlines\x1b", "caf\u00e9", 2, sockjs_session="7", user={"id": 5}, sockjs_seconds=0.25)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry.pop("process") > 0
    assert entry == {
        "level": "WARNING",
        "logger": "some.logger",
        "message": "caf\u00e9: 2\nlines\x1b",
        "sockjs_session": "7",
        "sockjs_seconds": 0.25,
        "user": {"id": 5},
    }


def test_the_time_is_in_utc_with_milliseconds() -> None:
    record = logging.makeLogRecord({"created": 1_700_000_000.9996, "msg": "text"})
    assert json.loads(JSONFormatter().format(record))["time"] == "2023-11-14T22:13:20.999Z"


def test_a_traceback_is_in_the_record() -> None:
    try:
        raise ValueError("no number")
    except ValueError:
        text = formatted(error=True)["exception"]
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("ValueError: no number")
    record = logging.makeLogRecord({"exc_text": "a traceback", "stack_info": "Stack (most recent call last):"})
    entry = json.loads(JSONFormatter().format(record))
    assert (entry["exception"], entry["stack"]) == ("a traceback", "Stack (most recent call last):")


class Unusual:
    """An object that JSON cannot represent."""

    def __repr__(self) -> str:
        return "<unusual>"


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Unusual(), "<unusual>"),
        ([1, Unusual()], [1, "<unusual>"]),
        (math.inf, "inf"),
        ([math.nan], "[nan]"),
        (CYCLE, "[[...]]"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        ("\ud800", "\ud800"),
        (b"bytes", "b'bytes'"),
        (None, None),
    ],
    ids=["object", "list", "infinity", "nan", "cycle", "key", "surrogate", "bytes", "none"],
)
def test_any_value_can_be_a_field(value: Any, shown: Any) -> None:
    assert formatted(field=value)["field"] == shown


def test_a_field_does_not_replace_one_of_the_formatter() -> None:
    entry = formatted("text", level="mine", time="mine", logger="mine", exception="mine")
    assert (entry["level"], entry["logger"], entry["exception"]) == ("WARNING", "some.logger", "mine")
    assert entry["time"] != "mine"


@pytest.mark.parametrize("transport", [*TRANSPORTS, "xhr_send", "jsonp_send"])
def test_session_ids_in_urls_are_masked(transport: str) -> None:
    url = f"/echo/000/secret_id-5/{transport}"
    try:
        raise ValueError(f"GET http://a.example{url}?x=1")
    except ValueError:
        entry = formatted("404 GET %s (1.2.3.4), and %s", url, url, error=True, url=url, nested={"url": [url]})
    assert "secret" not in str(entry)
    masked = f"/echo/000/***/{transport}"
    assert entry["message"] == f"404 GET {masked} (1.2.3.4), and {masked}"
    assert (entry["url"], entry["nested"]) == (masked, {"url": [masked]})
    assert entry["exception"].endswith(f"{masked}?x=1")


@pytest.mark.parametrize("path", ["/echo/info", "/static/js/app.js", "/a/b/c/d", "/a/b/xhr.js", "/a/b/websockets"])
def test_other_paths_stay_as_they_are(path: str) -> None:
    assert formatted(path)["message"] == path
