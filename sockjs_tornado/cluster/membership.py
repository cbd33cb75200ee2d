"""The membership of a node in a cluster on Redis: its listener, its advertised address and its claims."""

import asyncio
import logging
from collections import Counter
from typing import Any, Final

from ..exceptions import ClusterError, ClusterUnavailable
from .claims import CLAIM_TIME, REPLACE, Claims
from .commands import Commands
from .envelope import RedisKeys
from .listener import open_sockets, split_address
from .node import Node, check_secret
from .ownership import Owner

__all__ = ["Membership"]

logger = logging.getLogger(__name__)

#: Seconds between two refreshes of the keys that expire after :data:`~sockjs_tornado.cluster.claims.CLAIM_TIME`.
REFRESH_INTERVAL: Final = CLAIM_TIME / 3

#: Seconds between two attempts to register an address that is still registered by another node.
_RETRY_INTERVAL: Final = 0.5


class Membership:
    """A node's membership in a cluster.

    Args:
        commands: The connection to Redis.
        keys: The names of the keys.
        node_id: This node's id.
        stats: The relay's counters.
        advertise: The address at which other nodes reach this one.
        secret: The secret that all nodes share.
        listen: The address to listen on, or None for the advertised one.
        allow_public_listener: Whether to allow a public address to listen on.
        local_fallback: Whether to open new sessions here while Redis is unavailable.

    Raises:
        ConfigurationError: An address or the secret is not valid.
    """

    def __init__(
        self,
        commands: Commands,
        keys: RedisKeys,
        node_id: str,
        stats: Counter[str],
        *,
        advertise: str,
        secret: str | bytes | None,
        listen: str | None,
        allow_public_listener: bool,
        local_fallback: bool,
    ) -> None:
        host, port = split_address("advertise", advertise)
        self._listen = split_address("listen", listen) if listen is not None else (host, port)
        self._allow_public = allow_public_listener
        self._commands = commands
        self._id = node_id
        self._address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._key = keys.address(self._address)
        owner = Owner(node_id, self._address)
        self._claims = Claims(commands, keys, owner, stats)
        self._node = Node(owner, check_secret(secret), self._claims, stats, local_fallback)
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def add(self, router: Any) -> None:
        """Add a router."""
        self._node.add(router)

    async def start(self) -> None:
        """Start the listener, register the address, and start refreshing the claims.

        Raises:
            ClusterError: Another node has registered the address, or another socket listens on it.
            ConfigurationError: The address to listen on is public, or is not an address of this host.
        """
        host, port = self._listen
        await self._node.start(open_sockets(host, port, self._allow_public))
        try:
            await self._register_address()
        except BaseException:
            await self._node.close()
            raise
        self._task = asyncio.create_task(self._refresh())

    async def _register_address(self) -> None:
        found = await self._node.identify_self()
        if found not in (None, self._id):
            raise ClusterError(f"Another node already advertises {self._address}; every node needs its own address.")
        if found is None:
            logger.warning(
                "Cannot connect to this node's own advertise address %s; other nodes may not be able to reach it "
                "either.",
                self._address,
            )
        # If this node answers at the address, a previous node there is gone, and its registration is overwritten.
        # Otherwise wait until the registration of a node that may have died has expired.
        condition = () if found else ("NX",)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLAIM_TIME + 1
        while True:
            milliseconds = CLAIM_TIME * 1000
            registered = await self._commands.submit("SET", self._key, self._id, *condition, "GET", "PX", milliseconds)
            if found or registered is None:
                return
            if loop.time() > deadline:
                raise ClusterError(f"Another node ({registered.decode()}) already advertises {self._address}.")
            await asyncio.sleep(_RETRY_INTERVAL)

    def refresh(self) -> None:
        """Refresh all keys now, after a reconnect to Redis."""
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
                # refresh() is called after the reconnect.
                continue
            if before not in (None, self._id.encode()):
                logger.error(
                    "Another node (%s) also advertises %s. Give every node its own address.",
                    before.decode(),
                    self._address,
                )

    async def close(self) -> None:
        """Release all claims and the address, and close the listener."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            await self._claims.release_all()
            self._commands.submit("EVAL", REPLACE, 1, self._key, self._id, b"", 0)
        await self._node.close()
