"""The router, which an application creates for each service."""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tornado.httputil import HTTPServerConnectionDelegate, HTTPServerRequest
from tornado.ioloop import IOLoop

from .connection import SockJSConnection
from .event_loop import RouterLoop, register_send_result
from .exceptions import ConfigurationError
from .http.application_settings import own_settings, with_application_settings
from .http.body_limit import url_specs
from .http.first_request import warn_at_first_request
from .messaging import Messaging
from .observe import trace
from .observe.stats import Stats
from .overridable import overridable
from .protocol import CloseCode, check_session_close
from .server.adoption import Adopters
from .session.connection_checks import check_connection_class, warn_about_attributes
from .session.connection_info import ConnectionInfo
from .session.container import SessionContainer
from .session.lag_probe import LagProbe
from .session.legacy import check_session_class
from .session.outbox import TRACED
from .session.ports import Cluster
from .session.session import Session
from .session.states import RouterState
from .settings import Settings, merge_settings, warn_about_values
from .transports import enabled_endpoints
from .transports.exchange import Adopters as AdoptersPort
from .transports.exchange import Relay
from .transports.origins import OriginPolicy
from .transports.pages import Script
from .url_prefix import check_prefix
from .validation import check_seconds
from .wire.budget import ByteBudget

logger = logging.getLogger(__name__)

#: What to do instead of passing a router to an application.
_HINT = "pass its URLs, Application(router.urls); serve() takes a list of routers"


