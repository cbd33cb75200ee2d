"""Received messages: decoded, verified, and counted and logged if they are not authentic."""

import logging
from typing import Final

from ..observe.logs import ThrottledLog
from .base import ClusterStats
from .envelope import Channel, ControlEnvelope, Envelope, RedisKeys, TopicEnvelope
from .envelope_signing import MAX_AGE, EnvelopeVerifier, Unauthenticated
from .secret import Secrets

logger = logging.getLogger(__name__)

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
