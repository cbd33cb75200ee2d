"""What makes a process a node: it takes requests for its sessions from other nodes, and passes theirs on."""

import json
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..exceptions import ClusterError, ConfigurationError
from ..session.grace import timeout
from .listener import CALLS, WHOIS, Listener
from .ownership import Owner, Ownership
from .relay import SessionRelay
from .relay_requests import MAX_CALL, RECYCLE
from .signing import FIELD, MAX_AGE, Caller, Signer
from .upstream import CONNECT_TIMEOUT, Response, Stream, UpstreamLost, Upstreams

__all__ = ["Node", "check_secret"]

logger = logging.getLogger(__name__)

#: Of a request for no client.
NOBODY: Final = Caller("", 0, False)

#: Bytes that a secret has at least.
_SECRET_SIZE: Final = 16


def check_secret(secret: object) -> bytes:
    """Return a secret as bytes.

    Raises:
        ConfigurationError: It is none, or too short.
    """
    key = secret.encode() if isinstance(secret, str) else secret
    if not isinstance(key, bytes) or len(key) < _SECRET_SIZE:
        # Not what it is: it may be the beginning of one.
        got = f"{len(key)} bytes" if isinstance(key, bytes) else type(secret).__name__ if secret is not None else "none"
        raise ConfigurationError(
            f"secret: got {got}, takes text or bytes, {_SECRET_SIZE} bytes or more, the same for all nodes; "
            "python -c 'import secrets; print(secrets.token_hex())' makes one"
        )
    return key


class Node:
    """One node.

    Args:
        node_id: Its id.
        address: Where others reach its listener: ``http://host:port``, or the path of a Unix socket.
        secret: What all nodes share.
        ownership: Who holds which session.
        stats: Counts.
        local_fallback: Whether new sessions are opened while nobody can tell who holds them.

    Attributes:
        id: Its id.
    """

    def __init__(
        self,
        node_id: str,
        address: str,
        secret: bytes,
        ownership: Ownership,
        stats: Counter[str],
        local_fallback: bool,
    ) -> None:
        self.id = node_id
        self._address = address
        self._ownership = ownership
        self._stats = stats
        self._local_fallback = local_fallback
        self._signer = Signer(secret, node_id)
        self._listener = Listener(node_id, self._signer, stats)
        self._max_body_size = 0
        self._upstreams = Upstreams()
        self._relays: list[SessionRelay] = []
        self.answer(RECYCLE, self._recycle)

    def add(self, router: Any) -> None:
        """Take part for a router, before the start."""
        relay = SessionRelay(
            router, self._ownership, self._upstreams, self._signer, self._stats, self._local_fallback, self.call
        )
        router.relay = relay
        self._relays.append(relay)
        self._listener.add(router.endpoints)
        self._max_body_size = max(self._max_body_size, router.settings.max_message_size)

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Take requests on listening sockets."""
        self._upstreams.closed = False
        await self._listener.start(sockets, max(self._max_body_size + 1, MAX_CALL))

    async def who_is_there(self) -> str | None:
        """Return the id of the node that others reach at this one's address, None where they reach nobody.

        Raises:
            ClusterError: What answers there is no node with the same secret.
        """
        signature = self._signer.sign("", "GET", WHOIS, b"", NOBODY)
        try:
            upstream = await self._upstreams.connect(self._address)
        except OSError:
            return None
        asked = upstream.ask(f"GET {WHOIS} HTTP/1.1\r\nHost: node\r\n{FIELD}: {signature}\r\n\r\n".encode())
        fields: dict[str, str] = {}
        try:
            async with timeout(CONNECT_TIMEOUT):
                answer = await asked
            if isinstance(answer, Response) and answer.status == 204:
                fields = dict(answer.fields)
        except TimeoutError:
            pass
        except UpstreamLost:
            return None
        finally:
            upstream.abort()
        if FIELD not in fields:
            raise ClusterError(f"what answers at {self._address} is no node of this cluster, or has another secret")
        return fields[FIELD]

    def answer(self, name: str, call: Callable[[bytes], bytes]) -> None:
        """Have other nodes' :meth:`call` of that name answered."""
        self._listener.calls[name] = call

    def _recycle(self, body: bytes) -> bytes:
        for key in json.loads(body):
            for relay in self._relays:
                relay.recycle(key)
        return b""

    async def call(self, owner: Owner, name: str, body: bytes) -> bytes:
        """Have another node do something.

        Args:
            owner: The node.
            name: What it shall do.
            body: What it needs for that.

        Returns:
            What it says.

        Raises:
            OSError: It is not there. Or it does not answer: a TimeoutError.
            UpstreamLost: It may have done it, or not.
            ClusterError: It refuses.
        """
        uri = CALLS + name
        upstream = await self._upstreams.connect(owner.address)
        signature = self._signer.sign(owner.node, "POST", uri, body, NOBODY)
        head = f"POST {uri} HTTP/1.1\r\nHost: node\r\n{FIELD}: {signature}\r\nContent-Length: {len(body)}\r\n\r\n"
        asked = upstream.ask(head.encode() + body)
        try:
            # After that, it would find the request stale.
            async with timeout(MAX_AGE):
                answer = await asked
        finally:
            upstream.give_up(asked)
        if isinstance(answer, Stream):
            answer.upstream.abort()
        if isinstance(answer, Stream) or answer.status != 200:
            raise ClusterError(f"{owner.address} answers {answer.status}")
        return answer.body

    async def close(self) -> None:
        """Take no more requests, and end what is passed on."""
        self._upstreams.close()
        await self._listener.close()
