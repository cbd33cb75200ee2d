"""The authentication of messages in Redis, so that whoever can write there cannot send messages to clients.

A signed envelope is an envelope with two more fields, a stamp and a code, before those of the position. The stamp is
the sender's time in microseconds, larger for each message. The code is a keyed BLAKE2b (RFC 7693) of the fields before
it and of the room's channel. The position is not signed, because Redis assigns it.

A receiver accepts the stamps of one sender in ascending order only: Redis delivers the messages of one connection in
the order in which they were sent. So it has to remember one number for each sender, and no message twice.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Final

from ..protocol import JSONValue
from ..session.control import Command
from ..session.ports import Position
from .envelope import (
    Channel,
    ControlEnvelope,
    Envelope,
    RedisKeys,
    TopicEnvelope,
    decode,
    decode_control,
    decode_topic,
    encode,
    encode_control,
    encode_topic,
)
from .secret import Secrets

#: The largest difference in seconds between the stamp of an unknown sender's message and the receiver's clock. It
#: bounds what is remembered, so it may be long: a message may wait in Redis while a node is blocked.
MAX_AGE: Final = 300

#: The number of senders after which the oldest are forgotten early.
_MAX_SENDERS: Final = 100_000

_CODE_SIZE: Final = 16

_Signed = Envelope | ControlEnvelope | TopicEnvelope


class Unauthenticated(ValueError):
    """The message must not be delivered.

    Attributes:
        sender: The id of the sender, as the message has it.
        is_replayed: Whether the code is valid, but the message was received before, or is too old.
    """

    def __init__(self, sender: str, is_replayed: bool) -> None:
        super().__init__("replayed" if is_replayed else "forged")
        self.sender = sender
        self.is_replayed = is_replayed


class EnvelopeSigner:
    """Encodes the messages of one sender, and signs them if the cluster has a secret.

    Their order must be that in which Redis executes the commands.

    Args:
        node: The sender's id.
        keys: The names of channels.
        secrets: The secrets, or None.
        now: The clock.

    Attributes:
        is_signing: Whether the messages are signed.
    """

    def __init__(
        self, node: str, keys: RedisKeys, secrets: Secrets | None, now: Callable[[], float] = time.time
    ) -> None:
        self._node = node
        self._keys = keys
        self._hash = None if secrets is None else _keyed_hashes(secrets)[0]
        self.is_signing = secrets is not None
        self._now = now
        self._stamp = 0

    def encode(self, room: str, tag: int, message: str | JSONValue) -> bytes:
        """Return the envelope of a message for one room."""
        return self._sign(room, encode(self._node, tag, message, is_signed=self.is_signing))

    def encode_command(self, channel: Channel, tag: int, command: Command) -> bytes:
        """Return the envelope of a command for a channel."""
        return self._sign(channel, encode_control(self._node, tag, command, is_signed=self.is_signing))

    def encode_topic(self, channel: Channel, text: str) -> bytes:
        """Return the envelope of a message of a topic for its channel."""
        return self._sign(channel, encode_topic(self._node, text, is_signed=self.is_signing))

    def _sign(self, room: str | Channel, envelope: bytes) -> bytes:
        if not self.is_signing:
            return envelope
        body = envelope[:-1]
        return body + self.tails(body)(self._keys.channel(room))

    def encode_body(self, tag: int, message: str | JSONValue) -> bytes:
        """Return the part of an envelope that is the same for all rooms."""
        return encode(self._node, tag, message, is_signed=self.is_signing)[:-1]

    def tails(self, body: bytes) -> Callable[[bytes], bytes]:
        """Return a function that returns the rest of a signed envelope for the channel of a room."""
        assert self._hash is not None
        hashed = self._hash.copy()
        hashed.update(body)

        def tail(channel: bytes) -> bytes:
            self._stamp = stamp = max(self._stamp + 1, int(self._now() * 1_000_000))
            return b',%d,"%b"]' % (stamp, _code(hashed.copy(), stamp, channel).encode())

        return tail


class EnvelopeVerifier:
    """Decodes messages, and verifies them if the cluster has a secret.

    Args:
        keys: The names of channels.
        secrets: The secrets, or None.
        now: The clock that stamps are compared with.
        ticks: The clock for the memory of senders.
    """

    def __init__(
        self,
        keys: RedisKeys,
        secrets: Secrets | None,
        now: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._hashes = [] if secrets is None else _keyed_hashes(secrets)
        self._now = now
        self._ticks = ticks
        # The last stamp of each sender, in two generations that together span 2 to 4 times MAX_AGE. What was sent
        # before is too old for an unknown sender.
        self._last: dict[str, int] = {}
        self._last_before: dict[str, int] = {}
        self._rotated_at = ticks()

    def decode(self, room: str, data: bytes, *, may_repeat: bool = False) -> Envelope:
        """Decode a message of a room. With ``may_repeat``, it may be an old one, as in a history.

        Raises:
            Unauthenticated: The message was not sent by a node or publisher with the secret, or was sent before.
            ValueError: The data is not an envelope.
        """
        envelope = decode(data)
        if self._hashes:
            self._verify(room, data, envelope, envelope.position)
            if not may_repeat:
                self._check_replay(envelope)
        return envelope

    def decode_command(self, channel: Channel, data: bytes) -> ControlEnvelope:
        """Decode a command from a channel; as above."""
        envelope = decode_control(data)
        if self._hashes:
            self._verify(channel, data, envelope, None)
            self._check_replay(envelope)
        return envelope

    def decode_topic(self, channel: Channel, data: bytes) -> TopicEnvelope:
        """Decode a message of a topic from its channel; as above."""
        envelope = decode_topic(data)
        if self._hashes:
            self._verify(channel, data, envelope, None)
            self._check_replay(envelope)
        return envelope

    def _verify(self, room: str | Channel, data: bytes, envelope: _Signed, position: Position | None) -> None:
        channel = self._keys.channel(room)
        if envelope.stamp is None or not self._is_signed(channel, data, envelope.stamp, envelope.code, position):
            raise Unauthenticated(envelope.node, False)

    def _is_signed(self, channel: bytes, data: bytes, stamp: int, code: str, position: Position | None) -> bool:
        tail = f',{stamp},"{code}"' + ("]" if position is None else f',{position.offset},"{position.epoch}"]')
        encoded = tail.encode("utf-8", "surrogatepass")
        if not data.endswith(encoded):
            return False
        body = data[: -len(encoded)]
        given = code.encode("utf-8", "surrogatepass")
        for keyed in self._hashes:
            hashed = keyed.copy()
            hashed.update(body)
            if hmac.compare_digest(_code(hashed, stamp, channel).encode(), given):
                return True
        return False

    def _check_replay(self, envelope: _Signed) -> None:
        sender, stamp = envelope.node, envelope.stamp or 0
        now = int(self._now() * 1_000_000)
        last = self._last.get(sender) or self._last_before.get(sender, now - MAX_AGE * 1_000_000)
        if not last < stamp <= now + MAX_AGE * 1_000_000:
            raise Unauthenticated(sender, True)
        self._last[sender] = stamp
        ticks = self._ticks()
        # A stamp that is MAX_AGE ahead of this clock becomes too old after twice MAX_AGE.
        if ticks - self._rotated_at > 2 * MAX_AGE or len(self._last) > _MAX_SENDERS:
            self._last_before = self._last
            self._last = {}
            self._rotated_at = ticks


def _keyed_hashes(secrets: Secrets) -> "list[hashlib.blake2b]":
    # A key of its own for this purpose, which also has the right size.
    keys = [hmac.digest(secret, b"room messages", "sha256") for secret in secrets.keys]
    return [hashlib.blake2b(key=key, digest_size=_CODE_SIZE) for key in keys]


def _code(hashed_body: "hashlib.blake2b", stamp: int, channel: bytes) -> str:
    # A body has no newline, because it is JSON without whitespace between its fields, and the channel is last.
    hashed_body.update(b"\n%d\n%b" % (stamp, channel))
    return hashed_body.hexdigest()
