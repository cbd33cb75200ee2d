"""Several logical connections over one: the wire format of the websocket-multiplex page script.

Each message is ``type,channel,payload``: the page sends ``sub,news`` to open a channel, ``msg,news,text`` on it and
``uns,news`` to close it; the server sends ``msg`` and ``uns``. Each channel has a connection class of its own::

    from sockjs_tornado.multiplex import MultiplexConnection

    router = SockJSRouter(MultiplexConnection.get(news=News, chat=Chat), "/multiplex")

In the page: ``new WebSocketMultiplex(new SockJS("/multiplex")).channel("news")``.

The subprotocol of a websocket is selected by the carrier: override ``select_subprotocol`` in a subclass of
:class:`MultiplexConnection`. Channels are not asked; they find the result in ``info.subprotocol``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

from .connection import SockJSConnection
from .protocol import CloseCode, Outgoing, PreparedMessage
from .session.session import Session, SessionState

__all__ = ["MultiplexConnection"]

ConnectionFactory = Callable[[Session], SockJSConnection]

# What JavaScript's escape() leaves as it is; the page script names channels by it.
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@*_+-./")


def _escape(name: str) -> str:
    """Return ``name`` as JavaScript's ``escape`` writes it (ECMA-262, section B.2.1.1)."""
    units = name.encode("utf-16-be", "surrogatepass")
    codes = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(
        chr(code) if chr(code) in _PLAIN else f"%{code:02X}" if code < 256 else f"%u{code:04X}" for code in codes
    )


class ChannelSession(Session):
    """The session of a channel, which reports when its last callback has ended."""

    __slots__ = ("on_over",)

    def __init__(self, *args: Any) -> None:
        #: Called once :attr:`is_over` is true.
        self.on_over: Callable[[], None] | None = None
        super().__init__(*args)

    @property
    def is_over(self) -> bool:
        """Whether the session is closed and none of its callbacks runs or will run."""
        return self.state is SessionState.CLOSED and self._callbacks.is_over

    def _break_reference_cycle(self) -> None:
        """Break the reference cycle, and report the end."""
        super()._break_reference_cycle()
        if self.on_over is not None and self.is_over:
            self.on_over()


class ChannelReceiver:
    """What the session of a channel writes to: the connection that carries it.

    Args:
        carrier: The connection.
        name: The channel's name on the wire.
        session: The session of the channel.

    Attributes:
        session: The same.
        reading: Whether the channel takes what the client sends; it does not while its application falls behind.
    """

    __slots__ = ("_carrier", "_name", "reading", "session")

    binary = False
    #: What was written is the carrier's.
    unsent = 0

    def __init__(self, carrier: "MultiplexConnection", name: str, session: Session) -> None:
        self._carrier = carrier
        self._name = name
        self.session = session
        self.reading = asyncio.Event()
        self.reading.set()

    def send_frame(self, frame: str) -> None:
        """Write nothing: a channel has neither an open frame nor heartbeats."""

    def send_messages(self, messages: Sequence[Outgoing]) -> None:
        """Write messages."""
        for message in messages:
            self._carrier.send(f"msg,{self._name},{message!s}")
        if self._carrier.session._outbox_above_high_water:
            self.session._pause_sending(self)
            self._carrier.session._remove_outbox_waiter(self.resume)
            self._carrier.session._add_outbox_waiter(self.resume)

    def resume(self) -> None:
        """Hear that the connection takes more."""
        self.session._resume_sending(self)

    def send_prepared(self, message: PreparedMessage) -> None:
        """Write a message on its way to many."""
        self.send_messages((message.text,))

    def close(self, code: int, reason: str) -> None:
        """Tell the page that the channel is closed."""
        self._carrier.send(f"uns,{self._name}")
        self._carrier.close_channel(self._name, code, reason)

    def is_disconnected(self) -> bool:
        """Tell whether the client has left."""
        return self._carrier.is_closed

    def abort(self) -> None:
        """Do nothing: the connection has ended, and its channels with it."""

    def pause_reading(self) -> None:
        """Have the connection wait with what comes next."""
        self.reading.clear()

    def resume_reading(self) -> None:
        """Have it go on."""
        self.reading.set()

    def recycle(self) -> None:
        """Do nothing: it is for the connection's own session to be renewed."""


class MultiplexConnection(SockJSConnection):
    """Carries channels; make a class of it with :meth:`get`."""

    #: Connection classes by channel name, as the page script spells it.
    channels: ClassVar[dict[str, ConnectionFactory]] = {}

    @classmethod
    def get(cls, **channels: ConnectionFactory) -> "type[MultiplexConnection]":
        """Return a connection class that carries ``channels``, each a connection class by the channel's name."""
        named = {_escape(name): factory for name, factory in channels.items()}
        return type(cls.__name__, (cls,), {"channels": named})

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._endpoints: dict[str, ChannelReceiver] = {}
        # The last session of each channel: its callbacks may run on after the channel was closed.
        self._last: dict[str, ChannelSession] = {}

    def on_message(self, message: Any) -> Awaitable[object] | None:
        """Hand a message to its channel; what makes no sense is passed over.

        Returns:
            If the channel's application falls behind, what waits until it has caught up; if a channel is opened again
            while callbacks of its last session still run, what waits for their end. Otherwise a client that opens and
            closes channels could have any number of callbacks running.
        """
        if not isinstance(message, str):
            return None
        kind, _, rest = message.partition(",")
        name, _, payload = rest.partition(",")
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            if kind == "sub" and name in self.channels:
                last = self._last.get(name)
                if last is not None and not last.is_over:
                    return self._subscribe_again(name, last)
                self._subscribe(name)
        elif kind == "msg":
            endpoint.session._receive([payload])
            if not endpoint.reading.is_set():
                return endpoint.reading.wait()
        elif kind == "uns":
            self.close_channel(name, CloseCode.NORMAL, "Channel closed")
        return None

    def on_close(self) -> None:
        """Close all channels."""
        for name in tuple(self._endpoints):
            self.close_channel(name, self.close_code or CloseCode.NO_STATUS, self.close_reason or "")

    def _subscribe(self, name: str) -> None:
        info = self.session.conn_info
        server = self.session.server
        if server.container.unopened_limit_reached:
            server.stats.rejected["max_unopened_sessions"] += 1
            self.send(f"uns,{name}")
            return
        self._last[name] = channel = ChannelSession(self.channels[name], server, None, info)
        self._endpoints[name] = endpoint = ChannelReceiver(self, name, channel)
        channel._attach(endpoint, info.ip)

    async def _subscribe_again(self, name: str, last: ChannelSession) -> None:
        while not last.is_over and not self.is_closed:
            woken = asyncio.Event()
            last.on_over = woken.set
            # Called when the client leaves, and each time that it has taken what it was sent.
            self.session._add_outbox_waiter(woken.set)
            await woken.wait()
            self.session._remove_outbox_waiter(woken.set)
        if not self.is_closed:
            self._subscribe(name)

    def close_channel(self, name: str, code: int, reason: str) -> None:
        """Forget a channel that one side has closed."""
        endpoint = self._endpoints.pop(name, None)
        if endpoint is not None:
            self.session._remove_outbox_waiter(endpoint.resume)
            endpoint.session._receiver_lost(endpoint, code, reason)
            # Nobody is there any more to say so.
            endpoint.reading.set()