class SockJSRouter(Messaging):
    """Serves a connection class under a URL prefix, with all transports of SockJS 0.3.3::

        router = SockJSRouter(Echo, "/echo", heartbeat_delay=20)
        application = tornado.web.Application(router.urls)

    A router belongs to the event loop that serves its first request, and must be used from that loop's thread. From
    another thread, call ``router.io_loop.add_callback(router.publish, room, message)``, for example.

    Args:
        connection: A subclass of SockJSConnection, or any callable that returns a connection for a session.
        prefix: URL prefix, such as ``"/chat"``; a regular expression without capturing groups.
        user_settings: A :class:`~sockjs_tornado.settings.Settings`, or a mapping of setting names to values.
        io_loop: Accepted for compatibility with sockjs-tornado 1.0; the running event loop is used.
        session_kls: A subclass of :class:`~sockjs_tornado.session.session.Session` for the sessions.
        cluster: The cluster that shares the rooms with other processes, such as a
            :class:`~sockjs_tornado.cluster.redis.RedisCluster`. Routers with the same cluster have the same rooms.
        settings: Settings by their names, which replace those in ``user_settings``.

    Raises:
        ConfigurationError: If the connection, a setting or the prefix is invalid, if a callback is a generator, or if
            ``session_kls`` overrides a method of sockjs-tornado 1.0 that nothing calls any more. A method that seems to
            be a misspelt callback causes a ``UserWarning``.

    Attributes:
        settings: The settings, also as ``settings["name"]``. At the first request, those that were not given get the
            values of the application's ``websocket_max_message_size``, ``websocket_ping_interval`` and
            ``websocket_ping_timeout``.
        prefix: URL prefix, without a trailing slash.
        urls: URL specs for ``tornado.web.Application``.
        stats: The counters; ``stats.snapshot()`` returns them.
        cluster: The cluster, or None.
        websockets_enabled: Whether the websocket transport is offered.
        cookie_needed: Whether session URLs set the JSESSIONID cookie.
    """

    # For the other modules: `endpoints`, each with the regular expression of its path; `relay`, which forwards requests
    # for sessions of other processes, or None; `origins`, the origin policy; `container`, which has the sessions; and
    # `body_budget`, which limits the memory for request bodies and incomplete websocket messages.

    def __init__(
        self,
        connection: Callable[[Session], SockJSConnection],
        prefix: str = "",
        user_settings: Settings | Mapping[str, Any] | None = None,
        io_loop: IOLoop | None = None,
        session_kls: type[Session] | None = None,
        *,
        cluster: Cluster | None = None,
        **settings: Any,
    ) -> None:
        given: object = connection
        if isinstance(given, HTTPServerRequest):
            # Tornado calls what is neither a handler nor a router.
            raise TypeError(f"{type(self).__name__} is not a request handler: create a router, and {_HINT}")
        # An application is callable.
        if isinstance(given, SockJSRouter | HTTPServerConnectionDelegate) or not callable(given):
            raise ConfigurationError(
                "connection: expected a subclass of SockJSConnection, or a callable that returns a connection for a "
                f"session, got {connection!r} ({type(connection).__name__})"
            )
        check_connection_class(connection)
        self.settings = merge_settings(user_settings, settings, ("io_loop", "session_kls", "cluster"))
        self._own_settings = own_settings(user_settings, settings)
        warn_about_values(self.settings)
        warn_about_attributes(connection, self.settings)
        self.origins = OriginPolicy(self.settings)
        self.stats = Stats(lambda: self.container)
        if cluster is not None and not hasattr(cluster, "rooms"):
            raise ConfigurationError(
                f"cluster: expected a RedisCluster or UnixCluster, got {cluster!r} ({type(cluster).__name__})"
            )
        # A connection class may require a cluster with recovery.
        check_cluster = getattr(connection, "_check_cluster", None)
        if check_cluster is not None:
            check_cluster(cluster)
        self.cluster = cluster
        self.container = SessionContainer(self.settings, self.stats, cluster)
        self.body_budget = ByteBudget(_body_budget(self.settings))
        self.websockets_enabled = self.settings.is_enabled("websocket")
        self.cookie_needed = bool(self.settings.jsessionid)
        self._application: Any = None
        self._adopters: AdoptersPort | None = Adopters() if self.settings.adopt_connections else None
        self.relay: Relay | None = None
        self._connection = connection
        self._loop = RouterLoop(io_loop)
        self._lag_probe = LagProbe(self.container.callback_budget.slow_after, self.container.log, self.stats)
        if session_kls is not None:
            check_session_class(session_kls, Session)
        self._session_class = session_kls or Session
        self.prefix = check_prefix(prefix)
        # The scripts of a connection class for its pages, by name.
        scripts: Mapping[str, Path] = getattr(connection, "page_scripts", {})
        self.endpoints = [
            (self.prefix + pattern, endpoint)
            for pattern, endpoint in (
                *enabled_endpoints(self),
                *((f"/{re.escape(name)}/?", Script(self, path)) for name, path in scripts.items()),
            )
        ]
        self.urls = url_specs(self.endpoints)
        register_send_result()
        if cluster is not None:
            cluster.add(self)

    def __repr__(self) -> str:
        name = getattr(self._connection, "__qualname__", None) or repr(self._connection)
        return f"<{type(self).__name__} {self.prefix!r} of {name}>"

    if not TYPE_CHECKING:

        def __call__(self, request: object) -> NoReturn:
            # Tornado calls what is neither a handler nor a router.
            raise TypeError(f"a SockJSRouter is not a request handler: {_HINT}")

        def __iter__(self) -> NoReturn:
            raise TypeError(f"a SockJSRouter is not a list: {_HINT}")

        # Not with __getattr__, which would slow down the access to every attribute.
        @property
        def name(self) -> NoReturn:
            # Tornado looks up the name of each URL spec, and so finds a router in a list of them.
            raise AttributeError(f"{type(self).__name__!r} object has no attribute 'name'; {_HINT}")

    @overridable
    def io_loop(self) -> IOLoop:
        """The event loop of the sessions, as Tornado's IOLoop; before the first session, the current one.

        Any thread may read it to schedule callbacks: ``router.io_loop.add_callback(connection.send, message)``.

        Raises:
            RuntimeError: If it is unknown, since there was no session yet, and this thread has no event loop.
        """
        return self._loop.io_loop()

    def apply_routes(self, routes: list[Any]) -> list[Any]:
        """Append the URL specs to a list of routes, and return the list."""
        routes.extend(self.urls)
        return routes

    def create_session(
        self, session_id: str | None, register: bool = True, info: ConnectionInfo | None = None
    ) -> Session:
        """Create a session and add it to the container.

        Args:
            session_id: The id that the client chose.
            register: Whether requests find the session by its id. False for a websocket's session, which ends with its
                connection.
            info: The request that opens the session.

        Raises:
            RuntimeError: If no event loop is running, or if the router's sessions run on another event loop.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop.loop:
            previous = self._loop.bind(loop)
            if previous is not None:
                self.container.continue_on_next_loop(previous)
            self._measure_lag()
        if info is None:
            info = ConnectionInfo(ip="", uri="", prefix="", transport="", headers={}, cookies=None)
        session = self._session_class(self._connection, self, session_id, info)
        if trace.is_enabled():
            session._blocked |= TRACED
        self.container.add(session, register=register)
        return session

    def withhold_cookies(self) -> Mapping[str, str]:
        """Return no cookies. Called when an application asks for cookies that it may not see."""
        if self.origins.restricted:
            text = "info.cookies is empty for requests of the origin null, which any site can send"
        else:
            text = (
                "info.cookies is empty, since any site could open a session with its visitors' cookies: set "
                "allowed_origins to the origins of your pages, such as ['https://example.com']"
            )
        self.container.log.write_once(logger, logging.WARNING, "withheld_cookies", text)
        return {}

    def get_session(self, session_id: str) -> Session | None:
        """Return the session with this id, or None."""
        return self.container.get(session_id)

    def get_connection_class(self) -> Callable[[Session], SockJSConnection]:
        """Return the connection class, or the callable, that the router was created with."""
        return self._connection

    @overridable
    def application(self) -> Any:
        """The ``tornado.web.Application`` that has served the last request; None before the first one."""
        return self._application

    def _set_application(self, application: Any) -> None:
        self._measure_lag()
        if self._application is None:
            warn_at_first_request(self, self._own_settings, application)
            self.settings = with_application_settings(self.settings, self._own_settings, application)
            self.body_budget.limit = _body_budget(self.settings)
        self._application = application

    def _measure_lag(self) -> None:
        """Measure how late the running event loop is, until the router is closed."""
        if not self.closed:
            self._lag_probe.start()

    @overridable
    def connections(self) -> list[SockJSConnection]:
        """The open connections."""
        return [session.conn for session in self.container if session.is_accepted and not session.is_closed]

    @property
    def draining(self) -> bool:
        """Whether new sessions are rejected, because :meth:`drain` or :meth:`close` was called."""
        return self.container.state is not RouterState.OPEN

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has finished."""
        return self.container.state is RouterState.CLOSED

    async def drain(
        self, seconds: float = 5, code: int = CloseCode.SERVICE_RESTART, reason: str = "Service restart"
    ) -> None:
        """Close all sessions for a restart, gradually, so that their clients do not all reconnect at once.

        From then on, new sessions are rejected: ``/info`` and all URLs that would open a session respond with 503 and
        Retry-After. The existing sessions are closed in batches, in random order, over ``seconds``. Messages that
        clients had sent before are delivered to ``on_message``. Then it waits as :meth:`close` does, while the router's
        URLs continue to respond with 503. In a cluster, requests for sessions of other processes are relayed until the
        end.

        If it is cancelled, the router rejects new sessions and keeps those that are left; it can be called again.

        Args:
            seconds: Time over which the sessions are closed.
            code: Close code for the clients, as of :meth:`SockJSConnection.close`.
            reason: Close reason for the clients.

        Raises:
            TypeError: If the code is not an ``int`` or the reason is not a ``str``. Then nothing is closed.
            ValueError: If the code is not within 0-65535, or ``seconds`` is not a number, 0 or more. Then nothing is
                closed.
            RuntimeError: If there are sessions, and another thread runs their event loop. Then nothing is closed. From
                there, call ``asyncio.run_coroutine_threadsafe(router.drain(), router.io_loop.asyncio_loop)``.
        """
        check_session_close(code, reason)
        check_seconds("seconds", seconds)
        await self.container.drain(seconds, code, reason)
        await self._end(code, reason)

    async def close(self, code: int = CloseCode.GO_AWAY, reason: str = "Go away!") -> None:
        """Close the router: reject new sessions and close the existing ones.

        Waits until each client has received its close frame; a polling client has ``disconnect_delay`` seconds to fetch
        it. Then waits until the application's callbacks have ended; after as many seconds again they are cancelled.
        Afterwards the router's URLs respond with 404 and its timers are stopped. Closing it again does nothing. In a
        cluster, requests that are relayed to sessions of other processes are ended, so that their clients reconnect
        through another process.

        Args:
            code: Close code for the clients, as of :meth:`SockJSConnection.close`.
            reason: Close reason for the clients.

        Raises:
            TypeError: If the code is not an ``int`` or the reason is not a ``str``. Then nothing is closed.
            ValueError: If the code is not within 0-65535. Then nothing is closed.
            RuntimeError: If there are sessions, and another thread runs their event loop. Then nothing is closed. From
                there, call ``asyncio.run_coroutine_threadsafe(router.close(), router.io_loop.asyncio_loop)``.
        """
        check_session_close(code, reason)
        await self._end(code, reason)

    async def _end(self, code: int, reason: str) -> None:
        if self.relay is None:
            await self.container.close(code, reason)
            self._set_closed()
            return
        async with asyncio.TaskGroup() as group:
            # While this process's own sessions are closed; most of these clients reconnect at once.
            group.create_task(self.relay.handoff_clients())
            await self.container.close(code, reason)
        self._set_closed()
        # Again, for requests that have arrived in the meantime; from now on they are rejected.
        await self.relay.handoff_clients()

    def _set_closed(self) -> None:
        self.container.advance(RouterState.CLOSED)
        self._lag_probe.stop()


def _body_budget(settings: Settings) -> int:
    """Return the limit of all request bodies together, which always allows one body of the maximum size."""
    limit = settings.max_buffered_body_bytes
    return limit and max(limit, settings.max_message_size)
