"""Connections through a proxy for websockets, by CONNECT (RFC 9110, section 9.3.6)."""

import asyncio
import contextlib
import re
import socket
from collections.abc import Iterator
from typing import Any

from tornado.iostream import IOStream, UnsatisfiableReadError
from tornado.tcpclient import TCPClient

from .proxies import Proxy

#: Maximum size of the head of a response to CONNECT in bytes.
_MAX_HEAD = 1 << 16


class TunnelError(OSError):
    """A proxy has not opened a tunnel; the message says why."""


class TunnelClient(TCPClient):
    """Opens connections through a proxy, for Tornado's HTTP and websocket clients."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self._proxy = proxy
        self._stream: IOStream | None = None
        # While TLS is negotiated, on a stream that only Tornado has.
        self._socket: socket.socket | None = None

    async def connect(self, host: str, port: int, *rest: Any, **more: Any) -> IOStream:
        """Return a stream to a host, over TLS with ``ssl_options``."""
        if self._proxy.scheme != "http":
            raise TunnelError(
                f"not supported through a proxy with {self._proxy.scheme}://, only through one with http://"
            )
        ssl_options = more.pop("ssl_options", None)
        with self._errors("connect to the proxy"):
            self._stream = stream = await super().connect(self._proxy.host, self._proxy.port, *rest, **more)
        with self._errors("open a tunnel through the proxy"):
            await stream.write(self._request(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))
            head = await stream.read_until(b"\r\n\r\n", max_bytes=_MAX_HEAD)
        found = re.match(rb"HTTP/1\.[01] ([0-9]{3})", head)
        status = int(found[1]) if found else 0
        if not 200 <= status < 300:
            stream.close()
            raise TunnelError(f"the proxy refuses a tunnel to port {port} (status {status})")
        if ssl_options is not None:
            duplicate = stream.socket.dup()
            try:
                securing = stream.start_tls(False, ssl_options, server_hostname=host)
            except ValueError as error:  # the stream is not idle
                duplicate.close()
                stream.close()
                raise TunnelError("the proxy has sent data through the tunnel before TLS has begun") from error
            self._stream, self._socket = None, duplicate
            try:
                # Before version 6.6, Tornado's stream cannot be closed by cancelling the future.
                self._stream = stream = await asyncio.shield(securing)
            except asyncio.CancelledError:
                self.abort()
                raise
            finally:
                self._socket = None
                duplicate.close()
        return stream

    def abort(self) -> None:
        """Close the connection that is being opened, if any."""
        if self._stream is not None:
            self._stream.close()
        elif self._socket is not None:
            # The handshake fails, and Tornado closes the stream.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _request(self, target: str) -> bytes:
        authorization = self._proxy.authorization
        fields = f"Proxy-Authorization: {authorization}\r\n" if authorization else ""
        return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n".encode("latin-1")

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        # UnicodeError: the host is not a valid name.
        except (OSError, UnicodeError, UnsatisfiableReadError) as error:
            reason = getattr(error, "real_error", None) or error
            raise TunnelError(f"cannot {action} {self._proxy.url}: {reason}") from error
