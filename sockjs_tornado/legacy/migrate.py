"""For handlers written against ``tornado.websocket.WebSocketHandler``: change their base class to this one."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from ..connection import ConnectionInfo, SockJSConnection

if TYPE_CHECKING:
    from ..session.session import Session

__all__ = ["WebsocketHandler"]


class WebsocketHandler(SockJSConnection):
    """A connection with the names of Tornado's websocket handler: ``open``, ``on_message``, ``on_close``,
    ``write_message``, ``select_subprotocol`` and ``selected_subprotocol``.

    Attributes:
        request: The :class:`~sockjs_tornado.connection.ConnectionInfo`, in place of Tornado's request. It has ``ip``
            for ``remote_ip``, and ``headers``, ``arguments``, ``path``, ``uri``, ``cookies``.
        ip: The client's address.
    """

    def __init__(self, session: "Session") -> None:
        super().__init__(session)
        # As Tornado's, select_subprotocol may look at it.
        self.request = session.conn_info

    @property
    def selected_subprotocol(self) -> str | None:
        """What ``select_subprotocol`` returned."""
        return self.session.conn_info.subprotocol

    def open(self) -> Awaitable[bool | None] | bool | None:
        """Hear of a new client; False rejects it."""
        return None

    def on_open(self, info: ConnectionInfo) -> Awaitable[bool | None] | bool | None:
        """Keep what is known of the request, then :meth:`open`."""
        self.ip = info.ip
        self.request = info
        return self.open()

    def write_message(self, message: str | bytes | dict[str, Any], binary: bool = False) -> Awaitable[None]:
        """Send a message."""
        return self.send(message, binary)
