"""TLS between an asyncio transport and a protocol, with the interface of an asyncio transport.

Those of asyncio and uvloop cannot close the writing side alone, and do not tell how many bytes are unsent. This one
behaves as the transport of a plain connection does, on each event loop.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

#: Maximum bytes that are encrypted at a time.
_PIECE_SIZE: Final = 256 * 1024


class TLSChannel:
    """One side of a TLS connection, without I/O: the server's, or with ``server_hostname`` the client's.

    Attributes:
        session: The TLS session.
        incoming: The bytes from the peer that were not decrypted yet.
    """

    __slots__ = ("_outgoing", "incoming", "session")

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        self.incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.session = context.wrap_bio(
            self.incoming, self._outgoing, server_side=server_hostname is None, server_hostname=server_hostname
        )

    def read_into(self, buffer: memoryview) -> int | None:
        """Decrypt data into ``buffer``.

        Returns:
            The number of bytes; 0 if the client has closed its side; None if a record is incomplete.

        Raises:
            ssl.SSLError: The client has sent something else.
        """
        try:
            return self.session.read(len(buffer), buffer)  # type: ignore[return-value]
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLEOFError:
            # Without a close_notify. A request has its length, so that an attacker cannot cut it.
            return 0

    def encrypt(self, data: Any) -> bytes:
        """Return the bytes to send for ``data``."""
        view = memoryview(data)
        pieces = []
        while view:
            written = self.session.write(view[:_PIECE_SIZE])
            view = view[written:]
            pieces.append(self._outgoing.read())
        return b"".join(pieces)

    def take_outgoing(self) -> bytes:
        """Return the bytes to send that belong to no data, such as those of the handshake."""
        return self._outgoing.read()

    def close(self) -> bytes:
        """Return the bytes that close the server's side: a close_notify."""
        # It is queued, then the client's is missing (SSLWantReadError), or other data has arrived (SSLError).
        with contextlib.suppress(ssl.SSLError, ValueError):
            self.session.unwrap()
        return self._outgoing.read()


