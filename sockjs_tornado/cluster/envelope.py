"""The format of messages on Redis channels, and the names of keys and channels. Pure.

An envelope is a JSON array of the version, the sender's node id (empty if the sender is a ``Publisher``), a tag by
which a node recognizes its own messages, the message's type and the message. The type is ``"t"`` for text, ``"j"`` for
a JSON value. The control channel has only the type ``"c"``, a command (``session.control``), and the channels of topics
only ``"s"``, a message between servers. For a message with history, its offset and epoch follow.
"""

import json
from json.encoder import encode_basestring
from typing import Any, Final, NamedTuple

from ..exceptions import ConfigurationError
from ..protocol import JSONValue
from ..session.control import Command, decode_command, encode_command
from ..session.ports import Position
from .claim_format import NODE

VERSION: Final = 1


class Channel(NamedTuple):
    """A channel other than those of rooms.

    Attributes:
        kind: ``"control"`` or ``"topic"``.
        name: The name among the channels of the kind.
    """

    kind: str
    name: str


#: The channel of commands, to which every node subscribes.
CONTROL: Final = Channel("control", "")


class Envelope(NamedTuple):
    """A message between nodes.

    Attributes:
        node: The sender's id, or ``""`` if the sender is not a node.
        tag: The sender's number for the message, or 0 if the sender has delivered it to its own members already.
        position: The message's position in the room's history, or None without history.
    """

    node: str
    tag: int
    message: str | JSONValue
    position: Position | None = None


class ControlEnvelope(NamedTuple):
    """A command between nodes; ``node`` and ``tag`` are those of :class:`Envelope`."""

    node: str
    tag: int
    command: Command


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_decoder: Final = json.JSONDecoder(parse_constant=_reject_constant)


def _decode_json(text: str) -> Any:
    try:
        return _decoder.decode(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def encode(node: str, tag: int, message: str | JSONValue) -> bytes:
    """Return the envelope of a message in a room, without a position."""
    return _encode(node, tag, "j" if isinstance(message, JSONValue) else "t", str(message))


def encode_control(node: str, tag: int, command: Command) -> bytes:
    """Return the envelope of a command."""
    return _encode(node, tag, "c", encode_command(command))


def encode_topic(node: str, text: str) -> bytes:
    """Return the envelope of a message of a topic, given as JSON."""
    return _encode(node, 0, "s", text)


def decode_topic(data: bytes) -> str:
    """Return the JSON of a topic's message, or raise ValueError if the data is not an envelope of one."""
    _, _, kind, text, position = _decode(data)
    if kind != "s" or position is not None:
        raise ValueError("the envelope has no message of a topic")
    _decode_json(text)
    return text


def _encode(node: str, tag: int, kind: str, content: str) -> bytes:
    text = f'[{VERSION},"{node}",{tag},"{kind}",{encode_basestring(content)}]'
    return text.encode("utf-8", "surrogatepass")


def local_prefix(node: str) -> bytes:
    """Return the prefix of the envelopes that a node need not process when it receives them back: those with tag 0."""
    return f'[{VERSION},"{node}",0,'.encode()


def decode(data: bytes) -> Envelope:
    """Decode the envelope of a message in a room, or raise ValueError if the data is not one of this version."""
    node, tag, kind, text, position = _decode(data)
    if kind == "t":
        return Envelope(node, tag, text, position)
    if kind != "j":
        raise ValueError("the envelope has no message for a room")
    _check_message(text)
    return Envelope(node, tag, JSONValue(text), position)


def decode_control(data: bytes) -> ControlEnvelope:
    """Decode the envelope of a command, or raise ValueError if the data is not one of this version."""
    node, tag, kind, text, position = _decode(data)
    if kind != "c" or position is not None:
        raise ValueError("the envelope has no command")
    command = decode_command(text)
    if command.action == "send" and command.arguments[0] == "j":
        _check_message(command.arguments[1])
    return ControlEnvelope(node, tag, command)


def _check_message(text: str) -> None:
    if not isinstance(_decode_json(text), dict | list):
        raise ValueError("the message is neither an object nor an array")


def _decode(data: bytes) -> tuple[str, int, str, str, Position | None]:
    fields = _decode_json(data.decode("utf-8", "surrogatepass"))
    position = None
    if isinstance(fields, list) and len(fields) == 7:
        *fields, offset, epoch = fields
        # No isinstance(): True is an int.
        if type(offset) is not int or offset < 0 or type(epoch) is not str:
            raise ValueError("the position is invalid")
        position = Position(offset, epoch)
    match fields:
        case [int(version), str(node), int(tag), str(kind), str(text)] if (
            version == VERSION and not any(isinstance(number, bool) for number in (version, tag)) and tag >= 0
        ):
            if node and not NODE.fullmatch(node):
                raise ValueError("the node in the envelope is not an id")
            return node, tag, kind, text, position
    raise ValueError("not an envelope of this version")


def value_of(message: str | JSONValue) -> Any:
    """Return the message that was passed to ``publish``."""
    return json.loads(message.text) if isinstance(message, JSONValue) else message


class RedisKeys:
    """The names of a cluster's keys and channels in Redis. The name of a room may be any text.

    Args:
        namespace: The prefix of all names.
        database: The number of the database. Redis separates keys by database, but not channels, so the channels have
            it in their names.

    Raises:
        ConfigurationError: The namespace is not a str, or is empty.
    """

    def __init__(self, namespace: str, database: int = 0) -> None:
        if not namespace or not isinstance(namespace, str):
            raise ConfigurationError(f'namespace: got {namespace!r}, expected a non-empty str such as "sockjs"')
        self.namespace = namespace
        self._database = f"/{database}" if database else ""
        self._room = self._name(f"room{self._database}", "")
        self._topic = self._name(f"topic{self._database}", "")

    def _name(self, kind: str, name: str) -> bytes:
        return f"{self.namespace}:{kind}:{name}".encode("utf-8", "surrogatepass")

    def channel(self, room: str | Channel) -> bytes:
        """Return the name of a room's channel, or of another channel."""
        if isinstance(room, Channel):
            return self._name(f"{room.kind}{self._database}", room.name)
        return self._room + room.encode("utf-8", "surrogatepass")

    def room(self, channel: bytes) -> str | Channel:
        """Return the name of a channel's room, or the channel if it is not a room's."""
        if channel.startswith(self._room):
            return channel[len(self._room) :].decode("utf-8", "surrogatepass")
        if channel.startswith(self._topic):
            return Channel("topic", channel[len(self._topic) :].decode("utf-8", "surrogatepass"))
        return CONTROL

    def history(self, room: str) -> bytes:
        """Return the key of the stream with a room's history."""
        return self._name("history", room)

    def presence(self, room: str) -> bytes:
        """Return the key of the hash with a room's presence."""
        return self._name("presence", room)

    def session(self, key: str) -> bytes:
        """Return the key of the claim of a session. A session id may have any bytes."""
        return f"{self.namespace}:session:{key}".encode("utf-8", "surrogateescape")

    def address(self, address: str) -> bytes:
        """Return the key that registers the address of a node."""
        return self._name("address", address)

    def alive(self, node: str) -> bytes:
        """Return the key that exists while a node is alive."""
        return self._name("alive", node)
