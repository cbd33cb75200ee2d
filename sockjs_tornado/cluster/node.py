"""A node: a process that serves requests that other nodes relay to it, and relays its clients' requests to them."""

import json
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..exceptions import ClusterError, ConfigurationError
from ..session.grace import timeout
from .listener import RPC_PATH, Listener
from .ownership import Owner, Ownership
from .relay import SessionRelay
from .relay_requests import MAX_CALL, RECYCLE
from .signing import MAX_AGE, RELAY_HEADER, RelayedClient, Signer
from .upstream import CONNECT_TIMEOUT, Stream, Upstream, UpstreamDisconnected, Upstreams

__all__ = ["Node", "check_secret"]

logger = logging.getLogger(__name__)

#: Signed for requests that a node sends for itself.
NO_CLIENT: Final = RelayedClient("", 0, False)

#: The remote call that returns a node's id.
_IDENTIFY: Final = "identify"

#: The smallest length of a secret in bytes.
_MIN_SECRET_SIZE: Final = 16


def check_secret(secret: object) -> bytes:
    """Return a secret as bytes.

    Raises:
        ConfigurationError: The secret is missing, of another type, or too short.
    """
    key = secret.encode() if isinstance(secret, str) else secret
    if not isinstance(key, bytes) or len(key) < _MIN_SECRET_SIZE:
        # The text must not have the value: it may be the beginning of a real secret.
        got = f"{len(key)} bytes" if isinstance(key, bytes) else type(secret).__name__ if secret is not None else "none"
        raise ConfigurationError(
            f"secret: got {got}, expected str or bytes of at least {_MIN_SECRET_SIZE} bytes, the same on all nodes; "
            "create one with python -c 'import secrets; print(secrets.token_hex())'"
        )
    return key


class Node:
    """One node.

    Args:
        owner: This node's id and address.
        secret: The secret that all nodes share.
        ownership: The owners of sessions.
        stats: The relay's counters.
        local_fallback: Whether to open new sessions here while their owner cannot be determined.

    Attributes:
        id: The node's id.
    """

    def __init__(
        self,
        owner: Owner,
        secret: bytes,
        ownership: Ownership,
        stats: Counter[str],
        local_fallback: bool,
    ) -> None:
        self.id = owner.node
        self._address = owner.address
        self._ownership = ownership
        self._stats = stats
        self._local_fallback = local_fallback
        self._signer = Signer(secret, owner.node)
        self._listener = Listener(owner.node, self._signer, stats)
        self._max_body_size = 0
        self._upstreams = Upstreams()
        self._relays: list[SessionRelay] = []
        self.register_rpc(RECYCLE, self._recycle)
        self.register_rpc(_IDENTIFY, lambda body: owner.node.encode())

    def add(self, router: Any) -> None:
        """Relay a router's requests, and serve those that other nodes relay to it. Call this before :meth:`start`."""
        relay = SessionRelay(
            router, self._ownership, self._upstreams, self._signer, self._stats, self._local_fallback, self.rpc
        )
        router.relay = relay
        self._relays.append(relay)
        self._listener.add(router.endpoints)
        self._max_body_size = max(self._max_body_size, router.settings.max_message_size)

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve requests of other nodes on listening sockets."""
        self._upstreams.closed = False
        await self._listener.start(sockets, max(self._max_body_size + 1, MAX_CALL))

    async def identify_self(self) -> str | None:
        """Return the id of the node that answers at this node's own address, or None if nothing listens there.

        Raises:
            ClusterError: Something else answers there, or a node with another secret.
        """
        try:
            upstream = await self._upstreams.connect(self._address)
        except OSError:
            return None
        try:
            found = await self._call(upstream, Owner("", self._address), _IDENTIFY, b"", CONNECT_TIMEOUT)
        except UpstreamDisconnected:
            return None
        except (TimeoutError, ClusterError):
            message = f"{self._address} is not a node of this cluster, or its secret differs from this node's"
            raise ClusterError(message) from None
        finally:
            upstream.abort()
        return found.decode()

    def register_rpc(self, name: str, function: Callable[[bytes], bytes]) -> None:
        """Let other nodes call ``function`` by :meth:`rpc`."""
        self._listener.rpcs[name] = function

    def _recycle(self, body: bytes) -> bytes:
        for key in json.loads(body):
            for relay in self._relays:
                relay.recycle(key)
        return b""

    async def rpc(self, owner: Owner, name: str, body: bytes) -> bytes:
        """Call a function that another node has registered by :meth:`register_rpc`.

        Args:
            owner: The node.
            name: The function's name.
            body: Its argument.

        Returns:
            The function's result.

        Raises:
            OSError: The node cannot be reached, or, as TimeoutError, does not respond.
            UpstreamDisconnected: The connection was closed; the function may have run.
            ClusterError: The node rejected the call.
        """
        # After MAX_AGE the node would reject the request as stale.
        return await self._call(await self._upstreams.connect(owner.address), owner, name, body, MAX_AGE)

    async def _call(self, upstream: Upstream, owner: Owner, name: str, body: bytes, seconds: float) -> bytes:
        uri = RPC_PATH + name
        signature = self._signer.sign(owner.node, "POST", uri, body, NO_CLIENT)
        head = (
            f"POST {uri} HTTP/1.1\r\nHost: node\r\n{RELAY_HEADER}: {signature}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        pending = upstream.send_request(head.encode() + body)
        try:
            async with timeout(seconds):
                response = await pending
        finally:
            upstream.cancel_request(pending)
        if isinstance(response, Stream):
            upstream.abort()
        # Only a node sets the header field.
        elif response.status == 200 and RELAY_HEADER in dict(response.fields):
            return response.body
        raise ClusterError(f"{owner.address} responded {response.status} to a call of {name!r}")

    async def close(self) -> None:
        """Close the listener and all relayed requests."""
        self._upstreams.close()
        await self._listener.close()
