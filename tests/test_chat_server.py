"""The chat example's server: its notices, their rate, and valid nicknames."""

import importlib
import json
from typing import Any

import pytest
from application import Serve
from client import Join, Peer
from programs import ROOT

HOUR = 3600.0


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example's module."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module("chat.server")


@pytest.fixture
def nicknames(chat: Any) -> Any:
    """The module with the rules for names."""
    return importlib.import_module("chat.nicknames")


@pytest.fixture
def slow_notices(chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first notice comes at once, and then none for an hour."""
    monkeypatch.setattr(importlib.import_module("throttle"), "INTERVAL", HOUR)


async def say(peer: Peer, **message: str) -> None:
    """Say something to the server."""
    await peer.send(json.dumps(message))


async def hear(peer: Peer, kind: str) -> Any:
    """Return the next message, which has to be of this kind."""
    message: Any = await peer.message()
    assert message["type"] == kind, message
    return message


async def welcomed(peer: Peer, name: str) -> Any:
    """Enter, and return the answer; what comes before is in it."""
    assert await peer.frame() == "o"
    await say(peer, type="enter", name=name, token=f"{name}, in a window of its own")
    while True:
        message: Any = await peer.message()
        if message["type"] in ("welcome", "error"):
            return message


# Who is told, and how often.

MANY = 40


def notices(router: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list to which everything is added that is sent to all."""
    published: list[Any] = []
    publish = router.publish

    def note(room: str, message: Any, **more: Any) -> Any:
        published.append(message)
        return publish(room, message, **more)

    monkeypatch.setattr(router, "publish", note)
    return published


@pytest.mark.usefixtures("slow_notices")
async def test_clients_that_enter_meanwhile_are_reported_together(
    chat: Any, serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = chat.make_router()
    published = notices(router, monkeypatch)
    server = await serve(router)
    peers = [join(server, "websocket", prefix="/chat/sockjs") for _ in range(MANY)]
    for number, peer in enumerate(peers):
        welcome = await welcomed(peer, f"N{number:02}")
        assert len(welcome["people"]) == number + 1
    assert published == [{"type": "entered", "names": ["N00"]}]
    participants = router.connections[0].participants
    participants.changed.flush()
    names = [f"N{number:02}" for number in range(1, MANY)]
    assert published[1:] == [{"type": "entered", "names": names}]
    assert await hear(peers[-1], "entered") == published[1]


async def test_when_many_leave_at_once_the_others_are_notified_once(
    chat: Any, serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = chat.make_router()
    server = await serve(router)
    observer, *others = (join(server, "websocket", prefix="/chat/sockjs") for _ in range(MANY))
    for number, peer in enumerate((observer, *others)):
        await welcomed(peer, f"N{number:02}")
    # Who leaves before anybody was told that they came in, is no news.
    router.connections[0].participants.changed.flush()
    published = notices(router, monkeypatch)
    for connection in router.connections:
        if connection.nickname != "N00":
            connection.close()
    left: list[str] = []
    while len(left) < len(others):
        message: Any = await observer.message()
        left += message["names"] if message["type"] == "left" else []
    # The first one at the most, and then all the others.
    assert len(published) <= 2
    assert sorted(left) == [f"N{number:02}" for number in range(1, MANY)]


@pytest.mark.usefixtures("slow_notices")
async def test_a_message_is_sent_after_the_notice_that_its_author_has_entered(
    chat: Any, serve: Serve, join: Join
) -> None:
    server = await serve(chat.make_router())
    ann, bob = join(server, "websocket", prefix="/chat/sockjs"), join(server, "xhr", prefix="/chat/sockjs")
    await welcomed(ann, "Ann")
    await welcomed(bob, "Bob")
    await say(bob, type="say", text="Hello")
    assert (await hear(ann, "entered"))["names"] == ["Bob"]
    assert (await hear(ann, "said"))["text"] == "Hello"


@pytest.mark.usefixtures("slow_notices")
async def test_a_participant_who_returns_before_the_notice_has_not_left(
    chat: Any, serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = chat.make_router()
    server = await serve(router)
    await welcomed(join(server, "websocket", prefix="/chat/sockjs"), "Ann")
    await welcomed(join(server, "websocket", prefix="/chat/sockjs"), "Bob")
    ann, bob = router.connections
    ann.participants.changed.flush()
    published = notices(router, monkeypatch)
    bob.close()
    await welcomed(join(server, "websocket", prefix="/chat/sockjs"), "Bob")
    ann.participants.changed.flush()
    assert published == []


# Nicknames.


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Ann", "Ann"),
        ("  Ann \t of   Kent ", "Ann of Kent"),
        ("Ａｎｎ", "Ann"),
        ("ﬁn", "fin"),
        ("Ann\u00a0B\u2003C", "Ann B C"),
        ("Zoe\u0308", "Zo\u00eb"),
        *((name, name) for name in ("李小龍", "さくら", "عمر", "Дмитрий", "कि", "ก็", "C-3PO", "☃", "🐎", "x" * 24)),
        ("x" * 25, ""),
        ("ﷺ" * 2, ""),
        ("", ""),
        (" \u2003\u3000", ""),
        *(
            (f"A{blank}b", "")
            for blank in "\x00\x1b\x7f\x9b\u00ad\u061c\u200b\u200c\u200d\u200e\u202e\u2060\u2066\ufeff"
        ),
        *((f"A{blank}b", "") for blank in "\u034f\u115f\u17b4\u180b\u180e\u2800\u3164\ufe0f\uffa0\U000e0001\U000e0100"),
        *((f"A{wrong}b", "") for wrong in ("\ud800", "\udfff", "\ue000", "\uffff", "\u0378", "\U0010fffe")),
        ("\u0301b", ""),
        ("A" + "\u0338" * 3, ""),
        ("\u3164", ""),
    ],
    ids=ascii,
)
def test_a_nickname_is_what_can_be_seen(nicknames: Any, name: str, written: str) -> None:
    assert nicknames.normalize(name) == written


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann", "ANN"),
        ("Ann", "\u0410nn"),  # Cyrillic
        ("Paypal", "\u0420\u0430\u0443\u0440\u0430l"),
        ("Hope", "\u0397\u03bf\u03c1e"),  # Greek
        ("lan", "Ian"),
        ("Bill", "Bi11"),
        ("Bob", "B0b"),
        ("Stra\u00dfe", "STRASSE"),
    ],
    ids=ascii,
)
def test_nicknames_that_look_the_same_are_the_same(nicknames: Any, one: str, other: str) -> None:
    assert nicknames.skeleton(nicknames.normalize(one)) == nicknames.skeleton(nicknames.normalize(other))
    assert nicknames.skeleton("Ann") != nicknames.skeleton("Anna")


async def test_a_nickname_in_use_gets_a_number(chat: Any, serve: Serve, join: Join) -> None:
    server = await serve(chat.make_router())
    names = ["Ann", "\u0410nn", "Ａnn", "Ann\u200b", "\u3164"]
    answers = [await welcomed(join(server, "websocket", prefix="/chat/sockjs"), name) for name in names]
    assert [answer.get("name") for answer in answers] == ["Ann", "\u0410nn 2", "Ann 3", None, None]
    assert answers[-1]["text"] == "A nickname has 1 to 24 visible characters."
