"""What nodes tell each other about a message, and what things are called in Redis. Pure.

An envelope is a JSON array: version, the sender's node id (empty for a publisher that is no node), a tag by which a
node knows its own again, whether the message is text (``"t"``) or a JSON value (``"j"``), and that text or JSON. One of
a message with history has its offset and epoch behind that.
"""

import json
from json.encoder import encode_basestring
from typing import Any, Final, NamedTuple

from ..exceptions import ConfigurationError
from ..protocol import JSONValue
from ..session.ports import Position

__all__ = ["Envelope", "Names", "decode", "echo_of", "encode", "value_of"]

VERSION: Final = 1


class Envelope(NamedTuple):
    """A message on its way between nodes.

    Attributes:
        node: Who sent it, ``""`` where that is no node.
        tag: What the sender knows it by; 0 for nothing.
        message: The message.
        position: Where it stands in the room's history, None for one without.
    """

    node: str
    tag: int
    message: str | JSONValue
    position: Position | None = None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_decode_json = json.JSONDecoder(parse_constant=_refuse).decode


def encode(node: str, tag: int, message: str | JSONValue) -> bytes:
    """Return the envelope of a message; it has no position yet."""
    kind = "j" if isinstance(message, JSONValue) else "t"
    text = f'[{VERSION},"{node}",{tag},"{kind}",{encode_basestring(str(message))}]'
    return text.encode("utf-8", "surrogatepass")


def echo_of(node: str) -> bytes:
    """Return what all envelopes of a node begin with that it has delivered to its own members already."""
    return f'[{VERSION},"{node}",0,'.encode()


def decode(data: bytes) -> Envelope:
    """Return what an envelope says.

    Raises:
        ValueError: It is none, or one of another version.
    """
    try:
        fields = _decode_json(data.decode("utf-8", "surrogatepass"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    position = None
    if isinstance(fields, list) and len(fields) == 7:
        *fields, offset, epoch = fields
        # To JSON and to Python, true is a number.
        if type(offset) is not int or type(epoch) is not str:
            raise ValueError("its position is none")
        position = Position(offset, epoch)
    match fields:
        case [version, str(node), int(tag), "t" | "j" as kind, str(text)] if version == VERSION:
            if kind == "t":
                return Envelope(node, tag, text, position)
            try:
                value = _decode_json(text)
            except RecursionError:
                raise ValueError("its message is nested too deep") from None
            if not isinstance(value, dict | list):
                raise ValueError("its message is neither an object nor an array")
            return Envelope(node, tag, JSONValue(text), position)
    raise ValueError("it is no envelope of this version")


def value_of(message: str | JSONValue) -> Any:
    """Return a message as it was given to ``publish``."""
    return json.loads(message.text) if isinstance(message, JSONValue) else message


class Names:
    """What a cluster's things are called in Redis. A room's name may be any text.

    Args:
        namespace: What every name begins with.
        database: Redis's number of the database, which keys are of, and channels are not.

    Raises:
        ConfigurationError: The namespace is no text, or empty.
    """

    def __init__(self, namespace: str, database: int = 0) -> None:
        if not namespace or not isinstance(namespace, str):
            raise ConfigurationError(f'namespace: got {namespace!r}, takes text such as "sockjs"')
        self.namespace = namespace
        self._room = self._name(f"room/{database}" if database else "room", "")

    def _name(self, kind: str, name: str) -> bytes:
        return f"{self.namespace}:{kind}:{name}".encode("utf-8", "surrogatepass")

    def channel(self, room: str) -> bytes:
        """Return the channel of a room."""
        return self._room + room.encode("utf-8", "surrogatepass")

    def room(self, channel: bytes) -> str:
        """Return the room of a channel."""
        return channel[len(self._room) :].decode("utf-8", "surrogatepass")

    def history(self, room: str) -> bytes:
        """Return the stream of a room's history."""
        return self._name("history", room)

    def presence(self, room: str) -> bytes:
        """Return the hash of who is present in a room."""
        return self._name("presence", room)

    def alive(self, node: str) -> bytes:
        """Return the key that is there while a node is."""
        return self._name("alive", node)
