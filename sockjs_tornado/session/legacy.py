"""Attributes and methods that a session had in sockjs-tornado 1.0."""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from ..exceptions import ConfigurationError
from ..protocol import CloseCode, Outgoing, encode_outgoing
from .connection_info import ConnectionInfo

_SENDING = "override send of the connection class instead"
_RECEIVING = "override on_message of the connection class instead"
_TRANSPORT = "it has no replacement, since sessions know no requests or timers any more; remove it"

#: Methods of 1.0's sessions that nothing calls any more, and what to do instead of overriding them.
_UNUSED = {
    "send_jsonified": _SENDING,
    "send_pack": _SENDING,
    "on_messages": _RECEIVING,
    "on_delete": "override on_close of the connection class instead",
} | dict.fromkeys(
    (
        "set_handler",
        "remove_handler",
        "verify_state",
        "flush",
        "delayed_close",
        "start_heartbeat",
        "stop_heartbeat",
        "delay_heartbeat",
    ),
    _TRANSPORT,
)


def check_session_class(kind: type) -> None:
    """Raise ConfigurationError if a class for ``session_kls`` overrides a method that nothing calls any more."""
    for name, remedy in _UNUSED.items():
        if hasattr(kind, name):
            raise ConfigurationError(
                f"session_kls: {kind.__name__}.{name} would never be called, unlike in sockjs-tornado 1.0: {remedy}"
            )


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
        return SimpleNamespace(application=self.server._application)

    def send_message(self, msg: Any, stats: bool = True, binary: bool = False) -> None:
        """Send a message in the same way as ``SockJSConnection.send`` does; ``stats`` is ignored."""
        # Not through the connection: an application may override its `send` and call this.
        json_encode = self.server.settings.json_encode
        self.send(encode_outgoing(msg, json_encode, binary=binary, accepts_bytes=self._accepts_bytes))

    def get_close_reason(self) -> tuple[int, str]:
        """Return close code and reason. While the session is open, return those of a plain ``close()``."""
        if self.close_code is None or self.close_reason is None:
            return CloseCode.GO_AWAY, "Go away!"
        return self.close_code, self.close_reason

    def broadcast(self, clients: Iterable[Any], msg: Any) -> None:
        """Send one message to many connections in the same way as the router's ``broadcast``."""
        self.server.broadcast(clients, msg)
