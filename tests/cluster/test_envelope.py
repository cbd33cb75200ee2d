"""The format of messages on Redis channels, and the names of keys and channels."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sockjs_tornado import ConfigurationError
from sockjs_tornado.cluster.envelope import (
    CONTROL,
    Channel,
    Envelope,
    RedisKeys,
    decode,
    decode_control,
    decode_topic,
    encode,
    encode_control,
    encode_topic,
    local_prefix,
    value_of,
)
from sockjs_tornado.protocol import JSONValue, encode_message
from sockjs_tornado.session.control import Command, Target
from sockjs_tornado.session.ports import Position

#: Lone surrogates included.
TEXT = st.text(st.characters(exclude_categories=()))
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, st.lists, max_leaves=5)
MESSAGES = TEXT | st.lists(VALUES, max_size=3) | st.dictionaries(TEXT, VALUES, max_size=3)


@settings(max_examples=25)
@given(message=MESSAGES, tag=st.integers(0))
def test_encoded_messages_can_be_decoded(message: Any, tag: int) -> None:
    encoded = encode_message(message)
    data = encode("ab12", tag, encoded)
    envelope = decode(data)
    assert envelope[:2] == ("ab12", tag)
    assert value_of(envelope.message) == message
    assert str(envelope.message) == str(encoded)
    assert envelope.position is None
    assert decode(data[:-1] + b',7,"e"]').position == Position(7, "e")
    assert data.startswith(local_prefix("ab12")) is (tag == 0)


def test_the_envelope_is_json_that_other_programs_can_write() -> None:
    assert decode(b' [1, "", 0, "t", "x"] ') == Envelope("", 0, "x")
    envelope = decode(b'[1, "n", 3, "j", "[1]", 5, "e"]')
    assert isinstance(envelope.message, JSONValue)
    assert (envelope.node, envelope.tag, str(envelope.message), envelope.position) == ("n", 3, "[1]", Position(5, "e"))


@pytest.mark.parametrize(
    "rubbish",
    [
        "",
        "\xff",
        "{}",
        "1",
        "null",
        '"x"',
        "[]",
        "[1]",
        '[2,"",0,"t","x"]',
        '[1,"",0,"t"]',
        '[1,"",0,"t","x",1]',
        '[1,"",0,"t","x",1,"e",0]',
        '[2,"",0,"t","x",1]',
        '[2,"",0,"t","x",1,"c",1]',
        '[2,"",0,"t","x",-1,"c"]',
        '[2,"",0,"t","x",1,"c",true,"e"]',
        '[2,"",0,"t","x",true,"c"]',
        '[true,"",0,"t","x"]',
        '[3,"",0,"t","x",1,"c"]',
        '[1,5,0,"t","x"]',
        '[1,"","0","t","x"]',
        '[1,"",0,"b","x"]',
        '[1,"",0,["t"],"x"]',
        '[1,"",0,"t",5]',
        '[1,"",0,"t","x","1","e"]',
        '[1,"",0,"t","x",true,"e"]',
        '[1,"",0,"t","x",1,2]',
        '[1,"",0,"t","x"',
        '[1,"",0,"j","x"]',
        '[1,"",0,"j","5"]',
        '[1,"",0,"j","[NaN]"]',
        '[1,"",0,"j","[1"]',
        json.dumps([1, "", 0, "j", "[" * 100_000]),
        "[" * 100_000,
    ],
)
def test_malformed_envelopes_are_rejected(rubbish: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|envelope|position|message|signature|codec|nested|Expecting|value|char"):
        decode(rubbish.encode("latin-1"))


@pytest.mark.parametrize("message", ["hello", '["disconnect","tag","a",4000,"x"]', {"a": ["\ud800 ☃"]}, []])
def test_no_message_in_a_room_is_a_command_and_no_command_a_message(message: Any) -> None:
    """Whatever clients send: the types of the envelopes differ, and each channel has its own."""
    encoded = encode_message(message)
    with pytest.raises(ValueError, match="no command"):
        decode_control(encode("ab12", 0, encoded))
    kind = "j" if isinstance(encoded, JSONValue) else "t"
    command = Command("send", Target("tag", "a"), (kind, str(encoded)))
    data = encode_control("ab12", 3, command)
    assert decode_control(data)[:3] == ("ab12", 3, command)
    with pytest.raises(ValueError, match="no message for a room"):
        decode(data)
    with pytest.raises(ValueError, match="no command"):
        decode_control(data[:-1] + b',7,"e"]')
    # Nor is either a message between servers.
    text = json.dumps(message)
    topic = encode_topic("ab12", text)
    assert decode_topic(topic).text == text
    for other in (data, encode("ab12", 0, encoded), topic[:-1] + b',7,"e"]'):
        with pytest.raises(ValueError, match="no message of a topic"):
            decode_topic(other)
    with pytest.raises(ValueError, match="no message for a room"):
        decode(topic)
    with pytest.raises(ValueError, match="no command"):
        decode_control(topic)


@pytest.mark.parametrize(
    "text", ["5", "[NaN]", "[1", "[" * 100_000], ids=["no container", "not JSON", "incomplete", "nested"]
)
def test_commands_and_topics_have_only_json(text: str) -> None:
    if text != "5":
        with pytest.raises(ValueError, match=r"JSON|Expecting|nested"):
            decode_topic(encode_topic("", text))
    with pytest.raises(ValueError, match=r"message|JSON|Expecting|nested"):
        decode_control(encode_control("", 0, Command("send", Target("tag", "a"), ("j", text))))


@given(room=TEXT, other=TEXT)
def test_every_room_has_its_own_keys(room: str, other: str) -> None:
    names = RedisKeys("app")
    assert names.room(names.channel(room)) == room
    assert names.channel(room).startswith(b"app:room:")
    assert names.room(names.channel(CONTROL)) == CONTROL
    assert names.room(names.channel(Channel("topic", room))) == Channel("topic", room)
    for name in (names.channel, names.history, names.presence):
        assert (name(room) == name(other)) is (room == other)


@pytest.mark.parametrize("namespace", ["", None, 5, b"x"])
def test_the_namespace_must_be_a_non_empty_str(namespace: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^namespace: got "):
        RedisKeys(namespace)
