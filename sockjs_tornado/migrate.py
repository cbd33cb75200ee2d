"""A replacement for the base class ``tornado.websocket.WebSocketHandler``."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from .connection import SockJSConnection
from .session.connection_info import ConnectionInfo

if TYPE_CHECKING:
    from .session.session import Session

__all__ = ["WebsocketHandler"]


class WebsocketHandler(SockJSConnection):
    """A connection with the interface of Tornado's ``WebSocketHandler``.

    It supports ``open``, ``on_message``, ``on_close``, ``write_message``, ``select_subprotocol`` and
    ``selected_subprotocol``.

    Attributes:
        request: The :class:`~sockjs_tornado.ConnectionInfo` instead of Tornado's request. It has ``ip``
            instead of ``remote_ip``, and ``headers``, ``arguments``, ``path``, ``uri`` and ``cookies``.
        ip: The client's address.
    """

    def __init__(self, session: "Session") -> None:
        super().__init__(session)
        # select_subprotocol may use it, as in Tornado.
        self.request = session.conn_info

    @property
    def selected_subprotocol(self) -> str | None:
        """The subprotocol that ``select_subprotocol`` returned."""
        return self.session.conn_info.subprotocol

    def open(self) -> Awaitable[bool | None] | bool | None:
        """Called when a client connects. Return False to reject it."""
        return None

    def on_open(self, info: ConnectionInfo) -> Awaitable[bool | None] | bool | None:
        """Set ``ip``, then call :meth:`open`."""
        self.ip = info.ip
        return self.open()

    def write_message(self, message: str | bytes | dict[str, Any], binary: bool = False) -> Awaitable[None]:
        """Send a message."""
        return self.send(message, binary)
