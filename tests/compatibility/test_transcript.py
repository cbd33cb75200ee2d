"""One application and one client with sockjs-tornado 1.0.7 and with this package: only documented differences."""

import asyncio
import re
from typing import NamedTuple

import pytest
from application import NATIVE
from programs import ROOT, Ended, ServerProgram

from .transcript import Transcript, converse

APPLICATION = "tests/compatibility/ported.py"
OLD = ROOT / ".compatibility"


class Difference(NamedTuple):
    """Something that is seen differently.

    Attributes:
        where: A regular expression of the places.
        old: What was seen of sockjs-tornado, a regular expression too; None for nothing.
        new: The same of this package.
        documented: What ``docs/migrating.md`` calls it by; the reason stands there.
    """

    where: str
    old: str | None
    new: str | None
    documented: str


ORIGIN = "http://example\\.com"
DIFFERENCES = (
    # What applications notice.
    Difference(
        r"websocket · \[\"argument room\"\]", ".*b\\\\'den\\\\'.*", '.*"den".*', '`info.get_argument("name").decode()`'
    ),
    Difference(r"\w+ \?reject · next", ".*argument.*", r'.*c\[3000,"Go away!"\].*', "It rejects the client"),
    Difference(r"xhr \?close · next", ".*argument.*", r'.*c\[3000,"Go away!"\].*', "`self.close()` inside `on_open`"),
    # What clients notice.
    Difference(r"send after close · status", "404", "204", "A message to a session that was just closed"),
    Difference(
        r"send after close · content-type", "text/html.*", "text/plain.*", "A message to a session that was just closed"
    ),
    Difference(r"websocket( end)? · close frame", r"\(0, ''\)", r"\(1000, ''\)", "A websocket ends without a code"),
    Difference(r"rawwebsocket · close frame", r"\(0, ''\)", r"\(3000, 'Go away!'\)", "A websocket ends without a code"),
    Difference(r"jsonp (open · body|send · answer)", "'?cb(.*)", r"'?/\*\*/cb(.*)", "`/**/`"),
    # Header fields.
    Difference(r".* · cache-control", "(.*)no-store", "(.*)no-store, no-transform", "`no-transform`"),
    Difference(r"greeting/? · cache-control", ".*31536000.*", None, "The greeting is cached for a year"),
    Difference(r"(greeting/?|iframe) · access-control-max-age", "31536000", None, "The greeting is cached for a year"),
    Difference(r".* · access-control-allow-credentials", "true", None, "`Access-Control-Allow-Credentials`"),
    Difference(
        r"(htmlfile|jsonp) .* · access-control-allow-origin",
        rf"\*|{ORIGIN}",
        None,
        "`Access-Control-Allow-Credentials`",
    ),
    Difference(r".* · vary", None, "Origin", "`Vary: Origin`"),
    Difference(r".* options · vary", None, "Access-Control-Request-Headers, Origin", "`Vary: Origin`"),
    Difference(r".* options · allow", "OPTIONS, POST|GET, OPTIONS", None, "`Allow`"),
    Difference(
        r".* · set-cookie", "JSESSIONID=(dummy|abc); Path=/", "JSESSIONID=(dummy|abc); path=/; HttpOnly", "`path=/`"
    ),
    Difference(r".* options · set-cookie", "JSESSIONID=dummy; Path=/", None, "`JSESSIONID`"),
    Difference(r"websocket handshake · set-cookie", None, "JSESSIONID=dummy; path=/; HttpOnly", "`JSESSIONID`"),
    Difference(r"(send|jsonp|htmlfile) .* · content-type", "text/html; charset=UTF-8", "text/plain.*", "Plain text"),
    Difference(r"send to nobody · content-type", "text/html; charset=UTF-8", None, "Plain text"),
    Difference(r".*send.* · content-type", None, "text/plain; charset=UTF-8", "Plain text"),
    Difference(r"eventsource open · content-type", "text/event-stream; charset=.*", "text/event-stream", "`charset`"),
    Difference(r".* · x-content-type-options", None, "nosniff", "`nosniff`"),
    Difference(r".* · referrer-policy", None, "no-referrer", "`Referrer-Policy`"),
    Difference(
        r"(iframe|htmlfile .*) · content-security-policy", None, "default-src 'none'.*", "`Content-Security-Policy`"
    ),
    *(
        # The native server keeps the connection.
        []
        if NATIVE
        else [
            Difference(r"(xhr_streaming|eventsource|htmlfile) open · connection", None, "close", "`Connection: close`")
        ]
    ),
    Difference(r"(xhr_streaming|eventsource|htmlfile) open · x-accel-buffering", None, "no", "`X-Accel-Buffering: no`"),
)


def run(*arguments: str) -> tuple[Transcript, Ended]:
    """Hold the conversation with the application on one of the packages."""
    program = ServerProgram(APPLICATION, *arguments)
    try:
        (port,) = program.ports
        seen = asyncio.run(converse(port))
    finally:
        ended = program.stop()
    return seen, ended


@pytest.fixture(scope="module")
def old() -> Transcript:
    """What was seen of sockjs-tornado."""
    if not (OLD / "sockjs/tornado/router.py").is_file():
        pytest.fail("sockjs-tornado 1.0.7 is missing. `make .compatibility/.installed` installs it.")
    seen, ended = run("sockjs.tornado", str(OLD))
    assert ended.status == 0, ended
    return seen


@pytest.fixture(scope="module")
def new() -> Transcript:
    """What was seen of this package."""
    seen, ended = run("sockjs_tornado")
    assert ended == Ended(status=0, output="", errors="")
    return seen


def test_the_old_name_of_the_package_is_the_same(new: Transcript) -> None:
    seen, ended = run("sockjs.tornado")
    assert ended.status == 0
    (warning,) = [line for line in ended.errors.splitlines() if "Warning" in line]
    assert "DeprecationWarning: sockjs.tornado is named sockjs_tornado since 2.0" in warning
    assert set(seen) == set(new)


def is_like(value: str | None, pattern: str | None) -> bool:
    """Tell whether something was seen as expected."""
    if value is None or pattern is None:
        return value is pattern
    return re.fullmatch(pattern, value, re.DOTALL) is not None


def explains(difference: Difference, where: str, old: str | None, new: str | None) -> bool:
    """Tell whether a difference is this one."""
    return is_like(where, difference.where) and is_like(old, difference.old) and is_like(new, difference.new)


def test_everything_was_talked_of(old: Transcript, new: Transcript) -> None:
    places = {where.partition(" · ")[0] for where in old}
    assert places == {where.partition(" · ")[0] for where in new}
    assert len(places) > 40


def test_the_conversations_differ_only_as_documented(old: Transcript, new: Transcript) -> None:
    unexplained = [
        f"{where}: {old.get(where)!r} became {new.get(where)!r}"
        for where in dict.fromkeys((*old, *new))
        if old.get(where) != new.get(where)
        and not any(explains(difference, where, old.get(where), new.get(where)) for difference in DIFFERENCES)
    ]
    assert unexplained == []


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.where)
def test_a_documented_difference_is_there(old: Transcript, new: Transcript, difference: Difference) -> None:
    assert any(explains(difference, where, old.get(where), new.get(where)) for where in (*old, *new))
    assert difference.documented in (ROOT / "docs/migrating.md").read_text()
