"""Signatures: accepted once, by their receiver, for a short time, and only for the signed request."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockjs_tornado.cluster import signing
from sockjs_tornado.cluster.secret import Secrets
from sockjs_tornado.cluster.signing import MAX_AGE, Rejected, RelayedClient, Signer

SECRET = Secrets(b"a secret of all nodes")
CLIENT = RelayedClient("192.0.2.1", 5000, True)
ASKED = ("POST", "/chat/000/abc/xhr?x=1", b"body")


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return the clock of both nodes."""
    return Clock()


@pytest.fixture
def sender(clock: Clock) -> Signer:
    """Return the signer of the sending node."""
    return Signer(SECRET, "a", clock)


@pytest.fixture
def taker(clock: Clock) -> Signer:
    """Return the signer of the receiving node."""
    return Signer(SECRET, "b", clock, clock)


def why_not(taker: Signer, value: str, *asked: Any) -> str:
    """Return the reason for which a signature is rejected."""
    with pytest.raises(Rejected) as rejected:
        taker.verify(value, *(asked or ASKED))
    assert str(rejected.value) == rejected.value.reason
    return rejected.value.reason


@pytest.mark.parametrize(
    "client",
    [
        CLIENT,
        RelayedClient("", 0, False),
        RelayedClient("2001:db8::1", 65535, False),
        RelayedClient("fe80::1%eth0", 1, True),
    ],
)
@pytest.mark.parametrize("to", ["b", ""])
def test_a_signed_request_is_accepted(sender: Signer, taker: Signer, client: RelayedClient, to: str) -> None:
    assert taker.verify(sender.sign(to, *ASKED, client), *ASKED) == client


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("change", ["other", "longer"])
def test_a_changed_request_is_rejected(sender: Signer, taker: Signer, place: int, change: str) -> None:
    others: tuple[Any, ...] = (
        ("GET", "/chat/000/abd/xhr?x=1", b"bode")
        if change == "other"
        else ("POSTS", "/chat/000/abc/xhr?x=12", b"body ")
    )
    asked: list[Any] = list(ASKED)
    asked[place] = others[place]
    value = sender.sign("b", *ASKED, CLIENT)
    assert why_not(taker, value, *asked) == "forged"
    # The rejected copy did not use the signature up.
    assert taker.verify(value, *ASKED) == CLIENT


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (0, "2"),
        (1, "1000001.000000"),
        (2, "c"),
        (3, "7"),
        (4, "-"),
        (4, "c"),
        (5, "192.0.2.2"),
        (6, "5001"),
        (7, "http"),
        (8, "00"),
    ],
)
def test_a_changed_field_is_rejected(sender: Signer, taker: Signer, place: int, change: str) -> None:
    parts = sender.sign("b", *ASKED, CLIENT).split(" ")
    assert len(parts) == 9
    assert parts[place] != change
    parts[place] = change
    assert why_not(taker, " ".join(parts)) == "forged"


def test_another_secret_is_rejected(clock: Clock, taker: Signer) -> None:
    assert why_not(taker, Signer(Secrets(b"a secret of all nodes!"), "a", clock).sign("b", *ASKED, CLIENT)) == "forged"


def test_another_version_is_rejected(monkeypatch: pytest.MonkeyPatch, sender: Signer, taker: Signer) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(signing, "_VERSION", "2")
        value = sender.sign("b", *ASKED, CLIENT)
    assert why_not(taker, value) == "forged"


@pytest.mark.parametrize("late", [MAX_AGE + 0.001, -MAX_AGE - 0.001, 1e9, -1e9])
def test_an_old_request_is_rejected(clock: Clock, sender: Signer, taker: Signer, late: float) -> None:
    value = sender.sign("b", *ASKED, CLIENT)
    clock.now += late
    assert why_not(taker, value) == "stale"


@pytest.mark.parametrize("late", [MAX_AGE, -MAX_AGE])
def test_clocks_may_differ(clock: Clock, sender: Signer, taker: Signer, late: float) -> None:
    value = sender.sign("b", *ASKED, CLIENT)
    clock.now += late
    assert taker.verify(value, *ASKED) == CLIENT


def test_an_invalid_time_is_stale(sender: Signer, taker: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    for now in ("nan", "inf", "-inf"):
        monkeypatch.setattr(sender, "_now", lambda now=now: float(now))
        assert why_not(taker, sender.sign("b", *ASKED, CLIENT)) == "stale"


def test_a_signature_is_accepted_once(sender: Signer, taker: Signer) -> None:
    value, other = (sender.sign("b", *ASKED, CLIENT) for _ in range(2))
    assert value != other
    assert taker.verify(value, *ASKED) == CLIENT
    assert why_not(taker, value) == "replayed"
    assert taker.verify(other, *ASKED) == CLIENT


@pytest.mark.parametrize("ahead", [0.001 - MAX_AGE, 0, MAX_AGE - 0.001])
@pytest.mark.parametrize("step", [0.5, 7, MAX_AGE, 2 * MAX_AGE])
def test_a_signature_is_never_accepted_again(clock: Clock, taker: Signer, ahead: float, step: float) -> None:
    """Whenever it arrives, while others rotate the seen signatures, and wherever its sender's clock is."""
    sender = Signer(SECRET, "a", lambda: clock.now + ahead)
    for start in range(3):
        # Each time at another moment between two rotations.
        clock.now += start * step / 3
        value = sender.sign("b", *ASKED, CLIENT)
        assert taker.verify(value, *ASKED) == CLIENT
        for _ in range(int(5 * MAX_AGE / step) + 1):
            assert why_not(taker, value) in ("replayed", "stale")
            clock.now += step
            taker.verify(sender.sign("b", *ASKED, CLIENT), *ASKED)


def test_a_signature_is_for_one_node(clock: Clock, sender: Signer, taker: Signer) -> None:
    assert why_not(taker, sender.sign("c", *ASKED, CLIENT)) == "misdirected"


def test_seen_signatures_are_forgotten(clock: Clock, sender: Signer, taker: Signer) -> None:
    most = 0
    for _ in range(2000):
        taker.verify(sender.sign("b", *ASKED, CLIENT), *ASKED)
        most = max(most, len(taker._seen) + len(taker._seen_before))
        clock.now += 0.1
    assert most <= 4 * MAX_AGE / 0.1 + 2


def test_rejected_signatures_are_not_remembered(taker: Signer) -> None:
    for number in range(100):
        why_not(taker, f"1 {number} a 0 b - 0 http {'0' * 64}")
    assert not taker._seen


ODD_TEXT = st.text(st.characters())


@given(ODD_TEXT, ODD_TEXT, ODD_TEXT, st.binary())
def test_malformed_values_are_rejected(value: str, method: str, uri: str, body: bytes) -> None:
    assert why_not(Signer(SECRET, "b"), value, method, uri, body) == "forged"


@given(st.lists(ODD_TEXT | st.sampled_from(["1", "nan", "1e999", "-", "b", ""]), max_size=10).map(" ".join))
def test_malformed_fields_with_a_valid_signature_are_rejected(said: str) -> None:
    taker = Signer(SECRET, "b")
    value = f"{said} {SECRET.sign(signing._signed_text(said, *ASKED))}"
    assert why_not(taker, value) in ("forged", "stale", "misdirected")


@given(st.lists(st.sampled_from("0123456789abcdef -\u0663\ud800é"), max_size=80).map("".join))
def test_codes_may_have_any_characters(code: str) -> None:
    taker = Signer(SECRET, "b")
    said = taker.sign("b", *ASKED, CLIENT).rpartition(" ")[0]
    assert why_not(taker, f"{said} {code}") == "forged"
