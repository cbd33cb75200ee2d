"""Tracing of sessions: one line for each state transition and each frame.

With ``SOCKJS_TRACE=1`` in the environment, the trace is written to standard error and shows the start of each message:

.. code-block:: text

    1 websocket receiver attached
    1 websocket CONNECTING becomes OPEN
    1 websocket < o
    1 websocket > hello
    1 websocket < a["hello"]
    1 websocket receiver lost 1006 Connection lost
    1 websocket ends 1006 Connection lost
    1 websocket OPEN becomes CLOSING

Otherwise, ``logging.getLogger("sockjs_tornado.observe.trace").setLevel(logging.DEBUG)`` writes the trace to the log,
with the lengths of messages and room names instead of the texts. Sessions that are opened afterwards are traced.
Without tracing, sessions have no overhead.
"""

import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Final

from ..protocol import Message, Outgoing, messages_frame
from .logs import session_fields

__all__ = ["is_enabled", "message", "messages", "write", "write_unheard"]

logger = logging.getLogger(__name__)

#: Length to which messages are truncated.
_WIDTH: Final = 100

_TO_TERMINAL: Final = os.environ.get("SOCKJS_TRACE", "").lower() not in ("", "0", "no", "off", "false")

if _TO_TERMINAL:
    _handler = logging.StreamHandler()
    _handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S"))
    logger.addHandler(_handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
elif logger.level == logging.NOTSET:
    # Keep the trace off even if the application enables DEBUG for the root logger.
    logger.setLevel(logging.INFO)


#: Returns whether new sessions are traced. Not a function in Python, since it is called for each session.
is_enabled = partial(logger.isEnabledFor, logging.DEBUG)


def write(label: str, transport: str, event: str) -> None:
    """Write a line about a session to the trace; messages in ``event`` are from the functions below."""
    logger.debug("%s %s %s", label, transport, event, extra=session_fields(label, transport))


def write_unheard(room: str) -> None:
    """Write a line about a message that was published in a room without members, perhaps because it is misspelt."""
    logger.debug("publish in the room %s, which has no members in this process", message(room))


def message(text: Outgoing | Message) -> str:
    """Return the part of a message that may be shown."""
    text = text if isinstance(text, str) else repr(text)
    if not _TO_TERMINAL:
        return f"({len(text)} characters)"
    # Escape control characters, which could manipulate a terminal.
    text = ascii(text)[1:-1] if not text.isprintable() else text
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}... ({len(text)} characters)"


def messages(batch: Sequence[Outgoing]) -> str:
    """Return the part of a messages frame that may be shown."""
    return message(messages_frame([repr(each) if isinstance(each, bytes) else each for each in batch]))
