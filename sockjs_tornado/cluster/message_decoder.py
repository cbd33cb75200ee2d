"""Received messages: decoded, verified, and counted and logged if they are not authentic."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from ..observe.logs import ThrottledLog
from ..session.ports import Position
from .base import MAX_TURN, ClusterStats
from .envelope import Channel, ControlEnvelope, Envelope, RedisKeys, TopicEnvelope
from .envelope_signing import MAX_AGE, EnvelopeVerifier, Unauthenticated
from .secret import Secrets

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_FORGED: Final = (
    "Ignored a message from %s that is not signed with this node's secret. Give all nodes and publishers the same "
    "secret, and check that only they can write to Redis."
)
_REPLAYED: Final = (
    "Ignored a message from %s that was received before, or whose time differs from this node's by more than "
    f"{MAX_AGE} seconds. Check the clock of its host, and that only nodes and publishers can write to Redis."
)


class MessageDecoder:
    """Decodes the messages that a node receives from Redis.

    Args:
        keys: The names of channels.
        secrets: The secrets; None if messages are not authenticated.
        stats: The counters.
        log: The log.
    """

    def __init__(self, keys: RedisKeys, secrets: Secrets | None, stats: ClusterStats, log: ThrottledLog) -> None:
        self._verifier = EnvelopeVerifier(keys, secrets)
        self._stats = stats
        self._log = log
        # Histories that have arrived together are decoded one after the other, each with this lock, and share the time
        # of a turn: at most until `_until`.
        self._decoding = asyncio.Lock()
        self._until = 0.0

    def decode_published(self, room: str, data: bytes) -> Envelope:
        """Return a message that was published in a room.

        Raises:
            Unauthenticated: It was not sent by a node or publisher with the secret, or was received before.
            ValueError: It is not an envelope. This is not counted.
        """
        try:
            return self._verifier.decode(room, data)
        except Unauthenticated as error:
            self._report(error)
            raise

    def decode_stored(self, room: str, data: bytes) -> Envelope:
        """Return a message from a history, which may be read any number of times; as above."""
        try:
            return self._verifier.decode(room, data, may_repeat=True)
        except Unauthenticated as error:
            self._report(error)
            raise

    async def decode_history(self, room: str, entries: Sequence[Any], convert: Callable[[Envelope], _T]) -> list[_T]:
        """Return the messages of a history, for :data:`MAX_TURN` seconds in each turn of the event loop.

        Args:
            room: The room.
            entries: The entries of its stream. Those that are not valid are skipped, such as forged ones, and those of
                a later version.
            convert: Called with each envelope, which has the position; returns the message.
        """
        messages = []
        async with self._decoding:
            for id_, fields in entries:
                if time.monotonic() > self._until:
                    await asyncio.sleep(0)
                    self._until = time.monotonic() + MAX_TURN
                with contextlib.suppress(ValueError, IndexError):
                    position = Position(int(id_.partition(b"-")[0]), fields[1].decode())
                    messages.append(convert(self.decode_stored(room, fields[3])._replace(position=position)))
        return messages

    def decode_command(self, channel: Channel, data: bytes) -> ControlEnvelope:
        """Return a command that was published on a channel; as above."""
        try:
            return self._verifier.decode_command(channel, data)
        except Unauthenticated as error:
            self._report(error)
            raise

    def decode_topic(self, channel: Channel, data: bytes) -> TopicEnvelope:
        """Return a message of a topic that was published on its channel; as above."""
        try:
            return self._verifier.decode_topic(channel, data)
        except Unauthenticated as error:
            self._report(error)
            raise

    def _report(self, error: Unauthenticated) -> None:
        if error.is_replayed:
            self._stats.messages_replayed += 1
        else:
            self._stats.messages_forged += 1
        sender = error.sender or "a publisher without a secret"
        self._log.write(logger, logging.WARNING, str(error), _REPLAYED if error.is_replayed else _FORGED, sender)
