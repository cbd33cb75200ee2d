"""The format of messages on Redis channels, and the names of keys and channels. Pure.

An envelope is a JSON array of the version, the sender's id (empty for a ``Publisher`` without a secret), a tag by
which a node recognizes its own messages, the message's type and the message. The type is ``"t"`` for text, ``"j"`` for
a JSON value. The control channel has only the type ``"c"``, a command (``session.control``), and the channels of topics
only ``"s"``, a message between servers. For a message with history, its offset and epoch follow. A signed envelope has
another version, and two more fields after the message: its stamp and its code, see
:mod:`~sockjs_tornado.cluster.envelope_signing`.
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

#: The version of signed envelopes.
SIGNED_VERSION: Final = 2


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
        stamp: The sender's time in microseconds, or None if the envelope is not signed.
        code: The authentication code, or ``""``.
    """

    node: str
    tag: int
    message: str | JSONValue
    position: Position | None = None
    stamp: int | None = None
    code: str = ""


class ControlEnvelope(NamedTuple):
    """A command between nodes; the other fields are those of :class:`Envelope`."""

    node: str
    tag: int
    command: Command
    stamp: int | None = None
    code: str = ""


class TopicEnvelope(NamedTuple):
    """A message of a topic as JSON; the other fields are those of :class:`Envelope`."""

    node: str
    text: str
    stamp: int | None = None
    code: str = ""


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_decoder: Final = json.JSONDecoder(parse_constant=_reject_constant)


