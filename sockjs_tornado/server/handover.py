"""Handing a connection of the native server over to another owner, and taking it back."""

import asyncio
import errno
import socket
from collections.abc import Callable

from tornado.iostream import IOStream

from ..wire.connection import Connection
from ..wire.sockets import set_user_timeout
from .connection_io import ConnectionIO
from .request import DISCARD
from .streams import DetachedStream
from .unsent import Unsent


class MovableConnection(ConnectionIO):
    """A connection that streams and websockets take over, and that streams may give back."""

    __slots__ = ()

    #: Whether a stream that took the connection over gives it back, instead of closing it.
    continues_after_streams = True

    def detach(self, unread: bytes) -> IOStream:
        """Return a stream for the connection, which ends here.

        Args:
            unread: What the current request had got of its body and not passed on.
        """
        unread += self._data
        self._data = b""
        self._request = DISCARD
        self._leave()
        self._forget_head()
        self.pause_reading()
        return self._detached(unread)

    def _detached(self, unread: bytes) -> IOStream:
        release_slot, self._release_slot = self._release_slot, None
        size = self.server.max_buffer_size
        return DetachedStream(self.socket.dup(), self.transport, unread, release_slot, size)

    def hand_over(self, protocol: Connection, *, nodelay: bool, user_timeout: float) -> None:
        """Make ``protocol`` the owner of the connection; it writes the response to the current request."""
        release_slot, self._release_slot = self._release_slot, None
        protocol.takeover_started(release_slot)
        unread, self._data = self._data, b""
        self._request = DISCARD
        server, transport, sock = self.server, self.transport, self.socket
        self._leave()
        if self._repeated is not None:
            self._forget_head()
        if transport.is_closing():
            protocol.takeover_failed()
            return
        try:
            if user_timeout and user_timeout != server.inherited_timeout:
                set_user_timeout(sock, user_timeout, keepalive=user_timeout != server.inherited_keepalive)
            if not nodelay:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                protocol.takeover_failed()
                transport.abort()
                return
        # With TLS, only the transport may write.
        protocol.adopt_socket(sock if server.tls is None else None, unread)
        transport.set_protocol(protocol)
        self._is_paused = False
        if not transport.is_reading():
            transport.resume_reading()
        protocol.connection_made(transport)

    def take_back(self, data: bytes, release_slot: Callable[[], None] | None) -> Unsent | None:
        """Continue with the next request, after the other owner has written a complete response.

        Args:
            data: What was read in the meantime.
            release_slot: Called when the connection is closed.

        Returns:
            The unsent rest of that response, if there is one.
        """
        self._release_slot = release_slot
        # Until the next write, the other owner's data may be unsent.
        self._writable_socket = None
        self.transport.set_protocol(self)
        self.server.connections.add(self)
        self._data = data
        self._request = None
        # The other owner has paused reading if it has read many requests.
        if not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()
        if self.server.is_stopped:
            self._close()
        else:
            self._wait_for_request()
            if data:
                # Not now: the session may be in the middle of a state change.
                asyncio.get_running_loop().call_soon(self._continue)
        unsent = self.unsent
        return Unsent(self, unsent) if unsent else None
