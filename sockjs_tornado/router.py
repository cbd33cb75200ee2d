"""The router: what an application makes, and what holds everything else together."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tornado.routing import URLSpec

from .connection import ConnectionInfo, SockJSConnection, encode_text
from .container import SessionContainer
from .handlers import SockJSHandler
from .origins import OriginPolicy
from .protocol import CloseCode, PreparedMessage, check_close_code
from .session import Session
from .settings import Settings
from .transports import offered_endpoints

__all__ = ["SockJSRouter"]


class SockJSRouter:
    """Serves one connection class under one prefix, over every transport of SockJS 0.3.3::

        router = SockJSRouter(Echo, "/echo", {"heartbeat_delay": 20})
        application = tornado.web.Application(router.urls)

    A router belongs to the event loop on which its first request is served, and is used from that loop's thread alone.

    Args:
        connection: A subclass of SockJSConnection, or any callable that makes a connection of a session.
        prefix: Where the URLs begin, such as ``"/chat"``; a regular expression, without capturing groups.
        user_settings: A :class:`~sockjs_tornado.settings.Settings`, or a mapping of its names.

    Raises:
        ConfigurationError: A setting is not acceptable.

    Attributes:
        settings: The settings.
        urls: URL specs for ``tornado.web.Application``.
        origins: The origin policy.
        container: The sessions.
        closed: Whether :meth:`close` has finished.
        websockets_enabled: Whether the websocket transport is offered.
        cookie_needed: Whether session URLs set the JSESSIONID cookie.
    """

    def __init__(
        self,
        connection: Callable[[Session], SockJSConnection],
        prefix: str = "",
        user_settings: Settings | Mapping[str, Any] | None = None,
    ) -> None:
        settings = user_settings
        self.settings = settings if isinstance(settings, Settings) else Settings.from_mapping(settings or {})
        self.origins = OriginPolicy(self.settings)
        self.container = SessionContainer(self.settings)
        self.websockets_enabled = self.settings.offers("websocket")
        self.cookie_needed = bool(self.settings.jsessionid)
        self.closed = False
        self._connection = connection
        prefix = prefix.rstrip("/")
        self.urls = [
            URLSpec(prefix + pattern, SockJSHandler, {"endpoint": endpoint(self)})
            for pattern, endpoint in offered_endpoints(self.settings, self.origins.restricted)
        ]

    def open_session(self, session_id: str | None, info: ConnectionInfo) -> Session:
        """Make a session and keep it.

        Args:
            session_id: The client's name for it; None for a websocket's, which cannot be found again.
            info: The request that opens it.
        """
        session = Session(self._connection, self, session_id, info)
        self.container.add(session)
        return session

    @property
    def connections(self) -> list[SockJSConnection]:
        """The open connections."""
        return [session.conn for session in self.container.open_sessions]

    def broadcast(self, clients: Iterable[SockJSConnection], message: str | dict[str, Any] | list[Any]) -> None:
        """Send one message to many connections; it is encoded once for each transport among them.

        Args:
            clients: Connections, in any iterable; it may change meanwhile. Closed ones are passed over.
            message: ``str``, or a dict or list, which is sent as JSON.

        Raises:
            TypeError: The message is of another type.
        """
        prepared = PreparedMessage(encode_text(message))
        for client in tuple(clients):
            client.session.send_prepared(prepared)

    async def close(self, code: int = CloseCode.GO_AWAY, reason: str = "Go away!") -> None:
        """Close the router: no new session is let in, and every client is told.

        Waits until each client has its close frame or is out of time (a polling client has ``disconnect_delay`` to
        come for it), and until the application's callbacks have ended. Afterwards the router's URLs answer 404 and its
        timer is stopped. Closing twice does nothing more.

        Args:
            code: Close code that the clients see, as :meth:`SockJSConnection.close` takes it.
            reason: The same in words.

        Raises:
            ValueError: The code is another one; nothing is closed.
        """
        check_close_code(code)
        await self.container.close(code, reason)
        self.closed = True
