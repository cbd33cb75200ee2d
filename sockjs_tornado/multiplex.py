"""Channels: several logical connections over one SockJS connection, in the wire format of websocket-multiplex.

Each message is ``type,channel,payload``. The page sends ``sub,news`` to open a channel, ``msg,news,text`` to send a
message and ``uns,news`` to close the channel. The server sends ``msg`` and ``uns``. Each channel has a connection class
of its own::

    from sockjs_tornado.multiplex import MultiplexConnection

    router = SockJSRouter(MultiplexConnection.get(news=News, chat=Chat), "/multiplex")

In the page: ``new WebSocketMultiplex(new SockJS("/multiplex")).channel("news")``.

``router.connections`` are the connections that carry the channels, on which only messages of this protocol make sense.
To reach all clients of a channel, let the channel's class join a room, and publish there.

To select the subprotocol of a websocket, override ``select_subprotocol`` in a subclass of
:class:`MultiplexConnection`. The channels find the result in ``info.subprotocol``; their own methods are not called.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Never

from .connection import SockJSConnection
from .exceptions import ConfigurationError
from .protocol import CloseCode, Outgoing, PreparedMessage
from .session.connection_checks import check_connection_class
from .session.session import Session, SessionState
from .validation import safe_repr

__all__ = ["MultiplexConnection"]

logger = logging.getLogger(__name__)

ConnectionFactory = Callable[[Session], SockJSConnection]

# Characters that JavaScript's escape() does not change. The page script applies it to channel names.
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@*_+-./")


def _escape(name: str) -> str:
    """Escape ``name`` as JavaScript's ``escape`` does (ECMA-262, section B.2.1.1)."""
    units = name.encode("utf-16-be", "surrogatepass")
    codes = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(
        chr(code) if chr(code) in _PLAIN else f"%{code:02X}" if code < 256 else f"%u{code:04X}" for code in codes
    )


class ChannelSession(Session):
    """The session of a channel. It reports when its last callback has finished.

    Attributes:
        channel: The escaped name of the channel.
        on_over: Called when :attr:`is_over` becomes true.
    """

    __slots__ = ("channel", "on_over")

    def __init__(self, channel: str, *args: Any) -> None:
        self.channel = channel
        self.on_over: Callable[[], None] | None = None
        super().__init__(*args)

    @property
    def is_over(self) -> bool:
        """Whether the session is closed and no callback is running or pending."""
        return self.state is SessionState.CLOSED and self._callbacks.is_over

    def _forget(self) -> None:
        """Called when the session is over."""
        super()._forget()
        if self.on_over is not None:
            self.on_over()


class ChannelReceiver:
    """The receiver of a channel's session, which sends messages on the carrier connection.

    ``reading`` is set while the channel accepts messages, and cleared while its application is too slow.
    """

    __slots__ = ("_carrier", "_name", "reading", "session")

    binary = False
    #: Unsent bytes are counted by the carrier's session.
    unsent = 0

    def __init__(self, carrier: "MultiplexConnection", name: str, session: Session) -> None:
        self._carrier = carrier
        self._name = name
        self.session = session
        self.reading = asyncio.Event()
        self.reading.set()

    def send_frame(self, frame: str) -> None:
        """Do nothing: a channel has neither an open frame nor heartbeats."""

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            self._carrier.send(f"msg,{self._name},{message!s}")
        if self._carrier.session._outbox_above_high_water:
            self.session._pause_sending(self)
            self._carrier.session._remove_outbox_waiter(self.resume)
            self._carrier.session._add_outbox_waiter(self.resume)

    def resume(self) -> None:
        """Called when the carrier's outbox has drained."""
        self.session._resume_sending(self)

    def send_prepared(self, message: PreparedMessage) -> None:
        self.send_messages((message.text,))

    def close(self, code: int, reason: str) -> None:
        """Tell the page that the channel is closed, and close it."""
        self._carrier.send(f"uns,{self._name}")
        self._carrier.close_channel(self._name, code, reason)

    def is_disconnected(self) -> bool:
        return self._carrier.is_closed

    def abort(self) -> None:
        """Do nothing: the channels end with the carrier."""

    def pause_reading(self) -> None:
        """Pause the carrier after the next message for this channel."""
        self.reading.clear()

    def resume_reading(self) -> None:
        """Resume the carrier."""
        self.reading.set()

    def recycle(self) -> None:
        """Do nothing: the carrier's own receiver makes the client reconnect."""


