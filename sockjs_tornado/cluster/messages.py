"""Messages that are published in rooms by this node and by others, and commands for their sessions."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..observe.logs import ThrottledLog
from ..protocol import Encodable, JSONValue, PreparedMessage, encode_message
from ..recovery.messages import room_message
from ..session.control import Command, execute
from ..session.ports import Position, PublishOptions
from ..session.rooms import Rooms
from .base import ClusterStats
from .catch_up import CatchUp
from .commands import Commands, DeferredCommand
from .envelope import CONTROL, Channel, ControlEnvelope, Envelope, RedisKeys, local_prefix, value_of
from .envelope_signing import EnvelopeSigner, Unauthenticated
from .history import publish_command, publish_many_commands, was_published_before
from .message_decoder import MessageDecoder
from .pending_messages import PendingMessage, PendingMessages
from .publish_result import PublishManyResult, PublishResult
from .secret import Secrets
from .topics import Topics

if TYPE_CHECKING:
    from ..session.session import Session

logger = logging.getLogger(__name__)

#: Called with a room, a message and its position; returns the message to deliver instead.
TransformMessage = Callable[[str, Any, Position], Encodable]


class _OnReply:
    """The callback of a reply: one object, since many may wait, and the garbage collector visits each."""

    __slots__ = ("_arguments", "_messages", "_result")

    def __init__(
        self, messages: "Messages", result: PublishResult | None, count: int, room: str | Channel, tag: int
    ) -> None:
        self._messages = messages
        self._result = result
        self._arguments = count, room, tag

    def __call__(self, reply: "asyncio.Future[Any]") -> None:
        self._messages.replied(reply, *self._arguments)


@dataclasses.dataclass(eq=False)
class Messages:
    """Publishes this node's messages, and delivers those of all nodes.

    A message without history is delivered to this node's members at once, and ignored when it is received back (its tag
    is 0). A message with history is delivered when it is received back, so that all nodes deliver in the order of the
    history. So is a message with an idempotency key, because only Redis knows whether it is new. While one is pending
    in a room, other messages are delivered when they are received back, too, so that this node's messages stay in
    order. So are commands, while one is pending in any room.

    ``transform_message`` is called for messages with history; with ``recovery``, they are sent as
    :mod:`~sockjs_tornado.recovery` describes. ``subscription`` returns the future of this node's
    subscription to a room, or None without members. ``catch_up`` delivers messages that this node has missed by
    :meth:`deliver_envelope`. With ``secrets``, this node's messages are signed.
    """

    node: str
    keys: RedisKeys
    rooms: Rooms
    commands: Commands
    stats: ClusterStats
    log: ThrottledLog
    transform_message: TransformMessage | None
    subscription: "Callable[[str | Channel], asyncio.Future[None] | None]"
    catch_up: CatchUp
    topics: Topics
    decoder: MessageDecoder
    secrets: Secrets | None
    recovery: bool = False

    def __post_init__(self) -> None:
        self._signer = EnvelopeSigner(self.node, self.keys, self.secrets)
        self._delivered_prefix = local_prefix(self.node, is_signed=self._signer.is_signing)
        self._pending = PendingMessages(self._deliver_released)
        # One bound method for all results.
        self._report_failure = self._log_failure
        # The exclusions of messages with history that will not be received back, but may be read from the history.
        self._interrupted: dict[str, dict[int, Sequence[Session]]] = {}
        # The exclusions of messages whose replies were lost: they may still be received back. Those of the time before
        # the last PING of the subscriptions are in the second dict, which is emptied with the next reply.
        self._unreplied: dict[tuple[str, int], Sequence[Session]] = {}
        self._unreplied_before: dict[tuple[str, int], Sequence[Session]] = {}

    def publish(
        self,
        room: str,
        message: str | JSONValue,
        exclude: "Sequence[Session]",
        options: PublishOptions,
        subscribed: "asyncio.Future[None] | None",
    ) -> PublishResult:
        """Send a message to all members of a room; see ``router.publish``.

        ``subscribed`` completes when this node's subscription to the room is confirmed. It is None if this node has no
        members in the room.
        """
        # Whether only Redis decides that the message is delivered.
        through_redis = bool(options.history) or options.idempotency_key is not None
        must_wait = through_redis or self._must_wait(room)
        tag = self._pending.create_tag(through_redis=through_redis) if must_wait else 0
        command = publish_command(self.keys, room, self._signer.encode(room, tag, message), options)
        self.stats.published += 1
        if not tag:
            self.rooms.publish(room, PreparedMessage(message), exclude)
        # If the message is delivered when it is received back, submit it after the subscription, so that members that
        # have just joined receive it.
        sent = self._submit(*command, after=subscribed if tag else None)
        # If the subscription failed or there is none, the message is not received back.
        is_received = subscribed is not None and not (subscribed.done() and subscribed.exception())
        if tag and (is_received or (self._pending.releases_all and not through_redis)):
            self._pending.add(room, tag, None if through_redis else message, exclude)
        elif options.history and exclude and room in self.catch_up.held:
            self._interrupted.setdefault(room, {})[tag] = exclude
        return self._result(sent, 1, room, tag if is_received else 0)

    def publish_many(
        self, rooms: Iterable[str], message: str | JSONValue, exclude: "Sequence[Session]"
    ) -> PublishManyResult:
        """Send a message without history to all members of some rooms; see ``router.publish_many``."""
        prepared = PreparedMessage(message)
        results = []
        direct = []
        for room in rooms:
            if self._must_wait(room):
                # To keep the order, it is delivered when it is received back.
                results.append(self.publish(room, message, exclude, PublishOptions(), self.subscription(room)))
            else:
                direct.append(room)
                self.rooms.publish(room, prepared, exclude)
        self.stats.published += len(direct)
        for count, command in publish_many_commands(self.keys, direct, self._signer, message):
            results.append(self._result(self._submit(*command), count))
        return PublishManyResult(results)

    def execute(self, command: Command, exclude: "Sequence[Session]") -> PublishManyResult:
        """Execute a command for all sessions of its target; see ``router.select``."""
        # A message that is published before a disconnect must be delivered before it.
        tag = self._pending.create_tag(through_redis=False) if self._pending else 0
        if not tag:
            execute(self.rooms, command, exclude)
        self.stats.published += 1
        sent = self._submit("PUBLISH", self.keys.channel(CONTROL), self._signer.encode_command(CONTROL, tag, command))
        if tag:
            # It is received back: CONTROL is subscribed to first, and the command is sent after the pending messages.
            self._pending.add(CONTROL, tag, command, exclude)
        return PublishManyResult([self._result(sent, 1, CONTROL, tag)])

    def publish_topic(self, topic: str, text: str) -> PublishManyResult:
        """Send a message of a topic, given as JSON, to the other nodes; see ``cluster.publish_topic``."""
        channel = Channel("topic", topic)
        sent = self._submit("PUBLISH", self.keys.channel(channel), self._signer.encode_topic(channel, text))
        return PublishManyResult([self._result(sent, 1)])

    def _must_wait(self, room: str) -> bool:
        return room in self._pending or CONTROL in self._pending

    def _submit(
        self, *command: str | bytes | int, after: "asyncio.Future[Any] | None" = None
    ) -> "asyncio.Future[Any] | DeferredCommand":
        if self.commands.available and self.commands.is_full:
            return self.commands.defer(*command, after=after)
        return self.commands.submit(*command, after=after)

    def _result(
        self, sent: "asyncio.Future[Any] | DeferredCommand", count: int, room: str | Channel = "", tag: int = 0
    ) -> PublishResult:
        """Return the result of a message, which is pending until the reply if ``tag`` is not 0."""
        result = PublishResult(sent, self._report_failure)
        if isinstance(sent, DeferredCommand):
            # The caller alone refers to the result: if it drops the result, the command is dropped as well.
            sent.reply.add_done_callback(_OnReply(self, None, count, room, tag))
        else:
            # The callback refers to the result, so that it is not deleted before the reply has arrived. Only its
            # deletion after that reports a failure.
            sent.add_done_callback(_OnReply(self, result, count, room, tag))
        return result

    def replied(self, reply: "asyncio.Future[Any]", count: int, room: str | Channel, tag: int) -> None:
        """Called with the reply to ``count`` messages, of which one is pending if ``tag`` is not 0."""
        if reply.exception() is not None:
            self.stats.publish_failures += count
            pending = self._pending.release(tag) if tag else None
            if pending is not None and pending.exclude:
                self._unreplied[str(room), tag] = pending.exclude
        elif tag and was_published_before(reply.result()):
            self._pending.pop(room, tag)

    def _log_failure(self, error: BaseException) -> None:
        self.log.write(logger, logging.WARNING, "lost message", "A message did not reach other nodes: %s", error)

    def _deliver_released(self, room: str | Channel, tag: int, pending: PendingMessage) -> None:
        """Deliver a message to this node's members, unless it has history, because it will not be received back."""
        message, exclude = pending
        if message is None:
            if exclude and self._pending.releases_all and room in self.catch_up.positions:
                self._interrupted.setdefault(str(room), {})[tag] = exclude
            return
        try:
            if isinstance(message, Command):
                execute(self.rooms, message, exclude)
            else:
                self.rooms.publish(str(room), PreparedMessage(message), exclude)
        except Exception as error:
            # It must not stop the delivery of later messages.
            self.log.write(logger, logging.ERROR, "deliver", "Failed to deliver a message", error=error)

    def unsubscribed(self, room: str | Channel) -> None:
        """Called when the subscription to a room has ended, after its last member has left."""
        self._pending.forget_room(room)

    async def disconnected(self) -> None:
        """Called when all subscriptions have ended, and before the reconnect: deliver the messages that wait."""
        for (room, tag), exclude in {**self._unreplied_before, **self._unreplied}.items():
            if room in self.catch_up.positions:
                self._interrupted.setdefault(room, {})[tag] = exclude
        self._unreplied.clear()
        self._unreplied_before.clear()
        await self._pending.release_all()

    def pong_received(self) -> None:
        """Called with the reply to each PING: what Redis had published before the PING has arrived."""
        self._unreplied_before, self._unreplied = self._unreplied, {}

    def caught_up(self, room: str) -> None:
        """Called when messages of a room are not read from its history any more."""
        self._interrupted.pop(room, None)

    def deliver(self, room: str | Channel, data: bytes) -> None:
        """Deliver a message of a room or a topic, or execute a command, that was received from Redis."""
        if data.startswith(self._delivered_prefix):
            return
        self.stats.received += 1
        try:
            if isinstance(room, Channel):
                if room == CONTROL:
                    self._execute_received(self.decoder.decode_command(room, data))
                else:
                    self.topics.deliver(room.name, self.decoder.decode_topic(room, data).text)
                return
            envelope = self.decoder.decode_published(room, data)
        except Unauthenticated:
            return
        except ValueError as error:
            self.stats.skipped += 1
            self.log.write(
                logger, logging.WARNING, "envelope", "Ignored a malformed message on a channel of Redis: %s", error
            )
            return
        if room in self.catch_up.held:
            self.catch_up.hold(room, envelope, len(data))
        elif not self.catch_up.is_delivered(room, envelope.position):
            self.deliver_envelope(room, envelope)

    def deliver_envelope(self, room: str, envelope: Envelope) -> None:
        """Deliver a message."""
        node, tag, message, position, *_ = envelope
        exclude: Sequence[Session] = ()
        try:
            if node == self.node:
                pending = self._pending.pop(room, tag)
                if pending is not None:
                    exclude = pending.exclude
                elif tag % 2:
                    # It was released, and has been delivered.
                    return
                else:
                    exclude = self._exclusion(room, tag)
            if position is not None:
                previous = self.catch_up.positions.get(room)
                # A message may arrive after the last member has left.
                if self.subscription(room) is not None:
                    self.catch_up.positions[room] = position
                if self.recovery:
                    message = room_message(room, message, position, previous)
                elif self.transform_message is not None:
                    message = encode_message(self.transform_message(room, value_of(message), position))
            self.rooms.publish(room, PreparedMessage(message), exclude)
        except Exception as error:
            # An error of the application must not stop the delivery of later messages.
            self.log.write(logger, logging.ERROR, "deliver", "Failed to deliver a message", error=error)

    def _exclusion(self, room: str, tag: int) -> "Sequence[Session]":
        """Return whom a message of this node excludes that is not pending any more."""
        exclude = self._unreplied.pop((room, tag), None) or self._unreplied_before.pop((room, tag), None)
        return exclude or self._interrupted.get(room, {}).get(tag, ())

    def _execute_received(self, received: ControlEnvelope) -> None:
        exclude: Sequence[Session] = ()
        if received.node == self.node:
            pending = self._pending.pop(CONTROL, received.tag)
            if pending is None:
                # It was released, and has been executed.
                return
            exclude = pending.exclude
        try:
            execute(self.rooms, received.command, exclude)
        except Exception as error:
            self.log.write(logger, logging.ERROR, "deliver", "Failed to execute a command", error=error)
