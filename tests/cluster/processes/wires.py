"""A wire between two programs that can be tapped and cut."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Wire:
    """Forwards the connections to its port.

    Args:
        target: The port to forward to.

    Attributes:
        port: Its own port.
        recorded: The data sent to the target, for each connection.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.recorded: list[bytearray] = []
        self._target = target
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    def cut(self) -> None:
        """Forward nothing any more, silently: neither side is notified."""
        self._whole.clear()

    async def mend(self) -> None:
        """Forward new connections. The old ones are closed: a real network would have forgotten them."""
        await self.end()
        self._whole.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward a connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        record = bytearray()
        self.recorded.append(record)
        self._writers.append(writer)
        with contextlib.suppress(OSError, asyncio.CancelledError), contextlib.closing(writer):
            await self._whole.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.append(back)
            with contextlib.closing(back):
                passing = {
                    asyncio.create_task(self._pass(reader, back, record)),
                    asyncio.create_task(self._pass(there, writer, bytearray())),
                }
                try:
                    await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for one in passing:
                        one.cancel()
                    await asyncio.wait(passing)
        self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._whole.wait()
                record += data
                writer.write(data)
                await writer.drain()

    async def end(self) -> None:
        """Close all connections."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for writer in self._writers:
            # Unlike close(), this does not wait until a peer that stands still has read everything.
            writer.transport.abort()
        self._writers.clear()


@contextlib.asynccontextmanager
async def wire(target: int) -> AsyncIterator[Wire]:
    """Return a wire to a port."""
    laid = Wire(target)
    server = await asyncio.start_server(laid.serve, "127.0.0.1", 0)
    laid.port = server.sockets[0].getsockname()[1]
    try:
        yield laid
    finally:
        server.close()
        await laid.end()
        await server.wait_closed()