class MultiplexConnection(SockJSConnection):
    """A connection that carries channels. Use :meth:`get` to create a class."""

    #: Set if a channel was rejected, for which the page may have sent messages already. Few connections need it.
    _has_rejected = False

    # Its callbacks wait for channels, in order: they never run concurrently, and only a channel's class is reported.
    _is_carrier: ClassVar[bool] = True

    #: Connection classes by escaped channel name.
    channels: ClassVar[dict[str, ConnectionFactory]] = {}

    @classmethod
    def get(cls, *positional: Never, **channels: ConnectionFactory) -> "type[MultiplexConnection]":
        """Return a connection class that carries ``channels``, which maps channel names to connection classes.

        Raises:
            ConfigurationError: If a channel's class is invalid, as for a router, or if there is no channel. A misspelt
                callback causes a warning.
            TypeError: If an argument is given without a name.
        """
        if positional:
            raise TypeError(
                f"get: expected channels as keywords, such as get(ann=AnnConnection), got {safe_repr(positional[0])}; "
                "pass a dict as get(**channels)"
            )
        if not channels:
            raise ConfigurationError("channels: expected at least one, such as get(ann=AnnConnection), got none")
        given: dict[str, Any] = channels
        for name, factory in given.items():
            # A router is callable, but only for an error about another mistake.
            if not callable(factory) or hasattr(factory, "endpoints"):
                raise ConfigurationError(
                    f"channel {name!r}: expected a subclass of SockJSConnection, got {factory!r} "
                    f"({type(factory).__name__})"
                )
            check_connection_class(factory)
        named = {_escape(name): factory for name, factory in channels.items()}
        return type(cls.__name__, (cls,), {"channels": named})

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._receivers: dict[str, ChannelReceiver] = {}
        # The last session of each channel. Its callbacks may still run after the channel was closed.
        self._last_sessions: dict[str, ChannelSession] = {}

    def on_message(self, message: Any) -> Awaitable[object] | None:
        """Pass a message to its channel. Messages that are not of the protocol are ignored, with a warning.

        If the page opens a channel that does not exist, the channel is closed for the page, and a warning is logged.

        Returns:
            An awaitable if the carrier must wait for a channel whose application is too slow, or, if a channel is
            reopened, for the callbacks of its last session. Without the latter, a client could start any number of
            callbacks by opening and closing channels.
        """
        if not isinstance(message, str):
            self._report_message(message)
            return None
        kind, _, rest = message.partition(",")
        name, _, payload = rest.partition(",")
        receiver = self._receivers.get(name)
        if receiver is None:
            if kind == "sub" and name in self.channels:
                last = self._last_sessions.get(name)
                if last is not None and not last.is_over:
                    return self._subscribe_again(name, last)
                self._subscribe(name)
            elif kind == "sub" and name:
                self._reject_unknown(name)
            elif kind != "uns" and name not in self._last_sessions and not self._has_rejected:
                self._report_message(message)
        elif kind == "msg":
            receiver.session._receive([payload])
            if not receiver.reading.is_set():
                return receiver.reading.wait()
        elif kind == "uns":
            self.close_channel(name, CloseCode.NORMAL, "Channel closed")
        elif kind != "sub":
            self._report_message(message)
        return None

    def on_close(self) -> None:
        """Close all channels."""
        session = self.session
        # 0 is a code, too.
        code = CloseCode.NO_STATUS if session.close_code is None else session.close_code
        for name in tuple(self._receivers):
            self.close_channel(name, code, session.close_reason or "")

    def _channel_sessions(self) -> list[Session]:
        """Return the last session of each channel, which may have ended."""
        return list(self._last_sessions.values())

    def _subscribe(self, name: str) -> None:
        info = self.session.conn_info
        server = self.session.server
        if server.container.unopened_limit_reached:
            server.stats.rejected["max_unopened_sessions"] += 1
            self._has_rejected = True
            self.send(f"uns,{name}")
            return
        # A traced carrier has traced channels.
        kind: type[ChannelSession] = getattr(self.session, "_channel_class", ChannelSession)
        self._last_sessions[name] = channel = kind(name, self.channels[name], server, None, info)
        self._receivers[name] = receiver = ChannelReceiver(self, name, channel)
        channel._attach(receiver, info.ip)

    def _reject_unknown(self, name: str) -> None:
        """Close a channel that does not exist, so that the page does not wait for messages in vain."""
        message = "A client has subscribed to the channel %s, but there is only: %s. Check the name in the page"
        known = ", ".join(self.channels)
        log = self.session.server.container.log
        self._has_rejected = True
        # A client chooses the name: do not log all of a long one, or characters that control a terminal.
        log.write(logger, logging.WARNING, "unknown_channel", message, f"{name!a:.100}", known)
        self.send(f"uns,{name}")

    def _report_message(self, message: str | bytes) -> None:
        """Log that a message was ignored, because the page does not use the protocol. It may be secret."""
        is_early = isinstance(message, str) and message.startswith("msg,")
        self.session.server.container.log.write(
            logger,
            logging.WARNING,
            ("ignored_message", is_early),
            "Ignored %s of a client: send messages in the page with new WebSocketMultiplex(socket).channel(name)",
            "a message for a channel that it has not opened" if is_early else "a message that is not of the protocol",
        )

    async def _subscribe_again(self, name: str, last: ChannelSession) -> None:
        while not last.is_over and not self.is_closed:
            woken = asyncio.Event()
            last.on_over = woken.set
            # Called each time that the outbox has drained, and when the client disconnects.
            self.session._add_outbox_waiter(woken.set)
            await woken.wait()
            self.session._remove_outbox_waiter(woken.set)
        if not self.is_closed:
            self._subscribe(name)

    def close_channel(self, name: str, code: int, reason: str) -> None:
        """Close a channel on this side, after one side has requested it."""
        receiver = self._receivers.pop(name, None)
        if receiver is not None:
            self.session._remove_outbox_waiter(receiver.resume)
            receiver.session._receiver_lost(receiver, code, reason)
            # Resume the carrier, because the closed session no longer does.
            receiver.reading.set()
