"""What both publishers have in common: their arguments, and the signed messages that they send to Redis."""

import contextlib
import itertools
import logging
import os
import secrets
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from ..protocol import encode_message
from ..session.control import Command, Target
from ..session.ports import PublishOptions
from ..session.rooms import check_room, check_rooms
from ..validation import named_arguments
from .credentials import CredentialsFunction
from .envelope import CONTROL, Channel, RedisKeys
from .envelope_signing import EnvelopeSigner
from .history import publish_command, publish_many_commands
from .redis_connection import Args, RedisURL
from .secret import SecretOption, check_secret
from .topics import encode_topic_message

logger = logging.getLogger(__name__)

#: The number of commands of ``publish_many`` that are sent before the first reply.
PIPELINE_SIZE: Final = 16

#: A command that no connection matches, but all nodes receive.
_NO_OP: Final = Command("leave", Target("id", "none:none"), ("",))


class ListenerCheck:
    """Warns, once, if a publisher sends to no node, because it has the namespace or the database of another cluster.

    Redis replies with the number of subscribers. A room or topic may have none, but each node has subscribed to the
    channel for commands. With Redis Cluster, the number may be too small, so nothing is checked.
    """

    def __init__(self, keys: RedisKeys) -> None:
        self._keys = keys
        self._is_done = self._has_warned = keys.has_hash_tag

    def is_due(self, reply: object) -> bool:
        """Return whether a message was received by nobody, and it is unknown whether there is a node."""
        return reply == 0 and not self._is_done

    def command(self, signer: EnvelopeSigner) -> Args:
        """Return a command without effect, whose reply is for :meth:`check`."""
        self._is_done = True
        return control_command(self._keys, signer, _NO_OP)

    def check(self, reply: object) -> None:
        """Warn if the reply to a command says that no node has received it."""
        if reply == 0 and not self._has_warned:
            self._has_warned = self._is_done = True
            logger.warning(
                "No node receives the messages of this publisher: none has subscribed to the namespace %r and the "
                "database %d of this Redis server. Check that the nodes run, and have the same URL and namespace",
                self._keys.namespace,
                self._keys.database,
            )


class Signers:
    """The signers of a publisher: one for each call that is running, so that each one signs in the order of Redis.

    Each process has its own after a fork.
    """

    def __init__(self, keys: RedisKeys, secret: SecretOption | None) -> None:
        self._keys = keys
        self._secrets = None if secret is None else check_secret(secret)
        self._name = f"publisher-{secrets.token_hex(8)}"
        self._count = itertools.count()
        self._process = os.getpid()
        self._free: deque[EnvelopeSigner] = deque()

    def create(self) -> EnvelopeSigner:
        """Return another signer."""
        # Without a secret, the sender does not matter.
        node = "" if self._secrets is None else f"{self._name}-{os.getpid()}-{next(self._count)}"
        return EnvelopeSigner(node, self._keys, self._secrets)

    @contextlib.contextmanager
    def borrow(self) -> Iterator[EnvelopeSigner]:
        """Return a signer for the commands of one call."""
        if self._process != os.getpid():
            self._free.clear()
            self._process = os.getpid()
        try:
            signer = self._free.pop()
        except IndexError:
            signer = self.create()
        yield signer
        # Not after an exception: Redis may still execute the command, and after those of the next call.
        self._free.append(signer)


class BasePublisher(ABC):
    """The arguments that both publishers have; :class:`~sockjs_tornado.cluster.Publisher` documents them."""

    @named_arguments
    def __init__(
        self,
        url: str,
        *,
        namespace: str = "sockjs",
        secret: SecretOption | None = None,
        credentials: CredentialsFunction | None = None,
        client_name: str | None = None,
    ) -> None:
        redis_url = RedisURL(url, namespace, credentials=credentials, client_name=client_name)
        self._keys = redis_url.keys
        self._signers = Signers(self._keys, secret)
        self._listeners = ListenerCheck(self._keys)
        self._prepare(redis_url)

    @abstractmethod
    def _prepare(self, url: RedisURL) -> None:
        """Create what connects to Redis, without connecting."""


def room_command(keys: RedisKeys, signer: EnvelopeSigner, room: str, message: Any, options: PublishOptions) -> Args:
    """Return the command that sends a message to a room, or raise an error if an argument is not valid."""
    check_room(room)
    return publish_command(keys, room, signer.encode(room, 0, encode_message(message)), options)


def room_commands(keys: RedisKeys, signer: EnvelopeSigner, rooms: Iterable[str], message: Any) -> Iterator[Args]:
    """Iterate over the commands that send a message to some rooms; see :func:`room_command`."""
    names = check_rooms(rooms)
    for _, command in publish_many_commands(keys, names, signer, encode_message(message)):
        yield command


def control_command(keys: RedisKeys, signer: EnvelopeSigner, command: Command) -> Args:
    """Return the command that sends a command of a selection to all nodes."""
    return "PUBLISH", keys.channel(CONTROL), signer.encode_command(CONTROL, 0, command)


def topic_command(keys: RedisKeys, signer: EnvelopeSigner, topic: str, message: Any) -> Args:
    """Return the command that sends a message to a topic, or raise an error if an argument is not valid."""
    channel = Channel("topic", topic)
    text = encode_topic_message(topic, message)
    return "PUBLISH", keys.channel(channel), signer.encode_topic(channel, text)
