"""A node among others on Redis: its listener, its address, and its claims, which it refreshes while it lives."""

import asyncio
import logging
from collections import Counter
from typing import Any, Final

from ..exceptions import ClusterError, ClusterUnavailable
from .claims import CLAIM_TIME, REPLACE, Claims
from .commands import Commands
from .listener import open_sockets, split_address
from .node import Node, check_secret

__all__ = ["Membership"]

logger = logging.getLogger(__name__)

#: Seconds between two refreshings of what stands for :data:`~sockjs_tornado.cluster.claims.CLAIM_TIME`.
REFRESH_INTERVAL: Final = CLAIM_TIME / 3

#: Seconds between two looks at an address that seems to be taken.
_LOOK_AGAIN: Final = 0.5


class Membership:
    """What makes a process one of a cluster's nodes.

    Args:
        commands: The way to Redis.
        namespace: What its keys begin with.
        node_id: Id of this node.
        advertise: Where other nodes reach it.
        secret: What all nodes share.
        listen: Where it listens; None for the same.
        allow_public_listener: Whether it may listen where the internet reaches it.
        local_fallback: Whether new sessions are opened while Redis is away.
        stats: Counts.

    Raises:
        ConfigurationError: An address or the secret is not acceptable.
    """

    def __init__(
        self,
        commands: Commands,
        namespace: str,
        node_id: str,
        advertise: str,
        secret: str | bytes | None,
        listen: str | None,
        allow_public_listener: bool,
        local_fallback: bool,
        stats: Counter[str],
    ) -> None:
        host, port = split_address("advertise", advertise)
        self._listen = split_address("listen", listen) if listen is not None else (host, port)
        self._allow_public = allow_public_listener
        self._commands = commands
        self._id = node_id
        self._address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._key = f"{namespace}:address:{self._address}"
        self._claims = Claims(commands, namespace, node_id, self._address, stats)
        self._node = Node(node_id, self._address, check_secret(secret), self._claims, stats, local_fallback)
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def add(self, router: Any) -> None:
        """Take part for a router."""
        self._node.add(router)

    async def start(self) -> None:
        """Listen for the other nodes.

        Raises:
            ClusterError: Another node has the address, or something else listens there.
            ConfigurationError: The address is none of this host, or a public one.
        """
        host, port = self._listen
        await self._node.start(open_sockets(host, port, self._allow_public))
        try:
            await self._take_address()
        except BaseException:
            await self._node.close()
            raise
        self._task = asyncio.create_task(self._refresh())

    async def _take_address(self) -> None:
        found = await self._node.identify_self()
        if found not in (None, self._id):
            raise ClusterError(f"another node advertises {self._address}: each one has an address of its own")
        if found is None:
            logger.warning("nobody answers at %s, as seen from here: do other nodes reach it?", self._address)
        # Others reach this node there, and who was there before is no more. Where that cannot be seen from here, a name
        # that is left by a node that has died has to end first.
        condition = () if found else ("NX",)
        loop = asyncio.get_running_loop()
        patience = loop.time() + CLAIM_TIME + 1
        while True:
            milliseconds = CLAIM_TIME * 1000
            owner = await self._commands.submit("SET", self._key, self._id, *condition, "GET", "PX", milliseconds)
            if found or owner is None:
                return
            if loop.time() > patience:
                raise ClusterError(f"another node ({owner.decode()}) advertises {self._address}")
            await asyncio.sleep(_LOOK_AGAIN)

    def refresh(self) -> None:
        """Refresh what the node has in Redis: it was away."""
        self._wake.set()

    async def _refresh(self) -> None:
        while True:
            try:
                async with asyncio.timeout(REFRESH_INTERVAL):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                before = await self._commands.submit("SET", self._key, self._id, "GET", "PX", CLAIM_TIME * 1000)
                await self._claims.refresh()
            except ClusterUnavailable:
                # There is a turn when Redis is back.
                continue
            if before not in (None, self._id.encode()):
                logger.error("another node (%s) advertises %s, too", before.decode(), self._address)

    async def close(self) -> None:
        """Hold nothing more, and listen no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            await self._claims.release_all()
            self._commands.submit("EVAL", REPLACE, 1, self._key, self._id, b"", 0)
        await self._node.close()
