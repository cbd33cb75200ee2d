"""Connections of the native server with TLS."""

import logging
import ssl
from typing import Any, Final

from tornado.iostream import IOStream

from ..wire.tls import TLSTransport
from .connection import HEAD_TIMEOUT, HTTPConnection
from .streams import DetachedTLSStream, TLSSocket

logger = logging.getLogger(__name__)

#: Seconds from the connection to the end of the TLS handshake.
HANDSHAKE_TIMEOUT: Final = HEAD_TIMEOUT


class SecureConnection(HTTPConnection):
    """A connection whose transport encrypts."""

    __slots__ = ("_is_handshake_complete",)

    transport: TLSTransport

    def new_transport(self, context: ssl.SSLContext) -> TLSTransport:
        """Return the protocol of the asyncio transport, which will be the connection's transport."""
        self._is_handshake_complete = False
        # Only the transport may write.
        self._writable_socket = None
        callbacks = (self._handshake_finished, self._handshake_failed)
        return TLSTransport(self, self.socket, context, self.server.read_buffer, *callbacks)

    def _wait_for_request(self) -> None:
        super()._wait_for_request()
        if not self._is_handshake_complete:
            self._limit_time(HANDSHAKE_TIMEOUT)

    def _handshake_finished(self) -> None:
        self._is_handshake_complete = True
        self._wait_for_request()

    def _handshake_failed(self, error: ssl.SSLError) -> None:
        # Not of clients that only look whether the port is open.
        if not isinstance(error, ssl.SSLEOFError):
            client = self.remote_ip or "a Unix socket"
            reason = "HTTP without TLS on a port with TLS" if error.reason == "HTTP_REQUEST" else error.reason or error
            logger.info("TLS handshake with %s failed: %s", client, reason)

    @property
    def application_socket(self) -> Any:
        """The socket, with the methods of the TLS session."""
        return TLSSocket(self.socket, self.transport.channel.session)

    def write(self, data: bytes) -> bool:
        """Send data; return whether the operating system has accepted all of it."""
        transport = self.transport
        if transport.is_closing():
            return True
        transport.write(data)
        unsent = transport.get_write_buffer_size()
        self._congest(unsent)
        return not unsent

    def _detached(self, unread: bytes) -> IOStream:
        release_slot, self._release_slot = self._release_slot, None
        size = self.server.max_buffer_size
        return DetachedTLSStream(self.socket.dup(), self.transport, unread, release_slot, size)
