"""Attributes and methods that a session had in sockjs-tornado 1.0."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NoReturn

from ..exceptions import ConfigurationError
from ..overridable import overridable
from ..protocol import CloseCode, JSONValue, Outgoing, encode_outgoing
from ..validation import safe_repr
from .connection_info import ConnectionInfo

_SENDING = "override send_message, or send of the connection class, instead"
_RECEIVING = "override on_message of the connection class instead"
_TRANSPORT = "it has no replacement, since sessions know no requests or timers any more; remove it"


class NotCalled:
    """A method of 1.0's sessions that nothing calls any more, so that replacing it would have no effect.

    Args:
        remedy: What to do instead of replacing it.
        method: What it does if the application calls it. If None, the session has no such attribute.
    """

    def __init__(self, remedy: str, method: Callable[..., object] | None = None) -> None:
        self._remedy = remedy
        self._method = method
        if method is not None:
            self.__doc__ = method.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if self._method is None:
            raise AttributeError(f"sessions have no {self._name} any more, unlike in sockjs-tornado 1.0")
        return partial(self._method, instance)

    def __set__(self, instance: object, value: object) -> None:
        raise self.error("session")

    def error(self, owner: str) -> ConfigurationError:
        """Return the error for a replacement of the method in ``owner``."""
        return ConfigurationError(
            f"{owner}.{self._name} would never be called, unlike in sockjs-tornado 1.0: {self._remedy}"
        )


def check_session_class(kind: Any, base: type) -> None:
    """Raise ConfigurationError if ``session_kls`` is no class of sessions, or overrides a method that nothing calls.

    ``base`` is the class of sessions.
    """
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ConfigurationError(f"session_kls: expected a subclass of sockjs_tornado.Session, got {safe_repr(kind)}")
    for name, method in vars(LegacySession).items():
        if isinstance(method, NotCalled) and getattr(kind, name, method) is not method:
            raise method.error(f"session_kls: {kind.__name__}")
    if getattr(kind, "send", None) is not getattr(base, "send", None):
        raise ConfigurationError(
            f"session_kls: {kind.__name__}.send would not be called for each message: override send_message instead"
        )


class LegacyHandler:
    """The value of ``session.handler``, in place of the request handler of 1.0."""

    __slots__ = ("application",)

    def __init__(self, application: Any) -> None:
        self.application = application

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"session.handler.{name} was removed in 2.0: a session has no request handler any more; "
            "use session.conn_info, which is also the argument of on_open",
            name=name,
            obj=self,
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
    def handler(self) -> Any:
        """An object with the ``application`` that serves the router. Sessions do not keep request handlers."""
        return LegacyHandler(self.server._application)

    def _send_message_fallback(self, msg: Any, stats: bool = True, binary: bool = False) -> None:
        """Send a message that ``SockJSConnection.send`` accepts; ``stats`` is ignored.

        ``SockJSConnection.send`` calls it while the session is open. A session class may override it.
        """
        # Not through the connection: an application may override its `send` and call this.
        if type(msg) is str and not binary:
            self.send(msg)
        else:
            json_encode = self.server.settings.json_encode
            self.send(encode_outgoing(msg, json_encode, binary=binary, accepts_bytes=self._accepts_bytes))

    # SessionCore in C, which comes first in the bases of Session, has one as well.
    send_message = _send_message_fallback

    def _send_jsonified(self, msg: str, stats: bool = True) -> None:
        """Send a message that is JSON already; ``stats`` is ignored."""
        self.send(JSONValue(msg))

    def _verify_state(self) -> None:
        """Do nothing: a session is opened by the request that its client sends."""

    send_jsonified = NotCalled(_SENDING, _send_jsonified)
    verify_state = NotCalled(_TRANSPORT, _verify_state)
    on_messages = NotCalled(_RECEIVING)
    on_delete = NotCalled("override on_close of the connection class instead")
    send_pack = NotCalled(_SENDING)
    set_handler = NotCalled(_TRANSPORT)
    remove_handler = NotCalled(_TRANSPORT)
    flush = NotCalled(_TRANSPORT)
    delayed_close = NotCalled(_TRANSPORT)
    start_heartbeat = NotCalled(_TRANSPORT)
    stop_heartbeat = NotCalled(_TRANSPORT)
    delay_heartbeat = NotCalled(_TRANSPORT)

    @overridable
    def stats(self) -> Any:
        """The counters of the router."""
        return self.server.stats

    def get_close_reason(self) -> tuple[int, str]:
        """Return close code and reason. While the session is open, return those of a plain ``close()``."""
        if self.close_code is None or self.close_reason is None:
            return CloseCode.GO_AWAY, "Go away!"
        return self.close_code, self.close_reason

    def broadcast(self, clients: Iterable[Any], msg: Any) -> None:
        """Send one message to many connections in the same way as the router's ``broadcast``."""
        self.server.broadcast(clients, msg)