class TLSTransport(asyncio.BufferedProtocol, asyncio.Transport):
    """The protocol of a connection's asyncio transport, and the transport of a buffered protocol.

    The protocol's ``connection_made`` is called at once, so that it can limit the time of the handshake.

    Args:
        protocol: The protocol. It must not write before ``on_handshake`` was called.
        sock: The connection's socket; None to send by the asyncio transport alone.
        context: The TLS options.
        buffer: The buffer for reads, which connections may share.
        on_handshake: Called when the handshake is complete.
        on_failure: Called with the error if the handshake fails; then the connection closes.
        server_hostname: For the client's side, the name that the server's certificate must have.

    Attributes:
        channel: The TLS connection.
        error: The error that has ended the connection after the handshake, such as the peer's alert.
    """

    def __init__(
        self,
        protocol: asyncio.BufferedProtocol,
        sock: socket.socket | None,
        context: ssl.SSLContext,
        buffer: bytearray,
        on_handshake: Callable[[], None],
        on_failure: Callable[[ssl.SSLError], None],
        server_hostname: str | None = None,
    ) -> None:
        super().__init__()
        self.channel = TLSChannel(context, server_hostname)
        self.error: ssl.SSLError | None = None
        self._is_client = server_hostname is not None
        self._protocol: Any = protocol
        self._socket = sock
        self._buffer = buffer
        self._on_handshake: Any = on_handshake
        self._on_failure: Any = on_failure
        self._is_handshake_complete = False
        self._is_reading = True
        # Whether the protocol reads again, but what was read before is not decrypted yet. Until then nothing is read: a
        # read may bring more than the protocol processes before it pauses again, so that the rest would grow.
        self._is_resuming = False
        # Whether the client has closed its side, which the protocol is told after all data.
        self._is_at_end = False
        # Whether the client has no more to say that matters, because the server has closed its side.
        self._is_shut = False
        self._is_closing = False

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._protocol.connection_made(self)
        if self._is_client:
            self._process()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        protocol = self._protocol
        # They refer to this transport.
        self._protocol = self._on_handshake = self._on_failure = None
        protocol.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_shut:
            return
        self.channel.incoming.write(memoryview(self._buffer)[:nbytes])
        if nbytes == len(self._buffer):
            # Otherwise, uvloop reads a socket up to 32 times per iteration, as long as each read fills the buffer.
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._process()

    def _next_turn(self) -> None:
        if self._is_reading and not self._is_resuming and not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        self.channel.incoming.write_eof()
        self._process()
        if self._is_shut:
            self._end()
        return not self._transport.is_closing()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    # Reading.

    def _process(self) -> None:
        """Decrypt received data and pass it to the protocol, as long as that reads."""
        try:
            if not self._is_handshake_complete and not self._connect():
                return
            while self._is_reading and not self._is_closing and not self._is_shut and not self._is_at_end:
                protocol = self._protocol
                count = self.channel.read_into(memoryview(protocol.get_buffer(-1)))
                if count:
                    protocol.buffer_updated(count)
                    continue
                if (answer := self.channel.take_outgoing()) and not self._is_closing:
                    self._send(answer)
                if count is None:
                    return
                self._end()
        except ssl.SSLError as error:
            self.error = error
            self.abort()

    def _connect(self) -> bool:
        """Continue with the handshake; return whether it is complete."""
        if self._is_closing:
            return False
        try:
            self.channel.session.do_handshake()
        except ssl.SSLWantReadError:
            self._send(self.channel.take_outgoing())
            return False
        except ssl.SSLError as error:
            # With the alert that says why.
            self._send(self.channel.take_outgoing())
            self._on_failure(error)
            self._is_closing = True
            self._transport.close()
            return False
        self._send(self.channel.take_outgoing())
        self._is_handshake_complete = True
        self._on_handshake()
        return True

    def _end(self) -> None:
        """Tell the protocol that the client has closed its side."""
        if not self._is_at_end:
            self._is_at_end = True
            if not self._protocol.eof_received():
                self.close()

    def pause_reading(self) -> None:
        self._is_reading = False
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            if not self._is_resuming:
                self._is_resuming = True
                asyncio.get_running_loop().call_soon(self._process_rest)

    def _process_rest(self) -> None:
        """Process data that was read while the protocol did not read, then continue to read."""
        self._is_resuming = False
        try:
            self._process()
        except Exception as error:
            # Do as the event loop does if a protocol's read callback fails.
            context = {"message": "Fatal error: protocol.buffer_updated() call failed.", "exception": error}
            asyncio.get_running_loop().call_exception_handler(
                {**context, "transport": self, "protocol": self._protocol}
            )
            self.abort()
        if self._is_reading and not self._transport.is_closing():
            self._transport.resume_reading()

    def is_reading(self) -> bool:
        return self._is_reading and not self.is_closing()

    # Writing.

    def _send(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        if data and self._socket is not None and not self._transport.get_write_buffer_size():
            # If the send fails, the transport meets and reports the same error when it writes the rest.
            with contextlib.suppress(OSError):
                data = data[self._socket.send(data) :]
        if data:
            self._transport.write(data)

    def write(self, data: Any) -> None:
        if not self._is_closing and not self._is_shut:
            try:
                self._send(self.channel.encrypt(data))
            except ssl.SSLError:
                # TLS 1.2 with a renegotiation that the client has begun.
                self.abort()

    def write_eof(self) -> None:
        """Close the writing side, with a close_notify. Further data from the client is discarded."""
        if not self._is_closing and not self._is_shut:
            self._is_shut = True
            self._send(self.channel.close())
            self._transport.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        size: int = self._transport.get_write_buffer_size()
        return size

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    # Closing.

    def close(self) -> None:
        """Close the connection after the data that was written is sent, with a close_notify."""
        if not self._is_closing:
            if self._is_handshake_complete and not self._is_shut:
                self._send(self.channel.close())
            self._is_closing = True
            self._transport.close()

    def abort(self) -> None:
        self._is_closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    # The rest of the interface.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.channel.session if name == "ssl_object" else self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol
