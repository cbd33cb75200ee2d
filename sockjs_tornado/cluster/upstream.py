"""The relay's HTTP client: requests to other nodes, on connections that are kept.

It is as small as what it is for. It speaks to this package's own listener alone, on a private network; it has to hand
on streams as they come, slow down with who reads them, and drop a request at once when its client has left.
"""

import asyncio
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from ..session.grace import timeout
from ..wire.connection import READ_SIZE, Connection, ConnectionManager
from ..wire.sockets import give_up_silent, peer_gone
from .answers import Head, read_head

__all__ = ["CONNECT_TIMEOUT", "Pipe", "Response", "Stream", "UpstreamLost", "Upstreams"]

#: Seconds in which a node has to take a connection.
CONNECT_TIMEOUT: Final = 2.0

#: Seconds after which a connection that nobody needs is closed, long before the other side would do it.
IDLE_TIMEOUT: Final = 30.0

#: Seconds in which a node has to acknowledge what it is sent.
SILENCE: Final = 30.0

#: Idle connections to one node.
MAX_IDLE: Final = 64

#: Bytes that the head of an answer may have.
_MAX_HEAD: Final = 64 * 1024


class UpstreamLost(Exception):
    """The connection ended before the answer; the request may have been carried out."""


class Response(NamedTuple):
    """A whole answer."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes


class Stream(NamedTuple):
    """An answer that lasts as long as its connection.

    Attributes:
        status: Its status.
        head: Its head as it came, and what had come behind it.
        upstream: Where more comes, once it has a :class:`Pipe`.
    """

    status: int
    head: bytes
    upstream: "Upstream"


class Pipe(Connection):
    """A client's connection that gets what another node writes.

    Args:
        manager: What keeps the connection.
        stream: The other node's answer.
    """

    __slots__ = ("_upstream",)

    def __init__(self, manager: ConnectionManager, stream: Stream) -> None:
        super().__init__(manager, stream.head)
        self._upstream = stream.upstream

    def opened(self) -> None:
        """Let it flow."""
        self._upstream.flow(self)

    def on_disconnect(self) -> None:
        """Have the other node hear that the client has left."""
        self._upstream.stop()

    def pause_writing(self) -> None:
        """Hear that the client does not keep up: the other node shall see it."""
        self._upstream.pause()

    def resume_writing(self) -> None:
        """Hear that the client keeps up again."""
        self._upstream.resume()


class Upstream(asyncio.BufferedProtocol):
    """A connection to another node, with one request at a time.

    Args:
        pool: Where it goes when a request is done.
        address: Of the node.
        buffer: Memory that the next read goes to, and that is worked off before another one.
    """

    def __init__(self, pool: "Upstreams", address: str, buffer: memoryview) -> None:
        self._pool = pool
        self._address = address
        self._memory = buffer
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Response | Stream] | None = None
        self._received = bytearray()
        self._head: Head | None = None
        self._pipe: Pipe | None = None
        self.idle_since = 0.0

    def ask(self, request: bytes) -> "asyncio.Future[Response | Stream]":
        """Send a request.

        Returns:
            A future of the answer. It fails with UpstreamLost where the connection ends before.
        """
        asked = self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None or self._transport.is_closing():
            self._fail()
        else:
            self._transport.write(request)
        return asked

    def give_up(self, asked: "asyncio.Future[Response | Stream]") -> None:
        """End the connection, if that is still what it is there for: the client has left."""
        if self._answer is asked:
            self.abort()
            self._fail()

    def is_disconnected(self) -> bool:
        """Tell whether the other side has ended the connection, even if the event loop has not said so yet."""
        transport = self._transport
        return transport is None or transport.is_closing() or peer_gone(transport.get_extra_info("socket"))

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Read no more for now."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def drop_unless_flowing(self) -> None:
        """End the connection of a stream that nobody has taken."""
        if self._pipe is None:
            self.abort()

    def flow(self, pipe: Pipe) -> None:
        """Hand what comes to ``pipe`` from now on."""
        self._pipe = pipe
        if self._transport is None:
            pipe.finish()
        else:
            self.resume()

    def stop(self) -> None:
        """Let nothing flow any more: the client has left."""
        self._pipe = None
        self.abort()

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = transport  # type: ignore[assignment]
        self._pool.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory that the next read goes to."""
        return self._memory

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        data = self._memory[:nbytes]
        if self._pipe is not None:
            self._pipe.write(data.tobytes())
        elif self._answer is None:
            # Nobody has asked.
            self.abort()
        else:
            seen = len(self._received)
            self._received += data
            try:
                self._read_answer(max(seen - 3, 0))
            except ValueError:
                # Nothing that a node says.
                self.abort()
                self._fail()

    def _read_answer(self, start: int) -> None:
        received = self._received
        if self._head is None:
            end = received.find(b"\r\n\r\n", start)
            if end < 0:
                if len(received) > _MAX_HEAD:
                    raise ValueError("the head is too long")
                return
            head = read_head(received[:end].decode("latin-1"))
            if head.length is None:
                # It is on the client's connection that its reader has to be, before more of it is read.
                self.pause()
                self._received = bytearray()
                self._settle(Stream(head.status, bytes(received), self))
                return
            del received[: end + 4]
            self._head = head
        status, fields, length, keep = self._head
        assert length is not None
        if len(received) >= length:
            self._received, self._head = bytearray(), None
            self._settle(Response(status, fields, bytes(received[:length])))
            if keep and len(received) == length:
                self._pool.put_back(self._address, self)
            else:
                self.abort()

    def _settle(self, answer: Response | Stream) -> None:
        asked, self._answer = self._answer, None
        if asked is not None and not asked.done():
            asked.set_result(answer)

    def _fail(self) -> None:
        asked, self._answer = self._answer, None
        if asked is not None and not asked.done():
            asked.set_exception(UpstreamLost())

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the connection is over."""
        self._transport = None
        self._pool.forget(self._address, self)
        self._fail()
        if self._pipe is not None:
            self._pipe.finish()


class Upstreams:
    """The connections of one node to all others.

    Attributes:
        closed: Whether none are made any more.
    """

    def __init__(self) -> None:
        self._idle: dict[str, list[Upstream]] = {}
        self._all: set[Upstream] = set()
        self._memory = memoryview(bytearray(READ_SIZE))
        self.closed = False

    def __len__(self) -> int:
        return len(self._all)

    async def connect(self, address: str) -> Upstream:
        """Return a connection to a node, one that is there or a new one.

        Args:
            address: ``http://host:port``, or the path of a Unix socket.

        Raises:
            OSError: There is nobody, or nobody answers in :data:`CONNECT_TIMEOUT` seconds.
            UpstreamLost: This node ends.
        """
        while idle := self._idle.get(address):
            upstream = idle.pop()
            # What the other side has closed already can be seen, so that no request is lost on it.
            if upstream.idle_since >= _oldest() and not upstream.is_disconnected():
                return upstream
            upstream.abort()
        loop = asyncio.get_running_loop()

        def make() -> Upstream:
            return Upstream(self, address, self._memory)

        async with timeout(CONNECT_TIMEOUT):
            if address.startswith("/"):
                _, upstream = await loop.create_unix_connection(make, address)
            else:
                parts = urlsplit(address)
                transport, upstream = await loop.create_connection(make, parts.hostname or "", parts.port or 80)
                if not transport.is_closing():
                    give_up_silent(transport.get_extra_info("socket"), SILENCE)
        if self.closed:
            upstream.abort()
            raise UpstreamLost
        return upstream

    def add(self, upstream: Upstream) -> None:
        """Keep a connection that has begun."""
        self._all.add(upstream)

    def put_back(self, address: str, upstream: Upstream) -> None:
        """Take a connection back whose request is done, and close those that nobody has needed for long."""
        idle = self._idle.setdefault(address, [])
        oldest = _oldest()
        # The last one is the first to be used again.
        while idle and idle[0].idle_since < oldest:
            idle.pop(0).abort()
        if len(idle) >= MAX_IDLE:
            upstream.abort()
        else:
            upstream.idle_since = asyncio.get_running_loop().time()
            idle.append(upstream)

    def forget(self, address: str, upstream: Upstream) -> None:
        """Let go of a connection that has ended."""
        self._all.discard(upstream)
        idle = self._idle.get(address, [])
        if upstream in idle:
            idle.remove(upstream)
        if not idle:
            self._idle.pop(address, None)

    def close(self) -> None:
        """Close all connections, and make no more."""
        self.closed = True
        for upstream in list(self._all):
            upstream.abort()


def _oldest() -> float:
    """Return since when a connection may be idle."""
    return asyncio.get_running_loop().time() - IDLE_TIMEOUT
