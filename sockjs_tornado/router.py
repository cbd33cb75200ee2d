"""The router: what an application makes, and what holds everything else together."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from tornado.gen import convert_yielded
from tornado.ioloop import IOLoop

from .connection import ConnectionInfo, SockJSConnection
from .exceptions import ConfigurationError, ConnectionClosed
from .http.body_limit import url_specs
from .observe.stats import Stats
from .observe.trace import traced
from .protocol import CloseCode, PreparedMessage, check_close_code, encode_message
from .session.container import SessionContainer, check_seconds
from .session.limits import ByteBudget
from .session.ports import Cluster, Position
from .session.rooms import COMPLETED, check_room
from .session.session import Session
from .settings import Settings
from .transports import enabled_endpoints
from .transports.exchange import Relay
from .transports.origins import OriginPolicy

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
        io_loop: Tornado's name for the event loop; taken for compatibility, the running loop is what counts.
        session_kls: A subclass of :class:`~sockjs_tornado.session.session.Session` to make sessions of.
        cluster: What shares the rooms with other processes, such as a
            :class:`~sockjs_tornado.cluster.redis.RedisCluster`. Routers that are given the same one have the same
            rooms.

    Raises:
        ConfigurationError: The connection, a setting or the prefix is not acceptable.

    Attributes:
        settings: The settings, also as ``settings["name"]``.
        prefix: Where the URLs begin, without the slash at its end.
        urls: URL specs for ``tornado.web.Application``.
        endpoints: What answers there, each with the regular expression of its path.
        relay: Where to ask for sessions that are in another process; None where there is none.
        stats: Counters; ``stats.dump()`` returns them.
        application: The application that serves the router, once it has served a request.
        origins: The origin policy.
        container: The sessions.
        body_budget: What request bodies and unfinished websocket messages may take together.
        cluster: As given.
        closed: Whether :meth:`close` has finished.
        websockets_enabled: Whether the websocket transport is offered.
        cookie_needed: Whether session URLs set the JSESSIONID cookie.
    """

    def __init__(
        self,
        connection: Callable[[Session], SockJSConnection],
        prefix: str = "",
        user_settings: Settings | Mapping[str, Any] | None = None,
        io_loop: IOLoop | None = None,
        session_kls: type[Session] | None = None,
        *,
        cluster: Cluster | None = None,
    ) -> None:
        if not callable(connection):
            raise ConfigurationError(
                f"connection: got {connection!r} ({type(connection).__name__}), takes a SockJSConnection subclass or "
                "anything else that makes a connection when called with a session"
            )
        settings = user_settings
        self.settings = settings if isinstance(settings, Settings) else Settings.from_mapping(settings or {})
        self.origins = OriginPolicy(self.settings)
        self.stats = Stats(lambda: self.container)
        if cluster is not None and not hasattr(cluster, "rooms"):
            raise ConfigurationError(f"cluster: got {cluster!r} ({type(cluster).__name__}), takes a RedisCluster, say")
        self.cluster = cluster
        self.container = SessionContainer(self.settings, self.stats, cluster)
        budget = self.settings.max_buffered_body_bytes
        # There is always room for one body.
        self.body_budget = ByteBudget(budget and max(budget, self.settings.max_message_size))
        self.websockets_enabled = self.settings.is_enabled("websocket")
        self.cookie_needed = bool(self.settings.jsessionid)
        self.application: Any = None
        self.relay: Relay | None = None
        self.closed = False
        self._connection = connection
        self._io_loop = io_loop
        self._session_class = session_kls or Session
        self.prefix = _checked(prefix)
        offered = enabled_endpoints(self.settings, self.origins.restricted)
        self.endpoints = [(self.prefix + pattern, endpoint(self)) for pattern, endpoint in offered]
        self.urls = url_specs(self.endpoints)
        if cluster is not None:
            cluster.add(self)

    @property
    def io_loop(self) -> IOLoop:
        """The event loop, by Tornado's name."""
        return self._io_loop or IOLoop.current()

    def apply_routes(self, routes: list[Any]) -> list[Any]:
        """Add the URL specs to a list of routes and return it."""
        routes.extend(self.urls)
        return routes

    def create_session(
        self, session_id: str | None, register: bool = True, info: ConnectionInfo | None = None
    ) -> Session:
        """Make a session and keep it.

        Args:
            session_id: The client's name for it.
            register: Whether requests find it by that name; a websocket's session, which ends with its connection,
                is not found.
            info: The request that opens it.
        """
        if info is None:
            info = ConnectionInfo(ip="", uri="", prefix="", transport="", headers={}, cookies=None)
        session = traced(self._session_class)(self._connection, self, session_id if register else None, info)
        self.container.add(session)
        return session

    def get_session(self, session_id: str) -> Session | None:
        """Return the session that a client calls ``session_id``, None where there is none."""
        return self.container.get(session_id)

    def get_connection_class(self) -> Callable[[Session], SockJSConnection]:
        """Return what makes the connections."""
        return self._connection

    @property
    def connections(self) -> list[SockJSConnection]:
        """The open connections."""
        return [session.conn for session in self.container.open_sessions]

    def broadcast(self, clients: Iterable[SockJSConnection], message: str | dict[str, Any] | list[Any]) -> None:
        """Send one message to many connections; it is encoded once for each transport among them.

        Args:
            clients: Connections, in any iterable; it may change meanwhile. Closed ones are passed over.
            message: ``str``, or a dict or list, as :meth:`SockJSConnection.send` takes them.

        Raises:
            TypeError: The message is of another type.
            ValueError: JSON has no form for a number in it.
            RuntimeError: In another thread than the event loop's.
        """
        prepared = PreparedMessage(encode_message(message))
        receivers = tuple(clients)
        if receivers:
            receivers[0].session._check_thread()
        for client in receivers:
            client.session._send_prepared(prepared)

    def publish(
        self,
        room: str,
        message: str | dict[str, Any] | list[Any],
        exclude: SockJSConnection | Iterable[SockJSConnection] = (),
        *,
        history: int = 0,
        ttl: float | None = None,
    ) -> Awaitable[Position | None]:
        """Send one message to all connections in a room; it is encoded once for each transport among them.

        With a cluster it reaches those of all its processes: those of this one at once, unless there is a history, or a
        message with one is still on its way to the same room.

        Args:
            room: Its name. Where nobody is in it, nobody hears it.
            message: ``str``, or a dict or list, as :meth:`SockJSConnection.send` takes them.
            exclude: A connection that does not get it, mostly the one that says it, or several.
            history: How many messages the cluster shall keep of this room, this one included. Then all members, those
                of this process too, get it by way of Redis, in the order of the history. Default 0: it is not kept.
            ttl: Seconds that the history is kept after this message, None for a day.

        Returns:
            An awaitable that need not be awaited: the message is on its way. Awaited, with a cluster, it waits until
            Redis has the message, and returns where it stands in the history, None where it has none; it raises
            ClusterUnavailable where Redis is away, or did not take it. Not awaited, that is counted and logged.

        Raises:
            TypeError: The message is of another type, or the name of the room is no ``str``.
            ValueError: JSON has no form for a number in the message, or ``history`` or ``ttl`` make no sense.
            ConfigurationError: There is no cluster to keep a history.
            RuntimeError: In another thread than the event loop's, or on a cluster that was not started.
        """
        check_room(room)
        encoded = encode_message(message)
        excluded = (exclude,) if isinstance(exclude, SockJSConnection) else exclude
        sessions = [connection.session for connection in excluded]
        if self.cluster is not None:
            return self.cluster.publish(room, encoded, sessions, history, ttl)
        if history or ttl is not None:
            raise ConfigurationError(
                "history: it is kept by a cluster, and this router has none: SockJSRouter(cluster=...)"
            )
        self.container.rooms.publish(room, PreparedMessage(encoded), sessions)
        return COMPLETED

    async def presence(self, room: str) -> dict[str, Any]:
        """Return who is present in a room: those that have given a presence to ``join``, in all processes of a cluster.

        Args:
            room: Its name.

        Returns:
            What each has given, by a name of that member: ``"node:connection id"``, where the node is ``local`` without
            a cluster.

        Raises:
            TypeError: The name of the room is no ``str``.
            ClusterUnavailable: Redis is away.
            RuntimeError: The cluster was not started.
        """
        check_room(room)
        if self.cluster is not None:
            return await self.cluster.presence(room)
        return {f"local:{label}": value for label, value in self.container.rooms.presence(room).items()}

    @property
    def draining(self) -> bool:
        """Whether no new session is let in any more, because :meth:`drain` or :meth:`close` was called."""
        return self.container.draining or self.container.closing

    async def drain(
        self, seconds: float = 5, code: int = CloseCode.SERVICE_RESTART, reason: str = "Service restart"
    ) -> None:
        """Empty the router for a restart, so that its clients come again elsewhere and not all at once.

        New sessions are refused from now on: ``/info`` and all URLs that would open one answer 503 with Retry-After.
        Those there are go on until their turn comes: they are closed in batches, in no order, over ``seconds``. What
        clients had sent before is still handed to ``on_message``. Then waits as :meth:`close` does; the router's URLs
        go on answering 503. In a cluster, requests for sessions of other processes are passed on until the end.

        Args:
            seconds: Over which the closing is spread.
            code: Close code that the clients see, as :meth:`SockJSConnection.close` takes it.
            reason: The same in words.

        Raises:
            ValueError: The code is another one, or the seconds are no number of 0 or more; nothing is closed.

        Cancelled, it leaves a router that lets nobody in, and whose clients are still there; it may be called again.
        """
        check_close_code(code)
        check_seconds("seconds", seconds)
        await self.container.drain(seconds, code, reason)
        await self._end(code, reason)

    async def close(self, code: int = CloseCode.GO_AWAY, reason: str = "Go away!") -> None:
        """Close the router: no new session is let in, and every client is told.

        Waits until each client has its close frame or is out of time (a polling client has ``disconnect_delay`` to
        come for it), and until the application's callbacks have ended, or have had as long again and are cancelled.
        Afterwards the router's URLs answer 404 and its timer is stopped. Closing twice does nothing more. In a cluster,
        those who listen this way to sessions of other processes are let go, so that they ask anew elsewhere.

        Args:
            code: Close code that the clients see, as :meth:`SockJSConnection.close` takes it.
            reason: The same in words.

        Raises:
            ValueError: The code is another one; nothing is closed.
        """
        check_close_code(code)
        await self._end(code, reason)

    async def _end(self, code: int, reason: str) -> None:
        if self.relay is None:
            await self.container.close(code, reason)
            self.closed = True
            return
        async with asyncio.TaskGroup() as group:
            # While the own clients are told and waited for. Most find another process at once.
            group.create_task(self.relay.handoff_clients())
            await self.container.close(code, reason)
        self.closed = True
        # Those that have come this way again. From now on they are refused.
        await self.relay.handoff_clients()


def _checked(prefix: str) -> str:
    """Return a prefix without the slash at its end.

    Raises:
        ConfigurationError: No path can begin with it.
    """
    takes = 'takes "" or a path such as "/chat", which may be a regular expression without capturing groups'
    if not isinstance(prefix, str):
        raise ConfigurationError(f"prefix: got {prefix!r} ({type(prefix).__name__}), {takes}")
    try:
        groups = re.compile(prefix).groups
    except re.error as error:
        raise ConfigurationError(f"prefix: got {prefix!r} ({error}), {takes}") from None
    if groups or prefix[:1].isalnum():
        raise ConfigurationError(f"prefix: got {prefix!r}, {takes}")
    return prefix.rstrip("/")


# Tornado's own event loop and coroutines wait for whatever awaitable they are given: a `send` that is handed to
# `IOLoop.add_callback`, or yielded, comes to nothing where the client has left, as it always did.
def _convert_session(session: Session) -> "asyncio.Future[None]":
    async def drained() -> None:
        with contextlib.suppress(ConnectionClosed):
            await session

    return asyncio.ensure_future(drained())


convert_yielded.register(Session, _convert_session)  # type: ignore[attr-defined]
