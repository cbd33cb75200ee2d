"""The authentication of messages: accepted once, in one room, and only as a sender with the secret has signed them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sockjs_tornado.cluster import envelope_signing as module
from sockjs_tornado.cluster.envelope import Envelope, RedisKeys, decode
from sockjs_tornado.cluster.envelope_signing import MAX_AGE, EnvelopeSigner, EnvelopeVerifier, Unauthenticated
from sockjs_tornado.cluster.history import publish_many_commands
from sockjs_tornado.cluster.secret import Secrets
from sockjs_tornado.protocol import JSONValue
from sockjs_tornado.session.ports import Position

KEYS = RedisKeys("app")
OLD, NEW = b"the secret of yesterday", b"the secret of tomorrow"
ROOM = "lobby"


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return the clock of all nodes."""
    return Clock()


@pytest.fixture
def signer(clock: Clock) -> EnvelopeSigner:
    """Return a node's signer."""
    return EnvelopeSigner("a", KEYS, Secrets(OLD), clock)


@pytest.fixture
def verifier(clock: Clock) -> EnvelopeVerifier:
    """Return another node's verifier."""
    return EnvelopeVerifier(KEYS, Secrets(OLD), clock, clock)


def reason(call: Callable[[], object]) -> str:
    """Return why a message is not authentic."""
    with pytest.raises(Unauthenticated) as caught:
        call()
    assert caught.value.is_replayed is (str(caught.value) == "replayed")
    return str(caught.value)


def numbered(data: bytes) -> bytes:
    """Return an envelope as Redis publishes it for a message with history."""
    return data[:-1] + b',7,"epoch"]'


@settings(max_examples=25)
@given(
    message=st.text(st.characters(exclude_categories=())) | st.just(JSONValue('{"a": [1]}')),
    room=st.text(st.characters(exclude_categories=())),
    tag=st.integers(0),
)
def test_a_signed_message_is_accepted_with_and_without_a_position(message: Any, room: str, tag: int) -> None:
    signer, verifier = EnvelopeSigner("a", KEYS, Secrets(OLD)), EnvelopeVerifier(KEYS, Secrets(OLD))
    for position in (None, Position(7, "epoch")):
        data = signer.encode(room, tag, message)
        found = verifier.decode(room, numbered(data) if position else data)
        assert found[:2] == ("a", tag)
        assert (str(found.message), type(found.message), found.position) == (str(message), type(message), position)


def test_a_receiver_accepts_all_its_secrets(clock: Clock) -> None:
    both = EnvelopeVerifier(KEYS, Secrets(NEW, OLD), clock, clock)
    for node, key in (("a", OLD), ("b", NEW)):
        assert (
            both.decode(ROOM, EnvelopeSigner(node, KEYS, Secrets(key, b"x" * 16), clock).encode(ROOM, 0, "m")).node
            == node
        )
    other = EnvelopeSigner("a", KEYS, Secrets(b"x" * 16), clock).encode(ROOM, 0, "m")
    assert reason(lambda: both.decode(ROOM, other)) == "forged"


def test_a_message_is_for_one_room_of_one_cluster(signer: EnvelopeSigner, verifier: EnvelopeVerifier) -> None:
    data = signer.encode(ROOM, 0, "m")
    assert reason(lambda: verifier.decode("other", data)) == "forged"
    for keys in (RedisKeys("app", 1), RedisKeys("app2")):
        assert reason(lambda keys=keys: EnvelopeVerifier(keys, Secrets(OLD)).decode(ROOM, data)) == "forged"  # type: ignore[misc]
    # The rejected copies did not use the stamp up.
    assert verifier.decode(ROOM, data).message == "m"


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 1), (1, "b"), (1, ""), (2, 1), (3, "j"), (4, "[2]"), (5, 10**15), (6, ""), (6, "é"), (6, "0" * 32)],
)
def test_a_changed_field_is_rejected(
    signer: EnvelopeSigner, verifier: EnvelopeVerifier, place: int, value: Any
) -> None:
    fields = json.loads(signer.encode(ROOM, 0, "[1]"))
    fields[place] = value
    if place == 0:
        del fields[5:]
    assert reason(lambda: verifier.decode(ROOM, json.dumps(fields, separators=(",", ":")).encode())) == "forged"


def test_another_spelling_of_the_same_values_is_rejected(signer: EnvelopeSigner, verifier: EnvelopeVerifier) -> None:
    data = signer.encode(ROOM, 0, "m")
    for changed in (data + b" ", b" " + data, data.replace(b',"a"', b', "a"'), data.replace(b'"m"', b'"\\u006d"')):
        assert decode(changed)
        assert reason(lambda changed=changed: verifier.decode(ROOM, changed)) == "forged"  # type: ignore[misc]


