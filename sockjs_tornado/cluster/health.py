"""The health of other nodes, as far as relayed requests depend on it.

A process that is stopped, deadlocked or blocked does not respond, but its kernel still accepts connections and data for
it. The requests that are relayed to such a node would wait without end, as would their clients. Therefore a node that
sends nothing while it has requests is probed over a new connection. If the probe fails, all its requests fail, and
further requests fail at once until the node responds again.
"""

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ..exceptions import ClusterError
from .base import cancel
from .ownership import Owner
from .upstream import Upstream, UpstreamDisconnected, Upstreams, is_local, is_refused

logger = logging.getLogger(__name__)

#: Seconds without data from a node after which it is probed, and between two probes.
PROBE_INTERVAL: Final = 1.0

#: Seconds in which a node must respond to a probe.
PROBE_TIMEOUT: Final = 2.0

#: Seconds after the last request for a node that does not respond until it is no longer probed.
FORGET_TIME: Final = 30.0


class NodeUnresponsive(Exception):
    """The node does not respond; it may have received the request.

    Attributes:
        accepts_connections: Whether the node has accepted a connection, so that its process hangs. Otherwise this node
            may be the one that is cut off.
    """

    def __init__(self, *, accepts_connections: bool) -> None:
        super().__init__()
        self.accepts_connections = accepts_connections


class _WatchedNode:
    """A node that has requests, or does not respond.

    Attributes:
        upstreams: The connections with a request, or with a stream that has not ended, by the futures of the responses.
        failed: Whether the last probe failed, and since then no data has arrived.
        accepts_connections: If it failed, whether the node has accepted the probe's connection.
        expires: If it failed, the time after which it is no longer probed.
        task: The task that probes it.
    """

    __slots__ = ("accepts_connections", "expires", "failed", "task", "upstreams")

    task: "asyncio.Task[None]"

    def __init__(self) -> None:
        self.upstreams: dict[asyncio.Future[Any], Upstream] = {}
        self.failed = False
        self.accepts_connections = False
        self.expires = 0.0


class HealthMonitor:
    """Detects nodes that do not respond. There is one task for each node that has requests, and no timer per request.

    Args:
        upstreams: The connections to other nodes.
        stats: The relay's counters, among them that of nodes that did not respond.
        identify: Calls a node over a connection, and raises TimeoutError if it does not respond within some seconds.
    """

    def __init__(
        self, upstreams: Upstreams, stats: Counter[str], identify: Callable[[Upstream, Owner, float], Awaitable[object]]
    ) -> None:
        self._upstreams = upstreams
        self._heard_from = upstreams.heard_from
        self._stats = stats
        self._identify = identify
        self._nodes: dict[str, _WatchedNode] = {}

    def has_failed(self, owner: Owner) -> bool:
        """Return whether the node did not respond to the last probe."""
        node = self._nodes.get(owner.address)
        return node is not None and node.failed

    def check(self, owner: Owner) -> None:
        """Raise NodeUnresponsive if the node did not respond to the last probe."""
        if self.has_failed(owner):
            node = self._nodes[owner.address]
            node.expires = asyncio.get_running_loop().time() + FORGET_TIME
            raise NodeUnresponsive(accepts_connections=node.accepts_connections)

    def watch(
        self, owner: Owner, upstream: Upstream, response: "asyncio.Future[Any]"
    ) -> "dict[asyncio.Future[Any], Upstream]":
        """Watch a node until the caller removes ``response`` from the returned dict, when the response has ended.

        If the node does not respond meanwhile, the request raises NodeUnresponsive, and a stream is closed. The
        connection is no key: it may have its next request before the caller knows that the response has arrived.
        """
        node = self._nodes.get(owner.address)
        if node is None:
            node = self._nodes[owner.address] = _WatchedNode()
            node.task = asyncio.create_task(self._run(owner, node))
        node.upstreams[response] = upstream
        return node.upstreams

    async def close(self) -> None:
        """Stop all probes."""
        for node in list(self._nodes.values()):
            await cancel(node.task)
        # A task that was cancelled before it ran has not removed its node.
        self._nodes.clear()

    async def _run(self, owner: Owner, node: _WatchedNode) -> None:
        address = owner.address
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._heard_from.discard(address)
                await asyncio.sleep(PROBE_INTERVAL)
                if not node.upstreams and not (node.failed and loop.time() < node.expires):
                    return
                if address not in self._heard_from:
                    accepts_connections = await self._probe_fails(owner)
                    if accepts_connections is not None and address not in self._heard_from:
                        self._fail(owner, node, accepts_connections)
                        continue
                if node.failed:
                    node.failed = False
                    logger.info("Requests are relayed to node %s again", address)
        finally:
            self._nodes.pop(address, None)

    async def _probe_fails(self, owner: Owner) -> bool | None:
        """Probe a node. Return None unless the probe fails; otherwise, whether the node has accepted the connection."""
        try:
            upstream = await self._upstreams.open(owner.address)
        except UpstreamDisconnected:
            return None
        except OSError as error:
            # The connections of a process that has ended are closed anyway. With an error of TLS, it has responded.
            return None if is_refused(error) or is_local(error) or isinstance(error, ssl.SSLError) else False
        try:
            await self._identify(upstream, owner, PROBE_TIMEOUT)
        except TimeoutError:
            return True
        except (UpstreamDisconnected, ClusterError, ssl.SSLError):
            # The process has closed the connection, or has rejected the call.
            return None
        finally:
            upstream.abort()
        return None

    def _fail(self, owner: Owner, node: _WatchedNode, accepts_connections: bool) -> None:
        now = asyncio.get_running_loop().time()
        if not node.failed:
            self._stats["relay_unresponsive"] += 1
            node.expires = now + FORGET_TIME
            message = (
                "Node %s does not respond; closed %d requests that were relayed to it. Check whether its process is "
                "stopped, or blocked by a callback%s."
            )
            unreachable = "" if accepts_connections else ", and whether its host can be reached"
            logger.warning(message, owner.address, len(node.upstreams), unreachable)
        node.failed, node.accepts_connections = True, accepts_connections
        # Those that were sent just before the probe failed are included.
        upstreams = list(node.upstreams.values())
        node.upstreams.clear()
        for upstream in upstreams:
            upstream.fail(NodeUnresponsive(accepts_connections=accepts_connections))
