"""The messages of the protocol that a node sends to all members of a room. Pure."""

import json
from typing import Final

from ..protocol import JSONValue
from ..session.ports import Position

#: Members that follow again per second after a loss, and the longest time in seconds over which they are spread.
_RATE: Final = 1000
_MAX_DELAY: Final = 30


def room_message(room: str, message: str | JSONValue, position: Position, previous: Position | None) -> JSONValue:
    """Return a message with history, as the members of its room receive it.

    Args:
        room: The name of the room.
        message: The message that was published.
        position: Its position.
        previous: The position of the message that members received before, or None if it is not known, or if messages
            between them may be lost.
    """
    continues = ""
    if previous is not None and previous.epoch != position.epoch and previous.offset + 1 == position.offset:
        continues = f'"continues":{_quote(previous.epoch)},'
    data = message.text if isinstance(message, JSONValue) else _quote(message)
    return JSONValue(
        f'{{"type":"message","room":{_quote(room)},"offset":{position.offset},"epoch":{_quote(position.epoch)},'
        f'{continues}"data":{data}}}'
    )


def gap_message(room: str, members: int) -> JSONValue:
    """Return the notice that messages of a room may be lost, with the time over which the members follow again."""
    return JSONValue(f'{{"type":"gap","room":{_quote(room)},"within":{min(_MAX_DELAY, members / _RATE):g}}}')


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