def _decode_json(text: str) -> Any:
    try:
        return _decoder.decode(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def encode(node: str, tag: int, message: str | JSONValue, *, is_signed: bool = False) -> bytes:
    """Return the envelope of a message in a room, without a position and a signature."""
    return _encode(node, tag, "j" if isinstance(message, JSONValue) else "t", str(message), is_signed)


def encode_control(node: str, tag: int, command: Command, *, is_signed: bool = False) -> bytes:
    """Return the envelope of a command, without a signature."""
    return _encode(node, tag, "c", encode_command(command), is_signed)


def encode_topic(node: str, text: str, *, is_signed: bool = False) -> bytes:
    """Return the envelope of a message of a topic, given as JSON, without a signature."""
    return _encode(node, 0, "s", text, is_signed)


def decode_topic(data: bytes) -> TopicEnvelope:
    """Decode the envelope of a topic's message, or raise ValueError if the data is not an envelope of one."""
    node, _, kind, text, position, stamp, code = _decode(data)
    if kind != "s" or position is not None:
        raise ValueError("the envelope has no message of a topic")
    _decode_json(text)
    return TopicEnvelope(node, text, stamp, code)


def _encode(node: str, tag: int, kind: str, content: str, is_signed: bool) -> bytes:
    text = f'[{SIGNED_VERSION if is_signed else VERSION},"{node}",{tag},"{kind}",{encode_basestring(content)}]'
    return text.encode("utf-8", "surrogatepass")


def local_prefix(node: str, *, is_signed: bool = False) -> bytes:
    """Return the prefix of the envelopes that a node need not process when it receives them back: those with tag 0."""
    return f'[{SIGNED_VERSION if is_signed else VERSION},"{node}",0,'.encode()


def decode(data: bytes) -> Envelope:
    """Decode the envelope of a message in a room, or raise ValueError if the data is not one of this version."""
    node, tag, kind, text, position, stamp, code = _decode(data)
    if kind == "t":
        return Envelope(node, tag, text, position, stamp, code)
    if kind != "j":
        raise ValueError("the envelope has no message for a room")
    _check_message(text)
    return Envelope(node, tag, JSONValue(text), position, stamp, code)


def decode_control(data: bytes) -> ControlEnvelope:
    """Decode the envelope of a command, or raise ValueError if the data is not one of this version."""
    node, tag, kind, text, position, stamp, code = _decode(data)
    if kind != "c" or position is not None:
        raise ValueError("the envelope has no command")
    command = decode_command(text)
    if command.action == "send" and command.arguments[0] == "j":
        _check_message(command.arguments[1])
    return ControlEnvelope(node, tag, command, stamp, code)


def _check_message(text: str) -> None:
    if not isinstance(_decode_json(text), dict | list):
        raise ValueError("the message is neither an object nor an array")


def _decode(data: bytes) -> tuple[str, int, str, str, Position | None, int | None, str]:
    fields = _decode_json(data.decode("utf-8", "surrogatepass"))
    if not isinstance(fields, list) or not fields:
        raise ValueError("not an envelope")
    position, stamp, code = None, None, ""
    is_signed = fields[0] == SIGNED_VERSION
    if len(fields) == (9 if is_signed else 7):
        position = Position(*_numbered_text(fields, "position"))
    if is_signed:
        stamp, code = _numbered_text(fields, "signature")
    match fields:
        case [int(version), str(node), int(tag), str(kind), str(text)] if (
            version in (VERSION, SIGNED_VERSION)
            and not any(isinstance(number, bool) for number in (version, tag))
            and tag >= 0
        ):
            if node and not NODE.fullmatch(node):
                raise ValueError("the node in the envelope is not an id")
            return node, tag, kind, text, position, stamp, code
    raise ValueError("not an envelope of this version")


def _numbered_text(fields: list[Any], what: str) -> tuple[int, str]:
    """Remove a number and a text from the end of the fields, and return them."""
    number, text = fields[-2:] if len(fields) > 2 else (None, None)
    # No isinstance(): True is an int.
    if type(number) is not int or number < 0 or type(text) is not str:
        raise ValueError(f"the {what} is invalid")
    del fields[-2:]
    return number, text


def value_of(message: str | JSONValue) -> Any:
    """Return the message that was passed to ``publish``."""
    return json.loads(message.text) if isinstance(message, JSONValue) else message


def _add_hash_tag(namespace: str) -> str:
    """Return a namespace of which Redis Cluster hashes the part in braces only."""
    _, opening, rest = namespace.partition("{")
    tag, closing, _ = rest.partition("}")
    if opening and closing and tag:
        return namespace
    if opening or "}" in namespace:
        raise ConfigurationError(
            f'namespace: got {namespace!r}, expected a name without braces, or with a hash tag such as "{{sockjs}}"'
        )
    return f"{{{namespace}}}"


class RedisKeys:
    """The names of a cluster's keys and channels in Redis. The name of a room may be any text.

    Args:
        namespace: The prefix of all names.
        database: The number of the database. Redis separates keys by database, but not channels, so the channels have
            it in their names.
        hash_tag: Whether the namespace is the hash tag of all names, so that Redis Cluster keeps them in one slot:
            ``{sockjs}:session:...``. A namespace that has a hash tag remains as it is.

    Raises:
        ConfigurationError: The namespace is not a str, or is empty, or has braces that are not a hash tag.
    """

    def __init__(self, namespace: str, database: int = 0, *, hash_tag: bool = False) -> None:
        if not namespace or not isinstance(namespace, str):
            raise ConfigurationError(f'namespace: got {namespace!r}, expected a non-empty str such as "sockjs"')
        self.namespace = _add_hash_tag(namespace) if hash_tag else namespace
        self.has_hash_tag = hash_tag
        self.database = database
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

    def published(self, room: str, idempotency_key: str) -> bytes:
        """Return the key that exists after a message with an idempotency key was published in a room."""
        return self._name("published", f"{len(idempotency_key)}:{idempotency_key}:{room}")

    def presence(self, room: str) -> bytes:
        """Return the key of the hash with a room's presence."""
        return self._name("presence", room)

    def session(self, key: str) -> bytes:
        """Return the key of the claim of a session. A session id may have any bytes."""
        return f"{self.namespace}:session:{key}".encode("utf-8", "surrogateescape")

    def address(self, address: str) -> bytes:
        """Return the key that registers the address of a node, or for ``""`` the one that exists while any has one."""
        return self._name("address", address)

    def alive(self, node: str) -> bytes:
        """Return the key that exists while a node is alive."""
        return self._name("alive", node)
