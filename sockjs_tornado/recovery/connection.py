"""The server's part of the protocol for one client."""

import difflib
import inspect
import json
import logging
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..connection import SockJSConnection
from ..exceptions import ClusterUnavailable, ConfigurationError
from ..function_checks import check_callback
from ..session.connection_checks import describe_generator, is_generator
from ..validation import warn_application

if TYPE_CHECKING:
    from ..session.session import Session

logger = logging.getLogger(__name__)

#: Minimum similarity of a method that is taken for a misspelt callback: "may_folow" has 0.94, "may_follow_room" 0.8.
_SIMILARITY = 0.825


class RecoveryConnection(SockJSConnection):
    """A connection whose client follows rooms: it receives what it has missed in them, and what is published later.

    Override :meth:`may_follow`. Without that, no client may follow any room. Messages of the client that are not part
    of the protocol are passed to :meth:`on_other_message`.

    Each request of a client may read a history. Limit their rate with the setting ``max_inbound_rate``.

    Args:
        session: The session of the connection.

    Raises:
        ConfigurationError: The router has no ``RedisCluster(recovery=True)``. A router that is given this class raises
            it when it is created.

    Attributes:
        max_followed_rooms: The largest number of rooms that one client may follow. Default 100.
        recovery_limit: The largest number of messages in a response. If more were missed, the client receives the last
            ones, and learns that others are lost. Default 1000; None for no limit.

    .. versionadded:: 2.0
    """

    #: Scripts that the router serves below its prefix.
    page_scripts: ClassVar[Mapping[str, Path]] = {"recovery.js": Path(__file__).with_name("recovery.js")}

    max_followed_rooms: ClassVar[int] = 100
    recovery_limit: ClassVar[int | None] = 1000

    def __init__(self, session: "Session") -> None:
        super().__init__(session)
        self._followed: set[str] = set()
        # The router has checked its connection class, but not what another callable returns.
        self._check_recovery(session.server.cluster)

    @classmethod
    def _check_cluster(cls, cluster: object) -> None:
        """Raise ConfigurationError as :meth:`_check_recovery` does; warn if no client may follow a room.

        The router calls this when it is created.
        """
        cls._check_recovery(cluster)
        if cls.may_follow is RecoveryConnection.may_follow:
            names = [name for name, method in inspect.getmembers(cls, inspect.isfunction) if "follow" in name]
            own = [name for name in names if not hasattr(RecoveryConnection, name)]
            hint = f": rename {own[0]} to may_follow" if own else ""
            warn_application(
                f"{cls.__name__} has no may_follow, so that each client is refused that follows a room{hint}"
            )

    @classmethod
    def _check_recovery(cls, cluster: object) -> None:
        """Raise ConfigurationError if the cluster has no recovery, or a method has other parameters."""
        if not getattr(cluster, "recovery", False):
            raise ConfigurationError(
                f"{cls.__name__} requires a cluster with histories: create the router with "
                "SockJSRouter(cluster=RedisCluster(url, recovery=True))"
            )
        for name, parameter in (("may_follow", "room"), ("on_other_message", "message")):
            check_callback(name, inspect.getattr_static(cls, name), ("self", parameter))

    def __init_subclass__(cls, **options: Any) -> None:
        """Warn about mistakes because of which clients would get no messages, and the server would log nothing."""
        super().__init_subclass__(**options)
        # Only decorators that use functools.wraps() show which function they call.
        on_message = inspect.unwrap(vars(cls).get("on_message", RecoveryConnection.on_message))
        is_replaced = getattr(on_message, "__qualname__", "") == f"{cls.__qualname__}.on_message"
        if is_replaced and inspect.isfunction(on_message) and "on_message" not in on_message.__code__.co_names:
            warn_application(
                f"{cls.__name__}.on_message replaces that of RecoveryConnection, so that no client can follow a room: "
                "rename it to on_other_message, or call super().on_message(message) in it"
            )
        missing = [
            name
            for name in ("may_follow", "on_other_message")
            if getattr(cls, name) is getattr(RecoveryConnection, name)
        ]
        for name in vars(cls):
            if hasattr(RecoveryConnection, name) or not inspect.isfunction(vars(cls)[name]):
                continue
            for meant in difflib.get_close_matches(name, missing, n=1, cutoff=_SIMILARITY):
                warn_application(f"{cls.__name__}.{name} is never called: rename it to {meant}, or define {meant}, too")

    def may_follow(self, room: str) -> Awaitable[bool] | bool:
        """Return whether the client may follow a room. It may be ``async def``. The default returns False.

        It is called for each request to follow the room, and so again after a gap. If it then returns False, the client
        leaves the room.

        Args:
            room: The name of the room, which the client has chosen.
        """
        return False

    def on_other_message(self, message: Any) -> Awaitable[object] | object:
        """Called with each message that is not part of the protocol, as ``on_message`` of other connections.

        The default ignores it; the first one causes a warning.
        """
        kind = type(self)
        if kind.on_other_message is RecoveryConnection.on_other_message:
            self.session._container.log.write_once(
                logger,
                logging.WARNING,
                ("unhandled", kind),
                "a client has sent a message that is not a request of recovery.js, but %s has no on_other_message: "
                "such messages are discarded. Define on_other_message, even if it does nothing",
                kind.__name__,
            )
        return None

    def on_message(self, message: Any) -> Awaitable[object] | object:
        """Process a request of ``recovery.js``, and pass other messages to :meth:`on_other_message`."""
        # Do not parse most messages of the application here, since it parses them itself.
        if isinstance(message, str) and "follow" in message:
            try:
                request = json.loads(message)
            except (ValueError, RecursionError):
                request = None
            match request:
                case {"type": "follow", "room": str(room), "id": int(number), **position}:
                    match position:
                        case {"offset": int(offset), "epoch": str(epoch)} if not isinstance(offset, bool):
                            return self._follow(room, number, offset, epoch)
                        case {} if not position:
                            return self._follow(room, number, 0, None)
                case {"type": "unfollow", "room": str(room)}:
                    if room in self._followed:
                        self._followed.discard(room)
                        self.leave(room)
                    return None
        return self.on_other_message(message)

    async def _follow(self, room: str, number: int, offset: int, epoch: str | None) -> None:
        response: dict[str, str | int] = {"room": room, "id": number}
        permitted = self.may_follow(room)
        # `async def` may return a coroutine that it should have awaited, which is true, as is a generator.
        while inspect.isawaitable(permitted):
            permitted = await permitted
        if is_generator(permitted):
            raise TypeError(describe_generator(type(self), "may_follow"))
        if not permitted or (room not in self._followed and len(self._followed) >= self.max_followed_rooms):
            if room in self._followed:
                # The client was permitted to follow the room before.
                self._followed.discard(room)
                self.leave(room)
            self.send({"type": "refused", **response})
            return
        self._followed.add(room)
        try:
            # Join first, so that no message is missed between the response and the first live message.
            await self.join(room)
            recovered = await self.session.server.cluster.recover(room, offset, epoch or "", limit=self.recovery_limit)
        except ClusterUnavailable:
            self.send({"type": "unavailable", **response})
            return
        # With max_concurrent_callbacks, the client may have left the room meanwhile.
        if room not in self._followed:
            return
        # A client without a position has not lost anything.
        lost = epoch is not None and not recovered.complete
        self.send(recovered.encode(type="caught up", **response, lost=lost))