def test_without_a_secret_everything_is_accepted_and_nothing_signed(signer: EnvelopeSigner) -> None:
    unsigned, verifier = EnvelopeSigner("a", KEYS, None), EnvelopeVerifier(KEYS, None)
    data = unsigned.encode(ROOM, 0, "m")
    assert data == b'[1,"a",0,"t","m"]'
    for each in (data, numbered(data), data, signer.encode(ROOM, 0, "m"), numbered(signer.encode(ROOM, 0, "m"))):
        assert verifier.decode(ROOM, each).message == "m"
    assert reason(lambda: EnvelopeVerifier(KEYS, Secrets(OLD)).decode(ROOM, data)) == "forged"


def test_a_message_is_accepted_once_and_in_order(signer: EnvelopeSigner, verifier: EnvelopeVerifier) -> None:
    first, second, third = (signer.encode(ROOM, 0, str(number)) for number in range(3))
    assert verifier.decode(ROOM, second).message == "1"
    for old in (first, second):
        assert reason(lambda old=old: verifier.decode(ROOM, old)) == "replayed"  # type: ignore[misc]
        # As in a history, which is read more than once.
        assert verifier.decode(ROOM, old, may_repeat=True)
    assert verifier.decode(ROOM, third).message == "2"


def test_the_clock_of_a_sender_may_stop_or_go_back(
    clock: Clock, signer: EnvelopeSigner, verifier: EnvelopeVerifier
) -> None:
    for step in (0.0, 0.0, -30.0, 10.0):
        clock.now += step
        assert verifier.decode(ROOM, signer.encode(ROOM, 0, "m"))


@pytest.mark.parametrize("ahead", [1 - MAX_AGE, 0, MAX_AGE - 1])
@pytest.mark.parametrize("step", [100, MAX_AGE, 2 * MAX_AGE])
def test_a_message_is_never_accepted_again(clock: Clock, verifier: EnvelopeVerifier, ahead: float, step: float) -> None:
    """Whenever it arrives, while senders are forgotten, and wherever its sender's clock is."""
    sender = EnvelopeSigner("a", KEYS, Secrets(OLD), lambda: clock.now + ahead)
    other = EnvelopeSigner("b", KEYS, Secrets(OLD), clock)
    for start in range(3):
        clock.now += start * step / 3
        data = sender.encode(ROOM, 0, "m")
        assert verifier.decode(ROOM, data)
        for _ in range(int(6 * MAX_AGE / step) + 1):
            assert reason(lambda: verifier.decode(ROOM, data)) == "replayed"  # noqa: B023
            clock.now += step
            assert verifier.decode(ROOM, other.encode(ROOM, 0, "m"))


@pytest.mark.parametrize("late", [MAX_AGE + 1, -MAX_AGE - 1])
def test_an_unknown_sender_needs_the_time(
    clock: Clock, signer: EnvelopeSigner, verifier: EnvelopeVerifier, late: float
) -> None:
    data = signer.encode(ROOM, 0, "m")
    clock.now += late
    assert reason(lambda: verifier.decode(ROOM, data)) == "replayed"


def test_a_known_sender_may_be_late(clock: Clock, signer: EnvelopeSigner, verifier: EnvelopeVerifier) -> None:
    """A node that was suspended reads the messages that Redis has kept for it."""
    first, second = signer.encode(ROOM, 0, "1"), signer.encode(ROOM, 0, "2")
    assert verifier.decode(ROOM, first)
    clock.now += 2 * MAX_AGE
    assert verifier.decode(ROOM, second)


def test_senders_are_forgotten(clock: Clock, verifier: EnvelopeVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_SENDERS", 50)
    for number in range(300):
        verifier.decode(ROOM, EnvelopeSigner(f"n{number}", KEYS, Secrets(OLD), clock).encode(ROOM, 0, "m"))
        assert len(verifier._last) + len(verifier._last_before) <= 102


def test_many_rooms_get_signatures_of_their_own(signer: EnvelopeSigner, verifier: EnvelopeVerifier) -> None:
    rooms = [f"room {number}" for number in range(3)]
    ((count, command),) = publish_many_commands(KEYS, rooms, signer, "m")
    assert count == 3
    _, _, _, body, *rest = command
    for room, channel, tail in zip(rooms, rest[::2], rest[1::2], strict=True):
        assert channel == KEYS.channel(room)
        data: Any = body + tail  # type: ignore[operator]
        assert verifier.decode(room, data)[:4] == Envelope("a", 0, "m")[:4]
