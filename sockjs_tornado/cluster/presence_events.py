"""Events of presence: each node sends the changes of its members as messages of a topic of their room."""

import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

from ..session.rooms import PresenceEvent
from .topics import RESERVED_PREFIX

#: Called with the event, the member and its presence; it may be ``async def``.
PresenceCallback = Callable[[PresenceEvent, str, Any], Awaitable[object] | object]


def presence_topic(room: str) -> str:
    """Return the topic of a room's events."""
    return RESERVED_PREFIX + room


def encode_presence_event(event: PresenceEvent, member: str, text: str) -> str:
    """Return the message of an event as JSON; ``text`` is the member's presence as JSON."""
    return f"[{json.dumps(event)},{json.dumps(member)},{text}]"


@dataclasses.dataclass(frozen=True)
class PresenceWatcher:
    """The callback of a topic that calls a :data:`PresenceCallback`. It equals another one of the same function."""

    callback: PresenceCallback

    def __call__(self, message: Any) -> Awaitable[object] | object:
        match message:
            case ["join" | "update" | "leave" as event, str(member), presence]:
                return self.callback(event, member, presence)
        # A later version may send other events.
        return None
