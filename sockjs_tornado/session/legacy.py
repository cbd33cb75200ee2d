"""Attributes and methods that a session had in sockjs-tornado 1.0."""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from ..protocol import CloseCode, Outgoing, encode_outgoing
from .connection_info import ConnectionInfo


class LegacySession:
    """Mixin that implements the names of 1.0."""

    __slots__ = ()

    server: Any
    conn_info: ConnectionInfo
    conn: Any
    close_code: int | None
    close_reason: str | None
    _accepts_bytes: bool
    send: Callable[[Outgoing], None]

    @property
    def transport_name(self) -> str:
        """Name of the transport that opened the session."""
        return self.conn_info.transport

    @property
    def handler(self) -> SimpleNamespace:
        """An object with the ``application`` that serves the router. Sessions do not keep request handlers."""
        return SimpleNamespace(application=self.server.application)

    def send_message(self, msg: Any, stats: bool = True, binary: bool = False) -> None:
        """Send a message in the same way as ``SockJSConnection.send`` does; ``stats`` is ignored."""
        # Not through the connection: an application may override its `send` and call this.
        self.send(encode_outgoing(msg, binary=binary, accepts_bytes=self._accepts_bytes))

    def get_close_reason(self) -> tuple[int, str]:
        """Return close code and reason. While the session is open, return those of a plain ``close()``."""
        if self.close_code is None or self.close_reason is None:
            return CloseCode.GO_AWAY, "Go away!"
        return self.close_code, self.close_reason

    def broadcast(self, clients: Iterable[Any], msg: Any) -> None:
        """Send one message to many connections in the same way as the router's ``broadcast``."""
        self.server.broadcast(clients, msg)
