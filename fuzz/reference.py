"""A simple reference implementation of RFC 6455: the events of a client's stream without compression."""

import codecs
from typing import Any

from sockjs_tornado.wire.frames import Close, Ping, Pong

__all__ = ["close_end", "events_of"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
#: Valid codes in a close frame: section 7.4 and later IANA registrations.
CODES = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
#: By the 7-bit length: number of bytes of the extended length, and its minimum value.
EXTENDED = {126: (2, 126), 127: (8, 1 << 16)}


class Violation(Exception):
    """A violation of the protocol, with the close code as argument."""


def events_of(stream: bytes, limit: int) -> list[Any]:
    """Return the events of a stream, each with its type, and at the end the close code of a violation."""
    events: list[Any] = []
    try:
        _read(stream, limit, events)
    except Violation as violation:
        events.append(violation.args[0])
    except UnicodeDecodeError:
        events.append(1007)
    return [event if isinstance(event, int) else (type(event), event) for event in events]


def _read(stream: bytes, limit: int, events: list[Any]) -> None:
    kind, message = CONTINUATION, b""
    while len(stream) >= 2:
        opcode, final, size = stream[0] & 15, stream[0] >> 7, stream[1] & 127
        _check(stream[0], stream[1], kind)
        more, least = EXTENDED.get(size, (0, 0))
        start = 6 + more
        if len(stream) < start:
            return
        if more:
            size = int.from_bytes(stream[2 : 2 + more], "big")
            if size < least or size >> 63:
                raise Violation(1002)
        is_whole = len(stream) >= start + size
        mask = stream[start - 4 : start]
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(stream[start : start + size]))
        if opcode >= CLOSE:
            if not is_whole:
                return
            events.append(_control(opcode, payload))
            if opcode == CLOSE:
                return
        else:
            kind = kind or opcode
            if len(message) + size > limit:
                raise Violation(1009)
            message += payload
            ends = bool(final and is_whole)
            # Invalid UTF-8 is rejected before the message is complete.
            text = codecs.getincrementaldecoder("utf-8")().decode(message, ends) if kind == TEXT else ""
            if ends:
                events.append(text if kind == TEXT else message)
                kind, message = CONTINUATION, b""
            if not is_whole:
                return
        stream = stream[start + size :]


def close_end(stream: bytes) -> int | None:
    """Return the end of the first complete close frame, or None; frames may be invalid except for their lengths."""
    position = 0
    while len(stream) - position >= 2:
        first, second = stream[position], stream[position + 1]
        size = second & 127
        more, _ = EXTENDED.get(size, (0, 0))
        start = position + 2 + more + (4 if second & 128 else 0)
        if len(stream) < start:
            return None
        if more:
            size = int.from_bytes(stream[position + 2 : position + 2 + more], "big")
        position = start + size
        if position > len(stream):
            return None
        if first & 15 == CLOSE:
            return position
    return None


def _check(first: int, second: int, kind: int) -> None:
    """Check the first two bytes of a frame: sections 5.1, 5.2, 5.4 and 5.5."""
    opcode = first & 15
    is_control = opcode >= CLOSE
    if (
        not second & 0x80
        or first & 0x70
        or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
        or (is_control and (not first & 0x80 or second & 127 > 125))
        or (not is_control and (opcode == CONTINUATION) != (kind != CONTINUATION))
    ):
        raise Violation(1002)


def _control(opcode: int, payload: bytes) -> Any:
    if opcode != CLOSE:
        return Ping(payload) if opcode == PING else Pong(payload)
    if not payload:
        return Close(1005, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or code not in CODES:
        raise Violation(1002)
    return Close(code, payload[2:].decode())
